//! A log as a tree of files (C2SP tlog-tiles): every entry against its leaf hash, every hash against the ones below it, the root
//! against the signed checkpoint.
//!
//! Bundles may be missing that a record in the tree says were pruned: their hashes stand in for them. Any other one that is missing is
//! a fault.

use std::io;
use std::path::Path;
use std::time::Instant;

use agentd_core::chain::{Hash, LINE_BYTES_MAX, leaf_hash};
use agentd_core::record::Pruned;
use agentd_core::tlog::tile::{self, Kind, Tile, stored};
use agentd_core::tlog::tree::TILE_WIDTH;

use super::claims::beginning_of;
use super::{Check, claims};
use crate::failure::Failure;
use crate::server::Bodies;
use crate::view::proof::{FaultView, VerificationView};

/// What is said of a file that has more than it should.
const GOES_ON: &str = "goes on behind what is signed";
/// Bytes of a hash.
const HASH_BYTES: u64 = 32;
/// Most bytes of an entry in a bundle.
const ENTRY_BYTES_MAX: u64 = 2 + LINE_BYTES_MAX as u64;

/// True for a directory that holds such a tree. One without entries has no tiles; the directory of a log has a checkpoint too, and its
/// identity beside it.
pub(in super::super) fn is_one(dir: &Path) -> bool {
    dir.join("checkpoint").is_file() && !dir.join("meta.json").exists()
}

/// Checks the tree in `dir`. A checkpoint that cannot be trusted is a failure: without it there is nothing to check against.
pub(super) fn verify(
    dir: &Path,
    belief: claims::Belief<'_>,
    replay: bool,
) -> Result<VerificationView, Failure> {
    let started = Instant::now();
    let beside = dir.join("log.vkey");
    let (known, own) = claims::read(&dir.join("checkpoint"), belief, Some(&beside))?;
    let size = known.checkpoint.size;
    let check = Check::new(replay).against(vec![known.checkpoint.clone()]);
    let mut check = check.with(Bodies::of_log(dir));
    let (pruned, mut above) = (pruned_upto(dir, size), Vec::new());
    for bundle in bundles(size) {
        if !take(dir, bundle, pruned, &mut check, &mut above) {
            break;
        }
    }
    // Where the root does not fit, the hashes in between say where to look.
    let localised = check.fault.as_ref().is_none_or(|fault| fault.reason == "ROOT_DIFFERS");
    if localised
        && let Some(fault) =
            (1_u8..).zip(&above).find_map(|(level, row)| upper(dir, level, size, row))
    {
        check.fault = Some(fault);
    }
    let mut view = check.finish("tiles", None, started);
    view.origin = Some(known.checkpoint.origin);
    view.key_came_with_it = own;
    Ok(view)
}

/// The bundles that a tree of `size` entries has.
fn bundles(size: u64) -> impl Iterator<Item = Tile> {
    (0..size.div_ceil(TILE_WIDTH)).filter_map(move |index| {
        Tile::new(Kind::Entries, index, (size - index * TILE_WIDTH).min(TILE_WIDTH))
    })
}

/// The last entry that the tree says was pruned; 0 for one with all of its bundles. What it says is checked with everything else.
fn pruned_upto(dir: &Path, size: u64) -> u64 {
    let missing =
        |bundle: Tile| read(dir, bundle).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    if !bundles(size).any(missing) {
        return 0;
    }
    let said = bundles(size).filter_map(|bundle| {
        let found = read(dir, bundle).ok()?;
        sound_entries(&found.bytes).0.into_iter().filter_map(Pruned::upto_in_line).max()
    });
    said.max().unwrap_or(0)
}

/// One bundle of entries and the tile of their hashes; false if the check cannot go on. It may be missing if it is pruned.
fn take(
    dir: &Path,
    entries: Tile,
    pruned: u64,
    check: &mut Check,
    above: &mut Vec<Vec<Hash>>,
) -> bool {
    let (first, width) = (entries.first() + 1, entries.width());
    let missing = |seq: u64, name: &Tile, why: &str| fault("TILE_MISSING", seq, name, why);
    let Some(hashes) = Tile::new(Kind::Hashes(0), entries.first() / TILE_WIDTH, width) else {
        return false;
    };
    let mut keep = |level: u8, hash: Hash| {
        let Some(row) = usize::from(level).checked_sub(1) else { return };
        if above.len() <= row {
            above.push(Vec::new());
        }
        if let Some(row) = above.get_mut(row) {
            row.push(hash);
        }
    };
    let (bundle, leaves) = match (read(dir, entries), read(dir, hashes)) {
        (Ok(bundle), Ok(leaves)) => (bundle, leaves),
        (Err(_), Ok(leaves)) if first + width - 1 <= pruned => {
            for at in 0..width {
                let Some(leaf) = hash_at(&leaves.bytes, at) else {
                    check.fault = Some(missing(first + at, &hashes, "is cut short"));
                    return false;
                };
                if !check.hash(leaf, &mut keep) {
                    return false;
                }
            }
            return true;
        }
        (bundle, _) => {
            let name = if bundle.is_err() { entries } else { hashes };
            check.fault = Some(missing(first, &name, "is missing"));
            return false;
        }
    };
    // As far as the bundle can be read: what is sound before the cut is checked first.
    let (lines, _) = sound_entries(&bundle.bytes);
    for (at, line) in (0_u64..).zip(lines.iter().take(usize::try_from(width).unwrap_or(0))) {
        let seq = first + at;
        let (stored, computed) = (hash_at(&leaves.bytes, at), leaf_hash(line));
        if stored != Some(computed) {
            check.fault = Some(differs(seq, &hashes, stored, computed));
            return false;
        }
        if !check.leaf(line, &mut keep) {
            return false;
        }
    }
    let there = u64::try_from(lines.len()).unwrap_or(u64::MAX);
    if there < width {
        check.fault = Some(missing(first + there, &entries, "is cut short"));
        return false;
    }
    // What nobody signed has no place in the files either.
    let longer = [&bundle, &leaves].into_iter().find(|found| found.goes_on());
    if let Some(Found { tile, .. }) = longer {
        check.fault = Some(fault("TILE_DIFFERS", first + width, tile, GOES_ON));
    }
    longer.is_none()
}

/// The entries of a bundle as far as they are whole, and what is left.
fn sound_entries(mut bundle: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut found = Vec::new();
    while let Some((length, rest)) = bundle.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((entry, rest)) = rest.split_at_checked(length) else { break };
        found.push(entry);
        bundle = rest;
    }
    debug_assert!(tile::entries(bundle).is_none() || bundle.is_empty());
    (found, bundle)
}

/// The first hash above the leaves that is not the one computed from below.
fn upper(dir: &Path, level: u8, size: u64, computed: &[Hash]) -> Option<FaultView> {
    let count = stored(Kind::Hashes(level), size);
    for index in 0..count.div_ceil(TILE_WIDTH) {
        let width = (count - index * TILE_WIDTH).min(TILE_WIDTH);
        let tile = Tile::new(Kind::Hashes(level), index, width)?;
        let found = read(dir, tile).unwrap_or(Found { bytes: Vec::new(), tile });
        let behind = (index * TILE_WIDTH + width) << (8 * u32::from(level));
        for at in 0..width {
            let place = index * TILE_WIDTH + at;
            let wanted = computed.get(usize::try_from(place).ok()?)?;
            let stored = hash_at(&found.bytes, at);
            if stored != Some(*wanted) {
                let seq = (place << (8 * u32::from(level))).saturating_add(1);
                return Some(differs(seq, &tile, stored, *wanted));
            }
        }
        if found.goes_on() {
            return Some(fault("TILE_DIFFERS", behind + 1, &found.tile, GOES_ON));
        }
    }
    None
}

fn fault(reason: &str, seq: u64, tile: &Tile, why: &str) -> FaultView {
    let (reason, summary) = (reason.to_owned(), format!("`{tile}` {why}"));
    FaultView { seq, reason, summary, ..FaultView::default() }
}

fn differs(seq: u64, tile: &Tile, stored: Option<Hash>, computed: Hash) -> FaultView {
    FaultView {
        seq,
        reason: "TILE_DIFFERS".to_owned(),
        stored: stored.map(|hash| hash.to_string()),
        computed: Some(computed.to_string()),
        summary: format!("the hash in `{tile}` is not the one of what stands below it"),
    }
}

fn hash_at(bytes: &[u8], at: u64) -> Option<Hash> {
    let start = usize::try_from(at.checked_mul(HASH_BYTES)?).ok()?;
    let hash = bytes.get(start..)?.first_chunk::<{ HASH_BYTES as usize }>()?;
    Some(Hash::from_bytes(*hash))
}

/// A tile as it was found.
struct Found {
    bytes: Vec<u8>,
    /// The one that was read: that was asked for, or the full one in its place.
    tile: Tile,
}

impl Found {
    /// Whether there is more in it than such a tile has.
    fn goes_on(&self) -> bool {
        let width = self.tile.width();
        match self.tile.kind() {
            Kind::Hashes(_) => self.bytes.len() as u64 > width * HASH_BYTES,
            Kind::Entries => {
                let (lines, rest) = sound_entries(&self.bytes);
                lines.len() as u64 > width || !rest.is_empty()
            }
        }
    }
}

/// A tile; where a partial one was removed, the full one.
fn read(dir: &Path, tile: Tile) -> io::Result<Found> {
    let read = |tile: Tile| {
        let one = match tile.kind() {
            Kind::Entries => ENTRY_BYTES_MAX,
            Kind::Hashes(_) => HASH_BYTES,
        };
        let most = usize::try_from(tile.width().saturating_mul(one)).unwrap_or(usize::MAX);
        Ok::<_, io::Error>(Found { bytes: beginning_of(&dir.join(tile.to_string()), most)?, tile })
    };
    match read(tile) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !tile.is_full() => {
            let index = tile.first() / TILE_WIDTH;
            Tile::new(tile.kind(), index, TILE_WIDTH).map_or(Err(error), read)
        }
        other => other,
    }
}

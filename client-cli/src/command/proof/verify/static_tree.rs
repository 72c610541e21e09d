//! A log as a tree of files (C2SP tlog-tiles): every entry against its leaf hash, every hash against the ones below it, the root
//! against the signed checkpoint.
//!
//! Bundles may be missing that a record in the tree says were pruned: their hashes stand in for them. Any other one that is missing is
//! a fault.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use agentd_core::chain::{Hash, leaf_hash};
use agentd_core::record::Pruned;
use agentd_core::tlog::tile::{self, Kind, Tile, stored};
use agentd_core::tlog::tree::TILE_WIDTH;

use super::{Check, claims};
use crate::failure::Failure;
use crate::server::Bodies;
use crate::view::proof::{FaultView, VerificationView};

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
        let bytes = read(dir, bundle).ok()?;
        sound_entries(&bytes).into_iter().filter_map(Pruned::upto_in_line).max()
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
    let missing = |seq: u64, name: String, why: &str| FaultView {
        seq,
        reason: "TILE_MISSING".to_owned(),
        summary: format!("`{name}` {why}"),
        ..FaultView::default()
    };
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
    let (bytes, leaves) = match (read(dir, entries), read(dir, hashes)) {
        (Ok(bytes), Ok(leaves)) => (bytes, leaves),
        (Err(_), Ok(leaves)) if first + width - 1 <= pruned => {
            for at in 0..width {
                let Some(leaf) = hash_at(&leaves, at) else {
                    check.fault = Some(missing(first + at, hashes.to_string(), "is cut short"));
                    return false;
                };
                if !check.hash(leaf, &mut keep) {
                    return false;
                }
            }
            return true;
        }
        (bytes, _) => {
            let name = if bytes.is_err() { entries } else { hashes };
            check.fault = Some(missing(first, name.to_string(), "is missing"));
            return false;
        }
    };
    // As far as the bundle can be read: what is sound before the cut is checked first.
    let lines = sound_entries(&bytes);
    for (at, line) in (0_u64..).zip(lines.iter().take(usize::try_from(width).unwrap_or(0))) {
        let seq = first + at;
        let (stored, computed) = (hash_at(&leaves, at), leaf_hash(line));
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
        check.fault = Some(missing(first + there, entries.to_string(), "is cut short"));
        return false;
    }
    true
}

fn sound_entries(mut bundle: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bundle.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((entry, rest)) = rest.split_at_checked(length) else { break };
        found.push(entry);
        bundle = rest;
    }
    debug_assert!(tile::entries(bundle).is_none() || bundle.is_empty());
    found
}

/// The first hash above the leaves that is not the one computed from below.
fn upper(dir: &Path, level: u8, size: u64, computed: &[Hash]) -> Option<FaultView> {
    let count = stored(Kind::Hashes(level), size);
    for index in 0..count.div_ceil(TILE_WIDTH) {
        let width = (count - index * TILE_WIDTH).min(TILE_WIDTH);
        let tile = Tile::new(Kind::Hashes(level), index, width)?;
        let bytes = read(dir, tile).unwrap_or_default();
        for at in 0..width {
            let place = index * TILE_WIDTH + at;
            let wanted = computed.get(usize::try_from(place).ok()?)?;
            let found = hash_at(&bytes, at);
            if found != Some(*wanted) {
                let seq = (place << (8 * u32::from(level))).saturating_add(1);
                return Some(differs(seq, &tile, found, *wanted));
            }
        }
    }
    None
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
    let start = usize::try_from(at).ok()?.checked_mul(32)?;
    let hash = bytes.get(start..start.checked_add(32)?)?;
    hash.try_into().ok().map(Hash::from_bytes)
}

/// A tile; where a partial one was removed, the beginning of the full one.
fn read(dir: &Path, tile: Tile) -> io::Result<Vec<u8>> {
    match fs::read(dir.join(tile.to_string())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !tile.is_full() => {
            let index = tile.first() / TILE_WIDTH;
            match Tile::new(tile.kind(), index, TILE_WIDTH) {
                Some(full) => fs::read(dir.join(full.to_string())),
                None => Err(error),
            }
        }
        other => other,
    }
}

//! Tiles (C2SP tlog-tiles): where the hashes and entries of a log lie, by name.
//!
//! A tile of hashes is 256 hashes of 32 bytes; a bundle of entries is 256 entries, each behind its length in two bytes, big
//! endian. The last tile of each level is partial while the log grows, and its name says how much of it there is.

use std::fmt;
use std::str::FromStr;

use super::decimal;
use super::tree::{TILE_HEIGHT, TILE_WIDTH};
use crate::chain::LINE_BYTES_MAX;

/// Highest level of tiles a path can name.
const LEVEL_MAX: u8 = 63;

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The entries themselves.
    Entries,
    /// Hashes of this level: 0 are leaf hashes.
    Hashes(u8),
}

/// One tile, full or partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    kind: Kind,
    index: u64,
    width: u16,
}

impl Tile {
    /// The tile, if it can exist: `width` is 1 to 256.
    #[must_use]
    pub fn new(kind: Kind, index: u64, width: u64) -> Option<Self> {
        let level = match kind {
            Kind::Entries => 0,
            Kind::Hashes(level) => level,
        };
        let width = u16::try_from(width).ok()?;
        let sound = level <= LEVEL_MAX && (1..=256).contains(&width);
        sound.then_some(Self { kind, index, width })
    }

    /// What it holds.
    #[must_use]
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// The first entry or hash of its level that it holds.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.index.saturating_mul(TILE_WIDTH)
    }

    /// How many it holds.
    #[must_use]
    pub const fn width(self) -> u64 {
        self.width as u64
    }

    /// True if it will never change again.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.width() == TILE_WIDTH
    }

    /// True if a log of `size` entries has it: all that it names is there.
    #[must_use]
    pub fn is_in(self, size: u64) -> bool {
        let end = self.index.checked_mul(TILE_WIDTH).and_then(|n| n.checked_add(self.width()));
        end.is_some_and(|end| end <= stored(self.kind, size))
    }

    /// Every tile of a log with `size` entries: bundles first, then hashes from the bottom up.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        let levels = (0..=LEVEL_MAX).map(Kind::Hashes);
        let kinds = std::iter::once(Kind::Entries).chain(levels);
        kinds.flat_map(move |kind| {
            let count = stored(kind, size);
            let tiles = count.div_ceil(TILE_WIDTH);
            (0..tiles).filter_map(move |index| {
                Self::new(kind, index, (count - index * TILE_WIDTH).min(TILE_WIDTH))
            })
        })
    }
}

/// How many hashes (or entries) of a kind a log of `size` entries stores.
#[must_use]
pub const fn stored(kind: Kind, size: u64) -> u64 {
    match kind {
        Kind::Entries => size,
        Kind::Hashes(level) => match size.checked_shr(level as u32 * TILE_HEIGHT as u32) {
            Some(count) => count,
            None => 0,
        },
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Entries => f.write_str("tile/entries/")?,
            Kind::Hashes(level) => write!(f, "tile/{level}/")?,
        }
        let digits = self.index.to_string();
        let width = digits.len().next_multiple_of(3);
        let padded = format!("{digits:0>width$}");
        let mut rest = padded.as_str();
        while let Some((group, more)) = rest.split_at_checked(3).filter(|(_, m)| !m.is_empty()) {
            write!(f, "x{group}/")?;
            rest = more;
        }
        f.write_str(rest)?;
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

/// Text that names no tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the path of a tile")]
pub struct NoTile;

impl FromStr for Tile {
    type Err = NoTile;

    fn from_str(text: &str) -> Result<Self, NoTile> {
        let tile = parse(text).ok_or(NoTile)?;
        // One tile has one name: what would be written otherwise is none.
        if tile.to_string() == text { Ok(tile) } else { Err(NoTile) }
    }
}

fn parse(text: &str) -> Option<Tile> {
    let (kind, path) = text.strip_prefix("tile/")?.split_once('/')?;
    let kind = match kind {
        "entries" => Kind::Entries,
        level => Kind::Hashes(u8::try_from(decimal(level)?).ok()?),
    };
    let (path, width) = match path.split_once(".p/") {
        None => (path, TILE_WIDTH),
        Some((path, width)) => (path, decimal(width).filter(|width| *width < TILE_WIDTH)?),
    };
    let mut index: u64 = 0;
    for group in path.split('/') {
        let digits = group.strip_prefix('x').unwrap_or(group);
        if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    }
    Tile::new(kind, index, width)
}

/// Appends one entry to a bundle. `false`: it is too long to be one, and nothing was appended.
#[must_use]
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> bool {
    let Ok(length) = u16::try_from(entry.len()) else { return false };
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    true
}

/// The entries of a bundle; `None` if it is cut short.
#[must_use]
pub fn entries(mut bundle: &[u8]) -> Option<Vec<&[u8]>> {
    const _: () = assert!(LINE_BYTES_MAX == u16::MAX as usize, "every line fits into a bundle");
    let mut found = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        found.push(entry);
        bundle = rest;
    }
    Some(found)
}

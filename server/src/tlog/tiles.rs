//! Hash tiles in memory, each with the subtrees within it, so that a proof costs neither the disk nor hashing.
//!
//! What is asked for most lies high in a tile: of one level of tiles, a proof needs 255 stored hashes and the 247 above them. A subtree
//! that is whole never changes again, so it is kept as it is. A tile at the right edge of the tree is read on from where it ended.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_core::chain::Hash;
use agentd_core::tlog::tile::{Kind, stored};
use agentd_core::tlog::tree::{Frontier, Node, Run, TILE_HEIGHT, TILE_WIDTH, node_hash};
use lru::LruCache;

use super::files::HashFiles;

/// Tiles that are kept, of 16 KiB each: with 8 MiB, those that were asked for last.
const TILES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);

/// The part of a tile that is known.
#[derive(Debug, Clone, Default)]
struct Known {
    /// By height above the stored hashes, the roots of whole subtrees from left to right.
    rows: [Vec<Hash>; TILE_HEIGHT as usize],
}

impl Known {
    /// Stored hashes.
    fn width(&self) -> u64 {
        self.rows.first().map_or(0, |row| row.len() as u64)
    }

    /// Adds the next stored hash, and each subtree that it makes whole.
    fn push(&mut self, stored: Hash) {
        let mut hash = stored;
        for row in &mut self.rows {
            row.push(hash);
            let pairs = row.as_chunks::<2>();
            let (Some([left, right]), []) = (pairs.0.last(), pairs.1) else { return };
            hash = node_hash(*left, *right);
        }
    }

    /// The hash above a run within this tile, if it is known.
    fn above(&self, run: Run) -> Option<Hash> {
        let height = run.count.trailing_zeros();
        let at = usize::try_from((run.first % TILE_WIDTH) >> height).ok()?;
        self.rows.get(usize::try_from(height).ok()?)?.get(at).copied()
    }
}

/// The tiles of one log.
pub(super) struct Tiles {
    dir: PathBuf,
    /// By level of tiles and number of the tile.
    kept: Mutex<LruCache<(u8, u64), Arc<Known>>>,
}

impl fmt::Debug for Tiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiles").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Tiles {
    /// Those under `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), kept: Mutex::new(LruCache::new(TILES_MAX)) }
    }

    fn kept(&self) -> MutexGuard<'_, LruCache<(u8, u64), Arc<Known>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The root of a perfect subtree within a tree of `size` leaves, whose hashes are written.
    ///
    /// # Errors
    /// The disk, or there is no such subtree.
    pub(super) fn node(&self, node: Node, size: u64) -> io::Result<Hash> {
        let run = node.stored();
        let place = (run.tile_level, run.first / TILE_WIDTH);
        let known = self.kept().get(&place).map(Arc::clone);
        if let Some(hash) = known.as_ref().and_then(|known| known.above(run)) {
            return Ok(hash);
        }
        // Not under the lock: what others ask for does not wait for this disk access.
        let mut known = known.as_deref().cloned().unwrap_or_default();
        let begin = place.1.saturating_mul(TILE_WIDTH);
        let from = begin.saturating_add(known.width());
        let to = stored(Kind::Hashes(place.0), size).min(begin.saturating_add(TILE_WIDTH));
        let more = HashFiles::new(&self.dir).read(place.0, from, to.saturating_sub(from))?;
        for hash in more.as_chunks().0 {
            known.push(Hash::from_bytes(*hash));
        }
        let hash = known.above(run).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.kept().put(place, Arc::new(known));
        Ok(hash)
    }

    /// The root over the first `part` leaves of a tree of `size`.
    ///
    /// # Errors
    /// As [`Tiles::node`].
    pub(super) fn root(&self, part: u64, size: u64) -> io::Result<Hash> {
        Ok(Frontier::load(part, &mut |node| self.node(node, size))?.root())
    }

    /// Forgets what was read: the files are written anew.
    pub(super) fn forget(&self) {
        self.kept().clear();
    }
}

#[cfg(test)]
mod tests {
    use agentd_core::chain::leaf_hash;
    use agentd_core::tlog::tree::{Span, perfect_root};

    use super::super::files::Writer;
    use super::*;

    /// Files that grow, and what their tree is made of.
    struct Growing {
        _dir: tempfile::TempDir,
        files: Writer,
        tiles: Tiles,
        leaves: Vec<Hash>,
    }

    impl Growing {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let files = Writer::resume(dir.path(), Frontier::new(), 1, 1 << 20).unwrap();
            let tiles = Tiles::new(dir.path());
            Self { _dir: dir, files, tiles, leaves: Vec::new() }
        }

        fn grow(&mut self, count: u64) {
            for _ in 0..count {
                let line = self.leaves.len().to_string();
                self.files.push(self.size() + 1, line.as_bytes()).unwrap();
                self.leaves.push(leaf_hash(line.as_bytes()));
            }
            self.files.flush().unwrap();
        }

        fn size(&self) -> u64 {
            self.leaves.len() as u64
        }

        /// The root of a subtree, computed from its leaves.
        fn computed(&self, node: Node) -> Hash {
            let width = 1 << node.level;
            let from = node.index as usize * width;
            perfect_root(&self.leaves[from..from + width]).unwrap()
        }
    }

    #[test]
    fn every_subtree_is_what_its_leaves_say_as_the_tree_grows() {
        let mut log = Growing::new();
        for more in [1, 1, 5, 120, 129, 1, 300, 65_200] {
            log.grow(more);
            let size = log.size();
            let edge = Span { from: 0, to: size }.nodes();
            let tops = (0..=size.ilog2() as u8).map(|level| Node { level, index: 0 });
            for node in edge.into_iter().chain(tops) {
                // Read, then kept.
                for _ in 0..2 {
                    assert_eq!(log.tiles.node(node, size).unwrap(), log.computed(node), "{node:?}");
                }
            }
            for part in [0, 1, size / 2, size - 1, size] {
                let mut tree = Frontier::new();
                log.leaves[..part as usize]
                    .iter()
                    .for_each(|leaf| tree.push(*leaf, &mut |_, _| {}));
                assert_eq!(log.tiles.root(part, size).unwrap(), tree.root(), "{part} of {size}");
            }
        }
    }

    #[test]
    fn what_is_not_written_is_not_there_and_is_not_remembered_as_missing() {
        let mut log = Growing::new();
        log.grow(3);
        let (there, not_yet) = (Node { level: 1, index: 0 }, Node { level: 1, index: 1 });
        assert_eq!(log.tiles.node(there, 3).unwrap(), log.computed(there));
        assert!(log.tiles.node(not_yet, 3).is_err());
        assert!(log.tiles.node(Node { level: 40, index: 9 }, 3).is_err());
        log.grow(1);
        assert_eq!(log.tiles.node(not_yet, 4).unwrap(), log.computed(not_yet));
    }

    #[test]
    fn only_so_many_tiles_are_kept_and_what_is_read_anew_is_the_same() {
        let mut log = Growing::new();
        let tiles = TILES_MAX.get() as u64 + 2;
        log.grow(tiles * TILE_WIDTH);
        for _ in 0..2 {
            for index in 0..tiles {
                let node = Node { level: TILE_HEIGHT - 1, index: 2 * index };
                assert_eq!(log.tiles.node(node, log.size()).unwrap(), log.computed(node));
            }
        }
        assert_eq!(log.tiles.kept().len(), TILES_MAX.get());
        log.tiles.forget();
        assert_eq!(log.tiles.kept().len(), 0);
    }
}

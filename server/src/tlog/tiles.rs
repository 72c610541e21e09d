//! What lies high in the hash tiles, in memory, so that a proof neither reads whole tiles nor hashes them again.
//!
//! Of one level of tiles, a proof needs eight subtrees, the largest of them with 128 stored hashes. The roots of those of 32 and more are
//! kept, 14 for a whole tile: what is below them is read and hashed each time, which takes a few microseconds. A subtree that is whole
//! never changes again, so it is kept as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_core::chain::Hash;
use agentd_core::tlog::tile::{Kind, stored};
use agentd_core::tlog::tree::{
    Frontier, Node, Run, TILE_HEIGHT, TILE_WIDTH, node_hash, perfect_root,
};
use lru::LruCache;

use super::files::{HASH_BYTES, hash_file};

/// Tiles of which something is kept, those that were asked for last: about 8 MiB, for the tiles over three million records.
const TILES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(12_287);
/// Height above the stored hashes from which on roots are kept.
const KEPT_FROM: u32 = 5;

/// What is kept of a tile.
#[derive(Debug)]
struct Known {
    /// Stored hashes that it had.
    width: u64,
    /// The roots of whole subtrees, from left to right, those of the lowest height first.
    roots: Vec<Hash>,
}

impl Known {
    /// Of the stored hashes of a tile, from its first one on.
    fn of(hashes: &[Hash]) -> Self {
        let width = hashes.len() as u64;
        let subtrees = hashes.as_chunks::<{ 1 << KEPT_FROM }>().0;
        let mut row: Vec<Hash> =
            subtrees.iter().filter_map(|hashes| perfect_root(hashes)).collect();
        let mut roots = Vec::with_capacity(2 * row.len());
        for _ in KEPT_FROM..u32::from(TILE_HEIGHT) {
            roots.extend_from_slice(&row);
            row = row.as_chunks().0.iter().map(|[left, right]| node_hash(*left, *right)).collect();
        }
        Self { width, roots }
    }

    /// The hash above a run within this tile, if it is kept.
    fn above(&self, run: Run) -> Option<Hash> {
        let height = run.count.trailing_zeros();
        let at = (run.first % TILE_WIDTH) >> height;
        if height < KEPT_FROM || at >= self.width >> height {
            return None;
        }
        let before: u64 = (KEPT_FROM..height).map(|below| self.width >> below).sum();
        self.roots.get(usize::try_from(before + at).ok()?).copied()
    }
}

/// The tiles of one log.
pub(super) struct Tiles {
    dir: PathBuf,
    /// By level of tiles and number of the tile.
    kept: Mutex<LruCache<(u8, u64), Known>>,
    /// By level of tiles.
    files: Mutex<BTreeMap<u8, Arc<File>>>,
}

impl fmt::Debug for Tiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiles").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Tiles {
    /// Those under `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self::keeping(dir, TILES_MAX)
    }

    fn keeping(dir: &Path, tiles: NonZeroUsize) -> Self {
        let (kept, files) = (Mutex::new(LruCache::new(tiles)), Mutex::default());
        Self { dir: dir.to_owned(), kept, files }
    }

    fn kept(&self) -> MutexGuard<'_, LruCache<(u8, u64), Known>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<u8, Arc<File>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The root of a perfect subtree within a tree of `size` leaves, whose hashes are written.
    ///
    /// # Errors
    /// The disk, or there is no such subtree.
    pub(super) fn node(&self, node: Node, size: u64) -> io::Result<Hash> {
        let run = node.stored();
        let there = stored(Kind::Hashes(run.tile_level), size);
        if run.first.saturating_add(run.count) > there {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if run.count < 1 << KEPT_FROM {
            return perfect_root(&self.read(run)?).ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let place = (run.tile_level, run.first / TILE_WIDTH);
        if let Some(hash) = self.kept().get(&place).and_then(|known| known.above(run)) {
            return Ok(hash);
        }
        // Not under the lock: what others ask for does not wait for this disk access.
        let first = place.1.saturating_mul(TILE_WIDTH);
        let count = there.saturating_sub(first).min(TILE_WIDTH);
        let known = Known::of(&self.read(Run { tile_level: place.0, first, count })?);
        let hash = known.above(run).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.kept().put(place, known);
        Ok(hash)
    }

    /// Stored hashes, at most those of one tile.
    fn read(&self, run: Run) -> io::Result<Vec<Hash>> {
        let mut bytes = [0; (TILE_WIDTH * HASH_BYTES) as usize];
        let length = usize::try_from(run.count.saturating_mul(HASH_BYTES)).unwrap_or(usize::MAX);
        let bytes = bytes.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
        let begin = run.first.saturating_mul(HASH_BYTES);
        self.file(run.tile_level)?.read_exact_at(bytes, begin)?;
        Ok(bytes.as_chunks().0.iter().map(|hash| Hash::from_bytes(*hash)).collect())
    }

    fn file(&self, level: u8) -> io::Result<Arc<File>> {
        let open = self.files().get(&level).map(Arc::clone);
        match open {
            Some(file) => Ok(file),
            None => {
                let file = Arc::new(File::open(hash_file(&self.dir, level))?);
                Ok(Arc::clone(self.files().entry(level).or_insert(file)))
            }
        }
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
        self.files().clear();
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
        let most = NonZeroUsize::new(30).unwrap();
        log.tiles = Tiles::keeping(&log.tiles.dir, most);
        let tiles = most.get() as u64 + 2;
        log.grow(tiles * TILE_WIDTH);
        for _ in 0..2 {
            for index in 0..tiles {
                let node = Node { level: TILE_HEIGHT - 1, index: 2 * index };
                assert_eq!(log.tiles.node(node, log.size()).unwrap(), log.computed(node));
            }
        }
        assert_eq!(log.tiles.kept().len(), most.get());
        log.tiles.forget();
        assert_eq!(log.tiles.kept().len(), 0);
    }
}

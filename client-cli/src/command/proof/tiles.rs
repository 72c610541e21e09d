//! A log as a static tree of files that any tool for C2SP tlog-tiles reads: `checkpoint`, `tile/...`, and `log.vkey`.
//!
//! The tiles are computed here from the entries, not taken from the server: what is written is what was checked. Of entries that the
//! server has pruned there are the leaf hashes: the tree over them is whole, their bundles are not there. A tree that an earlier export
//! left is gone on with: what it has stays, also what the server has not any more.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use agentd_core::chain::{Hash, leaf_hash};
use agentd_core::tlog::note::NOTE_BYTES_MAX;
use agentd_core::tlog::tile::{self, Kind, Tile, push_entry, stored};
use agentd_core::tlog::tree::{Frontier, Node, TILE_WIDTH, perfect_root};
use agentd_core::tlog::{Checkpoint, Note};

use super::known::Known;
use super::verify::static_tree;

/// The longest file of a tree: a bundle of the longest entries.
const FILE_BYTES_MAX: u64 = (2 + 65_535) * TILE_WIDTH;

/// Why a directory cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is a file.
    #[error("it is no directory")]
    NoDirectory,
    /// Something else is in it.
    #[error("it is not empty, and no export that was finished")]
    Other,
    /// Another log is in it.
    #[error("it has the log `{0}`")]
    OtherLog(String),
    /// Its files do not lead to its checkpoint.
    #[error("its tiles are not those under its checkpoint, `{0}` is not what it has to be")]
    Altered(String),
}

/// Writes tiles as entries come.
#[derive(Debug)]
pub(super) struct TileWriter {
    dir: PathBuf,
    frontier: Frontier,
    /// The bundle that is being filled, while all of its entries are there.
    bundle: Option<Vec<u8>>,
    /// By level: hashes so far, and the bytes of the tile that is being filled.
    levels: Vec<(u64, Vec<u8>)>,
    /// What an earlier export left.
    before: Option<Checkpoint>,
    /// Directories that got a file.
    touched: BTreeSet<PathBuf>,
}

impl TileWriter {
    /// Writes into `dir`, which is made, holds nothing yet, or holds what an earlier export of the log called `origin` left.
    pub(super) fn open(dir: &Path, origin: &str) -> Result<Self, Unusable> {
        if dir.exists() && !dir.is_dir() {
            return Err(Unusable::NoDirectory);
        }
        fs::create_dir_all(dir)?;
        let (dir, touched) = (dir.to_owned(), BTreeSet::new());
        let (frontier, bundle, levels) = (Frontier::new(), Some(Vec::new()), Vec::new());
        let mut writer = Self { dir, frontier, bundle, levels, before: None, touched };
        if fs::read_dir(&writer.dir)?.next().is_some() {
            writer.resume(origin)?;
        }
        Ok(writer)
    }

    /// Takes up what an earlier export left, as far as its checkpoint goes.
    fn resume(&mut self, origin: &str) -> Result<(), Unusable> {
        if !static_tree::is_one(&self.dir) {
            return Err(Unusable::Other);
        }
        let mut text = Vec::new();
        let limit = u64::try_from(NOTE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
        File::open(self.dir.join("checkpoint"))?.take(limit).read_to_end(&mut text)?;
        // Who signed it is of no matter: the log has to continue it, which the server is asked to prove.
        let note = Note::parse(&text).ok();
        let found = note.and_then(|note| Checkpoint::parse(note.text()).ok());
        let Some(found) = found else { return Err(Unusable::Altered("checkpoint".to_owned())) };
        if found.origin != origin {
            return Err(Unusable::OtherLog(found.origin));
        }
        let size = found.size;
        self.frontier = Frontier::load(size, &mut |node| self.node(node, size))?;
        if self.frontier.root() != found.root {
            return Err(Unusable::Altered("checkpoint".to_owned()));
        }
        for level in 0.. {
            let count = stored(Kind::Hashes(level), size);
            if count == 0 {
                break;
            }
            let bytes = match self.last_partial(Kind::Hashes(level), count) {
                Some(tile) => self.read(tile)?,
                None => Vec::new(),
            };
            self.levels.push((count, bytes));
        }
        if let Some(tile) = self.last_partial(Kind::Entries, size) {
            self.bundle = Some(self.entries(tile)?);
        }
        self.before = Some(found);
        Ok(())
    }

    /// The tile that `count` hashes or entries of a kind end with, if it is not full.
    fn last_partial(&self, kind: Kind, count: u64) -> Option<Tile> {
        Tile::new(kind, count / TILE_WIDTH, count % TILE_WIDTH)
    }

    fn read(&self, tile: Tile) -> Result<Vec<u8>, Unusable> {
        let (name, mut bytes) = (tile.to_string(), Vec::new());
        let file = match File::open(self.dir.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Unusable::Altered(name));
            }
            other => other?,
        };
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        let hashes = matches!(tile.kind(), Kind::Hashes(_));
        if hashes && bytes.len() as u64 != tile.width() * 32 {
            return Err(Unusable::Altered(name));
        }
        Ok(bytes)
    }

    /// The root of a perfect subtree of the tree over `size` entries, from its tile.
    fn node(&self, node: Node, size: u64) -> Result<Hash, Unusable> {
        let run = node.stored();
        let (kind, index) = (Kind::Hashes(run.tile_level), run.first / TILE_WIDTH);
        let width = (stored(kind, size) - index * TILE_WIDTH).min(TILE_WIDTH);
        let altered = || Unusable::Altered(format!("tile/{}", run.tile_level));
        let bytes = self.read(Tile::new(kind, index, width).ok_or_else(altered)?)?;
        let hashes = bytes.as_chunks::<32>().0.iter().map(|hash| Hash::from_bytes(*hash));
        let skipped = usize::try_from(run.first % TILE_WIDTH).unwrap_or(usize::MAX);
        let taken = usize::try_from(run.count).unwrap_or(0);
        let hashes: Vec<Hash> = hashes.skip(skipped).take(taken).collect();
        perfect_root(&hashes).ok_or_else(altered)
    }

    /// A bundle whose entries are those under the hashes beside it.
    fn entries(&self, bundle: Tile) -> Result<Vec<u8>, Unusable> {
        let altered = || Unusable::Altered(bundle.to_string());
        let bytes = self.read(bundle)?;
        let entries = tile::entries(&bytes).ok_or_else(altered)?;
        let hashes: Vec<u8> = entries.iter().flat_map(|e| *leaf_hash(e).as_bytes()).collect();
        let under = self.levels.first().map(|(_, bytes)| bytes.as_slice());
        if under == Some(hashes.as_slice()) { Ok(bytes) } else { Err(altered()) }
    }

    pub(super) const fn tree(&self) -> &Frontier {
        &self.frontier
    }

    /// What an earlier export left here.
    pub(super) const fn before(&self) -> Option<&Checkpoint> {
        self.before.as_ref()
    }

    /// Adds an entry, which is not longer than an entry can be.
    pub(super) fn push(&mut self, line: &[u8]) -> io::Result<()> {
        if let Some(bundle) = &mut self.bundle
            && !push_entry(bundle, line)
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an entry that is too long"));
        }
        self.grow(leaf_hash(line))
    }

    /// Adds an entry of which only the hash can be had.
    pub(super) fn push_hash(&mut self, leaf: Hash) -> io::Result<()> {
        self.bundle = None;
        self.grow(leaf)
    }

    fn grow(&mut self, leaf: Hash) -> io::Result<()> {
        let levels = &mut self.levels;
        self.frontier.push(leaf, &mut |level, hash| {
            let level = usize::from(level);
            if levels.len() <= level {
                levels.push((0, Vec::new()));
            }
            if let Some((count, bytes)) = levels.get_mut(level) {
                *count += 1;
                bytes.extend_from_slice(hash.as_bytes());
            }
        });
        if self.frontier.size().is_multiple_of(TILE_WIDTH) {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the tiles that are filled, and begins the next bundle.
    fn flush(&mut self) -> io::Result<()> {
        if let Some(bundle) = self.bundle.replace(Vec::new()) {
            self.write(Kind::Entries, self.frontier.size(), &bundle)?;
        }
        for (level, place) in (0_u8..).zip(0..self.levels.len()) {
            let Some((count, bytes)) = self.levels.get_mut(place) else { break };
            if count.is_multiple_of(TILE_WIDTH) && !bytes.is_empty() {
                let (count, bytes) = (*count, std::mem::take(bytes));
                self.write(Kind::Hashes(level), count, &bytes)?;
            }
        }
        Ok(())
    }

    /// Writes the partial tiles, the key, and last, when all of that is durable, the checkpoint: a tree with a checkpoint is complete.
    /// Answers with the first entry from which on all of them are there.
    pub(super) fn finish(mut self, known: &Known) -> io::Result<u64> {
        let size = self.frontier.size();
        if let Some(bundle) = self.bundle.take().filter(|bundle| !bundle.is_empty()) {
            self.write(Kind::Entries, size, &bundle)?;
        }
        let levels = std::mem::take(&mut self.levels);
        for (level, (count, bytes)) in (0_u8..).zip(&levels) {
            if !bytes.is_empty() {
                self.write(Kind::Hashes(level), *count, bytes)?;
            }
        }
        self.store("log.vkey", format!("{}\n", known.key).as_bytes())?;
        self.touched.iter().try_for_each(|dir| File::open(dir)?.sync_all())?;
        self.store("checkpoint.tmp", known.note.to_string().as_bytes())?;
        fs::rename(self.dir.join("checkpoint.tmp"), self.dir.join("checkpoint"))?;
        File::open(&self.dir)?.sync_all()?;
        self.tidy();
        Ok(self.first_whole())
    }

    /// Removes the partial tiles of an earlier export that are full now. That they are left does no harm.
    fn tidy(&self) {
        let Some(before) = &self.before else { return };
        let levels = (0..=u8::MAX).map(Kind::Hashes);
        let kinds = std::iter::once(Kind::Entries).chain(levels);
        for kind in kinds.take_while(|kind| stored(*kind, before.size) > 0) {
            let Some(partial) = self.last_partial(kind, stored(kind, before.size)) else {
                continue;
            };
            let full = Tile::new(kind, partial.first() / TILE_WIDTH, TILE_WIDTH);
            let partials = self.dir.join(partial.to_string());
            if let Some(partials) = partials.parent()
                && full.is_some_and(|full| self.dir.join(full.to_string()).is_file())
            {
                let _ = fs::remove_dir_all(partials);
            }
        }
    }

    /// The first entry of the last run of bundles without a gap.
    fn first_whole(&self) -> u64 {
        let size = self.frontier.size();
        let mut first = size.saturating_add(1);
        for index in (0..size.div_ceil(TILE_WIDTH)).rev() {
            let width = (size - index * TILE_WIDTH).min(TILE_WIDTH);
            let bundle = Tile::new(Kind::Entries, index, width);
            if !bundle.is_some_and(|bundle| self.dir.join(bundle.to_string()).is_file()) {
                break;
            }
            first = index * TILE_WIDTH + 1;
        }
        first
    }

    /// The tile that ends with hash or entry number `end`.
    fn write(&mut self, kind: Kind, end: u64, bytes: &[u8]) -> io::Result<()> {
        let index = end.saturating_sub(1) / TILE_WIDTH;
        let tile = Tile::new(kind, index, end - index * TILE_WIDTH);
        let tile = tile.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.store(&tile.to_string(), bytes)
    }

    fn store(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
            let within = parent.ancestors().take_while(|dir| dir.starts_with(&self.dir));
            self.touched.extend(within.map(Path::to_owned));
        }
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }
}

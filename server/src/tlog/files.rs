//! The derived files: plain lines, and hash tiles laid out flat, so that a tile is a range of bytes and a partial tile a prefix.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use agentd_core::chain::{Hash, leaf_hash};
use agentd_core::tlog::tile::{Kind, stored};
use agentd_core::tlog::tree::{Frontier, Node, perfect_root};

use super::lines::Lines;
use crate::failpoint;
use crate::journal::{make_dir, sync_parent};

/// Bytes of a hash.
pub(super) const HASH_BYTES: u64 = 32;
/// Levels of tiles that a log of 2^64 records has.
const LEVELS: u8 = 8;

pub(super) fn hash_file(dir: &Path, level: u8) -> PathBuf {
    dir.join("hash").join(level.to_string())
}

/// Reads hashes; each level is opened when it is first needed.
#[derive(Debug)]
pub(super) struct HashFiles<'a> {
    dir: &'a Path,
    open: Vec<(u8, File)>,
}

impl<'a> HashFiles<'a> {
    pub(super) const fn new(dir: &'a Path) -> Self {
        Self { dir, open: Vec::new() }
    }

    /// The bytes of `count` hashes of a level, from `first` on.
    pub(super) fn read(&mut self, level: u8, first: u64, count: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(count.saturating_mul(HASH_BYTES)).unwrap_or(0);
        let mut bytes = vec![0; length];
        let file = match self.open.iter().position(|(open, _)| *open == level) {
            Some(at) => self.open.get(at),
            None => {
                self.open.push((level, File::open(hash_file(self.dir, level))?));
                self.open.last()
            }
        };
        let (_, file) = file.ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(&mut bytes, first.saturating_mul(HASH_BYTES))?;
        Ok(bytes)
    }

    /// The root of a perfect subtree.
    pub(super) fn node(&mut self, node: Node) -> io::Result<Hash> {
        let run = node.stored();
        let bytes = self.read(run.tile_level, run.first, run.count)?;
        let hashes: Vec<Hash> =
            bytes.as_chunks().0.iter().map(|hash| Hash::from_bytes(*hash)).collect();
        perfect_root(&hashes).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// A leaf hash.
    pub(super) fn leaf(&mut self, index: u64) -> io::Result<Hash> {
        self.node(Node { level: 0, index })
    }
}

/// One file that grows, written behind what it holds.
#[derive(Debug)]
pub(super) struct Growing {
    path: PathBuf,
    file: File,
    end: u64,
    waiting: Vec<u8>,
    dirty: bool,
}

impl Growing {
    /// Opens the file and cuts it to `end`: what is behind was never promised to anybody.
    pub(super) fn open(path: PathBuf, end: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let is_new = !path.exists();
        let file = options.open(&path)?;
        let length = file.metadata()?.len();
        if length < end {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is cut short"));
        }
        file.set_len(end)?;
        if is_new {
            sync_parent(&path)?;
        }
        Ok(Self { path, file, end, waiting: Vec::new(), dirty: true })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes it has, once they are written.
    pub(super) const fn length(&self) -> u64 {
        self.end.saturating_add(self.waiting.len() as u64)
    }

    /// Adds bytes; they are in the file after [`Growing::flush`].
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        failpoint::hit("tlog.write")?;
        self.file.write_all_at(&self.waiting, self.end)?;
        self.end = self.end.saturating_add(self.waiting.len() as u64);
        self.waiting.clear();
        self.dirty = true;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            failpoint::hit("tlog.sync")?;
            self.file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
    }
}

/// Writes the files behind a tree.
#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    lines: Lines,
    /// By level of tiles.
    hashes: Vec<Growing>,
    frontier: Frontier,
}

impl Writer {
    /// Goes on behind `frontier`; what lies behind in the files is cut. Of the lines, those from `oldest` on are kept.
    pub(super) fn resume(
        dir: &Path,
        frontier: Frontier,
        oldest: u64,
        seal_bytes: u64,
    ) -> io::Result<Self> {
        make_dir(&dir.join("hash"))?;
        let lines = Lines::resume(dir, oldest, frontier.size(), seal_bytes)?;
        let mut writer = Self { dir: dir.to_owned(), lines, hashes: Vec::new(), frontier };
        // Left over from before, a level above would be taken for one of this tree.
        let size = writer.frontier.size();
        let used =
            |level: &u8| stored(Kind::Hashes(*level), size) > 0 || hash_file(dir, *level).exists();
        let levels = (0..LEVELS).rev().find(used).map_or(0, |top| top + 1);
        for level in 0..levels {
            writer.open_level(level, stored(Kind::Hashes(level), size))?;
        }
        Ok(writer)
    }

    fn open_level(&mut self, level: u8, count: u64) -> io::Result<()> {
        let end = count.saturating_mul(HASH_BYTES);
        // Levels come in order: a tile is filled before the one above it begins.
        self.hashes.push(Growing::open(hash_file(&self.dir, level), end)?);
        Ok(())
    }

    pub(super) const fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// The next record that the lines or the hashes lack.
    pub(super) fn next(&self) -> u64 {
        self.frontier.size().saturating_add(1).min(self.lines.next())
    }

    pub(super) const fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Adds the record to what lacks it; it is in the files after [`Writer::flush`].
    pub(super) fn push(&mut self, seq: u64, line: &[u8]) -> io::Result<()> {
        self.lines.push(seq, line)?;
        if seq != self.frontier.size().saturating_add(1) {
            return Ok(());
        }
        let leaf = leaf_hash(line);
        let mut stored = [None; LEVELS as usize + 1];
        self.frontier.push(leaf, &mut |level, hash| {
            if let Some(place) = stored.get_mut(usize::from(level)) {
                *place = Some(hash);
            }
        });
        for (level, hash) in (0..LEVELS).zip(stored).filter_map(|(l, h)| Some((l, h?))) {
            if self.hashes.len() <= usize::from(level) {
                self.open_level(level, 0)?;
            }
            if let Some(file) = self.hashes.get_mut(usize::from(level)) {
                file.waiting.extend_from_slice(hash.as_bytes());
            }
        }
        Ok(())
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.lines.flush()?;
        self.hashes.iter_mut().try_for_each(Growing::flush)
    }

    /// Makes all of it durable. After an error the files have to be opened afresh: the kernel may have dropped what it could not
    /// write.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.lines.sync()?;
        self.hashes.iter_mut().try_for_each(Growing::sync)
    }

    /// A file that is gone from its name, if there is one: somebody cleaned up, and what is written goes nowhere.
    pub(super) fn missing(&self) -> Option<&Path> {
        let hashes = self.hashes.iter().map(|file| file.path.as_path());
        self.lines.missing().or_else(|| hashes.into_iter().find(|path| !path.exists()))
    }
}

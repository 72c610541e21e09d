//! A log as a static tree of files that any tool for C2SP tlog-tiles reads: `checkpoint`, `tile/...`, and `log.vkey`.
//!
//! The tiles are computed here from the entries, not taken from the server: what is written is what was checked.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use agentd_core::chain::leaf_hash;
use agentd_core::tlog::tile::{Kind, Tile, push_entry};
use agentd_core::tlog::tree::{Frontier, TILE_WIDTH};

use super::known::Known;

/// Writes tiles as entries come.
#[derive(Debug)]
pub(super) struct TileWriter {
    dir: PathBuf,
    frontier: Frontier,
    bundle: Vec<u8>,
    /// By level: hashes so far, and the bytes of the tile that is being filled.
    levels: Vec<(u64, Vec<u8>)>,
}

impl TileWriter {
    /// Writes into `dir`, which is made and must not hold anything yet.
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        if fs::read_dir(dir)?.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the directory is not empty"));
        }
        Ok(Self {
            dir: dir.to_owned(),
            frontier: Frontier::new(),
            bundle: Vec::new(),
            levels: Vec::new(),
        })
    }

    pub(super) const fn tree(&self) -> &Frontier {
        &self.frontier
    }

    /// Adds an entry, which is not longer than an entry can be.
    pub(super) fn push(&mut self, line: &[u8]) -> io::Result<()> {
        if !push_entry(&mut self.bundle, line) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an entry that is too long"));
        }
        let levels = &mut self.levels;
        self.frontier.push(leaf_hash(line), &mut |level, hash| {
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

    /// Writes the tiles that are filled; with all the rest of them at the end.
    fn flush(&mut self) -> io::Result<()> {
        let full = |count: u64| count > 0 && count.is_multiple_of(TILE_WIDTH);
        if full(self.frontier.size()) && !self.bundle.is_empty() {
            let bundle = std::mem::take(&mut self.bundle);
            self.write(Kind::Entries, self.frontier.size(), &bundle)?;
        }
        for (level, place) in (0_u8..).zip(0..self.levels.len()) {
            let Some((count, bytes)) = self.levels.get_mut(place) else { break };
            if full(*count) && !bytes.is_empty() {
                let (count, bytes) = (*count, std::mem::take(bytes));
                self.write(Kind::Hashes(level), count, &bytes)?;
            }
        }
        Ok(())
    }

    /// Writes the partial tiles, the key, and last the checkpoint: a tree with a checkpoint is complete.
    pub(super) fn finish(mut self, known: &Known) -> io::Result<()> {
        let (size, bundle) = (self.frontier.size(), std::mem::take(&mut self.bundle));
        if !bundle.is_empty() {
            self.write(Kind::Entries, size, &bundle)?;
        }
        let levels = std::mem::take(&mut self.levels);
        for (level, (count, bytes)) in (0_u8..).zip(&levels) {
            if !bytes.is_empty() {
                self.write(Kind::Hashes(level), *count, bytes)?;
            }
        }
        self.store("log.vkey", format!("{}\n", known.key).as_bytes())?;
        self.store("checkpoint", known.note.to_string().as_bytes())
    }

    /// The tile that ends with hash or entry number `end`.
    fn write(&self, kind: Kind, end: u64, bytes: &[u8]) -> io::Result<()> {
        let index = end.saturating_sub(1) / TILE_WIDTH;
        let tile = Tile::new(kind, index, end - index * TILE_WIDTH);
        let tile = tile.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.store(&tile.to_string(), bytes)
    }

    fn store(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }
}

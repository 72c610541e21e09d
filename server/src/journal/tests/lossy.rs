//! A model of a disk behind a page cache: what was not synced may be lost, sector by sector, when the power goes; a failed
//! sync drops the pages and lets the cache go on showing them; space runs out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::store::{Access, Store, StoredFile};

const SECTOR: usize = 512;

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Write,
    Sync,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    /// What reads see.
    cache: Vec<u8>,
    /// What a power cut leaves.
    disk: Vec<u8>,
    /// Sectors (or, with the length, everything) in which the two may differ and a later sync writes.
    dirty: BTreeSet<usize>,
}

impl Inode {
    fn sync(&mut self) {
        self.disk.resize(self.cache.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(&self.cache, &mut self.disk, sector);
        }
    }

    /// Some of what was not synced had reached the disk anyway.
    fn lose(&mut self, random: &mut Random) {
        if self.cache.len() > self.disk.len() || random.half() {
            let len = if random.half() { self.cache.len() } else { self.disk.len() };
            self.disk.resize(len, 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            if random.half() {
                copy_sector(&self.cache, &mut self.disk, sector);
            }
        }
        self.cache.clone_from(&self.disk);
    }
}

fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = sector * SECTOR;
    let end = (start + SECTOR).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

/// Xorshift: the same seed loses the same sectors.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn half(&mut self) -> bool {
        self.next() >> 40 & 1 == 1
    }
}

#[derive(Debug, Clone)]
enum Naming {
    Set(String, usize),
    Remove(String),
}

fn apply(names: &mut BTreeMap<String, usize>, naming: Naming) {
    match naming {
        Naming::Set(name, inode) => {
            names.retain(|_, other| *other != inode);
            names.insert(name, inode);
        }
        Naming::Remove(name) => {
            names.remove(&name);
        }
    }
}

#[derive(Debug, Default)]
struct Model {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending: Vec<Naming>,
    /// Changes left until the power goes.
    fuse: Option<u64>,
    dead: bool,
    faults: Vec<(Op, io::ErrorKind)>,
    /// Why the process on it ended.
    ended: Option<String>,
    capacity: Option<usize>,
}

fn gone() -> io::Error {
    io::Error::other("the power is off")
}

impl Model {
    /// One change of the disk is about to happen.
    fn change(&mut self, op: Option<Op>) -> io::Result<()> {
        if let Some(left) = &mut self.fuse {
            *left = left.saturating_sub(1);
            self.dead |= *left == 0;
        }
        if self.dead {
            return Err(gone());
        }
        match self.faults.iter().position(|(at, _)| Some(*at) == op) {
            Some(i) => Err(self.faults.remove(i).1.into()),
            None => Ok(()),
        }
    }

    fn name(&mut self, naming: Naming) {
        apply(&mut self.names, naming.clone());
        self.pending.push(naming);
    }

    fn used(&self) -> usize {
        self.names.values().map(|i| self.inodes[*i].cache.len()).sum()
    }
}

/// The modelled disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct LossyStore(Arc<Mutex<Model>>);

impl LossyStore {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes instead of the `n`-th change from now on; everything fails from then on.
    pub(super) fn cut_power_at(&self, n: u64) {
        self.model().fuse = Some(n.max(1));
    }

    /// The power comes back: what was not synced is lost or not, as `seed` has it.
    pub(super) fn after_power_cut(&self, seed: u64) -> Self {
        let mut random = Random(seed | 1);
        let model = self.model();
        let mut names = model.durable_names.clone();
        // The file system keeps the order of names, but may have got anywhere.
        let reached = random.next() as usize % (model.pending.len() + 1);
        for naming in model.pending.iter().take(reached).cloned() {
            apply(&mut names, naming);
        }
        let mut inodes = model.inodes.clone();
        for inode in &mut inodes {
            inode.lose(&mut random);
        }
        let durable_names = names.clone();
        Self(Arc::new(Mutex::new(Model { inodes, names, durable_names, ..Model::default() })))
    }

    /// The next operation of this kind fails.
    pub(super) fn fail(&self, op: Op, kind: io::ErrorKind) {
        self.model().faults.push((op, kind));
    }

    /// Why the process ended, if it did; the question begins anew.
    pub(super) fn ended(&self) -> Option<String> {
        self.model().ended.take()
    }

    /// Nothing fails any more.
    pub(super) fn heal(&self) {
        self.model().faults.clear();
    }

    /// Limits the disk to what it holds now and `more` bytes; `None` lifts the limit.
    pub(super) fn room(&self, more: Option<usize>) {
        let mut model = self.model();
        model.capacity = more.map(|more| model.used() + more);
    }
}

impl Store for LossyStore {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.model().names.keys().cloned().collect())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn StoredFile>> {
        let mut model = self.model();
        let known = model.names.get(name).copied();
        let inode = match (access, known) {
            (Access::Create, _) => {
                model.change(None)?;
                model.inodes.push(Inode::default());
                let inode = model.inodes.len() - 1;
                model.name(Naming::Set(name.to_owned(), inode));
                inode
            }
            (_, Some(inode)) => inode,
            (_, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(LossyFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut model = self.model();
        model.change(None)?;
        let inode = *model.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        model.name(Naming::Set(to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut model = self.model();
        model.change(None)?;
        model.name(Naming::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut model = self.model();
        model.change(None)?;
        model.pending.clear();
        model.durable_names = model.names.clone();
        Ok(())
    }

    fn end_process(&self, reason: &str) {
        self.model().ended = Some(reason.to_owned());
    }
}

#[derive(Debug)]
struct LossyFile {
    disk: LossyStore,
    inode: usize,
}

impl StoredFile for LossyFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.model().inodes[self.inode].cache.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut model = self.disk.model();
        model.change(None)?;
        let inode = &mut model.inodes[self.inode];
        inode.cache.resize(len as usize, 0);
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let model = self.disk.model();
        let cache = &model.inodes[self.inode].cache;
        let at = (at as usize).min(cache.len());
        let n = buf.len().min(cache.len() - at);
        buf[..n].copy_from_slice(&cache[at..at + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut model = self.disk.model();
        let (at, mut end) = (at as usize, at as usize + bytes.len());
        let alive = model.change(Some(Op::Write));
        let grows = end.saturating_sub(model.inodes[self.inode].cache.len());
        let full = model.capacity.is_some_and(|capacity| model.used() + grows > capacity);
        if alive.is_err() || full {
            // What fails may have been done in part.
            end = at + bytes.len() / 2;
        }
        let inode = &mut model.inodes[self.inode];
        if !full || end <= inode.cache.len() {
            inode.cache.resize(inode.cache.len().max(end), 0);
            inode.cache[at..end].copy_from_slice(&bytes[..end - at]);
            inode.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
        }
        alive?;
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut model = self.disk.model();
        let done = model.change(Some(Op::Sync));
        let dead = model.dead;
        let inode = &mut model.inodes[self.inode];
        match &done {
            Ok(()) => inode.sync(),
            // The kernel marks the pages clean: a second sync has nothing to do and succeeds.
            Err(_) if !dead => inode.dirty.clear(),
            Err(_) => {}
        }
        done
    }
}

#[test]
fn the_model_loses_what_is_not_synced_and_keeps_what_is() {
    let disk = LossyStore::default();
    let file = disk.open("a", Access::Create).unwrap();
    file.write_at(&[1; 4096], 0).unwrap();
    file.sync().unwrap();
    disk.sync_names().unwrap();
    file.write_at(&[2; 4096], 0).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..64 {
        let after = disk.after_power_cut(seed * 7919 + 1);
        let mut bytes = [0; 4096];
        after.open("a", Access::Read).unwrap().read_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|b| matches!(b, 1 | 2)), "synced bytes stay or are overwritten");
        seen.insert(bytes.to_vec());
    }
    assert!(seen.len() > 10, "sectors are lost one by one");
    file.sync().unwrap();
    let mut bytes = [0; 4096];
    let after = disk.after_power_cut(3);
    after.open("a", Access::Read).unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [2; 4096]);
}

#[test]
fn the_model_lies_after_a_failed_sync() {
    let disk = LossyStore::default();
    let file = disk.open("a", Access::Create).unwrap();
    disk.sync_names().unwrap();
    file.write_at(&[1; 512], 0).unwrap();
    disk.fail(Op::Sync, io::ErrorKind::Other);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1], "the cache shows it");
    let after = disk.after_power_cut(5).open("a", Access::Read).unwrap();
    byte = [9];
    let _ = after.read_at(&mut byte, 0).unwrap();
    assert_ne!(byte, [1], "the disk does not have it");
}

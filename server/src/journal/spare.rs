//! Segments made ready before they are needed, and used again when their records are no longer kept.
//!
//! Beginning a segment is the slowest thing the log does: zeros are written and synced before the first record. A *spare* is a
//! file of the size of a segment whose space is claimed and on disk, made on a thread of its own; the writer puts a header in
//! front of it and renames it. A segment whose records were pruned becomes a spare as it is: what it held stays in it as *stale*
//! bytes. They cannot be taken for records of their new life: a record keeps its number for ever, those of a stale frame are all
//! below the first of the segment, and the writer ends each group with zeros, behind which nothing is read.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::index::segment_name;
use super::store::{Access, Store, StoredFile};
use crate::failpoint;

/// Spares that are kept.
const SPARES: usize = 2;
/// Bytes that are zeroed and synced at once: a sync of the log beside it does not wait long.
const STEP: usize = 256 << 10;
static ZEROS: [u8; STEP] = [0; STEP];

/// Ends the name of a spare.
const READY: &str = ".spare";
/// Ends the name of one that is being made; removed at the start, when nobody makes one.
pub(super) const UNREADY: &str = ".spare.tmp";

/// The spares of one log.
#[derive(Debug)]
pub(super) struct Spares {
    store: Arc<dyn Store>,
    /// Length of a spare.
    bytes: u64,
    /// Names of those that can be used.
    ready: Mutex<Vec<String>>,
    next: AtomicU64,
    stopping: AtomicBool,
}

impl Spares {
    /// The spares in `store`. One of at least `bytes` is a whole one.
    pub(super) fn new(store: Arc<dyn Store>, bytes: u64) -> Self {
        let names = store.names().unwrap_or_default();
        let number = |name: &String| name.strip_suffix(READY)?.parse::<u64>().ok();
        let next = names.iter().filter_map(number).max().map_or(0, |last| last.saturating_add(1));
        let mut ready: Vec<String> =
            names.into_iter().filter(|name| number(name).is_some()).collect();
        ready.sort_unstable();
        let (next, stopping) = (AtomicU64::new(next), AtomicBool::new(false));
        Self { store, bytes, ready: Mutex::new(ready), next, stopping }
    }

    fn ready(&self) -> MutexGuard<'_, Vec<String>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one can be taken.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready().is_empty()
    }

    /// Takes one whose space suffices for `bytes`; what is too small is removed.
    pub(super) fn take(&self, bytes: u64) -> Option<(String, Box<dyn StoredFile>, u64)> {
        loop {
            let name = Some(self.ready()).filter(|ready| !ready.is_empty())?.remove(0);
            let opened =
                self.store.open(&name, Access::Write).and_then(|file| Ok((file.len()?, file)));
            match opened {
                Ok((length, file)) if length >= bytes => return Some((name, file, length)),
                Ok(_) | Err(_) => {
                    // It holds nothing; if it cannot be removed, it is tried again at the next start.
                    let _ = self.store.remove(&name);
                }
            }
        }
    }

    fn name(&self, end: &str) -> String {
        format!("{:010}{end}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes spares when asked, until nobody can ask any more.
    pub(super) fn run(&self, asked: &Receiver<()>) {
        while asked.recv().is_ok() {
            if self.is_ready() || self.stopping.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = self.make() {
                // The writer claims the space it needs by itself, and says so when there is none.
                tracing::warn!(%error, "no segment of the proof log can be made ready");
            }
        }
    }

    /// What is being made is not needed any more.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn make(&self) -> io::Result<()> {
        let unready = self.name(UNREADY);
        let made = self
            .store
            .open(&unready, Access::Create)
            .and_then(|file| self.fill(file.as_ref(), 0))
            .and_then(|()| self.put(&unready));
        if made.is_err() {
            let _ = self.store.remove(&unready);
        }
        made
    }

    /// Claims the space from `at` on: zeroed, and on disk.
    fn fill(&self, file: &dyn StoredFile, mut at: u64) -> io::Result<()> {
        while at < self.bytes {
            if self.stopping.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let (began, step) = (Instant::now(), usize::try_from(self.bytes - at).unwrap_or(STEP));
            let step = step.min(STEP);
            failpoint::hit("journal.spare")?;
            file.write_at(ZEROS.get(..step).unwrap_or_default(), at)?;
            // It holds no record: after a failed sync it is dropped, and nothing is in doubt.
            file.sync()?;
            at = at.saturating_add(step as u64);
            // Half of the disk at most; with less, a busy log would be at the end of its segment before the next one is there.
            std::thread::sleep(began.elapsed());
        }
        Ok(())
    }

    fn put(&self, unready: &str) -> io::Result<()> {
        let name = self.name(READY);
        self.store.rename(unready, &name)?;
        self.ready().push(name);
        Ok(())
    }

    /// Makes the names durable. They are also those of segments with records, so a failure ends the process.
    fn sync_names(&self) -> io::Result<()> {
        self.store.sync_names().inspect_err(|error| {
            self.store.end_process(&format!("sync the names of segments: {error}"));
        })
    }

    /// Takes over the segment that begins with `first_seq`, whose records are not kept any more and which nobody looks for: it
    /// becomes a spare, or is removed where there are enough.
    ///
    /// # Errors
    /// The disk; the segment may be there still.
    pub(super) fn retire(&self, first_seq: u64) -> io::Result<()> {
        let segment = segment_name(first_seq);
        if self.ready().len() >= SPARES {
            self.store.remove(&segment)?;
            return self.sync_names();
        }
        let unready = self.name(UNREADY);
        self.store.rename(&segment, &unready)?;
        // Durable before it is written to: the old name must never lead to a new header.
        self.sync_names()?;
        failpoint::hit("journal.retire")?;
        let made = self
            .store
            .open(&unready, Access::Write)
            .and_then(|file| Ok((file.len()?, file)))
            .and_then(|(length, file)| self.fill(file.as_ref(), length))
            .and_then(|()| self.put(&unready));
        made.or_else(|error| {
            // The segment is given up either way.
            tracing::warn!(%error, "a segment of the proof log cannot be used again");
            self.store.remove(&unready)
        })
    }
}

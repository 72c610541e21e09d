//! Which entries of the proof log are about what: a table beside the log, so that a filtered list need not read all of it.
//!
//! ```text
//! <data dir>/proof/index.db   disposable: made from the log, and made anew where it is missing, damaged or does not fit
//! ```
//!
//! It follows what is durable on a thread of its own, so an acknowledgement never waits for it. What it answers are numbers;
//! whoever asks reads these entries in the log and judges them by what stands there, so no edit of the table can put words into
//! the log. To leave entries out it would have to pass two checks: after every start each row is compared with its entry before
//! the table is used, and from then on a write by anybody else (which SQLite tells) has it thrown away. What a change of the raw
//! bytes under a running server might hide, `agentctl proof verify --index` finds.

mod facts;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use agentd_core::chain::{GENESIS, Hash, leaf_hash};
use tokio::sync::watch;

use crate::blobs::Blobs;
use crate::journal::{self, Journal, LogId, Reader};

pub use facts::Facts;
pub use table::{Difference, Wanted};
use table::{Place, Table};

/// Name of the file in the directory of the log.
pub const FILE: &str = "index.db";
/// Entries that are entered in one transaction.
const BATCH: usize = 2_000;
/// Bytes of lines that are read at once.
const BATCH_BYTES: usize = 4 << 20;
/// What becomes durable within this time is indexed in one go: just then the app it is about is being started, on the same few
/// processors, and an answer reads what the index does not know yet from the log.
const GATHER: Duration = Duration::from_millis(50);
/// Time from one failure to the next attempt; a test does not wait for long.
const RETRY: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 30_000 });

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table.
    #[error("the index of the proof log cannot be used")]
    Table(#[from] rusqlite::Error),
    /// Its file.
    #[error("cannot {verb} `{}`", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log it is made from.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// It is not what its log says.
    #[error("{0}")]
    Differs(Difference),
    /// Somebody else writes to it.
    #[error("somebody else wrote to it")]
    Foreign,
    /// The thread cannot be started.
    #[error("cannot start the thread of the index")]
    Thread(#[source] std::io::Error),
}

impl Error {
    /// Whether the table itself is at fault, so that only another one helps. One that is busy, or that cannot be filled because the
    /// log or the disk fails, is opened again as it is: a new one would meet the same.
    fn is_of_the_table(&self) -> bool {
        match self {
            Self::Differs(_) | Self::Foreign => true,
            Self::Table(error) => spoiled(error),
            Self::File { .. } | Self::Journal(_) | Self::Thread(_) => false,
        }
    }
}

/// Whether an error says that what stands in the table is of no use.
fn spoiled(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OperationInterrupted, OutOfMemory,
        PermissionDenied, ReadOnly,
    };
    !matches!(
        error.sqlite_error_code(),
        Some(
            CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | DiskFull
                | OperationInterrupted
                | OutOfMemory
                | PermissionDenied
                | ReadOnly
        )
    )
}

/// What a comparison with the log found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Entries that were looked at: all that the table says it knows.
    pub entries: u64,
    /// The first one that is not as the log has it.
    pub difference: Option<Difference>,
}

/// How far the index is. An answer about entries up to `upto` is complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last entry in it that counts; 0 while it is not to be used.
    pub upto: u64,
    /// How often it was thrown away and begun anew.
    pub rebuilt: u64,
}

/// Handle to a running index; clones share it. The thread ends with the last one.
#[derive(Debug, Clone)]
pub struct Index {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    reader: Reader,
    progress: watch::Receiver<Progress>,
    stop: Option<watch::Sender<()>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.take();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the index panicked");
        }
    }
}

/// The table, while there is one that can be used.
#[derive(Debug)]
struct Shared {
    table: Mutex<Option<Table>>,
    progress: watch::Sender<Progress>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Table>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is answered from the table any more.
    fn distrust(&self) {
        self.progress.send_if_modified(|progress| std::mem::take(&mut progress.upto) != 0);
    }
}

impl Index {
    /// Opens the index in `dir` beside the log, and lets it follow the log from here on.
    ///
    /// # Errors
    /// The thread cannot be started. What is wrong with the file is no error: it is made anew.
    pub fn start(dir: &Path, journal: &Journal) -> Result<Self, Error> {
        let (progress, seen) = watch::channel(Progress::default());
        let shared = Arc::new(Shared { table: Mutex::new(None), progress });
        let (stop, stopped) = watch::channel(());
        let worker = Worker {
            path: dir.join(FILE),
            log_id: journal.head().log_id,
            reader: journal.reader(),
            shared: Arc::clone(&shared),
        };
        let durable = journal.durable();
        let thread = std::thread::Builder::new()
            .name("proof-index".into())
            .spawn(move || worker.run(durable, stopped))
            .map_err(Error::Thread)?;
        let inner = Inner {
            shared,
            reader: journal.reader(),
            progress: seen,
            stop: Some(stop),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How far it is, now and whenever that changes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.inner.progress.clone()
    }

    /// Numbers of entries that may be wanted, among those that the index knows: up to `max` from `from` on, in order. With the
    /// last entry that the answer speaks about; `None` if there is no answer and the log has to be read through.
    #[must_use]
    pub fn after(&self, wanted: &Wanted, from: u64, max: usize) -> Option<(Vec<u64>, u64)> {
        self.ask(|table, upto| (from <= upto).then(|| table.after(wanted, from, upto, max)))
    }

    /// As [`Index::after`], before `before` and newest first.
    #[must_use]
    pub fn before(&self, wanted: &Wanted, before: u64, max: usize) -> Option<(Vec<u64>, u64)> {
        self.ask(|table, upto| {
            (before <= upto.saturating_add(1)).then(|| table.before(wanted, before, max))
        })
    }

    fn ask(
        &self,
        question: impl FnOnce(&mut Table, u64) -> Option<rusqlite::Result<Vec<u64>>>,
    ) -> Option<(Vec<u64>, u64)> {
        let shared = &self.inner.shared;
        let mut table = shared.lock();
        let upto = shared.progress.borrow().upto;
        let known = table.as_mut().filter(|_| upto > 0)?;
        let answer = match known.is_foreign() {
            Ok(false) => question(known, upto)?.map_err(Error::from),
            Ok(true) => Err(Error::Foreign),
            Err(error) => Err(error.into()),
        };
        match answer {
            Ok(numbers) => Some((numbers, upto)),
            Err(error) if !error.is_of_the_table() => {
                tracing::debug!(%error, "the log is read instead");
                None
            }
            Err(error) => {
                // The thread finds it gone and begins anew.
                tracing::warn!(%error, "the index of the proof log is thrown away");
                *table = None;
                shared.distrust();
                None
            }
        }
    }

    /// Compares every row with its entry. One that differs has the index thrown away and made anew. Lists are answered meanwhile.
    ///
    /// # Errors
    /// The log or the table cannot be read.
    pub fn compare(&self) -> Result<Compared, Error> {
        let shared = &self.inner.shared;
        let mut walk = Walk::new(&self.inner.reader);
        let upto = shared.progress.borrow().upto;
        loop {
            let mut table = shared.lock();
            let Some(known) = table.as_mut() else { return Ok(walk.compared) };
            if walk.step(known, upto)? {
                continue;
            }
            if walk.compared.difference.is_some() {
                *table = None;
                shared.distrust();
            }
            return Ok(walk.compared);
        }
    }
}

/// Compares the index in `dir` with the log beside it, whose server may be running: neither is touched.
///
/// # Errors
/// There is no index, or it cannot be read, or the log cannot.
pub fn compare_dir(dir: &Path) -> Result<Compared, Error> {
    let mut table = Table::look(&dir.join(FILE))?;
    let place = table.place()?;
    let mut compared = Compared { entries: 0, difference: None };
    let (mut batch, mut failed) = (Vec::new(), None);
    let (mut next, blobs) = (1, Blobs::of_log(dir));
    let mut check = |batch: &mut Vec<(u64, Facts)>, next: &mut u64| {
        if let (Some(last), true) =
            (batch.last().map(|(seq, _)| *seq), compared.difference.is_none())
        {
            match table.differ(*next, batch) {
                Ok(found) => compared.difference = found,
                Err(error) => failed = failed.take().or(Some(error)),
            }
            compared.entries = compared.entries.saturating_add(batch.len() as u64);
            *next = last.saturating_add(1);
        }
        batch.clear();
    };
    journal::read_dir(dir, &mut |seq, line| {
        if seq <= place.upto {
            batch.push((seq, Facts::of(&blobs, line)));
        }
        if batch.len() >= BATCH {
            check(&mut batch, &mut next);
        }
    })?;
    check(&mut batch, &mut next);
    if let Some(error) = failed {
        return Err(error.into());
    }
    if compared.difference.is_none() {
        compared.difference = table.beyond(next)?;
    }
    Ok(compared)
}

/// A comparison on its way through the log.
struct Walk<'a> {
    reader: &'a Reader,
    next: u64,
    compared: Compared,
}

impl<'a> Walk<'a> {
    fn new(reader: &'a Reader) -> Self {
        let compared = Compared { entries: 0, difference: None };
        Self { reader, next: reader.oldest_seq(), compared }
    }

    /// Compares some more entries up to `upto`; false at the end or at a difference.
    fn step(&mut self, table: &mut Table, upto: u64) -> Result<bool, Error> {
        if self.next > upto {
            // What was entered meanwhile is compared the next time.
            let end = table.place()?.upto.max(upto).saturating_add(1);
            self.compared.difference = table.beyond(end)?;
            return Ok(false);
        }
        let left = usize::try_from(upto - self.next).unwrap_or(BATCH).saturating_add(1);
        let entries = self.reader.read(self.next, left.min(BATCH), BATCH_BYTES)?;
        let Some(last) = entries.last().map(|entry| entry.seq) else { return Ok(false) };
        let known: Vec<_> =
            entries.iter().map(|e| (e.seq, Facts::of(self.reader.blobs(), &e.line))).collect();
        self.compared.difference = table.differ(self.next, &known)?;
        self.compared.entries = self.compared.entries.saturating_add(known.len() as u64);
        self.next = last.saturating_add(1);
        Ok(self.compared.difference.is_none())
    }
}

/// The thread that keeps the table in step with the log.
struct Worker {
    path: PathBuf,
    log_id: LogId,
    reader: Reader,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(self, mut durable: watch::Receiver<u64>, mut stopped: watch::Receiver<()>) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build()
        else {
            tracing::error!("the index of the proof log has no way to wait");
            return;
        };
        while let Err(error) = self.follow(&runtime, &mut durable, &mut stopped) {
            let anew = error.is_of_the_table();
            let then = if anew { "made anew" } else { "opened again" };
            tracing::warn!(%error, "the index of the proof log is {then}");
            self.shared.distrust();
            *self.shared.lock() = None;
            let again = matches!(error, Error::Differs(_) | Error::Foreign);
            let wait = if again { Duration::ZERO } else { RETRY };
            // What cannot be read is not read again at full speed.
            let over = runtime
                .block_on(async { tokio::time::timeout(wait, stopped.changed()).await.is_ok() });
            if over {
                return;
            }
            if anew {
                self.begin_anew();
            }
        }
    }

    fn begin_anew(&self) {
        Table::remove(&self.path);
        self.shared.progress.send_modify(|p| p.rebuilt = p.rebuilt.saturating_add(1));
    }

    /// Returns once the last handle is gone.
    fn follow(
        &self,
        runtime: &tokio::runtime::Runtime,
        durable: &mut watch::Receiver<u64>,
        stopped: &mut watch::Receiver<()>,
    ) -> Result<(), Error> {
        let gone = |stopped: &watch::Receiver<()>| stopped.has_changed().is_err();
        *self.shared.lock() = Some(self.open(&mut || !gone(stopped))?);
        while !gone(stopped) {
            durable.borrow_and_update();
            if self.enter()? {
                continue;
            }
            runtime.block_on(async {
                let gathered = async {
                    let _ = durable.changed().await;
                    tokio::time::sleep(GATHER).await;
                };
                tokio::select! {
                    () = gathered => {}
                    _ = stopped.changed() => {}
                }
            });
        }
        Ok(())
    }

    /// The table of this log, every row of which is as the log has it.
    fn open(&self, go_on: &mut dyn FnMut() -> bool) -> Result<Table, Error> {
        let made = || {
            if self.path.exists() {
                tracing::info!(path = %self.path.display(), "the index is not of this log");
                self.begin_anew();
            }
            Table::make(&self.path, self.log_id)
        };
        let mut table = match Table::open(&self.path, self.log_id) {
            Ok(Some(table)) => table,
            Err(error) if !spoiled(&error) => return Err(error.into()),
            Ok(None) | Err(_) => made()?,
        };
        let (place, durable) = (table.place()?, self.reader.durable_seq());
        let head = self.leaf(place.upto)?;
        // An index of a log that was set back knows entries that are not there any more.
        if place.upto > durable || head.is_some_and(|head| head != place.head) {
            drop(table);
            table = made()?;
        }
        table.forget_before(self.reader.oldest_seq())?;
        let (mut walk, upto) = (Walk::new(&self.reader), table.place()?.upto);
        while go_on() && walk.step(&mut table, upto)? {}
        walk.compared.difference.map_or(Ok(table), |difference| Err(Error::Differs(difference)))
    }

    /// Leaf hash of an entry; `None` if it is not kept.
    fn leaf(&self, seq: u64) -> Result<Option<Hash>, Error> {
        if seq == 0 {
            return Ok(Some(GENESIS));
        }
        if seq < self.reader.oldest_seq() {
            return Ok(None);
        }
        let found = self.reader.read(seq, 1, 1)?;
        Ok(found.first().map(|entry| leaf_hash(&entry.line)))
    }

    /// Enters the next entries; false if there are none.
    fn enter(&self) -> Result<bool, Error> {
        let table = self.shared.lock();
        // An answer that could not be given has it thrown away.
        let place = table.as_ref().ok_or(Error::Foreign)?.place()?;
        let next = place.upto.saturating_add(1).max(self.reader.oldest_seq());
        // Read without holding anybody up.
        drop(table);
        let entries = self.reader.read(next, BATCH, BATCH_BYTES)?;
        let (Some(last), facts) = (
            entries.last(),
            entries
                .iter()
                .map(|e| (e.seq, Facts::of(self.reader.blobs(), &e.line)))
                .collect::<Vec<_>>(),
        ) else {
            return Ok(self.announce(place.upto, false));
        };
        let place = Place { upto: last.seq, head: leaf_hash(&last.line) };
        let mut table = self.shared.lock();
        let known = table.as_mut().ok_or(Error::Foreign)?;
        if known.is_foreign()? {
            return Err(Error::Foreign);
        }
        known.enter(&facts, place)?;
        Ok(self.announce(place.upto, true))
    }

    fn announce(&self, upto: u64, more: bool) -> bool {
        self.shared.progress.send_if_modified(|p| std::mem::replace(&mut p.upto, upto) != upto);
        more
    }
}

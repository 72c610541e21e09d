//! The proof log on disk: append-only segments of hash-chained records, durable before they are acknowledged.
//!
//! ```text
//! <dir>/meta.json                     identity and format of the log
//! <dir>/LOCK                          held by the one process that may write
//! <dir>/wal/<first seq, 20 digits>.seg
//! <dir>/wal/<number>.spare            a segment made ready: new, or one whose records are no longer kept
//! <dir>/wal/HEAD                      the last record known to be durable
//! <dir>/wal/CUT                       what was cut and no record tells of yet
//! ```
//!
//! The agent loop is the only writer. It hands over complete JSON lines; a line is a record and, later, a leaf of the Merkle
//! tree. One thread of the operating system drains all that is queued, writes it with one `pwrite` into space that was zeroed
//! beforehand, syncs once, and only then acknowledges. There is no timer: the sync is the batch window.
//!
//! What happens after a crash or a fault:
//! * a group that was never acknowledged and is not whole is cut ([`Torn`]), and whoever writes the next records says so
//!   ([`Journal::untold_cut`]): also if the next crash comes before that;
//! * acknowledged records that are altered or gone are [`Damage`]: the log opens for reading what stands before them;
//! * an error *before* the sync (no space, a disk that became read-only, a write that failed) makes the journal
//!   [`Status::Unwritable`]: nothing is acted on, reads go on, and [`Journal::try_recover`] opens the file afresh, re-reads it, cuts
//!   what was not acknowledged and rewrites the tail;
//! * an error *of* a sync ends the process: the kernel may have dropped the pages and report success next time (Rebello et al.,
//!   USENIX ATC 2020), so nothing that is seen from here tells what the disk holds. Nothing that waits is acknowledged; the next
//!   start reads the log, cuts what is torn, and writes the tail into fresh pages and syncs it before it trusts it.

mod check;
mod cut;
mod directory;
mod frame;
mod group;
mod head;
mod index;
mod reader;
mod scan;
mod segment;
mod spare;
mod store;
mod types;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use agentd_core::chain::{Hash, LINE_BYTES_MAX};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::blobs::Blobs;
use crate::failpoint;
use check::Check;
use directory::Directory;
use head::HeadMark;
use index::Shared;
pub use reader::{Entry, READ_ENTRIES_MAX, Reader};
use spare::Spares;
use store::Store;
pub(crate) use store::{
    NotReplaced, end_process, make_dir, replace_file, sync_parent, try_replace_file,
};
pub use types::{Damage, Durable, Error, Head, LogId, Recovery, Start, Status, Torn};
pub use verify::{Verified, read_dir, verify_dir};
use writer::{Append, Command, Writer};

/// Most bytes of lines in one append.
pub const APPEND_BYTES_MAX: usize = 4 << 20;
/// Most lines in one append.
pub const APPEND_LINES_MAX: usize = 16_384;
/// Appends that may wait for the disk; more wait for room in the queue.
const QUEUE_LEN: usize = 256;
/// Bytes of lines that may wait for the disk.
const QUEUE_BYTES: usize = 32 << 20;
/// A longer file in place of a segment is refused instead of being read into memory.
const SEGMENT_FILE_BYTES_MAX: u64 = 256 << 20;
const HEAD_FILE: &str = "HEAD";

/// Where the log lives and how it uses the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Directory of the log; made (mode 0700) if missing.
    pub dir: PathBuf,
    /// A segment that would grow beyond this is closed and the next one begun. From 4 KiB to 128 MiB.
    pub segment_bytes: u64,
    /// How far ahead of the records the file is zeroed, so that a sync has no metadata to write.
    pub zero_ahead_bytes: u64,
    /// Zeroed space that only [`Journal::append_reserved`] may use once the disk is full.
    pub reserve_bytes: u64,
    /// In this time one closed segment is read again and checked.
    pub check_every: Duration,
}

impl Config {
    /// The usual sizes: segments of 16 MiB, zeroed as a whole when they are begun, 1 MiB in reserve. Zeroed bit by bit instead, one
    /// append in twenty of a busy log would wait for zeros.
    #[must_use]
    pub const fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            segment_bytes: 16 << 20,
            zero_ahead_bytes: 16 << 20,
            reserve_bytes: 1 << 20,
            check_every: Duration::from_secs(3600),
        }
    }

    fn clamped(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(4 << 10, 128 << 20);
        self.zero_ahead_bytes = self.zero_ahead_bytes.clamp(4 << 10, 16 << 20);
        self.reserve_bytes = self.reserve_bytes.min(64 << 20);
        self
    }
}

/// An open log.
#[derive(Debug)]
pub struct Opened {
    /// Handle for appending and reading.
    pub journal: Journal,
    /// Where the next record goes.
    pub head: Head,
    /// What was found.
    pub recovery: Recovery,
}

/// Opens the log in `config.dir`, making it where there is none, and hands every record in order to `replay`.
///
/// A damaged log opens too: what stands before the damage is replayed and can be read, appends are refused. A log on a disk
/// that cannot be written opens as [`Status::Unwritable`].
///
/// # Errors
/// Another process holds the log ([`Error::Locked`]); it was written by a later version ([`Error::Version`]); its identity is
/// missing beside existing segments ([`Error::Identity`]); reading fails ([`Error::Io`]).
pub fn open(config: Config, replay: &mut dyn FnMut(u64, &[u8])) -> Result<Opened, Error> {
    open_hashed(config, Start::First, &mut |seq, _, line| replay(seq, line))
}

/// As [`open`], from `start` on, and hands out the leaf hash of each record too, which was computed anyway.
///
/// # Errors
/// As [`open`], and [`Error::Start`].
pub fn open_hashed(
    config: Config,
    start: Start,
    replay: &mut dyn FnMut(u64, Hash, &[u8]),
) -> Result<Opened, Error> {
    let config = config.clamped();
    let directory = Directory::open(&config.dir)?;
    let log_id = directory.log_id;
    let store = Arc::clone(&directory.segments);
    open_store(config, store, (log_id, start), Some(directory), replay)
}

/// The part of [`open`] that does not know what the segments are stored in. `directory` is held as long as the writer lives.
fn open_store(
    config: Config,
    store: Arc<dyn Store>,
    (log_id, start): (LogId, Start),
    directory: Option<Directory>,
    replay: &mut dyn FnMut(u64, Hash, &[u8]),
) -> Result<Opened, Error> {
    let mark = HeadMark::load(store.as_ref());
    let scan = scan::scan_log(store.as_ref(), (log_id, start), mark, replay)?;
    let head = Head { log_id, next_seq: scan.chain.next_seq(), hash: scan.chain.head() };
    let oldest = scan.segments.first().map_or(1, |first| first.first_seq);
    let entries = head.next_seq.saturating_sub(oldest);
    let recovery = Recovery { entries, torn: scan.torn.clone(), damage: scan.damage.clone() };
    let status = match &scan.damage {
        Some(damage) => Status::Damaged(damage.clone()),
        None => Status::Writable,
    };
    let whole = config.segment_bytes.saturating_add(config.reserve_bytes);
    let spares = Spares::new(Arc::clone(&store), whole);
    let shared = Arc::new(Shared::new(store, spares, log_id, &scan, status));
    let (dir, check_every) = (config.dir.clone(), config.check_every);
    let mut writer = Writer::new(config, Arc::clone(&shared), &scan);
    let mut makes_spares = None;
    if directory.is_some() {
        let (want, wanted) = sync_channel(1);
        writer = writer.with_spares(want);
        makes_spares = Some(make_spares(Arc::clone(&shared), wanted)?);
    }
    if scan.damage.is_none() {
        // A failure here shows in the status; the log can be read all the same.
        let _ = writer.start();
    }
    let blobs = Arc::new(Blobs::of_log(&dir));
    let (queue, commands) = mpsc::channel(QUEUE_LEN);
    let thread = std::thread::Builder::new()
        .name("journal".into())
        .spawn(move || {
            let _held = directory;
            writer.run(commands);
            // The lock is held until nothing writes to the directory.
            if let Some((thread, shared)) = makes_spares {
                shared.spares.stop();
                let _ = thread.join();
            }
        })
        .map_err(|e| Error::io("start", "the journal thread", e))?;
    let inner = Inner {
        queue: tokio::sync::Mutex::new(Some(queue)),
        room: Arc::new(Semaphore::new(QUEUE_BYTES)),
        thread: Mutex::new(Some(thread)),
        check: Mutex::new(Some(Check::start(Arc::clone(&shared), check_every)?)),
        shared,
        blobs,
        dir,
    };
    Ok(Opened { journal: Journal { inner: Arc::new(inner) }, head, recovery })
}

/// The thread that makes segments ready, and what tells it to stop; it ends when the writer does.
fn make_spares(
    shared: Arc<Shared>,
    wanted: Receiver<()>,
) -> Result<(JoinHandle<()>, Arc<Shared>), Error> {
    let held = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("journal-spare".into())
        .spawn(move || shared.spares.run(&wanted))
        .map_err(|e| Error::io("start", "the thread that makes segments ready", e))?;
    Ok((thread, held))
}

/// Handle to an open log; clones share it. The log is closed and its lock released when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` while the journal is being closed. The lock is fair: first come, first served.
    queue: tokio::sync::Mutex<Option<mpsc::Sender<Command>>>,
    room: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
    check: Mutex<Option<Check>>,
    shared: Arc<Shared>,
    blobs: Arc<Blobs>,
    dir: PathBuf,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The thread ends when the queue does; waiting for it means that whoever opens the log next finds it unlocked.
        self.queue.get_mut().take();
        self.shared.close();
        drop(self.check.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the journal panicked");
        }
    }
}

impl Journal {
    /// Appends `lines` as the records from `first_seq` on, all or none, and returns once they are durable.
    ///
    /// Calls may overlap; they are served in the order in which their futures are first polled. Dropping the future does not
    /// take the lines back.
    ///
    /// # Errors
    /// Nothing was appended, and as far as this process is concerned nothing will be: the lines do not continue the log
    /// ([`Error::OutOfOrder`], [`Error::Chain`]), are too large, or the log is unwritable or damaged. After a failed sync the
    /// records may still turn up at the next start, complete and in order.
    pub async fn append(&self, first_seq: u64, lines: Vec<Bytes>) -> Result<Durable, Error> {
        self.submit(first_seq, lines, false).await
    }

    /// As [`Journal::append`], and may use the reserve when the disk is full: for the outcome of what is already under way.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub async fn append_reserved(
        &self,
        first_seq: u64,
        lines: Vec<Bytes>,
    ) -> Result<Durable, Error> {
        self.submit(first_seq, lines, true).await
    }

    async fn submit(
        &self,
        first_seq: u64,
        lines: Vec<Bytes>,
        reserve: bool,
    ) -> Result<Durable, Error> {
        let bytes = check_size(first_seq, &lines)?;
        match self.status() {
            Status::Damaged(damage) => return Err(Error::Damaged(damage)),
            Status::Unwritable { reason } if !reserve => return Err(Error::Unwritable { reason }),
            Status::Unwritable { .. } | Status::Writable => {}
        }
        let (reply, answer) = oneshot::channel();
        let share = u32::try_from(bytes).unwrap_or(u32::MAX);
        {
            // Held until the command is queued, so that callers cannot overtake each other at either limit.
            let queue = self.inner.queue.lock().await;
            let queue = queue.as_ref().ok_or(Error::Closed)?;
            let room = Arc::clone(&self.inner.room).acquire_many_owned(share).await;
            let _room = room.map_err(|_closed| Error::Closed)?;
            let append = Append { first_seq, lines, reserve, reply, _room };
            queue.send(Command::Append(append)).await.map_err(|_closed| Error::Closed)?;
        }
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Tries to make an unwritable log writable again: opens the file afresh, cuts what was not acknowledged, rewrites the
    /// tail and claims the space it needs. Cheap if the log is writable. Call it about once a second.
    ///
    /// # Errors
    /// Why the log is still not writable.
    pub async fn try_recover(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        {
            let queue = self.inner.queue.lock().await;
            let queue = queue.as_ref().ok_or(Error::Closed)?;
            queue.send(Command::Recover(reply)).await.map_err(|_closed| Error::Closed)?;
        }
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// The last durable record, now and whenever it changes.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.inner.shared.durable()
    }

    /// Where the next record goes, counting only what is durable.
    #[must_use]
    pub fn head(&self) -> Head {
        self.inner.shared.head()
    }

    /// Whether records can be appended.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.shared.status()
    }

    /// The status, now and whenever it changes.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.inner.shared.watch_status()
    }

    /// Bytes that were cut off the log, now or at an earlier start, without a record that says so: a `LOG_RECOVERED` record is to be
    /// written, and once one is durable there is nothing to be told.
    #[must_use]
    pub fn untold_cut(&self) -> Option<u64> {
        self.inner.shared.cuts().untold().map(cut::Cut::bytes)
    }

    /// Reads durable records.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.inner.shared), Arc::clone(&self.inner.blobs))
    }

    /// What is too long for a line, beside the log.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// From here on no record below `before` is read, although all of them are there: what they name may go.
    pub fn conceal(&self, before: u64) {
        self.inner.shared.conceal(before);
    }

    /// Gives up the records below `before`: from here on none of them is read, and the segments that hold nothing else become
    /// segments to come. Whoever calls this has made sure that the next start knows where the log begins now. Answers with how
    /// many segments there were.
    ///
    /// # Errors
    /// [`Error::Io`]: some of the files are there still.
    pub fn release(&self, before: u64) -> Result<usize, Error> {
        let shared = &self.inner.shared;
        let released = shared.release(before);
        for first_seq in &released {
            failpoint::hit("journal.release").map_err(|e| Error::io("release", "a segment", e))?;
            shared.spares.retire(*first_seq).map_err(|e| Error::io("release", "a segment", e))?;
        }
        Ok(released.len())
    }

    /// Lets nothing be appended until [`Journal::try_recover`]: what depends on the records could not be had of them.
    pub fn hold(&self, reason: String) {
        self.inner.shared.set_status(Status::Unwritable { reason });
    }

    /// Takes note that the records are not those that were promised elsewhere: nothing is appended from here on.
    pub fn distrust(&self, damage: Damage) {
        let _ = self.inner.shared.damaged(damage);
    }

    /// Re-reads every durable record: checksums, leaf hashes, links, numbers. Blocks for the time of reading the whole log.
    /// Damage found here makes the log refuse appends, as it would after a restart.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the first bad record; [`Error::Io`] if a segment cannot be read.
    pub fn verify(&self) -> Result<Verified, Error> {
        verify::verify_live(&self.inner.shared)
    }
}

fn check_size(first_seq: u64, lines: &[Bytes]) -> Result<usize, Error> {
    if lines.is_empty() {
        return Err(Error::Empty);
    }
    let mut total = 0usize;
    for (seq, line) in (first_seq..).zip(lines) {
        if line.len() > LINE_BYTES_MAX {
            return Err(Error::LineTooLong { seq, bytes: line.len() });
        }
        total = total.saturating_add(line.len());
    }
    if lines.len() > APPEND_LINES_MAX || total > APPEND_BYTES_MAX {
        return Err(Error::AppendTooLarge { lines: lines.len(), bytes: total });
    }
    Ok(total)
}

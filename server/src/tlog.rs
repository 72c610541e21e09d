//! The proof log as a transparency log on disk: everything here is derived from the segments of [`crate::journal`], off the
//! path of an acknowledgement, on a thread of its own.
//!
//! ```text
//! <data dir>/proof.key        what the log signs with, mode 0600; its name is the origin of the log
//! <data dir>/proof/
//!   log.vkey                  the public half, to hand out
//!   log/                      the records as plain lines, for grep and jq; the file that grows is also called `proof.jsonl`
//!   hash/<level>              hash tiles, flat: tile N of a level is the bytes from N * 8192 on
//!   checkpoint                the last signed checkpoint
//! ```
//!
//! Three watermarks: *durable* (acknowledged, in the journal) >= *integrated* (lines and hashes written) >= *published* (synced
//! and signed). A checkpoint is made every second in which the log grew, and on demand. A record beyond the durable end is never
//! integrated, so a size that was signed is found again after every crash.
//!
//! Lines, hashes and public key are rebuilt from the segments where they are missing or do not fit. What cannot be derived is
//! what was *promised*: a checkpoint, here or in a copy of it on a second path ([`Config::anchor`]) or in Redis, that the segments
//! do not lead to means that an old backup was restored or that history was rewritten. Such a log is damaged: it is read, and
//! nothing is done.

mod claims;
mod copies;
mod elsewhere;
mod files;
mod key;
mod lines;
pub mod rotate;
mod signers;
#[cfg(test)]
mod tests;
mod tiles;
mod witness;
mod worker;

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use agentd_core::chain::Hash;
use agentd_core::snapshot::Snapshot;
use agentd_core::tlog::policy::Policy;
use agentd_core::tlog::tile::{self, Kind, Tile};
use agentd_core::tlog::{Checkpoint, Note, VerifierKey, tree};
use bytes::Bytes;
use tokio::sync::watch;

use crate::bus::Address;
use crate::journal::{self, Journal, LogId, READ_ENTRIES_MAX, Reader};
use crate::snapshot::{Found, Snapshots};

use claims::Claims;
pub use copies::{LineDiffers, PlainLines};
use files::HashFiles;
use signers::Signers;
use tiles::Tiles;
pub use witness::Error as WitnessError;
use witness::Witnesses;

/// Name of the file with the key in a data directory.
pub const KEY_FILE: &str = "proof.key";

/// Where the parts of a log lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Directory of the log, beside its segments.
    pub dir: PathBuf,
    /// File with the key; made at the first start.
    pub key: PathBuf,
    /// A second copy of each checkpoint, on another disk or host: what shows that an old backup was restored.
    pub anchor: Option<PathBuf>,
    /// A Redis that keeps a copy too, as far as it can be reached.
    pub redis: Option<Address>,
    /// Who cosigns each checkpoint before it is shown, and how many of them have to.
    pub witnesses: Option<Policy>,
    /// How long a witness that failed is left alone at first.
    pub witness_rest: Duration,
    /// Environment, which is part of the origin.
    pub env: &'static str,
    /// Longest time from a record to the checkpoint over it.
    pub interval: Duration,
    /// Plain lines of so many bytes are sealed and compressed.
    pub seal_bytes: u64,
}

impl Config {
    /// The log in `data_dir`, with a checkpoint every second.
    #[must_use]
    pub fn new(data_dir: &std::path::Path, env: &'static str) -> Self {
        Self {
            dir: data_dir.join("proof"),
            key: data_dir.join(KEY_FILE),
            anchor: None,
            redis: None,
            witnesses: None,
            witness_rest: Duration::from_secs(30),
            env,
            interval: Duration::from_secs(1),
            seal_bytes: 64 << 20,
        }
    }

    /// The log in `data_dir`, with a checkpoint at the start and when one is asked for: for tests that alter files meanwhile.
    #[cfg(test)]
    pub(crate) fn on_demand(data_dir: &std::path::Path) -> Self {
        Self { interval: Duration::from_secs(3600), ..Self::new(data_dir, "stage") }
    }

    fn checkpoint(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }

    /// Name of a log that is given none: no two logs share it.
    fn origin(&self, log_id: LogId) -> String {
        format!("agentctl.dev/{}/{log_id}", self.env)
    }
}

/// Why a log cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The segments cannot be opened.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// A file cannot be read or written.
    #[error("cannot {verb} `{}`", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read the key.
    #[error(
        "the key of the proof log, `{0}`, is accessible to others (mode {1:04o}), run `chmod 600 {0}`",
        path.display(), mode
    )]
    Permissions {
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is none.
    #[error("cannot use the key of the proof log, `{}`", path.display())]
    Key {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: agentd_core::tlog::note::Error,
    },
    /// There is a checkpoint and no key.
    #[error(
        "the key of the proof log, `{}`, is missing beside a signed checkpoint: restore it from a backup, or move `{}` away \
         to begin a new identity that nobody knows yet", key.display(), checkpoint.display()
    )]
    KeyLost {
        /// Where the key should be.
        key: PathBuf,
        /// What it signed.
        checkpoint: PathBuf,
    },
    /// A checkpoint is there and not signed by the key.
    #[error("the checkpoint in `{}` cannot be used", path.display())]
    Checkpoint {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: agentd_core::tlog::checkpoint::Error,
    },
    /// The witnesses cannot be asked.
    #[error("cannot use the witnesses of the proof log")]
    Witnesses(#[from] WitnessError),
    /// The snapshot to go on from is not one of this log as it is.
    #[error("the snapshot of the state after record {seq} cannot be used: {why}")]
    Snapshot {
        /// The last record in it.
        seq: u64,
        /// Why.
        why: &'static str,
    },
    /// There is no randomness to make a key of.
    #[error("cannot make a key for the proof log: {0}")]
    Random(getrandom::Error),
}

impl Error {
    /// Whether another snapshot, or none, may do.
    #[must_use]
    pub const fn is_of_the_snapshot(&self) -> bool {
        matches!(self, Self::Snapshot { .. } | Self::Journal(journal::Error::Start { .. }))
    }

    fn io(verb: &'static str, path: &std::path::Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { verb, path: path.to_owned(), source }
    }
}

/// A checkpoint that was signed and is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// The signed note.
    pub note: Note,
}

/// How far the log is published.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The last checkpoint.
    pub published: Option<Arc<Published>>,
    /// Records whose lines and hashes are written.
    pub integrated: u64,
    /// Why the last attempt to publish failed, if it did. The agent goes on; it is tried again every second.
    pub failed: Option<String>,
    attempts: u64,
}

impl Progress {
    /// Entries that the last checkpoint covers.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.published.as_ref().map_or(0, |published| published.checkpoint.size)
    }
}

/// A log that is published as it grows; clones share it. The last one to be dropped publishes what is left.
#[derive(Debug, Clone)]
pub struct Tlog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// One request is as good as many.
    requests: Mutex<Option<SyncSender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    progress: watch::Receiver<Progress>,
    key: VerifierKey,
    dir: PathBuf,
    tiles: Arc<Tiles>,
    reader: Reader,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.requests.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that publishes the proof log panicked");
        }
    }
}

/// Why there is no checkpoint over a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the proof log cannot be published: {0}")]
pub struct Unpublished(String);

/// Opens the journal as [`journal::open`] does, and publishes it from here on. If its records do not lead to what was promised
/// earlier, the journal is told that it is damaged: it can be read, and nothing more is appended.
///
/// # Errors
/// The journal cannot be opened, or what belongs to its identity (key, checkpoint) cannot be used.
pub fn open(
    config: Config,
    segments: journal::Config,
    replay: &mut dyn FnMut(u64, &[u8]),
) -> Result<(journal::Opened, Tlog), Error> {
    for found in Snapshots::of_log(&config.dir).all().map(Some).chain([None]) {
        match open_from(config.clone(), segments.clone(), found.as_ref(), replay) {
            Err(error) if found.is_some() && error.is_of_the_snapshot() => {
                tracing::warn!(%error, "tried another way");
            }
            other => return other,
        }
    }
    // The last attempt was without a snapshot, so it ended one way or the other.
    Err(journal::Error::Closed.into())
}

/// As [`open`], behind a snapshot of the state, or with the oldest record. Where that is not the first one there is nothing that says
/// what the log was: it is damaged then.
///
/// # Errors
/// As [`open`], and what [`Error::is_of_the_snapshot`] is about; the records that `replay` was given count for nothing then.
pub fn open_from(
    config: Config,
    segments: journal::Config,
    from: Option<&Found>,
    replay: &mut dyn FnMut(u64, &[u8]),
) -> Result<(journal::Opened, Tlog), Error> {
    let rest = config.witness_rest;
    let witnesses = config.witnesses.as_ref().map(|policy| Witnesses::new(policy, rest));
    let witnesses = witnesses.transpose()?;
    let mut claims = Claims::load(&config)?;
    let (mut begin, mut named) = (journal::Start::Kept, false);
    if let Some(Found { snapshot, .. }) = from {
        let Snapshot { seq, hash, root, .. } = *snapshot;
        begin = journal::Start::Behind { seq, hash };
        let known = claims.behind(&config.dir, seq, root);
        claims =
            known.ok_or(Error::Snapshot { seq, why: "the stored hashes do not lead to it" })?;
    }
    let opened = journal::open_hashed(segments, begin, &mut |seq, leaf, line| {
        named = named || from.is_some_and(|found| found.is_named_by(line));
        claims.entry(leaf);
        replay(seq, line);
    })?;
    if let Some(Found { snapshot, .. }) = from.filter(|_| !named) {
        return Err(Error::Snapshot { seq: snapshot.seq, why: "no record names it" });
    }
    let oldest = opened.journal.reader().oldest_seq();
    if from.is_none() && oldest > 1 {
        opened.journal.distrust(journal::Damage {
            seq: 1,
            segment: crate::snapshot::DIR.to_owned(),
            offset: 0,
            why: format!(
                "the log begins with record {oldest}, and no snapshot of the state before it can be used"
            ),
        });
    }
    let tlog = start(config, claims, witnesses, &opened.journal)?;
    Ok((opened, tlog))
}

fn start(
    config: Config,
    claims: Claims,
    witnesses: Option<Witnesses>,
    journal: &Journal,
) -> Result<Tlog, Error> {
    let key = match claims.key() {
        Some(key) => key.clone(),
        None => key::generate(&config.key, &config.origin(journal.head().log_id))?,
    };
    let verifier = key.verifier();
    let signers = Signers::new(key, journal.reader());
    let base = claims.settle(journal, &config, &signers)?;
    let (progress, seen) = watch::channel(Progress {
        published: base.published.clone().map(Arc::new),
        ..Progress::default()
    });
    let (requests, inbox) = sync_channel(1);
    let dir = config.dir.clone();
    let reader = journal.reader();
    let tiles = Arc::new(Tiles::new(&dir));
    let kept = Arc::clone(&tiles);
    let worker = worker::Worker::new(config, signers, journal.clone(), base, kept, progress);
    let worker = worker.with_witnesses(witnesses);
    let thread = std::thread::Builder::new()
        .name("proof-tree".into())
        .spawn(move || worker.run(&inbox))
        .map_err(Error::io("start the thread that publishes", &dir))?;
    let inner = Inner {
        requests: Mutex::new(Some(requests)),
        thread: Mutex::new(Some(thread)),
        progress: seen,
        key: verifier,
        dir,
        tiles,
        reader,
    };
    Ok(Tlog { inner: Arc::new(inner) })
}

/// The tree over the first `size` records of the log in `dir`, as its stored hashes have it: for whoever checks what is kept of it.
///
/// # Errors
/// There are not so many hashes.
pub fn stored_tree(dir: &std::path::Path, size: u64) -> io::Result<tree::Frontier> {
    let mut files = HashFiles::new(dir);
    tree::Frontier::load(size, &mut |node| files.node(node))
}

/// Removes the plain lines of records below `before` from the log in `dir`, file by file.
///
/// # Errors
/// The disk.
pub fn prune_lines(dir: &std::path::Path, before: u64) -> io::Result<()> {
    lines::prune(dir, before)
}

/// How many files of plain lines the log in `dir` has, and how many of them are sealed and compressed.
#[must_use]
pub fn count_lines(dir: &std::path::Path) -> (u64, u64) {
    lines::count(dir)
}

/// A tile or proof that cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The derived hashes cannot be read.
    #[error("cannot read the hashes of the proof log")]
    Hashes(#[from] io::Error),
    /// The records cannot be read.
    #[error(transparent)]
    Journal(#[from] journal::Error),
}

impl Tlog {
    /// The public key of the log.
    #[must_use]
    pub fn key(&self) -> &VerifierKey {
        &self.inner.key
    }

    /// How far it is published, now and whenever that changes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.inner.progress.clone()
    }

    /// The last checkpoint that was made.
    #[must_use]
    pub fn published(&self) -> Option<Arc<Published>> {
        self.inner.progress.borrow().published.clone()
    }

    /// A checkpoint over at least `size` entries, made at once if there is none yet.
    ///
    /// # Errors
    /// It was tried and did not work, or so many entries are not durable.
    pub async fn publish(&self, size: u64) -> Result<Arc<Published>, Unpublished> {
        let mut progress = self.progress();
        // An attempt in progress may have begun before the record was durable: the one after it counts.
        for _ in 0..2 {
            let attempts = progress.borrow().attempts;
            let covered = |now: &Progress| now.published.is_some() && now.size() >= size;
            if !covered(&progress.borrow()) {
                self.ask();
            }
            let now = progress.wait_for(|now| covered(now) || now.attempts != attempts).await;
            let now = now.map_err(|_closed| Unpublished("it is being closed".to_owned()))?;
            if let Some(published) = now.published.as_ref().filter(|_| covered(&now)) {
                return Ok(Arc::clone(published));
            }
        }
        let now = progress.borrow();
        let missing = || format!("it has {} durable records, not {size}", now.size());
        Err(Unpublished(now.failed.clone().unwrap_or_else(missing)))
    }

    /// A checkpoint over everything that is durable now.
    ///
    /// # Errors
    /// As [`Tlog::publish`].
    pub async fn publish_all(&self) -> Result<Arc<Published>, Unpublished> {
        self.publish(self.inner.reader.durable_seq()).await
    }

    /// Asks for a checkpoint over what is durable, without waiting for it.
    pub fn ask(&self) {
        let requests = self.inner.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = requests.as_ref() {
            // Full means that one is about to be made.
            let _ = requests.try_send(());
        }
    }

    /// The bytes of a tile; `None` if the last checkpoint does not cover all of it. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// The disk, or damage.
    pub fn tile(&self, tile: Tile) -> Result<Option<Bytes>, ReadError> {
        let size = self.inner.progress.borrow().size();
        if !tile.is_in(size) {
            return Ok(None);
        }
        match tile.kind() {
            Kind::Hashes(level) => {
                let mut files = HashFiles::new(&self.inner.dir);
                Ok(Some(files.read(level, tile.first(), tile.width())?.into()))
            }
            Kind::Entries => self.bundle(tile).map(Some),
        }
    }

    fn bundle(&self, tile: Tile) -> Result<Bytes, ReadError> {
        let (mut bundle, mut next) = (Vec::new(), tile.first().saturating_add(1));
        let end = next.saturating_add(tile.width());
        while next < end {
            let wanted = usize::try_from(end - next).unwrap_or(READ_ENTRIES_MAX);
            let entries = self.inner.reader.read(next, wanted, usize::MAX)?;
            if entries.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            for entry in entries {
                // INVARIANT: the chain refuses longer lines, so none is left out.
                let _fits = tile::push_entry(&mut bundle, &entry.line);
                next = entry.seq.saturating_add(1);
            }
        }
        Ok(bundle.into())
    }

    /// The leaf hashes of `count` records from `first` (a sequence number) on, 32 bytes each: also of those that are pruned.
    ///
    /// # Errors
    /// The disk, or the tree does not have so many.
    pub fn leaf_hashes(&self, first: u64, count: u64) -> io::Result<Vec<u8>> {
        HashFiles::new(&self.inner.dir).read(0, first.saturating_sub(1), count)
    }

    /// What proves leaf `index` in the tree of `size` leaves; `None` if there is no such leaf, or no checkpoint that large.
    ///
    /// # Errors
    /// The disk.
    pub fn inclusion(&self, index: u64, size: u64) -> io::Result<Option<Vec<Hash>>> {
        self.hashes(tree::inclusion(index, size), size)
    }

    /// What proves that the tree of `old` leaves is the beginning of the one of `new` leaves; `None` if the new one is smaller, or
    /// there is no checkpoint that large.
    ///
    /// # Errors
    /// The disk.
    pub fn consistency(&self, old: u64, new: u64) -> io::Result<Option<Vec<Hash>>> {
        self.hashes(tree::consistency(old, new), new)
    }

    /// The root of the tree of `size` leaves; `None` if there is no checkpoint that large.
    ///
    /// # Errors
    /// The disk.
    pub fn root(&self, size: u64) -> io::Result<Option<Hash>> {
        let whole = vec![tree::Span { from: 0, to: size }];
        Ok(self.hashes(Some(whole), size)?.and_then(|roots| roots.first().copied()))
    }

    fn hashes(&self, spans: Option<Vec<tree::Span>>, size: u64) -> io::Result<Option<Vec<Hash>>> {
        let published = self.inner.progress.borrow().size();
        let Some(spans) = spans.filter(|_| size <= published) else { return Ok(None) };
        tree::resolve(&spans, &mut |node| self.inner.tiles.node(node, published)).map(Some)
    }
}

//! Snapshots of the state beside the log: a start goes on from the newest one instead of from the first record.
//!
//! ```text
//! <data dir>/proof/state/<last record in it, 20 digits>.json
//! ```
//!
//! A file is durable before the record that carries its digest (`STATE_SNAPSHOT`), and the records it stands for are under a signed
//! checkpoint before it is written. What a start needs of it, in this order: the file can be read and is of this version; the log goes on
//! behind the very record it ends with; the tree over what is in it has the root that it says; a record behind it carries its digest. Where
//! one of these is not so, the older snapshot is tried, and then the log is read from its first record. If that is pruned, nothing of what
//! the log was is known for certain: it is damaged, reads go on and nothing is done.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use agentd_core::app::Env;
use agentd_core::chain::Hash;
use agentd_core::record::{Body, Detached, Record, Snapshotted};
use agentd_core::replay::Replay;
use agentd_core::snapshot::{self, Snapshot};

use crate::journal::{self, Damage, Journal, Reader, make_dir, replace_file};
use crate::tlog;
use crate::{blobs, failpoint};

mod take;
#[cfg(test)]
mod tests;

pub use take::{Error, Taker};

/// Name of the directory in the directory of the log.
pub const DIR: &str = "state";
/// Files that are kept: the second newest is there in case that the newest is not what it should be.
const KEPT: usize = 2;
/// A longer file is none of ours.
const BYTES_MAX: u64 = 1 << 30;

/// The files of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshots {
    dir: PathBuf,
}

/// A snapshot as it lies on disk. Whether it counts, the log says: see [`Found::is_named_by`].
#[derive(Debug, Clone)]
pub struct Found {
    /// What it says.
    pub snapshot: Snapshot,
    sha256: Hash,
}

impl Found {
    /// Whether the line is the record that vouches for it.
    #[must_use]
    pub fn is_named_by(&self, line: &[u8]) -> bool {
        const EVENT: &[u8] = br#"{"event_name":"STATE_SNAPSHOT""#;
        let record = line.starts_with(EVENT).then(|| Record::parse(line).ok()).flatten();
        record.is_some_and(|record| match record.body {
            Body::Snapshotted(named) => {
                (named.upto, named.sha256, named.root)
                    == (self.snapshot.seq, self.sha256, self.snapshot.root)
            }
            _ => false,
        })
    }
}

impl Snapshots {
    /// Those of the log in `dir`.
    #[must_use]
    pub fn of_log(dir: &Path) -> Self {
        Self { dir: dir.join(DIR) }
    }

    fn path(&self, seq: u64) -> PathBuf {
        self.dir.join(format!("{seq:020}.json"))
    }

    /// What there is, by the last record in it, newest first.
    fn names(&self) -> Vec<u64> {
        let files = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let number = |name: &str| {
            let digits = name.strip_suffix(".json").filter(|digits| digits.len() == 20)?;
            digits.parse::<u64>().ok()
        };
        let mut found: Vec<u64> =
            files.filter_map(|file| number(file.file_name().to_str()?)).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }

    /// What can be read, newest first. What cannot is said and left out.
    pub fn all(&self) -> impl Iterator<Item = Found> {
        self.names().into_iter().filter_map(|seq| match self.get(seq) {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::warn!(seq, %error, "a snapshot of the state cannot be used");
                None
            }
        })
    }

    fn get(&self, seq: u64) -> Result<Found, Unusable> {
        let mut bytes = Vec::new();
        File::open(self.path(seq))?.take(BYTES_MAX).read_to_end(&mut bytes)?;
        let snapshot = Snapshot::decode(&bytes)?;
        if snapshot.seq != seq {
            return Err(Unusable::Renamed(snapshot.seq));
        }
        Ok(Found { snapshot, sha256: Detached::of(&bytes).sha256 })
    }

    /// Keeps one; durable when it returns. Answers with what the record says that vouches for it.
    ///
    /// # Errors
    /// The disk.
    pub fn put(&self, snapshot: &Snapshot) -> io::Result<Snapshotted> {
        let bytes = snapshot.encode();
        let Detached { sha256, bytes: length } = Detached::of(&bytes);
        make_dir(&self.dir)?;
        failpoint::hit("snapshot.write")?;
        replace_file(&self.path(snapshot.seq), &bytes)?;
        let (upto, root) = (snapshot.seq, snapshot.root);
        let policy = Box::new(snapshot.policy.clone());
        Ok(Snapshotted { upto, root, sha256, bytes: length, policy })
    }

    /// Removes what is older than the newest ones. That something is left of it does no harm.
    fn tidy(&self) {
        for seq in self.names().into_iter().skip(KEPT) {
            if let Err(error) = std::fs::remove_file(self.path(seq)) {
                tracing::warn!(seq, %error, "an old snapshot of the state cannot be removed");
            }
        }
    }
}

/// Whether a start finds the state without the records up to `upto`. That a record tells of a snapshot is not enough: the file has to be
/// there, to be the one that the log names, and the stored hashes have to lead to it. Blocks for as long as the disk takes.
///
/// # Errors
/// The log cannot be read.
pub fn is_held(journal: &Journal, upto: u64) -> Result<bool, journal::Error> {
    let reader = journal.reader();
    let snapshots = Snapshots::of_log(journal.dir());
    for found in snapshots.all().take_while(|found| found.snapshot.seq >= upto) {
        let Snapshot { seq, root, .. } = found.snapshot;
        let stored = tlog::stored_tree(journal.dir(), seq);
        if stored.is_ok_and(|tree| tree.root() == root) && is_named(&reader, &found)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a record behind it vouches for it.
fn is_named(reader: &Reader, found: &Found) -> Result<bool, journal::Error> {
    let mut next = found.snapshot.seq.saturating_add(1);
    loop {
        let entries = reader.read(next, 1_024, 8 << 20)?;
        let Some(last) = entries.last() else { return Ok(false) };
        next = last.seq.saturating_add(1);
        if entries.iter().any(|entry| found.is_named_by(&entry.line)) {
            return Ok(true);
        }
    }
}

/// The state as an open log has it: from the newest snapshot that it names, or from its first record.
///
/// # Errors
/// It cannot be had whole. Part of it is none: who acts on that, and keeps a snapshot of it, makes what is missing permanent.
pub fn replay(journal: &Journal, env: Env) -> Result<Replay, NoState> {
    let reader = journal.reader();
    failpoint::hit("snapshot.replay").map_err(|error| NoState::Unreadable {
        seq: reader.oldest_seq(),
        why: error.to_string(),
    })?;
    let oldest = reader.oldest_seq();
    for found in Snapshots::of_log(journal.dir()).all() {
        let next = found.snapshot.seq.saturating_add(1);
        if next < oldest {
            continue;
        }
        let (mut named, begun) = (false, Replay::resume(found.snapshot.clone()));
        let replay = fold(&reader, next, begun, &mut |line| named |= found.is_named_by(line))?;
        if named {
            return Ok(replay);
        }
    }
    if oldest > 1 {
        let why = "no snapshot of the state before the oldest record can be used";
        return Err(lost(oldest, why.to_owned()).into());
    }
    fold(&reader, 1, Replay::new(env), &mut |_| {})
}

fn fold(
    reader: &Reader,
    mut next: u64,
    mut replay: Replay,
    on_line: &mut dyn FnMut(&[u8]),
) -> Result<Replay, NoState> {
    let unreadable = |seq, why| NoState::Unreadable { seq, why };
    loop {
        let entries = reader.read(next, 1_024, 8 << 20).map_err(|error| match error {
            journal::Error::Damaged(damage) => damage.into(),
            journal::Error::Pruned { .. } => lost(next, error.to_string()).into(),
            other => unreadable(next, other.to_string()),
        })?;
        if entries.is_empty() {
            return Ok(replay);
        }
        for entry in entries {
            next = entry.seq.saturating_add(1);
            on_line(&entry.line);
            let record = reader.blobs().record(&entry.line).map_err(|error| match error {
                blobs::Error::Io { .. } => unreadable(entry.seq, error.to_string()),
                gone => lost(entry.seq, gone.to_string()).into(),
            })?;
            replay.fold(&record);
        }
    }
}

fn lost(seq: u64, why: String) -> Damage {
    Damage { seq, segment: DIR.to_owned(), offset: 0, why }
}

/// Why the state cannot be had from an open log.
#[derive(Debug, thiserror::Error)]
pub enum NoState {
    /// Some of what it is made of is gone, or is not what it was.
    #[error(transparent)]
    Lost(#[from] Damage),
    /// The disk does not let it be read now.
    #[error("record {seq} cannot be read back: {why}")]
    Unreadable {
        /// The record.
        seq: u64,
        /// What the disk said.
        why: String,
    },
}

/// Why a file is left out.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    #[error("it is the one up to record {0}")]
    Renamed(u64),
}

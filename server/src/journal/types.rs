//! What the journal answers with: identity, position, findings of a start, status and errors.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use agentd_core::chain;
use uuid::Uuid;

use super::{APPEND_BYTES_MAX, APPEND_LINES_MAX, Hash, LINE_BYTES_MAX};

/// Identity of one log; a UUID as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(Uuid);

impl LogId {
    pub(super) fn random() -> Self {
        Self(Uuid::new_v4())
    }

    pub(super) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for LogId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// Where a log begins to be read when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first record, which has to be there.
    First,
    /// With the oldest one that is there: what came before was pruned, as whoever asks for this knows or is about to find out.
    Kept,
    /// Behind a record whose leaf hash is known from elsewhere. What lies before it is read when it is asked for, and looked
    /// through in the background.
    Behind {
        /// The record.
        seq: u64,
        /// Its leaf hash.
        hash: Hash,
    },
}

/// Where the next record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which log.
    pub log_id: LogId,
    /// The number the next record must carry.
    pub next_seq: u64,
    /// The leaf hash it must carry in `prev`.
    pub hash: Hash,
}

/// What was appended, and is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// The last record of the append.
    pub last_seq: u64,
    /// Its leaf hash.
    pub hash: Hash,
}

/// What a start found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Sound records, all of which were replayed.
    pub entries: u64,
    /// A tail that is cut; see [`super::Journal::untold_cut`].
    pub torn: Option<Torn>,
    /// Why the log can only be read.
    pub damage: Option<Damage>,
}

/// A group of records that a crash left incomplete. None of them had been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// File name of the segment.
    pub segment: String,
    /// Where the group begins, in bytes.
    pub offset: u64,
    /// Bytes from there to the last one written.
    pub bytes_cut: u64,
    /// What was wrong with it.
    pub why: &'static str,
}

/// Acknowledged records that are altered, missing or out of order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {seq} cannot be trusted, at byte {offset} of segment `{segment}`: {why}")]
pub struct Damage {
    /// The first bad record; those before it are sound.
    pub seq: u64,
    /// File name of the segment.
    pub segment: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub why: String,
}

/// Whether records can be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// They can.
    Writable,
    /// The disk refused; what is durable can be read. [`super::Journal::try_recover`] may change that.
    Unwritable {
        /// What failed.
        reason: String,
    },
    /// The log is altered; what stands before can be read. Final for this process.
    Damaged(Damage),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writable => f.write_str("writable"),
            Self::Unwritable { reason } => write!(f, "unwritable: {reason}"),
            Self::Damaged(damage) => write!(f, "damaged: {damage}"),
        }
    }
}

/// Why the journal refuses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process writes this log.
    #[error("the proof log in `{}` is in use by {}", dir.display(), Holder(*holder))]
    Locked {
        /// Directory of the log.
        dir: PathBuf,
        /// Its process id, if it could be read.
        holder: Option<u32>,
    },
    /// Reading or preparing failed.
    #[error("cannot {verb} {what}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Written by a later version of this program.
    #[error("the proof log has format {found}, this program knows formats up to {supported}")]
    Version {
        /// Format on disk.
        found: u32,
        /// Latest format known.
        supported: u32,
    },
    /// The record to begin behind is not in the log, or is another one.
    #[error("the proof log does not go on behind record {seq} as it was known")]
    Start {
        /// The record.
        seq: u64,
    },
    /// `meta.json` is missing beside segments, or cannot be read.
    #[error("the identity of the proof log, `{}`, {why}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The log cannot be written now. Nothing that needs a record may be done.
    #[error("the proof log cannot be written: {reason}")]
    Unwritable {
        /// What failed.
        reason: String,
    },
    /// The log is altered.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A line is longer than a leaf may be.
    #[error("record {seq} is {bytes} bytes long, the limit is {LINE_BYTES_MAX}")]
    LineTooLong {
        /// The record.
        seq: u64,
        /// Its length.
        bytes: usize,
    },
    /// One append asks for too much.
    #[error(
        "{lines} lines of {bytes} bytes at once, the limit is {APPEND_LINES_MAX} and {APPEND_BYTES_MAX}"
    )]
    AppendTooLarge {
        /// Lines asked for.
        lines: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// An append without lines.
    #[error("an append needs at least one line")]
    Empty,
    /// The append does not begin where the log ends.
    #[error("record {found} cannot be appended, the next one is {expected}")]
    OutOfOrder {
        /// The next record.
        expected: u64,
        /// The one offered.
        found: u64,
    },
    /// A line does not link to the one before it.
    #[error("the record does not continue the log")]
    Chain(#[source] chain::Error),
    /// The record is older than the oldest one kept.
    #[error("records before {oldest} are no longer kept")]
    Pruned {
        /// The oldest record that can be read.
        oldest: u64,
    },
    /// The journal is being closed.
    #[error("the proof log is closed")]
    Closed,
}

impl Error {
    pub(super) fn io(verb: &'static str, what: &str, source: io::Error) -> Self {
        Self::Io { verb, what: what.to_owned(), source }
    }
}

struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

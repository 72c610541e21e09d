//! Lets old records go, once the log says that they may: first they are not read any more, then their files go.
//!
//! The record of it (`LOG_PRUNED`) is durable before anything is touched, and says where the log begins from then on. What a crash
//! interrupts is done by the next start. What stays for good are the hashes of all records, so every proof over what is kept, and from any
//! old checkpoint to any new one, can still be made; and an export that has what is gone.

use crate::journal::{self, Damage, Journal, Status};
use crate::{snapshot, tlog};

/// Why files of records that are gone are there still.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The segments.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The plain lines.
    #[error("cannot remove plain lines of the proof log: {0}")]
    Lines(#[from] std::io::Error),
}

/// Gives up the records below `oldest`. Blocks for as long as the disk takes; doing it again does no harm.
///
/// # Errors
/// Some files are there still; none of their records is read.
pub fn release(journal: &Journal, oldest: u64) -> Result<(), Error> {
    journal.release(oldest)?;
    Ok(tlog::prune_lines(journal.dir(), oldest)?)
}

/// After a start: finishes what a crash interrupted. `oldest` is where the log begins by its own account; records that are gone although
/// no prune says so are damage.
pub fn resume(journal: &Journal, oldest: u64) {
    if matches!(journal.status(), Status::Damaged(_)) {
        return;
    }
    let first = journal.reader().oldest_seq();
    if first > oldest {
        let why = format!("the log begins with record {first}: records are missing");
        journal.distrust(Damage { seq: oldest, segment: "wal".to_owned(), offset: 0, why });
    } else if first < oldest
        && !matches!(snapshot::is_held(journal, oldest.saturating_sub(1)), Ok(true))
    {
        // They are all that is left of the state: this start read them, and the next one needs them too.
        tracing::warn!(oldest, "pruned records stay: there is no snapshot of what they led to");
    } else if let Err(error) = release(journal, oldest) {
        tracing::warn!(%error, "what was pruned takes up space until the next start");
    }
}

//! Lets old records go, once the log says that they may: first they are not read any more, then their files go.
//!
//! The record of it (`LOG_PRUNED`) is durable before anything is touched, and says where the log begins from then on. What a crash
//! interrupts is done by the next start, which is why the bodies beside the log go before the segments: as long as these are there, they say
//! which bodies to remove. What stays for good are the hashes of all records, so every proof over what is kept, and from any old checkpoint
//! to any new one, can still be made; and an export that has what is gone.

use std::collections::BTreeSet;

use agentd_core::chain::Hash;
use agentd_core::record::{Detached, HandedOver};

use crate::failpoint;
use crate::journal::{self, Damage, Entry, Journal, READ_ENTRIES_MAX, Reader, Status};
use crate::{snapshot, tlog};

/// Bytes of lines that are read at once.
const READ_BYTES: usize = 4 << 20;

/// Why files of records that are gone are there still.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The segments.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The plain lines, or the bodies.
    #[error("cannot remove files beside the proof log: {0}")]
    Files(#[from] std::io::Error),
}

/// Gives up the records below `oldest`. Blocks for as long as the disk takes; doing it again does no harm.
///
/// # Errors
/// Some files are there still; none of their records is read.
pub fn release(journal: &Journal, oldest: u64) -> Result<(), Error> {
    journal.blobs().spare();
    let bodies = going_bodies(&journal.reader(), oldest);
    journal.conceal(oldest);
    // Space that is lost is no reason to keep what was to go.
    let said = |error| tracing::warn!(%error, "bodies of pruned records stay");
    journal.blobs().remove(&bodies.map_err(said).unwrap_or_default())?;
    let _ = failpoint::hit("prune.bodies_removed");
    journal.release(oldest)?;
    Ok(tlog::prune_lines(journal.dir(), oldest)?)
}

/// The bodies that only records below `oldest` name.
fn going_bodies(reader: &Reader, oldest: u64) -> Result<BTreeSet<Hash>, journal::Error> {
    let mut named = BTreeSet::new();
    let body = |entry: &Entry| Detached::in_line(&entry.line).map(|blob| blob.sha256);
    each(reader, (reader.oldest_seq(), oldest.saturating_sub(1)), &mut |entry| {
        named.extend(body(entry));
    })?;
    if !named.is_empty() {
        each(reader, (oldest, reader.durable_seq()), &mut |entry| {
            if let Some(kept) = body(entry) {
                named.remove(&kept);
            }
        })?;
    }
    Ok(named)
}

/// How the keys of the log were handed over, as far as the records up to `upto` say so: what has to be said again before they go.
///
/// # Errors
/// They cannot be read.
pub fn handed_over(reader: &Reader, upto: u64) -> Result<Vec<HandedOver>, journal::Error> {
    let mut found = Vec::new();
    each(reader, (reader.oldest_seq(), upto), &mut |entry| {
        found.extend(HandedOver::in_line(&entry.line));
    })?;
    found.sort_by_key(|handed: &HandedOver| handed.seq);
    found.dedup_by_key(|handed| handed.seq);
    let too_many = found.len().saturating_sub(HandedOver::MAX);
    Ok(found.split_off(too_many))
}

fn each(
    reader: &Reader,
    (first, last): (u64, u64),
    on_entry: &mut dyn FnMut(&Entry),
) -> Result<(), journal::Error> {
    let mut next = first;
    while next <= last {
        let wanted = usize::try_from(last - next).unwrap_or(READ_ENTRIES_MAX).saturating_add(1);
        let entries = reader.read(next, wanted, READ_BYTES)?;
        let Some(newest) = entries.last() else { break };
        next = newest.seq.saturating_add(1);
        entries.iter().for_each(&mut *on_entry);
    }
    Ok(())
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

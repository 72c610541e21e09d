//! Reads a whole log again: through an open journal, or from a directory without touching its lock.

use std::path::Path;

use agentd_core::chain::{Hash, LineVerifier};

use super::head::HeadMark;
use super::index::Shared;
use super::{Error, Head, Torn, directory, scan};

/// Passes over a directory whose server may be writing to it meanwhile.
const PASSES_MAX: u32 = 8;

/// A log that is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many records.
    pub entries: u64,
    /// Where the next one goes.
    pub head: Head,
    /// An incomplete group behind them that was never acknowledged: cut at the next start, or just being written.
    pub torn: Option<Torn>,
}

/// Verifies the log in `dir` without locking it; its server may be running.
///
/// # Errors
/// [`Error::Damaged`] names the first bad record; otherwise the log cannot be read.
pub fn verify_dir(dir: &Path) -> Result<Verified, Error> {
    let mut seen = None;
    for _ in 1..PASSES_MAX {
        match read_dir(dir, &mut |_, _| {}) {
            // A group written while its segment is being read can look like a hole before a later group. That moves on with
            // the log; damage stays where it is.
            Err(Error::Damaged(damage)) if seen.as_ref() != Some(&damage) => seen = Some(damage),
            other => return other,
        }
    }
    read_dir(dir, &mut |_, _| {})
}

/// As [`verify_dir`], in one pass that hands out every sound record in order: those before the damage, if there is any.
///
/// # Errors
/// As [`verify_dir`].
pub fn read_dir(dir: &Path, on_entry: &mut dyn FnMut(u64, &[u8])) -> Result<Verified, Error> {
    let (log_id, store) = directory::look(dir)?;
    // Before the records: a mark read after them could name one that was not there yet.
    let mark = HeadMark::load(&store);
    let scan = scan::scan_log(&store, log_id, mark, &mut |seq, _: Hash, line| on_entry(seq, line))?;
    if let Some(damage) = scan.damage {
        return Err(Error::Damaged(damage));
    }
    let head = Head { log_id, next_seq: scan.chain.next_seq(), hash: scan.chain.head() };
    Ok(Verified { entries: head.next_seq.saturating_sub(1), head, torn: scan.torn })
}

/// Verifies what is durable in an open log; the writer may go on meanwhile.
pub(super) fn verify_live(shared: &Shared) -> Result<Verified, Error> {
    let (segments, head) = shared.segments();
    let mut chain = LineVerifier::new();
    let mut bytes = Vec::new();
    for map in &segments {
        let found =
            scan::recheck(shared.store.as_ref(), shared.log_id, map, &mut chain, &mut bytes)?;
        if let Some(damage) = found {
            return Err(shared.damaged(damage));
        }
    }
    debug_assert_eq!(chain.head(), head, "the index and the files describe one log");
    let head = Head { log_id: shared.log_id, next_seq: chain.next_seq(), hash: chain.head() };
    Ok(Verified { entries: chain.next_seq().saturating_sub(1), head, torn: None })
}

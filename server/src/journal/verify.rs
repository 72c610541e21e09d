//! Reads a whole log again: through an open journal, or from a directory without touching its lock.

use std::path::Path;

use agentd_core::chain::{Hash, LineVerifier};
use agentd_core::record::Pruned;

use super::head::HeadMark;
use super::index::{SegmentMap, Shared, segment_name};
use super::{Damage, Error, Head, Start, Torn, directory, scan};

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
    let (mut first, mut pruned) = (None, 0);
    let mut on_entry = |seq: u64, _: Hash, line: &[u8]| {
        first.get_or_insert(seq);
        pruned = Pruned::upto_in_line(line).map_or(pruned, |upto| upto.max(pruned));
        on_entry(seq, line);
    };
    let scan = scan::scan_log(&store, (log_id, Start::Kept), mark, &mut on_entry)?;
    if let Some(damage) = scan.damage.or_else(|| missing(first.unwrap_or(1), pruned)) {
        return Err(Error::Damaged(damage));
    }
    let head = Head { log_id, next_seq: scan.chain.next_seq(), hash: scan.chain.head() };
    let entries = head.next_seq.saturating_sub(first.unwrap_or(1));
    Ok(Verified { entries, head, torn: scan.torn })
}

/// Records before the first one that no record says were pruned.
fn missing(first: u64, pruned: u64) -> Option<Damage> {
    let seq = pruned.saturating_add(1);
    (first > seq).then(|| Damage {
        seq,
        segment: segment_name(first),
        offset: 0,
        why: format!("the segment begins with record {first}: records are missing or repeated"),
    })
}

/// Verifies what is durable in an open log; the writer may go on meanwhile. Where a prune overtakes it, it begins again with what is
/// kept.
pub(super) fn verify_live(shared: &Shared) -> Result<Verified, Error> {
    for _ in 1..PASSES_MAX {
        let (segments, head) = shared.segments();
        match verify_segments(shared, &segments, head) {
            Err(Error::Pruned { .. }) => {}
            other => return other,
        }
    }
    let (segments, head) = shared.segments();
    verify_segments(shared, &segments, head)
}

/// Verifies these segments, up to the record with this hash.
///
/// # Errors
/// [`Error::Pruned`]: one of them was given up meanwhile, and its file may hold other records by now. Otherwise as
/// [`super::Journal::verify`].
pub(super) fn verify_segments(
    shared: &Shared,
    segments: &[SegmentMap],
    head: Hash,
) -> Result<Verified, Error> {
    let store = shared.store.as_ref();
    let mut chain = LineVerifier::new();
    if let Some(first) = segments.first().filter(|first| first.first_seq > 1) {
        chain = LineVerifier::resume(first.first_seq, first.prev);
    }
    let begin = chain.next_seq();
    let mut bytes = Vec::new();
    for map in segments {
        if !map.is_read {
            // It is read for the first time, which is to check it.
            shared.look_through(map.first_seq)?;
            let after = shared.prev_of(map.next_seq).ok_or_else(|| shared.pruned())?;
            chain = LineVerifier::resume(map.next_seq, after);
            continue;
        }
        let found = scan::recheck(store, shared.log_id, map, &mut chain, &mut bytes);
        if !matches!(found, Ok(None)) && shared.prev_of(map.first_seq).is_none() {
            return Err(shared.pruned());
        }
        if let Some(damage) = found? {
            return Err(shared.damaged(damage));
        }
    }
    debug_assert_eq!(chain.head(), head, "the index and the files describe one log");
    let head = Head { log_id: shared.log_id, next_seq: chain.next_seq(), hash: chain.head() };
    Ok(Verified { entries: chain.next_seq().saturating_sub(begin), head, torn: None })
}

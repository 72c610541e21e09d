//! The entries that a list looks at: those that the index names, or one after the other where it cannot be used.
//!
//! What comes out is read from the log in either case, and judged by it: the index only says where to look.

use super::log;
use crate::index::{Index, Wanted};
use crate::journal::{self, Entry, Reader};

/// Numbers that the index is asked for at once.
const NUMBERS: usize = 128;

/// Entries, and where the next ones begin.
#[derive(Debug)]
pub(super) struct Step {
    /// In the order of the walk.
    pub(super) entries: Vec<Entry>,
    /// Where to go on: everything before it (behind it, going back) was looked at.
    pub(super) next: u64,
    /// Nothing is left.
    pub(super) over: bool,
}

/// A walk through what may match.
#[derive(Debug)]
pub(super) struct Candidates {
    index: Option<Index>,
    wanted: Wanted,
}

impl Candidates {
    /// All that may be `wanted`; without an index, or if everything is, that is every entry.
    pub(super) fn new(index: Option<Index>, wanted: Wanted) -> Self {
        let index = index.filter(|_| !wanted.is_everything());
        Self { index, wanted }
    }

    /// Whether the index is asked at all: then entries that are not wanted are not met.
    pub(super) const fn is_indexed(&self) -> bool {
        self.index.is_some()
    }

    /// The next ones from `from` on. In front of damage there are those before it; only a step that begins at it fails.
    pub(super) fn forward(&self, reader: &Reader, from: u64) -> Result<Step, journal::Error> {
        // What is older than the log is asked of the log, which says so.
        let kept = from.max(1) >= reader.oldest_seq();
        let index = self.index.as_ref().filter(|_| kept);
        if let Some((numbers, upto)) = index.and_then(|i| i.after(&self.wanted, from, NUMBERS)) {
            let end = if numbers.len() < NUMBERS { upto.saturating_add(1) } else { 0 };
            let (entries, bad) = read(reader, &numbers)?;
            let last = entries.last().map_or(from, |entry| entry.seq.saturating_add(1));
            return Ok(Step { entries, next: bad.unwrap_or(end.max(last)), over: false });
        }
        let entries = log::read_sound(reader, from, log::READ_RECORDS)?;
        let next = entries.last().map_or(from, |entry| entry.seq.saturating_add(1));
        Ok(Step { over: entries.is_empty(), entries, next })
    }

    /// The next ones before `before`, newest first.
    pub(super) fn backward(&self, reader: &Reader, before: u64) -> Result<Step, journal::Error> {
        let index = self.index.as_ref();
        if let Some((numbers, _)) = index.and_then(|i| i.before(&self.wanted, before, NUMBERS)) {
            let kept: Vec<u64> =
                numbers.iter().copied().filter(|seq| *seq >= reader.oldest_seq()).collect();
            let over = numbers.len() < NUMBERS || kept.len() < numbers.len();
            let (entries, bad) = read(reader, &kept)?;
            let next = entries.last().map_or(before, |entry| entry.seq);
            return Ok(Step { entries, next, over: over && bad.is_none() });
        }
        let entries = reader.read_back(before, log::READ_RECORDS, log::READ_BYTES)?;
        let next = entries.last().map_or(before, |entry| entry.seq);
        Ok(Step { over: entries.is_empty(), entries, next })
    }

    /// Entries that belong to decision `seq`, oldest first, at most `max`; `None` if the index does not know all that follow it.
    pub(super) fn of_decision(
        &self,
        reader: &Reader,
        seq: u64,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, journal::Error> {
        let wanted = Wanted { decisions: vec![seq], ..Wanted::default() };
        let found = self.index.as_ref().and_then(|i| i.after(&wanted, seq.saturating_add(1), max));
        let Some((numbers, upto)) = found.filter(|(_, upto)| *upto >= reader.durable_seq()) else {
            return Ok(None);
        };
        debug_assert!(upto >= seq, "the index was asked about what it knows");
        Ok(Some(read(reader, &numbers)?.0))
    }
}

/// The entries with these numbers; and the first of them that cannot be trusted, if those before it can.
fn read(reader: &Reader, numbers: &[u64]) -> Result<(Vec<Entry>, Option<u64>), journal::Error> {
    let mut entries = Vec::with_capacity(numbers.len());
    let mut bytes = 0_usize;
    for seq in numbers {
        match reader.read(*seq, 1, 1) {
            Ok(found) => entries.extend(found),
            Err(journal::Error::Damaged(_)) if !entries.is_empty() => {
                return Ok((entries, Some(*seq)));
            }
            Err(error) => return Err(error),
        }
        bytes = entries.last().map_or(0, |entry| bytes.saturating_add(entry.line.len()));
        if bytes > log::READ_BYTES {
            return Ok((entries, Some(seq.saturating_add(1))));
        }
    }
    Ok((entries, None))
}

//! What readers and the writer share: where records lie, how far the log is durable, and whether it can be written.
//!
//! Of each segment so many offsets are remembered, however many records it holds: a hundredth of a byte a record, where they have the
//! usual length. Whoever looks for a record reads from the nearest one on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use agentd_core::chain::{Hash, LineVerifier};
use tokio::sync::watch;

use super::cut::Cuts;
use super::frame;
use super::scan::{self, LogScan};
use super::segment::Place;
use super::spare::Spares;
use super::store::{Access, Store, StoredFile};
use super::{Damage, Error, Head, LogId, Status};

/// Offsets that are remembered of a segment: of one of the usual size, one every 256 KiB.
const MARKS_MAX: usize = 64;

/// File name of the segment whose first record is `first_seq`.
pub(super) fn segment_name(first_seq: u64) -> String {
    format!("{first_seq:020}.seg")
}

/// The inverse of [`segment_name`]; `None` for every other file.
pub(super) fn first_seq_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let sound = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    sound.then(|| digits.parse().ok()).flatten()
}

/// Where the durable records of one segment lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentMap {
    pub(super) first_seq: u64,
    /// Leaf hash of the record before it.
    pub(super) prev: Hash,
    /// The record after the last durable one here.
    pub(super) next_seq: u64,
    /// Offset of the byte after the last durable frame.
    pub(super) end: u64,
    /// Offset of every so many records, from the first. No segment is as long as this could not say.
    marks: Vec<u32>,
    /// How many.
    every: u64,
    /// Whether it was read since the log was opened; otherwise neither `end` nor offsets are known.
    pub(super) is_read: bool,
}

impl SegmentMap {
    pub(super) fn new(first_seq: u64, prev: Hash) -> Self {
        let end = frame::HEADER_BYTES as u64;
        let (next_seq, marks, every) = (first_seq, Vec::new(), 1);
        Self { first_seq, prev, next_seq, end, marks, every, is_read: true }
    }

    /// One that is left for later, up to `next_seq`.
    pub(super) fn unread(first_seq: u64, prev: Hash, next_seq: u64) -> Self {
        Self { next_seq, is_read: false, ..Self::new(first_seq, prev) }
    }

    /// Adds the next record, whose frame begins at `offset` and ends before `end`.
    pub(super) fn push(&mut self, offset: u64, end: u64) {
        let before = self.next_seq.saturating_sub(self.first_seq);
        if before.is_multiple_of(self.every) {
            if self.marks.len() == MARKS_MAX {
                // Every second one of them is enough. As many records as that fall on a mark of twice the distance too.
                let mut kept = false;
                self.marks.retain(|_| {
                    kept = !kept;
                    kept
                });
                self.every = self.every.saturating_mul(2);
            }
            self.marks.push(u32::try_from(offset).unwrap_or(u32::MAX));
        }
        self.next_seq = self.next_seq.saturating_add(1);
        self.end = end;
    }

    /// The nearest remembered record at or before `seq`, with its offset.
    fn mark(&self, seq: u64) -> (u64, u64) {
        let step = seq.saturating_sub(self.first_seq) / self.every;
        let offset = usize::try_from(step).ok().and_then(|step| self.marks.get(step));
        match offset {
            Some(offset) => (self.first_seq + step * self.every, u64::from(*offset)),
            None => (self.first_seq, frame::HEADER_BYTES as u64),
        }
    }
}

/// Where to start reading for one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) segment: u64,
    /// The record at `offset`; not after the one asked for.
    pub(super) seq: u64,
    pub(super) offset: u64,
    /// Durable end of the segment.
    pub(super) end: u64,
}

#[derive(Debug)]
struct Extent {
    segments: Vec<SegmentMap>,
    /// Records below this one are not kept, whether their segment is there still or not.
    oldest: u64,
    chain: LineVerifier,
}

/// Shared by all handles of one journal.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) log_id: LogId,
    pub(super) spares: Spares,
    extent: RwLock<Extent>,
    cuts: Mutex<Cuts>,
    closing: AtomicBool,
    durable: watch::Sender<u64>,
    status: watch::Sender<Status>,
}

impl Shared {
    pub(super) fn new(
        store: Arc<dyn Store>,
        spares: Spares,
        log_id: LogId,
        scan: &LogScan,
        status: Status,
    ) -> Self {
        let (segments, chain) = (scan.segments.clone(), scan.chain);
        let last = chain.next_seq().saturating_sub(1);
        let torn = scan.torn.as_ref().map(|torn| torn.bytes_cut);
        let cuts = Mutex::new(Cuts::found(store.as_ref(), last, torn, scan.told));
        let durable = watch::Sender::new(last);
        let oldest = segments.first().map_or(1, |first| first.first_seq);
        let extent = RwLock::new(Extent { segments, oldest, chain });
        let (closing, status) = (AtomicBool::new(false), watch::Sender::new(status));
        Self { store, log_id, spares, extent, cuts, closing, durable, status }
    }

    /// What was cut off the log.
    pub(super) fn cuts(&self) -> MutexGuard<'_, Cuts> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn head(&self) -> Head {
        let extent = self.extent.read().unwrap_or_else(PoisonError::into_inner);
        let (next_seq, hash) = (extent.chain.next_seq(), extent.chain.head());
        Head { log_id: self.log_id, next_seq, hash }
    }

    pub(super) fn segments(&self) -> (Vec<SegmentMap>, Hash) {
        let extent = self.extent.read().unwrap_or_else(PoisonError::into_inner);
        (extent.segments.clone(), extent.chain.head())
    }

    /// Where record `seq` can be found; `None` if it is not durable (or is gone).
    ///
    /// # Errors
    /// The segment had not been read yet, and cannot be, or is damaged.
    pub(super) fn locate(&self, seq: u64) -> Result<Option<Spot>, Error> {
        loop {
            match self.find(seq) {
                None => return Ok(None),
                Some(Ok(spot)) => return Ok(Some(spot)),
                Some(Err(unread)) => self.look_through(unread)?,
            }
        }
    }

    /// Where it is, or which segment has to be read to know.
    fn find(&self, seq: u64) -> Option<Result<Spot, u64>> {
        let extent = self.extent.read().unwrap_or_else(PoisonError::into_inner);
        let after = extent.segments.partition_point(|s| s.first_seq <= seq);
        let segment = extent.segments.get(after.checked_sub(1)?)?;
        if seq >= segment.next_seq {
            return None;
        }
        let first = segment.first_seq;
        if !segment.is_read {
            return Some(Err(first));
        }
        let (mark, offset) = segment.mark(seq);
        Some(Ok(Spot { segment: first, seq: mark, offset, end: segment.end }))
    }

    /// A segment that was not read yet, the newest first.
    pub(super) fn unread(&self) -> Option<u64> {
        let extent = self.extent.read().unwrap_or_else(PoisonError::into_inner);
        let open = !self.closing.load(Ordering::Relaxed);
        let unread = extent.segments.iter().rev().find(|segment| !segment.is_read);
        unread.filter(|_| open).map(|segment| segment.first_seq)
    }

    /// Nobody reads any more.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Reads a segment that was not read when the log was opened: from here on it is known where its records lie, and that they are
    /// what the segment behind it says.
    pub(super) fn look_through(&self, first_seq: u64) -> Result<(), Error> {
        let Some((segment, after)) = self.with_next(first_seq) else {
            // Somebody else read it, or pruned it.
            return self.prev_of(first_seq).map(drop).ok_or_else(|| self.pruned());
        };
        let read = scan::read_sealed(self.store.as_ref(), self.log_id, &segment, after);
        let mut extent = self.extent.write().unwrap_or_else(PoisonError::into_inner);
        let oldest = extent.oldest;
        let place = extent.segments.iter_mut().find(|s| s.first_seq == first_seq);
        // Somebody pruned it meanwhile: the file belongs to other records now.
        let Some(place) = place else { return Err(Error::Pruned { oldest }) };
        match read? {
            Ok(map) => *place = map,
            Err(damage) => {
                drop(extent);
                return Err(self.damaged(damage));
            }
        }
        Ok(())
    }

    /// Reads a closed segment once more: the first one from record `from` on, or the first of all. Answers with where the next one
    /// begins. What was read from a file that nobody writes to any more is the same for ever, unless it was altered.
    pub(super) fn look_again(&self, from: u64) -> Result<u64, Error> {
        let Some((segment, after)) = self.closed(from).or_else(|| self.closed(0)) else {
            return Ok(0);
        };
        let read = scan::read_sealed(self.store.as_ref(), self.log_id, &segment, after);
        // Somebody pruned it meanwhile: the file belongs to other records now.
        if self.prev_of(segment.first_seq).is_none() {
            return Err(self.pruned());
        }
        read?.map_err(|damage| self.damaged(damage))?;
        Ok(segment.next_seq)
    }

    /// The first segment from record `from` on that has another one behind it, and what that says of its last record.
    fn closed(&self, from: u64) -> Option<(SegmentMap, Hash)> {
        let extent = self.extent.read().unwrap_or_else(PoisonError::into_inner);
        let mut pairs = extent.segments.windows(2);
        pairs.find_map(|pair| match pair {
            [segment, next] if segment.first_seq >= from => Some((segment.clone(), next.prev)),
            _ => None,
        })
    }

    /// What is asked for was there, and is given up.
    pub(super) fn pruned(&self) -> Error {
        Error::Pruned { oldest: self.oldest_seq() }
    }

    /// Leaf hash of the record before the segment that begins with `first_seq`; `None` if there is none, any more.
    pub(super) fn prev_of(&self, first_seq: u64) -> Option<Hash> {
        let extent = self.extent.read().unwrap_or_else(PoisonError::into_inner);
        extent.segments.iter().find(|s| s.first_seq == first_seq).map(|s| s.prev)
    }

    fn with_next(&self, first_seq: u64) -> Option<(SegmentMap, Hash)> {
        let extent = self.extent.read().unwrap_or_else(PoisonError::into_inner);
        let at = extent.segments.iter().position(|s| s.first_seq == first_seq && !s.is_read)?;
        let (segment, next) = (extent.segments.get(at)?, extent.segments.get(at + 1)?);
        Some((segment.clone(), next.prev))
    }

    /// The oldest record that can be read, or the one that will be first.
    pub(super) fn oldest_seq(&self) -> u64 {
        self.extent.read().unwrap_or_else(PoisonError::into_inner).oldest
    }

    /// Publishes a group that is on disk: (offset, end) of each frame, in order.
    ///
    /// The number goes out under the lock that readers take to find a record: whoever was given a record sees a number that
    /// is not below it.
    pub(super) fn publish(&self, place: Place, frames: &[(u64, u64)], chain: LineVerifier) {
        let mut extent = self.extent.write().unwrap_or_else(PoisonError::into_inner);
        if extent.segments.last().is_none_or(|s| s.first_seq != place.first_seq) {
            extent.segments.push(SegmentMap::new(place.first_seq, place.prev));
        }
        if let Some(map) = extent.segments.last_mut() {
            for (offset, end) in frames {
                map.push(*offset, *end);
            }
        }
        extent.chain = chain;
        self.durable.send_replace(chain.next_seq().saturating_sub(1));
    }

    /// Records below `before` are not read any more.
    pub(super) fn conceal(&self, before: u64) {
        let mut extent = self.extent.write().unwrap_or_else(PoisonError::into_inner);
        extent.oldest = extent.oldest.max(before.min(extent.chain.next_seq()));
    }

    /// Records below `before` are not kept any more. Takes the segments out that hold no other ones, but not the last one; answers
    /// with their first records.
    pub(super) fn release(&self, before: u64) -> Vec<u64> {
        let mut extent = self.extent.write().unwrap_or_else(PoisonError::into_inner);
        extent.oldest = extent.oldest.max(before.min(extent.chain.next_seq()));
        let keeps = |segment: &SegmentMap| segment.next_seq > before;
        let last = extent.segments.len().saturating_sub(1);
        let kept = extent.segments.iter().position(keeps).unwrap_or(last).min(last);
        extent.segments.drain(..kept).map(|segment| segment.first_seq).collect()
    }

    pub(super) fn durable(&self) -> watch::Receiver<u64> {
        self.durable.subscribe()
    }

    pub(super) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub(super) fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Changes the status, except that damage is final for this life of the process.
    pub(super) fn set_status(&self, status: Status) {
        self.status.send_if_modified(|now| {
            let change = *now != status && !matches!(now, Status::Damaged(_));
            if change {
                match &status {
                    Status::Writable => tracing::info!("the proof log can be written again"),
                    other => tracing::error!(status = %other, "the proof log cannot be written"),
                }
                *now = status;
            }
            change
        });
    }

    /// Records that durable bytes turned out to be altered; nothing is appended from here on.
    pub(super) fn damaged(&self, damage: Damage) -> Error {
        self.set_status(Status::Damaged(damage.clone()));
        Error::Damaged(damage)
    }

    /// Opens a segment for reading.
    pub(super) fn open_segment(&self, first_seq: u64) -> Result<Box<dyn StoredFile>, Error> {
        let name = segment_name(first_seq);
        self.store.open(&name, Access::Read).map_err(|e| Error::io("open", &name, e))
    }
}

#[cfg(test)]
mod tests {
    use agentd_core::chain::GENESIS;

    use super::*;

    #[test]
    fn only_twenty_digits_name_a_segment() {
        assert_eq!(first_seq_of(&segment_name(42)), Some(42));
        for other in ["42.seg", "HEAD", "00000000000000000042.seg.tmp", "+0000000000000000042.seg"]
        {
            assert_eq!(first_seq_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_mark_is_never_after_the_record_asked_for_nor_far_before_it() {
        for records in [1, 63, 64, 65, 128, 129, 300, 40_000] {
            let mut map = SegmentMap::new(100, GENESIS);
            for i in 0..records {
                map.push(80 + i * 10, 90 + i * 10);
            }
            assert!(map.marks.len() <= MARKS_MAX && map.marks.capacity() <= MARKS_MAX);
            let far = (records / (MARKS_MAX as u64 / 2)).max(1);
            for seq in 100..100 + records {
                let (at, offset) = map.mark(seq);
                assert!(at <= seq && seq - at < far, "{seq} of {records}: {at}");
                assert_eq!(offset, 80 + (at - 100) * 10);
            }
        }
    }
}

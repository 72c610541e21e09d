//! Reads durable records from disk, forwards and backwards. Readers never wait for the writer and never see what is not
//! durable.

use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, Look};
use super::index::{Shared, Spot, segment_name};
use super::store::StoredFile;
use super::{Damage, Error};
use crate::blobs::Blobs;

/// Most records one read returns.
pub const READ_ENTRIES_MAX: usize = 4096;
/// Bytes read from a segment at once; more than the longest frame.
const CHUNK_BYTES: u64 = 128 << 10;
/// Records in one step of reading backwards.
const BACK_STEP: u64 = 64;
const _: () = assert!(frame::FRAME_BYTES_MAX < CHUNK_BYTES as usize);

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// Its line, without newline.
    pub line: Bytes,
}

/// Reads an open log. Calls block for as long as the disk takes, which is not at all for what was written lately.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<Shared>,
    blobs: Arc<Blobs>,
}

impl Reader {
    pub(super) const fn new(shared: Arc<Shared>, blobs: Arc<Blobs>) -> Self {
        Self { shared, blobs }
    }

    /// What is too long for a line, beside the log.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The oldest record that can be read; 1 for a log without records.
    #[must_use]
    pub fn oldest_seq(&self) -> u64 {
        self.shared.oldest_seq()
    }

    /// The last durable record; 0 for a log without records.
    #[must_use]
    pub fn durable_seq(&self) -> u64 {
        self.shared.head().next_seq.saturating_sub(1)
    }

    /// Records from `from_seq` on, in order, without a gap: at most `max_entries` (and [`READ_ENTRIES_MAX`]), and no more
    /// once their lines come to `max_bytes`, but at least one if there is one. Empty at the durable end.
    ///
    /// # Errors
    /// [`Error::Pruned`] if older records are gone, [`Error::Damaged`] if a record cannot be trusted (the journal then
    /// refuses appends), [`Error::Io`] if the disk does.
    pub fn read(
        &self,
        from_seq: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, Error> {
        let oldest = self.oldest_seq();
        // Numbers begin with 1, so nothing is skipped by starting there.
        let mut next = from_seq.max(1);
        if next < oldest {
            return Err(Error::Pruned { oldest });
        }
        let mut taken = Taken::new(max_entries, max_bytes);
        while !taken.full() {
            let read = match self.shared.locate(next) {
                // Given up while it was being looked for.
                Ok(None) if next < self.oldest_seq() => return Err(self.shared.pruned()),
                Ok(None) => break,
                Ok(Some(spot)) => self.read_segment(&spot, next, &mut taken),
                Err(error) => Err(error),
            };
            next = match read {
                // Given up while it was being looked for.
                Err(Error::Io { .. }) if next < self.oldest_seq() => {
                    return Err(Error::Pruned { oldest: self.oldest_seq() });
                }
                other => other?,
            };
        }
        Ok(taken.entries)
    }

    /// Up to `max_entries` records before `before_seq`, newest first, with the same limits as [`Reader::read`].
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn read_back(
        &self,
        before_seq: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, Error> {
        let oldest = self.oldest_seq();
        let mut before = before_seq.min(self.durable_seq().saturating_add(1));
        let mut taken = Taken::new(max_entries, max_bytes);
        while !taken.full() && before > oldest {
            let from = before.saturating_sub(BACK_STEP).max(oldest);
            let count = usize::try_from(before - from).unwrap_or(0);
            let mut step = Vec::with_capacity(count);
            while step.len() < count {
                let read = self.read(from + step.len() as u64, count - step.len(), usize::MAX)?;
                if read.is_empty() {
                    return Ok(taken.entries);
                }
                step.extend(read);
            }
            for entry in step.into_iter().rev() {
                if taken.full() {
                    break;
                }
                taken.push(entry);
            }
            before = from;
        }
        Ok(taken.entries)
    }

    /// Takes records from `wanted` on out of one segment; returns the next one to ask for.
    fn read_segment(&self, spot: &Spot, wanted: u64, taken: &mut Taken) -> Result<u64, Error> {
        let name = segment_name(spot.segment);
        let file = self.shared.open_segment(spot.segment)?;
        let (mut seq, mut offset) = (spot.seq, spot.offset);
        let mut chunk = Vec::new();
        while offset < spot.end && !taken.full() {
            read_chunk(file.as_ref(), offset, spot.end, &mut chunk)
                .map_err(|e| Error::io("read", &name, e))?;
            let mut at = 0;
            loop {
                let why = match frame::look(&chunk, at) {
                    Look::Frame(frame) if frame.seq == seq => {
                        if seq >= wanted {
                            let line = Bytes::copy_from_slice(frame.line);
                            taken.push(Entry { seq, line });
                        }
                        seq = seq.saturating_add(1);
                        at = frame.end;
                        if taken.full() || at == chunk.len() {
                            break;
                        }
                        continue;
                    }
                    // The rest of the frame is in the next chunk, unless this one is the last.
                    Look::Cut(_) | Look::Empty
                        if at > 0 && offset + (chunk.len() as u64) < spot.end =>
                    {
                        break;
                    }
                    Look::Frame(_) => "another record stands in its place",
                    Look::Empty => "there is nothing in its place",
                    Look::Cut(_) => "the segment is cut short",
                    Look::Bad(why) => why,
                };
                // Somebody pruned it meanwhile: the file belongs to other records now.
                let oldest = self.oldest_seq();
                if seq < oldest {
                    return Err(Error::Pruned { oldest });
                }
                let offset = offset + at as u64;
                return Err(self.shared.damaged(Damage {
                    seq,
                    segment: name,
                    offset,
                    why: why.into(),
                }));
            }
            offset += at as u64;
        }
        Ok(seq)
    }
}

fn read_chunk(
    file: &dyn StoredFile,
    offset: u64,
    end: u64,
    chunk: &mut Vec<u8>,
) -> std::io::Result<()> {
    let len = usize::try_from((end - offset).min(CHUNK_BYTES)).unwrap_or(usize::MAX);
    chunk.resize(len, 0);
    let read = file.read_at(chunk, offset)?;
    chunk.truncate(read);
    Ok(())
}

/// What a read returns, and its limits.
struct Taken {
    entries: Vec<Entry>,
    entries_max: usize,
    bytes_left: usize,
}

impl Taken {
    fn new(max_entries: usize, max_bytes: usize) -> Self {
        let entries_max = max_entries.min(READ_ENTRIES_MAX);
        Self { entries: Vec::new(), entries_max, bytes_left: max_bytes.max(1) }
    }

    fn push(&mut self, entry: Entry) {
        self.bytes_left = self.bytes_left.saturating_sub(entry.line.len());
        self.entries.push(entry);
    }

    const fn full(&self) -> bool {
        self.entries.len() >= self.entries_max || self.bytes_left == 0
    }
}

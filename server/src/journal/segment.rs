//! The segment that is being written: zeroed ahead of the records, so that a sync has only data to write.
//!
//! Each function says, on failure, what that leaves behind. After a failed sync it is not known: what the kernel shows of the
//! file and what is on the disk may differ from then on.

use std::io;
use std::sync::Arc;

use agentd_core::chain::Hash;

use super::frame::{self, Header};
use super::index::segment_name;
use super::store::{Access, Store, StoredFile};
use crate::failpoint;

const PAGE_BYTES: u64 = 4096;
/// Zeros that end a group: where a frame would begin there is visibly none, whatever an earlier life of the file left behind it.
const END_BYTES: u64 = frame::FRAME_HEAD_BYTES as u64;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What an error leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// All as it was: only space is missing.
    Settled,
    /// Bytes that were written in part; re-reading through a fresh descriptor settles what is there.
    Unsettled,
    /// A sync of what holds records failed. The kernel may have dropped what it could not write and call the next sync a success,
    /// so this process must not sync again, nor acknowledge anything: it ends.
    Unsynced,
}

/// Why nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: String,
    pub(super) left: Left,
}

impl Fault {
    pub(super) fn of(left: Left, what: &str) -> impl Fn(io::Error) -> Self {
        move |e| Self { reason: format!("{what}: {e}"), left }
    }

    /// What could not be written in part or whole.
    pub(super) fn unsettled(what: &str) -> impl Fn(io::Error) -> Self {
        Self::of(Left::Unsettled, what)
    }

    /// What could not be synced.
    pub(super) fn unsynced(what: &str) -> impl Fn(io::Error) -> Self {
        Self::of(Left::Unsynced, what)
    }
}

/// Where the durable part of a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) first_seq: u64,
    /// Leaf hash of the record before the segment.
    pub(super) prev: Hash,
    /// Offset of the byte after the last durable frame.
    pub(super) tail: u64,
    /// Offset of the last durable group.
    pub(super) last_group: u64,
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Active {
    file: Box<dyn StoredFile>,
    place: Place,
    /// The file has its space up to here, on disk: zeros, or stale bytes behind the zeros that end the last group.
    claimed: u64,
}

impl Active {
    /// Makes the segment that begins with `header.first_seq`, with `ahead` zeroed bytes. It gets its name when it is durable,
    /// so a segment with that name always has a whole header.
    pub(super) fn create(
        store: &Arc<dyn Store>,
        header: Header,
        ahead: u64,
    ) -> Result<Self, Fault> {
        let name = segment_name(header.first_seq);
        let temporary = format!("{name}.tmp");
        let tail = frame::HEADER_BYTES as u64;
        let claimed = tail.saturating_add(ahead);
        let file = fill_new(store.as_ref(), &temporary, header, claimed)
            .and_then(|file| file.sync().map(|()| file))
            .map_err(dropped(store.as_ref(), &temporary))?;
        Self::named(store.as_ref(), (&temporary, file), header, claimed)
    }

    /// Makes it of the spare called `name`, whose space of `claimed` bytes is on disk.
    pub(super) fn adopt(
        store: &Arc<dyn Store>,
        (spare, file): (&str, Box<dyn StoredFile>),
        header: Header,
        claimed: u64,
    ) -> Result<Self, Fault> {
        let mut begin = header.encode();
        begin.resize(begin.len() + frame::FRAME_HEAD_BYTES, 0);
        failpoint::hit("journal.rotate")
            .and_then(|()| file.write_at(&begin, 0))
            .and_then(|()| file.sync())
            .map_err(dropped(store.as_ref(), spare))?;
        Self::named(store.as_ref(), (spare, file), header, claimed)
    }

    fn named(
        store: &dyn Store,
        (temporary, file): (&str, Box<dyn StoredFile>),
        header: Header,
        claimed: u64,
    ) -> Result<Self, Fault> {
        let Header { first_seq, prev, .. } = header;
        // From the rename on, the name may or may not survive a crash.
        failpoint::hit("journal.rotate.before_rename")
            .and_then(|()| store.rename(temporary, &segment_name(first_seq)))
            .and_then(|()| failpoint::hit("journal.rotate.after_rename"))
            .map_err(Fault::unsettled("name a segment"))?;
        store.sync_names().map_err(Fault::unsynced("name a segment"))?;
        let tail = frame::HEADER_BYTES as u64;
        let place = Place { first_seq, prev, tail, last_group: tail };
        Ok(Self { file, place, claimed })
    }

    /// Opens a segment whose durable part is known, and makes the disk agree with that: rewrites the last group, because the
    /// page cache may hold what the disk does not, and zeroes what follows. Needs no space that the file does not have; keeps
    /// at most `ahead` bytes behind the records.
    pub(super) fn reopen(store: &Arc<dyn Store>, place: Place, ahead: u64) -> Result<Self, Fault> {
        let name = segment_name(place.first_seq);
        let failed = Fault::unsettled("open the last segment");
        let file = store.open(&name, Access::Write).map_err(&failed)?;
        let mut active = Self { file, place, claimed: place.tail };
        active.rewrite_tail(ahead).map_err(&failed)?;
        let unsynced = Fault::unsynced("sync the last segment");
        failpoint::hit("journal.reopen_sync")
            .and_then(|()| active.file.sync())
            .and_then(|()| store.sync_names())
            .map_err(unsynced)?;
        Ok(active)
    }

    fn rewrite_tail(&mut self, ahead: u64) -> io::Result<()> {
        failpoint::hit("journal.reopen")?;
        let Place { tail, last_group, .. } = self.place;
        let start = last_group / PAGE_BYTES * PAGE_BYTES;
        let mut kept = vec![0; usize::try_from(tail.saturating_sub(start)).unwrap_or(0)];
        if self.file.read_at(&mut kept, start)? != kept.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.write_at(&kept, start)?;
        let wanted = tail.saturating_add(ahead);
        let len = self.file.len()?;
        if len > wanted {
            self.file.set_len(wanted)?;
        }
        self.claimed = len.min(wanted);
        write_zeros(self.file.as_ref(), tail, self.claimed)
    }

    pub(super) const fn place(&self) -> Place {
        self.place
    }

    /// Bytes behind the records that the file has.
    pub(super) const fn ahead(&self) -> u64 {
        self.claimed.saturating_sub(self.place.tail)
    }

    /// Whether it holds no record.
    pub(super) const fn is_empty(&self) -> bool {
        self.place.tail == frame::HEADER_BYTES as u64
    }

    /// Zeroes up to `ahead` bytes behind the records.
    pub(super) fn extend(&mut self, ahead: u64) -> Result<(), Fault> {
        let target = self.place.tail.saturating_add(ahead);
        if target <= self.claimed {
            return Ok(());
        }
        // A write beyond the end that fails leaves at most zeros there.
        failpoint::hit("journal.extend")
            .and_then(|()| write_zeros(self.file.as_ref(), self.claimed, target))
            .map_err(Fault::of(Left::Settled, "claim space for the proof log"))?;
        self.file.sync().map_err(Fault::unsynced("sync the space of the proof log"))?;
        self.claimed = target;
        Ok(())
    }

    /// Writes one group behind the records and syncs it. Nothing of it counts unless this succeeds. `bytes` is left with the zeros
    /// that end it on disk.
    pub(super) fn write_group(&mut self, bytes: &mut Vec<u8>) -> Result<(), Fault> {
        let tail = self.place.tail;
        let end = tail.saturating_add(bytes.len() as u64);
        // Behind the end of the file there is nothing stale, and the file must not grow by this.
        let zeros = self.claimed.saturating_sub(end).min(END_BYTES);
        if !failpoint::bug("journal.no_end") {
            bytes.resize(bytes.len() + usize::try_from(zeros).unwrap_or(0), 0);
        }
        self.write(bytes, tail).map_err(Fault::unsettled("write to the proof log"))?;
        if !failpoint::bug("journal.skip_fsync") {
            self.sync_group().map_err(Fault::unsynced("sync the proof log"))?;
        }
        self.place.last_group = tail;
        self.place.tail = end;
        self.claimed = self.claimed.max(end);
        Ok(())
    }

    fn sync_group(&self) -> io::Result<()> {
        let synced = failpoint::hit("journal.fsync").and_then(|()| self.file.sync());
        if synced.is_err() && failpoint::bug("journal.retry_fsync") {
            return self.file.sync();
        }
        synced
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        failpoint::hit("journal.write")?;
        if failpoint::bug("journal.split_write") {
            let (first, second) = bytes.split_at(bytes.len() / 2);
            self.file.write_at(first, at)?;
            failpoint::hit("journal.mid_write")?;
            self.file.write_at(second, at.saturating_add(first.len() as u64))?;
        } else {
            self.file.write_at(bytes, at)?;
        }
        failpoint::hit("journal.after_write")
    }

    /// Gives back the space behind the records once a later segment is durable. Zeros left behind do no harm, so a failure is
    /// of no consequence.
    pub(super) fn seal(self) {
        let _ = self.file.set_len(self.place.tail);
    }
}

/// Drops a file that could not be made a segment. It holds no record, so also a failed sync of it leaves nothing in doubt: it is
/// never used, and would only keep space that may be missing.
fn dropped(store: &dyn Store, name: &str) -> impl Fn(io::Error) -> Fault {
    move |error| {
        let _ = store.remove(name);
        Fault::of(Left::Settled, "begin a segment")(error)
    }
}

fn fill_new(
    store: &dyn Store,
    name: &str,
    header: Header,
    len: u64,
) -> io::Result<Box<dyn StoredFile>> {
    failpoint::hit("journal.rotate")?;
    let file = store.open(name, Access::Create)?;
    file.write_at(&header.encode(), 0)?;
    write_zeros(file.as_ref(), frame::HEADER_BYTES as u64, len)?;
    Ok(file)
}

fn write_zeros(file: &dyn StoredFile, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let step = usize::try_from(to - at).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_at(ZEROS.get(..step).unwrap_or_default(), at)?;
        at = at.saturating_add(step as u64);
    }
    Ok(())
}

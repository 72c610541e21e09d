//! `CUT`: what was cut off the log and no record tells of yet, in a small file beside the segments.
//!
//! A tail that is cut was never acknowledged, but that a crash left one is worth a record, and the next crash may come before that
//! record. So the note is durable before the cut is made, grows by each further cut, and goes once a record behind it tells of them
//! all. A record that is durable counts whether the note is gone by then or not: it is told once.

use std::io;

use agentd_core::record::Body;

use super::frame;
use super::segment::{Fault, Left};
use super::store::{Access, Store};
use crate::failpoint;

const FILE: &str = "CUT";
/// The note while it is written.
pub(super) const UNREADY: &str = "CUT.tmp";
const MAGIC: u64 = u64::from_le_bytes(*b"AGENTCUT");
const BYTES: usize = 40;

/// Tails that were cut and that no record tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// The last record when the first of them was cut: whichever tells of them has a greater number.
    after: u64,
    /// Bytes that are gone.
    done: u64,
    /// Bytes that are about to go: after a crash they may be there still, in whole or in part.
    doing: u64,
}

impl Cut {
    /// None yet, behind record `after`.
    const fn behind(after: u64) -> Self {
        Self { after, done: 0, doing: 0 }
    }

    pub(super) const fn bytes(self) -> u64 {
        self.done.saturating_add(self.doing)
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        for number in [MAGIC, self.after, self.done, self.doing] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        frame::close(bytes, BYTES)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let sound = frame::u64_at(bytes, 0)? == MAGIC && frame::is_closed(bytes, 32);
        let number = |at| frame::u64_at(bytes, at);
        let cut = Self { after: number(8)?, done: number(16)?, doing: number(24)? };
        sound.then_some(cut)
    }

    /// What the store holds. A note that cannot be read says at least that there was a cut behind record `last` or before.
    fn load(store: &dyn Store, last: u64) -> Option<Self> {
        let read = || {
            let mut bytes = [0; BYTES];
            let read = store.open(FILE, Access::Read)?.read_at(&mut bytes, 0)?;
            Ok::<_, io::Error>(bytes.get(..read).and_then(Self::decode))
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            note => Some(note.ok().flatten().unwrap_or(Self::behind(last))),
        }
    }
}

/// Whether a line is the record that tells of every cut before it.
pub(super) fn is_told_by(line: &[u8]) -> bool {
    Body::is_recovery(line)
}

/// The cuts of one log, and what the disk says of them.
#[derive(Debug)]
pub(super) struct Cuts {
    untold: Option<Cut>,
    noted: Option<Cut>,
}

impl Cuts {
    /// Those of a log that ends with record `last`, has a torn tail of `torn` bytes, and tells of cuts in record `told` for the last
    /// time.
    pub(super) fn found(
        store: &dyn Store,
        last: u64,
        torn: Option<u64>,
        told: Option<u64>,
    ) -> Self {
        let noted = Cut::load(store, last);
        let mut untold = noted.filter(|cut| told.is_none_or(|told| told <= cut.after));
        if let Some(bytes) = torn {
            let cut = untold.get_or_insert(Cut::behind(last));
            // What an earlier start was about to cut is this tail, or what was left of it.
            cut.doing = cut.doing.max(bytes);
        }
        Self { untold, noted }
    }

    pub(super) const fn untold(&self) -> Option<Cut> {
        self.untold
    }

    /// The tail is gone.
    pub(super) fn done(&mut self) {
        if let Some(cut) = &mut self.untold {
            (cut.done, cut.doing) = (cut.bytes(), 0);
        }
    }

    /// A record tells of them.
    pub(super) fn told(&mut self) {
        self.untold = None;
    }

    /// Makes the disk say what is so. Nothing to do, as a rule.
    pub(super) fn note(&mut self, store: &dyn Store) -> Result<(), Fault> {
        const WHAT: &str = "note what is cut off the proof log";
        if self.noted == self.untold || failpoint::bug("journal.no_note") {
            return Ok(());
        }
        let noted = match self.untold {
            Some(cut) => put(store, cut),
            None => store.remove(FILE),
        };
        // It holds no record, so after a failed sync of it nothing is in doubt.
        noted.map_err(Fault::of(Left::Unsettled, WHAT))?;
        store.sync_names().map_err(Fault::unsynced(WHAT))?;
        self.noted = self.untold;
        failpoint::hit("journal.noted").map_err(Fault::unsettled(WHAT))
    }
}

fn put(store: &dyn Store, cut: Cut) -> io::Result<()> {
    let file = store.open(UNREADY, Access::Create)?;
    file.write_at(&cut.encode(), 0)?;
    file.sync()?;
    store.rename(UNREADY, FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_with_any_flipped_bit_is_not_read() {
        let cut = Cut { after: 9, done: 24, doing: 1 << 40 };
        let bytes = cut.encode();
        assert_eq!((Cut::decode(&bytes), bytes.len()), (Some(cut), BYTES));
        for bit in 0..36 * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Cut::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(Cut::decode(&bytes[..30]), None);
    }
}

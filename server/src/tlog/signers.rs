//! Whose signature makes a checkpoint one of this log: that of a key in use, or of one that was replaced, as the log itself records it.
//!
//! A copy elsewhere may have been out of reach while keys were exchanged, and then only a key that is retired by now signed it. It still
//! says what the log has to hold. The record of the exchange says how far: what a retired key signs beyond that record is not ours.

use std::cell::OnceCell;

use agentd_core::record::HandedOver;
use agentd_core::tlog::rotation::Rotation;
use agentd_core::tlog::{Checkpoint, Note, SignerKey, VerifierKey, checkpoint, note};

use super::{Published, claims};
use crate::failpoint;
use crate::journal::{READ_ENTRIES_MAX, Reader};

/// Bytes of lines that are read at once.
const READ_BYTES: usize = 4 << 20;

/// A key that does not sign any more.
#[derive(Debug)]
struct Replaced {
    key: VerifierKey,
    /// The record that says so: it signed no checkpoint alone that covers more.
    until: u64,
}

/// The keys of one log.
#[derive(Debug)]
pub(super) struct Signers {
    key: SignerKey,
    reader: Reader,
    /// Looked for in the log once, and only where a signature asks for it: no key is exchanged while the log is open.
    replaced: OnceCell<Vec<Replaced>>,
}

impl Signers {
    pub(super) const fn new(key: SignerKey, reader: Reader) -> Self {
        Self { key, reader, replaced: OnceCell::new() }
    }

    /// What the log signs with.
    pub(super) const fn key(&self) -> &SignerKey {
        &self.key
    }

    /// Reads a checkpoint of this log.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn open(&self, text: &[u8]) -> Result<Published, checkpoint::Error> {
        let note = Note::parse(text)?;
        let checkpoint = self.check(&note)?;
        Ok(Published { checkpoint, note })
    }

    /// The checkpoint in `note`, if it is one of this log.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn check(&self, note: &Note) -> Result<Checkpoint, checkpoint::Error> {
        claims::signed(note, &self.key).or_else(|error| match error {
            checkpoint::Error::Note(note::Error::Unsigned(_)) => {
                let mut replaced = self.replaced().iter();
                replaced.find_map(|replaced| replaced.signed(note)).ok_or(error)
            }
            error => Err(error),
        })
    }

    /// From the last exchange to the first: each key vouches for the one that it replaced.
    fn replaced(&self) -> &[Replaced] {
        self.replaced.get_or_init(|| {
            let mut found: Vec<Replaced> = Vec::new();
            for (until, Rotation { from, to }) in self.rotations().into_iter().rev() {
                let in_use = self.key.verifiers().any(|key| key == to);
                if in_use || found.iter().any(|replaced| replaced.key == to) {
                    found.push(Replaced { key: from, until });
                }
            }
            found
        })
    }

    /// The exchanges in the log, each with the number of its record.
    fn rotations(&self) -> Vec<(u64, Rotation)> {
        let (mut rotations, mut next) = (Vec::new(), self.reader.oldest_seq());
        loop {
            let entries = match self.reader.read(next, READ_ENTRIES_MAX, READ_BYTES) {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::warn!(%error, "not all of the keys that the proof log had can be read");
                    break;
                }
            };
            let Some(last) = entries.last() else { break };
            next = last.seq.saturating_add(1);
            let said = entries.iter().flat_map(|entry| HandedOver::in_line(&entry.line));
            rotations.extend(said.filter_map(|said| rotation(&said)));
        }
        // A prune says again what stood before.
        rotations.sort_by_key(|(seq, _)| *seq);
        rotations.dedup_by_key(|(seq, _)| *seq);
        rotations
    }
}

impl Replaced {
    fn signed(&self, note: &Note) -> Option<Checkpoint> {
        let checkpoint = Checkpoint::open(note, &self.key).ok()?;
        let in_time = checkpoint.size <= self.until || failpoint::bug("tlog.retired_key_signs_on");
        in_time.then_some(checkpoint)
    }
}

fn rotation(said: &HandedOver) -> Option<(u64, Rotation)> {
    Some((said.seq, Rotation::open(&Note::parse(said.note.as_bytes()).ok()?).ok()?))
}

//! Appends that become durable together: each is checked, and put into the form it has on disk, as it comes, while others are still on
//! their way.

use agentd_core::chain::LineVerifier;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::frame::{self, Look};
use super::writer::Append;
use super::{Durable, Error};

/// An append that joined the group.
#[derive(Debug)]
pub(super) struct Waiting {
    reply: oneshot::Sender<Result<Durable, Error>>,
    durable: Durable,
    _room: OwnedSemaphorePermit,
}

/// A group that is not written yet.
#[derive(Debug)]
pub(super) struct Group {
    /// Where the log goes on behind it.
    pub(super) chain: LineVerifier,
    /// Its frames, one behind the other.
    pub(super) bytes: Vec<u8>,
    /// Where each of them begins and ends in `bytes`.
    pub(super) frames: Vec<(u64, u64)>,
    pub(super) waiting: Vec<Waiting>,
}

impl Group {
    /// An empty one behind `chain`, in memory that was used before.
    pub(super) fn new(chain: LineVerifier, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { chain, bytes, frames: Vec::new(), waiting: Vec::new() }
    }

    /// Takes the append in, unless it does not continue the log: then it is answered alone.
    pub(super) fn admit(&mut self, append: Append) {
        let (before, bytes, frames) = (self.chain, self.bytes.len(), self.frames.len());
        let Append { first_seq, lines, reply, _room, .. } = append;
        match self.add(first_seq, &lines) {
            Ok(durable) => self.waiting.push(Waiting { reply, durable, _room }),
            Err(error) => {
                self.chain = before;
                self.bytes.truncate(bytes);
                self.frames.truncate(frames);
                let _ = reply.send(Err(error));
            }
        }
    }

    fn add(&mut self, first_seq: u64, lines: &[bytes::Bytes]) -> Result<Durable, Error> {
        let expected = self.chain.next_seq();
        if first_seq != expected {
            return Err(Error::OutOfOrder { expected, found: first_seq });
        }
        for line in lines {
            let (seq, begin) = (self.chain.next_seq(), self.bytes.len() as u64);
            let hash = self.chain.check(line).map_err(Error::Chain)?;
            // INVARIANT: lines of four bytes and more, at most `GROUP_BYTES` and one append of them.
            let index = self.frames.len() as u32;
            frame::encode(&mut self.bytes, seq, index, false, hash, line);
            self.frames.push((begin, self.bytes.len() as u64));
        }
        Ok(Durable { last_seq: self.chain.next_seq().saturating_sub(1), hash: self.chain.head() })
    }

    /// Marks the frame that ends it.
    pub(super) fn close(&mut self) {
        if let Some((begin, _)) = self.frames.last() {
            frame::end_group(&mut self.bytes, *begin as usize);
        }
    }

    /// Its lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        std::iter::from_fn(move || match frame::look(&self.bytes, at) {
            Look::Frame(frame) => {
                at = frame.end;
                Some(frame.line)
            }
            Look::Empty | Look::Cut(_) | Look::Bad(_) => None,
        })
    }

    /// Tells all of them.
    pub(super) fn acknowledge(&mut self) {
        for Waiting { reply, durable, _room } in self.waiting.drain(..) {
            // Whoever asked may be gone; the records stay.
            let _ = reply.send(Ok(durable));
        }
    }

    /// Tells all of them that it was not written.
    pub(super) fn refuse(&mut self, reason: &str) {
        for Waiting { reply, .. } in self.waiting.drain(..) {
            let _ = reply.send(Err(Error::Unwritable { reason: reason.to_owned() }));
        }
    }
}

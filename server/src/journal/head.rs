//! `HEAD`: the last record known to be durable, in a small file beside the segments.
//!
//! It is written after each group *became* durable and is itself never synced, so whichever version survives a crash names a
//! record that had been durable. That is enough to tell an acknowledged tail that was lost or altered (damage) from one
//! that never was (torn), which the segments alone cannot: after the last group nothing follows that would prove it.

use agentd_core::chain::Hash;

use super::HEAD_FILE;
use super::frame;
use super::store::{Access, Store, StoredFile};

const MAGIC: u64 = u64::from_le_bytes(*b"AGENTHED");
const BYTES: usize = 56;

/// A record that had been durable, and its leaf hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadMark {
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

impl HeadMark {
    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&self.seq.to_le_bytes());
        bytes.extend_from_slice(self.hash.as_bytes());
        frame::close(bytes, BYTES)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let sound = frame::u64_at(bytes, 0)? == MAGIC && frame::is_closed(bytes, 48);
        let (seq, hash) = (frame::u64_at(bytes, 8)?, frame::hash_at(bytes, 16)?);
        sound.then_some(Self { seq, hash })
    }

    /// What the store holds. A mark that is missing or unreadable proves nothing and is `None`: it only ever adds knowledge.
    pub(super) fn load(store: &dyn Store) -> Option<Self> {
        let file = store.open(HEAD_FILE, Access::Read).ok()?;
        let mut bytes = [0; BYTES];
        let read = file.read_at(&mut bytes, 0).ok()?;
        Self::decode(bytes.get(..read)?)
    }

    /// Opens the file for [`HeadMark::save`].
    pub(super) fn open(store: &dyn Store) -> std::io::Result<Box<dyn StoredFile>> {
        match store.open(HEAD_FILE, Access::Write) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                store.open(HEAD_FILE, Access::Create)
            }
            other => other,
        }
    }

    /// Writes the mark without syncing it.
    pub(super) fn save(self, file: &dyn StoredFile) -> std::io::Result<()> {
        file.write_at(&self.encode(), 0)
    }
}

#[cfg(test)]
mod tests {
    use agentd_core::chain::leaf_hash;

    use super::*;

    #[test]
    fn a_mark_with_any_flipped_bit_proves_nothing() {
        let mark = HeadMark { seq: 9, hash: leaf_hash(b"nine") };
        let bytes = mark.encode();
        assert_eq!(HeadMark::decode(&bytes), Some(mark));
        for bit in 0..52 * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(HeadMark::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(HeadMark::decode(&bytes[..40]), None);
    }
}

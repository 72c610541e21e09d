//! The proof log as a transparency log: formats and arithmetic that strangers' tools share, without any IO.
//!
//! A leaf is the exact JSON line of one record ([`crate::chain::leaf_hash`]). Over the leaves stands the Merkle tree of RFC 6962,
//! cut into the tiles of C2SP tlog-tiles; its root is published in a checkpoint (C2SP tlog-checkpoint), which is a signed note.
//! Record `seq` is the leaf with index `seq - 1`.
//!
//! | file | holds |
//! |---|---|
//! | [`tree`] | nodes, roots, what a proof consists of |
//! | [`proof`] | checking inclusion and consistency; the offline file `.tlog-proof` |
//! | [`tile`] | paths of tiles, bundles of entries |
//! | [`note`] | signed notes and their keys |
//! | [`checkpoint`] | what a log signs |
//! | [`cosignature`] | what a witness says of it |
//! | [`policy`] | which witnesses have to say it |

pub mod checkpoint;
pub mod cosignature;
pub mod note;
pub mod policy;
pub mod proof;
pub mod tile;
pub mod tree;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::chain::Hash;

pub use checkpoint::Checkpoint;
pub use cosignature::WitnessKey;
pub use note::{Note, SignerKey, VerifierKey};

/// Index of the leaf that record `seq` is; `None` for 0, which is no record.
#[must_use]
pub const fn leaf_index(seq: u64) -> Option<u64> {
    seq.checked_sub(1)
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn decode_hash(text: &str) -> Option<Hash> {
    decode(text)?.try_into().ok().map(Hash::from_bytes)
}

/// A decimal number as the formats write it: digits alone, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;

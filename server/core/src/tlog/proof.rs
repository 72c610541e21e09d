//! Checking that a leaf is in a tree and that one tree is the beginning of another; and the file that carries all of it.
//!
//! The file (`.tlog-proof`, C2SP tlog-proof) holds index, hashes and checkpoint. Ours carries the entry itself in the line for
//! extra data, so that one file and the public key of the log are enough. That line vouches for nothing by itself: the entry is
//! hashed, and the hash has to lead to the signed root.

use std::fmt::{self, Write as _};

use super::checkpoint::{self, Checkpoint};
use super::note::{Note, VerifierKey};
use super::tree::{Frontier, empty_root, node_hash};
use super::{decimal, decode, decode_hash, encode};
use crate::chain::{Hash, LINE_BYTES_MAX, leaf_hash};

/// First line of the file.
const MAGIC: &str = "c2sp.org/tlog-proof@v1";
/// Most hashes of a proof: one for each level of a tree with 2^64 leaves.
pub const PROOF_HASHES_MAX: usize = 64;
/// Most bytes of a proof file that are looked at.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The tree has no such leaf.
    #[error("the tree of {size} entries has no entry with index {index}")]
    OutOfTree {
        /// The leaf asked for.
        index: u64,
        /// Leaves of the tree.
        size: u64,
    },
    /// A log only grows.
    #[error("a tree of {new} entries cannot continue one of {old}")]
    Shrunk {
        /// Size before.
        old: u64,
        /// Size after.
        new: u64,
    },
    /// Not as many hashes as the shape of the tree asks for.
    #[error("the proof has {found} hashes, {expected} are needed")]
    Length {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The hashes lead to another root.
    #[error("the proof leads to root {computed}, the checkpoint has {stored}")]
    Root {
        /// What was signed.
        stored: Hash,
        /// What was computed.
        computed: Hash,
    },
    /// The file is not one.
    #[error("not a tlog-proof: {0}")]
    Malformed(&'static str),
    /// The checkpoint in it is not sound.
    #[error("the checkpoint in the proof is not sound")]
    Checkpoint(#[from] checkpoint::Error),
}

/// Checks that `leaf` stands at `index` of the tree with `size` leaves and this root.
///
/// # Errors
/// Why the proof does not show that.
pub fn verify_inclusion(
    leaf: Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: Hash,
) -> Result<(), Error> {
    let spans = super::tree::inclusion(index, size).ok_or(Error::OutOfTree { index, size })?;
    if spans.len() != proof.len() {
        return Err(Error::Length { found: proof.len(), expected: spans.len() });
    }
    // A span that ends before the leaf is its left neighbour.
    let computed = spans.iter().zip(proof).fold(leaf, |hash, (span, sibling)| {
        if span.to <= index { node_hash(*sibling, hash) } else { node_hash(hash, *sibling) }
    });
    if computed == root { Ok(()) } else { Err(Error::Root { stored: root, computed }) }
}

/// Checks that the tree with `old` leaves is the beginning of the tree with `new` leaves.
///
/// # Errors
/// Why the proof does not show that.
pub fn verify_consistency(
    (old, old_root): (u64, Hash),
    (new, new_root): (u64, Hash),
    proof: &[Hash],
) -> Result<(), Error> {
    let spans = super::tree::consistency(old, new).ok_or(Error::Shrunk { old, new })?;
    if spans.len() != proof.len() {
        return Err(Error::Length { found: proof.len(), expected: spans.len() });
    }
    let same = |stored: Hash, computed: Hash| {
        if stored == computed { Ok(()) } else { Err(Error::Root { stored, computed }) }
    };
    if old == 0 {
        return same(old_root, empty_root());
    }
    let mut parts = spans.iter().zip(proof);
    // The part that is common to both: the old tree itself, or the subtree it ends with.
    let whole = spans.first().is_none_or(|first| first.from >= old);
    let seed = if whole { old_root } else { parts.next().map_or(old_root, |(_, hash)| *hash) };
    let (mut before, mut after) = (seed, seed);
    for (span, hash) in parts {
        if span.to <= old {
            before = node_hash(*hash, before);
            after = node_hash(*hash, after);
        } else {
            after = node_hash(after, *hash);
        }
    }
    same(old_root, before)?;
    same(new_root, after)
}

/// A proof that can be checked without the server that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFile {
    /// Opaque, unauthenticated; ours is the entry.
    pub extra: Option<Vec<u8>>,
    /// Where the entry stands, from 0.
    pub index: u64,
    /// From the sibling of the leaf to the child of the root.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint, verbatim.
    pub checkpoint: Note,
}

impl ProofFile {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with its form; whether it proves anything is for [`ProofFile::verify`] to say.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let bad = Error::Malformed;
        if bytes.len() > FILE_BYTES_MAX {
            return Err(bad("longer than one can be"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_why| bad("not UTF-8"))?;
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(bad("no empty line before the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(MAGIC) {
            return Err(bad("the first line is not `c2sp.org/tlog-proof@v1`"));
        }
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            None => None,
            Some(data) => {
                let data = decode(data).ok_or(bad("the extra data is no base64"))?;
                lines.next();
                Some(data)
            }
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(decimal);
        let index = index.ok_or(bad("no line `index N`"))?;
        let hashes: Option<Vec<Hash>> = lines.map(decode_hash).collect();
        let hashes = hashes.ok_or(bad("a line of the proof is no hash"))?;
        if hashes.len() > PROOF_HASHES_MAX {
            return Err(bad("more hashes than a tree has levels"));
        }
        let checkpoint = Note::parse(checkpoint.as_bytes()).map_err(checkpoint::Error::from)?;
        Ok(Self { extra, index, hashes, checkpoint })
    }

    /// The entry it carries, if it carries one that could be an entry.
    #[must_use]
    pub fn entry(&self) -> Option<&[u8]> {
        self.extra.as_deref().filter(|entry| entry.len() <= LINE_BYTES_MAX)
    }

    /// The tree over the entries before the one it is about, in the tree of `size` entries that it is about; `None` if it has not as many
    /// hashes as that tree asks for.
    #[must_use]
    pub fn tree_before(&self, size: u64) -> Option<Frontier> {
        let spans = super::tree::inclusion(self.index, size)?;
        let path = spans.iter().zip(&self.hashes).filter(|(span, _)| span.to <= self.index);
        let left: Vec<Hash> = path.map(|(_, hash)| *hash).collect();
        (spans.len() == self.hashes.len()).then(|| Frontier::of_path(self.index, &left)).flatten()
    }

    /// Checks that `entry` stands at the index, in the tree that `key` signed; answers that tree.
    ///
    /// # Errors
    /// Why it does not show that.
    pub fn verify(&self, entry: &[u8], key: &VerifierKey) -> Result<Checkpoint, Error> {
        self.verify_leaf(leaf_hash(entry), key)
    }

    /// As [`ProofFile::verify`], for an entry of which the leaf hash is known.
    ///
    /// # Errors
    /// Why it does not show that.
    pub fn verify_leaf(&self, leaf: Hash, key: &VerifierKey) -> Result<Checkpoint, Error> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key)?;
        let Checkpoint { size, root, .. } = checkpoint;
        verify_inclusion(leaf, self.index, size, &self.hashes, root)?;
        Ok(checkpoint)
    }
}

impl fmt::Display for ProofFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{MAGIC}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", encode(hash.as_bytes()))?;
        }
        f.write_char('\n')?;
        fmt::Display::fmt(&self.checkpoint, f)
    }
}

//! Checkpoints (C2SP tlog-checkpoint): what a log signs, and never takes back.

use std::fmt;

use super::note::{self, Note, SignerKey, VerifierKey};
use super::{decimal, decode_hash, encode};
use crate::chain::Hash;

/// The state of a log at one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

/// Why a checkpoint is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The note around it.
    #[error(transparent)]
    Note(#[from] note::Error),
    /// Its text.
    #[error("not a checkpoint: {0}")]
    Malformed(&'static str),
    /// It is of another log than the key.
    #[error("a checkpoint of `{found}`, the key is that of `{expected}`")]
    Origin {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
}

impl Checkpoint {
    /// Reads the text of one. Lines behind the third are allowed and mean nothing here.
    ///
    /// # Errors
    /// It is not one.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = Error::Malformed;
        let body = text.strip_suffix('\n').ok_or(bad("it does not end with a line feed"))?;
        let mut lines = body.split('\n');
        let origin = lines.next().filter(|line| !line.is_empty()).ok_or(bad("no origin"))?;
        let size = lines.next().and_then(decimal).ok_or(bad("the size is no decimal number"))?;
        let root = lines.next().and_then(decode_hash).ok_or(bad("the root is no hash"))?;
        if lines.any(str::is_empty) {
            return Err(bad("an empty line"));
        }
        Ok(Self { origin: origin.to_owned(), size, root })
    }

    /// The checkpoint in `note`, once `key` is found to have signed it.
    ///
    /// # Errors
    /// Signature, text or origin.
    pub fn open(note: &Note, key: &VerifierKey) -> Result<Self, Error> {
        note.verify(key)?;
        let checkpoint = Self::parse(note.text())?;
        if checkpoint.origin != key.name() {
            let (found, expected) = (checkpoint.origin, key.name().to_owned());
            return Err(Error::Origin { found, expected });
        }
        Ok(checkpoint)
    }

    /// Signs it.
    ///
    /// # Errors
    /// The key is that of another log, or the origin cannot stand in a note.
    pub fn sign(&self, key: &SignerKey) -> Result<Note, Error> {
        let expected = key.verifier().name().to_owned();
        if self.origin != expected {
            return Err(Error::Origin { found: self.origin.clone(), expected });
        }
        Ok(key.sign(&self.to_string())?)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, size, root } = self;
        writeln!(f, "{origin}\n{size}\n{}", encode(root.as_bytes()))
    }
}

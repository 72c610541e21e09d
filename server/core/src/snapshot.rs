//! The state after one record, as bytes: what a start goes on from, and what is left of records that are pruned.
//!
//! The log stays the only truth. A snapshot counts only where a record of the log carries its digest ([`Snapshotted`]), so whoever
//! trusts the log may trust it; and state = snapshot + fold of what follows = fold of everything, which a test holds against
//! histories made at random.
//!
//! The encoding is the JSON of serde over ordered maps, so equal states have equal bytes. A change in what the state *means* is a new
//! [`FORMAT`]: a reader refuses every other one, and the log is folded from its first record. New fields are added as in records, with a
//! default that stands for what was before them.
//!
//! [`Snapshotted`]: crate::record::Snapshotted

use serde::{Deserialize, Serialize};

use crate::chain::Hash;
use crate::policy::Policy;
use crate::state::State;

/// Format of snapshots that this version writes, and the only one it reads.
pub const FORMAT: u32 = 1;

/// The state after record `seq`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    format: u32,
    /// The log, as text.
    pub log: String,
    /// The last record that is in it.
    pub seq: u64,
    /// Leaf hash of that record.
    pub hash: Hash,
    /// Root of the tree over the records up to it.
    pub root: Hash,
    /// The policy in force.
    pub policy: Policy,
    /// The state.
    pub state: State,
}

/// Bytes that are no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of another version.
    #[error("a snapshot of format {0}, this version reads format {FORMAT}")]
    Format(u32),
    /// Not the JSON of one.
    #[error("not a snapshot")]
    Json(#[source] serde_json::Error),
    /// It says two things about where it stands.
    #[error("a snapshot up to record {seq} whose state ends with record {state}")]
    Torn {
        /// What it says.
        seq: u64,
        /// What its state says.
        state: u64,
    },
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl Snapshot {
    /// The state of the log called `log` after its last record, whose leaf hash is `hash`; `root` is that of the tree so far.
    #[must_use]
    pub fn new(log: String, hash: Hash, root: Hash, policy: Policy, state: State) -> Self {
        Self { format: FORMAT, log, seq: state.last_seq, hash, root, policy, state }
    }

    /// As bytes: equal snapshots give equal ones.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Serializing owned data with keys that are text or numbers cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`Error`]: of another version, or none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let Version { format } = serde_json::from_slice(bytes).map_err(Error::Json)?;
        if format != FORMAT {
            return Err(Error::Format(format));
        }
        let snapshot: Self = serde_json::from_slice(bytes).map_err(Error::Json)?;
        let (seq, state) = (snapshot.seq, snapshot.state.last_seq);
        if seq != state {
            return Err(Error::Torn { seq, state });
        }
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests;

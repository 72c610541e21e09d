//! What is kept of the log and of what follows from it: snapshots of the state, exports, and what was pruned.

use serde::{Deserialize, Serialize};

use super::Request;
use crate::chain::Hash;
use crate::policy::Policy;

/// The state after a record is kept beside the log: a start goes on from there instead of from the first record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshotted {
    /// The last record that is in it.
    pub upto: u64,
    /// Root of the tree over the records up to that one.
    pub root: Hash,
    /// SHA-256 of the file.
    pub sha256: Hash,
    /// Its length.
    pub bytes: u64,
    /// The policy in force, so that what follows can be judged again where the record that put it in force is pruned.
    pub policy: Box<Policy>,
}

/// Somebody has a copy of the log that leads to what was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Entries in it, from the first one on.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// Idempotency of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

/// Records that are no longer kept here. This is on disk before the first of them is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// The last of them, always the end of a bundle: also the minimum index (C2SP tlog-tiles) from here on.
    pub upto: u64,
    /// Entries that the export covers that has them.
    pub exported: u64,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Idempotency of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

//! What is kept of the log and of what follows from it: snapshots of the state, exports, and what was pruned.

use serde::{Deserialize, Serialize};

use super::{Body, Record, Request};
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
    /// The first entry in it; those before it were pruned already.
    #[serde(default = "first_of_all", skip_serializing_if = "is_first_of_all")]
    pub first: u64,
    /// The last entry in it.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// Idempotency of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

const fn first_of_all() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_first_of_all(first: &u64) -> bool {
    *first == 1
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
    /// How the keys of the log were handed over, where the records of that go: who knows an old key still finds the way to the new one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<HandedOver>,
    /// Idempotency of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

/// How one key of the log handed over to the next, said again when the record that said it is pruned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// The record that said it first.
    pub seq: u64,
    /// The statement that both keys signed.
    pub note: String,
}

impl HandedOver {
    /// So many are said again, the newest ones.
    pub const MAX: usize = 64;

    /// What a line says about that: an exchange of keys, or a prune that says it again.
    #[must_use]
    pub fn in_line(line: &[u8]) -> Vec<Self> {
        const ROTATED: &[u8] = br#"{"event_name":"KEY_ROTATED""#;
        const PRUNED: &[u8] = br#"{"event_name":"LOG_PRUNED""#;
        if !line.starts_with(ROTATED) && !line.starts_with(PRUNED) {
            return Vec::new();
        }
        match Record::parse(line).map(|record| (record.seq, record.body)) {
            Ok((seq, Body::KeyRotated { note, .. })) => vec![Self { seq, note }],
            Ok((_, Body::Pruned(pruned))) => pruned.keys,
            _ => Vec::new(),
        }
    }
}

impl Pruned {
    /// Up to which record a line says that the log was pruned, if it is a record of that.
    #[must_use]
    pub fn upto_in_line(line: &[u8]) -> Option<u64> {
        const EVENT: &[u8] = br#"{"event_name":"LOG_PRUNED""#;
        let record = line.starts_with(EVENT).then(|| Record::parse(line).ok()).flatten()?;
        match record.body {
            Body::Pruned(pruned) => Some(pruned.upto),
            _ => None,
        }
    }
}

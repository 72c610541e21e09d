//! The proof log.

use agentctl_api::v1;
use serde::Serialize;

use super::some;
use crate::time;

/// One line of the log.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct EntryView {
    pub seq: u64,
    pub time: Option<String>,
    pub event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    pub hash: String,
    /// The exact line, as text: hash this, not a re-serialisation of it.
    pub raw: String,
}

impl From<&v1::ProofEntry> for EntryView {
    fn from(e: &v1::ProofEntry) -> Self {
        Self {
            seq: e.seq,
            time: time::json(e.time.as_ref()),
            event: e.event.clone(),
            app: some(&e.app),
            reason: some(&e.reason),
            decision_id: some(&e.decision_id),
            hash: e.hash.clone(),
            raw: String::from_utf8_lossy(&e.raw).into_owned(),
        }
    }
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct VerificationView {
    pub valid: bool,
    /// `server`, `file` or `data_dir`: who did the work on which bytes.
    pub checked: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_id: Option<String>,
    pub entry_count: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// Empty if the chain does not reach its end.
    pub head_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions_rechecked: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions_different: Option<u64>,
    /// Entries whose place in the index was compared; absent: it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_checked: Option<u64>,
    pub elapsed_seconds: f64,
    /// Name of the log, where a checkpoint says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Root of the Merkle tree over the entries; absent where it was not computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_hash: Option<String>,
    /// Entries under the largest signed checkpoint that they lead to; absent: under none at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good_checkpoint: Option<u64>,
    /// Up to this entry some are there by their hash alone: they were pruned. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruned_upto: Option<u64>,
    /// Quorum of the policy that the checkpoint meets; absent: no policy was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<String>,
    /// The public key came with what it vouches for: whoever changed the one could change the other.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub key_came_with_it: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultView>,
}

/// The first thing that is wrong with a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct FaultView {
    pub seq: u64,
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub computed: Option<String>,
    pub summary: String,
}

impl From<&v1::ProofFault> for FaultView {
    fn from(f: &v1::ProofFault) -> Self {
        Self {
            seq: f.seq,
            reason: f.reason.clone(),
            stored: some(&f.stored),
            computed: some(&f.computed),
            summary: f.summary.clone(),
        }
    }
}

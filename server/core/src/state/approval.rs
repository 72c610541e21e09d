//! Requests for a human's decision.

use serde::{Deserialize, Serialize};

use crate::app::Millis;
use crate::choose::Diagnosis;
use crate::detect::FindingKind;
use crate::plan::Plan;

/// Where an approval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ApprovalState {
    /// Waits for a human.
    Pending,
    /// A human said yes; the gates judge again.
    Approved,
    /// Being carried out.
    Executing,
    /// Carried out and verified.
    Verified,
    /// Carried out and failed, or refused at execution.
    Failed,
    /// Carried out; nobody can tell.
    Inconclusive,
    /// A human said no.
    Rejected,
    /// Nobody answered in time.
    Expired,
    /// The plan changed; another approval replaced it.
    Superseded,
    /// The app recovered by itself.
    Cleared,
}

/// A request for a human's decision, bound to one plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Sequence number of the request.
    pub seq: u64,
    /// The plan.
    pub plan: Plan,
    /// What an approver must repeat.
    pub plan_digest: String,
    /// Decision that was held.
    pub decision: u64,
    /// Who proposed it: the agent's id or a principal.
    pub requester: String,
    /// Whether that is a human.
    pub human: bool,
    /// Why.
    pub because: Vec<FindingKind>,
    /// When.
    pub requested_at: Millis,
    /// Expires then.
    pub expires_at: Millis,
    /// Where it is.
    pub state: ApprovalState,
    /// Who answered.
    pub decided_by: Option<String>,
    /// What they said.
    pub comment: Option<String>,
    /// What the learner made of the incident, and what it expects of the plan: what comes of it is compared with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
    /// Whether it was drawn to explore: the best is not put in its place as long as it waits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub explored: bool,
}

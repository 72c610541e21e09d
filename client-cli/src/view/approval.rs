//! Approvals.

use agentctl_api::v1;
use serde::Serialize;

use super::decision::PlanView;
use super::some;
use crate::time;

/// A request to a human.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct ApprovalView {
    pub id: String,
    pub state: String,
    pub decision_id: String,
    pub app: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanView>,
    pub requested_by: String,
    pub summary: String,
    pub create_time: Option<String>,
    pub expire_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decide_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decide_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<String>,
}

impl From<&v1::Approval> for ApprovalView {
    fn from(a: &v1::Approval) -> Self {
        Self {
            id: a.id.clone(),
            state: super::approval_state(a.state),
            decision_id: a.decision_id.clone(),
            app: a.app.clone(),
            plan: a.plan.as_ref().map(Into::into),
            requested_by: a.requested_by.clone(),
            summary: a.summary.clone(),
            create_time: time::json(a.create_time.as_ref()),
            expire_time: time::json(a.expire_time.as_ref()),
            decide_time: time::json(a.decide_time.as_ref()),
            decided_by: some(&a.decided_by),
            decide_reason: some(&a.decide_reason),
            superseded_by: some(&a.superseded_by),
        }
    }
}

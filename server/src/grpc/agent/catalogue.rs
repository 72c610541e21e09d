//! What is compiled in or loaded and does not change: the gates, the reason codes, the policy.

use agentctl_api::v1;
use agentd_core::gates::GATES;
use agentd_core::policy::Policy;
use agentd_core::reason::Reason;
use tonic::Status;

use crate::grpc::{ids, status, to_proto};

/// Every gate with every reason it can give.
pub(super) fn gates() -> Vec<v1::Gate> {
    GATES
        .iter()
        .map(|gate| v1::Gate {
            id: gate.id.to_owned(),
            group: to_proto::group(gate.group).into(),
            summary: gate.summary.to_owned(),
            reasons: gate.reasons.iter().copied().map(reason).collect(),
        })
        .collect()
}

fn reason(reason: Reason) -> v1::ReasonInfo {
    v1::ReasonInfo {
        code: reason.as_str().to_owned(),
        what: reason.what().to_owned(),
        why: reason.why().to_owned(),
        remedy: reason.todo().to_owned(),
    }
}

/// The policy as the text of a file that could be loaded again.
pub(super) fn policy(policy: &Policy, origin: &str) -> Result<v1::GetPolicyResponse, Status> {
    let text = toml::to_string_pretty(policy).map_err(|error| {
        tracing::error!(%error, "the policy cannot be written as TOML");
        status::internal("policy")
    })?;
    Ok(v1::GetPolicyResponse {
        text,
        format: "toml".to_owned(),
        digest: ids::digest(&policy.digest()),
        origin: origin.to_owned(),
    })
}

//! What a record is about, beside its app: the reason it carries and the decision it belongs to.

use super::{Body, Record};
use crate::reason::Reason;
use crate::verdict::Ruling;

/// The reason of a ruling that nothing blocked.
pub const GATES_PASSED: &str = "EXECUTION_GATE_PASSED";

impl Ruling {
    /// The reason code that names it.
    #[must_use]
    pub const fn reason_code(&self) -> &'static str {
        match self {
            Self::Permitted => GATES_PASSED,
            Self::Held { reason } | Self::Refused { reason, .. } => reason.as_str(),
        }
    }
}

impl Record {
    /// The reason code it carries.
    #[must_use]
    pub const fn reason(&self) -> Option<&'static str> {
        match &self.body {
            Body::Decided(decided) => Some(decided.ruling.reason_code()),
            Body::Blocked { verdict, .. } => match verdict.reason {
                Some(reason) => Some(reason.as_str()),
                None => None,
            },
            Body::Refused { reason, .. } => Some(reason.as_str()),
            Body::GatesPassed { .. } => Some(GATES_PASSED),
            Body::IntakeValidated => Some(Reason::RlIntakeValidated.as_str()),
            _ => None,
        }
    }

    /// The decision it belongs to.
    #[must_use]
    pub const fn decision_seq(&self) -> Option<u64> {
        match &self.body {
            Body::Decided(_) => Some(self.seq),
            Body::Attempted(attempt) => Some(attempt.decision),
            Body::Delivered { decision, .. }
            | Body::Indeterminate { decision }
            | Body::Repeated { decision, .. } => Some(*decision),
            Body::Concluded(concluded) => Some(concluded.decision),
            Body::ApprovalRequested(approval) => Some(approval.decision),
            Body::IntakeValidated
            | Body::GatesPassed { .. }
            | Body::Blocked { .. }
            | Body::Refused { .. }
            | Body::RefusalEmitted
            | Body::DeploymentTriggered { .. }
            | Body::Autonomous { .. }
            | Body::Answered { .. }
            | Body::ApprovalAnswered { .. }
            | Body::ApprovalEnded { .. }
            | Body::Escalated { .. }
            | Body::Offboarded { .. } => self.cause,
            _ => None,
        }
    }
}

//! Event names: how the records are called in the export.

use super::Body;
use crate::state::{ApprovalState, Outcome};

impl Body {
    /// Whether a line is the record of a recovery, which tells of all that was cut off the log before it.
    #[must_use]
    pub fn is_recovery(line: &[u8]) -> bool {
        line.starts_with(br#"{"event_name":"LOG_RECOVERED","#)
    }

    /// The event name in the export.
    #[must_use]
    pub const fn event_name(&self) -> &'static str {
        match self {
            Self::Started(_) => "AGENT_STARTED",
            Self::Stopped(_) => "AGENT_STOPPED",
            Self::LogRecovered { .. } => "LOG_RECOVERED",
            // Only what could not be read from beside the log is called so.
            Self::Detached(_) => "BODY_DETACHED",
            Self::KeyRotated { .. } => "KEY_ROTATED",
            Self::Snapshotted(_) => "STATE_SNAPSHOT",
            Self::Exported(_) => "LOG_EXPORTED",
            Self::Pruned(_) => "LOG_PRUNED",
            Self::PolicyApplied { .. } => "POLICY_APPLIED",
            Self::Offboarded { .. } => "APP_OFFBOARDED",
            Self::OnboardingStarted { .. } => "ONBOARDING_STARTED",
            Self::OnboardingPassed => "ONBOARDING_VALIDATION_PASSED",
            Self::OnboardingRefused { .. } => "ONBOARDING_REFUSED",
            Self::SpecGenerated { .. } => "SPEC_GENERATED",
            Self::DeploymentTriggered { .. } => "DEPLOYMENT_TRIGGERED",
            Self::Observed { .. } => "RUNTIME_EMIT",
            Self::Raised(_) => "FINDING_RAISED",
            Self::Cleared { .. } => "FINDING_CLEARED",
            Self::HealthChanged { .. } => "HEALTH_CHANGED",
            Self::Consumed { .. } => "RL_CONSUME",
            Self::Decided(_) => "RL_DECISION",
            Self::IntakeValidated => "RL_INTAKE_VALIDATED",
            Self::GatesPassed { .. } => "EXECUTION_GATE_PASSED",
            Self::Blocked { verdict, .. } => match verdict.reason {
                Some(reason) => reason.as_str(),
                None => "ORCH_REFUSE",
            },
            Self::Refused { .. } => "ORCH_REFUSE",
            Self::RefusalEmitted => "REFUSAL_EMIT_SUCCESS",
            Self::Attempted(_) => "ORCH_EXEC",
            Self::Autonomous { .. } => "AUTONOMOUS_OPERATION",
            Self::Delivered { .. } => "ORCH_DELIVERED",
            Self::Indeterminate { .. } => "ORCH_OUTCOME_UNKNOWN",
            Self::Concluded(concluded) => match concluded.outcome {
                Outcome::Verified => "SYSTEM_STABLE",
                Outcome::Failed => "ACTION_FAILED",
                Outcome::Inconclusive => "ACTION_INCONCLUSIVE",
            },
            Self::Learned { .. } => "LEARNING_UPDATED",
            Self::LearningChanged(change) => change.event_name(),
            Self::LearningSkipped { .. } => "LEARNING_SKIPPED",
            Self::Answered { .. } => "REQUEST_ANSWERED",
            Self::ApprovalRequested(_) => "APPROVAL_REQUESTED",
            Self::ApprovalAnswered { state, .. } | Self::ApprovalEnded { state, .. } => {
                approval_event(*state)
            }
            Self::PauseSet { pause, .. } if pause.halt => "MODE_HALTED",
            Self::PauseSet { .. } => "MODE_PAUSED",
            Self::PauseLifted { .. } => "MODE_RESUMED",
            Self::FreezeSet { frozen: true, .. } => "LEARNING_FROZEN",
            Self::FreezeSet { .. } => "LEARNING_UNFROZEN",
            Self::SignalsExpired { .. } => "SIGNALS_EXPIRED",
            Self::StormBegan { .. } => "STORM_BEGAN",
            Self::StormCalm { .. } => "STORM_CALM",
            Self::StormEnded => "STORM_ENDED",
            Self::Escalated { .. } => "ESCALATED",
            Self::Repeated { .. } => "DECISION_REPEATED",
            Self::Injected { .. } => "FAILURE_INJECTED",
            Self::Demoted(_) => "AUTONOMY_DEMOTED",
            Self::Heartbeat(_) => "HEARTBEAT",
            Self::Transition { .. } => "STATE_TRANSITION",
        }
    }
}

const fn approval_event(state: ApprovalState) -> &'static str {
    match state {
        ApprovalState::Pending => "APPROVAL_REQUESTED",
        ApprovalState::Approved => "APPROVAL_GRANTED",
        ApprovalState::Executing => "APPROVAL_EXECUTING",
        ApprovalState::Verified => "APPROVAL_VERIFIED",
        ApprovalState::Failed => "APPROVAL_FAILED",
        ApprovalState::Inconclusive => "APPROVAL_INCONCLUSIVE",
        ApprovalState::Rejected => "APPROVAL_REJECTED",
        ApprovalState::Expired => "APPROVAL_EXPIRED",
        ApprovalState::Superseded => "APPROVAL_SUPERSEDED",
        ApprovalState::Cleared => "APPROVAL_CLEARED",
    }
}

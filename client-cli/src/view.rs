//! What JSON and YAML carry: the stable shape of the answers, apart from the wire types.
//!
//! Times are RFC 3339, durations are seconds, enums are their short names in lower case. What is not known is absent.

pub mod agent;
pub mod app;
pub mod approval;
pub mod decision;
pub mod proof;

use agentctl_api::v1;

/// The value's own part of a generated enum name: `RULING_PERMITTED` is `permitted`.
fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

macro_rules! enum_names {
    ($($(#[$doc:meta])* $name:ident($kind:ident, $prefix:literal);)+) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(value: i32) -> String {
            match v1::$kind::try_from(value) {
                Ok(kind) => short(kind.as_str_name(), $prefix),
                // A newer server: show what it said.
                Err(_) => format!("unknown_{value}"),
            }
        })+
    };
}

enum_names! {
    /// Short name of an `AppHealth`.
    app_health(AppHealth, "APP_HEALTH_");
    /// Short name of an `InstanceState`.
    instance_state(InstanceState, "INSTANCE_STATE_");
    /// Short name of an `AutonomyLevel`.
    autonomy_level(AutonomyLevel, "AUTONOMY_LEVEL_");
    /// Short name of a `Ruling`.
    ruling(Ruling, "RULING_");
    /// Short name of a `GateEffect`.
    gate_effect(GateEffect, "GATE_EFFECT_");
    /// Short name of a `GateGroup`.
    gate_group(GateGroup, "GATE_GROUP_");
    /// Short name of a `DecisionSource`.
    decision_source(DecisionSource, "DECISION_SOURCE_");
    /// Short name of an `OutcomeKind`.
    outcome_kind(OutcomeKind, "OUTCOME_KIND_");
    /// Short name of an `ApprovalState`.
    approval_state(ApprovalState, "APPROVAL_STATE_");
    /// Short name of a `ModeKind`.
    mode_kind(ModeKind, "MODE_KIND_");
    /// Short name of an `AgentState`.
    agent_state(AgentState, "AGENT_STATE_");
    /// Short name of a `JournalState`.
    journal_state(JournalState, "JOURNAL_STATE_");
    /// Short name of a `StepStatus`.
    step_status(StepStatus, "STEP_STATUS_");
}

/// `None` for an empty text: absent in JSON.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// How a process ended, as text: `exit 1` or `signal 9`.
#[must_use]
pub fn exit_text(exit: &v1::Exit) -> String {
    match exit.how {
        Some(v1::exit::How::Code(code)) => format!("exit {code}"),
        Some(v1::exit::How::Signal(signal)) => match signal_name(signal) {
            Some(name) => format!("signal {signal} ({name})"),
            None => format!("signal {signal}"),
        },
        None => "ended".to_owned(),
    }
}

const fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "HUP",
        2 => "INT",
        6 => "ABRT",
        9 => "KILL",
        11 => "SEGV",
        15 => "TERM",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_have_short_names_and_unknown_values_stay_visible() {
        assert_eq!(ruling(v1::Ruling::Permitted.into()), "permitted");
        assert_eq!(agent_state(v1::AgentState::ObservingResults.into()), "observing_results");
        assert_eq!(app_health(99), "unknown_99");
    }

    #[test]
    fn an_exit_names_its_signal() {
        let how = Some(v1::exit::How::Signal(9));
        assert_eq!(exit_text(&v1::Exit { how }), "signal 9 (KILL)");
        let how = Some(v1::exit::How::Code(1));
        assert_eq!(exit_text(&v1::Exit { how }), "exit 1");
    }
}

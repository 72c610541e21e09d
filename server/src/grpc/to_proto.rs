//! From core types to the wire. Nothing else builds messages of nouns that more than one service speaks of.

use std::collections::BTreeMap;

use agentctl_api::v1;
use agentd_core::action::{Action, Level, Risk};
use agentd_core::app::Millis;
use agentd_core::explain;
use agentd_core::plan::{Operation, Plan, Target};
use agentd_core::reason::Reason;
use agentd_core::signal::{Exit, MICRO, Metric};
use agentd_core::state::{Approval, ApprovalState, Mode, Outcome, Pause, Scope, State};
use agentd_core::verdict::{Effect, Fact, Ruling, Verdict};
use prost_types::{Duration, Timestamp};

use super::ids;
use crate::agent::AgentView;

mod app;
mod decision;
mod event;
mod learning;

pub use app::{app, last_decision, reading};
pub use decision::{
    Aftermath, Subject, decision, decision_summary, evidence, findings_of, judged, summarized,
};
pub(crate) use decision::{complete_remembered, is_reason};
pub use event::{event, proof_entry, sentence};
pub use learning::{PROMOTE, backtest, promotion};

/// A moment.
#[must_use]
pub fn timestamp(at: Millis) -> Timestamp {
    let seconds = i64::try_from(at / 1_000).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos: nanos(at) }
}

/// A span.
#[must_use]
pub fn duration(ms: Millis) -> Duration {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    Duration { seconds, nanos: nanos(ms) }
}

fn nanos(ms: Millis) -> i32 {
    i32::try_from(ms % 1_000).unwrap_or(0) * 1_000_000
}

/// A revision number as text.
#[must_use]
pub fn revision(number: u32) -> String {
    number.to_string()
}

/// A share in permille as a number from 0 to 1.
#[must_use]
pub fn share(permille: u32) -> f64 {
    f64::from(permille) / 1_000.0
}

/// A fixed-point value in its natural unit.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "at most 1e15, which a double holds exactly")]
pub fn natural(micro: i64) -> f64 {
    micro as f64 / MICRO as f64
}

/// A fact as text with its unit; empty where there is none.
#[must_use]
pub fn fact(fact: &Fact) -> String {
    match fact {
        Fact::None => String::new(),
        other => explain::fact(other),
    }
}

/// As [`fact`], for the value of a metric.
#[must_use]
pub fn measured(metric: Option<Metric>, value: &Fact) -> String {
    let text = fact(value);
    match (metric, value) {
        (Some(Metric::LatencyP50 | Metric::LatencyP99), Fact::Micro(_)) => format!("{text} s"),
        (Some(Metric::RequestRate), Fact::Micro(_)) => format!("{text}/s"),
        _ => text,
    }
}

/// A ruling.
#[must_use]
pub const fn ruling(ruling: &Ruling) -> v1::Ruling {
    match ruling {
        Ruling::Permitted => v1::Ruling::Permitted,
        Ruling::Held { .. } => v1::Ruling::Held,
        Ruling::Refused { .. } => v1::Ruling::Refused,
    }
}

/// An outcome.
#[must_use]
pub const fn outcome(outcome: Outcome) -> v1::OutcomeKind {
    match outcome {
        Outcome::Verified => v1::OutcomeKind::Verified,
        Outcome::Failed => v1::OutcomeKind::Failed,
        Outcome::Inconclusive => v1::OutcomeKind::Inconclusive,
    }
}

/// An autonomy level.
#[must_use]
pub const fn level(level: Level) -> v1::AutonomyLevel {
    match level {
        Level::Off => v1::AutonomyLevel::Off,
        Level::Shadow => v1::AutonomyLevel::Shadow,
        Level::Propose => v1::AutonomyLevel::Propose,
        Level::Auto => v1::AutonomyLevel::Auto,
    }
}

/// A group of gates, 1 to 7.
#[must_use]
pub fn group(group: u8) -> v1::GateGroup {
    v1::GateGroup::try_from(i32::from(group)).unwrap_or(v1::GateGroup::Unspecified)
}

/// A risk class.
#[must_use]
pub const fn risk(risk: Risk) -> &'static str {
    match risk {
        Risk::None => "R0",
        Risk::R1 => "R1",
        Risk::R2 => "R2",
        Risk::R3 => "R3",
    }
}

/// How a process ended; absent if nobody could tell.
#[must_use]
pub const fn exit(exit: Exit) -> Option<v1::Exit> {
    let how = match exit {
        Exit::Code(code) => v1::exit::How::Code(code),
        Exit::Signal(signal) => v1::exit::How::Signal(signal),
        Exit::Unknown => return None,
    };
    Some(v1::Exit { how: Some(how) })
}

/// The state of an approval.
#[must_use]
pub const fn approval_state(state: ApprovalState) -> v1::ApprovalState {
    match state {
        ApprovalState::Pending => v1::ApprovalState::Pending,
        ApprovalState::Approved => v1::ApprovalState::Approved,
        ApprovalState::Executing => v1::ApprovalState::Executing,
        ApprovalState::Verified => v1::ApprovalState::Verified,
        ApprovalState::Failed => v1::ApprovalState::Failed,
        ApprovalState::Inconclusive => v1::ApprovalState::Inconclusive,
        ApprovalState::Rejected => v1::ApprovalState::Rejected,
        ApprovalState::Expired => v1::ApprovalState::Expired,
        ApprovalState::Superseded => v1::ApprovalState::Superseded,
        ApprovalState::Cleared => v1::ApprovalState::Cleared,
    }
}

/// One gate's judgement of `action`.
#[must_use]
pub fn verdict(verdict: &Verdict, action: Action) -> v1::Verdict {
    let effect = match verdict.effect {
        Effect::Pass => v1::GateEffect::Pass,
        Effect::Hold => v1::GateEffect::Hold,
        Effect::Refuse => v1::GateEffect::Refuse,
    };
    v1::Verdict {
        gate: verdict.gate.to_string(),
        group: group(verdict.group).into(),
        effect: effect.into(),
        reason: verdict.reason.map(Reason::as_str).unwrap_or_default().to_owned(),
        value: fact(&verdict.value),
        limit: fact(&verdict.limit),
        clear_time: verdict.clears_at.map(timestamp),
        self_imposed: verdict.self_imposed,
        summary: explain::verdict(verdict, action),
    }
}

/// A plan. `instances` is the number of instances of its app, on which the risk of a restart depends; `deadline_ms` is what the
/// policy gives it, where that is at hand.
#[must_use]
pub fn plan(
    plan: &Plan,
    policy_digest: &str,
    instances: u32,
    deadline_ms: Option<Millis>,
) -> v1::Plan {
    let (from, to) = match plan.operation {
        Operation::Deploy { revision: to, .. } => (String::new(), revision(to)),
        Operation::Rollback { from, to, .. } => (revision(from), revision(to)),
        Operation::Configure { revision: to, .. } => (revision(plan.revision), revision(to)),
        Operation::Offboard { .. } => (revision(plan.revision), String::new()),
        _ => (revision(plan.revision), revision(plan.revision)),
    };
    let targets = match &plan.operation {
        Operation::Restart { targets } => targets.iter().map(target).collect(),
        _ => Vec::new(),
    };
    v1::Plan {
        action: plan.action.as_str().to_owned(),
        app: plan.app.to_string(),
        parameters: parameters(&plan.operation),
        from_revision: from,
        to_revision: to,
        targets,
        inverse_action: inverse(plan).map(Action::as_str).unwrap_or_default().to_owned(),
        deadline: deadline_ms.map(duration),
        risk: risk(plan.action.risk(instances)).to_owned(),
        digest: ids::digest(&plan.digest(policy_digest)),
    }
}

fn target(target: &Target) -> String {
    let Target { slot, fence, running } = target;
    match fence {
        Some(fence) if *running => format!(
            "instance {slot}: pid {} started at tick {} of boot {}",
            fence.pid, fence.start_time, fence.boot_id
        ),
        Some(fence) => format!("instance {slot}: not running, was pid {}", fence.pid),
        None => format!("instance {slot}: never ran"),
    }
}

/// What an operation does beyond its action, by name.
#[must_use]
pub fn parameters(operation: &Operation) -> BTreeMap<String, String> {
    let named = |pairs: &[(&str, String)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    };
    match operation {
        Operation::Deploy { revision, instances } => {
            named(&[("instances", instances.to_string()), ("revision", revision.to_string())])
        }
        Operation::Restart { targets } => {
            let slots: Vec<String> = targets.iter().map(|t| t.slot.to_string()).collect();
            named(&[("slots", slots.join(","))])
        }
        Operation::Scale { from, to } => {
            named(&[("from_instances", from.to_string()), ("instances", to.to_string())])
        }
        Operation::Rollback { to, instances, .. } => {
            named(&[("instances", instances.to_string()), ("revision", to.to_string())])
        }
        Operation::Configure { revision, raises: None } => {
            named(&[("revision", revision.to_string())])
        }
        Operation::Configure { revision, raises: Some(level) } => named(&[
            ("raises_autonomy_to", level.as_str().to_owned()),
            ("revision", revision.to_string()),
        ]),
        Operation::Offboard { instances } => named(&[("instances", instances.to_string())]),
        Operation::AdjustThreshold { metric, enter, leave } => named(&[
            ("enter", explain::fact(&Fact::Micro(*enter))),
            ("leave", explain::fact(&Fact::Micro(*leave))),
            ("metric", metric.as_str().to_owned()),
        ]),
    }
}

const fn inverse(plan: &Plan) -> Option<Action> {
    match plan.operation {
        Operation::Scale { from, to } if to > from => Some(Action::ScaleDown),
        Operation::Scale { .. } => Some(Action::ScaleUp),
        Operation::AdjustThreshold { .. } => Some(Action::AdjustThresholds),
        Operation::Configure { .. } => Some(Action::Configure),
        Operation::Deploy { .. }
        | Operation::Restart { .. }
        | Operation::Rollback { .. }
        | Operation::Offboard { .. } => None,
    }
}

/// An approval, as far as the state knows it: when it was answered is in the log.
#[must_use]
pub fn approval(view: &AgentView<'_>, approval: &Approval) -> v1::Approval {
    let app = view.state.apps.get(&approval.plan.app);
    let instances = app.map_or(1, |app| app.desired);
    let deadline = Some(view.policy.verification.deadline_ms);
    let mut plan = plan(&approval.plan, &view.state.policy_digest, instances, deadline);
    // What is approved is what was shown, also when the policy has changed since.
    plan.digest = ids::digest(&approval.plan_digest);
    v1::Approval {
        id: ids::approval(approval.seq),
        state: approval_state(approval.state).into(),
        decision_id: ids::decision(approval.decision),
        app: approval.plan.app.to_string(),
        plan: Some(plan),
        requested_by: approval.requester.clone(),
        summary: asked_because(approval),
        create_time: Some(timestamp(approval.requested_at)),
        expire_time: Some(timestamp(approval.expires_at)),
        decide_time: None,
        decided_by: approval.decided_by.clone().unwrap_or_default(),
        decide_reason: approval.comment.clone().unwrap_or_default(),
        superseded_by: superseded_by(view.state, approval).map(ids::approval).unwrap_or_default(),
    }
}

fn asked_because(approval: &Approval) -> String {
    let (action, app) = (approval.plan.action, &approval.plan.app);
    let why: Vec<&str> = approval.because.iter().map(|kind| kind.as_str()).collect();
    if why.is_empty() {
        format!("{} asks for {action} of {app}", approval.requester)
    } else {
        format!("{action} of {app} because of {}", why.join(", "))
    }
}

fn superseded_by(state: &State, approval: &Approval) -> Option<u64> {
    if approval.state != ApprovalState::Superseded {
        return None;
    }
    let later = approval.seq.checked_add(1)?;
    let mut newer = state.approvals.range(later..);
    newer.find(|(_, other)| other.plan.app == approval.plan.app).map(|(seq, _)| *seq)
}

/// What a pause covers.
#[must_use]
pub fn scope(scope: &Scope) -> v1::Scope {
    let target = match scope {
        Scope::Env => v1::scope::Target::Environment(true),
        Scope::App(app) => v1::scope::Target::App(app.to_string()),
        Scope::Action(action) => v1::scope::Target::Action(action.as_str().to_owned()),
    };
    v1::Scope { target: Some(target) }
}

/// A pause or a halt.
#[must_use]
pub fn pause(pause: &Pause) -> v1::Mode {
    let kind = if pause.halt { v1::ModeKind::Halt } else { v1::ModeKind::Pause };
    v1::Mode {
        kind: kind.into(),
        scope: Some(scope(&pause.scope)),
        reason: pause.reason.clone(),
        set_by: pause.by.clone(),
        set_time: Some(timestamp(pause.since)),
        expire_time: pause.until.map(timestamp),
    }
}

/// Every restriction in force. Who froze learning, and when, is in the log and not in the state.
#[must_use]
pub fn modes(mode: &Mode) -> Vec<v1::Mode> {
    let environment = |kind: v1::ModeKind, set_by: &str| v1::Mode {
        kind: kind.into(),
        scope: Some(scope(&Scope::Env)),
        set_by: set_by.to_owned(),
        ..v1::Mode::default()
    };
    let mut modes: Vec<v1::Mode> = mode.pauses.iter().map(pause).collect();
    if mode.frozen {
        modes.push(environment(v1::ModeKind::Freeze, ""));
    }
    if mode.dry_run {
        modes.push(environment(v1::ModeKind::DryRun, "config"));
    }
    if mode.demo {
        modes.push(environment(v1::ModeKind::Demo, "config"));
    }
    modes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_milliseconds() {
        let at = timestamp(1_700_000_000_123);
        assert_eq!((at.seconds, at.nanos), (1_700_000_000, 123_000_000));
        let span = duration(59_999);
        assert_eq!((span.seconds, span.nanos), (59, 999_000_000));
    }

    #[test]
    fn every_group_of_gates_has_a_name_on_the_wire() {
        for number in 1..=7 {
            assert_ne!(group(number), v1::GateGroup::Unspecified, "{number}");
        }
        assert_eq!(group(0), v1::GateGroup::Unspecified);
        assert_eq!(group(8), v1::GateGroup::Unspecified);
    }

    #[test]
    fn a_value_has_the_unit_of_its_metric_and_nothing_is_nothing() {
        let two = Fact::Micro(2 * MICRO);
        assert_eq!(measured(Some(Metric::LatencyP99), &two), "2.000 s");
        assert_eq!(measured(Some(Metric::RequestRate), &two), "2.000/s");
        assert_eq!(measured(Some(Metric::CpuUtilization), &two), "2.000");
        assert_eq!(measured(None, &Fact::None), "");
    }

    #[test]
    fn every_restriction_in_force_is_listed() {
        let pause = Pause {
            scope: Scope::Action(Action::Restart),
            halt: true,
            by: "ada".into(),
            reason: "drill".into(),
            since: 1,
            until: Some(2),
        };
        let mode = Mode { pauses: vec![pause], frozen: true, dry_run: true, demo: true };
        let kinds: Vec<v1::ModeKind> = modes(&mode).iter().map(v1::Mode::kind).collect();
        use v1::ModeKind::{Demo, DryRun, Freeze, Halt};
        assert_eq!(kinds, [Halt, Freeze, DryRun, Demo]);
    }
}

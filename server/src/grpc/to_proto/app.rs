//! Apps on the wire, from the state and the newest reading.

use agentctl_api::v1;
use agentd_core::action::Action;
use agentd_core::app::{AppName, Millis};
use agentd_core::detect::FindingKind;
use agentd_core::policy::Policy;
use agentd_core::signal::{Metric, Reading, Series};
use agentd_core::state::{AppState, ApprovalState, Health, Instance, Phase, SpecHistory};
use agentd_core::uptime::Ledger;

use super::{exit, level, natural, outcome, revision, timestamp};
use crate::agent::AgentView;
use crate::grpc::ids;

/// An app as it is now; `None` if there is no such app. Of the newest decision the ruling is in the log, not in the state:
/// [`super::decision_summary`] of its record says it.
#[must_use]
pub fn app(view: &AgentView<'_>, name: &AppName) -> Option<v1::App> {
    let state = view.state.apps.get(name)?;
    let history = view.state.specs.get(name);
    let spec = history.and_then(SpecHistory::spec);
    let profile = &state.profile;
    let seen = view.readings.get(name);
    let pending = |approval: &&agentd_core::state::Approval| {
        approval.state == ApprovalState::Pending && approval.plan.app == *name
    };
    let pending = view.state.approvals.values().filter(pending).count();
    let ledger = view.state.ledgers.get(name);
    let running = history.map_or(profile.revision, |history| history.current);
    Some(v1::App {
        name: name.to_string(),
        environment: view.state.env.as_str().to_owned(),
        runtime: spec.map(|s| s.runtime.as_str()).unwrap_or_default().to_owned(),
        revision: revision(running),
        spec_digest: ids::digest(&profile.spec_digest),
        health: health(state).into(),
        desired_instances: state.desired,
        ready_instances: state.ready(),
        min_instances: profile.min,
        max_instances: profile.max,
        instances: state.instances.iter().map(|(slot, i)| instance(*slot, i, running)).collect(),
        reading: seen.and_then(|seen| reading(&seen, view.now, view.policy.freshness.silence_ms)),
        findings: findings(state),
        last_decision: last_decision(state),
        cooldowns: cooldowns(state, view.policy, view.now),
        pending_approvals: u32::try_from(pending).unwrap_or(u32::MAX),
        autonomy_level: profile.autonomy.map_or(v1::AutonomyLevel::Unspecified, level).into(),
        labels: spec.map(|s| s.labels.clone()).unwrap_or_default(),
        create_time: Some(timestamp(state.onboarded_at)),
        listen: spec.and_then(|s| s.listen.clone()).unwrap_or_default(),
        availability: ledger.and_then(|ledger| availability(ledger, view.now)),
        etag: history.map(|history| history.etag(state.onboarded_at)).unwrap_or_default(),
    })
}

fn health(state: &AppState) -> v1::AppHealth {
    let starting = state.instances.values().any(|i| i.phase == Phase::Starting);
    let deploying = state.attempt.as_ref().is_some_and(|a| a.plan.action == Action::Deploy);
    match state.health() {
        Health::Healthy => v1::AppHealth::Healthy,
        Health::Degraded => v1::AppHealth::Degraded,
        Health::Unknown => v1::AppHealth::Unknown,
        Health::Down if starting || deploying => v1::AppHealth::Starting,
        Health::Down => v1::AppHealth::Down,
    }
}

/// What a phase is called in evidence.
pub(super) const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Unready => "unready",
        Phase::Exited => "exited",
        Phase::Stopped => "stopped",
    }
}

fn instance(slot: u32, instance: &Instance, running_revision: u32) -> v1::Instance {
    let state = match instance.phase {
        Phase::Starting => v1::InstanceState::Starting,
        Phase::Ready => v1::InstanceState::Ready,
        Phase::Unready => v1::InstanceState::Unready,
        Phase::Exited | Phase::Stopped => v1::InstanceState::Exited,
    };
    let running = instance.phase.is_running();
    let pid = instance.fence.as_ref().filter(|_| running).map_or(0, |fence| fence.pid);
    v1::Instance {
        index: slot,
        state: state.into(),
        pid,
        start_time: running.then(|| timestamp(instance.started_at)),
        ready_time: (instance.phase == Phase::Ready).then(|| timestamp(instance.since)),
        restart_count: u64::from(instance.restarts),
        last_exit: instance.last_exit.and_then(exit),
        // A reading is merged over the instances: it says nothing about one of them.
        cpu_utilization: None,
        memory_utilization: None,
        revision: revision(running_revision),
        address: String::new(),
    }
}

/// The newest reading, merged over instances and, where sources disagree, the worst of them. `None` before the first signal.
#[must_use]
pub fn reading(reading: &Reading, now: Millis, silence_ms: Millis) -> Option<v1::AppReading> {
    let last_seen = reading.last_seen?;
    let series = |metric: Metric| reading.metrics.get(&metric).filter(|s| !s.sources.is_empty());
    let value = |metric| series(metric).and_then(worst).map(natural);
    let points = || reading.metrics.values().flat_map(|series| series.sources.iter());
    let oldest = points().map(|(_, point)| point.at).min().unwrap_or(last_seen);
    let newest = points().max_by_key(|(_, point)| point.at);
    Some(v1::AppReading {
        cpu_utilization: value(Metric::CpuUtilization),
        memory_utilization: value(Metric::MemoryUtilization),
        latency_p50_seconds: value(Metric::LatencyP50),
        latency_p99_seconds: value(Metric::LatencyP99),
        error_ratio: value(Metric::ErrorRatio),
        request_rate: value(Metric::RequestRate),
        age: Some(super::duration(now.saturating_sub(oldest))),
        source: newest.map(|(source, _)| source.clone()).unwrap_or_default(),
        stale: now.saturating_sub(last_seen) > silence_ms,
    })
}

fn worst(series: &Series) -> Option<i64> {
    series.sources.values().map(|point| point.micro).max()
}

fn findings(state: &AppState) -> Vec<v1::Finding> {
    let finding = |kind: FindingKind, since: Millis| v1::Finding {
        detector: kind.as_str().to_ascii_lowercase(),
        app: state.profile.name.to_string(),
        instance: None,
        value: String::new(),
        threshold: String::new(),
        since_time: Some(timestamp(since)),
        summary: summary_of(kind).to_owned(),
    };
    state.open.iter().map(|(kind, open)| finding(*kind, open.since)).collect()
}

/// What a kind of finding means: the one line of its detector.
fn summary_of(kind: FindingKind) -> &'static str {
    let detectors = agentd_core::detect::DETECTORS;
    detectors.iter().find(|detector| detector.kind == kind).map_or("", |found| found.summary)
}

/// The newest decision as the state remembers it, without ruling and reason.
#[must_use]
pub fn last_decision(state: &AppState) -> Option<v1::DecisionSummary> {
    let last = state.decisions.back()?;
    Some(v1::DecisionSummary {
        id: ids::decision(last.seq),
        time: Some(timestamp(last.at)),
        action: last.action.as_str().to_owned(),
        ruling: v1::Ruling::Unspecified.into(),
        reason: String::new(),
        outcome: last.outcome.map_or(v1::OutcomeKind::Unspecified, outcome).into(),
    })
}

fn cooldowns(state: &AppState, policy: &Policy, now: Millis) -> Vec<v1::Cooldown> {
    let ends = |action: Action| {
        let last = state.last_effect.get(&action)?;
        let base = policy.cooldown_ms(action);
        let reset = policy.cooldown.healthy_reset_ms;
        let recovered = state
            .healthy_since
            .is_some_and(|since| now.saturating_sub(since.max(last.at)) >= reset);
        let span = if action == Action::Restart && !recovered {
            let doubled = 1_u64.checked_shl(last.streak.saturating_sub(1)).unwrap_or(u64::MAX);
            base.saturating_mul(doubled).min(policy.cooldown.restart_cap_ms.max(base))
        } else {
            base
        };
        let end = last.at.saturating_add(span);
        let after_up =
            state.last_effect.get(&Action::ScaleUp).filter(|_| action == Action::ScaleDown);
        let end = after_up.map_or(end, |up| {
            end.max(up.at.saturating_add(policy.cooldown.scale_down_after_up_ms))
        });
        (end > now).then_some(end)
    };
    Action::ALL
        .into_iter()
        .filter_map(|action| {
            let clear_time = Some(timestamp(ends(action)?));
            Some(v1::Cooldown { action: action.as_str().to_owned(), clear_time })
        })
        .collect()
}

/// Share of the time since onboarding in which at least one instance was ready, as far as the ledger remembers. Time in which nobody
/// knew counts neither way.
fn availability(ledger: &Ledger, now: Millis) -> Option<f64> {
    let micro = ledger.report(0, now).availability_micro()?;
    Some(micro as f64 / 1e6)
}

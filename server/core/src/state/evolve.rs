//! The only mutation of the state.

use crate::app::{AppSpec, Millis};
use crate::choose::Taught;
use crate::detect::FindingKind;
use crate::graduation;
use crate::plan::Operation;
use crate::policy::Policy;
use crate::record::{Body, Concluded, Decided, Observation, Record, Request};
use crate::signal::Exit;
use crate::uptime;
use crate::verdict::Ruling;

use super::{
    APPROVALS, Answered, AppState, Approval, ApprovalState, Attempt, Before, Breaker, DECISIONS,
    EXITS, Healed, HealthChange, Instance, LastDecision, LastEffect, Open, Outcome, Pause, Phase,
    Profile, REQUESTS, REVISIONS, Remembered, Revision, STATES, SpecHistory, State, Storm,
};

mod revisions;

use revisions::{forget_refused, keep_revision, rollback_target, settle_revision, switch_revision};

const HOUR: Millis = 3_600_000;

/// Folds one record into the state. Live and in replay this is the same function; it cannot fail, and a record about an app
/// that does not exist changes nothing but the position.
pub fn evolve(state: &mut State, record: &Record, policy: &Policy) {
    uptime::account(state, record);
    state.kept.fold(record);
    state.last_seq = record.seq;
    state.last_at = state.last_at.max(record.at);
    if let Some(mut app) = record.app.as_ref().and_then(|name| state.apps.get_mut(name)) {
        evolve_app(&mut app, record, policy);
    }
    evolve_environment(state, record);
}

/// The part of [`evolve`] that concerns one app. [`crate::step`] applies it to a copy, so that the records of one step see
/// each other's effects before any of them is durable.
pub(crate) fn evolve_app(app: &mut AppState, record: &Record, policy: &Policy) {
    let at = record.at;
    graduation::follow(app, record, policy);
    match &record.body {
        Body::Observed { slot, what } => observe(app, *slot, what, at),
        Body::Raised(finding) => {
            // One incident until the app has been healthy for a while: a crash loop that looks healthy for a moment between two
            // crashes does not tell humans anew.
            let reset = policy.cooldown.healthy_reset_ms;
            if app.healthy_since.is_some_and(|since| at.saturating_sub(since) >= reset) {
                app.escalated = false;
            }
            app.open.insert(finding.kind, Open { since: at, seq: record.seq });
        }
        Body::Cleared { kind } => {
            app.open.remove(kind);
            app.cleared.insert(*kind, at);
        }
        Body::HealthChanged { health } => {
            let planned = app.attempt.as_ref().is_some_and(|attempt| attempt.trigger.is_empty());
            push_bounded(&mut app.states, HealthChange { health: *health, at, planned }, STATES);
            app.healthy_since = (*health == super::Health::Healthy).then_some(at);
        }
        Body::Decided(decided) => remember(app, decided, record.seq, at),
        Body::Attempted(attempt) => attempted(app, attempt, policy, at),
        Body::Delivered { decision, ok, untouched, .. } => {
            if let Some(attempt) = app.attempt.as_mut().filter(|a| a.decision == *decision) {
                attempt.delivered_at = Some(at);
                if *ok {
                    settle_scale(app);
                }
                if *untouched {
                    take_back(app);
                }
            }
        }
        Body::Indeterminate { decision } => {
            if let Some(attempt) = app.attempt.as_mut().filter(|a| a.decision == *decision) {
                attempt.indeterminate = true;
                attempt.delivered_at = Some(at);
            }
        }
        Body::Concluded(concluded) => conclude(app, concluded, policy, at),
        Body::Learned { lesson, calibrated, .. } => {
            let trial = calibrated.as_deref().map(|calibrated| calibrated.trial);
            let healed = Healed { at, seq: record.seq, lesson: *lesson, trial };
            match lesson.taught {
                Taught::Outcome(Outcome::Verified) => app.healed = Some(Box::new(healed)),
                Taught::Outcome(_) | Taught::Relapsed => app.healed = None,
                Taught::Rejected => {}
            }
        }
        Body::LearningSkipped { relapse: true, .. } => app.healed = None,
        Body::ApprovalRequested(approval) => app.approval = Some(approval.seq),
        Body::ApprovalAnswered { approval, .. } | Body::ApprovalEnded { approval, .. } => {
            app.approval = app.approval.filter(|pending| pending != approval);
        }
        Body::Escalated { .. } => app.escalated = true,
        Body::SignalsExpired { .. } => app.expired_at = Some(at),
        _ => {}
    }
}

fn evolve_environment(state: &mut State, record: &Record) {
    let at = record.at;
    match &record.body {
        Body::Started(started) => {
            state.mode.demo = started.demo;
            state.mode.dry_run = started.dry_run;
            state.mode.frozen |= started.frozen;
        }
        Body::PolicyApplied { digest, author, request, .. } => {
            state.policy_digest.clone_from(digest);
            state.policy_author.clone_from(author);
            if author.is_file() {
                state.policy_base.clone_from(digest);
            }
            answer(state, request.as_ref(), record.seq);
        }
        Body::Offboarded { .. } => {
            if let Some(name) = &record.app {
                state.apps.remove(name);
                state.specs.remove(name);
            }
        }
        Body::Decided(decided) => forget_refused(state, record.app.as_ref(), decided),
        Body::SpecGenerated { spec, digest, revision, request } => {
            onboard(state, spec, digest, *revision, at);
            answer(state, request.as_ref(), record.seq);
        }
        Body::Attempted(attempt) => {
            // Starting what is down disrupts nothing, and what a human asked for is on their budget.
            if attempt.plan.disrupts() > 0 && !attempt.human {
                effect(state, at);
            }
            approval_state(state, attempt.approval, ApprovalState::Executing);
            switch_revision(state, record.app.as_ref(), attempt);
        }
        Body::Delivered { untouched: true, .. } => keep_revision(state, record.app.as_ref()),
        Body::Concluded(concluded) => {
            finish_approval(state, concluded);
            settle_revision(state, record.app.as_ref(), concluded, at);
            pace(state, concluded.outcome);
        }
        Body::Learned { lesson, calibrated, candidate, .. } => {
            let trial = calibrated.as_deref().map(|calibrated| &calibrated.trial);
            state.learn(lesson, trial, *candidate);
        }
        Body::Answered { request } => {
            answer(state, Some(request), record.cause.unwrap_or(record.seq));
        }
        Body::StormBegan { .. } => {
            state.storm = Some(Storm { since: at, calm_since: None, ramp: 1 });
        }
        Body::StormCalm { calm } => {
            if let Some(storm) = &mut state.storm {
                storm.calm_since = calm.then_some(at);
            }
        }
        Body::StormEnded => state.storm = None,
        _ => evolve_requests(state, record),
    }
}

/// The part of [`evolve_environment`] that humans had a hand in.
fn evolve_requests(state: &mut State, record: &Record) {
    match &record.body {
        Body::ApprovalRequested(approval) => request_approval(state, approval),
        Body::ApprovalAnswered { approval, state: answered, comment, request } => {
            if let Some(entry) = state.approvals.get_mut(approval) {
                entry.state = *answered;
                entry.decided_by = Some(record.actor.clone());
                entry.comment = Some(comment.clone());
            } else if let Some(promotion) = state.learning.settle(*approval, *answered) {
                promotion.decided_by = Some(record.actor.clone());
                promotion.comment = Some(comment.clone());
            }
            answer(state, request.as_ref(), record.seq);
        }
        Body::ApprovalEnded { approval, state: ended } => {
            approval_state(state, Some(*approval), *ended);
            state.learning.settle(*approval, *ended);
        }
        Body::LearningChanged(change) => {
            state.change_learning(change, record);
            answer(state, change.request(), record.seq);
        }
        Body::PauseSet { pause, request } => {
            set_pause(state, pause);
            answer(state, request.as_ref(), record.seq);
        }
        Body::PauseLifted { scope, request, .. } => {
            state.mode.pauses.retain(|pause| pause.scope != *scope);
            answer(state, request.as_ref(), record.seq);
        }
        Body::Exported(export) => answer(state, export.request.as_ref(), record.seq),
        Body::Pruned(pruned) => answer(state, pruned.request.as_ref(), record.seq),
        Body::FreezeSet { frozen, request, .. } => {
            state.mode.frozen = *frozen;
            answer(state, request.as_ref(), record.seq);
        }
        _ => {}
    }
}

/// Paced starts in a storm: 1, 2, 4 ... as they verify; back to one canary at the first that does not.
fn pace(state: &mut State, outcome: Outcome) {
    if let Some(storm) = &mut state.storm {
        storm.ramp = match outcome {
            Outcome::Verified => storm.ramp.saturating_mul(2),
            Outcome::Failed | Outcome::Inconclusive => 1,
        };
    }
}

fn push_bounded<T>(queue: &mut std::collections::VecDeque<T>, item: T, limit: usize) {
    if queue.len() >= limit {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn observe(app: &mut AppState, slot: u32, what: &Observation, at: Millis) {
    if *what == Observation::Removed {
        app.instances.remove(&slot);
        return;
    }
    let instance = app.instances.entry(slot).or_insert(Instance {
        phase: Phase::Stopped,
        fence: None,
        since: at,
        started_at: at,
        restarts: 0,
        last_exit: None,
    });
    match what {
        Observation::Started { fence } => {
            if instance.fence.is_some() && instance.fence.as_ref() != Some(fence) {
                instance.restarts = instance.restarts.saturating_add(1);
            }
            instance.fence = Some(fence.clone());
            instance.started_at = at;
            instance.phase = Phase::Starting;
        }
        Observation::Ready => instance.phase = Phase::Ready,
        Observation::Unready => instance.phase = Phase::Unready,
        Observation::Exited { exit, expected, .. } => {
            instance.last_exit = Some(*exit);
            instance.phase = if *expected { Phase::Stopped } else { Phase::Exited };
            if !*expected {
                push_bounded(&mut app.exits, at, EXITS);
            }
        }
        Observation::Removed => {}
    }
    if let Some(instance) = app.instances.get_mut(&slot) {
        instance.since = at;
    }
}

fn remember(app: &mut AppState, decided: &Decided, seq: u64, at: Millis) {
    let action = decided.proposal.action;
    let human = decided.proposal.source.is_human();
    let explored = decided.proposal.explored;
    let remembered =
        Remembered { seq, at, action, executed: false, human, explored, outcome: None };
    // What was carried out is what the gates count: refusals make room first.
    if app.decisions.len() >= DECISIONS
        && let Some(unexecuted) = app.decisions.iter().position(|d| !d.executed && !d.explored)
    {
        app.decisions.remove(unexecuted);
    }
    push_bounded(&mut app.decisions, remembered, DECISIONS);
    app.last_decision = Some(LastDecision { seq, at, signature: decided.signature() });
}

fn attempted(app: &mut AppState, attempt: &Attempt, policy: &Policy, at: Millis) {
    let action = attempt.plan.action;
    if let Some(decision) = app.decisions.iter_mut().find(|d| d.seq == attempt.decision) {
        decision.executed = true;
    }
    // A human's own action starts no cooldown streak against the agent, but the effect is real: the cooldown itself counts.
    let reset = policy.cooldown.healthy_reset_ms;
    let streak = match app.last_effect.get(&action) {
        Some(last) if !app.was_healthy(reset, last.at, at) => last.streak.saturating_add(1),
        _ => 1,
    };
    app.last_effect.insert(action, LastEffect { at, streak });
    app.before = matches!(attempt.plan.operation, Operation::Deploy { .. })
        .then(|| Box::new(Before { profile: app.profile.clone(), desired: app.desired }));
    match &attempt.plan.operation {
        Operation::AdjustThreshold { metric, enter, leave } => {
            let moved = crate::app::Override { enter: *enter, leave: *leave };
            app.adjusted.insert(*metric, moved);
        }
        Operation::Scale { to, .. } => app.desired = *to,
        Operation::Deploy { instances, .. } | Operation::Rollback { instances, .. } => {
            app.desired = *instances;
        }
        // Nothing is carried out, so what is in flight stays in flight.
        Operation::Configure { .. } => return,
        Operation::Restart { .. } | Operation::Offboard { .. } => {}
    }
    app.attempt = Some(attempt.clone());
}

/// A deployment that touched nothing changed nothing: what was in force before it is in force again.
fn take_back(app: &mut AppState) {
    let Some(before) = app.before.take() else { return };
    let Before { profile, desired } = *before;
    app.profile = profile;
    app.desired = desired;
}

/// After a delivered scale-down the instances beyond the wanted count are history.
fn settle_scale(app: &mut AppState) {
    let desired = app.desired;
    app.instances.retain(|slot, instance| *slot < desired || instance.phase.is_running());
}

fn conclude(app: &mut AppState, concluded: &Concluded, policy: &Policy, at: Millis) {
    if let Some(decision) = app.decisions.iter_mut().find(|d| d.seq == concluded.decision) {
        decision.outcome = Some(concluded.outcome);
    }
    let Some(attempt) = app.attempt.take_if(|a| a.decision == concluded.decision) else { return };
    app.before = None;
    let verified = concluded.outcome == Outcome::Verified;
    match attempt.plan.operation {
        // Settings may have come into force while this one was being deployed, and no retry takes them back; and one that touched
        // nothing has left the revision before it in force.
        Operation::Deploy { revision, .. } => {
            app.profile.failed_revision = (!verified).then_some(app.profile.revision.max(revision));
        }
        // What was taken back has not failed any more.
        Operation::Rollback { .. } if verified => app.profile.failed_revision = None,
        _ => {}
    }
    if !concluded.human {
        let breaker = app.breakers.entry(concluded.action).or_default();
        settle_breaker(breaker, concluded.outcome, policy, at);
        if *breaker == Breaker::default() {
            app.breakers.remove(&concluded.action);
        }
    }
}

fn settle_breaker(breaker: &mut Breaker, outcome: Outcome, policy: &Policy, at: Millis) {
    if outcome == Outcome::Verified {
        *breaker = Breaker::default();
        return;
    }
    breaker.failures = breaker.failures.saturating_add(1);
    // A failed probe of an open breaker re-opens it at once; a closed one waits for the limit.
    if breaker.opens > 0 || breaker.failures >= policy.breaker.failures {
        let factor = 1_u64.checked_shl(breaker.opens).unwrap_or(u64::MAX);
        let open = policy.breaker.open_ms.saturating_mul(factor).min(policy.breaker.open_cap_ms);
        breaker.open_until = Some(at.saturating_add(open));
        breaker.opens = breaker.opens.saturating_add(1);
    }
}

fn onboard(state: &mut State, spec: &AppSpec, digest: &str, revision: u32, at: Millis) {
    let history = state.specs.entry(spec.name.clone()).or_insert_with(|| SpecHistory {
        revisions: Vec::new(),
        current: revision,
        newest: 0,
    });
    if history.revisions.len() >= REVISIONS {
        let back = rollback_target(history);
        let needed = |number: u32| number == history.current || Some(number) == back;
        let oldest = history.revisions.iter().position(|r| !needed(r.number));
        history.revisions.remove(oldest.unwrap_or(0));
    }
    history.newest = revision;
    history.revisions.push(Revision {
        number: revision,
        digest: digest.to_owned(),
        spec: spec.clone(),
        verified_at: None,
        rolled_back_to: false,
        settings: false,
    });
    let new = || new_app(spec, digest, revision, at);
    let mut app = state.apps.get_or_insert(spec.name.clone(), new);
    app.profile.rollback_to = rollback_target(history);
}

/// The state of an app at the moment its specification is recorded.
pub(crate) fn new_app(spec: &AppSpec, digest: &str, revision: u32, at: Millis) -> AppState {
    AppState {
        profile: profile(spec, digest, revision),
        desired: spec.instances.desired,
        instances: Default::default(),
        open: Default::default(),
        cleared: Default::default(),
        decisions: Default::default(),
        states: Default::default(),
        last_effect: Default::default(),
        breakers: Default::default(),
        attempt: None,
        approval: None,
        exits: Default::default(),
        healthy_since: None,
        last_decision: None,
        adjusted: Default::default(),
        onboarded_at: at,
        escalated: false,
        standing: Default::default(),
        before: None,
        healed: None,
        expired_at: None,
    }
}

fn profile(spec: &AppSpec, digest: &str, revision: u32) -> Profile {
    Profile {
        name: spec.name.clone(),
        revision,
        spec_digest: digest.to_owned(),
        min: spec.instances.min,
        max: spec.instances.max,
        protected: spec.is_protected(),
        autonomy: spec.autonomy,
        has_health: spec.health.is_some(),
        thresholds: spec.thresholds.clone(),
        windows: spec.windows.clone(),
        rollback_to: None,
        failed_revision: None,
    }
}

fn effect(state: &mut State, at: Millis) {
    while state.effects.front().is_some_and(|first| at.saturating_sub(*first) >= HOUR) {
        state.effects.pop_front();
    }
    push_bounded(&mut state.effects, at, 10_000);
}

fn request_approval(state: &mut State, approval: &Approval) {
    while state.approvals.len() >= APPROVALS {
        let ended = |a: &&Approval| {
            !matches!(
                a.state,
                ApprovalState::Pending | ApprovalState::Approved | ApprovalState::Executing
            )
        };
        // Ended ones go first; if all are open, the oldest has long expired.
        let oldest = state.approvals.values().find(ended).or(state.approvals.values().next());
        let Some(seq) = oldest.map(|a| a.seq) else { break };
        state.approvals.remove(&seq);
    }
    state.approvals.insert(approval.seq, approval.clone());
}

fn approval_state(state: &mut State, approval: Option<u64>, to: ApprovalState) {
    if let Some(entry) = approval.and_then(|seq| state.approvals.get_mut(&seq)) {
        entry.state = to;
    }
}

fn finish_approval(state: &mut State, concluded: &Concluded) {
    let to = match concluded.outcome {
        Outcome::Verified => ApprovalState::Verified,
        Outcome::Failed => ApprovalState::Failed,
        Outcome::Inconclusive => ApprovalState::Inconclusive,
    };
    approval_state(state, concluded.approval, to);
}

fn set_pause(state: &mut State, pause: &Pause) {
    state.mode.pauses.retain(|p| p.scope != pause.scope);
    if state.mode.pauses.len() < super::Mode::PAUSES {
        state.mode.pauses.push(pause.clone());
    }
}

fn answer(state: &mut State, request: Option<&Request>, seq: u64) {
    let Some(request) = request else { return };
    if state.request_order.len() >= REQUESTS
        && let Some(oldest) = state.request_order.pop_front()
    {
        state.requests.remove(&oldest);
    }
    state.request_order.push_back(request.id.clone());
    let answered = Answered { digest: request.digest.clone(), seq };
    state.requests.insert(request.id.clone(), answered);
}

impl Decided {
    /// What must be equal for a decision to be a steady repeat: findings, action, ruling, reasons, and for a held one the plan.
    #[must_use]
    pub fn signature(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(128);
        for finding in &self.findings {
            let _ = write!(text, "{},", finding.kind.as_str());
        }
        let _ = write!(text, "|{}|{:?}|", self.proposal.action, self.ruling);
        for reason in self.verdicts.iter().filter_map(|v| v.reason) {
            let _ = write!(text, "{reason},");
        }
        if let (Ruling::Held { .. }, Some(plan)) = (&self.ruling, &self.proposal.plan) {
            let _ = write!(text, "|{}", plan.digest(&self.policy_digest));
        }
        text
    }

    /// The finding that named the incident.
    #[must_use]
    pub fn primary(&self) -> Option<FindingKind> {
        self.proposal.because.first().copied()
    }
}

/// Whether an exit is the planned end of an old incarnation: the attempt in flight touches that slot and the process is one
/// that ran before the attempt.
#[must_use]
pub fn is_expected_exit(app: &AppState, slot: u32, _exit: Exit) -> bool {
    let Some(attempt) = app.attempt.as_ref().filter(|a| a.delivered_at.is_none()) else {
        return slot >= app.desired;
    };
    let old = app.instances.get(&slot).is_none_or(|i| i.started_at <= attempt.started_at);
    let touched = match &attempt.plan.operation {
        Operation::Restart { targets } => targets.iter().any(|t| t.slot == slot && t.running),
        Operation::Scale { to, .. } => slot >= *to,
        Operation::Deploy { .. } | Operation::Rollback { .. } | Operation::Offboard { .. } => true,
        Operation::Configure { .. } | Operation::AdjustThreshold { .. } => false,
    };
    old && touched
}

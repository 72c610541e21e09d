//! Outcomes: what an attempt led to is judged from observations, never from the actuator's word alone.

use std::borrow::Cow;

use crate::app::{AppName, Millis};
use crate::choose::{Lesson, Taught};
use crate::detect::FindingKind;
use crate::plan::Operation;
use crate::record::{Body, Concluded, Observation};
use crate::signal::Reading;
use crate::state::{AppState, Attempt, Outcome, Phase, is_expected_exit};

use super::{Context, decide};

/// Something about an instance was observed.
pub(super) fn on_observed(
    ctx: &mut Context<'_>,
    name: &AppName,
    slot: u32,
    what: &Observation,
    reading: &Reading,
) {
    let Some(app) = ctx.state.apps.get(name) else { return };
    if is_known(app, slot, what) {
        return;
    }
    let mut app = app.clone();
    let what = match what {
        Observation::Exited { fence, exit, expected } => Observation::Exited {
            fence: fence.clone(),
            exit: *exit,
            expected: *expected || is_expected_exit(&app, slot, *exit),
        },
        other => other.clone(),
    };
    ctx.write_app(&mut app, None, Body::Observed { slot, what });
    decide::consider(ctx, &mut app, reading);
}

/// Observations are levels as well as edges: one that says what is known already changes nothing.
fn is_known(app: &AppState, slot: u32, what: &Observation) -> bool {
    let Some(instance) = app.instances.get(&slot) else {
        return matches!(what, Observation::Removed);
    };
    match what {
        Observation::Started { fence } => {
            instance.phase.is_running() && instance.fence.as_ref() == Some(fence)
        }
        Observation::Ready => instance.phase == Phase::Ready || !instance.phase.is_running(),
        Observation::Unready => instance.phase == Phase::Unready || !instance.phase.is_running(),
        Observation::Exited { fence, .. } => {
            // An exit of an older incarnation says nothing about this one.
            !instance.phase.is_running() || (fence.is_some() && *fence != instance.fence)
        }
        Observation::Removed => false,
    }
}

/// The actuator reports the end of an effect.
pub(super) fn on_delivered(
    ctx: &mut Context<'_>,
    (name, decision): (&AppName, u64),
    ok: bool,
    detail: &str,
    reading: &Reading,
) {
    let Some(app) = ctx.state.apps.get(name) else { return };
    let current = app.attempt.as_ref();
    if current.is_none_or(|a| a.decision != decision || a.delivered_at.is_some()) {
        return;
    }
    let mut app = app.clone();
    let body = Body::Delivered { decision, ok, detail: detail.to_owned() };
    ctx.write_app(&mut app, Some(decision), body);
    if !ok {
        conclude(ctx, &mut app, Outcome::Failed, detail.to_owned());
    }
    decide::consider(ctx, &mut app, reading);
}

/// Judges the attempt in flight, if it was delivered.
pub(super) fn judge_attempt(ctx: &mut Context<'_>, app: &mut AppState, reading: &Reading) {
    let Some(attempt) = &app.attempt else { return };
    let Some(delivered) = attempt.delivered_at else { return };
    let rule = &ctx.policy.verification;
    if let Some(since) = good_since(app, attempt, delivered)
        && ctx.now.saturating_sub(since) >= rule.hold_ms
    {
        let detail = "ready, and the trigger clear for the hold time".to_owned();
        return conclude(ctx, app, Outcome::Verified, detail);
    }
    let crashed = [FindingKind::Crash, FindingKind::CrashLoop]
        .into_iter()
        .any(|kind| app.open.get(&kind).is_some_and(|open| open.since >= delivered));
    if crashed && !attempt.indeterminate {
        let detail = "an instance ended again while the outcome was watched".to_owned();
        return conclude(ctx, app, Outcome::Failed, detail);
    }
    let waited = ctx.now.saturating_sub(delivered);
    if attempt.indeterminate && waited >= rule.min_uptime_ms && !is_good(app, attempt) {
        let detail = "agentd ended in between, and what it left behind is not well".to_owned();
        return conclude(ctx, app, Outcome::Inconclusive, detail);
    }
    if waited >= rule.deadline_ms {
        let silent = reading
            .last_seen
            .is_none_or(|at| ctx.now.saturating_sub(at) > ctx.policy.freshness.silence_ms);
        let telemetry = attempt.trigger.iter().any(|kind| !kind.is_hard());
        let (outcome, detail) = if telemetry && silent {
            (Outcome::Inconclusive, "the telemetry that could tell is gone")
        } else {
            (Outcome::Failed, "the trigger did not clear in time")
        };
        conclude(ctx, app, outcome, detail.to_owned());
    }
}

fn is_good(app: &AppState, attempt: &Attempt) -> bool {
    let all_ready =
        app.wanted().all(|(_, instance)| instance.is_some_and(|i| i.phase == Phase::Ready));
    let triggered = attempt.trigger.iter().any(|kind| app.open.contains_key(kind));
    all_ready && !triggered
}

/// Since when the attempt looks right without a break: the last of delivery, readiness of every instance, and clearing of
/// every trigger. Derived from what is recorded, so no record is needed for it.
fn good_since(app: &AppState, attempt: &Attempt, delivered: Millis) -> Option<Millis> {
    if !is_good(app, attempt) {
        return None;
    }
    let ready = app.wanted().filter_map(|(_, instance)| instance.map(|i| i.since)).max();
    let cleared = attempt.trigger.iter().filter_map(|kind| app.cleared.get(kind).copied()).max();
    [Some(delivered), ready, cleared].into_iter().flatten().max()
}

/// Records the outcome and what is learned from it.
fn conclude(ctx: &mut Context<'_>, app: &mut AppState, outcome: Outcome, detail: String) {
    let Some(attempt) = app.attempt.clone() else { return };
    let decision = attempt.decision;
    let raised = attempt
        .trigger
        .iter()
        .filter_map(|kind| app.open.get(kind).map(|open| open.since))
        .min()
        .unwrap_or(attempt.started_at);
    let elapsed_ms = ctx.now.saturating_sub(raised.min(attempt.started_at));
    let concluded = Concluded {
        decision,
        action: attempt.plan.action,
        outcome,
        detail,
        elapsed_ms,
        human: attempt.human,
        approval: attempt.approval,
    };
    let seq = ctx.write_app(app, Some(decision), Body::Concluded(concluded));
    learn(ctx, app, &attempt, outcome, elapsed_ms, seq);
    // The trigger of a failed attempt still stands: the next reading decides again, and the gates know what failed.
}

/// The value table learns from verified and failed outcomes of what the agent chose, unless learning is frozen. What is not
/// learned is said, with the reason.
fn learn(
    ctx: &mut Context<'_>,
    app: &mut AppState,
    attempt: &Attempt,
    outcome: Outcome,
    elapsed_ms: Millis,
    cause: u64,
) {
    let Some(why) = unlearned(ctx, attempt, outcome) else {
        let Some(finding) = attempt.trigger.first().copied() else { return };
        let taught = Taught::Outcome(outcome);
        let action = attempt.plan.action;
        return teach(ctx, app, cause, Lesson { finding, action, taught, took_ms: elapsed_ms });
    };
    ctx.write_app(app, Some(cause), Body::LearningSkipped { why: Cow::Borrowed(why) });
}

/// Why an outcome teaches nothing; `None` when it does.
fn unlearned(ctx: &Context<'_>, attempt: &Attempt, outcome: Outcome) -> Option<&'static str> {
    let internal = matches!(attempt.plan.operation, Operation::AdjustThreshold { .. });
    match attempt.trigger.first() {
        _ if ctx.state.mode.frozen => Some("frozen"),
        None => Some("no_finding"),
        Some(_) if attempt.human || internal => Some("human"),
        Some(_) if outcome == Outcome::Inconclusive => Some("inconclusive"),
        Some(_) => None,
    }
}

/// Records a lesson with the value before and after it.
pub(super) fn teach(ctx: &mut Context<'_>, app: &mut AppState, cause: u64, lesson: Lesson) {
    let (before, after) = ctx.state.table.clone().learn(&lesson);
    ctx.write_app(app, Some(cause), Body::Learned { lesson, before, after });
}

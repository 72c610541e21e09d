//! Outcomes: what an attempt led to is judged from observations, never from the actuator's word alone.

use std::borrow::Cow;

use crate::app::{AppName, Millis};
use crate::choose::ccq::{Catalogue, Change, Expectation, Fixed, Trial, position};
use crate::choose::{Lesson, Lessons, Taught};
use crate::detect::{FindingKind, View, claim_of, fresh_run, is_fresh, is_fresh_value};
use crate::plan::{Fence, Operation};
use crate::record::{Body, Calibrated, Concluded, Observation};
use crate::signal::{Metric, Point, Reading};
use crate::state::{AppState, Attempt, Healed, Outcome, Phase, is_expected_exit};

use super::{Context, decide, lifecycle};

/// Something about an instance was observed.
pub(super) fn on_observed(
    ctx: &mut Context<'_>,
    name: &AppName,
    slot: u32,
    what: &Observation,
    reading: &Reading,
) {
    let Some(app) = ctx.state.apps.get(name) else { return };
    let unseen = unseen(app, slot, what);
    if unseen.is_none() && is_known(app, slot, what) {
        return;
    }
    let mut app = app.clone();
    if let Some(fence) = unseen {
        // agentd was away when it began. Its end only makes sense behind its beginning, and every later plan has to name it.
        let began = Observation::Started { fence };
        ctx.write_app(&mut app, None, Body::Observed { slot, what: began });
    }
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
        // An app that was never brought up has not crashed: what no deployment was permitted for is not started by healing it.
        let never_ran = app.instances.is_empty() && app.attempt.is_none();
        return match what {
            Observation::Removed => true,
            Observation::Exited { fence: None, .. } => never_ran,
            _ => false,
        };
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

/// The incarnation that ended although nobody recorded that it began: agentd was killed between the effect and the record of it.
fn unseen(app: &AppState, slot: u32, what: &Observation) -> Option<Fence> {
    let Observation::Exited { fence: Some(fence), .. } = what else { return None };
    let Some(instance) = app.instances.get(&slot) else { return Some(fence.clone()) };
    let is_later = |known: &Fence| {
        if fence.boot_id == known.boot_id {
            // Start times grow; the process id decides within one tick of them.
            (fence.start_time, fence.pid) > (known.start_time, known.pid)
        } else {
            // Boots have no order, but what runs was not there before the last one.
            !instance.phase.is_running()
        }
    };
    instance.fence.as_ref().is_none_or(is_later).then(|| fence.clone())
}

/// The actuator reports the end of an effect.
pub(super) fn on_delivered(
    ctx: &mut Context<'_>,
    (name, decision): (&AppName, u64),
    (ok, untouched): (bool, bool),
    detail: &str,
    reading: &Reading,
) {
    let Some(app) = ctx.state.apps.get(name) else { return };
    let current = app.attempt.as_ref();
    if current.is_none_or(|a| a.decision != decision || a.delivered_at.is_some()) {
        return;
    }
    let mut app = app.clone();
    let untouched = untouched && !ok;
    let body = Body::Delivered { decision, ok, detail: detail.to_owned(), untouched };
    ctx.write_app(&mut app, Some(decision), body);
    if !ok {
        conclude(ctx, &mut app, Outcome::Failed, detail.to_owned());
    } else if is_farewell(&app) {
        conclude(ctx, &mut app, Outcome::Verified, "every instance is stopped".to_owned());
        return lifecycle::let_go(ctx, &mut app, decision);
    }
    decide::consider(ctx, &mut app, reading);
}

/// Whether the attempt in flight is the app's last one.
fn is_farewell(app: &AppState) -> bool {
    let operation = app.attempt.as_ref().map(|attempt| &attempt.plan.operation);
    matches!(operation, Some(Operation::Offboard { .. }))
}

/// Judges the attempt in flight, if it was delivered.
pub(super) fn judge_attempt(ctx: &mut Context<'_>, app: &mut AppState, reading: &Reading) {
    let Some(attempt) = &app.attempt else { return };
    let Some(delivered) = attempt.delivered_at else { return };
    if is_farewell(app) {
        // It was cut short: what still runs is under care again until somebody asks anew.
        let detail = "agentd ended in between: ask again".to_owned();
        return conclude(ctx, app, Outcome::Inconclusive, detail);
    }
    let rule = &ctx.policy.verification;
    if let Some(since) = good_since(app, attempt, delivered)
        && ctx.now.saturating_sub(since) >= rule.hold_ms
        && is_told(ctx, app, attempt, reading)
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
        let (outcome, detail) = if telemetry && (silent || !is_told(ctx, app, attempt, reading)) {
            (Outcome::Inconclusive, "the telemetry that could tell is gone")
        } else {
            (Outcome::Failed, "the trigger did not clear in time")
        };
        conclude(ctx, app, outcome, detail.to_owned());
    }
}

/// Whether what could tell that the trigger is gone is still heard. Silence is not health; and where nobody asks any more, nobody is
/// answered badly, nor well.
fn is_told(ctx: &Context<'_>, app: &AppState, attempt: &Attempt, reading: &Reading) -> bool {
    let view = View { app, policy: ctx.policy, reading, now: ctx.now };
    let drained = || {
        let asked = reading.metrics.get(&Metric::RequestRate);
        let fresh = |point: &&Point| is_fresh_value(Metric::RequestRate, point.at, &view);
        let mut rates = asked.into_iter().flat_map(|series| series.sources.values()).filter(fresh);
        let first = rates.next();
        first.is_some_and(|first| first.micro == 0 && rates.all(|rate| rate.micro == 0))
    };
    attempt.trigger.iter().filter_map(|kind| metric_of(*kind)).all(|metric| {
        let served = matches!(metric, Metric::ErrorRatio | Metric::LatencyP99);
        let claim = claim_of(metric).and_then(|name| reading.conditions.get(name));
        let heard = claim.is_some_and(|claim| is_fresh(claim.at, &view))
            || !fresh_run(metric, &view).is_empty();
        heard && !(served && drained())
    })
}

/// The metric a finding rests on, if it rests on one.
const fn metric_of(kind: FindingKind) -> Option<Metric> {
    match kind {
        FindingKind::ErrorRate => Some(Metric::ErrorRatio),
        FindingKind::CpuOverload => Some(Metric::CpuUtilization),
        FindingKind::MemoryOverload | FindingKind::MemoryGrowth => Some(Metric::MemoryUtilization),
        FindingKind::Latency => Some(Metric::LatencyP99),
        _ => None,
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
    let trial = trial(ctx, app, &attempt, outcome);
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
    let learned = Learning { outcome, took_ms: elapsed_ms, trial, cause: seq };
    learn(ctx, app, &attempt, learned);
    // The trigger of a failed attempt still stands: the next reading decides again, and the gates know what failed.
}

/// The value table learns from verified and failed outcomes of what the agent chose, unless learning is frozen. What is not
/// learned is said, with the reason.
fn learn(ctx: &mut Context<'_>, app: &mut AppState, attempt: &Attempt, learned: Learning) {
    let Learning { outcome, took_ms, trial, cause } = learned;
    let Some(why) = unlearned(ctx, attempt, outcome) else {
        let Some(finding) = attempt.trigger.first().copied() else { return };
        let taught = Taught::Outcome(outcome);
        let action = attempt.plan.action;
        return teach(ctx, app, cause, Lesson { finding, action, taught, took_ms }, trial);
    };
    ctx.write_app(
        app,
        Some(cause),
        Body::LearningSkipped { why: Cow::Borrowed(why), relapse: false },
    );
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

/// Records a lesson with the value before and after it, and what the outcome says about the fault catalogue.
pub(super) fn teach(
    ctx: &mut Context<'_>,
    app: &mut AppState,
    cause: u64,
    lesson: Lesson,
    trial: Option<Trial>,
) {
    let Lessons { before, after, change } = ctx.state.taught().learn(&lesson, trial.as_ref());
    let calibrated = trial.zip(change).map(|(trial, Change { before, after, drifted })| {
        Box::new(Calibrated { trial, before, after, drifted })
    });
    let candidate = ctx.state.promotes();
    let body = Body::Learned { lesson, before, after, calibrated, candidate };
    ctx.write_app(app, Some(cause), body);
}

/// The incident is back that an attempt was taken to have ended: what was learned from that is corrected. The outcome stays what it
/// was when it was judged; the correction is a record of its own.
pub(super) fn correct(ctx: &mut Context<'_>, app: &mut AppState, kind: FindingKind, raised: u64) {
    let within = ctx.policy.graduation.relapse_ms;
    let undone = |healed: &&Healed| healed.is_undone(kind, app, ctx.now, within);
    let Some(healed) = app.healed.as_deref().filter(undone).cloned() else { return };
    if ctx.state.mode.frozen {
        let why = Cow::Borrowed("frozen");
        ctx.write_app(app, Some(raised), Body::LearningSkipped { why, relapse: true });
        return;
    }
    let lesson = Lesson { taught: Taught::Relapsed, ..healed.lesson };
    teach(ctx, app, healed.seq, lesson, healed.trial);
}

/// What an outcome can teach.
struct Learning {
    outcome: Outcome,
    took_ms: Millis,
    trial: Option<Trial>,
    cause: u64,
}

/// The outcome against what was expected of the attempt; `None` when nothing was.
fn trial(ctx: &Context<'_>, app: &AppState, attempt: &Attempt, outcome: Outcome) -> Option<Trial> {
    let (signature, Expectation { chance, cost0 }) = attempt.expected?;
    let resolved = outcome == Outcome::Verified;
    let cost = if resolved { measured(ctx, app, attempt, cost0) } else { cost0 };
    Some(Trial { signature, action: attempt.plan.action, resolved, cost, chance, cost0 })
}

/// What the attempt cost: what it was expected to, with the time until the app was well again instead of the time the catalogue
/// allows for it. The hold time is our wish to be sure and no downtime. What did not help says nothing about how long it takes.
fn measured(ctx: &Context<'_>, app: &AppState, attempt: &Attempt, cost0: Fixed) -> Fixed {
    let catalogue = Catalogue::builtin();
    let effort = position(attempt.plan.action).and_then(|p| catalogue.efforts.get(p).copied());
    let Some(effort) = effort else { return cost0 };
    let delivered = attempt.delivered_at.unwrap_or(ctx.now);
    let well = good_since(app, attempt, delivered).unwrap_or(ctx.now);
    effort.measured(cost0, well.saturating_sub(attempt.started_at), catalogue.step_ms)
}

#[cfg(test)]
mod reward;

#[cfg(test)]
mod tests {
    use crate::action::Action;
    use crate::app::{AppName, Env};
    use crate::choose::ccq::Fixed;
    use crate::detect::Signature;
    use crate::plan::Fence;
    use crate::policy::Learner;
    use crate::record::{Body, Observation};
    use crate::signal::Exit;
    use crate::step::world::World;

    const MINUTE: u64 = 60_000;

    fn ended(pid: u32, start_time: u64) -> Observation {
        let fence = Some(Fence { boot_id: "test".to_owned(), pid, start_time });
        Observation::Exited { fence, exit: Exit::Signal(9), expected: false }
    }

    fn fence(world: &World, app: &AppName) -> Fence {
        world.app(app).instances[&0].fence.clone().unwrap()
    }

    #[test]
    fn a_process_that_began_and_ended_unseen_is_on_record_and_what_follows_names_it() {
        let mut world = World::new(Env::Stage);
        let app = world.onboard("web", 1);
        world.pass(2 * MINUTE);
        let known = fence(&world, &app);
        let from = world.log.len();
        world.see(&app, 0, ended(900, 900));
        let observed: Vec<_> = world.log[from..]
            .iter()
            .filter_map(|record| match &record.body {
                Body::Observed { what, .. } => Some(what),
                _ => None,
            })
            .take(2)
            .collect();
        let later = Fence { boot_id: "test".to_owned(), pid: 900, start_time: 900 };
        assert!(matches!(observed[0], Observation::Started { fence } if *fence == later));
        assert!(matches!(observed[1], Observation::Exited { .. }));
        world.pass(2 * MINUTE);
        assert_eq!(world.restarts(), 1, "it is a crash like any other");
        assert_ne!(fence(&world, &app), known);
        world.assert_replays();
    }

    #[test]
    fn the_late_end_of_an_older_process_still_says_nothing() {
        let mut world = World::new(Env::Stage);
        let app = world.onboard("web", 1);
        world.pass(2 * MINUTE);
        let known = fence(&world, &app);
        let from = world.log.len();
        world.see(&app, 0, ended(known.pid, known.start_time - 1));
        world.see(&app, 0, ended(known.pid - 1, known.start_time));
        let observed = world.log[from..].iter().any(|r| matches!(r.body, Body::Observed { .. }));
        assert!(!observed, "it runs on");
        assert_eq!(world.restarts(), 0);
    }

    #[test]
    fn an_outcome_corrects_the_catalogue_and_what_was_learned_is_a_fold_of_the_log() {
        let mut world = World::new(Env::Stage);
        world.policy.learning.learner = Learner::Ccq;
        world.start_agent();
        let app = world.onboard("web", 1);
        world.pass(40 * MINUTE);
        world.crash(&app, 0);
        world.pass(5 * MINUTE);
        let learned: Vec<_> = world
            .log
            .iter()
            .filter_map(|record| match &record.body {
                Body::Learned { calibrated, .. } => calibrated.as_deref(),
                _ => None,
            })
            .collect();
        let [calibrated] = learned.as_slice() else { panic!("{learned:?}") };
        assert_eq!(calibrated.trial.signature, Signature::Down);
        assert!(calibrated.trial.resolved && !calibrated.drifted);
        assert!(calibrated.after.offset > calibrated.before.offset);
        assert!(calibrated.trial.cost > Fixed::ZERO);
        let beliefs = world.state.knowledge.beliefs(Signature::Down);
        assert_eq!(beliefs.get(Action::Restart), calibrated.after);
        world.assert_replays();

        // The next decision of the kind rests on it, and its record carries it.
        world.pass(30 * MINUTE);
        world.crash(&app, 0);
        world.pass(MINUTE);
        let decided = world.log.iter().rev().find_map(|record| record.decision()).unwrap();
        assert!(!decided.beliefs.is_empty());
        world.assert_replays();
    }
}

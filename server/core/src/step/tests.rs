//! Stories of the whole brain, and what must never happen in any of them.

use crate::action::{Action, Level};
use crate::app::Env;
use crate::reason::Reason;
use crate::record::{Body, Observation, Record};
use crate::signal::{Exit, MICRO, Metric};
use crate::state::{ApprovalState, Outcome, Scope};
use crate::verdict::Ruling;

use super::world::World;
use super::{Failure, Input, Reply};

mod exploration;
mod freeze;
mod stale;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

mod mission;
mod outage;

#[test]
fn an_app_is_onboarded_crashes_is_restarted_and_every_step_is_on_record_in_order() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 2);
    world.crash(&app, 1);
    world.pass(2 * MINUTE);
    assert_eq!(world.restarts(), 1);
    assert_eq!(world.app(&app).ready(), 2);
    let expected = [
        "ONBOARDING_STARTED",
        "ONBOARDING_VALIDATION_PASSED",
        "SPEC_GENERATED",
        "RL_DECISION",
        "DEPLOYMENT_TRIGGERED",
        "ORCH_EXEC",
        "SYSTEM_STABLE",
        "RUNTIME_EMIT",
        "FINDING_RAISED",
        "RL_CONSUME",
        "RL_DECISION",
        "RL_INTAKE_VALIDATED",
        "EXECUTION_GATE_PASSED",
        "AUTONOMOUS_OPERATION",
        "ORCH_EXEC",
        "ORCH_DELIVERED",
        "SYSTEM_STABLE",
        "LEARNING_UPDATED",
    ];
    let mut events = world.events().into_iter();
    for name in expected {
        assert!(events.any(|event| event == name), "{name} is missing or out of order");
    }
    world.assert_replays();
}

#[test]
fn a_second_crash_within_the_cooldown_is_refused_with_the_time_it_clears_and_healed_then() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.crash(&app, 0);
    world.tick(1_000);
    world.crash(&app, 0);
    world.tick(1_000);
    let decided = world.last_decision();
    assert!(
        matches!(&decided.ruling, Ruling::Refused { reason: Reason::CooldownActive, .. }),
        "{:?}",
        decided.ruling
    );
    let verdict = decided.verdicts.iter().find(|v| v.gate == "cooldown").unwrap();
    assert!(verdict.clears_at.is_some_and(|at| at > world.now));
    assert!(verdict.self_imposed);
    assert_eq!(world.restarts(), 1);
    world.pass(3 * MINUTE);
    assert_eq!(world.restarts(), 2, "it heals when the cooldown clears");
    assert_eq!(world.count("COOLDOWN_ACTIVE"), 1, "steady repeats are not written one by one");
    world.assert_replays();
}

#[test]
fn a_contradiction_is_decided_on_once_until_it_comes_back_or_goes_on_for_long() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    let contradict = |world: &mut World, ticks: u32| {
        for _ in 0..ticks {
            world.say(&app, "one", Metric::CpuUtilization, MICRO);
            world.say(&app, "two", Metric::CpuUtilization, MICRO / 100);
            world.tick(1_000);
        }
        world.count("RL_DECISION")
    };
    let first = contradict(&mut world, 20);
    assert_eq!(contradict(&mut world, 20), first, "a steady repeat is counted, not written");
    world.pass(5 * MINUTE);
    let quiet = world.count("RL_DECISION");
    let again = contradict(&mut world, 20);
    assert!(again > quiet, "what comes back is decided on anew");
    let long = contradict(&mut world, 20 * 60);
    assert_eq!(long, again + 1, "what goes on is said again every quarter of an hour");
    world.assert_replays();
}

#[test]
fn a_crash_loop_of_four_hours_gets_at_most_eight_restarts_and_still_heals_after_the_fix() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.broken.push(app.clone());
    world.crash(&app, 0);
    world.pass(4 * HOUR);
    assert!(world.restarts() <= 8, "{} restarts", world.restarts());
    assert!(world.restarts() >= 3, "it does not give up at once: {}", world.restarts());
    assert_eq!(world.count("ESCALATED"), 1, "humans are told once");
    world.broken.clear();
    world.pass(2 * HOUR);
    assert_eq!(world.app(&app).ready(), 1, "never gives up for good");
    world.assert_replays();
}

#[test]
fn in_prod_a_crash_waits_for_a_human_and_the_requester_cannot_be_the_one() {
    let mut world = World::new(Env::Stage);
    world.policy.levels.insert(Action::Restart, Level::Propose);
    world.start_agent();
    let app = world.onboard("web", 1);
    world.crash(&app, 0);
    world.pass(5_000);
    assert_eq!(world.restarts(), 0);
    let approval = world.app(&app).approval.expect("a human is asked");
    let digest = world.state.approvals[&approval].plan_digest.clone();
    let reply = world.approve(approval, Some("not this one".to_owned()), World::by("ann"));
    assert!(matches!(reply, Reply::Failed(Failure::PlanChanged { .. })), "{reply:?}");
    let reply = world.approve(approval, Some(digest), World::by("ann"));
    assert!(matches!(reply, Reply::Decided { ruling: Ruling::Permitted, .. }), "{reply:?}");
    assert_eq!(world.restarts(), 1, "exactly one execution");
    let reply = world.approve(approval, None, World::by("bob"));
    assert!(matches!(reply, Reply::Failed(Failure::ApprovalClosed { .. })), "{reply:?}");
    world.pass(2 * MINUTE);
    assert_eq!(world.state.approvals[&approval].state, ApprovalState::Verified);
    assert_eq!(world.restarts(), 1);
    world.crash(&app, 0);
    world.pass(5 * MINUTE);
    assert_ne!(world.app(&app).approval, None, "the next crash asks anew");
    assert_eq!(
        world.state.approvals[&approval].state,
        ApprovalState::Verified,
        "and ends no old one"
    );
    world.assert_replays();
}

#[test]
fn nobody_approves_what_they_asked_for() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    let reply = world.act(&app, "rollback", World::by("olivia"));
    // Nothing to roll back to: refused, with the prerequisite named.
    assert!(
        matches!(
            &reply,
            Reply::Decided {
                ruling: Ruling::Refused { reason: Reason::MissingPrerequisite, .. },
                ..
            }
        ),
        "{reply:?}"
    );
    // A human's own rollback is held like the agent's; its requester cannot let it through.
    world.deploy_next(&app);
    let reply = world.act(&app, "rollback", World::by("olivia"));
    assert!(matches!(&reply, Reply::Decided { ruling: Ruling::Held { .. }, .. }), "{reply:?}");
    let approval = world.app(&app).approval.expect("held for approval");
    let reply = world.approve(approval, None, World::by("olivia"));
    assert_eq!(reply, Reply::Failed(Failure::SelfApproval("olivia".to_owned())));
    let monitor = super::By { human: false, ..World::by("monitor-1") };
    let reply = world.approve(approval, None, monitor);
    assert_eq!(reply, Reply::Failed(Failure::NotHuman("monitor-1".to_owned())));
    let reply = world.approve(approval, None, World::by("ann"));
    assert!(matches!(&reply, Reply::Decided { ruling: Ruling::Permitted, .. }), "{reply:?}");
    assert_eq!(world.app(&app).profile.revision, 1);
    world.assert_replays();
}

#[test]
fn a_bad_revision_is_tried_again_and_then_taken_back_by_a_human_and_left_alone() {
    let mut world = World::new(Env::Stage);
    world.policy.cooldown.base_ms.insert(Action::RetryDeployment, 1_000);
    world.start_agent();
    let app = world.onboard("web", 1);
    world.broken.push(app.clone());
    world.deploy_next(&app);
    let approval = world.app(&app).approval.expect("the agent wants to go back");
    assert_eq!(world.state.approvals[&approval].plan.action, Action::Rollback);
    world.broken.clear();
    let executed = world.executed.len();
    let reply = world.approve(approval, None, World::by("ann"));
    assert!(matches!(&reply, Reply::Decided { ruling: Ruling::Permitted, .. }), "{reply:?}");
    world.pass(30 * MINUTE);
    assert_eq!(world.executed.len(), executed + 1, "the revision that was taken back stays so");
    assert_eq!(world.app(&app).profile.revision, 1);
    assert_eq!(world.app(&app).profile.failed_revision, None);
    assert_eq!(world.state.approvals[&approval].state, ApprovalState::Verified);
    world.assert_replays();
}

#[test]
fn an_approval_nobody_answers_expires_and_nothing_runs() {
    let mut world = World::new(Env::Stage);
    world.policy.levels.insert(Action::Restart, Level::Propose);
    world.start_agent();
    let app = world.onboard("web", 1);
    world.crash(&app, 0);
    world.tick(1_000);
    let approval = world.app(&app).approval.expect("a human is asked");
    world.pass(16 * MINUTE);
    assert_eq!(world.state.approvals[&approval].state, ApprovalState::Expired);
    assert_eq!(world.restarts(), 0);
    let reply = world.approve(approval, None, World::by("ann"));
    assert_eq!(reply, Reply::Failed(Failure::ApprovalExpired(approval)));
    world.assert_replays();
}

#[test]
fn an_app_that_recovers_by_itself_clears_its_approval() {
    let mut world = World::new(Env::Stage);
    world.policy.levels.insert(Action::Restart, Level::Propose);
    world.start_agent();
    let app = world.onboard("web", 1);
    world.crash(&app, 0);
    world.tick(1_000);
    let approval = world.app(&app).approval.expect("a human is asked");
    world.bring_up(&app, 0);
    world.tick(1_000);
    assert_eq!(world.state.approvals[&approval].state, ApprovalState::Cleared);
    assert_eq!(world.app(&app).approval, None);
    world.assert_replays();
}

#[test]
fn while_paused_the_agent_decides_in_shadow_and_acts_after_resume() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    let reason = "maintenance".to_owned();
    let by = World::by("olivia");
    world.give(&Input::Pause {
        scope: Scope::Env,
        halt: false,
        reason: reason.clone(),
        ttl_ms: None,
        by: by.clone(),
    });
    world.crash(&app, 0);
    world.pass(10_000);
    assert_eq!(world.restarts(), 0);
    assert!(matches!(world.last_decision().ruling, Ruling::Refused { reason: Reason::Paused, .. }));
    world.give(&Input::Resume { scope: Scope::Env, reason, by });
    world.pass(5_000);
    assert_eq!(world.restarts(), 1);
    world.assert_replays();
}

#[test]
fn a_pause_with_an_end_ends_by_itself() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.give(&Input::Pause {
        scope: Scope::App(app.clone()),
        halt: false,
        reason: "look".to_owned(),
        ttl_ms: Some(30_000),
        by: World::by("olivia"),
    });
    world.crash(&app, 0);
    world.pass(20_000);
    assert_eq!(world.restarts(), 0);
    world.pass(20_000);
    assert_eq!(world.restarts(), 1);
    assert!(world.state.mode.pauses.is_empty());
}

#[test]
fn agentd_dies_between_intent_and_outcome_and_the_next_start_observes_instead_of_repeating() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    let fence = world.app(&app).instances[&0].fence.clone();
    let what = Observation::Exited { fence, exit: Exit::Signal(9), expected: false };
    let reading = crate::signal::Reading::silent(app.clone(), world.now, None);
    let observed = Input::Observed { app: app.clone(), slot: 0, what, reading };
    let (_, permits) = world.judge(&observed);
    assert_eq!(permits.len(), 1, "the intent is on record");
    drop(permits);
    world.start_agent();
    assert_eq!(world.count("ORCH_OUTCOME_UNKNOWN"), 1);
    assert!(world.app(&app).attempt.as_ref().is_some_and(|a| a.indeterminate));
    // The effect had happened: what is observed is well, so it is verified without a second effect.
    let before = world.executed.len();
    world.bring_up(&app, 0);
    world.pass(2 * MINUTE);
    assert_eq!(world.executed.len(), before, "no second effect");
    assert_eq!(world.app(&app).attempt, None);
    world.assert_replays();
}

#[test]
fn an_intent_whose_effect_never_happened_is_inconclusive_and_decided_anew() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    let fence = world.app(&app).instances[&0].fence.clone();
    let what = Observation::Exited { fence, exit: Exit::Signal(9), expected: false };
    let reading = crate::signal::Reading::silent(app.clone(), world.now, None);
    let observed = Input::Observed { app: app.clone(), slot: 0, what, reading };
    let (_, permits) = world.judge(&observed);
    drop(permits);
    world.start_agent();
    world.pass(30_000);
    assert_eq!(world.outcomes(Outcome::Inconclusive), 1);
    world.pass(3 * MINUTE);
    assert_eq!(world.restarts(), 1, "decided again after the cooldown, once");
    assert_eq!(world.app(&app).ready(), 1);
    world.assert_replays();
}

#[test]
fn overload_scales_up_once_and_holds() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    for _ in 0..6 {
        world.say(&app, "sense/procfs", Metric::CpuUtilization, 95 * MICRO / 100);
        world.tick(1_000);
    }
    assert_eq!(world.app(&app).desired, 2);
    for _ in 0..90 {
        world.say(&app, "sense/procfs", Metric::CpuUtilization, 50 * MICRO / 100);
        world.tick(1_000);
    }
    assert_eq!(world.app(&app).desired, 2);
    assert!(world.outcomes(Outcome::Verified) >= 2, "deployment and scale-up");
    world.assert_replays();
}

#[test]
fn a_single_spike_is_a_recorded_noop() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    let before = world.executed.len();
    world.say(&app, "apm", Metric::LatencyP99, 4 * MICRO);
    world.pass(10_000);
    let decided = world.last_decision();
    assert!(
        matches!(
            decided.ruling,
            Ruling::Refused { reason: Reason::UncertaintyNoop, instead: Action::Noop }
        ),
        "{:?}",
        decided.ruling
    );
    assert_eq!(world.executed.len(), before);
    assert_eq!(world.count("UNCERTAINTY_NOOP"), 1);
    world.assert_replays();
}

#[test]
fn contradicting_monitors_lead_to_observation() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    let before = world.executed.len();
    for _ in 0..8 {
        world.say(&app, "monitor-a", Metric::CpuUtilization, 97 * MICRO / 100);
        world.say(&app, "monitor-b", Metric::CpuUtilization, 2 * MICRO / 100);
        world.tick(1_000);
    }
    assert_eq!(world.executed.len(), before);
    let refused = |d: &crate::record::Decided| {
        let reason = Reason::SignalConflictObserve;
        d.ruling == Ruling::Refused { reason, instead: Action::Observe }
    };
    let rulings: Vec<_> = world
        .decisions()
        .map(|d| (d.proposal.action, d.ruling.clone(), d.findings.clone()))
        .collect();
    assert!(world.decisions().any(refused), "{rulings:?}");
    assert_eq!(world.count("SIGNAL_CONFLICT_OBSERVE"), 1);
    world.assert_replays();
}

#[test]
fn every_unsafe_name_is_refused_on_record_and_nothing_is_done() {
    let mut world = World::new(Env::Dev);
    let app = world.onboard("web", 1);
    let before = world.executed.len();
    for name in crate::action::UNSAFE_NAMES {
        let reply = world.act(&app, name, World::by("olivia"));
        assert!(
            matches!(
                &reply,
                Reply::Decided {
                    ruling: Ruling::Refused {
                        reason: Reason::UnsafeActionRefused,
                        instead: Action::Noop
                    },
                    seq: Some(_),
                    ..
                }
            ),
            "{name}: {reply:?}"
        );
    }
    assert_eq!(world.executed.len(), before);
    assert_eq!(world.count("UNSAFE_ACTION_REFUSED"), crate::action::UNSAFE_NAMES.len());
    let reply = world.act(&app, "make_coffee", World::by("olivia"));
    assert_eq!(reply, Reply::Failed(Failure::UnknownAction("make_coffee".to_owned())));
    world.assert_replays();
}

#[test]
fn in_a_demonstration_an_unsafe_name_is_still_called_unsafe_and_a_direct_request_a_hand_behind_it()
{
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.state.mode.demo = true;
    let mut refused = |name: &str| match world.act(&app, name, World::by("olivia")) {
        Reply::Decided { ruling: Ruling::Refused { reason, .. }, .. } => reason,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(refused("restart"), Reason::DemoModeBlock);
    for name in crate::action::UNSAFE_NAMES {
        assert_eq!(refused(name), Reason::UnsafeActionRefused, "{name}");
    }
    assert_eq!(world.count("UNSAFE_ACTION_REFUSED"), crate::action::UNSAFE_NAMES.len());
    assert_eq!(world.count("DEMO_MODE_BLOCK"), 1);
    let against = &world.last_decision().verdicts;
    assert!(
        against.iter().any(|v| v.reason == Some(Reason::DemoModeBlock)),
        "and that it was asked"
    );
}

#[test]
fn refusals_do_not_push_what_was_carried_out_from_memory() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.crash(&app, 0);
    for _ in 0..2 * crate::state::DECISIONS {
        world.act(&app, "drop_database", World::by("olivia"));
    }
    let decisions = &world.app(&app).decisions;
    assert_eq!(decisions.len(), crate::state::DECISIONS);
    assert!(decisions.iter().any(|d| d.executed && d.action == Action::Restart));
    world.assert_replays();
}

#[test]
fn a_monitor_cannot_make_anything_happen() {
    let mut world = World::new(Env::Dev);
    let app = world.onboard("web", 1);
    let before = world.executed.len();
    let monitor = super::By { human: false, ..World::by("monitor-1") };
    let reply = world.act(&app, "restart", monitor);
    assert!(
        matches!(
            &reply,
            Reply::Decided { ruling: Ruling::Refused { reason: Reason::SourceRefused, .. }, .. }
        ),
        "{reply:?}"
    );
    assert_eq!(world.executed.len(), before);
}

#[test]
fn a_deployment_that_touched_nothing_leaves_what_runs_in_force_and_healed() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.unreachable.push(app.clone());
    world.deploy_next(&app);
    let facts = |world: &World| {
        let profile = &world.app(&app).profile;
        (profile.revision, profile.failed_revision, world.state.specs[&app].current)
    };
    assert_eq!(facts(&world), (1, Some(2), 1), "what runs is what ran before");
    world.pass(3 * MINUTE);
    world.crash(&app, 0);
    world.pass(2 * MINUTE);
    assert_eq!(world.restarts(), 1);
    assert_eq!(world.app(&app).ready(), 1, "a failed deployment does not stand in the way");
    let restarted = |d: &&crate::state::Remembered| d.action == Action::Restart;
    let outcome = world.app(&app).decisions.iter().find(restarted).unwrap().outcome;
    assert_eq!(outcome, Some(Outcome::Verified));
    let rollback = |d: &crate::record::Decided| d.proposal.action == Action::Rollback;
    assert!(!world.decisions().any(rollback), "there is nothing to take back");
    world.unreachable.clear();
    world.pass(10 * MINUTE);
    world.act(&app, "retry", World::by("olivia"));
    world.pass(2 * MINUTE);
    assert_eq!(facts(&world), (2, None, 2), "what was asked for is deployed when it can be");
    world.assert_replays();
}

#[test]
fn an_app_whose_deployment_was_refused_is_not_started_by_healing_it() {
    let mut world = World::new(Env::Stage);
    world.policy.levels.insert(Action::Deploy, Level::Off);
    world.start_agent();
    let reply = world.try_onboard(World::request("web", 1), World::by("olivia"));
    assert!(matches!(reply, Reply::Onboarded { .. }), "{reply:?}");
    let app = crate::app::AppName::parse("web").unwrap();
    // The next start finds no process where one is wanted.
    world.start_agent();
    let gone = Observation::Exited { fence: None, exit: Exit::Unknown, expected: false };
    world.see(&app, 0, gone);
    world.pass(10 * MINUTE);
    assert!(world.executed.is_empty(), "{:?}", world.executed);
    world.assert_replays();
}

#[test]
fn the_same_request_id_is_carried_out_once() {
    let mut world = World::new(Env::Stage);
    let by = World::with_request("olivia", "6c1e0b", "digest-1");
    let first = world.try_onboard(World::request("web", 1), by.clone());
    let Reply::Onboarded { seq: Some(seq), .. } = first else { panic!("{first:?}") };
    let again = world.try_onboard(World::request("web", 1), by);
    assert_eq!(again, Reply::Repeated { seq });
    let other = World::with_request("olivia", "6c1e0b", "digest-2");
    let reused = world.try_onboard(World::request("api", 1), other);
    assert_eq!(reused, Reply::Failed(Failure::RequestReused("6c1e0b".to_owned())));
    assert_eq!(world.state.apps.len(), 1);
    world.assert_replays();
}

#[test]
fn a_name_is_onboarded_once_and_prod_never() {
    let mut world = World::new(Env::Stage);
    world.onboard("web", 1);
    let reply = world.try_onboard(World::request("web", 1), World::by("olivia"));
    assert_eq!(reply, Reply::Failed(Failure::AppExists("web".to_owned())));
    let mut prod = World::new(Env::Prod);
    let reply = prod.try_onboard(World::request("web", 1), World::by("olivia"));
    assert!(matches!(reply, Reply::Invalid(_)), "{reply:?}");
    assert!(prod.executed.is_empty());
    prod.assert_replays();
}

#[test]
fn a_common_cause_is_tried_on_one_canary_and_a_storm_is_declared() {
    let mut world = World::new(Env::Stage);
    let apps: Vec<_> = (0..10).map(|n| world.onboard(&format!("svc-{n}"), 1)).collect();
    let before = world.restarts();
    for app in &apps {
        world.broken.push(app.clone());
    }
    for app in &apps {
        world.crash(app, 0);
    }
    world.tick(1_000);
    let open: Vec<_> = apps.iter().map(|a| world.app(a).open.clone()).collect();
    assert!(world.state.storm.is_some(), "ten of ten apps are down: {open:?}");
    let told = |r: &&Record| r.app.is_none() && matches!(r.body, Body::Escalated { .. });
    assert_eq!(world.log.iter().filter(told).count(), 1, "humans are told of the storm once");
    let in_the_first_seconds = world.restarts() - before;
    assert!(in_the_first_seconds <= 3, "{in_the_first_seconds} restarts at once");
    // The dependency is back: everything heals, paced.
    world.broken.clear();
    world.pass(HOUR);
    let ready = apps.iter().filter(|app| world.app(app).ready() == 1).count();
    assert_eq!(ready, 10, "a host that lost everything comes back");
    assert!(world.state.storm.is_none());
    world.assert_replays();
}

#[test]
fn learning_stands_still_while_frozen_and_says_so() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.give(&Input::Freeze { frozen: true, reason: "demo".to_owned(), by: World::by("olivia") });
    let table = world.state.table.digest();
    world.crash(&app, 0);
    world.pass(2 * MINUTE);
    assert_eq!(world.state.table.digest(), table);
    let skipped =
        |r: &Record| matches!(&r.body, Body::LearningSkipped { why, .. } if why == "frozen");
    assert!(world.log.iter().any(skipped));
    world.assert_replays();
}

#[test]
fn dry_run_decides_and_touches_nothing() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.state.mode.dry_run = true;
    let before = world.executed.len();
    world.crash(&app, 0);
    world.pass(30_000);
    assert_eq!(world.executed.len(), before);
    assert!(matches!(world.last_decision().ruling, Ruling::Refused { reason: Reason::DryRun, .. }));
    assert!(!world.app(&app).last_effect.contains_key(&Action::Restart), "no cooldown consumed");
}

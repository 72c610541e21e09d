use super::*;
use crate::action::Level;
use crate::app::AppName;
use crate::policy::Learner;
use crate::step::world::World;

const MINUTE: u64 = 60_000;

/// An app that crashes now and then, and is healed by a restart.
fn history(crashes: u32) -> (World, AppName) {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 2);
    for _ in 0..crashes {
        world.pass(20 * MINUTE);
        world.crash(&app, 0);
        world.pass(3 * MINUTE);
    }
    (world, app)
}

fn fit(log: &[Record]) -> Fitted {
    let mut fit = Fit::new(Env::Stage);
    log.iter().for_each(|record| fit.fold(record));
    fit.finish()
}

fn compare(log: &[Record], a: Rules, b: Rules) -> Report {
    let fitted = fit(log);
    let mut comparison = Comparison::new(&fitted, a, b);
    log.iter().for_each(|record| comparison.fold(record));
    comparison.report()
}

/// Rules under which nothing is ever restarted.
fn idle() -> Rules {
    let mut policy = Policy::default_for(Env::Stage);
    policy.levels.insert(Action::Restart, Level::Off);
    Rules::Given(Box::new(policy))
}

#[test]
fn every_decision_of_a_log_comes_out_as_recorded_and_teaches() {
    let (world, _) = history(3);
    let fitted = fit(&world.log);
    assert!(fitted.decisions >= 3);
    assert_eq!((fitted.differing, fitted.outcomes), (0, 3));
    assert_eq!(fitted.newest, world.policy);
    let looks = [Signature::Down, Signature::DownRepeat, Signature::DownDeploy];
    let restarts = looks.map(|look| fitted.knowledge.beliefs(look).get(Action::Restart));
    assert_eq!(restarts.iter().map(|learned| learned.resolved).sum::<u32>(), 3);
}

#[test]
fn a_restart_that_did_not_last_is_no_success() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    assert_eq!(world.policy.graduation.relapse_ms, 10 * MINUTE);
    world.pass(40 * MINUTE);
    for _ in 0..3 {
        world.crash(&app, 0);
        world.pass(8 * MINUTE);
    }
    world.pass(30 * MINUTE);
    let relapse = |record: &Record| {
        let Body::Learned { lesson, .. } = &record.body else { return false };
        lesson.taught == Taught::Relapsed
    };
    assert_eq!(world.log.iter().filter(|record| relapse(record)).count(), 2);

    let fitted = fit(&world.log);
    assert_eq!((fitted.differing, fitted.outcomes), (0, 3));
    let costs = |fitted: &Fitted| fitted.ended.values().map(|ended| ended.cost).collect::<Vec<_>>();
    let [first, second, _] = costs(&fitted)[..] else { panic!("three attempts") };

    // Who does not hear of the relapses takes all three for successes, as cheap as the one that lasted.
    let deaf: Vec<_> = world.log.iter().filter(|record| !relapse(record)).cloned().collect();
    let fooled = fit(&deaf);
    let looks = [Signature::Down, Signature::DownRepeat];
    let helped = |knowledge: &Knowledge| {
        let learned = looks.map(|look| knowledge.beliefs(look).get(Action::Restart));
        learned.map(|learned| (learned.resolved, learned.trials))
    };
    // Read again, the log teaches what it taught the agent.
    assert_eq!(helped(&fitted.knowledge), helped(&world.state.knowledge));
    let resolved = |fitted: &Fitted| helped(&fitted.knowledge).map(|(resolved, _)| resolved);
    assert_eq!([&fitted, &fooled].map(|fitted| resolved(fitted).iter().sum::<u32>()), [1, 3]);
    let [quick, again, _] = costs(&fooled)[..] else { panic!("three attempts") };
    assert!(first > quick && second > again, "{first} {second} {quick} {again}");
}

#[test]
fn a_decision_that_was_changed_afterwards_is_found() {
    let (mut world, _) = history(1);
    for record in &mut world.log {
        if let Body::Decided(decided) = &mut record.body
            && decided.trigger == Trigger::Reading
        {
            decided.proposal.confidence = 999;
        }
    }
    let fitted = fit(&world.log);
    assert!(fitted.differing > 0);
    assert!(matches!(fitted.told.first(), Some(Mismatch::Differs { what: "proposal", .. })));
}

#[test]
fn rules_that_leave_an_app_down_are_worse_and_those_that_start_it_are_better() {
    let (world, _) = history(12);
    let worse = compare(&world.log, Rules::Recorded, idle());
    assert_eq!((worse.verdict, &worse.why), (Verdict::Worse, &None), "{worse:?}");
    assert!(worse.b.changed >= 12 && worse.a.changed == 0, "{worse:?}");
    let better = compare(&world.log, idle(), Rules::Recorded);
    assert_eq!(better.verdict, Verdict::Better);
    assert_eq!(better.difference.mean_micro, -worse.difference.mean_micro);
    // Every outcome of the log speaks about what it did, none about the rules that did nothing.
    assert_eq!((worse.a.effective_milli, worse.b.effective_milli), (12_000, 0));
    assert!(worse.a.self_normalized_micro.is_some() && worse.b.self_normalized_micro.is_none());
}

#[test]
fn rules_that_decide_alike_are_neither_better_nor_worse() {
    let (world, _) = history(12);
    let mut other = world.policy.clone();
    other.learning.learner = Learner::Q;
    let report = compare(&world.log, Rules::Recorded, Rules::Given(Box::new(other)));
    assert_eq!(report.verdict, Verdict::Inconclusive, "{report:?}");
    assert_eq!(report.why.as_deref(), Some("both decide alike in every situation"));
}

#[test]
fn a_short_log_gives_no_verdict() {
    let (world, _) = history(2);
    let report = compare(&world.log, Rules::Recorded, idle());
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert!(report.why.unwrap().contains("fewer than 10"));
}

#[test]
fn what_the_log_saw_weighs_with_the_inverse_of_how_likely_it_was() {
    let mut arm = Arm::default();
    let seen = |propensity_ppm, cost| Seen {
        action: Action::Restart,
        expected: Some(2_000_000),
        propensity_ppm,
        ended: Some(Ended { cost }),
    };
    // Certain and as expected; and one chance in four, a step more expensive than expected.
    arm.add(Action::Restart, 2_000_000, &seen(1_000_000, 2_000_000));
    arm.add(Action::Restart, 2_000_000, &seen(250_000, 3_000_000));
    // Another action than the recorded one: the log says nothing about it.
    arm.add(Action::Noop, 5_000_000, &seen(250_000, 9_000_000));
    let estimate = arm.estimate();
    assert_eq!(estimate.model.mean_micro, 3_000_000);
    // (2 + (2 + 4 * 1) + 5) / 3
    assert_eq!(estimate.doubly_robust.mean_micro, 4_333_333);
    // (2 + 4 * 3) / (1 + 4)
    assert_eq!(estimate.self_normalized_micro, Some(2_800_000));
    // (1 + 4)^2 / (1 + 16)
    assert_eq!(estimate.effective_milli, 1_470);
}

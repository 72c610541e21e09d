//! The learner gains nothing from what only looks like success.

use crate::action::Action;
use crate::app::{AppName, Env, Millis};
use crate::choose::Taught;
use crate::choose::ccq::Learned;
use crate::detect::{FindingKind, Signature};
use crate::policy::Learner;
use crate::record::{Body, Concluded, Record};
use crate::replay::Replay;
use crate::signal::{MICRO, Metric};
use crate::state::Outcome;
use crate::step::Input;
use crate::step::world::World;

const MINUTE: Millis = 60_000;
const PERCENT: i64 = MICRO / 100;

fn outcomes(world: &World, action: Action) -> Vec<Outcome> {
    let concluded = world.log.iter().filter_map(|record| match &record.body {
        Body::Concluded(Concluded { action: of, outcome, .. }) if *of == action => Some(*outcome),
        _ => None,
    });
    concluded.collect()
}

fn lessons(world: &World) -> Vec<Taught> {
    let learned = world.log.iter().filter_map(|record| match &record.body {
        Body::Learned { lesson, .. } => Some(lesson.taught),
        _ => None,
    });
    learned.collect()
}

/// What the live server knows is what anybody makes of its log.
fn assert_rebuilt(world: &World) {
    let mut rebuilt = Replay::new(world.state.env);
    world.log.iter().for_each(|record| rebuilt.fold(record));
    assert_eq!(rebuilt.state.table.digest(), world.state.table.digest());
    assert_eq!(rebuilt.state.knowledge.digest(), world.state.knowledge.digest());
    world.assert_replays();
}

/// An app that runs for a few minutes after every restart, and then ends again.
fn crash_loop(world: &mut World) -> Vec<Learned> {
    let app = world.onboard("web", 1);
    world.pass(40 * MINUTE);
    for _ in 0..3 {
        world.crash(&app, 0);
        world.pass(8 * MINUTE);
    }
    world.pass(30 * MINUTE);
    let looks = [Signature::Down, Signature::DownRepeat];
    looks.map(|look| world.state.knowledge.beliefs(look).get(Action::Restart)).into()
}

#[test]
fn a_restart_that_lasts_some_minutes_is_learned_as_one_that_failed() {
    let mut world = World::new(Env::Stage);
    let learned = crash_loop(&mut world);
    let relapsed = lessons(&world).into_iter().filter(|taught| *taught == Taught::Relapsed).count();
    let resolved: u32 = learned.iter().map(|learned| learned.resolved).sum();
    let trials: u32 = learned.iter().map(|learned| learned.trials).sum();
    assert_eq!((relapsed, resolved, trials), (2, 1, 3), "only the last one lasted");
    assert_rebuilt(&world);

    // A correction names the lesson it corrects.
    let corrects = world.log.iter().find(|record| {
        matches!(&record.body, Body::Learned { lesson, .. } if lesson.taught == Taught::Relapsed)
    });
    let cause = corrects.and_then(|record| record.cause).unwrap();
    let corrected = world.log.iter().find(|record| record.seq == cause).unwrap();
    assert!(matches!(&corrected.body, Body::Learned { lesson, .. }
        if lesson.taught == Taught::Outcome(Outcome::Verified)));

    // Who believes in every recovery that lasts a minute learns that restarts help.
    let mut gullible = World::new(Env::Stage);
    gullible.policy.graduation.relapse_ms = 1;
    gullible.start_agent();
    let fooled = crash_loop(&mut gullible);
    assert_eq!(fooled.iter().map(|learned| learned.resolved).sum::<u32>(), 3);
}

#[test]
fn frozen_learning_is_not_corrected_either() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.pass(40 * MINUTE);
    world.crash(&app, 0);
    world.pass(4 * MINUTE);
    let by = World::by("olivia");
    world.give(&Input::Freeze { frozen: true, reason: "drill".to_owned(), by });
    let (table, knowledge) = (world.state.table.clone(), world.state.knowledge.clone());
    world.crash(&app, 0);
    world.pass(4 * MINUTE);
    assert_eq!((&world.state.table, &world.state.knowledge), (&table, &knowledge));
    assert!(!lessons(&world).contains(&Taught::Relapsed));
    assert_rebuilt(&world);
}

#[test]
fn a_relapse_while_learning_is_frozen_is_told_once() {
    let mut world = World::new(Env::Stage);
    world.policy.stability.crash_loop_exits = 2;
    world.start_agent();
    let app = world.onboard("web", 1);
    world.pass(40 * MINUTE);
    world.crash(&app, 0);
    world.pass(4 * MINUTE);
    assert_eq!(lessons(&world), [Taught::Outcome(Outcome::Verified)]);
    let by = World::by("olivia");
    world.give(&Input::Freeze { frozen: true, reason: "drill".to_owned(), by });
    // The second end within ten minutes is a crash and a crash loop: two findings, and one relapse.
    world.crash(&app, 0);
    let raised = world.count("FINDING_RAISED");
    assert_eq!(raised, 3);
    let told = |r: &&Record| matches!(r.body, Body::LearningSkipped { relapse: true, .. });
    assert_eq!(world.log.iter().filter(told).count(), 1);
    world.pass(4 * MINUTE);
    assert_rebuilt(&world);
}

/// An app in prod, onboarded when its server was one of stage.
fn prod() -> (World, AppName) {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.turn_prod();
    world.pass(40 * MINUTE);
    (world, app)
}

fn restart(world: &World) -> Learned {
    world.state.taught().knowledge.beliefs(Signature::Down).get(Action::Restart)
}

#[test]
fn what_a_human_approves_teaches_both_learners_when_it_is_known_how_it_ended() {
    let (mut world, app) = prod();
    world.crash(&app, 0);
    let approval = world.app(&app).approval.expect("prod asks");
    assert!(lessons(&world).is_empty());
    world.approve(approval, None, World::by("ann"));
    world.pass(4 * MINUTE);
    assert_eq!(outcomes(&world, Action::Restart), [Outcome::Verified]);
    assert_eq!(lessons(&world), [Taught::Outcome(Outcome::Verified)]);
    let learned = restart(&world);
    assert_eq!((learned.trials, learned.resolved), (1, 1));
    assert!(learned.offset > Learned::default().offset);
    let table = world.state.taught().table;
    assert_eq!(table.row(FindingKind::Crash).get(Action::Restart).verified, 1);
    assert_rebuilt(&world);
}

#[test]
fn what_a_human_rejects_teaches_both_learners_at_once() {
    let (mut world, app) = prod();
    world.crash(&app, 0);
    let approval = world.app(&app).approval.expect("prod asks");
    let (comment, by) = ("the disk is broken".to_owned(), World::by("ann"));
    world.give(&Input::Reject { approval, comment, by });
    assert_eq!(lessons(&world), [Taught::Rejected]);
    let learned = restart(&world);
    assert_eq!((learned.trials, learned.resolved), (0, 0), "nothing was tried");
    assert!(learned.offset < Learned::default().offset);
    let table = world.state.taught().table;
    assert_eq!(table.row(FindingKind::Crash).get(Action::Restart).rejected, 1);
    assert_rebuilt(&world);
}

/// An overload that is answered by one more instance, up to the moment after that.
fn overloaded() -> (World, AppName) {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 2);
    let cpu = |percent| [(Metric::CpuUtilization, percent * PERCENT), (Metric::RequestRate, MICRO)];
    world.hear(&app, 5 * MINUTE, &cpu(40));
    while world.app(&app).attempt.is_none() {
        world.hear(&app, 1_000, &cpu(97));
    }
    (world, app)
}

#[test]
fn one_more_instance_that_helps_is_learned() {
    let (mut world, app) = overloaded();
    world.hear(&app, 6 * MINUTE, &[(Metric::CpuUtilization, 40 * PERCENT)]);
    assert_eq!(outcomes(&world, Action::ScaleUp), [Outcome::Verified]);
    assert_eq!(lessons(&world).len(), 1);
}

#[test]
fn nothing_is_gained_from_a_monitor_that_dies_or_a_metric_that_is_muted() {
    let others = [(Metric::RequestRate, MICRO)];
    for says in [&[][..], &others[..]] {
        let (mut world, app) = overloaded();
        world.hear(&app, 8 * MINUTE, says);
        assert_eq!(outcomes(&world, Action::ScaleUp), [Outcome::Inconclusive], "{says:?}");
        assert!(lessons(&world).is_empty());
    }
}

#[test]
fn nothing_is_gained_from_a_metric_that_falls_and_is_muted_before_it_can_rise_again() {
    let (mut world, app) = overloaded();
    let calm = [(Metric::CpuUtilization, 40 * PERCENT), (Metric::RequestRate, MICRO)];
    while world.app(&app).open.contains_key(&FindingKind::CpuOverload) {
        world.hear(&app, 1_000, &calm);
    }
    world.hear(&app, 8 * MINUTE, &calm[1..]);
    assert!(!outcomes(&world, Action::ScaleUp).contains(&Outcome::Verified));
    assert!(lessons(&world).is_empty());
}

/// Errors that a restart is tried against; what the monitors say after that.
fn failing(rate: i64) -> World {
    let mut world = World::new(Env::Stage);
    world.policy.learning.learner = Learner::Q;
    world.start_agent();
    let app = world.onboard("web", 2);
    let says = |errors, rate| [(Metric::ErrorRatio, errors), (Metric::RequestRate, rate)];
    world.hear(&app, 5 * MINUTE, &says(0, 50 * MICRO));
    while world.app(&app).attempt.is_none() {
        world.hear(&app, 1_000, &says(60 * PERCENT, 50 * MICRO));
    }
    world.hear(&app, 8 * MINUTE, &says(0, rate));
    world
}

#[test]
fn nothing_is_gained_from_errors_that_end_because_nobody_asks_any_more() {
    let drained = failing(0);
    assert!(!outcomes(&drained, Action::Restart).contains(&Outcome::Verified));
    assert!(lessons(&drained).is_empty());
    let served = failing(50 * MICRO);
    assert_eq!(outcomes(&served, Action::Restart), [Outcome::Verified]);
    assert_eq!(lessons(&served).len(), 1);
}

use super::*;
use crate::app::{AppName, Field, OnboardRequest};
use crate::choose::PlanError;
use crate::record::Author;
use crate::step::world::World;
use crate::step::{Failure, Reply};
use crate::verdict::Ruling;

const MINUTE: Millis = 60_000;

/// A world in which three answers are enough, and in which nothing but the level holds the agent back.
fn patient(env: Env) -> World {
    let mut world = World::new(env);
    let rules = &mut world.policy;
    rules.graduation.decisions = 3;
    rules.cooldown.base_ms.insert(Action::Restart, 1_000);
    rules.cooldown.restart_cap_ms = 1_000;
    (rules.repetition.limit, rules.memory.failures, rules.memory.identical) = (45, 45, 45);
    rules.breaker.failures = 1_000;
    (rules.stability.flap_changes, rules.stability.flap_window_ms) = (9, 100);
    rules.stability.crash_loop_exits = 16;
    world.start_agent();
    world
}

fn level(world: &mut World, app: &AppName, level: &str) -> Reply {
    let asked = OnboardRequest { autonomy: Some(level.to_owned()), ..OnboardRequest::default() };
    world.update(app, asked, [Field::Autonomy], None)
}

/// The app crashes, the agent may only think about it, and Olivia does what it thought.
fn crash_and_restart_by_hand(world: &mut World, app: &AppName) {
    world.crash(app, 0);
    world.pass(2_000);
    let reply = world.act(app, "restart", World::by("olivia"));
    assert!(matches!(reply, Reply::Decided { ruling: Ruling::Permitted, .. }), "{reply:?}");
    world.pass(world.policy.verification.hold_ms + 5_000);
}

fn restart(world: &World, app: &AppName) -> Report {
    let reports = report(world.app(app), &world.policy);
    reports.into_iter().find(|report| report.action == Action::Restart).unwrap()
}

/// The request that waits for a human, answered by Ann.
fn approved(world: &mut World, app: &AppName) {
    let approval = world.app(app).approval.expect("a second person is asked");
    let own = world.approve(approval, None, World::by("olivia"));
    assert_eq!(own, Reply::Failed(Failure::SelfApproval("olivia".to_owned())));
    let reply = world.approve(approval, None, World::by("ann"));
    assert!(matches!(reply, Reply::Decided { ruling: Ruling::Permitted, .. }), "{reply:?}");
}

/// An app that the agent only thinks about.
fn shadowed(world: &mut World) -> AppName {
    let app = world.onboard("web", 1);
    let reply = level(world, &app, "SHADOW");
    assert!(matches!(reply, Reply::Updated { seq: Some(_), .. }), "to take away needs nobody");
    app
}

#[test]
fn agreement_with_humans_is_reported_raised_by_a_second_person_and_taken_back_after_failures() {
    let mut world = patient(Env::Stage);
    let app = shadowed(&mut world);
    for answered in 0..3 {
        let report = restart(&world, &app);
        assert_eq!((report.count.answered, report.is_ready()), (answered, false), "{report:?}");
        crash_and_restart_by_hand(&mut world, &app);
    }
    let report = restart(&world, &app);
    assert_eq!((report.count.agreed, report.level, report.is_ready()), (3, Level::Shadow, true));
    assert_eq!(world.count("AUTONOMOUS_OPERATION"), 0, "so far it only thought");

    let reply = level(&mut world, &app, "AUTO");
    let held = |d: &Decided| matches!(d.ruling, Ruling::Held { .. });
    assert!(matches!(&reply, Reply::Updated { decided: Some(d), .. } if held(d)), "{reply:?}");
    assert_eq!(
        restart(&world, &app).level,
        Level::Shadow,
        "nothing is given before it is approved"
    );
    approved(&mut world, &app);
    assert_eq!(restart(&world, &app).level, Level::Auto);

    world.crash(&app, 0);
    world.pass(2 * MINUTE);
    assert_eq!((world.count("AUTONOMOUS_OPERATION"), restart(&world, &app).held), (1, 1));
    // From here on the app does not live: what the agent does alone fails.
    world.broken.push(app.clone());
    world.crash(&app, 0);
    world.pass(10 * MINUTE);
    let report = restart(&world, &app);
    assert_eq!((world.count("AUTONOMY_DEMOTED"), report.level), (1, Level::Propose));
    assert!(report.demoted_at.is_some() && !report.is_ready(), "it is earned anew: {report:?}");
    let alone = world.count("AUTONOMOUS_OPERATION");
    assert!(world.app(&app).approval.is_some(), "from here on a human is asked");
    world.pass(10 * MINUTE);
    assert_eq!(world.count("AUTONOMOUS_OPERATION"), alone);
    let demotion = world.log.iter().find(|r| r.body.event_name() == "AUTONOMY_DEMOTED").unwrap();
    assert_eq!(demotion.actor, crate::step::world::AGENT);
    world.assert_replays();
}

#[test]
fn what_was_taken_back_is_given_again_by_name_and_by_a_second_person_only() {
    let mut world = patient(Env::Stage);
    let app = world.onboard("web", 1);
    assert!(matches!(level(&mut world, &app, "AUTO"), Reply::Updated { seq: Some(_), .. }));
    assert_eq!(world.app(&app).approval, None, "it gives nothing that stage does not give anyway");
    world.broken.push(app.clone());
    world.crash(&app, 0);
    world.pass(10 * MINUTE);
    assert_eq!(restart(&world, &app).level, Level::Propose);
    // Another deployment changes nothing about it.
    world.broken.clear();
    world.deploy_next(&app);
    assert_eq!(restart(&world, &app).level, Level::Propose);
    let reply = level(&mut world, &app, "AUTO");
    assert!(matches!(reply, Reply::Updated { seq: Some(_), .. }), "{reply:?}");
    approved(&mut world, &app);
    let report = restart(&world, &app);
    assert_eq!((report.level, report.demoted_at, report.failed), (Level::Auto, None, 0));
    let reply = level(&mut world, &app, "AUTO");
    assert!(matches!(reply, Reply::Updated { seq: None, .. }), "there is nothing more to give");
    world.assert_replays();
}

#[test]
fn an_app_that_was_given_nothing_by_name_keeps_its_breaker_and_is_not_demoted() {
    let mut world = patient(Env::Stage);
    let app = world.onboard("web", 1);
    world.broken.push(app.clone());
    world.crash(&app, 0);
    world.pass(10 * MINUTE);
    assert!(restart(&world, &app).failed >= 3);
    assert_eq!((world.count("AUTONOMY_DEMOTED"), restart(&world, &app).level), (0, Level::Auto));
}

#[test]
fn a_cure_that_does_not_last_counts_against_the_agent() {
    let mut world = patient(Env::Stage);
    let app = world.onboard("web", 1);
    level(&mut world, &app, "AUTO");
    for crashes in 1..=3_u32 {
        world.crash(&app, 0);
        world.pass(2 * MINUTE);
        let report = restart(&world, &app);
        // The newest cure holds as far as anybody knows.
        assert_eq!((report.held, report.failed), (1, crashes - 1), "{report:?}");
    }
    assert_eq!(world.count("AUTONOMY_DEMOTED"), 0);
    let alone = world.count("AUTONOMOUS_OPERATION");
    world.crash(&app, 0);
    world.pass(2 * MINUTE);
    assert_eq!(world.count("AUTONOMY_DEMOTED"), 1, "the third relapse takes it back");
    assert_eq!(world.count("AUTONOMOUS_OPERATION"), alone, "before it is used again");
    world.assert_replays();
}

#[test]
fn humans_disagree_by_a_no_by_another_action_and_by_waiting() {
    let mut world = patient(Env::Stage);
    let app = shadowed(&mut world);
    world.crash(&app, 0);
    world.pass(2_000);
    // Somebody starts it by hand, outside of agentd: it did not need the agent.
    world.bring_up(&app, 0);
    world.pass(MINUTE);
    assert_eq!(restart(&world, &app).count.unneeded, 1);
    world.crash(&app, 0);
    world.pass(2_000);
    world.deploy_next(&app);
    assert_eq!(restart(&world, &app).count.differed, 1, "Olivia brought up something else");
    level(&mut world, &app, "PROPOSE");
    approved(&mut world, &app);
    world.crash(&app, 0);
    world.pass(2_000);
    let approval = world.app(&app).approval.unwrap();
    let by = World::by("ann");
    world.give(&crate::step::Input::Reject { approval, comment: "no".to_owned(), by });
    let count = restart(&world, &app).count;
    assert_eq!((count.answered, count.agreed, count.differed), (3, 0, 2), "{count:?}");
    assert!(!restart(&world, &app).is_ready(), "enough answers, and against it");
    world.assert_replays();
}

#[test]
fn what_is_pending_when_nobody_answers_says_nothing() {
    let mut world = patient(Env::Stage);
    let app = world.onboard("web", 1);
    level(&mut world, &app, "PROPOSE");
    world.crash(&app, 0);
    world.pass(world.policy.approval.ttl_ms + MINUTE);
    assert!(world.count("APPROVAL_EXPIRED") > 0);
    assert_eq!(restart(&world, &app).count.answered, 0);
}

#[test]
fn more_autonomy_is_a_change_of_its_own() {
    let mut world = patient(Env::Stage);
    let app = shadowed(&mut world);
    let asked = OnboardRequest {
        autonomy: Some("AUTO".to_owned()),
        environment: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
        ..OnboardRequest::default()
    };
    let reply = world.update(&app, asked, [Field::Autonomy, Field::Environment], None);
    let Reply::Invalid(violations) = reply else { panic!("{reply:?}") };
    assert_eq!((violations.len(), violations[0].field.as_str()), (1, "autonomy"));
    assert_eq!(restart(&world, &app).level, Level::Shadow);
}

/// From here on the world is prod, which leaves restarts to the agent.
fn into_prod(world: &mut World) {
    world.policy = Policy::default_for(Env::Prod);
    world.policy.levels.insert(Action::Restart, Level::Auto);
    world.policy.graduation.decisions = 3;
    world.state.env = Env::Prod;
    for history in world.state.specs.values_mut() {
        history.revisions.iter_mut().for_each(|revision| revision.spec.env = Env::Prod);
    }
    let policy = world.policy.clone();
    world.apply(policy, Author::Principal("adam".to_owned()));
}

#[test]
fn in_prod_only_what_has_graduated_is_left_to_the_agent_app_by_app() {
    let mut world = patient(Env::Stage);
    let (app, other) = (world.onboard("web", 1), world.onboard("api", 1));
    into_prod(&mut world);
    assert_eq!(restart(&world, &app).level, Level::Propose, "the policy alone gives nothing");
    let reply = level(&mut world, &app, "AUTO");
    let missing = |d: &Decided| d.proposal.missing == Some(PlanError::NotGraduated);
    assert!(matches!(&reply, Reply::Updated { decided: Some(d), .. } if missing(d)), "{reply:?}");
    for _ in 0..3 {
        world.crash(&app, 0);
        world.pass(2_000);
        approved_restart(&mut world, &app);
        world.pass(30 * MINUTE);
    }
    let reply = level(&mut world, &app, "AUTO");
    assert!(matches!(&reply, Reply::Updated { seq: Some(_), .. }), "{reply:?}");
    approved(&mut world, &app);
    assert_eq!(restart(&world, &app).level, Level::Auto);
    let scale = report(world.app(&app), &world.policy)[0].clone();
    assert_eq!((scale.action, scale.level), (Action::ScaleUp, Level::Propose), "action by action");
    assert_eq!(restart(&world, &other).level, Level::Propose, "app by app");
    world.crash(&app, 0);
    world.pass(2 * MINUTE);
    assert_eq!(world.count("AUTONOMOUS_OPERATION"), 1);
}

fn approved_restart(world: &mut World, app: &AppName) {
    let approval = world.app(app).approval.expect("a human is asked");
    let reply = world.approve(approval, None, World::by("ann"));
    assert!(matches!(reply, Reply::Decided { ruling: Ruling::Permitted, .. }), "{reply:?}");
}

#[test]
fn memory_is_bounded_and_the_newest_answers_count() {
    let mut standing = Standing::default();
    for _ in 0..ANSWERS {
        standing.answer(Action::Restart, Answer::Differed);
        standing.alone(Action::Restart, Alone { at: 0, held: true, findings: Vec::new() });
    }
    for _ in 0..ANSWERS {
        standing.answer(Action::Restart, Answer::Agreed);
    }
    let track = &standing.tracks[&Action::Restart];
    assert_eq!((track.answers.len(), track.alone.len()), (ANSWERS, ALONE));
    assert!(is_graduated(track, &Graduation::default()), "what was once is over");
}

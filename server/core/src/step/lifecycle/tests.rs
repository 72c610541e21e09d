//! Stories of apps that are changed and let go, and of rules that change under them.

use crate::action::{Action, Level};
use crate::app::{Env, Field, OnboardRequest, RequestedSource, RequestedWindow};
use crate::policy::Policy;
use crate::reason::Reason;
use crate::record::{Author, Body, Request};
use crate::state::{ApprovalState, Outcome, Scope};
use crate::step::world::World;
use crate::step::{By, Failure, Input, Reply};
use crate::verdict::Ruling;

const MINUTE: u64 = 60_000;

fn labels(pairs: &[(&str, &str)]) -> OnboardRequest {
    let labels = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    OnboardRequest { labels, ..OnboardRequest::default() }
}

fn ruling(reply: &Reply) -> Ruling {
    match reply {
        Reply::Updated { decided: Some(decided), .. } => decided.ruling.clone(),
        Reply::Decided { ruling, .. } => ruling.clone(),
        other => panic!("no decision: {other:?}"),
    }
}

#[test]
fn settings_come_into_force_at_once_and_no_process_is_touched() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 2);
    let executed = world.executed.len();
    let asked = OnboardRequest {
        autonomy: Some("PROPOSE".to_owned()),
        thresholds: [("cpu_utilization".to_owned(), (0.9, 0.7))].into(),
        ..labels(&[("team", "shop")])
    };
    let fields = [Field::Labels, Field::Autonomy, Field::Thresholds];
    let reply = world.update(&app, asked, fields, None);
    assert_eq!(ruling(&reply), Ruling::Permitted);
    assert_eq!(world.executed.len(), executed, "no actuator hears of it");
    let profile = &world.app(&app).profile;
    assert_eq!((profile.revision, profile.autonomy), (2, Some(Level::Propose)));
    assert_eq!(profile.thresholds.len(), 1);
    assert_eq!(world.app(&app).attempt, None);
    let history = &world.state.specs[&app];
    assert!(history.revision(2).unwrap().verified_at.is_some(), "what runs is what was verified");
    assert_eq!(profile.rollback_to, None, "there is no other program to go back to");
    world.crash(&app, 0);
    world.pass(5_000);
    assert!(world.app(&app).approval.is_some(), "the new autonomy counts: a human is asked");
    world.assert_replays();
}

#[test]
fn another_program_is_a_deployment_and_what_was_scaled_stays() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 2);
    world.act(&app, "scale_up", World::by("olivia"));
    world.pass(2 * MINUTE);
    assert_eq!(world.app(&app).desired, 3);
    let source = RequestedSource::Exec { path: "/usr/bin/next".to_owned(), args: Vec::new() };
    let asked = OnboardRequest { source, max_instances: Some(6), ..OnboardRequest::default() };
    let reply = world.update(&app, asked, [Field::Source, Field::MaxInstances], None);
    assert_eq!(ruling(&reply), Ruling::Permitted);
    world.pass(2 * MINUTE);
    let state = world.app(&app);
    assert_eq!((state.desired, state.ready(), state.profile.max), (3, 3, 6));
    assert_eq!(state.profile.rollback_to, Some(1), "the way back is open");
    let asked = OnboardRequest { desired_instances: Some(6), ..OnboardRequest::default() };
    let reply = world.update(&app, asked, [Field::DesiredInstances], None);
    assert_eq!(ruling(&reply), Ruling::Permitted);
    world.pass(2 * MINUTE);
    assert_eq!(world.app(&app).desired, 6);
    world.assert_replays();
}

#[test]
fn whoever_changes_what_somebody_else_changed_is_told_and_changes_nothing() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    let etag = |world: &World| world.state.specs[&app].etag(world.app(&app).onboarded_at);
    let seen = etag(&world);
    let first = world.update(&app, labels(&[("a", "1")]), [Field::Labels], Some(seen.clone()));
    assert!(matches!(first, Reply::Updated { seq: Some(_), .. }), "{first:?}");
    let before = world.log.len();
    let second = world.update(&app, labels(&[("b", "2")]), [Field::Labels], Some(seen.clone()));
    let now = etag(&world);
    assert_ne!(now, seen);
    let changed = Failure::Changed { app: "web".to_owned(), etag: now.clone() };
    assert_eq!(second, Reply::Failed(changed));
    assert_eq!(world.log.len(), before);
    let again = world.update(&app, labels(&[("a", "1")]), [Field::Labels], Some(now));
    assert!(matches!(again, Reply::Updated { seq: None, decided: None, .. }), "{again:?}");
    assert_eq!(world.log.len(), before, "what differs in nothing is no change");
}

#[test]
fn an_update_obeys_the_rules_of_an_onboarding_and_a_dry_run_leaves_no_trace() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    let asked = OnboardRequest {
        min_instances: Some(9),
        windows: vec![RequestedWindow {
            name: "x".into(),
            start: "soon".into(),
            ..Default::default()
        }],
        ..labels(&[("protected", "maybe")])
    };
    let fields = [Field::Labels, Field::MinInstances, Field::Windows];
    let reply = world.update(&app, asked, fields, None);
    let Reply::Invalid(violations) = reply else { panic!("{reply:?}") };
    let named: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
    let expected =
        ["instances", "labels", "maintenance_windows[0].start", "maintenance_windows[0].end"];
    assert_eq!(named, expected);

    let (before, seq) = (world.state.clone(), world.log.len());
    let by = By { validate_only: true, ..World::by("olivia") };
    let request = Box::new(OnboardRequest { name: "web".to_owned(), ..labels(&[("a", "1")]) });
    let update = Some(crate::step::Update { fields: [Field::Labels].into(), etag: None });
    let reply = world.give(&Input::Onboard { request, found: Vec::new(), update, by });
    assert_eq!(ruling(&reply), Ruling::Permitted, "it says what would come of it");
    assert!(matches!(reply, Reply::Updated { seq: None, .. }));
    assert_eq!((world.state, world.log.len()), (before, seq));
}

#[test]
fn a_protected_app_is_brought_up_once_and_left_alone_until_the_label_is_taken_off() {
    let mut world = World::new(Env::Stage);
    let request = OnboardRequest {
        labels: labels(&[("protected", "true")]).labels,
        ..World::request("web", 1)
    };
    world.try_onboard(request, World::by("olivia"));
    world.pass(2 * MINUTE);
    let app = crate::app::AppName::parse("web").unwrap();
    assert_eq!(world.app(&app).ready(), 1);
    world.crash(&app, 0);
    world.pass(2 * MINUTE);
    assert_eq!(world.restarts(), 0);
    let refused = Ruling::Refused { reason: Reason::Protected, instead: Action::Noop };
    assert_eq!(ruling(&world.offboard(&app, World::by("olivia"))), refused);
    let reply = world.update(&app, labels(&[]), [Field::Labels], None);
    assert_eq!(ruling(&reply), Ruling::Permitted);
    world.pass(2 * MINUTE);
    assert_eq!((world.restarts(), world.app(&app).ready()), (1, 1), "care begins");
    world.assert_replays();
}

#[test]
fn the_window_of_one_app_keeps_every_effect_from_it_and_from_no_other() {
    let mut world = World::new(Env::Stage);
    let (app, other) = (world.onboard("web", 1), world.onboard("shop", 1));
    let now = |by: u64, world: &World| crate::record::format_time(world.now + by);
    let window = RequestedWindow {
        name: "migration".to_owned(),
        start: now(0, &world),
        end: Some(now(10 * MINUTE, &world)),
        every_ms: None,
    };
    let asked = OnboardRequest { windows: vec![window], ..OnboardRequest::default() };
    assert_eq!(ruling(&world.update(&app, asked, [Field::Windows], None)), Ruling::Permitted);
    world.crash(&other, 0);
    world.pass(2 * MINUTE);
    world.crash(&app, 0);
    world.pass(2 * MINUTE);
    assert_eq!((world.app(&app).ready(), world.app(&other).ready()), (0, 1));
    assert_eq!(world.count("MAINTENANCE_WINDOW"), 1);
    let reply = world.update(&app, OnboardRequest::default(), [Field::Windows], None);
    assert_eq!(ruling(&reply), Ruling::Permitted, "a human may end it early");
    world.pass(2 * MINUTE);
    assert_eq!(world.app(&app).ready(), 1);
    world.assert_replays();
}

#[test]
fn an_app_is_let_go_and_its_name_is_free() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 2);
    let by = World::by("olivia");
    let (scope, reason) = (Scope::App(app.clone()), "drill".to_owned());
    world.give(&Input::Pause { scope, halt: false, reason, ttl_ms: None, by: by.clone() });
    let refused = Ruling::Refused { reason: Reason::Paused, instead: Action::Noop };
    assert_eq!(ruling(&world.offboard(&app, by.clone())), refused, "a pause holds for it too");
    let (scope, reason) = (Scope::App(app.clone()), "over".to_owned());
    world.give(&Input::Resume { scope, reason, by: by.clone() });
    assert_eq!(ruling(&world.offboard(&app, by.clone())), Ruling::Permitted);
    assert!(!world.state.apps.contains_key(&app) && !world.state.specs.contains_key(&app));
    let gone = world.log.last().unwrap();
    assert!(matches!(gone.body, Body::Offboarded { revision: 1, .. }), "{:?}", gone.body);
    assert_eq!(world.count("FINDING_RAISED"), 0, "what was stopped on purpose has not crashed");
    assert_eq!(world.offboard(&app, by), Reply::Failed(Failure::NoSuchApp("web".to_owned())));
    world.onboard("web", 1);
    assert_eq!(world.app(&app).profile.revision, 1, "another app under the same name");
    world.assert_replays();
}

/// Offboardings that ended so.
fn farewells(world: &World, outcome: Outcome) -> usize {
    let ended = |record: &&crate::record::Record| match &record.body {
        Body::Concluded(c) => c.action == Action::Offboard && c.outcome == outcome,
        _ => false,
    };
    world.log.iter().filter(ended).count()
}

#[test]
fn an_offboarding_that_fails_or_is_cut_short_leaves_the_app_under_care() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 2);
    world.broken.push(app.clone());
    assert_eq!(ruling(&world.offboard(&app, World::by("olivia"))), Ruling::Permitted);
    assert_eq!((farewells(&world, Outcome::Failed), world.count("APP_OFFBOARDED")), (1, 0));
    world.broken.clear();
    world.pass(5 * MINUTE);
    assert_eq!(world.app(&app).ready(), 2, "what is still wanted is healed");

    let reading = crate::signal::Reading::silent(app.clone(), world.now, None);
    let (reason, by) = ("it moved".to_owned(), World::by("olivia"));
    world.judge(&Input::Offboard { app: app.clone(), reason, etag: None, reading, by });
    world.start_agent();
    world.pass(MINUTE);
    assert_eq!(world.app(&app).attempt, None);
    assert_eq!((farewells(&world, Outcome::Inconclusive), world.count("APP_OFFBOARDED")), (1, 0));
    assert_eq!(ruling(&world.offboard(&app, World::by("olivia"))), Ruling::Permitted);
    assert_eq!(world.count("APP_OFFBOARDED"), 1);
    world.assert_replays();
}

/// An app in prod, where nothing is onboarded through the API: its specification came by another way.
fn in_prod() -> (World, crate::app::AppName) {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    for action in [Action::Deploy, Action::Configure, Action::Offboard] {
        world.policy.levels.insert(action, Level::Propose);
    }
    world.start_agent();
    // Everything but the name of the environment is as in prod.
    (world.state.env, world.policy.env) = (Env::Prod, Env::Prod);
    for revision in &mut world.state.specs.get_mut(&app).unwrap().revisions {
        revision.spec.env = Env::Prod;
    }
    (world, app)
}

#[test]
fn in_prod_a_second_person_approves_that_an_app_is_let_go() {
    let (mut world, app) = in_prod();
    let reply = world.offboard(&app, World::by("olivia"));
    assert!(matches!(ruling(&reply), Ruling::Held { .. }), "{reply:?}");
    let approval = world.app(&app).approval.unwrap();
    let own = world.approve(approval, None, World::by("olivia"));
    assert_eq!(own, Reply::Failed(Failure::SelfApproval("olivia".to_owned())));
    assert!(world.state.apps.contains_key(&app));
    let second = world.approve(approval, None, World::by("ann"));
    assert_eq!(ruling(&second), Ruling::Permitted);
    assert!(!world.state.apps.contains_key(&app));
    assert_eq!(world.count("APP_OFFBOARDED"), 1);
}

#[test]
fn in_prod_a_change_waits_and_the_running_revision_stays_until_a_second_person_approves() {
    let (mut world, app) = in_prod();
    let reply = world.update(&app, labels(&[("a", "1")]), [Field::Labels], None);
    assert!(matches!(ruling(&reply), Ruling::Held { .. }), "{reply:?}");
    assert_eq!(world.app(&app).profile.revision, 1);
    let approval = world.app(&app).approval.unwrap();
    let own = world.approve(approval, None, World::by("olivia"));
    assert_eq!(own, Reply::Failed(Failure::SelfApproval("olivia".to_owned())));
    assert_eq!(ruling(&world.approve(approval, None, World::by("ann"))), Ruling::Permitted);
    let spec = world.state.specs[&app].spec().unwrap();
    assert_eq!((world.app(&app).profile.revision, spec.labels["a"].as_str()), (2, "1"));
    assert_eq!(waiting(&world, approval), ApprovalState::Verified);
    // More instances than the running revision allows are judged by the bounds of the next.
    let asked = OnboardRequest {
        max_instances: Some(9),
        desired_instances: Some(9),
        ..OnboardRequest::default()
    };
    let fields = [Field::MaxInstances, Field::DesiredInstances];
    assert!(matches!(ruling(&world.update(&app, asked, fields, None)), Ruling::Held { .. }));
    let approval = world.app(&app).approval.unwrap();
    assert_eq!(ruling(&world.approve(approval, None, World::by("ann"))), Ruling::Permitted);
    assert_eq!(world.app(&app).desired, 9);
}

fn waiting(world: &World, approval: u64) -> ApprovalState {
    world.state.approvals[&approval].state
}

#[test]
fn another_policy_supersedes_what_waits_and_what_still_stands_is_asked_anew() {
    let mut world = World::new(Env::Stage);
    world.policy.levels.insert(Action::Restart, Level::Propose);
    world.start_agent();
    let app = world.onboard("web", 1);
    world.crash(&app, 0);
    world.pass(5_000);
    let first = world.app(&app).approval.expect("a human is asked");
    let digest = world.state.approvals[&first].plan_digest.clone();
    let mut next = world.policy.clone();
    next.budget.per_hour += 1;
    let reply = world.apply(next.clone(), Author::Principal("adam".to_owned()));
    assert!(matches!(reply, Reply::Done { seq: Some(_) }), "{reply:?}");
    assert_eq!(waiting(&world, first), ApprovalState::Superseded);
    let applied = world.log.iter().rev().find_map(|record| match &record.body {
        Body::PolicyApplied { author, digest, .. } => Some((author.clone(), digest.clone())),
        _ => None,
    });
    assert_eq!(applied, Some((Author::Principal("adam".to_owned()), next.digest())));
    let late = world.approve(first, Some(digest), World::by("ann"));
    assert!(matches!(late, Reply::Failed(Failure::ApprovalClosed { .. })), "{late:?}");
    world.pass(5_000);
    let second = world.app(&app).approval.expect("it is asked anew");
    assert_ne!(second, first);
    assert_eq!(ruling(&world.approve(second, None, World::by("ann"))), Ruling::Permitted);
    world.pass(2 * MINUTE);
    assert_eq!((world.restarts(), waiting(&world, second)), (1, ApprovalState::Verified));
    world.assert_replays();
}

#[test]
fn a_policy_that_breaks_a_rule_changes_nothing() {
    let mut world = World::new(Env::Stage);
    let before = world.state.clone();
    let mut bad = world.policy.clone();
    bad.env = Env::Dev;
    bad.repetition.window_ms = 1;
    bad.confidence.r1 = 10;
    let reply = world.apply(bad, Author::File);
    let Reply::Invalid(violations) = reply else { panic!("{reply:?}") };
    let named: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
    assert!(["env", "repetition.window_ms", "confidence.r1"].iter().all(|f| named.contains(f)));
    assert_eq!(world.state, before);
    let same = world.policy.clone();
    assert_eq!(world.apply(same, Author::File), Reply::Done { seq: None }, "and the same one too");
}

#[test]
fn what_a_human_applied_outlives_the_agent_until_the_file_changes() {
    let mut world = World::new(Env::Stage);
    let file = world.policy.clone();
    let mut applied = file.clone();
    applied.budget.per_hour = 7;
    world.apply(applied.clone(), Author::Principal("adam".to_owned()));
    assert_eq!(world.state.policy_digest, applied.digest());
    let start = |world: &mut World, policy: &Policy| {
        world.policy = policy.clone();
        world.start_agent();
        world.state.policy_digest.clone()
    };
    assert_eq!(start(&mut world, &file), applied.digest(), "the file is what it was");
    let mut edited = file;
    edited.budget.per_hour = 8;
    assert_eq!(start(&mut world, &edited), edited.digest(), "the file says something new");
}

#[test]
fn a_human_need_not_wait_until_an_outcome_was_watched_to_its_end() {
    let mut world = World::new(Env::Stage);
    world.try_onboard(World::request("web", 1), World::by("olivia"));
    let app = crate::app::AppName::parse("web").unwrap();
    assert!(world.app(&app).attempt.is_some(), "the deployment is watched");
    let reply = world.update(&app, labels(&[("a", "1")]), [Field::Labels], None);
    assert_eq!(ruling(&reply), Ruling::Permitted);
    assert!(world.app(&app).attempt.is_some(), "and goes on being watched");
    let source = RequestedSource::Exec { path: "/usr/bin/next".to_owned(), args: Vec::new() };
    let asked = OnboardRequest { source, ..OnboardRequest::default() };
    let reply = world.update(&app, asked, [Field::Source], None);
    assert_eq!(ruling(&reply), Ruling::Permitted);
    assert_eq!(world.outcomes(Outcome::Inconclusive), 1, "the first is not watched any longer");
    world.pass(2 * MINUTE);
    let state = world.app(&app);
    assert_eq!((state.profile.failed_revision, state.attempt.is_none()), (None, true));
    assert!(state.breakers.is_empty());
    world.crash(&app, 0);
    world.tick(1_000);
    assert!(world.app(&app).attempt.as_ref().is_some_and(|a| a.plan.action == Action::Restart));
    assert_eq!(ruling(&world.offboard(&app, World::by("olivia"))), Ruling::Permitted);
    assert!(!world.state.apps.contains_key(&app));
    world.assert_replays();
}

#[test]
fn the_same_request_to_offboard_is_answered_once() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    let request = Some(Request { id: "r".to_owned(), digest: "d".to_owned() });
    let by = By { request, ..World::by("olivia") };
    let first = world.offboard(&app, by.clone());
    let Reply::Decided { seq: Some(seq), .. } = first else { panic!("{first:?}") };
    assert_eq!(world.offboard(&app, by), Reply::Repeated { seq }, "although the app is gone");
}

#[test]
fn settings_that_came_into_force_during_a_deployment_are_not_taken_back_by_its_retry() {
    for during in [true, false] {
        let mut world = World::new(Env::Stage);
        let app = crate::app::AppName::parse("web").unwrap();
        world.broken.push(app.clone());
        if during {
            let request =
                Box::new(OnboardRequest { env: "stage".to_owned(), ..World::request("web", 1) });
            let by = World::by("olivia");
            // Permitted, and not carried out yet.
            let input = Input::Onboard { request, found: Vec::new(), update: None, by };
            let (_, permits) = world.judge(&input);
            world.update(&app, labels(&[("a", "1")]), [Field::Labels], None);
            permits.iter().for_each(|permit| world.obey(permit));
        } else {
            world.try_onboard(World::request("web", 1), World::by("olivia"));
            world.update(&app, labels(&[("a", "1")]), [Field::Labels], None);
        }
        assert_eq!(world.app(&app).profile.failed_revision, Some(2), "during: {during}");
        world.broken.clear();
        world.pass(10 * MINUTE);
        let spec = world.state.specs[&app].spec().unwrap();
        assert_eq!((world.app(&app).ready(), spec.labels.len()), (1, 1), "during: {during}");
        assert_eq!(world.app(&app).profile.revision, 2);
        world.assert_replays();
    }
}

//! Stories of hours, with a clock that is moved: flapping, monitors that lie, and a human beside an open breaker.

use super::*;

/// Sequence numbers and times of every effect that was begun behind `from`.
pub(super) fn effects(world: &World, from: usize) -> Vec<(u64, Action)> {
    let begun = |record: &Record| match &record.body {
        Body::Attempted(attempt) => Some((record.at, attempt.plan.action)),
        _ => None,
    };
    world.log[from..].iter().filter_map(begun).collect()
}

#[test]
fn a_human_restarts_past_an_open_breaker_and_is_not_counted_in_it() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.broken.push(app.clone());
    world.crash(&app, 0);
    while world.app(&app).breakers.get(&Action::Restart).is_none_or(|b| b.open_until.is_none()) {
        world.pass(MINUTE);
    }
    let breaker = world.app(&app).breakers[&Action::Restart];
    let reply = world.act(&app, "restart", World::by("olivia"));
    assert!(matches!(reply, Reply::Decided { ruling: Ruling::Permitted, .. }), "{reply:?}");
    world.pass(MINUTE);
    assert_eq!(world.app(&app).breakers[&Action::Restart], breaker, "a failure of hers is hers");
    world.assert_replays();
}

#[test]
fn an_hour_around_the_threshold_is_no_hour_of_up_and_down() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 2);
    let from = world.log.len();
    // Six seconds of overload, then idle until the finding is gone: again and again.
    for round in 0..120 {
        let cpu = if round % 2 == 0 { 95 } else { 5 };
        for _ in 0..30 {
            world.say(&app, "sense/procfs", Metric::CpuUtilization, cpu * MICRO / 100);
            world.tick(1_000);
        }
    }
    let effects = effects(&world, from);
    let scaled = |action: Action| effects.iter().filter(move |(_, a)| *a == action);
    let count = scaled(Action::ScaleUp).count() + scaled(Action::ScaleDown).count();
    assert!((1..=4).contains(&count), "{effects:?}");
    let mut last_up = None;
    for (at, action) in &effects {
        match action {
            Action::ScaleUp => last_up = Some(*at),
            Action::ScaleDown => {
                let since = last_up.map_or(u64::MAX, |up| at - up);
                assert!(since >= 600_000, "down {since} ms after up");
            }
            _ => {}
        }
    }
    assert!(world.app(&app).open.contains_key(&crate::detect::FindingKind::Flapping));
    world.assert_replays();
}

#[test]
fn a_rolling_restart_that_a_human_asked_for_is_no_flapping_and_crashes_that_are_healed_are() {
    for (planned, flaps) in [(true, 0), (false, 1)] {
        let mut world = World::new(Env::Stage);
        world.policy.cooldown.base_ms.insert(Action::Restart, 1_000);
        world.policy.cooldown.restart_cap_ms = 1_000;
        (world.policy.repetition.limit, world.policy.memory.identical) = (45, 45);
        world.start_agent();
        let app = world.onboard("web", 3);
        for _ in 0..3 {
            if planned {
                // Each of the three instances goes down and comes back.
                world.act(&app, "restart", World::by("olivia"));
            } else {
                world.crash(&app, 0);
            }
            world.pass(2 * MINUTE);
        }
        let raised = |r: &&Record| match &r.body {
            Body::Raised(finding) => finding.kind == crate::detect::FindingKind::Flapping,
            _ => false,
        };
        assert_eq!(world.log.iter().filter(raised).count(), flaps, "planned: {planned}");
        world.assert_replays();
    }
}

#[test]
fn a_retry_that_is_doubted_is_the_end_of_the_ladder_and_humans_are_told_once() {
    let mut world = World::new(Env::Stage);
    world.unreachable.push(crate::app::AppName::parse("web").unwrap());
    let reply = world.try_onboard(World::request("web", 1), World::by("olivia"));
    assert!(matches!(reply, Reply::Onboarded { .. }), "{reply:?}");
    world.pass(2 * HOUR);
    let tried = world.executed.len();
    assert!((2..=8).contains(&tried), "{tried} tries");
    assert_eq!(world.count("ESCALATED"), 1, "nothing else is left that could be tried");
    world.unreachable.clear();
    let app = crate::app::AppName::parse("web").unwrap();
    world.act(&app, "retry", World::by("olivia"));
    world.pass(2 * MINUTE);
    assert_eq!(world.app(&app).ready(), 1, "she finds the cause and tries again");
    world.assert_replays();
}

#[test]
fn updates_that_are_refused_push_no_verified_revision_out() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.deploy_next(&app);
    let back = world.app(&app).profile.rollback_to;
    assert_eq!(back, Some(1));
    let input = Input::Pause {
        scope: Scope::Env,
        halt: false,
        reason: "no deployments today".to_owned(),
        ttl_ms: None,
        by: World::by("olivia"),
    };
    world.give(&input);
    let etag = |world: &World| world.state.specs[&app].etag(world.app(&app).onboarded_at);
    let before = etag(&world);
    for n in 0..2 * crate::state::REVISIONS {
        let request = crate::app::OnboardRequest {
            environment: std::collections::BTreeMap::from([("N".to_owned(), n.to_string())]),
            ..Default::default()
        };
        let reply = world.update(&app, request, [crate::app::Field::Environment], None);
        let refused = |d: &crate::record::Decided| matches!(d.ruling, Ruling::Refused { .. });
        assert!(
            matches!(&reply, Reply::Updated { decided: Some(d), .. } if refused(d)),
            "{reply:?}"
        );
    }
    let numbers: Vec<u32> = world.state.specs[&app].revisions.iter().map(|r| r.number).collect();
    assert_eq!((numbers, world.app(&app).profile.rollback_to), (vec![1, 2], back));
    assert_eq!(etag(&world), before, "nothing changed");
    world.give(&Input::Resume { scope: Scope::Env, reason: "go".into(), by: World::by("olivia") });
    world.deploy_next(&app);
    let newest = u32::try_from(3 + 2 * crate::state::REVISIONS).unwrap();
    assert_eq!(world.app(&app).profile.revision, newest, "no number is given twice");
    world.assert_replays();
}

/// What a monitor claims, tick by tick.
type Lie = (&'static str, fn(&mut World, &crate::app::AppName));

#[test]
fn monitors_that_are_silent_or_say_zero_or_contradict_or_scream_move_nothing() {
    let lies: [Lie; 5] = [
        ("silence", |_, _| {}),
        ("zeros", |world, app| {
            world.say(app, "sense/procfs", Metric::CpuUtilization, 50 * MICRO / 100);
            for metric in [Metric::CpuUtilization, Metric::LatencyP99, Metric::RequestRate] {
                world.say(app, "broken", metric, 0);
            }
        }),
        ("zeros, and nobody else says anything", |world, app| {
            for metric in [Metric::CpuUtilization, Metric::LatencyP99, Metric::RequestRate] {
                world.say(app, "broken", metric, 0);
            }
        }),
        ("a contradiction", |world, app| {
            world.say(app, "one", Metric::CpuUtilization, 97 * MICRO / 100);
            world.say(app, "two", Metric::CpuUtilization, 2 * MICRO / 100);
        }),
        ("a scream", |world, app| {
            world.say(app, "sense/procfs", Metric::CpuUtilization, 30 * MICRO / 100);
            world.say(app, "screamer", Metric::CpuUtilization, MICRO);
        }),
    ];
    for (lie, tell) in lies {
        let mut world = World::new(Env::Stage);
        let app = world.onboard("web", 3);
        let from = world.log.len();
        for _ in 0..1_200 {
            tell(&mut world, &app);
            world.now += 1_000;
            world.give(&Input::Tick);
            let reading = world.close(&app);
            world.give(&Input::Reading(reading));
        }
        assert_eq!(effects(&world, from), [], "{lie}");
        let said = world.log[from..].iter().any(|r| matches!(r.body, Body::Decided(_)));
        assert!(said || matches!(lie, "silence" | "zeros"), "{lie} is looked at");
        // The truth again: it recovers unaided.
        for _ in 0..180 {
            world.say(&app, "sense/procfs", Metric::CpuUtilization, 50 * MICRO / 100);
            world.tick(1_000);
        }
        assert_eq!(world.app(&app).health(), crate::state::Health::Healthy, "{lie}");
        assert_eq!(effects(&world, from), [], "{lie}, afterwards");
        world.assert_replays();
    }
}

#[test]
fn one_monitor_that_says_zero_takes_no_instance_away_and_two_do() {
    let scaled_down = |monitors: &[&str], quorum: u32| {
        let mut world = World::new(Env::Stage);
        world.policy.freshness.quorum = quorum;
        world.start_agent();
        let app = world.onboard("web", 3);
        let from = world.log.len();
        for _ in 0..60 {
            for monitor in monitors {
                world.say(&app, monitor, Metric::CpuUtilization, 0);
            }
            world.tick(1_000);
        }
        world.assert_replays();
        let refused = |record: &Record| match &record.body {
            Body::Refused { reason, instead, .. } => Some((*reason, *instead)),
            _ => None,
        };
        let refused: Vec<_> = world.log[from..].iter().filter_map(refused).collect();
        (effects(&world, from).iter().map(|(_, action)| *action).collect::<Vec<_>>(), refused)
    };
    let doubted = (Reason::InsufficientSources, Action::Observe);
    assert_eq!(scaled_down(&["broken"], 2), (vec![], vec![doubted]));
    assert_eq!(scaled_down(&["one", "two"], 2).0, [Action::ScaleDown]);
    assert_eq!(scaled_down(&["sense/procfs"], 2).0, [Action::ScaleDown], "it sees that itself");
    // The planted bug: one is believed.
    assert_eq!(scaled_down(&["broken"], 1).0, [Action::ScaleDown]);
}

#[test]
fn a_rollback_takes_the_program_back_and_not_what_a_human_allows_the_agent() {
    use crate::app::{Field, OnboardRequest, RequestedWindow};
    let ask = |level: &str| OnboardRequest {
        autonomy: Some(level.to_owned()),
        windows: vec![RequestedWindow {
            name: "nightly".to_owned(),
            start: "2026-01-01T22:00:00Z".to_owned(),
            end: Some("2026-01-01T23:00:00Z".to_owned()),
            every_ms: None,
        }],
        ..OnboardRequest::default()
    };
    // What was allowed before, what is allowed when it goes back, and what is allowed then.
    for (before, now, then) in [
        (None, "PROPOSE", Some(Level::Propose)),
        (Some("AUTO"), "OFF", Some(Level::Off)),
        (Some("PROPOSE"), "AUTO", Some(Level::Propose)),
        (None, "AUTO", Some(Level::Auto)),
    ] {
        let mut world = World::new(Env::Stage);
        let first =
            OnboardRequest { autonomy: before.map(str::to_owned), ..World::request("web", 1) };
        world.try_onboard(first, World::by("olivia"));
        world.pass(world.policy.verification.hold_ms + 5_000);
        let app = crate::app::AppName::parse("web").unwrap();
        world.deploy_next(&app);
        world.update(&app, ask(now), [Field::Autonomy, Field::Windows], None);
        if let Some(raise) = world.app(&app).approval {
            world.approve(raise, None, World::by("ann"));
        }
        let profile = &world.app(&app).profile;
        assert_eq!((profile.autonomy.map(Level::as_str), profile.windows.len()), (Some(now), 1));
        world.act(&app, "rollback", World::by("olivia"));
        let approval = world.app(&app).approval.expect("held for approval");
        world.approve(approval, None, World::by("ann"));
        let profile = &world.app(&app).profile;
        assert_eq!((profile.revision, profile.autonomy), (1, then), "{before:?} {now}");
        assert_eq!(profile.windows.len(), 1, "nor is a window of maintenance forgotten");
        let spec = world.state.specs[&app].spec().unwrap();
        assert!(spec.environment.is_empty(), "the program is the old one");
        assert_eq!((spec.autonomy, &spec.windows), (profile.autonomy, &profile.windows));
        assert_eq!(profile.spec_digest, spec.digest());
        // The next update of something else starts from what is in force, and raises nothing.
        let labels = [("team".to_owned(), "shop".to_owned())].into();
        let labels = OnboardRequest { labels, ..OnboardRequest::default() };
        world.pass(world.policy.verification.hold_ms + 5_000);
        let reply = world.update(&app, labels, [Field::Labels], None);
        assert!(matches!(reply, Reply::Updated { seq: Some(_), .. }), "{reply:?}");
        let profile = &world.app(&app).profile;
        assert_eq!((profile.autonomy, profile.windows.len(), profile.revision), (then, 1, 4));
        world.assert_replays();
    }
}

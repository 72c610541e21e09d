//! Something that many apps depend on is gone: one of them is tried, humans are told once, and what comes back is not knocked over.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::mission::effects;
use super::*;
use crate::app::{AppName, Millis};
use crate::plan::Operation;
use crate::policy::{Learner, Policy};
use crate::record::Decided;
use crate::search::counterexample;
use crate::state::Health;
use crate::verdict::Fact;

const VICTIMS: usize = 12;
/// One app after the other within thirty seconds.
const PACE: Millis = 2_500;

/// So many apps under a policy, all verified.
fn running(n: usize, rule: impl FnOnce(&mut Policy)) -> (World, Vec<AppName>) {
    let mut world = World::new(Env::Stage);
    rule(&mut world.policy);
    world.start_agent();
    let names = (0..n).map(|n| format!("svc-{n:02}"));
    let apps = names.map(|name| {
        world.try_onboard(World::request(&name, 1), World::by("olivia"));
        AppName::parse(&name).unwrap()
    });
    let apps: Vec<_> = apps.collect();
    world.pass(world.policy.verification.hold_ms + 5_000);
    assert!(apps.iter().all(|app| world.app(app).attempt.is_none()), "deployed and verified");
    (world, apps)
}

fn twenty() -> (World, Vec<AppName>) {
    running(20, |_| {})
}

/// How often humans were called behind `from`.
fn calls(world: &World, from: usize) -> usize {
    let told = |r: &&Record| matches!(r.body, Body::Escalated { .. });
    world.log[from..].iter().filter(told).count()
}

/// Codes with which something was refused behind `from`.
fn refusals(world: &World, from: usize) -> BTreeSet<Reason> {
    let refused = |record: &Record| match &record.body {
        Body::Refused { reason, .. } => Some(*reason),
        _ => None,
    };
    world.log[from..].iter().filter_map(refused).collect()
}

/// The twelve crash, one after the other, and cannot be started while the database is gone.
fn crash_all(world: &mut World, apps: &[AppName]) {
    world.broken = apps[..VICTIMS].to_vec();
    for app in &apps[..VICTIMS] {
        world.crash(app, 0);
        world.pass(PACE);
    }
}

/// Effects of the first minute of an outage, in a world whose policy is `rule`'s.
fn effects_of_a_minute(rule: impl FnOnce(&mut Policy)) -> usize {
    let (mut world, apps) = running(20, rule);
    let (from, began) = (world.log.len(), world.now);
    crash_all(&mut world, &apps);
    world.pass(59_000 - (world.now - began));
    world.assert_replays();
    effects(&world, from).len()
}

#[test]
fn of_twelve_apps_that_fail_within_thirty_seconds_one_is_tried() {
    assert_eq!(effects_of_a_minute(|_| {}), 1);
    // The planted bug: no cause is ever common. Then each is an accident of its own, until the storm is seen.
    let blind = effects_of_a_minute(|policy| policy.storm.common_apps = 10_000);
    assert!(blind > 1, "{blind}");
}

/// For so long every request of the app fails, and nothing is wrong with the app itself.
fn fails(world: &mut World, app: &AppName, span: Millis) {
    let end = world.now + span;
    while world.now < end {
        world.say(app, "edge", Metric::ErrorRatio, MICRO);
        world.tick(1_000);
    }
}

#[test]
fn what_one_app_depends_on_is_not_mended_by_a_restart_and_when_it_lasts_humans_hear_of_it_once() {
    let outage = |patience: Option<Millis>| {
        let (mut world, apps) = running(1, |policy| {
            policy.learning.learner = Learner::Ccq;
            policy.confidence.patience_ms = patience;
        });
        world.pass(31 * MINUTE);
        let from = world.log.len();
        fails(&mut world, &apps[0], 8 * MINUTE);
        assert_eq!(calls(&world, from), 0, "that may still end by itself");
        fails(&mut world, &apps[0], 5 * MINUTE);
        assert!(refusals(&world, from).contains(&Reason::UncertaintyNoop));
        assert!(effects(&world, from).is_empty(), "a restart would not help");
        world.assert_replays();
        calls(&world, from)
    };
    assert_eq!(outage(Some(8 * MINUTE)), 1);
    // The planted bug: doubt without an end.
    assert_eq!(outage(None), 0);
}

#[test]
fn a_dependency_takes_twelve_of_twenty_apps_along_and_the_way_back_is_no_second_wave() {
    let (mut world, apps) = twenty();
    let (from, window) = (world.log.len(), world.policy.storm.common_window_ms);
    crash_all(&mut world, &apps);
    world.pass(10_000);
    assert!(world.state.storm.is_some(), "more than three tenths of the environment are down");
    assert_eq!(calls(&world, from), 1, "one incident");
    assert!(refusals(&world, from).contains(&Reason::CommonCause));
    world.pass(10 * MINUTE);
    // As long as it lasts one app at a time is tried, and the next a while later.
    let tried = effects(&world, from);
    let gaps = tried.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!((2..=11).contains(&tried.len()) && gaps.min() >= Some(window), "{tried:?}");
    // Nothing that still runs is taken down.
    let disrupting = |(_, op): &&(u64, Operation)| match op {
        Operation::Restart { targets } => targets.iter().any(|target| target.running),
        Operation::Deploy { .. } => false,
        _ => true,
    };
    assert_eq!(world.executed.iter().filter(disrupting).count(), 0);
    world.broken.clear();
    let back = world.log.len();
    world.pass(2 * HOUR);
    assert!(apps.iter().all(|app| world.app(app).ready() == 1), "everything comes back");
    assert!(world.state.storm.is_none());
    let end = world.log.iter().find(|r| matches!(r.body, Body::StormEnded)).unwrap().at;
    let calm = |r: &&Record| matches!(r.body, Body::StormCalm { calm: true });
    let calm = world.log.iter().rev().find(calm).unwrap().at;
    assert!(end - calm >= world.policy.storm.exit_ms, "it is left only after a calm time");
    // Of twelve apps at most as many starts were under way as the ramp allowed: 1, then 2, 4, 8.
    let (mut under_way, mut most, mut verified) = (0_i32, 0, 0);
    for record in &world.log[back..] {
        match &record.body {
            Body::Attempted(_) => under_way += 1,
            Body::Concluded(c) => {
                under_way = (under_way - 1).max(0);
                verified += u32::from(c.outcome == Outcome::Verified);
            }
            _ => {}
        }
        let ramp = 1_i32.checked_shl(verified).unwrap_or(i32::MAX);
        assert!(under_way <= ramp, "{under_way} starts after {verified} that turned out well");
        most = most.max(under_way);
    }
    assert!(most < 12, "no stampede: {most}");
    let started: Vec<_> = world.log[back..]
        .iter()
        .filter(|record| matches!(record.body, Body::Attempted(_)))
        .filter_map(|record| record.app.clone())
        .collect();
    let once: BTreeSet<_> = started.iter().collect();
    assert_eq!((started.len(), once.len()), (VICTIMS, VICTIMS), "each once: no second wave");
    world.assert_replays();
}

#[test]
fn a_dependency_that_makes_requests_fail_costs_one_restart_and_nothing_when_it_is_back() {
    // The learner that believes in restarts: what holds back is the gates.
    let (mut world, apps) = running(20, |policy| policy.learning.learner = Learner::Q);
    let (from, began) = (world.log.len(), world.now);
    let tell = |world: &mut World, ill: usize| {
        for (n, app) in apps.iter().enumerate() {
            let ratio = if n < ill { 60 * MICRO / 100 } else { 0 };
            world.say(app, "monitor/edge", Metric::RequestRate, 100 * MICRO);
            world.say(app, "monitor/edge", Metric::ErrorRatio, ratio);
            world.say(app, "monitor/core", Metric::ErrorRatio, ratio);
        }
        world.tick(1_000);
    };
    while world.now - began < 10 * MINUTE {
        let ill = VICTIMS.min(usize::try_from((world.now - began) / PACE).unwrap() + 1);
        tell(&mut world, ill);
    }
    assert_eq!(effects(&world, from).len(), 1, "the canary, in ten minutes");
    assert!(world.state.storm.is_some());
    assert_eq!(calls(&world, from), 1, "humans are told once");
    assert!(refusals(&world, from).contains(&Reason::Storm));
    let canary = |decided: &Decided| {
        let verdict = decided.verdicts.iter().find(|v| v.reason == Some(Reason::CommonCause));
        verdict.map(|verdict| verdict.value.clone())
    };
    let waited = world.decisions().find_map(canary);
    assert_eq!(waited, Some(Fact::Text("svc-00".into())), "the first to be tried is named");
    // The database is back: what it took along recovers by itself, and nobody touches it while the storm lasts or after.
    let back = world.log.len();
    for _ in 0..900 {
        tell(&mut world, 0);
    }
    assert_eq!(effects(&world, back), [], "no second wave");
    assert!(world.state.storm.is_none(), "and after a calm time it is over");
    assert!(apps.iter().all(|app| world.app(app).health() == Health::Healthy));
    world.assert_replays();
}

#[test]
fn a_crash_waits_for_nobody_and_a_second_one_no_longer_than_a_third_would_take_to_join() {
    let (mut world, apps) = twenty();
    let pace = world.policy.storm.common_window_ms / u64::from(world.policy.storm.common_apps);
    let [first, second] = [&apps[3], &apps[7]];
    let (from, began) = (world.log.len(), world.now);
    world.crash(first, 0);
    assert_eq!(effects(&world, from), [(began, Action::Restart)], "at once");
    world.pass(10_000);
    let crashed = world.now;
    world.crash(second, 0);
    let blocked = world.log.iter().rev().find_map(|record| match &record.body {
        Body::Blocked { verdict, .. } => Some(verdict.clone()),
        _ => None,
    });
    let verdict = blocked.expect("it waits");
    assert_eq!(verdict.reason, Some(Reason::CommonCause));
    assert_eq!(verdict.value, Fact::Text(first.to_string().into()), "it is told for whom");
    assert_eq!(verdict.clears_at, Some(crashed + pace), "and how long");
    world.pass(pace);
    assert_eq!(effects(&world, from)[1..], [(crashed + pace, Action::Restart)]);
    // What was tried long ago is no reason to wait.
    world.pass(5 * MINUTE);
    let (from, later) = (world.log.len(), world.now);
    world.crash(&apps[11], 0);
    assert_eq!(effects(&world, from), [(later, Action::Restart)]);
    world.assert_replays();
}

#[test]
fn an_app_that_is_broken_by_itself_keeps_nobody_else_down() {
    let (mut world, apps) = twenty();
    world.broken = vec![apps[0].clone()];
    let from = world.log.len();
    for app in &apps[..4] {
        world.crash(app, 0);
    }
    world.pass(10 * MINUTE);
    assert!(apps[1..].iter().all(|app| world.app(app).ready() == 1), "the others are back");
    let tried: BTreeSet<_> = world.executed.iter().map(|(decision, _)| *decision).collect();
    assert!(tried.len() > 4 && world.app(&apps[0]).ready() == 0);
    assert_eq!(effects(&world, from)[0].1, Action::Restart);
    world.assert_replays();
}

/// What happens next: the app, seconds that pass first, and whether it can be started again from then on.
type Mishap = (usize, u64, bool);

const APPS: usize = 6;

/// Plays `mishaps` and gives what is wrong: an effect that was begun while more others were being tried, or had just been tried in
/// vain, than had been healed.
fn overreach(mishaps: &[Mishap], common_apps: u32) -> Option<String> {
    let (mut world, apps) = running(APPS, |policy| {
        (policy.verification.hold_ms, policy.storm.common_apps) = (5_000, common_apps);
        // Whom it tries is not the learner's to say, and this one is quick.
        policy.learning.learner = Learner::Q;
    });
    world.pass(2 * MINUTE);
    let from = world.log.len();
    for (n, wait, startable) in mishaps {
        let app = &apps[*n];
        world.pass(wait * 1_000);
        world.broken.retain(|broken| broken != app);
        if !startable {
            world.broken.push(app.clone());
        }
        world.crash(app, 0);
    }
    world.pass(3 * MINUTE);
    world.assert_replays();
    let window = world.policy.storm.common_window_ms;
    let mut begun: BTreeMap<AppName, (Millis, Option<Outcome>)> = BTreeMap::new();
    let mut healed: BTreeSet<AppName> = BTreeSet::new();
    for record in &world.log[from..] {
        let Some(app) = record.app.clone() else { continue };
        match &record.body {
            Body::Attempted(_) => {
                let counts = |(other, (at, outcome)): &(&AppName, &(Millis, Option<Outcome>))| {
                    **other != app
                        && *outcome != Some(Outcome::Verified)
                        && at.saturating_add(window) > record.at
                };
                let others = begun.iter().filter(counts).count();
                if others > healed.len() {
                    let healed = healed.len();
                    return Some(format!(
                        "{app} at {}: {others} tried, {healed} healed",
                        record.at
                    ));
                }
                begun.insert(app, (record.at, None));
            }
            Body::Concluded(concluded) => {
                if let Some(one) = begun.get_mut(&app) {
                    one.1 = Some(concluded.outcome);
                }
                if concluded.outcome == Outcome::Verified {
                    healed.insert(app);
                }
            }
            _ => {}
        }
    }
    None
}

fn search(common_apps: u32) -> Option<String> {
    let mishap = (0..APPS, 0_u64..40, any::<bool>());
    let mishaps = proptest::collection::vec(mishap, 1..10);
    counterexample(24, mishaps, |mishaps| overreach(&mishaps, common_apps))
}

#[test]
fn whatever_crashes_when_no_more_are_tried_than_were_healed_and_one() {
    assert_eq!(search(2), None);
    assert!(search(10_000).is_some(), "the property finds agents that see no common cause");
}

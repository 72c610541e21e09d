//! A change that is named really turns the decision, and no smaller one does.

use super::*;
use crate::app::Env;
use crate::gates::arbitrary::any_scene;
use crate::gates::scene::Scene;
use crate::search::counterexample;
use crate::signal::{MICRO, Metric};
use crate::state::Scope;
use crate::step::world::World;

/// What a record of the scene would say. A human's trigger: nothing is chosen anew.
fn decided(scene: &Scene) -> Decided {
    let enforced = gates::enforce(&scene.case(), 7);
    Decided {
        trigger: Trigger::Human,
        now: scene.now,
        seq: 7,
        policy_digest: scene.policy_digest.clone(),
        findings: scene.findings.clone(),
        proposal: scene.proposal.clone(),
        verdicts: enforced.verdicts,
        ruling: enforced.ruling,
        reading: scene.reading.clone(),
        app: scene.app.clone(),
        around: scene.around.clone(),
        row: choose::Row::default(),
        beliefs: choose::ccq::Beliefs::default(),
        leeway: None,
    }
}

/// Judges the scene with one rule changed, without any of the code under test but the setter.
fn with_setting(scene: &Scene, path: &str, value: &str) -> Ruling {
    let mut changed = scene.clone();
    changed.policy = set(&scene.policy, path, value).expect("a path that exists");
    gates::enforce(&changed.case(), 7).ruling
}

/// Whether what is said of the scene holds; `twist` plants a bug.
fn holds(scene: &Scene, twist: fn(&Decided, Flip) -> Flip) -> Result<(), String> {
    let decided = decided(scene);
    let flips: Vec<Flip> =
        nearest(&decided, &scene.policy).into_iter().map(|flip| twist(&decided, flip)).collect();
    for flip in flips.iter().filter(|flip| !flip.together) {
        let judged = judge(&decided, &scene.policy, std::slice::from_ref(&flip.change), false);
        let turned = match decided.ruling {
            Ruling::Permitted => judged.ruling != Ruling::Permitted,
            _ => rank(&judged.ruling) < rank(&decided.ruling),
        };
        if !turned || judged.ruling != flip.ruling {
            return Err(format!("{flip:?} leads to {:?}", judged.ruling));
        }
        let Change::Setting { path, from, to } = &flip.change else { continue };
        if DETECTED.iter().any(|section| path.starts_with(section)) {
            continue;
        }
        if with_setting(scene, path, to) != flip.ruling {
            return Err(format!(
                "{flip:?}: the gates alone say {:?}",
                with_setting(scene, path, to)
            ));
        }
        if let (Ok(from), Ok(to)) = (from.parse::<u64>(), to.parse::<u64>()) {
            let closer = if to > from { to - 1 } else { to + 1 };
            let ruling = with_setting(scene, path, &closer.to_string());
            let still = match decided.ruling {
                Ruling::Permitted => ruling == Ruling::Permitted,
                _ => rank(&ruling) >= rank(&decided.ruling),
            };
            if !still {
                return Err(format!("{flip:?}: {closer} turns it already"));
            }
        }
    }
    let together: Vec<Change> =
        flips.iter().filter(|f| f.together).map(|f| f.change.clone()).collect();
    let judged = judge(&decided, &scene.policy, &together, false);
    if !together.is_empty() && rank(&judged.ruling) >= rank(&decided.ruling) {
        return Err(format!("{together:?} together lead to {:?}", judged.ruling));
    }
    Ok(())
}

fn search(twist: fn(&Decided, Flip) -> Flip) -> Option<String> {
    counterexample(300, any_scene(), |scene| holds(&scene, twist).err())
}

#[test]
fn whatever_the_case_the_named_change_turns_it_and_no_smaller_one_does() {
    assert_eq!(search(|_, flip| flip), None);
}

#[test]
fn the_property_finds_a_change_that_is_one_too_small_and_one_that_is_too_large() {
    fn step(flip: Flip, back: bool) -> Flip {
        let Change::Setting { path, from, to } = &flip.change else { return flip };
        let (Ok(a), Ok(b)) = (from.parse::<u64>(), to.parse::<u64>()) else { return flip };
        let other = if (b > a) == back { b.saturating_sub(1) } else { b.saturating_add(1) };
        let change =
            Change::Setting { path: path.clone(), from: from.clone(), to: other.to_string() };
        Flip { change, ..flip }
    }
    assert!(search(|_, flip| step(flip, true)).is_some(), "one too small");
    assert!(search(|_, flip| step(flip, false)).is_some(), "one too large");
}

/// A case, the name of the change that is expected first, and its two values.
type Told = (&'static str, fn(&mut Scene), &'static str, &'static str, &'static str);

const TOLD: [Told; 12] = [
    (
        "the cooldown runs",
        |s| s.effect(Action::Restart, 25_000, 1),
        "cooldown.base_ms.RESTART",
        "60000",
        "25000",
    ),
    (
        "the window allows no more",
        |s| {
            for n in 0..3 {
                s.remember(Action::Restart, 100_000 * (n + 1), Some(crate::state::Outcome::Failed));
            }
            s.policy.memory.failures = 9;
        },
        "repetition.limit",
        "3",
        "4",
    ),
    ("not sure enough", |s| s.proposal.confidence = 590, "confidence.r1", "600", "590"),
    (
        "below the floor no rule helps",
        |s| s.proposal.confidence = 499,
        "confidence",
        "0.499",
        "0.600",
    ),
    (
        "a human must agree",
        |s| _ = s.policy.levels.insert(Action::Restart, Level::Propose),
        "levels.RESTART",
        "PROPOSE",
        "AUTO",
    ),
    (
        "the app's own level is not the policy's",
        |s| s.app.profile.autonomy = Some(Level::Propose),
        "approval",
        "none",
        "approved by another human",
    ),
    (
        "the budget of the hour is used up",
        |s| {
            s.hang();
            s.around.effects_last_hour = 30;
        },
        "budget.per_hour",
        "30",
        "31",
    ),
    ("paused", |s| s.paused(Scope::Env, false, None), "pause", "in force", "lifted"),
    ("dry run", |s| s.around.dry_run = true, "dry_run", "on", "off"),
    ("protected", |s| s.app.profile.protected = true, "labels.protected", "true", "false"),
    ("something is in flight", |s| s.in_flight(3), "in_flight", "an attempt", "over"),
    ("permitted", |_| {}, "confidence", "0.900", "0.599"),
];

#[test]
fn the_nearest_change_is_named_with_its_values() {
    for (what, make, name, from, to) in TOLD {
        let mut scene = Scene::default();
        make(&mut scene);
        let decided = decided(&scene);
        let flips = nearest(&decided, &scene.policy);
        let first = flips.first().unwrap_or_else(|| panic!("{what}: nothing is named"));
        let named = flips.iter().find(|flip| flip.change.name() == name);
        let named = named.unwrap_or_else(|| panic!("{what}: {flips:?}"));
        let values = (from.to_owned(), to.to_owned());
        assert_eq!(named.change.values(), values, "{what}: {flips:?}");
        if decided.ruling != Ruling::Permitted {
            assert_eq!(first.change.name(), name, "{what}: {flips:?}");
        }
        assert_eq!(holds(&scene, |_, flip| flip), Ok(()), "{what}");
    }
}

#[test]
fn time_is_named_where_it_heals() {
    let mut scene = Scene::default();
    scene.effect(Action::Restart, 25_000, 1);
    let flips = nearest(&decided(&scene), &scene.policy);
    let later = flips.iter().find(|flip| matches!(flip.change, Change::Later { .. })).unwrap();
    assert_eq!(later.change, Change::Later { at: scene.now + 35_000, by: 35_000 });
}

#[test]
fn where_no_change_alone_is_enough_all_that_it_takes_is_named() {
    let mut scene = Scene::default();
    scene.effect(Action::Restart, 25_000, 1);
    scene.proposal.confidence = 590;
    let flips = nearest(&decided(&scene), &scene.policy);
    let names: Vec<&str> = flips.iter().map(|flip| flip.change.name()).collect();
    assert_eq!(names, ["cooldown.base_ms.RESTART", "confidence.r1"]);
    assert!(flips.iter().all(|flip| flip.together && flip.ruling == Ruling::Permitted));
}

#[test]
fn no_change_that_a_server_would_refuse_is_named() {
    let mut scene = Scene::default();
    // One more would need a longer window than the linter is shown here.
    scene.policy.repetition.window_ms = 361_000;
    for n in 0..3 {
        scene.remember(Action::Restart, 61_000 + 100 * n, None);
    }
    assert!(lint(&scene.policy).is_empty());
    let flips = nearest(&decided(&scene), &scene.policy);
    assert!(flips.iter().all(|flip| flip.change.name() != "repetition.limit"), "{flips:?}");
}

#[test]
fn what_is_said_of_a_recorded_decision_is_what_a_simulation_answers() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 2);
    world.crash(&app, 0);
    world.tick(1_000);
    world.crash(&app, 0);
    world.pass(5_000);
    for _ in 0..4 {
        world.say(&app, "monitor", Metric::CpuUtilization, MICRO * 79 / 100);
        world.tick(1_000);
    }
    let mut turned = 0;
    for decided in world.decisions() {
        assert_eq!(rejudge(decided, &world.policy).ruling, decided.ruling, "unchanged");
        for flip in nearest(decided, &world.policy) {
            let Change::Setting { path, to, .. } = &flip.change else { continue };
            let policy = set(&world.policy, path, to).unwrap();
            let judged = rejudge(decided, &policy);
            assert_eq!(
                (judged.proposal.action, judged.ruling),
                (flip.action, flip.ruling),
                "{path}"
            );
            turned += 1;
        }
    }
    assert!(turned >= 3, "only {turned}");
    let last = world.decisions().find(|d| d.ruling != Ruling::Permitted).unwrap();
    let first = nearest(last, &world.policy).into_iter().next().unwrap();
    assert_eq!(first.change.name(), "cooldown.base_ms.RESTART");
}

#[test]
fn what_would_have_made_a_silent_agent_act_is_named() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 2);
    for _ in 0..6 {
        world.say(&app, "monitor", Metric::CpuUtilization, MICRO * 75 / 100);
        world.tick(1_000);
    }
    // A tick on which nothing was wrong leaves no record; this is what it would have been.
    let (policy, now, reading) = (world.policy.clone(), world.now, world.close(&app));
    let mut silent = world.last_decision().clone();
    (silent.app, silent.reading, silent.now) = (world.app(&app).clone(), reading, now);
    (silent.trigger, silent.findings) = (Trigger::Reading, Vec::new());
    let Judged { proposal, verdicts, ruling, .. } = rejudge(&silent, &policy);
    assert!(proposal.action.is_passive() && ruling == Ruling::Permitted);
    let silent = Decided { proposal, verdicts, ruling, ..silent };
    let flips = nearest(&silent, &policy);
    let flip = flips.first().expect("a threshold would have been crossed");
    let (from, to) = ("800000".to_owned(), "750000".to_owned());
    let path = "thresholds.cpu_utilization.enter".to_owned();
    assert_eq!(flip.change, Change::Setting { path, from, to }, "{flips:?}");
    assert_eq!((flip.action, &flip.ruling), (Action::ScaleUp, &Ruling::Permitted));
}

#[test]
fn every_knob_is_a_number_of_the_policy_that_a_gate_compares_with() {
    for env in Env::ALL {
        let policy = Policy::default_for(env);
        for Knob { gate, path, .. } in KNOBS {
            let path = path.replace("{action}", "RESTART");
            assert!(knobs::get(&policy, &path).is_some(), "{path}");
            assert!(gates::GATES.iter().any(|known| known.id == *gate), "{gate}");
        }
    }
}

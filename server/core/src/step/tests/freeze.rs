//! A frozen agent decides the same as often as it is asked: the bench does it ten thousand times.

use std::collections::BTreeSet;

use crate::app::Env;
use crate::policy::Learner;
use crate::record::Observation;
use crate::signal::{Exit, MICRO, Metric};
use crate::step::world::{AGENT, World};
use crate::step::{Input, Moment, step};

const TIMES: u64 = 200;

/// Different outputs of so many steps from the same state; where `moves`, each as if more had been recorded before it.
fn outputs(world: &World, input: &Input, moves: bool) -> usize {
    let mut different = BTreeSet::new();
    for n in 0..TIMES {
        let seq = world.state.last_seq + 1 + if moves { n } else { 0 };
        let moment = Moment { agent: AGENT, now: world.now, seq, log_writable: true };
        let records = step(&world.state, &world.policy, input, &moment).records;
        let decided = records.iter().find_map(|record| record.decision()).unwrap();
        let bytes = if moves {
            serde_json::to_vec(&(decided.proposal.action, decided.proposal.propensity_ppm))
        } else {
            serde_json::to_vec(&records.iter().map(|record| &record.body).collect::<Vec<_>>())
        };
        different.insert(bytes.unwrap());
    }
    different.len()
}

fn world(env: Env, frozen: bool) -> World {
    let mut world = World::new(env);
    let (reason, by) = ("demo".to_owned(), World::by("olivia"));
    world.give(&Input::Freeze { frozen, reason, by });
    world
}

#[test]
fn the_same_state_gives_the_same_bytes_however_often_and_teaches_nothing() {
    let mut world = world(Env::Stage, true);
    let app = world.onboard("web", 1);
    let what = Observation::Exited { fence: None, exit: Exit::Signal(9), expected: false };
    let reading = world.close(&app);
    let input = Input::Observed { app, slot: 0, what, reading };
    let known = |world: &World| (world.state.table.digest(), world.state.knowledge.clone());
    let before = known(&world);
    assert_eq!(outputs(&world, &input, false), 1);
    assert_eq!(known(&world), before);
}

/// An app whose memory fills up, where there are two remedies, under rules that explore whenever they may.
fn full(frozen: bool) -> (World, Input) {
    let mut world = world(Env::Dev, frozen);
    let app = world.onboard("web", 1);
    world.policy.learning.learner = Learner::Q;
    world.policy.learning.exploration_ppm = 1_000_000;
    let mut reading = world.close(&app);
    for _ in 0..5 {
        world.now += 1_000;
        world.say(&app, "edge", Metric::MemoryUtilization, MICRO / 100 * 95);
        reading = world.close(&app);
    }
    (world, Input::Reading(reading))
}

#[test]
fn what_is_frozen_draws_nothing_and_what_is_not_does() {
    let (frozen, input) = full(true);
    assert_eq!(outputs(&frozen, &input, true), 1);
    let (free, input) = full(false);
    assert!(outputs(&free, &input, true) > 1, "the test can tell");
}

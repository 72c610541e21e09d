//! `kill -9` of agentd at every step between a fact and its outcome.

use crate::harness::{processes, wait_for};
use crate::world::World;

/// Goes through the main job with a kill armed, recovers, and checks every promise.
fn survives(failpoints: &str) -> bool {
    let mut world = World::new();
    let lived = world.restart_armed(failpoints) && world.main_job();
    world.recover();
    world.settle();
    let broken = world.broken_promises();
    assert!(broken.is_empty(), "`{failpoints}`: {broken:#?}\n{}", world.server.log());
    !lived
}

/// Kills at the first `turns` passes of one point. Enough of them must have hit, or the test tests nothing.
fn sweep(point: &str, turns: std::ops::RangeInclusive<u32>, hits: usize) {
    let killed = turns.filter(|n| survives(&format!("{point}=kill@{n}"))).count();
    assert!(killed >= hits, "`{point}`: only {killed} kills");
}

#[test]
fn before_an_intent_is_recorded() {
    sweep("agent.before_intent", 1..=9, 8);
}

#[test]
fn after_an_intent_is_recorded() {
    sweep("agent.after_intent", 1..=9, 8);
}

#[test]
fn in_the_middle_of_a_write() {
    for n in [2, 4, 6] {
        survives(&format!("journal.split_write=bug;journal.mid_write=kill@{n}"));
    }
}

#[test]
fn between_the_sync_and_its_acknowledgement() {
    for point in ["journal.before_ack", "journal.after_ack", "journal.fsync"] {
        sweep(point, 3..=5, 3);
    }
}

#[test]
fn before_an_effect_it_is_not_taken_for_done() {
    let mut world = World::with_app();
    assert!(world.restart_armed("act.before_effect=kill@1"));
    let old = world.app.kill9();
    world.server.ended();
    assert_eq!(world.starts().len(), 1, "nothing was done");
    let head = world.server.options.failpoints.len();
    assert!(head > 0);
    world.recover();
    let app = world.app.clone();
    world.server.wait("the app answers again", || app.get("/healthz"));
    assert_ne!(app.pid(), old);
    let records = world.server.records();
    assert_eq!(records.count("ORCH_OUTCOME_UNKNOWN"), 1, "what became of it was not known");
    assert_eq!(records.attempts("RESTART"), 2, "it was observed first and then decided anew");
    assert_eq!(world.starts().len(), 2);
    world.settle();
    assert_eq!(world.broken_promises(), Vec::<String>::new());
}

#[test]
fn after_an_effect_it_is_not_done_again() {
    let mut world = World::with_app();
    let head = world.server.records().head();
    assert!(world.restart_armed("act.after_effect=kill@1"));
    world.app.kill9();
    world.server.ended();
    let app = world.app.clone();
    let pid = app.pid();
    assert_eq!(world.starts().len(), 2, "it was done");
    world.recover();
    world.server.wait_verified(&app, head);
    assert_eq!(app.pid(), pid, "and is left alone");
    let records = world.server.records();
    assert_eq!(records.count("ORCH_OUTCOME_UNKNOWN"), 1);
    assert_eq!(records.attempts("RESTART"), 1);
    assert_eq!(world.starts().len(), 2);
    world.settle();
    assert_eq!(world.broken_promises(), Vec::<String>::new());
}

#[test]
fn before_the_outcome_is_recorded() {
    let mut world = World::with_app();
    let head = world.server.records().head();
    // Nothing is armed: the moment between delivery and outcome is the hold time, and long enough to aim at.
    world.app.kill9();
    world.server.wait_record("delivered", |record| {
        record["event_name"] == "ORCH_DELIVERED" && record["seq"].as_u64() > Some(head)
    });
    let pid = world.app.pid();
    world.recover();
    world.server.wait_verified(&world.app, head);
    assert_eq!(world.app.pid(), pid);
    assert_eq!(world.server.records().attempts("RESTART"), 1);
    assert_eq!(world.broken_promises(), Vec::<String>::new());
}

#[test]
fn between_an_effect_and_the_record_that_it_was_seen() {
    let mut world = World::with_app();
    let head = world.server.records().head();
    let old = world.app.pid();
    // The third write is the one that would say that the new process was seen.
    assert!(world.restart_armed("journal.write=sleep(30000)@3"));
    world.app.kill9();
    let app = world.app.clone();
    let unseen = wait_for(|| app.find_pid().filter(|pid| *pid != old)).expect("it was restarted");
    world.server.kill9();
    processes::kill(unseen);
    world.recover();
    // A process that nobody saw begin has ended: that is a crash like any other.
    world.server.wait_verified(&app, head);
    assert!(![old, unseen].contains(&app.pid()));
    let seen = world.server.records().started();
    assert!(seen.contains(&u64::from(unseen)), "its life is on record afterwards: {seen:?}");
    assert_eq!(world.broken_promises(), Vec::<String>::new());
}

#[test]
fn again_and_again_while_the_app_crashes() {
    let mut world = World::with_app();
    for _ in 0..4 {
        world.app.kill9();
        world.recover();
        let app = world.app.clone();
        world.server.wait("the app answers again", || app.get("/healthz"));
    }
    world.settle();
    assert_eq!(world.broken_promises(), Vec::<String>::new());
}

/// What the log tells of tails that were cut, after a tail was torn and the starts that should have cut it died at these points.
fn told_of_a_cut(died_at: &[&str]) -> (Vec<u64>, u64) {
    let mut world = World::new();
    world.server.kill9();
    let torn = world.server.tear_log() as u64;
    for point in died_at {
        world.server.arm(point);
        // It may answer before it gets there.
        let _ = world.server.try_up();
        world.server.ended();
    }
    world.server.arm("");
    world.server.up();
    world.server.ctl(&["proof", "verify", "--replay"]).ok();
    let records = world.server.records();
    let told = records.iter().filter(|record| record["event_name"] == "LOG_RECOVERED");
    (
        told.map(|record| record["body"]["log_recovered"]["bytes_cut"].as_u64().unwrap()).collect(),
        torn,
    )
}

#[test]
fn between_the_cut_of_a_torn_tail_and_its_record() {
    for died_at in [
        &["journal.noted=kill@1"][..],
        &["journal.write=kill@1"],
        &["journal.noted=kill@1", "journal.write=kill@1", "journal.reopen_sync=kill@1"],
        // The record of it is durable, and who told of it never heard so.
        &["journal.write=kill@1", "journal.before_ack=kill@1"],
    ] {
        let (told, torn) = told_of_a_cut(died_at);
        assert_eq!(told, [torn], "{died_at:?}: told once");
    }
    // The record of it is torn in its turn.
    let (told, torn) = told_of_a_cut(&["journal.split_write=bug;journal.mid_write=kill@1"]);
    assert!(told.len() == 1 && told[0] > torn, "{told:?}");
    let (told, _) = told_of_a_cut(&["journal.no_note=bug;journal.write=kill@1"]);
    assert_eq!(told, [0; 0], "and who does not note it first loses it: the check above can fail");
}

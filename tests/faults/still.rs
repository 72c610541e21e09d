//! A server that stands still for a while, as in a paused virtual machine, does nothing twice when it goes on.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::processes;
use crate::world::World;

/// Longer than any time-out or tick of the server under test.
const STILL: Duration = Duration::from_secs(3);

fn stand_still(pid: u32) {
    processes::signal(pid, Signal::STOP);
    let until = Instant::now() + STILL;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::sleep(left);
    }
    processes::signal(pid, Signal::CONT);
}

#[test]
fn a_crash_while_it_stands_still_is_healed_once() {
    let mut world = World::with_app();
    let head = world.server.records().head();
    let server = world.server.pid();
    processes::signal(server, Signal::STOP);
    world.app.kill9();
    stand_still(server);
    world.server.wait_verified(&world.app, head);
    assert_eq!(world.server.records().attempts("RESTART"), 1);
    assert_eq!(world.starts().len(), 2);
    assert_eq!(world.broken_promises(), Vec::<String>::new());
}

#[test]
fn standing_still_between_intent_and_effect_leads_to_one_effect() {
    let mut world = World::with_app();
    let head = world.server.records().head();
    assert!(world.restart_armed("act.before_effect=sleep(1000)@1"));
    world.app.kill9();
    world.server.wait_record("the intent", |record| {
        record["event_name"] == "ORCH_EXEC" && record["seq"].as_u64() > Some(head)
    });
    assert_eq!(world.starts().len(), 1, "not yet done");
    stand_still(world.server.pid());
    world.server.wait_verified(&world.app, head);
    assert_eq!(world.server.records().attempts("RESTART"), 1);
    assert_eq!(world.starts().len(), 2);
    assert_eq!(world.broken_promises(), Vec::<String>::new());
}

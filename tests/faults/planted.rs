//! A safety test that cannot fail shows nothing: each known bug, planted on purpose, must be found by the check that is there
//! to find it.

use crate::disk::check_it_aborts;
use crate::world::World;

/// Goes through the main job with a bug and kills armed at several places; what the checks found, all together.
fn found(bug: &str, turns: std::ops::RangeInclusive<u32>) -> Vec<String> {
    let mut all = Vec::new();
    for n in turns {
        let mut world = World::new();
        // Each write takes its time, and the process dies in the middle of the n-th: what was not recorded by then is gone.
        let points = format!(
            "{bug}=bug;journal.split_write=bug;journal.write=sleep(300);journal.mid_write=kill@{n}"
        );
        if world.restart_armed(&points) {
            world.main_job();
        }
        world.recover();
        all.extend(world.broken_promises());
        if !all.is_empty() {
            break;
        }
    }
    all
}

#[test]
fn acting_before_recording_is_found() {
    let found = found("agent.act_before_record", 2..=7);
    let right = found.iter().any(|what| what.contains("starts for"));
    assert!(right, "the check for undue starts must see it: {found:#?}");
}

#[test]
fn acknowledging_before_the_sync_is_found() {
    let found = found("journal.ack_before_sync", 2..=7);
    let right = found.iter().any(|what| what.contains("was shown and is gone"));
    assert!(right, "the check for lost records must see it: {found:#?}");
}

#[test]
fn the_same_kills_without_a_bug_break_nothing() {
    let found = found("no.bug", 2..=4);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn asking_again_for_a_sync_that_failed_is_found() {
    let mut world = World::with_app();
    // The kernel says yes the second time, as it does for pages that it has dropped.
    assert!(world.restart_armed("journal.retry_fsync=bug;journal.fsync=eio@3"));
    world.app.kill9();
    let head = world.server.records().head();
    let healed = world.server.wait_or_death("went on all the same", {
        let app = world.app.clone();
        move |server| server.try_records()?.verified_after(&app.name, head).then_some(())
    });
    assert!(
        healed.is_some(),
        "it acts on a record that the disk refused: a check for the abort must see it"
    );
    assert!(world.server.is_up());
}

#[test]
fn not_syncing_at_all_is_found() {
    let mut world = World::with_app();
    // The disk refuses every sync; whoever never asks does not notice.
    assert!(world.restart_armed("journal.skip_fsync=bug;journal.fsync=eio"));
    world.server.options.failpoints.clear();
    let head = world.server.records().head();
    world.app.kill9();
    let healed = world.server.wait_or_death("healed all the same", {
        let app = world.app.clone();
        move |server| server.try_records()?.verified_after(&app.name, head).then_some(())
    });
    assert!(healed.is_some());
    let starts = world.starts().len();
    assert_eq!(starts, 2, "acted although no sync ever succeeded: the check below must say so");
    // The sound server under the same fault does not act but ends: that is what the check relies on.
    let mut sound = World::with_app();
    let starts = sound.starts().len();
    if sound.restart_armed("journal.fsync=eio") {
        sound.app.kill9();
    }
    assert_eq!(check_it_aborts(&mut sound), Vec::<String>::new());
    assert_eq!(sound.starts().len(), starts, "nothing was done");
}

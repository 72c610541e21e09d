//! A disk that is full, broken or read-only: nothing is done that cannot be recorded, reads go on, and it heals by itself. A sync
//! that fails is another matter: what the disk holds is not known then, so the process ends, and its next start finds out.

use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use serde_json::Value;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Server, wait_for};
use crate::world::World;

const AGENT: &str = "agentctl.v1.AgentService";

fn health(server: &Server, service: &str) -> Option<ServingStatus> {
    let (address, service) = (format!("http://{}", server.address()), service.to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel =
            tonic::transport::Endpoint::from_shared(address).ok()?.connect().await.ok()?;
        let answer = HealthClient::new(channel).check(HealthCheckRequest { service }).await.ok()?;
        ServingStatus::try_from(answer.into_inner().status).ok()
    })
}

fn journal(server: &Server) -> Value {
    server.status()["journal"].clone()
}

/// While nothing can be recorded nothing is done, and everybody can see it. Returns what is wrong.
pub(crate) fn check_nothing_is_done(world: &mut World) -> Vec<String> {
    let mut broken = Vec::new();
    let server = &world.server;
    let blocked = wait_for(|| (journal(server)["state"] == "unavailable").then_some(()));
    if blocked.is_none() {
        broken.push(format!("the status does not say it: {:#}", journal(server)));
    }
    if health(server, AGENT) != Some(ServingStatus::NotServing) {
        broken.push("the health service calls the agent serving".to_owned());
    }
    if health(server, "") != Some(ServingStatus::Serving) {
        broken.push("queries are not served".to_owned());
    }
    let before = world.starts().len();
    world.app.kill9();
    for words in [
        &["act", "web", "restart", "--reason", "x"][..],
        &["pause", "--reason", "x"],
        &["freeze", "--reason", "x"],
    ] {
        let run = server.ctl(words);
        if run.code != 5 || !run.stderr.contains("LOG_UNAVAILABLE") {
            broken.push(format!("not refused as it should be: {run:#?}"));
        }
    }
    for words in [
        &["status", "web"][..],
        &["proof", "list", "--limit", "3"],
        &["proof", "verify"],
        &["explain", "--last", "web"],
        &["decision", "list"],
    ] {
        let run = server.ctl(words);
        if run.code != 0 {
            broken.push(format!("not read: {run:#?}"));
        }
    }
    if world.starts().len() != before {
        broken.push("the app was started although that could not be recorded".to_owned());
    }
    broken
}

#[test]
fn nothing_is_done_that_cannot_be_recorded() {
    for error in ["enospc", "eio", "erofs"] {
        let mut world = World::with_app();
        let fault = format!("journal.write={error}");
        assert!(world.restart_armed(&fault), "{}", world.server.log());
        let broken = check_nothing_is_done(&mut world);
        assert!(broken.is_empty(), "{fault}: {broken:#?}");
        world.recover();
        world.settle();
        assert_eq!(world.broken_promises(), Vec::<String>::new(), "{fault}");
    }
}

/// Waits until the server has ended itself because of a sync, and says what is wrong with how it did.
pub(crate) fn check_it_aborts(world: &mut World) -> Vec<String> {
    let mut broken = Vec::new();
    let status = world.server.ended();
    if status.signal() != Some(Signal::ABORT.as_raw()) {
        broken.push(format!("it ended with {status}, not by abort"));
    }
    let said = world.server.log();
    if !said.contains("a sync of the proof log failed") {
        broken.push(format!("it does not say why: {said}"));
    }
    broken
}

#[test]
fn a_failed_sync_ends_the_process_and_the_next_start_keeps_what_was_acknowledged() {
    for error in ["enospc", "eio", "erofs"] {
        for fault in [
            // The first write after the start, and later ones, in the middle of what the agent does.
            format!("journal.fsync={error}@1"),
            format!("journal.fsync={error}@3"),
            format!("journal.fsync={error}@5"),
            // While the start makes sure of the tail.
            format!("journal.reopen_sync={error}@1"),
            // Lines and hashes, which are derived from the segments and on the same disk.
            format!("tlog.sync={error}@2"),
        ] {
            let mut world = World::with_app();
            if world.restart_armed(&fault) {
                // Whatever the agent can do while it lives; none of it may be shown and then be gone.
                world.app.kill9();
                let _ = world.server.ctl(&["pause", "--reason", "x", "--request-id", ONCE]);
            }
            assert_eq!(check_it_aborts(&mut world), Vec::<String>::new(), "{fault}");
            world.recover();
            // The answer was lost, so the caller asks again: it was done once or not at all, and is done once now.
            world.server.ctl(&["pause", "--reason", "x", "--request-id", ONCE]).ok();
            world.server.ctl(&["resume", "--reason", "x"]).ok();
            let pauses = world.server.records().iter().filter(|record| is_pause(record)).count();
            assert_eq!(pauses, 1, "{fault}: asked for twice, done once");
            world.settle();
            assert_eq!(world.broken_promises(), Vec::<String>::new(), "{fault}");
        }
    }
}

#[test]
fn a_disk_on_which_no_sync_succeeds_is_never_called_good() {
    let mut world = World::with_app();
    let starts = world.starts().len();
    for _ in 0..2 {
        if world.restart_armed("journal.fsync=eio") {
            let _ = world.server.ctl(&["pause", "--reason", "x"]);
        }
        assert_eq!(check_it_aborts(&mut world), Vec::<String>::new());
        world.server.arm("");
        world.server.up();
    }
    let _ = world.server.ctl(&["resume", "--reason", "x"]);
    world.settle();
    assert!(world.starts().len() > starts);
    assert_eq!(world.broken_promises(), Vec::<String>::new());
}

const ONCE: &str = "7d4f6f0e-3b0a-4a7e-9a53-1f2a3b4c5d6e";

fn is_pause(record: &Value) -> bool {
    record["event_name"] == "MODE_PAUSED" && record["body"].to_string().contains("\"x\"")
}

#[test]
fn a_passing_fault_heals_by_itself() {
    for fault in ["journal.write=enospc@4", "journal.write=eio@5", "journal.write=erofs@6"] {
        let mut world = World::with_app();
        assert!(world.restart_armed(fault));
        let head = world.server.records().head();
        world.app.kill9();
        world.server.wait_verified(&world.app, head);
        // A write that failed shows in the log as the state the agent was in.
        world.server.wait_record("the agent was blocked and is not any more", |record| {
            let path = record["body"]["transition"]["path"].as_array().cloned().unwrap_or_default();
            path.iter().any(|state| state == "blocked")
        });
        assert_eq!(journal(&world.server)["state"], "writable");
        assert_eq!(health(&world.server, AGENT), Some(ServingStatus::Serving));
        world.settle();
        assert_eq!(world.broken_promises(), Vec::<String>::new(), "{fault}");
    }
}

#[test]
fn a_recovery_that_fails_is_tried_again() {
    // What fails again is the log itself, or reading back the state that it leads to.
    for again in ["journal.reopen=eio@2", "snapshot.replay=eio@1", "snapshot.replay=eio@2"] {
        let mut world = World::with_app();
        assert!(world.restart_armed(&format!("journal.write=eio@4;{again}")));
        let head = world.server.records().head();
        world.app.kill9();
        world.server.wait_verified(&world.app, head);
        assert_eq!(world.broken_promises(), Vec::<String>::new(), "{again}");
    }
}

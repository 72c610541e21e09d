//! Start, stop, crash, and what an agentd that was away finds.

use std::time::Duration;

use agentd::act::process::{Error, HostEvent};
use agentd::shim::protocol::{ExitStatus, Fence, RefusalCode};
use rustix::process::Signal;

use super::world::{World, gone, running, signal, until};

const FOREVER: [&str; 2] = ["/bin/sleep", "1000"];

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_seen_and_the_next_start_is_a_new_incarnation() {
    let mut world = World::new().await;
    let app = world.app("web", &FOREVER);
    let first = world.run(&app).await;
    let started = HostEvent::Started { app: "web".into(), slot: 0, fence: first.clone() };
    assert_eq!(world.event().await, started);
    signal(first.pid, Signal::KILL);
    let exit = world.exit().await;
    assert_eq!((exit.n, exit.status, exit.requested), (1, ExitStatus::Signal(9), false));
    assert_eq!(exit.fence, first);
    let second = world.host.start("web", 0, "again", Some(first.clone())).await.unwrap();
    assert_ne!(second, first);
    assert!(running(second.pid));
    let view = world.view("web");
    assert!(view.running && view.fence == Some(second));
    assert_eq!((view.starts, view.revision.as_deref()), (2, Some("r1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_idempotent_on_its_action_and_refuses_a_stale_fence() {
    let world = World::new().await;
    let app = world.app("web", &FOREVER);
    let first = world.run(&app).await;
    assert_eq!(world.host.start("web", 0, "first", None).await.unwrap(), first, "same action");
    let refused = |outcome: Result<Fence, Error>, code| {
        let error = outcome.unwrap_err();
        assert!(error.is_refusal(code), "{error:?}");
    };
    let host = &world.host;
    refused(host.start("web", 0, "b", Some(first.clone())).await, RefusalCode::AlreadyRunning);
    refused(host.start("web", 0, "c", None).await, RefusalCode::StaleFence);
    let reused = Fence { start_time: first.start_time + 1, ..first.clone() };
    refused(host.start("web", 0, "d", Some(reused.clone())).await, RefusalCode::StaleFence);
    let stop = host.stop("web", 0, "e", Some(reused), Duration::from_secs(1)).await;
    assert!(stop.unwrap_err().is_refusal(RefusalCode::StaleFence));
    assert!(running(first.pid), "nothing of this touched the app");
    let rebooted = Fence { boot_id: "another boot".into(), ..first.clone() };
    let stop = host.stop("web", 0, "f", Some(rebooted), Duration::from_secs(1)).await;
    assert!(stop.unwrap_err().is_refusal(RefusalCode::StaleFence));
    let exit = host.stop("web", 0, "g", Some(first.clone()), Duration::from_secs(5)).await;
    let exit = exit.unwrap().unwrap();
    assert_eq!((exit.status, exit.requested), (ExitStatus::Signal(15), true));
    // An action that was carried out is not carried out again although the app ended since.
    assert_eq!(host.start("web", 0, "first", None).await.unwrap(), first);
    assert!(!world.view("web").running);
    assert_eq!(host.stop("web", 0, "h", None, Duration::ZERO).await.unwrap(), Some(exit));
}

#[tokio::test(flavor = "multi_thread")]
async fn exits_while_agentd_was_dead_are_reported_until_they_are_acknowledged() {
    let mut world = World::new().await;
    let killed = world.app("killed", &FOREVER);
    let killed = world.run(&killed).await;
    let script = "trap 'exit 7' USR1; echo armed; while :; do sleep 0.02; done";
    let leaving = world.script("leaving", script);
    let leaving = world.run(&leaving).await;
    world.log_contains("leaving", "armed").await;
    world.agentd_dies().await;
    signal(killed.pid, Signal::KILL);
    signal(leaving.pid, Signal::USR1);
    gone(killed.pid).await;
    gone(leaving.pid).await;
    for _ in 0..2 {
        world.agentd_comes_back().await;
        let mut exits = [world.exit().await, world.exit().await];
        exits.sort_by_key(|exit| exit.fence != killed);
        assert_eq!(exits.each_ref().map(|exit| exit.n), [1, 1]);
        assert_eq!(
            exits.each_ref().map(|exit| exit.status),
            [ExitStatus::Signal(9), ExitStatus::Code(7)]
        );
        assert_eq!(exits[1].fence, leaving);
        world.agentd_dies().await;
    }
    world.agentd_comes_back().await;
    let _reported = [world.exit().await, world.exit().await];
    world.host.acknowledge("killed", 0, 1).await;
    world.host.acknowledge("leaving", 0, 1).await;
    // Orders are carried out in turn: after this one the acknowledgements have arrived.
    for app in ["killed", "leaving"] {
        world.host.stop(app, 0, "x", None, Duration::ZERO).await.unwrap();
    }
    world.agentd_dies().await;
    world.agentd_comes_back().await;
    while let Some(event) = world.waiting_event() {
        assert!(matches!(event, HostEvent::Adopted { running: false, .. }), "{event:?}");
    }
    let next = world.host.start("killed", 0, "next", Some(killed)).await.unwrap();
    signal(next.pid, Signal::KILL);
    assert_eq!(world.exit().await.n, 2, "the numbers go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_outlives_agentd_and_is_adopted_without_a_duplicate() {
    let mut world = World::new().await;
    let app = world.app("web", &FOREVER);
    let fence = world.run(&app).await;
    let shim = world.view("web").shim_pid;
    for _ in 0..3 {
        world.agentd_dies().await;
        assert!(running(fence.pid) && running(shim));
        world.agentd_comes_back().await;
        let view = world.view("web");
        assert_eq!((view.running, view.fence.as_ref()), (true, Some(&fence)));
        assert_eq!(view.shim_pid, shim);
        let adopted =
            HostEvent::Adopted { app: "web".into(), slot: 0, fence: fence.clone(), running: true };
        assert_eq!(world.event().await, adopted);
    }
    world.host.ensure(&app, 0).await.unwrap();
    assert_eq!(world.shims(), [shim]);
    assert_eq!(world.supervised(), [fence.pid]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_ignores_term_is_killed_after_its_grace_and_a_stopped_one_too() {
    let world = World::new().await;
    let deaf = world.script("deaf", "trap '' TERM; echo armed; while :; do sleep 0.02; done");
    world.run(&deaf).await;
    world.log_contains("deaf", "armed").await;
    let exit = world.host.stop("deaf", 0, "stop", None, Duration::from_millis(200)).await;
    assert_eq!(exit.unwrap().unwrap().status, ExitStatus::Signal(9));

    let polite =
        world.script("polite", "trap 'exit 0' TERM; echo armed; while :; do sleep 0.02; done");
    let fence = world.run(&polite).await;
    world.log_contains("polite", "armed").await;
    signal(fence.pid, Signal::STOP);
    let exit = world.host.stop("polite", 0, "stop", None, Duration::from_secs(20)).await;
    assert_eq!(exit.unwrap().unwrap().status, ExitStatus::Code(0), "woken up to say goodbye");
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_an_instance_leaves_no_process_and_nothing_to_adopt() {
    let mut world = World::new().await;
    let app = world.script("web", "echo said; exec sleep 1000");
    let fence = world.run(&app).await;
    world.log_contains("web", "said").await;
    world.remember_cgroups();
    world.host.remove("web", 0, Duration::from_secs(5)).await.unwrap();
    assert!(!running(fence.pid));
    assert!(world.host.views().is_empty());
    until("the end of the shim", || world.shims().is_empty().then_some(())).await;
    assert_eq!(world.log("web"), "said\n", "the output stays");
    let error = world.host.start("web", 0, "x", None).await.unwrap_err();
    assert_eq!(error.to_string(), "app `web` has no instance 0");
    world.agentd_dies().await;
    world.agentd_comes_back().await;
    assert!(world.host.views().is_empty());
    // The slot can be used again from scratch.
    assert_ne!(world.run(&app).await, fence);
}

#[tokio::test(flavor = "multi_thread")]
async fn term_to_the_shim_stops_the_app_in_order() {
    let mut world = World::new().await;
    let app = world
        .script("web", "trap 'echo bye; exit 0' TERM; echo armed; while :; do sleep 0.02; done");
    let fence = world.run(&app).await;
    world.log_contains("web", "armed").await;
    let shim = world.view("web").shim_pid;
    world.agentd_dies().await;
    signal(shim, Signal::TERM);
    gone(shim).await;
    assert!(!running(fence.pid));
    assert!(world.log("web").contains("bye\n"), "{}", world.log("web"));
    world.agentd_comes_back().await;
    let exit = world.exit().await;
    assert_eq!((exit.status, exit.requested), (ExitStatus::Code(0), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_names_are_enforced() {
    let world = World::new().await;
    for bad in ["../x", "Web", "a/b", ""] {
        let app = world.app(bad, &FOREVER);
        assert!(matches!(world.host.ensure(&app, 0).await, Err(Error::Name(_))), "{bad:?}");
    }
    let app = world.app("web", &FOREVER);
    let error = world.host.ensure(&app, 64).await.unwrap_err();
    assert_eq!(error.to_string(), "instance 64 is beyond the limit of 64 instances per app");
}

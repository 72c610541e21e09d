//! Escapes, orphans, and the death of those who look after them.

use std::time::Duration;

use agentd::act::process::{HostEvent, LinkState};
use agentd::shim::procfs;
use agentd::shim::protocol::{ExitStatus, RefusalCode};
use rustix::process::Signal;

use super::world::{World, gone, running, signal, until};

#[tokio::test(flavor = "multi_thread")]
async fn grandchildren_that_left_the_session_die_with_the_app() {
    let mut world = World::new().await;
    let script = "setsid sleep 1000 & setsid sh -c 'setsid sleep 1000 & setsid sleep 1000 & sleep 1000; true' & \
                  (trap '' TERM HUP; sleep 1000; true) & wait";
    let app = world.script("web", script);
    let fence = world.run(&app).await;
    let tree = until("the tree", || Some(world.supervised()).filter(|all| all.len() >= 7)).await;
    signal(fence.pid, Signal::KILL);
    world.exit().await;
    for pid in tree {
        gone(pid).await;
    }
    // And on an orderly stop.
    world.host.start("web", 0, "again", Some(fence)).await.unwrap();
    until("the tree", || Some(world.supervised()).filter(|all| all.len() >= 7)).await;
    world.host.stop("web", 0, "stop", None, Duration::from_secs(5)).await.unwrap();
    assert_eq!(world.supervised(), [0; 0], "all gone when the stop is answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_reaped_while_the_app_runs() {
    let world = World::new().await;
    let app = world.script(
        "web",
        "i=0; while [ $i -lt 30 ]; do (true & ) ; i=$((i+1)); done; echo done; exec sleep 1000",
    );
    let fence = world.run(&app).await;
    world.log_contains("web", "done").await;
    let shim = world.view("web").shim_pid;
    until("a shim whose only child is the app", || {
        (procfs::children(shim) == [fence.pid]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_apps_nor_shims_become_zombies() {
    let mut world = World::new().await;
    let app = world.app("web", &["/bin/true"]);
    let mut fence = world.run(&app).await;
    for round in 0..5 {
        world.exit().await;
        gone(fence.pid).await;
        let round = format!("round-{round}");
        fence = world.host.start("web", 0, &round, Some(fence)).await.unwrap();
    }
    world.exit().await;
    let shim = world.view("web").shim_pid;
    until("no child", || procfs::children(shim).is_empty().then_some(())).await;
    world.remember_cgroups();
    world.host.remove("web", 0, Duration::ZERO).await.unwrap();
    // Reaped by agentd: not even a zombie is left.
    until("the shim's number to be free", || procfs::stat(shim).is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_outlives_its_shim_and_goes_on_writing() {
    let mut world = World::new().await;
    let app = world.script("web", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done");
    let fence = world.run(&app).await;
    world.log_contains("web", "line 5\n").await;
    let shim = world.view("web").shim_pid;
    signal(shim, Signal::KILL);
    loop {
        match world.event().await {
            HostEvent::ShimLost { fence: lost, .. } => assert_eq!(lost, Some(fence.clone())),
            HostEvent::Adopted { fence: adopted, running, .. } => {
                assert_eq!((adopted, running), (fence.clone(), true));
                break;
            }
            HostEvent::Started { .. } => {}
            other @ HostEvent::Exited { .. } => panic!("{other:?}"),
        }
    }
    until("the link", || Some(world.view("web")).filter(|v| v.link == LinkState::Up)).await;
    let view = world.view("web");
    assert!(view.running && view.inherited && view.shim_pid != shim);
    assert_eq!(view.fence, Some(fence.clone()));
    assert_eq!(world.shims(), [view.shim_pid]);
    let error = world.host.start("web", 0, "twice", Some(fence.clone())).await.unwrap_err();
    assert!(error.is_refusal(RefusalCode::AlreadyRunning), "no second instance: {error:?}");
    // No line is lost, none is written twice.
    let seen = world.log("web").lines().count();
    let log = world.log_contains("web", &format!("line {}\n", seen + 20)).await;
    for (index, line) in log.lines().enumerate() {
        assert_eq!(line, format!("line {}", index + 1));
    }
    signal(fence.pid, Signal::KILL);
    let exit = world.exit().await;
    assert_eq!((exit.status, exit.requested), (ExitStatus::Unknown, false));
    world.host.start("web", 0, "next", Some(fence)).await.unwrap();
    assert!(!world.view("web").inherited);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_whose_shim_and_agentd_were_killed_is_stopped_with_everything_it_started() {
    let mut world = World::new().await;
    let app = world.script("web", "setsid sleep 1000 & sleep 1000; true");
    let fence = world.run(&app).await;
    until("the tree", || Some(world.supervised()).filter(|all| all.len() >= 3)).await;
    let view = world.view("web");
    world.agentd_dies().await;
    signal(view.shim_pid, Signal::KILL);
    gone(view.shim_pid).await;
    assert!(running(fence.pid));
    world.agentd_comes_back().await;
    let view = world.view("web");
    assert!(view.running && view.inherited);
    world.host.stop("web", 0, "stop", Some(fence), Duration::from_secs(5)).await.unwrap();
    if view.cgroup.is_some() {
        assert_eq!(world.supervised(), [0; 0], "the control group reaches what escaped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_ended_while_nobody_watched_is_reported_once_as_unknown() {
    let mut world = World::new().await;
    let app = world.app("web", &["/bin/sleep", "1000"]);
    let fence = world.run(&app).await;
    let shim = world.view("web").shim_pid;
    world.agentd_dies().await;
    signal(shim, Signal::KILL);
    gone(shim).await;
    signal(fence.pid, Signal::KILL);
    gone(fence.pid).await;
    world.agentd_comes_back().await;
    let exit = world.exit().await;
    assert_eq!((exit.n, exit.status, exit.fence), (1, ExitStatus::Unknown, fence.clone()));
    world.host.acknowledge("web", 0, 1).await;
    let next = world.host.start("web", 0, "next", Some(fence)).await.unwrap();
    let shim = world.view("web").shim_pid;
    signal(next.pid, Signal::TERM);
    let exit = world.exit().await;
    assert_eq!((exit.n, exit.status), (2, ExitStatus::Signal(15)));
    // The exit is known: a third shim does not report it again as unknown.
    signal(shim, Signal::KILL);
    until("another shim", || {
        let view = world.view("web");
        (view.link == LinkState::Up && view.shim_pid != shim).then_some(())
    })
    .await;
    while let Some(event) = world.waiting_event() {
        assert!(!matches!(event, HostEvent::Exited { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_shims_never_serve_one_directory() {
    let world = World::new().await;
    let app = world.app("web", &["/bin/sleep", "1000"]);
    let fence = world.run(&app).await;
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_agentd"))
        .arg("shim")
        .arg(world.host.dir("web", 0))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let text = String::from_utf8(second.stderr).unwrap();
    assert_eq!(text, "shim: another shim serves this directory\n");
    assert!(running(fence.pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_the_socket_is_answered_and_bounded() {
    use std::io::{BufRead, BufReader, Write};
    let world = World::new().await;
    let app = world.app("web", &["/bin/sleep", "1000"]);
    let fence = world.run(&app).await;
    let dir = std::fs::File::open(world.host.dir("web", 0)).unwrap();
    let path = format!("/proc/self/fd/{}/shim.sock", std::os::fd::AsRawFd::as_raw_fd(&dir));
    let connect = || {
        let stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(super::world::PATIENCE)).unwrap();
        stream
    };
    let mut caller = connect();
    caller
        .write_all(b"{\"id\":1,\"op\":\"start\"}\nnot json\n{\"id\":2,\"op\":\"rm -rf\"}\n")
        .unwrap();
    let mut lines = BufReader::new(caller.try_clone().unwrap()).lines();
    for _ in 0..3 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains("\"code\":\"malformed\""), "{line}");
    }
    let mut endless = connect();
    let chunk = [b'x'; 64 * 1024];
    until("the shim to hang up", || endless.write_all(&chunk).is_err().then_some(())).await;
    // Callers that say nothing do not keep agentd's link or the app from working.
    let silent: Vec<_> = (0..20).map(|_| connect()).collect();
    let exit = world.host.stop("web", 0, "stop", Some(fence), Duration::from_secs(5)).await;
    assert_eq!(exit.unwrap().unwrap().status, ExitStatus::Signal(15));
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_cannot_be_started_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = agentd::tasks::Tasks::new();
    let (events, _received) = tokio::sync::mpsc::channel(8);
    let command = vec!["/no/such/agentd".into(), "shim".into()];
    let config = agentd::act::process::Config::new(dir.path().join("apps"), command);
    let host =
        agentd::act::process::ProcessHost::open(config, tasks.clone(), events).await.unwrap();
    let app = agentd::act::process::AppProcess {
        name: "web".into(),
        revision: "1".into(),
        argv: vec!["/bin/true".into()],
        env: std::collections::BTreeMap::new(),
        cwd: None,
        listen: None,
        grace: Duration::ZERO,
        log: agentd::shim::protocol::LogLimits::default(),
        limits: agentd::shim::protocol::ResourceLimits::default(),
        user: None,
    };
    let error = host.ensure(&app, 0).await.unwrap_err().to_string();
    assert!(error.starts_with("the instance has no shim: starting a shim failed"), "{error}");
    tasks.stop();
}

//! Changes to several instances.

use std::net::Ipv4Addr;
use std::time::Duration;

use agentd::act::process::AppProcess;
use agentd::act::process::rollout::{Failure, Progress, ReadyCheck, Report, Rollout};
use agentd::sense::probe::Probe;
use agentd::shim::protocol::Fence;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::world::{PATIENCE, World, running};

fn quickly() -> ReadyCheck {
    ReadyCheck {
        min_uptime: Duration::from_millis(50),
        deadline: PATIENCE,
        ..ReadyCheck::default()
    }
}

struct Change<'a> {
    world: &'a World,
    app: &'a AppProcess,
    ready: ReadyCheck,
    abort: CancellationToken,
}

impl<'a> Change<'a> {
    fn of(world: &'a World, app: &'a AppProcess) -> Self {
        Self { world, app, ready: quickly(), abort: CancellationToken::new() }
    }

    async fn scale_to(&self, action_id: &str, wanted: u32) -> Report {
        self.rollout(action_id, None).scale_to(wanted).await
    }

    async fn restart(&self, action_id: &str) -> Report {
        let targets = targets(self.world);
        self.rollout(action_id, None).restart(&targets).await
    }

    fn rollout(
        &'a self,
        action_id: &'a str,
        progress: Option<&'a mpsc::Sender<Progress>>,
    ) -> Rollout<'a> {
        Rollout {
            host: &self.world.host,
            app: self.app,
            action_id,
            ready: &self.ready,
            abort: &self.abort,
            progress,
        }
    }
}

fn targets(world: &World) -> Vec<(u32, Option<Fence>)> {
    world.host.views_of("web").into_iter().map(|view| (view.slot, view.fence)).collect()
}

fn fences(world: &World) -> Vec<Fence> {
    world.host.views_of("web").into_iter().filter_map(|v| v.fence.filter(|_| v.running)).collect()
}

const SICK_IF_TOLD: &str = "test -e $DIR/sick && exit 3; exec sleep 1000";

#[tokio::test(flavor = "multi_thread")]
async fn scaling_adds_the_lowest_free_slots_and_removes_the_highest() {
    let mut world = World::new().await;
    let app = world.script("web", SICK_IF_TOLD);
    let report = Change::of(&world, &app).scale_to("up", 3).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.done.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [0, 1, 2]);
    let before = fences(&world);
    assert!(before.iter().all(|fence| running(fence.pid)));
    world.remember_cgroups();
    let report = Change::of(&world, &app).scale_to("down", 1).await;
    assert_eq!(report.done, [(2, None), (1, None)]);
    assert_eq!(fences(&world), before[..1]);
    assert!(!running(before[1].pid) && !running(before[2].pid));
    let report = Change::of(&world, &app).scale_to("same", 1).await;
    assert!(report.is_complete() && report.done.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_one_by_one_and_running_it_twice_does_it_once() {
    let world = World::new().await;
    let app = world.script("web", SICK_IF_TOLD);
    let change = Change::of(&world, &app);
    change.scale_to("up", 2).await;
    let before = targets(&world);
    let (progress, mut steps) = mpsc::channel(64);
    let report = change.rollout("r", Some(&progress)).restart(&before).await;
    assert!(report.is_complete(), "{report:?}");
    let after = fences(&world);
    assert_eq!(after.len(), 2);
    assert!(before.iter().all(|(_, old)| !after.iter().any(|new| Some(new) == old.as_ref())));
    let mut seen = Vec::new();
    while let Ok(step) = steps.try_recv() {
        seen.push(match step {
            Progress::Stopping(slot) => format!("{slot} stopping"),
            Progress::Stopped(slot, _) => format!("{slot} stopped"),
            Progress::Started(slot, _) => format!("{slot} started"),
            Progress::Ready(slot, _) => format!("{slot} ready"),
            Progress::Removed(slot) => format!("{slot} removed"),
        });
    }
    let expected = [
        "0 stopping",
        "0 stopped",
        "0 started",
        "0 ready",
        "1 stopping",
        "1 stopped",
        "1 started",
        "1 ready",
    ];
    assert_eq!(seen, expected);
    let again = change.rollout("r", None).restart(&before).await;
    assert!(again.is_complete(), "{again:?}");
    assert_eq!(fences(&world), after, "the same attempt changes nothing a second time");
    let stale = change.rollout("s", None).restart(&before).await;
    assert!(matches!(stale.failed, Some(Failure::Host { slot: 0, .. })), "{stale:?}");
    assert_eq!(fences(&world), after, "a plan for other incarnations is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_stops_at_the_first_instance_that_does_not_come_back() {
    let world = World::new().await;
    let app = world.script("web", SICK_IF_TOLD);
    let change = Change::of(&world, &app);
    change.scale_to("up", 3).await;
    let before = fences(&world);
    std::fs::write(world.path().join("sick"), "").unwrap();
    let report = change.restart("bad").await;
    let failure = report.failed.as_ref().unwrap();
    assert_eq!(failure.to_string(), "instance 0 ended before it was ready: exit code 3");
    assert_eq!((report.done.len(), report.untouched.as_slice()), (0, &[1, 2][..]));
    assert_eq!(fences(&world), before[1..], "the others were not touched");
    std::fs::remove_file(world.path().join("sick")).unwrap();
    let report = change.restart("good").await;
    assert!(report.is_complete(), "one that is down is started: {report:?}");
    assert_eq!(fences(&world).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halt_between_two_instances_leaves_the_rest_alone() {
    let world = World::new().await;
    let app = world.script("web", SICK_IF_TOLD);
    let change = Change::of(&world, &app);
    change.scale_to("up", 3).await;
    let before = fences(&world);
    let (progress, mut steps) = mpsc::channel(64);
    let plan = targets(&world);
    let rollout = change.rollout("r", Some(&progress));
    let halt = async {
        while let Some(step) = steps.recv().await {
            if matches!(step, Progress::Started(0, _)) {
                change.abort.cancel();
                break;
            }
        }
    };
    let (report, ()) = tokio::join!(rollout.restart(&plan), halt);
    assert!(report.aborted && report.failed.is_none());
    assert_eq!(report.untouched, [1, 2]);
    assert_eq!(fences(&world)[1..], before[1..]);
    assert_ne!(fences(&world)[0], before[0], "the instance under way is finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_runs_but_never_answers_is_not_ready() {
    let world = World::new().await;
    let mut app = world.script("web", SICK_IF_TOLD);
    app.listen = Some((Ipv4Addr::LOCALHOST, 0).into());
    world.host.ensure(&app, 0).await.unwrap();
    let address = world.host.listen_address("web").unwrap();
    let mut change = Change::of(&world, &app);
    change.ready.probe = Some(Probe::Http { address, path: "/".into() });
    change.ready.deadline = Duration::from_millis(300);
    let report = change.restart("r").await;
    let text = report.failed.unwrap().to_string();
    assert_eq!(text, "instance 0 was not ready within 300 ms: no answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_changes_the_revision_instance_by_instance() {
    let world = World::new().await;
    let mut app = world.script("web", SICK_IF_TOLD);
    Change::of(&world, &app).scale_to("up", 2).await;
    app.revision = "r2".into();
    app.argv = vec!["/bin/sleep".into(), "2000".into()];
    let report = Change::of(&world, &app).restart("deploy").await;
    assert!(report.is_complete(), "{report:?}");
    for view in world.host.views_of("web") {
        assert_eq!(view.revision.as_deref(), Some("r2"));
        let cmdline = std::fs::read(format!("/proc/{}/cmdline", view.fence.unwrap().pid)).unwrap();
        assert_eq!(cmdline, b"/bin/sleep\x002000\0");
    }
}

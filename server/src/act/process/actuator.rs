//! The process backend as an [`Actuator`]: permits in, sightings out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_core::app::{AppName, AppSpec, HealthCheck, Source};
use agentd_core::permit::Permit;
use agentd_core::plan::{Fence, Operation, Plan};
use agentd_core::record::Observation;
use agentd_core::signal::{Exit, MACHINE, MICRO, Metric, Sample as CoreSample};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::rollout::{Progress, Report, Rollout};
use super::spec::{bare, probe_of, ready_check};
use super::{AppProcess, Config, Error, HostEvent, InstanceView, ProcessHost};
use crate::act::{Actuator, Boxed, Capabilities, Delivery, Sighting, Sightings, Workload};
use crate::clock::Clock;
use crate::deploy::{Deployer, Launch, Release};
use crate::ingest::Ingest;
use crate::sense::{self, Sample, Samples, Schedule};
use crate::shim::protocol::{self, ExitRecord, ExitStatus};
use crate::tasks::{OnFailure, Tasks};

/// Host events that may wait.
const EVENTS: usize = 4_096;
/// Probe and usage samples that may wait; more are lost and counted.
const SAMPLES: usize = 4_096;
/// Steps of one rollout that may wait.
const STEPS: usize = 256;
/// Failed probes in a row that make an instance unready (the default of Kubernetes' `failureThreshold`).
const UNREADY_AFTER: u32 = 3;
/// Longest wait for events of instances that are on their way when a rollout ends.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Source of the figures the kernel gives.
const PROCFS: &str = "sense/procfs";

/// Runs applications as processes of this machine.
#[derive(Debug)]
pub struct ProcessActuator {
    host: ProcessHost,
    deployer: Deployer,
    shared: Arc<Shared>,
    samples: Samples,
    tasks: Tasks,
}

#[derive(Debug)]
struct Shared {
    sightings: Sightings,
    ingest: Arc<Ingest>,
    clock: Arc<Clock>,
    apps: Mutex<BTreeMap<AppName, Watched>>,
    /// Host events reported so far.
    handled: watch::Sender<u64>,
}

/// What is known of an app besides its instances.
#[derive(Debug)]
struct Watched {
    min_uptime: Duration,
    health: Option<HealthCheck>,
    /// Stops the probe of this health check.
    stop: CancellationToken,
    failures: u32,
    /// What was last reported of each slot: its incarnation and whether it was ready.
    reported: BTreeMap<u32, (Fence, Option<bool>)>,
}

impl ProcessActuator {
    /// Takes over what runs below `root` and reports it. `deployer` makes what is started of apps from repositories.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub async fn open(
        (root, deployer): (PathBuf, Deployer),
        shim: &[PathBuf],
        period: Duration,
        shared: (Sightings, Arc<Ingest>, Arc<Clock>),
        tasks: Tasks,
    ) -> Result<Self, Error> {
        let (sightings, ingest, clock) = shared;
        let handled = watch::Sender::new(0);
        let shared = Arc::new(Shared { sightings, ingest, clock, apps: Mutex::default(), handled });
        let (events, mut happened) = mpsc::channel(EVENTS);
        let (listening, spawner) = (Arc::clone(&shared), tasks.clone());
        let (host_ready, host_known) = watch::channel(None::<ProcessHost>);
        tasks.spawn("process-events", OnFailure::Shutdown, async move {
            while let Some(event) = happened.recv().await {
                let host = host_known.borrow().clone();
                listening.on_event(event, host.as_ref(), &spawner).await;
                listening.handled.send_modify(|n| *n = n.wrapping_add(1));
            }
        });
        let command = shim.iter().map(|part| part.clone().into_os_string()).collect();
        let host = ProcessHost::open(Config::new(root, command), tasks.clone(), events).await?;
        host_ready.send_replace(Some(host.clone()));
        let (samples, mut measured) = Samples::channel(SAMPLES);
        let receiving = Arc::clone(&shared);
        tasks.spawn("process-samples", OnFailure::Shutdown, async move {
            while let Some(sample) = measured.recv().await {
                receiving.on_sample(sample).await;
            }
        });
        let meter = sense::watch_processes(host.clone(), period, samples.clone(), tasks.stopping());
        tasks.spawn("process-usage", OnFailure::Log, meter);
        Ok(Self { host, deployer, shared, samples, tasks })
    }

    /// Address of the socket held for an app, with the real port.
    #[must_use]
    pub fn listen_address(&self, app: &AppName) -> Option<SocketAddr> {
        self.host.listen_address(app.as_str())
    }

    /// Samples that did not fit into their channel.
    #[must_use]
    pub fn samples_lost(&self) -> u64 {
        self.samples.lost()
    }

    /// Starts or replaces the probe of an app.
    fn watch(&self, workload: &Workload) -> Result<(), String> {
        let spec = &workload.spec;
        let probe = spec.health.as_ref().map(|h| probe_of(&h.probe)).transpose()?;
        let mut apps = self.shared.lock();
        let known = apps.get_mut(&spec.name);
        let min_uptime = Duration::from_millis(workload.min_uptime_ms);
        if let Some(watched) = known {
            watched.min_uptime = min_uptime;
            if watched.health == spec.health {
                return Ok(());
            }
            watched.stop.cancel();
        }
        let stop = self.tasks.stopping().child_token();
        let reported = apps.remove(&spec.name).map(|w| w.reported).unwrap_or_default();
        let health = spec.health.clone();
        let watched = Watched { min_uptime, health, stop: stop.clone(), failures: 0, reported };
        apps.insert(spec.name.clone(), watched);
        if let (Some(probe), Some(health)) = (probe, &spec.health) {
            let schedule = Schedule::new(
                Duration::from_millis(health.interval_ms),
                Duration::from_millis(health.timeout_ms),
            );
            let (app, samples) = (spec.name.to_string(), self.samples.clone());
            let watching = sense::watch_app(app, None, probe, schedule, samples, stop);
            self.tasks.spawn("probe", OnFailure::Log, watching);
        }
        Ok(())
    }

    async fn run(&self, permit: Permit, workload: Workload, stop: CancellationToken) -> Delivery {
        let plan = permit.plan();
        let (process, release) = match self.process(&workload, plan, &stop).await {
            Ok(found) => found,
            Err(detail) => return Delivery::given_up(detail),
        };
        if let Err(detail) = self.watch(&workload) {
            return Delivery::given_up(detail);
        }
        let ready = match ready_check(&workload) {
            Ok(ready) => ready,
            Err(detail) => return Delivery::given_up(detail),
        };
        let action_id = format!("act-{}", permit.decision());
        let (progress, mut steps) = mpsc::channel(STEPS);
        let (shared, app) = (Arc::clone(&self.shared), plan.app.clone());
        let follow = self.tasks.spawn("rollout-steps", OnFailure::Log, async move {
            while let Some(step) = steps.recv().await {
                shared.on_step(&app, step).await;
            }
        });
        let rollout = Rollout {
            host: &self.host,
            app: &process,
            action_id: &action_id,
            ready: &ready,
            abort: &stop,
            progress: Some(&progress),
        };
        let report = self.carry_out(&rollout, &plan.operation).await;
        drop(progress);
        // Every step, and everything that was seen meanwhile, is reported before the end of the rollout is.
        let _ = follow.await;
        self.catch_up(&plan.app).await;
        if matches!(plan.operation, Operation::Offboard { .. }) && report.is_complete() {
            return self.let_go(&workload.spec, permit.decision(), &report).await;
        }
        match release {
            None => delivery(&report),
            Some(release) => self.settle(&workload, plan, &release, &report).await,
        }
    }

    /// How the app is run by this plan. Of an app from a repository that is a release, which a deployment may have to make first.
    async fn process(
        &self,
        workload: &Workload,
        plan: &Plan,
        stop: &CancellationToken,
    ) -> Result<(AppProcess, Option<Release>), String> {
        let spec = &workload.spec;
        if let Source::Exec { path, args } = &spec.source {
            let argv = std::iter::once(path).chain(args).cloned().collect();
            let cwd = spec.working_dir.as_ref().map(PathBuf::from);
            let limits = protocol::ResourceLimits::default();
            let env = spec.environment.clone();
            let process = AppProcess { argv, env, cwd, limits, ..bare(spec, plan.revision)? };
            return Ok((process, None));
        }
        if matches!(plan.operation, Operation::Offboard { .. }) {
            // Nothing is started by it, so it needs no release.
            return Ok((bare(spec, plan.revision)?, None));
        }
        let rules = &workload.rules;
        let release = match plan.operation {
            Operation::Deploy { revision, .. } => {
                self.deployer.make(spec, revision, rules, stop).await
            }
            Operation::Rollback { to, .. } => self.deployer.kept(spec, to),
            Operation::Restart { .. }
            | Operation::Scale { .. }
            | Operation::Offboard { .. }
            | Operation::Configure { .. }
            | Operation::AdjustThreshold { .. } => self.deployer.running(spec, plan.revision),
        };
        let release = release.map_err(|error| error.to_string())?;
        // A deployment that failed leaves the release before it in force, and with it the specification before it.
        let spec = workload.revisions.get(&release.revision).unwrap_or(spec);
        let launch = self.deployer.launch(spec, &release, &rules.sandbox);
        let Launch { argv, env, cwd, limits, user } = launch.map_err(|error| error.to_string())?;
        let cwd = Some(cwd);
        let process = AppProcess { argv, env, cwd, limits, user, ..bare(spec, release.revision)? };
        Ok((process, Some(release)))
    }

    /// A release becomes the current one when every instance of it was seen to be ready, and not before.
    async fn settle(
        &self,
        workload: &Workload,
        plan: &Plan,
        release: &Release,
        report: &Report,
    ) -> Delivery {
        let Delivery { ok, detail, untouched } = delivery(report);
        let deploys =
            matches!(plan.operation, Operation::Deploy { .. } | Operation::Rollback { .. });
        if ok
            && deploys
            && let Err(error) = self.deployer.settle(&workload.spec, release, &workload.rules).await
        {
            return Delivery::failed(error.to_string());
        }
        Delivery { ok, detail: format!("release {}: {detail}", release.name()), untouched }
    }

    /// Every instance is removed: what is left of the app here is its probe, its socket and its releases.
    async fn let_go(&self, spec: &AppSpec, decision: u64, report: &Report) -> Delivery {
        let grace = Duration::from_millis(spec.stop_grace_ms);
        if let Err(error) = self.host.remove_app(spec.name.as_str(), grace).await {
            return Delivery::failed(chain(&error));
        }
        if let Some(watched) = self.shared.lock().remove(&spec.name) {
            watched.stop.cancel();
        }
        if matches!(spec.source, Source::Repo { .. })
            && let Err(error) = self.deployer.remove(spec, decision).await
        {
            return Delivery::failed(chain(&error));
        }
        Delivery::done(format!("{} instances stopped", report.done.len()))
    }

    /// Waits until what was reported of an app is what its instances are, for a bounded time: the host tells its events in order,
    /// but on a way of its own.
    async fn catch_up(&self, app: &AppName) {
        let mut handled = self.shared.handled.subscribe();
        let deadline = tokio::time::Instant::now() + CATCH_UP;
        while !self.shared.is_level(app, &self.host.views_of(app.as_str())) {
            if tokio::time::timeout_at(deadline, handled.changed()).await.is_err() {
                tracing::warn!(%app, "events of the instances are late");
                break;
            }
        }
    }

    async fn carry_out(&self, rollout: &Rollout<'_>, operation: &Operation) -> Report {
        match operation {
            Operation::Restart { targets } => {
                let targets: Vec<_> =
                    targets.iter().map(|t| (t.slot, t.fence.as_ref().map(shim_fence))).collect();
                rollout.restart(&targets).await
            }
            Operation::Scale { to, .. } => rollout.scale_to(*to).await,
            Operation::Deploy { instances, .. } | Operation::Rollback { instances, .. } => {
                let targets: Vec<_> = self
                    .host
                    .views_of(&rollout.app.name)
                    .into_iter()
                    .filter(|view| view.slot < *instances)
                    .map(|view| (view.slot, view.fence))
                    .collect();
                let mut report = rollout.restart(&targets).await;
                if report.is_complete() {
                    let scaled = rollout.scale_to(*instances).await;
                    report.done.extend(scaled.done);
                    report.failed = scaled.failed;
                    report.aborted = scaled.aborted;
                }
                report
            }
            Operation::Offboard { .. } => rollout.scale_to(0).await,
            Operation::Configure { .. } | Operation::AdjustThreshold { .. } => Report::default(),
        }
    }

    async fn level(&self, workload: &Workload) {
        if let Err(why) = self.watch(workload) {
            tracing::error!(app = %workload.spec.name, why, "health check cannot be asked");
        }
        let app = &workload.spec.name;
        let views = self.host.views_of(app.as_str());
        for slot in 0..workload.desired {
            let view = views.iter().find(|view| view.slot == slot);
            match view {
                Some(InstanceView { running: true, fence: Some(fence), .. }) => {
                    let fence = core_fence(fence);
                    self.shared.started(app, slot, fence, &self.tasks, Some(&self.host)).await;
                }
                other => {
                    let exit = other.and_then(|view| view.last_exit.as_ref());
                    let (fence, exit) = match exit {
                        Some(exit) => (Some(core_fence(&exit.fence)), core_exit(exit)),
                        None => (None, Exit::Unknown),
                    };
                    let what = Observation::Exited { fence, exit, expected: false };
                    self.shared.report(app, slot, what).await;
                }
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<AppName, Watched>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the running instances are those that were reported as running.
    fn is_level(&self, app: &AppName, views: &[InstanceView]) -> bool {
        let apps = self.lock();
        let Some(watched) = apps.get(app) else { return true };
        views.iter().all(|view| {
            let reported = watched.reported.get(&view.slot).map(|(fence, _)| fence);
            let running = view.fence.as_ref().filter(|_| view.running).map(core_fence);
            reported == running.as_ref()
        })
    }

    async fn report(&self, app: &AppName, slot: u32, what: Observation) {
        // The loop has ended, and with it everybody who could care.
        let _ = self.sightings.sighting(Sighting { app: app.clone(), slot, what }).await;
    }

    async fn on_event(
        self: &Arc<Self>,
        event: HostEvent,
        host: Option<&ProcessHost>,
        tasks: &Tasks,
    ) {
        match event {
            HostEvent::Started { app, slot, fence }
            | HostEvent::Adopted { app, slot, fence, running: true } => {
                let Ok(app) = AppName::parse(&app) else { return };
                self.started(&app, slot, core_fence(&fence), tasks, host).await;
            }
            HostEvent::Exited { app, slot, exit } => {
                let Ok(app) = AppName::parse(&app) else { return };
                if let Some(watched) = self.lock().get_mut(&app) {
                    watched.reported.remove(&slot);
                }
                let what = Observation::Exited {
                    fence: Some(core_fence(&exit.fence)),
                    exit: core_exit(&exit),
                    expected: exit.requested,
                };
                self.report(&app, slot, what).await;
            }
            HostEvent::Adopted { running: false, .. } => {}
            HostEvent::ShimLost { app, slot, .. } => {
                tracing::warn!(app, slot, "shim lost; another one takes over");
            }
        }
    }

    /// A process runs. Without a health check it counts as ready after its minimum uptime.
    async fn started(
        self: &Arc<Self>,
        app: &AppName,
        slot: u32,
        fence: Fence,
        tasks: &Tasks,
        host: Option<&ProcessHost>,
    ) {
        let wait = {
            let mut apps = self.lock();
            let watched = apps.get_mut(app);
            watched.and_then(|w| {
                let known = w.reported.insert(slot, (fence.clone(), None));
                let fresh = known.is_none_or(|(old, _)| old != fence);
                (fresh && w.health.is_none()).then_some(w.min_uptime)
            })
        };
        self.report(app, slot, Observation::Started { fence: fence.clone() }).await;
        if let Some(host) = host {
            // Whoever started it again did so after its last exit was on record: that exit need not be kept any longer.
            let last = host.views_of(app.as_str()).into_iter().find(|v| v.slot == slot);
            if let Some(exit) = last.and_then(|view| view.last_exit) {
                host.acknowledge(app.as_str(), slot, exit.n).await;
            }
        }
        let Some(wait) = wait else { return };
        let (shared, app) = (Arc::clone(self), app.clone());
        tasks.spawn("uptime", OnFailure::Log, async move {
            tokio::time::sleep(wait).await;
            shared.set_ready(&app, Some((slot, &fence)), true).await;
        });
    }

    async fn on_step(&self, app: &AppName, step: Progress) {
        match step {
            Progress::Ready(slot, fence) => {
                let fence = core_fence(&fence);
                self.set_ready(app, Some((slot, &fence)), true).await;
            }
            Progress::Removed(slot) => {
                if let Some(watched) = self.lock().get_mut(app) {
                    watched.reported.remove(&slot);
                }
                self.report(app, slot, Observation::Removed).await;
            }
            Progress::Stopping(_) | Progress::Stopped(..) | Progress::Started(..) => {}
        }
    }

    /// Reports readiness where it changed: of one incarnation, or of every running one (a probe of a shared address cannot tell
    /// them apart).
    async fn set_ready(&self, app: &AppName, only: Option<(u32, &Fence)>, ready: bool) {
        let changed: Vec<u32> = {
            let mut apps = self.lock();
            let Some(watched) = apps.get_mut(app) else { return };
            watched
                .reported
                .iter_mut()
                .filter(|(slot, (fence, _))| only.is_none_or(|(s, f)| s == **slot && f == fence))
                .filter(|(_, (_, known))| *known != Some(ready))
                .map(|(slot, (_, known))| {
                    *known = Some(ready);
                    *slot
                })
                .collect()
        };
        let what = if ready { Observation::Ready } else { Observation::Unready };
        for slot in changed {
            self.report(app, slot, what.clone()).await;
        }
    }

    async fn on_sample(&self, sample: Sample) {
        match sample {
            Sample::Probe { app, healthy, .. } => {
                let Ok(app) = AppName::parse(&app) else { return };
                let failures = {
                    let mut apps = self.lock();
                    let Some(watched) = apps.get_mut(&app) else { return };
                    watched.failures = if healthy { 0 } else { watched.failures.saturating_add(1) };
                    watched.failures
                };
                if healthy {
                    self.set_ready(&app, None, true).await;
                } else if failures >= UNREADY_AFTER {
                    self.set_ready(&app, None, false).await;
                }
            }
            Sample::Usage { app, slot, usage, starts, .. } => {
                let Ok(app) = AppName::parse(&app) else { return };
                let of = if usage.of_machine { MACHINE } else { PROCFS };
                let restarts = i64::try_from(starts.saturating_sub(1)).unwrap_or(i64::MAX);
                let seen = [
                    (PROCFS, Metric::CpuUtilization, usage.cpu.map(micro)),
                    (of, Metric::MemoryUtilization, usage.memory.map(micro)),
                    (PROCFS, Metric::RestartCount, Some(restarts.saturating_mul(MICRO))),
                ];
                seen.into_iter().for_each(|seen| self.measure(&app, slot, seen));
            }
        }
    }

    fn measure(&self, app: &AppName, slot: u32, seen: (&str, Metric, Option<i64>)) {
        let (source, metric, Some(micro)) = seen else { return };
        let now = self.clock.now_ms();
        let sample = CoreSample {
            metric,
            micro,
            instance: Some(slot),
            source: source.to_owned(),
            observed_ms: now,
            received_ms: now,
        };
        self.ingest.sample(app, &sample);
    }
}

impl Actuator for ProcessActuator {
    fn kind(&self) -> &'static str {
        "process"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { restart: true, scale: true, deploy: true }
    }

    fn discover<'a>(&'a self, workloads: &'a [Workload]) -> Boxed<'a, ()> {
        Box::pin(async move {
            for workload in workloads {
                self.level(workload).await;
            }
        })
    }

    fn execute<'a>(
        &'a self,
        permit: Permit,
        workload: Workload,
        stop: CancellationToken,
    ) -> Boxed<'a, Delivery> {
        Box::pin(self.run(permit, workload, stop))
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async {
            for watched in self.shared.lock().values() {
                watched.stop.cancel();
            }
        })
    }
}

/// Millionths of a share the kernel's figures give; a share is finite and not negative by construction.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the range first")]
fn micro(share: f64) -> i64 {
    (share.clamp(0.0, 1_000_000.0) * 1e6).round() as i64
}

fn core_fence(fence: &protocol::Fence) -> Fence {
    let protocol::Fence { boot_id, pid, start_time } = fence.clone();
    Fence { boot_id, pid, start_time }
}

fn shim_fence(fence: &Fence) -> protocol::Fence {
    let Fence { boot_id, pid, start_time } = fence.clone();
    protocol::Fence { boot_id, pid, start_time }
}

const fn core_exit(exit: &ExitRecord) -> Exit {
    match exit.status {
        ExitStatus::Code(code) => Exit::Code(code),
        ExitStatus::Signal(signal) => Exit::Signal(signal),
        ExitStatus::Unknown => Exit::Unknown,
    }
}

fn delivery(report: &Report) -> Delivery {
    let done = report.done.len();
    let left = report.untouched.len();
    match &report.failed {
        Some(failure) => {
            Delivery::failed(format!("{}; {done} done before it, {left} left", chain(failure)))
        }
        None if report.aborted => {
            let detail = format!("halted; {done} done before it, {left} left");
            Delivery { ok: false, detail, untouched: report.done.is_empty() }
        }
        None => Delivery::done(format!("{done} instances changed")),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    crate::shim::chain(error)
}

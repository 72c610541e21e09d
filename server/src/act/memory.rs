//! A backend without an outside world: instances are entries in a table.
//!
//! It exists for the conformance suite and for tests of the loop that need a thousand apps; it is never a fallback.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};

use agentd_core::app::AppName;
use agentd_core::permit::Permit;
use agentd_core::plan::{Fence, Operation};
use agentd_core::record::Observation;
use agentd_core::signal::Exit;
use tokio_util::sync::CancellationToken;

use super::{Actuator, Boxed, Capabilities, Delivery, Sighting, Sightings, Workload};

/// The table of instances.
#[derive(Debug)]
pub struct Memory {
    sightings: Sightings,
    table: Mutex<Table>,
    next_pid: AtomicU32,
}

#[derive(Debug, Default)]
struct Table {
    instances: BTreeMap<(AppName, u32), Fence>,
    /// Permits executed, in order: what a test asserts on.
    executed: Vec<u64>,
    /// Apps whose instances die as soon as they start.
    broken: Vec<AppName>,
}

/// Executed permits remembered for tests.
const EXECUTED_MAX: usize = 10_000;

impl Memory {
    /// An empty table that reports to `sightings`.
    #[must_use]
    pub fn new(sightings: Sightings) -> Self {
        Self { sightings, table: Mutex::default(), next_pid: AtomicU32::new(1) }
    }

    /// Kills an instance from outside, as a crash would.
    pub async fn kill(&self, app: &AppName, slot: u32, exit: Exit) {
        let gone = self.with(|table| table.instances.remove(&(app.clone(), slot)));
        if gone.is_some() {
            let what = Observation::Exited { fence: gone, exit, expected: false };
            self.report(app, slot, what).await;
        }
    }

    /// From now on every start of this app ends at once (`true`), or holds again.
    pub fn set_broken(&self, app: &AppName, broken: bool) {
        self.with(|table| {
            table.broken.retain(|other| other != app);
            if broken {
                table.broken.push(app.clone());
            }
        });
    }

    /// Decisions whose permits were executed, in order.
    #[must_use]
    pub fn executed(&self) -> Vec<u64> {
        self.with(|table| table.executed.clone())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        f(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn report(&self, app: &AppName, slot: u32, what: Observation) {
        // The loop is gone, and with it everybody who could care.
        let _ = self.sightings.sighting(Sighting { app: app.clone(), slot, what }).await;
    }

    async fn start(&self, app: &AppName, slot: u32) {
        let pid = self.next_pid.fetch_add(1, Ordering::Relaxed);
        let fence = Fence { boot_id: "memory".to_owned(), pid, start_time: u64::from(pid) };
        let broken = self.with(|table| {
            let broken = table.broken.contains(app);
            if !broken {
                table.instances.insert((app.clone(), slot), fence.clone());
            }
            broken
        });
        self.report(app, slot, Observation::Started { fence: fence.clone() }).await;
        let after = if broken {
            Observation::Exited { fence: Some(fence), exit: Exit::Code(1), expected: false }
        } else {
            Observation::Ready
        };
        self.report(app, slot, after).await;
    }

    async fn stop(&self, app: &AppName, slot: u32) {
        if let Some(fence) = self.with(|table| table.instances.remove(&(app.clone(), slot))) {
            let exit = Exit::Signal(15);
            let what = Observation::Exited { fence: Some(fence), exit, expected: true };
            self.report(app, slot, what).await;
        }
    }

    async fn run(&self, permit: Permit, workload: Workload) -> Delivery {
        let plan = permit.plan();
        let app = &plan.app;
        let fresh = self.with(|table| {
            let fresh = !table.executed.contains(&permit.decision());
            if fresh && table.executed.len() < EXECUTED_MAX {
                table.executed.push(permit.decision());
            }
            fresh
        });
        if !fresh {
            return Delivery::done("carried out before".to_owned());
        }
        match &plan.operation {
            Operation::Restart { targets } => {
                for target in targets {
                    let key = (app.clone(), target.slot);
                    let now = self.with(|table| table.instances.get(&key).cloned());
                    if target.running && now != target.fence {
                        return Delivery::failed("the target changed".to_owned());
                    }
                    self.stop(app, target.slot).await;
                    self.start(app, target.slot).await;
                }
            }
            Operation::Scale { from, to } => {
                for slot in *from..*to {
                    self.start(app, slot).await;
                }
                for slot in (*to..*from).rev() {
                    self.stop(app, slot).await;
                    self.report(app, slot, Observation::Removed).await;
                }
            }
            Operation::Deploy { .. } | Operation::Rollback { .. } => {
                for slot in 0..workload.desired {
                    self.stop(app, slot).await;
                    self.start(app, slot).await;
                }
            }
            Operation::Offboard { instances } => {
                for slot in (0..*instances).rev() {
                    self.stop(app, slot).await;
                    self.report(app, slot, Observation::Removed).await;
                }
            }
            Operation::Configure { .. } | Operation::AdjustThreshold { .. } => {
                return Delivery::failed("not an effect on processes".to_owned());
            }
        }
        Delivery::done("carried out".to_owned())
    }
}

impl Actuator for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { restart: true, scale: true, deploy: true }
    }

    fn discover<'a>(&'a self, workloads: &'a [Workload]) -> Boxed<'a, ()> {
        Box::pin(async move {
            for workload in workloads {
                let app = &workload.spec.name;
                for slot in 0..workload.desired {
                    let key = (app.clone(), slot);
                    match self.with(|table| table.instances.get(&key).cloned()) {
                        Some(fence) => {
                            self.report(app, slot, Observation::Started { fence }).await;
                            self.report(app, slot, Observation::Ready).await;
                        }
                        None => {
                            let exit = Exit::Unknown;
                            let what = Observation::Exited { fence: None, exit, expected: false };
                            self.report(app, slot, what).await;
                        }
                    }
                }
            }
        })
    }

    fn execute<'a>(
        &'a self,
        permit: Permit,
        workload: Workload,
        _stop: CancellationToken,
    ) -> Boxed<'a, Delivery> {
        Box::pin(self.run(permit, workload))
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async {})
    }
}

//! Actuators: the only code that changes the outside world, and only against a [`Permit`].
//!
//! One trait, one backend per module. An actuator executes exactly what the permit's plan says, reports what it saw, and
//! decides nothing: it never retries, and a failure goes back to the loop as a delivery that did not succeed.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use agentd_core::app::{AppName, AppSpec, Millis};
use agentd_core::permit::Permit;
use agentd_core::record::Observation;
use tokio_util::sync::CancellationToken;

use crate::deploy;

pub mod memory;
pub mod process;

/// A boxed future, because the loop holds its actuator as a trait object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something an actuator saw about an instance, on its own or because it caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The app.
    pub app: AppName,
    /// Instance slot.
    pub slot: u32,
    /// What.
    pub what: Observation,
}

/// How the execution of a permit ended. Delivery is not repair: whether the app is well is judged by the core from sightings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Whether the plan was carried out to its end.
    pub ok: bool,
    /// What happened, in one clause.
    pub detail: String,
    /// It was given up before anything was touched: what ran before runs on.
    pub untouched: bool,
}

impl Delivery {
    /// Carried out.
    #[must_use]
    pub const fn done(detail: String) -> Self {
        Self { ok: true, detail, untouched: false }
    }

    /// Begun, and not carried out to its end.
    #[must_use]
    pub const fn failed(detail: String) -> Self {
        Self { ok: false, detail, untouched: false }
    }

    /// Given up before anything was touched.
    #[must_use]
    pub const fn given_up(detail: String) -> Self {
        Self { ok: false, detail, untouched: true }
    }
}

/// Everything an actuator needs to know of one app to run it.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The specification of the revision the plan asks for.
    pub spec: Arc<AppSpec>,
    /// Instances that should run when the plan is done.
    pub desired: u32,
    /// An instance that runs this long counts as ready when there is no health check.
    pub min_uptime_ms: Millis,
    /// An instance that is not ready after this has failed.
    pub ready_deadline_ms: Millis,
    /// Every remembered revision: what is kept of the app may be an older one.
    pub revisions: BTreeMap<u32, Arc<AppSpec>>,
    /// What fetching and building may do.
    pub rules: deploy::Rules,
}

/// What a backend can do, for the gate `capability` and for `agentctl gates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Restart of single instances.
    pub restart: bool,
    /// More and fewer instances.
    pub scale: bool,
    /// Deployment of a revision, and the way back.
    pub deploy: bool,
}

/// A backend that runs applications.
///
/// Everything it sees goes as a [`Sighting`] to the loop it was made with: edges when they happen, and the whole level
/// once after [`Actuator::discover`].
pub trait Actuator: Send + Sync + fmt::Debug {
    /// Name of the backend.
    fn kind(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Takes over what runs already and reports the level of every instance of `workloads`: after a restart of agentd, and
    /// after anything that may have lost a sighting. A wanted instance that does not exist is reported as gone.
    fn discover<'a>(&'a self, workloads: &'a [Workload]) -> Boxed<'a, ()>;

    /// Executes the permitted plan. Idempotent on [`Permit::decision`]; refuses a target whose fence is not the expected one.
    /// Stops at the next safe point when `stop` fires.
    fn execute<'a>(
        &'a self,
        permit: Permit,
        workload: Workload,
        stop: CancellationToken,
    ) -> Boxed<'a, Delivery>;

    /// Releases what the server holds; what it runs goes on running, unless the backend exists only inside this process.
    fn close(&self) -> Boxed<'_, ()>;
}

/// Where an actuator's sightings go: straight into the loop's inbox. A delivery takes the same way, so it never overtakes what was
/// seen before it.
pub type Sightings = crate::agent::Handle;

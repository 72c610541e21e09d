//! Changes to the instances of one app, one at a time: restart, deploy, scale.
//!
//! Stops at the first instance that does not come back, so that at most one instance is lost to a bad change, and between two
//! instances when it is told to. Nothing is retried and nothing undone here: that is decided elsewhere.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{AppProcess, Error, InstanceView, ProcessHost};
use crate::sense::probe::Probe;
use crate::shim::protocol::{ExitRecord, Fence};

/// When an instance that was started counts as ready.
#[derive(Debug, Clone)]
pub struct ReadyCheck {
    /// Asked until it succeeds. Without one, an instance is ready when it has run for `min_uptime`.
    pub probe: Option<Probe>,
    /// Time an instance must run if there is no probe.
    pub min_uptime: Duration,
    /// Time an instance has to become ready.
    pub deadline: Duration,
    /// Pause between two probes.
    pub interval: Duration,
}

impl Default for ReadyCheck {
    fn default() -> Self {
        Self {
            probe: None,
            min_uptime: Duration::from_secs(1),
            deadline: Duration::from_secs(30),
            interval: Duration::from_millis(100),
        }
    }
}

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// TERM was sent, or is about to be.
    Stopping(u32),
    /// The instance is gone; how it ended, if it ran.
    Stopped(u32, Option<ExitRecord>),
    /// The instance runs.
    Started(u32, Fence),
    /// The instance is ready.
    Ready(u32, Fence),
    /// The instance does not exist any more.
    Removed(u32),
}

/// Why a change stopped at an instance.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The host could not do a step.
    #[error("instance {slot}: {step} failed")]
    Host {
        /// The instance.
        slot: u32,
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: Error,
    },
    /// It ended before it was ready.
    #[error("instance {slot} ended before it was ready: {how}")]
    Exited {
        /// The instance.
        slot: u32,
        /// Its exit, in words.
        how: String,
    },
    /// It did not become ready in time.
    #[error("instance {slot} was not ready within {deadline_ms} ms: {why}")]
    NotReady {
        /// The instance.
        slot: u32,
        /// The deadline.
        deadline_ms: u64,
        /// What the last probe said.
        why: String,
    },
}

impl Failure {
    fn host(slot: u32, step: &'static str) -> impl FnOnce(Error) -> Self {
        move |source| Self::Host { slot, step, source }
    }

    /// The instance it stopped at.
    #[must_use]
    pub fn slot(&self) -> u32 {
        match self {
            Self::Host { slot, .. } | Self::Exited { slot, .. } | Self::NotReady { slot, .. } => {
                *slot
            }
        }
    }
}

/// What came of a change.
#[derive(Debug, Default)]
pub struct Report {
    /// Instances that were changed and are as wanted, in order. No fence: removed.
    pub done: Vec<(u32, Option<Fence>)>,
    /// Where it stopped and why.
    pub failed: Option<Failure>,
    /// Whether it was told to stop between two instances.
    pub aborted: bool,
    /// Instances it did not get to.
    pub untouched: Vec<u32>,
}

impl Report {
    /// Whether everything was done.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed.is_none() && !self.aborted
    }
}

/// A change in progress.
#[derive(Debug)]
pub struct Rollout<'a> {
    /// The instances.
    pub host: &'a ProcessHost,
    /// How the app is to run.
    pub app: &'a AppProcess,
    /// Identity of the attempt; running it twice does everything once.
    pub action_id: &'a str,
    /// When an instance is ready.
    pub ready: &'a ReadyCheck,
    /// Looked at before each instance.
    pub abort: &'a CancellationToken,
    /// Hears of every step; a full queue loses steps, never delays the change.
    pub progress: Option<&'a mpsc::Sender<Progress>>,
}

impl Rollout<'_> {
    /// Restarts the given instances in this order, each only if its latest incarnation is still the given one. One that is down
    /// is only started. With a new revision in `app` this is a deployment.
    pub async fn restart(&self, targets: &[(u32, Option<Fence>)]) -> Report {
        let slots: Vec<u32> = targets.iter().map(|(slot, _)| *slot).collect();
        let mut report = Report::default();
        for (done, (slot, expect)) in targets.iter().enumerate() {
            report.untouched = slots.get(done..).unwrap_or_default().to_vec();
            if self.abort.is_cancelled() {
                report.aborted = true;
                return report;
            }
            report.untouched.retain(|left| left != slot);
            match self.restart_one(*slot, expect.clone()).await {
                Ok(fence) => report.done.push((*slot, Some(fence))),
                Err(failure) => {
                    report.failed = Some(failure);
                    return report;
                }
            }
        }
        report
    }

    /// Adds instances above the highest one, or removes from the highest one down, until there are `wanted`.
    pub async fn scale_to(&self, wanted: u32) -> Report {
        let mut report = Report::default();
        loop {
            let slots: Vec<u32> =
                self.host.views_of(&self.app.name).iter().map(|view| view.slot).collect();
            let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
            if count == wanted {
                return report;
            }
            if self.abort.is_cancelled() {
                report.aborted = true;
                return report;
            }
            let step = if count < wanted {
                let slot = (0..).find(|slot| !slots.contains(slot)).unwrap_or(u32::MAX);
                self.bring_up(slot, None).await.map(|fence| (slot, Some(fence)))
            } else {
                let slot = slots.last().copied().unwrap_or_default();
                self.take_down(slot).await.map(|()| (slot, None))
            };
            match step {
                Ok(done) => report.done.push(done),
                Err(failure) => {
                    report.failed = Some(failure);
                    return report;
                }
            }
        }
    }

    async fn take_down(&self, slot: u32) -> Result<(), Failure> {
        self.say(Progress::Stopping(slot));
        let removed = self.host.remove(&self.app.name, slot, self.app.grace).await;
        removed.map_err(Failure::host(slot, "removing"))?;
        self.say(Progress::Removed(slot));
        Ok(())
    }

    async fn restart_one(&self, slot: u32, expect: Option<Fence>) -> Result<Fence, Failure> {
        let view = self.host.ensure(self.app, slot).await.map_err(Failure::host(slot, "setup"))?;
        let ours = view.action_id.as_deref() == Some(self.start_id(slot).as_str());
        if !ours && view.running {
            self.say(Progress::Stopping(slot));
            let id = format!("{}/{slot}/stop", self.action_id);
            let stopped =
                self.host.stop(&self.app.name, slot, &id, expect.clone(), self.app.grace).await;
            let exit = stopped.map_err(Failure::host(slot, "stopping"))?;
            self.say(Progress::Stopped(slot, exit));
        }
        self.start_and_wait(slot, expect).await
    }

    /// Starts an instance that may not exist yet and waits until it is ready.
    ///
    /// # Errors
    /// Where and why it did not come up.
    pub async fn bring_up(&self, slot: u32, expect: Option<Fence>) -> Result<Fence, Failure> {
        self.host.ensure(self.app, slot).await.map_err(Failure::host(slot, "setup"))?;
        self.start_and_wait(slot, expect).await
    }

    fn start_id(&self, slot: u32) -> String {
        format!("{}/{slot}/start", self.action_id)
    }

    async fn start_and_wait(&self, slot: u32, expect: Option<Fence>) -> Result<Fence, Failure> {
        let deadline = Instant::now() + self.ready.deadline;
        let id = self.start_id(slot);
        let started = self.host.start(&self.app.name, slot, &id, expect).await;
        let fence = started.map_err(Failure::host(slot, "starting"))?;
        self.say(Progress::Started(slot, fence.clone()));
        let view =
            self.host.watch(&self.app.name, slot).map_err(Failure::host(slot, "watching"))?;
        tokio::select! {
            biased;
            failure = ended(slot, &fence, view) => return Err(failure),
            ready = self.wait_ready(slot, deadline) => ready?,
        }
        self.say(Progress::Ready(slot, fence.clone()));
        Ok(fence)
    }

    async fn wait_ready(&self, slot: u32, deadline: Instant) -> Result<(), Failure> {
        let Some(probe) = &self.ready.probe else {
            sleep(self.ready.min_uptime).await;
            return Ok(());
        };
        let mut why = "no answer".to_owned();
        loop {
            let pause = (Instant::now() + self.ready.interval).min(deadline);
            match timeout_at(deadline, probe.check()).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => why = crate::shim::chain(&error),
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                let deadline_ms = super::instance::millis(self.ready.deadline);
                return Err(Failure::NotReady { slot, deadline_ms, why });
            }
            sleep_until(pause).await;
        }
    }

    fn say(&self, step: Progress) {
        if let Some(progress) = self.progress {
            let _ = progress.try_send(step);
        }
    }
}

/// Waits for the end of an incarnation.
async fn ended(slot: u32, fence: &Fence, mut view: watch::Receiver<InstanceView>) -> Failure {
    let over = |view: &InstanceView| !view.running || view.fence.as_ref() != Some(fence);
    let how = match view.wait_for(over).await {
        Ok(view) => match &view.last_exit {
            Some(exit) if exit.fence == *fence => exit.status.to_string(),
            _ => "replaced by another incarnation".to_owned(),
        },
        Err(_) => "the instance was removed".to_owned(),
    };
    Failure::Exited { slot, how }
}

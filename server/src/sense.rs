//! agentd's own senses: probes from outside, and the kernel's figures about the processes it runs.
//!
//! What they find leaves as [`Sample`]s on a bounded channel; a full channel loses samples, counted, never order or memory. What a
//! sample means is decided elsewhere.

pub mod cgroup;
pub mod probe;
pub mod process;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::act::process::ProcessHost;
use crate::failpoint;
use crate::shim::protocol::Fence;
use probe::Probe;
use process::{Meter, Usage};

/// Something agentd saw itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// A probe was answered or not.
    Probe {
        /// The app.
        app: String,
        /// The instance, if the probe can tell one from the others.
        slot: Option<u32>,
        /// Whether the answer was good.
        healthy: bool,
        /// Time to the answer or to giving up, in microseconds.
        elapsed_us: u64,
        /// Why it is not healthy; empty if it is.
        why: String,
    },
    /// What an instance uses.
    Usage {
        /// The app.
        app: String,
        /// The instance.
        slot: u32,
        /// The incarnation that was measured.
        fence: Fence,
        /// The figures.
        usage: Usage,
        /// Starts of this instance since agentd runs.
        starts: u64,
    },
}

/// Where samples go.
#[derive(Debug, Clone)]
pub struct Samples {
    sender: mpsc::Sender<Sample>,
    lost: Arc<AtomicU64>,
}

impl Samples {
    /// A channel for `limit` samples.
    #[must_use]
    pub fn channel(limit: usize) -> (Self, mpsc::Receiver<Sample>) {
        let (sender, receiver) = mpsc::channel(limit.max(1));
        (Self { sender, lost: Arc::default() }, receiver)
    }

    /// Samples that did not fit.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn send(&self, sample: Sample) {
        if self.sender.try_send(sample).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// When a probe runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Time between two probes; each one is moved by up to a tenth, so that a thousand apps are not probed at once.
    pub period: Duration,
    /// Time for an answer; less than the period.
    pub timeout: Duration,
}

impl Schedule {
    /// A schedule whose timeout is below its period.
    #[must_use]
    pub fn new(period: Duration, timeout: Duration) -> Self {
        let period = period.max(Duration::from_millis(10));
        Self { period, timeout: timeout.min(period * 9 / 10) }
    }
}

/// Probes one app until told to stop.
pub async fn watch_app(
    app: String,
    slot: Option<u32>,
    probe: Probe,
    schedule: Schedule,
    samples: Samples,
    stop: CancellationToken,
) {
    let mut jitter = Jitter::new(&app);
    // Spread from the first probe on.
    let mut pause = jitter.below(schedule.period / 10);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        let began = Instant::now();
        let outcome = timeout(schedule.timeout, probe.check()).await;
        let elapsed = began.elapsed();
        let why = match outcome {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => crate::shim::chain(&error),
            Err(_) => format!("no answer within {} ms", schedule.timeout.as_millis()),
        };
        samples.send(Sample::Probe {
            app: app.clone(),
            slot,
            healthy: why.is_empty(),
            elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            why,
        });
        let tenth = schedule.period / 10;
        pause = (schedule.period - tenth / 2 + jitter.below(tenth)).saturating_sub(elapsed);
    }
}

/// Measures every running instance of `host` once per `period` until told to stop.
pub async fn watch_processes(
    host: ProcessHost,
    period: Duration,
    samples: Samples,
    stop: CancellationToken,
) {
    let mut ticks = interval(period.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut meters: BTreeMap<(String, u32), Meter> = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let mut current = BTreeMap::new();
        for view in host.views() {
            let Some(fence) = view.fence.filter(|_| view.running) else { continue };
            let key = (view.app, view.slot);
            let known = meters.remove(&key).filter(|meter| meter.fence() == &fence);
            let meter =
                known.or_else(|| Meter::open(&fence, view.cgroup.as_deref(), view.shim_pid));
            let Some(mut meter) = meter else { continue };
            // Planted: it cannot measure what its apps use, and knows only what it is told.
            if failpoint::bug("sense.blind") {
                continue;
            }
            if let Some(usage) = meter.read() {
                let (app, slot) = key.clone();
                samples.send(Sample::Usage { app, slot, fence, usage, starts: view.starts });
                current.insert(key, meter);
            }
        }
        meters = current;
    }
}

/// Numbers that spread probes out; neither secret nor part of any decision.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    fn new(seed: &str) -> Self {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(seed.bytes().fold(0xcbf2_9ce4_8422_2325, mix) | 1)
    }

    /// Marsaglia's xorshift64.
    fn below(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.0.checked_rem(limit).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;

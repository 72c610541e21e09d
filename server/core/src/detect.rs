//! Findings: what is wrong with an app, by detectors that are pure functions of state, policy and reading.
//!
//! One detector per file, one visible list: [`DETECTORS`].

use serde::{Deserialize, Serialize};

use crate::app::Millis;
use crate::policy::Policy;
use crate::signal::{Metric, Reading};
use crate::state::AppState;
use crate::verdict::Fact;

pub mod alarm;
pub(crate) mod anomaly;
mod baseline;
mod burn;
mod contradiction;
mod cpu;
mod crash;
mod crash_loop;
mod deployment;
mod error_rate;
mod error_sum;
mod flapping;
mod idle;
mod latency;
mod memory;
mod memory_growth;
mod moments;
mod samples;
pub mod signature;
mod silence;
mod threshold;
mod unresponsive;

pub use alarm::{Alarm, Deviation, Test};
pub use baseline::{Baseline, Seen};
pub use burn::BurnRate;
pub use error_sum::ErrorSum;
pub use idle::is_idle;
pub use signature::Signature;
pub(crate) use threshold::{claim_of, fresh_run, is_fresh, is_fresh_value, threshold_of};

/// Every detector, in the order of [`FindingKind::ALL`]; an anomaly is a suspicion and never more.
pub const DETECTORS: &[Detector] = &[
    contradiction::DETECTOR,
    deployment::DETECTOR,
    crash_loop::DETECTOR,
    crash::DETECTOR,
    unresponsive::DETECTOR,
    error_rate::DETECTOR,
    cpu::DETECTOR,
    memory::DETECTOR,
    latency::DETECTOR,
    memory_growth::DETECTOR,
    flapping::DETECTOR,
    silence::DETECTOR,
];

/// The thresholds on metrics: the detectors that can suspect before they are sure.
const WATCHES: [&threshold::Watch; 4] =
    [&error_rate::WATCH, &cpu::WATCH, &memory::WATCH, &latency::WATCH];

/// The kinds of findings, most urgent first: the first one of an app names its incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FindingKind {
    /// Sources contradict each other; nothing else that rests on signals can be believed.
    Contradiction,
    /// The last deployment did not become healthy.
    DeploymentFailed,
    /// Instances exit again and again.
    CrashLoop,
    /// An instance that should run is gone.
    Crash,
    /// An instance runs but does not answer its health check.
    Unresponsive,
    /// Too many requests fail.
    ErrorRate,
    /// The CPU is saturated.
    CpuOverload,
    /// The memory is nearly full.
    MemoryOverload,
    /// Requests take too long.
    Latency,
    /// Memory grows steadily.
    MemoryGrowth,
    /// A metric is not as it used to be.
    Anomaly,
    /// The condition keeps changing.
    Flapping,
    /// Nobody reports any more. Stale is never healthy.
    Silence,
}

impl FindingKind {
    /// Every kind, most urgent first.
    pub const ALL: [Self; 13] = [
        Self::Contradiction,
        Self::DeploymentFailed,
        Self::CrashLoop,
        Self::Crash,
        Self::Unresponsive,
        Self::ErrorRate,
        Self::CpuOverload,
        Self::MemoryOverload,
        Self::Latency,
        Self::MemoryGrowth,
        Self::Anomaly,
        Self::Flapping,
        Self::Silence,
    ];

    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Contradiction => "CONTRADICTION",
            Self::DeploymentFailed => "DEPLOYMENT_FAILED",
            Self::CrashLoop => "CRASH_LOOP",
            Self::Crash => "CRASH",
            Self::Unresponsive => "UNRESPONSIVE",
            Self::ErrorRate => "ERROR_RATE",
            Self::CpuOverload => "CPU_OVERLOAD",
            Self::MemoryOverload => "MEMORY_OVERLOAD",
            Self::Latency => "LATENCY",
            Self::MemoryGrowth => "MEMORY_GROWTH",
            Self::Anomaly => "ANOMALY",
            Self::Flapping => "FLAPPING",
            Self::Silence => "SILENCE",
        }
    }

    /// About what is known rather than about the app: no action clears it, so no outcome is judged by it.
    #[must_use]
    pub const fn is_ambient(self) -> bool {
        matches!(self, Self::Contradiction | Self::Anomaly | Self::Flapping | Self::Silence)
    }

    /// Hard facts are observed by the supervisor itself and need no telemetry to be believed.
    #[must_use]
    pub const fn is_hard(self) -> bool {
        matches!(self, Self::Crash | Self::CrashLoop | Self::DeploymentFailed)
    }
}

/// One thing that is wrong, with what was seen and the limit it crossed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// The metric it rests on, if it rests on one.
    pub metric: Option<Metric>,
    /// What was seen.
    pub value: Fact,
    /// What it was compared with.
    pub limit: Fact,
    /// How persistent it is, in permille: the share of the looked-at ticks that show it (1000 for hard facts).
    pub persistence: u32,
    /// One short clause for humans, from fixed words and numbers only.
    pub detail: String,
}

/// What a detector sees. `state.open` tells it whether its finding is open already (then the leave threshold counts).
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The app.
    pub app: &'a AppState,
    /// The rules.
    pub policy: &'a Policy,
    /// The signals.
    pub reading: &'a Reading,
    /// The time.
    pub now: Millis,
}

/// One detector: data and a function, no trait object.
#[derive(Debug, Clone, Copy)]
pub struct Detector {
    /// The kind it finds.
    pub kind: FindingKind,
    /// One line for `agentctl`.
    pub summary: &'static str,
    /// Looks; `Some` while the finding stands.
    pub detect: fn(&View<'_>) -> Option<Finding>,
}

/// Runs every detector: what is wrong, most urgent first. Allocates nothing when nothing is.
#[must_use]
pub fn detect(view: &View<'_>) -> Vec<Finding> {
    DETECTORS.iter().filter_map(|detector| (detector.detect)(view)).collect()
}

/// What looks wrong and has not lasted long enough to be a finding: some of the last ticks are over a threshold, but fewer than
/// its rule asks for. Nothing is ever done about a suspicion, because its confidence is below every minimum a policy can set; the
/// decision to do nothing is recorded, and humans are told when the error budget runs out. A suspicion ends as a finding does, when enough ticks in a row are below the leave value.
#[must_use]
pub fn suspicions(view: &View<'_>) -> Vec<Finding> {
    let watched = WATCHES.iter().filter_map(|watch| watch.suspect(view));
    watched.chain(anomaly::suspect(view)).collect()
}

/// Whether nothing is wrong, suspected, open, in flight or to be gained: such a reading need not be decided on. Allocates nothing.
#[must_use]
pub fn is_quiet(view: &View<'_>) -> bool {
    view.app.open.is_empty()
        && view.app.attempt.is_none()
        && view.app.ready() >= view.app.desired
        && DETECTORS.iter().all(|detector| (detector.detect)(view).is_none())
        && WATCHES.iter().all(|watch| watch.suspect(view).is_none())
        && view.reading.alarms.is_empty()
        && !is_idle(view)
}

/// When time alone can make a quiet reading one that is not, apart from what it says ending to count; `None` if it cannot. All that
/// the other detectors look at only becomes less with time.
#[must_use]
pub fn quiet_until(view: &View<'_>) -> Option<Millis> {
    silence::begins(view)
}

#[cfg(test)]
pub(crate) mod story;
#[cfg(test)]
mod tests;

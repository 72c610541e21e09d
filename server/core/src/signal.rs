//! Signals as monitors claim them, and the validated, fixed-point samples made of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::app::{AppName, Millis};
use crate::detect::Alarm;

mod believe;
mod sequence;
mod validate;

pub use believe::{Believed, Claims, Spoken, Values};
pub use sequence::{Arrival, BadSignals, Place, Sequences};
pub(crate) use validate::CONDITIONS;
pub use validate::{Accepted, Code, Rejection, validate};

/// Millionths: the fixed-point scale of every metric (ratio 1.0 = 1,000,000; one second = 1,000,000).
pub const MICRO: i64 = 1_000_000;

/// A metric the detectors know. Units follow the OpenTelemetry semantic conventions, times one million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of the CPU limit in use, unit `1`.
    CpuUtilization,
    /// Share of the memory limit in use, unit `1`.
    MemoryUtilization,
    /// Median response time, unit `s`.
    LatencyP50,
    /// 99th percentile of the response time, unit `s`.
    LatencyP99,
    /// Failed share of requests, unit `1`.
    ErrorRatio,
    /// Requests per second, unit `{request}/s`.
    RequestRate,
    /// Restarts so far, unit `{restart}`.
    RestartCount,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 7] = [
        Self::CpuUtilization,
        Self::MemoryUtilization,
        Self::LatencyP50,
        Self::LatencyP99,
        Self::ErrorRatio,
        Self::RequestRate,
        Self::RestartCount,
    ];

    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CpuUtilization => "cpu_utilization",
            Self::MemoryUtilization => "memory_utilization",
            Self::LatencyP50 => "latency_p50",
            Self::LatencyP99 => "latency_p99",
            Self::ErrorRatio => "error_ratio",
            Self::RequestRate => "request_rate",
            Self::RestartCount => "restart_count",
        }
    }

    /// Largest believable value in millionths. A ratio of a limit may exceed 1 for a moment (burst), never 100.
    #[must_use]
    pub const fn max_micro(self) -> i64 {
        match self {
            Self::CpuUtilization => 1_024 * MICRO,
            Self::MemoryUtilization => 100 * MICRO,
            Self::ErrorRatio => MICRO,
            Self::LatencyP50 | Self::LatencyP99 => 86_400 * MICRO,
            Self::RequestRate | Self::RestartCount => 1_000_000_000 * MICRO,
        }
    }
}

/// Who reported something: a monitor's name, or `sense/...` for the server's own probes.
pub type SourceId = String;

/// The server's own measure of a share of the whole machine, where it knows of no limit that the app has.
pub const MACHINE: &str = "sense/machine";

/// Whether the server measured it itself: no monitor may call itself that.
#[must_use]
pub fn is_own(source: &str) -> bool {
    source.starts_with("sense/")
}

/// A signal as it was claimed, before anything is believed.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// Name of the app it speaks of.
    pub app: String,
    /// Instance slot, if it speaks of one.
    pub instance: Option<u32>,
    /// Time of the measurement as the monitor's clock tells it.
    pub observed_ms: Millis,
    /// Values in natural units (ratio, seconds, requests per second).
    pub metrics: BTreeMap<Metric, f64>,
    /// Custom booleans such as `cpu_high`.
    pub conditions: BTreeMap<String, bool>,
    /// The process ended.
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It is gone; nobody could tell how.
    Unknown,
}

impl Exit {
    /// An end that needs no recovery: exit code 0 of a process that was asked to stop is not a crash, but an app that should
    /// run and is gone is one, whatever it returned.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("gone"),
        }
    }
}

/// One believed value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// What was measured.
    pub metric: Metric,
    /// In millionths of the metric's unit; never negative.
    pub micro: i64,
    /// Instance slot, if it speaks of one.
    pub instance: Option<u32>,
    /// Who said so.
    pub source: SourceId,
    /// When it was measured, by the monitor's clock.
    pub observed_ms: Millis,
    /// When it arrived, by ours.
    pub received_ms: Millis,
}

/// Latest value of one metric from one source, over all instances it reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// In millionths: mean over the source's fresh instances.
    pub micro: i64,
    /// Receive time of the newest sample in it.
    pub at: Millis,
}

/// What is known of one metric of one app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// Fresh value of each source.
    pub sources: BTreeMap<SourceId, Point>,
    /// The last closed ticks, oldest first, at most [`Series::RECENT`]: the worst of the sources at each.
    pub recent: Vec<Point>,
}

impl Series {
    /// Ticks remembered per metric; the longest `n` of a "k of n" rule.
    pub const RECENT: usize = 12;
}

/// A custom boolean with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The claim.
    pub value: bool,
    /// Who said so.
    pub source: SourceId,
    /// Receive time.
    pub at: Millis,
}

/// Everything known of one app's signals at one moment: the window folded. This is what a decision looks at, and it is
/// embedded in the record of the decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The app.
    pub app: AppName,
    /// When the window was closed.
    pub at: Millis,
    /// Receive time of the newest signal of any kind from any source; `None` when there never was one.
    pub last_seen: Option<Millis>,
    /// Metrics with at least one sample in the window.
    pub metrics: BTreeMap<Metric, Series>,
    /// Fresh custom booleans by name.
    pub conditions: BTreeMap<String, Condition>,
    /// Metrics that were reported and are not any more, and since when nothing that was said of them counts. That a monitor is
    /// lost says nothing about its app: this is what decisions see of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stale: BTreeMap<Metric, Millis>,
    /// What the metrics' own past says against them, while it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
}

impl Reading {
    /// A reading in which nothing was heard.
    #[must_use]
    pub fn silent(app: AppName, at: Millis, last_seen: Option<Millis>) -> Self {
        let (metrics, conditions, stale) = Default::default();
        Self { app, at, last_seen, metrics, conditions, stale, alarms: Vec::new() }
    }

    /// Whether a metric went stale that was not in `before`, the reading before this one.
    #[must_use]
    pub fn has_expired_since(&self, before: Option<&Self>) -> bool {
        let known = |metric| before.is_some_and(|before| before.stale.contains_key(metric));
        self.stale.keys().any(|metric| !known(metric))
    }
}

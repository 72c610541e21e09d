//! What a person asks for, unbelieved, and what is wrong with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::app::{Millis, Probe};
use crate::policy::Window;

/// Most bytes of a refused value that are repeated.
const ECHO_BYTES_MAX: usize = 200;

/// What a person asks to have onboarded, as it comes from outside. Nothing in it is believed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OnboardRequest {
    /// Name of the app.
    pub name: String,
    /// Environment: `dev`, `stage` or `prod`.
    pub env: String,
    /// Runtime, such as `nodejs`.
    pub runtime: String,
    /// Where the thing to run comes from.
    pub source: RequestedSource,
    /// Working directory of the process.
    pub working_dir: Option<String>,
    /// Fewest instances.
    pub min_instances: Option<u32>,
    /// Most instances.
    pub max_instances: Option<u32>,
    /// Instances to start with.
    pub desired_instances: Option<u32>,
    /// `ip:port` of the socket to hold and hand over.
    pub listen: Option<String>,
    /// Readiness question.
    pub health: Option<RequestedHealth>,
    /// Environment variables of the process.
    pub environment: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Metric name -> (enter, leave) in the metric's natural unit (ratio, seconds).
    pub thresholds: BTreeMap<String, (f64, f64)>,
    /// Maintenance windows of this app.
    pub windows: Vec<RequestedWindow>,
    /// Highest autonomy: `OFF`, `SHADOW`, `PROPOSE` or `AUTO`.
    pub autonomy: Option<String>,
    /// Time between TERM and KILL.
    pub stop_grace_ms: Option<Millis>,
}

/// A source as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RequestedSource {
    /// None was given.
    #[default]
    None,
    /// Something already built.
    Exec {
        /// Path of the program.
        path: String,
        /// Its arguments, without the program itself.
        args: Vec<String>,
    },
    /// A git repository.
    Repo {
        /// URL.
        url: String,
        /// Branch, tag or commit.
        revision: Option<String>,
    },
}

/// A maintenance window as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestedWindow {
    /// Shown in refusals.
    pub name: String,
    /// RFC 3339 with an explicit offset.
    pub start: String,
    /// RFC 3339 with an explicit offset.
    pub end: Option<String>,
    /// Repeats every so many milliseconds; once when absent.
    pub every_ms: Option<Millis>,
}

impl From<RequestedWindow> for Window {
    fn from(asked: RequestedWindow) -> Self {
        let RequestedWindow { name, start, end, every_ms } = asked;
        Self { name, start, end, every_ms, apps: Vec::new() }
    }
}

/// A readiness question as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedHealth {
    /// The question. Its texts are as unbelieved as everything else here; an empty address, or an HTTP URL that is only a path
    /// from `/`, means the app's own `listen` address.
    pub probe: Probe,
    /// Time between two questions.
    pub interval_ms: Option<Millis>,
    /// Time for an answer.
    pub timeout_ms: Option<Millis>,
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which field.
    pub field: String,
    /// Stable code in upper snake case.
    pub reason: String,
    /// What it was, cut to 200 bytes; never a secret.
    pub value: String,
    /// The rule that is broken.
    pub rule: String,
    /// What to do.
    pub fix: String,
}

impl Violation {
    /// A violation; the value is cut to what is repeated.
    #[must_use]
    pub fn new(field: &str, reason: &str, value: &str, rule: &str, fix: &str) -> Self {
        Self {
            field: field.to_owned(),
            reason: reason.to_owned(),
            value: cut(value),
            rule: rule.to_owned(),
            fix: fix.to_owned(),
        }
    }

    /// The same with every text cut to what a record may carry.
    #[must_use]
    pub fn clipped(&self) -> Self {
        Self::new(
            &cut(&self.field),
            &cut(&self.reason),
            &self.value,
            &cut(&self.rule),
            &cut(&self.fix),
        )
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} `{}`: {}; {}", self.field, self.value, self.rule, self.fix)
    }
}

fn cut(text: &str) -> String {
    if text.len() <= ECHO_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=ECHO_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", text.get(..end).unwrap_or_default())
}

//! What is counted for Prometheus. Counts of what happened are a fold of the durable records, so they cannot disagree with the
//! proof log; levels are read from the loop when somebody asks.
//!
//! Every label has a limit: names of apps beyond [`APPS_MAX`] share the label `_other`, and how often that happened is counted.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agentd_core::action::Action;
use agentd_core::app::{AppName, Env};
use agentd_core::record::{Body, Concluded, Decided, Record};
use agentd_core::state::Outcome;
use agentd_core::verdict::{Effect, Ruling};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

mod lag;
mod scrape;

pub use lag::Lags;
pub use scrape::{Outside, Snapshot};

/// Begin of every name.
pub const PREFIX: &str = "agentctl";
/// Apps with a label of their own at the same time.
pub const APPS_MAX: usize = 200;
/// Label of all apps beyond.
pub const OTHER: &str = "_other";
/// Labels of a ruling.
const RULINGS: [&str; 3] = ["permitted", "held", "refused"];
/// What [`Metrics::render`] answers with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// The metrics of one server.
pub struct Metrics {
    env: Env,
    registry: Registry,
    apps: Mutex<BTreeSet<AppName>>,
    decisions: Counters<3>,
    repeated: Counter,
    verdicts: Counters<2>,
    refusals: Counters<1>,
    outcomes: Counters<2>,
    durations: Histograms<2>,
    findings: Counters<1>,
    escalations: Counter,
    entries: Counters<1>,
    turns: Histogram,
    appends: Histogram,
    lag: lag::Lag,
    streams_dropped: Counters<1>,
    overflow: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("env", &self.env).finish_non_exhaustive()
    }
}

/// From a millisecond to a minute.
fn short() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

/// From a tenth of a second to an hour.
fn long() -> Histogram {
    Histogram::new([0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0])
}

impl Metrics {
    /// Nothing counted yet, for the server of `env`.
    #[must_use]
    pub fn new(env: Env) -> Self {
        let mut made = Self {
            env,
            registry: registry(env),
            apps: Mutex::default(),
            decisions: Family::default(),
            repeated: Counter::default(),
            verdicts: Family::default(),
            refusals: Family::default(),
            outcomes: Family::default(),
            durations: Family::new_with_constructor(long as fn() -> Histogram),
            findings: Family::default(),
            escalations: Counter::default(),
            entries: Family::default(),
            turns: short(),
            appends: short(),
            lag: lag::Lag::default(),
            streams_dropped: Family::default(),
            overflow: Counter::default(),
        };
        made.register();
        made
    }

    /// The names and what they mean.
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register(
            "decisions",
            "Decisions by ruling: permitted, held, refused",
            self.decisions.clone(),
        );
        r.register(
            "decisions_repeated",
            "Decisions equal to the one before, counted instead of recorded",
            self.repeated.clone(),
        );
        r.register(
            "gate_verdicts",
            "Verdicts of each gate: pass, hold, refuse",
            self.verdicts.clone(),
        );
        r.register("refusals", "Decisions held or refused, by reason code", self.refusals.clone());
        r.register(
            "outcomes",
            "How actions ended: verified, failed, inconclusive",
            self.outcomes.clone(),
        );
        r.register(
            "action_duration_seconds",
            "From the finding (or the request) to the outcome of the action",
            self.durations.clone(),
        );
        r.register("findings", "Findings that opened, by kind", self.findings.clone());
        r.register("escalations", "Times the agent asked for a human", self.escalations.clone());
        r.register("proof_entries", "Durable records, by event name", self.entries.clone());
        r.register(
            "loop_duration_seconds",
            "Time of one turn of the loop that had something to do",
            self.turns.clone(),
        );
        r.register(
            "proof_append_seconds",
            "Time to make a batch of records durable",
            self.appends.clone(),
        );
        r.register(
            "signal_lag_seconds",
            "From the observation of a signal to its arrival",
            self.lag.clone(),
        );
        r.register(
            "stream_dropped",
            "Streams ended because their reader took nothing; each can be resumed",
            self.streams_dropped.clone(),
        );
        r.register(
            "label_overflow",
            "Observations of apps beyond the limit of labels, counted as _other",
            self.overflow.clone(),
        );
    }

    /// Takes in a record that is durable.
    pub fn record(&self, record: &Record) {
        let event = record.body.event_name();
        self.entries.get_or_create(&[("event", event.into())]).inc();
        match &record.body {
            Body::Decided(decided) => self.decided(record.app.as_ref(), decided),
            Body::Concluded(concluded) => self.concluded(concluded),
            Body::Raised(finding) => {
                let kind = finding.kind.as_str();
                self.findings.get_or_create(&[("kind", kind.into())]).inc();
            }
            Body::Escalated { .. } => {
                self.escalations.inc();
            }
            Body::Repeated { count, .. } => {
                self.repeated.inc_by(*count);
            }
            Body::Offboarded { .. } => self.forget(record.app.as_ref()),
            _ => {}
        }
    }

    fn decided(&self, app: Option<&AppName>, decided: &Decided) {
        let action = decided.proposal.action.as_str();
        let [permitted, held, refused] = RULINGS;
        let (outcome, reason) = match &decided.ruling {
            Ruling::Permitted => (permitted, None),
            Ruling::Held { reason } => (held, Some(*reason)),
            Ruling::Refused { reason, .. } => (refused, Some(*reason)),
        };
        let labels =
            [("app", self.app(app)), ("action", action.into()), ("outcome", outcome.into())];
        self.decisions.get_or_create(&labels).inc();
        if let Some(reason) = reason {
            self.refusals.get_or_create(&[("reason", reason.as_str().into())]).inc();
        }
        for verdict in &decided.verdicts {
            let said = match verdict.effect {
                Effect::Pass => "pass",
                Effect::Hold => "hold",
                Effect::Refuse => "refuse",
            };
            let gate = verdict.gate.clone();
            self.verdicts.get_or_create(&[("gate", gate), ("verdict", said.into())]).inc();
        }
    }

    fn concluded(&self, concluded: &Concluded) {
        let outcome = match concluded.outcome {
            Outcome::Verified => "verified",
            Outcome::Failed => "failed",
            Outcome::Inconclusive => "inconclusive",
        };
        let labels = [("action", concluded.action.as_str().into()), ("outcome", outcome.into())];
        self.outcomes.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(seconds(concluded.elapsed_ms));
    }

    /// Takes in how long a turn of the loop took.
    pub fn turn(&self, took: Duration) {
        self.turns.observe(took.as_secs_f64());
    }

    /// Takes in how long a batch took to become durable.
    pub fn append(&self, took: Duration) {
        self.appends.observe(took.as_secs_f64());
    }

    /// Takes in how old a signal was when it arrived.
    pub fn signal(&self, lag_ms: u64) {
        let mut lags = Lags::default();
        lags.add(lag_ms);
        self.signals(&lags);
    }

    /// Takes in how old many signals were when they arrived.
    pub fn signals(&self, lags: &Lags) {
        self.lag.add(lags);
    }

    /// A stream called `name` ended because its reader took nothing.
    pub fn stream_dropped(&self, name: &'static str) {
        self.streams_dropped.get_or_create(&[("stream", name.into())]).inc();
    }

    /// An app that was let go leaves its label to another one, and takes its counts along.
    fn forget(&self, app: Option<&AppName>) {
        let Some(app) = app else { return };
        if !self.apps.lock().unwrap_or_else(PoisonError::into_inner).remove(app) {
            return;
        }
        for action in Action::ALL.map(Action::as_str) {
            for outcome in RULINGS {
                let app = app.to_string().into();
                let labels = [("app", app), ("action", action.into()), ("outcome", outcome.into())];
                self.decisions.remove(&labels);
            }
        }
    }

    /// Label of an app: its name for the first so many, and one for all others.
    fn app(&self, app: Option<&AppName>) -> Cow<'static, str> {
        let Some(app) = app else { return Cow::Borrowed("") };
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if apps.contains(app) {
            return app.to_string().into();
        }
        if apps.len() >= APPS_MAX {
            self.overflow.inc();
            return Cow::Borrowed(OTHER);
        }
        apps.insert(app.clone());
        app.to_string().into()
    }

    /// All of it as OpenMetrics text, with the levels of this moment.
    #[must_use]
    pub fn render(&self, snapshot: &Snapshot) -> String {
        let mut text = String::with_capacity(16 << 10);
        let levels = snapshot.registry(registry(self.env));
        // Writing to a String cannot fail.
        let _ = text::encode_registry(&mut text, &self.registry);
        let _ = text::encode_registry(&mut text, &levels);
        let _ = text::encode_eof(&mut text);
        text
    }
}

fn registry(env: Env) -> Registry {
    let labels = [("env".into(), env.as_str().into())];
    Registry::with_prefix_and_labels(PREFIX, labels.into_iter())
}

#[expect(clippy::cast_precision_loss, reason = "spans are far below 2^53 milliseconds")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
pub(crate) mod tests;

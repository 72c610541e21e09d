//! The human's rules of one environment. A policy can only narrow what is compiled in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::action::{Action, Level, Risk, ceiling};
use crate::app::{AppName, Env, Millis};
use crate::signal::{MICRO, Metric};

mod edit;
mod lint;
mod repositories;

pub use edit::{Difference, SetError, differences, set};
pub use lint::{Fault, lint, lint_windows};
pub use repositories::{Fetch, Host, Sandbox, Scheme};

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
const HOUR: Millis = 60 * MINUTE;

/// Everything a human may set. All spans are milliseconds, all shares are permille.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The environment it is for.
    pub env: Env,
    /// Autonomy per action; what is absent is `OFF`.
    pub levels: BTreeMap<Action, Level>,
    /// Timing of repeated actions.
    pub cooldown: Cooldowns,
    /// Repetition gate.
    pub repetition: Repetition,
    /// Confidence minima.
    pub confidence: Confidence,
    /// Failure memory.
    pub memory: Memory,
    /// Breaker per (app, action).
    pub breaker: BreakerRule,
    /// Blast radius.
    pub budget: Budget,
    /// Storm brake and common cause.
    pub storm: StormRule,
    /// Freshness of telemetry.
    pub freshness: Freshness,
    /// Detector thresholds.
    pub thresholds: BTreeMap<Metric, Threshold>,
    /// Statistics on the metrics' own past.
    #[serde(default)]
    pub statistics: Statistics,
    /// Crash-loop and flapping rules.
    pub stability: Stability,
    /// How an outcome is verified.
    pub verification: Verification,
    /// Approvals.
    pub approval: ApprovalRule,
    /// Learning.
    pub learning: Learning,
    /// How the agent earns to go alone with an app, and how it loses that.
    #[serde(default)]
    pub graduation: Graduation,
    /// Where repositories may be fetched from.
    #[serde(default)]
    pub fetch: Fetch,
    /// How what was fetched is built and run.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// How long the proof log is kept.
    #[serde(default, skip_serializing_if = "Retention::is_none")]
    pub retention: Retention,
    /// Maintenance windows: no effect on the named apps while one is open.
    #[serde(default)]
    pub windows: Vec<Window>,
}

/// How long records are kept at least. Beyond that they go only when a human says so, and once an export has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// A record younger than this is not pruned.
    pub keep_ms: Millis,
}

impl Retention {
    const fn is_none(&self) -> bool {
        self.keep_ms == 0
    }
}

/// Timing of repeated actions per (app, action).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cooldowns {
    /// Base cooldown per action; what is absent has none.
    pub base_ms: BTreeMap<Action, Millis>,
    /// A restart's cooldown doubles on repeat up to this.
    pub restart_cap_ms: Millis,
    /// Health for this long resets the doubling.
    pub healthy_reset_ms: Millis,
    /// No scale-down for this long after any scale-up.
    pub scale_down_after_up_ms: Millis,
}

/// At most `limit` identical actions in `window_ms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repetition {
    /// Identical actions allowed in the window.
    pub limit: u32,
    /// The window; must be longer than `limit` times every cooldown, or the gate could never fire.
    pub window_ms: Millis,
}

/// Least confidence per risk class, in permille. Equality passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confidence {
    /// For R1.
    pub r1: u32,
    /// For R2.
    pub r2: u32,
    /// For R3.
    pub r3: u32,
    /// What is wrong for longer than this, with no remedy the agent is sure enough of, is told to humans. Policies from before there was
    /// such a span name none: then nobody is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_ms: Option<Millis>,
}

impl Confidence {
    /// Compiled floor in permille: stricter than both figures of the older system (0.4 and 0.5).
    pub const FLOOR: u32 = 500;

    /// The minimum for a risk class.
    #[must_use]
    pub const fn minimum(&self, risk: Risk) -> u32 {
        match risk {
            Risk::None => 0,
            Risk::R1 => self.r1,
            Risk::R2 => self.r2,
            Risk::R3 => self.r3,
        }
    }
}

impl Default for Confidence {
    fn default() -> Self {
        // The horizon of the fault catalogue: an incident that lasts longer is a human's.
        Self { r1: 600, r2: 700, r3: 800, patience_ms: Some(8 * MINUTE) }
    }
}

/// "More than" limits over the remembered decisions of one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// More failures than this in the window block.
    pub failures: u32,
    /// More identical actions than this in the window block.
    pub identical: u32,
    /// How far back memory counts.
    pub window_ms: Millis,
}

/// Breaker per (app, action).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerRule {
    /// Consecutive outcomes that are not verified open it.
    pub failures: u32,
    /// First open time; doubles at every failed probe.
    pub open_ms: Millis,
    /// Longest open time.
    pub open_cap_ms: Millis,
}

/// Blast radius. A share is rounded down but never below one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Running instances of one app that may be down at once.
    pub per_app_permille: u32,
    /// Apps of the environment that may be disrupted at once.
    pub concurrent_permille: u32,
    /// Effects per hour in the environment.
    pub per_hour: u32,
}

/// Storm brake and common cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StormRule {
    /// Unhealthy apps at which a storm can begin.
    pub min_apps: u32,
    /// Unhealthy share at which it begins.
    pub permille: u32,
    /// It ends after this long below both.
    pub exit_ms: Millis,
    /// The same finding on this many apps ...
    pub common_apps: u32,
    /// ... raised within this span is one common cause.
    pub common_window_ms: Millis,
}

/// Freshness of telemetry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freshness {
    /// A value counts for this long after it was received.
    pub ttl_ms: Millis,
    /// The same for metrics of another pace: what is measured once a minute is not stale after fifteen seconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ttl_by_metric: BTreeMap<Metric, Millis>,
    /// Silence longer than this is a finding: stale is never healthy.
    pub silence_ms: Millis,
    /// Sources that must report the load of an app before the agent takes an instance away; what the server measures itself is
    /// enough alone. Policies from before this was asked leave it to one.
    #[serde(default = "alone", skip_serializing_if = "is_alone")]
    pub quorum: u32,
    /// A signal from further in the future is rejected (clock skew).
    pub future_ms: Millis,
    /// A signal from further in the past is rejected.
    pub past_ms: Millis,
}

const fn alone() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_alone(quorum: &u32) -> bool {
    *quorum == 1
}

impl Freshness {
    /// How long a value of `metric` counts.
    #[must_use]
    pub fn ttl_of(&self, metric: Metric) -> Millis {
        self.ttl_by_metric.get(&metric).copied().unwrap_or(self.ttl_ms)
    }
}

/// One threshold with hysteresis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// The finding opens when `k` of the last `n` ticks are at or above it (millionths).
    pub enter: i64,
    /// It closes when the last [`Threshold::LEAVE_TICKS`] ticks are below it (millionths).
    pub leave: i64,
    /// Ticks that must be at or above `enter` ...
    pub k: u32,
    /// ... of this many.
    pub n: u32,
}

impl Threshold {
    /// Ticks below `leave` that close a finding.
    pub const LEAVE_TICKS: usize = 3;
}

/// Statistics on the metrics' own past. What they find is recorded and never acted on by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Metrics that are compared with their own past; none turns it off. Each takes one or two bytes of memory per app and sample
    /// of history.
    pub metrics: Vec<Metric>,
    /// Ticks of the past that count.
    pub history: u32,
    /// Ticks before anything is expected.
    pub warm_up: u32,
    /// Share of requests that may fail (millionths): more than it for long is a finding. 0 turns it off.
    pub error_budget: i64,
    /// The same for apps with an objective of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub error_budgets: BTreeMap<AppName, i64>,
    /// How fast the budget may be used up, most urgent first; none turns it off.
    #[serde(default = "Burn::usual", skip_serializing_if = "Burn::are_usual")]
    pub burn: Vec<Burn>,
}

impl Statistics {
    /// Most rules about the budget.
    pub const BURNS: usize = 4;

    /// Share of the requests of `app` that may fail, in millionths.
    #[must_use]
    pub fn budget_of(&self, app: &AppName) -> i64 {
        self.error_budgets.get(app).copied().unwrap_or(self.error_budget)
    }
}

/// How fast the error budget may be used up: an alarm when it goes so many times as fast as it would have to last, over both spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burn {
    /// So many times as fast, in thousandths.
    pub times_milli: u32,
    /// Over this span: what is shorter is a blip.
    pub long_ms: Millis,
    /// And over this one: the alarm ends when the failures do.
    pub short_ms: Millis,
    /// Whether humans are told at once; otherwise it is recorded.
    pub pages: bool,
}

impl Burn {
    /// Those of the Site Reliability Workbook: 2 % of a month's budget within an hour, 5 % within six, 10 % within three days.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        let rule = |times_milli, long_ms, pages| Self {
            times_milli,
            long_ms,
            short_ms: long_ms / 12,
            pages,
        };
        vec![rule(14_400, HOUR, true), rule(6_000, 6 * HOUR, true), rule(1_000, 72 * HOUR, false)]
    }

    /// Policies were recorded before there was a choice, and their digests stand in the log.
    fn are_usual(rules: &Vec<Self>) -> bool {
        *rules == Self::usual()
    }
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            metrics: vec![Metric::LatencyP99, Metric::RequestRate],
            history: 2_000,
            warm_up: 750,
            error_budget: 1_000,
            error_budgets: BTreeMap::new(),
            burn: Burn::usual(),
        }
    }
}

/// Crash-loop and flapping rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stability {
    /// Exits ...
    pub crash_loop_exits: u32,
    /// ... within this span are a crash loop.
    pub crash_loop_window_ms: Millis,
    /// Changes between healthy and unhealthy ...
    pub flap_changes: u32,
    /// ... within this span are flapping.
    pub flap_window_ms: Millis,
    /// Flapping ends after this long without a change.
    pub flap_exit_ms: Millis,
    /// Growth of memory utilisation over the remembered ticks that counts as a leak (millionths).
    pub memory_growth: i64,
}

/// How an outcome is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// Ready and trigger clear for this long is verified.
    pub hold_ms: Millis,
    /// Not verified after this long is failed (or inconclusive, when the telemetry is gone).
    pub deadline_ms: Millis,
    /// An instance that runs this long counts as ready when there is no health check.
    pub min_uptime_ms: Millis,
}

/// Approvals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRule {
    /// An unanswered request expires after this.
    pub ttl_ms: Millis,
}

/// A learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Learner {
    /// Tabular Q-learning by finding; the rule's prior and verified outcomes say how sure it is.
    Q,
    /// Catalogue-calibrated Q: the fault catalogue, corrected by outcomes.
    Ccq,
}

impl Learner {
    /// The learner of a policy that names none. Policies were recorded before there was a choice, and they meant this one: the log
    /// they stand in is judged again as it was.
    const fn unnamed() -> Self {
        Self::Q
    }
}

/// Learning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learning {
    /// Which learner ranks the remedies and says how sure the agent is.
    #[serde(default = "Learner::unnamed")]
    pub learner: Learner,
    /// Share of decisions that explore, in millionths; 0 in stage and demo, and a lint error there otherwise.
    pub exploration_ppm: u32,
    /// Seed of every draw.
    pub seed: u64,
    /// Verified or failed outcomes a value needs before it may outrank the rule.
    pub trust: u32,
}

/// How the agent earns to go alone with an app, and how it loses that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graduation {
    /// Least decisions about an action on an app that humans answered.
    pub decisions: u32,
    /// Least share of them that humans agreed with and that were verified.
    pub agreement_permille: u32,
    /// So many outcomes that failed or relapsed ...
    pub failures: u32,
    /// ... of the newest so many take back what was given by name.
    pub of: u32,
    /// A finding that is back within this span of its cure is a relapse.
    pub relapse_ms: Millis,
}

impl Default for Graduation {
    fn default() -> Self {
        let (decisions, agreement_permille, relapse_ms) = (20, 900, 10 * MINUTE);
        Self { decisions, agreement_permille, failures: 3, of: 6, relapse_ms }
    }
}

/// A span in which nothing is done to the named apps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Shown in refusals.
    pub name: String,
    /// RFC 3339 with an explicit offset.
    pub start: String,
    /// RFC 3339 with an explicit offset; a window without an end is a lint error.
    #[serde(default)]
    pub end: Option<String>,
    /// Repeats every so many milliseconds (daily = 86,400,000); once when absent.
    #[serde(default)]
    pub every_ms: Option<Millis>,
    /// Affected apps; all when empty.
    #[serde(default)]
    pub apps: Vec<AppName>,
}

impl Policy {
    /// The built-in policy of an environment (design table of levels, cooldowns and limits).
    #[must_use]
    pub fn default_for(env: Env) -> Self {
        let per_hour = match env {
            Env::Dev => 120,
            Env::Stage => 30,
            Env::Prod => 6,
        };
        Self {
            env,
            levels: default_levels(env),
            cooldown: Cooldowns {
                base_ms: BTreeMap::from([
                    (Action::Restart, MINUTE),
                    (Action::ScaleUp, 2 * MINUTE),
                    (Action::ScaleDown, 2 * MINUTE),
                    (Action::RetryDeployment, 5 * MINUTE),
                    (Action::AdjustThresholds, HOUR),
                    (Action::Rollback, 5 * MINUTE),
                ]),
                restart_cap_ms: 15 * MINUTE,
                healthy_reset_ms: 10 * MINUTE,
                scale_down_after_up_ms: 10 * MINUTE,
            },
            repetition: Repetition { limit: 3, window_ms: 15 * MINUTE },
            confidence: Confidence::default(),
            memory: Memory { failures: 3, identical: 3, window_ms: HOUR },
            breaker: BreakerRule { failures: 3, open_ms: 15 * MINUTE, open_cap_ms: HOUR },
            budget: Budget { per_app_permille: 250, concurrent_permille: 50, per_hour },
            storm: StormRule {
                min_apps: 3,
                permille: 300,
                exit_ms: 5 * MINUTE,
                common_apps: 3,
                common_window_ms: MINUTE,
            },
            freshness: Freshness {
                ttl_ms: 15 * SECOND,
                ttl_by_metric: BTreeMap::new(),
                silence_ms: 45 * SECOND,
                quorum: 2,
                future_ms: 30 * SECOND,
                past_ms: 5 * MINUTE,
            },
            thresholds: default_thresholds(),
            statistics: Statistics::default(),
            stability: Stability {
                crash_loop_exits: 3,
                crash_loop_window_ms: 10 * MINUTE,
                flap_changes: 4,
                flap_window_ms: 10 * MINUTE,
                flap_exit_ms: 15 * MINUTE,
                memory_growth: MICRO / 5,
            },
            verification: Verification {
                hold_ms: MINUTE,
                deadline_ms: 5 * MINUTE,
                min_uptime_ms: 10 * SECOND,
            },
            approval: ApprovalRule { ttl_ms: 15 * MINUTE },
            learning: Learning {
                learner: Learner::Ccq,
                exploration_ppm: if env == Env::Dev { 50_000 } else { 0 },
                seed: 1,
                trust: 5,
            },
            graduation: Graduation::default(),
            fetch: Fetch::default(),
            sandbox: Sandbox::default_for(env),
            retention: Retention::default(),
            windows: Vec::new(),
        }
    }

    /// The level of `action` after the compiled ceiling; `OFF` when the policy does not name it.
    #[must_use]
    pub fn level(&self, action: Action) -> Level {
        let granted = self.levels.get(&action).copied().unwrap_or(Level::Off);
        granted.min(ceiling(action))
    }

    /// Base cooldown of `action`.
    #[must_use]
    pub fn cooldown_ms(&self, action: Action) -> Millis {
        self.cooldown.base_ms.get(&action).copied().unwrap_or(0)
    }

    /// The actions the agent may execute alone; shown by a refused eligibility check.
    #[must_use]
    pub fn allowed(&self) -> Vec<Action> {
        Action::ALL
            .into_iter()
            .filter(|a| a.is_selectable() && self.level(*a) == Level::Auto)
            .collect()
    }

    /// SHA-256 of the canonical JSON form, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        crate::digest::sha256_hex(&serde_json::to_vec(self).unwrap_or_default())
    }
}

fn default_levels(env: Env) -> BTreeMap<Action, Level> {
    let active = if env == Env::Prod { Level::Propose } else { Level::Auto };
    Action::ALL
        .into_iter()
        .map(|action| {
            let level = match action {
                Action::Noop | Action::Observe | Action::Escalate => Level::Auto,
                Action::Rollback | Action::AdjustThresholds => Level::Propose,
                Action::Restart
                | Action::ScaleUp
                | Action::ScaleDown
                | Action::RetryDeployment
                | Action::Deploy
                | Action::Configure
                | Action::Offboard => active,
            };
            (action, level)
        })
        .collect()
}

fn default_thresholds() -> BTreeMap<Metric, Threshold> {
    // Leave values are 0.8 of the enter value: the hysteresis that keeps a finding from opening and closing on noise.
    let rule = |enter: i64| Threshold { enter, leave: enter / 10 * 8, k: 3, n: 5 };
    BTreeMap::from([
        (Metric::CpuUtilization, rule(MICRO * 8 / 10)),
        (Metric::MemoryUtilization, rule(MICRO * 9 / 10)),
        (Metric::LatencyP99, rule(2 * MICRO)),
        (Metric::ErrorRatio, rule(MICRO / 20)),
    ])
}

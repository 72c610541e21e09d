//! The state: a fold of the log. One owner, one mutator ([`evolve`]), the same function live and in replay.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::action::{Action, Level};
use crate::app::{AppName, AppSpec, Env, Millis, Override};
use crate::choose::ValueTable;
use crate::choose::ccq::{Expectation, Knowledge};
use crate::detect::{FindingKind, Signature};
use crate::graduation::Standing;
use crate::plan::{Fence, Plan};
use crate::policy::Window;
use crate::record::Author;
use crate::signal::{Exit, Metric};
use crate::uptime::Ledger;

mod approval;
mod apps;
mod evolve;
mod healed;
mod kept;
mod learning;

pub use approval::{Approval, ApprovalState};
pub use apps::{Apps, Census, Changing};
pub use evolve::{evolve, is_expected_exit};
pub(crate) use evolve::{evolve_app, new_app};
pub use healed::Healed;
pub use kept::Kept;
pub use learning::{Candidate, Learning, Promotion};

/// Most decisions remembered per app.
pub const DECISIONS: usize = 50;
/// Most health states remembered per app.
pub const STATES: usize = 10;
/// Most revisions remembered per app.
pub const REVISIONS: usize = 10;
/// Most exits remembered per app.
pub const EXITS: usize = 16;
/// Most ended approvals remembered per environment.
pub const APPROVALS: usize = 200;
/// Most request ids remembered per environment.
pub const REQUESTS: usize = 1_000;
/// Most apps per environment.
pub const APPS: usize = 100_000;

/// Everything agentd knows. Rebuilt by folding [`evolve`] over the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The one environment.
    pub env: Env,
    /// Applications by name.
    pub apps: Apps,
    /// Specifications, apart from [`AppState`] so that evidence stays small.
    pub specs: BTreeMap<AppName, SpecHistory>,
    /// When each app was up, and how often it was healed; apart from [`AppState`] so that evidence stays small.
    pub ledgers: BTreeMap<AppName, Ledger>,
    /// Switches.
    pub mode: Mode,
    /// Approvals by sequence number of their request.
    pub approvals: BTreeMap<u64, Approval>,
    /// Digest of the policy in force; empty before the first one is applied.
    pub policy_digest: String,
    /// Digest of the policy the agent last started with: what a human applied since then stays in force until that one changes.
    pub policy_base: String,
    /// Who put the policy in force.
    pub policy_author: Author,
    /// Learned values.
    pub table: ValueTable,
    /// What was learned against the fault catalogue.
    pub knowledge: Knowledge,
    /// What is learned beside these two, and where they come from.
    #[serde(default, skip_serializing_if = "Learning::is_empty")]
    pub learning: Learning,
    /// Times of the agent's disruptive effects of the last hour, oldest first.
    pub effects: VecDeque<Millis>,
    /// The storm, while there is one.
    pub storm: Option<Storm>,
    /// Idempotency: request id -> what answered it.
    pub requests: BTreeMap<String, Answered>,
    /// Request ids in order of arrival, for the limit.
    pub request_order: VecDeque<String>,
    /// How much of the log is kept.
    pub kept: Kept,
    /// Sequence number of the last record folded in.
    pub last_seq: u64,
    /// Time of the last record folded in.
    pub last_at: Millis,
}

impl State {
    /// The state before the first record.
    #[must_use]
    pub fn new(env: Env) -> Self {
        Self {
            env,
            apps: Apps::default(),
            specs: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            mode: Mode::default(),
            approvals: BTreeMap::new(),
            policy_digest: String::new(),
            policy_base: String::new(),
            policy_author: Author::File,
            table: ValueTable::default(),
            knowledge: Knowledge::default(),
            learning: Learning::default(),
            effects: VecDeque::new(),
            storm: None,
            requests: BTreeMap::new(),
            request_order: VecDeque::new(),
            kept: Kept::default(),
            last_seq: 0,
            last_at: 0,
        }
    }
}

/// Answer to an earlier request with the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Digest of the request's content: the same id with other content is a conflict.
    pub digest: String,
    /// Sequence number of the record that answered it.
    pub seq: u64,
}

/// Revisions of one app's specification, newest last, at most [`REVISIONS`]: the one that runs and the one that a rollback would go to
/// are always among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecHistory {
    /// Newest last; never empty.
    pub revisions: Vec<Revision>,
    /// Number of the revision that runs.
    pub current: u32,
    /// The highest number that was ever given: a revision that was refused is not kept, and its number is not given again.
    pub newest: u32,
}

impl SpecHistory {
    /// The running specification.
    #[must_use]
    pub fn spec(&self) -> Option<&AppSpec> {
        self.revision(self.current).map(|r| &r.spec)
    }

    /// Changes whenever a revision was added or another one is in force: who changes an app from what they read names it, and
    /// is told if somebody was faster. An app that was let go and onboarded anew has other ones.
    #[must_use]
    pub fn etag(&self, onboarded_at: Millis) -> String {
        let newest = self.revisions.last();
        let (number, digest) = newest.map_or((0, ""), |r| (r.number, r.digest.as_str()));
        let text = format!("{onboarded_at}/{}/{number}/{digest}", self.current);
        crate::digest::sha256_hex(text.as_bytes()).chars().take(16).collect()
    }

    /// A revision by number.
    #[must_use]
    pub fn revision(&self, number: u32) -> Option<&Revision> {
        self.revisions.iter().find(|r| r.number == number)
    }
}

/// One revision of a specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// From 1.
    pub number: u32,
    /// Digest of the specification.
    pub digest: String,
    /// The specification.
    pub spec: AppSpec,
    /// When it was first verified healthy.
    pub verified_at: Option<Millis>,
    /// Whether a rollback already went to it: never twice to the same.
    pub rolled_back_to: bool,
    /// Whether it only put other settings in force for what an earlier one deployed.
    pub settings: bool,
}

/// What decisions need to know of one app. Embedded whole in every `Decided` record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppState {
    /// Facts of the specification that gates and rules use.
    pub profile: Profile,
    /// Instances that should run.
    pub desired: u32,
    /// Instances by slot.
    pub instances: BTreeMap<u32, Instance>,
    /// Open findings.
    pub open: BTreeMap<FindingKind, Open>,
    /// When a finding was last cleared.
    pub cleared: BTreeMap<FindingKind, Millis>,
    /// Remembered decisions, oldest first.
    pub decisions: VecDeque<Remembered>,
    /// Remembered health changes, oldest first.
    pub states: VecDeque<HealthChange>,
    /// Last effect of each action.
    pub last_effect: BTreeMap<Action, LastEffect>,
    /// Breakers of the actions that failed.
    pub breakers: BTreeMap<Action, Breaker>,
    /// The attempt in flight.
    pub attempt: Option<Attempt>,
    /// The pending approval, by sequence number of its request.
    pub approval: Option<u64>,
    /// Times of unexpected exits, oldest first.
    pub exits: VecDeque<Millis>,
    /// Since when it is healthy without a break; `None` while it is not.
    pub healthy_since: Option<Millis>,
    /// The last decision, for coalescing of steady repeats.
    pub last_decision: Option<LastDecision>,
    /// Thresholds moved by `ADJUST_THRESHOLDS`.
    pub adjusted: BTreeMap<Metric, Override>,
    /// When it was onboarded: the grace for the first signal starts here.
    pub onboarded_at: Millis,
    /// Whether the open incident was escalated already.
    pub escalated: bool,
    /// How far the agent's judgement counts with it.
    #[serde(default, skip_serializing_if = "Standing::is_empty")]
    pub standing: Standing,
    /// What ran before the deployment in flight: in force again if that is given up before it touched anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<Before>>,
    /// What the last attempt that helped has taught: taken back if it does not last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed: Option<Box<Healed>>,
    /// When it was last recorded that signals about it went stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<Millis>,
}

/// What a deployment replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Facts of the specification.
    pub profile: Profile,
    /// Instances that should run.
    pub desired: u32,
}

/// Facts of the running specification that decisions use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Name.
    pub name: AppName,
    /// Number of the running revision.
    pub revision: u32,
    /// Digest of the running specification.
    pub spec_digest: String,
    /// Fewest instances.
    pub min: u32,
    /// Most instances.
    pub max: u32,
    /// The label `protected`.
    pub protected: bool,
    /// Highest autonomy for this app.
    pub autonomy: Option<Level>,
    /// Whether readiness is probed.
    pub has_health: bool,
    /// Thresholds of the specification.
    pub thresholds: BTreeMap<Metric, Override>,
    /// Maintenance windows of the specification.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// The newest other revision that was verified healthy and never rolled back to.
    pub rollback_to: Option<u32>,
    /// The revision whose deployment failed last, until a deployment succeeds.
    pub failed_revision: Option<u32>,
}

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Started, not yet ready.
    Starting,
    /// Answers its health check, or has run for the minimum uptime.
    Ready,
    /// Runs and does not answer its health check.
    Unready,
    /// Ended without being asked to.
    Exited,
    /// Ended because it was asked to.
    Stopped,
}

impl Phase {
    /// Whether a process exists.
    #[must_use]
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Starting | Self::Ready | Self::Unready)
    }
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Phase.
    pub phase: Phase,
    /// Identity of the last incarnation.
    pub fence: Option<Fence>,
    /// Since when it is in this phase.
    pub since: Millis,
    /// When the last incarnation started.
    pub started_at: Millis,
    /// Restarts so far; kept here so that a restart cannot zero it.
    pub restarts: u32,
    /// How the last incarnation ended.
    pub last_exit: Option<Exit>,
}

/// An open finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// When it was raised.
    pub since: Millis,
    /// Sequence number of the record that raised it.
    pub seq: u64,
}

/// Health as seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// All wanted instances are ready and nothing is open, but that it was otherwise too often of late.
    Healthy,
    /// Something is open, but at least one instance is ready.
    Degraded,
    /// No instance is ready.
    Down,
    /// Nobody knows.
    Unknown,
}

/// A change of health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthChange {
    /// To what.
    pub health: Health,
    /// When.
    pub at: Millis,
    /// Part of something that was planned, such as a rolling restart that a human asked for: no sign of anything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub planned: bool,
}

/// One remembered decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Sequence number.
    pub seq: u64,
    /// When.
    pub at: Millis,
    /// What was proposed.
    pub action: Action,
    /// Whether it was executed (an attempt was started).
    pub executed: bool,
    /// Whether a human asked for it: a human's own actions do not count against the agent.
    pub human: bool,
    /// Whether it was drawn to explore.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub explored: bool,
    /// How it ended, once known.
    pub outcome: Option<Outcome>,
}

/// How an attempt ended. Delivery is not repair: this is about the app, not about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// Ready, and the trigger clear for the hold time.
    Verified,
    /// Delivered without effect, or not delivered.
    Failed,
    /// Nobody can tell. Counts as a failure for the breaker and as nothing for learning.
    Inconclusive,
}

/// Last effect of one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEffect {
    /// When it started.
    pub at: Millis,
    /// Effects in a row without `healthy_reset_ms` of health between them; 1 after the first.
    pub streak: u32,
}

/// Breaker of one (app, action).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Consecutive outcomes that are not verified.
    pub failures: u32,
    /// Open until then; half-open (one probe) afterwards, until an outcome closes or re-opens it.
    pub open_until: Option<Millis>,
    /// How often it opened without a verified outcome in between; the open time doubles with it.
    pub opens: u32,
}

/// An attempt in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Sequence number of the decision that permits it: the attempt's id.
    pub decision: u64,
    /// What is done.
    pub plan: Plan,
    /// When it was recorded, before it started.
    pub started_at: Millis,
    /// When the actuator reported that it was carried out; the outcome is judged from then on.
    pub delivered_at: Option<Millis>,
    /// The findings it should clear.
    pub trigger: Vec<FindingKind>,
    /// Whether a human asked for it.
    pub human: bool,
    /// Approval it executes, if any.
    pub approval: Option<u64>,
    /// Whether agentd died in between: observe first, never run it again blindly.
    pub indeterminate: bool,
    /// What the incident looked like and what was expected of the attempt, if the learner had something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<(Signature, Expectation)>,
}

/// The last decision of an app; an equal one is a steady repeat and is only counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastDecision {
    /// Sequence number.
    pub seq: u64,
    /// When.
    pub at: Millis,
    /// Findings, action, ruling, reasons: what must be equal.
    pub signature: String,
}

/// Switches of the whole server. All persisted as records before they are acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// Pauses and halts in force.
    pub pauses: Vec<Pause>,
    /// Learning is frozen: no exploration, no table update.
    pub frozen: bool,
    /// Decide and record, touch nothing.
    pub dry_run: bool,
    /// Demo mode.
    pub demo: bool,
}

impl Mode {
    /// Most pauses in force at once.
    pub const PAUSES: usize = 100;
}

/// What a pause applies to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The environment.
    Env,
    /// One app.
    App(AppName),
    /// One action on any app.
    Action(Action),
}

/// A pause or a halt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// What it applies to.
    pub scope: Scope,
    /// Whether effects in flight stop at the next safe point too.
    pub halt: bool,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub since: Millis,
    /// Ends by itself then.
    pub until: Option<Millis>,
}

/// A storm in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// When it began.
    pub since: Millis,
    /// Since when the environment is below the threshold again.
    pub calm_since: Option<Millis>,
    /// Paced starts that may be in flight at once: 1, 2, 4 as they verify.
    pub ramp: u32,
}

impl AppState {
    /// Instances that should exist (slots below the desired count), whatever their phase.
    pub fn wanted(&self) -> impl Iterator<Item = (u32, Option<&Instance>)> {
        (0..self.desired).map(|slot| (slot, self.instances.get(&slot)))
    }

    /// Wanted instances without a running process.
    pub fn down(&self) -> impl Iterator<Item = u32> {
        self.wanted().filter(|(_, i)| i.is_none_or(|i| !i.phase.is_running())).map(|(slot, _)| slot)
    }

    /// Number of ready instances.
    #[must_use]
    pub fn ready(&self) -> u32 {
        let ready = self.instances.values().filter(|i| i.phase == Phase::Ready).count();
        u32::try_from(ready).unwrap_or(u32::MAX)
    }

    /// Number of instances with a process.
    #[must_use]
    pub fn running(&self) -> u32 {
        let running = self.instances.values().filter(|i| i.phase.is_running()).count();
        u32::try_from(running).unwrap_or(u32::MAX)
    }

    /// Health as seen from outside.
    #[must_use]
    pub fn health(&self) -> Health {
        if self.open.contains_key(&FindingKind::Silence) && self.open.len() == 1 {
            Health::Unknown
        } else if self.ready() == 0 {
            Health::Down
        } else if self.open.keys().all(|kind| *kind == FindingKind::Flapping)
            && self.ready() >= self.desired
        {
            // Flapping is about these very changes: counted as one of them it would hide all that follow.
            Health::Healthy
        } else {
            Health::Degraded
        }
    }

    /// Whether it was healthy for `span` without a break at some time after `since`.
    #[must_use]
    pub fn was_healthy(&self, span: Millis, since: Millis, now: Millis) -> bool {
        let ends = self.states.iter().skip(1).map(|change| change.at).chain([now]);
        self.states
            .iter()
            .zip(ends)
            .filter(|(change, _)| change.health == Health::Healthy)
            .any(|(change, end)| end.saturating_sub(change.at.max(since)) >= span)
    }

    /// Whether the app counts as unhealthy for the storm brake: loss of telemetry alone is a monitoring fault, not an app
    /// fault, and an app that is being deployed for the first time has not failed yet.
    #[must_use]
    pub fn is_unhealthy(&self) -> bool {
        self.open.keys().any(|kind| !kind.is_ambient())
    }
}

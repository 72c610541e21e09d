//! Records: the only frozen serialized form of the project.
//!
//! One record is one JSON line of the proof log, and later one leaf of its Merkle tree. The envelope carries what differs
//! between two runs (sequence number, time, actor, trace); the body of a decision is a function of its inputs alone, so the same
//! scenario in stage gives byte-equal bodies.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::app::{AppName, AppSpec, Env, Millis, Violation};
use crate::chain::Hash;
use crate::choose::ccq::{Beliefs, Learned, Trial};
use crate::choose::{Leeway, Lesson, Proposal, Row, Value};
use crate::detect::{Finding, FindingKind};
use crate::gates::Surroundings;
use crate::graduation::Demoted;
use crate::policy::Policy;
use crate::signal::{Metric, Reading};
use crate::state::{AppState, Approval, ApprovalState, Attempt, Health, Outcome, Pause, Scope};
use crate::verdict::{Ruling, Verdict};

mod author;
mod detached;
mod event;
mod inert;
mod kept;
mod learning;
mod life;
mod observation;
mod subject;

pub use author::Author;
pub use detached::{BLOB_MAX, Detached};
use inert::inert;
pub use kept::{Exported, HandedOver, Pruned, Snapshotted};
pub use learning::{Asked, Backtested, Forgotten, Imported, LearningChange, Promoted};
pub use life::{Heartbeat, Started, Stopped};
pub use observation::Observation;
pub use subject::GATES_PASSED;

/// Version of the record format. A reader refuses a newer one.
pub const VERSION: u32 = 1;

/// Largest line in bytes: what a tlog-tiles entry bundle can carry (16-bit length prefix).
pub const LINE_MAX: usize = 65_535;

/// One entry of the proof log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Dense, from 1.
    pub seq: u64,
    /// When, in milliseconds since the Unix epoch; never less than the record before.
    pub at: Millis,
    /// The environment of the log.
    pub env: Env,
    /// The app it is about, if it is about one.
    pub app: Option<AppName>,
    /// Sequence number of the record that caused it.
    pub cause: Option<u64>,
    /// Agent id or principal.
    pub actor: String,
    /// Trace of the turn of the loop that made it, where the shell keeps one; the brain knows nothing of it.
    pub trace: Option<String>,
    /// What happened.
    pub body: Body,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// An agent started on this log.
    Started(Started),
    /// An agent stopped in good order.
    Stopped(Stopped),
    /// The log was found torn and repaired.
    LogRecovered {
        /// Bytes of a never-acknowledged tail that were cut.
        bytes_cut: u64,
    },
    /// Another key signs the log from here on.
    KeyRotated {
        /// The key that signed until now, as text.
        from: String,
        /// The one that takes its place.
        to: String,
        /// A signed note in which both say so.
        note: String,
    },
    /// The state is kept beside the log.
    Snapshotted(Box<Snapshotted>),
    /// Somebody has a copy of the log.
    Exported(Exported),
    /// Records are no longer kept.
    Pruned(Pruned),
    /// The body is beside the log: it is too long for a line.
    Detached(Detached),
    /// A policy is in force from here on.
    PolicyApplied {
        /// The whole policy, so that the log can be judged alone.
        policy: Box<Policy>,
        /// Its digest.
        digest: String,
        /// Who put it in force.
        #[serde(default, skip_serializing_if = "Author::is_file")]
        author: Author,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Idempotency of the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<Request>,
    },
    /// Every instance was stopped, and the app is let go: its name is free again.
    Offboarded {
        /// The revision that ran.
        revision: u32,
        /// Digest of its specification.
        digest: String,
    },
    /// Somebody asked to onboard an app.
    OnboardingStarted {
        /// The name as given.
        name: String,
    },
    /// The input was valid.
    OnboardingPassed,
    /// The input was not valid.
    OnboardingRefused {
        /// Every violation.
        violations: Vec<Violation>,
    },
    /// A specification exists from here on.
    SpecGenerated {
        /// The specification.
        spec: Box<AppSpec>,
        /// Its digest.
        digest: String,
        /// Its revision.
        revision: u32,
        /// Idempotency of the request.
        request: Option<Request>,
    },
    /// A deployment was permitted.
    DeploymentTriggered {
        /// Revision.
        revision: u32,
    },
    /// Something about a running instance was observed.
    Observed {
        /// Instance slot.
        slot: u32,
        /// What.
        what: Observation,
    },
    /// A finding opened.
    Raised(Finding),
    /// A finding closed.
    Cleared {
        /// Which.
        kind: FindingKind,
    },
    /// Health as seen from outside changed.
    HealthChanged {
        /// To what.
        health: Health,
    },
    /// A reading was taken into a decision.
    Consumed {
        /// Kinds of the findings in it.
        findings: Vec<FindingKind>,
    },
    /// A decision, complete with its evidence.
    Decided(Box<Decided>),
    /// Group 1 of the gates passed.
    IntakeValidated,
    /// Every gate passed.
    GatesPassed {
        /// How many judged.
        gates: u32,
    },
    /// A gate blocked; the event is named after its reason.
    Blocked {
        /// The action that was blocked.
        action: Action,
        /// The verdict.
        verdict: Verdict,
        /// One sentence.
        message: String,
    },
    /// The action was refused.
    Refused {
        /// The action.
        action: Action,
        /// The event name of the reason.
        reason: crate::reason::Reason,
        /// What is done instead.
        instead: Action,
    },
    /// The refusal reached the watchers.
    RefusalEmitted,
    /// The intent: recorded before the effect.
    Attempted(Box<Attempt>),
    /// The agent acts without a human.
    Autonomous {
        /// The action.
        action: Action,
    },
    /// The actuator carried it out, or could not. Delivery is not repair.
    Delivered {
        /// The decision it belongs to.
        decision: u64,
        /// Whether it was carried out.
        ok: bool,
        /// What the actuator said.
        detail: String,
        /// It failed before anything was touched: what ran before runs on.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        untouched: bool,
    },
    /// agentd ended between intent and outcome: what happened is observed, never repeated blindly.
    Indeterminate {
        /// The decision it belongs to.
        decision: u64,
    },
    /// How an attempt ended.
    Concluded(Concluded),
    /// The value table learned.
    Learned {
        /// What was learned from.
        lesson: Lesson,
        /// Before.
        before: Value,
        /// After.
        after: Value,
        /// What it says about the fault catalogue, if it was an outcome of what the catalogue knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        calibrated: Option<Box<Calibrated>>,
        /// Learned beside what the agent decides by: where a human promotes, that is not touched.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        candidate: bool,
    },
    /// A human changed what was learned, or wanted to.
    LearningChanged(Box<LearningChange>),
    /// The value table did not learn.
    LearningSkipped {
        /// Why: `confounded`, `frozen`, `human`, `inconclusive` or `no_finding`.
        why: Cow<'static, str>,
        /// It was a relapse: said once, and what it would have corrected stays as it is.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        relapse: bool,
    },
    /// A request was answered by the record that caused this one.
    Answered {
        /// Idempotency of the request.
        request: Request,
    },
    /// A human is asked.
    ApprovalRequested(Box<Approval>),
    /// A human answered.
    ApprovalAnswered {
        /// The request.
        approval: u64,
        /// `APPROVED` or `REJECTED`.
        state: ApprovalState,
        /// What they said.
        comment: String,
        /// Idempotency of the request.
        request: Option<Request>,
    },
    /// A request ended without an answer, or its execution did.
    ApprovalEnded {
        /// The request.
        approval: u64,
        /// How.
        state: ApprovalState,
    },
    /// Effects are paused or halted.
    PauseSet {
        /// The pause.
        pause: Pause,
        /// Idempotency of the request.
        request: Option<Request>,
    },
    /// A pause was lifted.
    PauseLifted {
        /// Of what.
        scope: Scope,
        /// Why; `expired` when it ended by itself.
        reason: String,
        /// Idempotency of the request.
        request: Option<Request>,
    },
    /// Learning was frozen or thawed.
    FreezeSet {
        /// Frozen from here on.
        frozen: bool,
        /// Why.
        reason: String,
        /// Idempotency of the request.
        request: Option<Request>,
    },
    /// What monitors said of an app outlived its time to live, and nobody says anything newer.
    SignalsExpired {
        /// Metrics of which nothing is known any more, and since when.
        metrics: BTreeMap<Metric, Millis>,
    },
    /// A storm began.
    StormBegan {
        /// Unhealthy apps.
        unhealthy: u32,
        /// All apps.
        apps: u32,
    },
    /// The environment fell below the storm threshold, or rose above it again.
    StormCalm {
        /// Below.
        calm: bool,
    },
    /// The storm is over.
    StormEnded,
    /// Humans are told: the end of the ladder.
    Escalated {
        /// Why.
        findings: Vec<FindingKind>,
        /// One sentence.
        message: String,
    },
    /// Equal decisions were not written one by one.
    Repeated {
        /// The decision they equal.
        decision: u64,
        /// How many.
        count: u64,
    },
    /// A scenario injected a failure.
    Injected {
        /// The scenario.
        scenario: String,
        /// What was done.
        what: String,
    },
    /// The agent lost the autonomy of an action.
    Demoted(Demoted),
    /// A sign of life.
    Heartbeat(Heartbeat),
    /// The agent changed its state.
    Transition {
        /// The way through the states, oldest first.
        path: Vec<Cow<'static, str>>,
    },
}

/// An outcome against what the fault catalogue expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calibrated {
    /// The attempt and its outcome.
    pub trial: Trial,
    /// What was learned before.
    pub before: Learned,
    /// What is learned now.
    pub after: Learned,
    /// The world is taken for changed: what was known under this signature was doubted again.
    pub drifted: bool,
}

/// Idempotency of a mutating request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The caller's request id.
    pub id: String,
    /// Digest of the content.
    pub digest: String,
}

/// Why a decision was made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A reading that is not quiet.
    Reading,
    /// A human asked, or approved: the proposal is theirs and is not chosen again.
    Human,
}

/// A decision with everything it rests on: it can be judged again from this record and its policy alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Why now.
    pub trigger: Trigger,
    /// When, as the decision saw it.
    pub now: Millis,
    /// Sequence number the draw and the permit used.
    pub seq: u64,
    /// Digest of the policy.
    pub policy_digest: String,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What was proposed.
    pub proposal: Proposal,
    /// What every gate said.
    pub verdicts: Vec<Verdict>,
    /// What it adds up to.
    pub ruling: Ruling,
    /// Evidence: the signals.
    pub reading: Reading,
    /// Evidence: the app.
    pub app: AppState,
    /// Evidence: the rest of the environment.
    pub around: Surroundings,
    /// Evidence: learned values of the primary finding.
    pub row: Row,
    /// Evidence: what was learned about the signature.
    #[serde(default, skip_serializing_if = "Beliefs::is_empty")]
    pub beliefs: Beliefs,
    /// Evidence: what forbade to explore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leeway: Option<Leeway>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concluded {
    /// The decision.
    pub decision: u64,
    /// The action.
    pub action: Action,
    /// How.
    pub outcome: Outcome,
    /// Why.
    pub detail: String,
    /// From the finding (or the intent) to the end, in milliseconds.
    pub elapsed_ms: Millis,
    /// Whether a human asked for it.
    pub human: bool,
    /// The approval it executed, if any.
    pub approval: Option<u64>,
}

#[derive(Serialize)]
struct EnvelopeOut<'a> {
    event_name: &'a str,
    env: Env,
    seq: u64,
    ts: &'a str,
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a AppName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<u64>,
    actor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
    prev: Hash,
    body: &'a Body,
}

#[derive(Deserialize)]
struct EnvelopeIn<'a> {
    env: Env,
    seq: u64,
    #[serde(borrow)]
    ts: Cow<'a, str>,
    app: Option<AppName>,
    cause: Option<u64>,
    actor: String,
    trace: Option<String>,
    body: Body,
}

#[derive(Deserialize)]
struct VersionIn {
    v: u32,
}

/// A line that is no record.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Written by a newer version.
    #[error("record format {0} is newer than the {VERSION} this version reads")]
    Version(u32),
    /// Not the JSON of a record.
    #[error("not a record")]
    Json(#[source] serde_json::Error),
    /// Not the body that the line is about.
    #[error("not the body that the line names")]
    Blob,
    /// The timestamp is not RFC 3339.
    #[error("timestamp `{0}` is not RFC 3339")]
    Time(String),
}

impl Record {
    /// The line, without newline. `prev` is the leaf hash of the line before.
    #[must_use]
    pub fn line(&self, prev: Hash) -> Vec<u8> {
        self.line_with(self.body.event_name(), &self.body, prev)
    }

    fn line_with(&self, event_name: &str, body: &Body, prev: Hash) -> Vec<u8> {
        let ts = format_time(self.at);
        let envelope = EnvelopeOut {
            event_name,
            env: self.env,
            seq: self.seq,
            ts: &ts,
            v: VERSION,
            app: self.app.as_ref(),
            cause: self.cause,
            actor: &self.actor,
            trace: self.trace.as_deref(),
            prev,
            body,
        };
        // Serializing owned data with string keys to memory cannot fail.
        inert(serde_json::to_vec(&envelope).unwrap_or_default())
    }

    /// Reads a line back.
    ///
    /// # Errors
    /// [`Error`] when the line is from a newer version or is no record.
    pub fn parse(line: &[u8]) -> Result<Self, Error> {
        let EnvelopeIn { env, seq, ts, app, cause, actor, trace, body } =
            serde_json::from_slice(line).map_err(|error| {
                match serde_json::from_slice::<VersionIn>(line) {
                    Ok(VersionIn { v }) if v > VERSION => Error::Version(v),
                    _ => Error::Json(error),
                }
            })?;
        let at = DateTime::parse_from_rfc3339(&ts)
            .ok()
            .and_then(|t| u64::try_from(t.timestamp_millis()).ok())
            .ok_or_else(|| Error::Time(ts.into_owned()))?;
        Ok(Self { seq, at, env, app, cause, actor, trace, body })
    }

    /// `dec-<seq>`, when this is a decision.
    #[must_use]
    pub fn decision(&self) -> Option<&Decided> {
        match &self.body {
            Body::Decided(decided) => Some(decided),
            _ => None,
        }
    }
}

/// RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn format_time(at: Millis) -> String {
    i64::try_from(at)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .map(|t| t.to_rfc3339_opts(SecondsFormat::Millis, true))
        .unwrap_or_default()
}

//! The gate chain: seven groups, one gate per file, file name = gate id.
//!
//! Every gate judges every proposal, the most restrictive effect wins, the order of the list never matters, and an empty list
//! refuses. A gate is data and a function of [`Case`]; it reads no clock, no other gate's verdict, and mutates nothing.
//!
//! To add one: write `gates/<id>.rs` with its `GATE`, `judge` and table of cases, and add it to the module list and to
//! [`GATES`] below.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::app::{Env, Millis};
use crate::choose::Proposal;
use crate::detect::{Finding, FindingKind};
use crate::permit::Permit;
use crate::plan::Operation;
use crate::policy::Policy;
use crate::reason::Reason;
use crate::signal::Reading;
use crate::state::{AppState, Pause, Remembered, Storm};
use crate::verdict::{Effect, Fact, Ruling, Verdict};

/// What gates may know of the rest of the environment, computed once per decision and embedded in its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// The environment this server serves.
    pub env: Env,
    /// Pauses and halts that apply to this app or action.
    pub pauses: Vec<Pause>,
    /// Dry run.
    pub dry_run: bool,
    /// Demo mode.
    pub demo: bool,
    /// Learning is frozen.
    pub frozen: bool,
    /// Whether the proof log can be written.
    pub log_writable: bool,
    /// Apps in the environment.
    pub apps: u32,
    /// Unhealthy apps among them.
    pub unhealthy: u32,
    /// Apps with a disruptive attempt in flight.
    pub disrupting: u32,
    /// Apps with a start (of what was down) in flight.
    pub starting: u32,
    /// Effects in the last hour.
    pub effects_last_hour: u32,
    /// When the oldest of them leaves the hour.
    pub oldest_effect_at: Option<Millis>,
    /// The storm, if there is one.
    pub storm: Option<Storm>,
    /// The common cause, if other apps show the finding that is answered, and how far that cause has been tried.
    pub canary: Option<CommonCause>,
    /// The plan of this app that waits for a human.
    pub pending: Option<PendingPlan>,
}

/// A plan that waits for a human: an equal one joins it instead of asking twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingPlan {
    /// Sequence number of the approval's request.
    pub approval: u64,
    /// The decision that was held.
    pub decision: u64,
    /// Digest of the plan.
    pub plan_digest: String,
}

/// Several apps with one finding at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonCause {
    /// The finding they share.
    pub kind: FindingKind,
    /// How many apps show it.
    pub apps: u32,
    /// The app that is tried, or this one if none is.
    pub first: crate::app::AppName,
    /// Apps that the same action has healed: so many more than the canary may be tried at once, so 1, 2, 4 ... are.
    pub allowance: u32,
    /// Other apps that are being tried, or were in vain just now (0 = this one is the canary).
    pub position: u32,
    /// Until when what was tried in vain counts, or until when another app would have to show the finding to make a cause of it;
    /// `None` as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
}

/// Everything a gate may look at.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The app.
    pub app: &'a AppState,
    /// The rest of the environment.
    pub around: &'a Surroundings,
    /// The rules.
    pub policy: &'a Policy,
    /// Digest of the rules.
    pub policy_digest: &'a str,
    /// What is to be judged.
    pub proposal: &'a Proposal,
    /// What is wrong.
    pub findings: &'a [Finding],
    /// The signals.
    pub reading: &'a Reading,
    /// The time.
    pub now: Millis,
}

/// One gate: data and a function, no trait object.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// Id = file name.
    pub id: &'static str,
    /// Group, 1 to 7 (intake, mode, environment, governance, self-restraint, blast radius, approval).
    pub group: u8,
    /// One line for `agentctl gates`.
    pub summary: &'static str,
    /// The codes it can answer with.
    pub reasons: &'static [Reason],
    /// The judgement.
    pub judge: fn(&Case<'_>) -> Judgement,
}

/// What a gate says, before its id and group are added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    effect: Effect,
    reason: Option<Reason>,
    value: Fact,
    limit: Fact,
    clears_at: Option<Millis>,
    self_imposed: bool,
}

impl Judgement {
    /// Nothing against it.
    #[must_use]
    pub const fn pass(value: Fact, limit: Fact) -> Self {
        let (effect, reason) = (Effect::Pass, None);
        Self { effect, reason, value, limit, clears_at: None, self_imposed: true }
    }

    /// Does not apply to this proposal.
    #[must_use]
    pub const fn not_applicable() -> Self {
        Self::pass(Fact::None, Fact::None)
    }

    /// A human may let it through.
    #[must_use]
    pub const fn hold(reason: Reason, value: Fact, limit: Fact) -> Self {
        let (effect, reason) = (Effect::Hold, Some(reason));
        Self { effect, reason, value, limit, clears_at: None, self_imposed: false }
    }

    /// The agent restrains itself.
    #[must_use]
    pub const fn refuse(reason: Reason, value: Fact, limit: Fact) -> Self {
        let (effect, reason) = (Effect::Refuse, Some(reason));
        Self { effect, reason, value, limit, clears_at: None, self_imposed: true }
    }

    /// With the code of something that went right.
    #[must_use]
    pub const fn saying(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// It would pass by itself then.
    #[must_use]
    pub const fn clears_at(mut self, at: Millis) -> Self {
        self.clears_at = Some(at);
        self
    }

    /// A human or the environment imposes it, not the agent on itself.
    #[must_use]
    pub const fn imposed(mut self) -> Self {
        self.self_imposed = false;
        self
    }
}

/// All verdicts, the ruling they add up to, and the permit if there is one.
#[derive(Debug)]
pub struct Enforced {
    /// One per gate, in list order.
    pub verdicts: Vec<Verdict>,
    /// The sum.
    pub ruling: Ruling,
    /// Present exactly when the ruling is [`Ruling::Permitted`] and there is something to do.
    pub permit: Option<Permit>,
}

/// Judges `case` with every gate. `decision` is the sequence number the permit will carry.
#[must_use]
pub fn enforce(case: &Case<'_>, decision: u64) -> Enforced {
    enforce_with(GATES, case, decision)
}

/// [`enforce`] with another list of gates, for tests of the chain itself.
#[must_use]
pub(crate) fn enforce_with(gates: &[Gate], case: &Case<'_>, decision: u64) -> Enforced {
    let verdicts: Vec<Verdict> = gates.iter().map(|gate| judge(gate, case)).collect();
    let ruling = match rule(&verdicts, case.proposal.action) {
        Ruling::Refused { reason: Reason::UncertaintyNoop, .. } if confidence::is_overdue(case) => {
            Ruling::Refused { reason: Reason::UncertaintyNoop, instead: Action::Escalate }
        }
        ruling => ruling,
    };
    let permit = match (&ruling, &case.proposal.plan) {
        (Ruling::Permitted, Some(plan)) => Some(Permit::new(plan.clone(), decision)),
        _ => None,
    };
    Enforced { verdicts, ruling, permit }
}

fn judge(gate: &Gate, case: &Case<'_>) -> Verdict {
    let Judgement { effect, reason, value, limit, clears_at, self_imposed } = (gate.judge)(case);
    let (gate, group) = (Cow::Borrowed(gate.id), gate.group);
    Verdict { gate, group, effect, reason, value, limit, clears_at, self_imposed }
}

/// The most restrictive effect wins; among equals the lowest group and then the order of the catalogue of reasons names the primary
/// one, so the order of the list cannot matter. A name that is never an action is called that whatever else stands against it: it
/// would be refused without the other obstacle too. No gate at all means that nobody looked: refuse.
fn rule(verdicts: &[Verdict], action: Action) -> Ruling {
    let worst = verdicts.iter().map(|v| v.effect).max().unwrap_or(Effect::Refuse);
    let primary = verdicts
        .iter()
        .filter(|v| v.effect == worst)
        .min_by_key(|v| (v.reason != Some(Reason::UnsafeActionRefused), v.group, v.reason))
        .and_then(|v| v.reason);
    match (worst, primary) {
        (Effect::Pass, _) => Ruling::Permitted,
        (Effect::Hold, Some(reason)) => Ruling::Held { reason },
        // A gate that blocks without a reason, or no gate: treated as the strictest answer there is.
        (_, None) => Ruling::Refused { reason: Reason::SourceRefused, instead: Action::Noop },
        (Effect::Refuse, Some(reason)) => {
            Ruling::Refused { reason, instead: instead_of(action, reason) }
        }
    }
}

/// What is done instead of a refused action.
fn instead_of(action: Action, reason: Reason) -> Action {
    match reason {
        _ if action.is_passive() => Action::Noop,
        Reason::SignalConflictObserve
        | Reason::StaleData
        | Reason::InsufficientSources
        | Reason::Flapping => Action::Observe,
        Reason::BreakerOpen
        | Reason::MemoryOverride
        | Reason::RepetitionSuppressed
        | Reason::Storm => Action::Escalate,
        // What was not deployed does not get well by waiting: doubt about another try is the end of this ladder.
        Reason::UncertaintyNoop if action == Action::RetryDeployment => Action::Escalate,
        _ => Action::Noop,
    }
}

mod app_budget;
mod approval;
mod autonomy;
mod breaker;
mod capability;
mod common_cause;
mod concurrency;
mod confidence;
mod conflict;
mod cooldown;
mod demo_allowlist;
mod demo_intake;
mod dry_run;
mod duplicate;
mod environment;
mod flapping;
mod freshness;
mod hourly;
mod in_flight;
mod log;
mod maintenance;
mod memory;
mod pause;
mod prerequisite;
mod protected;
mod repetition;
mod source;
mod storm;
mod unsafe_name;

pub(crate) use storm::threshold as storm_threshold;

/// Every gate, by group. All of them judge every proposal; the order is for readers only.
pub const GATES: &[Gate] = &[
    source::GATE,
    demo_intake::GATE,
    duplicate::GATE,
    pause::GATE,
    dry_run::GATE,
    demo_allowlist::GATE,
    log::GATE,
    unsafe_name::GATE,
    environment::GATE,
    autonomy::GATE,
    protected::GATE,
    capability::GATE,
    prerequisite::GATE,
    cooldown::GATE,
    repetition::GATE,
    maintenance::GATE,
    in_flight::GATE,
    freshness::GATE,
    conflict::GATE,
    flapping::GATE,
    confidence::GATE,
    memory::GATE,
    breaker::GATE,
    app_budget::GATE,
    concurrency::GATE,
    hourly::GATE,
    storm::GATE,
    common_cause::GATE,
    approval::GATE,
];

/// Reasons that no gate answers with, and who decides them instead.
pub const ELSEWHERE: &[(Reason, &str)] = &[(
    Reason::OwnerConflict,
    "an actuator, when discovery finds another controller: a process has no other owner",
)];

impl Case<'_> {
    /// Nothing would be touched, so nothing but the intake can object.
    fn is_passive(&self) -> bool {
        self.proposal.action.is_passive()
    }

    /// Only settings would change, no process: what keeps effects away from an app must not keep a human from lifting it.
    fn is_settings(&self) -> bool {
        self.proposal.action == Action::Configure
            && self
                .proposal
                .plan
                .as_ref()
                .is_none_or(|plan| matches!(plan.operation, Operation::Configure { .. }))
    }

    /// Nothing of the app ever ran.
    fn is_first_deployment(&self) -> bool {
        self.proposal.action == Action::Deploy
            && self.app.running() == 0
            && !self.app.last_effect.contains_key(&Action::Deploy)
    }

    /// A human asked for it: the agent's restraint of itself is not for them.
    fn is_human(&self) -> bool {
        self.proposal.source.is_human()
    }

    /// Whether something that runs would be taken down. Actuators replace instances one at a time and begin with those that
    /// are down, so the most that is missing at once because of the plan is one.
    fn disrupts(&self) -> bool {
        self.app.running() > 0 && self.proposal.plan.as_ref().is_some_and(|p| p.disrupts() > 0)
    }

    /// Whether it only starts what is down: this costs no disruption budget, and no signal is needed to know that it is right.
    fn is_start(&self) -> bool {
        match self.proposal.plan.as_ref().map(|plan| &plan.operation) {
            Some(Operation::Restart { targets }) => {
                !targets.is_empty() && targets.iter().all(|target| !target.running)
            }
            Some(Operation::Deploy { .. }) => self.app.running() == 0,
            _ => false,
        }
    }

    /// The finding of this kind, if there is one now.
    fn finding(&self, kind: FindingKind) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.kind == kind)
    }

    /// What the agent itself executed lately, oldest first: a human's own actions do not count against it.
    fn executed_since(&self, window: Millis) -> impl Iterator<Item = &Remembered> {
        let inside = move |d: &&Remembered| d.at.saturating_add(window) > self.now;
        self.app.decisions.iter().filter(|d| d.executed && !d.human).filter(inside)
    }
}

/// A fact of fixed words; nothing is allocated.
const fn words(text: &'static str) -> Fact {
    Fact::Text(Cow::Borrowed(text))
}

/// A fact of a number of things.
fn count(n: usize) -> Fact {
    Fact::Count(n as u64)
}

#[cfg(test)]
pub(crate) mod arbitrary;
#[cfg(test)]
pub(crate) mod scene;
#[cfg(test)]
mod tests;

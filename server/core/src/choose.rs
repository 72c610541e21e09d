//! Findings in, proposal out: rules name the candidates, learned values rank them, gates decide elsewhere.
//!
//! Two learners stand behind one seam, and the policy names the one that is asked: the table of `q` ([`ValueTable`]) and the
//! corrected catalogue of `ccq` ([`ccq::Knowledge`]). Both learn from every outcome; the one that is asked gives each candidate its
//! value, its chance to beat doing nothing, and the outcomes that rests on. What is done with these numbers is the same for both.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::app::Millis;
use crate::detect::{Finding, FindingKind, Signature, View, signature};
use crate::plan::Plan;
use crate::policy::Policy;
use crate::signal::Reading;
use crate::state::AppState;

pub mod calibration;
pub mod ccq;
mod confidence;
mod draw;
mod expertise;
mod exploration;
mod judged;
mod prepare;
mod rules;
pub mod snapshot;
mod table;

pub(crate) use confidence::evidence;
pub(crate) use expertise::learn;
pub use expertise::{Expertise, Lessons};
pub use exploration::Leeway;
pub use prepare::{Params, PlanError, prepare};
pub use rules::primary;
pub use table::{Lesson, Row, Taught, Value, ValueTable};

/// Where a proposal comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The agent chose it.
    Agent,
    /// An authenticated human asked for it.
    Human {
        /// Principal.
        principal: String,
        /// Their reason.
        reason: String,
    },
    /// A monitor or anything else: refused.
    Other {
        /// Principal.
        principal: String,
    },
}

impl Source {
    /// Whether a human asked.
    #[must_use]
    pub const fn is_human(&self) -> bool {
        matches!(self, Self::Human { .. })
    }
}

/// One candidate with the numbers that ranked it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The action.
    pub action: Action,
    /// Chance that it beats doing nothing, by the rule's prior and verified outcomes, in permille.
    pub chance: u32,
    /// Learned value in millionths; higher is better.
    pub value: i64,
    /// Outcomes the value rests on.
    pub trials: u32,
    /// The rule's rank, 0 first.
    pub rank: u32,
    /// How likely it ends the incident, if the learner says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolves: Option<Resolves>,
}

/// How likely an action ends the incident, in permille. Not the confidence: a remedy that seldom helps may still be far better
/// than doing nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolves {
    /// The expected chance.
    pub chance: u32,
    /// Least value of its 90 % interval.
    pub low: u32,
    /// Largest value of its 90 % interval.
    pub high: u32,
}

/// What the learner made of the incident as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// What it looks like.
    pub signature: Signature,
    /// What it may be: the likeliest faults of the catalogue with their chance in permille, likeliest first.
    pub faults: Vec<(String, u32)>,
    /// What is expected of the chosen action, if the catalogue knows it: what the outcome is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<ccq::Expectation>,
}

/// A human's yes to one plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Sequence number of the approval's request.
    pub approval: u64,
    /// Who.
    pub approver: String,
    /// Who asked for it.
    pub requester: String,
    /// The plan they saw.
    pub plan_digest: String,
    /// Until when it may be used.
    pub expires_at: Millis,
}

/// What somebody wants done, before any gate has judged it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The action.
    pub action: Action,
    /// What exactly; `None` for passive actions, or when a prerequisite is missing.
    pub plan: Option<Plan>,
    /// Which prerequisite is missing.
    pub missing: Option<PlanError>,
    /// How sure the agent is that the action beats doing nothing, in permille.
    pub confidence: u32,
    /// Every candidate, best first.
    pub candidates: Vec<Candidate>,
    /// Findings it answers: the primary one, then the others, most urgent first.
    pub because: Vec<FindingKind>,
    /// Who.
    pub source: Source,
    /// The name a human asked by, when they named it; judged by the gate `unsafe_name`.
    pub requested_as: Option<String>,
    /// The approval it executes, if any.
    pub grant: Option<Grant>,
    /// Whether the draw explored instead of taking the best.
    pub explored: bool,
    /// Probability with which this action was chosen, in millionths.
    pub propensity_ppm: u32,
    /// What the learner made of the incident; absent when it has nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
}

/// What the chooser sees.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// The app.
    pub app: &'a AppState,
    /// The rules.
    pub policy: &'a Policy,
    /// What is wrong.
    pub findings: &'a [Finding],
    /// The signals it was seen in.
    pub reading: &'a Reading,
    /// Learned values for the primary finding.
    pub row: &'a Row,
    /// What was learned about the signature.
    pub beliefs: &'a ccq::Beliefs,
    /// Learning is frozen: no exploration.
    pub frozen: bool,
    /// What forbids to explore here and now; records from before it was looked at have none.
    pub leeway: Option<&'a Leeway>,
    /// The time.
    pub now: Millis,
    /// Sequence number of the decision; the draw is a function of (seed, app, seq).
    pub seq: u64,
}

/// Chooses what to do. Cannot fail: where nothing can be done, it says so with a passive action.
///
/// The rule's order decides, unless every remedy it compares has at least `trust` outcomes: then the learned value does, and
/// ties go to the action that changes least. With the probability the policy allows, another remedy is taken instead, within the limits
/// of [`exploration`].
#[must_use]
pub fn choose(choice: &Choice<'_>) -> Proposal {
    let Choice { app, policy, findings, reading, now, .. } = *choice;
    let view = View { app, policy, reading, now };
    let finding = primary(findings);
    let mut options = options(choice, &view, finding);
    let judged = judged::Judged::new(choice, signature::of(&view, findings), &options);
    judged.apply(&mut options);
    rank(&mut options, choice);
    let (explored, propensity_ppm) = exploration::explore(choice, &mut options);
    let evidence = finding.map_or(confidence::SURE, |finding| evidence(&view, finding));
    let candidates = options.iter().map(|option| option.candidate.clone()).collect();
    let because = because(finding, findings);
    let diagnosis = judged.diagnosis(options.first().map(|option| option.candidate.action));
    let chosen = options.into_iter().next();
    let (action, chance, plan) = match chosen {
        Some(option) => (option.candidate.action, option.candidate.chance, option.plan.ok()),
        None => (Action::Noop, confidence::SURE, None),
    };
    // A passive action risks nothing: there is nothing to be sure of.
    let confidence =
        if action.is_passive() { confidence::SURE } else { confidence::product(evidence, chance) };
    Proposal {
        action,
        plan,
        missing: None,
        confidence,
        candidates,
        because,
        source: Source::Agent,
        requested_as: None,
        grant: None,
        explored,
        propensity_ppm,
        diagnosis,
    }
}

/// What the fault catalogue, corrected by the beliefs, says of every candidate, whichever learner the policy asks; `None` when it does
/// not know what the incident looks like.
pub(crate) fn appraise(choice: &Choice<'_>) -> Option<(Signature, ccq::Judgement)> {
    let Choice { app, policy, findings, reading, now, .. } = *choice;
    let view = View { app, policy, reading, now };
    let options = options(choice, &view, primary(findings));
    judged::appraise(choice, signature::of(&view, findings)?, &options)
}

/// The finding that is answered, and then the others, most urgent first: the outcome is a lesson about the first one.
fn because(primary: Option<&Finding>, findings: &[Finding]) -> Vec<FindingKind> {
    let first = primary.map(|finding| finding.kind);
    let others = findings.iter().map(|finding| finding.kind).filter(|kind| Some(*kind) != first);
    first.into_iter().chain(others).collect()
}

/// A candidate with its plan.
struct Ranked {
    candidate: Candidate,
    /// The chance never falls below this, in permille.
    floor: u32,
    plan: Result<Plan, PlanError>,
}

impl Ranked {
    fn is_remedy(&self) -> bool {
        self.plan.is_ok()
    }
}

fn options(choice: &Choice<'_>, view: &View<'_>, finding: Option<&Finding>) -> Vec<Ranked> {
    let candidates = rules::candidates(view, finding).into_iter().zip(0_u32..);
    candidates
        .map(|(candidate, rank)| {
            let value = choice.row.get(candidate.action);
            Ranked {
                plan: prepare(candidate.action, choice.app, &Params::default(), choice.policy),
                candidate: Candidate {
                    action: candidate.action,
                    chance: confidence::chance(&candidate, value),
                    value: value.q_micro,
                    trials: value.trials,
                    rank,
                    resolves: None,
                },
                floor: candidate.floor,
            }
        })
        .collect()
}

/// Best first: remedies that can be carried out and passive actions in the order of the rule, or the remedies by learned value
/// when all of them can be trusted. A remedy of which the catalogue says that the gates would find it too uncertain does not stand in
/// front of one that they would not; what lacks a prerequisite comes last.
fn rank(options: &mut [Ranked], choice: &Choice<'_>) {
    let trust = choice.policy.learning.trust;
    let minimum = |o: &Ranked| {
        let risk = o.candidate.action.risk(choice.app.desired);
        choice.policy.confidence.minimum(risk)
    };
    let doubted = |o: &Ranked| {
        o.candidate.resolves.is_some() && o.is_remedy() && o.candidate.chance < minimum(o)
    };
    let impossible = |o: &Ranked| !o.is_remedy() && !o.candidate.action.is_passive();
    let trusted = |o: &Ranked| o.candidate.trials >= trust.max(1);
    let learned = options.iter().filter(|o| o.is_remedy()).all(trusted);
    options.sort_by_key(|o| {
        let value =
            (o.is_remedy() && learned).then_some((Reverse(o.candidate.value), o.candidate.action));
        (impossible(o), !o.is_remedy(), doubted(o), value, o.candidate.rank)
    });
}

#[cfg(test)]
mod tests;

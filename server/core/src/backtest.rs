//! What other rules would have cost over the incidents of a log, estimated from what was done in them and how it ended.
//!
//! A log is read twice. [`Fit`] judges every decision again, which must come out byte for byte, and lets the outcomes correct the fault
//! catalogue. [`Comparison`] then asks two policies what they would have decided in each recorded situation, and values that with the
//! corrected catalogue: cost now, and the best ever after. What the log says about the very action weighs in with the inverse of
//! the probability with which it was chosen (Dudik, M., Langford, J. and Li, L.: "Doubly robust policy evaluation and learning",
//! ICML 2011). A log says little about what was seldom done in it: the effective sample size tells how little.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::app::{Env, Millis};
use crate::choose::ccq::{Catalogue, Judgement, Knowledge, OWN, Trial, position};
use crate::choose::{self, Choice, Expertise, Source, Taught};
use crate::counterfactual::{Judged, rejudge};
use crate::detect::{Signature, View, signature};
use crate::policy::Policy;
use crate::record::{Body, Calibrated, Concluded, Decided, Record, Trigger};
use crate::replay::{Mismatch, Replay};
use crate::state::{ApprovalState, Outcome};
use crate::verdict::Ruling;

mod promotion;
mod sample;

pub use promotion::promotion;
pub use sample::Interval;
use sample::Sample;

/// Decisions that come out differently and are told one by one.
const TOLD: usize = 20;
/// Fewest incidents a verdict can rest on.
const LEAST: u64 = 10;
/// Below this share of the incidents the log says next to nothing about what a policy does, in permille.
const SCARCE: u32 = 100;
/// Estimates further apart than this share contradict each other, in permille.
const APART: i64 = 200;

/// The first reading of a log.
#[derive(Debug)]
pub struct Fit {
    replay: Replay,
    decisions: u64,
    differing: u64,
    told: Vec<Mismatch>,
    tried: BTreeMap<u64, Tried>,
    /// What waits for a human, by the request; a yes is another decision, of which the outcome is that of this one.
    held: BTreeMap<u64, Tried>,
    /// What is about to be asked.
    asked: Option<Tried>,
    /// What helped, as far as is known yet, by the record that spoke of it last: its conclusion, then what was learned from that. The
    /// incident may come back.
    helped: BTreeMap<u64, Tried>,
    ended: BTreeMap<u64, Ended>,
    knowledge: Knowledge,
}

/// An attempt whose outcome is not known yet.
#[derive(Debug)]
struct Tried {
    /// The decision to try it.
    decision: u64,
    trial: Trial,
    next: i64,
}

/// How an attempt of the agent ended.
#[derive(Debug, Clone, Copy)]
struct Ended {
    /// What it cost, and what was expected of the rest when it did not help, in millionths.
    cost: i64,
}

/// A log that was read once: what it teaches, and how its attempts ended.
#[derive(Debug)]
pub struct Fitted {
    /// Decisions that were judged again.
    pub decisions: u64,
    /// Those that come out differently.
    pub differing: u64,
    /// The first of them.
    pub told: Vec<Mismatch>,
    /// Outcomes that corrected the catalogue.
    pub outcomes: u64,
    /// The policy in force at the end of the log.
    pub newest: Policy,
    replay: Replay,
    ended: BTreeMap<u64, Ended>,
    knowledge: Knowledge,
}

impl Fit {
    /// Before the first record.
    #[must_use]
    pub fn new(env: Env) -> Self {
        Self {
            replay: Replay::new(env),
            decisions: 0,
            differing: 0,
            told: Vec::new(),
            tried: BTreeMap::new(),
            held: BTreeMap::new(),
            asked: None,
            helped: BTreeMap::new(),
            ended: BTreeMap::new(),
            knowledge: Knowledge::default(),
        }
    }

    /// Takes one record in, in the order of the log.
    pub fn fold(&mut self, record: &Record) {
        match &record.body {
            Body::Decided(decided) => self.decided(decided),
            Body::ApprovalRequested(approval) => {
                let asked = self.asked.take_if(|tried| tried.decision == approval.decision);
                self.held.extend(asked.map(|tried| (approval.seq, tried)));
            }
            Body::ApprovalEnded { approval, .. }
            | Body::ApprovalAnswered { approval, state: ApprovalState::Rejected, .. } => {
                self.held.remove(approval);
            }
            Body::Concluded(concluded) => self.concluded(record.seq, concluded),
            Body::Learned { lesson, calibrated, .. } => {
                self.learned(record, lesson.taught, calibrated.as_deref());
            }
            _ => {}
        }
        self.replay.fold(record);
    }

    /// After the last record.
    #[must_use]
    pub fn finish(self) -> Fitted {
        let Self { replay, decisions, differing, told, ended, knowledge, .. } = self;
        let outcomes = u64::try_from(ended.len()).unwrap_or(u64::MAX);
        let newest = replay.policy.clone();
        Fitted { decisions, differing, told, outcomes, newest, replay, ended, knowledge }
    }

    fn decided(&mut self, decided: &Decided) {
        self.decisions += 1;
        if let Err(mismatch) = self.replay.recheck(decided) {
            self.differing += 1;
            if self.told.len() < TOLD {
                self.told.push(mismatch);
            }
        }
        if let Some(grant) = &decided.proposal.grant {
            let tried = self.held.remove(&grant.approval);
            if decided.ruling == Ruling::Permitted {
                self.tried.extend(tried.map(|tried| (decided.seq, tried)));
            }
            return;
        }
        let Some(policy) = self.replay.named(&decided.policy_digest) else { return };
        if matches!(decided.ruling, Ruling::Refused { .. }) || !is_own(decided) {
            return;
        }
        let action = decided.proposal.action;
        let Some((signature, judgement)) = appraise(decided, policy, &self.knowledge) else {
            return;
        };
        let of = |judged: &&choose::ccq::Judged| judged.action == action;
        let Some(judged) = judgement.ranked.iter().find(of) else { return };
        let (chance, cost0) = (judged.expected.chance, judged.expected.cost0);
        let trial = Trial { signature, action, resolved: false, cost: cost0, chance, cost0 };
        let tried = Tried { decision: decided.seq, trial, next: judged.next_micro };
        if decided.ruling == Ruling::Permitted {
            self.tried.insert(decided.seq, tried);
        } else {
            self.asked = Some(tried);
        }
    }

    fn concluded(&mut self, seq: u64, concluded: &Concluded) {
        let Some(tried) = self.tried.remove(&concluded.decision) else { return };
        let Tried { decision, mut trial, next } = tried;
        if concluded.human || concluded.outcome == Outcome::Inconclusive {
            return;
        }
        trial.resolved = concluded.outcome == Outcome::Verified;
        if trial.resolved {
            // Holding still is our wish to be sure and no downtime.
            let hold = self.replay.policy.verification.hold_ms;
            trial.cost = measured(&trial, concluded.elapsed_ms.saturating_sub(hold));
        }
        self.knowledge.learn(OWN, &trial);
        let rest = if trial.resolved { 0 } else { next };
        let cost = trial.cost.to_micro().saturating_add(rest);
        self.ended.insert(decision, Ended { cost });
        if trial.resolved {
            let tried = Tried { decision, trial, next };
            self.helped.insert(seq, tried);
        }
    }

    /// A lesson names the conclusion it is drawn from, and a correction the lesson. What did not last is corrected here as well: it
    /// cost as much as if it had failed at once.
    fn learned(&mut self, record: &Record, taught: Taught, said: Option<&Calibrated>) {
        if let (Taught::Rejected, Some(said)) = (taught, said) {
            self.knowledge.reject(OWN, &said.trial);
        }
        let Some(helped) = record.cause.and_then(|cause| self.helped.remove(&cause)) else {
            return;
        };
        if taught != Taught::Relapsed {
            self.helped.insert(record.seq, helped);
            return;
        }
        let Tried { decision, trial, next } = helped;
        self.knowledge.relapse(OWN, &trial);
        let cost = trial.cost0.to_micro().saturating_add(next);
        self.ended.insert(decision, Ended { cost });
    }
}

fn measured(trial: &Trial, took: Millis) -> choose::ccq::Fixed {
    let catalogue = Catalogue::builtin();
    let effort = position(trial.action).and_then(|p| catalogue.efforts.get(p).copied());
    effort.map_or(trial.cost0, |effort| effort.measured(trial.cost0, took, catalogue.step_ms))
}

/// What the agent chose by itself.
fn is_own(decided: &Decided) -> bool {
    let proposal = &decided.proposal;
    decided.trigger == Trigger::Reading
        && proposal.source == Source::Agent
        && !decided.findings.is_empty()
}

/// What the catalogue as corrected by `knowledge` says of the situation of a decision.
fn appraise(
    decided: &Decided,
    policy: &Policy,
    knowledge: &Knowledge,
) -> Option<(Signature, Judgement)> {
    let Decided { app, reading, now, findings, row, .. } = decided;
    let view = View { app, policy, reading, now: *now };
    let beliefs = knowledge.beliefs(signature::of(&view, findings)?);
    choose::appraise(&Choice {
        app,
        policy,
        findings,
        reading,
        row,
        beliefs: &beliefs,
        frozen: true,
        leeway: None,
        now: *now,
        seq: decided.seq,
    })
}

/// Whose rules are compared.
#[derive(Debug, Clone)]
pub enum Rules {
    /// Those that each decision was made under.
    Recorded,
    /// These.
    Given(Box<Policy>),
    /// Those that each decision was made under, by somebody who has learned this.
    Learned(Box<Expertise>),
}

/// The second reading of a log.
#[derive(Debug)]
pub struct Comparison<'a> {
    fitted: &'a Fitted,
    rules: [Rules; 2],
    arms: [Arm; 2],
    difference: Sample,
}

/// What adds up for one policy.
#[derive(Debug, Default)]
struct Arm {
    changed: u64,
    model: Sample,
    robust: Sample,
    weight: i128,
    weight_squares: i128,
    weighted_cost: i128,
}

/// What one policy would have cost per incident, in millionths of a step of full downtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Decisions that differ from the recorded ones.
    pub changed: u64,
    /// By the corrected catalogue alone.
    pub model: Interval,
    /// Corrected with what the log says about the very actions.
    pub doubly_robust: Interval,
    /// By the log alone; absent when it never did what this policy does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_normalized_micro: Option<i64>,
    /// As many outcomes of the log speak about this policy.
    pub effective_milli: u64,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Decisions that were compared.
    pub situations: u64,
    /// Outcomes that were recorded for them.
    pub outcomes: u64,
    /// The first policy.
    pub a: Estimate,
    /// The second one.
    pub b: Estimate,
    /// What the second one costs more than the first, situation by situation.
    pub difference: Interval,
    /// The second one against the first.
    pub verdict: Verdict,
    /// Why it is not decided, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The second policy against the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It costs less.
    Better,
    /// It costs more.
    Worse,
    /// The log does not tell.
    Inconclusive,
}

impl Verdict {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Inconclusive => "inconclusive",
        }
    }
}

impl<'a> Comparison<'a> {
    /// Compares `b` with `a`.
    #[must_use]
    pub fn new(fitted: &'a Fitted, a: Rules, b: Rules) -> Self {
        Self { fitted, rules: [a, b], arms: Default::default(), difference: Sample::default() }
    }

    /// Takes one record in, in the order of the log.
    pub fn fold(&mut self, record: &Record) {
        let Some(decided) = record.decision().filter(|decided| is_own(decided)) else { return };
        let Some(policy) = self.fitted.replay.named(&decided.policy_digest) else { return };
        let Some((_, judgement)) = appraise(decided, policy, &self.fitted.knowledge) else {
            return;
        };
        let costs: BTreeMap<Action, i64> =
            judgement.ranked.iter().map(|judged| (judged.action, judged.cost_micro)).collect();
        let [a, b] = &self.rules;
        let choices = [a, b].map(|rules| match rules {
            Rules::Recorded => chosen(decided, policy, None),
            Rules::Given(given) => chosen(decided, given, None),
            Rules::Learned(expertise) => chosen(decided, policy, Some(expertise)),
        });
        let [Some(a), Some(b)] = choices.map(|action| Some((action, *costs.get(&action)?))) else {
            return;
        };
        self.difference.add(b.1.saturating_sub(a.1));
        let recorded = effective(decided.proposal.action, &decided.ruling);
        let seen = Seen {
            action: recorded,
            expected: costs.get(&recorded).copied(),
            propensity_ppm: decided.proposal.propensity_ppm,
            ended: self.fitted.ended.get(&decided.seq).copied(),
        };
        for (arm, (action, cost)) in self.arms.iter_mut().zip([a, b]) {
            arm.add(action, cost, &seen);
        }
    }

    /// What came out.
    #[must_use]
    pub fn report(self) -> Report {
        let [a, b] = self.arms;
        let difference = self.difference.interval();
        let situations = self.difference.count();
        let why = undecided(situations, &difference, [&a, &b]);
        let verdict = match why {
            Some(_) => Verdict::Inconclusive,
            None if difference.high_micro < 0 => Verdict::Better,
            None => Verdict::Worse,
        };
        let outcomes = self.fitted.outcomes;
        let (a, b) = (a.estimate(), b.estimate());
        Report { situations, outcomes, a, b, difference, verdict, why }
    }
}

/// What a policy would have done, with what was learned then or with something else: without exploration, and after the gates.
fn chosen(decided: &Decided, policy: &Policy, learned: Option<&Expertise>) -> Action {
    let mut still = decided.clone();
    still.around.frozen = true;
    if let Some(Expertise { table, knowledge }) = learned {
        let Decided { app, reading, now, findings, .. } = decided;
        let row = choose::primary(findings).map(|finding| table.row(finding.kind));
        let look = signature::of(&View { app, policy, reading, now: *now }, findings);
        still.row = row.unwrap_or_default();
        still.beliefs = look.map(|look| knowledge.beliefs(look)).unwrap_or_default();
    }
    let Judged { proposal, ruling, .. } = rejudge(&still, policy);
    effective(proposal.action, &ruling)
}

/// What comes of a ruling: a refused action is not done, one that is held is taken for approved, and looking on is doing nothing.
fn effective(action: Action, ruling: &Ruling) -> Action {
    let is_refused = matches!(ruling, Ruling::Refused { .. });
    if is_refused || action.is_passive() { Action::Noop } else { action }
}

/// What the log says about one situation.
struct Seen {
    action: Action,
    expected: Option<i64>,
    propensity_ppm: u32,
    ended: Option<Ended>,
}

/// A weight of one.
const ONE: i128 = 1_000_000;

impl Arm {
    fn add(&mut self, action: Action, cost: i64, seen: &Seen) {
        self.changed += u64::from(action != seen.action);
        self.model.add(cost);
        let ended = seen.ended.filter(|_| action == seen.action && seen.propensity_ppm > 0);
        let (Some(ended), Some(expected)) = (ended, seen.expected) else {
            return self.robust.add(cost);
        };
        let weight = ONE * ONE / i128::from(seen.propensity_ppm);
        let surprise = i128::from(ended.cost) - i128::from(expected);
        let corrected = i128::from(cost) + weight * surprise / ONE;
        self.robust.add(i64::try_from(corrected).unwrap_or(cost));
        self.weight += weight;
        self.weight_squares += weight * weight / ONE;
        self.weighted_cost += weight * i128::from(ended.cost) / ONE;
    }

    /// `(sum w)^2 / sum w^2`, in thousandths.
    fn effective_milli(&self) -> u64 {
        let size = (self.weight * self.weight / ONE * 1_000).checked_div(self.weight_squares);
        size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
    }

    fn is_scarce(&self) -> bool {
        let share = self.effective_milli().checked_div(self.model.count()).unwrap_or(0);
        share < u64::from(SCARCE)
    }

    /// Whether what was seen and what is expected are too far apart to believe either.
    fn contradicts(&self) -> bool {
        let (model, robust) = (self.model.interval().mean_micro, self.robust.interval().mean_micro);
        let gap = model.saturating_sub(robust).saturating_abs();
        gap.saturating_mul(1_000) > model.saturating_abs().saturating_mul(APART)
    }

    fn estimate(&self) -> Estimate {
        let own = (self.weighted_cost * ONE).checked_div(self.weight);
        Estimate {
            changed: self.changed,
            model: self.model.interval(),
            doubly_robust: self.robust.interval(),
            self_normalized_micro: own.and_then(|cost| i64::try_from(cost).ok()),
            effective_milli: self.effective_milli(),
        }
    }
}

fn undecided(situations: u64, difference: &Interval, arms: [&Arm; 2]) -> Option<String> {
    if situations < LEAST {
        return Some(format!("{situations} situations are fewer than {LEAST}"));
    }
    if *difference == Interval::default() {
        return Some("both decide alike in every situation".to_owned());
    }
    if arms.into_iter().any(|arm| arm.is_scarce() && arm.contradicts()) {
        let text = "the log seldom did what one of them does, and what it saw is not as expected";
        return Some(text.to_owned());
    }
    let spans = difference.low_micro <= 0 && difference.high_micro >= 0;
    spans.then(|| "the difference is within chance".to_owned())
}

#[cfg(test)]
mod tests;

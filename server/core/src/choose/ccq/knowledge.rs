//! What experience says against the catalogue: one log-odds offset and one cost ratio per (signature, action).
//!
//! The offset is a Bayesian logistic regression with one weight, updated one outcome at a time by Laplace's approximation
//! (Chapelle, O. and Li, L.: "An empirical evaluation of Thompson sampling", NIPS 2011, section 3.1). Every agent keeps its own sums;
//! what is believed is the sum over agents. So a merge only takes the newer of two versions of each agent's sums: in any order,
//! grouped in any way and as often as one likes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::backup::{CHANCE_MAX, CHANCE_MIN, Correction};
use super::catalogue::{ACTIONS, COUNT};
use super::fixed::Fixed;
use crate::action::Action;
use crate::detect::Signature;

/// The name under which an agent keeps its own experience.
pub const OWN: &str = "own";
/// Most agents whose experience is kept apart.
pub const ORIGINS: usize = 64;
/// Precision of the prior: as much as four outcomes of an even chance.
const PRECISION: Fixed = Fixed::ONE;
/// The offset stays within this: the catalogue is wrong by a factor of 400 in the odds at most.
const OFFSET: Fixed = Fixed::whole(6);
/// Steps of catalogue cost that the prior of the cost ratio weighs as much as.
const COST_WEIGHT: Fixed = Fixed::whole(10);
/// Surprise per outcome that is put down to chance.
const DRIFT_SLACK: Fixed = Fixed::micro(500_000);
/// Surprise that has added up to a drift. Measured in HealGym, score 300 incidents after a shift (drifts that were none, in 12 lives of
/// 500 incidents): 69 (9) with a limit of 9, 83 (35) with 7, 83 (64) with 6.
const DRIFT_LIMIT: Fixed = Fixed::whole(7);
/// One outcome surprises at most this much, so that no single one makes a drift.
const SURPRISE_MAX: Fixed = Fixed::whole(8);
/// What is kept of the cost sums after a drift.
const COST_KEPT: Fixed = Fixed::micro(200_000);
/// What another environment's experience weighs here.
const FOREIGN: Fixed = Fixed::micro(200_000);
/// Its outcomes that count as one here.
const FOREIGN_OUTCOMES: u32 = 5;

/// One agent's own experience with one action under one signature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// Outcomes; of two versions the one with more is newer, and then the one with more corrections. First, because versions are ordered
    /// by it.
    pub trials: u32,
    /// Outcomes that were taken back afterwards; they count among the trials, and not as resolved.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub corrected: u32,
    /// Plans of the kind that a human said no to; no outcomes, and of two versions with as many of those the one with more is newer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected: u32,
    /// Outcomes that ended the incident.
    pub resolved: u32,
    /// Precision that these outcomes add to the prior's.
    pub precision: Fixed,
    /// Precision times offset beyond the prior's, which add up over agents.
    pub information: Fixed,
    /// Where the prior stands since the last drift.
    pub base: Fixed,
    /// What the attempts cost.
    pub cost: Fixed,
    /// What the catalogue expected them to cost.
    pub cost0: Fixed,
    /// Surprise that it helped more often than expected, added up.
    pub above: Fixed,
    /// Surprise that it helped less often than expected, added up.
    pub below: Fixed,
}

impl Cell {
    /// What in it no outcomes can have led to: the field, its value, and what must hold. The limits are those of the formulas above,
    /// with room for what they round.
    #[must_use]
    pub fn flaws(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut found = Vec::new();
        let mut must = |holds: bool, field, value: String, rule| {
            if !holds {
                found.push((field, value, rule));
            }
        };
        let count = i32::try_from(self.trials.saturating_add(self.rejected)).unwrap_or(i32::MAX);
        let lessons = Fixed::whole(count.min(LESSONS_MAX)).plus(Fixed::whole(2));
        let within = |number: Fixed, most: Fixed| number <= most && number >= most.negated();
        let shown = |number: Fixed| number.to_micro().to_string();
        let positive = |number: Fixed| number >= Fixed::ZERO;
        must(count <= LESSONS_MAX, "trials", count.to_string(), "must be at most 10000000");
        let resolved = self.resolved;
        must(resolved <= self.trials, "resolved", resolved.to_string(), "must be at most `trials`");
        let corrected = self.corrected;
        let rule = "must be at most `trials`";
        must(corrected <= self.trials, "corrected", corrected.to_string(), rule);
        let precision = positive(self.precision) && self.precision <= lessons;
        let rule = "millionths must be 0 to 1 for each outcome";
        must(precision, "precision", shown(self.precision), rule);
        let rule = "millionths must be within 4 for each outcome";
        let most = lessons.times(Fixed::whole(4));
        must(within(self.information, most), "information", shown(self.information), rule);
        must(within(self.base, OFFSET), "base", shown(self.base), "millionths must be within 6");
        let rule = "millionths must be within 160 for each outcome";
        let most = lessons.times(Fixed::whole(160));
        must(within(self.cost, most), "cost", shown(self.cost), rule);
        must(within(self.cost0, most), "cost0", shown(self.cost0), rule);
        let limit = DRIFT_LIMIT.plus(SURPRISE_MAX);
        let rule = "millionths must be 0 to 15";
        must(positive(self.above) && self.above <= limit, "above", shown(self.above), rule);
        must(positive(self.below) && self.below <= limit, "below", shown(self.below), rule);
        found
    }
}

/// More outcomes than any agent lives to see, and few enough that sums over them stay far from the limits.
const LESSONS_MAX: i32 = 10_000_000;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One agent's own experience under one signature.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// How many drifts this experience is behind; what is older than the newest of all agents does not count any more.
    pub epoch: u32,
    /// By action; absent is never tried.
    pub cells: BTreeMap<Action, Cell>,
}

/// Everything learned: agents' own experience side by side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knowledge {
    /// By agent and signature.
    origins: BTreeMap<String, BTreeMap<Signature, Row>>,
}

/// What all experience together says about one action under one signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// Log-odds by which the catalogue is wrong.
    pub offset: Fixed,
    /// How sure that is: the inverse of its variance.
    pub precision: Fixed,
    /// What an attempt costs against the catalogue.
    pub cost: Fixed,
    /// Outcomes it rests on.
    pub trials: u32,
    /// Those that ended the incident.
    pub resolved: u32,
}

/// Nothing was learned: the catalogue stands.
impl Default for Learned {
    fn default() -> Self {
        Self { offset: Fixed::ZERO, precision: PRECISION, cost: Fixed::ONE, trials: 0, resolved: 0 }
    }
}

impl Learned {
    /// How the catalogue is corrected by it.
    #[must_use]
    pub fn correction(&self) -> Correction {
        Correction { odds: self.offset.exp(), cost: self.cost }
    }
}

/// What was learned about each of [`ACTIONS`] under one signature; absent is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Beliefs(BTreeMap<Action, Learned>);

impl Beliefs {
    /// What was learned about `action`.
    #[must_use]
    pub fn get(&self, action: Action) -> Learned {
        self.0.get(&action).copied().unwrap_or_default()
    }

    /// How each of [`ACTIONS`] is corrected.
    #[must_use]
    pub fn corrections(&self) -> [Correction; COUNT] {
        ACTIONS.map(|action| self.get(action).correction())
    }

    /// Whether nothing was learned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was learned, in the order of the actions.
    pub fn iter(&self) -> impl Iterator<Item = (Action, Learned)> {
        self.0.iter().map(|(action, learned)| (*action, *learned))
    }
}

/// One attempt, its outcome, and what was expected of it in that situation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// What the incident looks like.
    pub signature: Signature,
    /// What was done.
    pub action: Action,
    /// Whether that ended the incident, and it stayed ended for the hold time.
    pub resolved: bool,
    /// What it cost, measured.
    pub cost: Fixed,
    /// The chance it was given there.
    pub chance: Fixed,
    /// The cost the catalogue expected there.
    pub cost0: Fixed,
}

/// What a trial changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub before: Learned,
    /// After.
    pub after: Learned,
    /// The world is not what it was: what was known under this signature was doubted again.
    pub drifted: bool,
}

/// Why experience cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// More agents than are kept apart.
    #[error("{0} agents are more than the {ORIGINS} that are kept apart")]
    Origins(usize),
}

impl Knowledge {
    /// What all agents together know under `signature`.
    #[must_use]
    pub fn beliefs(&self, signature: Signature) -> Beliefs {
        let epoch = self.epoch(signature);
        let rows = || self.rows(signature).filter(move |row| row.epoch == epoch);
        let known = ACTIONS.into_iter().filter_map(|action| {
            let sum = rows().filter_map(|row| row.cells.get(&action)).fold(None, Sum::add)?;
            Some((action, sum.learned()))
        });
        Beliefs(known.collect())
    }

    /// Agents and what each of them experienced.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Signature, &Row)> {
        self.origins.iter().flat_map(|(origin, rows)| {
            rows.iter().map(move |(signature, row)| (origin.as_str(), *signature, row))
        })
    }

    /// SHA-256 of the canonical JSON form, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        crate::digest::sha256_hex(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Folds one trial of `origin` in. Whoever freezes learning does not call this.
    pub fn learn(&mut self, origin: &str, trial: &Trial) -> Change {
        let before = self.beliefs(trial.signature).get(trial.action);
        let epoch = self.epoch(trial.signature);
        let row = self.own(origin, trial.signature);
        if row.epoch < epoch {
            *row = Row { epoch, cells: BTreeMap::new() };
        }
        let cell = row.cells.entry(trial.action).or_default();
        cell.take(&before, trial);
        self.changed(origin, trial, before)
    }

    /// A trial that was learned as resolved did not last: its outcome is rewritten. As long as nothing more was learned about the action,
    /// it is then as if it had failed at once; what was learned in between was compared with the old belief.
    pub fn relapse(&mut self, origin: &str, trial: &Trial) -> Change {
        let before = self.beliefs(trial.signature).get(trial.action);
        let row = self.own(origin, trial.signature);
        if let Some(cell) = row.cells.get_mut(&trial.action).filter(|cell| cell.resolved > 0) {
            cell.take_back(trial);
        }
        self.changed(origin, trial, before)
    }

    /// A human said no to what would have been tried: they do not expect it to help, and know more than the signals tell. The offset
    /// moves as after a failure; nothing was tried, so neither the trials nor the costs nor the watch for drifts take notice.
    pub fn reject(&mut self, origin: &str, trial: &Trial) -> Change {
        let before = self.beliefs(trial.signature).get(trial.action);
        let epoch = self.epoch(trial.signature);
        let row = self.own(origin, trial.signature);
        if row.epoch < epoch {
            *row = Row { epoch, cells: BTreeMap::new() };
        }
        let cell = row.cells.entry(trial.action).or_default();
        cell.rejected = cell.rejected.saturating_add(1);
        cell.move_offset(&before, trial.chance, Fixed::ZERO);
        let after = self.beliefs(trial.signature).get(trial.action);
        Change { before, after, drifted: false }
    }

    /// What is believed now, after a drift was noticed if there was one.
    fn changed(&mut self, origin: &str, trial: &Trial, before: Learned) -> Change {
        let row = self.own(origin, trial.signature);
        let surprised = |cell: &Cell| cell.above >= DRIFT_LIMIT || cell.below >= DRIFT_LIMIT;
        let drifted = row.cells.get(&trial.action).is_some_and(surprised);
        if drifted {
            self.doubt(origin, trial.signature);
        }
        let after = self.beliefs(trial.signature).get(trial.action);
        Change { before, after, drifted }
    }

    /// Joins the experience of other agents: of two versions of one agent's sums the newer one counts.
    ///
    /// # Errors
    /// [`MergeError`] when together they are too many; nothing is changed then.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        let news = other.origins.keys().filter(|origin| !self.origins.contains_key(*origin));
        let origins = self.origins.len() + news.count();
        if origins > ORIGINS {
            return Err(MergeError::Origins(origins));
        }
        for (origin, signature, theirs) in other.iter() {
            join(self.own(origin, signature), theirs);
        }
        Ok(())
    }

    /// The same, with the own experience under the name of `agent`: for others to merge.
    #[must_use]
    pub fn signed(&self, agent: &str) -> Self {
        let mut signed = self.clone();
        if let Some(own) = signed.origins.remove(OWN) {
            own.iter().for_each(|(signature, row)| join(signed.own(agent, *signature), row));
        }
        signed
    }

    /// The same, with what is under the name of `agent` as the own experience: the other way round than [`Knowledge::signed`].
    #[must_use]
    pub fn adopted(&self, agent: &str) -> Self {
        let mut adopted = self.clone();
        if let Some(own) = adopted.origins.remove(agent) {
            own.iter().for_each(|(signature, row)| join(adopted.own(OWN, *signature), row));
        }
        adopted
    }

    /// The experience of another environment as a weak prior for this one, under the name of `origin`: a fifth of its outcomes, and of
    /// the epoch before any drift, so that it never outlives what was experienced here.
    #[must_use]
    pub fn weakened(&self, origin: &str) -> Self {
        let rows = Signature::ALL.into_iter().filter_map(|signature| {
            let beliefs = self.beliefs(signature);
            let cells: BTreeMap<_, _> =
                beliefs.iter().map(|(action, learned)| (action, weak(&learned))).collect();
            let row = Row { epoch: 0, cells };
            (!row.cells.is_empty()).then_some((signature, row))
        });
        Self { origins: BTreeMap::from([(origin.to_owned(), rows.collect())]) }
    }

    fn rows(&self, signature: Signature) -> impl Iterator<Item = &Row> {
        self.origins.values().filter_map(move |rows| rows.get(&signature))
    }

    fn epoch(&self, signature: Signature) -> u32 {
        self.rows(signature).map(|row| row.epoch).max().unwrap_or(0)
    }

    fn own(&mut self, origin: &str, signature: Signature) -> &mut Row {
        self.origins.entry(origin.to_owned()).or_default().entry(signature).or_default()
    }

    /// A drift: offsets stay where they are, but are no surer than the prior; costs are mostly forgotten. It begins an epoch, in
    /// which older experience of other agents does not count.
    fn doubt(&mut self, origin: &str, signature: Signature) {
        let (beliefs, epoch) = (self.beliefs(signature), self.epoch(signature) + 1);
        let own = self.own(origin, signature);
        let cells = beliefs.iter().map(|(action, learned)| {
            let old = own.cells.get(&action).copied().unwrap_or_default();
            let cell = Cell {
                trials: old.trials,
                corrected: old.corrected,
                rejected: old.rejected,
                resolved: old.resolved,
                base: learned.offset,
                cost: old.cost.times(COST_KEPT),
                cost0: old.cost0.times(COST_KEPT),
                ..Cell::default()
            };
            (action, cell)
        });
        *own = Row { epoch, cells: cells.collect() };
    }
}

impl Cell {
    /// One outcome more, seen from what all agents together believed before it.
    fn take(&mut self, before: &Learned, trial: &Trial) {
        let outcome = if trial.resolved { Fixed::ONE } else { Fixed::ZERO };
        let (error, variance) = self.move_offset(before, trial.chance, outcome);
        self.trials = self.trials.saturating_add(1);
        self.resolved = self.resolved.saturating_add(u32::from(trial.resolved));
        self.cost = self.cost.plus(trial.cost);
        self.cost0 = self.cost0.plus(trial.cost0);
        let surprise = error.over(variance.sqrt()).clamp(SURPRISE_MAX.negated(), SURPRISE_MAX);
        let add = |sum: Fixed, z: Fixed| sum.plus(z).minus(DRIFT_SLACK).max(Fixed::ZERO);
        self.above = add(self.above, surprise);
        self.below = add(self.below, surprise.negated());
    }

    /// Moves the offset towards `outcome`, which was given that chance. Gives how far off the chance was, and its variance.
    fn move_offset(&mut self, before: &Learned, chance: Fixed, outcome: Fixed) -> (Fixed, Fixed) {
        let chance = chance.clamp(CHANCE_MIN, CHANCE_MAX);
        let (error, variance) = (outcome.minus(chance), chance.times(Fixed::ONE.minus(chance)));
        let precision = before.precision.plus(variance);
        let offset = before.offset.plus(error.over(precision)).clamp(OFFSET.negated(), OFFSET);
        let gained = offset.times(precision).minus(before.offset.times(before.precision));
        self.precision = self.precision.plus(variance);
        self.information = self.information.plus(gained);
        (error, variance)
    }

    fn take_back(&mut self, trial: &Trial) {
        let chance = trial.chance.clamp(CHANCE_MIN, CHANCE_MAX);
        let deviation = chance.times(Fixed::ONE.minus(chance)).sqrt();
        self.corrected = self.corrected.saturating_add(1);
        self.resolved = self.resolved.saturating_sub(1);
        self.information = self.information.minus(Fixed::ONE);
        // What did not help says nothing about how cheap it is.
        self.cost = self.cost.minus(trial.cost).plus(trial.cost0);
        self.below = self.below.plus(Fixed::ONE.over(deviation).min(SURPRISE_MAX));
        self.above = self.above.minus(Fixed::ONE.over(deviation)).max(Fixed::ZERO);
    }
}

/// Sums over agents.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    precision: Fixed,
    information: Fixed,
    base: Option<Fixed>,
    cost: Fixed,
    cost0: Fixed,
    trials: u32,
    resolved: u32,
}

impl Sum {
    #[expect(clippy::unnecessary_wraps, reason = "the fold tells never tried from nothing learned")]
    fn add(sum: Option<Self>, cell: &Cell) -> Option<Self> {
        let sum = sum.unwrap_or_default();
        Some(Self {
            precision: sum.precision.plus(cell.precision),
            information: sum.information.plus(cell.information),
            // Two agents may have noticed the same drift: one of them has to be followed.
            base: sum.base.max(Some(cell.base)),
            cost: sum.cost.plus(cell.cost),
            cost0: sum.cost0.plus(cell.cost0),
            trials: sum.trials.saturating_add(cell.trials),
            resolved: sum.resolved.saturating_add(cell.resolved),
        })
    }

    fn learned(self) -> Learned {
        let precision = PRECISION.plus(self.precision);
        let prior = self.base.unwrap_or_default().times(PRECISION);
        let ratio = self.cost.plus(COST_WEIGHT).over(self.cost0.plus(COST_WEIGHT));
        Learned {
            offset: prior.plus(self.information).over(precision).clamp(OFFSET.negated(), OFFSET),
            precision,
            cost: ratio.clamp(CHANCE_MIN, Fixed::ONE.over(CHANCE_MIN)),
            trials: self.trials,
            resolved: self.resolved,
        }
    }
}

/// The newer of two versions of one agent's experience: a later epoch as a whole, else cell by cell.
fn join(ours: &mut Row, theirs: &Row) {
    if theirs.epoch > ours.epoch {
        *ours = theirs.clone();
    } else if theirs.epoch == ours.epoch {
        for (action, cell) in &theirs.cells {
            let own = ours.cells.entry(*action).or_default();
            *own = (*own).max(*cell);
        }
    }
}

fn weak(learned: &Learned) -> Cell {
    let precision = learned.precision.minus(PRECISION).times(FOREIGN);
    let ratio = COST_WEIGHT.times(FOREIGN);
    let share = |count: u32| count / FOREIGN_OUTCOMES;
    Cell {
        trials: share(learned.trials),
        resolved: share(learned.resolved),
        precision,
        information: learned.offset.times(precision),
        cost: learned.cost.times(ratio),
        cost0: ratio,
        ..Cell::default()
    }
}

#[cfg(test)]
mod tests;

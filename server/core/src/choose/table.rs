//! The table of learned values: tabular Q-learning in fixed point.
//!
//! Watkins, C. J. C. H. and Dayan, P.: "Q-learning", Machine Learning 8 (1992), 279-292. The state is the primary finding of an
//! incident, and it lasts until an attempt is verified, which ends the episode. The step size is the polynomial one of Even-Dar,
//! E. and Mansour, Y.: "Learning rates for Q-learning", Journal of Machine Learning Research 5 (2003), 1-25.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::app::Millis;
use crate::detect::FindingKind;
use crate::signal::MICRO;
use crate::state::Outcome;

/// What was learned about one action for one finding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// Expected reward in millionths of a minute of downtime, so it is at most 0; higher is better.
    pub q_micro: i64,
    /// Verified and failed outcomes.
    pub trials: u32,
    /// Verified outcomes among them.
    pub verified: u32,
    /// Proposals a human rejected; they move the value and are no trials.
    pub rejected: u32,
}

impl Value {
    /// What in it no lessons can have led to: the field, its value, and what must hold.
    #[must_use]
    pub fn flaws(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut found = Vec::new();
        if !(VALUE_MIN_MICRO..=0).contains(&self.q_micro) {
            found.push(("q_micro", self.q_micro.to_string(), "must be -1000000000 to 0"));
        }
        if self.verified > self.trials {
            found.push(("verified", self.verified.to_string(), "must be at most `trials`"));
        }
        found
    }
}

/// Worse than a thousand minutes of downtime nothing gets.
const VALUE_MIN_MICRO: i64 = -1_000 * MICRO;

/// What was learned about every action for one finding. Absent means never tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Row(BTreeMap<Action, Value>);

impl Row {
    /// The value of `action`; the default of a value when it was never tried.
    #[must_use]
    pub fn get(&self, action: Action) -> Value {
        self.0.get(&action).copied().unwrap_or_default()
    }

    /// What was tried, in the order of the actions.
    pub fn iter(&self) -> impl Iterator<Item = (Action, Value)> {
        self.0.iter().map(|(action, value)| (*action, *value))
    }

    /// Best value among what was tried, but never worse than giving the incident to a human.
    fn best(&self) -> i64 {
        self.0.values().map(|value| value.q_micro).max().unwrap_or(0).max(ESCALATION_MICRO)
    }
}

/// Learned values by finding and action: a fold of the lessons in the log. Bounded by the two closed sets it is indexed with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueTable(BTreeMap<FindingKind, Row>);

/// What an attempt, or a human's answer to a proposal, teaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lesson {
    /// The primary finding the action answered.
    pub finding: FindingKind,
    /// The action.
    pub action: Action,
    /// What happened.
    pub taught: Taught,
    /// Time from the start of the attempt until the app had recovered, or until the attempt was given up. 0 for a rejection.
    pub took_ms: Millis,
}

/// The result a lesson carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taught {
    /// The attempt ended. [`Outcome::Inconclusive`] teaches nothing.
    Outcome(Outcome),
    /// A human looked at the plan and said no.
    Rejected,
    /// What was verified did not last: the lesson before it was wrong.
    Relapsed,
}

/// Weight of what comes after a failed attempt: 0.95 per attempt.
const GAMMA_PPM: i64 = 950_000;
/// Giving an incident to a human costs as much as four minutes of downtime: more than any single attempt that helps in time.
const ESCALATION_MICRO: i64 = -4 * MICRO;
/// A rejected proposal costs as much as one minute of downtime.
const REJECTION_MICRO: i64 = MICRO;
/// Downtime counts up to this long, so that one clock jump cannot ruin a value.
const TOOK_MAX_MS: Millis = 10 * 60 * 1_000;

impl ValueTable {
    /// What is known for `finding`.
    #[must_use]
    pub fn row(&self, finding: FindingKind) -> Row {
        self.0.get(&finding).cloned().unwrap_or_default()
    }

    /// Every value, in the order of findings and actions.
    pub fn iter(&self) -> impl Iterator<Item = (FindingKind, Action, Value)> {
        self.0.iter().flat_map(|(kind, row)| row.iter().map(|(action, v)| (*kind, action, v)))
    }

    /// SHA-256 of the canonical JSON form, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        crate::digest::sha256_hex(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Takes over the values of another table where this one has none.
    pub fn fill(&mut self, other: &Self) {
        for (finding, action, value) in other.iter() {
            self.0.entry(finding).or_default().0.entry(action).or_insert(value);
        }
    }

    /// Folds one lesson in; gives the value before and after. A passive action and an inconclusive outcome teach nothing, so
    /// both are equal then. Whoever freezes learning does not call this.
    pub fn learn(&mut self, lesson: &Lesson) -> (Value, Value) {
        let row = self.row(lesson.finding);
        let before = row.get(lesson.action);
        let inconclusive = lesson.taught == Taught::Outcome(Outcome::Inconclusive);
        if inconclusive || lesson.action.is_passive() {
            return (before, before);
        }
        let after = update(before, row.best(), lesson);
        self.0.entry(lesson.finding).or_default().0.insert(lesson.action, after);
        (before, after)
    }
}

/// `Q <- Q + alpha_n (r + gamma max Q(s', .) - Q)`, where s' is the end of the episode when the attempt was verified and the
/// same finding otherwise.
fn update(before: Value, best: i64, lesson: &Lesson) -> Value {
    let mut after = before;
    let next = i128::from(best) * i128::from(GAMMA_PPM) / i128::from(MICRO);
    let target = match lesson.taught {
        Taught::Outcome(Outcome::Verified) => {
            after.trials = after.trials.saturating_add(1);
            after.verified = after.verified.saturating_add(1);
            -i128::from(cost_micro(lesson))
        }
        Taught::Outcome(Outcome::Failed | Outcome::Inconclusive) => {
            after.trials = after.trials.saturating_add(1);
            next - i128::from(cost_micro(lesson))
        }
        Taught::Rejected => {
            after.rejected = after.rejected.saturating_add(1);
            next - i128::from(REJECTION_MICRO)
        }
        // The episode was taken for ended. The step goes on to where it would have gone had it not been.
        Taught::Relapsed => {
            after.verified = after.verified.saturating_sub(1);
            i128::from(before.q_micro) + next
        }
    };
    let alpha = i128::from(alpha_ppm(after.trials.saturating_add(after.rejected)));
    let q = i128::from(before.q_micro);
    let moved = q + alpha * (target - q) / i128::from(MICRO);
    after.q_micro = i64::try_from(moved).unwrap_or(i64::MIN);
    after
}

/// Minutes of downtime plus the price of the action itself, in millionths.
fn cost_micro(lesson: &Lesson) -> i64 {
    let took = i64::try_from(lesson.took_ms.min(TOOK_MAX_MS)).unwrap_or(i64::MAX);
    let downtime = took.saturating_mul(MICRO) / 60_000;
    downtime.saturating_add(price_micro(lesson.action))
}

/// What an action costs even when it helps: a restart loses warm state, a rollback loses the new revision.
const fn price_micro(action: Action) -> i64 {
    match action {
        Action::Noop | Action::Observe | Action::Escalate => 0,
        Action::ScaleUp | Action::ScaleDown | Action::AdjustThresholds => MICRO / 5,
        Action::Restart => MICRO / 4,
        Action::RetryDeployment | Action::Deploy | Action::Configure | Action::Offboard => {
            MICRO / 2
        }
        Action::Rollback => MICRO / 5 * 4,
    }
}

/// From this many lessons on the step size is [`ALPHA_MIN_PPM`]: 50^(10/7) = 267.3.
const ALPHA_STEPS: usize = 267;
/// Least step size: old lessons fade, so that a change of the app is noticed.
const ALPHA_MIN_PPM: u32 = 20_000;
/// Step sizes of the first lessons.
const ALPHA_PPM: [u32; ALPHA_STEPS] = alpha_table();

/// `max(0.02, n^-0.7)` in millionths; `n` counts from 1.
fn alpha_ppm(n: u32) -> u32 {
    let index = usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
    ALPHA_PPM.get(index).copied().unwrap_or(ALPHA_MIN_PPM)
}

const fn alpha_table() -> [u32; ALPHA_STEPS] {
    let mut table = [0; ALPHA_STEPS];
    let mut rest: &mut [u32] = &mut table;
    let mut n: u128 = 1;
    while let Some((first, tail)) = rest.split_first_mut() {
        *first = power_ppm(n);
        rest = tail;
        n += 1;
    }
    table
}

/// `n^-0.7` in millionths, rounded down: the fifth root of `10^30 / sqrt(n^7)`, with eight more digits inside the square root.
const fn power_ppm(n: u128) -> u32 {
    let root = (n * n * n * n * n * n * n * 10_u128.pow(16)).isqrt();
    let fifth_power = 10_u128.pow(38) / root;
    let (mut low, mut high) = (0_u32, 1_000_000_u32);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if (middle as u128).pow(5) <= fifth_power {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests;

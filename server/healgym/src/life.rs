//! A learner lives through incidents; now and then it is asked what its best policy is worth by now.

use std::collections::BTreeMap;

use agentd_core::choose::ccq::Signature;

use crate::agent::{Learner, exploring};
use crate::exact::{self, Move, Situation, Value, evaluate};
use crate::random::Random;
use crate::world::{FAULTS, SIGNATURES, Shield, World};

/// A prediction and what became of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// The chance that was given.
    pub chance: f64,
    /// Whether it happened.
    pub happened: bool,
}

/// What was measured in one life.
#[derive(Debug, Default)]
pub struct Life {
    /// Score of the best policy after so many incidents.
    pub scores: Vec<(u32, f64)>,
    /// What the policy in force cost more than the optimum, per incident, in the first 500, if it was measured.
    pub regret: f64,
    /// Harmful actions per incident, in the first 500, if it was measured.
    pub harmful: f64,
    /// Those of the optimum.
    pub least_harmful: f64,
    /// Every prediction.
    pub predictions: Vec<Prediction>,
    /// Incidents after which the world was taken for changed, and their signature.
    pub drifts: Vec<(u32, Signature)>,
    /// What each incident looked like.
    pub incidents: Vec<Signature>,
}

impl Life {
    /// The score after that many incidents.
    #[must_use]
    pub fn score(&self, after: u32) -> f64 {
        let found = self.scores.iter().find(|(incidents, _)| *incidents == after);
        found.map_or(f64::NAN, |(_, score)| *score)
    }
}

/// The scale of a world: 100 is the optimum, 0 is chance among what is permitted.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// What the optimum is worth.
    pub optimal: Value,
    random: f64,
}

impl Scale {
    /// The scale of `world`.
    #[must_use]
    pub fn of(world: &World) -> Self {
        let random = exact::evaluate_all(world, Shield::On, &mut exact::random).cost;
        Self { optimal: exact::optimal(world, Shield::On), random }
    }

    /// The score of a policy that costs so much.
    #[must_use]
    pub fn score(&self, cost: f64) -> f64 {
        100.0 * (self.random - cost) / (self.random - self.optimal.cost)
    }
}

/// What the learner's best policy is worth, without exploration.
pub fn worth(world: &World, learner: &mut dyn Learner) -> Value {
    exact::evaluate_all(world, Shield::On, &mut |at| vec![Move::certain(learner.best(at))])
}

/// Incidents in which regret and harm are counted.
const EARLY: u32 = 500;

/// Lives through `incidents` and asks for the score at `asked`.
pub fn live(
    world: &World,
    learner: &mut dyn Learner,
    incidents: u32,
    asked: &[u32],
    random: &mut Random,
) -> Life {
    pass(world, learner, incidents, asked, false, random)
}

/// The same, and after every incident it is measured what the policy in force, with its exploration, costs more than the optimum.
pub fn live_measured(
    world: &World,
    learner: &mut dyn Learner,
    incidents: u32,
    asked: &[u32],
    random: &mut Random,
) -> Life {
    pass(world, learner, incidents, asked, true, random)
}

fn pass(
    world: &World,
    learner: &mut dyn Learner,
    incidents: u32,
    asked: &[u32],
    measured: bool,
    random: &mut Random,
) -> Life {
    let scale = Scale::of(world);
    let mut life = Life { least_harmful: scale.optimal.harmful, ..Life::default() };
    // Only what was learned about changes what a policy is worth.
    let mut in_force: BTreeMap<Signature, Value> = BTreeMap::new();
    let score = |learner: &mut dyn Learner, n: u32, life: &mut Life| {
        if asked.contains(&n) {
            life.scores.push((n, scale.score(worth(world, learner).cost)));
        }
    };
    score(learner, 0, &mut life);
    for n in 1..=incidents {
        if measured && n <= EARLY.min(incidents) {
            let mut total = Value::default();
            for signature in SIGNATURES {
                let value = *in_force.entry(signature).or_insert_with(|| {
                    let first = Situation::first(world, signature, Shield::On);
                    evaluate(world, first, &mut |at| exploring(learner, at))
                });
                total = total.plus(value);
            }
            life.regret += (total.cost - scale.optimal.cost) / f64::from(EARLY.min(incidents));
            life.harmful += total.harmful / f64::from(EARLY.min(incidents));
        }
        let signature = incident(world, learner, n, random, &mut life);
        in_force.remove(&signature);
        score(learner, n, &mut life);
    }
    life
}

/// One incident from its beginning to its end.
fn incident(
    world: &World,
    learner: &mut dyn Learner,
    n: u32,
    random: &mut Random,
    life: &mut Life,
) -> Signature {
    let fault = random.index(&world.prior).min(FAULTS - 1);
    let signature = SIGNATURES[random.index(&world.looks[fault])];
    life.incidents.push(signature);
    let mut at = Situation::first(world, signature, Shield::On);
    while world.elapsed(&at.tried) < world.horizon {
        let moves = exploring(learner, &at);
        let chances: Vec<f64> = moves.iter().map(|m| m.chance).collect();
        let Move { action, explored, .. } = moves[random.index(&chances)];
        let happened = random.happens(world.fixes[fault][action]);
        let cost = world.cost(fault, action);
        if let Some(chance) = learner.chance(&at, action) {
            life.predictions.push(Prediction { chance, happened });
        }
        if learner.learn(&at, action, happened, cost) {
            life.drifts.push((n, signature));
        }
        if happened {
            break;
        }
        at = at.after(action);
        at.explored |= explored;
    }
    signature
}

/// How well chances were predicted.
#[derive(Debug, Clone, Copy)]
pub struct Calibration {
    /// Expected calibration error over ten bins of equal mass.
    pub error: f64,
    /// Mean squared error.
    pub brier: f64,
    /// Mean squared error of always predicting the mean.
    pub base: f64,
    /// Predictions.
    pub count: usize,
}

/// Judges predictions.
#[must_use]
pub fn calibration(mut predictions: Vec<Prediction>) -> Calibration {
    predictions.sort_by(|a, b| a.chance.total_cmp(&b.chance));
    let count = predictions.len();
    let outcome = |p: &Prediction| f64::from(u8::from(p.happened));
    let mean = |part: &[Prediction], of: &dyn Fn(&Prediction) -> f64| {
        part.iter().map(of).sum::<f64>() / part.len().max(1) as f64
    };
    let mut error = 0.0;
    for bin in predictions.chunks(count.div_ceil(10).max(1)) {
        let gap = mean(bin, &|p| p.chance) - mean(bin, &outcome);
        error += gap.abs() * bin.len() as f64 / count as f64;
    }
    let rate = mean(&predictions, &outcome);
    let brier = mean(&predictions, &|p| (p.chance - outcome(p)).powi(2));
    Calibration { error, brier, base: rate * (1.0 - rate), count }
}

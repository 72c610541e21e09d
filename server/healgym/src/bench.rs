//! The public table: what every policy and learner is worth, in the published world and in others.

use agentd_core::choose::ccq::{Knowledge, position};

use crate::agent::{Ccq, Learner, Q, Rules};
use crate::exact::{self, Optimum, Policy, Situation, evaluate_all};
use crate::life::{Calibration, Life, Prediction, Scale, calibration, live, live_measured, worth};
use crate::parallel;
use crate::random::Random;
use crate::rules;
use crate::world::{Shield, World, reference, reference_values};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Perturbed worlds.
    pub worlds: u32,
    /// Incidents in each.
    pub incidents: u32,
    /// Lives through a world that changes.
    pub lives: u32,
    /// Logs that are tested back.
    pub logs: u32,
}

/// The largest distance between a value of the published file and the same value here.
///
/// # Errors
/// When the file does not say what it should.
pub fn published_error(world: &World) -> Result<f64, String> {
    let mut largest = 0.0_f64;
    for shield in [Shield::On, Shield::Off] {
        for (name, value) in [
            ("bayes_optimal", exact::optimal(world, shield)),
            ("random", evaluate_all(world, shield, &mut exact::random)),
            ("noop", evaluate_all(world, shield, &mut exact::noop)),
            ("restart_always", evaluate_all(world, shield, &mut exact::restart_always)),
        ] {
            let ours = [value.cost, value.success, value.steps, value.harmful];
            let apart = ours.into_iter().zip(reference(shield, name)?).map(|(a, b)| (a - b).abs());
            largest = apart.fold(largest, f64::max);
        }
        for (signature, action, value) in reference_values(shield)? {
            let first = Situation::first(world, signature, shield);
            let values = Optimum::new(world, &first).values(&first);
            let ours = values.into_iter().find(|(known, _)| position(action) == Some(*known));
            let (_, ours) = ours.ok_or_else(|| format!("{action} is not permitted"))?;
            largest = largest.max((ours - value).abs());
        }
    }
    Ok(largest)
}

/// A policy in the published world.
#[derive(Debug, Clone)]
pub struct Nominal {
    /// Its name.
    pub name: &'static str,
    /// Its exact value.
    pub value: exact::Value,
    /// Its score.
    pub score: f64,
}

/// Fixed policies and learners in the published world; learners after `incidents`.
#[must_use]
pub fn nominal(world: &World, incidents: u32) -> Vec<Nominal> {
    let scale = Scale::of(world);
    let row = |name, value: exact::Value| Nominal { name, value, score: scale.score(value.cost) };
    let fixed = |policy: &mut Policy<'_>| evaluate_all(world, Shield::On, policy);
    let learned = |learner: &mut dyn Learner| {
        live(world, learner, incidents, &[], &mut Random::new(7));
        worth(world, learner)
    };
    vec![
        row("optimum", scale.optimal),
        row("ccq, catalogue alone", worth(world, &mut Ccq::frozen())),
        row("ccq", learned(&mut Ccq::new("gym", Knowledge::default()))),
        row("q", learned(&mut Q::default())),
        row("rules", fixed(&mut rules::policy)),
        row("random", fixed(&mut exact::random)),
        row("restart always", fixed(&mut exact::restart_always)),
        row("noop", fixed(&mut exact::noop)),
    ]
}

/// A learner over many worlds: means, and the worst score after all incidents.
#[derive(Debug, Clone)]
pub struct Over {
    /// Its name.
    pub name: &'static str,
    /// Mean score at each of [`ASKED`].
    pub scores: Vec<(u32, f64)>,
    /// Worst score at the last one.
    pub worst: f64,
    /// Cost above the optimum per incident, in the first 500.
    pub regret: f64,
    /// Harmful actions per incident, in the first 500.
    pub harmful: f64,
    /// Of the optimum, for comparison: harmful actions per incident.
    pub least_harmful: f64,
    /// Worlds in which it regrets less than the rules.
    pub better_than_rules: u32,
    /// How good its predictions were, if it makes any.
    pub calibration: Option<Calibration>,
}

/// After so many incidents the score is asked for.
pub const ASKED: [u32; 4] = [0, 50, 100, 500];

/// Rules, `q` and `ccq` in perturbed worlds.
#[must_use]
pub fn perturbed(nominal: &World, extent: Extent) -> Vec<Over> {
    let rules = lives(nominal, extent, &|| Box::new(Rules));
    let q = lives(nominal, extent, &|| Box::new(Q::default()));
    let ccq = lives(nominal, extent, &|| Box::new(Ccq::new("gym", Knowledge::default())));
    vec![
        over("ccq", &ccq, &rules, extent),
        over("q", &q, &rules, extent),
        over("rules", &rules, &rules, extent),
    ]
}

/// The world of that number, and the incidents that happen in it.
fn numbered(nominal: &World, number: u32) -> (World, Random) {
    (nominal.perturbed(number.into()), Random::new(1_000 + u64::from(number)))
}

fn lives(
    nominal: &World,
    extent: Extent,
    new: &(dyn Fn() -> Box<dyn Learner> + Sync),
) -> Vec<Life> {
    parallel::each(extent.worlds, |number| {
        let (world, mut random) = numbered(nominal, number);
        live_measured(&world, new().as_mut(), extent.incidents, &ASKED, &mut random)
    })
}

fn over(name: &'static str, lives: &[Life], rules: &[Life], extent: Extent) -> Over {
    let mean =
        |of: &dyn Fn(&Life) -> f64| lives.iter().map(of).sum::<f64>() / lives.len().max(1) as f64;
    let asked: Vec<u32> = ASKED.into_iter().filter(|n| *n <= extent.incidents).collect();
    let last = asked.last().copied().unwrap_or(0);
    let predictions: Vec<Prediction> =
        lives.iter().flat_map(|life| life.predictions.iter().copied()).collect();
    let better = lives.iter().zip(rules).filter(|(life, rules)| life.regret < rules.regret).count();
    Over {
        name,
        scores: asked.iter().map(|n| (*n, mean(&|life| life.score(*n)))).collect(),
        worst: lives.iter().map(|life| life.score(last)).fold(f64::INFINITY, f64::min),
        regret: mean(&|life| life.regret),
        harmful: mean(&|life| life.harmful),
        least_harmful: mean(&|life| life.least_harmful),
        better_than_rules: u32::try_from(better).unwrap_or(u32::MAX),
        calibration: (!predictions.is_empty()).then(|| calibration(predictions)),
    }
}

/// Four agents with a quarter of the incidents each, merged, against one agent with all of them.
#[derive(Debug, Clone, Copy)]
pub struct Merged {
    /// Mean score of one of the four.
    pub one: f64,
    /// Mean score of the four together.
    pub together: f64,
    /// Mean score of the agent with all incidents.
    pub alone: f64,
}

/// Measures the merge.
#[must_use]
pub fn merge(nominal: &World, extent: Extent) -> Merged {
    let all = parallel::each(extent.worlds, |number| merge_in(nominal, extent, number));
    let mean = |of: fn(&Merged) -> f64| all.iter().map(of).sum::<f64>() / all.len().max(1) as f64;
    Merged { one: mean(|m| m.one), together: mean(|m| m.together), alone: mean(|m| m.alone) }
}

fn merge_in(nominal: &World, extent: Extent, number: u32) -> Merged {
    let (world, _) = numbered(nominal, number);
    let scale = Scale::of(&world);
    let lived = |name: &str, incidents, seed| {
        let mut agent = Ccq::new(name, Knowledge::default());
        live(&world, &mut agent, incidents, &[], &mut Random::new(seed));
        agent
    };
    let score = |agent: &mut Ccq| scale.score(worth(&world, agent).cost);
    let (mut one, mut knowledge) = (0.0, Knowledge::default());
    for agent in 1..=4_u32 {
        let seed = u64::from(10 * number + agent);
        let mut lived = lived(&agent.to_string(), extent.incidents / 4, seed);
        one += score(&mut lived) / 4.0;
        // Four agents are far below the limit.
        let _ = knowledge.merge(&lived.knowledge);
    }
    let together = score(&mut Ccq::new("reader", knowledge));
    let alone = score(&mut lived("alone", extent.incidents, u64::from(10 * number)));
    Merged { one, together, alone }
}

/// What happens when somebody changes the world.
#[derive(Debug, Clone)]
pub struct Shift {
    /// Score before it, in the world before it.
    pub before: f64,
    /// Scores after so many incidents more, in the world after it.
    pub after: Vec<(u32, f64)>,
    /// Incidents that looked like the drifted signature from the shift until it was noticed, if it was; mean over the signatures.
    pub noticed: Option<f64>,
    /// Drifts that were raised before the shift, when there was none.
    pub false_alarms: usize,
}

/// After so many incidents in the changed world the score is asked for.
const SHIFTED: [u32; 5] = [0, 50, 100, 300, 1_000];

/// Measures the shift: 500 incidents before, 1,000 after it; means over `seeds` lives.
#[must_use]
pub fn shift(nominal: &World, seeds: u32) -> Shift {
    let changed = nominal.shifted();
    let lives = parallel::each(seeds, |seed| {
        let mut agent = Ccq::new("gym", Knowledge::default());
        let mut random = Random::new(500 + u64::from(seed));
        let before = live(nominal, &mut agent, 500, &[500], &mut random);
        (before, live(&changed, &mut agent, 1_000, &SHIFTED, &mut random))
    });
    let mean = |of: &dyn Fn(&(Life, Life)) -> f64| {
        lives.iter().map(of).sum::<f64>() / lives.len().max(1) as f64
    };
    let notices: Vec<f64> = lives.iter().flat_map(|(_, after)| noticed(after)).collect();
    let noticed = notices.iter().sum::<f64>() / notices.len() as f64;
    Shift {
        before: mean(&|(before, _)| before.score(500)),
        after: SHIFTED.map(|n| (n, mean(&|(_, after)| after.score(n)))).into(),
        noticed: (!notices.is_empty()).then_some(noticed),
        false_alarms: lives.iter().map(|(before, _)| before.drifts.len()).sum(),
    }
}

/// For the first drift of each signature: incidents that looked like it until then.
fn noticed(life: &Life) -> Vec<f64> {
    let mut seen = Vec::new();
    let mut affected = Vec::new();
    for (incident, signature) in &life.drifts {
        if !seen.contains(signature) {
            seen.push(*signature);
            let until = life.incidents.iter().take(*incident as usize);
            affected.push(until.filter(|s| *s == signature).count() as f64);
        }
    }
    affected
}

//! How far a backtest is from the truth: what a log says that other rules would have cost, against what they cost.
//!
//! As in the agent's own backtest, the outcomes of the log correct the catalogue, and what a policy would have done in each recorded
//! situation is valued with that: its cost now, and the best ever after. The truth is the same sum in the world itself, exactly.

use std::collections::BTreeMap;

use agentd_core::choose::ccq::{Knowledge, Signature, Tried};

use crate::agent::{Ccq, Learner};
use crate::exact::{self, Move, Optimum, Situation};
use crate::parallel;
use crate::random::Random;
use crate::rules;
use crate::world::{FAULTS, SIGNATURES, Shield, World};

/// Share of the logged decisions that were not the rules'.
const EXPLORED: f64 = 0.1;

/// What a log holds: how often each situation was met, and what its outcomes say.
struct Log {
    met: BTreeMap<(Signature, Tried), u32>,
    fit: Ccq,
}

/// A policy that is compared.
type Choose = fn(&mut Ccq, &Situation) -> usize;

const POLICIES: [Choose; 3] = [
    |_, at| rules::act(at),
    |catalogue, at| catalogue.best(at),
    |_, at| exact::restart_always(at).first().map_or(0, |one: &Move| one.action),
];

/// The root of the mean square of the relative errors, over three policies and `seeds` logs of `incidents` each, under rules that
/// sometimes explore.
#[must_use]
pub fn error(world: &World, incidents: u32, seeds: u32) -> f64 {
    let squares = parallel::each(seeds, |seed| {
        let mut log = record(world, incidents, &mut Random::new(9_000 + u64::from(seed)));
        POLICIES.map(|policy| relative(world, &mut log, policy).powi(2)).iter().sum::<f64>()
    });
    (squares.iter().sum::<f64>() / (POLICIES.len() as f64 * f64::from(seeds.max(1)))).sqrt()
}

fn record(world: &World, incidents: u32, random: &mut Random) -> Log {
    let mut log = Log { met: BTreeMap::new(), fit: Ccq::new("log", Knowledge::default()) };
    for _ in 0..incidents {
        let fault = random.index(&world.prior).min(FAULTS - 1);
        let signature = SIGNATURES[random.index(&world.looks[fault])];
        let mut at = Situation::first(world, signature, Shield::On);
        while world.elapsed(&at.tried) < world.horizon {
            *log.met.entry((signature, at.tried)).or_default() += 1;
            let permitted: Vec<f64> = (0..at.tried.len())
                .map(|a| f64::from(u8::from(at.tried[a] < at.limits[a])))
                .collect();
            let explores = random.happens(EXPLORED);
            let action = if explores { random.index(&permitted) } else { rules::act(&at) };
            let helped = random.happens(world.fixes[fault][action]);
            log.fit.learn(&at, action, helped, world.cost(fault, action));
            if helped {
                break;
            }
            at = at.after(action);
        }
    }
    log
}

/// How far the estimate of what `policy` costs is from the truth, as a share of it.
fn relative(world: &World, log: &mut Log, policy: Choose) -> f64 {
    let mut catalogue = Ccq::frozen();
    let (mut estimate, mut truth) = (0.0, 0.0);
    for signature in SIGNATURES {
        let first = Situation::first(world, signature, Shield::On);
        let mut optimum = Optimum::new(world, &first);
        for ((_, tried), times) in log.met.iter().filter(|((s, _), _)| *s == signature) {
            let at = Situation { tried: *tried, ..first };
            let action = policy(&mut catalogue, &at);
            let known = optimum.values(&at).into_iter().find(|(known, _)| *known == action);
            let (Some(value), Some((_, exact))) = (log.fit.value(&at, action), known) else {
                continue;
            };
            estimate += f64::from(*times) * value;
            truth += f64::from(*times) * exact;
        }
    }
    estimate / truth - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_the_world_tells_what_other_rules_cost_in_it_and_one_of_another_world_does_not() {
        let world = World::nominal().unwrap();
        let off = |log: &mut Log| POLICIES.map(|policy| relative(&world, log, policy).abs());
        let mut own = record(&world, 300, &mut Random::new(1));
        assert!(off(&mut own).iter().all(|error| *error < 0.15), "{:?}", off(&mut own));
        let mut foreign = record(&world.shifted(), 300, &mut Random::new(1));
        assert!(off(&mut foreign).iter().any(|error| *error > 0.15), "{:?}", off(&mut foreign));
    }
}

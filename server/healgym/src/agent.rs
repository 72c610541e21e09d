//! The learners, as an incident meets them: the code of `agentd-core`, wired to the simulation.

use std::collections::BTreeMap;

use agentd_core::choose::ccq::{
    ACTIONS, Backup, Catalogue, Draws, Fixed, Knowledge, Signature, Trial, Tried, position, rank,
};
use agentd_core::choose::{Lesson, Taught, ValueTable};
use agentd_core::detect::FindingKind;
use agentd_core::policy::Confidence;
use agentd_core::state::Outcome;

use crate::exact::{Move, Situation};
use crate::rules;

/// Length of one step.
const STEP_MS: u64 = 30_000;
/// Least chance to beat doing nothing of what may be explored, in permille: the limit of the agent.
const EXPLORES_FROM: u32 = 300;
/// Share of decisions that explore.
pub const EXPLORATION: f64 = 0.05;
/// Outcomes a value of `q` needs before it may outrank the rule; the default of the policy.
const TRUST: u32 = 5;

/// Something that acts and learns.
pub trait Learner {
    /// What it takes for best.
    fn best(&mut self, at: &Situation) -> usize;

    /// What it would explore: permitted, harmless enough, and not hopeless.
    fn explorable(&mut self, at: &Situation) -> Vec<usize>;

    /// The chance it gives an action to end the incident, if it says one.
    fn chance(&mut self, at: &Situation, action: usize) -> Option<f64>;

    /// How an action ended. Gives whether the learner takes the world for changed.
    fn learn(&mut self, at: &Situation, action: usize, resolved: bool, cost: f64) -> bool;
}

/// The policy of a learner that explores, at most once per incident.
pub fn exploring(learner: &mut dyn Learner, at: &Situation) -> Vec<Move> {
    let best = learner.best(at);
    let others = if at.explored { Vec::new() } else { learner.explorable(at) };
    let share = EXPLORATION / others.len().max(1) as f64;
    let explored = others.iter().filter(|action| **action != best);
    let mut moves: Vec<Move> =
        explored.map(|action| Move { action: *action, chance: share, explored: true }).collect();
    let rest = 1.0 - moves.iter().map(|m| m.chance).sum::<f64>();
    moves.push(Move { action: best, chance: rest, explored: false });
    moves
}

fn may_be_explored(action: usize) -> bool {
    // Nothing that takes something away.
    matches!(action, 0..=2)
}

/// Catalogue-calibrated Q.
#[derive(Debug)]
pub struct Ccq {
    name: String,
    catalogue: Catalogue,
    /// What is known.
    pub knowledge: Knowledge,
    /// Whether it learns at all.
    frozen: bool,
    backups: BTreeMap<Signature, Backup>,
    draws: BTreeMap<Signature, Draws>,
    /// The best in a situation, and what may be explored in it.
    judged: BTreeMap<(Signature, Tried), (usize, Vec<usize>)>,
}

impl Ccq {
    /// One that knows the catalogue and `knowledge`.
    #[must_use]
    pub fn new(name: &str, knowledge: Knowledge) -> Self {
        Self::believing(Catalogue::builtin(), name, knowledge)
    }

    /// One that believes another catalogue.
    #[must_use]
    pub fn believing(catalogue: Catalogue, name: &str, knowledge: Knowledge) -> Self {
        Self {
            name: name.to_owned(),
            catalogue,
            knowledge,
            frozen: false,
            backups: BTreeMap::new(),
            draws: BTreeMap::new(),
            judged: BTreeMap::new(),
        }
    }

    /// One that believes the catalogue for ever.
    #[must_use]
    pub fn frozen() -> Self {
        Self { frozen: true, ..Self::new("frozen", Knowledge::default()) }
    }

    fn backup(&mut self, at: &Situation) -> Option<&Backup> {
        if !self.backups.contains_key(&at.signature) {
            let corrections = self.knowledge.beliefs(at.signature).corrections();
            let first = [0; ACTIONS.len()];
            let backup = Backup::new(&self.catalogue, at.signature, corrections, first, at.limits)?;
            self.backups.insert(at.signature, backup);
        }
        self.backups.get(&at.signature)
    }

    /// What it expects an action to cost, and the best ever after.
    pub fn value(&mut self, at: &Situation, action: usize) -> Option<f64> {
        Some(float(self.backup(at)?.expected(&at.tried)[action]?.value))
    }

    /// The best of what the gate of confidence lets through under any policy, and what of that may be explored: what is too uncertain
    /// is not done, and nothing is done instead.
    fn judged(&mut self, at: &Situation) -> (usize, Vec<usize>) {
        let key = (at.signature, at.tried);
        if let Some(known) = self.judged.get(&key) {
            return known.clone();
        }
        let beliefs = self.knowledge.beliefs(at.signature);
        let draws = self.draws.entry(at.signature).or_insert_with(|| Draws::of(&beliefs)).clone();
        let Some(backup) = self.backup(at) else { return (0, Vec::new()) };
        let ranked: Vec<(usize, u32)> = rank(backup, &beliefs, &draws, &at.tried)
            .into_iter()
            .filter_map(|judged| Some((position(judged.action)?, judged.beats_noop)))
            .collect();
        let sure = |(action, sure): &&(usize, u32)| *action == 0 || *sure >= Confidence::FLOOR;
        let best = ranked.iter().find(sure).map_or(0, |(action, _)| *action);
        let hopeful = ranked.iter().filter(|(_, sure)| *sure >= EXPLORES_FROM);
        let hopeful = hopeful.map(|(action, _)| *action).filter(|a| may_be_explored(*a)).collect();
        self.judged.insert(key, (best, hopeful));
        self.judged[&key].clone()
    }
}

impl Learner for Ccq {
    fn best(&mut self, at: &Situation) -> usize {
        self.judged(at).0
    }

    fn explorable(&mut self, at: &Situation) -> Vec<usize> {
        if self.frozen {
            return Vec::new();
        }
        self.judged(at).1
    }

    fn chance(&mut self, at: &Situation, action: usize) -> Option<f64> {
        let expected = self.backup(at)?.expected(&at.tried)[action]?;
        Some(float(expected.chance))
    }

    fn learn(&mut self, at: &Situation, action: usize, resolved: bool, cost: f64) -> bool {
        if self.frozen {
            return false;
        }
        let expected = self.backup(at).and_then(|backup| backup.expected(&at.tried)[action]);
        let Some(expected) = expected else { return false };
        let trial = Trial {
            signature: at.signature,
            action: ACTIONS[action],
            resolved,
            cost: Fixed::micro((cost * 1e6).round() as i64),
            chance: expected.chance,
            cost0: expected.cost0,
        };
        let change = self.knowledge.learn(&self.name, &trial);
        self.backups.remove(&at.signature);
        self.draws.remove(&at.signature);
        self.judged.retain(|(signature, _), _| *signature != at.signature);
        change.drifted
    }
}

fn float(fixed: Fixed) -> f64 {
    fixed.bits() as f64 / 2_f64.powi(32)
}

/// Watkins' Q as the agent has it: a table by finding, which outranks the rules where every remedy has enough outcomes.
#[derive(Debug, Default)]
pub struct Q {
    table: ValueTable,
}

impl Q {
    fn remedies(&self, at: &Situation) -> Vec<usize> {
        let row = self.table.row(finding(at.signature));
        let value = |action: &usize| row.get(ACTIONS[*action]);
        let listed = rules::remedies(at.signature).iter().copied();
        let mut open: Vec<usize> =
            listed.filter(|action| at.tried[*action] < at.limits[*action]).collect();
        // As in the agent: what failed twice in this incident comes after what did not.
        open.sort_by_key(|action| at.tried[*action] >= 2);
        if open.iter().all(|action| value(action).trials >= TRUST) {
            open.sort_by_key(|action| (std::cmp::Reverse(value(action).q_micro), *action));
        }
        open
    }
}

impl Learner for Q {
    fn best(&mut self, at: &Situation) -> usize {
        self.remedies(at).first().copied().unwrap_or(0)
    }

    fn explorable(&mut self, at: &Situation) -> Vec<usize> {
        let remedies = self.remedies(at).into_iter();
        remedies.filter(|action| may_be_explored(*action)).collect()
    }

    fn chance(&mut self, _: &Situation, _: usize) -> Option<f64> {
        None
    }

    fn learn(&mut self, at: &Situation, action: usize, resolved: bool, _: f64) -> bool {
        let outcome = if resolved { Outcome::Verified } else { Outcome::Failed };
        let steps = if action == 5 { 3 } else { 1 };
        self.table.learn(&Lesson {
            finding: finding(at.signature),
            action: ACTIONS[action],
            taught: Taught::Outcome(outcome),
            took_ms: steps * STEP_MS,
        });
        false
    }
}

/// The finding by which the table of `q` knows what looks like that.
const fn finding(signature: Signature) -> FindingKind {
    match signature {
        Signature::DownDeploy => FindingKind::DeploymentFailed,
        Signature::DownRepeat => FindingKind::CrashLoop,
        Signature::Down => FindingKind::Crash,
        Signature::Conflict => FindingKind::Contradiction,
        Signature::Stale => FindingKind::Silence,
        Signature::MemRising => FindingKind::MemoryGrowth,
        Signature::CpuLoad => FindingKind::CpuOverload,
        Signature::DepErrors => FindingKind::ErrorRate,
        Signature::Flap => FindingKind::Flapping,
        Signature::Unspecific => FindingKind::Latency,
    }
}

/// The rules, which never learn.
#[derive(Debug, Clone, Copy)]
pub struct Rules;

impl Learner for Rules {
    fn best(&mut self, at: &Situation) -> usize {
        rules::act(at)
    }

    fn explorable(&mut self, _: &Situation) -> Vec<usize> {
        Vec::new()
    }

    fn chance(&mut self, _: &Situation, _: usize) -> Option<f64> {
        None
    }

    fn learn(&mut self, _: &Situation, _: usize, _: bool, _: f64) -> bool {
        false
    }
}

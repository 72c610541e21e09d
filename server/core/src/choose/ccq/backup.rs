//! The exact value of every action in every situation an incident can get into: Bellman's backup over the counts of what was tried
//! in vain.
//!
//! What an incident looks like is drawn once; after that only failures tell more. So (signature, how often each action failed) is
//! all there is to know, and the tree of situations is finite: each attempt only adds to the counts.

use super::catalogue::{COUNT, Catalogue};
use super::fixed::Fixed;
use crate::detect::Signature;

/// How often each of [`super::catalogue::ACTIONS`] was tried in vain in this incident.
pub type Tried = [u8; COUNT];

/// How often each of [`super::catalogue::ACTIONS`] may be tried in one incident at most, as the gates permit.
pub type Limits = [u8; COUNT];

/// What learning says about one action under one signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Correction {
    /// The odds that it helps, against those of the catalogue.
    pub odds: Fixed,
    /// What it costs, against the cost of the catalogue.
    pub cost: Fixed,
}

impl Correction {
    /// The catalogue is right.
    pub const NONE: Self = Self { odds: Fixed::ONE, cost: Fixed::ONE };
}

/// What the catalogue and learning expect of one action in one situation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Chance that it ends the incident.
    pub chance: Fixed,
    /// Cost of the attempt, by the catalogue alone.
    pub cost0: Fixed,
    /// Cost of the attempt.
    pub cost: Fixed,
    /// Cost from here to the end of the incident, if this is done now and the best ever after. Lower is better.
    pub value: Fixed,
    /// Cost from there on, if it fails.
    pub next: Fixed,
}

/// The values of everything that can happen from one situation on.
#[derive(Debug, Clone)]
pub struct Backup {
    model: Model,
    from: Tried,
    limits: Limits,
    strides: [usize; COUNT],
    corrections: [Correction; COUNT],
    values: Vec<Fixed>,
}

/// Most situations of one backup; limits beyond it are cut.
const SITUATIONS: usize = 1 << 16;

impl Backup {
    /// Values of all situations that `limits` leave open from `from` on; `None` when the catalogue does not know the signature.
    #[must_use]
    pub fn new(
        catalogue: &Catalogue,
        signature: Signature,
        corrections: [Correction; COUNT],
        from: Tried,
        limits: Limits,
    ) -> Option<Self> {
        let model = Model::new(catalogue, signature, &corrections)?;
        let mut limits = limits;
        for (limit, tried) in limits.iter_mut().zip(from) {
            *limit = (*limit).clamp(tried, model.horizon.max(tried));
        }
        let (strides, size) = strides(from, limits);
        let mut backup =
            Self { model, from, limits, strides, corrections, values: vec![Fixed::ZERO; size] };
        // Every attempt leads to a larger index: backwards, what comes after is known already.
        for index in (0..size).rev() {
            let value = backup.best(&backup.tried(index), index);
            if let Some(slot) = backup.values.get_mut(index) {
                *slot = value;
            }
        }
        Some(backup)
    }

    /// What each permitted action is worth in `tried`, in the order of [`super::catalogue::ACTIONS`]; `None` where it may not be
    /// tried (again), everywhere when the time is up.
    #[must_use]
    pub fn expected(&self, tried: &Tried) -> [Option<Expected>; COUNT] {
        let mut all = [None; COUNT];
        let Some(index) = self.index(tried) else { return all };
        if self.model.elapsed(tried) >= self.model.horizon.into() {
            return all;
        }
        let belief = self.model.belief(tried);
        for (action, slot) in all.iter_mut().enumerate() {
            *slot = self.action(&belief, tried, index, action);
        }
        all
    }

    /// The position of the best action in `tried`; the one that changes least among equals.
    #[must_use]
    pub fn greedy(&self, tried: &Tried) -> Option<usize> {
        let expected = self.expected(tried);
        let known = expected.iter().enumerate().filter_map(|(n, e)| e.map(|e| (e.value, n)));
        known.min().map(|(_, action)| action)
    }

    /// How likely each fault is in `tried`, by its position in the catalogue; those that never look like this are left out.
    #[must_use]
    pub fn diagnosis(&self, tried: &Tried) -> Vec<(usize, Fixed)> {
        let belief = self.model.belief(tried);
        let fixed = |units: u64| Fixed::from_bits(i64::try_from(units).unwrap_or(i64::MAX));
        let share = |weight: &u64| fixed(*weight).over(fixed(belief.total));
        let faults = self.model.faults.iter().zip(&belief.weights);
        faults.map(|(fault, weight)| (fault.position, share(weight))).collect()
    }

    fn best(&self, tried: &Tried, index: usize) -> Fixed {
        if self.model.elapsed(tried) >= self.model.horizon.into() {
            return self.model.escalation;
        }
        let belief = self.model.belief(tried);
        let values = (0..COUNT).filter_map(|a| self.action(&belief, tried, index, a));
        values.map(|expected| expected.value).min().unwrap_or(self.model.escalation)
    }

    fn action(
        &self,
        belief: &Belief,
        tried: &Tried,
        index: usize,
        action: usize,
    ) -> Option<Expected> {
        if tried.get(action)? >= self.limits.get(action)? {
            return None;
        }
        let next = *self.values.get(index + self.strides.get(action)?)?;
        let (chance, cost0) = self.model.effect(belief, action)?;
        let chance = chance.clamp(CHANCE_MIN, CHANCE_MAX);
        let cost = cost0.times(self.corrections.get(action)?.cost);
        let value = cost.plus(Fixed::ONE.minus(chance).times(next));
        Some(Expected { chance, cost0, cost, value, next })
    }

    fn index(&self, tried: &Tried) -> Option<usize> {
        let mut index = 0;
        for (((tried, from), limit), stride) in
            tried.iter().zip(self.from).zip(self.limits).zip(self.strides)
        {
            let beyond = tried.checked_sub(from).filter(|_| *tried <= limit)?;
            index += usize::from(beyond) * stride;
        }
        Some(index)
    }

    fn tried(&self, index: usize) -> Tried {
        let (mut tried, mut rest) = (self.from, index);
        for (count, stride) in tried.iter_mut().zip(self.strides) {
            *count += u8::try_from(rest / stride).unwrap_or(u8::MAX);
            rest %= stride;
        }
        tried
    }
}

/// A chance with its odds multiplied; held within one and 999 of a thousand, so that no experience is ruled out.
pub(super) fn shifted(chance: Fixed, odds: Fixed) -> Fixed {
    let chance = chance.clamp(CHANCE_MIN, CHANCE_MAX);
    let odds = chance.times(odds);
    odds.over(odds.plus(Fixed::ONE.minus(chance))).clamp(CHANCE_MIN, CHANCE_MAX)
}

/// What learning makes of a chance of the catalogue. What it takes for certain stays so until there is experience.
fn corrected(chance: Fixed, odds: Fixed) -> Fixed {
    if odds == Fixed::ONE { chance } else { shifted(chance, odds) }
}

pub(super) const CHANCE_MIN: Fixed = Fixed::micro(1_000);
pub(super) const CHANCE_MAX: Fixed = Fixed::micro(999_000);

fn strides(from: Tried, limits: Limits) -> ([usize; COUNT], usize) {
    let (mut strides, mut size) = ([1; COUNT], 1_usize);
    for ((stride, from), limit) in strides.iter_mut().zip(from).zip(limits).rev() {
        *stride = size;
        size = size.saturating_mul(usize::from(limit.saturating_sub(from)) + 1);
    }
    (strides, size.min(SITUATIONS))
}

/// The part of the catalogue that one signature needs.
#[derive(Debug, Clone)]
struct Model {
    horizon: u8,
    escalation: Fixed,
    steps: [u8; COUNT],
    faults: Vec<Known>,
}

#[derive(Debug, Clone)]
struct Known {
    /// Its position in the catalogue.
    position: usize,
    /// Prior times likelihood, in units of 2^-60.
    weight: u64,
    /// Chance of each action, as corrected, in units of 2^-32.
    fixes: [u64; COUNT],
    /// Cost of each action, in units of 2^-32.
    costs: [u64; COUNT],
    /// What is left of the weight after the action failed n times, in units of 2^-32.
    left: [Vec<u64>; COUNT],
}

/// How likely each fault is, in equal units; they sum to between 2^27 and 2^28.
struct Belief {
    weights: Vec<u64>,
    total: u64,
}

/// Sums of weights times chances (up to 2^32) and costs (up to 2^36) fit into 64 bits with this many bits of weight.
const WEIGHT_BITS: u32 = 28;

impl Model {
    fn new(
        catalogue: &Catalogue,
        signature: Signature,
        corrections: &[Correction; COUNT],
    ) -> Option<Self> {
        let mut steps = [1; COUNT];
        steps.iter_mut().zip(catalogue.efforts).for_each(|(steps, effort)| *steps = effort.steps);
        let known = catalogue.faults.iter().enumerate().map(|(position, fault)| {
            let (mut fixes, mut costs) = ([0; COUNT], [0; COUNT]);
            let mut left: [Vec<u64>; COUNT] = Default::default();
            let parts = fault.effects.iter().zip(&catalogue.efforts).zip(corrections);
            for (action, ((effect, effort), correction)) in parts.enumerate() {
                let chance = bits(corrected(Fixed::micro(effect.fixes), correction.odds));
                set(&mut fixes, action, chance);
                set(&mut costs, action, bits(fault.cost(*effort, *effect)));
                set(&mut left, action, powers((1 << 32) - chance, catalogue.horizon));
            }
            let share = i128::from(fault.prior) * i128::from(fault.likelihood(signature));
            let weight = u64::try_from((share << 60) / 1_000_000_000_000).unwrap_or(0);
            Known { position, weight, fixes, costs, left }
        });
        let faults: Vec<Known> = known.filter(|fault| fault.weight > 0).collect();
        (!faults.is_empty()).then(|| Self {
            horizon: catalogue.horizon,
            escalation: Fixed::micro(catalogue.escalation),
            steps,
            faults,
        })
    }

    fn elapsed(&self, tried: &Tried) -> u32 {
        tried.iter().zip(self.steps).map(|(n, steps)| u32::from(*n) * u32::from(steps)).sum()
    }

    /// `P(fault | x)`, in proportion to prior times likelihood times the chance that all that was tried fails.
    fn belief(&self, tried: &Tried) -> Belief {
        let mut weights: Vec<u64> = self.faults.iter().map(|fault| fault.after(tried)).collect();
        let mut total: u64 = weights.iter().sum();
        if total >> WEIGHT_BITS == 0 {
            // Nothing in the catalogue survives so many failures: what it looked like is all that is left to go by.
            weights = self.faults.iter().map(|fault| fault.weight).collect();
            total = weights.iter().sum();
        }
        let down = (u64::BITS - total.leading_zeros()).saturating_sub(WEIGHT_BITS);
        weights.iter_mut().for_each(|weight| *weight >>= down);
        let total = weights.iter().sum::<u64>().max(1);
        Belief { weights, total }
    }

    /// Chance of `action`, and its cost by the catalogue.
    fn effect(&self, belief: &Belief, action: usize) -> Option<(Fixed, Fixed)> {
        let (mut chance, mut cost) = (0_u64, 0_u64);
        for (fault, weight) in self.faults.iter().zip(&belief.weights) {
            chance += weight * fault.fixes.get(action)?;
            cost += weight * fault.costs.get(action)?;
        }
        let mean = |sum: u64| Fixed::from_bits(i64::try_from(sum / belief.total).unwrap_or(0));
        Some((mean(chance), mean(cost)))
    }
}

impl Known {
    fn after(&self, tried: &Tried) -> u64 {
        let mut weight = self.weight;
        for (count, left) in tried.iter().zip(&self.left) {
            if *count > 0 {
                let left = left.get(usize::from(*count)).or(left.last()).copied().unwrap_or(0);
                let product = (u128::from(weight) * u128::from(left)) >> 32;
                weight = u64::try_from(product).unwrap_or(u64::MAX);
            }
        }
        weight
    }
}

fn bits(fixed: Fixed) -> u64 {
    u64::try_from(fixed.bits()).unwrap_or(0)
}

fn set<T>(array: &mut [T; COUNT], at: usize, value: T) {
    if let Some(slot) = array.get_mut(at) {
        *slot = value;
    }
}

/// `base^0 ..= base^most`, in units of 2^-32.
fn powers(base: u64, most: u8) -> Vec<u64> {
    let mut power = 1_u64 << 32;
    let mut all = vec![power];
    for _ in 0..most {
        power = u64::try_from((u128::from(power) * u128::from(base)) >> 32).unwrap_or(0);
        all.push(power);
    }
    all
}

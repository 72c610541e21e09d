//! How sure the agent is: that an action ends the incident, and that it beats doing nothing. Two questions, two numbers.

use serde::{Deserialize, Serialize};

use super::backup::{Backup, Expected, Tried, shifted};
use super::catalogue::{ACTIONS, COUNT, Catalogue};
use super::fixed::Fixed;
use super::knowledge::{Beliefs, Learned};
use super::{Limits, Signature};
use crate::action::Action;

/// Draws of the posterior that the confidence is counted from.
const DRAWS: usize = 256;

/// 90 % of a normal distribution lies within this many standard deviations.
const NINETY: Fixed = Fixed::micro(1_644_854);

/// What is expected of one action in the situation at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// The action.
    pub action: Action,
    /// Expected cost of the incident from here on, in millionths of a step of downtime; lower is better.
    pub cost_micro: i64,
    /// The part of it that comes after an attempt that does not help.
    pub next_micro: i64,
    /// Chance that it ends the incident, in permille.
    pub resolves: u32,
    /// Least value of the 90 % interval of that chance.
    pub resolves_low: u32,
    /// Largest value of the 90 % interval of that chance.
    pub resolves_high: u32,
    /// Chance that it is better than doing nothing for one step, in permille: the confidence.
    pub beats_noop: u32,
    /// Outcomes it rests on.
    pub trials: u32,
    /// What its outcome will be compared with.
    pub expected: Expectation,
}

/// What was expected of an attempt when it was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// The chance that it ends the incident.
    pub chance: Fixed,
    /// Its cost, by the catalogue.
    pub cost0: Fixed,
}

/// Everything the learner says about one situation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What is permitted, best first.
    pub ranked: Vec<Judged>,
    /// What may be wrong: faults of the catalogue with their chance in permille, most likely first.
    pub diagnosis: Vec<(String, u32)>,
}

/// Judges every action that `limits` leave open; `None` when the catalogue does not know the signature.
#[must_use]
pub fn judge(
    catalogue: &Catalogue,
    beliefs: &Beliefs,
    signature: Signature,
    tried: &Tried,
    limits: Limits,
) -> Option<Judgement> {
    let backup = Backup::new(catalogue, signature, beliefs.corrections(), *tried, limits)?;
    Some(Judgement {
        ranked: rank(&backup, beliefs, &Draws::of(beliefs), tried),
        diagnosis: diagnosis(catalogue, &backup, tried),
    })
}

/// Judges every action that is permitted in `tried`, best first, by the values of `backup` and how sure `beliefs` are, of which `draws`
/// are drawn.
#[must_use]
pub fn rank(backup: &Backup, beliefs: &Beliefs, draws: &Draws, tried: &Tried) -> Vec<Judged> {
    let expected = backup.expected(tried);
    let still = Still::new(backup, draws, tried, &expected);
    let mut ranked: Vec<(Fixed, Judged)> = Vec::with_capacity(ACTIONS.len());
    for (position, (action, expected)) in ACTIONS.into_iter().zip(expected).enumerate() {
        let Some(expected) = expected else { continue };
        let learned = beliefs.get(action);
        let beats_noop = match &still {
            Some(still) if action != Action::Noop => {
                still.loses(position, &expected, draws.of_action(position))
            }
            _ => 1_000,
        };
        ranked.push((expected.value, judged(action, &expected, &learned, beats_noop)));
    }
    // A stable sort: the order of the actions breaks ties.
    ranked.sort_by_key(|(value, _)| *value);
    ranked.into_iter().map(|(_, judged)| judged).collect()
}

fn diagnosis(catalogue: &Catalogue, backup: &Backup, tried: &Tried) -> Vec<(String, u32)> {
    let likely = backup.diagnosis(tried).into_iter();
    let mut named: Vec<(String, u32)> = likely
        .filter_map(|(position, chance)| {
            Some((catalogue.faults.get(position)?.name.clone(), chance.to_permille()))
        })
        .collect();
    named.sort_by_key(|(_, permille)| std::cmp::Reverse(*permille));
    named
}

fn judged(action: Action, expected: &Expected, learned: &Learned, beats_noop: u32) -> Judged {
    let spread = NINETY.times(deviation(learned));
    let at = |moved: Fixed| shifted(expected.chance, moved.exp()).to_permille();
    Judged {
        action,
        cost_micro: expected.value.to_micro(),
        next_micro: expected.next.to_micro(),
        resolves: expected.chance.to_permille(),
        resolves_low: at(spread.negated()),
        resolves_high: at(spread),
        beats_noop,
        trials: learned.trials,
        expected: Expectation { chance: expected.chance, cost0: expected.cost0 },
    }
}

/// Standard deviation of the offset.
fn deviation(learned: &Learned) -> Fixed {
    Fixed::ONE.over(learned.precision.sqrt())
}

/// What the draws multiply the odds of each action with: the same in every situation that looks alike.
#[derive(Debug, Clone)]
pub struct Draws {
    /// By standard deviation: what was never tried shares one.
    odds: Vec<(Fixed, Vec<Fixed>)>,
    of: [usize; COUNT],
}

impl Draws {
    /// Of what is known about one signature.
    #[must_use]
    pub fn of(beliefs: &Beliefs) -> Self {
        let mut odds: Vec<(Fixed, Vec<Fixed>)> = Vec::new();
        let of = ACTIONS.map(|action| {
            let spread = deviation(&beliefs.get(action));
            let known = odds.iter().position(|(known, _)| *known == spread);
            known.unwrap_or_else(|| {
                let all = (0..DRAWS).map(|draw| spread.times(normal(draw)).exp()).collect();
                odds.push((spread, all));
                odds.len() - 1
            })
        });
        Self { odds, of }
    }

    fn of_action(&self, position: usize) -> &[Fixed] {
        let known = self.of.get(position).and_then(|index| self.odds.get(*index));
        known.map_or(&[], |(_, odds)| odds)
    }
}

/// Doing nothing for one step, and what can be done after that.
struct Still {
    expected: Expected,
    /// What is expected after one step of it, after two, ...
    after: Vec<[Option<Expected>; COUNT]>,
    /// By draw: the chance that it does not help, now and after each of these steps.
    stays: Vec<[Fixed; 1 + PATIENCE as usize]>,
}

/// So many steps of waiting are thought through with the draw; behind them, what is expected counts.
const PATIENCE: u8 = 4;

impl Still {
    fn new(
        backup: &Backup,
        draws: &Draws,
        tried: &Tried,
        expected: &[Option<Expected>; COUNT],
    ) -> Option<Self> {
        let later = (1..=PATIENCE).map(|steps| {
            let mut later = *tried;
            if let Some(waited) = later.first_mut() {
                *waited = waited.saturating_add(steps);
            }
            backup.expected(&later)
        });
        let after: Vec<_> =
            later.take_while(|expected| expected.iter().any(Option::is_some)).collect();
        let (waiting, acting) = expected.split_first()?;
        let expected = (*waiting)?;
        if acting.iter().all(Option::is_none) {
            return None;
        }
        let idles = draws.of_action(0).iter();
        let stays = idles.map(|idle| {
            let mut stays = [Fixed::ONE; 1 + PATIENCE as usize];
            let steps = std::iter::once(Some(expected)).chain(after.iter().map(idling));
            for (stay, expected) in stays.iter_mut().zip(steps) {
                *stay = expected.map_or(Fixed::ONE, |expected| fails(&expected, *idle));
            }
            stays
        });
        let stays = stays.collect();
        Some(Self { expected, after, stays })
    }

    /// Share of the draws in which the action at `position` costs less than doing nothing first, in permille. The chances of both are
    /// drawn, and what the action would be worth a few steps later is drawn with it: that it may not help is no reason to do it
    /// later. What comes after the action is valued as it is expected.
    fn loses(&self, position: usize, action: &Expected, draws: &[Fixed]) -> u32 {
        let later: Vec<_> = self.after.iter().map(|step| Later::new(step, position)).collect();
        let won = self.stays.iter().enumerate().filter(|(draw, stays)| {
            let odds = draws.get(draw * STRIDE % DRAWS).copied().unwrap_or(Fixed::ONE);
            let acting = costs(action, fails(action, odds), action.next);
            acting < self.waiting(&later, odds, stays.as_slice())
        });
        let won = u32::try_from(won.count()).unwrap_or(u32::MAX);
        won.saturating_mul(1_000) / u32::try_from(DRAWS).unwrap_or(u32::MAX)
    }

    /// What it costs to do nothing first and the best after it, with the odds of the action multiplied and doing nothing as good as
    /// `stays` says.
    fn waiting(&self, later: &[Later], odds: Fixed, stays: &[Fixed]) -> Fixed {
        let end = self.after.last().and_then(idling).unwrap_or(self.expected);
        let (now, stays) = stays.split_first().unwrap_or((&Fixed::ONE, &[]));
        let best = later.iter().zip(stays).rev().fold(end.next, |after, (step, stay)| {
            let idle = step.idle.as_ref().map(|idle| costs(idle, *stay, after));
            let act = step.act.as_ref().map(|act| costs(act, fails(act, odds), act.next));
            [idle, act, step.others].into_iter().flatten().min().unwrap_or(after)
        });
        costs(&self.expected, *now, best)
    }
}

/// What can be done after some steps of waiting, seen from one action: it and doing nothing are drawn, all else is as expected.
struct Later {
    idle: Option<Expected>,
    act: Option<Expected>,
    /// The best of the others.
    others: Option<Fixed>,
}

impl Later {
    fn new(step: &[Option<Expected>; COUNT], position: usize) -> Self {
        let others = step.iter().enumerate().skip(1).filter(|(other, _)| *other != position);
        Self {
            idle: idling(step),
            act: step.get(position).copied().flatten().filter(|_| position != 0),
            others: others.filter_map(|(_, expected)| Some(expected.as_ref()?.value)).min(),
        }
    }
}

fn idling(step: &[Option<Expected>; COUNT]) -> Option<Expected> {
    step.first().copied().flatten()
}

/// The chance that an attempt does not help when its odds are multiplied.
fn fails(expected: &Expected, odds: Fixed) -> Fixed {
    Fixed::ONE.minus(shifted(expected.chance, odds))
}

/// What an attempt costs to the end when it fails that often and a failure leads to `next`.
fn costs(expected: &Expected, fails: Fixed, next: Fixed) -> Fixed {
    expected.cost.plus(fails.times(next))
}

/// Draws of two independent numbers are paired by a lattice: every quantile of one occurs once, and evenly spread over those of the
/// other. Among the odd strides this one has the least correlation and error on normal comparisons.
const STRIDE: usize = 71;

/// The quantile of the standard normal distribution in the middle of the `draw`-th of [`DRAWS`] equal parts. The draws of a decision
/// are the same in every decision: equal situations are judged equally.
fn normal(draw: usize) -> Fixed {
    let part = draw % DRAWS;
    let half = DRAWS / 2;
    let (upper, index) = if part >= half { (true, part - half) } else { (false, half - 1 - part) };
    let quantile = Fixed::micro(QUANTILES.get(index).copied().unwrap_or(0).into());
    if upper { quantile } else { quantile.negated() }
}

/// The positive quantiles, in millionths.
const QUANTILES: [u32; DRAWS / 2] = [
    4_896, 14_688, 24_481, 34_277, 44_076, 53_879, 63_688, 73_503, 83_324, 93_154, 102_993,
    112_841, 122_701, 132_573, 142_457, 152_356, 162_269, 172_199, 182_145, 192_110, 202_093,
    212_097, 222_122, 232_170, 242_241, 252_336, 262_457, 272_606, 282_782, 292_988, 303_225,
    313_493, 323_794, 334_130, 344_502, 354_911, 365_359, 375_846, 386_375, 396_947, 407_564,
    418_227, 428_937, 439_697, 450_509, 461_373, 472_291, 483_267, 494_301, 505_395, 516_552,
    527_774, 539_062, 550_420, 561_849, 573_352, 584_932, 596_590, 608_330, 620_154, 632_066,
    644_068, 656_164, 668_356, 680_649, 693_045, 705_549, 718_164, 730_894, 743_744, 756_718,
    769_821, 783_057, 796_432, 809_950, 823_619, 837_443, 851_429, 865_583, 879_913, 894_426,
    909_130, 924_034, 939_145, 954_474, 970_031, 985_826, 1_001_870, 1_018_177, 1_034_759,
    1_051_631, 1_068_808, 1_086_306, 1_104_143, 1_122_338, 1_140_913, 1_159_890, 1_179_294,
    1_199_152, 1_219_495, 1_240_356, 1_261_771, 1_283_781, 1_306_430, 1_329_771, 1_353_859,
    1_378_760, 1_404_546, 1_431_302, 1_459_123, 1_488_122, 1_518_429, 1_550_199, 1_583_615,
    1_618_900, 1_656_324, 1_696_223, 1_739_020, 1_785_262, 1_835_672, 1_891_229, 1_953_324,
    2_024_014, 2_106_554, 2_206_575, 2_335_233, 2_520_502, 2_885_635,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choose::ccq::Knowledge;
    use crate::choose::ccq::knowledge::Trial;

    const LIMITS: Limits = [16, 2, 3, 0, 0, 1];

    fn judge_down(knowledge: &Knowledge) -> Judgement {
        let beliefs = knowledge.beliefs(Signature::Down);
        judge(&Catalogue::builtin(), &beliefs, Signature::Down, &[0; 6], LIMITS).unwrap()
    }

    #[test]
    fn the_draws_are_a_standard_normal_distribution() {
        let draws: Vec<f64> = (0..DRAWS).map(|n| normal(n).to_micro() as f64 / 1e6).collect();
        let mean = draws.iter().sum::<f64>() / DRAWS as f64;
        let variance = draws.iter().map(|z| z * z).sum::<f64>() / DRAWS as f64;
        assert!(mean.abs() < 1e-9, "{mean}");
        assert!((variance - 1.0).abs() < 0.01, "{variance}");
        assert!(draws.is_sorted());
        // Paired, they are uncorrelated.
        let paired = (0..DRAWS).map(|n| draws[n] * draws[n * STRIDE % DRAWS]).sum::<f64>();
        assert!((paired / DRAWS as f64).abs() < 0.02, "{paired}");
    }

    #[test]
    fn what_is_down_is_most_likely_a_crash_and_a_restart_most_likely_helps() {
        let judgement = judge_down(&Knowledge::default());
        let best = judgement.ranked[0];
        assert_eq!(best.action, Action::Restart);
        assert!(best.resolves_low < best.resolves && best.resolves < best.resolves_high);
        assert!(best.beats_noop >= 800, "{best:?}");
        assert_eq!(judgement.diagnosis[0].0, "crash");
        let named: u32 = judgement.diagnosis.iter().map(|(_, permille)| permille).sum();
        assert!((990..=1_000).contains(&named), "{named}");
    }

    #[test]
    fn confidence_falls_with_failures_and_rises_with_successes() {
        let of = |knowledge: &Knowledge| {
            let beliefs = knowledge.beliefs(Signature::CpuLoad);
            let catalogue = Catalogue::builtin();
            let judgement = judge(&catalogue, &beliefs, Signature::CpuLoad, &[0; 6], LIMITS);
            let ranked = judgement.unwrap().ranked;
            ranked.iter().find(|judged| judged.action == Action::ScaleUp).unwrap().beats_noop
        };
        let (mut good, mut bad) = (Knowledge::default(), Knowledge::default());
        let before = of(&good);
        for _ in 0..12 {
            for (knowledge, resolved) in [(&mut good, true), (&mut bad, false)] {
                let corrections = knowledge.beliefs(Signature::CpuLoad).corrections();
                let catalogue = Catalogue::builtin();
                let signature = Signature::CpuLoad;
                let backup = Backup::new(&catalogue, signature, corrections, [0; 6], LIMITS);
                let expected = backup.unwrap().expected(&[0; 6])[1].unwrap();
                let Expected { chance, cost0, .. } = expected;
                let action = Action::ScaleUp;
                knowledge
                    .learn("a", &Trial { signature, action, resolved, cost: cost0, chance, cost0 });
            }
        }
        assert!(of(&good) > before, "{} after {before}", of(&good));
        assert!(of(&bad) + 50 < before, "{} after {before}", of(&bad));
    }
}

//! The baseline of one metric: three tests against its own past, for what no threshold knows.
//!
//! * range: outside everything seen before, by a hundredth of its span;
//! * level: the mean of the last 72 samples against those of the last 6,400 at most;
//! * volatility: the logarithm of their standard deviation, likewise. A value that stands still is a deviation too.
//!
//! An alarm is a rising edge: a test says so, and none did in the last 24 samples. Nothing is looked at before it came: no alarm falls
//! into the warm-up, whose samples give the scale below which a difference is none. Whole numbers throughout, so that every machine
//! sees the same; about 110 KB per metric at most.

use super::alarm::{Deviation, Test};
use super::moments::{Moments, Recent};
use crate::choose::ccq::Fixed;

/// Samples of the mean and the standard deviation of late.
const LATE: usize = 72;
/// Of those, so many are the past.
const HISTORY: usize = 6_400;
/// What is expected is computed anew after so many samples.
const REFRESH: u64 = 50;
/// Samples without a deviation between two alarms.
const REST: u32 = 24;
/// Samples are held in this part of a millionth.
const UNITS: i64 = 16;
/// A standard deviation of a logarithm below this is noise.
const SPREAD_MIN: i64 = Fixed::micro(1_000).bits();

/// A bound on standard deviations from the mean, as a fraction.
#[derive(Debug, Clone, Copy)]
struct Bound(i64, i64);

const LEVEL: Bound = Bound(7, 2);
const VOLATILITY: Bound = Bound(11, 4);

/// What became of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// As expected, or the past is too short to expect anything.
    Quiet,
    /// Not as expected, and that is no news.
    Standing,
    /// An alarm.
    Alarm(Deviation),
}

/// The baseline of one metric.
#[derive(Debug, Clone)]
pub struct Baseline {
    warm_up: usize,
    /// Samples of the warm-up, until it is over.
    early: Vec<i64>,
    /// Differences below it are none; zero during the warm-up.
    scale: i64,
    range: Option<(i64, i64)>,
    late: Recent,
    level: Past,
    spread: Past,
    seen: u64,
    /// Samples since the last deviation.
    rest: u32,
}

/// The past of one statistic, and what is expected because of it.
#[derive(Debug, Clone)]
struct Past {
    values: Recent,
    expected: Option<Moments>,
}

impl Baseline {
    /// Samples of the warm-up of a metric nobody knows the length of.
    pub const WARM_UP: usize = 750;

    /// Most samples of the past that are looked at.
    pub const HISTORY: usize = HISTORY;

    /// A baseline without a past, that will look at `history` samples of it. Its first `warm_up` samples raise no alarm.
    #[must_use]
    pub const fn new(warm_up: usize, history: usize) -> Self {
        Self {
            warm_up,
            early: Vec::new(),
            scale: 0,
            range: None,
            late: Recent::new(LATE),
            level: Past::new(history),
            spread: Past::new(history),
            seen: 0,
            rest: REST,
        }
    }

    /// Takes one sample in, in millionths.
    pub fn push(&mut self, micro: i64) -> Seen {
        // Within what every metric allows, so that no sum overflows.
        let x = micro.clamp(-MOST, MOST) * UNITS;
        if self.scale > 0 {
            return self.judge(x);
        }
        self.early.push(x);
        if self.early.len() < self.warm_up {
            return Seen::Quiet;
        }
        let early = std::mem::take(&mut self.early);
        let mut all = Recent::new(early.len());
        early.iter().for_each(|x| all.push(*x));
        let size = all.moments().map_or(0, |m| m.mean.abs().saturating_add(m.deviation));
        self.scale = (size / 1_000).max(1);
        early.into_iter().for_each(|x| _ = self.judge(x));
        Seen::Quiet
    }

    fn judge(&mut self, x: i64) -> Seen {
        let range = self.range(x);
        self.late.push(x);
        let late = self.late.moments();
        let (mean, deviation) = late.map_or((x, 0), |m| (m.mean, m.deviation));
        let spread = Fixed::from_bits(deviation.saturating_add(self.scale)).ln().bits();
        let fresh = self.seen.is_multiple_of(REFRESH);
        let level = self.level.take(mean, fresh, LEVEL, self.scale);
        let volatility = self.spread.take(spread, fresh, VOLATILITY, SPREAD_MIN);
        self.seen += 1;
        let level = level.map(|(low, high, history)| Deviation {
            test: Test::Level,
            value: mean / UNITS,
            low: low / UNITS,
            high: high / UNITS,
            history,
        });
        let back = |l: i64| (Fixed::from_bits(l).exp().bits() - self.scale).max(0) / UNITS;
        let volatility = volatility.map(|(low, high, history)| Deviation {
            test: Test::Volatility,
            value: deviation / UNITS,
            low: back(low),
            high: back(high),
            history,
        });
        let Some(deviation) = range.or(level).or(volatility) else {
            self.rest = self.rest.saturating_add(1);
            return Seen::Quiet;
        };
        let rested = std::mem::replace(&mut self.rest, 0) >= REST;
        if rested { Seen::Alarm(deviation) } else { Seen::Standing }
    }

    fn range(&mut self, x: i64) -> Option<Deviation> {
        let (low, high) = self.range.unwrap_or((x, x));
        self.range = Some((low.min(x), high.max(x)));
        let beyond = (x - high).max(low - x);
        let far = beyond > 0 && i128::from(beyond) * 100 >= i128::from(high) - i128::from(low);
        far.then(|| Deviation {
            test: Test::Range,
            value: x / UNITS,
            low: low / UNITS,
            high: high / UNITS,
            history: u32::try_from(self.seen).unwrap_or(u32::MAX),
        })
    }
}

/// Largest sample: that of the metric with the largest one.
const MOST: i64 = 1_000_000_000 * crate::signal::MICRO;

impl Past {
    const fn new(history: usize) -> Self {
        Self { values: Recent::new(history), expected: None }
    }

    /// Takes one value in. Gives what was expected instead, and what that rests on, if it is too far away.
    fn take(
        &mut self,
        value: i64,
        fresh: bool,
        bound: Bound,
        least: i64,
    ) -> Option<(i64, i64, u32)> {
        if fresh {
            self.expected = self.values.moments();
        }
        self.values.push(value);
        let Moments { mean, deviation, count } = self.expected?;
        let Bound(most, of) = bound;
        let room = i128::from(deviation.max(least)) * i128::from(most);
        let distance = i128::from(value).abs_diff(i128::from(mean));
        let room = u128::try_from(room).unwrap_or(0);
        let far = distance * u128::from(of.unsigned_abs()) >= room;
        let room = i64::try_from(room / u128::from(of.unsigned_abs())).unwrap_or(i64::MAX);
        far.then(|| (mean.saturating_sub(room), mean.saturating_add(room), count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarms(values: impl IntoIterator<Item = i64>, warm_up: usize) -> Vec<(usize, Deviation)> {
        let mut baseline = Baseline::new(warm_up, HISTORY);
        let seen = values.into_iter().map(|value| baseline.push(value)).enumerate();
        seen.filter_map(|(n, seen)| match seen {
            Seen::Alarm(deviation) => Some((n, deviation)),
            Seen::Quiet | Seen::Standing => None,
        })
        .collect()
    }

    /// Between 0.40 and 0.50, never the same twice.
    fn usual(n: i64) -> i64 {
        400_000 + n * 7_919 % 100_000
    }

    #[test]
    fn what_is_as_it_always_was_raises_nothing() {
        assert_eq!(alarms((0..3_000).map(usual), 300), []);
        assert_eq!(alarms((0..3_000).map(|_| 0), 300), [], "nor does what is always zero");
    }

    #[test]
    fn a_value_never_seen_before_is_an_alarm_at_once_and_only_once() {
        let spike = |n| if (1_000..1_010).contains(&n) { 900_000 } else { usual(n) };
        let found = alarms((0..1_100).map(spike), 300);
        assert_eq!((found.len(), found[0].0, found[0].1.test), (1, 1_000, Test::Range));
        let Deviation { value, low, high, history, .. } = found[0].1;
        assert_eq!((value, history), (900_000, 1_000));
        assert!(low >= 400_000 && high < 500_000, "{low} {high}");
    }

    #[test]
    fn a_level_that_moves_inside_the_range_is_found_by_its_mean() {
        let low = |n| if n < 2_000 { usual(n) } else { 460_000 + usual(n) % 40_000 };
        let found = alarms((0..2_400).map(low), 300);
        assert_eq!(found[0].1.test, Test::Level, "{found:?}");
        assert!((2_000..2_100).contains(&found[0].0) && found[0].1.value > found[0].1.high);
    }

    #[test]
    fn a_monitor_that_is_stuck_is_found_by_what_it_does_not_do() {
        // The mean is the usual one, and so is every value.
        let stuck = |n| if n < 2_000 { usual(n) } else { 450_000 };
        let found = alarms((0..2_400).map(stuck), 300);
        assert_eq!(found[0].1.test, Test::Volatility, "{found:?}");
        assert!(found[0].1.value < found[0].1.low);
    }

    #[test]
    fn nothing_is_known_during_the_warm_up_and_nothing_is_looked_at_before_it_came() {
        let odd = |n| if n == 200 { 9_000_000 } else { usual(n) };
        assert_eq!(alarms((0..400).map(odd), 300), []);
        let mut values: Vec<i64> = (0..1_500).map(usual).collect();
        values[1_200] = 5_000_000;
        let all = alarms(values.iter().copied(), 300);
        for length in [1_100, 1_201, 1_300] {
            let known = alarms(values[..length].iter().copied(), 300);
            assert_eq!(known, all.iter().copied().filter(|(n, _)| *n < length).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_largest_numbers_overflow_nothing() {
        let mut baseline = Baseline::new(100, HISTORY);
        for n in 0..20_000_i64 {
            baseline.push(if n % 2 == 0 { i64::MAX } else { i64::MIN });
        }
        assert!(baseline.level.values.moments().is_some());
    }
}

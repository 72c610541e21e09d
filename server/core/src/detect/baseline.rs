//! The baseline of one metric: three tests against its own past, for what no threshold knows.
//!
//! * range: outside everything seen before, by a hundredth of its span;
//! * level: the mean of the last 72 samples against those of the last 6,400 at most;
//! * volatility: the logarithm of their standard deviation, likewise. A value that stands still is a deviation too.
//!
//! An alarm is a rising edge: a test says so, and none did in the last 24 samples. Nothing is looked at before it came: no alarm falls
//! into the warm-up, whose samples give the scale below which a difference is none. Whole numbers throughout, so that every machine
//! sees the same.
//!
//! What is expected is computed anew after so many samples, and so the past is kept in sums of so many: 48 bytes for fifty samples.

use std::collections::VecDeque;

use super::alarm::{Deviation, Test};
use super::moments::{Moments, Sums};
use super::samples::{Reader, Samples};
use crate::choose::ccq::Fixed;

/// Samples of the mean and the standard deviation of late.
const LATE: u32 = 72;
/// Of those, so many are the past.
const HISTORY: usize = 6_400;
/// What is expected is computed anew after so many samples.
const REFRESH: u64 = 50;
/// Samples without a deviation between two alarms.
const REST: u32 = 24;
/// Blocks by which the room for them grows.
const ROOM: usize = 8;
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
    warm_up: u32,
    history: u32,
    /// Those of the warm-up until it is over; then those of late.
    samples: Samples,
    /// Differences below it are none; zero during the warm-up.
    scale: i64,
    range: Option<(i64, i64)>,
    late: Late,
    past: Past,
    /// What is expected of the mean and of the logarithm of the deviation.
    expected: Option<[Moments; 2]>,
    /// Samples that were judged; before the first one is, those that wait for it.
    seen: u64,
    /// Samples since the last deviation.
    rest: u32,
}

/// The samples of late.
#[derive(Debug, Clone, Copy, Default)]
struct Late {
    sums: Sums,
    oldest: Reader,
}

/// Means and logarithms of deviations that were seen before, as far as they count.
#[derive(Debug, Clone, Default)]
struct Past {
    means: Sums,
    spreads: Sums,
    /// What is forgotten at once, oldest first.
    blocks: VecDeque<Block>,
    /// Samples that were forgotten.
    forgotten: u64,
}

/// Neighbours that are remembered, and forgotten, together.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    /// Of the means and of the logarithms.
    sums: [i64; 2],
    /// Of their squares.
    squares: [i128; 2],
}

/// What is compared with the past.
#[derive(Debug, Clone, Copy)]
struct Now {
    mean: i64,
    deviation: i64,
    /// The logarithm of the deviation.
    spread: i64,
}

impl Baseline {
    /// Samples of the warm-up of a metric nobody knows the length of.
    pub const WARM_UP: usize = 750;

    /// Most samples of the past that are looked at.
    pub const HISTORY: usize = HISTORY;

    /// A baseline without a past, that will look at `history` samples of it. Its first `warm_up` samples raise no alarm.
    #[must_use]
    pub fn new(warm_up: usize, history: usize) -> Self {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).max(1);
        Self {
            warm_up: count(warm_up),
            history: count(history),
            samples: Samples::default(),
            scale: 0,
            range: None,
            late: Late::default(),
            past: Past::default(),
            expected: None,
            seen: 0,
            rest: REST,
        }
    }

    /// Takes one sample in, in millionths.
    pub fn push(&mut self, micro: i64) -> Seen {
        // Within what every metric allows, so that no sum overflows.
        let micro = micro.clamp(-MOST, MOST);
        self.samples.push(micro);
        if self.scale > 0 {
            return self.judge(micro * UNITS);
        }
        self.seen += 1;
        if self.seen < u64::from(self.warm_up) {
            return Seen::Quiet;
        }
        let (mut all, mut reader) = (Sums::default(), Reader::default());
        while let Some(early) = self.samples.next(&mut reader) {
            all.add(early * UNITS);
        }
        let size = all.moments().map_or(0, |m| m.mean.abs().saturating_add(m.deviation));
        self.scale = (size / 1_000).max(1);
        (self.seen, reader) = (0, Reader::default());
        while let Some(early) = self.samples.next(&mut reader) {
            self.judge(early * UNITS);
        }
        Seen::Quiet
    }

    fn judge(&mut self, x: i64) -> Seen {
        let range = self.range(x);
        let now = self.late.follow(x, &mut self.samples, self.scale);
        let Now { mean, deviation, spread } = now;
        if self.seen.is_multiple_of(REFRESH) {
            self.past.forget(self.seen, self.history);
            self.expected = self.past.moments();
        }
        self.past.take(now, self.seen, self.history);
        self.seen += 1;
        let [level, volatility] = match &self.expected {
            Some([means, spreads]) => [
                LEVEL.crossed(mean, means, self.scale),
                VOLATILITY.crossed(spread, spreads, SPREAD_MIN),
            ],
            None => [None, None],
        };
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

impl Late {
    /// One sample further: `samples` are read from the oldest of late on.
    fn follow(&mut self, x: i64, samples: &mut Samples, scale: i64) -> Now {
        if self.sums.count() >= LATE
            && let Some(old) = samples.next(&mut self.oldest)
        {
            self.sums.take(old * UNITS);
            samples.release(&self.oldest);
        }
        self.sums.add(x);
        let (mean, deviation) = self.sums.moments().map_or((x, 0), |m| (m.mean, m.deviation));
        let spread = Fixed::from_bits(deviation.saturating_add(scale)).ln().bits();
        Now { mean, deviation, spread }
    }
}

impl Past {
    /// Takes in what is seen of the sample `seen`. What a refresh forgets, and what is new at one, are blocks of their own.
    fn take(&mut self, now: Now, seen: u64, history: u32) {
        if seen == begin_after(seen.saturating_sub(1), history) || seen == 0 {
            if self.blocks.len() == self.blocks.capacity() {
                self.blocks.reserve_exact(ROOM);
            }
            self.blocks.push_back(Block::default());
        }
        self.means.add(now.mean);
        self.spreads.add(now.spread);
        if let Some(Block { sums, squares }) = self.blocks.back_mut() {
            for ((sum, squares), value) in sums.iter_mut().zip(squares).zip([now.mean, now.spread])
            {
                *sum += value;
                *squares += i128::from(value) * i128::from(value);
            }
        }
    }

    /// Forgets what is behind the last `history` samples of the first `seen`, where that is a refresh.
    fn forget(&mut self, seen: u64, history: u32) {
        while seen.saturating_sub(self.forgotten) > u64::from(history)
            && let Some(old) = self.blocks.pop_front()
        {
            let end = begin_after(self.forgotten, history);
            let count = u32::try_from(end - self.forgotten).unwrap_or(u32::MAX);
            let Block { sums: [means, spreads], squares: [of_means, of_spreads] } = old;
            self.means.take_all(count, means, of_means);
            self.spreads.take_all(count, spreads, of_spreads);
            self.forgotten = end;
        }
    }

    fn moments(&self) -> Option<[Moments; 2]> {
        Some([self.means.moments()?, self.spreads.moments()?])
    }
}

/// The first sample behind `seen` with which a block begins: one at which the past is refreshed, or that is the oldest then.
fn begin_after(seen: u64, history: u32) -> u64 {
    let next = |shift: u64| (seen + 1 + shift).next_multiple_of(REFRESH) - shift;
    next(0).min(next(u64::from(history) % REFRESH))
}

impl Bound {
    /// What was expected instead of `value`, and what that rests on, if it is too far away.
    fn crossed(self, value: i64, usual: &Moments, least: i64) -> Option<(i64, i64, u32)> {
        let Moments { mean, deviation, count } = *usual;
        let Self(most, of) = self;
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
        assert!(baseline.past.moments().is_some());
    }

    /// The same by the definition: everything is kept as it was computed.
    struct Plain {
        lengths: (usize, usize),
        early: Vec<i64>,
        all: Vec<i64>,
        scale: i64,
        pasts: [(Vec<i64>, Option<Moments>); 2],
        rest: u32,
    }

    fn moments(values: &[i64]) -> Option<Moments> {
        let mut sums = Sums::default();
        values.iter().for_each(|value| sums.add(*value));
        sums.moments()
    }

    fn last(values: &[i64], most: usize) -> &[i64] {
        &values[values.len().saturating_sub(most)..]
    }

    impl Plain {
        fn new(warm_up: usize, history: usize) -> Self {
            let (early, all, pasts) = Default::default();
            Self { lengths: (warm_up, history), early, all, scale: 0, pasts, rest: REST }
        }

        fn push(&mut self, micro: i64) -> Seen {
            if self.scale > 0 {
                return self.judge(micro * UNITS);
            }
            self.early.push(micro * UNITS);
            if self.early.len() == self.lengths.0 {
                let all = moments(&self.early).unwrap();
                self.scale = ((all.mean.abs() + all.deviation) / 1_000).max(1);
                std::mem::take(&mut self.early).into_iter().for_each(|x| _ = self.judge(x));
            }
            Seen::Quiet
        }

        fn judge(&mut self, x: i64) -> Seen {
            let seen = self.all.len();
            let low = self.all.iter().copied().min().unwrap_or(x);
            let high = self.all.iter().copied().max().unwrap_or(x);
            let beyond = (x - high).max(low - x);
            let range = beyond > 0 && beyond * 100 >= high - low;
            self.all.push(x);
            let Moments { mean, deviation, .. } = moments(last(&self.all, LATE as usize)).unwrap();
            let spread = Fixed::from_bits(deviation + self.scale).ln().bits();
            let back = |l: i64| (Fixed::from_bits(l).exp().bits() - self.scale).max(0);
            let bounds = [(mean, LEVEL, self.scale), (spread, VOLATILITY, SPREAD_MIN)];
            let mut found = range.then_some((Test::Range, x, low, high, seen));
            for (n, (value, Bound(most, of), least)) in bounds.into_iter().enumerate() {
                let (values, expected) = &mut self.pasts[n];
                if seen.is_multiple_of(REFRESH as usize) {
                    *expected = moments(last(values, self.lengths.1));
                }
                values.push(value);
                let Some(Moments { mean: usual, deviation: d, count }) = *expected else {
                    continue;
                };
                let room = d.max(least) * most / of;
                let far = (value - usual).abs() * of >= d.max(least) * most;
                let (low, high, count) = (usual - room, usual + room, count as usize);
                let deviates = match n {
                    0 => (Test::Level, value, low, high, count),
                    _ => (Test::Volatility, deviation, back(low), back(high), count),
                };
                found = found.or(far.then_some(deviates));
            }
            let Some((test, value, low, high, history)) = found else {
                self.rest += 1;
                return Seen::Quiet;
            };
            let (value, low, high) = (value / UNITS, low / UNITS, high / UNITS);
            let history = u32::try_from(history).unwrap();
            let rested = std::mem::take(&mut self.rest) >= REST;
            let deviation = Deviation { test, value, low, high, history };
            if rested { Seen::Alarm(deviation) } else { Seen::Standing }
        }
    }

    #[test]
    fn it_says_what_one_says_that_keeps_everything() {
        // Long enough that the past is forgotten for a while, with spikes, a new level, and a monitor that is stuck.
        let value = |n: i64| match n {
            700..=702 => 900_000,
            1_000..1_200 => 470_000 + usual(n) % 20_000,
            1_400..1_500 => 450_000,
            _ => usual(n),
        };
        for (warm_up, history) in [(72, 100), (100, 137), (150, 400), (300, 149), (90, 101)] {
            let mut own = Baseline::new(warm_up, history);
            let mut plain = Plain::new(warm_up, history);
            let mut alarms = 0;
            for n in 0..2_000 {
                let (said, right) = (own.push(value(n)), plain.push(value(n)));
                assert_eq!(said, right, "{warm_up} {history} {n}");
                alarms += usize::from(matches!(said, Seen::Alarm(_)));
            }
            assert!(alarms > 2, "{alarms} of {warm_up} {history}");
        }
    }

    #[test]
    fn what_is_kept_of_the_past_has_a_limit() {
        for (history, blocks) in [(1_000, 21), (1_013, 42)] {
            let mut baseline = Baseline::new(300, history);
            (0..300).for_each(|n| _ = baseline.push(usual(n)));
            assert!(baseline.samples.size() <= 3 * 300 + 512, "{}", baseline.samples.size());
            (300..1_100).for_each(|n| _ = baseline.push(usual(n)));
            let size =
                |baseline: &Baseline| (baseline.samples.size(), baseline.past.blocks.capacity());
            let (samples, full) = size(&baseline);
            assert!(samples <= 3 * 72 + 512 && full < blocks + ROOM, "{samples} {full}");
            (1_100..20_000).for_each(|n| _ = baseline.push(usual(n)));
            assert_eq!(size(&baseline), (samples, full));
        }
    }
}

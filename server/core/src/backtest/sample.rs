//! Means with an interval, in integers.

use serde::{Deserialize, Serialize};

/// A mean with its 90 % interval, in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean.
    pub mean_micro: i64,
    /// Least value.
    pub low_micro: i64,
    /// Largest value.
    pub high_micro: i64,
}

/// Numbers of which only count, sum and squares are kept.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    count: u64,
    sum: i128,
    squares: i128,
}

/// 90 % of a normal distribution lies within this many standard deviations, in thousandths.
const NINETY: i128 = 1_645;

impl Sample {
    pub(super) fn add(&mut self, micro: i64) {
        self.count += 1;
        self.sum += i128::from(micro);
        self.squares += i128::from(micro) * i128::from(micro);
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// The mean, and where the true one is with 90 % by the normal approximation.
    pub(super) fn interval(&self) -> Interval {
        let n = i128::from(self.count);
        let Some(mean) = self.sum.checked_div(n) else { return Interval::default() };
        let spread = self.squares - self.sum * self.sum / n;
        let variance = spread.checked_div((n - 1).max(1) * n).unwrap_or(0).max(0);
        let half = variance.isqrt() * NINETY / 1_000;
        let fit = |value: i128| i64::try_from(value).unwrap_or(i64::MAX);
        Interval {
            mean_micro: fit(mean),
            low_micro: fit(mean - half),
            high_micro: fit(mean + half),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_wide_as_the_numbers_are_far_apart() {
        let of = |numbers: &[i64]| {
            let mut sample = Sample::default();
            numbers.iter().for_each(|number| sample.add(*number));
            sample.interval()
        };
        assert_eq!(of(&[]), Interval::default());
        let same = of(&[7_000_000; 5]);
        assert_eq!((same.low_micro, same.high_micro), (7_000_000, 7_000_000));
        // Mean 3, standard deviation sqrt(2.5), standard error 0.7071, 1.645 times that.
        let spread = of(&[1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]);
        assert_eq!(spread.mean_micro, 3_000_000);
        assert!((spread.high_micro - 4_163_190).abs() < 1_000, "{spread:?}");
        assert!((spread.low_micro - 1_836_810).abs() < 1_000, "{spread:?}");
    }
}

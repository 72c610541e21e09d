//! Mean and standard deviation of the last values, in whole numbers: sums that are added to and taken from never drift.

use std::collections::VecDeque;

/// The last values, at most so many, and their sums.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    most: usize,
    values: VecDeque<i64>,
    sum: i128,
    squares: i128,
}

/// Mean and standard deviation, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moments {
    pub(super) mean: i64,
    pub(super) deviation: i64,
    pub(super) count: u32,
}

impl Recent {
    pub(super) const fn new(most: usize) -> Self {
        Self { most, values: VecDeque::new(), sum: 0, squares: 0 }
    }

    /// Takes one value in, and the oldest one out when there are too many. Values are below 2^55 in size, so nothing overflows.
    pub(super) fn push(&mut self, value: i64) {
        if self.values.len() >= self.most
            && let Some(old) = self.values.pop_front()
        {
            self.add(old, -1);
        }
        self.values.push_back(value);
        self.add(value, 1);
    }

    fn add(&mut self, value: i64, times: i128) {
        self.sum += times * i128::from(value);
        self.squares += times * i128::from(value) * i128::from(value);
    }

    /// Of the values that are kept; `None` when there is none.
    pub(super) fn moments(&self) -> Option<Moments> {
        let count = u32::try_from(self.values.len()).ok().filter(|count| *count > 0)?;
        let n = i128::from(count);
        let (mean, rest) = (self.sum.div_euclid(n), self.sum.rem_euclid(n));
        // The sum of squared distances from the rounded mean, less what the rounding adds.
        let squares = self.squares - mean * (self.sum + rest) - rest * rest / n;
        let variance = u128::try_from(squares / n).unwrap_or(0);
        let narrow = |wide: i128| i64::try_from(wide).unwrap_or(i64::MAX);
        let deviation = i64::try_from(variance.isqrt()).unwrap_or(i64::MAX);
        Some(Moments { mean: narrow(mean), deviation, count })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_those_of_the_last_values(
            values in prop::collection::vec(-(1_i64 << 54)..1_i64 << 54, 1..40), most in 1..20_usize,
        ) {
            let mut recent = Recent::new(most);
            values.iter().for_each(|value| recent.push(*value));
            let last = &values[values.len().saturating_sub(most)..];
            let mean = last.iter().map(|v| *v as f64).sum::<f64>() / last.len() as f64;
            let variance = last.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>();
            let deviation = (variance / last.len() as f64).sqrt();
            let moments = recent.moments().unwrap();
            prop_assert!((moments.mean as f64 - mean).abs() <= 1.0 + mean.abs() * 1e-9);
            prop_assert!((moments.deviation as f64 - deviation).abs() <= 2.0 + deviation * 1e-6);
            prop_assert_eq!(moments.count as usize, last.len());
        }
    }
}

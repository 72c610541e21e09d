//! Mean and standard deviation of the last values, in whole numbers: sums that are added to and taken from never drift.

/// The sums of some values, which are remembered elsewhere or can be found again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    count: u32,
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

impl Sums {
    /// How many values they are of.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// One value more. Values are below 2^55 in size, so nothing overflows.
    pub(super) fn add(&mut self, value: i64) {
        self.count = self.count.saturating_add(1);
        self.sum += i128::from(value);
        self.squares += i128::from(value) * i128::from(value);
    }

    /// One value less: one that was added.
    pub(super) fn take(&mut self, value: i64) {
        self.count = self.count.saturating_sub(1);
        self.sum -= i128::from(value);
        self.squares -= i128::from(value) * i128::from(value);
    }

    /// So many values less, that were added one by one, with their sum and that of their squares.
    pub(super) fn take_all(&mut self, count: u32, sum: i64, squares: i128) {
        self.count = self.count.saturating_sub(count);
        self.sum -= i128::from(sum);
        self.squares -= squares;
    }

    /// `None` when there is no value.
    pub(super) fn moments(&self) -> Option<Moments> {
        let count = Some(self.count).filter(|count| *count > 0)?;
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
            let mut sums = Sums::default();
            for (n, value) in values.iter().enumerate() {
                if n >= most {
                    sums.take(values[n - most]);
                }
                sums.add(*value);
            }
            let last = &values[values.len().saturating_sub(most)..];
            let mean = last.iter().map(|v| *v as f64).sum::<f64>() / last.len() as f64;
            let variance = last.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>();
            let deviation = (variance / last.len() as f64).sqrt();
            let moments = sums.moments().unwrap();
            prop_assert!((moments.mean as f64 - mean).abs() <= 1.0 + mean.abs() * 1e-9);
            prop_assert!((moments.deviation as f64 - deviation).abs() <= 2.0 + deviation * 1e-6);
            prop_assert_eq!(moments.count as usize, last.len());
        }
    }
}

//! Histograms of OpenTelemetry: what came since the last export, and the quantiles of it.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets as WireBuckets;
use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, HistogramDataPoint};

/// Most buckets of one point; SDKs make 15 to 160 of them.
const BUCKETS_MAX: usize = 1_024;
/// Scales an exponential histogram can have.
const SCALES: std::ops::RangeInclusive<i32> = -10..=20;

/// The counts of one histogram at one moment, or what was added between two.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Counts {
    /// Between bounds that are named: one more count than bounds.
    Explicit { bounds: Vec<f64>, counts: Vec<u64>, max: Option<f64> },
    /// Between powers of `2^(2^-scale)`; an index that is absent counts nothing.
    Exponential { scale: i32, zeros: u64, counts: BTreeMap<i32, u64> },
}

/// Requests in the bucket between two values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bucket {
    lower: f64,
    upper: f64,
    count: u64,
}

impl Counts {
    /// The counts of a point, or the rule it breaks.
    pub(super) fn explicit(point: &HistogramDataPoint) -> Result<Self, &'static str> {
        let (bounds, counts) = (&point.explicit_bounds, &point.bucket_counts);
        // Bounds are remembered too, and without counts nothing else limits them.
        if counts.len() > BUCKETS_MAX || bounds.len() >= BUCKETS_MAX {
            return Err("must have at most 1024 buckets");
        }
        // Both may be absent: then only the count and the sum are known.
        if !counts.is_empty() && counts.len() != bounds.len() + 1 {
            return Err("must have one bucket more than bounds");
        }
        let ascending = bounds.iter().zip(bounds.iter().skip(1)).all(|(a, b)| a < b);
        if !ascending || !bounds.iter().all(|bound| bound.is_finite()) {
            return Err("must have bounds that are finite and ascend");
        }
        let sum = counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        if !counts.is_empty() && sum != point.count {
            return Err("must have buckets that add up to its count");
        }
        Ok(Self::Explicit { bounds: bounds.clone(), counts: counts.clone(), max: point.max })
    }

    /// Buckets that have to be remembered.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Explicit { bounds, counts, .. } => bounds.len().max(counts.len()),
            Self::Exponential { counts, .. } => counts.len(),
        }
    }

    /// The counts of a point, or the rule it breaks.
    pub(super) fn exponential(point: &ExponentialHistogramDataPoint) -> Result<Self, &'static str> {
        if !SCALES.contains(&point.scale) {
            return Err("must have a scale from -10 to 20");
        }
        let buckets = |side: &Option<WireBuckets>| side.clone().unwrap_or_default();
        let (positive, negative) = (buckets(&point.positive), buckets(&point.negative));
        if positive.bucket_counts.len() > BUCKETS_MAX {
            return Err("must have at most 1024 buckets");
        }
        if negative.bucket_counts.iter().any(|count| *count > 0) {
            return Err("must not be negative");
        }
        let indexes = (0..).map(|at: i32| positive.offset.saturating_add(at));
        let counts: BTreeMap<i32, u64> =
            indexes.zip(positive.bucket_counts).filter(|(_, count)| *count > 0).collect();
        Ok(Self::Exponential { scale: point.scale, zeros: point.zero_count, counts })
    }

    /// What was added since `before`; `None` where something was taken away, as after a restart, or the bounds are others.
    pub(super) fn since(&self, before: &Self) -> Option<Self> {
        match (self, before) {
            (
                Self::Explicit { bounds, counts, .. },
                Self::Explicit { bounds: old_bounds, counts: old, .. },
            ) if bounds == old_bounds && counts.len() == old.len() => {
                let added = counts.iter().zip(old).map(|(now, then)| now.checked_sub(*then));
                let counts = added.collect::<Option<_>>()?;
                // The largest value may be from before.
                Some(Self::Explicit { bounds: bounds.clone(), counts, max: None })
            }
            (
                Self::Exponential { scale, zeros, counts },
                Self::Exponential { scale: old_scale, zeros: old_zeros, counts: old },
            ) => {
                let coarse = (*scale).min(*old_scale);
                let mut added = coarser(counts, scale - coarse);
                for (index, then) in coarser(old, old_scale - coarse) {
                    let now = added.get_mut(&index).filter(|now| **now >= then)?;
                    *now -= then;
                }
                let zeros = zeros.checked_sub(*old_zeros)?;
                Some(Self::Exponential { scale: coarse, zeros, counts: added })
            }
            _ => None,
        }
    }

    /// The buckets that hold something; `unit` is the number of seconds in one of the point's unit.
    pub(super) fn buckets(&self, unit: f64) -> Vec<Bucket> {
        match self {
            Self::Explicit { bounds, counts, max } => {
                let lowers = std::iter::once(0.0).chain(bounds.iter().copied());
                // Beyond the last bound nothing is known but the largest value, if that.
                let last = bounds.last().copied().unwrap_or(0.0);
                let end = max.filter(|max| max.is_finite() && *max > last).unwrap_or(last);
                let uppers = bounds.iter().copied().chain(std::iter::once(end));
                lowers
                    .zip(uppers)
                    .zip(counts)
                    .filter(|(_, count)| **count > 0)
                    .map(|((lower, upper), count)| Bucket {
                        lower: lower.min(upper) * unit,
                        upper: upper * unit,
                        count: *count,
                    })
                    .collect()
            }
            Self::Exponential { scale, zeros, counts } => {
                let step = f64::exp2(-f64::from(*scale));
                let bound = |index: i32| f64::exp2(f64::from(index) * step) * unit;
                let zero = Bucket { lower: 0.0, upper: 0.0, count: *zeros };
                let rest = counts.iter().map(|(index, count)| Bucket {
                    lower: bound(*index),
                    upper: bound(index.saturating_add(1)),
                    count: *count,
                });
                std::iter::once(zero).chain(rest).filter(|bucket| bucket.count > 0).collect()
            }
        }
    }
}

/// The same counts with `steps` fewer binary digits of scale.
fn coarser(counts: &BTreeMap<i32, u64>, steps: i32) -> BTreeMap<i32, u64> {
    let mut merged = BTreeMap::new();
    for (index, count) in counts {
        let sum: &mut u64 = merged.entry(index >> steps.clamp(0, 31)).or_default();
        *sum = sum.saturating_add(*count);
    }
    merged
}

/// The value below which the share `q` of what is in `buckets` lies, by straight lines within a bucket. `None` when nothing is in
/// them, or nothing is known of their bounds.
pub(super) fn quantile(buckets: &[Bucket], q: f64) -> Option<f64> {
    let mut sorted = buckets.to_vec();
    sorted.sort_by(|a, b| a.upper.total_cmp(&b.upper).then(a.lower.total_cmp(&b.lower)));
    let total: f64 = sorted.iter().map(|bucket| bucket.count as f64).sum();
    if total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let mut below = 0.0;
    for bucket in &sorted {
        let count = bucket.count as f64;
        if below + count >= rank {
            let share = ((rank - below) / count).clamp(0.0, 1.0);
            return Some(bucket.lower + (bucket.upper - bucket.lower) * share);
        }
        below += count;
    }
    sorted.last().map(|bucket| bucket.upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explicit(counts: &[u64]) -> Counts {
        let point = HistogramDataPoint {
            explicit_bounds: vec![0.1, 0.5, 1.0],
            bucket_counts: counts.to_vec(),
            count: counts.iter().sum(),
            ..HistogramDataPoint::default()
        };
        Counts::explicit(&point).unwrap()
    }

    #[test]
    fn a_quantile_is_where_the_share_of_requests_lies() {
        let counts = explicit(&[50, 40, 10, 0]).buckets(1.0);
        assert_eq!(quantile(&counts, 0.5), Some(0.1));
        assert_eq!(quantile(&counts, 0.9), Some(0.5));
        assert!((quantile(&counts, 0.99).unwrap() - 0.95).abs() < 1e-9);
        assert_eq!(quantile(&explicit(&[0, 0, 0, 5]).buckets(1.0), 0.99), Some(1.0), "at least");
        assert_eq!(quantile(&explicit(&[0, 0, 0, 0]).buckets(1.0), 0.5), None, "no requests");
        assert_eq!(quantile(&explicit(&[1, 0, 0, 0]).buckets(0.001), 1.0), Some(0.0001), "in ms");
    }

    #[test]
    fn only_what_was_added_counts_and_a_restart_begins_again() {
        let added = explicit(&[60, 40, 10, 1]).since(&explicit(&[50, 40, 10, 0])).unwrap();
        assert_eq!(added.buckets(1.0).iter().map(|b| b.count).collect::<Vec<_>>(), [10, 1]);
        assert_eq!(explicit(&[1, 0, 0, 0]).since(&explicit(&[2, 0, 0, 0])), None);
    }

    #[test]
    fn exponential_buckets_of_two_scales_are_compared_at_the_coarser_one() {
        let at = |scale, counts: &[(i32, u64)]| Counts::Exponential {
            scale,
            zeros: 0,
            counts: counts.iter().copied().collect(),
        };
        // Scale 1: base sqrt(2); index 2 and 3 are [2, 4), which is index 1 of scale 0.
        let added = at(1, &[(2, 5), (3, 5)]).since(&at(0, &[(1, 4)])).unwrap();
        assert_eq!(added, at(0, &[(1, 6)]));
        let [bucket] = added.buckets(1.0).try_into().unwrap();
        assert_eq!((bucket.lower, bucket.upper, bucket.count), (2.0, 4.0, 6));
        assert_eq!(quantile(&[bucket], 0.5), Some(3.0));
    }

    #[test]
    fn points_that_contradict_themselves_are_refused_with_the_rule() {
        let good = HistogramDataPoint {
            explicit_bounds: vec![0.1, 0.5],
            bucket_counts: vec![1, 1, 1],
            count: 3,
            ..HistogramDataPoint::default()
        };
        type Change = fn(&mut HistogramDataPoint);
        let cases: [(Change, &str); 6] = [
            (|p| p.bucket_counts = vec![1, 2], "one bucket more"),
            (|p| p.explicit_bounds = vec![0.5, 0.1], "ascend"),
            (|p| p.explicit_bounds = vec![0.5, f64::NAN], "ascend"),
            (|p| p.count = 4, "add up"),
            (|p| p.bucket_counts = vec![0; 1_025], "at most 1024"),
            (
                |p| {
                    p.bucket_counts = Vec::new();
                    p.explicit_bounds = (0..1_024).map(f64::from).collect();
                },
                "at most 1024",
            ),
        ];
        for (change, rule) in cases {
            let mut point = good.clone();
            change(&mut point);
            let told = Counts::explicit(&point).unwrap_err();
            assert!(told.contains(rule), "{told}");
        }
        let scale = ExponentialHistogramDataPoint { scale: 21, ..Default::default() };
        assert!(Counts::exponential(&scale).unwrap_err().contains("scale"));
    }
}

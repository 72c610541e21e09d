//! How old signals are when they arrive. Signals come in batches, and so they are counted: alone first, and then all of them where
//! everybody counts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// From a millisecond to a minute, and everything beyond.
const BOUNDS_MS: [u64; 16] =
    [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, u64::MAX];

/// The lags of some signals.
#[derive(Debug, Clone, Default)]
pub struct Lags {
    counts: [u64; BOUNDS_MS.len()],
    sum_ms: u64,
}

impl Lags {
    /// Counts one.
    pub fn add(&mut self, lag_ms: u64) {
        for (bound, count) in BOUNDS_MS.iter().zip(&mut self.counts) {
            if lag_ms <= *bound {
                *count += 1;
                break;
            }
        }
        self.sum_ms = self.sum_ms.saturating_add(lag_ms);
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The lags of all signals so far; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Lag(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    counts: [AtomicU64; BOUNDS_MS.len()],
    sum_ms: AtomicU64,
}

impl Lag {
    pub(super) fn add(&self, lags: &Lags) {
        for (all, more) in self.0.counts.iter().zip(lags.counts) {
            if more > 0 {
                all.fetch_add(more, Ordering::Relaxed);
            }
        }
        self.0.sum_ms.fetch_add(lags.sum_ms, Ordering::Relaxed);
    }
}

impl EncodeMetric for Lag {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.0.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        let seconds = |ms: u64| if ms == u64::MAX { f64::MAX } else { ms as f64 / 1_000.0 };
        let mut buckets = [(0.0, 0); BOUNDS_MS.len()];
        for ((bucket, bound), count) in buckets.iter_mut().zip(BOUNDS_MS).zip(counts) {
            *bucket = (seconds(bound), count);
        }
        let count = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let sum = self.0.sum_ms.load(Ordering::Relaxed) as f64 / 1_000.0;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

//! Memory grows steadily: a leak, seen before the memory is full.
//!
//! The growth is the slope of Theil and Sen (P. K. Sen: "Estimates of the regression coefficient based on Kendall's tau", Journal
//! of the American Statistical Association 63 (1968), 1379-1389): the median of the slopes of all pairs of ticks, which one odd
//! tick cannot bend. Integers throughout.

use crate::detect::{Detector, Finding, FindingKind, View, fresh_run};
use crate::signal::{MICRO, Metric, Point, Series};
use crate::verdict::Fact;

pub(super) const DETECTOR: Detector =
    Detector { kind: FindingKind::MemoryGrowth, summary: "memory grows steadily", detect };

/// Ticks it takes to tell growth from noise.
const TICKS: usize = 8;
/// Below half of the limit there is time.
const LEVEL_MICRO: i64 = MICRO / 2;
/// Pairs of the remembered ticks.
const PAIRS: usize = Series::RECENT * (Series::RECENT - 1) / 2;
/// Slopes are in millionths per this many milliseconds.
const SLOPE_MS: i128 = 1_000_000;

fn detect(view: &View<'_>) -> Option<Finding> {
    let open = view.app.open.contains_key(&FindingKind::MemoryGrowth);
    let run = fresh_run(Metric::MemoryUtilization, view);
    let limit = view.policy.stability.memory_growth;
    let (Some(first), Some(last)) = (run.first(), run.last()) else {
        return open.then(|| finding(Fact::None, limit, 0));
    };
    if run.len() < TICKS {
        // Too few ticks to say that it has stopped.
        return open.then(|| finding(Fact::Micro(last.micro), limit, 0));
    }
    if last.micro < LEVEL_MICRO {
        return None;
    }
    let low = run.iter().map(|point| point.micro).min().unwrap_or(0);
    let high = run.iter().map(|point| point.micro).max().unwrap_or(0);
    // A line cannot have grown by more than was seen; it also spares most readings the pairs.
    if !open && high.saturating_sub(low) < limit {
        return None;
    }
    let (slope, persistence) = slope(run)?;
    let span = i128::from(last.at.saturating_sub(first.at));
    let growth = slope.saturating_mul(span) / SLOPE_MS;
    let stands = slope > 0 && (open || growth >= i128::from(limit));
    let growth = i64::try_from(growth).unwrap_or(i64::MAX);
    stands.then(|| finding(Fact::Micro(growth), limit, persistence))
}

fn finding(value: Fact, limit: i64, persistence: u32) -> Finding {
    Finding {
        kind: FindingKind::MemoryGrowth,
        metric: Some(Metric::MemoryUtilization),
        value,
        limit: Fact::Micro(limit),
        persistence,
        detail: format!("memory grew in {persistence} permille of all pairs of ticks"),
    }
}

/// The median slope and the share of pairs that grow, in permille; `None` when all ticks are of one moment.
fn slope(run: &[Point]) -> Option<(i128, u32)> {
    let mut slopes = [0_i128; PAIRS];
    let mut used = 0;
    let later = |i: usize| run.iter().skip(i + 1);
    let pairs = run.iter().enumerate().flat_map(|(i, a)| later(i).map(move |b| (a, b)));
    let apart = pairs.filter(|(a, b)| b.at > a.at);
    for (place, (a, b)) in slopes.iter_mut().zip(apart) {
        let rise = i128::from(b.micro) - i128::from(a.micro);
        *place = rise * SLOPE_MS / i128::from(b.at - a.at);
        used += 1;
    }
    let slopes = slopes.get_mut(..used)?;
    slopes.sort_unstable();
    let growing = slopes.iter().filter(|slope| **slope > 0).count();
    let median = *slopes.get(used / 2)?;
    Some((median, u32::try_from(growing * 1_000 / used).unwrap_or(1_000)))
}

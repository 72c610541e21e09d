//! Sources contradict each other about one metric.
//!
//! Either the fresh value of one source is at or above the enter value while another's is at most half of the leave value, or two
//! custom booleans that exclude each other are both true. It rests on what is fresh alone: when one of the two falls silent there
//! is no contradiction any more, only less to go by.

use crate::detect::{Detector, Finding, FindingKind, View, is_fresh, is_fresh_value, threshold_of};
use crate::signal::{Condition, Metric};
use crate::verdict::Fact;

pub(super) const DETECTOR: Detector = Detector {
    kind: FindingKind::Contradiction,
    summary: "sources contradict each other about one metric",
    detect,
};

/// Custom booleans that cannot both be true.
const PAIRS: [(Metric, &str, &str); 3] = [
    (Metric::CpuUtilization, "cpu_high", "cpu_low"),
    (Metric::MemoryUtilization, "memory_high", "memory_low"),
    (Metric::ErrorRatio, "error_rate_high", "error_rate_zero"),
];

fn detect(view: &View<'_>) -> Option<Finding> {
    numbers(view).or_else(|| booleans(view))
}

fn numbers(view: &View<'_>) -> Option<Finding> {
    let metrics = view.reading.metrics.iter().filter(|(_, series)| series.sources.len() > 1);
    metrics.into_iter().find_map(|(metric, series)| {
        let rule = threshold_of(view.app, view.policy, *metric)?;
        let fresh =
            || series.sources.iter().filter(|(_, point)| is_fresh_value(*metric, point.at, view));
        let (high_source, high) = fresh().max_by_key(|(_, point)| point.micro)?;
        let (low_source, low) = fresh().min_by_key(|(_, point)| point.micro)?;
        let contradicts = high.micro >= rule.enter && low.micro <= rule.leave / 2;
        contradicts.then(|| Finding {
            kind: FindingKind::Contradiction,
            metric: Some(*metric),
            value: Fact::Micro(high.micro),
            limit: Fact::Micro(low.micro),
            persistence: 1_000,
            detail: format!(
                "{}: `{high_source}` says high and `{low_source}` says low",
                metric.as_str()
            ),
        })
    })
}

fn booleans(view: &View<'_>) -> Option<Finding> {
    let claimed = |name: &str| -> Option<&Condition> {
        view.reading.conditions.get(name).filter(|c| c.value && is_fresh(c.at, view))
    };
    PAIRS.into_iter().find_map(|(metric, high, low)| {
        let (first, second) = (claimed(high)?, claimed(low)?);
        Some(Finding {
            kind: FindingKind::Contradiction,
            metric: Some(metric),
            value: Fact::Text(high.into()),
            limit: Fact::Text(low.into()),
            persistence: 1_000,
            detail: format!(
                "{}: `{}` says {high} and `{}` says {low}",
                metric.as_str(),
                first.source,
                second.source
            ),
        })
    })
}

//! Too many requests fail: a share over the threshold, or a small one for long (`error_sum`). The threshold comes first.

use crate::detect::threshold::Watch;
use crate::detect::{Detector, Finding, FindingKind, Test, View, anomaly};
use crate::signal::Metric;

pub(super) const DETECTOR: Detector = Detector {
    kind: FindingKind::ErrorRate,
    summary: "too many requests fail",
    detect: |view| WATCH.detect(view).or_else(|| lasting(view)),
};

pub(super) const WATCH: Watch = Watch {
    kind: FindingKind::ErrorRate,
    metric: Metric::ErrorRatio,
    noun: "share of failed requests",
};

/// More failures than the budget allows, added up. It says nothing about the ticks a threshold looks at: with a persistence of zero the
/// gate of confidence lets nothing be done about it, until the threshold agrees.
fn lasting(view: &View<'_>) -> Option<Finding> {
    let sum = view.reading.alarms.iter().find(|alarm| alarm.deviation.test == Test::ErrorSum);
    sum.map(|alarm| anomaly::finding(FindingKind::ErrorRate, alarm))
}

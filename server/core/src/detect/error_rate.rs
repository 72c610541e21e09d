//! Too many requests fail.

use crate::detect::threshold::Watch;
use crate::detect::{Detector, FindingKind};
use crate::signal::Metric;

pub(super) const DETECTOR: Detector = Detector {
    kind: FindingKind::ErrorRate,
    summary: "too many requests fail",
    detect: |view| WATCH.detect(view),
};

pub(super) const WATCH: Watch = Watch {
    kind: FindingKind::ErrorRate,
    metric: Metric::ErrorRatio,
    noun: "share of failed requests",
};

//! Requests take too long.

use crate::detect::threshold::Watch;
use crate::detect::{Detector, FindingKind};
use crate::signal::Metric;

pub(super) const DETECTOR: Detector = Detector {
    kind: FindingKind::Latency,
    summary: "requests take too long",
    detect: |view| WATCH.detect(view),
};

pub(super) const WATCH: Watch = Watch {
    kind: FindingKind::Latency,
    metric: Metric::LatencyP99,
    noun: "99th percentile of the response time",
};

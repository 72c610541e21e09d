//! The memory is nearly full.

use crate::detect::threshold::Watch;
use crate::detect::{Detector, FindingKind};
use crate::signal::Metric;

pub(super) const DETECTOR: Detector = Detector {
    kind: FindingKind::MemoryOverload,
    summary: "the memory is nearly full",
    detect: |view| WATCH.detect(view),
};

pub(super) const WATCH: Watch = Watch {
    kind: FindingKind::MemoryOverload,
    metric: Metric::MemoryUtilization,
    noun: "memory use",
};

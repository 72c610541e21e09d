//! The CPU is saturated.

use crate::detect::threshold::Watch;
use crate::detect::{Detector, FindingKind};
use crate::signal::Metric;

pub(super) const DETECTOR: Detector = Detector {
    kind: FindingKind::CpuOverload,
    summary: "the CPU is saturated",
    detect: |view| WATCH.detect(view),
};

pub(super) const WATCH: Watch =
    Watch { kind: FindingKind::CpuOverload, metric: Metric::CpuUtilization, noun: "CPU use" };

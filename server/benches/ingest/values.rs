//! What apps that are well report: values that move as real ones do, so that nothing about their past can be kept more cheaply than
//! that of others.

use agentctl_api::v1;
use agentd_core::signal::{MICRO, Metric};

/// A number of its own for each app, report and metric, between -1 and 1, mostly near 0.
fn noise(app: usize, report: u64, metric: u64) -> f64 {
    let mix = |n: u64| {
        let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    };
    let n = mix(mix(app as u64 * 7 + metric).wrapping_add(report));
    let part = |n: u64| (n & 0xffff_ffff) as f64 / f64::from(u32::MAX);
    part(n) + part(n >> 32) - 1.0
}

/// The six values of an app in one report.
fn values(app: usize, report: u64) -> [f64; 6] {
    let about = |metric, usual: f64, part: f64| usual * (1.0 + part * noise(app, report, metric));
    [
        about(0, 0.25, 0.3),
        about(1, 0.4, 0.05),
        about(2, 0.012, 0.3),
        about(3, 0.08, 0.3),
        about(4, 0.000_2, 1.0),
        about(5, 120.0, 0.2),
    ]
}

/// The same as agentd keeps them.
pub(crate) fn samples(app: usize, report: u64) -> [(Metric, i64); 6] {
    let metrics = [
        Metric::CpuUtilization,
        Metric::MemoryUtilization,
        Metric::LatencyP50,
        Metric::LatencyP99,
        Metric::ErrorRatio,
        Metric::RequestRate,
    ];
    let values = values(app, report).map(|value| (value * MICRO as f64) as i64);
    std::array::from_fn(|n| (metrics[n], values[n]))
}

/// Puts them into a signal.
pub(crate) fn fill(signal: &mut v1::Signal, app: usize, report: u64) {
    let [cpu, memory, p50, p99, errors, rate] = values(app, report).map(Some);
    (signal.cpu_utilization, signal.memory_utilization) = (cpu, memory);
    (signal.latency_p50_seconds, signal.latency_p99_seconds) = (p50, p99);
    (signal.error_ratio, signal.request_rate) = (errors, rate);
}

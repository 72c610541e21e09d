//! Whether an app has more instances than it needs. Not a finding: nothing is wrong.

use crate::detect::{View, fresh_run, threshold_of};
use crate::signal::{Metric, Series};

/// More instances than the least run, nothing is open or in flight, and over all remembered ticks, without a gap, the CPU stayed
/// below half of its leave value: with half of the instances the load would still be below the leave value itself. Whatever else is
/// reported must be below its leave value too. What is not reported is unknown and not low, but only the CPU must be known.
#[must_use]
pub fn is_idle(view: &View<'_>) -> bool {
    let app = view.app;
    if app.desired <= app.profile.min.max(1) || !app.open.is_empty() || app.attempt.is_some() {
        return false;
    }
    let cpu = fresh_run(Metric::CpuUtilization, view);
    let complete = cpu.len() >= Series::RECENT && app.ready() >= app.desired;
    let low = threshold_of(app, view.policy, Metric::CpuUtilization)
        .is_some_and(|rule| cpu.iter().all(|point| point.micro < rule.leave / 2));
    let calm = |metric: &Metric| {
        threshold_of(app, view.policy, *metric).is_none_or(|rule| {
            fresh_run(*metric, view).iter().all(|point| point.micro < rule.leave)
        })
    };
    complete && low && view.reading.metrics.keys().all(calm)
}

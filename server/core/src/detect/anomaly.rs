//! A metric is not as it used to be, or the error budget does not last. A suspicion: nothing is done about it, because statistics say
//! that something is odd, not what would help. It is recorded, with what was expected, and a budget that runs out is told to humans.

use super::{Alarm, Finding, FindingKind, Test, View};
use crate::verdict::Fact;

/// Whether the error budget is used up so fast that somebody must look now.
pub(crate) fn pages(view: &View<'_>) -> bool {
    view.reading.alarms.iter().any(|alarm| alarm.deviation.test == Test::BurnPage)
}

/// The first alarm of a budget, or against a metric's own past.
pub(super) fn suspect(view: &View<'_>) -> Option<Finding> {
    let own = |alarm: &&Alarm| alarm.deviation.test != Test::ErrorSum;
    view.reading.alarms.iter().find(own).map(|alarm| finding(FindingKind::Anomaly, alarm))
}

/// An alarm as a finding of that kind.
pub(super) fn finding(kind: FindingKind, alarm: &Alarm) -> Finding {
    let Alarm { metric, deviation, .. } = alarm;
    let limit = if deviation.value < deviation.low { deviation.low } else { deviation.high };
    Finding {
        kind,
        metric: Some(*metric),
        value: Fact::Micro(deviation.value),
        limit: Fact::Micro(limit),
        persistence: 0,
        detail: format!("{} by {deviation}", metric.as_str()),
    }
}

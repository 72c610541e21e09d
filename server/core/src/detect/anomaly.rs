//! A metric is not as it used to be. A suspicion: nothing is done about it, because statistics say that something is odd, not that
//! something is wrong. It is recorded, with what was expected.

use super::{Alarm, Finding, FindingKind, Test, View};
use crate::verdict::Fact;

/// The first alarm against a metric's own past.
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

//! The condition keeps changing.
//!
//! It opens when the app went between healthy and unhealthy too often in a span, and stands until its health has not changed at
//! all for a longer span. Not knowing the health is no change of it, and neither is what a planned change brings with it: each
//! instance that a rolling restart takes down and up again.

use crate::detect::{Detector, Finding, FindingKind, View};
use crate::state::{Health, HealthChange};
use crate::verdict::Fact;

pub(super) const DETECTOR: Detector =
    Detector { kind: FindingKind::Flapping, summary: "the condition keeps changing", detect };

fn detect(view: &View<'_>) -> Option<Finding> {
    let rule = &view.policy.stability;
    let age = |change: &HealthChange| view.now.saturating_sub(change.at);
    let known = || {
        view.app.states.iter().filter(|change| change.health != Health::Unknown && !change.planned)
    };
    let healthy = |change: &HealthChange| change.health == Health::Healthy;
    let turns = known().zip(known().skip(1)).filter(|(a, b)| healthy(a) != healthy(b));
    let changes = turns.filter(|(_, b)| age(b) <= rule.flap_window_ms).count() as u64;
    let limit = u64::from(rule.flap_changes.max(1));
    let moving = known().next_back().is_some_and(|last| age(last) < rule.flap_exit_ms);
    let open = view.app.open.contains_key(&FindingKind::Flapping);
    let stands = moving && (open || changes >= limit);
    stands.then(|| Finding {
        kind: FindingKind::Flapping,
        metric: None,
        value: Fact::Count(changes),
        limit: Fact::Count(limit),
        persistence: 1_000,
        detail: format!("{changes} changes of health within {} s", rule.flap_window_ms / 1_000),
    })
}

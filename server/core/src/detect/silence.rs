//! Nobody reports any more. Stale is never healthy.
//!
//! Counted from the last signal, or from the onboarding when there never was one. An app of which nothing runs has nothing to
//! report; what is wrong with it is another finding's business.

use crate::app::Millis;
use crate::detect::{Detector, Finding, FindingKind, View};
use crate::verdict::Fact;

pub(super) const DETECTOR: Detector =
    Detector { kind: FindingKind::Silence, summary: "nobody reports any more", detect };

/// When it begins if nobody reports until then; `None` once that is over.
pub(super) fn begins(view: &View<'_>) -> Option<Millis> {
    let begins = heard(view).saturating_add(view.policy.freshness.silence_ms).saturating_add(1);
    Some(begins).filter(|begins| *begins > view.now)
}

fn heard(view: &View<'_>) -> Millis {
    view.reading.last_seen.unwrap_or(view.app.onboarded_at)
}

fn detect(view: &View<'_>) -> Option<Finding> {
    let heard = heard(view);
    let silent_ms = view.now.saturating_sub(heard);
    let limit_ms = view.policy.freshness.silence_ms;
    let monitored = view.app.running() > 0 || view.app.open.contains_key(&FindingKind::Silence);
    (monitored && silent_ms > limit_ms).then(|| Finding {
        kind: FindingKind::Silence,
        metric: None,
        value: Fact::Ms(silent_ms),
        limit: Fact::Ms(limit_ms),
        persistence: 1_000,
        detail: format!("no signal for {} s", silent_ms / 1_000),
    })
}

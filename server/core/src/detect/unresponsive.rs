//! An instance runs but does not answer its health check.

use crate::app::Instances;
use crate::detect::{Detector, Finding, FindingKind, View};
use crate::state::Phase;
use crate::verdict::Fact;

pub(super) const DETECTOR: Detector = Detector {
    kind: FindingKind::Unresponsive,
    summary: "an instance runs but does not answer its health check",
    detect,
};

fn detect(view: &View<'_>) -> Option<Finding> {
    let wanted = view.app.wanted().take(Instances::LIMIT as usize);
    let mut unready = wanted
        .filter(|(_, instance)| instance.is_some_and(|i| i.phase == Phase::Unready))
        .map(|(slot, _)| slot);
    let first = unready.next()?;
    Some(Finding {
        kind: FindingKind::Unresponsive,
        metric: None,
        value: Fact::Count(unready.count() as u64 + 1),
        limit: Fact::Count(0),
        persistence: 1_000,
        detail: format!("instance {first} does not answer its health check"),
    })
}

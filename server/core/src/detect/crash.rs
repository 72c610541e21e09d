//! An instance that should run is gone.
//!
//! An app none of whose instances was ever started has not crashed, and an instance that an attempt is about to start (or has
//! just stopped to start it again) is not missing until the attempt is carried out. A crash that is open stands until everything
//! that is wanted runs.

use crate::app::Instances;
use crate::detect::{Detector, Finding, FindingKind, View};
use crate::plan::Operation;
use crate::verdict::Fact;

pub(super) const DETECTOR: Detector =
    Detector { kind: FindingKind::Crash, summary: "an instance that should run is gone", detect };

fn detect(view: &View<'_>) -> Option<Finding> {
    let mut gone = gone(view);
    let first = gone.next()?;
    let count = gone.count() as u64 + 1;
    let exit = view.app.instances.get(&first).and_then(|instance| instance.last_exit);
    let detail = match exit {
        Some(exit) => format!("instance {first} ended: {exit}"),
        None => format!("instance {first} is gone"),
    };
    Some(Finding {
        kind: FindingKind::Crash,
        metric: None,
        value: Fact::Count(count),
        limit: Fact::Count(0),
        persistence: 1_000,
        detail,
    })
}

/// Wanted slots without a process, as far as that is a fault.
pub(super) fn gone<'a>(view: &View<'a>) -> impl Iterator<Item = u32> {
    let app = view.app;
    let open = app.open.contains_key(&FindingKind::Crash);
    let started = !app.instances.is_empty();
    let operation = app
        .attempt
        .as_ref()
        .filter(|attempt| attempt.delivered_at.is_none())
        .map(|attempt| &attempt.plan.operation);
    app.wanted()
        .take(Instances::LIMIT as usize)
        .filter(|(_, instance)| instance.is_none_or(|i| !i.phase.is_running()))
        .map(|(slot, _)| slot)
        .filter(move |slot| started && (open || !operation.is_some_and(|o| covers(o, *slot))))
}

fn covers(operation: &Operation, slot: u32) -> bool {
    match operation {
        Operation::Restart { targets } => targets.iter().any(|target| target.slot == slot),
        Operation::Deploy { .. }
        | Operation::Scale { .. }
        | Operation::Rollback { .. }
        | Operation::Offboard { .. } => true,
        Operation::Configure { .. } | Operation::AdjustThreshold { .. } => false,
    }
}

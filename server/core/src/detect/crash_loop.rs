//! Instances exit again and again.
//!
//! It opens together with a crash, when that is one of too many, and stands until everything runs and nothing has exited for the
//! hold time.

use crate::detect::{Detector, Finding, FindingKind, View, crash};
use crate::verdict::Fact;

pub(super) const DETECTOR: Detector =
    Detector { kind: FindingKind::CrashLoop, summary: "instances exit again and again", detect };

fn detect(view: &View<'_>) -> Option<Finding> {
    let rule = &view.policy.stability;
    let age = |at: u64| view.now.saturating_sub(at);
    let within = |at: &&u64| age(**at) <= rule.crash_loop_window_ms;
    let exits = view.app.exits.iter().filter(within).count() as u64;
    let limit = u64::from(rule.crash_loop_exits.max(1));
    let down = crash::gone(view).next().is_some();
    let recent =
        view.app.exits.back().is_some_and(|at| age(*at) < view.policy.verification.hold_ms);
    let stands = if view.app.open.contains_key(&FindingKind::CrashLoop) {
        down || recent
    } else {
        down && exits >= limit
    };
    stands.then(|| Finding {
        kind: FindingKind::CrashLoop,
        metric: None,
        value: Fact::Count(exits),
        limit: Fact::Count(limit),
        persistence: 1_000,
        detail: format!("{exits} exits within {} s", rule.crash_loop_window_ms / 1_000),
    })
}

//! The last deployment did not become healthy.
//!
//! While another one is being tried, its outcome is what counts.

use crate::action::Action;
use crate::detect::{Detector, Finding, FindingKind, View};
use crate::verdict::Fact;

pub(super) const DETECTOR: Detector = Detector {
    kind: FindingKind::DeploymentFailed,
    summary: "the last deployment did not become healthy",
    detect,
};

fn detect(view: &View<'_>) -> Option<Finding> {
    let failed = view.app.profile.failed_revision?;
    let redeploys =
        |a: Action| matches!(a, Action::Deploy | Action::RetryDeployment | Action::Rollback);
    if view.app.attempt.as_ref().is_some_and(|attempt| redeploys(attempt.plan.action)) {
        return None;
    }
    Some(Finding {
        kind: FindingKind::DeploymentFailed,
        metric: None,
        value: Fact::Count(failed.into()),
        limit: Fact::Count(view.app.profile.revision.into()),
        persistence: 1_000,
        detail: format!("the deployment of revision {failed} failed"),
    })
}

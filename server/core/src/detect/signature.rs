//! The one signature of an incident: what it looks like from outside, whatever its cause.

use serde::{Deserialize, Serialize};

use super::{Finding, FindingKind, View};
use crate::action::Action;
use crate::app::Millis;

/// What breaks this long after a deployment is blamed on it.
const DEPLOY_BLAME_MS: Millis = 30 * 60 * 1_000;
/// Exits within the window of a crash loop that make going down a habit.
const REPEATED: usize = 2;

/// What an incident looks like. In the order of precedence: the first one that fits is the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signature {
    /// Something is down that was deployed a short while ago.
    DownDeploy,
    /// Something went down again and again.
    DownRepeat,
    /// Something is down, or does not answer.
    Down,
    /// Sources contradict each other: look again.
    Conflict,
    /// Nobody reports any more: look again.
    Stale,
    /// Memory grows, or is nearly full.
    MemRising,
    /// The CPU is saturated, or everything is slow.
    CpuLoad,
    /// The app is well itself, and its requests fail.
    DepErrors,
    /// The condition keeps changing.
    Flap,
    /// Something is wrong that points to no cause.
    Unspecific,
}

impl Signature {
    /// Every signature, in the order of precedence.
    pub const ALL: [Self; 10] = [
        Self::DownDeploy,
        Self::DownRepeat,
        Self::Down,
        Self::Conflict,
        Self::Stale,
        Self::MemRising,
        Self::CpuLoad,
        Self::DepErrors,
        Self::Flap,
        Self::Unspecific,
    ];

    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DownDeploy => "down_deploy",
            Self::DownRepeat => "down_repeat",
            Self::Down => "down",
            Self::Conflict => "conflict",
            Self::Stale => "stale",
            Self::MemRising => "mem_rising",
            Self::CpuLoad => "cpu_load",
            Self::DepErrors => "dep_errors",
            Self::Flap => "flap",
            Self::Unspecific => "unspecific",
        }
    }
}

/// The signature of what is seen: of the finding that is answered, and what stands around it. `None` when nothing is wrong.
#[must_use]
pub fn of(view: &View<'_>, findings: &[Finding]) -> Option<Signature> {
    let finding = crate::choose::primary(findings)?;
    let deployed = was_deployed(view);
    let seen = |kind| findings.iter().any(|finding| finding.kind == kind);
    Some(match finding.kind {
        FindingKind::DeploymentFailed => Signature::DownDeploy,
        FindingKind::CrashLoop | FindingKind::Crash | FindingKind::Unresponsive if deployed => {
            Signature::DownDeploy
        }
        FindingKind::CrashLoop => Signature::DownRepeat,
        FindingKind::Crash | FindingKind::Unresponsive if goes_down_often(view) => {
            Signature::DownRepeat
        }
        FindingKind::Crash | FindingKind::Unresponsive => Signature::Down,
        FindingKind::Contradiction => Signature::Conflict,
        FindingKind::Silence => Signature::Stale,
        FindingKind::MemoryOverload | FindingKind::MemoryGrowth => Signature::MemRising,
        FindingKind::CpuOverload => Signature::CpuLoad,
        FindingKind::ErrorRate if deployed => Signature::DownDeploy,
        FindingKind::ErrorRate if seen(FindingKind::CpuOverload) => Signature::CpuLoad,
        // Slow and failing: what it depends on, or too much to do, or something else.
        FindingKind::ErrorRate if seen(FindingKind::Latency) => Signature::Unspecific,
        // Its requests fail although it has what it needs: what it depends on does not answer.
        FindingKind::ErrorRate => Signature::DepErrors,
        FindingKind::Flapping => Signature::Flap,
        FindingKind::Anomaly => Signature::Unspecific,
        // Slow without errors is more to do than it can, whether or not the CPU is what it lacks.
        FindingKind::Latency => Signature::CpuLoad,
    })
}

/// Whether a deployment of late may be to blame.
pub(crate) fn was_deployed(view: &View<'_>) -> bool {
    let deployments = [Action::Deploy, Action::RetryDeployment];
    let last = deployments.iter().filter_map(|action| view.app.last_effect.get(action));
    last.map(|effect| effect.at)
        .max()
        .is_some_and(|at| view.now.saturating_sub(at) <= DEPLOY_BLAME_MS)
}

fn goes_down_often(view: &View<'_>) -> bool {
    let since = view.now.saturating_sub(view.policy.stability.crash_loop_window_ms);
    view.app.exits.iter().filter(|at| **at >= since).count() >= REPEATED
}

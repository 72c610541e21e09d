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

/// What is known of an incident beside the finding that is answered.
struct Facts<'a> {
    view: &'a View<'a>,
    findings: &'a [Finding],
}

impl Facts<'_> {
    fn seen(&self, kind: FindingKind) -> bool {
        self.findings.iter().any(|finding| finding.kind == kind)
    }
}

/// It looks like that, if one of these findings is the one that is answered, and the condition holds.
type Row = (Signature, &'static [FindingKind], fn(&Facts<'_>) -> bool);

/// From facts to what they look like: the first row that fits, and one always does. In the order of precedence.
const TABLE: &[Row] = &[
    (Signature::DownDeploy, &[FindingKind::DeploymentFailed], |_| true),
    (Signature::DownDeploy, DOWN_OR_FAILING, |facts| was_deployed(facts.view)),
    (Signature::DownRepeat, &[FindingKind::CrashLoop], |_| true),
    (Signature::DownRepeat, DOWN, |facts| goes_down_often(facts.view)),
    (Signature::Down, DOWN, |_| true),
    (Signature::Conflict, &[FindingKind::Contradiction], |_| true),
    (Signature::Stale, &[FindingKind::Silence], |_| true),
    (Signature::MemRising, &[FindingKind::MemoryOverload, FindingKind::MemoryGrowth], |_| true),
    // Slow without errors is more to do than it can, whether or not the CPU is what it lacks.
    (Signature::CpuLoad, &[FindingKind::CpuOverload, FindingKind::Latency], |_| true),
    (Signature::CpuLoad, FAILING, |facts| facts.seen(FindingKind::CpuOverload)),
    // Its requests fail although it has what it needs: what it depends on does not answer.
    (Signature::DepErrors, FAILING, |facts| !facts.seen(FindingKind::Latency)),
    (Signature::Flap, &[FindingKind::Flapping], |_| true),
    // Slow and failing: what it depends on, or too much to do, or something else.
    (Signature::Unspecific, &[FindingKind::ErrorRate, FindingKind::Anomaly], |_| true),
];

const DOWN: &[FindingKind] = &[FindingKind::Crash, FindingKind::Unresponsive];
const FAILING: &[FindingKind] = &[FindingKind::ErrorRate];
const DOWN_OR_FAILING: &[FindingKind] = &[
    FindingKind::CrashLoop,
    FindingKind::Crash,
    FindingKind::Unresponsive,
    FindingKind::ErrorRate,
];

/// The signature of what is seen: of the finding that is answered, and what stands around it. `None` when nothing is wrong.
#[must_use]
pub fn of(view: &View<'_>, findings: &[Finding]) -> Option<Signature> {
    let kind = crate::choose::primary(findings)?.kind;
    first(TABLE, kind, &Facts { view, findings })
}

fn first(table: &[Row], kind: FindingKind, facts: &Facts<'_>) -> Option<Signature> {
    let row = table.iter().find(|(_, kinds, holds)| kinds.contains(&kind) && holds(facts));
    row.map(|(signature, ..)| *signature)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::story::Story;
    use crate::state::{LastEffect, Outcome};
    use crate::verdict::Fact;

    fn found(kinds: &[FindingKind]) -> Vec<Finding> {
        let finding = |kind: &FindingKind| Finding {
            kind: *kind,
            metric: None,
            value: Fact::None,
            limit: Fact::None,
            persistence: 1_000,
            detail: String::new(),
        };
        kinds.iter().map(finding).collect()
    }

    /// Every story the table tells apart: nothing before it, a deployment of late, two exits of late, and both.
    fn stories() -> Vec<Story> {
        let tell = |(deployed, often)| {
            let mut story = Story::healthy(2);
            if deployed {
                let effect = LastEffect { at: story.now, streak: 1 };
                story.app.last_effect.insert(Action::Deploy, effect);
            }
            if often {
                story.app.exits.extend([story.now; REPEATED]);
            }
            story
        };
        [(false, false), (true, false), (false, true), (true, true)].map(tell).into()
    }

    /// Which findings can be the one that is answered, and what may stand beside it.
    fn incidents() -> Vec<Vec<FindingKind>> {
        let others = [FindingKind::CpuOverload, FindingKind::Latency];
        let alone = FindingKind::ALL.map(|kind| vec![kind]);
        let beside = others.map(|other| vec![FindingKind::ErrorRate, other]);
        let both = vec![FindingKind::ErrorRate, others[0], others[1]];
        alone.into_iter().chain(beside).chain([both]).collect()
    }

    /// What every incident of every story looks like by `table`.
    fn looks(table: &[Row]) -> Vec<Option<Signature>> {
        let mut all = Vec::new();
        for story in stories() {
            for kinds in incidents() {
                let (view, findings) = (story.view(), found(&kinds));
                all.push(first(table, kinds[0], &Facts { view: &view, findings: &findings }));
            }
        }
        all
    }

    #[test]
    fn every_finding_looks_like_something_and_every_signature_is_one_of_the_table() {
        let looks = looks(TABLE);
        assert!(looks.iter().all(Option::is_some));
        for signature in Signature::ALL {
            assert!(looks.contains(&Some(signature)), "{signature:?}");
        }
    }

    #[test]
    fn the_table_is_in_the_order_of_precedence_and_no_row_can_be_left_out() {
        assert!(TABLE.iter().map(|(signature, ..)| signature).is_sorted());
        assert!(Signature::ALL.is_sorted());
        for left_out in 0..TABLE.len() {
            let mut shorter = TABLE.to_vec();
            shorter.remove(left_out);
            assert_ne!(looks(&shorter), looks(TABLE), "row {left_out} says nothing");
        }
        let mut reversed = TABLE.to_vec();
        reversed.reverse();
        assert_ne!(looks(&reversed), looks(TABLE), "the order says something");
    }

    #[test]
    fn the_same_crash_looks_like_what_came_before_it() {
        let [fresh, deployed, often, both] = stories().try_into().unwrap();
        let look = |story: &Story| of(&story.view(), &found(&[FindingKind::Crash]));
        assert_eq!(look(&fresh), Some(Signature::Down));
        assert_eq!(look(&often), Some(Signature::DownRepeat));
        assert_eq!(look(&deployed), Some(Signature::DownDeploy));
        assert_eq!(look(&both), Some(Signature::DownDeploy), "the deployment is blamed first");
        let mut later = deployed;
        later.now += DEPLOY_BLAME_MS + 1;
        assert_eq!(look(&later), Some(Signature::Down));
        later.did(Action::Restart, Outcome::Verified);
        assert_eq!(of(&later.view(), &[]), None, "nothing is wrong");
    }
}

//! The rules: which actions can help against which finding, in which order, and how likely each is to beat doing nothing.
//!
//! The likelihoods are Beta priors, written as (helped, did not help) of imagined earlier cases and updated with real outcomes.
//! They are judgements, chosen so that with full evidence the first remedy passes the default minimum of its risk class (0.60 for
//! R1, 0.70 for R2, 0.80 for R3), and a few failures in a row make the agent doubt it.

use crate::action::Action;
use crate::detect::signature::was_deployed;
use crate::detect::{self, Finding, FindingKind, View};
use crate::state::Outcome;

/// One candidate of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) action: Action,
    /// Prior cases in which it helped.
    pub(super) helped: u32,
    /// Prior cases in which it did not.
    pub(super) failed: u32,
    /// The chance never falls below this, in permille.
    pub(super) floor: u32,
}

const fn candidate(action: Action, helped: u32, failed: u32) -> Candidate {
    Candidate { action, helped, failed, floor: 0 }
}

/// Starting what is down cannot make it worse, however often it failed before and on whichever app: what restrains it is the
/// back-off, the repetition gate and the breaker, which all end, and not a doubt that would never end because nothing more is
/// tried. The floor is the default minimum of R2.
const fn start(helped: u32, failed: u32) -> Candidate {
    Candidate { floor: 700, ..candidate(Action::Restart, helped, failed) }
}

const NOOP: Candidate = candidate(Action::Noop, 1, 1);
const OBSERVE: Candidate = candidate(Action::Observe, 1, 1);
const ESCALATE: Candidate = candidate(Action::Escalate, 1, 1);
const ROLLBACK: Candidate = candidate(Action::Rollback, 17, 3);
const RETRY: Candidate = candidate(Action::RetryDeployment, 15, 5);
const SCALE_DOWN: Candidate = candidate(Action::ScaleDown, 16, 4);

/// Attempts in a row that did not help before the next remedy gets its turn.
const TRIED: usize = 2;

/// The finding an action must answer: a hard fact, because the supervisor saw it itself; else the most urgent one that an action can
/// clear. A contradiction of signals does not hide what would be done if they could be believed: its gate refuses that.
#[must_use]
pub fn primary(findings: &[Finding]) -> Option<&Finding> {
    let ended = || findings.iter().find(|f| f.kind.is_hard() && !is_withdrawn(f));
    let hard = || ended().or_else(|| findings.iter().find(|finding| finding.kind.is_hard()));
    let clearable = || findings.iter().find(|finding| !finding.kind.is_ambient());
    hard().or_else(clearable).or_else(|| findings.first())
}

/// A failed deployment that left what runs alone: what runs comes first.
fn is_withdrawn(finding: &Finding) -> bool {
    finding.kind == FindingKind::DeploymentFailed && finding.value != finding.limit
}

/// The candidates for `finding`, best first. Doing nothing is always among them, and last unless nothing is wrong.
pub(super) fn candidates(view: &View<'_>, finding: Option<&Finding>) -> Vec<Candidate> {
    let Some(finding) = finding else {
        return if detect::is_idle(view) { vec![SCALE_DOWN, NOOP] } else { vec![NOOP] };
    };
    let mut list = remedies(view, finding);
    // A stable sort: among the untried, and among the tried, the order of the rule remains.
    list.sort_by_key(|c| !c.action.is_passive() && was_in_vain(view, c.action, TRIED));
    list.extend(ends(view, finding.kind));
    list.push(NOOP);
    list
}

fn remedies(view: &View<'_>, finding: &Finding) -> Vec<Candidate> {
    let revision = view.app.profile.rollback_to;
    match finding.kind {
        // What never was in force need not be taken back.
        FindingKind::DeploymentFailed if is_withdrawn(finding) => vec![RETRY],
        // What failed once may have failed by chance, and trying it again takes nothing away that still runs. Only then is a human
        // asked for the way back.
        FindingKind::DeploymentFailed if !was_in_vain(view, Action::RetryDeployment, 1) => {
            vec![Candidate { floor: 700, ..RETRY }]
        }
        FindingKind::DeploymentFailed => vec![RETRY, ROLLBACK],
        FindingKind::CrashLoop if revision.is_some() && was_deployed(view) => {
            vec![ROLLBACK, start(14, 6)]
        }
        FindingKind::CrashLoop => vec![start(14, 6)],
        FindingKind::Crash => vec![start(9, 1)],
        FindingKind::ErrorRate if revision.is_some() && was_deployed(view) => {
            vec![ROLLBACK, candidate(Action::Restart, 15, 5)]
        }
        FindingKind::ErrorRate => vec![candidate(Action::Restart, 15, 5)],
        FindingKind::CpuOverload => vec![candidate(Action::ScaleUp, 17, 3)],
        FindingKind::MemoryOverload => {
            vec![candidate(Action::Restart, 15, 5), candidate(Action::ScaleUp, 13, 7)]
        }
        FindingKind::Latency => {
            vec![candidate(Action::ScaleUp, 15, 5), candidate(Action::Restart, 13, 7)]
        }
        FindingKind::Unresponsive | FindingKind::MemoryGrowth => {
            vec![candidate(Action::Restart, 17, 3)]
        }
        FindingKind::Contradiction
        | FindingKind::Anomaly
        | FindingKind::Flapping
        | FindingKind::Silence => Vec::new(),
    }
}

/// What comes after the remedies: look again, or tell humans, once per incident.
fn ends(view: &View<'_>, kind: FindingKind) -> Vec<Candidate> {
    let told = view.app.escalated;
    match kind {
        FindingKind::Anomaly if !told && detect::anomaly::pages(view) => vec![ESCALATE, OBSERVE],
        FindingKind::Contradiction | FindingKind::Anomaly | FindingKind::Flapping => vec![OBSERVE],
        FindingKind::Silence if !told && is_long_silent(view) => vec![ESCALATE, OBSERVE],
        FindingKind::Silence => vec![OBSERVE],
        _ if told => Vec::new(),
        _ => vec![ESCALATE],
    }
}

/// Silent for as long again as makes it a finding: looking longer will not bring the monitor back.
fn is_long_silent(view: &View<'_>) -> bool {
    let heard = view.reading.last_seen.unwrap_or(view.app.onboarded_at);
    view.now.saturating_sub(heard) > view.policy.freshness.silence_ms.saturating_mul(2)
}

/// Whether `action` was carried out in vain at least so many `times` since anything helped last, by whomever. Not since the finding
/// was raised: a finding may close for a moment at every attempt.
fn was_in_vain(view: &View<'_>, action: Action, times: usize) -> bool {
    let helped = |o: Option<Outcome>| o == Some(Outcome::Verified);
    let in_vain = |o: Option<Outcome>| matches!(o, Some(Outcome::Failed | Outcome::Inconclusive));
    let since = view.app.decisions.iter().rev().take_while(|decision| !helped(decision.outcome));
    let tried = since.filter(|decision| decision.action == action && decision.executed);
    tried.filter(|decision| in_vain(decision.outcome)).count() >= times
}

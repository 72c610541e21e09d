//! The ways to make another case out of a recorded one.

use crate::app::Millis;
use crate::choose::{Grant, Proposal, Source};
use crate::detect::{Finding, FindingKind};
use crate::record::{Decided, format_time};
use crate::state::Outcome;
use crate::verdict::Fact;

/// One way to make another case out of a recorded one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A setting of the policy, by its path.
    Setting {
        /// Path, such as `cooldown.base_ms.RESTART`.
        path: String,
        /// Value it has.
        from: String,
        /// Value it would have.
        to: String,
    },
    /// The same situation at a later time.
    Later {
        /// When.
        at: Millis,
        /// How much later, in milliseconds.
        by: Millis,
    },
    /// The agent is more, or less, sure.
    Confidence {
        /// Permille.
        from: u32,
        /// Permille.
        to: u32,
    },
    /// Another number of something in the environment.
    Count {
        /// Of what.
        of: Counted,
        /// So many.
        from: u32,
        /// So many.
        to: u32,
    },
    /// A switch or a circumstance is another one.
    Lifted(Obstacle),
}

/// A number of things in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Disruptive effects within the last hour.
    EffectsLastHour,
    /// Apps that are being disrupted.
    Disrupting,
    /// Unhealthy apps.
    Unhealthy,
    /// Paced starts in flight.
    Starting,
    /// Apps behind the canary that have their turn.
    Allowance,
}

/// Something that stands in the way and has no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// No human who did not ask for it has approved.
    Unapproved,
    /// A pause or halt.
    Pause,
    /// Dry run.
    DryRun,
    /// Demo mode.
    DemoMode,
    /// The log cannot be written.
    Log,
    /// The label `protected`.
    Protected,
    /// An attempt is in flight.
    InFlight,
    /// An equal plan waits for a human.
    Pending,
    /// The signals are old.
    Stale,
    /// The signals contradict each other.
    Contradiction,
    /// The condition keeps changing.
    Flapping,
}

impl Change {
    /// Makes the recorded circumstances other ones.
    pub(super) fn apply(&self, case: &mut Decided) {
        match self {
            Self::Later { at, .. } => later(case, *at),
            Self::Count { of, to, .. } => {
                let around = &mut case.around;
                match of {
                    Counted::EffectsLastHour => around.effects_last_hour = *to,
                    Counted::Disrupting => around.disrupting = *to,
                    Counted::Unhealthy => around.unhealthy = *to,
                    Counted::Starting => around.starting = *to,
                    Counted::Allowance => {
                        if let Some(canary) = &mut around.canary {
                            canary.allowance = *to;
                        }
                    }
                }
            }
            Self::Lifted(obstacle) => match obstacle {
                Obstacle::Pause => case.around.pauses.clear(),
                Obstacle::DryRun => case.around.dry_run = false,
                Obstacle::DemoMode => case.around.demo = false,
                Obstacle::Log => case.around.log_writable = true,
                Obstacle::Protected => case.app.profile.protected = false,
                Obstacle::InFlight => {
                    case.app.attempt = None;
                    // What was in flight has ended well.
                    for remembered in case.app.decisions.iter_mut().filter(|d| d.executed) {
                        remembered.outcome.get_or_insert(Outcome::Verified);
                    }
                }
                Obstacle::Pending => case.around.pending = None,
                Obstacle::Stale => refresh(case),
                Obstacle::Unapproved | Obstacle::Contradiction | Obstacle::Flapping => {}
            },
            Self::Setting { .. } | Self::Confidence { .. } => {}
        }
    }

    /// Makes what was proposed, or found, another thing.
    pub(super) fn amend(
        &self,
        proposal: &mut Proposal,
        findings: &mut Vec<Finding>,
        case: &Decided,
    ) {
        match self {
            Self::Confidence { to, .. } => proposal.confidence = *to,
            Self::Lifted(Obstacle::Unapproved) => proposal.grant = granted(proposal, case),
            Self::Lifted(Obstacle::Contradiction) => {
                findings.retain(|finding| finding.kind != FindingKind::Contradiction);
            }
            Self::Lifted(Obstacle::Flapping) => {
                findings.retain(|finding| finding.kind != FindingKind::Flapping);
            }
            _ => {}
        }
    }

    /// What is changed, in one word: the path of a setting, or the name of a circumstance.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Setting { path, .. } => path,
            Self::Later { .. } => "time",
            Self::Confidence { .. } => "confidence",
            Self::Count { of, .. } => match of {
                Counted::EffectsLastHour => "effects_last_hour",
                Counted::Disrupting => "apps_disrupted",
                Counted::Unhealthy => "apps_unhealthy",
                Counted::Starting => "starts_in_flight",
                Counted::Allowance => "turns_behind_canary",
            },
            Self::Lifted(obstacle) => match obstacle {
                Obstacle::Unapproved => "approval",
                Obstacle::Pause => "pause",
                Obstacle::DryRun => "dry_run",
                Obstacle::DemoMode => "demo_mode",
                Obstacle::Log => "proof_log",
                Obstacle::Protected => "labels.protected",
                Obstacle::InFlight => "in_flight",
                Obstacle::Pending => "pending_approval",
                Obstacle::Stale => "signals",
                Obstacle::Contradiction => "contradiction",
                Obstacle::Flapping => "flapping",
            },
        }
    }

    /// From what, to what.
    #[must_use]
    pub fn values(&self) -> (String, String) {
        let number = |fact: Fact| crate::explain::fact(&fact);
        match self {
            Self::Setting { from, to, .. } => (from.clone(), to.clone()),
            Self::Later { at, by } => (format_time(at.saturating_sub(*by)), format_time(*at)),
            Self::Confidence { from, to } => {
                (number(Fact::Permille(*from)), number(Fact::Permille(*to)))
            }
            Self::Count { from, to, .. } => (from.to_string(), to.to_string()),
            Self::Lifted(obstacle) => {
                let (from, to) = match obstacle {
                    Obstacle::Unapproved => ("none", "approved by another human"),
                    Obstacle::Pause => ("in force", "lifted"),
                    Obstacle::DryRun | Obstacle::DemoMode => ("on", "off"),
                    Obstacle::Log => ("not writable", "writable"),
                    Obstacle::Protected => ("true", "false"),
                    Obstacle::InFlight => ("an attempt", "over"),
                    Obstacle::Pending => ("an equal plan", "answered"),
                    Obstacle::Stale => ("old", "fresh"),
                    Obstacle::Contradiction => ("yes", "no"),
                    Obstacle::Flapping => ("yes", "stable"),
                };
                (from.to_owned(), to.to_owned())
            }
        }
    }
}

/// The same situation, seen at another time: what was heard is as old as it was.
fn later(case: &mut Decided, at: Millis) {
    let by = at.saturating_sub(case.now);
    case.now = at;
    let shift = |moment: &mut Millis| *moment = moment.saturating_add(by);
    let reading = &mut case.reading;
    shift(&mut reading.at);
    reading.last_seen.iter_mut().for_each(shift);
    for series in reading.metrics.values_mut() {
        series.sources.values_mut().for_each(|point| shift(&mut point.at));
        series.recent.iter_mut().for_each(|point| shift(&mut point.at));
    }
    reading.conditions.values_mut().for_each(|condition| shift(&mut condition.at));
}

/// Everything that was heard is heard once more, just now.
fn refresh(case: &mut Decided) {
    let now = case.now;
    case.reading.last_seen = Some(now);
    for series in case.reading.metrics.values_mut() {
        series.sources.values_mut().for_each(|point| point.at = now);
    }
    case.reading.conditions.values_mut().for_each(|condition| condition.at = now);
}

/// The yes of somebody who did not ask.
fn granted(proposal: &Proposal, case: &Decided) -> Option<Grant> {
    let requester = match &proposal.source {
        Source::Agent => "the agent".to_owned(),
        Source::Human { principal, .. } | Source::Other { principal } => principal.clone(),
    };
    Some(Grant {
        approval: 0,
        approver: format!("not {requester}"),
        requester,
        plan_digest: proposal.plan.as_ref()?.digest(&case.policy_digest),
        expires_at: Millis::MAX,
    })
}

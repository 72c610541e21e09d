//! Monitors that report response times, and what the agent makes of them.

use agentd_core::action::Action;
use agentd_core::detect::FindingKind;
use agentd_core::policy::Threshold;
use agentd_core::record::{Body, Decided, Observation, Record};
use agentd_core::signal::Metric;
use agentd_core::verdict::Ruling;

use super::false_alarm::{natural, rule};
use super::follow::Mark;
use super::play::{Play, Unmet};

/// One monitor.
pub(super) const FIRST: &str = "scenario/latency-a";
/// Another one.
pub(super) const SECOND: &str = "scenario/latency-b";
const P99: Metric = Metric::LatencyP99;

/// What a monitor may say.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    /// Far above the limit.
    Slow,
    /// Below the value at which a finding closes, and not so far that it would be a contradiction.
    Fair,
    /// Far below.
    Quick,
}

impl Told {
    fn seconds(self, rule: &Threshold) -> f64 {
        natural(match self {
            Self::Slow => rule.enter.saturating_mul(5) / 2,
            Self::Fair => rule.leave / 4 * 3,
            Self::Quick => rule.leave / 20,
        })
    }
}

/// Monitors say this once.
pub(super) async fn hear(play: &mut Play, said: &[(&str, Told)]) -> Result<(), Unmet> {
    let rule = rule(&play.tempo.policy, P99)?;
    let said: Vec<_> =
        said.iter().map(|(monitor, told)| (*monitor, P99, told.seconds(&rule))).collect();
    play.hear(&said).await
}

/// Monitors say this for as many ticks as a finding takes to open.
pub(super) async fn hear_enough(play: &mut Play, said: &[(&str, Told)]) -> Result<(), Unmet> {
    for _ in 0..rule(&play.tempo.policy, P99)?.n {
        hear(play, said).await?;
    }
    Ok(())
}

/// Monitors say that all is well, for as many ticks as a finding takes to close.
pub(super) async fn hear_calm(play: &mut Play) -> Result<(), Unmet> {
    for _ in 0..Threshold::LEAVE_TICKS {
        hear(play, &[(FIRST, Told::Quick), (SECOND, Told::Quick)]).await?;
    }
    Ok(())
}

/// The finding LATENCY of the app the run is at.
pub(super) async fn found(play: &mut Play, since: Mark) -> Result<String, Unmet> {
    let app = play.app().clone();
    let raised = |record: &Record| match &record.body {
        Body::Raised(f) if f.kind == FindingKind::Latency && record.app.as_ref() == Some(&app) => {
            Some(f.detail.clone())
        }
        _ => None,
    };
    let deadline = Play::within(play.tempo.reaction());
    play.log.find(since, deadline, "the finding LATENCY", raised).await
}

/// The permitted SCALE_UP of the app the run is at.
pub(super) async fn scale_up(play: &mut Play, since: Mark) -> Result<(u64, u32), Unmet> {
    let app = play.app().clone();
    let permitted = |decided: &Decided| {
        let ours = decided.app.profile.name == app && decided.proposal.action == Action::ScaleUp;
        (ours && decided.ruling == Ruling::Permitted).then_some(decided.proposal.confidence)
    };
    let within = play.tempo.reaction();
    play.decision(since, within, "a permitted SCALE_UP", permitted).await
}

/// The second instance of the app the run is at is ready.
pub(super) async fn second_is_ready(play: &mut Play, since: Mark) -> Result<(), Unmet> {
    let app = play.app().clone();
    let ready = |record: &Record| match record.body {
        Body::Observed { slot: 1, what: Observation::Ready }
            if record.app.as_ref() == Some(&app) =>
        {
            Some(())
        }
        _ => None,
    };
    let deadline = Play::within(play.tempo.patience());
    play.log.find(since, deadline, "the second instance", ready).await
}

//! One slow moment is no reason to act.

use agentd_core::action::Action;
use agentd_core::policy::{Policy, Threshold};
use agentd_core::reason::Reason;
use agentd_core::record::Decided;
use agentd_core::signal::{MICRO, Metric};
use agentd_core::state::Health;
use agentd_core::verdict::Ruling;

use super::play::{Play, Unmet};
use super::steps::{ONBOARD_UP_TO_TWO, untouched};
use super::{Scenario, Seen, Step};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "false-alarm",
    summary: "one harmless latency spike",
    steps: &[
        ONBOARD_UP_TO_TWO,
        Step {
            name: "a monitor reports good response times, then one bad one",
            expected: "UNCERTAINTY_NOOP: one tick is too little to act on",
            run: |play| Box::pin(spike(play)),
        },
        Step {
            name: "the monitor reports good response times again",
            expected: "nothing was found, nothing was executed, the app is healthy",
            run: |play| Box::pin(calm(play)),
        },
    ],
    any_app: true,
    human: false,
    typical: |tempo| tempo.effect_ms(),
};

const MONITOR: &str = "scenario/latency";
const P99: Metric = Metric::LatencyP99;

/// A value in the natural unit of its metric.
#[expect(clippy::cast_precision_loss, reason = "thresholds are far below 2^53 millionths")]
pub(super) fn natural(micro: i64) -> f64 {
    micro as f64 / MICRO as f64
}

pub(super) fn rule(policy: &Policy, metric: Metric) -> Result<Threshold, Unmet> {
    let rule = policy.thresholds.get(&metric).copied();
    rule.ok_or_else(|| Unmet::Differs(format!("no threshold on {}", metric.as_str())))
}

async fn spike(play: &mut Play) -> Result<Seen, Unmet> {
    let rule = rule(&play.tempo.policy, P99)?;
    let (good, bad) = (natural(rule.leave / 20), natural(rule.enter / 2 * 3));
    for _ in 0..Threshold::LEAVE_TICKS {
        play.hear(&[(MONITOR, P99, good)]).await?;
    }
    let since = play.begun;
    play.notes.since = since;
    play.announce(&format!("one reading of {} at {bad} s", P99.as_str())).await?;
    play.hear(&[(MONITOR, P99, bad)]).await?;
    let within = play.tempo.reaction();
    let pick = |decided: &Decided| match decided.ruling {
        Ruling::Refused { reason: Reason::UncertaintyNoop, instead: Action::Noop } => {
            Some((decided.proposal.action, decided.proposal.confidence))
        }
        _ => None,
    };
    let what = "a decision to do nothing with UNCERTAINTY_NOOP";
    let (decision, (action, confidence)) = play.decision(since, within, what, pick).await?;
    let confidence = permille(confidence);
    let actual = format!("dec-{decision} UNCERTAINTY_NOOP: {action} at confidence {confidence}");
    Ok(Seen::of(decision, actual))
}

fn permille(value: u32) -> String {
    format!("{}.{:03}", value / 1_000, value % 1_000)
}

async fn calm(play: &mut Play) -> Result<Seen, Unmet> {
    let good = natural(rule(&play.tempo.policy, P99)?.leave / 20);
    for _ in 0..Threshold::LEAVE_TICKS {
        play.hear(&[(MONITOR, P99, good)]).await?;
    }
    play.log.catch_up().await?;
    let state = play.state().await?;
    if state.health() != Health::Healthy {
        return Err(Unmet::Differs(format!("{:?}, open: {:?}", state.health(), state.open)));
    }
    untouched(play, play.notes.since)?;
    Ok(Seen::new("refused: UNCERTAINTY_NOOP; nothing executed"))
}

//! Two monitors cannot both be right.

use agentd_core::action::Action;
use agentd_core::detect::FindingKind;
use agentd_core::policy::Threshold;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Decided, Record};
use agentd_core::signal::Metric;
use agentd_core::verdict::Ruling;

use super::false_alarm::{natural, rule};
use super::play::{Play, Unmet};
use super::steps::{ONBOARD_UP_TO_TWO, untouched};
use super::{Scenario, Seen, Step};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "signal-conflict",
    summary: "two monitors contradict each other",
    steps: &[
        ONBOARD_UP_TO_TWO,
        Step {
            name: "one monitor reports a saturated CPU and another an idle one",
            expected: "CONTRADICTION is found, the decision is to OBSERVE, nothing is executed",
            run: |play| Box::pin(contradict(play)),
        },
        Step {
            name: "the first monitor is repaired",
            expected: "CONTRADICTION is cleared, nothing was executed",
            run: |play| Box::pin(agree(play)),
        },
    ],
    any_app: true,
    human: false,
    typical: |tempo| tempo.effect_ms(),
};

const CPU: Metric = Metric::CpuUtilization;
const LIAR: &str = "scenario/monitor-a";
const HONEST: &str = "scenario/monitor-b";

async fn contradict(play: &mut Play) -> Result<Seen, Unmet> {
    let rule = rule(&play.tempo.policy, CPU)?;
    let (high, low) = (natural(rule.enter / 10 * 12), natural(rule.leave / 20));
    let since = play.begun;
    play.announce(&format!("`{LIAR}` says {high}, `{HONEST}` says {low}")).await?;
    // As long as would be an overload if nobody contradicted.
    for _ in 0..=rule.n {
        play.hear(&[(LIAR, CPU, high), (HONEST, CPU, low)]).await?;
    }
    let within = play.tempo.reaction();
    let (decision, actual) =
        play.decision(since, within, "a decision to OBSERVE", observes).await?;
    play.log.catch_up().await?;
    untouched(play, since)?;
    Ok(Seen::of(decision, format!("dec-{decision} {actual}; nothing is executed")))
}

/// The agent chose to observe, or wanted to act and was told to observe instead.
fn observes(decided: &Decided) -> Option<String> {
    decided.findings.iter().find(|f| f.kind == FindingKind::Contradiction)?;
    match decided.ruling {
        Ruling::Permitted if decided.proposal.action == Action::Observe => {
            Some("CONTRADICTION: OBSERVE".to_owned())
        }
        Ruling::Refused {
            reason: reason @ Reason::SignalConflictObserve,
            instead: Action::Observe,
        } => Some(format!("{} refused with {reason}, OBSERVE instead", decided.proposal.action)),
        _ => None,
    }
}

async fn agree(play: &mut Play) -> Result<Seen, Unmet> {
    let low = natural(rule(&play.tempo.policy, CPU)?.leave / 20);
    let since = play.begun;
    for _ in 0..Threshold::LEAVE_TICKS {
        play.hear(&[(LIAR, CPU, low), (HONEST, CPU, low)]).await?;
    }
    let deadline = Play::within(play.tempo.reaction());
    let cleared = |record: &Record| match record.body {
        Body::Cleared { kind: FindingKind::Contradiction } => Some(()),
        _ => None,
    };
    play.log.find(since, deadline, "the end of the contradiction", cleared).await?;
    untouched(play, since)?;
    Ok(Seen::new("CONTRADICTION cleared; nothing executed"))
}

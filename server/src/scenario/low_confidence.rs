//! Two monitors do not agree how bad it is: too little to act on, until they do.

use agentd_core::action::Action;
use agentd_core::reason::Reason;
use agentd_core::record::Decided;
use agentd_core::verdict::Ruling;

use super::latency::{self, FIRST, SECOND, Told};
use super::play::{Play, Unmet};
use super::steps::{ONBOARD_UP_TO_TWO, STABLE, untouched};
use super::{Scenario, Seen, Step};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "low-confidence",
    summary: "monitors that do not agree how bad it is",
    steps: &[
        ONBOARD_UP_TO_TWO,
        Step {
            name: "one monitor reports slow answers and another fair ones",
            expected: "LATENCY is found, and still UNCERTAINTY_NOOP: nothing is executed",
            run: |play| Box::pin(doubt(play)),
        },
        Step {
            name: "the second monitor reports slow answers too",
            expected: "SCALE_UP is permitted with a higher confidence, and a second instance is ready",
            run: |play| Box::pin(agree(play)),
        },
        Step {
            name: "the answers are quick again",
            expected: "both monitors say so",
            run: |play| Box::pin(calm(play)),
        },
        STABLE,
    ],
    any_app: false,
    human: false,
    typical: |tempo| tempo.effect_ms().saturating_mul(2),
};

async fn doubt(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.begun;
    play.notes.since = since;
    play.announce("one monitor says slow, the other says fair").await?;
    latency::hear_enough(play, &[(FIRST, Told::Slow), (SECOND, Told::Fair)]).await?;
    let detail = latency::found(play, since).await?;
    let pick = |decided: &Decided| match decided.ruling {
        Ruling::Refused { reason: Reason::UncertaintyNoop, instead: Action::Noop } => {
            Some((decided.proposal.action, decided.proposal.confidence))
        }
        _ => None,
    };
    let within = play.tempo.reaction();
    let (decision, (action, confidence)) =
        play.decision(since, within, "UNCERTAINTY_NOOP", pick).await?;
    play.log.catch_up().await?;
    untouched(play, since)?;
    let actual = format!(
        "LATENCY: {detail}; dec-{decision} UNCERTAINTY_NOOP: {action} at confidence 0.{confidence:03}"
    );
    Ok(Seen::of(decision, actual))
}

async fn agree(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.begun;
    latency::hear_enough(play, &[(FIRST, Told::Slow), (SECOND, Told::Slow)]).await?;
    let (decision, confidence) = latency::scale_up(play, since).await?;
    play.notes.decision = Some(decision);
    latency::second_is_ready(play, since).await?;
    let actual = format!("dec-{decision} SCALE_UP at confidence 0.{confidence:03}; 2 instances");
    Ok(Seen::of(decision, actual))
}

async fn calm(play: &mut Play) -> Result<Seen, Unmet> {
    latency::hear_calm(play).await?;
    Ok(Seen::new("both say quick"))
}

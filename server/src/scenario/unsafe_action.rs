//! A destructive name is refused, whoever asks.

use agentd_core::action::{Action, UNSAFE_NAMES};
use agentd_core::reason::Reason;

use super::play::{Play, Unmet};
use super::steps::{ONBOARD, ask_for, refused_for, untouched};
use super::{Scenario, Seen, Step};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "unsafe-action",
    summary: "destructive actions are asked for by name",
    steps: &[
        ONBOARD,
        Step {
            name: "an operator asks for every destructive name",
            expected: "UNSAFE_ACTION_REFUSED each time, and nothing is executed",
            run: |play| Box::pin(asked(play)),
        },
    ],
    any_app: true,
    human: true,
    typical: |tempo| tempo.effect_ms(),
};

async fn asked(play: &mut Play) -> Result<Seen, Unmet> {
    let mut last = None;
    for name in UNSAFE_NAMES {
        let (decision, decided) = ask_for(play, name).await?;
        if refused_for(&decided, Action::Noop, Reason::UnsafeActionRefused).is_none() {
            return Err(Unmet::Differs(format!("`{name}`: {:?}", decided.ruling)));
        }
        last = Some(decision);
    }
    play.log.catch_up().await?;
    untouched(play, play.begun)?;
    let actual = format!("{} names refused with UNSAFE_ACTION_REFUSED", UNSAFE_NAMES.len());
    Ok(Seen { actual, decision: last })
}

//! While effects are paused the agent goes on deciding, and touches nothing.

use agentd_core::action::Action;
use agentd_core::reason::Reason;
use agentd_core::record::Decided;
use agentd_core::state::Scope;
use agentd_core::step::Reply;

use super::play::{Play, Unmet};
use super::steps::{KILL, ONBOARD, RESTARTED, STABLE, refused_for, untouched};
use super::{Scenario, Seen, Step};
use crate::agent::Ask;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kill-switch",
    summary: "a crash while effects are paused",
    steps: &[
        ONBOARD,
        Step {
            name: "effects on the app are paused",
            expected: "MODE_PAUSED is on record before it is answered",
            run: |play| Box::pin(pause(play)),
        },
        KILL,
        Step {
            name: "the agent decides in shadow",
            expected: "RESTART is refused with PAUSED and nothing is executed",
            run: |play| Box::pin(shadow(play)),
        },
        Step {
            name: "effects are resumed",
            expected: "MODE_RESUMED is on record before it is answered",
            run: |play| Box::pin(resume(play)),
        },
        RESTARTED,
        STABLE,
    ],
    any_app: true,
    human: false,
    typical: |tempo| tempo.effect_ms().saturating_mul(2).saturating_add(tempo.tick_ms),
};

/// Pauses effects on the app the run is at.
pub(super) async fn pause(play: &mut Play) -> Result<Seen, Unmet> {
    let scope = Scope::App(play.app().clone());
    let reason = "a scenario".to_owned();
    // Ends by itself if nobody is left to lift it.
    let ttl_ms = Some(u64::try_from(play.tempo.patience().as_millis()).unwrap_or(u64::MAX));
    match play.ask(Ask::Pause { scope, halt: false, reason, ttl_ms }).await? {
        Reply::Done { seq: Some(seq) } => {
            play.notes.paused = true;
            Ok(Seen::new(format!("paused with record {seq}")))
        }
        other => Err(Unmet::Differs(format!("{other:?}"))),
    }
}

async fn shadow(play: &mut Play) -> Result<Seen, Unmet> {
    let (since, within) = (play.notes.since, play.tempo.reaction());
    let pick = |decided: &Decided| refused_for(decided, Action::Restart, Reason::Paused);
    let (decision, _) = play.decision(since, within, "RESTART refused with PAUSED", pick).await?;
    let down = play.state().await?.down().count();
    untouched(play, since)?;
    if down == 0 {
        return Err(Unmet::Differs("the instance runs although effects are paused".to_owned()));
    }
    Ok(Seen::of(decision, format!("dec-{decision} RESTART refused with PAUSED; it stays down")))
}

/// Lifts that pause.
pub(super) async fn resume(play: &mut Play) -> Result<Seen, Unmet> {
    let scope = Scope::App(play.app().clone());
    let reason = "a scenario".to_owned();
    match play.ask(Ask::Resume { scope, reason }).await? {
        Reply::Done { seq: Some(seq) } => {
            play.notes.paused = false;
            Ok(Seen::new(format!("resumed with record {seq}")))
        }
        other => Err(Unmet::Differs(format!("{other:?}"))),
    }
}

//! Killed again right after it was restarted: the agent waits before it does the same again.

use agentd_core::action::Action;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Decided, Record};
use agentd_core::verdict::{Fact, Ruling};

use super::play::{Play, Unmet};
use super::steps::{KILL, ONBOARD, RESTARTED, STABLE, comes_back, refused_for};
use super::{Scenario, Seen, Step};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "cooldown",
    summary: "killed again right after its restart",
    steps: &[
        ONBOARD,
        KILL,
        RESTARTED,
        Step { name: "the new process is killed right away", ..KILL },
        Step {
            name: "the agent wants to restart it again",
            expected: "COOLDOWN_ACTIVE, with the time that remains, and nothing is executed",
            run: |play| Box::pin(refused(play)),
        },
        Step {
            name: "the cooldown passes",
            expected: "RESTART is permitted, not before the time that was given",
            run: |play| Box::pin(permitted(play)),
        },
        STABLE,
    ],
    any_app: true,
    human: false,
    typical: |tempo| {
        let cooldown = tempo.policy.cooldown_ms(Action::Restart);
        tempo.effect_ms().saturating_mul(2).saturating_add(cooldown)
    },
};

async fn refused(play: &mut Play) -> Result<Seen, Unmet> {
    let (since, within) = (play.notes.since, play.tempo.reaction());
    let pick = |decided: &Decided| {
        let verdict = refused_for(decided, Action::Restart, Reason::CooldownActive)?;
        Some((decided.now, verdict))
    };
    let what = "RESTART refused with COOLDOWN_ACTIVE";
    let (decision, (now, verdict)) = play.decision(since, within, what, pick).await?;
    let emitted = |record: &Record| match record.body {
        Body::RefusalEmitted if record.cause == Some(decision) => Some(()),
        _ => None,
    };
    let deadline = Play::within(play.tempo.reaction());
    play.log.find(since, deadline, "REFUSAL_EMIT_SUCCESS", emitted).await?;
    let (Some(clears_at), Fact::Ms(limit)) = (verdict.clears_at, &verdict.limit) else {
        return Err(Unmet::Differs(format!("no time is given: {verdict:?}")));
    };
    let early =
        |record: &Record| matches!(record.body, Body::Attempted(_)) && record.at < clears_at;
    if play.log.since(since).any(early) {
        return Err(Unmet::Differs(
            "something was executed before the cooldown was over".to_owned(),
        ));
    }
    play.notes.clears_at = clears_at;
    let remains = clears_at.saturating_sub(now);
    let actual = format!("dec-{decision} COOLDOWN_ACTIVE: {remains} of {limit} ms remain");
    Ok(Seen::of(decision, actual))
}

async fn permitted(play: &mut Play) -> Result<Seen, Unmet> {
    let (since, clears_at) = (play.notes.since, play.notes.clears_at);
    let left = clears_at.saturating_sub(play.doors().clock.now_ms());
    let within = play.tempo.reaction() + std::time::Duration::from_millis(left);
    let pick = |decided: &Decided| {
        let restart = decided.proposal.action == Action::Restart;
        (restart && decided.ruling == Ruling::Permitted).then_some(decided.now)
    };
    let (decision, at) = play.decision(since, within, "a permitted RESTART", pick).await?;
    if at < clears_at {
        let early = clears_at.saturating_sub(at);
        return Err(Unmet::Differs(format!("dec-{decision} was permitted {early} ms too early")));
    }
    let seen = comes_back(play, decision).await?;
    let after = at.saturating_sub(clears_at);
    Ok(Seen::of(decision, format!("{}; permitted {after} ms after it cleared", seen.actual)))
}

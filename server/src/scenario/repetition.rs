//! Killed more often than the agent restarts it: it stops and tells a human, who may go on.

use agentd_core::action::Action;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Decided, Record};
use agentd_core::verdict::Ruling;

use super::play::{Play, Unmet};
use super::steps::{
    KILL, ONBOARD, STABLE, ask_for, comes_back, kill, refused_for, stable, untouched,
};
use super::{Scenario, Seen, Step};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "repetition",
    summary: "killed more often than the limit allows",
    steps: &[
        ONBOARD,
        Step {
            name: "its process is killed as often as the agent may restart it",
            expected: "every RESTART is permitted, after its cooldown, and verified",
            run: |play| Box::pin(up_to_the_limit(play)),
        },
        Step { name: "it is killed once more", ..KILL },
        Step {
            name: "the agent wants to restart it once more",
            expected: "REPETITION_SUPPRESSED; humans are told; nothing is executed",
            run: |play| Box::pin(suppressed(play)),
        },
        Step {
            name: "an operator asks for RESTART",
            expected: "permitted: the agent's restraint is not for humans",
            run: |play| Box::pin(by_hand(play)),
        },
        STABLE,
    ],
    any_app: true,
    human: true,
    typical: |tempo| {
        let limit = u64::from(tempo.policy.repetition.limit);
        let cycle = tempo.effect_ms().max(tempo.policy.cooldown_ms(Action::Restart));
        cycle.saturating_mul(limit).saturating_add(tempo.effect_ms().saturating_mul(2))
    },
};

/// The longest a restart can be held back by its cooldown.
fn cooldown(play: &Play) -> std::time::Duration {
    let rule = &play.tempo.policy.cooldown;
    let longest = rule.restart_cap_ms.max(play.tempo.policy.cooldown_ms(Action::Restart));
    play.tempo.reaction() + std::time::Duration::from_millis(longest)
}

async fn up_to_the_limit(play: &mut Play) -> Result<Seen, Unmet> {
    let limit = play.tempo.policy.repetition.limit;
    let mut last = None;
    for turn in 1..=limit {
        kill(play).await?;
        let permitted = |decided: &Decided| {
            let restart = decided.proposal.action == Action::Restart;
            (restart && decided.ruling == Ruling::Permitted).then_some(())
        };
        let (since, within) = (play.notes.since, cooldown(play));
        let (decision, ()) = play.decision(since, within, "a permitted RESTART", permitted).await?;
        comes_back(play, decision).await?;
        stable(play).await?;
        play.say(Seen::of(decision, format!("restart {turn} of {limit} is verified")));
        last = Some(decision);
    }
    let actual = format!("{limit} restarts, all verified");
    Ok(Seen { actual, decision: last })
}

async fn suppressed(play: &mut Play) -> Result<Seen, Unmet> {
    let (since, within) = (play.notes.since, cooldown(play));
    let pick = |decided: &Decided| {
        refused_for(decided, Action::Restart, Reason::RepetitionSuppressed)
            .map(|v| (decided.now, v))
    };
    let what = "RESTART refused with REPETITION_SUPPRESSED";
    let (decision, (now, verdict)) = play.decision(since, within, what, pick).await?;
    let app = play.app().clone();
    let told = |record: &Record| {
        let about = record.app.as_ref() == Some(&app);
        (about && matches!(record.body, Body::Escalated { .. })).then_some(())
    };
    let deadline = Play::within(play.tempo.reaction());
    play.log.find(since, deadline, "ESCALATED", told).await?;
    untouched(play, since)?;
    let clears = verdict.clears_at.map(|at| at.saturating_sub(now) / 1_000);
    let clears = clears.map_or_else(|| "never".to_owned(), |s| format!("in {s} s"));
    let actual = format!("dec-{decision} REPETITION_SUPPRESSED, clears {clears}; humans are told");
    Ok(Seen::of(decision, actual))
}

async fn by_hand(play: &mut Play) -> Result<Seen, Unmet> {
    let (decision, decided) = ask_for(play, Action::Restart.as_str()).await?;
    if decided.ruling != Ruling::Permitted {
        return Err(Unmet::Differs(format!("dec-{decision}: {:?}", decided.ruling)));
    }
    let seen = comes_back(play, decision).await?;
    Ok(Seen::of(decision, format!("{}, asked for by {}", seen.actual, play.principal())))
}

//! Killed again as soon as it is restarted: the agent waits before it does the same again.

use std::time::Duration;

use agentd_core::action::Action;
use agentd_core::app::Millis;
use agentd_core::plan::Fence;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Decided, Observation, Record};
use agentd_core::verdict::{Fact, Ruling, Verdict};

use super::play::{Play, Unmet};
use super::steps::{ONBOARD, STABLE, comes_back, end, kill_and, refused_for};
use super::{Scenario, Seen, Step};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "cooldown",
    summary: "killed again right after its restart",
    steps: &[
        ONBOARD,
        Step {
            name: "its process is killed (kill -9)",
            expected: "the end by signal 9 is seen and CRASH is found",
            run: |play| Box::pin(kill_and(play, ", and of the process that replaces it")),
        },
        Step {
            name: "the process that replaces it is killed as it starts",
            expected: "RESTART was permitted; the new process ends by signal 9 as well",
            run: |play| Box::pin(kill_the_next(play)),
        },
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

/// A RESTART that the agent chose, and how it was ruled on.
fn restart(decided: &Decided) -> Option<Ruling> {
    let agent = !decided.proposal.source.is_human();
    (agent && decided.proposal.action == Action::Restart).then(|| decided.ruling.clone())
}

fn permits(decided: &Decided) -> Option<Millis> {
    (restart(decided)? == Ruling::Permitted).then_some(decided.now)
}

async fn kill_the_next(play: &mut Play) -> Result<Seen, Unmet> {
    let (since, within) = (play.notes.since, play.tempo.reaction());
    let (decision, _) = play.decision(since, within, "a permitted RESTART", permits).await?;
    let old = play.notes.victim.clone();
    let started = |record: &Record| match &record.body {
        Body::Observed { slot: 0, what: Observation::Started { fence } }
            if Some(fence) != old.as_ref() =>
        {
            Some(fence.clone())
        }
        _ => None,
    };
    let deadline = Play::within(play.tempo.patience());
    let next: Fence = play.log.find(since, deadline, "another process", started).await?;
    let pid = next.pid;
    play.notes.since = play.log.mark();
    let after = end(play, next).await?;
    let old = old.map_or(0, |fence| fence.pid);
    let actual =
        format!("dec-{decision} RESTART; pid {old} -> {pid}: signal 9, seen after {after} ms");
    Ok(Seen::of(decision, actual))
}

async fn refused(play: &mut Play) -> Result<Seen, Unmet> {
    // On a slow machine the cooldown may be over before the second end is seen; another end comes sooner after its restart.
    // The restart that ends the scenario must be below the limit, too.
    let limit = play.tempo.policy.repetition.limit;
    for _ in 1..limit.max(2) {
        let (since, within) = (play.notes.since, play.tempo.reaction());
        let pick = |decided: &Decided| {
            restart(decided)?;
            let verdict = refused_for(decided, Action::Restart, Reason::CooldownActive);
            match (verdict, permits(decided)) {
                (Some(verdict), _) => Some(Ok((decided.now, verdict))),
                (None, Some(_)) => Some(Err(())),
                (None, None) => None,
            }
        };
        let what = "RESTART refused with COOLDOWN_ACTIVE";
        match play.decision(since, within, what, pick).await? {
            (decision, Ok((now, verdict))) => return told(play, decision, now, &verdict).await,
            (decision, Err(())) => {
                play.say(Seen::of(decision, "the cooldown was over already; it is killed again"));
                play.announce("kill -9 of the process that replaces it").await?;
                kill_the_next(play).await?;
            }
        }
    }
    let slow = "every time the cooldown was over before the end of the process was seen";
    Err(Unmet::Differs(slow.to_owned()))
}

/// The refusal has reached the watchers, says when it clears, and was kept until now.
async fn told(
    play: &mut Play,
    decision: u64,
    now: Millis,
    verdict: &Verdict,
) -> Result<Seen, Unmet> {
    let since = play.notes.since;
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
        let early = "something was executed before the cooldown was over";
        return Err(Unmet::Differs(early.to_owned()));
    }
    play.notes.clears_at = clears_at;
    let remains = clears_at.saturating_sub(now);
    let actual = format!("dec-{decision} COOLDOWN_ACTIVE: {remains} of {limit} ms remain");
    Ok(Seen::of(decision, actual))
}

async fn permitted(play: &mut Play) -> Result<Seen, Unmet> {
    let (since, clears_at) = (play.notes.since, play.notes.clears_at);
    let left = clears_at.saturating_sub(play.doors().clock.now_ms());
    let within = play.tempo.reaction() + Duration::from_millis(left);
    let (decision, at) = play.decision(since, within, "a permitted RESTART", permits).await?;
    if at < clears_at {
        let early = clears_at.saturating_sub(at);
        return Err(Unmet::Differs(format!("dec-{decision} was permitted {early} ms too early")));
    }
    let seen = comes_back(play, decision).await?;
    let after = at.saturating_sub(clears_at);
    Ok(Seen::of(decision, format!("{}; permitted {after} ms after it cleared", seen.actual)))
}

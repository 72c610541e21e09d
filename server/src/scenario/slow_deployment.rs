//! A revision takes its time to start, and is slow afterwards: the one is waited for, the other is mended.

use std::time::Duration;

use agentd_core::action::Action;
use agentd_core::app::Millis;
use agentd_core::record::{Body, Observation, Record};

use super::latency::{self, FIRST, Told};
use super::play::{Play, Unmet};
use super::steps::{ONBOARD_UP_TO_TWO, STABLE, fence};
use super::{Scenario, Seen, Step, Tempo, web};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "slow-deployment",
    summary: "a revision that starts slowly and is slow",
    steps: &[
        ONBOARD_UP_TO_TWO,
        Step {
            name: "a revision that takes its time to start is deployed",
            expected: "DEPLOY is permitted, and the new process runs without being ready",
            run: |play| Box::pin(deployed(play)),
        },
        Step {
            name: "a user asks while it starts",
            expected: "the socket outlives the process: the answer comes late, from revision 2",
            run: |play| Box::pin(asked(play)),
        },
        Step {
            name: "it becomes ready",
            expected: "SYSTEM_STABLE, and nothing was done to it meanwhile",
            run: |play| Box::pin(patient(play)),
        },
        Step {
            name: "a monitor reports slow answers",
            expected: "LATENCY is found, SCALE_UP is permitted and a second instance is ready",
            run: |play| Box::pin(scaled(play)),
        },
        Step {
            name: "the answers are quick again",
            expected: "the monitor says so",
            run: |play| Box::pin(calm(play)),
        },
        STABLE,
    ],
    any_app: false,
    human: true,
    typical: |tempo| tempo.effect_ms().saturating_mul(3).saturating_add(delay_ms(tempo) * 2),
};

/// Time the revision takes to start: a good part of what the policy allows.
fn delay_ms(tempo: &Tempo) -> Millis {
    (tempo.policy.verification.deadline_ms / 4).min(1_500)
}

async fn deployed(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.begun;
    play.notes.since = since;
    let old = fence(play, 0).await?;
    let delay = delay_ms(&play.tempo).to_string();
    let request = play.request(&["--version-label", "v2", "--start-delay-ms", &delay], 2);
    let (_, decision) = play.deploy(request, true).await?;
    play.notes.decision = Some(decision);
    let started = |record: &Record| match &record.body {
        Body::Observed { slot: 0, what: Observation::Started { fence } } if *fence != old => {
            Some(fence.pid)
        }
        _ => None,
    };
    let deadline = Play::within(play.tempo.patience());
    let pid = play.log.find(since, deadline, "the new process", started).await?;
    let actual = format!("dec-{decision} DEPLOY; pid {pid} starts and takes {delay} ms for it");
    Ok(Seen::of(decision, actual))
}

async fn asked(play: &mut Play) -> Result<Seen, Unmet> {
    let within = Duration::from_millis(play.tempo.policy.verification.deadline_ms);
    let answer = web::get(play.address(), "/info", within).await;
    let answer = answer.map_err(|error| Unmet::Differs(crate::shim::chain(&error)))?;
    let info = String::from_utf8_lossy(&answer.body).into_owned();
    if !info.contains("\"version\":\"v2\"") {
        return Err(Unmet::Differs(format!("{} answers", info.trim())));
    }
    Ok(Seen::new("nobody was refused: revision 2 answers"))
}

async fn patient(play: &mut Play) -> Result<Seen, Unmet> {
    let none = || Unmet::Differs("nothing was deployed".to_owned());
    let decision = play.notes.decision.ok_or_else(none)?;
    let concluded = play.verified(decision).await?;
    match play.executed(play.notes.since).as_slice() {
        [Action::Deploy] => {}
        others => return Err(Unmet::Differs(format!("executed: {others:?}"))),
    }
    let took = concluded.elapsed_ms;
    Ok(Seen::of(decision, format!("SYSTEM_STABLE after {took} ms, DEPLOY and nothing else")))
}

async fn scaled(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.begun;
    play.announce("a monitor reports slow answers").await?;
    latency::hear_enough(play, &[(FIRST, Told::Slow)]).await?;
    let detail = latency::found(play, since).await?;
    let (decision, _) = latency::scale_up(play, since).await?;
    play.notes.decision = Some(decision);
    play.notes.ready_ms = None;
    latency::second_is_ready(play, since).await?;
    Ok(Seen::of(decision, format!("LATENCY: {detail}; dec-{decision} SCALE_UP, 2 instances")))
}

async fn calm(play: &mut Play) -> Result<Seen, Unmet> {
    latency::hear_calm(play).await?;
    Ok(Seen::new("quick"))
}

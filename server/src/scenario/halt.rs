//! The kill switch in the middle of a rolling restart: what is under way ends at the next safe point, and nothing half done is left.

use std::collections::BTreeMap;

use agentd_core::action::Action;
use agentd_core::app::{Millis, OnboardRequest};
use agentd_core::plan::Fence;
use agentd_core::record::{Body, Observation, Record};
use agentd_core::state::{Outcome, Scope};
use agentd_core::step::Reply;
use agentd_core::verdict::Ruling;

use super::play::{Play, Unmet};
use super::steps::{ask_for, onboarded};
use super::{Scenario, Seen, Step, Tempo};
use crate::agent::Ask;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kill-switch-rolling",
    summary: "a halt in the middle of a rolling restart",
    steps: &[
        Step {
            name: "an app of two instances is onboarded",
            expected: "its deployment is verified: two instances answer their health check",
            run: |play| Box::pin(onboard(play)),
        },
        Step {
            name: "a human asks for a restart, one instance after the other",
            expected: "RESTART is permitted, and the first instance is replaced",
            run: |play| Box::pin(restart(play)),
        },
        Step {
            name: "somebody hits the kill switch",
            expected: "MODE_HALTED is on record before it is answered",
            run: |play| Box::pin(halt(play)),
        },
        Step {
            name: "the restart stops at its next safe point",
            expected: "the instance under way is finished, the other runs on untouched",
            run: |play| Box::pin(stopped(play)),
        },
        Step {
            name: "effects are resumed, and the human asks again",
            expected: "every gate passes again, both are replaced, SYSTEM_STABLE",
            run: |play| Box::pin(again(play)),
        },
    ],
    any_app: false,
    human: true,
    typical: |tempo| tempo.effect_ms().saturating_mul(3).saturating_add(delay_ms(tempo) * 5),
};

const INSTANCES: u32 = 2;

/// Time each instance takes to start, so that there is a middle to hit.
fn delay_ms(tempo: &Tempo) -> Millis {
    (tempo.policy.verification.deadline_ms / 4).min(500)
}

async fn onboard(play: &mut Play) -> Result<Seen, Unmet> {
    let delay = delay_ms(&play.tempo).to_string();
    let args = ["--version-label", "v1", "--start-delay-ms", &delay];
    let request = OnboardRequest {
        desired_instances: Some(INSTANCES),
        // Idle as it is, the agent would take one away in the middle of it.
        min_instances: Some(INSTANCES),
        ..play.request(&args, INSTANCES)
    };
    onboarded(play, request).await
}

/// What runs, by slot.
async fn fences(play: &Play) -> Result<BTreeMap<u32, Fence>, Unmet> {
    let state = play.state().await?;
    let running = state.instances.iter().filter(|(_, instance)| instance.phase.is_running());
    let fences: BTreeMap<u32, Fence> =
        running.filter_map(|(slot, i)| Some((*slot, i.fence.clone()?))).collect();
    if fences.len() != usize::try_from(INSTANCES).unwrap_or(0) {
        return Err(Unmet::Differs(format!("{} of {INSTANCES} instances run", fences.len())));
    }
    Ok(fences)
}

async fn restart(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.begun;
    play.notes.since = since;
    play.notes.running = fences(play).await?;
    let (decision, decided) = ask_for(play, Action::Restart.as_str()).await?;
    if decided.ruling != Ruling::Permitted {
        return Err(Unmet::Differs(format!("dec-{decision}: {:?}", decided.ruling)));
    }
    play.notes.decision = Some(decision);
    let old = play.notes.running.clone();
    let replaced = |record: &Record| match &record.body {
        Body::Observed { slot, what: Observation::Started { fence } }
            if old.get(slot).is_some_and(|known| known != fence) =>
        {
            Some((*slot, fence.pid))
        }
        _ => None,
    };
    let deadline = Play::within(play.tempo.patience());
    let (slot, pid) = play.log.find(since, deadline, "the first new process", replaced).await?;
    let actual = format!("dec-{decision} RESTART; instance {slot} starts anew as pid {pid}");
    Ok(Seen::of(decision, actual))
}

async fn halt(play: &mut Play) -> Result<Seen, Unmet> {
    let scope = Scope::App(play.app().clone());
    let reason = "scenario kill-switch-rolling".to_owned();
    // Ends by itself if nobody is left to lift it.
    let ttl_ms = Some(u64::try_from(play.tempo.patience().as_millis()).unwrap_or(u64::MAX));
    match play.ask(Ask::Pause { scope, halt: true, reason, ttl_ms }).await? {
        Reply::Done { seq: Some(seq) } => {
            play.notes.paused = true;
            Ok(Seen::new(format!("halted with record {seq}")))
        }
        other => Err(Unmet::Differs(format!("{other:?}"))),
    }
}

async fn stopped(play: &mut Play) -> Result<Seen, Unmet> {
    let none = || Unmet::Differs("nothing was restarted".to_owned());
    let decision = play.notes.decision.ok_or_else(none)?;
    let delivered = |record: &Record| match &record.body {
        Body::Delivered { decision: of, ok, detail, .. } if *of == decision => {
            Some((*ok, detail.clone()))
        }
        _ => None,
    };
    let (since, deadline) = (play.notes.since, Play::within(play.tempo.patience()));
    let (ok, detail) = play.log.find(since, deadline, "the end of the restart", delivered).await?;
    if ok || !detail.contains("halted") {
        return Err(Unmet::Differs(format!("it was not stopped: {detail}")));
    }
    let now = fences(play).await?;
    let same = |slot: &&u32| now.get(slot) == play.notes.running.get(slot);
    let untouched = now.keys().filter(same).count();
    let concluded = play.outcome(decision).await?;
    if concluded.outcome == Outcome::Verified || untouched == 0 || untouched == now.len() {
        let told = format!("{:?}; {untouched} of {INSTANCES} untouched", concluded.outcome);
        return Err(Unmet::Differs(told));
    }
    let actual = format!("{detail}; {untouched} of {INSTANCES} run on as they were");
    Ok(Seen::of(decision, actual))
}

async fn again(play: &mut Play) -> Result<Seen, Unmet> {
    let scope = Scope::App(play.app().clone());
    let reason = "scenario kill-switch-rolling".to_owned();
    match play.ask(Ask::Resume { scope, reason }).await? {
        Reply::Done { .. } => play.notes.paused = false,
        other => return Err(Unmet::Differs(format!("{other:?}"))),
    }
    let before = fences(play).await?;
    let (decision, decided) = ask_for(play, Action::Restart.as_str()).await?;
    if decided.ruling != Ruling::Permitted {
        return Err(Unmet::Differs(format!("dec-{decision}: {:?}", decided.ruling)));
    }
    let concluded = play.verified(decision).await?;
    let after = fences(play).await?;
    if after.iter().any(|(slot, fence)| before.get(slot) == Some(fence)) {
        return Err(Unmet::Differs("not every instance was replaced".to_owned()));
    }
    let took = concluded.elapsed_ms;
    Ok(Seen::of(
        decision,
        format!("dec-{decision} RESTART; all replaced, verified after {took} ms"),
    ))
}

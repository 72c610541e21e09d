//! Steps that several scenarios share.

use agentd_core::action::Action;
use agentd_core::app::{Millis, OnboardRequest};
use agentd_core::choose::Params;
use agentd_core::detect::FindingKind;
use agentd_core::plan::Fence;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Decided, Observation, Record};
use agentd_core::signal::Exit;
use agentd_core::state::Health;
use agentd_core::step::Reply;
use agentd_core::verdict::{Ruling, Verdict};
use rustix::process::{Signal, pidfd_send_signal};

use super::follow::Mark;
use super::play::{Play, Unmet};
use super::{Seen, Step};
use crate::agent::Ask;
use crate::shim::{procfs, protocol};

/// Arguments of the revision that works.
pub(super) const GOOD: &[&str] = &["--version-label", "v1"];

/// Onboards an app of one instance.
pub(super) const ONBOARD: Step = Step {
    name: "an app is onboarded",
    expected: "its deployment is verified: one instance answers its health check",
    run: |play| Box::pin(onboard(play, 1)),
};

/// Onboards an app of one instance that may have two.
pub(super) const ONBOARD_UP_TO_TWO: Step = Step {
    name: "an app that may have two instances is onboarded with one",
    expected: "its deployment is verified: one instance answers its health check",
    run: |play| Box::pin(onboard(play, 2)),
};

/// Kills instance 0.
pub(super) const KILL: Step = Step {
    name: "its process is killed (kill -9)",
    expected: "the end by signal 9 is seen and CRASH is found",
    run: |play| Box::pin(kill(play)),
};

/// The agent restarts what was killed.
pub(super) const RESTARTED: Step = Step {
    name: "the agent reacts",
    expected: "RESTART is permitted, recorded before it happens, and another process is ready",
    run: |play| Box::pin(restarted(play)),
};

/// The outcome of the decision in the notes.
pub(super) const STABLE: Step = Step {
    name: "the outcome is watched",
    expected: "SYSTEM_STABLE: ready, and the trigger clear for the hold time",
    run: |play| Box::pin(stable(play)),
};

/// Onboards the demo app, or looks whether the app that was named is well.
pub(super) async fn onboard(play: &mut Play, max_instances: u32) -> Result<Seen, Unmet> {
    if play.guest {
        let state = play.state().await?;
        let ready = state.ready();
        return match state.health() {
            Health::Healthy => Ok(Seen::new(format!("it is there, {ready} instances are ready"))),
            other => Err(Unmet::Differs(format!("`{}` is {other:?}", play.app()))),
        };
    }
    let request = play.request(GOOD, max_instances);
    onboarded(play, request).await
}

/// Onboards an app of this run and waits until its deployment is verified.
pub(super) async fn onboarded(play: &mut Play, request: OnboardRequest) -> Result<Seen, Unmet> {
    play.notes.good = Some(Box::new(request.clone()));
    let (digest, decision) = play.deploy(request, false).await?;
    let concluded = play.verified(decision).await?;
    let pid = fence(play, 0).await?.pid;
    let digest = digest.get(..12).unwrap_or_default().to_owned();
    let actual = format!(
        "`{}` runs as pid {pid}, spec {digest}, verified after {} ms",
        play.app(),
        concluded.elapsed_ms
    );
    Ok(Seen::of(decision, actual))
}

/// The incarnation that runs in a slot.
pub(super) async fn fence(play: &Play, slot: u32) -> Result<Fence, Unmet> {
    let state = play.state().await?;
    let instance = state.instances.get(&slot).filter(|i| i.phase.is_running());
    let fence = instance.and_then(|instance| instance.fence.clone());
    fence.ok_or_else(|| Unmet::Differs(format!("instance {slot} does not run")))
}

/// An identity as the shim knows it.
pub(super) fn shim_fence(fence: &Fence) -> protocol::Fence {
    let Fence { boot_id, pid, start_time } = fence.clone();
    protocol::Fence { boot_id, pid, start_time }
}

/// Puts a kill on record, kills what runs as instance 0, and waits until it is found.
pub(super) async fn kill(play: &mut Play) -> Result<Seen, Unmet> {
    kill_and(play, "").await
}

/// [`kill`], with more put on record about what is going to be done.
pub(super) async fn kill_and(play: &mut Play, more: &str) -> Result<Seen, Unmet> {
    let fence = fence(play, 0).await?;
    let pid = fence.pid;
    play.log.catch_up().await?;
    play.notes.since = play.log.mark();
    play.announce(&format!("kill -9 of pid {pid}{more}")).await?;
    let after = end(play, fence).await?;
    let raised = |record: &Record| match &record.body {
        Body::Raised(f) if matches!(f.kind, FindingKind::Crash | FindingKind::CrashLoop) => {
            Some(f.detail.clone())
        }
        _ => None,
    };
    let (since, deadline) = (play.notes.since, Play::within(play.tempo.reaction()));
    let detail = play.log.find(since, deadline, "the finding CRASH", raised).await?;
    Ok(Seen::new(format!("pid {pid}: {detail}, seen after {after} ms")))
}

/// Kills exactly this incarnation: its identity is compared again behind the open pidfd. Gives the time until its end was on
/// record, in milliseconds.
pub(super) async fn end(play: &mut Play, fence: Fence) -> Result<Millis, Unmet> {
    let pid = fence.pid;
    let gone = || Unmet::Differs(format!("pid {pid} is gone already"));
    let pidfd = procfs::open_incarnation(&shim_fence(&fence)).ok_or_else(gone)?;
    play.notes.hit_at = play.doors().clock.now_ms();
    pidfd_send_signal(&pidfd, Signal::KILL)
        .map_err(|error| Unmet::Differs(format!("pid {pid} cannot be killed: {error}")))?;
    play.notes.victim = Some(fence.clone());
    let (since, deadline) = (play.notes.since, Play::within(play.tempo.reaction()));
    let exited = |record: &Record| match &record.body {
        Body::Observed { what: Observation::Exited { fence: Some(f), exit, .. }, .. }
            if *f == fence =>
        {
            Some((record.at, *exit))
        }
        _ => None,
    };
    let (at, exit) = play.log.find(since, deadline, "the end of the process", exited).await?;
    if exit != Exit::Signal(9) {
        return Err(Unmet::Differs(format!("pid {pid} ended with {exit}")));
    }
    Ok(at.saturating_sub(play.notes.hit_at))
}

/// The agent has restarted what was killed last.
pub(super) async fn restarted(play: &mut Play) -> Result<Seen, Unmet> {
    let (since, within) = (play.notes.since, play.tempo.reaction());
    let permitted = |decided: &Decided| {
        let agent = !decided.proposal.source.is_human();
        (agent && decided.proposal.action == Action::Restart && decided.ruling == Ruling::Permitted)
            .then_some(())
    };
    let (decision, ()) = play.decision(since, within, "a permitted RESTART", permitted).await?;
    comes_back(play, decision).await
}

/// What `decision` started is ready: another process than the one that was killed, and its intent was on record first.
pub(super) async fn comes_back(play: &mut Play, decision: u64) -> Result<Seen, Unmet> {
    play.notes.decision = Some(decision);
    let since = play.notes.since;
    let victim = play.notes.victim.clone();
    let deadline = Play::within(play.tempo.patience());
    let intent = |record: &Record| match &record.body {
        Body::Attempted(attempt) if attempt.decision == decision => Some(record.seq),
        _ => None,
    };
    let intent = play.log.find(since, deadline, "the intent", intent).await?;
    let started = |record: &Record| match &record.body {
        Body::Observed { slot: 0, what: Observation::Started { fence } }
            if Some(fence) != victim.as_ref() =>
        {
            Some((record.seq, fence.pid))
        }
        _ => None,
    };
    let (seen, pid) = play.log.find(since, deadline, "another process", started).await?;
    if seen < intent {
        return Err(Unmet::Differs(format!("pid {pid} was seen before the intent was on record")));
    }
    let ready = |record: &Record| match &record.body {
        Body::Observed { slot: 0, what: Observation::Ready } if record.seq > seen => {
            Some(record.at)
        }
        _ => None,
    };
    let ready_at = play.log.find(since, deadline, "readiness", ready).await?;
    let delivered = |record: &Record| match &record.body {
        Body::Delivered { decision: of, ok, detail, .. } if *of == decision => {
            Some(ok.then_some(()).ok_or_else(|| detail.clone()))
        }
        _ => None,
    };
    if let Err(detail) = play.log.find(since, deadline, "the delivery", delivered).await? {
        return Err(Unmet::Differs(detail));
    }
    let took = ready_at.saturating_sub(play.notes.hit_at);
    play.notes.ready_ms = Some(took);
    let old = victim.map_or_else(String::new, |fence| format!("{} -> ", fence.pid));
    Ok(Seen::of(decision, format!("dec-{decision} RESTART; pid {old}{pid}, ready after {took} ms")))
}

/// The decision in the notes is verified.
pub(super) async fn stable(play: &mut Play) -> Result<Seen, Unmet> {
    let none = || Unmet::Differs("no decision was made".to_owned());
    let decision = play.notes.decision.ok_or_else(none)?;
    let concluded = play.verified(decision).await?;
    let stable = concluded.elapsed_ms;
    let actual = match play.notes.ready_ms {
        Some(ready) => format!("SYSTEM_STABLE; ready in {ready} ms, verified in {stable} ms"),
        None => format!("SYSTEM_STABLE; verified in {stable} ms"),
    };
    Ok(Seen::of(decision, actual))
}

/// A human asks for an action by name.
pub(super) async fn ask_for(play: &mut Play, name: &str) -> Result<(u64, Box<Decided>), Unmet> {
    let (app, name) = (play.app().clone(), name.to_owned());
    let (params, reason) = (Params::default(), "asked for in a scenario".to_owned());
    match play.ask(Ask::Act { app, name, params, reason }).await? {
        Reply::Decided { seq: Some(seq), decided, .. } => Ok((seq, decided)),
        other => Err(Unmet::Differs(format!("{other:?}"))),
    }
}

/// What the agent's `action` was refused for, if for that.
pub(super) fn refused_for(decided: &Decided, action: Action, why: Reason) -> Option<Verdict> {
    let refused = matches!(decided.ruling, Ruling::Refused { reason, .. } if reason == why);
    (refused && decided.proposal.action == action)
        .then(|| decided.verdicts.iter().find(|v| v.reason == Some(why)).cloned())
        .flatten()
}

/// That nothing was executed since `mark`.
pub(super) fn untouched(play: &Play, mark: Mark) -> Result<(), Unmet> {
    match play.executed(mark).as_slice() {
        [] => Ok(()),
        done => Err(Unmet::Differs(format!("executed: {done:?}"))),
    }
}

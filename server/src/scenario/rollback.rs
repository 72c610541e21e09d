//! A bad revision is tried again, and then a human lets the agent go back.

use std::time::Duration;

use agentd_core::action::Action;
use agentd_core::plan::Operation;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Decided, Record};
use agentd_core::state::{ApprovalState, Outcome};
use agentd_core::verdict::{Effect, Ruling};

use super::play::{Play, Unmet};
use super::steps::ONBOARD;
use super::{Scenario, Seen, Step, onboard};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "rollback-approval",
    summary: "a bad revision; a human approves the way back",
    steps: &[
        ONBOARD,
        Step {
            name: "a revision that ends while it starts is deployed",
            expected: "ACTION_FAILED: it ended before it was ready",
            run: |play| Box::pin(deployed(play)),
        },
        Step {
            name: "the agent tries it again",
            expected: "RETRY_DEPLOYMENT is permitted and fails as well",
            run: |play| Box::pin(retried(play)),
        },
        Step {
            name: "the agent wants to go back",
            expected: "ROLLBACK to revision 1 is held with APPROVAL_REQUIRED, nothing is executed",
            run: |play| Box::pin(held(play)),
        },
        Step {
            name: "another principal is asked",
            expected: "APPROVAL_GRANTED, by somebody who did not ask for it",
            run: |play| Box::pin(approved(play)),
        },
        Step {
            name: "the approved plan is carried out",
            expected: "every gate passes again, revision 1 runs, SYSTEM_STABLE",
            run: |play| Box::pin(rolled_back(play)),
        },
    ],
    any_app: false,
    human: true,
    typical: |tempo| {
        let retry = tempo.policy.cooldown_ms(Action::RetryDeployment);
        tempo.effect_ms().saturating_mul(3).saturating_add(retry.saturating_mul(2))
    },
};

/// Time a human has; less where the approval expires before.
const HUMAN: Duration = Duration::from_secs(120);
/// Arguments of a revision that never takes a connection and aborts.
const BAD: &[&str] =
    &["--version-label", "v2", "--start-delay-ms", "60000", "--crash-after-ms", "20"];

async fn deployed(play: &mut Play) -> Result<Seen, Unmet> {
    play.notes.since = play.begun;
    play.announce("revision 2 aborts while it starts").await?;
    let request = play.request(BAD, 1);
    let (_, decision) = play.deploy(request, true).await?;
    let concluded = play.outcome(decision).await?;
    if concluded.outcome != Outcome::Failed {
        return Err(Unmet::Differs(format!("{:?}: {}", concluded.outcome, concluded.detail)));
    }
    Ok(Seen::of(decision, format!("dec-{decision} ACTION_FAILED: {}", concluded.detail)))
}

async fn retried(play: &mut Play) -> Result<Seen, Unmet> {
    let (since, within) = (play.notes.since, play.tempo.reaction());
    let pick = |decided: &Decided| {
        let retry = decided.proposal.action == Action::RetryDeployment;
        (retry && decided.ruling == Ruling::Permitted).then_some(())
    };
    let what = "a permitted RETRY_DEPLOYMENT";
    let (decision, ()) = play.decision(since, within, what, pick).await?;
    let concluded = play.outcome(decision).await?;
    if concluded.outcome != Outcome::Failed {
        return Err(Unmet::Differs(format!("{:?}: {}", concluded.outcome, concluded.detail)));
    }
    Ok(Seen::of(decision, format!("dec-{decision} ACTION_FAILED: {}", concluded.detail)))
}

async fn held(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.notes.since;
    // It may be tried a few times before, each after its cooldown.
    let cooldown = play.tempo.policy.cooldown_ms(Action::RetryDeployment);
    let within = (play.tempo.patience() + Duration::from_millis(cooldown)) * 2;
    let pick = |decided: &Decided| {
        let asked = decided.verdicts.iter().any(|verdict| {
            verdict.effect == Effect::Hold && verdict.reason == Some(Reason::ApprovalRequired)
        });
        let held = matches!(decided.ruling, Ruling::Held { .. });
        let operation = decided.proposal.plan.as_ref().map(|plan| plan.operation.clone());
        (decided.proposal.action == Action::Rollback && held && asked).then_some(operation)?
    };
    let what = "ROLLBACK held with APPROVAL_REQUIRED";
    let (decision, operation) = play.decision(since, within, what, pick).await?;
    let Operation::Rollback { from: 2, to: 1, .. } = operation else {
        return Err(Unmet::Differs(format!("the plan is {operation:?}")));
    };
    let requested = |record: &Record| match &record.body {
        Body::ApprovalRequested(approval) if approval.decision == decision => Some(approval.seq),
        _ => None,
    };
    let deadline = Play::within(play.tempo.reaction());
    let approval = play.log.find(since, deadline, "APPROVAL_REQUESTED", requested).await?;
    play.notes.approval = Some(approval);
    play.notes.decision = Some(decision);
    let rolled = |record: &Record| match &record.body {
        Body::Attempted(a) => a.plan.action == Action::Rollback && a.approval != Some(approval),
        _ => false,
    };
    if play.log.since(since).any(rolled) {
        return Err(Unmet::Differs("ROLLBACK was executed without an approval".to_owned()));
    }
    let executed = play.executed(since);
    let retries = executed.iter().filter(|a| **a == Action::RetryDeployment).count();
    let actual =
        format!("dec-{decision} APPROVAL_REQUIRED after {retries} retries: apr-{approval}");
    Ok(Seen::of(decision, actual))
}

async fn approved(play: &mut Play) -> Result<Seen, Unmet> {
    let none = || Unmet::Differs("nothing waits for approval".to_owned());
    let approval = play.notes.approval.ok_or_else(none)?;
    let decision = play.notes.decision.ok_or_else(none)?;
    let waiting = format!("waiting for approval apr-{approval}: agentctl approve apr-{approval}");
    play.say(Seen::of(decision, waiting));
    let ttl = Duration::from_millis(play.tempo.policy.approval.ttl_ms);
    let deadline = Play::within(HUMAN.min(ttl + play.tempo.reaction()));
    let answered = |record: &Record| match &record.body {
        Body::ApprovalAnswered { approval: of, state, .. }
        | Body::ApprovalEnded { approval: of, state }
            if *of == approval =>
        {
            Some((*state, record.actor.clone()))
        }
        _ => None,
    };
    let what = format!("somebody to approve apr-{approval}");
    let (state, actor) = play.log.find(play.notes.since, deadline, &what, answered).await?;
    if state != ApprovalState::Approved {
        return Err(Unmet::Differs(format!("apr-{approval} is {state:?}, by {actor}")));
    }
    Ok(Seen::of(decision, format!("apr-{approval} granted by {actor}")))
}

async fn rolled_back(play: &mut Play) -> Result<Seen, Unmet> {
    let none = || Unmet::Differs("nothing was approved".to_owned());
    let approval = play.notes.approval.ok_or_else(none)?;
    let (since, within) = (play.notes.since, play.tempo.reaction());
    let pick = |decided: &Decided| {
        let grant = decided.proposal.grant.as_ref();
        grant.is_some_and(|g| g.approval == approval).then(|| decided.ruling.clone())
    };
    let (decision, ruling) =
        play.decision(since, within, "the decision on the approved plan", pick).await?;
    if ruling != Ruling::Permitted {
        return Err(Unmet::Differs(format!("dec-{decision}: {ruling:?}")));
    }
    let concluded = play.verified(decision).await?;
    let state = play.state().await?;
    if state.profile.revision != 1 {
        return Err(Unmet::Differs(format!("revision {} runs", state.profile.revision)));
    }
    let info = onboard::info(play).await?;
    if !info.contains("\"version\":\"v1\"") {
        return Err(Unmet::Differs(format!("{info} answers")));
    }
    let took = concluded.elapsed_ms;
    Ok(Seen::of(decision, format!("v1 answers again, SYSTEM_STABLE after {took} ms")))
}

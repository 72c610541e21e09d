//! A revision never becomes ready: it is tried again, then a human is asked, and a human mends it instead.

use std::time::Duration;

use agentd_core::action::Action;
use agentd_core::detect::FindingKind;
use agentd_core::record::{Body, Decided, Record};
use agentd_core::state::{ApprovalState, Outcome};
use agentd_core::verdict::Ruling;

use super::play::{Play, Unmet};
use super::steps::ONBOARD;
use super::{Scenario, Seen, Step, onboard};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "failed-deployment",
    summary: "a revision never gets ready; a human mends it",
    steps: &[
        ONBOARD,
        Step {
            name: "a revision that never takes a connection is deployed",
            expected: "ACTION_FAILED: it was not ready in time, and DEPLOYMENT_FAILED is found",
            run: |play| Box::pin(deployed(play)),
        },
        Step {
            name: "the agent tries it again",
            expected: "RETRY_DEPLOYMENT is permitted and fails as well",
            run: |play| Box::pin(retried(play)),
        },
        Step {
            name: "the agent asks whether to go back",
            expected: "ROLLBACK is held with APPROVAL_REQUIRED, nothing is executed",
            run: |play| Box::pin(held(play)),
        },
        Step {
            name: "a human deploys a revision that works",
            expected: "it is verified, and nobody goes back any more",
            run: |play| Box::pin(mended(play)),
        },
    ],
    any_app: false,
    human: true,
    typical: |tempo| {
        let retry = tempo.policy.cooldown_ms(Action::RetryDeployment);
        let waits = tempo.policy.verification.deadline_ms.saturating_mul(2);
        tempo.effect_ms().saturating_mul(2).saturating_add(retry).saturating_add(waits)
    },
};

/// Arguments of a revision that runs and never takes a connection.
const BAD: &[&str] = &["--version-label", "v2", "--start-delay-ms", "3600000"];
/// Arguments of the revision that mends it.
const MENDED: &[&str] = &["--version-label", "v3"];

async fn failed(play: &mut Play, decision: u64) -> Result<Seen, Unmet> {
    let concluded = play.outcome(decision).await?;
    if concluded.outcome != Outcome::Failed {
        return Err(Unmet::Differs(format!("{:?}: {}", concluded.outcome, concluded.detail)));
    }
    Ok(Seen::of(decision, format!("dec-{decision} ACTION_FAILED: {}", concluded.detail)))
}

async fn deployed(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.begun;
    play.notes.since = since;
    play.announce("revision 2 never takes a connection").await?;
    let request = play.request(BAD, 1);
    let (_, decision) = play.deploy(request, true).await?;
    let seen = failed(play, decision).await?;
    let raised = |record: &Record| match &record.body {
        Body::Raised(f) if f.kind == FindingKind::DeploymentFailed => Some(()),
        _ => None,
    };
    let deadline = Play::within(play.tempo.reaction());
    play.log.find(since, deadline, "the finding DEPLOYMENT_FAILED", raised).await?;
    Ok(Seen::of(decision, format!("{}; DEPLOYMENT_FAILED", seen.actual)))
}

async fn retried(play: &mut Play) -> Result<Seen, Unmet> {
    let (since, within) = (play.notes.since, play.tempo.reaction());
    let cooldown = play.tempo.policy.cooldown_ms(Action::RetryDeployment);
    let within = within + Duration::from_millis(cooldown);
    let pick = |decided: &Decided| {
        let retry = decided.proposal.action == Action::RetryDeployment;
        (retry && decided.ruling == Ruling::Permitted).then_some(())
    };
    let what = "a permitted RETRY_DEPLOYMENT";
    let (decision, ()) = play.decision(since, within, what, pick).await?;
    failed(play, decision).await
}

async fn held(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.notes.since;
    // It may be tried a few times before, each after its cooldown.
    let cooldown = play.tempo.policy.cooldown_ms(Action::RetryDeployment);
    let deadline = Play::within((play.tempo.patience() + Duration::from_millis(cooldown)) * 2);
    let requested = |record: &Record| match &record.body {
        Body::ApprovalRequested(a) if a.plan.action == Action::Rollback => {
            Some((a.seq, a.decision))
        }
        _ => None,
    };
    let what = "a request to approve ROLLBACK";
    let (approval, decision) = play.log.find(since, deadline, what, requested).await?;
    play.notes.approval = Some(approval);
    let actual = format!("dec-{decision} ROLLBACK held with APPROVAL_REQUIRED: apr-{approval}");
    Ok(Seen::of(decision, actual))
}

async fn mended(play: &mut Play) -> Result<Seen, Unmet> {
    let none = || Unmet::Differs("nothing waits for approval".to_owned());
    let approval = play.notes.approval.ok_or_else(none)?;
    let request = play.request(MENDED, 1);
    play.notes.good = Some(Box::new(request.clone()));
    let (_, decision) = play.deploy(request, true).await?;
    let concluded = play.verified(decision).await?;
    let ended = |record: &Record| match &record.body {
        Body::ApprovalEnded { approval: of, state } if *of == approval => Some(*state),
        _ => None,
    };
    let deadline = Play::within(play.tempo.patience());
    let state = play.log.find(play.notes.since, deadline, "the end of the request", ended).await?;
    if !matches!(state, ApprovalState::Superseded | ApprovalState::Cleared) {
        return Err(Unmet::Differs(format!("apr-{approval} is {state:?}")));
    }
    if play.executed(play.notes.since).contains(&Action::Rollback) {
        return Err(Unmet::Differs("ROLLBACK was executed without an approval".to_owned()));
    }
    let info = onboard::info(play).await?;
    if !info.contains("\"version\":\"v3\"") {
        return Err(Unmet::Differs(format!("{info} answers")));
    }
    let took = concluded.elapsed_ms;
    let actual = format!("v3 answers, verified after {took} ms; apr-{approval} is {state:?}");
    Ok(Seen::of(decision, actual))
}

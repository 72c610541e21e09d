//! What time alone brings: expiries, the storm brake, starts and ends of the agent.

use crate::policy::Policy;
use crate::record::{Body, Started};
use crate::state::ApprovalState;

use super::{Context, learning, rules};

/// Time passed.
pub(super) fn tick(ctx: &mut Context<'_>) {
    expire_pauses(ctx);
    expire_approvals(ctx);
    learning::expire(ctx);
    storm(ctx);
}

fn expire_pauses(ctx: &mut Context<'_>) {
    for pause in &ctx.state.mode.pauses {
        if pause.until.is_some_and(|until| until <= ctx.now) {
            let (scope, reason) = (pause.scope.clone(), "expired".to_owned());
            ctx.write(None, None, Body::PauseLifted { scope, reason, request: None });
        }
    }
}

fn expire_approvals(ctx: &mut Context<'_>) {
    for approval in ctx.state.approvals.values() {
        if approval.state == ApprovalState::Pending && approval.expires_at <= ctx.now {
            let state = ApprovalState::Expired;
            let body = Body::ApprovalEnded { approval: approval.seq, state };
            ctx.write(Some(&approval.plan.app), Some(approval.decision), body);
        }
    }
}

/// A storm begins when a large share of the environment is unhealthy, and ends only after it has been calm for a while.
fn storm(ctx: &mut Context<'_>) {
    let state = ctx.state;
    let rule = &ctx.policy.storm;
    let apps = u32::try_from(state.apps.len()).unwrap_or(u32::MAX);
    let unhealthy = state.apps.census().unhealthy;
    let stormy = u64::from(unhealthy) >= crate::gates::storm_threshold(rule, apps);
    match (&state.storm, stormy) {
        (None, true) => {
            let began = ctx.write(None, None, Body::StormBegan { unhealthy, apps });
            // Once for all of them: as many calls as apps would hide the one thing to know.
            let message = crate::explain::storm(unhealthy, apps);
            ctx.write(None, Some(began), Body::Escalated { findings: Vec::new(), message });
        }
        (Some(storm), true) if storm.calm_since.is_some() => {
            ctx.write(None, None, Body::StormCalm { calm: false });
        }
        (Some(storm), false) => match storm.calm_since {
            None => {
                ctx.write(None, None, Body::StormCalm { calm: true });
            }
            Some(since) if ctx.now.saturating_sub(since) >= rule.exit_ms => {
                ctx.write(None, None, Body::StormEnded);
            }
            Some(_) => {}
        },
        (None, false) | (Some(_), true) => {}
    }
}

/// The agent starts on this log: it says who it is and under which policy, and marks what it cannot know.
pub(super) fn started(
    ctx: &mut Context<'_>,
    started: &Started,
    policy: &Policy,
    bytes_cut: Option<u64>,
) {
    let cause = ctx.write(None, None, Body::Started(started.clone()));
    if let Some(bytes_cut) = bytes_cut {
        ctx.write(None, Some(cause), Body::LogRecovered { bytes_cut });
    }
    let digest = policy.digest();
    // What a human applied since the last start stays in force, unless the policy of the configuration changed meanwhile.
    if digest != ctx.state.policy_base || ctx.state.policy_digest.is_empty() {
        rules::write(ctx, Some(cause), policy, digest);
    }
    for (name, app) in &ctx.state.apps {
        if let Some(attempt) = app.attempt.as_ref().filter(|a| a.delivered_at.is_none()) {
            let decision = attempt.decision;
            ctx.write(Some(name), Some(decision), Body::Indeterminate { decision });
        }
    }
}

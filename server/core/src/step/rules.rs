//! Another policy comes into force.

use crate::app::Violation;
use crate::policy::{Fault, Policy, lint};
use crate::record::{Author, Body};
use crate::state::ApprovalState;

use super::request::{clip, is_answered, request_of};
use super::{Context, Input, Reply, learning};

/// Puts a policy in force, unless it breaks a rule: then the old one stays. What waits for a human was planned under the old
/// rules, and its digest says so: it is superseded, and what still stands is asked anew.
pub(super) fn apply(ctx: &mut Context<'_>, input: &Input) {
    let Input::ApplyPolicy { policy, author, reason, by } = input else { return };
    if is_answered(ctx, by) {
        return;
    }
    let faults = faults(ctx, policy);
    if !faults.is_empty() {
        ctx.reply = Reply::Invalid(faults);
        return;
    }
    let digest = policy.digest();
    let known =
        digest == ctx.state.policy_digest && (!author.is_file() || digest == ctx.state.policy_base);
    if known || by.validate_only {
        ctx.reply = Reply::Done { seq: None };
        return;
    }
    let body = Body::PolicyApplied {
        policy: policy.clone(),
        digest: digest.clone(),
        author: author.clone(),
        reason: Some(clip(reason, 1_024)).filter(|reason| !reason.is_empty()),
        request: request_of(by),
    };
    let seq = ctx.write_as(by.principal.clone(), None, None, body);
    supersede(ctx, seq, &digest);
    ctx.reply = Reply::Done { seq: Some(seq) };
}

/// The policy of the configuration, at a start of the agent.
pub(super) fn write(ctx: &mut Context<'_>, cause: Option<u64>, policy: &Policy, digest: String) {
    let body = Body::PolicyApplied {
        policy: Box::new(policy.clone()),
        digest: digest.clone(),
        author: Author::File,
        reason: None,
        request: None,
    };
    let seq = ctx.write(None, cause, body);
    supersede(ctx, seq, &digest);
}

fn supersede(ctx: &mut Context<'_>, cause: u64, digest: &str) {
    if *digest == ctx.state.policy_digest {
        return;
    }
    learning::supersede(ctx, cause);
    let pending = ctx.state.approvals.values().filter(|a| a.state == ApprovalState::Pending);
    for approval in pending {
        let (approval, app) = (approval.seq, &approval.plan.app);
        let body = Body::ApprovalEnded { approval, state: ApprovalState::Superseded };
        ctx.write(Some(app), Some(cause), body);
    }
}

/// Everything that keeps `policy` out of force on this server.
fn faults(ctx: &Context<'_>, policy: &Policy) -> Vec<Violation> {
    let demo = ctx.state.mode.demo;
    let found = if demo { policy.lint_for_demo() } else { lint(policy) };
    let mut violations: Vec<Violation> = found.iter().map(violation).collect();
    if policy.env != ctx.state.env {
        let rule = format!("must be `{}`, the environment of this server", ctx.state.env);
        let fix = "apply the policy of this environment";
        violations.insert(0, Violation::new("env", "INVALID", policy.env.as_str(), &rule, fix));
    }
    violations
}

fn violation(fault: &Fault) -> Violation {
    let Fault { field, value, rule, fix } = fault;
    Violation::new(field, "POLICY_INVALID", value, rule, fix)
}

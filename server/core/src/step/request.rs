//! What humans ask for: actions, approvals, switches.

use crate::action::{Action, Requested};
use crate::app::{Millis, Override};
use crate::choose::ccq::{Expectation, Trial};
use crate::choose::{self, Grant, Lesson, Params, Proposal, Source, Taught};
use crate::plan::{Operation, Plan};
use crate::record::{Body, Request, Trigger};
use crate::signal::Reading;
use crate::state::{AppState, Approval, ApprovalState, Mode, Pause, Scope};

use super::{By, Context, Failure, Input, Reply, decide, learning, lifecycle, verify};

/// Answers a repeated request id. `true` when there is nothing left to do.
pub(super) fn is_answered(ctx: &mut Context<'_>, by: &By) -> bool {
    let Some(request) = &by.request else { return false };
    let Some(answered) = ctx.state.requests.get(&request.id) else { return false };
    ctx.reply = if answered.digest == request.digest {
        Reply::Repeated { seq: answered.seq }
    } else {
        Reply::Failed(Failure::RequestReused(request.id.clone()))
    };
    true
}

pub(super) fn request_of(by: &By) -> Option<Request> {
    by.request.clone()
}

pub(super) fn clip(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

/// A proposal that a human made: it is not chosen, so it carries full confidence and no candidates.
pub(super) fn proposal_with(
    action: Action,
    plan: Result<Plan, choose::PlanError>,
    source: Source,
    requested_as: Option<String>,
) -> Proposal {
    let (plan, missing) = match plan {
        Ok(plan) => (Some(plan), None),
        Err(_) if action.is_passive() => (None, None),
        Err(error) => (None, Some(error)),
    };
    Proposal {
        action,
        plan,
        missing,
        confidence: 1_000,
        candidates: Vec::new(),
        because: Vec::new(),
        source,
        requested_as,
        grant: None,
        explored: false,
        diagnosis: None,
        propensity_ppm: 1_000_000,
    }
}

/// A human asks for an action by name. It enters the same gates as the agent's own choice.
pub(super) fn act(ctx: &mut Context<'_>, input: &Input) {
    let Input::Act { app: name, name: asked, params, reason, reading, by } = input else { return };
    if is_answered(ctx, by) {
        return;
    }
    let Some(app) = ctx.state.apps.get(name) else {
        ctx.reply = Reply::Failed(Failure::NoSuchApp(name.to_string()));
        return;
    };
    let mut app = app.clone();
    let action = match crate::action::parse(asked) {
        Requested::Known(action) => action,
        // The name is refused by its gate; what stands is nothing.
        Requested::Unsafe(_) => Action::Noop,
        Requested::ScaleBySign if params.instances.is_some_and(|to| to < app.desired) => {
            Action::ScaleDown
        }
        Requested::ScaleBySign => Action::ScaleUp,
        Requested::Unknown => {
            ctx.reply = Reply::Failed(Failure::UnknownAction(asked.clone()));
            return;
        }
    };
    let plan = choose::prepare(action, &app, params, ctx.policy);
    let proposal = proposal_with(action, plan, source_of(by, reason), Some(clip(asked, 64)));
    settle(ctx, &mut app, proposal, reading, by);
}

/// Who asks: a human with a right to act, or somebody whom the first gate refuses.
pub(super) fn source_of(by: &By, reason: &str) -> Source {
    let principal = by.principal.clone();
    if by.human {
        Source::Human { principal, reason: clip(reason, 1_024) }
    } else {
        Source::Other { principal }
    }
}

/// What somebody wants is judged, recorded as the answer to their request, and told. A request that only asks leaves no trace.
pub(super) fn settle(
    ctx: &mut Context<'_>,
    app: &mut AppState,
    proposal: Proposal,
    reading: &Reading,
    by: &By,
) {
    let mark = ctx.mark();
    let (seq, decided) = decide::decide(ctx, app, reading, proposal, Trigger::Human);
    let ruling = decided.ruling.clone();
    let seq = if by.validate_only {
        ctx.rewind(mark);
        None
    } else {
        if let Some(request) = request_of(by) {
            let (actor, name) = (by.principal.clone(), app.profile.name.clone());
            ctx.write_as(actor, Some(&name), Some(seq), Body::Answered { request });
        }
        Some(seq)
    };
    ctx.reply = Reply::Decided { seq, ruling, decided: Box::new(decided) };
}

/// Finds a pending approval, or says why there is none to answer.
fn pending<'s>(ctx: &Context<'s>, approval: u64, by: &By) -> Result<&'s Approval, Failure> {
    let entry = ctx.state.approvals.get(&approval).ok_or(Failure::NoSuchApproval(approval))?;
    answerable(ctx, (approval, entry.state, entry.expires_at), by)?;
    Ok(entry)
}

/// Whether an approval, which is in that state until then, can be answered, and by them.
pub(super) fn answerable(
    ctx: &Context<'_>,
    (approval, state, expires_at): (u64, ApprovalState, Millis),
    by: &By,
) -> Result<(), Failure> {
    if !by.human {
        return Err(Failure::NotHuman(by.principal.clone()));
    }
    match state {
        ApprovalState::Pending if expires_at <= ctx.now => Err(Failure::ApprovalExpired(approval)),
        ApprovalState::Expired => Err(Failure::ApprovalExpired(approval)),
        ApprovalState::Pending => Ok(()),
        state => {
            let state = format!("{state:?}").to_lowercase();
            Err(Failure::ApprovalClosed { approval, state })
        }
    }
}

/// A human approves: the plan is made again, judged again by every gate, and only then permitted.
pub(super) fn approve(ctx: &mut Context<'_>, input: &Input) {
    let Input::Approve { approval, plan_digest, comment, reading, by } = input else { return };
    if is_answered(ctx, by) {
        return;
    }
    if let Some(promotion) = ctx.state.learning.promotion(*approval) {
        return learning::approve(ctx, promotion, plan_digest.as_deref(), comment, by);
    }
    let entry = match pending(ctx, *approval, by) {
        Ok(entry) => entry.clone(),
        Err(failure) => {
            ctx.reply = Reply::Failed(failure);
            return;
        }
    };
    if entry.requester == by.principal {
        ctx.reply = Reply::Failed(Failure::SelfApproval(by.principal.clone()));
        return;
    }
    if plan_digest.as_ref().is_some_and(|digest| *digest != entry.plan_digest) {
        ctx.reply = Reply::Failed(Failure::PlanChanged { pending: entry.plan_digest });
        return;
    }
    let name = entry.plan.app.clone();
    let Some(app) = ctx.state.apps.get(&name) else {
        ctx.reply = Reply::Failed(Failure::NoSuchApp(name.to_string()));
        return;
    };
    let mut app = app.clone();
    let body = Body::ApprovalAnswered {
        approval: entry.seq,
        state: ApprovalState::Approved,
        comment: clip(comment, 1_024),
        request: request_of(by),
    };
    ctx.write_as(by.principal.clone(), Some(&name), Some(entry.decision), body);
    ctx.fold(&mut app);
    let silent = Reading::silent(name, ctx.now, None);
    execute_approved(ctx, &mut app, &entry, reading.as_ref().unwrap_or(&silent), by);
}

fn execute_approved(
    ctx: &mut Context<'_>,
    app: &mut AppState,
    entry: &Approval,
    reading: &Reading,
    by: &By,
) {
    let action = entry.plan.action;
    if let Operation::Deploy { revision, .. } = entry.plan.operation
        && let Some(next) = ctx.state.specs.get(&entry.plan.app).and_then(|h| h.revision(revision))
    {
        lifecycle::bound(app, &next.spec);
    }
    // A plan that can still be made is made again; the approval gate compares its digest with the one that was approved.
    let replanned = choose::prepare(action, app, &params_of(&entry.plan.operation), ctx.policy);
    let source = if entry.human {
        let reason = "approved request".to_owned();
        Source::Human { principal: entry.requester.clone(), reason }
    } else {
        Source::Agent
    };
    let mut proposal = proposal_with(action, replanned, source, None);
    proposal.because.clone_from(&entry.because);
    // What comes of it is compared with what was expected of it when it was proposed.
    proposal.diagnosis.clone_from(&entry.diagnosis);
    proposal.grant = Some(Grant {
        approval: entry.seq,
        approver: by.principal.clone(),
        requester: entry.requester.clone(),
        plan_digest: entry.plan_digest.clone(),
        expires_at: entry.expires_at,
    });
    let (seq, decided) = decide::decide(ctx, app, reading, proposal, Trigger::Human);
    ctx.reply = Reply::Decided {
        seq: Some(seq),
        ruling: decided.ruling.clone(),
        decided: Box::new(decided),
    };
}

/// The parameters that lead to an operation.
fn params_of(operation: &Operation) -> Params {
    match operation {
        Operation::Scale { to, .. } => Params { instances: Some(*to), ..Params::default() },
        Operation::Rollback { to, .. } => Params { revision: Some(*to), ..Params::default() },
        Operation::Deploy { revision, instances } => {
            Params { revision: Some(*revision), instances: Some(*instances), ..Params::default() }
        }
        Operation::AdjustThreshold { metric, enter, leave } => {
            let threshold = Some((*metric, Override { enter: *enter, leave: *leave }));
            Params { threshold, ..Params::default() }
        }
        Operation::Configure { revision, raises } => {
            Params { revision: Some(*revision), raises: *raises, ..Params::default() }
        }
        Operation::Restart { .. } | Operation::Offboard { .. } => Params::default(),
    }
}

/// A human rejects. What the agent proposed in vain it learns from; what a human proposed it does not.
pub(super) fn reject(ctx: &mut Context<'_>, approval: u64, comment: &str, by: &By) {
    if is_answered(ctx, by) {
        return;
    }
    if let Some(promotion) = ctx.state.learning.promotion(approval) {
        return learning::reject(ctx, promotion, comment, by);
    }
    let entry = match pending(ctx, approval, by) {
        Ok(entry) => entry.clone(),
        Err(failure) => {
            ctx.reply = Reply::Failed(failure);
            return;
        }
    };
    let body = Body::ApprovalAnswered {
        approval,
        state: ApprovalState::Rejected,
        comment: clip(comment, 1_024),
        request: request_of(by),
    };
    let name = entry.plan.app;
    let seq = ctx.write_as(by.principal.clone(), Some(&name), Some(entry.decision), body);
    ctx.reply = Reply::Done { seq: Some(seq) };
    if let Some(finding) = entry.because.first().copied()
        && let Some(app) = ctx.state.apps.get(&name)
        && !entry.human
        && !ctx.state.mode.frozen
    {
        let action = entry.plan.action;
        let lesson = Lesson { finding, action, taught: Taught::Rejected, took_ms: 0 };
        let trial = entry.diagnosis.as_ref().and_then(|diagnosis| {
            let Expectation { chance, cost0 } = diagnosis.expected?;
            let signature = diagnosis.signature;
            Some(Trial { signature, action, resolved: false, cost: cost0, chance, cost0 })
        });
        verify::teach(ctx, &mut app.clone(), seq, lesson, trial);
    }
}

/// A human pauses or halts.
pub(super) fn pause(ctx: &mut Context<'_>, pause: Pause, by: &By) {
    if is_answered(ctx, by) {
        return;
    }
    if let Scope::App(name) = &pause.scope
        && !ctx.state.apps.contains_key(name)
    {
        ctx.reply = Reply::Failed(Failure::NoSuchApp(name.to_string()));
        return;
    }
    let known = ctx.state.mode.pauses.iter().any(|p| p.scope == pause.scope);
    if !known && ctx.state.mode.pauses.len() >= Mode::PAUSES {
        ctx.reply = Reply::Failed(Failure::Limit { what: "pauses", limit: Mode::PAUSES });
        return;
    }
    let body = Body::PauseSet { pause, request: request_of(by) };
    let seq = ctx.write_as(by.principal.clone(), None, None, body);
    ctx.reply = Reply::Done { seq: Some(seq) };
}

/// A human lifts a pause.
pub(super) fn resume(ctx: &mut Context<'_>, scope: &Scope, reason: &str, by: &By) {
    if is_answered(ctx, by) {
        return;
    }
    if !ctx.state.mode.pauses.iter().any(|pause| pause.scope == *scope) {
        ctx.reply = Reply::Done { seq: None };
        return;
    }
    let (scope, reason) = (scope.clone(), clip(reason, 1_024));
    let body = Body::PauseLifted { scope, reason, request: request_of(by) };
    let seq = ctx.write_as(by.principal.clone(), None, None, body);
    ctx.reply = Reply::Done { seq: Some(seq) };
}

/// A human freezes or thaws learning.
pub(super) fn freeze(ctx: &mut Context<'_>, frozen: bool, reason: &str, by: &By) {
    if is_answered(ctx, by) {
        return;
    }
    if ctx.state.mode.frozen == frozen {
        ctx.reply = Reply::Done { seq: None };
        return;
    }
    let body = Body::FreezeSet { frozen, reason: clip(reason, 1_024), request: request_of(by) };
    let seq = ctx.write_as(by.principal.clone(), None, None, body);
    ctx.reply = Reply::Done { seq: Some(seq) };
}

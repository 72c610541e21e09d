//! Humans change what the agent has learned: they bring it, forget it, and in prod put it in force.

use crate::app::{Env, Violation};
use crate::choose::Expertise;
use crate::record::{
    Asked, Backtested, Body, Forgotten, Imported, LearningChange, Promoted, Request,
};
use crate::state::{ApprovalState, Promotion, State};

use super::request::{answerable, clip, is_answered, request_of};
use super::{By, Context, Failure, Input, Reply};

/// Longest reason that is kept.
const REASON_MAX: usize = 1_024;

/// What has to hold before anything learned is changed by hand.
fn is_open(ctx: &mut Context<'_>, by: &By) -> bool {
    if is_answered(ctx, by) {
        return false;
    }
    let failure = match () {
        () if !by.human => Failure::NotHuman(by.principal.clone()),
        () if ctx.state.mode.frozen => Failure::Frozen,
        () => return true,
    };
    ctx.reply = Reply::Failed(failure);
    false
}

fn write(ctx: &mut Context<'_>, by: &By, change: LearningChange) -> u64 {
    ctx.write_as(by.principal.clone(), None, None, Body::LearningChanged(Box::new(change)))
}

/// Takes in what others learned, or this agent in the past. What was learned in another environment only as a weak prior; in prod it
/// is for the candidate. What is known already changes nothing.
pub(super) fn import(ctx: &mut Context<'_>, input: &Input) {
    let Input::Import { snapshot, weak_prior, reason, by } = input else { return };
    if !is_open(ctx, by) {
        return;
    }
    let foreign = snapshot.env != ctx.state.env;
    if foreign != *weak_prior {
        ctx.reply = Reply::Invalid(vec![misplaced(snapshot.env, ctx.state.env)]);
        return;
    }
    let expertise = if foreign {
        let knowledge = snapshot.knowledge.weakened(snapshot.env.as_str());
        Expertise { knowledge, ..Expertise::default() }
    } else {
        let knowledge = snapshot.knowledge.adopted(ctx.agent);
        Expertise { knowledge, table: snapshot.table.clone() }
    };
    let before = ctx.state.taught();
    let mut after = before.clone();
    if let Err(error) = after.take_in(&expertise) {
        let fix = "merge fewer agents";
        let rule = error.to_string();
        let found = Violation::new("knowledge", "LIMIT_REACHED", "", &rule, fix);
        ctx.reply = Reply::Invalid(vec![found]);
        return;
    }
    if before == after || by.validate_only {
        ctx.reply = Reply::Done { seq: None };
        return;
    }
    let imported = Imported {
        snapshot: snapshot.digest.clone(),
        from: snapshot.env,
        weak_prior: foreign,
        candidate: ctx.state.promotes(),
        expertise,
        reason: clip(reason, REASON_MAX),
        request: request_of(by),
    };
    let seq = write(ctx, by, LearningChange::Imported(imported));
    ctx.reply = Reply::Done { seq: Some(seq) };
}

/// Environments do not learn from each other, but as a weak prior that is asked for by name.
fn misplaced(from: Env, here: Env) -> Violation {
    let (rule, fix) = if from == here {
        ("is of this environment, and no weak prior", "leave `weak_prior` out")
    } else {
        ("is not this environment: it counts only as a weak prior", "ask for it as `weak_prior`")
    };
    Violation::new("snapshot.env", "INVALID", from.as_str(), rule, fix)
}

/// Forgets the candidate, or what the agent decides by: then the catalogue and the rules stand as they were written.
pub(super) fn forget(ctx: &mut Context<'_>, acting: bool, reason: &str, by: &By) {
    if !is_open(ctx, by) {
        return;
    }
    let state = ctx.state;
    let acting = acting || !state.promotes();
    let candidate = state.learning.candidate.as_deref().map(|candidate| &candidate.expertise);
    let gone = if acting { Some(state.acting()) } else { candidate.cloned() };
    let Some(gone) = gone.filter(|gone| !acting || !gone.is_empty()) else {
        ctx.reply = Reply::Done { seq: None };
        return;
    };
    if by.validate_only {
        ctx.reply = Reply::Done { seq: None };
        return;
    }
    let digest = gone.digest();
    let (reason, request) = (clip(reason, REASON_MAX), request_of(by));
    let change = LearningChange::Forgotten(Forgotten { acting, digest, reason, request });
    let seq = write(ctx, by, change);
    ctx.reply = Reply::Done { seq: Some(seq) };
}

/// The candidate, where it has to be promoted and there is one.
///
/// # Errors
/// [`Failure::NoCandidate`].
pub fn promotable(state: &State) -> Result<&Expertise, Failure> {
    match &state.learning.candidate {
        _ if !state.promotes() => {
            Err(Failure::NoCandidate("this environment decides by what it learns"))
        }
        None => Err(Failure::NoCandidate("nothing was learned since the last promotion")),
        Some(candidate) => Ok(&candidate.expertise),
    }
}

/// Asks a human to put the candidate in force, if the log says that it is better.
pub(super) fn promote(ctx: &mut Context<'_>, backtest: &Backtested, reason: &str, by: &By) {
    if !is_open(ctx, by) {
        return;
    }
    let state = ctx.state;
    let candidate = match promotable(state) {
        Ok(candidate) => candidate.digest(),
        Err(failure) => return ctx.reply = Reply::Failed(failure),
    };
    if backtest.candidate != candidate || backtest.acting != state.acting().digest() {
        ctx.reply = Reply::Failed(Failure::CandidateChanged { candidate });
        return;
    }
    if !backtest.is_passed() {
        if !by.validate_only {
            write(ctx, by, LearningChange::Refused(backtest.clone()));
        }
        let (verdict, why) = (backtest.verdict.as_str(), backtest.because());
        ctx.reply = Reply::Failed(Failure::BacktestNotPassed { verdict, why });
        return;
    }
    if by.validate_only {
        ctx.reply = Reply::Done { seq: None };
        return;
    }
    if let Some(old) = pending(ctx) {
        let (approval, state) = (old.seq, ApprovalState::Superseded);
        ctx.write(None, Some(approval), Body::ApprovalEnded { approval, state });
    }
    let asked = Asked {
        backtest: backtest.clone(),
        plan_digest: backtest.plan_digest(&state.policy_digest),
        reason: clip(reason, REASON_MAX),
        expires_at: ctx.now.saturating_add(ctx.policy.approval.ttl_ms),
        request: request_of(by),
    };
    let seq = write(ctx, by, LearningChange::Asked(asked));
    ctx.reply = Reply::Done { seq: Some(seq) };
}

/// The promotion that waits for a human.
fn pending<'s>(ctx: &Context<'s>) -> Option<&'s Promotion> {
    let promotion = ctx.state.learning.promotion.as_deref();
    promotion.filter(|promotion| promotion.state == ApprovalState::Pending)
}

/// A human approves a promotion: what it rests on must still be so.
pub(super) fn approve(
    ctx: &mut Context<'_>,
    promotion: &Promotion,
    plan_digest: Option<&str>,
    comment: &str,
    by: &By,
) {
    let seq = promotion.seq;
    let failure = answerable(ctx, (seq, promotion.state, promotion.expires_at), by).err();
    let present = promotion.backtest.plan_digest(&ctx.state.policy_digest);
    let previous = ctx.state.acting().digest();
    let changed = || {
        plan_digest.is_some_and(|digest| digest != promotion.plan_digest)
            || present != promotion.plan_digest
            || previous != promotion.backtest.acting
    };
    let failure = match failure {
        Some(failure) => failure,
        None if promotion.requester == by.principal => Failure::SelfApproval(by.principal.clone()),
        None if ctx.state.mode.frozen => Failure::Frozen,
        None if changed() => Failure::PlanChanged { pending: present },
        None => {
            let answered = answered(ctx, seq, ApprovalState::Approved, comment, by);
            let digest = promotion.backtest.candidate.clone();
            let promoted = Promoted { approval: seq, digest, previous };
            let change = Box::new(LearningChange::Promoted(promoted));
            ctx.write(None, Some(answered), Body::LearningChanged(change));
            ctx.reply = Reply::Done { seq: Some(answered) };
            return;
        }
    };
    ctx.reply = Reply::Failed(failure);
}

/// A human does not want it.
pub(super) fn reject(ctx: &mut Context<'_>, promotion: &Promotion, comment: &str, by: &By) {
    let seq = promotion.seq;
    if let Err(failure) = answerable(ctx, (seq, promotion.state, promotion.expires_at), by) {
        ctx.reply = Reply::Failed(failure);
        return;
    }
    let answered = answered(ctx, seq, ApprovalState::Rejected, comment, by);
    ctx.reply = Reply::Done { seq: Some(answered) };
}

fn answered(
    ctx: &mut Context<'_>,
    approval: u64,
    state: ApprovalState,
    comment: &str,
    by: &By,
) -> u64 {
    let request: Option<Request> = request_of(by);
    let comment = clip(comment, REASON_MAX);
    let body = Body::ApprovalAnswered { approval, state, comment, request };
    ctx.write_as(by.principal.clone(), None, Some(approval), body)
}

/// Nobody answered in time.
pub(super) fn expire(ctx: &mut Context<'_>) {
    if let Some(late) = pending(ctx).filter(|promotion| promotion.expires_at <= ctx.now) {
        let (approval, state) = (late.seq, ApprovalState::Expired);
        ctx.write(None, Some(approval), Body::ApprovalEnded { approval, state });
    }
}

#[cfg(test)]
mod tests;

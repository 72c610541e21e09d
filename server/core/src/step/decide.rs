//! From a reading to a ruling.

use crate::action::Action;
use crate::app::Millis;
use crate::choose::ccq::{Beliefs, Expectation};
use crate::choose::{self, Choice, Grant, Leeway, Proposal, Row, Source};
use crate::detect::{self, Alarm, Finding, FindingKind, Signature, Test, View};
use crate::gates::{self, Case, PendingPlan, Surroundings};
use crate::graduation;
use crate::plan::Plan;
use crate::reason::Reason;
use crate::record::{Body, Concluded, Decided, Trigger};
use crate::signal::Reading;
use crate::state::{AppState, Approval, ApprovalState, Attempt, Outcome, Scope, State};
use crate::verdict::{Effect, Ruling, Verdict};

use super::{Context, common_cause, is_internal, verify};

/// A reading of one app: findings are opened and closed, the attempt in flight is judged, and if something is wrong a
/// decision is made.
pub(super) fn on_reading(ctx: &mut Context<'_>, reading: &Reading) {
    let Some(app) = ctx.state.apps.get(&reading.app) else { return };
    let mut app = app.clone();
    consider(ctx, &mut app, reading);
}

/// Nothing is known any more of what is stale in `reading`. That is recorded, not more often than silence counts as a finding,
/// and looked at: what rests on such metrics is not done, and nothing is concluded about the app.
pub(super) fn on_stale(ctx: &mut Context<'_>, reading: &Reading) {
    let Some(app) = ctx.state.apps.get(&reading.app) else { return };
    let mut app = app.clone();
    let pause = ctx.policy.freshness.silence_ms;
    if app.expired_at.is_none_or(|at| ctx.now.saturating_sub(at) >= pause) {
        ctx.write_app(&mut app, None, Body::SignalsExpired { metrics: reading.stale.clone() });
    }
    consider(ctx, &mut app, reading);
}

/// The part of a step that looks at one app, after whatever else the step recorded about it.
pub(super) fn consider(ctx: &mut Context<'_>, app: &mut AppState, reading: &Reading) {
    look(ctx, app, reading);
    verify::judge_attempt(ctx, app, reading);
    demote(ctx, app);
    note_health(ctx, app);
    clear_approval(ctx, app);
    let seen = seen(&View { app, policy: ctx.policy, reading, now: ctx.now }, Trigger::Reading);
    if app.attempt.as_ref().is_some_and(|attempt| covers(attempt, &seen)) {
        return;
    }
    let (row, beliefs) = learned(ctx, app, reading, &seen);
    let leeway = leeway(ctx, app, reading);
    let proposal = choose::choose(&Choice {
        app,
        policy: ctx.policy,
        findings: &seen,
        reading,
        row: &row,
        beliefs: &beliefs,
        frozen: ctx.state.mode.frozen,
        leeway: leeway.as_ref(),
        now: ctx.now,
        seq: ctx.next_decision(),
    });
    if seen.is_empty() && proposal.action.is_passive() {
        return;
    }
    if is_retained(ctx, app, &proposal) {
        ctx.repeats = app.last_decision.as_ref().map(|last| (app.profile.name.clone(), last.seq));
        return;
    }
    decide(ctx, app, reading, proposal, Trigger::Reading);
}

/// What a decision rests on: the findings, or, when the agent looks by itself and finds nothing, what looks suspicious.
pub(crate) fn seen(view: &View<'_>, trigger: Trigger) -> Vec<Finding> {
    let findings = detect::detect(view);
    if findings.is_empty() && trigger == Trigger::Reading {
        return detect::suspicions(view);
    }
    findings
}

/// What the agent was given by name and did not live up to is taken back, before it is used again.
fn demote(ctx: &mut Context<'_>, app: &mut AppState) {
    while let Some(demoted) = graduation::lost(app, ctx.policy) {
        ctx.write_app(app, None, Body::Demoted(demoted));
    }
}

/// Runs the detectors and records what opened and what closed.
fn look(ctx: &mut Context<'_>, app: &mut AppState, reading: &Reading) {
    let view = View { app, policy: ctx.policy, reading, now: ctx.now };
    let findings = detect::detect(&view);
    let gone: Vec<(FindingKind, u64)> = app
        .open
        .iter()
        .filter(|(kind, _)| !findings.iter().any(|f| f.kind == **kind))
        .map(|(kind, open)| (*kind, open.seq))
        .collect();
    for finding in findings {
        if !app.open.contains_key(&finding.kind) {
            let kind = finding.kind;
            let raised = ctx.write_app(app, None, Body::Raised(finding));
            verify::correct(ctx, app, kind, raised);
        }
    }
    for (kind, raised) in gone {
        ctx.write_app(app, Some(raised), Body::Cleared { kind });
    }
}

/// Records a change of health.
pub(super) fn note_health(ctx: &mut Context<'_>, app: &mut AppState) {
    let health = app.health();
    if app.states.back().map(|change| change.health) != Some(health) {
        ctx.write_app(app, None, Body::HealthChanged { health });
    }
}

/// An app that recovered by itself needs no approval any more.
fn clear_approval(ctx: &mut Context<'_>, app: &mut AppState) {
    let Some(approval) = app.approval.and_then(|seq| ctx.state.approvals.get(&seq)) else {
        return;
    };
    let stands = approval.because.is_empty()
        || approval.because.iter().any(|kind| app.open.contains_key(kind));
    if approval.state == ApprovalState::Pending && !stands {
        let body = Body::ApprovalEnded { approval: approval.seq, state: ApprovalState::Cleared };
        ctx.write_app(app, Some(approval.decision), body);
    }
}

/// Whether the attempt in flight is the answer to everything that is wrong: then its outcome is awaited.
fn covers(attempt: &Attempt, findings: &[Finding]) -> bool {
    // A failed deployment is tried again when nothing else is in flight.
    let waits = |f: &Finding| f.kind.is_ambient() || f.kind == FindingKind::DeploymentFailed;
    let answered = |f: &Finding| waits(f) || attempt.trigger.contains(&f.kind);
    attempt.trigger.is_empty() || findings.iter().all(answered)
}

/// What both learners know about what is seen.
fn learned(
    ctx: &Context<'_>,
    app: &AppState,
    reading: &Reading,
    findings: &[Finding],
) -> (Row, Beliefs) {
    let view = View { app, policy: ctx.policy, reading, now: ctx.now };
    let row = choose::primary(findings).map(|f| ctx.state.table.row(f.kind));
    let beliefs = detect::signature::of(&view, findings).map(|s| ctx.state.knowledge.beliefs(s));
    (row.unwrap_or_default(), beliefs.unwrap_or_default())
}

/// Time in which the downtime of an app adds up against its error budget.
const BUDGET_MS: Millis = 30 * 24 * 60 * 60 * 1_000;

/// What forbids to explore, beside the app itself; not looked at where nothing is explored anyway.
fn leeway(ctx: &Context<'_>, app: &AppState, reading: &Reading) -> Option<Leeway> {
    if ctx.policy.learning.exploration_ppm == 0 || ctx.state.mode.frozen {
        return None;
    }
    let name = &app.profile.name;
    let since = ctx.now.saturating_sub(BUDGET_MS);
    let down_ms = ctx.state.ledgers.get(name).map_or(0, |l| l.report(since, ctx.now).down_ms);
    let share = u64::try_from(ctx.policy.statistics.error_budget).unwrap_or(0);
    // Without a budget there is nothing to spend.
    let allowed = BUDGET_MS / 1_000_000 * share;
    let burns = |alarm: &Alarm| matches!(alarm.deviation.test, Test::BurnPage | Test::BurnTicket);
    let pending = pending(ctx.state, app);
    Some(Leeway {
        budget_spent: (share > 0 && down_ms > allowed) || reading.alarms.iter().any(burns),
        elsewhere: ctx.state.apps.census_without(name).unhealthy,
        waits: pending.is_some(),
    })
}

/// The same plan waits for a human already: their votes are kept, nothing new is asked.
fn is_retained(ctx: &Context<'_>, app: &AppState, proposal: &Proposal) -> bool {
    let pending = app.approval.and_then(|seq| ctx.state.approvals.get(&seq));
    match (pending, &proposal.plan) {
        (Some(pending), Some(plan)) => {
            // What was drawn to explore is not taken back because the next draw is another one.
            let explores = pending.explored && pending.because == proposal.because;
            pending.state == ApprovalState::Pending
                && (explores || plan.digest(&ctx.state.policy_digest) == pending.plan_digest)
        }
        _ => false,
    }
}

/// Runs `proposal` through the gates and records everything that follows from the ruling. Returns the decision.
pub(super) fn decide(
    ctx: &mut Context<'_>,
    app: &mut AppState,
    reading: &Reading,
    proposal: Proposal,
    trigger: Trigger,
) -> (u64, Decided) {
    let seq = ctx.next_decision();
    let findings = seen(&View { app, policy: ctx.policy, reading, now: ctx.now }, trigger);
    let around = surroundings(ctx, app, &proposal);
    let policy_digest = ctx.state.policy_digest.clone();
    let case = Case {
        app,
        around: &around,
        policy: ctx.policy,
        policy_digest: &policy_digest,
        proposal: &proposal,
        findings: &findings,
        reading,
        now: ctx.now,
    };
    let enforced = gates::enforce(&case, seq);
    let (row, beliefs) = learned(ctx, app, reading, &findings);
    let decided = Decided {
        trigger,
        now: ctx.now,
        seq,
        policy_digest,
        findings,
        proposal,
        verdicts: enforced.verdicts,
        ruling: enforced.ruling,
        reading: reading.clone(),
        app: app.clone(),
        around,
        row,
        beliefs,
        leeway: leeway(ctx, app, reading).filter(|_| trigger == Trigger::Reading),
    };
    if is_repeat(ctx, app, &decided) {
        ctx.repeats = app.last_decision.as_ref().map(|last| (app.profile.name.clone(), last.seq));
        return (app.last_decision.as_ref().map_or(0, |last| last.seq), decided);
    }
    let cause = app.open.values().map(|open| open.seq).min();
    let kinds = decided.findings.iter().map(|f| f.kind).collect();
    ctx.write_app(app, cause, Body::Consumed { findings: kinds });
    ctx.write_app(app, cause, Body::Decided(Box::new(decided.clone())));
    if let Some(permit) = enforced.permit
        && !is_internal(permit.plan().action)
    {
        ctx.permits.push(permit);
    }
    follow(ctx, app, seq, &decided);
    (seq, decided)
}

/// A decision that equals the last one of the same incident and changes nothing is only counted; one that goes on for longer than
/// the repetition window is written again.
fn is_repeat(ctx: &Context<'_>, app: &AppState, decided: &Decided) -> bool {
    let effective = decided.ruling == Ruling::Permitted && decided.proposal.plan.is_some();
    decided.trigger == Trigger::Reading
        && !effective
        && app.last_decision.as_ref().is_some_and(|last| {
            last.signature == decided.signature()
                && decided
                    .findings
                    .iter()
                    .all(|f| app.cleared.get(&f.kind).is_none_or(|at| *at <= last.at))
                && ctx.now.saturating_sub(last.at) < ctx.policy.repetition.window_ms
        })
}

fn follow(ctx: &mut Context<'_>, app: &mut AppState, seq: u64, decided: &Decided) {
    if decided.verdicts.iter().filter(|v| v.group == 1).all(|v| v.effect == Effect::Pass) {
        ctx.write_app(app, Some(seq), Body::IntakeValidated);
    }
    match (&decided.ruling, &decided.proposal.plan) {
        (Ruling::Permitted, plan) => permitted(ctx, app, seq, decided, plan.as_ref()),
        (Ruling::Held { .. }, Some(plan)) => held(ctx, app, seq, decided, plan),
        (Ruling::Held { .. }, None) => {}
        (Ruling::Refused { reason, instead }, _) => {
            let action = decided.proposal.action;
            if let Some(verdict) = primary(decided, *reason) {
                let verdict = verdict.clone();
                let message = crate::explain::verdict(&verdict, action);
                ctx.write_app(app, Some(seq), Body::Blocked { action, verdict, message });
            }
            let body = Body::Refused { action, reason: *reason, instead: *instead };
            ctx.write_app(app, Some(seq), body);
            refuse_grant(ctx, app, seq, decided);
            // Of a storm humans are told once for all apps.
            if *instead == Action::Escalate && *reason != Reason::Storm {
                escalate(ctx, app, seq, decided);
            }
        }
    }
}

fn primary(decided: &Decided, reason: Reason) -> Option<&Verdict> {
    decided
        .verdicts
        .iter()
        .filter(|v| v.effect == Effect::Refuse && v.reason == Some(reason))
        .min_by(|a, b| (a.group, &a.gate).cmp(&(b.group, &b.gate)))
}

fn permitted(
    ctx: &mut Context<'_>,
    app: &mut AppState,
    seq: u64,
    decided: &Decided,
    plan: Option<&Plan>,
) {
    let gates = u32::try_from(decided.verdicts.len()).unwrap_or(u32::MAX);
    ctx.write_app(app, Some(seq), Body::GatesPassed { gates });
    let action = decided.proposal.action;
    if action == Action::Escalate {
        escalate(ctx, app, seq, decided);
    }
    let Some(plan) = plan else { return };
    let human = decided.proposal.source.is_human();
    if let crate::plan::Operation::Deploy { revision, .. } = plan.operation {
        ctx.write_app(app, Some(seq), Body::DeploymentTriggered { revision });
    }
    if !human && decided.proposal.grant.is_none() {
        ctx.write_app(app, Some(seq), Body::Autonomous { action });
    }
    supersede(ctx, app, seq, action);
    let attempt = Attempt {
        decision: seq,
        plan: plan.clone(),
        started_at: ctx.now,
        delivered_at: None,
        trigger: triggers(&decided.proposal),
        human,
        approval: decided.proposal.grant.as_ref().map(|g| g.approval),
        indeterminate: false,
        expected: expected(&decided.proposal),
    };
    ctx.write_app(app, Some(seq), Body::Attempted(Box::new(attempt)));
    if is_internal(action) {
        let concluded = Concluded {
            decision: seq,
            action,
            outcome: Outcome::Verified,
            detail: "it is in force".to_owned(),
            elapsed_ms: 0,
            human,
            approval: decided.proposal.grant.as_ref().map(|g| g.approval),
        };
        ctx.write_app(app, Some(seq), Body::Concluded(concluded));
    }
}

/// What the learner expects of the attempt, which the outcome is compared with.
fn expected(proposal: &Proposal) -> Option<(Signature, Expectation)> {
    let diagnosis = proposal.diagnosis.as_ref()?;
    diagnosis.expected.map(|expected| (diagnosis.signature, expected))
}

/// A human wants something else to be there than what an attempt led to: its outcome is not watched any longer. It says nothing about
/// the agent, so it does not count against it.
fn supersede(ctx: &mut Context<'_>, app: &mut AppState, seq: u64, action: Action) {
    if action == Action::Configure {
        return;
    }
    let Some(watched) = app.attempt.clone() else { return };
    let concluded = Concluded {
        decision: watched.decision,
        action: watched.plan.action,
        outcome: Outcome::Inconclusive,
        detail: format!("not watched to the end: {action} by a human took its place"),
        elapsed_ms: ctx.now.saturating_sub(watched.started_at),
        human: true,
        approval: watched.approval,
    };
    let concluded = ctx.write_app(app, Some(seq), Body::Concluded(concluded));
    if !watched.human && !watched.trigger.is_empty() {
        // Whatever becomes of the app now, nobody can tell which of the two it was.
        let why = std::borrow::Cow::Borrowed("confounded");
        ctx.write_app(app, Some(concluded), Body::LearningSkipped { why, relapse: false });
    }
}

/// The findings an action can clear. Only another deployment, or the way back, clears a failed one.
fn triggers(proposal: &Proposal) -> Vec<FindingKind> {
    let redeploys =
        matches!(proposal.action, Action::Deploy | Action::RetryDeployment | Action::Rollback);
    let clears = |kind: &FindingKind| {
        !kind.is_ambient() && (redeploys || *kind != FindingKind::DeploymentFailed)
    };
    proposal.because.iter().copied().filter(clears).collect()
}

fn held(ctx: &mut Context<'_>, app: &mut AppState, seq: u64, decided: &Decided, plan: &Plan) {
    if let Some(old) = app.approval {
        let body = Body::ApprovalEnded { approval: old, state: ApprovalState::Superseded };
        ctx.write_app(app, Some(seq), body);
    }
    let requester = match &decided.proposal.source {
        Source::Agent => ctx.agent.to_owned(),
        Source::Human { principal, .. } | Source::Other { principal } => principal.clone(),
    };
    let approval = Approval {
        seq: ctx.next(),
        plan: plan.clone(),
        plan_digest: plan.digest(&decided.policy_digest),
        decision: seq,
        requester,
        human: decided.proposal.source.is_human(),
        because: decided.proposal.because.clone(),
        requested_at: ctx.now,
        expires_at: ctx.now.saturating_add(ctx.policy.approval.ttl_ms),
        state: ApprovalState::Pending,
        decided_by: None,
        comment: None,
        diagnosis: decided.proposal.diagnosis.clone(),
        explored: decided.proposal.explored,
    };
    ctx.write_app(app, Some(seq), Body::ApprovalRequested(Box::new(approval)));
}

/// An approved plan that the gates refuse at execution is over: a changed plan is superseded, anything else failed.
fn refuse_grant(ctx: &mut Context<'_>, app: &mut AppState, seq: u64, decided: &Decided) {
    let Some(Grant { approval, .. }) = decided.proposal.grant else { return };
    let state = match &decided.ruling {
        Ruling::Refused { reason: Reason::PlanChanged, .. } => ApprovalState::Superseded,
        Ruling::Refused { reason: Reason::ApprovalExpired, .. } => ApprovalState::Expired,
        _ => ApprovalState::Failed,
    };
    ctx.write_app(app, Some(seq), Body::ApprovalEnded { approval, state });
}

/// Tells humans, once per incident.
fn escalate(ctx: &mut Context<'_>, app: &mut AppState, seq: u64, decided: &Decided) {
    if app.escalated {
        return;
    }
    let findings: Vec<FindingKind> = decided.findings.iter().map(|f| f.kind).collect();
    let message = crate::explain::escalation(&app.profile.name, decided);
    ctx.write_app(app, Some(seq), Body::Escalated { findings, message });
}

/// What the gates may know of the rest of the environment.
fn surroundings(ctx: &Context<'_>, app: &AppState, proposal: &Proposal) -> Surroundings {
    let state = ctx.state;
    let name = &app.profile.name;
    let others = state.apps.census_without(name);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let since = ctx.now.saturating_sub(3_600_000);
    let mut recent = state.effects.iter().copied().filter(|at| *at > since);
    let oldest_effect_at = recent.clone().min();
    let pauses = state
        .mode
        .pauses
        .iter()
        .filter(|pause| match &pause.scope {
            Scope::Env => true,
            Scope::App(app) => app == name,
            Scope::Action(action) => *action == proposal.action,
        })
        .cloned()
        .collect();
    Surroundings {
        env: state.env,
        pauses,
        dry_run: state.mode.dry_run,
        demo: state.mode.demo,
        frozen: state.mode.frozen,
        log_writable: ctx.log_writable,
        apps: count(state.apps.len().max(1)),
        unhealthy: others.unhealthy.saturating_add(u32::from(app.is_unhealthy())),
        disrupting: others.disrupting,
        starting: others.starting,
        effects_last_hour: count(recent.by_ref().count()),
        oldest_effect_at,
        storm: state.storm,
        pending: pending(state, app),
        canary: common_cause::of(ctx, app, proposal),
    }
}

/// The plan of this app that waits for a human.
fn pending(state: &State, app: &AppState) -> Option<PendingPlan> {
    let approval = state.approvals.get(&app.approval?)?;
    (approval.state == ApprovalState::Pending).then(|| PendingPlan {
        approval: approval.seq,
        decision: approval.decision,
        plan_digest: approval.plan_digest.clone(),
    })
}

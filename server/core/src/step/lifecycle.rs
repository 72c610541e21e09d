//! The life of an app under control: it is taken in, changed, and let go.

use crate::action::{Action, Level};
use crate::app::{self, AppName, AppSpec, Field, OnboardRequest, Violation, revalidate, validate};
use crate::choose::{self, Params, Source};
use crate::graduation;
use crate::record::{Body, Decided, Trigger};
use crate::signal::Reading;
use crate::state::{APPS, AppState, ApprovalState, Scope, SpecHistory, new_app};

use super::request::{clip, is_answered, proposal_with, request_of, settle, source_of};
use super::{By, Context, Failure, Input, Reply, Update, decide};

/// Onboarding: validate everything, record the specification, decide on its deployment. An update is the same for what an app
/// that exists would be with some fields replaced, with the next revision.
pub(super) fn onboard(ctx: &mut Context<'_>, input: &Input) {
    let Input::Onboard { request, found, update, by } = input else { return };
    if is_answered(ctx, by) {
        return;
    }
    let known = AppName::parse(&request.name).ok().filter(|n| ctx.state.apps.contains_key(n));
    if let Some(wanted) = update {
        return match known {
            Some(name) => change(ctx, &name, (request, wanted), found, by),
            None => ctx.reply = Reply::Failed(Failure::NoSuchApp(request.name.clone())),
        };
    }
    if ctx.state.apps.len() >= APPS {
        ctx.reply = Reply::Failed(Failure::Limit { what: "apps", limit: APPS });
        return;
    }
    let taken = known.is_some();
    let judgement = validate(ctx.state.env, &ctx.policy.fetch, request, taken);
    let spec = match with_found(judgement, found) {
        Ok(spec) => spec,
        Err(violations) => return refuse(ctx, request, violations, taken, by),
    };
    if by.validate_only {
        ctx.reply = Reply::Onboarded { spec: Box::new(spec), seq: None, decision: None };
        return;
    }
    let instances = spec.instances.desired;
    let (action, reason) = (Action::Deploy, "onboarding");
    let put = Put { action, instances, raises: None, reason, spec: &spec };
    let (seq, decision, _) = put_in_force(ctx, &put, by);
    ctx.reply = Reply::Onboarded { spec: Box::new(spec), seq: Some(seq), decision: Some(decision) };
}

/// The specification, or everything that is wrong: with the request itself, and `found` by looking at the host.
fn with_found(
    judgement: Result<AppSpec, Vec<Violation>>,
    found: &[Violation],
) -> Result<AppSpec, Vec<Violation>> {
    match judgement {
        Ok(spec) if found.is_empty() => Ok(spec),
        Ok(_) => Err(found.to_vec()),
        Err(mut all) => {
            all.extend_from_slice(found);
            Err(all)
        }
    }
}

/// Replaces some fields of an app. What differs decides how: settings are put in force as they are, anything else is a
/// deployment of the next revision.
fn change(
    ctx: &mut Context<'_>,
    name: &AppName,
    (request, wanted): (&OnboardRequest, &Update),
    found: &[Violation],
    by: &By,
) {
    let current = ctx.state.specs.get(name).and_then(SpecHistory::spec);
    let (Some(current), Some(app)) = (current, ctx.state.apps.get(name)) else {
        ctx.reply = Reply::Failed(Failure::NoSuchApp(name.to_string()));
        return;
    };
    if let Err(failure) = is_current(ctx, name, wanted.etag.as_deref()) {
        ctx.reply = Reply::Failed(failure);
        return;
    }
    let merged = OnboardRequest::of(current).with(request, &wanted.fields);
    let spec = match with_found(revalidate(ctx.state.env, &ctx.policy.fetch, &merged), found) {
        Ok(spec) => spec,
        Err(violations) => return refuse(ctx, &merged, violations, false, by),
    };
    // Who names the repository and nothing else wants what is in it now: a branch leads somewhere else from time to time.
    let anew = wanted.fields.iter().eq(&[Field::Source])
        && matches!(spec.source, app::Source::Repo { .. });
    // Who names the autonomy and nothing else wants what it says to be given, though it says so already.
    let named = wanted.fields.iter().eq(&[Field::Autonomy]);
    let raises = graduation::raised(app, ctx.policy, spec.autonomy, named);
    if spec == *current && !anew && raises.is_none() {
        ctx.reply = Reply::Updated { spec: Box::new(spec), seq: None, decided: None };
        return;
    }
    let bounds = spec.instances.min..=spec.instances.max;
    let instances = match spec.instances.desired {
        // What was scaled since stays as it is, as far as the bounds allow.
        same if same == current.instances.desired => {
            app.desired.clamp(spec.instances.min, spec.instances.max)
        }
        asked => asked,
    };
    let settings = !anew && current.runs_like(&spec) && bounds.contains(&app.desired);
    if let Some(level) = raises.filter(|_| !settings) {
        return refuse(ctx, &merged, vec![alone(level)], false, by);
    }
    let action = if settings { Action::Configure } else { Action::Deploy };
    let mark = ctx.mark();
    let put = Put { action, instances, raises, reason: "update", spec: &spec };
    let (seq, _, decided) = put_in_force(ctx, &put, by);
    let seq = if by.validate_only {
        ctx.rewind(mark);
        None
    } else {
        Some(seq)
    };
    let decided = Some(Box::new(decided));
    ctx.reply = Reply::Updated { spec: Box::new(spec), seq, decided };
}

/// A second person approves that the agent may go further, and it is that what they look at.
fn alone(level: Level) -> Violation {
    let rule = "must be raised by itself: this update also deploys something";
    let fix = "deploy first, and raise the autonomy with an update of its own";
    Violation::new("autonomy", "INVALID", level.as_str(), rule, fix)
}

/// Whether the app is still what the caller saw.
fn is_current(ctx: &Context<'_>, name: &AppName, etag: Option<&str>) -> Result<(), Failure> {
    let missing = || Failure::NoSuchApp(name.to_string());
    let history = ctx.state.specs.get(name).ok_or_else(missing)?;
    let app = ctx.state.apps.get(name).ok_or_else(missing)?;
    let now = history.etag(app.onboarded_at);
    match etag {
        Some(seen) if seen != now => Err(Failure::Changed { app: name.to_string(), etag: now }),
        _ => Ok(()),
    }
}

/// A specification on its way into force.
struct Put<'a> {
    action: Action,
    instances: u32,
    raises: Option<Level>,
    reason: &'static str,
    spec: &'a AppSpec,
}

/// Records the specification and decides on putting it in force.
fn put_in_force(ctx: &mut Context<'_>, put: &Put<'_>, by: &By) -> (u64, u64, Decided) {
    let Put { action, instances, raises, reason, spec } = *put;
    let name = spec.name.clone();
    let actor = || by.principal.clone();
    let started = Body::OnboardingStarted { name: name.to_string() };
    let first = ctx.write_as(actor(), Some(&name), None, started);
    ctx.write(Some(&name), Some(first), Body::OnboardingPassed);
    let digest = spec.digest();
    let history = ctx.state.specs.get(&name);
    let newest = history.and_then(|h| h.revisions.last()).map_or(0, |r| r.number);
    let revision = newest.saturating_add(1);
    let body = Body::SpecGenerated {
        spec: Box::new(spec.clone()),
        digest: digest.clone(),
        revision,
        request: request_of(by),
    };
    let seq = ctx.write_as(actor(), Some(&name), Some(first), body);
    let mut app = match ctx.state.apps.get(&name) {
        Some(app) => app.clone(),
        None => new_app(spec, &digest, revision, ctx.now),
    };
    if action == Action::Deploy {
        bound(&mut app, spec);
    }
    let reading = Reading::silent(name, ctx.now, None);
    let source = Source::Human { principal: actor(), reason: reason.to_owned() };
    let (revision, instances) = (Some(revision), Some(instances));
    let params = Params { revision, instances, raises, ..Params::default() };
    let plan = choose::prepare(action, &app, &params, ctx.policy);
    let proposal = proposal_with(action, plan, source, None);
    let (decision, decided) = decide::decide(ctx, &mut app, &reading, proposal, Trigger::Human);
    (seq, decision, decided)
}

/// A deployment is judged by the bounds of the revision it brings up.
pub(super) fn bound(app: &mut AppState, next: &AppSpec) {
    (app.profile.min, app.profile.max) = (next.instances.min, next.instances.max);
}

fn refuse(
    ctx: &mut Context<'_>,
    request: &OnboardRequest,
    violations: Vec<Violation>,
    taken: bool,
    by: &By,
) {
    if !by.validate_only {
        // What was refused goes on record too; the name is foreign text, so it is no app name here.
        let started = Body::OnboardingStarted { name: clip(&request.name, 256) };
        let cause = ctx.write_as(by.principal.clone(), None, None, started);
        let recorded = violations.iter().map(Violation::clipped).collect();
        ctx.write(None, Some(cause), Body::OnboardingRefused { violations: recorded });
    }
    ctx.reply = if taken && violations.len() == 1 {
        Reply::Failed(Failure::AppExists(request.name.clone()))
    } else {
        Reply::Invalid(violations)
    };
}

/// A human wants an app to be stopped and let go: judged like everything else.
pub(super) fn offboard(ctx: &mut Context<'_>, input: &Input) {
    let Input::Offboard { app: name, reason, etag, reading, by } = input else { return };
    if is_answered(ctx, by) {
        return;
    }
    let Some(app) = ctx.state.apps.get(name) else {
        ctx.reply = Reply::Failed(Failure::NoSuchApp(name.to_string()));
        return;
    };
    if let Err(failure) = is_current(ctx, name, etag.as_deref()) {
        ctx.reply = Reply::Failed(failure);
        return;
    }
    let mut app = app.clone();
    let plan = choose::prepare(Action::Offboard, &app, &Params::default(), ctx.policy);
    let proposal = proposal_with(Action::Offboard, plan, source_of(by, reason), None);
    settle(ctx, &mut app, proposal, reading, by);
}

/// Every instance is stopped: what still waits for the app ends, and the app is history.
pub(super) fn let_go(ctx: &mut Context<'_>, app: &mut AppState, decision: u64) {
    let name = app.profile.name.clone();
    if let Some(approval) = app.approval {
        let body = Body::ApprovalEnded { approval, state: ApprovalState::Cleared };
        ctx.write_app(app, Some(decision), body);
    }
    let scope = Scope::App(name.clone());
    if ctx.state.mode.pauses.iter().any(|pause| pause.scope == scope) {
        // An app that is onboarded under this name some day is another one.
        let reason = "offboarded".to_owned();
        ctx.write(None, Some(decision), Body::PauseLifted { scope, reason, request: None });
    }
    let (revision, digest) = (app.profile.revision, app.profile.spec_digest.clone());
    ctx.write(Some(&name), Some(decision), Body::Offboarded { revision, digest });
}

#[cfg(test)]
mod tests;

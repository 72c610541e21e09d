//! Which revision of a specification is in force, which was good, and which one a rollback leads to.

use crate::action::{Action, Level};
use crate::app::{AppName, Env, Millis, Source};
use crate::graduation;
use crate::plan::Operation;
use crate::record::{Concluded, Decided};
use crate::state::{Attempt, Outcome, Profile, Revision, SpecHistory, State};
use crate::verdict::Ruling;

use super::profile;

/// A revision that was refused is on record and nowhere else: it changed nothing, and pushes nothing out.
pub(super) fn forget_refused(state: &mut State, app: Option<&AppName>, decided: &Decided) {
    let revision = match decided.proposal.plan.as_ref().map(|plan| &plan.operation) {
        Some(Operation::Deploy { revision, .. } | Operation::Configure { revision, .. }) => {
            *revision
        }
        _ => return,
    };
    let asked = matches!(decided.proposal.action, Action::Deploy | Action::Configure);
    if !asked || !matches!(decided.ruling, Ruling::Refused { .. }) {
        return;
    }
    if let Some(history) = app.and_then(|name| state.specs.get_mut(name)) {
        history.revisions.retain(|r| r.number != revision || r.number == history.current);
    }
}

/// The newest revision that was verified healthy and is something else than what runs. What is deployed from a repository is something
/// else each time, whatever its specification says; an executable is the same as long as it runs in the same way, and going back to
/// it under other settings would heal nothing.
pub(super) fn rollback_target(history: &SpecHistory) -> Option<u32> {
    let running = history.spec();
    let deployed = |r: &&Revision| !r.settings && r.number <= history.current;
    let deployed = history.revisions.iter().rev().find(deployed).map_or(0, |r| r.number);
    let differs = |r: &Revision| match running.map(|spec| &spec.source) {
        Some(Source::Repo { .. }) => !r.settings && r.number < deployed,
        _ => running.is_none_or(|running| !running.runs_like(&r.spec)),
    };
    let candidates = history.revisions.iter().rev();
    candidates
        .filter(|r| r.number < history.current && r.verified_at.is_some() && !r.rolled_back_to)
        .find(|r| differs(r))
        .map(|r| r.number)
}

/// A permitted deployment or rollback changes what is wanted at once, as a desired state does; whether it holds is judged by
/// its outcome.
pub(super) fn switch_revision(state: &mut State, app: Option<&AppName>, attempt: &Attempt) {
    let (to, rollback) = match attempt.plan.operation {
        Operation::Deploy { revision, .. } | Operation::Configure { revision, .. } => {
            (revision, false)
        }
        Operation::Rollback { to, .. } => (to, true),
        _ => return,
    };
    let Some(name) = app else { return };
    let (Some(history), Some(mut app)) = (state.specs.get_mut(name), state.apps.get_mut(name))
    else {
        return;
    };
    // What runs is as healthy under other settings as it was before.
    let inherited = match attempt.plan.operation {
        Operation::Configure { .. } => {
            history.revision(history.current).and_then(|running| running.verified_at)
        }
        _ => None,
    };
    history.current = to;
    let Some(revision) = history.revisions.iter_mut().find(|r| r.number == to) else { return };
    revision.rolled_back_to |= rollback;
    if rollback {
        keep_limits(revision, &app.profile, state.env);
    }
    revision.verified_at = revision.verified_at.or(inherited);
    let settings = matches!(attempt.plan.operation, Operation::Configure { .. });
    revision.settings = settings;
    // What failed has failed under other settings too, and is retried under them.
    let failed = app.profile.failed_revision.map(|failed| if settings { to } else { failed });
    app.profile = profile(&revision.spec, &revision.digest, to);
    app.profile.failed_revision = failed;
    app.profile.rollback_to = rollback_target(history);
}

/// Whoever lets a rollback through wants another program to run, and has not looked at what the agent may do with it: what a human
/// allows now stays, unless the old revision allows less. It becomes part of that revision, so that the specification in force says
/// what is in force, and the next update starts from it.
fn keep_limits(revision: &mut Revision, now: &Profile, env: Env) {
    let level = |autonomy: Option<Level>| autonomy.unwrap_or(graduation::unnamed(env));
    if level(now.autonomy) <= level(revision.spec.autonomy) {
        revision.spec.autonomy = now.autonomy;
    }
    revision.spec.windows.clone_from(&now.windows);
    revision.digest = revision.spec.digest();
}

/// The revision that [`super::take_back`] put in force again is the one that runs.
pub(super) fn keep_revision(state: &mut State, app: Option<&AppName>) {
    let Some(name) = app else { return };
    let (Some(history), Some(mut app)) = (state.specs.get_mut(name), state.apps.get_mut(name))
    else {
        return;
    };
    history.current = app.profile.revision;
    app.profile.rollback_to = rollback_target(history);
}

pub(super) fn settle_revision(
    state: &mut State,
    app: Option<&AppName>,
    concluded: &Concluded,
    at: Millis,
) {
    let changes =
        matches!(concluded.action, Action::Deploy | Action::Rollback | Action::RetryDeployment);
    let Some(name) = app.filter(|_| changes) else { return };
    let (Some(history), Some(mut app)) = (state.specs.get_mut(name), state.apps.get_mut(name))
    else {
        return;
    };
    let current = history.current;
    if concluded.outcome == Outcome::Verified
        && let Some(revision) = history.revisions.iter_mut().find(|r| r.number == current)
    {
        revision.verified_at.get_or_insert(at);
    }
    app.profile.rollback_to = rollback_target(history);
}

//! From an action to a plan: what exactly would be done to what exactly, or which prerequisite is missing.
//!
//! Nothing is bent into shape: a number out of bounds is an error that names the bound, never a clamped number.

use serde::{Deserialize, Serialize};

use crate::action::{Action, Level};
use crate::app::{Env, Instances, Override};
use crate::graduation;
use crate::plan::{Operation, Plan, Target};
use crate::policy::Policy;
use crate::signal::Metric;
use crate::state::{AppState, Instance, Phase};

/// What a human may say beside the action. The agent says nothing and takes the defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Instances afterwards, for `SCALE_UP`, `SCALE_DOWN` and `DEPLOY`.
    pub instances: Option<u32>,
    /// The revision, for `DEPLOY` and `ROLLBACK`.
    pub revision: Option<u32>,
    /// The level a change of settings raises the autonomy to, for `CONFIGURE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raises: Option<Level>,
    /// The new threshold, for `ADJUST_THRESHOLDS`.
    pub threshold: Option<(Metric, Override)>,
}

/// Which prerequisite of an action is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum PlanError {
    /// No app of that name. [`prepare`] never says so: its caller does, who looks the app up.
    #[error("no such app")]
    UnknownApp,
    /// A passive action touches nothing, so it has no plan.
    #[error("a passive action has no plan")]
    Passive,
    /// No such revision, or none that was verified healthy and never rolled back to.
    #[error("no other revision was verified healthy")]
    NoSuchRevision,
    /// No instance is wanted.
    #[error("no instance to restart")]
    NothingToRestart,
    /// The specification allows no more instances.
    #[error("already at the most instances the specification allows")]
    AtMaximum,
    /// The specification allows no fewer instances.
    #[error("already at the fewest instances the specification allows")]
    AtMinimum,
    /// The count is on the wrong side, or further away than one step goes.
    #[error("the number of instances is not within one step")]
    StepTooLarge,
    /// No deployment has failed since the last one that succeeded.
    #[error("no failed deployment to retry")]
    NoFailedDeployment,
    /// In prod the agent earns what it may do alone.
    #[error("no action has graduated on this app")]
    NotGraduated,
    /// The policy has no such threshold, or nobody said which.
    #[error("no such threshold")]
    NoSuchThreshold,
    /// The threshold is further from the policy's than it may be, or leaves no hysteresis.
    #[error("the threshold is outside the bounds of the policy")]
    OutOfBounds,
}

/// Most that a threshold may differ from the policy's, in permille of the policy's value.
const ADJUST_PERMILLE: i128 = 500;

/// Builds the plan of `action` for `app`.
///
/// # Errors
/// The prerequisite that is missing.
pub fn prepare(
    action: Action,
    app: &AppState,
    params: &Params,
    policy: &Policy,
) -> Result<Plan, PlanError> {
    let operation = match action {
        Action::Noop | Action::Observe | Action::Escalate => return Err(PlanError::Passive),
        Action::Restart => restart(app)?,
        Action::ScaleUp => scale_up(app, params)?,
        Action::ScaleDown => scale_down(app, params)?,
        Action::RetryDeployment => retry(app)?,
        Action::Rollback => rollback(app, params)?,
        Action::Deploy => deploy(app, params)?,
        Action::Configure => configure(app, params, policy)?,
        Action::Offboard => Operation::Offboard { instances: app.desired },
        Action::AdjustThresholds => adjust(params, policy)?,
    };
    Ok(Plan {
        app: app.profile.name.clone(),
        action,
        operation,
        revision: app.profile.revision,
        spec_digest: app.profile.spec_digest.clone(),
    })
}

/// What is down comes first (starting it takes nothing away), then what does not answer, then everything.
fn restart(app: &AppState) -> Result<Operation, PlanError> {
    let wanted = || app.wanted().take(Instances::LIMIT as usize);
    let down = |i: Option<&Instance>| i.is_none_or(|i| !i.phase.is_running());
    let unready = |i: Option<&Instance>| i.is_some_and(|i| i.phase == Phase::Unready);
    let pick = |which: &dyn Fn(Option<&Instance>) -> bool| -> Vec<Target> {
        wanted().filter(|(_, i)| which(*i)).map(|(slot, i)| target(slot, i)).collect()
    };
    let targets =
        [pick(&down), pick(&unready), pick(&|_| true)].into_iter().find(|t| !t.is_empty());
    targets.map(|targets| Operation::Restart { targets }).ok_or(PlanError::NothingToRestart)
}

fn target(slot: u32, instance: Option<&Instance>) -> Target {
    Target {
        slot,
        fence: instance.and_then(|i| i.fence.clone()),
        running: instance.is_some_and(|i| i.phase.is_running()),
    }
}

fn scale_up(app: &AppState, params: &Params) -> Result<Operation, PlanError> {
    let from = app.desired;
    let max = app.profile.max.min(Instances::LIMIT);
    if from >= max {
        return Err(PlanError::AtMaximum);
    }
    let step = (from / 2).max(1);
    let furthest = from.saturating_add(step);
    match params.instances {
        None => Ok(Operation::Scale { from, to: furthest.min(max) }),
        Some(to) if to > max => Err(PlanError::AtMaximum),
        Some(to) if to <= from || to > furthest => Err(PlanError::StepTooLarge),
        Some(to) => Ok(Operation::Scale { from, to }),
    }
}

fn scale_down(app: &AppState, params: &Params) -> Result<Operation, PlanError> {
    let from = app.desired;
    let min = app.profile.min.max(1);
    if from <= min {
        return Err(PlanError::AtMinimum);
    }
    let to = from.saturating_sub(1);
    match params.instances {
        Some(asked) if asked < min => Err(PlanError::AtMinimum),
        Some(asked) if asked != to => Err(PlanError::StepTooLarge),
        _ => Ok(Operation::Scale { from, to }),
    }
}

fn retry(app: &AppState) -> Result<Operation, PlanError> {
    let revision = app.profile.failed_revision.ok_or(PlanError::NoFailedDeployment)?;
    Ok(Operation::Deploy { revision, instances: app.desired })
}

fn rollback(app: &AppState, params: &Params) -> Result<Operation, PlanError> {
    let from = app.profile.revision;
    let to = app.profile.rollback_to.ok_or(PlanError::NoSuchRevision)?;
    if to == from || params.revision.is_some_and(|asked| asked != to) {
        return Err(PlanError::NoSuchRevision);
    }
    Ok(Operation::Rollback { from, to, instances: app.desired })
}

fn deploy(app: &AppState, params: &Params) -> Result<Operation, PlanError> {
    let instances = params.instances.unwrap_or(app.desired);
    if instances < app.profile.min.max(1) {
        return Err(PlanError::AtMinimum);
    }
    if instances > app.profile.max.min(Instances::LIMIT) {
        return Err(PlanError::AtMaximum);
    }
    let revision = params.revision.unwrap_or(app.profile.revision);
    Ok(Operation::Deploy { revision, instances })
}

fn configure(app: &AppState, params: &Params, policy: &Policy) -> Result<Operation, PlanError> {
    let revision = params.revision.filter(|revision| *revision != app.profile.revision);
    let revision = revision.ok_or(PlanError::NoSuchRevision)?;
    let earns = policy.env == Env::Prod && params.raises == Some(Level::Auto);
    if earns && !graduation::any_graduated(app, policy) {
        return Err(PlanError::NotGraduated);
    }
    Ok(Operation::Configure { revision, raises: params.raises })
}

/// Bounds are those of the policy, not of the value in force: otherwise small steps could walk anywhere.
fn adjust(params: &Params, policy: &Policy) -> Result<Operation, PlanError> {
    let (metric, asked) = params.threshold.ok_or(PlanError::NoSuchThreshold)?;
    let base = policy.thresholds.get(&metric).ok_or(PlanError::NoSuchThreshold)?;
    let within = |asked: i64, base: i64| {
        let (asked, base) = (i128::from(asked), i128::from(base));
        (asked - base).abs() * 1_000 <= base.abs() * ADJUST_PERMILLE
    };
    let ordered = asked.leave > 0 && asked.leave < asked.enter && asked.enter <= metric.max_micro();
    if !ordered || !within(asked.enter, base.enter) || !within(asked.leave, base.leave) {
        return Err(PlanError::OutOfBounds);
    }
    Ok(Operation::AdjustThreshold { metric, enter: asked.enter, leave: asked.leave })
}

#[cfg(test)]
mod tests;

use super::*;
use crate::app::Env;
use crate::detect::story::Story;
use crate::signal::MICRO;

fn plan(story: &Story, action: Action, params: Params) -> Result<Operation, PlanError> {
    prepare(action, &story.app, &params, &story.policy).map(|plan| {
        assert_eq!(plan.action, action);
        assert_eq!((&plan.app, plan.revision), (&story.app.profile.name, 3));
        plan.operation
    })
}

fn instances(count: u32) -> Params {
    Params { instances: Some(count), ..Params::default() }
}

#[track_caller]
fn check(story: &Story, action: Action, params: Params, expected: Result<Operation, PlanError>) {
    assert_eq!(plan(story, action, params), expected);
}

fn slots(story: &Story) -> Vec<(u32, bool)> {
    match plan(story, Action::Restart, Params::default()) {
        Ok(Operation::Restart { targets }) => {
            targets.iter().map(|target| (target.slot, target.running)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_restart_starts_what_is_down_or_replaces_what_does_not_answer_or_everything() {
    let mut story = Story::healthy(3);
    assert_eq!(slots(&story), [(0, true), (1, true), (2, true)]);
    story.phase(2, Phase::Unready);
    assert_eq!(slots(&story), [(2, true)]);
    story.phase(1, Phase::Exited);
    story.app.instances.remove(&0);
    assert_eq!(slots(&story), [(0, false), (1, false)]);
    story.app.desired = 0;
    check(&story, Action::Restart, Params::default(), Err(PlanError::NothingToRestart));
    story.app.desired = u32::MAX;
    assert_eq!(slots(&story).len(), 63, "no more than one host can hold");
}

#[test]
fn scaling_up_goes_one_step_and_never_above_the_maximum() {
    let mut story = Story::healthy(1);
    story.app.profile.max = 7;
    let mut steps = Vec::new();
    while let Ok(Operation::Scale { from, to }) = plan(&story, Action::ScaleUp, Params::default()) {
        steps.push((from, to));
        story.app.desired = to;
    }
    assert_eq!(steps, [(1, 2), (2, 3), (3, 4), (4, 6), (6, 7)]);
    check(&story, Action::ScaleUp, Params::default(), Err(PlanError::AtMaximum));
    story.app.desired = 4;
    check(&story, Action::ScaleUp, instances(5), Ok(Operation::Scale { from: 4, to: 5 }));
    check(&story, Action::ScaleUp, instances(7), Err(PlanError::StepTooLarge));
    check(&story, Action::ScaleUp, instances(4), Err(PlanError::StepTooLarge));
    check(&story, Action::ScaleUp, instances(8), Err(PlanError::AtMaximum));
    (story.app.desired, story.app.profile.max) = (u32::MAX, u32::MAX);
    check(&story, Action::ScaleUp, Params::default(), Err(PlanError::AtMaximum));
}

#[test]
fn scaling_down_takes_one_and_never_the_last() {
    let mut story = Story::healthy(3);
    story.app.profile.min = 2;
    check(&story, Action::ScaleDown, instances(2), Ok(Operation::Scale { from: 3, to: 2 }));
    check(&story, Action::ScaleDown, Params::default(), Ok(Operation::Scale { from: 3, to: 2 }));
    check(&story, Action::ScaleDown, instances(1), Err(PlanError::AtMinimum));
    check(&story, Action::ScaleDown, instances(3), Err(PlanError::StepTooLarge));
    story.app.desired = 2;
    check(&story, Action::ScaleDown, Params::default(), Err(PlanError::AtMinimum));
    (story.app.desired, story.app.profile.min) = (1, 0);
    check(&story, Action::ScaleDown, Params::default(), Err(PlanError::AtMinimum));
}

#[test]
fn revisions_must_exist() {
    let mut story = Story::healthy(2);
    let none = Params::default;
    check(&story, Action::RetryDeployment, none(), Err(PlanError::NoFailedDeployment));
    check(&story, Action::Rollback, none(), Err(PlanError::NoSuchRevision));
    story.app.profile.failed_revision = Some(3);
    story.app.profile.rollback_to = Some(1);
    let again = Operation::Deploy { revision: 3, instances: 2 };
    check(&story, Action::RetryDeployment, none(), Ok(again));
    let back = Operation::Rollback { from: 3, to: 1, instances: 2 };
    check(&story, Action::Rollback, none(), Ok(back.clone()));
    let to = |revision| Params { revision: Some(revision), ..Params::default() };
    check(&story, Action::Rollback, to(1), Ok(back));
    check(&story, Action::Rollback, to(2), Err(PlanError::NoSuchRevision));
    story.app.profile.rollback_to = Some(3);
    check(&story, Action::Rollback, none(), Err(PlanError::NoSuchRevision));
}

#[test]
fn a_deployment_keeps_to_the_bounds_of_the_specification() {
    let story = Story::onboarded(2);
    let deploy = |instances| Ok(Operation::Deploy { revision: 3, instances });
    check(&story, Action::Deploy, Params::default(), deploy(2));
    check(&story, Action::Deploy, instances(4), deploy(4));
    check(&story, Action::Deploy, instances(5), Err(PlanError::AtMaximum));
    check(&story, Action::Deploy, instances(0), Err(PlanError::AtMinimum));
}

#[test]
fn a_threshold_moves_at_most_half_of_the_policys_value() {
    let mut story = Story::healthy(1);
    story.policy = Policy::default_for(Env::Dev);
    let metric = Metric::CpuUtilization;
    let to = |enter, leave| Params {
        threshold: Some((metric, Override { enter, leave })),
        ..Params::default()
    };
    let moved = |enter, leave| Ok(Operation::AdjustThreshold { metric, enter, leave });
    let adjust = Action::AdjustThresholds;
    let tenth = MICRO / 10;
    check(&story, adjust, to(12 * tenth, 9 * tenth), moved(12 * tenth, 9 * tenth));
    check(&story, adjust, to(4 * tenth, 4 * tenth - 1), moved(4 * tenth, 4 * tenth - 1));
    for (enter, leave) in [
        (12 * tenth + 1, 9 * tenth),
        (4 * tenth - 1, 3 * tenth),
        (8 * tenth, 8 * tenth),
        (8 * tenth, 0),
        (i64::MAX, i64::MIN),
        (i64::MIN, i64::MAX),
    ] {
        check(&story, adjust, to(enter, leave), Err(PlanError::OutOfBounds));
    }
    check(&story, adjust, Params::default(), Err(PlanError::NoSuchThreshold));
    story.policy.thresholds.clear();
    check(&story, adjust, to(8 * tenth, 6 * tenth), Err(PlanError::NoSuchThreshold));
}

#[test]
fn passive_actions_have_no_plan() {
    for action in [Action::Noop, Action::Observe, Action::Escalate] {
        check(&Story::healthy(1), action, Params::default(), Err(PlanError::Passive));
    }
}

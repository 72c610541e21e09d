//! Prerequisites fail closed: what an action needs is there, and its plan is for this app as it runs now and within the app's
//! bounds, or nothing is done, whoever asks.

use super::{Case, Gate, Judgement, words};
use crate::plan::{Operation, Plan};
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "prerequisite",
    group: 4,
    summary: "everything the action needs is there and its plan fits the app as it is",
    reasons: &[Reason::MissingPrerequisite],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    let proposal = case.proposal;
    let limit = words("a complete plan for this app as it is");
    let missing = |value| Judgement::refuse(Reason::MissingPrerequisite, value, limit.clone());
    if case.is_passive() {
        return match proposal.plan {
            None => Judgement::not_applicable(),
            Some(_) => missing(words("a passive action has no plan")),
        };
    }
    if let Some(error) = &proposal.missing {
        return missing(Fact::Text(error.to_string().into()));
    }
    match proposal.plan.as_ref().map(|plan| misfit(case, plan)) {
        None => missing(words("no plan")),
        Some(Some(what)) => missing(words(what)),
        Some(None) => Judgement::pass(words("a complete plan"), limit),
    }
}

/// What is wrong with the plan, if anything.
fn misfit(case: &Case<'_>, plan: &Plan) -> Option<&'static str> {
    let (app, profile) = (case.app, &case.app.profile);
    if plan.app != profile.name {
        return Some("the plan is for another app");
    }
    if plan.action != case.proposal.action {
        return Some("the plan is for another action");
    }
    if plan.revision != profile.revision || plan.spec_digest != profile.spec_digest {
        return Some("the plan is for another revision");
    }
    let bounds = profile.min.max(1)..=profile.max;
    match &plan.operation {
        Operation::Restart { targets } if targets.is_empty() => Some("no instance to restart"),
        Operation::Restart { targets } if targets.iter().any(|t| t.slot >= app.desired) => {
            Some("an instance that is not wanted")
        }
        Operation::Scale { from, .. } if *from != app.desired => {
            Some("the number of instances changed")
        }
        Operation::Scale { from, to } if to.saturating_sub(*from) > (from / 2).max(1) => {
            Some("more than half as many again at once")
        }
        Operation::Scale { from, to } if from.saturating_sub(*to) > 1 => {
            Some("more than one fewer at once")
        }
        Operation::Scale { to: instances, .. }
        | Operation::Deploy { instances, .. }
        | Operation::Rollback { instances, .. }
            if !bounds.contains(instances) =>
        {
            Some("the number of instances is out of bounds")
        }
        Operation::Rollback { from, to, .. } if from == to => Some("no other revision"),
        Operation::Configure { revision, .. } if *revision == profile.revision => {
            Some("no other revision")
        }
        Operation::Offboard { instances } if *instances != app.desired => {
            Some("the number of instances changed")
        }
        Operation::Rollback { to, .. } if profile.rollback_to != Some(*to) => {
            Some("no verified revision to go back to")
        }
        Operation::AdjustThreshold { enter, leave, .. } if leave >= enter => {
            Some("a threshold without hysteresis")
        }
        Operation::Restart { .. }
        | Operation::Scale { .. }
        | Operation::Deploy { .. }
        | Operation::Rollback { .. }
        | Operation::Configure { .. }
        | Operation::Offboard { .. }
        | Operation::AdjustThreshold { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::app::AppName;
    use crate::choose::PlanError;
    use crate::gates::scene::{Scene, check, pass, refuse};

    #[test]
    fn nothing_is_done_without_a_plan_that_fits() {
        let refused = || refuse(Reason::MissingPrerequisite);
        check(
            &GATE,
            &[
                ("a complete plan", |_| {}, pass()),
                ("no plan", |s| s.proposal.plan = None, refused().value(words("no plan"))),
                (
                    "a plan, and something missing all the same",
                    |s| s.proposal.missing = Some(PlanError::AtMaximum),
                    refused().value(Fact::Text(PlanError::AtMaximum.to_string().into())),
                ),
                (
                    "for a human too",
                    |s| {
                        s.proposal.plan = None;
                        s.human();
                    },
                    refused(),
                ),
                ("nothing needs nothing", |s| s.passive(Action::Noop), pass()),
                ("nothing with a plan", |s| s.proposal.action = Action::Noop, refused()),
                (
                    "another app's plan",
                    |s| s.app.profile.name = AppName::parse("db").unwrap(),
                    refused(),
                ),
                ("another action's plan", |s| s.proposal.action = Action::ScaleUp, refused()),
                ("an older revision's plan", |s| s.app.profile.revision += 1, refused()),
                (
                    "another specification's plan",
                    |s| s.app.profile.spec_digest = "other".to_owned(),
                    refused(),
                ),
                ("an unwanted slot", |s| s.app.desired = 3, refused()),
                ("no target", |s| s.operation(Operation::Restart { targets: vec![] }), refused()),
            ],
        );
    }

    #[test]
    fn the_number_of_instances_stays_in_bounds() {
        fn scale(s: &mut Scene, from: u32, to: u32) {
            s.propose(if to > from { Action::ScaleUp } else { Action::ScaleDown });
            s.operation(Operation::Scale { from, to });
        }
        fn deploy(s: &mut Scene, instances: u32) {
            s.propose(Action::Deploy);
            s.operation(Operation::Deploy { revision: 2, instances });
        }
        let refused = || refuse(Reason::MissingPrerequisite);
        check(
            &GATE,
            &[
                ("half as many again", |s| scale(s, 4, 6), pass()),
                ("more than half as many again", |s| scale(s, 4, 7), refused()),
                (
                    "up to the maximum",
                    |s| {
                        s.app.profile.max = 5;
                        scale(s, 4, 5);
                    },
                    pass(),
                ),
                (
                    "over the maximum",
                    |s| {
                        s.app.profile.max = 5;
                        scale(s, 4, 6);
                    },
                    refused(),
                ),
                ("one fewer", |s| scale(s, 4, 3), pass()),
                ("two fewer", |s| scale(s, 4, 2), refused()),
                (
                    "below the minimum",
                    |s| {
                        s.app.profile.min = 4;
                        scale(s, 4, 3);
                    },
                    refused(),
                ),
                (
                    "none, even if the minimum were 0",
                    |s| {
                        s.app.profile.min = 0;
                        s.app.desired = 1;
                        scale(s, 1, 0);
                    },
                    refused(),
                ),
                ("from another number", |s| scale(s, 3, 4), refused()),
                ("deploy the minimum", |s| deploy(s, 1), pass()),
                ("deploy nothing", |s| deploy(s, 0), refused()),
                ("deploy the maximum", |s| deploy(s, 8), pass()),
                ("deploy more", |s| deploy(s, 9), refused()),
            ],
        );
    }

    #[test]
    fn a_rollback_goes_to_a_verified_revision() {
        fn back(s: &mut Scene, to: u32) {
            s.propose(Action::Rollback);
            s.operation(Operation::Rollback { from: 2, to, instances: 4 });
        }
        let refused = || refuse(Reason::MissingPrerequisite);
        check(
            &GATE,
            &[
                ("the verified one", |s| back(s, 1), pass()),
                ("the running one", |s| back(s, 2), refused()),
                ("another one", |s| back(s, 3), refused()),
                (
                    "there is none",
                    |s| {
                        back(s, 1);
                        s.app.profile.rollback_to = None;
                    },
                    refused(),
                ),
            ],
        );
    }
}

//! A driver has one operation for each action. A plan whose operation is another one would do something else than what every other
//! gate judged, so it is refused, whoever asks.

use super::{Case, Gate, Judgement, words};
use crate::action::Action;
use crate::plan::Operation;
use crate::reason::Reason;

pub(super) const GATE: Gate = Gate {
    id: "capability",
    group: 3,
    summary: "the operation of the plan is the one that carries out the action",
    reasons: &[Reason::DriverUnsupported],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    let expected = expected(case.proposal.action);
    let value = case.proposal.plan.as_ref().map_or("none", |plan| name(&plan.operation));
    if value == expected || value == "none" {
        Judgement::pass(words(value), words(expected))
    } else {
        Judgement::refuse(Reason::DriverUnsupported, words(value), words(expected)).imposed()
    }
}

const fn expected(action: Action) -> &'static str {
    match action {
        Action::Noop | Action::Observe | Action::Escalate => "none",
        Action::Restart => "restart",
        Action::ScaleUp => "more instances",
        Action::ScaleDown => "fewer instances",
        Action::RetryDeployment | Action::Deploy => "deploy",
        Action::Configure => "configure",
        Action::Offboard => "offboard",
        Action::AdjustThresholds => "adjust threshold",
        Action::Rollback => "rollback",
    }
}

const fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Deploy { .. } => "deploy",
        Operation::Configure { .. } => "configure",
        Operation::Offboard { .. } => "offboard",
        Operation::Restart { .. } => "restart",
        Operation::Scale { from, to } if *to > *from => "more instances",
        Operation::Scale { from, to } if *to < *from => "fewer instances",
        Operation::Scale { .. } => "as many instances as before",
        Operation::Rollback { .. } => "rollback",
        Operation::AdjustThreshold { .. } => "adjust threshold",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::scene::{Scene, check, pass, refuse};

    #[test]
    fn every_action_has_its_own_operation() {
        for action in Action::ALL {
            for other in Action::ALL.into_iter().filter(|a| !a.is_passive()) {
                let mut scene = Scene::default();
                scene.propose(other);
                scene.proposal.action = action;
                let judged = (GATE.judge)(&scene.case());
                let right = expected(action) == expected(other);
                assert_eq!(judged.reason.is_none(), right, "{action} by the plan of {other}");
            }
        }
    }

    #[test]
    fn a_plan_does_what_its_action_says() {
        fn scale(s: &mut Scene, from: u32, to: u32) {
            s.propose(Action::ScaleUp);
            s.proposal.plan.as_mut().unwrap().operation = Operation::Scale { from, to };
        }
        let refused = || refuse(Reason::DriverUnsupported).imposed();
        check(
            &GATE,
            &[
                ("one more", |s| scale(s, 4, 5), pass()),
                ("as many", |s| scale(s, 4, 4), refused()),
                ("one fewer", |s| scale(s, 4, 3), refused()),
                ("no plan is for the prerequisites to judge", |s| s.proposal.plan = None, pass()),
                (
                    "nothing, with a plan",
                    |s| s.proposal.action = Action::Noop,
                    refused().value(words("restart")).limit(words("none")),
                ),
            ],
        );
    }
}

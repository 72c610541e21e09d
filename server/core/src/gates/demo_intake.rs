//! Demo mode shows the agent, not a hand behind it: what a human asks for directly is blocked. Approving the agent's own
//! choice stays possible, and so does onboarding, which ends in a first deployment.

use super::{Case, Gate, Judgement, words};
use crate::reason::Reason;

pub(super) const GATE: Gate = Gate {
    id: "demo_intake",
    group: 1,
    summary: "in demo mode only the agent's own choices are taken in",
    reasons: &[Reason::DemoModeBlock],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    let direct = case.is_human() && case.proposal.grant.is_none() && !case.is_first_deployment();
    let value = words(if direct { "a human's direct request" } else { "no direct request" });
    if !case.around.demo {
        return Judgement::pass(value, words("any: demo mode is off"));
    }
    let limit = words("the agent's own choice");
    if direct {
        Judgement::refuse(Reason::DemoModeBlock, value, limit).imposed()
    } else {
        Judgement::pass(value, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{check, pass, refuse};

    #[test]
    fn a_demonstration_has_no_hand_behind_it() {
        let blocked = || refuse(Reason::DemoModeBlock).imposed();
        check(
            &GATE,
            &[
                ("a human, demo mode off", |s| s.human(), pass()),
                ("the agent in demo mode", |s| s.around.demo = true, pass()),
                (
                    "a human in demo mode",
                    |s| {
                        s.around.demo = true;
                        s.human();
                    },
                    blocked(),
                ),
                (
                    "a human who asks for nothing",
                    |s| {
                        s.around.demo = true;
                        s.passive(Action::Noop);
                        s.human();
                    },
                    blocked(),
                ),
                (
                    "a human approved what the agent chose",
                    |s| {
                        s.around.demo = true;
                        s.grant();
                    },
                    pass(),
                ),
                (
                    "onboarding deploys for the first time",
                    |s| {
                        s.around.demo = true;
                        s.all_down();
                        s.propose(Action::Deploy);
                        s.human();
                    },
                    pass(),
                ),
                (
                    "a human deploys over what runs",
                    |s| {
                        s.around.demo = true;
                        s.propose(Action::Deploy);
                        s.human();
                    },
                    blocked(),
                ),
                (
                    "a human deploys again",
                    |s| {
                        s.around.demo = true;
                        s.all_down();
                        s.propose(Action::Deploy);
                        s.human();
                        s.effect(Action::Deploy, 1_000, 1);
                    },
                    blocked(),
                ),
            ],
        );
    }
}

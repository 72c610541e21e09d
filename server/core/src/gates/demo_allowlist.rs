//! In demo mode the agent's repertoire is small and harmless: noop, restart, scale up, scale down. A deployment passes here only
//! because a human asked for it by onboarding; whether they may is for the intake to say.

use super::{Case, Gate, Judgement, words};
use crate::action::Action;
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "demo_allowlist",
    group: 2,
    summary: "in demo mode the action is noop, restart, scale up or scale down",
    reasons: &[Reason::DemoModeBlock],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let action = case.proposal.action;
    let value = Fact::Action(action);
    if !case.around.demo {
        return Judgement::pass(value, words("any: demo mode is off"));
    }
    let allowed = match action {
        Action::Restart | Action::ScaleUp | Action::ScaleDown => true,
        Action::Deploy | Action::Configure | Action::Offboard => case.is_human(),
        _ => false,
    };
    let limit = words("noop, restart, scale up, scale down");
    if allowed {
        Judgement::pass(value, limit)
    } else {
        Judgement::refuse(Reason::DemoModeBlock, value, limit).imposed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::scene::{Scene, check, pass, refuse};

    fn demo(s: &mut Scene, action: Action) {
        s.around.demo = true;
        s.propose(action);
    }

    #[test]
    fn the_repertoire_of_a_demonstration_is_closed() {
        let blocked = || refuse(Reason::DemoModeBlock).imposed();
        check(
            &GATE,
            &[
                ("anything, demo mode off", |s| s.propose(Action::Rollback), pass()),
                ("restart", |s| demo(s, Action::Restart), pass()),
                ("scale up", |s| demo(s, Action::ScaleUp), pass()),
                ("scale down", |s| demo(s, Action::ScaleDown), pass()),
                ("rollback", |s| demo(s, Action::Rollback), blocked()),
                ("retry", |s| demo(s, Action::RetryDeployment), blocked()),
                ("thresholds", |s| demo(s, Action::AdjustThresholds), blocked()),
                ("the agent deploys", |s| demo(s, Action::Deploy), blocked()),
                (
                    "a human deploys",
                    |s| {
                        demo(s, Action::Deploy);
                        s.human();
                    },
                    pass(),
                ),
                (
                    "a human approved a rollback",
                    |s| {
                        demo(s, Action::Rollback);
                        s.grant();
                    },
                    blocked(),
                ),
                (
                    "noop",
                    |s| {
                        s.around.demo = true;
                        s.passive(Action::Noop);
                    },
                    pass(),
                ),
            ],
        );
    }
}

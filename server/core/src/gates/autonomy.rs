//! How far the agent may go alone. The level in force is the least of the compiled ceiling, the policy, the app's own limit and
//! what the mode allows: an exploratory choice is never carried out alone in prod or in a demonstration.
//!
//! A human's request is the human's own decision where mistakes are cheap (dev, stage). What the compiled ceiling leaves to humans
//! for ever (a rollback) needs a second person everywhere, and so does letting the agent go further with an app than before; in prod
//! so does what the policy does not leave to the agent, and every deployment.

use super::{Case, Gate, Judgement};
use crate::action::{Level, ceiling};
use crate::app::Env;
use crate::graduation;
use crate::plan::Operation;
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "autonomy",
    group: 3,
    summary: "the autonomy level of the action lets it be carried out",
    reasons: &[Reason::ActionEligibilityFailed],
    judge,
};

/// Who else has to agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nobody.
    Nobody,
    /// A human who did not ask for it.
    AHuman,
    /// No one can allow it here.
    AnotherPolicy,
}

/// The level in force for this proposal, and who else has to agree because of it.
pub(super) fn needs(case: &Case<'_>) -> (Level, Needs) {
    let action = case.proposal.action;
    let granted = case.policy.level(action).min(ceiling(action));
    if case.is_passive() {
        return (granted, Needs::Nobody);
    }
    if case.is_human() {
        let prod =
            case.around.env == Env::Prod && (granted < Level::Auto || !action.is_selectable());
        let second = prod || ceiling(action) < Level::Auto || raises(case);
        let needs = match granted {
            Level::Off => Needs::AnotherPolicy,
            _ if second => Needs::AHuman,
            _ => Needs::Nobody,
        };
        return (granted, needs);
    }
    let tame = case.around.env == Env::Prod || case.around.demo;
    let mode = if case.proposal.explored && tame { Level::Propose } else { Level::Auto };
    let level = granted.min(graduation::limit(case.app, case.around.env, action)).min(mode);
    let needs = match level {
        Level::Off | Level::Shadow => Needs::AnotherPolicy,
        Level::Propose => Needs::AHuman,
        Level::Auto => Needs::Nobody,
    };
    (level, needs)
}

/// Whether it lets the agent go further than before.
fn raises(case: &Case<'_>) -> bool {
    let operation = case.proposal.plan.as_ref().map(|plan| &plan.operation);
    matches!(operation, Some(Operation::Configure { raises: Some(_), .. }))
}

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let (level, needs) = needs(case);
    let value = Fact::Level(level);
    let allowed = || Fact::Actions(case.policy.allowed());
    match needs {
        Needs::AnotherPolicy => {
            Judgement::refuse(Reason::ActionEligibilityFailed, value, allowed())
        }
        Needs::AHuman if case.proposal.grant.is_none() => {
            Judgement::hold(Reason::ActionEligibilityFailed, value, allowed())
        }
        Needs::AHuman => Judgement::pass(value, Fact::Level(Level::Propose)),
        Needs::Nobody => Judgement::pass(value, Fact::Level(Level::Auto)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{Scene, check, hold, pass, refuse};
    use crate::policy::Policy;

    fn at(s: &mut Scene, env: Env, action: Action) {
        s.policy = Policy::default_for(env);
        s.around.env = env;
        s.propose(action);
    }

    fn level(s: &mut Scene, level: Level) {
        s.policy.levels.insert(s.proposal.action, level);
    }

    /// A restart in prod that the policy and the app leave to the agent, which earned it.
    fn graduated(s: &mut Scene) {
        at(s, Env::Prod, Action::Restart);
        level(s, Level::Auto);
        s.app.profile.autonomy = Some(Level::Auto);
        s.app.standing.graduated.insert(Action::Restart);
    }

    #[test]
    fn the_agent_goes_as_far_as_the_least_of_all_limits() {
        let held = || hold(Reason::ActionEligibilityFailed);
        let refused = || refuse(Reason::ActionEligibilityFailed);
        check(
            &GATE,
            &[
                ("AUTO", |s| level(s, Level::Auto), pass().value(Fact::Level(Level::Auto))),
                ("PROPOSE", |s| level(s, Level::Propose), held()),
                ("SHADOW", |s| level(s, Level::Shadow), refused()),
                ("OFF", |s| level(s, Level::Off), refused()),
                (
                    "absent is OFF",
                    |s| {
                        s.policy.levels.clear();
                    },
                    refused().value(Fact::Level(Level::Off)).limit(Fact::Actions(vec![])),
                ),
                (
                    "the ceiling holds whatever the policy says",
                    |s| {
                        s.propose(Action::Rollback);
                        level(s, Level::Auto);
                    },
                    held().value(Fact::Level(Level::Propose)),
                ),
                ("the app's own limit", |s| s.app.profile.autonomy = Some(Level::Propose), held()),
                (
                    "an app's limit raises nothing",
                    |s| {
                        level(s, Level::Propose);
                        s.app.profile.autonomy = Some(Level::Auto);
                    },
                    held(),
                ),
            ],
        );
    }

    #[test]
    fn a_human_may_add_what_the_level_lacks_and_exploring_always_lacks_it() {
        let held = || hold(Reason::ActionEligibilityFailed);
        check(
            &GATE,
            &[
                (
                    "a human approved",
                    |s| {
                        level(s, Level::Propose);
                        s.grant();
                    },
                    pass(),
                ),
                (
                    "nobody can approve in SHADOW",
                    |s| {
                        level(s, Level::Shadow);
                        s.grant();
                    },
                    refuse(Reason::ActionEligibilityFailed),
                ),
                ("exploring in stage", |s| s.proposal.explored = true, pass()),
                (
                    "exploring in a demonstration",
                    |s| {
                        s.proposal.explored = true;
                        s.around.demo = true;
                    },
                    held(),
                ),
                (
                    "exploring in prod",
                    |s| {
                        at(s, Env::Prod, Action::Restart);
                        level(s, Level::Auto);
                        s.proposal.explored = true;
                    },
                    held(),
                ),
                (
                    "what is blocked names what is allowed",
                    |s| at(s, Env::Prod, Action::Restart),
                    held().limit(Fact::Actions(vec![
                        Action::Noop,
                        Action::Observe,
                        Action::Escalate,
                    ])),
                ),
            ],
        );
    }

    #[test]
    fn in_prod_it_takes_the_policy_the_app_and_what_was_earned() {
        let held = || hold(Reason::ActionEligibilityFailed);
        check(
            &GATE,
            &[
                (
                    "in prod the policy alone gives nothing",
                    |s| {
                        at(s, Env::Prod, Action::Restart);
                        level(s, Level::Auto);
                    },
                    held(),
                ),
                (
                    "in prod the app alone gives nothing",
                    |s| {
                        at(s, Env::Prod, Action::Restart);
                        level(s, Level::Auto);
                        s.app.profile.autonomy = Some(Level::Auto);
                    },
                    held(),
                ),
                ("graduated in prod", graduated, pass()),
                (
                    "graduated in prod and taken back",
                    |s| {
                        graduated(s);
                        s.app.standing.demoted.insert(Action::Restart, 1);
                    },
                    held(),
                ),
                (
                    "another action was taken back",
                    |s| {
                        graduated(s);
                        s.app.standing.demoted.insert(Action::ScaleUp, 1);
                    },
                    pass(),
                ),
            ],
        );
    }

    #[test]
    fn a_human_needs_a_second_one_for_a_rollback_and_in_prod() {
        fn asks(s: &mut Scene, env: Env, action: Action) {
            at(s, env, action);
            s.human();
        }
        let held = || hold(Reason::ActionEligibilityFailed);
        check(
            &GATE,
            &[
                ("rollback in dev", |s| asks(s, Env::Dev, Action::Rollback), held()),
                ("rollback in stage", |s| asks(s, Env::Stage, Action::Rollback), held()),
                ("restart in stage", |s| asks(s, Env::Stage, Action::Restart), pass()),
                ("deploy in stage", |s| asks(s, Env::Stage, Action::Deploy), pass()),
                ("restart in prod", |s| asks(s, Env::Prod, Action::Restart), held()),
                ("deploy in prod", |s| asks(s, Env::Prod, Action::Deploy), held()),
                (
                    "deploy in prod, whatever the policy says",
                    |s| {
                        asks(s, Env::Prod, Action::Deploy);
                        level(s, Level::Auto);
                    },
                    held(),
                ),
                (
                    "deploy in prod, approved",
                    |s| {
                        asks(s, Env::Prod, Action::Deploy);
                        s.grant();
                    },
                    pass(),
                ),
                ("settings in stage", |s| asks(s, Env::Stage, Action::Configure), pass()),
                (
                    "more autonomy in stage",
                    |s| {
                        asks(s, Env::Stage, Action::Configure);
                        let raises = Some(Level::Auto);
                        let plan = s.proposal.plan.as_mut().unwrap();
                        plan.operation = Operation::Configure { revision: 3, raises };
                    },
                    held(),
                ),
                (
                    "the app's limit is the agent's",
                    |s| {
                        asks(s, Env::Stage, Action::Restart);
                        s.app.profile.autonomy = Some(Level::Off);
                    },
                    pass(),
                ),
                (
                    "OFF is for everybody",
                    |s| {
                        asks(s, Env::Stage, Action::Restart);
                        level(s, Level::Off);
                    },
                    refuse(Reason::ActionEligibilityFailed),
                ),
            ],
        );
    }
}

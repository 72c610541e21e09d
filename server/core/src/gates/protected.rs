//! Some things are out of the agent's hands, whatever the policy says and whoever asks: what a human labelled `protected`, and the
//! control plane itself.

use super::{Case, Gate, Judgement, words};
use crate::reason::Reason;

pub(super) const GATE: Gate = Gate {
    id: "protected",
    group: 3,
    summary: "the app is neither labelled `protected` nor the control plane itself",
    reasons: &[Reason::Protected],
    judge,
};

/// An app of this name would be the control plane managing itself.
const CONTROL_PLANE: &str = "agentd";

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() || case.is_settings() {
        return Judgement::not_applicable();
    }
    let limit = words("not protected");
    let value = if case.app.profile.name.as_str() == CONTROL_PLANE {
        "the control plane itself"
    } else if case.app.profile.protected && !(case.is_human() && case.is_first_deployment()) {
        // There is nothing to protect yet when a human has it brought up for the first time.
        "labelled `protected`"
    } else {
        return Judgement::pass(words("not protected"), limit);
    };
    Judgement::refuse(Reason::Protected, words(value), limit).imposed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::app::AppName;
    use crate::gates::scene::{check, pass, refuse};

    #[test]
    fn what_is_fenced_off_is_not_touched() {
        let refused = || refuse(Reason::Protected).imposed();
        check(
            &GATE,
            &[
                ("an ordinary app", |_| {}, pass()),
                ("a labelled one", |s| s.app.profile.protected = true, refused()),
                (
                    "for a human too",
                    |s| {
                        s.app.profile.protected = true;
                        s.human();
                    },
                    refused(),
                ),
                (
                    "with an approval too",
                    |s| {
                        s.app.profile.protected = true;
                        s.grant();
                    },
                    refused(),
                ),
                ("itself", |s| s.app.profile.name = AppName::parse("agentd").unwrap(), refused()),
                (
                    "it may be watched",
                    |s| {
                        s.app.profile.protected = true;
                        s.passive(Action::Escalate);
                    },
                    pass(),
                ),
            ],
        );
    }
    #[test]
    fn what_a_human_may_do_to_it_all_the_same() {
        let refused = || refuse(Reason::Protected).imposed();
        check(
            &GATE,
            &[
                (
                    "a human brings it up for the first time",
                    |s| {
                        s.app.profile.protected = true;
                        s.all_down();
                        s.propose(Action::Deploy);
                        s.human();
                    },
                    pass(),
                ),
                (
                    "and nobody does so again",
                    |s| {
                        s.app.profile.protected = true;
                        s.all_down();
                        s.effect(Action::Deploy, 1_000, 1);
                        s.propose(Action::Deploy);
                        s.human();
                    },
                    refused(),
                ),
                (
                    "the label itself can be taken off",
                    |s| {
                        s.app.profile.protected = true;
                        s.propose(Action::Configure);
                        s.human();
                    },
                    pass(),
                ),
                (
                    "what calls itself a change of settings and is none is refused",
                    |s| {
                        s.app.profile.protected = true;
                        s.propose(Action::Configure);
                        s.operation(crate::plan::Operation::Offboard { instances: 4 });
                        s.human();
                    },
                    refused(),
                ),
            ],
        );
    }
}

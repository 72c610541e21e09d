//! The set of actions is closed. A name that would be destructive is refused by name, in every environment and from everybody, and
//! the refusal goes on record like any other decision.

use super::{Case, Gate, Judgement, words};
use crate::action::{Requested, parse};
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "unsafe_name",
    group: 2,
    summary: "the name that was asked for is not one of the destructive ones",
    reasons: &[Reason::UnsafeActionRefused],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    let limit = words("an action of the closed set");
    match case.proposal.requested_as.as_deref().map(parse) {
        Some(Requested::Unsafe(name)) => {
            Judgement::refuse(Reason::UnsafeActionRefused, words(name), limit).imposed()
        }
        // The action that stands must be the one that was asked for: anything else was never understood.
        Some(Requested::Known(action)) if action != case.proposal.action => {
            let value = Fact::Action(action);
            Judgement::refuse(Reason::UnsafeActionRefused, value, limit).imposed()
        }
        Some(Requested::Unknown) => {
            let value = words("an unknown name");
            Judgement::refuse(Reason::UnsafeActionRefused, value, limit).imposed()
        }
        Some(Requested::Known(_) | Requested::ScaleBySign) | None => {
            Judgement::pass(Fact::Action(case.proposal.action), limit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Action, UNSAFE_NAMES};
    use crate::gates::scene::{Scene, check, pass, refuse};

    fn named(s: &mut Scene, name: &str) {
        s.human();
        s.proposal.requested_as = Some(name.to_owned());
    }

    #[test]
    fn every_destructive_name_is_refused_even_though_nothing_would_be_done() {
        for name in UNSAFE_NAMES {
            for name in [name.to_owned(), name.to_ascii_uppercase()] {
                let mut scene = Scene::default();
                scene.passive(Action::Noop);
                named(&mut scene, &name);
                let refused = (GATE.judge)(&scene.case());
                assert_eq!(refused.reason, Some(Reason::UnsafeActionRefused), "{name}");
            }
        }
    }

    #[test]
    fn a_name_is_what_it_says() {
        let refused = || refuse(Reason::UnsafeActionRefused).imposed();
        check(
            &GATE,
            &[
                ("the agent names nothing", |_| {}, pass()),
                ("its own name", |s| named(s, "restart"), pass()),
                ("an older name", |s| named(s, "restart_service"), pass()),
                ("another action's name", |s| named(s, "rollback"), refused()),
                ("no action's name", |s| named(s, "rm -rf /"), refused()),
                (
                    "by sign",
                    |s| {
                        s.propose(Action::ScaleUp);
                        named(s, "scale_workers");
                    },
                    pass(),
                ),
            ],
        );
    }
}

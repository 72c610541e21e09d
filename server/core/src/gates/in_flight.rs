//! One action at a time per app: what is being done is awaited before anything else is done, whoever asks. What was carried out and
//! is only watched gives way to a human who wants something else to be there.

use super::{Case, Gate, Judgement, words};
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "in_flight",
    group: 4,
    summary: "no action on this app is in flight",
    reasons: &[Reason::ResourceBusy],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() || case.is_settings() {
        return Judgement::not_applicable();
    }
    let limit = words("nothing in flight");
    // What a human wants to be there instead ends the watching, though never the doing.
    let replaces = case.is_human() && !case.proposal.action.is_selectable();
    match &case.app.attempt {
        Some(attempt) if replaces && attempt.delivered_at.is_some() => {
            Judgement::pass(words("done, and its outcome is watched"), limit)
        }
        Some(attempt) => {
            let value = Fact::Action(attempt.plan.action);
            Judgement::refuse(Reason::ResourceBusy, value, limit)
        }
        None => Judgement::pass(words("nothing in flight"), limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{check, pass, refuse};

    #[test]
    fn one_action_at_a_time() {
        let busy = || refuse(Reason::ResourceBusy).value(Fact::Action(Action::Restart));
        check(
            &GATE,
            &[
                ("nothing else", |_| {}, pass()),
                ("the same", |s| s.in_flight(7), busy()),
                (
                    "another one",
                    |s| {
                        s.in_flight(7);
                        s.propose(Action::ScaleUp);
                    },
                    busy(),
                ),
                (
                    "a human waits as well",
                    |s| {
                        s.in_flight(7);
                        s.human();
                    },
                    busy(),
                ),
                (
                    "watching goes on",
                    |s| {
                        s.in_flight(7);
                        s.passive(Action::Observe);
                    },
                    pass(),
                ),
            ],
        );
    }
    #[test]
    fn what_is_only_watched_gives_way_to_what_a_human_wants_to_be_there() {
        fn watched(s: &mut crate::gates::scene::Scene, action: Action) {
            s.in_flight(7);
            s.app.attempt.as_mut().unwrap().delivered_at = Some(s.now);
            s.propose(action);
            s.human();
        }
        let busy = || refuse(Reason::ResourceBusy);
        check(
            &GATE,
            &[
                ("a deployment", |s| watched(s, Action::Deploy), pass()),
                ("an offboarding", |s| watched(s, Action::Offboard), pass()),
                ("a restart", |s| watched(s, Action::Restart), busy()),
                (
                    "while it is still being done",
                    |s| {
                        watched(s, Action::Offboard);
                        s.app.attempt.as_mut().unwrap().delivered_at = None;
                    },
                    busy(),
                ),
                (
                    "a setting is no effect",
                    |s| {
                        s.in_flight(7);
                        s.propose(Action::Configure);
                        s.human();
                    },
                    pass(),
                ),
            ],
        );
    }
}

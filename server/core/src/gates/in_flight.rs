//! One action at a time per app: what is being done is awaited before anything else is done, whoever asks.

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
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let limit = words("nothing in flight");
    match &case.app.attempt {
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
}

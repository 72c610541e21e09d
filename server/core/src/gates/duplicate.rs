//! One cause has one effect: a plan that is being carried out or waits for a human already is joined, not asked for twice.
//! Equal means the same plan under the same policy, by digest; another plan of the same action is not a duplicate.

use super::{Case, Gate, Judgement, words};
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "duplicate",
    group: 1,
    summary: "an equal plan is neither in flight nor waiting for a human",
    reasons: &[Reason::DuplicateInProgress],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    let Some(plan) = case.proposal.plan.as_ref().filter(|_| !case.is_passive()) else {
        return Judgement::not_applicable();
    };
    let limit = words("one decision per plan");
    if let Some(attempt) = case.app.attempt.as_ref().filter(|attempt| attempt.plan == *plan) {
        let value = Fact::Count(attempt.decision);
        return Judgement::refuse(Reason::DuplicateInProgress, value, limit);
    }
    let own = case.proposal.grant.as_ref().map(|grant| grant.approval);
    match case.around.pending.as_ref().filter(|pending| own != Some(pending.approval)) {
        Some(pending) if plan.digest(case.policy_digest) == pending.plan_digest => {
            let value = Fact::Count(pending.decision);
            Judgement::refuse(Reason::DuplicateInProgress, value, limit)
        }
        _ => Judgement::pass(words("no equal plan"), limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{check, pass, refuse};

    #[test]
    fn equal_plans_join() {
        let joined = |decision| refuse(Reason::DuplicateInProgress).value(Fact::Count(decision));
        check(
            &GATE,
            &[
                ("nothing else", |_| {}, pass()),
                ("the same is in flight", |s| s.in_flight(7), joined(7)),
                (
                    "another action is in flight",
                    |s| {
                        s.in_flight(7);
                        s.propose(Action::ScaleUp);
                    },
                    pass(),
                ),
                ("the same waits for a human", |s| s.pending(9, 8), joined(8)),
                (
                    "another plan waits for a human",
                    |s| {
                        s.pending(9, 8);
                        s.propose(Action::ScaleUp);
                    },
                    pass(),
                ),
                (
                    "the policy changed since",
                    |s| {
                        s.pending(9, 8);
                        s.policy_digest = "another".to_owned();
                    },
                    pass(),
                ),
                (
                    "it carries out that very approval",
                    |s| {
                        s.grant();
                        s.pending(s.proposal.grant.as_ref().unwrap().approval, 8);
                    },
                    pass(),
                ),
                (
                    "it carries out another approval",
                    |s| {
                        s.grant();
                        s.pending(1, 8);
                    },
                    joined(8),
                ),
                (
                    "a passive action joins nothing",
                    |s| {
                        s.pending(9, 8);
                        s.passive(Action::Observe);
                    },
                    pass(),
                ),
            ],
        );
    }
}

//! Contradicting signals cannot both be right, so nothing that rests on signals is done while they stand. What the supervisor saw
//! itself is no matter of opinion: an instance that is down is still started.

use super::{Case, Gate, Judgement};
use crate::detect::FindingKind;
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "conflict",
    group: 5,
    summary: "the signals do not contradict each other, or none is needed",
    reasons: &[Reason::SignalConflictObserve],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let Some(conflict) = case.finding(FindingKind::Contradiction) else {
        return Judgement::pass(Fact::Flag(false), Fact::Flag(false));
    };
    let seen = case.is_start() && case.proposal.because.iter().any(|kind| kind.is_hard());
    if seen || case.is_human() {
        return Judgement::pass(Fact::Flag(true), Fact::Flag(false));
    }
    let (value, limit) = (conflict.value.clone(), conflict.limit.clone());
    Judgement::refuse(Reason::SignalConflictObserve, value, limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{Scene, check, pass, refuse};

    fn contradiction(s: &mut Scene) {
        s.also(FindingKind::Contradiction);
    }

    #[test]
    fn contradicting_signals_stop_what_rests_on_them() {
        let conflict = || refuse(Reason::SignalConflictObserve);
        check(
            &GATE,
            &[
                ("no contradiction", |s| s.propose(Action::ScaleUp), pass()),
                (
                    "more instances",
                    |s| {
                        s.propose(Action::ScaleUp);
                        contradiction(s);
                    },
                    conflict().value(Fact::Count(5)).limit(Fact::Count(3)),
                ),
                ("starting what crashed", contradiction, pass().value(Fact::Flag(true))),
                (
                    "starting what is down for another reason",
                    |s| {
                        contradiction(s);
                        s.proposal.because = vec![FindingKind::CpuOverload];
                    },
                    conflict(),
                ),
                (
                    "restarting what runs",
                    |s| {
                        s.hang();
                        contradiction(s);
                    },
                    conflict(),
                ),
                (
                    "retrying a deployment of which something runs",
                    |s| {
                        s.propose(Action::RetryDeployment);
                        s.proposal.because = vec![FindingKind::DeploymentFailed];
                        contradiction(s);
                    },
                    conflict(),
                ),
                (
                    "retrying a deployment of which nothing runs",
                    |s| {
                        s.all_down();
                        s.propose(Action::RetryDeployment);
                        s.proposal.because = vec![FindingKind::DeploymentFailed];
                        contradiction(s);
                    },
                    pass(),
                ),
                (
                    "a human has looked",
                    |s| {
                        s.propose(Action::ScaleUp);
                        contradiction(s);
                        s.human();
                    },
                    pass(),
                ),
                (
                    "observing is the answer",
                    |s| {
                        s.passive(Action::Observe);
                        contradiction(s);
                    },
                    pass(),
                ),
            ],
        );
    }
}

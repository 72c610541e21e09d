//! An action that does not help is not repeated hot. After so many outcomes in a row that are not verified the breaker of (app,
//! action) is open; at `open_until` it lets one probe through, and that probe's outcome closes it or opens it for longer.

use super::{Case, Gate, Judgement, words};
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "breaker",
    group: 5,
    summary: "the breaker of this action on this app is closed, or due for a probe",
    reasons: &[Reason::BreakerOpen],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let action = case.proposal.action;
    let limit = Fact::Count(u64::from(case.policy.breaker.failures));
    let Some(breaker) = case.app.breakers.get(&action) else {
        return Judgement::pass(Fact::Count(0), limit);
    };
    let value = Fact::Count(u64::from(breaker.failures));
    let Some(until) = breaker.open_until.filter(|_| !case.is_human()) else {
        return Judgement::pass(value, limit);
    };
    if case.now < until {
        return Judgement::refuse(Reason::BreakerOpen, value, limit).clears_at(until);
    }
    let probing = case.app.attempt.as_ref().is_some_and(|a| a.plan.action == action && !a.human);
    let undecided = case.app.decisions.iter().any(|d| {
        d.executed && !d.human && d.action == action && d.at >= until && d.outcome.is_none()
    });
    if probing || undecided {
        Judgement::refuse(Reason::BreakerOpen, words("a probe is out"), words("one probe"))
    } else {
        Judgement::pass(value, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{NOW, Scene, check, pass, refuse};
    use crate::state::Breaker;

    fn broken(s: &mut Scene, failures: u32, open_until: Option<u64>) {
        let breaker = Breaker { failures, open_until, opens: u32::from(open_until.is_some()) };
        s.app.breakers.insert(Action::Restart, breaker);
    }

    #[test]
    fn an_open_breaker_lets_one_probe_through() {
        let open = || refuse(Reason::BreakerOpen);
        check(
            &GATE,
            &[
                ("never failed", |_| {}, pass().value(Fact::Count(0)).limit(Fact::Count(3))),
                ("not often enough", |s| broken(s, 2, None), pass().value(Fact::Count(2))),
                (
                    "open",
                    |s| broken(s, 3, Some(NOW + 1)),
                    open().value(Fact::Count(3)).clears(Some(NOW + 1)),
                ),
                ("due for a probe", |s| broken(s, 3, Some(NOW)), pass()),
                (
                    "the probe is in flight",
                    |s| {
                        broken(s, 3, Some(NOW));
                        s.in_flight(7);
                    },
                    open().clears(None),
                ),
                (
                    "the probe has no outcome yet",
                    |s| {
                        broken(s, 3, Some(NOW - 10));
                        s.remember(Action::Restart, 10, None);
                    },
                    open(),
                ),
                (
                    "an earlier attempt without an outcome is no probe",
                    |s| {
                        broken(s, 3, Some(NOW - 10));
                        s.remember(Action::Restart, 11, None);
                    },
                    pass(),
                ),
                (
                    "another action",
                    |s| {
                        broken(s, 3, Some(NOW + 1));
                        s.propose(Action::ScaleUp);
                    },
                    pass(),
                ),
                (
                    "a human is not restrained",
                    |s| {
                        broken(s, 3, Some(NOW + 1));
                        s.human();
                    },
                    pass().value(Fact::Count(3)),
                ),
            ],
        );
    }
}

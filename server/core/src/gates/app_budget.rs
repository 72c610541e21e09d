//! The agent must not take down more of one app than it can lose: so many instances may be down at once, those that are down
//! already included. Starting what is down costs nothing, and instances that the plan itself brings up again do not count.

use super::{Case, Gate, Judgement, count};
use crate::plan::Operation;
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "app_budget",
    group: 6,
    summary: "the app can lose the instance that would be taken down",
    reasons: &[Reason::BudgetExhausted],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let allowed = share(case.app.desired, case.policy.budget.per_app_permille);
    let used = case.app.down().filter(|slot| !brings_up(case, *slot)).count();
    let (value, limit) = (count(used), Fact::Count(allowed));
    if !case.disrupts() || case.is_human() || (used as u64) < allowed {
        Judgement::pass(value, limit)
    } else {
        Judgement::refuse(Reason::BudgetExhausted, value, limit)
    }
}

/// Whether the plan brings the instance in this slot up again before it takes another one down.
fn brings_up(case: &Case<'_>, slot: u32) -> bool {
    match case.proposal.plan.as_ref().map(|plan| &plan.operation) {
        Some(Operation::Restart { targets }) => targets.iter().any(|t| t.slot == slot),
        Some(Operation::Rollback { .. } | Operation::Deploy { .. }) => true,
        Some(
            Operation::Scale { .. }
            | Operation::Configure { .. }
            | Operation::Offboard { .. }
            | Operation::AdjustThreshold { .. },
        )
        | None => false,
    }
}

/// A share of a whole in permille, rounded down but never below one.
pub(super) fn share(whole: u32, permille: u32) -> u64 {
    (u64::from(whole) * u64::from(permille) / 1_000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{Scene, check, pass, refuse};

    fn of(s: &mut Scene, instances: u32, down: &[u32]) {
        s.instances(instances);
        s.hang();
        s.kill(down);
    }

    #[test]
    fn a_quarter_may_be_down_and_always_one() {
        let spent = || refuse(Reason::BudgetExhausted);
        check(
            &GATE,
            &[
                ("one of one", |s| of(s, 1, &[]), pass().value(Fact::Count(0))),
                ("one of four", |s| of(s, 4, &[]), pass().limit(Fact::Count(1))),
                (
                    "one of four is down already",
                    |s| of(s, 4, &[0]),
                    spent().value(Fact::Count(1)).limit(Fact::Count(1)),
                ),
                ("one of seven is down already", |s| of(s, 7, &[0]), spent()),
                ("one of eight is down already", |s| of(s, 8, &[0]), pass()),
                ("two of eight are down already", |s| of(s, 8, &[0, 1]), spent()),
                (
                    "starting what is down costs nothing",
                    |s| s.kill(&[0, 1]),
                    pass().value(Fact::Count(0)),
                ),
                (
                    "more instances cost nothing",
                    |s| {
                        of(s, 4, &[0]);
                        s.propose(Action::ScaleUp);
                    },
                    pass(),
                ),
                (
                    "fewer cost one",
                    |s| {
                        of(s, 4, &[0]);
                        s.propose(Action::ScaleDown);
                    },
                    spent(),
                ),
                (
                    "what the rollback brings up again does not count",
                    |s| {
                        of(s, 4, &[0, 1]);
                        s.propose(Action::Rollback);
                    },
                    pass().value(Fact::Count(0)),
                ),
                (
                    "a human is not restrained",
                    |s| {
                        of(s, 4, &[0]);
                        s.human();
                    },
                    pass().value(Fact::Count(1)),
                ),
            ],
        );
    }
}

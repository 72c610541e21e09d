//! One mistake must not reach everything at once: only so many apps of the environment are disrupted at the same time.

use super::app_budget::share;
use super::{Case, Gate, Judgement};
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "concurrency",
    group: 6,
    summary: "few enough apps of the environment are being disrupted",
    reasons: &[Reason::BudgetExhausted],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let used = u64::from(case.around.disrupting);
    let allowed = share(case.around.apps, case.policy.budget.concurrent_permille);
    let (value, limit) = (Fact::Count(used), Fact::Count(allowed));
    if !case.disrupts() || case.is_human() || used < allowed {
        Judgement::pass(value, limit)
    } else {
        Judgement::refuse(Reason::BudgetExhausted, value, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{Scene, check, pass, refuse};

    fn of(s: &mut Scene, apps: u32, disrupting: u32) {
        s.hang();
        s.around.apps = apps;
        s.around.disrupting = disrupting;
    }

    #[test]
    fn a_twentieth_may_be_disrupted_and_always_one() {
        let spent = || refuse(Reason::BudgetExhausted);
        check(
            &GATE,
            &[
                ("the first of one", |s| of(s, 1, 0), pass().limit(Fact::Count(1))),
                ("the second of 39", |s| of(s, 39, 1), spent().value(Fact::Count(1))),
                ("the second of 40", |s| of(s, 40, 1), pass().limit(Fact::Count(2))),
                ("the third of 40", |s| of(s, 40, 2), spent()),
                (
                    "starting what is down costs nothing",
                    |s| s.around.disrupting = 9,
                    pass().value(Fact::Count(9)),
                ),
                (
                    "more instances cost nothing",
                    |s| {
                        of(s, 1, 9);
                        s.propose(Action::ScaleUp);
                    },
                    pass(),
                ),
                (
                    "a human is not restrained",
                    |s| {
                        of(s, 1, 9);
                        s.human();
                    },
                    pass(),
                ),
            ],
        );
    }
}

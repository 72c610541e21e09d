//! Mistakes must not add up either: only so many disruptions of the environment within an hour. Starting what is down is none.

use super::{Case, Gate, Judgement};
use crate::app::Millis;
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "hourly",
    group: 6,
    summary: "few enough effects in the environment within the last hour",
    reasons: &[Reason::BudgetExhausted],
    judge,
};

const HOUR: Millis = 3_600_000;

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let (used, allowed) = (case.around.effects_last_hour, case.policy.budget.per_hour);
    let (value, limit) = (Fact::Count(u64::from(used)), Fact::Count(u64::from(allowed)));
    if !case.disrupts() || case.is_human() || used < allowed {
        return Judgement::pass(value, limit);
    }
    let refused = Judgement::refuse(Reason::BudgetExhausted, value, limit);
    // With more than allowed, the oldest leaving is not enough, and nothing here knows the next ones.
    let oldest = case.around.oldest_effect_at.filter(|_| used == allowed);
    let leaves = oldest.map(|oldest| oldest.saturating_add(HOUR));
    leaves.filter(|at| *at > case.now).map_or(refused.clone(), |at| refused.clears_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{MINUTE, NOW, Scene, check, pass, refuse};

    fn used(s: &mut Scene, effects: u32) {
        s.hang();
        s.around.effects_last_hour = effects;
        s.around.oldest_effect_at = Some(NOW - 50 * MINUTE);
    }

    #[test]
    fn disruptions_of_an_hour_are_numbered() {
        let spent = || refuse(Reason::BudgetExhausted).limit(Fact::Count(30));
        check(
            &GATE,
            &[
                ("none yet", |s| s.hang(), pass().value(Fact::Count(0))),
                ("one left", |s| used(s, 29), pass()),
                (
                    "none left",
                    |s| used(s, 30),
                    spent().value(Fact::Count(30)).clears(Some(NOW + 10 * MINUTE)),
                ),
                ("a smaller budget than what was used", |s| used(s, 31), spent().clears(None)),
                (
                    "starting what is down costs nothing",
                    |s| s.around.effects_last_hour = 30,
                    pass(),
                ),
                (
                    "more instances cost nothing",
                    |s| {
                        used(s, 30);
                        s.propose(Action::ScaleUp);
                    },
                    pass(),
                ),
                (
                    "a human is not restrained",
                    |s| {
                        used(s, 30);
                        s.human();
                    },
                    pass(),
                ),
            ],
        );
    }
}

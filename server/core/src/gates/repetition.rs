//! Repeating what did not help is a loop: so many identical actions within the window, and the next one waits until the oldest has
//! left it. Only what the agent itself executed counts. At exactly `window` after an action it has left.

use super::{Case, Gate, Judgement, count};
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "repetition",
    group: 4,
    summary: "the same action did not run as often as the window allows",
    reasons: &[Reason::RepetitionSuppressed],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let (action, rule) = (case.proposal.action, &case.policy.repetition);
    let same = || case.executed_since(rule.window_ms).filter(|d| d.action == action);
    let seen = same().count();
    let limit = rule.limit as usize;
    let (value, bound) = (count(seen), Fact::Count(u64::from(rule.limit)));
    if case.is_human() || seen < limit {
        return Judgement::pass(value, bound);
    }
    let refused = Judgement::refuse(Reason::RepetitionSuppressed, value, bound);
    match same().nth(seen - limit) {
        Some(oldest) => refused.clears_at(oldest.at.saturating_add(rule.window_ms)),
        // A limit of zero never clears.
        None => refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::app::Millis;
    use crate::gates::scene::{MINUTE, NOW, Scene, check, pass, refuse};

    const WINDOW: Millis = 15 * MINUTE;

    fn restarts(s: &mut Scene, ago: &[Millis]) {
        for ago in ago {
            s.remember(Action::Restart, *ago, None);
        }
    }

    #[test]
    fn three_are_allowed_and_the_fourth_waits() {
        let suppressed = || refuse(Reason::RepetitionSuppressed);
        check(
            &GATE,
            &[
                ("none", |_| {}, pass().value(Fact::Count(0)).limit(Fact::Count(3))),
                ("two", |s| restarts(s, &[20, 10]), pass().value(Fact::Count(2))),
                (
                    "three",
                    |s| restarts(s, &[30, 20, 10]),
                    suppressed().value(Fact::Count(3)).clears(Some(NOW - 30 + WINDOW)),
                ),
                (
                    "four clear when the second oldest leaves",
                    |s| restarts(s, &[40, 30, 20, 10]),
                    suppressed().value(Fact::Count(4)).clears(Some(NOW - 30 + WINDOW)),
                ),
                (
                    "the oldest leaves in a millisecond",
                    |s| restarts(s, &[WINDOW - 1, 20, 10]),
                    suppressed().clears(Some(NOW + 1)),
                ),
                ("the oldest has just left", |s| restarts(s, &[WINDOW, 20, 10]), pass()),
                (
                    "another action",
                    |s| {
                        restarts(s, &[30, 20, 10]);
                        s.propose(Action::ScaleUp);
                    },
                    pass(),
                ),
                (
                    "what was only decided does not count",
                    |s| {
                        restarts(s, &[30, 20, 10]);
                        s.app.decisions.iter_mut().for_each(|d| d.executed = false);
                    },
                    pass(),
                ),
                (
                    "what humans did does not count",
                    |s| {
                        restarts(s, &[30, 20, 10]);
                        s.app.decisions.iter_mut().for_each(|d| d.human = true);
                    },
                    pass(),
                ),
                (
                    "a human is not restrained",
                    |s| {
                        restarts(s, &[30, 20, 10]);
                        s.human();
                    },
                    pass().value(Fact::Count(3)),
                ),
                (
                    "a limit of zero never clears",
                    |s| s.policy.repetition.limit = 0,
                    suppressed().clears(None),
                ),
            ],
        );
    }
}

//! What failed before will fail again: more failures, or more identical actions, than the policy allows in the memory of one app
//! stop the agent until the oldest are forgotten. "More than": equality passes. Only what the agent itself executed counts.

use super::{Case, Gate, Judgement, count};
use crate::app::Millis;
use crate::reason::Reason;
use crate::state::{Outcome, Remembered};
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "memory",
    group: 5,
    summary: "the memory of the app holds neither too many failures nor too many equal actions",
    reasons: &[Reason::MemoryOverride],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let (action, rule) = (case.proposal.action, &case.policy.memory);
    let failed = tally(case, rule.failures, |d| d.outcome == Some(Outcome::Failed));
    let same = tally(case, rule.identical, |d| d.action == action);
    // The one with less headroom is the one worth telling.
    let headroom = |t: &Tally| i64::from(t.limit).saturating_sub(t.seen as i64);
    let worst = if headroom(&failed) <= headroom(&same) { &failed } else { &same };
    let (value, limit) = (count(worst.seen), Fact::Count(u64::from(worst.limit)));
    if case.is_human() || headroom(worst) >= 0 {
        return Judgement::pass(value, limit);
    }
    let refused = Judgement::refuse(Reason::MemoryOverride, value, limit);
    match failed.clears_at.max(same.clears_at) {
        Some(at) => refused.clears_at(at),
        None => refused,
    }
}

/// How many there are, and when they are few enough again; `None` while they are.
struct Tally {
    seen: usize,
    limit: u32,
    clears_at: Option<Millis>,
}

fn tally(case: &Case<'_>, limit: u32, counts: impl Fn(&Remembered) -> bool) -> Tally {
    let window = case.policy.memory.window_ms;
    let matching = || case.executed_since(window).filter(|d| counts(d));
    let seen = matching().count();
    // The last one that has to be forgotten.
    let excess = seen.checked_sub(limit as usize + 1);
    let last = excess.and_then(|excess| matching().nth(excess));
    Tally { seen, limit, clears_at: last.map(|d| d.at.saturating_add(window)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{MINUTE, NOW, Scene, check, pass, refuse};

    const WINDOW: Millis = 60 * MINUTE;

    fn failed(s: &mut Scene, ago: &[Millis]) {
        for ago in ago {
            s.remember(Action::ScaleUp, *ago, Some(Outcome::Failed));
        }
    }

    fn restarted(s: &mut Scene, ago: &[Millis]) {
        for ago in ago {
            s.remember(Action::Restart, *ago, Some(Outcome::Verified));
        }
    }

    #[test]
    fn too_many_failures_stop_every_action() {
        let stopped = || refuse(Reason::MemoryOverride);
        check(
            &GATE,
            &[
                ("none", |_| {}, pass().value(Fact::Count(0)).limit(Fact::Count(3))),
                ("as many as allowed", |s| failed(s, &[3, 2, 1]), pass().value(Fact::Count(3))),
                (
                    "one more",
                    |s| failed(s, &[4, 3, 2, 1]),
                    stopped().value(Fact::Count(4)).clears(Some(NOW - 4 + WINDOW)),
                ),
                (
                    "two more",
                    |s| failed(s, &[5, 4, 3, 2, 1]),
                    stopped().clears(Some(NOW - 4 + WINDOW)),
                ),
                (
                    "the oldest is forgotten in a millisecond",
                    |s| failed(s, &[WINDOW - 1, 3, 2, 1]),
                    stopped().clears(Some(NOW + 1)),
                ),
                ("the oldest is forgotten", |s| failed(s, &[WINDOW, 3, 2, 1]), pass()),
                (
                    "nobody can tell is no failure",
                    |s| {
                        failed(s, &[4, 3, 2, 1]);
                        s.app.decisions[0].outcome = Some(Outcome::Inconclusive);
                    },
                    pass(),
                ),
                (
                    "failures of humans do not count",
                    |s| {
                        failed(s, &[4, 3, 2, 1]);
                        s.app.decisions[0].human = true;
                    },
                    pass(),
                ),
                (
                    "humans are not restrained",
                    |s| {
                        failed(s, &[4, 3, 2, 1]);
                        s.human();
                    },
                    pass().value(Fact::Count(4)),
                ),
            ],
        );
    }

    #[test]
    fn too_many_equal_actions_stop_that_action() {
        let stopped = || refuse(Reason::MemoryOverride);
        check(
            &GATE,
            &[
                ("as many as allowed", |s| restarted(s, &[3, 2, 1]), pass()),
                ("one more", |s| restarted(s, &[4, 3, 2, 1]), stopped().value(Fact::Count(4))),
                (
                    "another action",
                    |s| {
                        restarted(s, &[4, 3, 2, 1]);
                        s.propose(Action::ScaleUp);
                    },
                    pass(),
                ),
                (
                    "both: the later end counts",
                    |s| {
                        failed(s, &[50, 40, 30, 20]);
                        restarted(s, &[9, 8, 7, 6]);
                    },
                    stopped().clears(Some(NOW - 9 + WINDOW)),
                ),
            ],
        );
    }
}

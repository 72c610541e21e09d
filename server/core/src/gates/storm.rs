//! When everything looks broken, the cause is not one app. In a storm nothing that runs is taken down, and what only starts
//! processes is paced (one canary, then 1-2-4 as they verify), so that a host that lost everything comes back without a stampede.
//! A storm counts from the moment its condition is met, recorded or not.

use super::{Case, Gate, Judgement};
use crate::policy::StormRule;
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "storm",
    group: 6,
    summary: "no large share of the environment is unhealthy, or the start has its turn",
    reasons: &[Reason::Storm],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let (around, rule) = (case.around, &case.policy.storm);
    let (value, limit) =
        (Fact::Count(u64::from(around.unhealthy)), Fact::Count(threshold(rule, around.apps)));
    let ramp = match &around.storm {
        Some(storm) => storm.ramp,
        None if is_storm(rule, around.unhealthy, around.apps) => 1,
        None => return Judgement::pass(value, limit),
    };
    let calm = around.storm.and_then(|storm| storm.calm_since);
    if case.is_human() {
        Judgement::pass(value, limit)
    } else if case.disrupts() {
        let refused = Judgement::refuse(Reason::Storm, value, limit);
        // Calm for long enough already: what is missing is the record that ends it, and that has no time.
        let ends = calm.map(|since| since.saturating_add(rule.exit_ms));
        ends.filter(|at| *at > case.now).map_or(refused.clone(), |at| refused.clears_at(at))
    } else {
        let (value, limit) = (Fact::Count(around.starting.into()), Fact::Count(ramp.into()));
        if around.starting < ramp {
            Judgement::pass(value, limit)
        } else {
            Judgement::refuse(Reason::Storm, value, limit)
        }
    }
}

/// Unhealthy apps at which a storm begins: the share of all apps rounded up, never below the minimum.
pub(crate) fn threshold(rule: &StormRule, apps: u32) -> u64 {
    let share = (u64::from(apps) * u64::from(rule.permille)).div_ceil(1_000);
    share.max(u64::from(rule.min_apps))
}

fn is_storm(rule: &StormRule, unhealthy: u32, apps: u32) -> bool {
    u64::from(unhealthy) >= threshold(rule, apps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{MINUTE, NOW, Scene, check, pass, refuse};
    use crate::state::Storm;

    fn unhealthy(s: &mut Scene, unhealthy: u32, apps: u32) {
        s.around.unhealthy = unhealthy;
        s.around.apps = apps;
    }

    fn storm(s: &mut Scene, ramp: u32, starting: u32) {
        s.around.storm = Some(Storm { since: NOW - MINUTE, calm_since: None, ramp });
        s.around.starting = starting;
    }

    #[test]
    fn a_storm_begins_at_three_tenths_and_at_three() {
        let stormy = || refuse(Reason::Storm);
        check(
            &GATE,
            &[
                (
                    "two of two",
                    |s| {
                        s.hang();
                        unhealthy(s, 2, 2);
                    },
                    pass(),
                ),
                (
                    "three of three",
                    |s| {
                        s.hang();
                        unhealthy(s, 3, 3);
                    },
                    stormy().value(Fact::Count(3)).limit(Fact::Count(3)),
                ),
                (
                    "five of twenty",
                    |s| {
                        s.hang();
                        unhealthy(s, 5, 20);
                    },
                    pass().limit(Fact::Count(6)),
                ),
                (
                    "six of twenty",
                    |s| {
                        s.hang();
                        unhealthy(s, 6, 20);
                    },
                    stormy(),
                ),
                (
                    "six of twenty-one: the share is rounded up",
                    |s| {
                        s.hang();
                        unhealthy(s, 6, 21);
                    },
                    pass().limit(Fact::Count(7)),
                ),
            ],
        );
    }

    #[test]
    fn in_a_storm_starts_are_paced_and_nothing_is_taken_down() {
        let stormy = || refuse(Reason::Storm);
        check(
            &GATE,
            &[
                (
                    "restarting what runs",
                    |s| {
                        s.hang();
                        storm(s, 4, 0);
                    },
                    stormy().clears(None),
                ),
                (
                    "the storm is calm for a while",
                    |s| {
                        s.hang();
                        storm(s, 4, 0);
                        s.around.storm.as_mut().unwrap().calm_since = Some(NOW - MINUTE);
                    },
                    stormy().clears(Some(NOW + 4 * MINUTE)),
                ),
                ("the first start", |s| storm(s, 1, 0), pass()),
                (
                    "the second start",
                    |s| storm(s, 1, 1),
                    stormy().value(Fact::Count(1)).limit(Fact::Count(1)),
                ),
                ("the second, as the first was verified", |s| storm(s, 2, 1), pass()),
                ("the third", |s| storm(s, 2, 2), stormy()),
                (
                    "more instances are paced too",
                    |s| {
                        s.propose(Action::ScaleUp);
                        storm(s, 1, 1);
                    },
                    stormy(),
                ),
                (
                    "paced although nobody recorded the storm yet",
                    |s| {
                        unhealthy(s, 3, 3);
                        s.around.starting = 1;
                    },
                    stormy(),
                ),
                (
                    "a human is not restrained",
                    |s| {
                        s.hang();
                        storm(s, 1, 1);
                        s.human();
                    },
                    pass(),
                ),
                (
                    "humans are told",
                    |s| {
                        s.passive(Action::Escalate);
                        storm(s, 1, 1);
                    },
                    pass(),
                ),
            ],
        );
    }
}

//! An action needs time to show its effect. Per (app, action); a restart waits twice as long at each repeat up to a cap, until the
//! app was healthy for long enough; and nothing is scaled down soon after it was scaled up. Elapsed equal to the cooldown passes.

use super::{Case, Gate, Judgement};
use crate::action::Action;
use crate::app::Millis;
use crate::reason::Reason;
use crate::state::LastEffect;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "cooldown",
    group: 4,
    summary: "the same action on this app is long enough ago",
    reasons: &[Reason::CooldownActive],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let (action, rule) = (case.proposal.action, &case.policy.cooldown);
    let last = case.app.last_effect.get(&action);
    let own = last.map(|last| (last.at, span(case, action, last)));
    let up = case.app.last_effect.get(&Action::ScaleUp).filter(|_| action == Action::ScaleDown);
    let after_up = up.map(|up| (up.at, rule.scale_down_after_up_ms));
    let end = |(at, span): (Millis, Millis)| at.saturating_add(span);
    // The one that ends last is the one that counts.
    let Some((at, span)) = own.into_iter().chain(after_up).max_by_key(|wait| end(*wait)) else {
        return Judgement::pass(Fact::None, Fact::Ms(case.policy.cooldown_ms(action)));
    };
    let (value, limit) = (Fact::Ms(case.now.saturating_sub(at)), Fact::Ms(span));
    let clears_at = end((at, span));
    if case.is_human() || case.now >= clears_at {
        Judgement::pass(value, limit)
    } else {
        Judgement::refuse(Reason::CooldownActive, value, limit).clears_at(clears_at)
    }
}

fn span(case: &Case<'_>, action: Action, last: &LastEffect) -> Millis {
    let (base, rule) = (case.policy.cooldown_ms(action), &case.policy.cooldown);
    if action != Action::Restart || case.app.was_healthy(rule.healthy_reset_ms, last.at, case.now) {
        return base;
    }
    let doublings = last.streak.saturating_sub(1).min(32);
    base.saturating_mul(1 << doublings).min(rule.restart_cap_ms.max(base))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::scene::{MINUTE, NOW, Scene, check, pass, refuse};
    use crate::state::Health;

    const RESTART: Millis = MINUTE;

    fn active() -> crate::gates::scene::Expect {
        refuse(Reason::CooldownActive)
    }

    #[test]
    fn an_action_waits_for_its_cooldown() {
        check(
            &GATE,
            &[
                ("for the first time", |_| {}, pass().limit(Fact::Ms(RESTART))),
                (
                    "just now",
                    |s| s.effect(Action::Restart, 0, 1),
                    active().value(Fact::Ms(0)).clears(Some(NOW + RESTART)),
                ),
                (
                    "one millisecond too early",
                    |s| s.effect(Action::Restart, RESTART - 1, 1),
                    active().value(Fact::Ms(RESTART - 1)).clears(Some(NOW + 1)),
                ),
                ("exactly then", |s| s.effect(Action::Restart, RESTART, 1), pass()),
                ("another action", |s| s.effect(Action::ScaleUp, 0, 1), pass()),
                (
                    "a human does not wait",
                    |s| {
                        s.effect(Action::Restart, 0, 1);
                        s.human();
                    },
                    pass().value(Fact::Ms(0)).limit(Fact::Ms(RESTART)),
                ),
                (
                    "an approved choice of the agent does",
                    |s| {
                        s.effect(Action::Restart, 0, 1);
                        s.grant();
                    },
                    active(),
                ),
                (
                    "no cooldown in the policy",
                    |s| {
                        s.policy.cooldown.base_ms.clear();
                        s.effect(Action::Restart, 0, 1);
                    },
                    pass(),
                ),
            ],
        );
    }

    #[test]
    fn a_restart_waits_longer_at_each_repeat() {
        let waits = [1, 2, 4, 8, 15, 15, 15].map(|minutes| minutes * MINUTE);
        for (streak, wait) in (1..).zip(waits) {
            for (ago, passes) in [(wait - 1, false), (wait, true)] {
                let mut scene = Scene::default();
                scene.effect(Action::Restart, ago, streak);
                let judged = (GATE.judge)(&scene.case());
                assert_eq!(judged.reason.is_none(), passes, "streak {streak}, {ago} ms ago");
                assert_eq!(judged.limit, Fact::Ms(wait));
            }
        }
        let mut scene = Scene::default();
        scene.effect(Action::Restart, 0, u32::MAX);
        assert_eq!((GATE.judge)(&scene.case()).limit, Fact::Ms(15 * MINUTE));
        scene.propose(Action::ScaleUp);
        scene.effect(Action::ScaleUp, 0, 5);
        assert_eq!((GATE.judge)(&scene.case()).limit, Fact::Ms(2 * MINUTE), "only restarts double");
    }

    #[test]
    fn health_ends_the_doubling() {
        fn crash_after(s: &mut Scene, healthy: Millis) {
            s.effect(Action::Restart, 12 * MINUTE, 5);
            s.health(Health::Healthy, MINUTE + healthy);
            s.health(Health::Degraded, MINUTE);
        }
        check(
            &GATE,
            &[
                ("not long enough", |s| crash_after(s, 10 * MINUTE - 1), active()),
                (
                    "just long enough",
                    |s| crash_after(s, 10 * MINUTE),
                    pass().limit(Fact::Ms(RESTART)),
                ),
                (
                    "and still healthy",
                    |s| {
                        s.effect(Action::Restart, 12 * MINUTE, 5);
                        s.health(Health::Healthy, 10 * MINUTE);
                    },
                    pass(),
                ),
                (
                    "health from before the restart does not count",
                    |s| {
                        s.effect(Action::Restart, 9 * MINUTE, 5);
                        s.health(Health::Healthy, 60 * MINUTE);
                    },
                    active(),
                ),
            ],
        );
    }

    #[test]
    fn scaling_down_waits_after_scaling_up() {
        fn down(s: &mut Scene, up: Millis, down: Option<Millis>) {
            s.propose(Action::ScaleDown);
            s.effect(Action::ScaleUp, up, 1);
            if let Some(ago) = down {
                s.effect(Action::ScaleDown, ago, 1);
            }
        }
        check(
            &GATE,
            &[
                (
                    "too soon",
                    |s| down(s, 10 * MINUTE - 1, None),
                    active().limit(Fact::Ms(10 * MINUTE)).clears(Some(NOW + 1)),
                ),
                ("exactly then", |s| down(s, 10 * MINUTE, None), pass()),
                (
                    "the later end counts",
                    |s| down(s, 9 * MINUTE, Some(MINUTE + MINUTE / 2)),
                    active().clears(Some(NOW + MINUTE)),
                ),
                (
                    "its own cooldown counts as well",
                    |s| down(s, 60 * MINUTE, Some(MINUTE)),
                    active().limit(Fact::Ms(2 * MINUTE)),
                ),
            ],
        );
    }
}

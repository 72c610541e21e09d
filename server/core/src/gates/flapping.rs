//! Acting on a condition that keeps changing amplifies it. While an app flaps, capacity stays high: nothing is scaled down, what
//! would disturb running instances is left to a human, and only what cannot make it worse goes on (starting what is down, more
//! instances, a wider threshold).

use super::{Case, Gate, Judgement};
use crate::action::Action;
use crate::detect::FindingKind;
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "flapping",
    group: 5,
    summary: "the condition of the app does not keep changing",
    reasons: &[Reason::Flapping],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let rule = &case.policy.stability;
    let Some(flapping) = case.finding(FindingKind::Flapping) else {
        return Judgement::pass(Fact::Flag(false), Fact::Flag(false));
    };
    let (value, limit) = (flapping.value.clone(), flapping.limit.clone());
    let harmless = case.is_start()
        || matches!(case.proposal.action, Action::ScaleUp | Action::AdjustThresholds);
    if harmless || case.is_human() {
        return Judgement::pass(value, limit);
    }
    let blocked = match case.proposal.action {
        Action::ScaleDown => Judgement::refuse(Reason::Flapping, value, limit),
        _ if case.proposal.grant.is_some() => return Judgement::pass(value, limit),
        _ => Judgement::hold(Reason::Flapping, value, limit),
    };
    let ends = case.app.states.back().map(|last| last.at.saturating_add(rule.flap_exit_ms));
    ends.filter(|at| *at > case.now).map_or(blocked.clone(), |at| blocked.clears_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::scene::{MINUTE, NOW, Scene, check, hold, pass, refuse};
    use crate::state::Health;

    fn flaps(s: &mut Scene, action: Action) {
        s.hang();
        s.propose(action);
        s.also(FindingKind::Flapping);
    }

    #[test]
    fn a_flapping_app_is_not_pushed() {
        let held = || hold(Reason::Flapping);
        check(
            &GATE,
            &[
                ("a steady one", |s| s.hang(), pass()),
                ("restart what runs", |s| flaps(s, Action::Restart), held()),
                ("go back", |s| flaps(s, Action::Rollback), held()),
                ("fewer instances", |s| flaps(s, Action::ScaleDown), refuse(Reason::Flapping)),
                ("more instances", |s| flaps(s, Action::ScaleUp), pass()),
                ("a wider threshold", |s| flaps(s, Action::AdjustThresholds), pass()),
                ("start what is down", |s| s.also(FindingKind::Flapping), pass()),
                (
                    "a human approved the restart",
                    |s| {
                        flaps(s, Action::Restart);
                        s.grant();
                    },
                    pass(),
                ),
                (
                    "nobody can approve fewer instances",
                    |s| {
                        flaps(s, Action::ScaleDown);
                        s.grant();
                    },
                    refuse(Reason::Flapping),
                ),
                (
                    "a human may",
                    |s| {
                        flaps(s, Action::ScaleDown);
                        s.human();
                    },
                    pass(),
                ),
                (
                    "it ends when nothing has changed for long enough",
                    |s| {
                        flaps(s, Action::Restart);
                        s.health(Health::Degraded, 5 * MINUTE);
                    },
                    held().clears(Some(NOW + 10 * MINUTE)),
                ),
            ],
        );
    }
}

//! Doing nothing is the safe default: the agent acts only when it is sure enough that acting beats it, and surer the more it risks.
//! The minimum is the policy's for the risk class, never below the compiled floor. Equality passes.

use super::{Case, Gate, Judgement};
use crate::action::Risk;
use crate::choose::evidence;
use crate::detect::View;
use crate::policy;
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "confidence",
    group: 5,
    summary: "the agent is sure enough that acting beats doing nothing",
    reasons: &[Reason::UncertaintyNoop],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let minimum = minimum(case);
    let value = Fact::Permille(case.proposal.confidence);
    let limit = Fact::Permille(minimum);
    if case.is_human() || case.proposal.confidence >= minimum {
        Judgement::pass(value, limit)
    } else {
        Judgement::refuse(Reason::UncertaintyNoop, value, limit)
    }
}

fn minimum(case: &Case<'_>) -> u32 {
    case.policy.confidence.minimum(risk(case)).max(policy::Confidence::FLOOR)
}

/// Whether doubt about what would help has lasted for longer than the policy's patience, while there is none about what is wrong: it
/// is not for the agent to end that, and waiting longer is no plan. Of a storm humans are told once for all apps.
pub(super) fn is_overdue(case: &Case<'_>) -> bool {
    let Case { app, policy, reading, now, .. } = *case;
    let answered = case.proposal.because.first();
    let lasts =
        answered.and_then(|kind| app.open.get(kind)).map(|open| now.saturating_sub(open.since));
    let patience = policy.confidence.patience_ms;
    let view = View { app, policy, reading, now };
    let finding = answered.and_then(|kind| case.finding(*kind));
    patience.zip(lasts).is_some_and(|(patience, lasts)| lasts >= patience)
        && case.around.storm.is_none()
        && finding.is_some_and(|finding| evidence(&view, finding) >= minimum(case))
}

/// A restart that takes the last running instance down risks as much as one of the only instance.
fn risk(case: &Case<'_>) -> Risk {
    let left = if case.disrupts() { case.app.running() } else { case.app.desired };
    case.proposal.action.risk(case.app.desired.min(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::app::Millis;
    use crate::detect::FindingKind;
    use crate::gates::enforce;
    use crate::gates::scene::{MINUTE, NOW, Scene, check, pass, refuse};
    use crate::state::{Open, Storm};
    use crate::verdict::Ruling;

    const HOUR: Millis = 60 * MINUTE;

    fn sure(s: &mut Scene, action: Action, permille: u32) {
        s.propose(action);
        s.proposal.confidence = permille;
    }

    #[test]
    fn the_agent_is_surer_the_more_it_risks() {
        let unsure = || refuse(Reason::UncertaintyNoop);
        check(
            &GATE,
            &[
                ("R1, equal", |s| sure(s, Action::ScaleUp, 600), pass()),
                (
                    "R1, below",
                    |s| sure(s, Action::ScaleUp, 599),
                    unsure().value(Fact::Permille(599)).limit(Fact::Permille(600)),
                ),
                ("one of four, equal", |s| sure(s, Action::Restart, 600), pass()),
                ("one of four, below", |s| sure(s, Action::Restart, 599), unsure()),
                ("R2, equal", |s| sure(s, Action::ScaleDown, 700), pass()),
                ("R2, below", |s| sure(s, Action::ScaleDown, 699), unsure()),
                ("R3, equal", |s| sure(s, Action::Rollback, 800), pass()),
                ("R3, below", |s| sure(s, Action::Rollback, 799), unsure()),
                (
                    "the only instance is R2",
                    |s| {
                        s.only_instance();
                        sure(s, Action::Restart, 699);
                    },
                    unsure().limit(Fact::Permille(700)),
                ),
                (
                    "the last running instance is R2",
                    |s| {
                        s.hang();
                        s.kill(&[0, 1, 2]);
                        sure(s, Action::Restart, 699);
                    },
                    unsure().limit(Fact::Permille(700)),
                ),
                (
                    "the floor holds whatever the policy says",
                    |s| {
                        s.policy.confidence.r1 = 0;
                        sure(s, Action::ScaleUp, 499);
                    },
                    unsure().limit(Fact::Permille(500)),
                ),
                (
                    "the floor, equal",
                    |s| {
                        s.policy.confidence.r1 = 0;
                        sure(s, Action::ScaleUp, 500);
                    },
                    pass(),
                ),
                (
                    "a human is sure",
                    |s| {
                        sure(s, Action::Rollback, 0);
                        s.human();
                    },
                    pass().value(Fact::Permille(0)),
                ),
            ],
        );
    }

    /// What is done instead of starting what crashed that long ago, which the agent doubts would help.
    fn instead(ago: Millis, change: fn(&mut Scene)) -> Action {
        let mut scene = Scene::default();
        sure(&mut scene, Action::Restart, 599);
        let since = NOW - ago;
        scene.app.open.insert(FindingKind::Crash, Open { since, seq: 1 });
        change(&mut scene);
        match enforce(&scene.case(), 7).ruling {
            Ruling::Refused { reason: Reason::UncertaintyNoop, instead } => instead,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn doubt_that_lasts_is_told_to_humans_where_there_is_none_about_what_is_wrong() {
        assert_eq!(instead(8 * MINUTE - 1, |_| {}), Action::Noop);
        assert_eq!(instead(8 * MINUTE, |_| {}), Action::Escalate);
        let unclear = |s: &mut Scene| s.findings[0].persistence = 599;
        assert_eq!(instead(HOUR, unclear), Action::Noop, "that it is wrong is in doubt too");
        let storm =
            |s: &mut Scene| s.around.storm = Some(Storm { since: NOW, calm_since: None, ramp: 1 });
        assert_eq!(instead(HOUR, storm), Action::Noop, "they heard of all apps");
        let gone = |s: &mut Scene| s.app.open.clear();
        assert_eq!(instead(HOUR, gone), Action::Noop, "a suspicion");
        let old = |s: &mut Scene| s.policy.confidence.patience_ms = None;
        assert_eq!(instead(HOUR, old), Action::Noop, "a policy from before there was a patience");
    }
}

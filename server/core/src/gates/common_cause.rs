//! One cause deserves one experiment: when several apps show the same finding at once, one canary is tried first and the others
//! follow as it (and those behind it) turn out well. After one that was tried in vain the next one has its turn a while later, so an
//! app that is broken by itself keeps no other one down, and an outage gets one effect per such while.

use super::{Case, Gate, Judgement, words};
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "common_cause",
    group: 6,
    summary: "the finding is this app's alone, or it is this app's turn",
    reasons: &[Reason::CommonCause],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let shared = case.around.canary.as_ref();
    let Some(cause) = shared.filter(|cause| case.proposal.because.contains(&cause.kind)) else {
        return Judgement::pass(words("no common cause"), Fact::None);
    };
    let over = cause.until.is_some_and(|until| until <= case.now);
    if case.is_human() || over || cause.position <= cause.allowance {
        let (place, turn) = (u64::from(cause.position), u64::from(cause.allowance));
        return Judgement::pass(Fact::Count(place), Fact::Count(turn));
    }
    let value = Fact::Text(cause.first.to_string().into());
    let waits = Judgement::refuse(Reason::CommonCause, value, Fact::Count(cause.allowance.into()));
    cause.until.map_or(waits.clone(), |until| waits.clears_at(until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::AppName;
    use crate::detect::FindingKind;
    use crate::gates::CommonCause;
    use crate::gates::scene::{NOW, Scene, check, pass, refuse};

    fn shared(s: &mut Scene, position: u32, allowance: u32) {
        s.around.canary = Some(CommonCause {
            kind: FindingKind::Crash,
            apps: 5,
            first: AppName::parse("api").unwrap(),
            allowance,
            position,
            until: None,
        });
    }

    fn until(s: &mut Scene, until: crate::app::Millis) {
        shared(s, 1, 0);
        s.around.canary.as_mut().unwrap().until = Some(until);
    }

    #[test]
    fn the_canary_goes_first_and_the_others_follow() {
        let waits = || refuse(Reason::CommonCause).value(Fact::Text("api".into()));
        check(
            &GATE,
            &[
                ("alone", |_| {}, pass()),
                ("the canary", |s| shared(s, 0, 0), pass()),
                ("the next", |s| shared(s, 1, 0), waits().limit(Fact::Count(0))),
                ("the next, as the canary was verified", |s| shared(s, 1, 1), pass()),
                ("the one after", |s| shared(s, 2, 1), waits()),
                (
                    "the canary was tried in vain just now",
                    |s| until(s, NOW + 1),
                    waits().clears(Some(NOW + 1)),
                ),
                ("and now a while ago", |s| until(s, NOW), pass()),
                (
                    "it answers another finding",
                    |s| {
                        shared(s, 4, 0);
                        s.proposal.because = vec![FindingKind::CpuOverload];
                    },
                    pass(),
                ),
                (
                    "a human is not restrained",
                    |s| {
                        shared(s, 4, 0);
                        s.human();
                    },
                    pass(),
                ),
            ],
        );
    }
}

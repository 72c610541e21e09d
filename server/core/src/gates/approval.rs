//! Where the level asks for a human, a human who did not ask for it says yes to exactly this plan, in time. An approval that does
//! not hold refuses even where none is needed. At `expires_at` it is too late.

use super::autonomy::{Needs, needs};
use super::{Case, Gate, Judgement, words};
use crate::action::Level;
use crate::choose::Grant;
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "approval",
    group: 7,
    summary: "a human approved exactly this plan where the level asks for it",
    reasons: &[Reason::ApprovalRequired, Reason::ApprovalExpired, Reason::PlanChanged],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    if let Some(grant) = &case.proposal.grant {
        return judge_grant(case, grant);
    }
    let (level, needs) = needs(case);
    match needs {
        Needs::AHuman => {
            let limit = words("approved by a human");
            Judgement::hold(Reason::ApprovalRequired, Fact::Level(level), limit)
        }
        Needs::Nobody | Needs::AnotherPolicy => {
            Judgement::pass(Fact::Level(level), Fact::Level(Level::Auto))
        }
    }
}

fn judge_grant(case: &Case<'_>, grant: &Grant) -> Judgement {
    if case.now >= grant.expires_at {
        let (value, limit) = (Fact::At(case.now), Fact::At(grant.expires_at));
        return Judgement::refuse(Reason::ApprovalExpired, value, limit).imposed();
    }
    let digest = case.proposal.plan.as_ref().map(|plan| plan.digest(case.policy_digest));
    if digest.as_ref() != Some(&grant.plan_digest) {
        let value = digest.map_or(words("no plan"), |digest| Fact::Text(digest.into()));
        let limit = Fact::Text(grant.plan_digest.clone().into());
        return Judgement::refuse(Reason::PlanChanged, value, limit).imposed();
    }
    if grant.approver == grant.requester || grant.approver.is_empty() || asked(case, grant) {
        let value = words("approved by who asked for it");
        let limit = words("approved by somebody else");
        return Judgement::refuse(Reason::ApprovalRequired, value, limit).imposed();
    }
    Judgement::pass(words("approved"), Fact::At(grant.expires_at))
}

/// Whether the approver is who asked, whatever the grant says.
fn asked(case: &Case<'_>, grant: &Grant) -> bool {
    use crate::choose::Source;
    match &case.proposal.source {
        Source::Agent => false,
        Source::Human { principal, .. } | Source::Other { principal } => {
            *principal == grant.approver
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{NOW, Scene, check, hold, pass, refuse};

    fn grant(s: &mut Scene) -> &mut Grant {
        s.propose(Action::Rollback);
        s.grant();
        s.proposal.grant.as_mut().unwrap()
    }

    #[test]
    fn a_human_says_yes_to_exactly_this_plan_in_time() {
        check(
            &GATE,
            &[
                ("none needed", |_| {}, pass()),
                (
                    "needed and not there",
                    |s| s.propose(Action::Rollback),
                    hold(Reason::ApprovalRequired).value(Fact::Level(Level::Propose)),
                ),
                ("needed and there", |s| _ = grant(s), pass()),
                ("at the last moment", |s| grant(s).expires_at = NOW + 1, pass()),
                (
                    "a moment too late",
                    |s| grant(s).expires_at = NOW,
                    refuse(Reason::ApprovalExpired).imposed().limit(Fact::At(NOW)),
                ),
                (
                    "another plan",
                    |s| {
                        grant(s);
                        s.app.desired = 3;
                        let plan = s.proposal.plan.as_mut().unwrap();
                        plan.operation =
                            crate::plan::Operation::Rollback { from: 2, to: 1, instances: 3 };
                    },
                    refuse(Reason::PlanChanged).imposed(),
                ),
                (
                    "another policy",
                    |s| {
                        grant(s);
                        s.policy_digest = "another".to_owned();
                    },
                    refuse(Reason::PlanChanged).imposed(),
                ),
                (
                    "no plan any more",
                    |s| {
                        grant(s);
                        s.proposal.plan = None;
                    },
                    refuse(Reason::PlanChanged).imposed().value(words("no plan")),
                ),
            ],
        );
    }

    #[test]
    fn who_asked_cannot_approve() {
        check(
            &GATE,
            &[
                (
                    "who asked approves",
                    |s| grant(s).approver = "agent".to_owned(),
                    refuse(Reason::ApprovalRequired).imposed(),
                ),
                (
                    "who asked approves, and hides it",
                    |s| {
                        grant(s);
                        s.human_named("bob");
                    },
                    refuse(Reason::ApprovalRequired).imposed(),
                ),
                (
                    "nobody approves",
                    |s| grant(s).approver.clear(),
                    refuse(Reason::ApprovalRequired).imposed(),
                ),
                (
                    "a bad approval refuses where none is needed",
                    |s| {
                        s.grant();
                        s.proposal.grant.as_mut().unwrap().expires_at = NOW;
                    },
                    refuse(Reason::ApprovalExpired).imposed(),
                ),
            ],
        );
    }
}

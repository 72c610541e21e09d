//! Who may propose: the agent itself or an authenticated human. Monitors report, they never act, and nobody but a human can
//! ask for a deployment.

use super::{Case, Gate, Judgement, words};
use crate::choose::Source;
use crate::reason::Reason;

pub(super) const GATE: Gate = Gate {
    id: "source",
    group: 1,
    summary: "the proposal comes from the agent or an authenticated human",
    reasons: &[Reason::RlIntakeValidated, Reason::SourceRefused],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    let proposal = case.proposal;
    let limit = words("the agent or a human");
    match &proposal.source {
        // One with a grant is one that a human asked for and another one approved.
        Source::Agent if !proposal.action.is_selectable() && proposal.grant.is_none() => {
            Judgement::refuse(Reason::SourceRefused, words("agent"), words("a human")).imposed()
        }
        Source::Agent => Judgement::pass(words("agent"), limit).saying(Reason::RlIntakeValidated),
        Source::Human { principal, .. } if !principal.is_empty() => {
            Judgement::pass(words("human"), limit).saying(Reason::RlIntakeValidated)
        }
        Source::Human { .. } => {
            let value = words("a human without a name");
            Judgement::refuse(Reason::SourceRefused, value, limit).imposed()
        }
        Source::Other { .. } => {
            let value = words("neither the agent nor a human");
            Judgement::refuse(Reason::SourceRefused, value, limit).imposed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{check, pass, refuse};

    #[test]
    fn only_the_agent_and_humans_propose() {
        let refused = || refuse(Reason::SourceRefused).imposed();
        check(
            &GATE,
            &[
                ("the agent", |_| {}, pass().saying(Reason::RlIntakeValidated)),
                ("a human", |s| s.human(), pass().saying(Reason::RlIntakeValidated)),
                ("a human nobody knows", |s| s.human_named(""), refused()),
                ("a monitor", |s| s.monitor(), refused()),
                (
                    "a monitor that asks for nothing",
                    |s| {
                        s.passive(Action::Noop);
                        s.monitor();
                    },
                    refused(),
                ),
                ("the agent deploys", |s| s.propose(Action::Deploy), refused()),
                (
                    "the agent carries out an approved deployment",
                    |s| {
                        s.propose(Action::Deploy);
                        s.grant();
                    },
                    pass(),
                ),
                (
                    "a human deploys",
                    |s| {
                        s.propose(Action::Deploy);
                        s.human();
                    },
                    pass(),
                ),
            ],
        );
    }
}

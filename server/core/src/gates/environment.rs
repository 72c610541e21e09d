//! Environments are isolated by construction: rules of one environment never judge in another.

use super::{Case, Gate, Judgement, words};
use crate::reason::Reason;

pub(super) const GATE: Gate = Gate {
    id: "environment",
    group: 3,
    summary: "the policy is the one of the environment this server serves",
    reasons: &[Reason::ProdSafetyBlock],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let (value, limit) = (words(case.policy.env.as_str()), words(case.around.env.as_str()));
    if case.policy.env == case.around.env {
        Judgement::pass(value, limit)
    } else {
        Judgement::refuse(Reason::ProdSafetyBlock, value, limit).imposed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Env;
    use crate::gates::scene::{check, pass, refuse};

    #[test]
    fn rules_of_one_environment_do_not_judge_in_another() {
        let refused = || refuse(Reason::ProdSafetyBlock).imposed();
        check(
            &GATE,
            &[
                ("the same", |_| {}, pass()),
                (
                    "rules of dev in prod",
                    |s| {
                        s.policy.env = Env::Dev;
                        s.around.env = Env::Prod;
                    },
                    refused().value(words("dev")).limit(words("prod")),
                ),
                (
                    "for a human too",
                    |s| {
                        s.policy.env = Env::Dev;
                        s.human();
                    },
                    refused(),
                ),
            ],
        );
    }
}

//! Dry run is inert by definition: everything is decided and recorded, nothing is touched, whoever asks.

use super::{Case, Gate, Judgement};
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "dry_run",
    group: 2,
    summary: "the server does not run dry",
    reasons: &[Reason::DryRun],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let (value, limit) = (Fact::Flag(case.around.dry_run), Fact::Flag(false));
    if case.around.dry_run {
        Judgement::refuse(Reason::DryRun, value, limit).imposed()
    } else {
        Judgement::pass(value, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{check, pass, refuse};

    #[test]
    fn a_dry_run_touches_nothing() {
        let dry = || refuse(Reason::DryRun).imposed();
        check(
            &GATE,
            &[
                ("a real run", |_| {}, pass()),
                ("the agent", |s| s.around.dry_run = true, dry()),
                (
                    "a human",
                    |s| {
                        s.around.dry_run = true;
                        s.human();
                    },
                    dry(),
                ),
                (
                    "an approval",
                    |s| {
                        s.around.dry_run = true;
                        s.grant();
                    },
                    dry(),
                ),
                (
                    "observing touches nothing",
                    |s| {
                        s.around.dry_run = true;
                        s.passive(Action::Observe);
                    },
                    pass(),
                ),
            ],
        );
    }
}

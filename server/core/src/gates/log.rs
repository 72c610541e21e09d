//! Recorded before acted: while the proof log cannot be written, nothing is done, whoever asks.

use super::{Case, Gate, Judgement, words};
use crate::reason::Reason;

pub(super) const GATE: Gate = Gate {
    id: "log",
    group: 2,
    summary: "the proof log can be written",
    reasons: &[Reason::LogUnavailable],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let limit = words("writable");
    if case.around.log_writable {
        Judgement::pass(words("writable"), limit)
    } else {
        Judgement::refuse(Reason::LogUnavailable, words("not writable"), limit).imposed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::gates::scene::{check, pass, refuse};

    #[test]
    fn what_cannot_be_recorded_is_not_done() {
        let refused = || refuse(Reason::LogUnavailable).imposed();
        check(
            &GATE,
            &[
                ("it can be written", |_| {}, pass()),
                ("it cannot", |s| s.around.log_writable = false, refused()),
                (
                    "a human asks",
                    |s| {
                        s.around.log_writable = false;
                        s.human();
                    },
                    refused(),
                ),
                (
                    "nothing is to be done",
                    |s| {
                        s.around.log_writable = false;
                        s.passive(Action::Noop);
                    },
                    pass(),
                ),
            ],
        );
    }
}

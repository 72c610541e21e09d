//! The kill switch: while a pause or halt covers the environment, the app or the action, there is no new effect, whoever asks.
//! A pause with an end is over at that moment, not one later.

use super::{Case, Gate, Judgement, words};
use crate::reason::Reason;
use crate::state::{Pause, Scope};

pub(super) const GATE: Gate = Gate {
    id: "pause",
    group: 2,
    summary: "no pause or halt covers this environment, app or action",
    reasons: &[Reason::Paused, Reason::Halted],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() || case.is_settings() {
        return Judgement::not_applicable();
    }
    let limit = words("not paused");
    let active = || case.around.pauses.iter().filter(|pause| covers(pause, case));
    // A halt outranks a pause, and the widest scope is the one worth telling.
    let Some(worst) = active().min_by_key(|pause| (!pause.halt, &pause.scope)) else {
        return Judgement::pass(words("not paused"), limit);
    };
    let reason = if worst.halt { Reason::Halted } else { Reason::Paused };
    let value = words(match worst.scope {
        Scope::Env => "environment",
        Scope::App(_) => "app",
        Scope::Action(_) => "action",
    });
    let refused = Judgement::refuse(reason, value, limit).imposed();
    // It clears by itself only if every pause that covers it does.
    let ends = active().map(|pause| pause.until).try_fold(0, |last, until| Some(last.max(until?)));
    ends.map_or(refused.clone(), |at| refused.clears_at(at))
}

fn covers(pause: &Pause, case: &Case<'_>) -> bool {
    let open = pause.until.is_none_or(|until| case.now < until);
    open && match &pause.scope {
        Scope::Env => true,
        Scope::App(app) => *app == case.app.profile.name,
        Scope::Action(action) => *action == case.proposal.action,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::app::AppName;
    use crate::gates::scene::{NOW, check, pass, refuse};

    #[test]
    fn the_kill_switch_covers_its_scope_until_its_end() {
        let paused = || refuse(Reason::Paused).imposed();
        check(
            &GATE,
            &[
                ("nothing is paused", |_| {}, pass()),
                (
                    "the environment",
                    |s| s.paused(Scope::Env, false, None),
                    paused().value(words("environment")).clears(None),
                ),
                (
                    "this app",
                    |s| s.paused(Scope::App(AppName::parse("web").unwrap()), false, None),
                    paused().value(words("app")),
                ),
                (
                    "another app",
                    |s| s.paused(Scope::App(AppName::parse("db").unwrap()), false, None),
                    pass(),
                ),
                (
                    "this action",
                    |s| s.paused(Scope::Action(Action::Restart), false, None),
                    paused().value(words("action")),
                ),
                (
                    "another action",
                    |s| s.paused(Scope::Action(Action::Rollback), false, None),
                    pass(),
                ),
                (
                    "a human is stopped as well",
                    |s| {
                        s.paused(Scope::Env, false, None);
                        s.human();
                    },
                    paused(),
                ),
                (
                    "an approval does not lift it",
                    |s| {
                        s.paused(Scope::Env, false, None);
                        s.grant();
                    },
                    paused(),
                ),
                (
                    "nothing is always possible",
                    |s| {
                        s.paused(Scope::Env, true, None);
                        s.passive(Action::Escalate);
                    },
                    pass(),
                ),
            ],
        );
    }

    #[test]
    fn it_ends_with_the_last_pause_that_covers_it() {
        let paused = || refuse(Reason::Paused).imposed();
        check(
            &GATE,
            &[
                (
                    "one millisecond before its end",
                    |s| s.paused(Scope::Env, false, Some(NOW + 1)),
                    paused().clears(Some(NOW + 1)),
                ),
                ("at its end", |s| s.paused(Scope::Env, false, Some(NOW)), pass()),
                (
                    "the later end counts",
                    |s| {
                        s.paused(Scope::Env, false, Some(NOW + 5));
                        s.paused(Scope::Action(Action::Restart), false, Some(NOW + 9));
                    },
                    paused().clears(Some(NOW + 9)),
                ),
                (
                    "one without end has no end",
                    |s| {
                        s.paused(Scope::Env, false, Some(NOW + 5));
                        s.paused(Scope::Action(Action::Restart), false, None);
                    },
                    paused().clears(None),
                ),
                (
                    "a halt outranks a pause",
                    |s| {
                        s.paused(Scope::Env, false, None);
                        s.paused(Scope::Action(Action::Restart), true, None);
                    },
                    refuse(Reason::Halted).imposed().value(words("action")),
                ),
            ],
        );
    }
}

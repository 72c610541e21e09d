//! While a maintenance window is open, humans are working on the app and nothing is done to it, whoever asks. A window is open from
//! its start until just before its end; one that cannot be read counts as open.

use super::{Case, Gate, Judgement, words};
use crate::policy::Window;
use crate::reason::Reason;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "maintenance",
    group: 4,
    summary: "no maintenance window is open for the app",
    reasons: &[Reason::MaintenanceWindow],
    judge,
};

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() || case.is_settings() {
        return Judgement::not_applicable();
    }
    let name = &case.app.profile.name;
    let limit = words("no open window");
    let mut worst: Option<(&Window, Option<u64>)> = None;
    for window in case.policy.windows.iter().chain(&case.app.profile.windows) {
        let concerned = window.apps.is_empty() || window.apps.contains(name);
        let span = window.span(case.now);
        let open = span.is_none_or(|(start, end)| start <= case.now && case.now < end);
        if !concerned || !open {
            continue;
        }
        let end = span.map(|(_, end)| end);
        // A window without a readable end is the last one to clear.
        let later = |(_, known): &(&Window, Option<u64>)| {
            end.map_or((1, 0), |end| (0, end)) > known.map_or((1, 0), |end| (0, end))
        };
        if worst.as_ref().is_none_or(later) {
            worst = Some((window, end));
        }
    }
    let Some((window, end)) = worst else {
        return Judgement::pass(words("no open window"), limit);
    };
    let value = Fact::Text(window.name.clone().into());
    let limit = end.map_or(words("a window that cannot be read"), Fact::At);
    let refused = Judgement::refuse(Reason::MaintenanceWindow, value, limit).imposed();
    end.map_or(refused.clone(), |end| refused.clears_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::app::AppName;
    use crate::gates::scene::{MINUTE, NOW, Scene, check, pass, refuse};

    fn window(s: &mut Scene, start: &str, end: &str) {
        s.policy.windows.push(Window {
            name: format!("until {end}"),
            start: start.to_owned(),
            end: Some(end.to_owned()),
            every_ms: None,
            apps: Vec::new(),
        });
    }

    #[test]
    fn humans_at_work_are_not_disturbed() {
        // NOW is 2026-01-01T00:00:00Z.
        let open = || refuse(Reason::MaintenanceWindow).imposed();
        check(
            &GATE,
            &[
                ("no window", |_| {}, pass()),
                (
                    "it opens this very moment",
                    |s| window(s, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
                    open().limit(Fact::At(NOW + MINUTE)).clears(Some(NOW + MINUTE)),
                ),
                (
                    "it opens in a moment",
                    |s| window(s, "2026-01-01T00:00:00.001Z", "2026-01-01T00:01:00Z"),
                    pass(),
                ),
                (
                    "it closes in a moment",
                    |s| window(s, "2025-12-31T23:00:00Z", "2026-01-01T00:00:00.001Z"),
                    open(),
                ),
                (
                    "it closes this very moment",
                    |s| window(s, "2025-12-31T23:00:00Z", "2026-01-01T00:00:00Z"),
                    pass(),
                ),
                (
                    "in another zone",
                    |s| window(s, "2026-01-01T01:00:00+01:00", "2026-01-01T01:01:00+01:00"),
                    open().clears(Some(NOW + MINUTE)),
                ),
                (
                    "a human waits as well",
                    |s| {
                        window(s, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
                        s.human();
                    },
                    open(),
                ),
                (
                    "watching goes on",
                    |s| {
                        window(s, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
                        s.passive(Action::Observe);
                    },
                    pass(),
                ),
            ],
        );
    }

    #[test]
    fn windows_repeat_name_apps_and_overlap() {
        let open = || refuse(Reason::MaintenanceWindow).imposed();
        check(
            &GATE,
            &[
                (
                    "daily",
                    |s| {
                        window(s, "2020-05-05T23:59:00Z", "2020-05-06T00:01:00Z");
                        s.policy.windows[0].every_ms = Some(24 * 60 * MINUTE);
                    },
                    open().clears(Some(NOW + MINUTE)),
                ),
                (
                    "daily, at another hour",
                    |s| {
                        window(s, "2020-05-05T12:00:00Z", "2020-05-05T13:00:00Z");
                        s.policy.windows[0].every_ms = Some(24 * 60 * MINUTE);
                    },
                    pass(),
                ),
                (
                    "for this app",
                    |s| {
                        window(s, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
                        s.policy.windows[0].apps = vec![AppName::parse("web").unwrap()];
                    },
                    open(),
                ),
                (
                    "for another app",
                    |s| {
                        window(s, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
                        s.policy.windows[0].apps = vec![AppName::parse("db").unwrap()];
                    },
                    pass(),
                ),
                (
                    "of two the later end counts",
                    |s| {
                        window(s, "2026-01-01T00:00:00Z", "2026-01-01T00:02:00Z");
                        window(s, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
                    },
                    open().clears(Some(NOW + 2 * MINUTE)),
                ),
                (
                    "one that cannot be read counts as open and outlasts the others",
                    |s| {
                        window(s, "2026-01-01T00:00:00Z", "2026-01-01T00:02:00Z");
                        window(s, "next tuesday", "2026-01-01T00:01:00Z");
                    },
                    open().limit(words("a window that cannot be read")).clears(None),
                ),
            ],
        );
    }
}

use super::*;
use crate::app::AppName;
use crate::policy::Threshold;

const DAY: Millis = 24 * 3_600_000;

fn fields(policy: &Policy) -> Vec<String> {
    lint(policy).into_iter().map(|fault| fault.field).collect()
}

/// Changes the policy of `env` and compares the fields that are wrong then.
fn check(env: Env, change: impl FnOnce(&mut Policy), wrong: &[&str]) {
    let mut policy = Policy::default_for(env);
    change(&mut policy);
    assert_eq!(fields(&policy), wrong, "{:#?}", lint(&policy));
}

fn window(start: &str, end: Option<&str>, every_ms: Option<Millis>) -> Window {
    let end = end.map(str::to_owned);
    Window { name: "night".to_owned(), start: start.to_owned(), end, every_ms, apps: vec![] }
}

#[test]
fn the_built_in_policies_are_clean() {
    for env in Env::ALL {
        assert_eq!(lint(&Policy::default_for(env)), [], "{env}");
    }
    assert_eq!(Policy::default_for(Env::Stage).lint_for_demo(), []);
}

#[test]
fn a_guard_that_can_never_fire_is_found() {
    // Three scale-ups take 3 x 120 s; in a window of 360 s the first has left when the fourth comes.
    let wrong = ["repetition.window_ms", "repetition.window_ms"];
    check(Env::Stage, |p| p.repetition.window_ms = 360_000, &wrong);
    check(Env::Stage, |p| p.repetition.window_ms = 360_001, &[]);
    check(Env::Stage, |p| p.memory.window_ms = 360_000, &["memory.window_ms"; 2]);
    check(
        Env::Stage,
        |p| p.repetition.limit = 51,
        &[
            "repetition.limit",
            "repetition.window_ms",
            "repetition.window_ms",
            "repetition.window_ms",
        ],
    );
    check(Env::Stage, |p| p.memory.failures = 50, &["memory.failures"]);
    check(Env::Stage, |p| p.stability.crash_loop_exits = 17, &["stability.crash_loop_exits"]);
    check(Env::Stage, |p| p.stability.flap_changes = 10, &["stability.flap_changes"]);
    check(Env::Stage, |p| p.verification.hold_ms = 300_000, &["verification.hold_ms"]);
    check(Env::Stage, |p| p.freshness.silence_ms = 14_999, &["freshness.silence_ms"]);
}

#[test]
fn statistics_have_bounds() {
    check(Env::Prod, |p| p.statistics.history = 6_401, &["statistics.history"]);
    check(Env::Prod, |p| p.statistics.history = 700, &["statistics.warm_up"]);
    check(Env::Prod, |p| p.statistics.warm_up = 71, &["statistics.warm_up"]);
    check(Env::Prod, |p| p.statistics.error_budget = -1, &["statistics.error_budget"]);
    check(Env::Prod, |p| p.statistics.metrics.push(Metric::RequestRate), &["statistics.metrics"]);
    check(Env::Prod, |p| p.statistics.metrics.clear(), &[]);
    let web = || AppName::parse("web").unwrap();
    let own = |p: &mut Policy| _ = p.statistics.error_budgets.insert(web(), 50_001);
    check(Env::Prod, own, &["statistics.error_budgets.web"]);
    check(Env::Prod, |p| p.statistics.burn.clear(), &[]);
    let twice = |p: &mut Policy| p.statistics.burn.extend(Burn::usual());
    check(Env::Prod, twice, &["statistics.burn"]);
    let slow = |p: &mut Policy| p.statistics.burn[0].times_milli = 999;
    check(Env::Prod, slow, &["statistics.burn[0].times_milli"]);
    let long = |p: &mut Policy| p.statistics.burn[1].long_ms = 31 * 24 * 3_600_000;
    check(Env::Prod, long, &["statistics.burn[1].long_ms", "statistics.burn[1].short_ms"]);
    let short = |p: &mut Policy| p.statistics.burn[2].short_ms = p.statistics.burn[2].long_ms + 1;
    check(Env::Prod, short, &["statistics.burn[2].short_ms"]);
}

#[test]
fn an_action_nobody_may_take_needs_no_reachable_guard() {
    let off = |p: &mut Policy| {
        for action in REPEATABLE {
            p.levels.insert(action, Level::Off);
        }
        p.repetition.window_ms = 1;
        p.cooldown.base_ms.clear();
        for action in [Action::RetryDeployment, Action::AdjustThresholds, Action::Rollback] {
            p.cooldown.base_ms.insert(action, 1);
        }
    };
    check(Env::Stage, off, &[]);
}

#[test]
fn exploration_has_its_place() {
    let explore = |p: &mut Policy| p.learning.exploration_ppm = 1;
    check(Env::Stage, explore, &["learning.exploration_ppm"]);
    check(Env::Dev, explore, &[]);
    check(Env::Prod, explore, &[]);
    check(Env::Dev, |p| p.learning.exploration_ppm = 1_000_001, &["learning.exploration_ppm"]);
    let mut dev = Policy::default_for(Env::Dev);
    assert_eq!(dev.lint_for_demo().len(), 1, "the default of dev explores");
    dev.learning.exploration_ppm = 0;
    assert_eq!(dev.lint_for_demo(), []);
    let mut stage = Policy::default_for(Env::Stage);
    explore(&mut stage);
    assert_eq!(stage.lint_for_demo().len(), 1, "said once");
}

#[test]
fn levels_stay_below_their_ceiling() {
    let set = |action, level| move |p: &mut Policy| _ = p.levels.insert(action, level);
    check(Env::Dev, set(Action::Rollback, Level::Auto), &["levels.ROLLBACK"]);
    check(Env::Dev, set(Action::AdjustThresholds, Level::Auto), &["levels.ADJUST_THRESHOLDS"]);
    check(Env::Dev, set(Action::Noop, Level::Off), &["levels.NOOP"]);
    check(Env::Prod, set(Action::Deploy, Level::Auto), &["levels.DEPLOY"]);
    check(Env::Prod, set(Action::Restart, Level::Auto), &[]);
    check(Env::Dev, set(Action::Restart, Level::Off), &[]);
}

#[test]
fn numbers_stay_within_their_bounds() {
    let stage = |change: fn(&mut Policy), wrong: &[&str]| check(Env::Stage, change, wrong);
    stage(|p| p.confidence.r1 = 499, &["confidence.r1"]);
    stage(|p| p.confidence.r1 = 500, &[]);
    stage(|p| p.confidence.r3 = 1_001, &["confidence.r3"]);
    stage(|p| p.confidence.r2 = 599, &["confidence"]);
    stage(|p| p.confidence.patience_ms = Some(0), &["confidence.patience_ms"]);
    stage(|p| p.confidence.patience_ms = None, &[]);
    stage(|p| p.breaker.failures = 0, &["breaker.failures"]);
    stage(|p| p.breaker.open_cap_ms = p.breaker.open_ms - 1, &["breaker.open_cap_ms"]);
    stage(|p| p.breaker.open_cap_ms = p.breaker.open_ms, &[]);
    stage(|p| p.budget.per_app_permille = 0, &["budget.per_app_permille"]);
    stage(|p| p.budget.concurrent_permille = 1_001, &["budget.concurrent_permille"]);
    stage(|p| p.budget.per_hour = 0, &["budget.per_hour"]);
    stage(|p| p.storm.common_apps = 1, &["storm.common_apps"]);
    stage(|p| p.freshness.ttl_ms = 0, &["freshness.ttl_ms"]);
    let slow = |p: &mut Policy| p.freshness.ttl_by_metric = [(Metric::RestartCount, 45_001)].into();
    stage(slow, &["freshness.ttl_by_metric.restart_count"]);
    stage(|p| p.approval.ttl_ms = 0, &["approval.ttl_ms"]);
    stage(|p| p.approval.ttl_ms = u64::MAX, &["approval.ttl_ms"]);
    stage(|p| p.learning.trust = 0, &["learning.trust"]);
    stage(|p| p.stability.memory_growth = 0, &["stability.memory_growth"]);
    stage(|p| p.cooldown.restart_cap_ms = 59_999, &["cooldown.restart_cap_ms"]);
    stage(|p| _ = p.cooldown.base_ms.remove(&Action::Restart), &["cooldown.base_ms.RESTART"]);
}

#[test]
fn a_threshold_has_hysteresis_and_a_detector() {
    let set = |rule: Threshold| {
        move |p: &mut Policy| _ = p.thresholds.insert(Metric::CpuUtilization, rule)
    };
    let good = Threshold { enter: 800_000, leave: 640_000, k: 3, n: 5 };
    let field = |name: &str| format!("thresholds.cpu_utilization.{name}");
    check(Env::Dev, set(good), &[]);
    check(Env::Dev, set(Threshold { leave: 799_999, ..good }), &[]);
    check(Env::Dev, set(Threshold { leave: 800_000, ..good }), &[&field("leave")]);
    check(Env::Dev, set(Threshold { leave: 0, ..good }), &[&field("leave")]);
    check(Env::Dev, set(Threshold { k: 6, ..good }), &[&field("k")]);
    check(Env::Dev, set(Threshold { k: 0, ..good }), &[&field("k")]);
    check(Env::Dev, set(Threshold { n: 12, ..good }), &[]);
    check(Env::Dev, set(Threshold { n: 13, ..good }), &[&field("n")]);
    let huge = Metric::CpuUtilization.max_micro() + 1;
    check(Env::Dev, set(Threshold { enter: huge, ..good }), &[&field("enter")]);
    check(
        Env::Dev,
        |p| _ = p.thresholds.insert(Metric::RequestRate, good),
        &["thresholds.request_rate.enter"],
    );
}

#[test]
fn a_window_has_a_start_an_end_and_a_zone() {
    let with = |window: Window| move |p: &mut Policy| p.windows.push(window);
    let (start, end) = ("2026-01-01T22:00:00Z", "2026-01-02T02:00:00Z");
    check(Env::Dev, with(window(start, Some(end), None)), &[]);
    check(Env::Dev, with(window(start, Some(end), Some(DAY))), &[]);
    check(Env::Dev, with(window(start, None, None)), &["windows[0].end"]);
    check(Env::Dev, with(window(start, Some(start), None)), &["windows[0].end"]);
    check(Env::Dev, with(window(end, Some(start), None)), &["windows[0].end"]);
    check(Env::Dev, with(window("2026-01-01T22:00:00", Some(end), None)), &["windows[0].start"]);
    let unknown = "2026-01-01T22:00:00-00:00";
    check(Env::Dev, with(window(unknown, Some(end), None)), &["windows[0].start"]);
    check(
        Env::Dev,
        with(window("tonight", Some("later"), None)),
        &["windows[0].start", "windows[0].end"],
    );
    let four_hours = 4 * 3_600_000;
    check(Env::Dev, with(window(start, Some(end), Some(four_hours))), &["windows[0].every_ms"]);
    check(Env::Dev, with(window(start, Some(end), Some(four_hours + 1))), &[]);
    let mut nameless = window(start, Some(end), None);
    nameless.name.clear();
    check(Env::Dev, with(nameless), &["windows[0].name"]);
    check(Env::Dev, |p| p.windows = vec![window(start, Some(end), None); 101], &["windows"]);
}

#[test]
fn everything_is_said_at_once() {
    check(
        Env::Stage,
        |p| {
            p.confidence.r1 = 1;
            p.budget.per_hour = 0;
            p.learning.exploration_ppm = 5;
        },
        &["confidence.r1", "budget.per_hour", "learning.exploration_ppm"],
    );
    let mut policy = Policy::default_for(Env::Stage);
    policy.budget.per_hour = 0;
    let said: Vec<String> = lint(&policy).iter().map(Fault::to_string).collect();
    assert_eq!(
        said,
        ["budget.per_hour = 0: must be 1 to 10000; set it to a number from 1 to 10000"]
    );
}

#[test]
fn a_window_opens_at_its_start_and_closes_at_its_end() {
    let at = |text: &str| moment(text).unwrap();
    let (start, end) = (at("2026-01-01T22:00:00Z"), at("2026-01-02T02:00:00Z"));
    let once = window("2026-01-01T23:00:00+01:00", Some("2026-01-02T02:00:00Z"), None);
    for now in [0, start, end - 1, end, end + DAY] {
        assert_eq!(once.span(now), Some((start, end)), "a single one is always the same");
    }
    let daily = window("2026-01-01T22:00:00Z", Some("2026-01-02T02:00:00Z"), Some(DAY));
    let nth = |n: u64| Some((start + n * DAY, end + n * DAY));
    for (now, expected) in [
        (0, nth(0)),
        (start, nth(0)),
        (end - 1, nth(0)),
        (end, nth(1)),
        (start + DAY - 1, nth(1)),
        (start + DAY, nth(1)),
        (start + 700 * DAY + 1, nth(700)),
    ] {
        assert_eq!(daily.span(now), expected, "at {now}");
    }
    assert_eq!(daily.span(Millis::MAX).map(|(_, end)| end > start), Some(true), "no overflow");
}

#[test]
fn what_cannot_be_read_has_no_span() {
    let (start, end) = ("2026-01-01T22:00:00Z", "2026-01-02T02:00:00Z");
    for window in [
        window("tonight", Some(end), None),
        window(start, Some("2026-01-02T02:00:00"), None),
        window(start, None, None),
        window(end, Some(start), None),
        window(start, Some(start), None),
        window(start, Some(end), Some(0)),
        window("1969-12-31T23:59:59Z", Some(end), None),
    ] {
        assert_eq!(window.span(0), None, "{window:?}");
    }
}

//! The policy linter: everything that is wrong with a policy at once, before it is in force.
//!
//! Besides values out of range it finds rules that could never fire (a repetition window that is over before the limit can be
//! reached, more failures than are remembered), because a guard that looks strict and never acts is worse than none.

use chrono::DateTime;

use crate::action::{Action, Level, ceiling};
use crate::app::{Env, Millis};
use crate::detect::{Baseline, claim_of};
use crate::graduation::{ALONE, ANSWERS};
use crate::signal::{Metric, Series};
use crate::state::{DECISIONS, EXITS, STATES};

use super::{Burn, Confidence, Policy, Statistics, Window, repositories};

/// Longest span a policy may name: longer ones are a mistake of unit.
const SPAN_MAX: Millis = 366 * 24 * 3_600_000;
/// Longest time that records may have to be kept: a hundred years.
const RETENTION_MAX: Millis = 100 * SPAN_MAX;
/// Longest span of a budget: a month of thirty days.
const BURN_MAX: Millis = 30 * 24 * 3_600_000;
/// Most maintenance windows of one policy.
const WINDOWS_MAX: usize = 100;
/// Most bytes of a whole policy: it has to fit into one record of the log with room to spare.
const BYTES_MAX: usize = 32 * 1_024;
/// Longest name of a maintenance window, in bytes.
const WINDOW_NAME_MAX: usize = 100;

/// Actions that can help again and again: these the repetition gate has to catch. The others end by themselves (a deployment is
/// retried until it is replaced, no rollback goes to the same revision twice) or are carried out by humans only.
const REPEATABLE: [Action; 3] = [Action::Restart, Action::ScaleUp, Action::ScaleDown];

/// One thing that is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field, as in the policy file.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What it has to obey.
    pub rule: String,
    /// What to do.
    pub fix: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {}: {}; {}", self.field, self.value, self.rule, self.fix)
    }
}

/// Everything that is wrong with `policy`, in the order of its fields. A policy with faults must not be put in force.
#[must_use]
pub fn lint(policy: &Policy) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    levels(policy, &mut faults);
    cooldowns(policy, &mut faults);
    repetition(policy, &mut faults);
    confidence(policy, &mut faults);
    memory(policy, &mut faults);
    breaker(policy, &mut faults);
    blast_radius(policy, &mut faults);
    freshness(policy, &mut faults);
    thresholds(policy, &mut faults);
    statistics(policy, &mut faults);
    stability(policy, &mut faults);
    verification(policy, &mut faults);
    learning(policy, &mut faults);
    graduation(policy, &mut faults);
    repositories::lint(&policy.fetch, &policy.sandbox, &mut faults);
    faults.within("retention.keep_ms", policy.retention.keep_ms, 0, RETENTION_MAX);
    windows(policy, &mut faults);
    size(policy, &mut faults);
    faults.0
}

fn statistics(policy: &Policy, faults: &mut Faults) {
    let Statistics { metrics, history, warm_up, error_budget, error_budgets, burn } =
        &policy.statistics;
    let most = u32::try_from(Baseline::HISTORY).unwrap_or(u32::MAX);
    let field = |name: &str| format!("statistics.{name}");
    let text = format!("must be 100 to {most}");
    let fix = "2000 finds nearly as much as the longest";
    faults.unless((100..=most).contains(history), field("history"), history, text, fix);
    let most = u32::try_from(Baseline::WARM_UP).unwrap_or(u32::MAX);
    let text = format!("must be 72 to {most}, and no more than the history");
    let inside = (72..=most).contains(warm_up) && warm_up <= history;
    faults.unless(inside, field("warm_up"), warm_up, text, "use 750");
    let own = error_budgets.iter().map(|(app, budget)| (format!("error_budgets.{app}"), budget));
    for (name, budget) in std::iter::once(("error_budget".to_owned(), error_budget)).chain(own) {
        let text = "must be 0 (off) to 50000 millionths";
        let fix = "a larger share is a threshold's";
        faults.unless((0..=50_000).contains(budget), field(&name), budget, text, fix);
    }
    burns(burn, faults);
    let twice = metrics
        .iter()
        .enumerate()
        .find(|(n, metric)| metrics.iter().take(*n).any(|m| m == *metric));
    let name = twice.map_or("", |(_, metric)| metric.as_str());
    faults.unless(twice.is_none(), field("metrics"), name, "must be named once", "remove one");
}

/// A rule that looks at less than it remembers, or that asks for more failures than there are requests, would never fire.
fn burns(rules: &[Burn], faults: &mut Faults) {
    let (many, most) = (rules.len(), Statistics::BURNS);
    let text = format!("must be {most} rules at most");
    faults.unless(many <= most, "statistics.burn", many, text, "remove some");
    for (index, rule) in rules.iter().enumerate().take(most) {
        let field = |name: &str| format!("statistics.burn[{index}].{name}");
        faults.within(&field("times_milli"), rule.times_milli.into(), 1_000, 1_000_000);
        faults.within(&field("long_ms"), rule.long_ms, 1_000, BURN_MAX);
        let least = (rule.long_ms / 60).max(1);
        faults.within(&field("short_ms"), rule.short_ms, least, rule.long_ms.max(1));
    }
}

/// The whole policy is one record of the log.
fn size(policy: &Policy, faults: &mut Faults) {
    let bytes = serde_json::to_vec(policy).map_or(usize::MAX, |json| json.len());
    let rule = format!("must be {BYTES_MAX} bytes at most as a whole, written as JSON");
    faults.unless(bytes <= BYTES_MAX, "policy", bytes, rule, "join or remove windows");
}

impl Policy {
    /// [`lint`], and what a demonstration asks for beside: a demonstration never explores.
    #[must_use]
    pub fn lint_for_demo(&self) -> Vec<Fault> {
        let mut faults = Faults(lint(self));
        if self.env != Env::Stage {
            let value = self.learning.exploration_ppm;
            let rule = "must be 0 in demo mode: the same scenario gives the same decision";
            faults.unless(value == 0, "learning.exploration_ppm", value, rule, "set it to 0");
        }
        faults.0
    }
}

/// Collects faults.
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn unless(
        &mut self,
        holds: bool,
        field: impl Into<String>,
        value: impl ToString,
        rule: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if !holds {
            let (field, value) = (field.into(), value.to_string());
            self.0.push(Fault { field, value, rule: rule.into(), fix: fix.into() });
        }
    }

    /// A number within bounds.
    pub(super) fn within(&mut self, field: &str, value: u64, least: u64, most: u64) {
        let rule = format!("must be {least} to {most}");
        let fix = format!("set it to a number from {least} to {most}");
        self.unless((least..=most).contains(&value), field, value, rule, fix);
    }

    /// A share of a whole.
    fn share(&mut self, field: &str, permille: u32) {
        self.within(field, permille.into(), 1, 1_000);
    }

    /// A span of time.
    fn span(&mut self, field: &str, ms: Millis) {
        self.within(field, ms, 1, SPAN_MAX);
    }
}

fn levels(policy: &Policy, faults: &mut Faults) {
    for (action, level) in &policy.levels {
        let field = format!("levels.{action}");
        let most = ceiling(*action);
        let rule = format!("must not be above the compiled ceiling {}", most.as_str());
        let fix = format!("set it to {} or lower", most.as_str());
        faults.unless(*level <= most, field.as_str(), level.as_str(), rule, fix);
        let rule = "passive actions touch nothing and are always AUTO";
        let idle = action.is_passive() && *level < Level::Auto;
        faults.unless(!idle, field.as_str(), level.as_str(), rule, "set it to AUTO");
        let alone = !action.is_selectable() && policy.env == Env::Prod && *level == Level::Auto;
        let rule = "in prod a second person approves what changes an app's life cycle";
        faults.unless(!alone, field.as_str(), level.as_str(), rule, "set it to PROPOSE");
    }
}

fn cooldowns(policy: &Policy, faults: &mut Faults) {
    let rule = &policy.cooldown;
    for action in Action::ALL.into_iter().filter(|a| !a.is_passive() && a.is_selectable()) {
        let field = format!("cooldown.base_ms.{action}");
        if policy.level(action) > Level::Off {
            faults.span(&field, policy.cooldown_ms(action));
        } else {
            faults.within(&field, policy.cooldown_ms(action), 0, SPAN_MAX);
        }
    }
    let base = policy.cooldown_ms(Action::Restart);
    faults.within("cooldown.restart_cap_ms", rule.restart_cap_ms, base.max(1), SPAN_MAX);
    faults.span("cooldown.healthy_reset_ms", rule.healthy_reset_ms);
    faults.within("cooldown.scale_down_after_up_ms", rule.scale_down_after_up_ms, 0, SPAN_MAX);
}

fn repetition(policy: &Policy, faults: &mut Faults) {
    let rule = &policy.repetition;
    faults.within("repetition.limit", rule.limit.into(), 1, DECISIONS as u64);
    faults.span("repetition.window_ms", rule.window_ms);
    reachable(policy, faults, "repetition.window_ms", rule.window_ms, rule.limit);
}

/// The window must be long enough for `limit` actions and one more, or the gate could never fire.
fn reachable(policy: &Policy, faults: &mut Faults, field: &str, window: Millis, limit: u32) {
    for action in REPEATABLE.into_iter().filter(|a| policy.level(*a) > Level::Shadow) {
        let least = policy.cooldown_ms(action).saturating_mul(limit.into());
        let rule = format!(
            "must be longer than {limit} cooldowns of {action} ({least} ms), or the gate can never fire"
        );
        let fix = format!("set it above {least}, or lower the limit or the cooldown");
        faults.unless(window > least, field, window, rule, fix);
    }
}

fn confidence(policy: &Policy, faults: &mut Faults) {
    let rule = &policy.confidence;
    let least = u64::from(Confidence::FLOOR);
    for (field, value) in [("r1", rule.r1), ("r2", rule.r2), ("r3", rule.r3)] {
        faults.within(&format!("confidence.{field}"), value.into(), least, 1_000);
    }
    let values = format!("{}, {}, {}", rule.r1, rule.r2, rule.r3);
    let ordered = rule.r1 <= rule.r2 && rule.r2 <= rule.r3;
    let text = "must not be lower for a higher risk";
    faults.unless(ordered, "confidence", values, text, "order them r1 <= r2 <= r3");
    if let Some(patience) = rule.patience_ms {
        faults.span("confidence.patience_ms", patience);
    }
}

fn memory(policy: &Policy, faults: &mut Faults) {
    let rule = &policy.memory;
    // "More than" fires at one more, and no more than so many decisions are remembered.
    let most = DECISIONS as u64 - 1;
    faults.within("memory.failures", rule.failures.into(), 1, most);
    faults.within("memory.identical", rule.identical.into(), 1, most);
    faults.span("memory.window_ms", rule.window_ms);
    reachable(policy, faults, "memory.window_ms", rule.window_ms, rule.identical);
}

fn breaker(policy: &Policy, faults: &mut Faults) {
    let rule = &policy.breaker;
    faults.within("breaker.failures", rule.failures.into(), 1, 1_000);
    faults.span("breaker.open_ms", rule.open_ms);
    faults.within("breaker.open_cap_ms", rule.open_cap_ms, rule.open_ms.max(1), SPAN_MAX);
}

fn blast_radius(policy: &Policy, faults: &mut Faults) {
    let (budget, storm) = (&policy.budget, &policy.storm);
    faults.share("budget.per_app_permille", budget.per_app_permille);
    faults.share("budget.concurrent_permille", budget.concurrent_permille);
    faults.within("budget.per_hour", budget.per_hour.into(), 1, 10_000);
    faults.within("storm.min_apps", storm.min_apps.into(), 1, 10_000);
    faults.share("storm.permille", storm.permille);
    faults.span("storm.exit_ms", storm.exit_ms);
    faults.within("storm.common_apps", storm.common_apps.into(), 2, 10_000);
    faults.span("storm.common_window_ms", storm.common_window_ms);
}

fn freshness(policy: &Policy, faults: &mut Faults) {
    let rule = &policy.freshness;
    faults.span("freshness.ttl_ms", rule.ttl_ms);
    for (metric, ttl) in &rule.ttl_by_metric {
        let field = format!("freshness.ttl_by_metric.{}", metric.as_str());
        faults.within(&field, *ttl, 1, rule.silence_ms.max(1));
    }
    // Shorter silence would be a finding while the last word still counts.
    faults.within("freshness.silence_ms", rule.silence_ms, rule.ttl_ms.max(1), SPAN_MAX);
    faults.within("freshness.quorum", rule.quorum.into(), 1, crate::window::Window::SOURCES as u64);
    faults.span("freshness.future_ms", rule.future_ms);
    faults.span("freshness.past_ms", rule.past_ms);
}

fn thresholds(policy: &Policy, faults: &mut Faults) {
    for (metric, rule) in &policy.thresholds {
        let field = |name: &str| format!("thresholds.{}.{name}", metric.as_str());
        let text = "no detector has a threshold on this metric";
        let fix = "remove it";
        faults.unless(is_watched(*metric), field("enter"), rule.enter, text, fix);
        let text = format!("must be 1 to {} millionths", metric.max_micro());
        let inside = (1..=metric.max_micro()).contains(&rule.enter);
        faults.unless(inside, field("enter"), rule.enter, text, "set it within these bounds");
        let text = "must be above 0 and below `enter`, or the finding opens and closes on noise";
        let ordered = rule.leave > 0 && rule.leave < rule.enter;
        faults.unless(ordered, field("leave"), rule.leave, text, "set it to about 0.8 of `enter`");
        faults.within(&field("n"), rule.n.into(), 1, Series::RECENT as u64);
        let text = format!("must be 1 to n = {}", rule.n);
        let inside = rule.k >= 1 && rule.k <= rule.n;
        faults.unless(inside, field("k"), rule.k, text, "ask for no more ticks than are looked at");
    }
}

/// Whether a threshold on `metric` has a detector behind it: the same four that a custom boolean can claim.
fn is_watched(metric: Metric) -> bool {
    claim_of(metric).is_some()
}

fn stability(policy: &Policy, faults: &mut Faults) {
    let rule = &policy.stability;
    let exits = u64::from(rule.crash_loop_exits);
    faults.within("stability.crash_loop_exits", exits, 2, EXITS as u64);
    faults.span("stability.crash_loop_window_ms", rule.crash_loop_window_ms);
    // So many states have one change fewer between them.
    let most = STATES as u64 - 1;
    faults.within("stability.flap_changes", rule.flap_changes.into(), 2, most);
    faults.span("stability.flap_window_ms", rule.flap_window_ms);
    faults.span("stability.flap_exit_ms", rule.flap_exit_ms);
    let growth = rule.memory_growth;
    let most = Metric::MemoryUtilization.max_micro();
    let text = format!("must be 1 to {most} millionths");
    let fix = "set it within these bounds";
    let inside = (1..=most).contains(&growth);
    faults.unless(inside, "stability.memory_growth", growth, text, fix);
}

fn verification(policy: &Policy, faults: &mut Faults) {
    let rule = &policy.verification;
    faults.span("verification.hold_ms", rule.hold_ms);
    faults.span("verification.deadline_ms", rule.deadline_ms);
    let text = format!("must be below deadline_ms = {}", rule.deadline_ms);
    let fix = "no outcome could ever be verified: raise the deadline";
    let possible = rule.hold_ms < rule.deadline_ms;
    faults.unless(possible, "verification.hold_ms", rule.hold_ms, text.as_str(), fix);
    let possible = rule.min_uptime_ms < rule.deadline_ms;
    faults.unless(possible, "verification.min_uptime_ms", rule.min_uptime_ms, text, fix);
    faults.span("approval.ttl_ms", policy.approval.ttl_ms);
}

/// More than is remembered could never be reached, and half of the answers against it is no case for anything.
fn graduation(policy: &Policy, faults: &mut Faults) {
    let rule = &policy.graduation;
    faults.within("graduation.decisions", rule.decisions.into(), 1, ANSWERS as u64);
    let share = rule.agreement_permille.into();
    faults.within("graduation.agreement_permille", share, 500, 1_000);
    faults.within("graduation.of", rule.of.into(), 1, ALONE as u64);
    faults.within("graduation.failures", rule.failures.into(), 1, rule.of.max(1).into());
    faults.span("graduation.relapse_ms", rule.relapse_ms);
}

fn learning(policy: &Policy, faults: &mut Faults) {
    let rule = &policy.learning;
    let value = rule.exploration_ppm;
    if policy.env == Env::Stage {
        let text = "must be 0 in stage: it is deterministic";
        faults.unless(value == 0, "learning.exploration_ppm", value, text, "set it to 0");
    } else {
        faults.within("learning.exploration_ppm", value.into(), 0, 1_000_000);
    }
    faults.within("learning.trust", rule.trust.into(), 1, 1_000_000);
}

/// Everything that is wrong with the windows in the list called `field`.
#[must_use]
pub fn lint_windows(list: &str, windows: &[Window]) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    for (index, window) in windows.iter().enumerate() {
        lint_window(&format!("{list}[{index}]"), window, &mut faults);
    }
    faults.0
}

fn windows(policy: &Policy, faults: &mut Faults) {
    let many = policy.windows.len();
    let text = format!("must be {WINDOWS_MAX} at most");
    faults.unless(many <= WINDOWS_MAX, "windows", many, text, "join or remove some");
    for (index, window) in policy.windows.iter().enumerate().take(WINDOWS_MAX) {
        lint_window(&format!("windows[{index}]"), window, faults);
    }
}

fn lint_window(path: &str, window: &Window, faults: &mut Faults) {
    const RULE: &str = "must be RFC 3339 with an explicit offset, from 1970 on";
    const FIX: &str = "write it like 2026-01-31T22:00:00+01:00";
    let field = |name: &str| format!("{path}.{name}");
    let name = window.name.as_str();
    let plain =
        !name.is_empty() && name.len() <= WINDOW_NAME_MAX && !name.chars().any(char::is_control);
    let text = format!("must be 1 to {WINDOW_NAME_MAX} bytes without control characters");
    faults.unless(plain, field("name"), format!("{name:?}"), text, "name it for a refusal");
    let start = moment(&window.start);
    faults.unless(start.is_some(), field("start"), &window.start, RULE, FIX);
    let Some(end) = &window.end else {
        let text = "a window must end, or it is a ban nobody remembers";
        faults.unless(false, field("end"), "nothing", text, FIX);
        return;
    };
    faults.unless(moment(end).is_some(), field("end"), end, RULE, FIX);
    let (Some(start), Some(end_at)) = (start, moment(end)) else { return };
    let text = "must be after the start";
    faults.unless(start < end_at, field("end"), end, text, "swap them, or fix the zone");
    let length = end_at.saturating_sub(start);
    if let Some(every) = window.every_ms {
        let text = format!("must be longer than the window itself ({length} ms)");
        let fix = "a window without a gap never closes";
        let inside = every > length && every <= SPAN_MAX;
        faults.unless(inside, field("every_ms"), every, text, fix);
    }
}

/// A moment with a known zone; `-00:00` says that the zone is unknown (RFC 3339, section 4.3).
fn moment(text: &str) -> Option<Millis> {
    let at = DateTime::parse_from_rfc3339(text).ok()?;
    if text.ends_with("-00:00") {
        return None;
    }
    Millis::try_from(at.timestamp_millis()).ok()
}

impl Window {
    /// Start and end of the occurrence that is open at `now`, or else of the next one, or else of the last one. `None` when the
    /// window cannot be read: without a readable start and a later end there is no telling, and whoever asks has to assume that
    /// it is open. The start belongs to the window, the end does not.
    #[must_use]
    pub fn span(&self, now: Millis) -> Option<(Millis, Millis)> {
        let (start, end) = (moment(&self.start)?, moment(self.end.as_ref()?)?);
        let length = end.checked_sub(start).filter(|length| *length > 0)?;
        let Some(every) = self.every_ms else { return Some((start, end)) };
        if every <= length {
            return None;
        }
        let since = now.saturating_sub(start);
        let passed = since / every;
        let next = if now >= start && since % every >= length { passed + 1 } else { passed };
        let start = start.saturating_add(next.saturating_mul(every));
        Some((start, start.saturating_add(length)))
    }
}

#[cfg(test)]
mod tests;

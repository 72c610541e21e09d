//! The settings a gate compares with, and the circumstances it looks at.

use super::{Change, Counted, FLOOR, Obstacle, REMEMBERED};
use crate::app::Millis;
use crate::policy::{Confidence, Policy};
use crate::record::Decided;
use crate::verdict::{Fact, Verdict};
use crate::window::Window;

/// A direction in which a number can be moved, and how far.
#[derive(Debug, Clone, Copy)]
pub(super) enum Toward {
    /// Down to this.
    Least(u64),
    /// Up to this.
    Most(u64),
}

/// A number of the policy.
pub(super) struct Knob {
    /// The gate that compares with it.
    pub(super) gate: &'static str,
    /// Its path; `{action}` stands for the action that was proposed.
    pub(super) path: &'static str,
    /// The way that lets more through.
    pub(super) loose: Toward,
    /// The way that lets less through.
    pub(super) tight: Toward,
}

const fn lower(gate: &'static str, path: &'static str, least: u64, most: u64) -> Knob {
    Knob { gate, path, loose: Toward::Least(least), tight: Toward::Most(most) }
}

const fn higher(gate: &'static str, path: &'static str, least: u64, most: u64) -> Knob {
    Knob { gate, path, loose: Toward::Most(most), tight: Toward::Least(least) }
}

/// Longest span the linter takes.
const SPAN: Millis = 366 * 24 * 3_600_000;

/// Every number that a gate compares with.
pub(super) const KNOBS: &[Knob] = &[
    lower("cooldown", "cooldown.base_ms.{action}", 0, SPAN),
    lower("cooldown", "cooldown.restart_cap_ms", 1, SPAN),
    lower("cooldown", "cooldown.healthy_reset_ms", 1, SPAN),
    lower("cooldown", "cooldown.scale_down_after_up_ms", 0, SPAN),
    higher("repetition", "repetition.limit", 1, REMEMBERED),
    lower("repetition", "repetition.window_ms", 1, SPAN),
    higher("memory", "memory.failures", 1, REMEMBERED),
    higher("memory", "memory.identical", 1, REMEMBERED),
    lower("memory", "memory.window_ms", 1, SPAN),
    lower("confidence", "confidence.r1", FLOOR, 1_000),
    lower("confidence", "confidence.r2", FLOOR, 1_000),
    lower("confidence", "confidence.r3", FLOOR, 1_000),
    higher("app_budget", "budget.per_app_permille", 1, 1_000),
    higher("concurrency", "budget.concurrent_permille", 1, 1_000),
    higher("hourly", "budget.per_hour", 1, 10_000),
    higher("storm", "storm.min_apps", 1, 10_000),
    higher("storm", "storm.permille", 1, 1_000),
    higher("freshness", "freshness.ttl_ms", 1, SPAN),
    lower("freshness", "freshness.quorum", 1, Window::SOURCES as u64),
    higher("flapping", "stability.flap_changes", 2, 9),
    lower("flapping", "stability.flap_exit_ms", 1, SPAN),
];

/// The number at `path`.
pub(super) fn get(policy: &Policy, path: &str) -> Option<u64> {
    let document = serde_json::to_value(policy).ok()?;
    let place = path.split('.').try_fold(&document, |place, key| place.get(key))?;
    place.as_u64()
}

/// Other circumstances that may satisfy the gate behind `verdict`. Whether they do is judged by who asks.
pub(super) fn circumstances(decided: &Decided, verdict: &Verdict) -> Vec<Change> {
    let around = &decided.around;
    let number = |fact: &Fact| match fact {
        Fact::Count(n) => u32::try_from(*n).ok(),
        Fact::Permille(n) => Some(*n),
        _ => None,
    };
    let limit = number(&verdict.limit);
    let count = |of: Counted, from: u32, to: Option<u32>| {
        to.map(|to| Change::Count { of, from, to }).into_iter().collect()
    };
    let lifted = |obstacle| vec![Change::Lifted(obstacle)];
    let below = limit.and_then(|limit| limit.checked_sub(1));
    match &*verdict.gate {
        "confidence" => {
            let from = decided.proposal.confidence;
            limit.map(|to| Change::Confidence { from, to }).into_iter().collect()
        }
        "hourly" => count(Counted::EffectsLastHour, around.effects_last_hour, below),
        "concurrency" => count(Counted::Disrupting, around.disrupting, below),
        "storm" => {
            let mut changes: Vec<Change> = count(Counted::Unhealthy, around.unhealthy, below);
            changes.extend(count(Counted::Starting, around.starting, below));
            changes
        }
        "common_cause" => {
            let canary = around.canary.as_ref();
            let turn = canary.map(|canary| canary.position);
            count(Counted::Allowance, canary.map_or(0, |canary| canary.allowance), turn)
        }
        "pause" => lifted(Obstacle::Pause),
        "dry_run" => lifted(Obstacle::DryRun),
        "demo_intake" | "demo_allowlist" => lifted(Obstacle::DemoMode),
        "log" => lifted(Obstacle::Log),
        "protected" => lifted(Obstacle::Protected),
        "in_flight" | "breaker" => lifted(Obstacle::InFlight),
        "duplicate" => vec![Change::Lifted(Obstacle::InFlight), Change::Lifted(Obstacle::Pending)],
        "freshness" => lifted(Obstacle::Stale),
        "conflict" => lifted(Obstacle::Contradiction),
        "flapping" => {
            vec![Change::Lifted(Obstacle::Unapproved), Change::Lifted(Obstacle::Flapping)]
        }
        "autonomy" | "approval" => lifted(Obstacle::Unapproved),
        _ => Vec::new(),
    }
}

/// Circumstances under which the gate behind a verdict that passed would not have.
pub(super) fn doubts(decided: &Decided, verdict: &Verdict) -> impl Iterator<Item = Change> {
    let from = decided.proposal.confidence;
    let less = match (&*verdict.gate, &verdict.limit) {
        ("confidence", Fact::Permille(least)) => (*least).max(Confidence::FLOOR).checked_sub(1),
        _ => None,
    };
    less.map(|to| Change::Confidence { from, to }).into_iter()
}

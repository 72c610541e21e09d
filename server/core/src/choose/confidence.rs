//! Confidence: how sure the agent is that an action beats doing nothing, in permille.
//!
//! `confidence = q_signal * p_action`. q is how far the evidence can be trusted: freshness x completeness x agreement x
//! persistence. p is the mean of the Beta posterior: the rule's prior and the outcomes since. Integers, rounded down: in doubt
//! less sure.

use crate::app::Millis;
use crate::choose::rules::Candidate;
use crate::choose::table::Value;
use crate::detect::{
    Finding, FindingKind, View, claim_of, fresh_run, is_fresh, is_fresh_value, threshold_of,
};
use crate::policy::Threshold;
use crate::signal::Metric;

/// Certainty.
pub(super) const SURE: u32 = 1_000;

/// Mean of Beta(helped + verified, failed + trials - verified), in permille, and never below the candidate's floor.
pub(super) fn chance(candidate: &Candidate, value: Value) -> u32 {
    let verified = u64::from(value.verified.min(value.trials));
    let helped = u64::from(candidate.helped) + verified;
    let all = u64::from(candidate.helped) + u64::from(candidate.failed) + u64::from(value.trials);
    permille(helped, all.max(1)).max(candidate.floor)
}

/// How far the evidence for `finding` can be trusted, in permille. What the supervisor saw itself is certain.
pub(crate) fn evidence(view: &View<'_>, finding: &Finding) -> u32 {
    let Some(metric) = finding.metric.filter(|_| !finding.kind.is_hard()) else {
        return finding.persistence.min(SURE);
    };
    let fresh = freshness(view, metric);
    let rule = threshold_of(view.app, view.policy, metric).filter(|_| is_threshold(finding.kind));
    let Some(rule) = rule else {
        return product(fresh, finding.persistence.min(SURE));
    };
    let parts = [
        completeness(view, metric, &rule),
        agreement(view, metric, &rule),
        persistence(finding, &rule),
    ];
    parts.into_iter().fold(fresh, product)
}

/// `a * b` of two shares in permille, rounded down.
pub(super) fn product(a: u32, b: u32) -> u32 {
    permille(u64::from(a) * u64::from(b), 1_000_000)
}

fn permille(part: u64, whole: u64) -> u32 {
    u32::try_from(u128::from(part) * 1_000 / u128::from(whole)).unwrap_or(SURE).min(SURE)
}

const fn is_threshold(kind: FindingKind) -> bool {
    matches!(
        kind,
        FindingKind::ErrorRate
            | FindingKind::CpuOverload
            | FindingKind::MemoryOverload
            | FindingKind::Latency
    )
}

/// Full for the first half of the time to live, then falling to one half at its end; nothing after it.
fn freshness(view: &View<'_>, metric: Metric) -> u32 {
    let ttl = view.policy.freshness.ttl_of(metric);
    let numbers = view.reading.metrics.get(&metric).into_iter();
    let heard = numbers.flat_map(|series| series.sources.values()).map(|point| point.at);
    let claim = claim_of(metric).and_then(|name| view.reading.conditions.get(name));
    let Some(newest) = heard.chain(claim.map(|c| c.at)).max() else { return 0 };
    let age: Millis = view.now.saturating_sub(newest);
    let half = ttl / 2;
    if age > ttl {
        0
    } else if age <= half {
        SURE
    } else {
        SURE - permille(age - half, ttl - half) / 2
    }
}

/// Share of the ticks the rule asks for that are known at all.
fn completeness(view: &View<'_>, metric: Metric, rule: &Threshold) -> u32 {
    let known = fresh_run(metric, view).len() as u64;
    let claimed = claim_of(metric)
        .and_then(|name| view.reading.conditions.get(name))
        .is_some_and(|claim| claim.value && is_fresh(claim.at, view));
    permille(known + u64::from(claimed), u64::from(rule.k.max(1)))
}

/// Share of the fresh sources that are not below the leave value, where there is more than one.
fn agreement(view: &View<'_>, metric: Metric, rule: &Threshold) -> u32 {
    let Some(series) = view.reading.metrics.get(&metric) else { return SURE };
    let fresh = || series.sources.values().filter(|p| is_fresh_value(metric, p.at, view));
    let agreeing = fresh().filter(|point| point.micro >= rule.leave).count() as u64;
    match fresh().count() as u64 {
        0 | 1 => SURE,
        sources => permille(agreeing, sources),
    }
}

/// What the share of ticks over the limit is worth: as many as the rule asks for are full evidence, and fewer are worth less than
/// half, below the compiled floor of every policy. So a spike never leads to an effect, and neither does a finding that is only
/// kept open while the values fall.
fn persistence(finding: &Finding, rule: &Threshold) -> u32 {
    let (k, n) = (u64::from(rule.k.max(1)), u64::from(rule.n.max(1)));
    let share = u64::from(finding.persistence.min(SURE));
    if share >= k * 1_000 / n { SURE } else { permille(share * n, k.saturating_mul(2_000)) }
}

//! Thresholds with hysteresis, which four detectors share.
//!
//! A finding opens when `k` of the last `n` ticks are at or above the enter value, and closes when the last
//! [`Threshold::LEAVE_TICKS`] ticks are below the leave value. Only ticks of an unbroken run count: each heard within the time to
//! live of the next, and the last within the time to live of now. So data from before a gap neither opens nor closes anything, and
//! an open finding nobody reports on any more stays open.
//!
//! A custom boolean such as `cpu_high` is a claim without a number and without a past. It counts as one more tick at or above the
//! value, unless the newest tick is so anyway: alone it is a suspicion (or a finding, where the rule asks for one tick), with
//! numbers it completes them, and while it is true its finding does not close.

use crate::app::Millis;
use crate::detect::{Finding, FindingKind, View};
use crate::policy::{Policy, Threshold};
use crate::signal::{Metric, Point};
use crate::state::AppState;
use crate::verdict::Fact;

/// What one threshold detector watches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    /// The finding it raises.
    pub(super) kind: FindingKind,
    /// The metric.
    pub(super) metric: Metric,
    /// What it is called in details.
    pub(super) noun: &'static str,
}

/// The custom boolean that claims that `metric` is too high.
pub(crate) const fn claim_of(metric: Metric) -> Option<&'static str> {
    match metric {
        Metric::CpuUtilization => Some("cpu_high"),
        Metric::MemoryUtilization => Some("memory_high"),
        Metric::ErrorRatio => Some("error_rate_high"),
        Metric::LatencyP99 => Some("latency_high"),
        Metric::LatencyP50 | Metric::RequestRate | Metric::RestartCount => None,
    }
}

/// The threshold in force: values moved by `ADJUST_THRESHOLDS` before those of the specification before those of the policy.
/// How many ticks it takes is the policy's alone.
pub(crate) fn threshold_of(app: &AppState, policy: &Policy, metric: Metric) -> Option<Threshold> {
    let base = policy.thresholds.get(&metric)?;
    let moved = app.adjusted.get(&metric).or_else(|| app.profile.thresholds.get(&metric));
    Some(moved.map_or(*base, |o| Threshold { enter: o.enter, leave: o.leave, ..*base }))
}

/// Whether a claim heard at `at` still counts.
pub(crate) const fn is_fresh(at: Millis, view: &View<'_>) -> bool {
    view.now.saturating_sub(at) <= view.policy.freshness.ttl_ms
}

/// Whether a value of `metric` heard at `at` still counts.
pub(crate) fn is_fresh_value(metric: Metric, at: Millis, view: &View<'_>) -> bool {
    view.now.saturating_sub(at) <= view.policy.freshness.ttl_of(metric)
}

/// The newest ticks without a gap longer than the time to live, oldest first; none when the newest of all is too old.
pub(crate) fn fresh_run<'a>(metric: Metric, view: &View<'a>) -> &'a [Point] {
    let recent = view.reading.metrics.get(&metric).map_or(&[][..], |series| &series.recent);
    let ttl = view.policy.freshness.ttl_of(metric);
    let mut later = view.now;
    let joined = |point: &&Point| {
        let gap = later.saturating_sub(point.at);
        later = point.at;
        gap <= ttl
    };
    let run = recent.iter().rev().take_while(joined).count();
    recent.get(recent.len().saturating_sub(run)..).unwrap_or_default()
}

/// What the ticks and the claim add up to.
struct Seen {
    rule: Threshold,
    /// The value that counts now: enter for a closed finding, leave for an open one.
    limit: i64,
    /// Ticks at or above the limit among the last `n`, with the claim.
    over: u32,
    newest: Option<i64>,
    claimed: bool,
    /// Enough ticks in a row are below the leave value.
    left: bool,
}

impl Watch {
    /// The finding, while it stands.
    pub(super) fn detect(&self, view: &View<'_>) -> Option<Finding> {
        let seen = self.look(view)?;
        let open = view.app.open.contains_key(&self.kind);
        let stands = !seen.left && (open || seen.over >= seen.rule.k.max(1));
        stands.then(|| self.finding(&seen))
    }

    /// The finding it may become.
    pub(super) fn suspect(&self, view: &View<'_>) -> Option<Finding> {
        let seen = self.look(view)?;
        let open = view.app.open.contains_key(&self.kind);
        let suspected = !open && !seen.left && (1..seen.rule.k).contains(&seen.over);
        suspected.then(|| self.finding(&seen))
    }

    fn look(&self, view: &View<'_>) -> Option<Seen> {
        let rule = threshold_of(view.app, view.policy, self.metric)?;
        let open = view.app.open.contains_key(&self.kind);
        let limit = if open { rule.leave } else { rule.enter };
        let run = fresh_run(self.metric, view);
        let last = |n: usize| run.iter().rev().take(n);
        let newest = run.last().map(|point| point.micro);
        let claimed = claim_of(self.metric)
            .and_then(|name| view.reading.conditions.get(name))
            .is_some_and(|claim| claim.value && is_fresh(claim.at, view));
        let counted = last(usize::try_from(rule.n).unwrap_or(usize::MAX));
        let ticks = counted.filter(|point| point.micro >= limit).count();
        let completes = claimed && newest.is_none_or(|micro| micro < limit);
        let over = u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(completes.into());
        let left = !claimed
            && run.len() >= Threshold::LEAVE_TICKS
            && last(Threshold::LEAVE_TICKS).all(|point| point.micro < rule.leave);
        Some(Seen { rule, limit, over, newest, claimed, left })
    }

    fn finding(&self, seen: &Seen) -> Finding {
        let (over, n) = (seen.over, seen.rule.n.max(1));
        let persistence = u64::from(over) * 1_000 / u64::from(n);
        let value = match seen.newest {
            Some(micro) => Fact::Micro(micro),
            None if seen.claimed => Fact::Flag(true),
            None => Fact::None,
        };
        let detail = match value {
            Fact::None => format!("{} was too high and nobody reports it any more", self.noun),
            _ => format!("{} at or above the limit in {over} of the last {n} ticks", self.noun),
        };
        Finding {
            kind: self.kind,
            metric: Some(self.metric),
            value,
            limit: Fact::Micro(seen.limit),
            persistence: u32::try_from(persistence.min(1_000)).unwrap_or(1_000),
            detail,
        }
    }
}

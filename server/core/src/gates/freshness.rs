//! Missing is unknown, never zero and never healthy: what rests on telemetry needs telemetry that is no older than its time to
//! live. What the supervisor saw itself (an exit, a failed deployment, a health check without an answer) needs none. Fewer
//! instances need the most: the CPU value and every other metric that is known. Age equal to the time to live passes. And they need
//! more than one monitor that says so, unless the server measures the CPU itself: a monitor that is broken says zero.

use super::{Case, Gate, Judgement, count, words};
use crate::action::Action;
use crate::app::Millis;
use crate::detect::{FindingKind, claim_of};
use crate::reason::Reason;
use crate::signal::{Metric, is_own};
use crate::state::Phase;
use crate::verdict::Fact;

pub(super) const GATE: Gate = Gate {
    id: "freshness",
    group: 5,
    summary: "the signals the proposal rests on are fresh, and enough sources say so",
    reasons: &[Reason::StaleData, Reason::InsufficientSources],
    judge,
};

/// Age of what a proposal rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// It rests on no telemetry.
    Unneeded,
    /// The oldest of what it rests on; what has outlived its time to live comes first.
    Known { late: bool, age: Millis, ttl: Millis },
    /// Something it rests on was never heard, or is forgotten already.
    Missing,
}

fn judge(case: &Case<'_>) -> Judgement {
    if case.is_passive() {
        return Judgement::not_applicable();
    }
    let general = case.policy.freshness.ttl_ms;
    let (fresh, value, limit) = match age(case) {
        Age::Unneeded => (true, words("no signal needed"), Fact::Ms(general)),
        Age::Known { late, age, ttl } => (!late, Fact::Ms(age), Fact::Ms(ttl)),
        Age::Missing => (false, words("missing"), Fact::Ms(general)),
    };
    if case.is_human() {
        return Judgement::pass(value, limit);
    }
    if !fresh {
        return Judgement::refuse(Reason::StaleData, value, limit);
    }
    let quorum = Fact::Count(case.policy.freshness.quorum.into());
    too_few(case).map_or(Judgement::pass(value, limit), |sources| {
        Judgement::refuse(Reason::InsufficientSources, count(sources), quorum)
    })
}

/// How many sources report the CPU, if that is too few to take an instance away.
fn too_few(case: &Case<'_>) -> Option<usize> {
    let (metric, rules) = (Metric::CpuUtilization, &case.policy.freshness);
    // One is what policies mean that were written before there was a quorum: they are judged as they were.
    if case.proposal.action != Action::ScaleDown || rules.quorum <= 1 {
        return None;
    }
    let alive = |at: Millis| case.now.saturating_sub(at) <= rules.ttl_of(metric);
    let series = case.reading.metrics.get(&metric).into_iter();
    let sources = || series.clone().flat_map(|s| &s.sources).filter(|(_, p)| alive(p.at));
    let (own, heard) = (sources().any(|(name, _)| is_own(name)), sources().count());
    (!own && (heard as u64) < u64::from(rules.quorum)).then_some(heard)
}

fn age(case: &Case<'_>) -> Age {
    let known = case.reading.metrics.keys().map(|metric| age_of(case, *metric));
    match case.proposal.action {
        Action::ScaleDown => {
            known.max().unwrap_or(Age::Missing).max(age_of(case, Metric::CpuUtilization))
        }
        // Asked for and approved by humans.
        Action::Deploy | Action::Configure | Action::Offboard => Age::Unneeded,
        Action::Restart | Action::RetryDeployment | Action::Rollback if was_seen(case) => {
            Age::Unneeded
        }
        _ => {
            let because = &case.proposal.because;
            let answered = case.findings.iter().filter(|f| because.contains(&f.kind));
            let ages = answered.filter(|f| !f.kind.is_hard()).map(|finding| {
                finding.metric.map_or_else(|| last_seen(case), |metric| age_of(case, metric))
            });
            ages.max().unwrap_or_else(|| last_seen(case))
        }
    }
}

/// Whether the supervisor itself saw what the proposal answers.
fn was_seen(case: &Case<'_>) -> bool {
    case.proposal.because.iter().any(|kind| match kind {
        FindingKind::Unresponsive => {
            case.app.instances.values().any(|instance| instance.phase == Phase::Unready)
        }
        kind => kind.is_hard(),
    })
}

/// Age of the newest word on `metric` from any source, numbers and custom booleans alike.
fn age_of(case: &Case<'_>, metric: Metric) -> Age {
    let numbers = case.reading.metrics.get(&metric).into_iter();
    let heard = numbers.flat_map(|series| series.sources.values()).map(|point| point.at);
    let claim = claim_of(metric).and_then(|name| case.reading.conditions.get(name));
    let newest = heard.chain(claim.map(|claim| claim.at)).max();
    aged(case, newest, case.policy.freshness.ttl_of(metric))
}

fn last_seen(case: &Case<'_>) -> Age {
    aged(case, case.reading.last_seen, case.policy.freshness.ttl_ms)
}

fn aged(case: &Case<'_>, heard: Option<Millis>, ttl: Millis) -> Age {
    let Some(heard) = heard else { return Age::Missing };
    let age = case.now.saturating_sub(heard);
    Age::Known { late: age > ttl, age, ttl }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::scene::{Scene, check, pass, refuse};

    const TTL: Millis = 15_000;

    fn overload(s: &mut Scene, ago: Option<Millis>) {
        s.propose(Action::ScaleUp);
        s.find(FindingKind::CpuOverload, Some(Metric::CpuUtilization));
        s.reading.metrics.clear();
        if let Some(ago) = ago {
            s.hear(Metric::CpuUtilization, "monitor", ago);
        }
    }

    #[test]
    fn what_rests_on_signals_needs_fresh_ones() {
        let stale = || refuse(Reason::StaleData).limit(Fact::Ms(TTL));
        check(
            &GATE,
            &[
                ("just heard", |s| overload(s, Some(0)), pass().value(Fact::Ms(0))),
                ("at the end of its life", |s| overload(s, Some(TTL)), pass()),
                (
                    "a millisecond older",
                    |s| overload(s, Some(TTL + 1)),
                    stale().value(Fact::Ms(TTL + 1)),
                ),
                ("never heard", |s| overload(s, None), stale().value(words("missing"))),
                (
                    "another metric does not help",
                    |s| {
                        overload(s, None);
                        s.hear(Metric::LatencyP99, "monitor", 0);
                    },
                    stale(),
                ),
                (
                    "one fresh source is enough",
                    |s| {
                        overload(s, Some(TTL + 1));
                        s.hear(Metric::CpuUtilization, "other", 1);
                    },
                    pass().value(Fact::Ms(1)),
                ),
                (
                    "a metric of a slower pace lives longer",
                    |s| {
                        overload(s, Some(TTL + 1));
                        s.policy.freshness.ttl_by_metric =
                            [(Metric::CpuUtilization, TTL + 1)].into();
                    },
                    pass().value(Fact::Ms(TTL + 1)).limit(Fact::Ms(TTL + 1)),
                ),
                (
                    "a fresh claim is enough",
                    |s| {
                        overload(s, None);
                        s.claim("cpu_high", 3);
                    },
                    pass().value(Fact::Ms(3)),
                ),
                (
                    "of two findings the older one counts",
                    |s| {
                        overload(s, Some(0));
                        s.find(FindingKind::Latency, Some(Metric::LatencyP99));
                        s.proposal.because = vec![FindingKind::CpuOverload, FindingKind::Latency];
                        s.hear(Metric::LatencyP99, "monitor", TTL + 1);
                    },
                    stale(),
                ),
                (
                    "a human knows what they see",
                    |s| {
                        overload(s, None);
                        s.human();
                    },
                    pass(),
                ),
            ],
        );
    }

    #[test]
    fn what_the_supervisor_saw_needs_no_signal() {
        fn deaf(s: &mut Scene) {
            s.reading.metrics.clear();
            s.reading.last_seen = None;
        }
        let unneeded = || pass().value(words("no signal needed"));
        check(
            &GATE,
            &[
                ("a crash", deaf, unneeded()),
                (
                    "a hung instance",
                    |s| {
                        s.hang();
                        deaf(s);
                    },
                    unneeded(),
                ),
                (
                    "a hung instance that is not hung",
                    |s| {
                        s.hang();
                        s.all_ready();
                        deaf(s);
                    },
                    refuse(Reason::StaleData),
                ),
                (
                    "more instances are not what a crash needs",
                    |s| {
                        deaf(s);
                        s.propose(Action::ScaleUp);
                        s.proposal.because = vec![FindingKind::Crash];
                    },
                    refuse(Reason::StaleData),
                ),
            ],
        );
    }

    #[test]
    fn fewer_instances_need_complete_metrics() {
        fn idle(s: &mut Scene, cpu: Option<Millis>, latency: Option<Millis>) {
            s.propose(Action::ScaleDown);
            s.all_ready();
            s.proposal.because.clear();
            s.reading.metrics.clear();
            for (metric, ago) in [(Metric::CpuUtilization, cpu), (Metric::LatencyP99, latency)] {
                if let Some(ago) = ago {
                    s.hear(metric, "sense/procfs", ago);
                }
            }
        }
        let stale = || refuse(Reason::StaleData);
        check(
            &GATE,
            &[
                ("all fresh", |s| idle(s, Some(TTL), Some(1)), pass().value(Fact::Ms(TTL))),
                ("CPU alone", |s| idle(s, Some(1), None), pass()),
                ("no CPU", |s| idle(s, None, Some(1)), stale()),
                ("nothing", |s| idle(s, None, None), stale()),
                ("one is old", |s| idle(s, Some(1), Some(TTL + 1)), stale()),
                (
                    "a crash is no reason for fewer",
                    |s| {
                        idle(s, None, None);
                        s.proposal.because = vec![FindingKind::Crash];
                    },
                    stale(),
                ),
            ],
        );
    }

    #[test]
    fn fewer_instances_need_more_than_one_monitor() {
        fn idle(s: &mut Scene, sources: &[(&str, Millis)]) {
            s.propose(Action::ScaleDown);
            s.all_ready();
            s.proposal.because.clear();
            s.reading.metrics.clear();
            for (source, ago) in sources {
                s.hear(Metric::CpuUtilization, source, *ago);
            }
        }
        let lonely =
            || refuse(Reason::InsufficientSources).value(Fact::Count(1)).limit(Fact::Count(2));
        check(
            &GATE,
            &[
                ("a monitor alone", |s| idle(s, &[("monitor", 0)]), lonely()),
                ("two monitors", |s| idle(s, &[("monitor", 0), ("other", 0)]), pass()),
                (
                    "the second fell silent",
                    |s| idle(s, &[("monitor", 0), ("other", TTL + 1)]),
                    lonely(),
                ),
                ("what the server measures itself", |s| idle(s, &[("sense/procfs", 0)]), pass()),
                (
                    "which is too old",
                    |s| idle(s, &[("monitor", 0), ("sense/procfs", TTL + 1)]),
                    lonely(),
                ),
                (
                    "a policy that leaves it to one",
                    |s| {
                        idle(s, &[("monitor", 0)]);
                        s.policy.freshness.quorum = 1;
                    },
                    pass(),
                ),
                ("more instances need one", |s| overload(s, Some(0)), pass()),
                (
                    "a human knows what they see",
                    |s| {
                        idle(s, &[("monitor", 0)]);
                        s.human();
                    },
                    pass(),
                ),
            ],
        );
    }
}

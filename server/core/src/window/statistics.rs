//! What the metrics of one app look like against their own past: every closed tick goes through the statistics the policy asks for.
//!
//! Bounded: at most one baseline per metric the policy names, one sum and one budget per rule. Ephemeral like the window: after a
//! restart the past is collected anew, and during its warm-up nothing is known.
//!
//! What is missing is unknown: an alarm is told only while its metric is, as a threshold on it would be.

use std::collections::BTreeMap;

use crate::app::{AppName, Millis};
use crate::detect::{Alarm, Baseline, BurnRate, ErrorSum, Seen};
use crate::policy::{self, Policy};
use crate::signal::{Metric, Point};

/// Longest time one sample of the request rate stands for.
const SPAN_MAX: Millis = 60_000;
/// Samples without a request after which what failed before is no longer the present.
const IDLE: u32 = 60;

/// The statistics of one app.
#[derive(Debug, Clone)]
pub(super) struct Statistics {
    /// In the order of metrics.
    baselines: Vec<Compared>,
    errors: Option<Errors>,
    budgets: Vec<Spent>,
}

/// The error budget under one rule.
#[derive(Debug, Clone)]
struct Spent {
    rate: BurnRate,
    alarm: Option<Alarm>,
}

/// One metric and its own past.
#[derive(Debug, Clone)]
struct Compared {
    metric: Metric,
    baseline: Baseline,
    /// Samples of its warm-up and of its past, as the policy had them when it began.
    lengths: (u32, u32),
    /// Of the newest tick.
    at: Millis,
    alarm: Option<Alarm>,
}

/// The failed requests.
#[derive(Debug, Clone)]
struct Errors {
    budget: i64,
    sum: ErrorSum,
    /// When it was last added to.
    at: Millis,
    /// Samples without a request since there was one.
    idle: u32,
    alarm: Option<Alarm>,
}

impl Statistics {
    pub(super) const fn new() -> Self {
        Self { baselines: Vec::new(), errors: None, budgets: Vec::new() }
    }

    /// Takes in what was just closed at `now` about `app`, and gives the alarms that stand.
    pub(super) fn take(
        &mut self,
        app: &AppName,
        now: Millis,
        policy: &Policy,
        ticks: &BTreeMap<Metric, Point>,
    ) -> Vec<Alarm> {
        let rules = &policy.statistics;
        self.baselines.retain(|own| rules.metrics.contains(&own.metric));
        for metric in &rules.metrics {
            if let Some(tick) = ticks.get(metric) {
                self.compare(rules, *metric, *tick);
            }
        }
        let ttl = |metric: Metric| policy.freshness.ttl_of(metric);
        let both = ttl(Metric::ErrorRatio).max(ttl(Metric::RequestRate));
        // Nothing a sample says joins on to what is older than any sample may stand for.
        let is_old = |errors: &Errors| now.saturating_sub(errors.at) > both.max(SPAN_MAX);
        if self.errors.as_ref().is_some_and(is_old) {
            self.errors = None;
        }
        let budget = rules.budget_of(app);
        self.follow(rules, budget);
        self.add(budget, ticks);
        self.spend(now);
        let known = |at: Millis, ttl: Millis| now.saturating_sub(at) <= ttl;
        let failing = self.errors.iter().filter(|errors| known(errors.at, both));
        // One that is not known now is not over either: it is told again when the metric comes back as odd as it went.
        let odd = self.baselines.iter().filter(|own| known(own.at, ttl(own.metric)));
        // The most urgent rule speaks for the others.
        let spent = failing.clone().flat_map(|_| self.budgets.iter().find_map(|spent| spent.alarm));
        let failing = failing.filter_map(|errors| errors.alarm);
        failing.chain(spent).chain(odd.filter_map(|own| own.alarm)).collect()
    }

    /// What was counted under another rule or for another budget says nothing about this one.
    fn follow(&mut self, rules: &policy::Statistics, budget: i64) {
        let most = rules.burn.len().min(policy::Statistics::BURNS);
        let rules = rules.burn.get(..most).filter(|_| budget > 0).unwrap_or_default();
        let same = self.budgets.len() == rules.len()
            && self.budgets.iter().zip(rules).all(|(spent, rule)| spent.rate.follows(rule, budget));
        if !same {
            let new =
                |rule: &policy::Burn| Spent { rate: BurnRate::new(*rule, budget), alarm: None };
            self.budgets = rules.iter().map(new).collect();
        }
    }

    /// A span moves on whether anything was heard or not.
    fn spend(&mut self, now: Millis) {
        for spent in &mut self.budgets {
            spent.alarm = spent.rate.judge(now).map(|deviation| {
                let since = spent.alarm.map_or(now, |alarm| alarm.since);
                Alarm { metric: Metric::ErrorRatio, since, deviation }
            });
        }
    }

    fn compare(&mut self, rules: &policy::Statistics, metric: Metric, tick: Point) {
        let lengths = (rules.warm_up, rules.history);
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let new = || Compared {
            metric,
            baseline: Baseline::new(size(rules.warm_up), size(rules.history)),
            lengths,
            at: tick.at,
            alarm: None,
        };
        let place = self.baselines.partition_point(|own| own.metric < metric);
        if self.baselines.get(place).is_none_or(|own| own.metric != metric) {
            // Each is large, and there are as many as the policy names.
            self.baselines.reserve_exact(1);
            self.baselines.insert(place, new());
        }
        let Some(own) = self.baselines.get_mut(place) else { return };
        // A past of another length is another past, and its alarms rest on what the policy no longer says.
        if own.lengths != lengths {
            *own = new();
        }
        own.at = tick.at;
        match own.baseline.push(tick.micro) {
            Seen::Quiet => own.alarm = None,
            Seen::Standing => {}
            Seen::Alarm(deviation) => {
                own.alarm = Some(Alarm { metric, since: tick.at, deviation });
            }
        }
    }

    fn add(&mut self, budget: i64, ticks: &BTreeMap<Metric, Point>) {
        if budget == 0 || self.errors.as_ref().is_some_and(|known| known.budget != budget) {
            self.errors = None;
        }
        let (Some(ratio), Some(rate)) =
            (ticks.get(&Metric::ErrorRatio), ticks.get(&Metric::RequestRate))
        else {
            return;
        };
        if budget == 0 {
            return;
        }
        let sum = ErrorSum::new(budget);
        let new = || Errors { budget, sum, at: ratio.at, idle: 0, alarm: None };
        let errors = self.errors.get_or_insert_with(new);
        let span = ratio.at.saturating_sub(std::mem::replace(&mut errors.at, ratio.at));
        let requests = u64::try_from(rate.micro).unwrap_or(0).saturating_mul(span.min(SPAN_MAX))
            / 1_000_000_000;
        for spent in &mut self.budgets {
            spent.rate.push(ratio.at, span.min(SPAN_MAX), requests, ratio.micro);
        }
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        errors.idle = if requests == 0 { errors.idle.saturating_add(1) } else { 0 };
        if errors.idle >= IDLE {
            (errors.sum, errors.alarm) = (sum, None);
        }
        errors.alarm = errors.sum.push(requests, ratio.micro).map(|deviation| {
            let since = errors.alarm.map_or(ratio.at, |alarm| alarm.since);
            Alarm { metric: Metric::ErrorRatio, since, deviation }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Env;
    use crate::detect::Test;

    fn policy() -> Policy {
        Policy::default_for(Env::Prod)
    }

    fn web() -> AppName {
        AppName::parse("web").unwrap()
    }

    /// Two percent of a thousand requests each second failed.
    const BAD: [(Metric, i64); 2] =
        [(Metric::ErrorRatio, 20_000), (Metric::RequestRate, 1_000_000_000)];

    fn ticks(at: Millis, values: &[(Metric, i64)]) -> BTreeMap<Metric, Point> {
        values.iter().map(|(metric, micro)| (*metric, Point { micro: *micro, at })).collect()
    }

    #[test]
    fn traffic_that_stays_away_is_an_alarm_that_says_what_was_expected() {
        let (mut statistics, policy) = (Statistics::new(), policy());
        let rate = |n: u64| i64::try_from(50_000_000 + n * 7_919 % 10_000_000).unwrap();
        let mut at = 0;
        let mut take = |statistics: &mut Statistics, rate| {
            at += 1_000;
            statistics.take(&web(), at, &policy, &ticks(at, &[(Metric::RequestRate, rate)]))
        };
        for n in 0..u64::from(policy.statistics.warm_up) + 200 {
            assert_eq!(take(&mut statistics, rate(n)), [], "{n}");
        }
        let alarms = take(&mut statistics, 0);
        assert_eq!((alarms.len(), alarms[0].deviation.test), (1, Test::Range));
        assert_eq!((alarms[0].metric, alarms[0].deviation.value), (Metric::RequestRate, 0));
        assert!(alarms[0].deviation.low >= 50_000_000);
        assert_eq!(take(&mut statistics, 0), alarms, "it stands");
    }

    #[test]
    fn failures_are_weighed_by_the_requests_they_are_a_share_of() {
        let alarms = |rate: i64, seconds: u64| {
            let mut statistics = Statistics::new();
            let all = (1..=seconds).map(|n| {
                let values = [(Metric::ErrorRatio, 20_000), (Metric::RequestRate, rate)];
                statistics.take(&web(), n * 1_000, &policy(), &ticks(n * 1_000, &values))
            });
            all.filter(|alarms| !alarms.is_empty()).count()
        };
        assert!(alarms(1_000_000_000, 30) > 20, "two percent of a thousand each second");
        assert_eq!(alarms(1_000_000, 30), 0, "of one request each second it says little");
    }

    #[test]
    fn a_budget_that_runs_out_is_told_once_and_each_app_has_its_own() {
        let alarms = |budget: Option<i64>, minutes: u64| {
            let (mut statistics, mut policy) = (Statistics::new(), policy());
            policy.statistics.error_budgets.extend(budget.map(|budget| (web(), budget)));
            let seconds = (1..=60 * minutes).map(|n| n * 1_000);
            let all = seconds.map(|at| statistics.take(&web(), at, &policy, &ticks(at, &BAD)));
            all.last().unwrap()
        };
        let tests = |alarms: Vec<Alarm>| -> Vec<Test> {
            alarms.iter().map(|alarm| alarm.deviation.test).collect()
        };
        assert_eq!(tests(alarms(None, 30)), [Test::ErrorSum], "no page before it is worth one");
        let both = alarms(None, 50);
        assert_eq!(
            both[1].since,
            43 * 60_000 + 13_000,
            "20 times the budget for so much of an hour"
        );
        assert_eq!(tests(both), [Test::ErrorSum, Test::BurnPage], "one rule speaks for the others");
        assert_eq!(tests(alarms(Some(50_000), 50)), [], "one in twenty may fail here");
        assert_eq!(tests(alarms(Some(0), 50)), [], "and nobody looks here");
    }

    #[test]
    fn a_policy_without_statistics_keeps_none() {
        let mut none = policy();
        (none.statistics.metrics, none.statistics.error_budget) = (Vec::new(), 0);
        let mut statistics = Statistics::new();
        let values = ticks(1_000, &[(Metric::ErrorRatio, 1_000_000), (Metric::RequestRate, 9)]);
        (0..2_000).for_each(|_| assert_eq!(statistics.take(&web(), 1_000, &none, &values), []));
        assert!(statistics.baselines.is_empty() && statistics.errors.is_none());
        assert!(statistics.budgets.is_empty());
    }

    /// What was usual for long, and then a rate of zero: the one alarm it raises, and when the last tick was.
    fn odd(policy: &Policy) -> (Statistics, Vec<Alarm>, Millis) {
        let (mut statistics, mut at, mut alarms) = (Statistics::new(), 0, Vec::new());
        let usual = (0..policy.statistics.warm_up + 200).map(|n| 50_000_000 + i64::from(n % 997));
        for rate in usual.chain([0]) {
            at += 1_000;
            alarms =
                statistics.take(&web(), at, policy, &ticks(at, &[(Metric::RequestRate, rate)]));
        }
        assert_eq!(alarms.len(), 1);
        (statistics, alarms, at)
    }

    #[test]
    fn an_alarm_of_a_metric_that_is_gone_is_unknown_until_it_is_back() {
        let policy = policy();
        let (mut statistics, alarms, at) = odd(&policy);
        let (ttl, none) = (policy.freshness.ttl_of(Metric::RequestRate), BTreeMap::new());
        assert_eq!(
            statistics.take(&web(), at + ttl, &policy, &none),
            alarms,
            "it is as old as it may be"
        );
        assert_eq!(statistics.take(&web(), at + ttl + 1, &policy, &none), []);
        let later = at + 3_600_000;
        let back = ticks(later, &[(Metric::RequestRate, 0)]);
        assert_eq!(statistics.take(&web(), later, &policy, &back), alarms, "as odd as it went");
    }

    #[test]
    fn a_past_of_another_length_begins_anew() {
        let mut policy = policy();
        for longer in [true, false] {
            let (mut statistics, _, at) = odd(&policy);
            let rules = &mut policy.statistics;
            let length = if longer { &mut rules.history } else { &mut rules.warm_up };
            *length += 1;
            let tick = ticks(at + 1_000, &[(Metric::RequestRate, 0)]);
            assert_eq!(
                statistics.take(&web(), at + 1_000, &policy, &tick),
                [],
                "longer past: {longer}"
            );
        }
    }

    #[test]
    fn failures_nobody_tells_of_any_more_are_unknown_and_then_forgotten() {
        let (mut statistics, policy) = (Statistics::new(), policy());
        let mut take = |at, values: &[(Metric, i64)]| {
            statistics.take(&web(), at, &policy, &ticks(at, values)).len()
        };
        let standing = (1..=30).map(|n| take(n * 1_000, &BAD)).last();
        assert_eq!(standing, Some(1));
        let ttl = policy.freshness.ttl_of(Metric::ErrorRatio);
        assert_eq!(take(30_000 + ttl, &[]), 1, "it is as old as it may be");
        assert_eq!(take(30_001 + ttl, &[]), 0);
        assert_eq!(take(30_001 + SPAN_MAX.max(ttl), &[]), 0);
        let back = 40_000 + SPAN_MAX.max(ttl);
        assert_eq!(take(back, &BAD) + take(back + 1_000, &BAD), 0, "one blip is no alarm");
    }

    #[test]
    fn failures_end_when_nothing_is_asked_any_more() {
        let (mut statistics, policy) = (Statistics::new(), policy());
        let idle = [(Metric::ErrorRatio, 0), (Metric::RequestRate, 0)];
        let mut take = |n: u64, values: &[(Metric, i64)]| {
            statistics.take(&web(), n * 1_000, &policy, &ticks(n * 1_000, values)).len()
        };
        assert_eq!((1..=30).map(|n| take(n, &BAD)).last(), Some(1));
        let stands = (31..200).map(|n| take(n, &idle)).take_while(|alarms| *alarms == 1).count();
        assert_eq!(stands, IDLE as usize - 1);
        assert_eq!(take(200, &BAD) + take(201, &BAD), 0, "and nothing of it is left");
    }
}

//! What the metrics of one app look like against their own past: every closed tick goes through the statistics the policy asks for.
//!
//! Bounded: at most one baseline per metric the policy names, and one sum. Ephemeral like the window: after a restart the past is
//! collected anew, and during its warm-up nothing is known.

use std::collections::BTreeMap;

use crate::app::Millis;
use crate::detect::{Alarm, Baseline, ErrorSum, Seen};
use crate::policy;
use crate::signal::{Metric, Point};

/// Longest time one sample of the request rate stands for.
const SPAN_MAX: Millis = 60_000;

/// The statistics of one app.
#[derive(Debug, Clone)]
pub(super) struct Statistics {
    baselines: BTreeMap<Metric, (Baseline, Option<Alarm>)>,
    /// The budget it is for, the sum, and when it was last added to.
    errors: Option<(i64, ErrorSum, Millis)>,
    failing: Option<Alarm>,
}

impl Statistics {
    pub(super) const fn new() -> Self {
        Self { baselines: BTreeMap::new(), errors: None, failing: None }
    }

    /// Takes in what was just closed, and gives the alarms that stand.
    pub(super) fn take(
        &mut self,
        rules: &policy::Statistics,
        ticks: &BTreeMap<Metric, Point>,
    ) -> Vec<Alarm> {
        self.baselines.retain(|metric, _| rules.metrics.contains(metric));
        for metric in &rules.metrics {
            if let Some(tick) = ticks.get(metric) {
                self.compare(rules, *metric, *tick);
            }
        }
        self.add(rules.error_budget, ticks);
        let baselines = self.baselines.values().filter_map(|(_, alarm)| *alarm);
        self.failing.into_iter().chain(baselines).collect()
    }

    fn compare(&mut self, rules: &policy::Statistics, metric: Metric, tick: Point) {
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let (baseline, alarm) = self
            .baselines
            .entry(metric)
            .or_insert_with(|| (Baseline::new(size(rules.warm_up), size(rules.history)), None));
        match baseline.push(tick.micro) {
            Seen::Quiet => *alarm = None,
            Seen::Standing => {}
            Seen::Alarm(deviation) => *alarm = Some(Alarm { metric, since: tick.at, deviation }),
        }
    }

    fn add(&mut self, budget: i64, ticks: &BTreeMap<Metric, Point>) {
        if self.errors.is_some_and(|(known, ..)| known != budget) || budget == 0 {
            (self.errors, self.failing) = (None, None);
        }
        let (Some(ratio), Some(rate)) =
            (ticks.get(&Metric::ErrorRatio), ticks.get(&Metric::RequestRate))
        else {
            return;
        };
        if budget == 0 {
            return;
        }
        let (_, sum, since) =
            self.errors.get_or_insert_with(|| (budget, ErrorSum::new(budget), ratio.at));
        let span = ratio.at.saturating_sub(std::mem::replace(since, ratio.at)).min(SPAN_MAX);
        let requests = u64::try_from(rate.micro).unwrap_or(0).saturating_mul(span) / 1_000_000_000;
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        self.failing = sum.push(requests, ratio.micro).map(|deviation| {
            let since = self.failing.map_or(ratio.at, |alarm| alarm.since);
            Alarm { metric: Metric::ErrorRatio, since, deviation }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Env;
    use crate::detect::Test;
    use crate::policy::Policy;

    fn rules() -> policy::Statistics {
        Policy::default_for(Env::Prod).statistics
    }

    fn ticks(at: Millis, values: &[(Metric, i64)]) -> BTreeMap<Metric, Point> {
        values.iter().map(|(metric, micro)| (*metric, Point { micro: *micro, at })).collect()
    }

    #[test]
    fn traffic_that_stays_away_is_an_alarm_that_says_what_was_expected() {
        let (mut statistics, rules) = (Statistics::new(), rules());
        let rate = |n: u64| i64::try_from(50_000_000 + n * 7_919 % 10_000_000).unwrap();
        let mut at = 0;
        let mut take = |statistics: &mut Statistics, rate| {
            at += 1_000;
            statistics.take(&rules, &ticks(at, &[(Metric::RequestRate, rate)]))
        };
        for n in 0..u64::from(rules.warm_up) + 200 {
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
                statistics.take(&rules(), &ticks(n * 1_000, &values))
            });
            all.filter(|alarms| !alarms.is_empty()).count()
        };
        assert!(alarms(1_000_000_000, 30) > 20, "two percent of a thousand each second");
        assert_eq!(alarms(1_000_000, 30), 0, "of one request each second it says little");
    }

    #[test]
    fn a_policy_without_statistics_keeps_none() {
        let none = policy::Statistics { metrics: Vec::new(), error_budget: 0, ..rules() };
        let mut statistics = Statistics::new();
        let values = ticks(1_000, &[(Metric::ErrorRatio, 1_000_000), (Metric::RequestRate, 9)]);
        (0..2_000).for_each(|_| assert_eq!(statistics.take(&none, &values), []));
        assert!(statistics.baselines.is_empty() && statistics.errors.is_none());
    }
}

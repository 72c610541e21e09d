//! The latest reading of each app, for whoever asks. Decisions look at the windows themselves, so that of each source only its latest
//! value is kept here, and not the ticks before it: a tenth of the memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentd_core::app::{AppName, Millis};
use agentd_core::signal::{Metric, Point, Reading, Series};

/// The latest reading of each app.
#[derive(Debug, Default)]
pub struct Readings(BTreeMap<AppName, Known>);

/// What is known of one app.
#[derive(Debug)]
struct Known {
    /// The reading without its metrics.
    rest: Reading,
    values: Vec<Value>,
}

/// The latest value of one metric from one source.
#[derive(Debug)]
struct Value {
    metric: Metric,
    /// Shared by the metrics it speaks of.
    source: Arc<str>,
    point: Point,
}

impl Readings {
    /// The latest reading of an app, without the ticks before it.
    #[must_use]
    pub fn get(&self, app: &AppName) -> Option<Reading> {
        self.0.get(app).map(Known::reading)
    }

    /// When each app was heard of last, in the order of names.
    pub fn heard(&self) -> impl Iterator<Item = (&AppName, Millis)> {
        self.0.iter().filter_map(|(app, known)| Some((app, known.rest.last_seen?)))
    }

    /// Whether `reading` says that a metric went stale that was not in the one before.
    pub(super) fn expires(&self, reading: &Reading) -> bool {
        reading.has_expired_since(self.0.get(&reading.app).map(|known| &known.rest))
    }

    /// Puts a reading in place of the one before.
    pub(super) fn put(&mut self, mut reading: Reading) {
        let metrics = std::mem::take(&mut reading.metrics);
        if let Some(known) = self.0.get_mut(&reading.app) {
            known.rest = reading;
            known.renew(&metrics);
            return;
        }
        let mut known = Known { values: Vec::new(), rest: reading };
        known.renew(&metrics);
        self.0.insert(known.rest.app.clone(), known);
    }

    pub(super) fn remove(&mut self, app: &AppName) {
        self.0.remove(app);
    }
}

impl Known {
    fn renew(&mut self, metrics: &BTreeMap<Metric, Series>) {
        let mut source: Option<Arc<str>> =
            self.values.first().map(|value| Arc::clone(&value.source));
        self.values.clear();
        self.values.reserve_exact(metrics.values().map(|series| series.sources.len()).sum());
        for (metric, name, point) in metrics.iter().flat_map(|(metric, series)| {
            series.sources.iter().map(|(s, point)| (*metric, s, *point))
        }) {
            let shared = source.take().filter(|known| **known == **name);
            let shared = shared.unwrap_or_else(|| name.as_str().into());
            source = Some(Arc::clone(&shared));
            self.values.push(Value { metric, source: shared, point });
        }
    }

    fn reading(&self) -> Reading {
        let mut reading = self.rest.clone();
        for Value { metric, source, point } in &self.values {
            let series = reading.metrics.entry(*metric).or_default();
            series.sources.insert(source.to_string(), *point);
        }
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_again_but_for_the_ticks() {
        let (web, mut readings) = (AppName::parse("web").unwrap(), Readings::default());
        assert!(readings.get(&web).is_none());
        let series = |sources: &[(&str, i64)], at| {
            let point = |micro| Point { micro, at };
            let sources = sources.iter().map(|(source, n)| ((*source).to_owned(), point(*n)));
            Series { sources: sources.collect(), recent: Vec::new() }
        };
        for at in [1_000, 2_000] {
            let mut reading = Reading::silent(web.clone(), at, Some(at));
            let (one, two) = ([("edge@ci", 1)], [("edge@ci", 2), ("lab@ci", 3)]);
            reading.metrics.insert(Metric::CpuUtilization, series(&one, at));
            reading.metrics.insert(Metric::LatencyP99, series(&two, at));
            reading.stale.insert(Metric::ErrorRatio, at);
            let mut with_ticks = reading.clone();
            with_ticks.metrics.values_mut().for_each(|s| s.recent.push(Point { micro: 1, at }));
            assert_eq!(readings.expires(&reading), at == 1_000, "it is stale already then");
            readings.put(with_ticks);
            assert_eq!(readings.get(&web), Some(reading));
            assert_eq!(readings.heard().collect::<Vec<_>>(), [(&web, at)]);
        }
        readings.remove(&web);
        assert_eq!(readings.heard().count(), 0);
    }
}

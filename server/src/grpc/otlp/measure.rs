//! From the metrics of one resource to one signal, by the semantic conventions of OpenTelemetry. What has no meaning for a decision
//! is ignored; what has one and breaks a rule is refused.

use std::collections::BTreeMap;

use agentctl_api::v1;
use agentd_core::app::{AppName, Millis};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
};

use super::histogram::{Bucket, Counts, quantile};
use super::memory::{Added, Full, Last, Memory, Value};
use super::words::{Meaning, meaning, per_unit};

/// Most attributes of one point.
const ATTRIBUTES_MAX: usize = 128;
/// Requests below which nothing is said of their latency and errors: a share of two requests is no evidence.
pub(super) const REQUESTS_MIN: u64 = 5;
/// Flag of a point that says that there is no value.
const NO_RECORDED_VALUE: u32 = 1;
const DELTA: i32 = AggregationTemporality::Delta as i32;
/// Status codes of gRPC that are the server's fault.
const RPC_FAULTS: [i64; 6] = [2, 4, 12, 13, 14, 15];

/// Points that were not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) points: u64,
    pub(super) why: String,
}

/// What one resource says.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) signal: v1::Signal,
    /// Points that have a meaning.
    pub(super) points: u64,
    pub(super) refused: Vec<Refused>,
}

/// Where it comes from: what counters are remembered under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) app: &'a AppName,
    pub(super) instance: &'a str,
    pub(super) now: Millis,
}

/// Everything that adds up to the signal.
#[derive(Debug, Default)]
struct Sums {
    /// By meaning, and by rank: of two ways to say the same the first one counts.
    levels: BTreeMap<(Meaning, u8), f64>,
    buckets: Vec<Bucket>,
    requests: u64,
    failed: u64,
    seconds: f64,
    has_requests: bool,
    newest: u64,
}

/// Data points in a metric.
pub(super) fn points_of(metric: &Metric) -> u64 {
    let count = match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
        None => 0,
    };
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Data points of a resource.
pub(super) fn all_points(resource: &ResourceMetrics) -> u64 {
    metrics_of(resource).map(points_of).fold(0, u64::saturating_add)
}

fn metrics_of(resource: &ResourceMetrics) -> impl Iterator<Item = &Metric> {
    resource.scope_metrics.iter().flat_map(|scope| &scope.metrics)
}

/// The text of an attribute.
pub(super) fn text_of<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match value_of(attributes, key)? {
        Any::StringValue(text) => Some(text),
        _ => None,
    }
}

fn value_of<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Any> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

/// Reads what a resource says.
pub(super) fn measure(
    resource: &ResourceMetrics,
    origin: Origin<'_>,
    memory: &mut Memory,
) -> Measured {
    let (mut measured, mut sums) = (Measured::default(), Sums::default());
    for metric in metrics_of(resource) {
        let Some((meaning, rank)) = meaning(&metric.name) else { continue };
        let points = points_of(metric);
        measured.points = measured.points.saturating_add(points);
        let Some(unit) = per_unit(meaning, &metric.unit) else {
            let why = format!("metric `{}` has the unknown unit `{}`", metric.name, metric.unit);
            measured.refused.push(Refused { points, why });
            continue;
        };
        let mut reader = Reader {
            metric,
            meaning,
            rank,
            unit,
            origin,
            memory,
            sums: &mut sums,
            refused: 0,
            why: "",
        };
        reader.read();
        if reader.refused > 0 {
            let why = format!("metric `{}` {}", metric.name, reader.why);
            measured.refused.push(Refused { points: reader.refused, why });
        }
    }
    sums.say(&mut measured.signal);
    measured
}

/// Reads one metric.
struct Reader<'a> {
    metric: &'a Metric,
    meaning: Meaning,
    rank: u8,
    /// What one of the metric's unit is in ours.
    unit: f64,
    origin: Origin<'a>,
    memory: &'a mut Memory,
    sums: &'a mut Sums,
    refused: u64,
    why: &'static str,
}

impl Reader<'_> {
    fn read(&mut self) {
        match (self.meaning, &self.metric.data) {
            (Meaning::Requests, Some(Data::Histogram(histogram))) => {
                let delta = histogram.aggregation_temporality == DELTA;
                for point in &histogram.data_points {
                    let read = Counts::explicit(point)
                        .and_then(|counts| self.requests(point, (counts, point.count), delta));
                    self.note(read);
                }
            }
            (Meaning::Requests, Some(Data::ExponentialHistogram(histogram))) => {
                let delta = histogram.aggregation_temporality == DELTA;
                for point in &histogram.data_points {
                    let read = Counts::exponential(point).and_then(|counts| {
                        // What is asked of a point is the same for both kinds.
                        let like = HistogramDataPoint {
                            attributes: point.attributes.clone(),
                            start_time_unix_nano: point.start_time_unix_nano,
                            time_unix_nano: point.time_unix_nano,
                            flags: point.flags,
                            ..HistogramDataPoint::default()
                        };
                        self.requests(&like, (counts, point.count), delta)
                    });
                    self.note(read);
                }
            }
            (Meaning::CpuSeconds, Some(Data::Sum(sum))) => {
                let delta = sum.aggregation_temporality == DELTA;
                for point in &sum.data_points {
                    let read = self.counter(point, delta);
                    self.note(read);
                }
            }
            (Meaning::Requests | Meaning::CpuSeconds, _) => {
                let points = points_of(self.metric);
                self.refused = self.refused.saturating_add(points);
                self.why = "is of a kind its convention does not have";
            }
            (_, Some(Data::Gauge(gauge))) => self.levels(&gauge.data_points),
            (_, Some(Data::Sum(sum))) => self.levels(&sum.data_points),
            _ => {}
        }
    }

    fn note(&mut self, read: Result<(), &'static str>) {
        if let Err(why) = read {
            self.refused = self.refused.saturating_add(1);
            self.why = why;
        }
    }

    fn levels(&mut self, points: &[NumberDataPoint]) {
        for point in points.iter().filter(|point| point.flags & NO_RECORDED_VALUE == 0) {
            let read = self.attributes(&point.attributes).map(|()| {
                self.sums.newest = self.sums.newest.max(point.time_unix_nano);
                let level = self.sums.levels.entry((self.meaning, self.rank)).or_default();
                *level += number(point) * self.unit;
            });
            self.note(read);
        }
    }

    fn attributes(&self, attributes: &[KeyValue]) -> Result<(), &'static str> {
        if attributes.len() > ATTRIBUTES_MAX {
            return Err("has a point with more than 128 attributes");
        }
        Ok(())
    }

    fn counter(&mut self, point: &NumberDataPoint, delta: bool) -> Result<(), &'static str> {
        if point.flags & NO_RECORDED_VALUE != 0 {
            return Ok(());
        }
        self.attributes(&point.attributes)?;
        let (start, time) = (point.start_time_unix_nano, point.time_unix_nano);
        let last = Last { start, time, value: Value::Sum(number(point) * self.unit) };
        let added = self.added(&point.attributes, last, delta)?;
        self.sums.newest = self.sums.newest.max(time);
        if let Some(Added { value: Value::Sum(sum), seconds }) = added
            && seconds > 0.0
        {
            let level = self.sums.levels.entry((Meaning::CpuCores, self.rank)).or_default();
            *level += sum / seconds;
        }
        Ok(())
    }

    fn requests(
        &mut self,
        point: &HistogramDataPoint,
        (counts, count): (Counts, u64),
        delta: bool,
    ) -> Result<(), &'static str> {
        if point.flags & NO_RECORDED_VALUE != 0 {
            return Ok(());
        }
        self.attributes(&point.attributes)?;
        let (start, time) = (point.start_time_unix_nano, point.time_unix_nano);
        let last = Last { start, time, value: Value::Counts(counts, count) };
        let added = self.added(&point.attributes, last, delta)?;
        let sums = &mut *self.sums;
        sums.newest = sums.newest.max(time);
        if let Some(Added { value: Value::Counts(counts, count), seconds }) = added {
            sums.has_requests = true;
            sums.buckets.extend(counts.buckets(self.unit));
            sums.requests = sums.requests.saturating_add(count);
            if has_failed(&point.attributes) {
                sums.failed = sums.failed.saturating_add(count);
            }
            sums.seconds = sums.seconds.max(seconds);
        }
        Ok(())
    }

    /// What a point adds: all of it if it is told as a delta.
    fn added(
        &mut self,
        attributes: &[KeyValue],
        last: Last,
        delta: bool,
    ) -> Result<Option<Added>, &'static str> {
        if last.start > last.time {
            return Err("has a point that ends before it starts");
        }
        if delta {
            let seconds = last.time.saturating_sub(last.start) as f64 / 1e9;
            return Ok(Some(Added { value: last.value, seconds }));
        }
        let of = (self.origin.app, self.origin.instance);
        let key = (self.metric.name.clone(), fingerprint(attributes));
        let added = self.memory.add(of, key, last, self.origin.now);
        added.map_err(
            |Full| "has more than is remembered, 1000 series and 40000 buckets of an instance",
        )
    }
}

impl Sums {
    /// Of several ways to say one thing, the first.
    fn level(&self, meaning: Meaning) -> Option<f64> {
        let ranks = self.levels.range((meaning, 0)..=(meaning, u8::MAX));
        ranks.map(|(_, level)| *level).next()
    }

    /// A share that is told, or else made of a part and its whole. Without a limit nothing is guessed.
    fn share(&self, told: Meaning, part: Meaning, whole: Meaning) -> Option<f64> {
        let made = || {
            let whole = self.level(whole).filter(|whole| *whole > 0.0)?;
            Some(self.level(part)? / whole)
        };
        self.level(told).or_else(made)
    }

    fn say(&self, signal: &mut v1::Signal) {
        signal.cpu_utilization =
            self.share(Meaning::CpuShare, Meaning::CpuCores, Meaning::CpuLimit);
        signal.memory_utilization =
            self.share(Meaning::MemoryShare, Meaning::MemoryBytes, Meaning::MemoryLimit);
        // A counter of restarts is whole and never negative; what is not is left out by the cast's rule, not believed.
        signal.restart_count = self
            .level(Meaning::Restarts)
            .filter(|n| *n >= 0.0 && n.fract() == 0.0)
            .map(|n| n as u64);
        if self.has_requests && self.seconds > 0.0 {
            signal.request_rate = Some(self.requests as f64 / self.seconds);
        }
        if self.requests >= REQUESTS_MIN {
            signal.latency_p50_seconds = quantile(&self.buckets, 0.50);
            signal.latency_p99_seconds = quantile(&self.buckets, 0.99);
            signal.error_ratio = Some(self.failed as f64 / self.requests as f64);
        }
        if self.newest > 0 {
            let (seconds, nanos) = (self.newest / 1_000_000_000, self.newest % 1_000_000_000);
            signal.time = Some(prost_types::Timestamp {
                seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
                nanos: i32::try_from(nanos).unwrap_or(0),
            });
        }
    }
}

fn number(point: &NumberDataPoint) -> f64 {
    match point.value {
        Some(Number::AsDouble(value)) => value,
        Some(Number::AsInt(value)) => value as f64,
        // What has no value is no number.
        None => f64::NAN,
    }
}

/// Whether a point counts requests that failed by the server's fault.
fn has_failed(attributes: &[KeyValue]) -> bool {
    let int = |key| match value_of(attributes, key) {
        Some(Any::IntValue(value)) => Some(*value),
        Some(Any::StringValue(text)) => text.parse().ok(),
        _ => None,
    };
    let status = int("http.response.status_code").or_else(|| int("http.status_code"));
    text_of(attributes, "error.type").is_some_and(|kind| !kind.is_empty())
        || status.is_some_and(|status| status >= 500)
        || int("rpc.grpc.status_code").is_some_and(|code| RPC_FAULTS.contains(&code))
}

/// The same for the same attributes in any order.
fn fingerprint(attributes: &[KeyValue]) -> u64 {
    let one = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().map_or(Vec::new(), bytes_of);
        let parts = attribute.key.bytes().chain(std::iter::once(0)).chain(value);
        // FNV-1a.
        parts.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    attributes.iter().map(one).fold(0, u64::wrapping_add)
}

fn bytes_of(value: &AnyValue) -> Vec<u8> {
    use prost::Message as _;
    value.encode_to_vec()
}

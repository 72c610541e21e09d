//! From the metrics of one resource to one signal, by the semantic conventions of OpenTelemetry. What has no meaning for a decision
//! is ignored; what has one and breaks a rule is refused.

use agentd_core::app::{AppName, Millis};
use agentd_core::signal::{Metric as Of, Values};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogramDataPoint, HistogramDataPoint,
};
use prost::Message as _;

use super::histogram::{Bucket, Counts, quantile};
use super::lay::{self, Any, Attributes, Kind, Metric, Point};
use super::memory::{Added, Full, Last, Memory, Value};
use super::words::{Meaning, meaning, per_unit};

/// Most attributes of one point.
const ATTRIBUTES_MAX: usize = 128;
/// Requests below which nothing is said of their latency and errors: a share of two requests is no evidence.
pub(super) const REQUESTS_MIN: u64 = 5;
/// Flag of a point that says that there is no value.
const NO_RECORDED_VALUE: u64 = 1;
const DELTA: u64 = AggregationTemporality::Delta as u64;
const UNREADABLE: &str = "has a point that cannot be read";
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
    pub(super) values: Values<f64>,
    /// Time of the newest point, in nanoseconds; 0 if none has one.
    pub(super) newest: u64,
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
    /// By meaning, each with its rank: of two ways to say the same the first one counts.
    levels: [Option<(u8, f64)>; Meaning::COUNT],
    buckets: Vec<Bucket>,
    requests: u64,
    failed: u64,
    seconds: f64,
    has_requests: bool,
    newest: u64,
}

/// Reads what a resource says.
pub(super) fn measure(resource: &[u8], origin: Origin<'_>, memory: &mut Memory) -> Measured {
    let (mut measured, mut sums) = (Measured::default(), Sums::default());
    for metric in lay::metrics(resource) {
        let Some((meaning, rank)) = meaning(metric.name) else { continue };
        let Some(unit) = per_unit(meaning, metric.unit) else {
            let points = metric.count();
            measured.points = measured.points.saturating_add(points);
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
            points: 0,
            refused: 0,
            why: "",
        };
        reader.read();
        measured.points = measured.points.saturating_add(reader.points);
        if reader.refused > 0 {
            let why = format!("metric `{}` {}", metric.name, reader.why);
            measured.refused.push(Refused { points: reader.refused, why });
        }
    }
    (measured.values, measured.newest) = (sums.values(), sums.newest);
    measured
}

/// Reads one metric.
struct Reader<'a> {
    metric: Metric<'a>,
    meaning: Meaning,
    rank: u8,
    /// What one of the metric's unit is in ours.
    unit: f64,
    origin: Origin<'a>,
    memory: &'a mut Memory,
    sums: &'a mut Sums,
    points: u64,
    refused: u64,
    why: &'static str,
}

impl Reader<'_> {
    fn read(&mut self) {
        let adds = matches!(self.meaning, Meaning::Requests | Meaning::CpuSeconds);
        let delta = adds && self.metric.temporality() == DELTA;
        match (self.meaning, self.metric.kind) {
            (Meaning::Requests, Some(Kind::Histogram)) => self.each(|reader, bytes| {
                let point = HistogramDataPoint::decode(bytes).map_err(|_malformed| UNREADABLE)?;
                let times = (point.start_time_unix_nano, point.time_unix_nano);
                let counts = Counts::explicit(&point)?;
                let of = Point::of(bytes, 9, times, point.flags);
                reader.requests(of, (counts, point.count), delta)
            }),
            (Meaning::Requests, Some(Kind::Exponential)) => self.each(|reader, bytes| {
                let point = ExponentialHistogramDataPoint::decode(bytes)
                    .map_err(|_malformed| UNREADABLE)?;
                let times = (point.start_time_unix_nano, point.time_unix_nano);
                let counts = Counts::exponential(&point)?;
                let of = Point::of(bytes, 1, times, point.flags);
                reader.requests(of, (counts, point.count), delta)
            }),
            (Meaning::CpuSeconds, Some(Kind::Sum)) => {
                self.each(|reader, bytes| reader.counter(Point::number(bytes), delta));
            }
            (Meaning::Requests | Meaning::CpuSeconds, _) => {
                self.each(|_, _| Err("is of a kind its convention does not have"));
            }
            (_, Some(Kind::Gauge | Kind::Sum)) => {
                self.each(|reader, bytes| reader.level(Point::number(bytes)));
            }
            _ => self.each(|_, _| Ok(())),
        }
    }

    /// Reads every point, and notes those that are not taken.
    fn each(&mut self, read: impl Fn(&mut Self, &[u8]) -> Result<(), &'static str>) {
        for bytes in self.metric.points() {
            self.points = self.points.saturating_add(1);
            let read = read(self, bytes);
            self.note(read);
        }
    }

    fn note(&mut self, read: Result<(), &'static str>) {
        if let Err(why) = read {
            self.refused = self.refused.saturating_add(1);
            self.why = why;
        }
    }

    fn level(&mut self, point: Point<'_>) -> Result<(), &'static str> {
        if point.flags & NO_RECORDED_VALUE != 0 {
            return Ok(());
        }
        check(&point)?;
        self.sums.newest = self.sums.newest.max(point.time);
        self.sums.add(self.meaning, self.rank, point.value * self.unit);
        Ok(())
    }

    fn counter(&mut self, point: Point<'_>, delta: bool) -> Result<(), &'static str> {
        if point.flags & NO_RECORDED_VALUE != 0 {
            return Ok(());
        }
        check(&point)?;
        let Point { start, time, value, .. } = point;
        let last = Last { start, time, value: Value::Sum(value * self.unit) };
        let added = self.added(point.attributes, last, delta)?;
        self.sums.newest = self.sums.newest.max(time);
        if let Some(Added { value: Value::Sum(sum), seconds }) = added
            && seconds > 0.0
        {
            self.sums.add(Meaning::CpuCores, self.rank, sum / seconds);
        }
        Ok(())
    }

    fn requests(
        &mut self,
        point: Point<'_>,
        (counts, count): (Counts, u64),
        delta: bool,
    ) -> Result<(), &'static str> {
        if point.flags & NO_RECORDED_VALUE != 0 {
            return Ok(());
        }
        check(&point)?;
        let Point { start, time, .. } = point;
        let last = Last { start, time, value: Value::Counts(counts, count) };
        let added = self.added(point.attributes, last, delta)?;
        let sums = &mut *self.sums;
        sums.newest = sums.newest.max(time);
        if let Some(Added { value: Value::Counts(counts, count), seconds }) = added {
            sums.has_requests = true;
            sums.buckets.extend(counts.buckets(self.unit));
            sums.requests = sums.requests.saturating_add(count);
            if has_failed(point.attributes) {
                sums.failed = sums.failed.saturating_add(count);
            }
            sums.seconds = sums.seconds.max(seconds);
        }
        Ok(())
    }

    /// What a point adds: all of it if it is told as a delta.
    fn added(
        &mut self,
        attributes: Attributes<'_>,
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
        let key = (self.metric.name.to_owned(), fingerprint(attributes));
        let added = self.memory.add(of, key, last, self.origin.now);
        added.map_err(
            |Full| "has more than is remembered, 1000 series and 40000 buckets of an instance",
        )
    }
}

impl Sums {
    /// Adds to what is known in this way, if there is no better one.
    fn add(&mut self, meaning: Meaning, rank: u8, more: f64) {
        let Some(level) = self.levels.get_mut(meaning as usize) else { return };
        match level {
            Some((known, _)) if *known < rank => {}
            Some((known, sum)) if *known == rank => *sum += more,
            _ => *level = Some((rank, more)),
        }
    }

    fn level(&self, meaning: Meaning) -> Option<f64> {
        self.levels.get(meaning as usize)?.map(|(_, level)| level)
    }

    /// A share that is told, or else made of a part and its whole. Without a limit nothing is guessed.
    fn share(&self, told: Meaning, part: Meaning, whole: Meaning) -> Option<f64> {
        let made = || {
            let whole = self.level(whole).filter(|whole| *whole > 0.0)?;
            Some(self.level(part)? / whole)
        };
        self.level(told).or_else(made)
    }

    fn values(&self) -> Values<f64> {
        let enough = self.requests >= REQUESTS_MIN;
        let quantile = |q| enough.then(|| quantile(&self.buckets, q)).flatten();
        let is_rate_known = self.has_requests && self.seconds > 0.0;
        let told = [
            (
                Of::CpuUtilization,
                self.share(Meaning::CpuShare, Meaning::CpuCores, Meaning::CpuLimit),
            ),
            (
                Of::MemoryUtilization,
                self.share(Meaning::MemoryShare, Meaning::MemoryBytes, Meaning::MemoryLimit),
            ),
            (Of::LatencyP50, quantile(0.50)),
            (Of::LatencyP99, quantile(0.99)),
            (Of::ErrorRatio, enough.then(|| self.failed as f64 / self.requests as f64)),
            (Of::RequestRate, is_rate_known.then(|| self.requests as f64 / self.seconds)),
            // A counter of restarts is whole and never negative; what is not is left out, not believed.
            (
                Of::RestartCount,
                self.level(Meaning::Restarts).filter(|n| *n >= 0.0 && n.fract() == 0.0),
            ),
        ];
        told.into_iter().filter_map(|(metric, value)| Some((metric, value?))).collect()
    }
}

fn check(point: &Point<'_>) -> Result<(), &'static str> {
    if point.attributes_count > ATTRIBUTES_MAX {
        return Err("has a point with more than 128 attributes");
    }
    Ok(())
}

/// Whether a point counts requests that failed by the server's fault.
fn has_failed(attributes: Attributes<'_>) -> bool {
    let int = |key| match attributes.get(key) {
        Some(Any::Int(value)) => Some(value),
        Some(Any::Text(text)) => text.parse().ok(),
        Some(Any::Other) | None => None,
    };
    let status = int("http.response.status_code").or_else(|| int("http.status_code"));
    attributes.text("error.type").is_some_and(|kind| !kind.is_empty())
        || status.is_some_and(|status| status >= 500)
        || int("rpc.grpc.status_code").is_some_and(|code| RPC_FAULTS.contains(&code))
}

/// The same for the same attributes in any order.
fn fingerprint(attributes: Attributes<'_>) -> u64 {
    let one = |(key, value): (&str, &[u8])| {
        let parts = key.bytes().chain(std::iter::once(0)).chain(value.iter().copied());
        // FNV-1a.
        parts.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    attributes.iter().map(one).fold(0, u64::wrapping_add)
}

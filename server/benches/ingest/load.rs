//! Monitors that send as fast as they are read: messages that are encoded once, with their numbers and times written into the bytes.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use agentctl_api::v1;
use agentctl_api::v1::push_signals_request::Message as Wire;
use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

/// Monitors there are tokens for.
pub(crate) const MONITORS: usize = 64;
/// Senders that send at once, each with apps of its own.
pub(crate) const SENDERS: usize = 8;
/// Apps of one sender.
pub(crate) const APPS: usize = 100;
/// Times have a part of a second from here on: written as a varint it has five bytes then, whatever it is.
const FRACTION: u64 = 269;
const FRACTIONS: u64 = 1_000 - FRACTION;
/// The first number of a batch: it and all that follow have four bytes.
const FIRST: u64 = 1 << 21;

pub(crate) fn app(n: usize) -> String {
    format!("bench-app-{n:06}")
}

/// The apps that the monitor `n` speaks for, and that its token is bound to.
pub(crate) fn apps_of(n: usize) -> Vec<String> {
    let first = n % SENDERS * APPS;
    (first..first + APPS).map(app).collect()
}

pub(crate) fn monitor(n: usize) -> String {
    format!("monitor-{n}")
}

pub(crate) fn token(principal: &str) -> String {
    format!("agt_{principal:_>40}")
}

/// Now, in milliseconds that each have a time of their own.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs() * FRACTIONS + u64::from(now.subsec_millis()) * FRACTIONS / 1_000
}

/// Seconds and nanoseconds of such a millisecond.
fn split(at: u64) -> (u64, u64) {
    (at / FRACTIONS, (at % FRACTIONS + FRACTION) * 1_000_000)
}

/// Writes a varint of as many bytes as there are.
pub(crate) fn put_varint(into: &mut [u8], mut value: u64) {
    let last = into.len() - 1;
    for byte in &mut into[..last] {
        *byte = (value & 0x7f) as u8 | 0x80;
        value >>= 7;
    }
    into[last] = value as u8;
}

/// A signal with six values about an app.
fn signal(app: &str, (seconds, nanos): (u64, u64)) -> v1::Signal {
    v1::Signal {
        app: app.to_owned(),
        time: Some(prost_types::Timestamp { seconds: seconds as i64, nanos: nanos as i32 }),
        cpu_utilization: Some(0.25),
        memory_utilization: Some(0.5),
        latency_p50_seconds: Some(0.012),
        latency_p99_seconds: Some(0.08),
        error_ratio: Some(0.001),
        request_rate: Some(120.0),
        ..v1::Signal::default()
    }
}

pub(crate) fn places(bytes: &[u8], wanted: &[u8]) -> Vec<usize> {
    let found = bytes.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted);
    found.map(|(at, _)| at).collect()
}

/// A batch whose number and times are still to be written.
#[derive(Clone)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    seq: usize,
    times: Vec<usize>,
}

impl Batch {
    pub(crate) fn new(apps: &[String]) -> Self {
        let time = split(now());
        let signals = apps.iter().map(|app| signal(app, time)).collect();
        let batch = v1::SignalBatch { seq: FIRST, sent_time: None, signals };
        let bytes = v1::PushSignalsRequest { message: Some(Wire::Batch(batch)) }.encode_to_vec();
        let mut seq = vec![8, 0, 0, 0, 0];
        put_varint(&mut seq[1..], FIRST);
        let mut stamp = vec![8, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0];
        put_varint(&mut stamp[1..6], time.0);
        put_varint(&mut stamp[7..], time.1);
        let (seq, times) = (places(&bytes, &seq)[0], places(&bytes, &stamp));
        assert_eq!(times.len(), apps.len());
        Self { bytes, seq, times }
    }

    /// The message that is the `n`th of its stream and speaks of the time `at`.
    pub(crate) fn message(&mut self, n: u64, at: u64) -> Bytes {
        put_varint(&mut self.bytes[self.seq + 1..self.seq + 5], FIRST + n);
        let (seconds, nanos) = split(at);
        for time in &self.times {
            put_varint(&mut self.bytes[time + 1..time + 6], seconds);
            put_varint(&mut self.bytes[time + 7..time + 12], nanos);
        }
        Bytes::copy_from_slice(&self.bytes)
    }
}

/// Messages that are bytes already.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

pub(crate) async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.tcp_nodelay(true).connect().await.unwrap()
}

/// What a monitor says first.
pub(crate) fn hello() -> Bytes {
    let hello = v1::Hello {
        monitor_id: "bench".to_owned(),
        epoch: u64::from(std::process::id()),
        environment: "stage".to_owned(),
        default_ttl: None,
    };
    let message = v1::PushSignalsRequest { message: Some(Wire::Hello(hello)) };
    message.encode_to_vec().into()
}

/// A request in the name of a principal.
pub(crate) fn say<T>(principal: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let token = format!("Bearer {}", token(principal));
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    request
}

/// What a monitor has to say.
struct Source {
    batches: Vec<Batch>,
    sent: u64,
    at: u64,
}

impl Source {
    /// The next message. Each app is spoken of once in each millisecond at most.
    fn next(&mut self) -> Bytes {
        let which = usize::try_from(self.sent).unwrap() % self.batches.len();
        if which == 0 {
            self.at = (self.at + 1).max(now());
        }
        self.sent += 1;
        self.batches[which].message(self.sent, self.at)
    }
}

/// One monitor with a connection, a principal and apps of its own.
pub(crate) struct Lane {
    channel: Channel,
    number: usize,
    source: Arc<Mutex<Source>>,
}

impl Lane {
    /// The monitor `number`, whose batches hold so many signals.
    pub(crate) async fn open(address: &str, number: usize, apps: &[String], size: usize) -> Self {
        let batches = apps.chunks(size).map(Batch::new).collect();
        let source = Arc::new(Mutex::new(Source { batches, sent: 0, at: 0 }));
        Self { channel: connect(address).await, number, source }
    }

    /// Sends so many messages, and gives what became of them.
    pub(crate) async fn push(&self, messages: usize) -> v1::PushSignalsResponse {
        let bye = v1::PushSignalsRequest { message: Some(Wire::Bye(v1::Bye::default())) };
        let bye = Bytes::from(bye.encode_to_vec());
        let source = Arc::clone(&self.source);
        let batches = (0..messages).map(move |_| source.lock().unwrap().next());
        let all = [hello()].into_iter().chain(batches).chain([bye]);
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/agentctl.v1.TelemetryService/PushSignals");
        let request = say(&monitor(self.number), tokio_stream::iter(all));
        let answer: Bytes = grpc.client_streaming(request, path, Raw).await.unwrap().into_inner();
        v1::PushSignalsResponse::decode(answer).unwrap()
    }
}

/// One sender of OpenTelemetry metrics.
pub(crate) struct Export {
    channel: Channel,
    number: usize,
    bytes: Mutex<(Vec<u8>, u64)>,
    times: Vec<usize>,
}

impl Export {
    /// The monitor `number`, whose exports hold a resource with six gauges for each app.
    pub(crate) async fn open(address: &str, number: usize, apps: &[String]) -> Self {
        const TIME: u64 = 0x1122_3344_5566_7788;
        let resource_metrics = apps.iter().map(|app| otlp::resource(app, TIME)).collect();
        let bytes = otlp::Request { resource_metrics }.encode_to_vec();
        let times = places(&bytes, &TIME.to_le_bytes());
        assert_eq!(times.len(), 6 * apps.len());
        let at = Mutex::new((bytes, 0));
        Self { channel: connect(address).await, number, bytes: at, times }
    }

    fn next(&self) -> Bytes {
        let (bytes, at) = &mut *self.bytes.lock().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        *at = (*at + 1_000_000).max(u64::try_from(now.as_nanos()).unwrap());
        for time in &self.times {
            bytes[*time..time + 8].copy_from_slice(&at.to_le_bytes());
        }
        Bytes::copy_from_slice(bytes)
    }

    /// Sends so many exports, one after the other.
    pub(crate) async fn push(&self, exports: usize) {
        const EXPORT: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        for _ in 0..exports {
            grpc.ready().await.unwrap();
            let request = say(&monitor(self.number), self.next());
            let path = PathAndQuery::from_static(EXPORT);
            let answer: Bytes = grpc.unary(request, path, Raw).await.unwrap().into_inner();
            let told = otlp::Answer::decode(answer).unwrap().partial_success.unwrap_or_default();
            assert_eq!(told.rejected_data_points, 0, "{}", told.error_message);
        }
    }
}

/// Metrics as the conventions name them.
mod otlp {
    use opentelemetry_proto::tonic::collector::metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    };
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;

    pub(super) type Request = ExportMetricsServiceRequest;
    pub(super) type Answer = ExportMetricsServiceResponse;

    const GAUGES: [(&str, &str, f64); 6] = [
        ("process.cpu.utilization", "1", 0.25),
        ("container.memory.working_set", "By", 512e6),
        ("k8s.container.memory.limit", "By", 1024e6),
        ("k8s.container.restart.count", "{restart}", 2.0),
        ("k8s.container.cpu.limit", "{cpu}", 2.0),
        ("process.uptime", "s", 86_400.0),
    ];

    fn text(key: &str, value: &str) -> KeyValue {
        let value = Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) });
        KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
    }

    pub(super) fn resource(app: &str, time_unix_nano: u64) -> ResourceMetrics {
        let metrics = GAUGES.map(|(name, unit, value)| {
            let value = Some(Value::AsDouble(value));
            let point = NumberDataPoint { time_unix_nano, value, ..NumberDataPoint::default() };
            Metric {
                name: name.to_owned(),
                unit: unit.to_owned(),
                data: Some(Data::Gauge(Gauge { data_points: vec![point] })),
                ..Metric::default()
            }
        });
        let named = [
            ("service.name", app),
            ("deployment.environment.name", "stage"),
            ("service.instance.id", "0"),
        ];
        let attributes = named.map(|(key, value)| text(key, value)).to_vec();
        ResourceMetrics {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics { metrics: metrics.to_vec(), ..Default::default() }],
            ..ResourceMetrics::default()
        }
    }
}

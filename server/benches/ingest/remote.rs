//! The same from a Prometheus: remote write 1.0, which is protobuf in a Snappy block, six series with one sample each for an app.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;

use crate::load::{places, put_varint};

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// What a signal says, as series.
pub(crate) const SERIES: [(&str, f64); 6] = [
    ("cpu_utilization", 0.25),
    ("memory_utilization", 0.5),
    ("latency_p50_seconds", 0.012),
    ("latency_p99_seconds", 0.08),
    ("error_ratio", 0.001),
    ("request_rate", 120.0),
];

/// Series with as few labels as there can be: every one more costs the receiver.
fn series(app: &str, timestamp: i64) -> impl Iterator<Item = TimeSeries> {
    let label = |name: &str, value: &str| Label { name: name.to_owned(), value: value.to_owned() };
    SERIES.into_iter().map(move |(name, value)| TimeSeries {
        labels: vec![label("__name__", name), label("app", app)],
        samples: vec![Sample { value, timestamp }],
    })
}

/// Milliseconds since 1970: a varint of six bytes until the year 2109.
fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

async fn connect(address: &str) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (connection, driver) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    connection
}

/// One sender with a connection and apps of its own.
pub(crate) struct Writer {
    connection: SendRequest<Full<Bytes>>,
    address: String,
    bytes: Vec<u8>,
    times: Vec<usize>,
    at: u64,
    snappy: snap::raw::Encoder,
}

impl Writer {
    pub(crate) async fn open(address: &str, apps: &[String]) -> Self {
        let at = now();
        let timestamp = i64::try_from(at).unwrap();
        let timeseries = apps.iter().flat_map(|app| series(app, timestamp)).collect();
        let bytes = WriteRequest { timeseries }.encode_to_vec();
        let mut stamp = [16, 0, 0, 0, 0, 0, 0];
        put_varint(&mut stamp[1..], at);
        let times = places(&bytes, &stamp);
        assert_eq!(times.len(), SERIES.len() * apps.len());
        let connection = connect(address).await;
        let (address, snappy) = (address.to_owned(), snap::raw::Encoder::new());
        Self { connection, address, bytes, times, at, snappy }
    }

    /// The next request. Each series has one sample in each millisecond at most.
    fn next(&mut self) -> Bytes {
        self.at = (self.at + 1).max(now());
        for time in &self.times {
            put_varint(&mut self.bytes[time + 1..time + 7], self.at);
        }
        self.snappy.compress_vec(&self.bytes).unwrap().into()
    }

    /// Sends so many requests, one after the other.
    pub(crate) async fn push(&mut self, requests: usize) {
        for _ in 0..requests {
            let body = Full::new(self.next());
            let request = http::Request::post("/api/v1/write")
                .header("host", &self.address)
                .header("content-type", "application/x-protobuf")
                .header("content-encoding", "snappy")
                .header("x-prometheus-remote-write-version", "0.1.0");
            let request = request.body(body).unwrap();
            // Who says nothing for a while is cut off by some, and comes back.
            if self.connection.ready().await.is_err() {
                self.connection = connect(&self.address).await;
            }
            let answer = self.connection.send_request(request).await.unwrap();
            let (status, said) = (answer.status(), answer.into_body().collect().await.unwrap());
            assert_eq!(status, 204, "{:?}", said.to_bytes());
        }
    }
}

//! How long it takes from a signal on the wire to the decision on a watch stream: durable, all gates judged.
//!
//! The limits are measured in the same run and at the same pace: one write plus `fdatasync` of 4 KiB, and one round trip to a bare
//! tonic server.

use std::path::Path;
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::decision_service_client::DecisionServiceClient;
use agentctl_api::v1::telemetry_service_client::TelemetryServiceClient;
use agentctl_api::v1::{push_signals_request as push, watch_decisions_response as watch};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::Streaming;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::bed::{self, Bed, Client, Row, now_ns, settle};

/// Apps that take turns: each has time to become quiet again before it is its turn.
const APPS: usize = 10;
const ROUNDS: usize = 200;
/// Samples of a limit that is measured at the pace of the signals.
const LIMIT_ROUNDS: usize = 60;
/// About how long it is from one signal that leads to a decision to the next.
const REST: Duration = Duration::from_millis(100);

/// A server that does nothing, and calls it: the limit of every call.
pub(crate) struct Bare {
    health: HealthClient<Channel>,
    served: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Bare {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        let incoming = TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().tcp_nodelay(true).add_service(service);
        let served = tokio::spawn(server.serve_with_incoming(incoming));
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.tcp_nodelay(true).connect().await.unwrap();
        Self { health: HealthClient::new(channel), served }
    }

    /// Nanoseconds of one round trip.
    pub(crate) async fn ping(&mut self) -> u64 {
        let began = now_ns();
        self.health.check(HealthCheckRequest { service: String::new() }).await.unwrap();
        now_ns() - began
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// The limit: unary calls to a server that does nothing, so many and with so much rest before each. Calls that follow each other at
/// once find both ends awake and all of it in the caches of the processor; a signal about an app that was quiet does not.
async fn bare_round_trip(name: &str, rounds: usize, rest: Duration) -> Row {
    let (mut bare, mut samples) = (Bare::start().await, Vec::new());
    for _ in 0..rounds {
        tokio::time::sleep(rest).await;
        samples.push(bare.ping().await);
    }
    Row::new(name, samples)
}

/// A monitor on an open stream.
pub(crate) struct Monitor {
    sender: mpsc::Sender<v1::PushSignalsRequest>,
    seq: u64,
}

impl Monitor {
    pub(crate) async fn open(client: &Client) -> Self {
        Self::open_as(client, "bench").await
    }

    pub(crate) async fn open_as(client: &Client, id: &str) -> Self {
        let (sender, receiver) = mpsc::channel(16);
        let request = client.say(ReceiverStream::new(receiver));
        let mut telemetry = TelemetryServiceClient::new(client.channel.clone());
        tokio::spawn(async move { telemetry.push_signals(request).await });
        let monitor = Self { sender, seq: 0 };
        let hello = v1::Hello {
            monitor_id: id.into(),
            epoch: 1,
            environment: "stage".into(),
            ..v1::Hello::default()
        };
        monitor.send(push::Message::Hello(hello)).await;
        monitor
    }

    async fn send(&self, message: push::Message) {
        let message = v1::PushSignalsRequest { message: Some(message) };
        self.sender.send(message).await.unwrap();
    }

    /// Two conditions that exclude each other, called critical so that nobody waits for the tick; or their end.
    pub(crate) async fn claim(&mut self, app: &str, value: bool) {
        let names = ["cpu_high", "cpu_low", "bench_critical"];
        let signal = v1::Signal {
            app: app.into(),
            time: Some(std::time::SystemTime::now().into()),
            conditions: names.into_iter().map(|name| (name.to_owned(), value)).collect(),
            ..v1::Signal::default()
        };
        self.say(vec![signal]).await;
    }

    /// That an app is well.
    pub(crate) async fn well(&mut self, app: &str) {
        let signal = v1::Signal {
            app: app.into(),
            time: Some(std::time::SystemTime::now().into()),
            cpu_utilization: Some(0.2),
            ..v1::Signal::default()
        };
        self.say(vec![signal]).await;
    }

    pub(crate) async fn say(&mut self, signals: Vec<v1::Signal>) {
        self.seq += 1;
        let batch = v1::SignalBatch { seq: self.seq, signals, ..Default::default() };
        self.send(push::Message::Batch(batch)).await;
    }
}

/// Waits for the next decision about `app`.
pub(crate) async fn decision(stream: &mut Streaming<v1::WatchDecisionsResponse>, app: &str) -> u64 {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
        let item = next.expect("a decision comes").unwrap().expect("the stream goes on");
        let seen = now_ns();
        if let Some(watch::Item::Decision(decision)) = item.item
            && decision.app == app
        {
            return seen;
        }
    }
}

pub(crate) fn measure(me: &Path, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (hot, trip, whole) = runtime.block_on(async {
        let hot = bare_round_trip("bare tonic round trip, at once", ROUNDS, Duration::ZERO).await;
        let trip = bare_round_trip("limit: bare tonic round trip", LIMIT_ROUNDS, REST).await;
        let Bed { server, client, names } = Bed::with_apps(me, dir, APPS).await;
        let request = client.say(v1::WatchDecisionsRequest::default());
        let mut decisions = DecisionServiceClient::new(client.channel.clone());
        let mut stream = decisions.watch_decisions(request).await.unwrap().into_inner();
        let mut monitor = Monitor::open(&client).await;
        let mut samples = Vec::new();
        for name in names.iter().cycle().take(ROUNDS) {
            let began = now_ns();
            monitor.claim(name, true).await;
            samples.push(decision(&mut stream, name).await - began);
            // Of two claims at one moment the worse counts, and a decision can come within its millisecond.
            tokio::time::sleep(Duration::from_millis(2)).await;
            monitor.claim(name, false).await;
            settle(&server, name).await;
        }
        server.stop().await;
        (hot, trip, Row::new("agentd: signal on the wire to decision on the watch", samples))
    });
    bed::end_apps(dir);
    let hot_sync = bed::fdatasync("4 KiB write + fdatasync, at once", dir, ROUNDS, Duration::ZERO);
    let sync = bed::fdatasync("limit: 4 KiB write + fdatasync", dir, LIMIT_ROUNDS, REST);
    Row::header();
    for row in [&hot_sync, &hot, &sync, &trip, &whole] {
        row.print();
    }
    let goal = 1.5 * (sync.median() + trip.median());
    println!("\ngoal: 1.5 x (fdatasync + bare round trip) = {goal:.2} ms");
    whole.compare(goal);
}

//! What it costs to tell a hundred watchers of a thousand events a second, and how fast a hundred watchers catch up, beside a peer that
//! tells the same number of subscribers the same number of bytes: NATS, where `nats-server` is in the path
//! (`go install github.com/nats-io/nats-server/v2@v2.12.0`).

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::agent_service_client::AgentServiceClient;
use agentctl_api::v1::watch_decisions_request::Start;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tonic::body::Body;
use tonic::client::GrpcService;

use crate::bed::{self, Client, Process, now_ns};
use crate::nats::Nats;

const WATCHERS: usize = 100;
const PER_SECOND: u32 = 1_000;
const SECONDS: u32 = 10;
/// Events that watchers catch up with: what the server has in memory.
const BEHIND: usize = 4_000;
const PASSES: usize = 5;

/// Counts the messages of an answer where they lie: a watcher that copies and decodes nothing leaves the machine to the server, as the
/// one of the peer does.
#[derive(Debug, Default)]
struct Messages {
    /// What has come of the prefix of the next one.
    prefix: Vec<u8>,
    /// What is missing of the last one.
    missing: usize,
}

impl Messages {
    /// How many of them end in these bytes.
    fn end_in(&mut self, mut bytes: &[u8]) -> usize {
        let mut ended = 0;
        while !bytes.is_empty() {
            if self.missing == 0 {
                let head = (5 - self.prefix.len()).min(bytes.len());
                self.prefix.extend_from_slice(&bytes[..head]);
                bytes = &bytes[head..];
                if self.prefix.len() < 5 {
                    break;
                }
                let length = u32::from_be_bytes(self.prefix[1..].try_into().unwrap());
                self.missing = usize::try_from(length).unwrap();
                self.prefix.clear();
            }
            let here = self.missing.min(bytes.len());
            self.missing -= here;
            bytes = &bytes[here..];
            ended += usize::from(self.missing == 0);
        }
        ended
    }
}

/// A watch of everything, whose answers are only counted.
pub(crate) struct Watcher {
    answer: Body,
    messages: Messages,
    /// Messages that came and were not taken.
    ahead: usize,
}

impl Watcher {
    pub(crate) async fn open(client: &Client, start: Start) -> Self {
        let mut watcher = Self::unread(client, start).await;
        watcher.take(1).await;
        watcher
    }

    /// A watch of which nothing was read yet, not even where it begins.
    pub(crate) async fn unread(client: &Client, start: Start) -> Self {
        let request = v1::WatchDecisionsRequest {
            start: Some(start),
            include_events: true,
            ..v1::WatchDecisionsRequest::default()
        };
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0][..], &length, &message].concat();
        let (metadata, _, ()) = client.say(()).into_parts();
        let mut request = http::Request::new(Body::new(Full::new(Bytes::from(framed))));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = "/agentctl.v1.DecisionService/WatchDecisions".parse().unwrap();
        *request.headers_mut() = metadata.into_headers();
        for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
            request.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        let mut channel = client.channel.clone();
        poll_fn(|cx| GrpcService::poll_ready(&mut channel, cx)).await.unwrap();
        let answer = GrpcService::call(&mut channel, request).await.unwrap();
        assert!(answer.headers().get("grpc-status").is_none(), "{:?}", answer.headers());
        Self { answer: answer.into_body(), messages: Messages::default(), ahead: 0 }
    }

    /// Takes so many messages; how many bytes came with them, prefixes included.
    pub(crate) async fn take(&mut self, count: usize) -> usize {
        let mut bytes = 0;
        while self.ahead < count {
            let next = tokio::time::timeout(Duration::from_secs(60), self.answer.frame()).await;
            let frame = next.expect("something comes").expect("the watch goes on").unwrap();
            let data = frame.into_data().expect("the watch goes on");
            bytes += data.len();
            self.ahead += self.messages.end_in(&data);
        }
        self.ahead -= count;
        bytes
    }
}

/// One event: that somebody pauses an action nobody takes here, once more. Its number.
pub(crate) async fn event(client: &Client) -> u64 {
    let request = v1::PauseRequest {
        scope: Some(v1::Scope { target: Some(v1::scope::Target::Action("ROLLBACK".into())) }),
        reason: "the bench asks for it".into(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..v1::PauseRequest::default()
    };
    let mut agent = AgentServiceClient::new(client.channel.clone());
    agent.pause(client.say(request)).await.unwrap().into_inner().seq
}

/// So many events at the rate of this bench, whatever becomes of the ones before.
async fn events(client: &Arc<Client>, count: u32) {
    let (mut tick, mut under_way) = (interval(Duration::from_millis(10)), JoinSet::new());
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..count.div_ceil(PER_SECOND / 100) {
        tick.tick().await;
        for _ in 0..PER_SECOND / 100 {
            let client = Arc::clone(client);
            under_way.spawn(async move { event(&client).await });
        }
        while under_way.try_join_next().is_some() {}
    }
    under_way.join_all().await;
}

/// Share of a core that the server uses, and how long it took, while so many watch.
async fn paced(server: &Process, client: &Arc<Client>, watchers: &[Client]) -> f64 {
    let mut watching = JoinSet::new();
    for client in watchers {
        let mut watcher = Watcher::open(client, Start::Now(true)).await;
        watching.spawn(async move {
            loop {
                watcher.take(1).await;
            }
        });
    }
    let (began, used) = (now_ns(), server.cpu());
    events(client, PER_SECOND * SECONDS).await;
    let share = (server.cpu() - used) / ((now_ns() - began) as f64 / 1e9);
    watching.shutdown().await;
    share
}

/// What telling everybody everything took.
#[derive(Debug, Clone, Copy)]
struct Pass {
    /// Told per second, all together.
    rate: f64,
    /// Microseconds of a core for each.
    cost: f64,
}

impl Pass {
    fn of(began: u64, used: f64) -> Self {
        let told = (WATCHERS * BEHIND) as f64;
        Self { rate: told / ((now_ns() - began) as f64 / 1e9), cost: used / told * 1e6 }
    }
}

/// All watchers at once go on behind an event that is so far back.
async fn catch_up(server: &Process, watchers: &[Client], head: u64) -> (Pass, usize) {
    let (barrier, mut reading) = (Arc::new(Barrier::new(WATCHERS + 1)), JoinSet::new());
    let after = head - BEHIND as u64;
    for client in watchers {
        let (client, barrier) = (client.clone(), Arc::clone(&barrier));
        reading.spawn(async move {
            barrier.wait().await;
            Watcher::open(&client, Start::AfterSeq(after)).await.take(BEHIND).await
        });
    }
    let used = server.cpu();
    barrier.wait().await;
    let began = now_ns();
    let bytes: usize = reading.join_all().await.into_iter().sum();
    // Without the prefixes of gRPC, as the peer counts its own.
    (Pass::of(began, server.cpu() - used), bytes / WATCHERS / BEHIND - 5)
}

async fn told_by(nats: &Nats, bytes: usize) -> Pass {
    let mut reading = JoinSet::new();
    for _ in 0..WATCHERS {
        let mut subscriber = nats.subscriber().await;
        reading.spawn(async move { subscriber.take(BEHIND, bytes).await });
    }
    let mut publisher = nats.publisher().await;
    let (began, used) = (now_ns(), nats.cpu());
    publisher.publish(BEHIND, bytes).await;
    reading.join_all().await;
    Pass::of(began, nats.cpu() - used)
}

/// The median of `figure`.
fn median(passes: &[Pass], figure: fn(&Pass) -> f64) -> f64 {
    let mut figures: Vec<f64> = passes.iter().map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

pub(crate) fn measure(me: &Path, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Process::start(me, dir);
        let client = Arc::new(server.client("local").await);
        let mut watchers = Vec::new();
        for _ in 0..WATCHERS {
            watchers.push(server.client("local").await);
        }
        let alone = paced(&server, &client, &[]).await;
        let watched = paced(&server, &client, &watchers).await;

        let nats = Nats::start().await;
        let (mut ours, mut theirs, mut size) = (Vec::new(), Vec::new(), 0);
        for _ in 0..PASSES {
            let head = event(&client).await;
            let (pass, bytes) = catch_up(&server, &watchers, head).await;
            ours.push(pass);
            size = bytes;
            if let Some(nats) = &nats {
                theirs.push(told_by(nats, size).await);
            }
        }
        server.stop();

        bed::verdicts();
        let what = format!("{PER_SECOND} events/s to {WATCHERS} watchers, server, gates and log");
        bed::verdict(&what, "cores", watched, 1.0, 0.55);
        let each = (watched - alone) / f64::from(PER_SECOND) / WATCHERS as f64 * 1e6;
        println!("  without watchers {alone:.3} cores; {each:.2} us for each event at each watcher");
        let (rate, cost) = (median(&ours, |p| p.rate), median(&ours, |p| p.cost));
        println!(
            "  {BEHIND} events of {size} B, {WATCHERS} watchers that resume: {rate:.0}/s, {cost:.2} us each"
        );
        if theirs.is_empty() {
            println!("  nats-server is not here: the peer was NOT RUN");
            return;
        }
        let (nats_rate, nats_cost) = (median(&theirs, |p| p.rate), median(&theirs, |p| p.cost));
        println!("  the same from NATS, which has no place to go on from: {nats_rate:.0}/s, {nats_cost:.2} us each");
        let what = "deliveries with resume; limit: NATS without";
        bed::verdict(what, "M/s", rate / 1e6, nats_rate / 1e6, -0.75);
    });
}

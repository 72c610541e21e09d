//! What people do while monitors scream: how long a pause takes, an approval, and an event on its way to a watcher.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::approval_service_client::ApprovalServiceClient;
use agentctl_api::v1::decision_service_client::DecisionServiceClient;
use agentctl_api::v1::push_signals_request as push;
use agentctl_api::v1::telemetry_service_client::TelemetryServiceClient;
use agentd::grpc::telemetry::intake::SIGNALS_PER_SECOND;
use agentd_core::action::{Action, Level};
use tonic::Streaming;

use crate::bed::{self, Client, Process, Row, now_ns};
use crate::{fan, heal};

const PAUSES: usize = 300;
const APPS: usize = 8;
const APPROVALS: usize = 40;
/// Streams that scream.
const STREAMS: usize = 8;
/// What the goals allow, one of a hundred times.
const GOAL_MS: f64 = 100.0;

/// Screams on so many streams until its standard input ends, then says how many signals it offered.
pub(crate) fn flood(address: &str, tokens: &Path) -> ! {
    // Whoever screams has a machine of his own; here he has the rest of this one.
    let _ = rustix::process::nice(10);
    let offered = Arc::new(AtomicU64::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for n in 0..STREAMS {
        let (address, tokens, offered) =
            (address.to_owned(), tokens.to_owned(), Arc::clone(&offered));
        runtime.spawn(async move {
            let client = Client::connect(&address, &tokens, "monitor").await;
            for epoch in 1.. {
                scream(&client, n, epoch, &offered).await;
            }
        });
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    println!("{}", offered.load(Ordering::Relaxed));
    std::process::exit(0)
}

/// One stream, until the server has had enough.
async fn scream(client: &Client, n: usize, epoch: u64, offered: &Arc<AtomicU64>) {
    let hello = v1::Hello {
        monitor_id: format!("screams-{n}"),
        epoch,
        environment: "stage".into(),
        ..v1::Hello::default()
    };
    let message = |message| v1::PushSignalsRequest { message: Some(message) };
    let count = Arc::clone(offered);
    let batches = (1..).map(move |seq| {
        let signal = v1::Signal {
            app: format!("web-{}", n % APPS),
            time: Some(std::time::SystemTime::now().into()),
            cpu_utilization: Some(0.2),
            ..v1::Signal::default()
        };
        count.fetch_add(1_000, Ordering::Relaxed);
        let batch = v1::SignalBatch { seq, signals: vec![signal; 1_000], ..Default::default() };
        message(push::Message::Batch(batch))
    });
    let all = std::iter::once(message(push::Message::Hello(hello))).chain(batches);
    let mut telemetry = TelemetryServiceClient::new(client.channel.clone());
    let _ = telemetry.push_signals(client.say(tokio_stream::iter(all))).await;
}

/// Those who scream, in a process of their own.
struct Flood {
    child: Child,
    began: u64,
}

impl Flood {
    fn start(me: &Path, server: &Process) -> Self {
        let mut command = Command::new(me);
        command.args(["flood", &server.address, &server.tokens]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self { child, began: now_ns() }
    }

    /// Signals per second that it offered.
    fn stop(mut self) -> f64 {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        said.trim().parse::<f64>().unwrap() / ((now_ns() - self.began) as f64 / 1e9)
    }
}

/// When the watcher sees the event with this number.
async fn seen(stream: &mut Streaming<v1::WatchDecisionsResponse>, seq: u64) -> u64 {
    use v1::watch_decisions_response::Item;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(60), stream.message()).await;
        let item = next.expect("it comes").unwrap().expect("the watch goes on");
        if matches!(item.item, Some(Item::Event(event)) if event.seq == seq) {
            return now_ns();
        }
    }
}

/// Nanoseconds of a pause, and from its beginning to a watcher.
async fn pauses(client: &Client) -> (Vec<u64>, Vec<u64>) {
    let request = v1::WatchDecisionsRequest { include_events: true, ..Default::default() };
    let mut decisions = DecisionServiceClient::new(client.channel.clone());
    let stream = decisions.watch_decisions(client.say(request)).await;
    let mut stream = stream.unwrap().into_inner();
    let (mut paused, mut watched) = (Vec::new(), Vec::new());
    for _ in 0..PAUSES {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let began = now_ns();
        let seq = fan::event(client).await;
        paused.push(now_ns() - began);
        watched.push(seen(&mut stream, seq).await - began);
    }
    (paused, watched)
}

/// What waits for a human about `app`.
async fn waiting(client: &Client, app: &str) -> v1::Approval {
    let mut approvals = ApprovalServiceClient::new(client.channel.clone());
    for _ in 0..3_000 {
        let request = client.say(v1::ListApprovalsRequest::default());
        let found = approvals.list_approvals(request).await.unwrap().into_inner().approvals;
        let pending =
            |one: &v1::Approval| one.app == app && one.state() == v1::ApprovalState::Pending;
        if let Some(found) = found.into_iter().find(pending) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing about {app} waits for a human");
}

/// Nanoseconds of an approval: an app is killed, the restart waits for a human, he approves.
async fn approvals(client: &Client, dir: &Path) -> Vec<u64> {
    let mut approvals = ApprovalServiceClient::new(client.channel.clone());
    let mut samples = Vec::new();
    for n in 0..APPROVALS {
        let app = format!("web-{}", n % APPS);
        let file = dir.join(&app);
        let before = heal::kill_newest(&file);
        let found = waiting(client, &app).await;
        let request = client.say(v1::ApproveActionRequest {
            approval_id: found.id,
            plan_digest: found.plan.unwrap_or_default().digest,
            reason: "the bench asks for it".into(),
            request_id: uuid::Uuid::new_v4().to_string(),
        });
        let began = now_ns();
        approvals.approve_action(request).await.unwrap();
        samples.push(now_ns() - began);
        heal::wait_stamp(&file, before + 1, Duration::from_secs(60)).expect("it runs again");
        // Until its recovery is verified.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    samples
}

pub(crate) fn measure(me: &Path, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut policy = bed::policy();
    policy.levels.insert(Action::Restart, Level::Propose);
    std::fs::write(dir.join("policy.toml"), toml::to_string(&policy).unwrap()).unwrap();
    let (quiet, loud, offered) = runtime.block_on(async {
        let server = Process::start(me, dir);
        let client = server.client("local").await;
        for n in 0..APPS {
            let name = format!("web-{n}");
            client.onboard(&name, me, "stamp", &dir.join(&name), "").await;
            heal::wait_stamp(&dir.join(&name), 1, Duration::from_secs(60)).expect("it runs");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let look = async || {
            let (paused, watched) = pauses(&client).await;
            [paused, watched, approvals(&client, dir).await]
        };
        let quiet = look().await;
        let flood = Flood::start(me, &server);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let loud = look().await;
        let offered = flood.stop();
        server.stop();
        (quiet, loud, offered)
    });
    bed::end_apps(dir);
    let names = ["a pause", "an event at a watcher, from the call that made it", "an approval"];
    let rows = |samples: [Vec<u64>; 3], when: &str| {
        let row = |(name, samples): (&str, Vec<u64>)| Row::new(&format!("{name}, {when}"), samples);
        names.into_iter().zip(samples).map(row).collect::<Vec<_>>()
    };
    let (quiet, loud) = (rows(quiet, "quiet"), rows(loud, "overload"));
    Row::header();
    for row in quiet.iter().chain(&loud) {
        row.print();
    }
    println!();
    bed::verdicts();
    let limit = SIGNALS_PER_SECOND as f64;
    bed::verdict("signals offered; limit: of one principal", "1/s", offered, limit, -10.0);
    for row in &loud {
        bed::verdict(&format!("{}, p99", row.name), "ms", row.p99(), GOAL_MS, 1.0);
    }
}

//! What two hundred watchers cost: from a signal on the wire to the decision at the first of them, beside one watcher alone, and from
//! the first to the last.

use std::path::Path;
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::decision_service_client::DecisionServiceClient;
use agentctl_api::v1::watch_decisions_response as watch;
use agentd::app::App;
use tokio::sync::mpsc;

use crate::bed::{self, Bed, Client, Row, now_ns, settle};
use crate::wire::Monitor;

/// Apps that take turns: each has time to become quiet again before it is its turn.
const APPS: usize = 10;
const ROUNDS: usize = 100;
/// Watchers at once, and how many share a connection.
const WATCHERS: usize = 200;
const SHARED: usize = 20;
/// Milliseconds within which all have seen a decision, ninety-nine times of a hundred, once the first has.
const FAN_OUT: f64 = 50.0;

/// What a watcher saw: the number of a decision, its app, and when.
type Sight = (u64, String, u64);

/// Watches until the server ends.
async fn watch(client: &Client, seen: mpsc::Sender<Sight>) {
    let request = client.say(v1::WatchDecisionsRequest::default());
    let mut decisions = DecisionServiceClient::new(client.channel.clone());
    let mut stream = decisions.watch_decisions(request).await.unwrap().into_inner();
    tokio::spawn(async move {
        while let Ok(Some(item)) = stream.message().await {
            let at = now_ns();
            let Some(watch::Item::Decision(decision)) = item.item else { continue };
            if seen.send((decision.seq, decision.app, at)).await.is_err() {
                return;
            }
        }
    });
}

/// When the first and the last of so many watchers saw the next decision about `app`.
async fn seen_by(sights: &mut mpsc::Receiver<Sight>, watchers: usize, app: &str) -> (u64, u64) {
    let (mut awaited, mut times) = (None, Vec::with_capacity(watchers));
    while times.len() < watchers {
        let next = tokio::time::timeout(Duration::from_secs(10), sights.recv()).await;
        let (seq, about, at) = next.expect("everybody sees it").expect("somebody watches");
        if about == app && *awaited.get_or_insert(seq) == seq {
            times.push(at);
        }
    }
    (times.iter().copied().min().unwrap(), times.iter().copied().max().unwrap())
}

/// Nanoseconds from a signal to the first of so many watchers, and from there to the last.
async fn rounds(
    server: &App,
    names: &[String],
    monitor: &mut Monitor,
    watchers: usize,
) -> (Vec<u64>, Vec<u64>) {
    let (sender, mut sights) = mpsc::channel(watchers * 64);
    let address = server.address().to_string();
    let mut connections = Vec::new();
    for n in 0..watchers {
        if n % SHARED == 0 {
            connections.push(Client::connect(&address, server.tokens(), "local").await);
        }
        watch(connections.last().unwrap(), sender.clone()).await;
    }
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for name in names.iter().cycle().take(ROUNDS) {
        let began = now_ns();
        monitor.claim(name, true).await;
        let (one, all) = seen_by(&mut sights, watchers, name).await;
        first.push(one - began);
        last.push(all - one);
        // Of two claims at one moment the worse counts, and a decision can come within its millisecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
        monitor.claim(name, false).await;
        settle(server, name).await;
    }
    (first, last)
}

pub(crate) fn measure(me: &Path, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (alone, first, last) = runtime.block_on(async {
        let Bed { server, client, names } = Bed::with_apps(me, dir, APPS).await;
        let mut monitor = Monitor::open(&client).await;
        let (alone, _) = rounds(&server, &names, &mut monitor, 1).await;
        let (first, last) = rounds(&server, &names, &mut monitor, WATCHERS).await;
        server.stop().await;
        (
            Row::new("signal on the wire to the decision, one watches", alone),
            Row::new("the same, at the first of 200 watchers", first),
            Row::new("from the first of 200 watchers to the last", last),
        )
    });
    bed::end_apps(dir);
    Row::header();
    for row in [&alone, &first, &last] {
        row.print();
    }
    println!("\ngoal: {WATCHERS} watchers within {FAN_OUT:.0} ms of each other, 99 times of 100");
    println!(
        "  {:<50} {:>6.2} ms = {:.2} of the goal",
        last.name,
        last.p99(),
        last.p99() / FAN_OUT
    );
}

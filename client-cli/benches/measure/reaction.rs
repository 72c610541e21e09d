//! From a signal on the wire to the decision at a watcher while a thousand other signals come in every second, beside a round trip to a
//! server that does nothing, under the same load. The log is in memory here; what a disk adds is printed beside it.

use std::path::Path;
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::decision_service_client::DecisionServiceClient;
use tokio::time::{MissedTickBehavior, interval};

use crate::bed::{self, Bed, Client, Row, now_ns, settle};
use crate::wire::{Bare, Monitor, decision};

/// Apps that take turns, and one more that others talk about all the while.
const APPS: usize = 10;
const ROUNDS: usize = 300;
/// Time between two of the other signals.
const EVERY: Duration = Duration::from_millis(1);

/// Says again and again that an app is well.
async fn talk(client: Client, app: String) {
    let mut monitor = Monitor::open_as(&client, "others").await;
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tick.tick().await;
        monitor.well(&app).await;
    }
}

pub(crate) fn measure(me: &Path, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let (pings, samples) = runtime.block_on(async {
        let Bed { server, client, names } = Bed::with_apps(me, memory.path(), APPS + 1).await;
        let (quiet, names) = names.split_last().unwrap();
        let address = server.address().to_string();
        let other = Client::connect(&address, server.tokens(), "local").await;
        let talking = tokio::spawn(talk(other, quiet.clone()));
        let request = client.say(v1::WatchDecisionsRequest::default());
        let mut decisions = DecisionServiceClient::new(client.channel.clone());
        let mut stream = decisions.watch_decisions(request).await.unwrap().into_inner();
        let (mut monitor, mut bare) = (Monitor::open(&client).await, Bare::start().await);
        let (mut pings, mut samples) = (Vec::new(), Vec::new());
        for name in names.iter().cycle().take(ROUNDS) {
            pings.push(bare.ping().await);
            let began = now_ns();
            monitor.claim(name, true).await;
            samples.push(decision(&mut stream, name).await - began);
            // Of two claims at one moment the worse counts, and a decision can come within its millisecond.
            tokio::time::sleep(Duration::from_millis(2)).await;
            monitor.claim(name, false).await;
            settle(&server, name).await;
        }
        talking.abort();
        server.stop().await;
        (pings, samples)
    });
    bed::end_apps(memory.path());
    let sync = "4 KiB write + fdatasync, which is not part of the next two";
    let sync = bed::fdatasync(sync, dir, 60, Duration::from_millis(50));
    let ping = Row::new("limit: bare tonic round trip", pings);
    let reaction = Row::new("signal on the wire to the decision at a watcher", samples);
    Row::header();
    for row in [&sync, &ping, &reaction] {
        row.print();
    }
    println!();
    bed::verdicts();
    bed::verdict(
        "signal to decision, median; limit: ping",
        "ms",
        reaction.median(),
        ping.median(),
        2.5,
    );
    bed::verdict("signal to decision, p99; limit: ping", "ms", reaction.p99(), ping.p99(), 4.0);
}

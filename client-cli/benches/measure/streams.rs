//! What open streams cost: memory while they are idle, and time when the server wants to end.

use std::path::Path;
use std::time::Duration;

use agentctl_api::v1::watch_decisions_request::Start;

use crate::bed::{self, Client, Process};
use crate::fan::Watcher;

/// Open streams, and how many share a connection.
const STREAMS: usize = 1_000;
const SHARED: usize = 250;
/// Time the server gives to what is open when it ends.
const DEADLINE: f64 = 10.0;

/// So many watches, each `shared` of them on one connection.
async fn open(server: &Process, count: usize, shared: usize) -> (Vec<Client>, Vec<Watcher>) {
    let (mut clients, mut watchers) = (Vec::new(), Vec::new());
    for n in 0..count {
        if n % shared == 0 {
            clients.push(server.client("local").await);
        }
        watchers.push(Watcher::open(clients.last().unwrap(), Start::Now(true)).await);
    }
    // What was built to open them is let go by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    (clients, watchers)
}

/// KiB of the server for each of so many idle watches.
async fn idle(server: &Process, count: usize, shared: usize) -> f64 {
    let before = server.resident_mib();
    let open = open(server, count, shared).await;
    let each = (server.resident_mib() - before) * 1_024.0 / count as f64;
    drop(open);
    // The server has seen the last of them leave.
    tokio::time::sleep(Duration::from_secs(2)).await;
    each
}

pub(crate) fn measure(me: &Path, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dirs = ["idle", "polite", "deaf"].map(|name| dir.join(name));
    for dir in &dirs {
        std::fs::create_dir(dir).unwrap();
    }
    let [quiet, polite, deaf] = dirs;
    runtime.block_on(async {
        let server = Process::start(me, &quiet);
        let (empty, held) = (server.resident_mib(), server.anonymous_mib());
        let shared = idle(&server, STREAMS, SHARED).await;
        server.stop();
        let server = Process::start(me, &polite);
        let own = idle(&server, STREAMS / 2, 1).await;
        let open_streams = open(&server, STREAMS, SHARED).await;
        let polite = tokio::task::spawn_blocking(|| server.stop()).await.unwrap();
        drop(open_streams);

        let server = Process::start(me, &deaf);
        let mut streams = Vec::new();
        for _ in 0..STREAMS / SHARED {
            let client = server.client("local").await.deaf(&server.address).await;
            for _ in 0..SHARED {
                streams.push(Watcher::unread(&client, Start::Now(true)).await);
            }
        }
        let deaf = tokio::task::spawn_blocking(|| server.stop()).await.unwrap();
        drop(streams);

        bed::verdicts();
        bed::verdict("idle server, resident", "MiB", empty, 15.0, 1.0);
        println!(
            "  of which {held:.1} MiB are its own, and the rest pages of its program and libraries"
        );
        bed::verdict("idle watch on a shared connection", "KiB", shared, 10.0, 1.0);
        bed::verdict("idle watch with a connection of its own", "KiB", own, 32.0, 1.0);
        let late = (DEADLINE + 0.5) / DEADLINE;
        bed::verdict("end of a server with 1000 watches that read", "s", polite, DEADLINE, late);
        bed::verdict("end of a server with 1000 watches that do not", "s", deaf, DEADLINE, late);
    });
}

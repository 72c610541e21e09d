//! A signal over gRPC, in batches of a hundred and alone.

use std::time::Duration;

use crate::bed::Process;
use crate::load::{self, Lane};
use crate::table::{self, Passes};

const LANES: usize = 8;
/// Apps of one monitor.
const APPS: usize = 100;
const PASSES: usize = 15;
/// Signals of one monitor in one pass: what its principal may send at once.
const SIGNALS: usize = 40_000;
/// In this time a principal has earned what it sent in one pass again.
const REST: Duration = Duration::from_millis(900);

/// Monitors of one server, for one size of batches.
async fn lanes(address: &str, size: usize) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for n in 0..LANES {
        let apps: Vec<String> = (n * APPS..(n + 1) * APPS).map(load::app).collect();
        // Each size has principals of its own, and so a rate of its own.
        let number = n + if size == 1 { LANES } else { 0 };
        lanes.push(Lane::open(address, number, &apps, size).await);
    }
    lanes
}

/// Microseconds of the server's processor per signal.
async fn pass(server: &mut Process, lanes: &[Lane], size: usize, signals: usize) -> (f64, u64) {
    let before = server.used().cpu_ns;
    let pushed = lanes.iter().map(|lane| lane.push(signals / size));
    let accepted = join(pushed).await.iter().map(|told| told.accepted).sum();
    let used = server.used().cpu_ns - before;
    (used as f64 / (signals * lanes.len()) as f64 / 1_000.0, accepted)
}

/// All of them at once, on this thread.
pub(crate) async fn join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut ready = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(found) => *output = Some(found),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}

pub(crate) fn measure(_args: &[String]) {
    let dir = tempfile::tempdir().unwrap();
    let apps = (LANES * APPS).to_string();
    let mut agentd = Process::start(&["agentd", dir.path().to_str().unwrap(), &apps]);
    let mut null = Process::start(&["null"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    table::header("us/signal");
    runtime.block_on(async {
        for (size, goal) in [(100, 0.65), (1, 1.15)] {
            let ours = lanes(&agentd.address, size).await;
            let theirs = lanes(&null.address, size).await;
            let (mut own, mut reference) = (Passes::default(), Passes::default());
            for n in 0..=PASSES {
                let (us, accepted) = pass(&mut agentd, &ours, size, SIGNALS).await;
                assert_eq!(accepted, (SIGNALS * LANES) as u64, "all of them are accepted");
                let (limit, _) = pass(&mut null, &theirs, size, SIGNALS).await;
                // The first pair warms both of them up.
                if n > 0 {
                    own.push(us);
                    reference.push(limit);
                }
                tokio::time::sleep(REST).await;
            }
            let case = format!("{size} in a message, beside tonic and prost that do nothing");
            table::compare(&case, &own, &reference, goal);
        }
    });
    assert_eq!(agentd.used().incidents, 0, "the apps were well");
}

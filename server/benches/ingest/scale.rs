//! What so many apps cost: processor and memory of a server in which each of them reports at its pace.

use std::time::Duration;

use crate::bed::Process;
use crate::load::{self, Lane};
use crate::native::join;
use crate::table;

/// How many apps, and how often each of them reports.
const CASES: [(usize, u64); 5] = [(100, 10), (1_000, 10), (10_000, 10), (100_000, 10), (10_000, 1)];
/// Monitors between which they are divided: no more than can send what all of them have to say.
const MONITORS: usize = 16;
const BATCH: usize = 100;

/// Everything is said once in so many seconds, evenly.
async fn report(lane: &Lane, apps: usize, period: u64, seconds: u64) {
    let batches = apps.div_ceil(BATCH);
    let pause = Duration::from_secs(period) / u32::try_from(batches).unwrap();
    let rounds = usize::try_from(seconds / period).unwrap();
    let told = lane.push_at(batches * rounds, pause).await;
    assert_eq!(told.accepted, (apps * rounds) as u64, "all of it is accepted");
}

pub(crate) fn measure(args: &[String]) {
    let minutes = args.iter().skip_while(|arg| *arg != "--minutes").nth(1);
    let seconds = minutes.map_or(30, |minutes| minutes.parse::<u64>().unwrap() * 60);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let empty = Process::start(&["agentd", dir.path().to_str().unwrap(), "0"]);
    let idle_kib = empty.resident_kib();
    drop(empty);
    table::limit("a server without apps, resident", idle_kib / 1024.0, 15.0, "MiB");
    println!(
        "{:<10} {:>8} {:>16} {:>20} {:>16} {:>18}",
        "apps", "every", "% of one core", "us per app and s", "KiB per app", "grown meanwhile"
    );
    for (apps, period) in CASES {
        let dir = tempfile::tempdir().unwrap();
        let apps_text = apps.to_string();
        let mut server = Process::start(&["agentd", dir.path().to_str().unwrap(), &apps_text]);
        let monitors = MONITORS.min(apps / BATCH);
        let each = apps / monitors;
        runtime.block_on(async {
            let mut lanes = Vec::new();
            for n in 0..monitors {
                let names: Vec<String> = (n * each..(n + 1) * each).map(load::app).collect();
                lanes.push(Lane::open(&server.address, n, &names, BATCH).await);
            }
            // Once, so that every window exists.
            join(lanes.iter().map(|lane| report(lane, each, period, period))).await;
            let (before, began) = (server.used(), std::time::Instant::now());
            let first_kib = server.resident_kib();
            join(lanes.iter().map(|lane| report(lane, each, period, seconds))).await;
            let (after, took) = (server.used(), began.elapsed().as_secs_f64());
            let cores = (after.cpu_ns - before.cpu_ns) as f64 / 1e9 / took;
            let last_kib = server.resident_kib();
            println!(
                "{apps:<10} {:>6} s {:>16.2} {:>20.2} {:>16.2} {:>14.1} MiB",
                period,
                100.0 * cores,
                1e6 * cores / apps as f64,
                (last_kib - idle_kib) / apps as f64,
                (last_kib - first_kib) / 1024.0
            );
            assert_eq!(after.incidents, 0, "the apps were well");
        });
    }
    println!(
        "goals: 10,000 apps each second < 25 %; 20 KiB per app; the same per app from 100 to 100,000"
    );
}

//! A long log: what it costs to open, and what it leaves in memory. `BENCH_ENTRIES=10000000` for the length the goal is about,
//! which takes about 9 GB of disk.

use std::path::Path;
use std::time::Instant;

use agentd::{journal, tlog};
use agentd_core::chain::LineVerifier;

use super::{line, per_second, proofs, resident, row};

/// Entries in one append, and appends in flight: what fills the log fastest.
const LINES: usize = 2_000;
const FLIGHT: usize = 8;

pub(super) async fn run(dir: &Path) {
    let entries: u64 =
        std::env::var("BENCH_ENTRIES").ok().map_or(1_000_000, |text| text.parse().unwrap());
    let open = || {
        let config = tlog::Config::new(dir, "stage");
        let segments = journal::Config::new(config.dir.clone());
        tlog::open(config, segments, &mut |_, _| {}).unwrap()
    };
    let (opened, tlog) = open();
    let (journal, mut chain) = (opened.journal, LineVerifier::new());
    let before = resident();
    let started = Instant::now();
    let mut flight = tokio::task::JoinSet::new();
    while chain.next_seq() <= entries {
        if flight.len() >= FLIGHT {
            flight.join_next().await.unwrap().unwrap();
        }
        let first = chain.next_seq();
        let lines = (0..LINES).map(|_| line(&mut chain)).collect();
        let journal = journal.clone();
        flight.spawn(async move { journal.append(first, lines).await.unwrap() });
        tokio::task::yield_now().await;
    }
    flight.join_all().await;
    let size = chain.next_seq() - 1;
    let count = usize::try_from(size).unwrap();
    row("long log, entries", &size.to_string(), "", "10,000,000");
    row("long log, written", &per_second(count, started.elapsed()), "", "");
    tlog.publish(size).await.unwrap();
    row(
        "memory, resident, before and after",
        &format!("{before}, {}", resident()),
        "",
        "does not grow",
    );
    drop((journal, tlog));
    let started = Instant::now();
    let (opened, tlog) = open();
    row("long log, opened", &format!("{:.2?}", started.elapsed()), "", "0.5 s");
    assert_eq!(opened.head.next_seq, size + 1);
    tlog.publish(size).await.unwrap();
    proofs(&tlog, size);
    row("memory, resident, opened", &resident(), "", "does not grow");
}

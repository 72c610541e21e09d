//! How fast the proof log is, against the limits of this machine measured in the same run: `cargo bench -p agentd --bench proof`.
//!
//! F is one write of 4 KiB into zeroed space with one fdatasync: what a record costs that is written by itself. This class of machine
//! moves by a multiple with its neighbours, so it is the ratios that say something. Where other work runs beside it, give all of it
//! the same priority: `chrt -r 5` before the built bench. `BENCH_DIR` is where it writes.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark prints a table, reads the clock and stops at the first surprise"
)]

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentd::{journal, tlog};
use agentd_core::chain::{Hash, LineVerifier, leaf_hash};
use agentd_core::tlog::tree::Frontier;
use bytes::Bytes;

#[path = "proof/index.rs"]
mod index;
#[path = "proof/long.rs"]
mod long;
#[path = "proof/peers.rs"]
mod peers;

const ENTRY_BYTES: usize = 375;
const SINGLE: usize = 2_000;
const WRITERS: usize = 64;
const MANY: usize = 128_000;
const SATURATED: usize = 300_000;

fn percentile(sorted: &[Duration], permille: usize) -> Duration {
    sorted[(sorted.len() * permille / 1000).min(sorted.len() - 1)]
}

fn floor(dir: &Path) -> Vec<Duration> {
    let file = File::create(dir.join("floor")).unwrap();
    let zeros = vec![0; 4 << 20];
    file.write_all_at(&zeros, 0).unwrap();
    file.sync_all().unwrap();
    let page = vec![7; 4096];
    let mut times: Vec<Duration> = (0..SINGLE as u64)
        .map(|i| {
            let started = Instant::now();
            file.write_all_at(&page, i % 1024 * 4096).unwrap();
            file.sync_data().unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    times
}

/// The next record, as long as records usually are.
fn line(chain: &mut LineVerifier) -> Bytes {
    let (seq, prev) = (chain.next_seq(), chain.head());
    let head =
        format!(r#"{{"event_name":"HEARTBEAT","env":"stage","seq":{seq},"prev":"{prev}","body":""#);
    let filler = "x".repeat(ENTRY_BYTES.saturating_sub(head.len() + 2));
    let line = Bytes::from(format!("{head}{filler}\"}}"));
    chain.check(&line).unwrap();
    line
}

fn row(what: &str, value: &str, ratio: &str, goal: &str) {
    println!("{what:<48} {value:>22} {ratio:>16} {goal:>22}");
}

async fn single(journal: &journal::Journal, chain: &mut LineVerifier) -> Vec<Duration> {
    let mut times = Vec::with_capacity(SINGLE);
    for _ in 0..SINGLE {
        let (seq, line) = (chain.next_seq(), line(chain));
        let started = Instant::now();
        journal.append(seq, vec![line]).await.unwrap();
        times.push(started.elapsed());
    }
    times.sort();
    times
}

/// `WRITERS` writers append `lines` records each time, again and again, and wait for them. The records are chained, so each takes the
/// next of those that were prepared.
async fn many(
    journal: &journal::Journal,
    chain: &mut LineVerifier,
    total: usize,
    lines: usize,
) -> (Duration, Vec<Duration>) {
    let mut prepared = VecDeque::new();
    while prepared.len() * lines < total {
        let seq = chain.next_seq();
        prepared.push_back((seq, (0..lines).map(|_| line(chain)).collect::<Vec<_>>()));
    }
    let prepared = Arc::new(Mutex::new(prepared));
    let started = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (journal, prepared) = (journal.clone(), Arc::clone(&prepared));
        writers.spawn(async move {
            let mut times = Vec::new();
            loop {
                let next = prepared.lock().unwrap().pop_front();
                let Some((seq, batch)) = next else { return times };
                let started = Instant::now();
                // Served in the order in which they are first polled, which is now.
                journal.append(seq, batch).await.unwrap();
                times.push(started.elapsed());
            }
        });
    }
    let mut times = writers.join_all().await.concat();
    let took = started.elapsed();
    times.sort();
    (took, times)
}

fn per_second(count: usize, took: Duration) -> String {
    format!("{:.0}/s", count as f64 / took.as_secs_f64())
}

fn micros(time: Duration) -> String {
    format!("{:.0} us", time.as_secs_f64() * 1e6)
}

fn ratio(a: Duration, b: Duration) -> String {
    format!("{:.2} x F", a.as_secs_f64() / b.as_secs_f64())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let dir =
        tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".into())).unwrap();
    let config = tlog::Config::new(dir.path(), "stage");
    let (segments, verified) = (journal::Config::new(config.dir.clone()), config.dir.clone());
    let (opened, tlog) = tlog::open(config, segments, &mut |_, _| {}).unwrap();
    let (journal, mut chain) = (opened.journal, LineVerifier::new());

    row("what", "measured", "ratio", "goal");
    let floor = floor(dir.path());
    let (f50, f99) = (percentile(&floor, 500), percentile(&floor, 990));
    row("F: 4 KiB write + fdatasync, p50", &micros(f50), "", "");
    row("F, p99", &micros(f99), "", "");
    let one = single(&journal, &mut chain).await;
    let (p50, p99) = (percentile(&one, 500), percentile(&one, 990));
    row("one writer, acknowledged, p50", &micros(p50), &ratio(p50, f50), "1.6 x F p50");
    row("one writer, acknowledged, p99", &micros(p99), &ratio(p99, f99), "2 x F p99");
    let (took, times) = many(&journal, &mut chain, MANY, 1).await;
    let (p50, p99) = (percentile(&times, 500), percentile(&times, 990));
    let ours = MANY as f64 / took.as_secs_f64();
    row("64 writers, one record each", &per_second(MANY, took), "", "50,000/s");
    row("64 writers, p50", &micros(p50), &ratio(p50, f50), "");
    row("64 writers, p99", &micros(p99), &ratio(p99, f50), "10 x F p50");
    peers(dir.path(), ours);
    let (took, _) = many(&journal, &mut chain, SATURATED, 250).await;
    row("saturated, 250 records at once", &per_second(SATURATED, took), "", "250,000/s");
    let size = chain.next_seq() - 1;
    let started = Instant::now();
    tlog.publish(size).await.unwrap();
    row("until the last of them is published", &format!("{:.0?}", started.elapsed()), "", "");
    proofs(&tlog, size);
    verify(&journal, &verified, size);
    row("memory, resident", &resident(), "", "does not grow");
    drop((journal, tlog));
    index::run(&dir.path().join("indexed")).await;
    long::run(&dir.path().join("long")).await;
}

/// The same load on what else could hold it.
fn peers(dir: &Path, ours: f64) {
    let against = |what: &str, theirs: peers::Rate, goal: &str| match theirs {
        Some(rate) => {
            let ratio = format!("{:.1} x theirs", ours / rate);
            row(what, &format!("{rate:.0}/s"), &ratio, goal);
        }
        None => row(what, "not at hand", "", goal),
    };
    let sqlite = peers::sqlite(dir, WRITERS, ENTRY_BYTES);
    against("  SQLite, WAL, synchronous=FULL", sqlite, "10 x");
    let redis = peers::redis(dir, WRITERS, ENTRY_BYTES);
    against("  Redis XADD, appendfsync always", redis, "1.5 x");
    let tessera = peers::Tessera::build(dir);
    let rate = |name: &str, batch, entries| {
        tessera.as_ref()?.rate(&dir.join(name), batch, [WRITERS, entries, ENTRY_BYTES])
    };
    let own = rate("tessera-own", None, 1_000);
    against("  Tessera POSIX, batches as it makes them", own, "10 x");
    let best = rate("tessera-best", Some((WRITERS, 5)), 10_000);
    against("  Tessera POSIX, a batch once all writers wait", best, "");
}

fn proofs(tlog: &tlog::Tlog, size: u64) {
    let mut times: Vec<Duration> = (0..5_000_u64)
        .map(|i| {
            let started = Instant::now();
            tlog.inclusion(i * 7_919 % size, size).unwrap().unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    let p99 = percentile(&times, 990);
    row("inclusion proof, hot, p50", &micros(percentile(&times, 500)), "", "");
    row("inclusion proof, hot, p99", &micros(p99), "", "100 us");
}

/// Everything whoever verifies has to do: chain, leaf hashes, tree.
fn verify(journal: &journal::Journal, dir: &Path, size: u64) {
    let count = usize::try_from(size).unwrap();
    let started = Instant::now();
    journal.verify().unwrap();
    row("verify the segments", &per_second(count, started.elapsed()), "", "");
    let lines = std::fs::read(dir.join("proof.jsonl")).unwrap();
    let started = Instant::now();
    let (mut tree, mut chain) = (Frontier::new(), LineVerifier::new());
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        tree.push(chain.check(line).unwrap(), &mut |_, _| {});
    }
    assert_eq!(tree.size(), size);
    row("verify an export: chain and tree", &per_second(count, started.elapsed()), "", "500,000/s");
    let started = Instant::now();
    let mut tree = Frontier::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        tree.push(leaf_hash(line), &mut |_, _| {});
    }
    let root: Hash = tree.root();
    assert_ne!(root, leaf_hash(b""));
    row("verify an export: tree alone", &per_second(count, started.elapsed()), "", "");
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap_or("unknown").trim().to_owned()
}

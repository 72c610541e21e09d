//! What it costs to write a record.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentd::journal::Journal;
use agentd_core::chain::LineVerifier;
use bytes::Bytes;

use super::table::{Goal, Table, percentile, time};
use super::{ENTRY_BYTES, Log, WRITERS};

/// Turns of the bare limit and of the log beside each other: what the neighbours do in one of them weighs on both.
const ROUNDS: usize = 5;
/// Writes in a turn, of one writer: about a second, so that the log is published meanwhile.
const SINGLE: usize = 2_500;
const MANY: usize = 128_000;
const SATURATED: usize = 300_000;

/// F: one write of 4 KiB into zeroed space and one fdatasync.
pub(crate) struct Floor {
    file: File,
    times: Vec<Duration>,
}

impl Floor {
    pub(crate) fn new(dir: &Path) -> Self {
        let file = File::create(dir.join("floor")).unwrap();
        file.write_all_at(&vec![0; 4 << 20], 0).unwrap();
        file.sync_all().unwrap();
        Self { file, times: Vec::new() }
    }

    fn turn(&mut self) {
        let page = vec![7; 4096];
        for i in 0..SINGLE as u64 {
            let started = Instant::now();
            self.file.write_all_at(&page, i % 1024 * 4096).unwrap();
            self.file.sync_data().unwrap();
            self.times.push(started.elapsed());
        }
    }

    fn at(&mut self, permille: usize) -> Duration {
        percentile(&mut self.times, permille)
    }
}

/// The next record, as long as records usually are.
pub(crate) fn line(chain: &mut LineVerifier) -> Bytes {
    let (seq, prev) = (chain.next_seq(), chain.head());
    let head =
        format!(r#"{{"event_name":"HEARTBEAT","env":"stage","seq":{seq},"prev":"{prev}","body":""#);
    let filler = "x".repeat(ENTRY_BYTES.saturating_sub(head.len() + 2));
    let line = Bytes::from(format!("{head}{filler}\"}}"));
    chain.check(&line).unwrap();
    line
}

async fn single(journal: &Journal, chain: &mut LineVerifier, times: &mut Vec<Duration>) {
    for _ in 0..SINGLE {
        let (seq, line) = (chain.next_seq(), line(chain));
        let started = Instant::now();
        journal.append(seq, vec![line]).await.unwrap();
        times.push(started.elapsed());
    }
}

/// What many writers did.
#[derive(Default)]
pub(crate) struct Done {
    records: usize,
    took: Duration,
    times: Vec<Duration>,
}

impl Done {
    pub(crate) fn rate(&self) -> f64 {
        self.records as f64 / self.took.as_secs_f64()
    }

    fn and(mut self, more: Self) -> Self {
        self.times.extend(more.times);
        Self { records: self.records + more.records, took: self.took + more.took, ..self }
    }
}

/// `WRITERS` writers append `lines` records each time, again and again, and wait for them. The records are chained, so each takes the
/// next of those that were prepared.
async fn many(journal: &Journal, chain: &mut LineVerifier, total: usize, lines: usize) -> Done {
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
    let times = writers.join_all().await.concat();
    Done { records: total, took: started.elapsed(), times }
}

impl Log {
    /// 64 writers with one record each.
    pub(crate) async fn writers(&mut self) -> Done {
        many(&self.journal, &mut self.chain, MANY, 1).await
    }
}

/// F, one writer and many in turns.
pub(crate) async fn run(table: &mut Table, log: &mut Log, floor: &mut Floor) {
    let (mut one, mut writers) = (Vec::new(), Done::default());
    for _ in 0..ROUNDS {
        // The limit is the one of a disk that nobody else of this process writes to.
        log.publish().await;
        floor.turn();
        single(&log.journal, &mut log.chain, &mut one).await;
        writers = writers.and(log.writers().await);
    }
    let (f50, f99) = (floor.at(500), floor.at(990));
    table.note("F: 4 KiB write + fdatasync, p50", &time(f50), "", None);
    table.note("F, p99", &time(f99), "", None);
    let (p50, p99) = (percentile(&mut one, 500), percentile(&mut one, 990));
    let over = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    let (what, f) = ("one writer, acknowledged, p50", format!("F p50, {}", time(f50)));
    table.goal(what, &time(p50), (&f, over(p50, f50)), Goal::AtMost(1.6));
    let (what, f) = ("one writer, acknowledged, p99", format!("F p99, {}", time(f99)));
    table.goal(what, &time(p99), (&f, over(p99, f99)), Goal::AtMost(2.0));
    table.rate("64 writers, one record each", writers.rate(), 50_000.0);
    let many50 = percentile(&mut writers.times, 500);
    let many99 = percentile(&mut writers.times, 990);
    let f = format!("p50 of one writer, {}", time(p50));
    table.note("64 writers, p50", &time(many50), &f, Some(over(many50, p50)));
    table.goal("64 writers, p99", &time(many99), (&f, over(many99, p50)), Goal::AtMost(10.0));
    let saturated = many(&log.journal, &mut log.chain, SATURATED, 250).await;
    table.rate("saturated, 250 records at once", saturated.rate(), 250_000.0);
    let began = Instant::now();
    log.publish().await;
    table.note("until the last of them is published", &time(began.elapsed()), "", None);
}

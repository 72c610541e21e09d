//! Order, completeness, gaps and counters, with a bus that fails on command. Redis itself: `tests/bus.rs`.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use agentd_core::chain;
use agentd_core::record::{Body, Heartbeat, Record};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use super::memory::MemoryBus;
use super::*;
use crate::publish::RING;

const PATIENCE: Duration = Duration::from_secs(20);

fn published(seq: u64) -> Arc<Published> {
    let body = Body::Heartbeat(Heartbeat {
        state: Cow::Borrowed("idle"),
        uptime_ms: seq,
        loops: 0,
        last_decision: None,
        states: BTreeMap::new(),
        apps: 0,
        quiet: 0,
    });
    let actor = "agent-0123abcd".to_owned();
    let record =
        Record { seq, at: seq, env: Env::Dev, app: None, cause: None, actor, trace: None, body };
    let line = Bytes::from(record.line(chain::leaf_hash(b"before")));
    let hash = chain::leaf_hash(&line);
    Arc::new(Published::new(record, line, hash))
}

fn entries(range: impl Iterator<Item = u64>) -> Vec<Entry> {
    range.map(|seq| Entry::Record(published(seq))).collect()
}

/// `7` for a record, `3-6` for a gap.
fn name(entry: &Entry) -> String {
    match entry {
        Entry::Record(published) => published.record.seq.to_string(),
        Entry::Gap { from, to } => format!("{from}-{to}"),
    }
}

/// A bus that answers each offer as the script says, and takes everything when the script is over.
struct Scripted {
    script: VecDeque<Error>,
    /// One permit is one offer.
    turns: Arc<Semaphore>,
    taken: mpsc::Sender<String>,
}

impl Bus for Scripted {
    const BACKEND: &'static str = "scripted";

    async fn publish(&mut self, entries: &[Entry]) -> Result<(), Error> {
        self.turns.acquire().await.expect("open").forget();
        if let Some(error) = self.script.pop_front() {
            return Err(error);
        }
        for entry in entries {
            self.taken.send(name(entry)).await.expect("somebody looks");
        }
        Ok(())
    }
}

/// A publisher with a scripted bus behind it.
struct Bench {
    publisher: Publisher,
    next: u64,
    turns: Arc<Semaphore>,
    taken: mpsc::Receiver<String>,
    running: Running,
}

impl Bench {
    /// The log ends at `head`; the bus fails with `errors`, one offer each.
    fn new(head: u64, errors: &[Error]) -> Self {
        let publisher = Publisher::new(head);
        let turns = Arc::new(Semaphore::new(0));
        let (to, taken) = mpsc::channel(100_000);
        let script = errors.iter().cloned().collect();
        let bus = Scripted { script, turns: Arc::clone(&turns), taken: to };
        let clock = Arc::new(Clock::manual(1_000));
        let running = follow(bus, &publisher, &clock, &Tasks::new());
        Self { publisher, next: head + 1, turns, taken, running }
    }

    fn publish(&mut self, count: u64) {
        let records = (self.next..self.next + count).map(published).collect();
        self.next += count;
        self.publisher.publish(records);
    }

    fn open(&self) {
        self.turns.add_permits(1_000_000);
    }

    async fn take(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.taken.recv()).await.expect("in time").expect("open")
    }

    async fn until(&self, what: impl Fn(&BusStats) -> bool) -> BusStats {
        let monitor = self.running.monitor();
        let looking = async {
            loop {
                let stats = monitor.stats();
                if what(&stats) {
                    break stats;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.expect("in time")
    }
}

#[tokio::test]
async fn the_ring_in_memory_is_bounded_and_counts_what_made_room() {
    let mut bus = MemoryBus::new(4);
    bus.publish(&entries(1..=3)).await.expect("always");
    assert_eq!(bus.depth(), Some(Depth { held: 3, evicted: 0 }));
    bus.publish(&entries(4..=6)).await.expect("always");
    assert_eq!(bus.entries().map(name).collect::<Vec<_>>(), ["3", "4", "5", "6"]);
    assert_eq!(bus.depth(), Some(Depth { held: 4, evicted: 2 }));
    bus.publish(&entries(7..=20)).await.expect("always");
    assert_eq!(bus.entries().map(name).collect::<Vec<_>>(), ["17", "18", "19", "20"]);
    assert_eq!(bus.depth(), Some(Depth { held: 4, evicted: 16 }));
    bus.publish(&[]).await.expect("always");
    assert_eq!(bus.depth(), Some(Depth { held: 4, evicted: 16 }));
}

#[tokio::test]
async fn without_redis_records_go_to_memory_and_are_counted() {
    let publisher = Publisher::new(0);
    let clock = Arc::new(Clock::manual(7_000));
    let running = start(None, Env::Dev, &publisher, &clock, &Tasks::new());
    for first in (1..=3_000).step_by(100) {
        publisher.publish((first..first + 100).map(published).collect());
    }
    let monitor = running.monitor();
    running.stop().await;
    let stats = monitor.stats();
    assert_eq!((stats.backend, stats.place.as_str()), ("memory", ""));
    assert_eq!((stats.published, stats.dropped, stats.lag), (3_000, 0, 0));
    assert_eq!(stats.depth, Some(Depth { held: 1_024, evicted: 3_000 - 1_024 }));
    assert_eq!(stats.last_published, Some(7_000));
    assert!(!stats.connected, "it has ended");
}

#[tokio::test]
async fn every_record_after_the_start_is_offered_once_and_in_order() {
    let mut bench = Bench::new(41, &[]);
    bench.open();
    for _ in 0..20 {
        bench.publish(100);
        tokio::task::yield_now().await;
    }
    for seq in 42..2_042 {
        assert_eq!(bench.take().await, seq.to_string());
    }
    let stats = bench.until(|stats| stats.published == 2_000).await;
    assert_eq!((stats.dropped, stats.lag, stats.failures), (0, 0, 0));
    assert!(stats.connected && stats.last_error.is_none());
}

#[tokio::test]
async fn what_was_refused_is_offered_again_and_the_error_is_kept() {
    let full = Error::Full("OOM".to_owned());
    let mut bench = Bench::new(0, &[full.clone(), full]);
    bench.publish(3);
    bench.turns.add_permits(2);
    let stats = bench.until(|stats| stats.failures == 2).await;
    assert!(!stats.connected);
    assert_eq!((stats.published, stats.lag), (0, 3));
    assert_eq!(stats.last_error.as_deref(), Some("full: OOM"));
    bench.publish(2);
    bench.open();
    for seq in 1..=5 {
        assert_eq!(bench.take().await, seq.to_string());
    }
    let stats = bench.until(|stats| stats.connected).await;
    assert_eq!((stats.published, stats.dropped, stats.lag), (5, 0, 0));
    assert_eq!(stats.last_error.as_deref(), Some("full: OOM"), "it was so");
}

#[tokio::test]
async fn a_bus_that_is_away_for_too_long_is_told_what_it_missed() {
    let away = Error::Connection("refused".to_owned());
    let mut bench = Bench::new(0, &[away.clone(), away.clone(), away]);
    bench.turns.add_permits(1);
    bench.until(|stats| stats.failures == 1).await;

    // Nobody waits for it: twice the ring is published at once.
    for _ in 0..8 {
        bench.publish(1_024);
    }
    bench.turns.add_permits(1);
    let first = bench.until(|stats| stats.failures == 2).await;
    assert!(first.dropped > 4_000, "counted before it is back: {first:?}");
    for _ in 0..2 {
        bench.publish(1_024);
    }
    bench.turns.add_permits(1);
    bench.until(|stats| stats.failures == 3).await;
    bench.open();

    // One gap, although records were skipped twice.
    let gap = bench.take().await;
    let last: u64 = gap.strip_prefix("1-").expect("from the first on").parse().expect("a number");
    let head = 10 * 1_024;
    assert!(last < head && head - last <= RING as u64, "what is in the ring still comes: {gap}");
    for seq in last + 1..=head {
        assert_eq!(bench.take().await, seq.to_string());
    }
    let stats = bench.until(|stats| stats.lag == 0).await;
    assert_eq!(stats.dropped, last);
    assert_eq!(stats.published, head - last);
    bench.publish(1);
    assert_eq!(bench.take().await, (head + 1).to_string(), "told once");
}

#[tokio::test]
async fn a_slow_bus_loses_records_visibly_and_never_their_order() {
    let mut bench = Bench::new(0, &[]);
    let mut next = 1;
    let mut missed = 0;
    for _ in 0..12 {
        bench.publish(1_500);
        // One batch for 1,500 records.
        bench.turns.add_permits(1);
        tokio::task::yield_now().await;
    }
    bench.open();
    while next <= 12 * 1_500 {
        let got = bench.take().await;
        match got.split_once('-') {
            Some((from, to)) => {
                assert_eq!(from.parse(), Ok(next), "a gap begins where the records ended");
                let to: u64 = to.parse().expect("a number");
                missed += to + 1 - next;
                next = to + 1;
            }
            None => {
                assert_eq!(got.parse(), Ok(next));
                next += 1;
            }
        }
    }
    let stats = bench.until(|stats| stats.lag == 0).await;
    assert!(missed > 0);
    assert_eq!((stats.dropped, stats.published), (missed, 12 * 1_500 - missed));
}

#[tokio::test]
async fn large_lines_make_small_batches_and_one_always_fits() {
    let publisher = Publisher::new(0);
    let ledger = Ledger::new("memory", String::new(), 0);
    let big = |seq| {
        let mut one = Arc::into_inner(published(seq)).expect("mine");
        one.line = Bytes::from(vec![b'x'; BATCH_BYTES / 2 + 1]);
        Arc::new(one)
    };
    publisher.publish((1..=3).map(big).collect());
    let follower = Follower::new(
        MemoryBus::new(10),
        publisher.clone(),
        ledger.clone(),
        Arc::new(Clock::manual(0)),
        0,
    );
    let stop = CancellationToken::new();
    stop.cancel();
    follower.run(stop).await;
    assert_eq!(ledger.read(|books| books.stats.published), 3);
}

#[tokio::test]
async fn the_last_records_get_through_before_it_ends_but_it_does_not_wait_for_ever() {
    let mut bench = Bench::new(0, &[]);
    bench.open();
    bench.publish(1_000);
    let monitor = bench.running.monitor();
    let Bench { running, mut taken, .. } = bench;
    running.stop().await;
    assert_eq!(monitor.stats().published, 1_000);
    taken.close();
    let mut last = String::new();
    while let Some(got) = taken.recv().await {
        last = got;
    }
    assert_eq!(last, "1000");

    let mut stuck = Bench::new(0, &[]);
    stuck.publish(1);
    tokio::time::timeout(PATIENCE, stuck.running.stop()).await.expect("it ends");
}

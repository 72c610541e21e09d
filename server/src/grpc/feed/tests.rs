//! Watchers of a log that is written by hand: the loop does not run.

use std::borrow::Cow;

use agentctl_api::v1;
use agentctl_api::v1::proof_service_server::ProofService as _;
use agentctl_api::v1::watch_proof_entries_request::Start as From;
use agentctl_api::v1::watch_proof_entries_response::Item;
use agentd_core::app::{AppName, Env};
use agentd_core::chain::leaf_hash;
use agentd_core::policy::Policy;
use agentd_core::record::{Body, Record, Started};
use agentd_core::state::State;
use bytes::Bytes;
use tempfile::TempDir;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::*;
use crate::act::{Actuator, memory::Memory};
use crate::agent::{Agent, Parts, Restored};
use crate::grpc::proof;
use crate::index::Index;
use crate::ingest::Ingest;
use crate::journal::Journal;
use crate::publish::{Publisher, RING};
use crate::tasks::Tasks;
use crate::tlog::{self, Tlog};

/// Longest wait for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A log and the services that read it.
pub(in crate::grpc) struct Book {
    pub(in crate::grpc) services: Services,
    pub(in crate::grpc) dir: TempDir,
    hash: Hash,
    next: u64,
}

impl Book {
    pub(in crate::grpc) fn open() -> Self {
        Self::open_in(tempfile::tempdir().unwrap())
    }

    /// Opens the log in `dir` again.
    pub(in crate::grpc) fn open_in(dir: TempDir) -> Self {
        let config = journal::Config::new(dir.path().join("proof"));
        let published = tlog::Config::on_demand(dir.path());
        let (opened, tlog) = tlog::open(published, config, &mut |_, _| {}).unwrap();
        let head = opened.head;
        let publisher = Publisher::new(head.next_seq - 1);
        let services = services((opened.journal, tlog), publisher, head, dir.path());
        Self { services, dir, hash: head.hash, next: head.next_seq }
    }

    /// Writes and publishes `count` records; those with an even number are about app `web`.
    pub(in crate::grpc) async fn write(&mut self, count: u64) {
        let end = self.next + count;
        while self.next < end {
            let (first, mut lines, mut fresh) = (self.next, Vec::new(), Vec::new());
            while self.next < end && lines.len() < 1_000 {
                let record = record(self.next);
                let line = Bytes::from(record.line(self.hash));
                let hash = leaf_hash(&line);
                lines.push(line.clone());
                fresh.push(Arc::new(Published::new(record, line, hash)));
                (self.hash, self.next) = (hash, self.next + 1);
            }
            self.services.journal.append(first, lines).await.unwrap();
            self.services.publisher.publish(fresh);
        }
    }

    /// Writes a record whose body has more than `bytes` bytes, as the agent does.
    pub(in crate::grpc) async fn write_long(&mut self, bytes: usize) {
        let what = "x".repeat(bytes);
        let body = Body::Injected { scenario: "crash".to_owned(), what };
        let record = Record { body, ..record(self.next) };
        let (line, body) = record.line_detached(self.hash);
        self.services.journal.blobs().put(&body).unwrap();
        let (seq, line) = (self.next, Bytes::from(line));
        (self.hash, self.next) = (leaf_hash(&line), seq + 1);
        self.services.journal.append(seq, vec![line.clone()]).await.unwrap();
        let hash = self.hash;
        self.services.publisher.publish(vec![Arc::new(Published::new(record, line, hash))]);
    }

    /// Waits until the index knows all of it.
    pub(in crate::grpc) async fn indexed(&self) -> Index {
        let index = self.services.index.clone().unwrap();
        let (all, mut progress) = (self.next - 1, index.progress());
        progress.wait_for(|progress| progress.upto == all).await.unwrap();
        index
    }

    pub(in crate::grpc) fn proof(&self) -> proof::Service {
        proof::Service(self.services.clone())
    }

    async fn watch(&self, start: Option<From>) -> Outlet<v1::WatchProofEntriesResponse> {
        let request = v1::WatchProofEntriesRequest { start, ..Default::default() };
        self.watch_with(request).await.unwrap()
    }

    async fn watch_with(
        &self,
        request: v1::WatchProofEntriesRequest,
    ) -> Result<Outlet<v1::WatchProofEntriesResponse>, Status> {
        let answer = self.proof().watch_proof_entries(Request::new(request)).await;
        answer.map(tonic::Response::into_inner)
    }
}

/// Transition records: one per second from second 1 on.
fn record(seq: u64) -> Record {
    Record {
        seq,
        at: seq * 1_000,
        env: Env::Stage,
        app: (seq.is_multiple_of(2)).then(|| AppName::parse("web").unwrap()),
        cause: None,
        actor: "agent-0badcafe".to_owned(),
        trace: None,
        body: Body::Transition { path: vec![Cow::Owned(format!("step-{seq}"))] },
    }
}

fn services(
    (journal, tlog): (Journal, Tlog),
    publisher: Publisher,
    head: journal::Head,
    dir: &std::path::Path,
) -> Services {
    let (agent, inbox) = crate::agent::inbox();
    let (clock, ingest) = (Arc::new(Clock::manual(5_000)), Arc::new(Ingest::new()));
    let tasks = Tasks::new();
    let started = Started {
        agent_id: "agent-0badcafe".to_owned(),
        version: "test".to_owned(),
        demo: false,
        dry_run: false,
        frozen: false,
    };
    let metrics = Arc::new(crate::metrics::Metrics::new(Env::Stage));
    let parts = Parts {
        metrics: Arc::clone(&metrics),
        id: started.agent_id.clone(),
        version: "test",
        loop_interval: Duration::from_secs(1),
        started,
        clock: Arc::clone(&clock),
        journal: journal.clone(),
        ingest: Arc::clone(&ingest),
        actuator: Arc::new(Memory::new(agent.clone())) as Arc<dyn Actuator>,
        publisher: publisher.clone(),
        tasks: tasks.clone(),
    };
    let restored =
        Restored { state: State::new(Env::Stage), policy: Policy::default_for(Env::Stage), head };
    let _ = Agent::new(parts, Policy::default_for(Env::Stage), restored, inbox);
    let (health, _) = tonic_health::server::health_reporter();
    let index = Some(Index::start(&dir.join("proof"), &journal).unwrap());
    Services {
        metrics,
        agent,
        publisher,
        index,
        journal,
        tlog,
        ingest,
        intake: Arc::default(),
        bus: None,
        workers: None,
        clock,
        tasks,
        env: Env::Stage,
        data_dir: dir.to_owned(),
        rules: Arc::default(),
        stage: None,
        health,
    }
}

/// The next item; panics if the stream ends or nothing comes.
async fn next<T>(stream: &mut Outlet<T>) -> T {
    let next = timeout(PATIENCE, stream.next()).await.expect("something comes");
    next.expect("the stream goes on").expect("no error")
}

/// The status the stream ends with, after `left` items.
async fn end<T>(stream: &mut Outlet<T>, left: usize) -> Status {
    for _ in 0..left {
        next(stream).await;
    }
    let next = timeout(PATIENCE, stream.next()).await.expect("something comes");
    match next.expect("the stream ends with a status") {
        Ok(_) => panic!("the stream goes on"),
        Err(status) => status,
    }
}

/// The next `count` entries with their cursors, skipping bookmarks.
async fn entries(
    stream: &mut Outlet<v1::WatchProofEntriesResponse>,
    count: usize,
) -> Vec<(u64, String)> {
    let mut entries = Vec::new();
    while entries.len() < count {
        let v1::WatchProofEntriesResponse { cursor, item } = next(stream).await;
        if let Some(Item::Entry(entry)) = item {
            entries.push((entry.seq, cursor));
        }
    }
    entries
}

fn seqs(entries: &[(u64, String)]) -> Vec<u64> {
    entries.iter().map(|(seq, _)| *seq).collect()
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("an ErrorInfo").reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_sees_what_is_written_while_it_watches_and_only_that() {
    let mut book = Book::open();
    book.write(10).await;
    let mut stream = book.watch(None).await;
    let first = next(&mut stream).await;
    let Some(Item::Bookmark(bookmark)) = first.item else { panic!("a bookmark comes first") };
    assert_eq!((bookmark.seq, bookmark.head_seq, bookmark.draining), (10, 10, false));
    book.write(5).await;
    assert_eq!(seqs(&entries(&mut stream, 5).await), [11, 12, 13, 14, 15]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_resumes_by_cursor_gets_the_same_sequence_without_a_gap() {
    let mut book = Book::open();
    book.write(600).await;
    let mut whole = book.watch(Some(From::Beginning(true))).await;
    let whole = entries(&mut whole, 600).await;
    assert_eq!(seqs(&whole), (1..=600).collect::<Vec<_>>());
    for stop in [0, 1, 255, 256, 257, 598] {
        let (_, cursor) = whole[stop].clone();
        let mut rest = book.watch(Some(From::Cursor(cursor))).await;
        let rest = entries(&mut rest, 600 - stop - 1).await;
        assert_eq!(rest, whole[stop + 1..], "from entry {}", stop + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_the_ring_has_overtaken_goes_on_from_disk() {
    let mut book = Book::open();
    let mut stream = book.watch(Some(From::Beginning(true))).await;
    let total = RING as u64 + 1_500;
    book.write(total).await;
    let seen = entries(&mut stream, usize::try_from(total).unwrap()).await;
    assert_eq!(seqs(&seen), (1..=total).collect::<Vec<_>>());
    // And another one from the middle of what is only on disk.
    let mut late = book.watch(Some(From::Cursor(seen[700].1.clone()))).await;
    let late = entries(&mut late, seen.len() - 701).await;
    assert_eq!(late, seen[701..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tail_is_the_last_matching_entries() {
    let mut book = Book::open();
    book.write(20).await;
    let filter = v1::ProofFilter { apps: vec!["web".into()], ..Default::default() };
    let start = Some(From::Tail(3));
    let request =
        v1::WatchProofEntriesRequest { start, filter: Some(filter), ..Default::default() };
    let mut stream = book.watch_with(request).await.unwrap();
    assert_eq!(seqs(&entries(&mut stream, 3).await), [16, 18, 20]);
    let mut all = book.watch(Some(From::Tail(1_000))).await;
    assert_eq!(entries(&mut all, 20).await.len(), 20, "more than there is");
    let mut none = book.watch(Some(From::Tail(0))).await;
    book.write(1).await;
    assert_eq!(seqs(&entries(&mut none, 1).await), [21]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_whose_filter_never_matches_still_gets_bookmarks_that_cover_everything() {
    let mut book = Book::open();
    book.write(50).await;
    let filter = v1::ProofFilter { events: vec!["RL_DECISION".into()], ..Default::default() };
    let request = v1::WatchProofEntriesRequest {
        start: Some(From::Beginning(true)),
        filter: Some(filter),
        bookmark_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
    };
    let mut stream = book.watch_with(request).await.unwrap();
    let mut covered = Vec::new();
    for _ in 0..3 {
        let Some(Item::Bookmark(bookmark)) = next(&mut stream).await.item else {
            panic!("nothing matches")
        };
        covered.push(bookmark.seq);
    }
    assert_eq!(covered, [0, 50, 50], "where it starts, when it has caught up, and by the clock");
    book.write(7).await;
    loop {
        let item = next(&mut stream).await;
        let Some(Item::Bookmark(bookmark)) = item.item else { panic!("nothing matches") };
        if bookmark.seq == 57 {
            let mut rest = book.watch(Some(From::Cursor(item.cursor))).await;
            book.write(1).await;
            assert_eq!(seqs(&entries(&mut rest, 1).await), [58], "its cursor is one to go on from");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_is_let_go_with_the_cursor_to_go_on_from() {
    let mut book = Book::open();
    book.write(100).await;
    let log = Log::of(&book.services);
    let position = position(&log, Start::Beginning).await.unwrap();
    let feed = Feed::new(&book.services, position, BOOKMARK, None);
    let stall = Duration::from_millis(50);
    let mut stream = stream_with(&book.services, "test", stall, move |inlet| async move {
        feed.run(inlet, Everything).await
    })
    .unwrap();
    // Nothing is taken until the stream has given up.
    timeout(PATIENCE, async {
        while !stream.items.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it gives up");
    let mut last = 0;
    for _ in 0..QUEUE {
        last = next(&mut stream).await;
    }
    let status = end(&mut stream, 0).await;
    assert_eq!((status.code(), reason(&status)), (Code::Aborted, "SLOW_CONSUMER".to_owned()));
    let cursor = &status.get_details_error_info().unwrap().metadata["cursor"];
    let mut rest = book.watch(Some(From::Cursor(cursor.clone()))).await;
    let rest = seqs(&entries(&mut rest, 100 - QUEUE).await);
    assert_eq!(rest, (last + 1..=100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_watchers_beside_one_that_reads_nothing_see_every_record_once_and_in_order() {
    let mut book = Book::open();
    let stalled = book.watch(None).await;
    let mut watchers = Vec::new();
    for _ in 0..200 {
        watchers.push(book.watch(None).await);
    }
    // More than fits into the queue of a stream, so whoever reads late has to catch up.
    let count = 20 * QUEUE;
    book.write(count as u64).await;
    for watcher in &mut watchers {
        assert_eq!(seqs(&entries(watcher, count).await), (1..=count as u64).collect::<Vec<_>>());
    }
    drop(stalled);
}

/// Shows the number of every record.
struct Everything;

impl Show for Everything {
    type Item = u64;

    fn show(&self, _: &Cursor, published: &Published, _: &[Arc<Published>]) -> Shown<u64> {
        Shown::Item(published.record.seq)
    }

    fn bookmark(&self, _: &Cursor, mark: &Mark) -> u64 {
        mark.seq
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_the_stream_with_a_bookmark_and_a_time_to_come_back() {
    let mut book = Book::open();
    book.write(3).await;
    let mut stream = book.watch(None).await;
    next(&mut stream).await;
    book.services.tasks.stop();
    let Some(Item::Bookmark(bookmark)) = next(&mut stream).await.item else {
        panic!("a last bookmark")
    };
    assert!(bookmark.draining && bookmark.seq == 3, "{bookmark:?}");
    let status = end(&mut stream, 0).await;
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "DRAINING".to_owned()));
    let retry = status.get_details_retry_info().expect("a RetryInfo").retry_delay.unwrap();
    assert!(retry < Duration::from_secs(2), "{retry:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_ends_the_stream_with_a_bookmark_behind_all_that_was_looked_at() {
    let mut book = Book::open();
    book.write(7).await;
    let position = position(&Log::of(&book.services), Start::Beginning).await.unwrap();
    let (leaving, leave) = Leaving::pair();
    let feed = Feed::new(&book.services, position, BOOKMARK, Some(leaving));
    let watch = move |inlet| async move { feed.run(inlet, Nothing).await };
    let mut stream = stream(&book.services, "test", watch).unwrap();
    assert_eq!(next(&mut stream).await, 7, "it has caught up, and nothing matched");
    leave.cancel();
    assert_eq!(next(&mut stream).await, 7);
    let status = end(&mut stream, 0).await;
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "CONNECTION_AGE".to_owned()));
}

/// Shows no record, and the number of each bookmark.
struct Nothing;

impl Show for Nothing {
    type Item = u64;

    fn show(&self, _: &Cursor, _: &Published, _: &[Arc<Published>]) -> Shown<u64> {
        Shown::Skip
    }

    fn bookmark(&self, _: &Cursor, mark: &Mark) -> u64 {
        mark.seq
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_does_not_exist_is_told_apart() {
    let mut book = Book::open();
    book.write(5).await;
    let refused = async |start| {
        let request = v1::WatchProofEntriesRequest { start: Some(start), ..Default::default() };
        book.watch_with(request).await.unwrap_err()
    };
    let status = refused(From::Cursor("deadbeef".into())).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = refused(From::AfterSeq(6)).await;
    assert_eq!((status.code(), reason(&status)), (Code::OutOfRange, "AHEAD_OF_HEAD".to_owned()));
    let oldest = status.get_details_error_info().unwrap().metadata["oldest_cursor"].clone();
    let mut stream = book.watch(Some(From::Cursor(oldest))).await;
    assert_eq!(seqs(&entries(&mut stream, 5).await), [1, 2, 3, 4, 5]);

    let mut other = Book::open();
    other.write(5).await;
    let mut stream = other.watch(Some(From::Beginning(true))).await;
    let foreign = entries(&mut stream, 5).await.pop().unwrap().1;
    let status = refused(From::Cursor(foreign)).await;
    assert_eq!((status.code(), reason(&status)), (Code::DataLoss, "LOG_ID_MISMATCH".to_owned()));

    let log_id = book.services.journal.head().log_id;
    let rewritten = Cursor::new(log_id, 5, leaf_hash(b"another history")).to_string();
    let status = refused(From::Cursor(rewritten)).await;
    assert_eq!((status.code(), reason(&status)), (Code::DataLoss, "HISTORY_CHANGED".to_owned()));
    let future = Cursor::new(log_id, 6, leaf_hash(b"six")).to_string();
    let status = refused(From::Cursor(future)).await;
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_by_time_begins_with_the_first_record_of_that_time() {
    let mut book = Book::open();
    book.write(2_000).await;
    let log = Log::of(&book.services);
    for (at, behind) in
        [(0, 0), (1_000, 0), (1_001, 1), (999_999, 999), (2_000_000, 1_999), (9_999_999, 2_000)]
    {
        let position = position(&log, Start::Time(at)).await.unwrap();
        assert_eq!(position.seq, behind, "at {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_with_an_end_ends_the_stream() {
    let mut book = Book::open();
    book.write(20).await;
    let end_time = Some(prost_types::Timestamp { seconds: 11, nanos: 0 });
    let filter = Some(v1::ProofFilter { end_time, ..Default::default() });
    let start = Some(From::Beginning(true));
    let request = v1::WatchProofEntriesRequest { start, filter, ..Default::default() };
    let mut stream = book.watch_with(request).await.unwrap();
    assert_eq!(seqs(&entries(&mut stream, 10).await), (1..=10).collect::<Vec<_>>());
    let Some(Item::Bookmark(bookmark)) = next(&mut stream).await.item else { panic!("a bookmark") };
    assert_eq!(bookmark.seq, 10);
    let over = timeout(PATIENCE, stream.next()).await.expect("it ends");
    assert!(over.is_none(), "{over:?}");
}

#[test]
fn a_bookmark_interval_is_whole_seconds_within_bounds() {
    let mut violations = Vec::new();
    let mut parse = |seconds, nanos| {
        bookmark_interval(Some(&prost_types::Duration { seconds, nanos }), &mut violations)
    };
    assert_eq!(parse(1, 0), Duration::from_secs(1));
    assert_eq!(parse(60, 0), Duration::from_secs(60));
    for (seconds, nanos) in [(0, 0), (61, 0), (-1, 0), (1, 1), (i64::MIN, i32::MIN)] {
        parse(seconds, nanos);
    }
    assert_eq!(violations.len(), 5);
    assert_eq!(bookmark_interval(None, &mut violations), BOOKMARK);
}

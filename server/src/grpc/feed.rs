//! Streams of records: one path from the log to a watcher, for decisions and for proof entries.
//!
//! A watcher holds nothing but its position. It reads the ring, and the disk where the ring has moved on, so that it is late but
//! never misses anything. What it sends waits in a short queue; if its reader takes nothing for [`STALL`] the stream ends with the
//! cursor to go on from.

use std::pin::{Pin, pin};
use std::sync::Arc;

use agentd_core::app::Millis;
use agentd_core::chain::Hash;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::log::Log;
use super::opaque::Cursor;
use super::status::Violation;
use super::{Services, status};
use crate::clock::Clock;
use crate::journal;
use crate::listen::Leaving;
use crate::publish::{Published, WATCHERS};
use crate::tasks::OnFailure;

mod outbox;

use outbox::Batch;
pub(super) use outbox::{Few, Framed, Inlet, Outlet};

/// Time after which a client may try again when there are too many.
const STREAMS_RETRY: Duration = Duration::from_secs(5);
/// A reader that takes nothing for so long is let go.
const STALL: Duration = Duration::from_secs(60);
/// Records taken at once.
const BATCH: usize = 256;
/// Records behind one that may say more about it: what follows a decision in the same step.
pub(super) const AHEAD: usize = 8;
/// Time between bookmarks when the watcher names none.
const BOOKMARK: Duration = Duration::from_secs(15);
const BOOKMARK_SECONDS: std::ops::RangeInclusive<u64> = 1..=60;
/// A watcher that was sent away comes back within this.
const COME_BACK_MS: u32 = 2_000;

/// Why a stream is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// Nobody reads any more.
    Left,
    /// The server stops.
    Draining,
    /// The reader takes nothing.
    Stalled,
    /// The connection is old, which has this status.
    Old(Status),
    /// Something else.
    With(Status),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::With(status)
    }
}

/// Starts a stream whose items `fill` sends.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` when [`WATCHERS`] are there.
pub(super) fn stream<B, F, R>(
    services: &Services,
    name: &'static str,
    fill: F,
) -> Result<Outlet<B>, Status>
where
    B: Batch,
    F: FnOnce(Inlet<B>) -> R + Send + 'static,
    R: Future<Output = Result<(), Ended>> + Send + 'static,
{
    stream_with(services, name, STALL, fill)
}

fn stream_with<B, F, R>(
    services: &Services,
    name: &'static str,
    stall: Duration,
    fill: F,
) -> Result<Outlet<B>, Status>
where
    B: Batch,
    F: FnOnce(Inlet<B>) -> R + Send + 'static,
    R: Future<Output = Result<(), Ended>> + Send + 'static,
{
    let place = services.publisher.place().ok_or_else(|| {
        let message = format!("{WATCHERS} streams are open");
        status::exhausted("STREAMS", name, &message, Some(STREAMS_RETRY))
    })?;
    let (inlet, ending, outlet) = outbox::outbox(services.tasks.stopping(), stall);
    let metrics = Arc::clone(&services.metrics);
    let filling = fill(inlet);
    services.tasks.spawn(name, OnFailure::Log, async move {
        let _place = place;
        ending.tell(match filling.await {
            Ok(()) | Err(Ended::Left) => Ok(()),
            Err(Ended::Draining) => Err(draining()),
            Err(Ended::Stalled) => {
                metrics.stream_dropped(name);
                Err(stalled("cursor", ""))
            }
            Err(Ended::With(status) | Ended::Old(status)) => Err(status),
        });
    });
    Ok(outlet)
}

fn draining() -> Status {
    // Spread over two seconds, so that the watchers of a server do not all come back at once.
    let wait = getrandom::u32().unwrap_or(0) % COME_BACK_MS;
    let retry = Duration::from_millis(u64::from(wait));
    status::unavailable("DRAINING", "the server stops; resume from the last cursor", Some(retry))
}

/// The reader took nothing for too long; `name` is the field of a request that goes on from `value`.
pub(super) fn stalled(name: &str, value: &str) -> Status {
    let message = format!("the reader takes nothing; resume from the `{name}` given");
    status::conflict("SLOW_CONSUMER", &message, &[(name, value)])
}

/// The bookmark interval a watcher asks for.
pub(super) fn bookmark_interval(
    asked: Option<&prost_types::Duration>,
    violations: &mut Vec<Violation>,
) -> Duration {
    let Some(asked) = asked else { return BOOKMARK };
    let seconds = u64::try_from(asked.seconds).ok().filter(|_| asked.nanos == 0);
    match seconds.filter(|seconds| BOOKMARK_SECONDS.contains(seconds)) {
        Some(seconds) => Duration::from_secs(seconds),
        None => {
            let (got, rule) = (format!("{}s", asked.seconds), "must be 1 to 60 whole seconds");
            violations.push(Violation::new("bookmark_interval", got, rule));
            BOOKMARK
        }
    }
}

/// Everything up to this record was looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// The record; 0 before the first.
    pub(super) seq: u64,
    /// Its leaf hash.
    pub(super) hash: Hash,
}

/// Where a watcher stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It sees records as they become durable.
    Live,
    /// It is behind.
    Replay,
    /// The server stops.
    Draining,
}

/// What a bookmark tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    /// Every matching item up to here was sent.
    pub(super) seq: u64,
    /// Newest record.
    pub(super) head_seq: u64,
    /// Where the watcher stands.
    pub(super) phase: Phase,
    /// Time at the server.
    pub(super) time: Millis,
}

/// What becomes of a record.
#[derive(Debug)]
pub(super) enum Shown<T> {
    /// It is sent.
    Item(T),
    /// It does not match.
    Skip,
    /// Neither it nor anything behind it can match.
    Over,
}

/// How records become items of one kind of stream.
pub(super) trait Show: Send {
    /// The item.
    type Item: Send + 'static;
    /// How items wait for the reader.
    type Batch: Batch<Item = Self::Item>;

    /// The item for a record; `ahead` are up to [`AHEAD`] records right behind it.
    fn show(
        &self,
        cursor: &Cursor,
        published: &Published,
        ahead: &[Arc<Published>],
    ) -> Shown<Self::Item>;

    /// The item for a bookmark.
    fn bookmark(&self, cursor: &Cursor, mark: &Mark) -> Self::Item;
}

/// A watcher.
#[derive(Debug)]
pub(super) struct Feed {
    log: Log,
    clock: Arc<Clock>,
    stop: CancellationToken,
    position: Position,
    bookmarks: Duration,
    leaving: Option<Leaving>,
}

/// What woke a watcher.
enum Woken {
    Records,
    Bookmark,
}

impl Feed {
    pub(super) fn new(
        services: &Services,
        position: Position,
        bookmarks: Duration,
        leaving: Option<Leaving>,
    ) -> Self {
        Self {
            log: Log::of(services),
            clock: Arc::clone(&services.clock),
            stop: services.tasks.stopping(),
            position,
            bookmarks,
            leaving,
        }
    }

    /// Sends everything behind the position, for as long as anybody reads.
    ///
    /// # Errors
    /// Why it ended; `Ok` only if nothing can match any more.
    pub(super) async fn run<S: Show>(
        mut self,
        inlet: Inlet<S::Batch>,
        show: S,
    ) -> Result<(), Ended> {
        match self.follow(&inlet, &show).await {
            Err(Ended::Draining) => {
                inlet.offer(show.bookmark(&self.cursor(), &self.mark(Phase::Draining)));
                Err(Ended::Draining)
            }
            Err(Ended::Stalled) => Err(Ended::With(stalled("cursor", &self.cursor().to_string()))),
            // It goes on over another one, behind all that was looked at, whether or not it matched.
            Err(Ended::Old(why)) => {
                inlet.offer(show.bookmark(&self.cursor(), &self.mark(self.phase())));
                Err(Ended::With(why))
            }
            other => other,
        }
    }

    async fn follow<S: Show>(&mut self, inlet: &Inlet<S::Batch>, show: &S) -> Result<(), Ended> {
        // Subscribed before the first read: nothing that is published in between goes unnoticed.
        let mut head = self.log.publisher.head();
        let mut health = self.log.journal.watch_status();
        // Both outlast many records: made once, they cost a wait hardly anything.
        let mut over = pin!(over(self.stop.clone(), self.leaving.clone(), inlet));
        let mut bookmark = pin!(sleep(self.bookmarks));
        let mut behind = self.position.seq < *head.borrow();
        loop {
            if self.stop.is_cancelled() {
                return Err(Ended::Draining);
            }
            health.mark_unchanged();
            let newest = *head.borrow_and_update();
            let batch = if self.position.seq < newest {
                self.log.after(self.position.seq, BATCH + AHEAD).await?
            } else {
                Vec::new()
            };
            let woken = if batch.is_empty() {
                self.check_damage()?;
                if std::mem::take(&mut behind) {
                    Woken::Bookmark
                } else {
                    wait(over.as_mut(), &mut head, &mut health, bookmark.as_mut()).await?
                }
            } else {
                if self.send(inlet, show, &batch, newest).await? {
                    inlet.send(show.bookmark(&self.cursor(), &self.mark(Phase::Live))).await?;
                    return Ok(());
                }
                behind |= self.position.seq < newest;
                let due = Instant::now() >= bookmark.deadline();
                if due { Woken::Bookmark } else { Woken::Records }
            };
            if matches!(woken, Woken::Bookmark) {
                inlet.send(show.bookmark(&self.cursor(), &self.mark(self.phase()))).await?;
                bookmark.as_mut().reset(Instant::now() + self.bookmarks);
            }
        }
    }

    /// Sends what matches of `batch`; true if nothing behind it can match. The last records of a batch that is not the newest
    /// are left for the next one, where what follows them is there too.
    async fn send<S: Show>(
        &mut self,
        inlet: &Inlet<S::Batch>,
        show: &S,
        batch: &[Arc<Published>],
        newest: u64,
    ) -> Result<bool, Ended> {
        let complete = batch.last().is_some_and(|last| last.record.seq >= newest);
        let count = if complete { batch.len() } else { batch.len().saturating_sub(AHEAD).max(1) };
        let log_id = self.log.id();
        for (index, published) in batch.iter().enumerate().take(count) {
            let ahead = batch.get(index + 1..).unwrap_or_default();
            let ahead = ahead.get(..AHEAD).unwrap_or(ahead);
            let position = Position { seq: published.record.seq, hash: published.hash };
            let cursor = Cursor::new(log_id, position.seq, position.hash);
            match show.show(&cursor, published, ahead) {
                Shown::Item(item) => inlet.put(item).await?,
                Shown::Skip => {}
                Shown::Over => return Ok(true),
            }
            self.position = position;
        }
        inlet.flush();
        Ok(false)
    }

    fn check_damage(&self) -> Result<(), Ended> {
        match self.log.damage() {
            Some(damage) if damage.seq <= self.position.seq.saturating_add(1) => {
                let text = damage.to_string();
                Err(Ended::With(status::data_loss("CHAIN_BROKEN", damage.seq, &text)))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn phase(&self) -> Phase {
        let at_head = self.position.seq >= self.log.publisher.newest();
        if at_head { Phase::Live } else { Phase::Replay }
    }

    fn cursor(&self) -> Cursor {
        Cursor::new(self.log.id(), self.position.seq, self.position.hash)
    }

    fn mark(&self, phase: Phase) -> Mark {
        let seq = self.position.seq;
        Mark { seq, head_seq: self.log.head().max(seq), phase, time: self.clock.now_ms() }
    }
}

/// Waits until a watch is over for a reason that is not in what it sends.
async fn over<B: Batch>(
    stop: CancellationToken,
    leaving: Option<Leaving>,
    inlet: &Inlet<B>,
) -> Ended {
    tokio::select! {
        biased;
        () = stop.cancelled() => Ended::Draining,
        why = Leaving::over_of(leaving.as_ref()) => Ended::Old(why),
        () = inlet.left() => Ended::Left,
    }
}

/// Waits for something to send.
async fn wait(
    over: Pin<&mut impl Future<Output = Ended>>,
    head: &mut watch::Receiver<u64>,
    health: &mut watch::Receiver<journal::Status>,
    bookmark: Pin<&mut Sleep>,
) -> Result<Woken, Ended> {
    tokio::select! {
        biased;
        why = over => Err(why),
        changed = head.changed() => match changed {
            Ok(()) => Ok(Woken::Records),
            Err(_closed) => Err(Ended::Draining),
        },
        changed = health.changed() => match changed {
            Ok(()) => Ok(Woken::Records),
            Err(_closed) => Err(Ended::Draining),
        },
        () = bookmark => Ok(Woken::Bookmark),
    }
}

/// Where a watch starts, apart from the ways only one of the services has.
#[derive(Debug, Clone)]
pub(super) enum Start {
    /// Behind a cursor, from any earlier answer.
    Cursor(String),
    /// Behind a record.
    After(u64),
    /// At the first record of this time or later.
    Time(Millis),
    /// With what comes next.
    Now,
    /// With the oldest record.
    Beginning,
}

/// The position a watch starts behind.
///
/// # Errors
/// `INVALID_ARGUMENT` for what never was a cursor, `DATA_LOSS` for one of another log or another history, `OUT_OF_RANGE` with the
/// oldest cursor for what is pruned and for what is ahead of the newest record.
pub(super) async fn position(log: &Log, start: Start) -> Result<Position, Status> {
    let oldest = log.oldest();
    let (seq, cursor) = match start {
        Start::Cursor(text) => {
            let Some(cursor) = Cursor::parse(&text) else {
                let rule = "must be a cursor as it was given out";
                return Err(status::invalid(&[Violation::new("cursor", text, rule)]));
            };
            if !cursor.is_of(log.id()) {
                let message = format!("the cursor belongs to another log than {}", log.id());
                return Err(status::data_loss("LOG_ID_MISMATCH", cursor.seq, &message));
            }
            (cursor.seq, Some(cursor))
        }
        Start::After(seq) => (seq, None),
        Start::Time(at) => {
            let first = log.first_at(at).await?;
            if first == oldest && oldest > 1 {
                return Err(compacted(log, "records of that time are no longer kept").await);
            }
            (first.saturating_sub(1).min(log.head().max(log.durable())), None)
        }
        Start::Now => (log.head(), None),
        Start::Beginning => (oldest.saturating_sub(1), None),
    };
    let head = log.head().max(log.durable());
    if seq > head {
        let cursor = log.cursor_before(oldest).await;
        let message = format!("record {seq} is ahead of the newest, {head}");
        return Err(status::out_of_range("AHEAD_OF_HEAD", &message, &cursor));
    }
    if seq.saturating_add(1) < oldest {
        return Err(compacted(log, &format!("records before {oldest} are no longer kept")).await);
    }
    let Some(hash) = log.hash_at(seq).await? else {
        return Err(compacted(log, &format!("record {seq} is not there")).await);
    };
    if cursor.is_some_and(|cursor| !cursor.matches(hash)) {
        let message = format!("record {seq} is not the one the cursor was given out for");
        return Err(status::data_loss("HISTORY_CHANGED", seq, &message));
    }
    Ok(Position { seq, hash })
}

async fn compacted(log: &Log, message: &str) -> Status {
    let cursor = log.cursor_before(log.oldest()).await;
    status::out_of_range("WATCH_COMPACTED", message, &cursor)
}

#[cfg(test)]
pub(in crate::grpc) mod tests;

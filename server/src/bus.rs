//! The bus: durable records are offered to programs that follow along, and to nobody's decisions.
//!
//! It is a *hint bus*. The server only ever publishes: nothing is read from it, so nothing on it can cause an act, and losing
//! it delays nothing and relaxes no gate. Whoever needs every record follows the proof log; the bus may lose records, and
//! then says so: what was skipped is counted, and stands on the bus itself as a gap with its first and last number.
//!
//! One task follows the [`Publisher`] from its own position, like a watcher. The loop never waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentd_core::app::{Env, Millis};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::Clock;
use crate::publish::{Published, Publisher};
use crate::tasks::{OnFailure, Tasks};

mod address;
mod follow;
pub mod memory;
pub mod redis;

pub use address::Address;
use follow::Follower;

/// Entries offered in one piece at most.
pub const BATCH: usize = 256;
/// Bytes of record lines offered in one piece at most; one record always fits.
pub const BATCH_BYTES: usize = 1 << 20;
/// Time the last records have to get through when the server stops.
pub const GRACE: Duration = Duration::from_millis(500);

/// Something that takes records for others to read.
pub trait Bus: Send + 'static {
    /// What it is, in one word.
    const BACKEND: &'static str;

    /// Takes all of `entries`, in order, or says why not; then none of them counts as taken, although some may have got
    /// through. No entries: only looks whether the bus is there. Ends within a time the backend states.
    ///
    /// # Errors
    /// [`Error`]; the caller offers the same again later.
    fn publish(&mut self, entries: &[Entry]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Where it is, without credentials; empty for what is in this process.
    fn place(&self) -> String {
        String::new()
    }

    /// What it holds, if it knows without asking anybody.
    fn depth(&self) -> Option<Depth> {
        None
    }
}

/// What is offered.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A durable record.
    Record(Arc<Published>),
    /// Records that were skipped, because the bus was away or slow for longer than they were kept for it.
    Gap {
        /// Sequence number of the first.
        from: u64,
        /// Sequence number of the last.
        to: u64,
    },
}

/// What a bus holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Entries held.
    pub held: u64,
    /// Entries that made room for newer ones.
    pub evicted: u64,
}

/// Why a bus took nothing. No text in here holds credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or the connection broke.
    #[error("no connection: {0}")]
    Connection(String),
    /// It does not answer.
    #[error("no answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// It does not let this server in, or not do this.
    #[error("access refused: {0}")]
    Access(String),
    /// It takes no writes, like a replica.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// It has no room.
    #[error("full: {0}")]
    Full(String),
    /// It refuses for another reason.
    #[error("not taken: {0}")]
    Refused(String),
}

/// How the bus is, at one moment. Counted since the start of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusStats {
    /// `memory` or `redis`.
    pub backend: &'static str,
    /// Where it is, without credentials; empty for what is in this process.
    pub place: String,
    /// True if it took what it was offered last.
    pub connected: bool,
    /// Records it took.
    pub published: u64,
    /// Records that were skipped.
    pub dropped: u64,
    /// Records that wait for it right now.
    pub lag: u64,
    /// Offers it did not take; the same records were offered again.
    pub failures: u64,
    /// The last error, even if it is over.
    pub last_error: Option<String>,
    /// When it last took a record, in milliseconds since the Unix epoch.
    pub last_published: Option<Millis>,
    /// What it holds, where that is known.
    pub depth: Option<Depth>,
}

/// Shows how the bus is; clones share it.
#[derive(Debug, Clone)]
pub struct Monitor {
    ledger: Ledger,
    publisher: Publisher,
}

impl Monitor {
    /// How it is right now.
    #[must_use]
    pub fn stats(&self) -> BusStats {
        let head = *self.publisher.head().borrow();
        let (position, mut stats) = self.ledger.read(|books| (books.position, books.stats.clone()));
        stats.lag = head.saturating_sub(position);
        stats
    }
}

/// The counters and the position, shared by the task that writes them and whoever reads them.
#[derive(Debug, Clone)]
struct Ledger(Arc<Mutex<Books>>);

#[derive(Debug)]
struct Books {
    /// Everything up to this sequence number was taken or skipped.
    position: u64,
    /// All but the lag.
    stats: BusStats,
}

impl Ledger {
    fn new(backend: &'static str, place: String, position: u64) -> Self {
        let stats = BusStats {
            backend,
            place,
            connected: false,
            published: 0,
            dropped: 0,
            lag: 0,
            failures: 0,
            last_error: None,
            last_published: None,
            depth: None,
        };
        Self(Arc::new(Mutex::new(Books { position, stats })))
    }

    fn read<T>(&self, read: impl FnOnce(&Books) -> T) -> T {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, write: impl FnOnce(&mut Books)) {
        write(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A bus that follows the records. Dropping it ends it without waiting.
#[derive(Debug)]
pub struct Running {
    monitor: Monitor,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Running {
    /// Shows how it is.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        self.monitor.clone()
    }

    /// Offers what was published so far and ends, within [`GRACE`].
    pub async fn stop(self) {
        let Self { monitor: _, stop, task } = self;
        drop(stop);
        // A panic was reported by the spawner and stands in the stats.
        let _ = task.await;
    }
}

/// Follows `publisher` from here on: to Redis if there is an address, else to a ring in this process.
#[must_use]
pub fn start(
    redis: Option<Address>,
    env: Env,
    publisher: &Publisher,
    clock: &Arc<Clock>,
    tasks: &Tasks,
) -> Running {
    match redis {
        Some(address) => follow(redis::RedisBus::new(address, env), publisher, clock, tasks),
        None => follow(memory::MemoryBus::new(memory::LIMIT), publisher, clock, tasks),
    }
}

fn follow<B: Bus>(bus: B, publisher: &Publisher, clock: &Arc<Clock>, tasks: &Tasks) -> Running {
    let position = *publisher.head().borrow();
    let ledger = Ledger::new(B::BACKEND, bus.place(), position);
    let monitor = Monitor { ledger: ledger.clone(), publisher: publisher.clone() };
    let follower = Follower::new(bus, publisher.clone(), ledger, Arc::clone(clock), position);
    let stop = CancellationToken::new();
    let task = tasks.spawn("bus", OnFailure::Log, follower.run(stop.clone()));
    Running { monitor, stop: stop.drop_guard(), task }
}

#[cfg(test)]
mod tests;

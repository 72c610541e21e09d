//! The task between the publisher and a bus: offers, counts, tries again, and skips what it can no longer get.

use std::mem::Discriminant;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{BATCH, BATCH_BYTES, Bus, Entry, Error, GRACE, Ledger};
use crate::clock::Clock;
use crate::publish::{Next, Published, Publisher, RING};

/// First pause after a failure; every further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How the bus was last seen. A change is logged, a repetition is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Untried,
    Up,
    Down(Discriminant<Error>),
}

/// Follows a publisher from a position of its own.
pub(super) struct Follower<B> {
    bus: B,
    publisher: Publisher,
    head: watch::Receiver<u64>,
    ledger: Ledger,
    clock: Arc<Clock>,
    /// Sequence number of the last record that was taken or skipped.
    position: u64,
    /// Skipped records the bus has not been told of yet: first and last.
    gap: Option<(u64, u64)>,
    link: Link,
    /// True while the bus is so slow that records are skipped.
    behind: bool,
    failures_in_a_row: u32,
}

impl<B: Bus> Follower<B> {
    pub(super) fn new(
        bus: B,
        publisher: Publisher,
        ledger: Ledger,
        clock: Arc<Clock>,
        position: u64,
    ) -> Self {
        Self {
            bus,
            head: publisher.head(),
            publisher,
            ledger,
            clock,
            position,
            gap: None,
            link: Link::Untried,
            behind: false,
            failures_in_a_row: 0,
        }
    }

    /// Follows until `stop` fires and everything published until then was offered, for [`GRACE`] at most.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let ended = Ended(self.ledger.clone());
        let grace = async {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            () = self.follow(&stop) => {}
            () = grace => {}
        }
        let place = self.bus.place();
        let left = self.head.borrow().saturating_sub(self.position);
        if left > 0 {
            tracing::warn!(
                backend = B::BACKEND,
                place,
                left,
                "the bus has not got the last records"
            );
        }
        drop(ended);
    }

    async fn follow(&mut self, stop: &CancellationToken) {
        loop {
            // A bus in memory never waits: let others have their turn.
            tokio::task::consume_budget().await;
            // Looked at first: what is published before the stop is still offered, what is published after the look wakes.
            let stopping = stop.is_cancelled();
            self.head.borrow_and_update();
            let batch = self.gather();
            if batch.is_empty() && self.link == Link::Up {
                if stopping {
                    return;
                }
                tokio::select! {
                    changed = self.head.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => {}
                }
                continue;
            }
            match self.bus.publish(&batch).await {
                Ok(()) => self.taken(&batch),
                Err(error) => {
                    self.failed(&error);
                    tokio::select! {
                        () = tokio::time::sleep(pause(self.failures_in_a_row)) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// What to offer next: the gap if there is one, and the records after it.
    fn gather(&mut self) -> Vec<Entry> {
        let records = match self.publisher.after(self.position, BATCH) {
            Next::Records(records) => records,
            Next::OnDisk => self.skip(),
        };
        let mut bytes = 0_usize;
        let fits = |record: &Arc<Published>| {
            let first = bytes == 0;
            bytes = bytes.saturating_add(record.line.len());
            first || bytes <= BATCH_BYTES
        };
        let gap = self.gap.map(|(from, to)| Entry::Gap { from, to });
        gap.into_iter().chain(records.into_iter().take_while(fits).map(Entry::Record)).collect()
    }

    /// The bus fell behind the ring. A hint bus does not go back to the disk: it goes on with what is still in memory, a little
    /// after its oldest record so that it is not overtaken again at once.
    fn skip(&mut self) -> Vec<Arc<Published>> {
        let ring = u64::try_from(RING).unwrap_or(u64::MAX);
        let mut slack = u64::try_from(BATCH).unwrap_or(0);
        loop {
            let head = *self.head.borrow();
            let resume = head.saturating_sub(ring.saturating_sub(slack)).max(self.position);
            if let Next::Records(records) = self.publisher.after(resume, BATCH) {
                self.skipped(resume);
                return records;
            }
            // More came in between.
            slack = slack.saturating_mul(2);
        }
    }

    fn skipped(&mut self, to: u64) {
        let count = to.saturating_sub(self.position);
        if count == 0 {
            return;
        }
        let from = self.position.saturating_add(1);
        self.gap = Some((self.gap.map_or(from, |(first, _)| first), to));
        self.position = to;
        self.ledger.write(|books| {
            books.position = to;
            books.stats.dropped = books.stats.dropped.saturating_add(count);
        });
        if !std::mem::replace(&mut self.behind, true) {
            tracing::warn!(
                backend = B::BACKEND,
                place = self.bus.place(),
                from,
                to,
                "the bus is behind, records are skipped"
            );
        }
    }

    fn taken(&mut self, batch: &[Entry]) {
        let last = batch.iter().rev().find_map(|entry| match entry {
            Entry::Record(published) => Some(published.record.seq),
            Entry::Gap { .. } => None,
        });
        let records = batch.iter().filter(|entry| matches!(entry, Entry::Record(_))).count();
        self.position = last.unwrap_or(self.position);
        self.gap = None;
        self.failures_in_a_row = 0;
        if records < BATCH {
            self.behind = false;
        }
        let now = last.map(|_| self.clock.now_ms());
        let depth = self.bus.depth();
        self.ledger.write(|books| {
            books.position = self.position;
            let stats = &mut books.stats;
            stats.connected = true;
            stats.depth = depth;
            stats.last_published = now.or(stats.last_published);
            stats.published =
                stats.published.saturating_add(u64::try_from(records).unwrap_or(u64::MAX));
        });
        let before = std::mem::replace(&mut self.link, Link::Up);
        if before != Link::Up {
            let back = matches!(before, Link::Down(_));
            tracing::info!(
                backend = B::BACKEND,
                place = self.bus.place(),
                back,
                "records are offered to the bus"
            );
        }
    }

    fn failed(&mut self, error: &Error) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let text = error.to_string();
        let down = Link::Down(std::mem::discriminant(error));
        if std::mem::replace(&mut self.link, down) != down {
            tracing::warn!(backend = B::BACKEND, place = self.bus.place(), error = %text,
                "the bus takes no records; nothing waits for it");
        }
        self.ledger.write(|books| {
            books.stats.connected = false;
            books.stats.failures = books.stats.failures.saturating_add(1);
            books.stats.last_error = Some(text);
        });
    }
}

/// Says so when the task is over, also by a panic.
struct Ended(Ledger);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.write(|books| {
            books.stats.connected = false;
            if std::thread::panicking() {
                books.stats.last_error = Some("the task panicked, nothing is published".to_owned());
            }
        });
    }
}

/// Pause after the n-th failure in a row: doubled up to a limit, then shortened at random by up to half, so that many servers
/// do not come back at once.
fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    let mut random = [0; 2];
    // Without a random number the pause is just not spread.
    let spread = getrandom::fill(&mut random).map_or(0, |()| u32::from(u16::from_le_bytes(random)));
    let half = full / 2;
    full - half.saturating_mul(spread) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_spread() {
        for (failures, full) in [(1, 100), (2, 200), (3, 400), (6, 3_200), (7, 5_000)] {
            let full = Duration::from_millis(full);
            let pauses: Vec<_> = (0..64).map(|_| pause(failures)).collect();
            assert!(pauses.iter().all(|p| (full / 2..=full).contains(p)), "{failures}: {pauses:?}");
            assert!(pauses.iter().any(|p| *p != pauses[0]), "not all alike");
        }
        assert!(pause(u32::MAX) <= BACKOFF_MAX);
    }
}

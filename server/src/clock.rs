//! The only reader of the clock.
//!
//! Time enters once per event and never goes backwards: a step of the wall clock is clamped, so cooldowns, budgets and the
//! order of records do not depend on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock that is so far behind the log is worth a word.
const BEHIND_MS: u64 = 5_000;

/// Source of the time that enters the loop.
///
/// A manual clock exists so that tests can play four hours in a second; both kinds are monotonic.
#[derive(Debug)]
pub struct Clock {
    source: Source,
    /// How far time is ahead of the source: from where the log is it moves on, also where the wall clock was set back or is not set yet,
    /// and from where it was put.
    ahead_ms: AtomicU64,
    last_ms: AtomicU64,
}

#[derive(Debug)]
enum Source {
    /// Wall time at start plus monotonic time since: immune to steps of the wall clock while the process runs.
    System { base_ms: u64, started: Instant },
    /// Set by tests.
    Manual(u64),
}

impl Source {
    fn now_ms(&self) -> u64 {
        match self {
            Self::System { base_ms, started } => {
                base_ms.saturating_add(u64::try_from(started.elapsed().as_millis()).unwrap_or(0))
            }
            Self::Manual(ms) => *ms,
        }
    }
}

impl Clock {
    /// The clock of a running server.
    #[must_use]
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the one reader of the wall clock")]
        let base_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let source = Source::System { base_ms, started: Instant::now() };
        Self { source, ahead_ms: AtomicU64::new(0), last_ms: AtomicU64::new(0) }
    }

    /// A clock that stands at `now_ms` (milliseconds since the Unix epoch) until it is moved.
    #[must_use]
    pub fn manual(now_ms: u64) -> Self {
        let source = Source::Manual(now_ms);
        Self { source, ahead_ms: AtomicU64::new(0), last_ms: AtomicU64::new(0) }
    }

    /// Milliseconds since the Unix epoch; never less than an earlier answer.
    pub fn now_ms(&self) -> u64 {
        let raw = self.source.now_ms().saturating_add(self.ahead_ms.load(Ordering::SeqCst));
        self.last_ms.fetch_max(raw, Ordering::SeqCst).max(raw)
    }

    /// Later answers are at least `ms`, and move on from there. Called once after replay, so that time in the log neither goes back nor
    /// stands still although the wall clock of this start is behind the one of the last: cooldowns and deadlines go on running.
    pub fn not_before(&self, ms: u64) {
        let ahead = ms.saturating_sub(self.source.now_ms());
        if ahead > BEHIND_MS {
            tracing::warn!(
                behind_ms = ahead,
                "the clock of this host is behind the proof log: times go on from its last record until the next start"
            );
        }
        self.ahead_ms.fetch_max(ahead, Ordering::SeqCst);
        self.last_ms.fetch_max(ms, Ordering::SeqCst);
    }

    /// Puts the clock forward: to whoever reads it, so much time has passed. A manual clock stands there; the clock of a server goes on
    /// from there, so that what has to be long ago is, without anybody waiting for it.
    pub fn advance(&self, by_ms: u64) {
        self.ahead_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_put_forward_goes_on_from_there() {
        let clock = Clock::system();
        let before = clock.now_ms();
        clock.advance(3_600_000);
        let after = clock.now_ms();
        assert!((before + 3_600_000..before + 7_200_000).contains(&after), "{before} {after}");
    }

    #[test]
    fn time_neither_goes_back_nor_stands_still_if_the_log_is_ahead_of_the_wall_clock() {
        let clock = Clock::manual(1_000);
        clock.not_before(5_000);
        assert_eq!(clock.now_ms(), 5_000);
        clock.advance(3_000);
        assert_eq!(clock.now_ms(), 8_000, "a cooldown goes on although 4,000 is on the wall");
        clock.not_before(2_000);
        clock.advance(1);
        assert_eq!(clock.now_ms(), 8_001);
    }

    #[test]
    fn a_clock_that_is_not_behind_the_log_is_left_as_it_is() {
        let clock = Clock::manual(6_000);
        clock.not_before(5_000);
        clock.advance(10);
        assert_eq!(clock.now_ms(), 6_010);
    }
}

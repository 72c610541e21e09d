//! The only reader of the clock.
//!
//! Time enters once per event and never goes backwards: a step of the wall clock is clamped, so cooldowns, budgets and the
//! order of records do not depend on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Source of the time that enters the loop.
///
/// A manual clock exists so that tests can play four hours in a second; both kinds are monotonic.
#[derive(Debug)]
pub struct Clock {
    source: Source,
    last_ms: AtomicU64,
}

#[derive(Debug)]
enum Source {
    /// Wall time at start plus monotonic time since: immune to steps of the wall clock while the process runs.
    System { base_ms: AtomicU64, started: Instant },
    /// Set by tests.
    Manual(AtomicU64),
}

impl Clock {
    /// The clock of a running server.
    #[must_use]
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the one reader of the wall clock")]
        let base_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let source = Source::System { base_ms: AtomicU64::new(base_ms), started: Instant::now() };
        Self { source, last_ms: AtomicU64::new(0) }
    }

    /// A clock that stands at `now_ms` (milliseconds since the Unix epoch) until it is moved.
    #[must_use]
    pub fn manual(now_ms: u64) -> Self {
        Self { source: Source::Manual(AtomicU64::new(now_ms)), last_ms: AtomicU64::new(0) }
    }

    /// Milliseconds since the Unix epoch; never less than an earlier answer.
    pub fn now_ms(&self) -> u64 {
        let raw = match &self.source {
            Source::System { base_ms, started } => {
                let since = u64::try_from(started.elapsed().as_millis()).unwrap_or(0);
                base_ms.load(Ordering::SeqCst).saturating_add(since)
            }
            Source::Manual(ms) => ms.load(Ordering::SeqCst),
        };
        self.last_ms.fetch_max(raw, Ordering::SeqCst).max(raw)
    }

    /// Raises the floor: later answers are at least `ms`. Called once after replay, so that time in the log never goes back
    /// although the wall clock of this start is behind the one of the last.
    pub fn not_before(&self, ms: u64) {
        self.last_ms.fetch_max(ms, Ordering::SeqCst);
    }

    /// Puts the clock forward: to whoever reads it, so much time has passed. A manual clock stands there; the clock of a server goes on
    /// from there, so that what has to be long ago is, without anybody waiting for it.
    pub fn advance(&self, by_ms: u64) {
        let (Source::System { base_ms: ms, .. } | Source::Manual(ms)) = &self.source;
        ms.fetch_add(by_ms, Ordering::SeqCst);
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
    fn time_never_goes_back_even_if_the_log_is_ahead_of_the_wall_clock() {
        let clock = Clock::manual(1_000);
        clock.not_before(5_000);
        assert_eq!(clock.now_ms(), 5_000);
        clock.advance(3_000);
        assert_eq!(clock.now_ms(), 5_000, "4,000 on the wall is still behind the log");
        clock.advance(3_000);
        assert_eq!(clock.now_ms(), 7_000);
    }
}

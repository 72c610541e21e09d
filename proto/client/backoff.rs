//! Time between attempts: doubling, capped, and never the same for two clients.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Full-jitter exponential back-off: each wait is uniform between half of a step and the step, and steps double up to a cap,
/// so that the watchers of a server that comes back do not come back all at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempt: u32,
    random: RandomState,
}

impl Default for Backoff {
    /// From 100 ms up to 5 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

impl Backoff {
    /// Steps from `first` up to `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, attempt: 0, random: RandomState::new() }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let step = self.first.saturating_mul(1 << self.attempt.min(16)).min(self.cap);
        let share = u32::try_from(self.random.hash_one(self.attempt) % 1024).unwrap_or(0);
        self.attempt = self.attempt.saturating_add(1);
        step / 2 + step / 2 * share / 1024
    }

    /// Starts again with the first step: something worked.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for step in [100, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.next_wait().as_millis();
            assert!((step / 2..=step).contains(&wait), "{wait} for the step {step}");
        }
        for _ in 0..100 {
            assert!(backoff.next_wait() <= Duration::from_secs(2));
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}

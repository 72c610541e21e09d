//! How long a connection lives. One that is good for nothing ends soon, and every other one some day: so load finds its way to new
//! servers, what a client left open is closed, and whoever reads nothing is not kept for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Limits;
use crate::auth::Stay;
use crate::grpc::status;

/// Time for the last words on an old connection; whoever does not take them is cut.
pub(super) const LAST_WORD: Duration = Duration::from_secs(1);
/// A stream that was sent away may begin anew at once: no two connections grow old at the same moment.
const COME_BACK: Duration = Duration::from_millis(10);

/// Fires when a request's connection has grown old and its grace is over. Services find it in the extensions of their request; the
/// edge ends what they do not end themselves.
#[derive(Debug, Clone, Default)]
pub struct Leaving(CancellationToken);

impl Leaving {
    /// That of a request; `None` for one that came over no connection, as in a test.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Option<Self> {
        extensions.get().cloned()
    }

    /// One, and what fires it.
    #[cfg(test)]
    pub(crate) fn pair() -> (Self, CancellationToken) {
        let leaving = Self::default();
        let leave = leaving.0.clone();
        (leaving, leave)
    }

    /// Waits until that of a request fires, which never happens to one that has none; what to end with.
    pub(crate) async fn over_of(leaving: Option<&Self>) -> Status {
        match leaving {
            Some(leaving) => leaving.over().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until it fires; what to end with.
    pub async fn over(&self) -> Status {
        self.0.cancelled().await;
        let message = "the connection is old; go on over a new one, from the last cursor or number";
        status::unavailable("CONNECTION_AGE", message, Some(COME_BACK))
    }
}

/// What a connection and its requests know of each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Lifetime {
    useful: Arc<AtomicBool>,
    leaving: Leaving,
}

/// Why no more requests are taken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// It is old.
    Old,
    /// No request on it was let in.
    Useless,
}

impl Lifetime {
    /// A request on it was let in.
    pub(super) fn is_useful(&self) {
        if !self.useful.load(Ordering::Relaxed) {
            self.useful.store(true, Ordering::Relaxed);
        }
    }

    /// What the requests on it are told by.
    pub(super) fn leaving(&self) -> Leaving {
        self.leaving.clone()
    }

    /// Tells them to end.
    pub(super) fn leave(&self) {
        self.leaving.0.cancel();
    }

    /// Waits until it is over.
    pub(super) async fn over(&self, limits: &Limits) -> Over {
        let age = spread(limits.max_connection_age);
        let trial = limits.first_request_timeout.min(age);
        sleep(trial).await;
        if !self.useful.load(Ordering::Relaxed) {
            return Over::Useless;
        }
        sleep(age - trial).await;
        Over::Old
    }
}

/// Up to a fifth more or less, so that connections that began together do not end together.
fn spread(age: Duration) -> Duration {
    let share = getrandom::u32().unwrap_or(u32::MAX / 2) % 401;
    age * (800 + share) / 1000
}

/// Ready when a request may not go on, with the reason.
pub(super) type Ends = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The end of a request for a reason that is not its own: its caller has to go, or its connection.
pub(super) fn ends(mut stay: Option<Stay>, leaving: Leaving) -> Ends {
    Box::pin(async move {
        let stays = async {
            match &mut stay {
                Some(stay) => stay.over().await,
                // Without a token there is nothing to revoke.
                None => std::future::pending().await,
            }
        };
        let leaves = async {
            let why = leaving.over().await;
            // A service that has something to say at the end says it first. In a box: every stream waits for this, few see it.
            Box::pin(sleep(LAST_WORD / 2)).await;
            why
        };
        tokio::select! {
            biased;
            why = stays => why,
            why = leaves => why,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_connections_need_end_together_and_none_lives_much_longer() {
        let age = Duration::from_secs(1_000);
        let ages: std::collections::BTreeSet<_> = (0..200).map(|_| spread(age)).collect();
        assert!(ages.len() > 50, "{ages:?}");
        assert!(ages.iter().all(|age| (800..=1_200).contains(&age.as_secs())), "{ages:?}");
    }

    #[tokio::test]
    async fn what_is_good_for_nothing_ends_first() {
        let limits = Limits {
            first_request_timeout: Duration::from_millis(20),
            max_connection_age: Duration::from_millis(100),
            ..Limits::default()
        };
        assert_eq!(Lifetime::default().over(&limits).await, Over::Useless);
        let began = tokio::time::Instant::now();
        let life = Lifetime::default();
        life.is_useful();
        assert_eq!(life.over(&limits).await, Over::Old);
        assert!(began.elapsed() >= limits.max_connection_age * 4 / 5);
        let leaving = life.leaving();
        let none = tokio::time::timeout(Duration::ZERO, leaving.over()).await;
        assert!(none.is_err(), "its requests have their grace");
        life.leave();
        assert_eq!(leaving.over().await.code(), tonic::Code::Unavailable);
    }
}

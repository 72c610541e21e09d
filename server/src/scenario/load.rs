//! Real load: requests that make an app compute, at a steady pace, limited in number, in time and at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::web;
use crate::tasks::{OnFailure, Tasks};

/// Requests at once at most: enough to get their share of a machine that has other work.
const LANES: u32 = 16;
/// Lanes that send at the same moment, so that two instances that wait on one socket take one request each.
const TOGETHER: u32 = 2;
/// Time between two requests of one lane.
const PERIOD: Duration = Duration::from_millis(192);
/// CPU time each asks for, in milliseconds: sixteen lanes at 4 of every 192 ms are a third of a core.
const WORK_MS: u64 = 4;
/// Time for one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What the load came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Figures {
    /// Requests with a good answer.
    pub(super) answered: u64,
    /// Requests without.
    pub(super) failed: u64,
}

#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Load that is going on; it ends when dropped.
#[derive(Debug)]
pub(super) struct Load {
    tally: Arc<Tally>,
    lanes: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    _on_drop: DropGuard,
}

impl Load {
    /// About a third of a core of work for the app at `address`, for `longest` at most.
    pub(super) fn start(address: SocketAddr, longest: Duration, tasks: &Tasks) -> Self {
        let stop = tasks.stopping().child_token();
        let tally = Arc::<Tally>::default();
        let begin = Instant::now();
        let lanes = (0..LANES).map(|lane| {
            let (tally, stop) = (Arc::clone(&tally), stop.clone());
            let first = begin + PERIOD * (lane / TOGETHER) / (LANES / TOGETHER);
            let lane = run(address, first, begin + longest, tally, stop);
            tasks.spawn("scenario-load", OnFailure::Log, lane)
        });
        let lanes = lanes.collect();
        let _on_drop = stop.clone().drop_guard();
        Self { tally, lanes, stop, _on_drop }
    }

    /// Ends it: requests that are under way are answered first.
    pub(super) async fn stop(self) -> Figures {
        self.stop.cancel();
        for lane in self.lanes {
            // A lane that panicked has been reported by its spawner.
            let _ = lane.await;
        }
        let figure = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Figures { answered: figure(&self.tally.answered), failed: figure(&self.tally.failed) }
    }
}

async fn run(
    address: SocketAddr,
    first: Instant,
    end: Instant,
    tally: Arc<Tally>,
    stop: CancellationToken,
) {
    let mut pace = interval_at(first, PERIOD);
    // A server that cannot keep up gets no more than one request per lane at once.
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let path = format!("/work?ms={WORK_MS}");
    while Instant::now() < end {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = pace.tick() => {}
        }
        let answer = web::get(address, &path, ANSWER).await;
        let good = answer.is_ok_and(|answer| answer.status.is_success());
        let counter = if good { &tally.answered } else { &tally.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

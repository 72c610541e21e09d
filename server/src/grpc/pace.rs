//! Streams of looks: how often they look, how long they wait for a reader, and how they end.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::status::{self, Violation};
use super::{Services, from_proto, outcome};
use crate::agent::Gone;

/// A reader that takes nothing for so long is let go.
const STALL: Duration = Duration::from_secs(60);

/// Time between two looks of a stream whose caller names none.
const DEFAULT_MS: u64 = 1_000;
const RANGE_MS: std::ops::RangeInclusive<u64> = 250..=60_000;

/// The time between two looks.
///
/// # Errors
/// `INVALID_ARGUMENT` for less than 250 ms or more than 60 s.
pub(super) fn interval(wire: Option<&prost_types::Duration>) -> Result<Duration, Status> {
    let Some(duration) = wire else { return Ok(Duration::from_millis(DEFAULT_MS)) };
    match from_proto::span(duration) {
        Some(ms) if RANGE_MS.contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => {
            let rule = "must be 250 ms to 60 s, or absent";
            let value = from_proto::show_span(duration);
            Err(status::invalid(&[Violation::new("interval", value, rule)]))
        }
    }
}

/// One stream of looks. Nothing is queued for its reader: a slow one sees the newest look.
pub(super) struct Looks<'a, T> {
    /// Its name in the metrics.
    pub(super) name: &'static str,
    /// What it looks at.
    pub(super) services: &'a Services,
    /// Time between two looks.
    pub(super) interval: Duration,
    /// Its reader.
    pub(super) items: &'a mpsc::Sender<Result<T, Status>>,
}

impl<T> Looks<'_, T> {
    /// Hands over one look as soon as there is room; false when the stream is over: the reader is gone, it took nothing for too
    /// long, or this was an error.
    pub(super) async fn show(&self, look: Result<T, Status>) -> bool {
        let goes_on = look.is_ok();
        match tokio::time::timeout(STALL, self.items.reserve()).await {
            Ok(Ok(room)) => {
                room.send(look);
                goes_on
            }
            Ok(Err(_closed)) => false,
            Err(_elapsed) => {
                self.services.metrics.stream_dropped(self.name);
                false
            }
        }
    }

    /// Waits for the time of the next look; false when there is none, because the reader left or the server drains.
    pub(super) async fn wait(&self) -> bool {
        self.wait_until(tokio::time::sleep(self.interval)).await
    }

    /// The same, but the next look comes as soon as there is a change, though not before `gap` is over.
    pub(super) async fn wait_or_change<C>(
        &self,
        changes: &mut watch::Receiver<C>,
        gap: Duration,
    ) -> bool {
        let next = async {
            tokio::time::sleep(gap).await;
            let _ =
                tokio::time::timeout(self.interval.saturating_sub(gap), changes.changed()).await;
        };
        self.wait_until(next).await
    }

    async fn wait_until(&self, next: impl Future<Output = ()>) -> bool {
        let stopping = self.services.tasks.stopping();
        tokio::select! {
            () = stopping.cancelled() => {
                let _ = self.items.try_send(Err(outcome::gone(Gone)));
                false
            }
            () = self.items.closed() => false,
            () = next => true,
        }
    }
}

//! Watches that go on where they were: after a restart of the server, a lost connection, or a stream that fell silent. Streams of looks
//! have no place to go on from, for each look is whole: they just go on.

use std::future::Future;
use std::time::Duration;

use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::Connection;
use super::backoff::Backoff;
use crate::v1::agent_service_client::AgentServiceClient;
use crate::v1::bus_service_client::BusServiceClient;
use crate::v1::decision_service_client::DecisionServiceClient;
use crate::v1::proof_service_client::ProofServiceClient;
use crate::v1::telemetry_service_client::TelemetryServiceClient;
use crate::v1::{
    WatchBusRequest, WatchBusResponse, WatchDecisionsRequest, WatchDecisionsResponse,
    WatchProofEntriesRequest, WatchProofEntriesResponse, WatchSignalsRequest, WatchSignalsResponse,
    WatchStatusRequest, WatchStatusResponse, watch_decisions_request, watch_decisions_response,
    watch_proof_entries_request,
};

/// Bookmark interval of a request that names none.
const DEFAULT_BOOKMARK: Duration = Duration::from_secs(15);

/// A server stream that can be opened anew.
pub trait Resumable {
    /// Whether its items have cursors. Without them nothing can be missed: the next item says how it is now.
    const CURSORS: bool = true;
    /// What opens it.
    type Request: Clone + Send;
    /// What comes.
    type Item: Send;

    /// Opens it.
    fn open(
        &mut self,
        request: Self::Request,
    ) -> impl Future<Output = Result<Streaming<Self::Item>, Status>> + Send;
    /// Makes `request` start behind `cursor`.
    fn resume(_request: &mut Self::Request, _cursor: &str) {}
    /// The cursor of an item; empty: it has none.
    fn cursor(_item: &Self::Item) -> &str {
        ""
    }
    /// True for an item that only says where the stream starts.
    fn is_opening(_item: &Self::Item) -> bool {
        false
    }
    /// Time after which an item or a bookmark is due at the latest; `None`: it may be silent for ever, and only the keep-alive of the
    /// connection tells whether it lives.
    fn due(request: &Self::Request) -> Option<Duration>;
}

/// What a watch hands out.
#[derive(Debug)]
pub enum WatchEvent<T> {
    /// An item, in order, none twice, none left out.
    Item(T),
    /// The stream is gone; after `wait` it is opened again behind the last cursor.
    Interrupted {
        /// Why.
        status: Status,
        /// Time until the next attempt.
        wait: Duration,
    },
    /// The stream is back, right behind the last item.
    Resumed,
}

/// Follows decisions.
pub type DecisionWatch = Watch<DecisionServiceClient<Connection>>;
/// Follows the proof log.
pub type ProofWatch = Watch<ProofServiceClient<Connection>>;
/// Follows the readings of signals.
pub type SignalWatch = Watch<TelemetryServiceClient<Connection>>;
/// Follows the status of the agent.
pub type StatusWatch = Watch<AgentServiceClient<Connection>>;
/// Looks at the bus again and again.
pub type BusWatch = Watch<BusServiceClient<Connection>>;

/// A watch that goes on until its user stops it or the server says that going on is impossible.
#[derive(Debug)]
pub struct Watch<S: Resumable> {
    source: S,
    request: S::Request,
    stream: Option<Streaming<S::Item>>,
    backoff: Backoff,
    cursor: Option<String>,
    /// It was open once.
    opened: bool,
    /// Set after an interruption: the wait before the next attempt.
    wait: Option<Duration>,
    /// True until the first item after an interruption.
    resuming: bool,
}

impl<S: Resumable> Watch<S> {
    /// Watches `source` from where `request` says. Nothing is sent before [`Watch::next`].
    #[must_use]
    pub fn new(source: S, request: S::Request) -> Self {
        Self {
            source,
            request,
            stream: None,
            backoff: Backoff::default(),
            cursor: None,
            opened: false,
            wait: None,
            resuming: false,
        }
    }

    /// The cursor behind the last item, for a later watch.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The next event. Errors before the first item, and those that trying again cannot mend (such as a pruned cursor or a
    /// refused token), end the watch.
    ///
    /// # Errors
    /// The status the server ended the watch with.
    pub async fn next(&mut self) -> Result<WatchEvent<S::Item>, Status> {
        if let Some(wait) = self.wait.take() {
            tokio::time::sleep(wait).await;
        }
        match self.receive().await {
            Ok(None) => {
                self.resuming = false;
                self.backoff.reset();
                Ok(WatchEvent::Resumed)
            }
            Ok(Some(item)) if self.resuming => {
                self.resuming = false;
                self.backoff.reset();
                if S::is_opening(&item) {
                    return Ok(WatchEvent::Resumed);
                }
                Ok(WatchEvent::Item(self.remember(item)))
            }
            Ok(Some(item)) => Ok(WatchEvent::Item(self.remember(item))),
            Err(status) => {
                self.stream = None;
                let can_go_on = if S::CURSORS { self.cursor.is_some() } else { self.opened };
                if !can_go_on || !is_passing(&status) {
                    return Err(status);
                }
                self.resuming = true;
                let wait = asked_wait(&status).unwrap_or_else(|| self.backoff.next_wait());
                self.wait = Some(wait);
                Ok(WatchEvent::Interrupted { status, wait })
            }
        }
    }

    fn remember(&mut self, item: S::Item) -> S::Item {
        let cursor = S::cursor(&item);
        if !cursor.is_empty() {
            self.cursor = Some(cursor.to_owned());
        }
        item
    }

    /// The next item; `None` once a stream without cursors is open again, whose next item may take its time.
    async fn receive(&mut self) -> Result<Option<S::Item>, Status> {
        let silence = S::due(&self.request).map(|due| 3 * due.max(Duration::from_secs(1)));
        let reopened = self.resuming && !S::CURSORS && self.stream.is_none();
        let next = async {
            if self.stream.is_none() {
                let mut request = self.request.clone();
                if let Some(cursor) = &self.cursor {
                    S::resume(&mut request, cursor);
                }
                self.stream = Some(self.source.open(request).await?);
                self.opened = true;
            }
            match &mut self.stream {
                Some(_) if reopened => Ok(None),
                Some(stream) => match stream.message().await? {
                    None => Err(Status::unavailable("the server ended the stream")),
                    some => Ok(some),
                },
                None => Err(Status::unavailable("the stream is not open")),
            }
        };
        // Bookmarks come also when nothing happens: without them the connection is dead, whatever TCP thinks.
        match silence {
            None => next.await,
            Some(silence) => match tokio::time::timeout(silence, next).await {
                Ok(received) => received,
                Err(_elapsed) => Err(Status::unavailable("the stream fell silent")),
            },
        }
    }
}

/// True if trying again may help. A status without `ErrorInfo` was made by the transport: agentd puts one on each of its own.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Aborted => true,
        Code::Unknown | Code::Internal | Code::Cancelled => {
            status.get_details_error_info().is_none()
        }
        _ => false,
    }
}

fn span(wire: Option<&prost_types::Duration>) -> Option<Duration> {
    wire.and_then(|span| Duration::try_from(*span).ok())
}

fn asked_wait(status: &Status) -> Option<Duration> {
    let wait = status.get_details_retry_info()?.retry_delay?;
    Some(wait.min(Duration::from_secs(60)))
}

impl Resumable for DecisionServiceClient<Connection> {
    type Request = WatchDecisionsRequest;
    type Item = WatchDecisionsResponse;

    async fn open(&mut self, request: Self::Request) -> Result<Streaming<Self::Item>, Status> {
        Ok(self.watch_decisions(request).await?.into_inner())
    }

    fn resume(request: &mut Self::Request, cursor: &str) {
        request.start = Some(watch_decisions_request::Start::Cursor(cursor.to_owned()));
    }

    fn cursor(item: &Self::Item) -> &str {
        &item.cursor
    }

    fn is_opening(item: &Self::Item) -> bool {
        matches!(item.item, Some(watch_decisions_response::Item::Opened(_)))
    }

    fn due(request: &Self::Request) -> Option<Duration> {
        Some(span(request.bookmark_interval.as_ref()).unwrap_or(DEFAULT_BOOKMARK))
    }
}

impl Resumable for ProofServiceClient<Connection> {
    type Request = WatchProofEntriesRequest;
    type Item = WatchProofEntriesResponse;

    async fn open(&mut self, request: Self::Request) -> Result<Streaming<Self::Item>, Status> {
        Ok(self.watch_proof_entries(request).await?.into_inner())
    }

    fn resume(request: &mut Self::Request, cursor: &str) {
        request.start = Some(watch_proof_entries_request::Start::Cursor(cursor.to_owned()));
    }

    fn cursor(item: &Self::Item) -> &str {
        &item.cursor
    }

    fn due(request: &Self::Request) -> Option<Duration> {
        Some(span(request.bookmark_interval.as_ref()).unwrap_or(DEFAULT_BOOKMARK))
    }
}

impl Resumable for TelemetryServiceClient<Connection> {
    const CURSORS: bool = false;
    type Request = WatchSignalsRequest;
    type Item = WatchSignalsResponse;

    async fn open(&mut self, request: Self::Request) -> Result<Streaming<Self::Item>, Status> {
        Ok(self.watch_signals(request).await?.into_inner())
    }

    fn due(_request: &Self::Request) -> Option<Duration> {
        None
    }
}

impl Resumable for AgentServiceClient<Connection> {
    const CURSORS: bool = false;
    type Request = WatchStatusRequest;
    type Item = WatchStatusResponse;

    async fn open(&mut self, request: Self::Request) -> Result<Streaming<Self::Item>, Status> {
        Ok(self.watch_status(request).await?.into_inner())
    }

    fn due(request: &Self::Request) -> Option<Duration> {
        Some(span(request.interval.as_ref()).unwrap_or(DEFAULT_BOOKMARK))
    }
}

impl Resumable for BusServiceClient<Connection> {
    const CURSORS: bool = false;
    type Request = WatchBusRequest;
    type Item = WatchBusResponse;

    async fn open(&mut self, request: Self::Request) -> Result<Streaming<Self::Item>, Status> {
        Ok(self.watch_bus(request).await?.into_inner())
    }

    fn due(request: &Self::Request) -> Option<Duration> {
        Some(span(request.interval.as_ref()).unwrap_or(DEFAULT_BOOKMARK))
    }
}

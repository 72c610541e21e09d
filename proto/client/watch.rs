//! Watches that go on where they were: after a restart of the server, a lost connection, or a stream that fell silent.

use std::future::Future;
use std::time::Duration;

use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::Connection;
use super::backoff::Backoff;
use crate::v1::decision_service_client::DecisionServiceClient;
use crate::v1::proof_service_client::ProofServiceClient;
use crate::v1::{
    WatchDecisionsRequest, WatchDecisionsResponse, WatchProofEntriesRequest,
    WatchProofEntriesResponse, watch_decisions_request, watch_decisions_response,
    watch_proof_entries_request,
};

/// Bookmark interval of a request that names none.
const DEFAULT_BOOKMARK: Duration = Duration::from_secs(15);

/// A server stream with cursors.
pub trait Resumable {
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
    fn resume(request: &mut Self::Request, cursor: &str);
    /// The cursor of an item; empty: it has none.
    fn cursor(item: &Self::Item) -> &str;
    /// True for an item that only says where the stream starts.
    fn is_opening(item: &Self::Item) -> bool;
    /// Time between bookmarks, as requested.
    fn bookmark_interval(request: &Self::Request) -> Option<&prost_types::Duration>;
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

/// A watch that goes on until its user stops it or the server says that going on is impossible.
#[derive(Debug)]
pub struct Watch<S: Resumable> {
    source: S,
    request: S::Request,
    stream: Option<Streaming<S::Item>>,
    backoff: Backoff,
    cursor: Option<String>,
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
            Ok(item) if self.resuming => {
                self.resuming = false;
                self.backoff.reset();
                if S::is_opening(&item) {
                    return Ok(WatchEvent::Resumed);
                }
                Ok(WatchEvent::Item(self.remember(item)))
            }
            Ok(item) => Ok(WatchEvent::Item(self.remember(item))),
            Err(status) => {
                self.stream = None;
                if self.cursor.is_none() || !is_passing(&status) {
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

    async fn receive(&mut self) -> Result<S::Item, Status> {
        let silence = 3 * S::bookmark_interval(&self.request)
            .and_then(|interval| Duration::try_from(*interval).ok())
            .unwrap_or(DEFAULT_BOOKMARK)
            .max(Duration::from_secs(1));
        let next = async {
            if self.stream.is_none() {
                let mut request = self.request.clone();
                if let Some(cursor) = &self.cursor {
                    S::resume(&mut request, cursor);
                }
                self.stream = Some(self.source.open(request).await?);
            }
            match &mut self.stream {
                Some(stream) => stream.message().await,
                None => Ok(None),
            }
        };
        // Bookmarks come also when nothing happens: without them the connection is dead, whatever TCP thinks.
        match tokio::time::timeout(silence, next).await {
            Ok(Ok(Some(item))) => Ok(item),
            Ok(Ok(None)) => Err(Status::unavailable("the server ended the stream")),
            Ok(Err(status)) => Err(status),
            Err(_elapsed) => Err(Status::unavailable("the stream fell silent")),
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

    fn bookmark_interval(request: &Self::Request) -> Option<&prost_types::Duration> {
        request.bookmark_interval.as_ref()
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

    fn is_opening(_item: &Self::Item) -> bool {
        false
    }

    fn bookmark_interval(request: &Self::Request) -> Option<&prost_types::Duration> {
        request.bookmark_interval.as_ref()
    }
}

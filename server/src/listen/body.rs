//! The body of an answer: a stream keeps its deadline and does not outlive the token it was opened with, and a panic in it ends with a
//! status.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

use super::counters::Counters;
use super::edge::RequestId;
use crate::auth::Stay;
use crate::grpc::status;

/// A response body under guard.
pub(super) struct GuardedBody {
    /// `None` after the end.
    inner: Option<Body>,
    guard: Option<Guard>,
}

struct Guard {
    deadline: Option<Pin<Box<Sleep>>>,
    revoked: Option<Revoked>,
    id: RequestId,
    counters: Arc<Counters>,
}

/// Ready when the caller may not be here any more, with the reason.
pub(super) type Revoked = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The end of a stay; one without a token has none.
pub(super) fn revoked(stay: Option<Stay>) -> Revoked {
    match stay {
        Some(stay) => Box::pin(stay.over()),
        None => Box::pin(std::future::pending()),
    }
}

impl fmt::Debug for GuardedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedBody").finish_non_exhaustive()
    }
}

impl GuardedBody {
    pub(super) fn new(
        inner: Body,
        deadline: Option<Instant>,
        revoked: Option<Revoked>,
        id: RequestId,
        counters: Arc<Counters>,
    ) -> Self {
        if inner.is_end_stream() {
            return Self { inner: Some(inner), guard: None };
        }
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        Self { inner: Some(inner), guard: Some(Guard { deadline, revoked, id, counters }) }
    }

    /// A body that is there already.
    pub(super) const fn whole(inner: Body) -> Self {
        Self { inner: Some(inner), guard: None }
    }

    pub(super) const fn empty() -> Self {
        Self { inner: None, guard: None }
    }

    /// Ends the stream with `status` in its trailers.
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.inner = None;
        let mut trailers = HeaderMap::new();
        match status.add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(status) => Poll::Ready(Some(Err(status))),
        }
    }
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let Some(guard) = &mut this.guard else { return Pin::new(inner).poll_frame(cx) };
        // Asked first: a stream that always has something to send must end too.
        if guard.deadline.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
            guard.counters.bump(&guard.counters.deadlines_passed);
            return this.end(&status::deadline_exceeded());
        }
        if let Some(Poll::Ready(why)) = guard.revoked.as_mut().map(|end| end.as_mut().poll(cx)) {
            guard.counters.bump(&guard.counters.requests_denied);
            return this.end(&why);
        }
        match catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx))) {
            Ok(polled) => polled,
            Err(_panic) => {
                guard.counters.bump(&guard.counters.panics);
                tracing::error!(request = %guard.id, "a response stream panicked");
                let status = status::internal(guard.id.as_str());
                this.end(&status)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

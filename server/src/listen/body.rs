//! The body of an answer: a stream keeps its deadline, outlives neither the token it was opened with nor its connection's time, and a
//! panic in it ends with a status.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor as _;
use hyper_util::rt::TokioExecutor;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

use super::counters::Counters;
use super::edge::RequestId;
use super::lifetime::Ends;
use crate::grpc::status;

/// A response body under guard.
pub(super) struct GuardedBody {
    inner: Inner,
    guard: Option<Guard>,
}

/// What is sent. Whoever waits for its end takes it away as well: see [`watch`].
#[derive(Clone)]
struct Inner(Arc<Mutex<Option<Body>>>);

impl Inner {
    fn new(body: Option<Body>) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    /// `None` after the end.
    fn lock(&self) -> MutexGuard<'_, Option<Body>> {
        // A body that panicked is taken away by who polled it; there is nothing else that could be half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it: whoever makes it learns that nobody wants more.
    fn close(&self) {
        // Dropped after the lock: what a service does when its stream ends is no business of this lock.
        let body = self.lock().take();
        drop(body);
    }
}

struct Guard {
    deadline: Option<Pin<Box<Sleep>>>,
    /// Why it has to end, once it has to.
    told: Option<oneshot::Receiver<Status>>,
    /// The last frame was given: a body that was taken away is not at its end before its status is told.
    ended: bool,
    id: RequestId,
    counters: Arc<Counters>,
}

/// Takes `inner` away when it has to end, and leaves word of why.
///
/// The body itself cannot be relied on to look: while a client takes nothing hyper does not poll it, and whoever makes it goes on,
/// a service that reads a stream of requests included.
fn watch(inner: Inner, ends: Ends) -> oneshot::Receiver<Status> {
    let (mut word, told) = oneshot::channel();
    TokioExecutor::new().execute(async move {
        tokio::select! {
            biased;
            // The body ended, or its connection did.
            () = word.closed() => {}
            why = ends => {
                inner.close();
                let _ = word.send(why);
            }
        }
    });
    told
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
        ends: Option<Ends>,
        id: RequestId,
        counters: Arc<Counters>,
    ) -> Self {
        if inner.is_end_stream() {
            return Self::whole(inner);
        }
        let inner = Inner::new(Some(inner));
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        let told = ends.map(|ends| watch(inner.clone(), ends));
        let guard = Guard { deadline, told, ended: false, id, counters };
        Self { inner, guard: Some(guard) }
    }

    /// A body that is there already.
    pub(super) fn whole(inner: Body) -> Self {
        Self { inner: Inner::new(Some(inner)), guard: None }
    }

    pub(super) fn empty() -> Self {
        Self { inner: Inner::new(None), guard: None }
    }

    /// Ends the stream with `status` in its trailers.
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.inner.close();
        if let Some(guard) = &mut self.guard {
            guard.ended = true;
        }
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
        let Some(guard) = &mut this.guard else {
            let mut inner = this.inner.lock();
            let Some(inner) = inner.as_mut() else { return Poll::Ready(None) };
            return Pin::new(inner).poll_frame(cx);
        };
        if guard.ended {
            return Poll::Ready(None);
        }
        // Asked first: a stream that always has something to send must end too.
        if guard.deadline.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
            guard.counters.bump(&guard.counters.deadlines_passed);
            return this.end(&status::deadline_exceeded());
        }
        if let Some(told) = guard.told.as_mut() {
            match Pin::new(told).poll(cx) {
                Poll::Ready(Ok(why)) => {
                    guard.counters.bump(&guard.counters.requests_denied);
                    return this.end(&why);
                }
                // Nobody watches any more, as when the runtime goes down: a stream nobody looks after does not go on.
                Poll::Ready(Err(_lost)) => {
                    let status = status::internal(guard.id.as_str());
                    return this.end(&status);
                }
                Poll::Pending => {}
            }
        }
        let polled = {
            let mut inner = this.inner.lock();
            // Taken away just now: the word of why comes right behind, and wakes this task.
            let Some(inner) = inner.as_mut() else { return Poll::Pending };
            catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx)))
        };
        match polled {
            Ok(polled) => {
                guard.ended = matches!(polled, Poll::Ready(None));
                polled
            }
            Err(_panic) => {
                guard.counters.bump(&guard.counters.panics);
                tracing::error!(request = %guard.id, "a response stream panicked");
                let status = status::internal(guard.id.as_str());
                this.end(&status)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let ended = self.guard.as_ref().is_none_or(|guard| guard.ended);
        self.inner.lock().as_ref().map_or(ended, HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match self.inner.lock().as_ref() {
            Some(inner) => inner.size_hint(),
            // Taken away, and nothing but its status is left to send; or empty.
            None => SizeHint::with_exact(0),
        }
    }
}

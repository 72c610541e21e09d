//! Between a stream and its reader: what is ready waits as one batch, and is taken whole.
//!
//! Whoever fills it wakes the reader once for all that was ready, so that a hundred records behind each other cost one handover, one
//! frame and one write. It holds nothing while nobody has anything to say.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame};
use tokio::time::{Duration, timeout};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Ended;
use crate::grpc::status;

/// Messages that wait for a reader.
pub(super) const QUEUE: usize = 16;
/// Bytes that wait for a reader, and one message more.
const FRAMED: usize = 32 << 10;
/// What gRPC puts before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What waits, and how much of it may.
pub trait Batch: Default + Send + 'static {
    /// One of it.
    type Item: Send + 'static;

    /// Adds one behind the others.
    fn put(&mut self, item: Self::Item);

    /// Takes the first one out.
    fn pop(&mut self) -> Option<Self::Item>;

    /// Whether nothing waits.
    fn is_empty(&self) -> bool;

    /// Whether enough waits: no more is added before it was taken.
    fn is_full(&self) -> bool;
}

/// Messages that are encoded for the one who reads them.
#[derive(Debug)]
pub struct Few<T>(VecDeque<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Send + 'static> Batch for Few<T> {
    type Item = T;

    fn put(&mut self, item: T) {
        self.0.push_back(item);
    }

    fn pop(&mut self) -> Option<T> {
        self.0.pop_front()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_full(&self) -> bool {
        self.0.len() >= QUEUE
    }
}

/// Messages that are encoded already, each behind its prefix: they are sent as they lie there.
#[derive(Debug, Default)]
pub struct Framed(BytesMut);

impl Framed {
    /// All of it, if there is any.
    fn whole(&mut self) -> Option<Bytes> {
        (!self.0.is_empty()).then(|| std::mem::take(&mut self.0).freeze())
    }
}

impl Batch for Framed {
    type Item = Bytes;

    fn put(&mut self, item: Bytes) {
        // No message of ours is anywhere near four gigabytes.
        let length = u32::try_from(item.len()).unwrap_or(u32::MAX);
        self.0.reserve(PREFIX + item.len());
        self.0.put_u8(0);
        self.0.put_u32(length);
        self.0.put(item);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let length = self.0.get(1..PREFIX)?.try_into().ok().map(u32::from_be_bytes)?;
        self.0.advance(PREFIX);
        Some(self.0.split_to(usize::try_from(length).ok()?).freeze())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_full(&self) -> bool {
        self.0.len() >= FRAMED
    }
}

/// What both sides see.
#[derive(Debug)]
struct Shared<B>(Mutex<State<B>>);

#[derive(Debug)]
struct State<B> {
    batch: B,
    /// How it ends, once it does, for when the last of it was taken.
    end: Option<Result<(), Status>>,
    /// Nobody takes any more.
    left: bool,
    /// Who waits for something to take.
    reader: Option<Waker>,
    /// Who waits for room.
    full: Option<Waker>,
    /// Who waits for the reader to leave.
    leaving: Option<Waker>,
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        // Nothing panics between two steps of a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for what waits: where it goes in, how it ends, and where it comes out. `stop` ends the wait for a reader at once, and
/// `stall` is how long it takes otherwise.
pub(super) fn outbox<B: Batch>(
    stop: CancellationToken,
    stall: Duration,
) -> (Inlet<B>, Ending<B>, Outlet<B>) {
    let shared = Arc::new(Shared(Mutex::new(State {
        batch: B::default(),
        end: None,
        left: false,
        reader: None,
        full: None,
        leaving: None,
    })));
    let inlet = Inlet { shared: Arc::clone(&shared), stop, stall };
    let ending = Ending { shared: Arc::clone(&shared) };
    (inlet, ending, Outlet { shared, over: false })
}

/// Where items of a stream go in.
#[derive(Debug)]
pub(in crate::grpc) struct Inlet<B: Batch> {
    shared: Arc<Shared<B>>,
    stop: CancellationToken,
    stall: Duration,
}

impl<B: Batch> Inlet<B> {
    /// Hands an item over, and waits for room if there is none.
    ///
    /// # Errors
    /// [`Ended`] when it cannot be handed over.
    pub(in crate::grpc) async fn send(&self, item: B::Item) -> Result<(), Ended> {
        self.put(item).await?;
        self.flush();
        Ok(())
    }

    /// Has an item wait for [`Inlet::flush`], until when the reader may not notice it; waits for room if there is none.
    ///
    /// # Errors
    /// [`Ended`] when it cannot wait there.
    pub(super) async fn put(&self, item: B::Item) -> Result<(), Ended> {
        match self.try_put(item)? {
            None => Ok(()),
            // In a box of its own: there is mostly room, and nobody should keep room for the wait meanwhile.
            Some(item) => Box::pin(self.put_later(item)).await,
        }
    }

    /// The same when there is room again.
    async fn put_later(&self, item: B::Item) -> Result<(), Ended> {
        self.flush();
        tokio::select! {
            room = timeout(self.stall, self.room()) => room.map_err(|_elapsed| Ended::Stalled)?,
            () = self.stop.cancelled() => return Err(Ended::Draining),
        }
        // Nobody else puts anything there.
        self.try_put(item).map(|_none| ())
    }

    /// Tells the reader of what waits.
    pub(super) fn flush(&self) {
        let mut state = self.shared.lock();
        let reader = if state.batch.is_empty() { None } else { state.reader.take() };
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Hands an item over if there is room.
    pub(super) fn offer(&self, item: B::Item) {
        // Without room the reader does without: the status that follows says what it needs.
        let _ = self.try_put(item);
        self.flush();
    }

    /// Waits until nobody reads any more.
    pub(super) async fn left(&self) {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.left {
                return Poll::Ready(());
            }
            keep(&mut state.leaving, cx);
            Poll::Pending
        })
        .await;
    }

    /// The item again if there is no room for it.
    fn try_put(&self, item: B::Item) -> Result<Option<B::Item>, Ended> {
        let mut state = self.shared.lock();
        if state.left {
            return Err(Ended::Left);
        }
        if state.batch.is_full() {
            return Ok(Some(item));
        }
        state.batch.put(item);
        Ok(None)
    }

    /// Waits until there is room, or nobody who would make any.
    async fn room(&self) {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.left || !state.batch.is_full() {
                return Poll::Ready(());
            }
            keep(&mut state.full, cx);
            Poll::Pending
        })
        .await;
    }
}

/// Has the task of `cx` woken by `waker`, which it mostly is already.
fn keep(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

/// Says how the stream ends; dropped without a word, as by a panic, it ends with an error.
#[derive(Debug)]
pub(super) struct Ending<B: Batch> {
    shared: Arc<Shared<B>>,
}

impl<B: Batch> Ending<B> {
    /// Ends it, behind what waits.
    pub(super) fn tell(self, end: Result<(), Status>) {
        self.shared.lock().end.get_or_insert(end);
    }
}

impl<B: Batch> Drop for Ending<B> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.end.is_none() {
            state.end = Some(Err(status::internal("stream")));
        }
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// A stream of items, and the status it ends with once they were taken.
#[derive(Debug)]
pub struct Outlet<B: Batch> {
    shared: Arc<Shared<B>>,
    /// Its end was told.
    over: bool,
}

impl<B: Batch> Outlet<B> {
    /// What `take` takes of what waits.
    fn poll_take<T>(
        &mut self,
        cx: &Context<'_>,
        take: impl FnOnce(&mut B) -> Option<T>,
    ) -> Poll<Option<Result<T, Status>>> {
        let mut state = self.shared.lock();
        if let Some(taken) = take(&mut state.batch) {
            let full = state.full.take();
            drop(state);
            if let Some(full) = full {
                full.wake();
            }
            return Poll::Ready(Some(Ok(taken)));
        }
        match state.end.take() {
            Some(Err(status)) => {
                // Whoever asks again learns that it is over.
                state.end = Some(Ok(()));
                Poll::Ready(Some(Err(status)))
            }
            Some(Ok(())) => {
                state.end = Some(Ok(()));
                Poll::Ready(None)
            }
            None => {
                keep(&mut state.reader, cx);
                Poll::Pending
            }
        }
    }

    /// Whether its end is known, though there may be something to take before it.
    #[cfg(test)]
    pub(super) fn is_ended(&self) -> bool {
        self.shared.lock().end.is_some()
    }
}

impl<B: Batch> Stream for Outlet<B> {
    type Item = Result<B::Item, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_take(cx, B::pop)
    }
}

/// The answer of a method as gRPC has it: its messages, and the status in its trailers.
impl Body for Outlet<Framed> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let end = match self.poll_take(cx, Framed::whole) {
            Poll::Ready(Some(Ok(bytes))) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Poll::Ready(Some(Err(status))) => status,
            Poll::Ready(None) => Status::ok(""),
            Poll::Pending => return Poll::Pending,
        };
        self.over = true;
        let mut trailers = HeaderMap::new();
        let added = end.add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

impl<B: Batch> Drop for Outlet<B> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.left = true;
        let (full, leaving) = (state.full.take(), state.leaving.take());
        let batch = std::mem::take(&mut state.batch);
        drop(state);
        drop(batch);
        for waiting in [full, leaving].into_iter().flatten() {
            waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio_stream::StreamExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn pair() -> (Inlet<Framed>, Ending<Framed>, Outlet<Framed>) {
        outbox(CancellationToken::new(), PATIENCE)
    }

    /// Takes the next frame of a body, which has to be there.
    async fn frame(outlet: &mut Outlet<Framed>) -> Frame<Bytes> {
        let frame = timeout(PATIENCE, outlet.frame()).await.expect("something comes");
        frame.expect("a frame").expect("no error")
    }

    #[tokio::test]
    async fn all_that_is_ready_is_one_frame_and_each_message_keeps_its_own_prefix() {
        let (inlet, ending, mut outlet) = pair();
        for text in ["one", "", "three"] {
            inlet.put(Bytes::from(text)).await.expect("room");
        }
        let all = frame(&mut outlet).await.into_data().expect("data");
        assert_eq!(&all[..], b"\0\0\0\0\x03one\0\0\0\0\0\0\0\0\0\x05three");
        ending.tell(Err(status::data_loss("CHAIN_BROKEN", 7, "why")));
        inlet.put(Bytes::from("four")).await.expect("room");
        assert_eq!(frame(&mut outlet).await.into_data().expect("data").len(), 9, "before its end");
        let trailers = frame(&mut outlet).await.into_trailers().expect("trailers");
        let status = Status::from_header_map(&trailers).expect("a status");
        assert_eq!(status.code(), tonic::Code::DataLoss);
        assert!(outlet.is_end_stream() && outlet.frame().await.is_none());
    }

    #[tokio::test]
    async fn messages_come_out_one_by_one_as_they_went_in() {
        let (inlet, ending, outlet) = pair();
        let sent: Vec<Bytes> = (0..100_u8).map(|n| vec![n; usize::from(n)].into()).collect();
        for item in &sent {
            inlet.put(item.clone()).await.expect("room");
        }
        ending.tell(Ok(()));
        let read: Vec<Bytes> = outlet.map(|item| item.expect("no error")).collect().await;
        assert_eq!(read, sent);
    }

    #[tokio::test]
    async fn no_more_waits_than_may_and_the_reader_makes_room() {
        let (inlet, _ending, mut outlet) = pair();
        let message = Bytes::from(vec![b'x'; 1_000]);
        let mut put = 0;
        loop {
            let next = inlet.put(message.clone());
            tokio::pin!(next);
            let waits = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending())).await;
            if waits {
                let taken = frame(&mut outlet).await.into_data().expect("data").len();
                assert_eq!(taken, put * (PREFIX + message.len()));
                assert!((FRAMED..FRAMED + 2_000).contains(&taken), "{taken}");
                return next.await.expect("room again");
            }
            put += 1;
        }
    }

    #[tokio::test]
    async fn whoever_fills_it_learns_that_nobody_reads() {
        let (inlet, _ending, outlet) = pair();
        let left = inlet.left();
        tokio::pin!(left);
        assert!(poll_fn(|cx| Poll::Ready(left.as_mut().poll(cx).is_pending())).await);
        drop(outlet);
        timeout(PATIENCE, left).await.expect("woken");
        assert!(matches!(inlet.send(Bytes::new()).await, Err(Ended::Left)));
    }

    #[tokio::test]
    async fn a_stream_whose_maker_is_gone_without_a_word_ends_with_an_error() {
        let (inlet, ending, mut outlet) = pair();
        drop((inlet, ending));
        let end = outlet.next().await.expect("an end").expect_err("a status");
        assert_eq!(end.code(), tonic::Code::Internal);
        assert!(outlet.next().await.is_none());
    }
}

//! Signals from monitors: one stream per monitor, judged signal by signal, applied in place.
//!
//! There is no queue between the socket and the table of windows. A batch is applied whole or not at all, and the numbers of
//! batches are shared by all streams of a monitor, so that what is sent again after a reconnect changes nothing.

use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::push_signals_request::Message as Said;
use agentctl_api::v1::telemetry_service_server::TelemetryService;
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::from_proto::{self, Greeting};
use super::pace::{self, Looks};
use super::status::{self, Violation};
use super::{Services, outcome, to_proto};
use crate::agent::Gone;
use crate::auth::Principal;
use crate::listen::Leaving;
use crate::tasks::OnFailure;

pub mod intake;
pub(super) mod report;
pub(super) mod session;
mod stream;
mod tail;
mod walk;
pub(super) mod wire;

use session::{End, Session};

/// Most signals in one batch.
pub const BATCH_MAX: usize = 1_000;
/// Rejections that are told one by one; the rest is counted.
pub const REJECTIONS_MAX: usize = 100;
/// Time a stream has for its first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest value that is quoted back, in bytes.
const VALUE_MAX: usize = 128;
/// Condition that stands for the claim that a process of the app ended. It is no hard fact: the supervisor knows by itself which
/// processes run, so that no monitor can have a healthy app restarted.
pub const EXIT_REPORTED: &str = "exit_reported";

/// Messages of a monitor that are taken in one turn, if so many are there.
const TOGETHER: u64 = 64;
/// Signals after which a turn is over.
const TURN: usize = BATCH_MAX;

/// The service.
#[derive(Debug, Clone)]
pub struct Service(pub Services);

/// What is told to a monitor that stays.
type Answers = Pin<Box<dyn Stream<Item = Result<v1::StreamSignalsResponse, Status>> + Send>>;

impl Service {
    /// PushSignals, with the messages as they were sent.
    async fn push<S>(
        &self,
        request: Request<S>,
    ) -> Result<Response<v1::PushSignalsResponse>, Status>
    where
        S: Stream<Item = Result<Bytes, Status>> + Unpin,
    {
        let principal = outcome::principal(request.extensions())?.clone();
        let leaving = Leaving::of(request.extensions());
        push(&self.0, principal, leaving, request.into_inner()).await.map(Response::new)
    }

    /// StreamSignals, with the messages as they were sent.
    fn stay<S>(&self, request: Request<S>) -> Result<Response<Answers>, Status>
    where
        S: Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static,
    {
        let principal = outcome::principal(request.extensions())?.clone();
        let services = self.0.clone();
        let seat = services.intake.take_seat(principal.name(), services.clock.now_ms())?;
        let (answers, told) = mpsc::channel(stream::ANSWERS);
        let leaving = Leaving::of(request.extensions());
        let messages = request.into_inner();
        self.0.tasks.spawn("stream-signals", OnFailure::Log, async move {
            stream::serve(&services, principal, (seat, leaving), messages, &answers).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}

#[tonic::async_trait]
impl TelemetryService for Service {
    type WatchSignalsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchSignalsResponse, Status>> + Send>>;

    async fn watch_signals(
        &self,
        request: Request<v1::WatchSignalsRequest>,
    ) -> Result<Response<Self::WatchSignalsStream>, Status> {
        let wire = request.into_inner();
        let interval = pace::interval(wire.interval.as_ref())?;
        let apps = tail::apps(&wire.apps)?;
        let (items, stream) = mpsc::channel(1);
        let services = self.0.clone();
        self.0.tasks.spawn("watch-signals", OnFailure::Log, async move {
            let (name, services, items) = ("signals", &services, &items);
            tail::watch(&Looks { name, services, interval, items }, &apps).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn push_signals(
        &self,
        request: Request<Streaming<v1::PushSignalsRequest>>,
    ) -> Result<Response<v1::PushSignalsResponse>, Status> {
        self.push(request.map(as_sent)).await
    }

    type StreamSignalsStream = Answers;

    async fn stream_signals(
        &self,
        request: Request<Streaming<v1::StreamSignalsRequest>>,
    ) -> Result<Response<Self::StreamSignalsStream>, Status> {
        self.stay(request.map(as_sent))
    }
}

/// Messages in the bytes they came in; both calls of a monitor say the same in the same bytes.
fn as_sent<M: prost::Message>(
    messages: impl Stream<Item = Result<M, Status>> + Unpin,
) -> impl Stream<Item = Result<Bytes, Status>> + Unpin {
    messages.map(|message| message.map(|message| message.encode_to_vec().into()))
}

/// Serves one stream to its end.
async fn push<S>(
    services: &Services,
    principal: Principal,
    leaving: Option<Leaving>,
    mut messages: S,
) -> Result<v1::PushSignalsResponse, Status>
where
    S: Stream<Item = Result<Bytes, Status>> + Unpin,
{
    let seat = services.intake.take_seat(principal.name(), services.clock.now_ms())?;
    let stopping = services.tasks.stopping();
    let mut stopped = pin!(stopping.cancelled());
    let greeting = greet(services, &mut messages).await?;
    let mut session = Session::new(services, &seat, principal, &greeting);
    loop {
        let message = tokio::select! {
            biased;
            () = &mut stopped => {
                session.end = End::Drained;
                return Err(outcome::gone(Gone));
            }
            // It is we who end it, not the monitor: it goes on over another connection, and is not lost.
            why = Leaving::over_of(leaving.as_ref()) => {
                session.end = End::Drained;
                return Err(why);
            }
            message = messages.next() => message,
        };
        // Without a word the monitor is lost, or its library does not tell the two apart; what was applied stays applied.
        if turn(services, &mut session, message, &mut messages).await?.is_over {
            return Ok(std::mem::take(&mut session.summary));
        }
        // A stream that always has a message ready must not keep its thread from the others.
        tokio::task::consume_budget().await;
    }
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// Messages that were judged.
    batches: u64,
    /// Nothing comes any more.
    is_over: bool,
    /// The monitor said goodbye.
    is_left: bool,
}

/// Takes a message, and what is there already behind it: whoever waits for a turn waits once for all of them.
async fn turn<S>(
    services: &Services,
    session: &mut Session<'_>,
    first: Option<Result<Bytes, Status>>,
    messages: &mut S,
) -> Result<Turn, Status>
where
    S: Stream<Item = Result<Bytes, Status>> + Unpin,
{
    let _turn = services.intake.turn().await;
    session.begin();
    let taken = take(session, first, messages).await;
    session.settle();
    taken
}

async fn take<S>(
    session: &mut Session<'_>,
    first: Option<Result<Bytes, Status>>,
    messages: &mut S,
) -> Result<Turn, Status>
where
    S: Stream<Item = Result<Bytes, Status>> + Unpin,
{
    let (mut next, mut turn, mut signals) = (Some(first), Turn::default(), 0);
    while let Some(message) = next {
        let Some(message) = message else {
            turn.is_over = true;
            break;
        };
        let taken = session.take(&message?)?;
        turn.batches = turn.batches.saturating_add(1);
        let Some(count) = taken else {
            (turn.is_over, turn.is_left) = (true, true);
            break;
        };
        signals += count;
        if signals >= TURN || turn.batches >= TOGETHER {
            break;
        }
        next = ready(messages).await;
    }
    Ok(turn)
}

/// The next of what is there; `None` if that is nothing.
async fn ready<S: Stream + Unpin>(items: &mut S) -> Option<Option<S::Item>> {
    let items = &mut Pin::new(items);
    std::future::poll_fn(|cx| match items.as_mut().poll_next(cx) {
        Poll::Ready(item) => Poll::Ready(Some(item)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Waits for the first message and judges it.
async fn greet<S>(services: &Services, messages: &mut S) -> Result<Greeting, Status>
where
    S: Stream<Item = Result<Bytes, Status>> + Unpin,
{
    let stopping = services.tasks.stopping();
    let first = tokio::select! {
        biased;
        () = stopping.cancelled() => return Err(outcome::gone(Gone)),
        first = tokio::time::timeout(HELLO_TIMEOUT, messages.next()) => first,
    };
    let first = first.map_err(|_elapsed| status::deadline_exceeded())?;
    let message = first.transpose()?.map(|bytes| generated(&bytes)).transpose()?.flatten();
    let Some(Said::Hello(hello)) = message else {
        let got = message.as_ref().map_or("", name_of);
        let violation = Violation::new("message", got, "must be hello in the first message");
        return Err(status::invalid_because("HELLO_MISSING", &[violation]));
    };
    if hello.environment != services.env.as_str() {
        // Another environment is answered as if it did not exist.
        return Err(status::not_found("environment", &hello.environment));
    }
    from_proto::hello(&hello).map_err(|violations| status::invalid(&violations))
}

/// What generated code makes of a message.
fn generated(bytes: &Bytes) -> Result<Option<Said>, Status> {
    match v1::PushSignalsRequest::decode(&**bytes) {
        Ok(request) => Ok(request.message),
        // As the generated service says it.
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

const fn name_of(message: &Said) -> &'static str {
    match message {
        Said::Hello(_) => "hello",
        Said::Batch(_) => "batch",
        Said::Bye(_) => "bye",
    }
}

#[cfg(test)]
pub(in crate::grpc) mod harness;
#[cfg(test)]
mod tests;

//! Signals from monitors: one stream per monitor, judged signal by signal, applied in place.
//!
//! There is no queue between the socket and the table of windows. A batch is applied whole or not at all, and the numbers of
//! batches are shared by all streams of a monitor, so that what is sent again after a reconnect changes nothing.

use std::pin::Pin;
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::push_signals_request::Message as Wire;
use agentctl_api::v1::telemetry_service_server::TelemetryService;
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
use crate::tasks::OnFailure;

pub mod intake;
pub(super) mod report;
pub(super) mod session;
mod stream;
mod tail;

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

/// The service.
#[derive(Debug)]
pub struct Service(pub Services);

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
        let principal = outcome::principal(request.extensions())?.clone();
        let summary = push(&self.0, principal, request.into_inner()).await?;
        Ok(Response::new(summary))
    }

    type StreamSignalsStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamSignalsResponse, Status>> + Send>>;

    async fn stream_signals(
        &self,
        request: Request<Streaming<v1::StreamSignalsRequest>>,
    ) -> Result<Response<Self::StreamSignalsStream>, Status> {
        let principal = outcome::principal(request.extensions())?.clone();
        let services = self.0.clone();
        let seat = services.intake.take_seat(principal.name(), services.clock.now_ms())?;
        let (answers, told) = mpsc::channel(stream::ANSWERS);
        let messages = request.into_inner().map(|sent| sent.map(stream::message));
        self.0.tasks.spawn("stream-signals", OnFailure::Log, async move {
            stream::serve(&services, principal, seat, messages, &answers).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}

/// Serves one stream to its end.
async fn push<S>(
    services: &Services,
    principal: Principal,
    mut messages: S,
) -> Result<v1::PushSignalsResponse, Status>
where
    S: Stream<Item = Result<v1::PushSignalsRequest, Status>> + Unpin,
{
    let _seat = services.intake.take_seat(principal.name(), services.clock.now_ms())?;
    let stopping = services.tasks.stopping();
    let greeting = greet(services, &mut messages).await?;
    let mut session = Session::new(services, principal, &greeting);
    loop {
        let message = tokio::select! {
            biased;
            () = stopping.cancelled() => {
                session.end = End::Drained;
                return Err(outcome::gone(Gone));
            }
            message = messages.next() => message,
        };
        match message {
            // The monitor is lost, or its library does not tell the two apart; what was applied stays applied.
            None => return Ok(std::mem::take(&mut session.summary)),
            Some(message) => {
                let _turn = services.intake.turn().await;
                if session.take(message?.message)? {
                    return Ok(std::mem::take(&mut session.summary));
                }
            }
        }
        // A stream that always has a message ready must not keep its thread from the others.
        tokio::task::consume_budget().await;
    }
}

/// Waits for the first message and judges it.
async fn greet<S>(services: &Services, messages: &mut S) -> Result<Greeting, Status>
where
    S: Stream<Item = Result<v1::PushSignalsRequest, Status>> + Unpin,
{
    let stopping = services.tasks.stopping();
    let first = tokio::select! {
        biased;
        () = stopping.cancelled() => return Err(outcome::gone(Gone)),
        first = tokio::time::timeout(HELLO_TIMEOUT, messages.next()) => first,
    };
    let first = first.map_err(|_elapsed| status::deadline_exceeded())?;
    let message = first.transpose()?.and_then(|request| request.message);
    let Some(Wire::Hello(hello)) = message else {
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

const fn name_of(message: &Wire) -> &'static str {
    match message {
        Wire::Hello(_) => "hello",
        Wire::Batch(_) => "batch",
        Wire::Bye(_) => "bye",
    }
}

#[cfg(test)]
pub(in crate::grpc) mod harness;
#[cfg(test)]
mod tests;

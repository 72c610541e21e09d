//! The stream of a monitor that stays: it is told as it goes what the server has.
//!
//! Reading never waits for writing. Answers are cumulative, so one that finds no room is dropped and the next one says the same and
//! more; a monitor that reads no answers is served like any other.

use std::pin::pin;
use std::time::Duration;

use agentctl_api::v1;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::intake::Seat;
use super::session::{End, Session};
use super::{greet, to_proto, turn};
use crate::agent::Gone;
use crate::auth::Principal;
use crate::grpc::{Services, outcome};
use crate::listen::Leaving;

/// Answers that may wait for the monitor.
pub(super) const ANSWERS: usize = 4;
/// Longest time a batch waits for its acknowledgement.
const ACK_WITHIN: Duration = Duration::from_millis(100);
/// Batches after which one is due at once.
const ACK_BATCHES: u64 = 256;
/// Time between two answers to a monitor that says nothing: it learns that the server is there.
const ALIVE: Duration = Duration::from_secs(10);
/// Time for the last answer to find room.
const LAST: Duration = Duration::from_secs(10);

/// Where answers go.
pub(super) type Answers = mpsc::Sender<Result<v1::StreamSignalsResponse, Status>>;

/// Serves one stream to its end. `seat` is its place among those of its principal, for as long as its connection is not leaving.
pub(super) async fn serve<S>(
    services: &Services,
    principal: Principal,
    (seat, leaving): (Seat, Option<Leaving>),
    messages: S,
    answers: &Answers,
) where
    S: Stream<Item = Result<Bytes, Status>> + Unpin,
{
    let last = match converse(services, (&seat, leaving), principal, messages, answers).await {
        Ok(Some(last)) => Ok(last),
        Ok(None) => return,
        Err(status) => Err(status),
    };
    // A monitor that takes no answer is gone, or as good as gone.
    let _ = timeout(LAST, answers.send(last)).await;
}

/// What is said last; `None` when nobody is there to hear it.
async fn converse<S>(
    services: &Services,
    (seat, leaving): (&Seat, Option<Leaving>),
    principal: Principal,
    mut messages: S,
    answers: &Answers,
) -> Result<Option<v1::StreamSignalsResponse>, Status>
where
    S: Stream<Item = Result<Bytes, Status>> + Unpin,
{
    let greeting = greet(services, &mut messages).await?;
    let mut session = Session::new(services, seat, principal, &greeting);
    let stopping = services.tasks.stopping();
    let mut stopped = pin!(stopping.cancelled());
    let mut told = Told::new();
    told.tell(services, &session, answers);
    loop {
        let message = tokio::select! {
            biased;
            () = &mut stopped => {
                session.end = End::Drained;
                // What was taken is acknowledged, so that nothing of it need be sent to the next server.
                told.tell(services, &session, answers);
                return Err(outcome::gone(Gone));
            }
            // It is we who end it, not the monitor: it goes on over another connection, and is not lost.
            why = Leaving::over_of(leaving.as_ref()) => {
                session.end = End::Drained;
                told.tell(services, &session, answers);
                return Err(why);
            }
            // The monitor is gone, or the edge let go of its answers because its token was revoked: that is seen here, ahead of what
            // it still sends, whether or not it reads.
            () = answers.closed() => return Ok(None),
            () = sleep_until(told.due) => {
                told.tell(services, &session, answers);
                continue;
            }
            message = messages.next() => message,
        };
        let turn = turn(services, &mut session, message, &mut messages).await?;
        if turn.is_over {
            return Ok(Some(told.answer(services, &session, turn.is_left)));
        }
        told.owe(&session, turn.batches);
        // A stream that always has a message ready must not keep its thread from the others.
        tokio::task::consume_budget().await;
    }
}

/// What the monitor was told, and when the next answer is due.
#[derive(Debug)]
struct Told {
    due: Instant,
    /// Batches judged since the last answer.
    batches: u64,
    rejections: usize,
}

impl Told {
    fn new() -> Self {
        Self { due: Instant::now(), batches: 0, rejections: 0 }
    }

    /// So many batches were judged.
    fn owe(&mut self, session: &Session<'_>, batches: u64) {
        self.batches = self.batches.saturating_add(batches);
        let at_once =
            self.batches >= ACK_BATCHES || session.summary.rejections.len() > self.rejections;
        let within = if at_once { Duration::ZERO } else { ACK_WITHIN };
        self.due = self.due.min(Instant::now() + within);
    }

    /// Answers if there is room, and otherwise later.
    fn tell(&mut self, services: &Services, session: &Session<'_>, answers: &Answers) {
        let Ok(room) = answers.try_reserve() else {
            self.due = Instant::now() + ACK_WITHIN;
            return;
        };
        room.send(Ok(self.answer(services, session, false)));
        self.rejections = session.summary.rejections.len();
        self.batches = 0;
        self.due = Instant::now() + ALIVE;
    }

    fn answer(
        &self,
        services: &Services,
        session: &Session<'_>,
        closed: bool,
    ) -> v1::StreamSignalsResponse {
        let summary = &session.summary;
        v1::StreamSignalsResponse {
            acked_seq: summary.high_water_seq,
            accepted: summary.accepted,
            duplicates: summary.duplicates,
            rejected: summary.rejected,
            missed: summary.missed,
            superseded: summary.superseded,
            rejections: summary.rejections.get(self.rejections..).unwrap_or_default().to_vec(),
            server_time: Some(to_proto::timestamp(services.clock.now_ms())),
            closed,
        }
    }
}

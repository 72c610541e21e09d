//! One stream of signals from its greeting to its farewell.

use std::time::Duration;

use agentctl_api::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use v1::push_signals_request::Message;

use crate::connect::Session;
use crate::failure::Failure;
use crate::time;

/// Environment the server serves: a monitor greets with it.
pub(crate) async fn environment(session: &Session) -> Result<String, Failure> {
    let answer = session.identity().who_am_i(session.unary(v1::WhoAmIRequest {})).await;
    Ok(answer.map_err(|s| session.failure(s))?.into_inner().environment)
}

pub(crate) const fn wrap(message: Message) -> v1::PushSignalsRequest {
    v1::PushSignalsRequest { message: Some(message) }
}

/// A batch that is sent now.
pub(crate) fn batch(seq: u64, signals: Vec<v1::Signal>) -> v1::PushSignalsRequest {
    let sent_time = Some(time::to_proto(time::now()));
    wrap(Message::Batch(v1::SignalBatch { seq, sent_time, signals }))
}

/// Sends batches, each made when its turn comes, with `pause` between two.
pub(super) async fn all<F: FnOnce() -> Vec<v1::Signal>>(
    monitor_id: &str,
    batches: impl Iterator<Item = F>,
    pause: Duration,
    session: &Session,
) -> Result<v1::PushSignalsResponse, Failure> {
    let environment = environment(session).await?;
    let (sender, receiver) = mpsc::channel(4);
    // Sequence numbers of one start of the monitor begin with 1, so each call is a start of its own.
    let epoch = uuid::Uuid::new_v4().as_u64_pair().0;
    let hello =
        v1::Hello { monitor_id: monitor_id.to_owned(), epoch, environment, default_ttl: None };
    let feed = async move {
        // A send fails when the server ended the stream early: its answer says why.
        if sender.send(wrap(Message::Hello(hello))).await.is_err() {
            return;
        }
        for (seq, signals) in (1..).zip(batches) {
            if seq > 1 {
                tokio::time::sleep(pause).await;
            }
            if sender.send(batch(seq, signals())).await.is_err() {
                return;
            }
        }
        let reason = "sent all".to_owned();
        let _ = sender.send(wrap(Message::Bye(v1::Bye { reason }))).await;
    };
    let mut telemetry = session.telemetry();
    let push = telemetry.push_signals(ReceiverStream::new(receiver));
    let (answer, ()) = tokio::join!(push, feed);
    Ok(answer.map_err(|s| session.failure(s))?.into_inner())
}

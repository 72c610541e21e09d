//! What comes from the server: streams that are taken up again when they break, and the few calls a person orders.

use std::time::Duration;

use agentctl_api::client::WatchEvent;
use agentctl_api::v1;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use v1::watch_decisions_request::Start;
use v1::watch_decisions_response::Item;

use super::model::Event;
use crate::command::{Context, approval, request_id};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::agent::StatusView;
use crate::view::approval::ApprovalView;
use crate::view::decision::DecisionView;

/// Decisions that are shown from before the start.
const TAIL: i32 = 100;
/// Approvals that are shown.
const APPROVALS: i32 = 200;
/// Shortest time between two looks at the approvals.
const GAP: Duration = Duration::from_millis(500);
/// Apps from which on their state is taken once a second: nobody reads more of them, and each state holds all of them.
const MANY: usize = 200;
/// Shortest time between two states of many apps.
const GAP_MANY: Duration = Duration::from_secs(1);
/// Time between two looks of the server at its bus.
const BUS_EVERY: Duration = Duration::from_secs(2);

/// Something a person asked for, with the reason that goes into the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Approve exactly this plan.
    Approve {
        /// Which request.
        id: String,
        /// The plan that was seen.
        digest: String,
        /// Why.
        reason: String,
    },
    /// Reject.
    Reject {
        /// Which request.
        id: String,
        /// Why.
        reason: String,
    },
    /// Pause every new effect.
    Pause {
        /// Why.
        reason: String,
    },
    /// Lift that pause.
    Resume {
        /// Why.
        reason: String,
    },
}

type Events = mpsc::Sender<Event>;

/// Feeds the screen until something fails that trying again does not mend.
pub(super) async fn all(
    session: &Session,
    events: &Events,
    orders: mpsc::Receiver<Order>,
) -> Failure {
    let changed = Notify::new();
    tokio::select! {
        failure = status(session, events, &changed) => failure,
        failure = decisions(session, events, &changed) => failure,
        failure = approvals(session, events, &changed) => failure,
        failure = bus(session, events) => failure,
        failure = carry_out(session, events, orders, &changed) => failure,
    }
}

/// The screen is gone: there is nobody to feed.
fn gone() -> Failure {
    Failure::silent(Exit::Ok)
}

/// The status whenever it changes. It also says whether the connection lives.
async fn status(session: &Session, events: &Events, changed: &Notify) -> Failure {
    let mut watch = session.watch_status(v1::WatchStatusRequest { interval: None });
    let mut pending = None;
    loop {
        let (event, rest) = match watch.next().await {
            Ok(WatchEvent::Item(answer)) => {
                let status = answer.status.unwrap_or_default();
                let waiting = Some(status.pending_approvals);
                if std::mem::replace(&mut pending, waiting) != waiting {
                    changed.notify_one();
                }
                // What is not read is not sent: the server waits, and sends the newest state then.
                let many = status.apps.len() > MANY;
                (Event::Status(Box::new(status)), many.then_some(GAP_MANY))
            }
            Ok(WatchEvent::Interrupted { status, .. }) => {
                (Event::Lost(session.failure(status).to_string()), None)
            }
            Ok(WatchEvent::Resumed) => continue,
            Err(status) => return session.failure(status),
        };
        if events.send(event).await.is_err() {
            return gone();
        }
        tokio::time::sleep(rest.unwrap_or_default()).await;
    }
}

/// The last decisions, then each new one, without a gap over restarts of the server.
async fn decisions(session: &Session, events: &Events, changed: &Notify) -> Failure {
    let request = v1::ListDecisionsRequest { page_size: TAIL, ..Default::default() };
    let listed = session.decisions().list_decisions(session.unary(request)).await;
    let listed = match listed {
        Ok(answer) => answer.into_inner().decisions,
        Err(status) => return session.failure(status),
    };
    let head = listed.iter().map(|decision| decision.seq).max().unwrap_or(0);
    for decision in listed.into_iter().rev() {
        if events.send(Event::Decision(Box::new(decision))).await.is_err() {
            return gone();
        }
    }
    let start = if head == 0 { Start::Now(true) } else { Start::AfterSeq(head) };
    let request = v1::WatchDecisionsRequest {
        start: Some(start),
        include_events: true,
        ..v1::WatchDecisionsRequest::default()
    };
    let mut watch = session.watch_decisions(request);
    loop {
        let event = match watch.next().await {
            // The status tells of a lost connection.
            Ok(WatchEvent::Interrupted { .. } | WatchEvent::Resumed) => continue,
            Ok(WatchEvent::Item(response)) => response.item,
            Err(status) => return session.failure(status),
        };
        let event = match event {
            Some(Item::Decision(decision)) => {
                if !decision.approval_id.is_empty() {
                    changed.notify_one();
                }
                Event::Decision(decision)
            }
            Some(Item::Event(event)) if event.event.starts_with("APPROVAL") => {
                changed.notify_one();
                continue;
            }
            Some(Item::Event(event)) if !event.decision_id.is_empty() => {
                Event::CameOf(Box::new(event))
            }
            _ => continue,
        };
        if events.send(event).await.is_err() {
            return gone();
        }
    }
}

/// What waits for a human, looked at again when something changed.
async fn approvals(session: &Session, events: &Events, changed: &Notify) -> Failure {
    loop {
        match approval::pending(session, v1::ApprovalFilter::default(), APPROVALS).await {
            Ok(waiting) => {
                if events.send(Event::Approvals(waiting)).await.is_err() {
                    return gone();
                }
            }
            Err(failure) if failure.exit() == Exit::Unreachable => {}
            Err(failure) => return failure,
        }
        changed.notified().await;
        tokio::time::sleep(GAP).await;
    }
}

/// What is on the bus. The rest of the screen does without, where nothing can be known of it.
async fn bus(session: &Session, events: &Events) -> Failure {
    let request = v1::WatchBusRequest { interval: Some(crate::time::span_to_proto(BUS_EVERY)) };
    let mut watch = session.watch_bus(request);
    while let Ok(event) = watch.next().await {
        let WatchEvent::Item(answer) = event else { continue };
        let stats = answer.stats.unwrap_or_default();
        if events.send(Event::Bus(Box::new(stats))).await.is_err() {
            return gone();
        }
    }
    std::future::pending().await
}

/// Does what a person ordered, one thing at a time, and tells how it ended.
async fn carry_out(
    session: &Session,
    events: &Events,
    mut orders: mpsc::Receiver<Order>,
    changed: &Notify,
) -> Failure {
    while let Some(order) = orders.recv().await {
        let told = match perform(session, order).await {
            Ok(done) => format!("✔ {done}"),
            Err(failure) => format!("✖ {failure}"),
        };
        changed.notify_one();
        if events.send(Event::Said(told)).await.is_err() {
            break;
        }
    }
    gone()
}

async fn perform(session: &Session, order: Order) -> Result<String, Failure> {
    let everywhere = || Some(v1::Scope { target: Some(v1::scope::Target::Environment(true)) });
    match order {
        Order::Approve { id, digest, reason } => {
            let request = v1::ApproveActionRequest {
                approval_id: id.clone(),
                plan_digest: digest,
                reason,
                request_id: request_id(),
            };
            let answer = session.approvals().approve_action(session.unary(request)).await;
            answer.map(|_| format!("{id} approved")).map_err(|s| session.failure(s))
        }
        Order::Reject { id, reason } => {
            let request = v1::RejectActionRequest {
                approval_id: id.clone(),
                reason,
                request_id: request_id(),
            };
            let answer = session.approvals().reject_action(session.unary(request)).await;
            answer.map(|_| format!("{id} rejected")).map_err(|s| session.failure(s))
        }
        Order::Pause { reason } => {
            let request = v1::PauseRequest {
                scope: everywhere(),
                reason,
                request_id: request_id(),
                ..v1::PauseRequest::default()
            };
            let answer = session.agent().pause(session.unary(request)).await;
            answer.map(|_| "every new effect is paused".to_owned()).map_err(|s| session.failure(s))
        }
        Order::Resume { reason } => {
            let request =
                v1::ResumeRequest { scope: everywhere(), reason, request_id: request_id() };
            let answer = session.agent().resume(session.unary(request)).await;
            let answer = answer.map_err(|s| session.failure(s))?.into_inner();
            Ok(match answer.lifted.len() {
                0 => "nothing was paused".to_owned(),
                _ => "effects run again".to_owned(),
            })
        }
    }
}

/// Everything on the screen, for programs.
#[derive(Debug, Serialize)]
struct PictureView {
    status: StatusView,
    decisions: Vec<DecisionView>,
    approvals: Vec<ApprovalView>,
}

/// One picture of what the screen would show.
pub(super) async fn picture(session: &Session, context: &mut Context) -> Result<Exit, Failure> {
    let status = session.agent().get_status(session.unary(v1::GetStatusRequest {})).await;
    let status = status.map_err(|s| session.failure(s))?.into_inner().status.unwrap_or_default();
    let request = v1::ListDecisionsRequest { page_size: TAIL, ..Default::default() };
    let listed = session.decisions().list_decisions(session.unary(request)).await;
    let decisions = listed.map_err(|s| session.failure(s))?.into_inner().decisions;
    let waiting = approval::pending(session, v1::ApprovalFilter::default(), APPROVALS).await?;
    let view = PictureView {
        status: (&status).into(),
        decisions: decisions.iter().map(Into::into).collect(),
        approvals: waiting.iter().map(Into::into).collect(),
    };
    context.output.emit(&view, |_| {})?;
    Ok(Exit::Ok)
}

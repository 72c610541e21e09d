//! Decisions and events as they become durable. A record is encoded for the first watcher that is shown it, and every other one is sent
//! the same bytes: a filter chooses among records and changes none.

use std::ops::Bound;
use std::sync::Arc;

use agentctl_api::v1;
use agentctl_api::v1::watch_decisions_request::Start as Asked;
use agentctl_api::v1::watch_decisions_response::Item;
use agentd_core::app::AppName;
use agentd_core::record::Record;
use bytes::Bytes;
use prost::Message as _;
use tonic::{Request, Status};

use super::super::feed::{
    self, Ended, Feed, Inlet, Mark, Outlet, Phase, Position, Show, Shown, Start,
};
use super::super::filter::{self, DecisionFilter};
use super::super::log::Log;
use super::super::opaque::Cursor;
use super::super::status::Violation;
use super::super::to_proto::{self, Aftermath};
use super::super::{Services, outcome, status};
use crate::journal::Reader;
use crate::listen::Leaving;
use crate::publish::Published;

/// Most items of a `tail`.
const TAIL_MAX: u32 = 1_000;
/// Apps asked for at once for a snapshot: the loop answers between two turns.
const SNAPSHOT_APPS: usize = 64;

/// Starts a watch.
pub(super) async fn watch(
    services: &Services,
    request: Request<v1::WatchDecisionsRequest>,
) -> Result<Outlet<Bytes>, Status> {
    let leaving = Leaving::of(request.extensions());
    let request = request.into_inner();
    let mut violations = Vec::new();
    let interval = request.bookmark_interval.as_ref();
    let interval = feed::bookmark_interval(interval, &mut violations);
    let show = Decisions {
        filter: DecisionFilter::parse(request.filter, &mut violations),
        events: request.include_events,
    };
    let from = From::parse(request.start, &mut violations);
    if !violations.is_empty() {
        return Err(status::invalid(&violations));
    }
    let log = Log::of(services);
    let position = match &from {
        From::Start(start) => feed::position(&log, start.clone()).await?,
        From::Snapshot => feed::position(&log, Start::Now).await?,
        From::Tail(count) => tail(&log, &show, *count).await?,
    };
    let opened = opened(&log, position);
    let snapshot = matches!(from, From::Snapshot);
    let follow = Feed::new(services, position, interval, leaving);
    let from_services = services.clone();
    feed::stream(services, "watch-decisions", move |inlet| async move {
        inlet.send(bytes(&opened)).await?;
        if snapshot {
            send_snapshot(&from_services, &inlet).await?;
        }
        // The feed has a handle to the log of its own; the rest is not needed any more.
        drop(from_services);
        follow.run(inlet, show).await
    })
}

enum From {
    Start(Start),
    Tail(u32),
    Snapshot,
}

impl From {
    fn parse(asked: Option<Asked>, violations: &mut Vec<Violation>) -> Self {
        let mut only_true = |field: &str, value: bool| {
            if !value {
                violations.push(Violation::new(field, "false", "must be true where it is set"));
            }
        };
        match asked {
            None => Self::Start(Start::Now),
            Some(Asked::Cursor(text)) => Self::Start(Start::Cursor(text)),
            Some(Asked::AfterSeq(seq)) => Self::Start(Start::After(seq)),
            Some(Asked::StartTime(time)) => {
                let at = filter::time("start_time", Some(&time), violations);
                Self::Start(Start::Time(at.unwrap_or(0)))
            }
            Some(Asked::Tail(count)) => {
                if count > TAIL_MAX {
                    let rule = format!("must be 0 to {TAIL_MAX}");
                    violations.push(Violation::new("tail", count.to_string(), rule));
                }
                Self::Tail(count)
            }
            Some(Asked::Now(value)) => {
                only_true("now", value);
                Self::Start(Start::Now)
            }
            Some(Asked::Beginning(value)) => {
                only_true("beginning", value);
                Self::Start(Start::Beginning)
            }
            Some(Asked::Snapshot(value)) => {
                only_true("snapshot", value);
                Self::Snapshot
            }
        }
    }
}

fn opened(log: &Log, position: Position) -> v1::WatchDecisionsResponse {
    let cursor = Cursor::new(log.id(), position.seq, position.hash).to_string();
    v1::WatchDecisionsResponse {
        cursor: cursor.clone(),
        item: Some(Item::Opened(v1::WatchOpened {
            log_id: log.id().to_string(),
            cursor,
            start_seq: position.seq.saturating_add(1),
            head_seq: log.head().max(position.seq),
            oldest_seq: log.oldest(),
        })),
    }
}

/// The position behind which the last `count` matching items are. Looks at a bounded number of records; the first item says where
/// the stream really starts.
async fn tail(log: &Log, show: &Decisions, count: u32) -> Result<Position, Status> {
    let show = show.clone();
    let wanted = move |reader: &Reader, line: &[u8]| {
        reader.blobs().record(line).is_ok_and(|record| show.wants(&record))
    };
    let seq = log.before_last(count, wanted);
    feed::position(log, Start::After(seq.await?)).await
}

/// The present state of every app. The stream goes on behind a record that is older than all of it, so nothing is missed.
async fn send_snapshot(services: &Services, inlet: &Inlet<Bytes>) -> Result<(), Ended> {
    let mut sent = 0;
    let mut after: Option<AppName> = None;
    loop {
        let from = after.take().map_or(Bound::Unbounded, Bound::Excluded);
        let some = services.agent.query(move |view| {
            let names = view.state.apps.range((from, Bound::Unbounded)).take(SNAPSHOT_APPS);
            names.filter_map(|(name, _)| to_proto::app(view, name)).collect::<Vec<_>>()
        });
        let mut apps = some.await.map_err(outcome::gone)?;
        super::fill_last_decisions(services, &mut apps).await?;
        after = apps.last().and_then(|app| AppName::parse(&app.name).ok());
        for app in apps {
            sent += 1;
            let item = Item::SnapshotItem(Box::new(v1::SnapshotItem { app: Some(app) }));
            inlet.send(bytes(&item_without_cursor(item))).await?;
        }
        if after.is_none() {
            let item = Item::SnapshotEnd(v1::SnapshotEnd { count: sent });
            return inlet.send(bytes(&item_without_cursor(item))).await;
        }
    }
}

fn bytes(item: &v1::WatchDecisionsResponse) -> Bytes {
    item.encode_to_vec().into()
}

const fn item_without_cursor(item: Item) -> v1::WatchDecisionsResponse {
    v1::WatchDecisionsResponse { cursor: String::new(), item: Some(item) }
}

/// What a watcher of decisions is shown.
#[derive(Debug, Clone)]
struct Decisions {
    filter: DecisionFilter,
    events: bool,
}

impl Decisions {
    fn wants(&self, record: &Record) -> bool {
        match record.decision() {
            Some(decided) => self.filter.matches(record, decided),
            None => self.events && self.filter.matches_event(record),
        }
    }
}

impl Show for Decisions {
    type Item = Bytes;

    fn show(
        &self,
        cursor: &Cursor,
        published: &Published,
        ahead: &[Arc<Published>],
    ) -> Shown<Self::Item> {
        let record = &published.record;
        if self.filter.span.is_over(record.at) {
            return Shown::Over;
        }
        if !self.wants(record) {
            return Shown::Skip;
        }
        let aftermath = Aftermath::ahead(record.seq, ahead);
        let encoded = published.encoded.get_or_make(aftermath.upto(), || {
            let item = match to_proto::decision(record) {
                Some(mut decision) => {
                    aftermath.complete(&mut decision);
                    Item::Decision(Box::new(decision))
                }
                None => Item::Event(to_proto::event(record)),
            };
            bytes(&v1::WatchDecisionsResponse { cursor: cursor.to_string(), item: Some(item) })
        });
        Shown::Item(encoded)
    }

    fn bookmark(&self, cursor: &Cursor, mark: &Mark) -> Self::Item {
        let phase = match mark.phase {
            Phase::Live => v1::bookmark::Phase::Live,
            Phase::Replay => v1::bookmark::Phase::Replay,
            Phase::Draining => v1::bookmark::Phase::Draining,
        };
        let bookmark = v1::Bookmark {
            seq: mark.seq,
            head_seq: mark.head_seq,
            phase: phase.into(),
            time: Some(to_proto::timestamp(mark.time)),
        };
        let item = Some(Item::Bookmark(bookmark));
        bytes(&v1::WatchDecisionsResponse { cursor: cursor.to_string(), item })
    }
}

//! Entries of the log as they become durable.

use std::sync::Arc;

use agentctl_api::v1;
use agentctl_api::v1::watch_proof_entries_request::Start as Asked;
use agentctl_api::v1::watch_proof_entries_response::Item;
use tonic::{Request, Status};

use super::super::feed::{self, Feed, Mark, Outlet, Phase, Position, Show, Shown, Start};
use super::super::filter::ProofFilter;
use super::super::log::Log;
use super::super::opaque::Cursor;
use super::super::status::Violation;
use super::super::{Services, status, to_proto};
use crate::journal::Reader;
use crate::listen::Leaving;
use crate::publish::Published;

/// Most entries of a `tail`.
const TAIL_MAX: u32 = 1_000;

/// Starts a watch.
pub(super) async fn watch(
    services: &Services,
    request: Request<v1::WatchProofEntriesRequest>,
) -> Result<Outlet<v1::WatchProofEntriesResponse>, Status> {
    let leaving = Leaving::of(request.extensions());
    let request = request.into_inner();
    let mut violations = Vec::new();
    let interval = request.bookmark_interval.as_ref();
    let interval = feed::bookmark_interval(interval, &mut violations);
    let show = Entries { filter: ProofFilter::parse(request.filter, &mut violations) };
    match request.start {
        Some(Asked::Beginning(false)) => {
            let rule = "must be true where it is set";
            violations.push(Violation::new("beginning", "false", rule));
        }
        Some(Asked::Tail(count)) if count > TAIL_MAX => {
            let rule = format!("must be 0 to {TAIL_MAX}");
            violations.push(Violation::new("tail", count.to_string(), rule));
        }
        _ => {}
    }
    if !violations.is_empty() {
        return Err(status::invalid(&violations));
    }
    let log = Log::of(services);
    let start = match request.start {
        None => Start::Now,
        Some(Asked::Cursor(text)) => Start::Cursor(text),
        Some(Asked::AfterSeq(seq)) => Start::After(seq),
        Some(Asked::Beginning(_)) => Start::Beginning,
        Some(Asked::Tail(count)) => Start::After(tail(&log, &show, count).await?),
    };
    let position = feed::position(&log, start).await?;
    let first = first(&log, &show, position);
    let follow = Feed::new(services, position, interval, leaving);
    feed::stream(services, "watch-proof", move |inlet| async move {
        inlet.send(first).await?;
        follow.run(inlet, show).await
    })
}

/// The first item of every watch says where it starts.
fn first(log: &Log, show: &Entries, position: Position) -> v1::WatchProofEntriesResponse {
    let Position { seq, hash } = position;
    let head_seq = log.head().max(seq);
    let phase = if seq < head_seq { Phase::Replay } else { Phase::Live };
    show.bookmark(&Cursor::new(log.id(), seq, hash), &Mark { seq, head_seq, phase, time: 0 })
}

/// The record behind which the last `count` matching entries are.
async fn tail(log: &Log, show: &Entries, count: u32) -> Result<u64, Status> {
    let filter = show.filter.clone();
    let wanted = move |reader: &Reader, line: &[u8]| {
        let matches =
            |line| reader.blobs().record(line).is_ok_and(|record| filter.matches(&record));
        filter.may_match(line) && matches(line)
    };
    log.before_last(count, wanted).await
}

/// What a watcher of the log is shown.
#[derive(Debug)]
struct Entries {
    filter: ProofFilter,
}

impl Show for Entries {
    type Item = v1::WatchProofEntriesResponse;

    fn show(
        &self,
        cursor: &Cursor,
        published: &Published,
        _ahead: &[Arc<Published>],
    ) -> Shown<Self::Item> {
        if self.filter.span.is_over(published.record.at) {
            return Shown::Over;
        }
        if !self.filter.matches(&published.record) {
            return Shown::Skip;
        }
        let item = Some(Item::Entry(to_proto::proof_entry(published)));
        Shown::Item(v1::WatchProofEntriesResponse { cursor: cursor.to_string(), item })
    }

    fn bookmark(&self, cursor: &Cursor, mark: &Mark) -> Self::Item {
        let bookmark = v1::ProofBookmark {
            seq: mark.seq,
            head_seq: mark.head_seq,
            draining: mark.phase == Phase::Draining,
        };
        let item = Some(Item::Bookmark(bookmark));
        v1::WatchProofEntriesResponse { cursor: cursor.to_string(), item }
    }
}

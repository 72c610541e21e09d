//! The raw lines of the log, byte for byte.

use agentctl_api::v1;
use agentd_core::record::Detached;
use tonic::Status;

use super::super::feed::{self, Ended, Few, Inlet, Outlet};
use super::super::filter::ProofFilter;
use super::super::log::{self, Log};
use super::super::status::Violation;
use super::super::{Services, status};
use crate::journal::Entry;
use crate::tlog::Tlog;

/// Bytes after which a chunk is sent.
const CHUNK_BYTES: usize = 128 << 10;
/// Leaf hashes in one chunk.
const CHUNK_HASHES: u64 = 4_096;

/// Starts an export.
pub(super) async fn export(
    services: &Services,
    request: v1::ExportProofRequest,
) -> Result<Outlet<Few<v1::ExportProofResponse>>, Status> {
    let mut violations = Vec::new();
    let filter = ProofFilter::parse(request.filter, &mut violations);
    if request.pruned_as_hashes && !filter.is_everything() {
        let rule = "must be false beside a filter: a hash alone matches nothing";
        violations.push(Violation::new("pruned_as_hashes", "true", rule));
    }
    let log = Log::of(services);
    let (oldest, newest) = (log.oldest(), log.durable());
    let first = if request.first_seq == 0 { oldest } else { request.first_seq };
    let last = if request.last_seq == 0 { newest } else { request.last_seq };
    if request.last_seq != 0 && first > last {
        let rule = "must not be less than `first_seq`";
        violations.push(Violation::new("last_seq", last.to_string(), rule));
    }
    if !violations.is_empty() {
        return Err(status::invalid(&violations));
    }
    if first < oldest && !request.pruned_as_hashes {
        let cursor = log.cursor_before(oldest).await;
        let message = format!("records before {oldest} are no longer kept");
        return Err(status::out_of_range("WATCH_COMPACTED", &message, &cursor));
    }
    // With an open end, damage is where the log ends; with a stated one, it may be in the way.
    let damaged = log.damage().filter(|d| request.last_seq == 0 || d.seq <= last);
    if last > newest && damaged.is_none() {
        let cursor = log.cursor_before(oldest).await;
        let message = format!("record {last} is ahead of the newest, {newest}");
        return Err(status::out_of_range("AHEAD_OF_HEAD", &message, &cursor));
    }
    let until = last.min(newest);
    let tlog = services.tlog.clone();
    feed::stream(services, "export-proof", move |inlet| async move {
        let pruned = until.min(oldest.saturating_sub(1));
        send_hashes(&tlog, &inlet, first, pruned).await?;
        send(&log, &inlet, &filter, first.max(oldest), until).await?;
        match damaged {
            Some(damage) => {
                let text = damage.to_string();
                Err(Ended::With(status::data_loss("CHAIN_BROKEN", damage.seq, &text)))
            }
            None => Ok(()),
        }
    })
}

/// The hashes of the entries `first` to `last`, which are pruned.
async fn send_hashes(
    tlog: &Tlog,
    inlet: &Inlet<Few<v1::ExportProofResponse>>,
    first: u64,
    last: u64,
) -> Result<(), Ended> {
    let mut next = first;
    while next <= last {
        let (tlog, from, count) = (tlog.clone(), next, CHUNK_HASHES.min(last - next + 1));
        let read = tokio::task::spawn_blocking(move || tlog.leaf_hashes(from, count)).await;
        let read = read.map_err(|_panicked| Ended::With(status::internal("export-proof")))?;
        let leaf_hashes = read.map_err(|error| {
            let text = format!("the hashes of the proof log cannot be read: {error}");
            Ended::With(status::unavailable("LOG_UNPUBLISHED", &text, None))
        })?;
        let last_seq = next + count - 1;
        let part = v1::ExportProofResponse { last_seq, leaf_hashes, ..Default::default() };
        hand_over(inlet, part, next).await?;
        next = last_seq + 1;
    }
    Ok(())
}

/// Sends a part that begins with entry `first`: where to go on if nobody takes it.
async fn hand_over(
    inlet: &Inlet<Few<v1::ExportProofResponse>>,
    part: v1::ExportProofResponse,
    first: u64,
) -> Result<(), Ended> {
    inlet.send(part).await.map_err(|ended| match ended {
        Ended::Stalled => Ended::With(feed::stalled("first_seq", &first.to_string())),
        other => other,
    })
}

async fn send(
    log: &Log,
    inlet: &Inlet<Few<v1::ExportProofResponse>>,
    filter: &ProofFilter,
    first: u64,
    last: u64,
) -> Result<(), Ended> {
    let mut next = first;
    let mut chunk = Chunk { sent: first.saturating_sub(1), ..Chunk::default() };
    while next <= last {
        let from = next;
        let entries = log.reading(move |reader| log::read_sound(reader, from, log::READ_RECORDS));
        let entries = match entries.await {
            Ok(entries) => entries,
            Err(status) => {
                // What was read before it is sound.
                chunk.send(inlet).await?;
                return Err(Ended::With(status));
            }
        };
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            if entry.seq > last {
                break;
            }
            next = entry.seq.saturating_add(1);
            if wanted(log, filter, &entry) {
                chunk.push(log, &entry)?;
            }
            if chunk.bytes() >= CHUNK_BYTES {
                chunk.send(inlet).await?;
            }
        }
        if next > last {
            break;
        }
    }
    chunk.send(inlet).await
}

fn wanted(log: &Log, filter: &ProofFilter, entry: &Entry) -> bool {
    // Without a filter the lines are not even looked at.
    filter.is_everything()
        || (filter.may_match(&entry.line)
            && log.parse(entry.seq, &entry.line).is_ok_and(|record| filter.matches(&record)))
}

#[derive(Default)]
struct Chunk {
    lines: Vec<u8>,
    /// What the lines keep beside the log.
    bodies: Vec<Vec<u8>>,
    last_seq: u64,
    /// The last one that was handed over.
    sent: u64,
}

impl Chunk {
    fn bytes(&self) -> usize {
        self.lines.len().saturating_add(self.bodies.iter().map(Vec::len).sum())
    }

    /// Adds an entry. A body that is not what its line says ends the export: half of an entry is none.
    fn push(&mut self, log: &Log, entry: &Entry) -> Result<(), Ended> {
        if let Some(blob) = Detached::in_line(&entry.line) {
            let body = log.journal.blobs().get(blob).map_err(|error| {
                let text = format!("entry {}: {error}", entry.seq);
                Ended::With(status::data_loss("BODY_LOST", entry.seq, &text))
            })?;
            self.bodies.push(body);
        }
        self.lines.extend_from_slice(&entry.line);
        self.lines.push(b'\n');
        self.last_seq = entry.seq;
        Ok(())
    }

    async fn send(&mut self, inlet: &Inlet<Few<v1::ExportProofResponse>>) -> Result<(), Ended> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let (lines, last_seq) = (std::mem::take(&mut self.lines), self.last_seq);
        let bodies = std::mem::take(&mut self.bodies);
        let part = v1::ExportProofResponse { lines, last_seq, bodies, ..Default::default() };
        hand_over(inlet, part, self.sent.saturating_add(1)).await?;
        self.sent = last_seq;
        Ok(())
    }
}

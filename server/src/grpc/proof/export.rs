//! The raw lines of the log, byte for byte.

use agentctl_api::v1;
use agentd_core::record::Detached;
use tonic::Status;

use super::super::feed::{self, Ended, Inlet, Outlet};
use super::super::filter::ProofFilter;
use super::super::log::{self, Log};
use super::super::status::Violation;
use super::super::{Services, status};
use crate::journal::Entry;

/// Bytes after which a chunk is sent.
const CHUNK_BYTES: usize = 128 << 10;

/// Starts an export.
pub(super) async fn export(
    services: &Services,
    request: v1::ExportProofRequest,
) -> Result<Outlet<v1::ExportProofResponse>, Status> {
    let mut violations = Vec::new();
    let filter = ProofFilter::parse(request.filter, &mut violations);
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
    if first < oldest {
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
    feed::stream(services, "export-proof", move |inlet| async move {
        send(&log, &inlet, &filter, first, until).await?;
        match damaged {
            Some(damage) => {
                let text = damage.to_string();
                Err(Ended::With(status::data_loss("CHAIN_BROKEN", damage.seq, &text)))
            }
            None => Ok(()),
        }
    })
}

async fn send(
    log: &Log,
    inlet: &Inlet<v1::ExportProofResponse>,
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

    async fn send(&mut self, inlet: &Inlet<v1::ExportProofResponse>) -> Result<(), Ended> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let (lines, last_seq) = (std::mem::take(&mut self.lines), self.last_seq);
        let bodies = std::mem::take(&mut self.bodies);
        inlet.send(v1::ExportProofResponse { lines, last_seq, bodies }).await.map_err(|ended| {
            match ended {
                Ended::Stalled => {
                    let next = self.sent.saturating_add(1).to_string();
                    Ended::With(feed::stalled("first_seq", &next))
                }
                other => other,
            }
        })?;
        self.sent = last_seq;
        Ok(())
    }
}

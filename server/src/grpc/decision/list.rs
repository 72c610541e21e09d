//! Decisions one by one and in pages, with what became of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentctl_api::v1;
use agentd_core::app::AppName;
use agentd_core::record::Detached;
use agentd_core::state::Remembered;
use prost::Message;
use tonic::Status;

use super::super::candidates::Candidates;
use super::super::filter::DecisionFilter;
use super::super::log::{self, Log};
use super::super::page::{PAGE_BYTES, Question, SCAN_RECORDS};
use super::super::to_proto::{self, Aftermath};
use super::super::{Services, from_proto, ids, outcome, status};
use crate::journal::{self, Entry, Reader};
use crate::publish::Published;

/// Records looked at behind a decision for what became of it.
const AFTERMATH_RECORDS: usize = 4_096;

/// The decision with id `id`.
pub(super) async fn get(services: &Services, id: &str) -> Result<v1::Decision, Status> {
    let seq = ids::parse_decision("decision_id", id).map_err(|v| status::invalid(&[v]))?;
    read_decision(services, seq).await.map(|(decision, _)| decision)
}

/// The decision recorded at `seq` with what became of it, and its record.
///
/// # Errors
/// `NOT_FOUND` when there is none, and what reading fails with.
pub(in super::super) async fn read_decision(
    services: &Services,
    seq: u64,
) -> Result<(v1::Decision, Arc<Published>), Status> {
    let log = Log::of(services);
    let found = log.record(seq).await?;
    let decision = found.as_ref().and_then(|found| to_proto::decision(&found.record));
    let (Some(mut decision), Some(found)) = (decision, found) else {
        return Err(status::not_found("decision", &ids::decision(seq)));
    };
    complete(services, &mut decision).await?;
    Ok((decision, found))
}

/// Adds to a recorded decision what became of it.
///
/// # Errors
/// The log cannot be read, or the agent has stopped.
async fn complete(services: &Services, decision: &mut v1::Decision) -> Result<(), Status> {
    let seq = decision.seq;
    let log = Log::of(services);
    let aftermath = log.reading(move |reader| aftermath(reader, seq)).await?;
    aftermath.complete(decision);
    remember(services, std::slice::from_mut(decision)).await
}

/// What the records behind decision `seq` say of it.
fn aftermath(reader: &Reader, seq: u64) -> Result<Aftermath, journal::Error> {
    let mut aftermath = Aftermath::default();
    let (mut next, end) = (seq.saturating_add(1), seq.saturating_add(AFTERMATH_RECORDS as u64));
    // Nothing more happens to a decision whose outcome is known.
    while next <= end && !aftermath.is_concluded() {
        let entries = match log::read_sound(reader, next, log::READ_RECORDS) {
            // What is known up to the damage is still known.
            Err(journal::Error::Damaged(_)) => break,
            other => other?,
        };
        let Some(last) = entries.last().map(|entry| entry.seq) else { break };
        for entry in entries.iter().filter(|entry| may_follow(&entry.line)) {
            if let Ok(record) = reader.blobs().record(&entry.line) {
                aftermath.note(seq, &record);
            }
        }
        next = last.saturating_add(1);
    }
    Ok(aftermath)
}

/// Whether a line can say what became of a decision, by its event name alone.
fn may_follow(line: &[u8]) -> bool {
    const EVENTS: [&str; 7] = [
        "ORCH_EXEC",
        "ORCH_DELIVERED",
        "SYSTEM_STABLE",
        "ACTION_FAILED",
        "ACTION_INCONCLUSIVE",
        "APPROVAL_REQUESTED",
        "DECISION_REPEATED",
    ];
    log::event_name(line).is_none_or(|event| EVENTS.contains(&event))
}

/// Adds what the state remembers of these decisions.
async fn remember(services: &Services, decisions: &mut [v1::Decision]) -> Result<(), Status> {
    let wanted: Vec<(Option<AppName>, u64)> =
        decisions.iter().map(|d| (AppName::parse(&d.app).ok(), d.seq)).collect();
    let known = services.agent.query(move |view| {
        let remembered = |(app, seq): &(Option<AppName>, u64)| -> Option<Remembered> {
            let app = view.state.apps.get(app.as_ref()?)?;
            app.decisions.iter().find(|d| d.seq == *seq).cloned()
        };
        wanted.iter().map(remembered).collect::<Vec<_>>()
    });
    let known = known.await.map_err(outcome::gone)?;
    for (decision, remembered) in decisions.iter_mut().zip(known) {
        if let Some(remembered) = remembered {
            to_proto::complete_remembered(decision, &remembered);
        }
    }
    Ok(())
}

/// Fills in the ruling and the reason of the newest decision of each app, which the state does not keep.
///
/// # Errors
/// The log cannot be read.
pub(super) async fn fill_last_decisions(
    services: &Services,
    apps: &mut [v1::App],
) -> Result<(), Status> {
    let log = Log::of(services);
    for summary in apps.iter_mut().filter_map(|app| app.last_decision.as_mut()) {
        let Ok(seq) = ids::parse_decision("id", &summary.id) else { continue };
        let found = log.record(seq).await?;
        let known = found.and_then(|found| to_proto::decision_summary(&found.record, None));
        if let Some(known) = known {
            *summary = v1::DecisionSummary { outcome: summary.outcome, ..known };
        }
    }
    Ok(())
}

/// A page of decisions, newest first.
pub(super) async fn list(
    services: &Services,
    request: v1::ListDecisionsRequest,
) -> Result<v1::ListDecisionsResponse, Status> {
    let log = Log::of(services);
    let mut violations = Vec::new();
    let asked = request.filter.clone().unwrap_or_default();
    let question = Question::new("ListDecisions", log.id().as_bytes(), &asked);
    let size = from_proto::page_size(request.page_size);
    let before = question.position(&request.page_token, &mut violations);
    let filter = DecisionFilter::parse(request.filter, &mut violations);
    let size = size.unwrap_or_else(|violation| {
        violations.push(violation);
        0
    });
    if !violations.is_empty() {
        return Err(status::invalid(&violations));
    }
    let before = match (before, filter.span.until) {
        (Some(before), _) => before,
        (None, Some(until)) => log.first_at(until).await?,
        (None, None) => u64::MAX,
    };
    let index = services.index.clone().filter(|_| !request.exhaustive);
    let page = log.reading(move |reader| {
        let candidates = Candidates::new(index, filter.wanted());
        let (pending, found) = (BTreeMap::new(), Vec::new());
        Gathering { reader, filter: &filter, candidates, pending, found }.walk(before, size)
    });
    let page = page.await?;
    let mut decisions = Vec::with_capacity(page.found.len());
    for (entry, aftermath) in page.found {
        let record = log.parse(entry.seq, &entry.line)?;
        let Some(mut decision) = to_proto::decision(&record) else { continue };
        aftermath.complete(&mut decision);
        decisions.push(decision);
    }
    let cut = within(&mut decisions, request.summary_only);
    remember(services, &mut decisions).await?;
    let next = match cut {
        Some(before) => Some(before),
        None => page.next,
    };
    let next_page_token = next.map(|before| question.token(before)).unwrap_or_default();
    Ok(v1::ListDecisionsResponse { decisions, next_page_token })
}

/// Cuts a page at its limit in bytes; where the next one goes on, if it was cut.
fn within(decisions: &mut Vec<v1::Decision>, summary_only: bool) -> Option<u64> {
    let mut bytes = 0;
    let mut fit = 0;
    for decision in decisions.iter_mut() {
        if summary_only {
            *decision = to_proto::summarized(std::mem::take(decision));
        }
        bytes += decision.encoded_len();
        if fit > 0 && bytes > PAGE_BYTES {
            break;
        }
        fit += 1;
    }
    let cut = decisions.len() > fit;
    decisions.truncate(fit);
    decisions.last().filter(|_| cut).map(|last| last.seq)
}

struct Found {
    found: Vec<(Entry, Aftermath)>,
    /// The next page begins before it; `None` if there is nothing left.
    next: Option<u64>,
}

/// Decisions that are being gathered, newest first.
struct Gathering<'a> {
    reader: &'a Reader,
    filter: &'a DecisionFilter,
    candidates: Candidates,
    /// What belongs to a decision comes after it in the log, so it is met first.
    pending: BTreeMap<u64, Aftermath>,
    found: Vec<(Entry, Aftermath)>,
}

impl Gathering<'_> {
    /// Walks back from `before`.
    fn walk(mut self, before: u64, size: usize) -> Result<Found, journal::Error> {
        let mut at = before.min(self.reader.durable_seq().saturating_add(1));
        let (mut bytes, mut looked_at) = (0, 0);
        while looked_at < SCAN_RECORDS {
            let step = self.candidates.backward(self.reader, at)?;
            for entry in step.entries {
                (at, looked_at) = (entry.seq, looked_at + 1);
                let length = weight(&entry.line);
                match self.take(entry)? {
                    Met::Decision => bytes = length.saturating_add(bytes),
                    Met::Other => {}
                    Met::TooOld => return Ok(Found { found: self.found, next: None }),
                }
                if self.found.len() >= size || bytes > PAGE_BYTES {
                    return Ok(self.page(at));
                }
            }
            if step.over {
                return Ok(Found { found: self.found, next: None });
            }
            at = step.next;
        }
        Ok(self.page(at))
    }

    fn page(self, at: u64) -> Found {
        Found { found: self.found, next: (at > self.reader.oldest_seq()).then_some(at) }
    }

    fn take(&mut self, entry: Entry) -> Result<Met, journal::Error> {
        let decides = log::event_name(&entry.line).is_none_or(|event| event == "RL_DECISION");
        if !decides && !may_follow(&entry.line) {
            return Ok(Met::Other);
        }
        // What is no record fails where it is asked for by itself; a list goes on.
        let Ok(record) = self.reader.blobs().record(&entry.line) else {
            return Ok(Met::Other);
        };
        if self.filter.span.from.is_some_and(|from| record.at < from) {
            return Ok(Met::TooOld);
        }
        let Some(decided) = record.decision() else {
            if let Some(decision) = record.decision_seq() {
                self.pending.entry(decision).or_default().note(decision, &record);
            }
            return Ok(Met::Other);
        };
        let passed = self.pending.remove(&record.seq).unwrap_or_default();
        if !self.filter.matches(&record, decided) {
            return Ok(Met::Other);
        }
        let (reader, seq) = (self.reader, record.seq);
        let aftermath = match self.candidates.of_decision(reader, seq, AFTERMATH_RECORDS)? {
            Some(entries) => gather(reader, seq, &entries),
            // The walk came by all of it, unless it began with the index.
            None if self.candidates.is_indexed() => aftermath(reader, seq)?,
            None => passed,
        };
        self.found.push((entry, aftermath));
        Ok(Met::Decision)
    }
}

/// Bytes of the record in `line`, with those that lie beside the log.
fn weight(line: &[u8]) -> usize {
    let beside = Detached::in_line(line).map_or(0, |blob| blob.bytes);
    line.len().saturating_add(usize::try_from(beside).unwrap_or(usize::MAX))
}

/// What a walk came by.
enum Met {
    /// A decision that is wanted.
    Decision,
    Other,
    /// Nothing further is wanted.
    TooOld,
}

/// What these entries say of decision `seq`.
fn gather(reader: &Reader, seq: u64, entries: &[Entry]) -> Aftermath {
    let mut aftermath = Aftermath::default();
    for entry in entries {
        if let Ok(record) = reader.blobs().record(&entry.line) {
            aftermath.note(seq, &record);
        }
    }
    aftermath
}

#[cfg(test)]
mod tests {
    use agentd_core::app::Env;
    use agentd_core::chain::GENESIS;
    use agentd_core::record::{Body, Record};

    use super::*;

    #[test]
    fn a_body_beside_the_log_weighs_what_it_is_read_as() {
        let body = Body::Injected { scenario: "crash".to_owned(), what: "x".repeat(100_000) };
        let (env, actor) = (Env::Stage, "agent-1".to_owned());
        let record =
            Record { seq: 1, at: 1, env, app: None, cause: None, actor, trace: None, body };
        let (line, blob) = record.line_detached(GENESIS);
        assert_eq!(weight(&line), line.len() + blob.len());
        let whole = record.line(GENESIS);
        assert_eq!(weight(&whole), whole.len());
    }
}

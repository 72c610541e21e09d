//! What was done to an app, from the log: of an app that was let go as well.

use agentctl_api::v1;
use agentd_core::action::Action;
use agentd_core::app::{AppName, AppSpec, Field, OnboardRequest};
use agentd_core::record::{Body, Record};
use agentd_core::state::Outcome;
use tonic::Status;

use super::super::log::{self, Envelope, Log};
use super::super::page::{PAGE_BYTES, Question, SCAN_RECORDS};
use super::super::{Services, from_proto, ids, status, to_proto};
use crate::journal::{self, Reader};

/// A page of changes, newest first.
pub(super) async fn list(
    services: &Services,
    request: v1::ListAppHistoryRequest,
) -> Result<v1::ListAppHistoryResponse, Status> {
    let log = Log::of(services);
    let missing = || status::not_found("app", &request.name);
    let name = AppName::parse(&request.name).map_err(|_invalid| missing())?;
    let mut violations = Vec::new();
    let about = v1::ListAppHistoryRequest { name: request.name.clone(), ..Default::default() };
    let question = Question::new("ListAppHistory", log.id().as_bytes(), &about);
    let before = question.position(&request.page_token, &mut violations);
    let size = from_proto::page_size(request.page_size).unwrap_or_else(|violation| {
        violations.push(violation);
        0
    });
    if !violations.is_empty() {
        return Err(status::invalid(&violations));
    }
    let at = before.unwrap_or(u64::MAX);
    let (mut records, next) = log.reading(move |reader| scan(reader, &name, at, size)).await?;
    if records.is_empty() && next.is_none() && before.is_none() {
        return Err(missing());
    }
    // One specification more than was asked for: the newest before this page says what the last one changed.
    let older = records.split_off(records.len().min(size));
    let changes = (0..records.len()).filter_map(|index| {
        let rest = records.get(index + 1..).unwrap_or_default().iter().chain(&older);
        records.get(index).map(|record| change(record, rest))
    });
    Ok(v1::ListAppHistoryResponse {
        changes: changes.collect(),
        next_page_token: next.map(|at| question.token(at)).unwrap_or_default(),
    })
}

/// Walks back from `before` to `size` changes and the specification before them.
fn scan(
    reader: &Reader,
    name: &AppName,
    before: u64,
    size: usize,
) -> Result<(Vec<Record>, Option<u64>), journal::Error> {
    let mut at = before.min(reader.durable_seq().saturating_add(1));
    let (mut found, mut next) = (Vec::new(), None);
    let (mut bytes, mut looked_at) = (0, 0);
    while looked_at < SCAN_RECORDS {
        let entries = reader.read_back(at, log::READ_RECORDS, log::READ_BYTES)?;
        if entries.is_empty() {
            return Ok((found, next));
        }
        for entry in entries {
            (at, looked_at) = (entry.seq, looked_at + 1);
            let envelope = Envelope::parse(&entry.line);
            if envelope.is_none_or(|e| e.app.as_deref() != Some(name.as_str())) {
                continue;
            }
            let Ok(record) = Record::parse(&entry.line) else { continue };
            if !is_change(&record) {
                continue;
            }
            bytes += entry.line.len();
            let full = found.len() >= size || bytes > PAGE_BYTES;
            if full && next.is_none() {
                next = found.last().map(|last: &Record| last.seq);
            }
            let spec = matches!(record.body, Body::SpecGenerated { .. });
            if !full || spec {
                found.push(record);
            }
            if full && spec {
                return Ok((found, next));
            }
        }
    }
    Ok((found, next.or((at > reader.oldest_seq()).then_some(at))))
}

/// Whether the record is about what the app is, and not about how it does.
fn is_change(record: &Record) -> bool {
    match &record.body {
        Body::SpecGenerated { .. } | Body::Offboarded { .. } | Body::Injected { .. } => true,
        Body::Attempted(attempt) => changes(attempt.plan.action),
        Body::Concluded(concluded) => changes(concluded.action),
        Body::Refused { action, .. } => !action.is_selectable(),
        Body::ApprovalRequested(approval) => changes(approval.plan.action),
        Body::ApprovalAnswered { .. } => true,
        _ => false,
    }
}

const fn changes(action: Action) -> bool {
    !action.is_selectable()
        || matches!(
            action,
            Action::Rollback
                | Action::RetryDeployment
                | Action::AdjustThresholds
                | Action::ScaleUp
                | Action::ScaleDown
        )
}

fn change<'a>(record: &Record, mut rest: impl Iterator<Item = &'a Record>) -> v1::AppChange {
    let event = to_proto::event(record);
    let (revision, spec_digest, fields) = match &record.body {
        Body::SpecGenerated { spec, digest, revision, .. } => {
            let before = rest.find_map(|older| match &older.body {
                Body::SpecGenerated { spec, .. } => Some(Some(spec)),
                // What came before was another app under the same name.
                Body::Offboarded { .. } => Some(None),
                _ => None,
            });
            let fields = before.flatten().map(|before| differing(before, spec));
            (Some(*revision), ids::digest(digest), fields.unwrap_or_default())
        }
        Body::Attempted(attempt) => (revision_of(&attempt.plan), String::new(), Vec::new()),
        Body::Offboarded { revision, digest } => (Some(*revision), ids::digest(digest), Vec::new()),
        _ => (None, String::new(), Vec::new()),
    };
    v1::AppChange {
        seq: event.seq,
        time: event.time,
        event: event.event,
        actor: record.actor.clone(),
        revision: revision.map(to_proto::revision).unwrap_or_default(),
        spec_digest,
        fields,
        decision_id: event.decision_id,
        summary: match &record.body {
            Body::Concluded(concluded) if concluded.outcome == Outcome::Verified => {
                format!("{} is verified: {}", concluded.action, concluded.detail)
            }
            _ => event.summary,
        },
    }
}

const fn revision_of(plan: &agentd_core::plan::Plan) -> Option<u32> {
    use agentd_core::plan::Operation;
    match plan.operation {
        Operation::Deploy { revision, .. } | Operation::Configure { revision, .. } => {
            Some(revision)
        }
        Operation::Rollback { to, .. } => Some(to),
        _ => None,
    }
}

/// Names of the fields in which two specifications differ.
fn differing(before: &AppSpec, after: &AppSpec) -> Vec<String> {
    let (before, after) = (OnboardRequest::of(before), OnboardRequest::of(after));
    let differs = |field: &Field| before.clone().with(&after, &[*field].into()) != before;
    let named = Field::ALL.into_iter().filter(differs);
    named.map(|field| from_proto::field_name(field).to_owned()).collect()
}

//! `ApprovalService`: what waits for a human, and the human's answer.

use std::collections::{BTreeMap, BTreeSet};

use agentctl_api::v1;
use agentctl_api::v1::approval_service_server::ApprovalService;
use agentd_core::app::{AppName, Millis};
use agentd_core::record::{Body, Record};
use agentd_core::state::{ApprovalState, Promotion};
use agentd_core::step::Reply;
use tonic::{Request, Response, Status};

use super::log::{self, Log};
use super::page::{self, Question, SCAN_RECORDS};
use super::status::Violation;
use super::{Services, decision, filter, from_proto, ids, outcome, status, to_proto};
use crate::agent::Ask;
use crate::journal;

const APPROVE: &str = "ApprovalService/ApproveAction";
const REJECT: &str = "ApprovalService/RejectAction";
/// Records between the answer to an approval and the decision that follows from it.
const FOLLOW_UP: usize = 16;

/// The service.
#[derive(Debug, Clone)]
pub struct Service(pub Services);

#[tonic::async_trait]
impl ApprovalService for Service {
    async fn list_approvals(
        &self,
        request: Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        list(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn get_approval(
        &self,
        request: Request<v1::GetApprovalRequest>,
    ) -> Result<Response<v1::GetApprovalResponse>, Status> {
        let seq = ids::parse_approval(&request.get_ref().approval_id)?;
        let approval = Some(get(&self.0, seq).await?);
        Ok(Response::new(v1::GetApprovalResponse { approval }))
    }

    async fn approve_action(
        &self,
        request: Request<v1::ApproveActionRequest>,
    ) -> Result<Response<v1::ApproveActionResponse>, Status> {
        approve(&self.0, request).await.map(Response::new)
    }

    async fn reject_action(
        &self,
        request: Request<v1::RejectActionRequest>,
    ) -> Result<Response<v1::RejectActionResponse>, Status> {
        reject(&self.0, request).await.map(Response::new)
    }
}

/// The approval that was asked for at `seq`.
pub(super) async fn get(services: &Services, seq: u64) -> Result<v1::Approval, Status> {
    let found = services.agent.query(move |view| {
        let promotion = view.state.learning.promotion(seq).map(to_proto::promotion);
        let approval = || view.state.approvals.get(&seq);
        promotion.or_else(|| approval().map(|approval| to_proto::approval(view, approval)))
    });
    let found = found.await.map_err(outcome::gone)?;
    let mut found = found.ok_or_else(|| status::not_found("approval", &ids::approval(seq)))?;
    answer_times(services, std::slice::from_mut(&mut found)).await?;
    Ok(found)
}

/// Which approvals.
struct Wanted {
    states: Vec<v1::ApprovalState>,
    apps: BTreeSet<String>,
    actions: BTreeSet<&'static str>,
}

impl Wanted {
    fn parse(filter: Option<v1::ApprovalFilter>, violations: &mut Vec<Violation>) -> Self {
        let v1::ApprovalFilter { states, apps, actions } = filter.unwrap_or_default();
        page::check_count("filter.states", states.len(), violations);
        page::check_count("filter.apps", apps.len(), violations);
        for app in apps.iter().filter(|app| AppName::parse(app).is_err()) {
            violations.push(Violation::new("filter.apps", app, AppName::RULE));
        }
        let mut known = Vec::new();
        for number in states {
            match v1::ApprovalState::try_from(number) {
                Ok(state) if state != v1::ApprovalState::Unspecified => known.push(state),
                _ => {
                    let rule = "must be a state of an approval";
                    violations.push(Violation::new("filter.states", number.to_string(), rule));
                }
            }
        }
        if known.is_empty() {
            known.push(v1::ApprovalState::Pending);
        }
        let actions = filter::actions(&actions, violations);
        Self { states: known, apps: apps.into_iter().collect(), actions }
    }

    /// Whether a promotion of what was learned is meant, which is of no app and no action of the agent.
    fn takes(&self, promotion: &Promotion) -> bool {
        self.states.contains(&to_proto::approval_state(promotion.state))
            && self.apps.is_empty()
            && self.actions.is_empty()
    }

    fn matches(&self, approval: &agentd_core::state::Approval) -> bool {
        self.states.contains(&to_proto::approval_state(approval.state))
            && (self.apps.is_empty() || self.apps.contains(approval.plan.app.as_str()))
            && (self.actions.is_empty() || self.actions.contains(approval.plan.action.as_str()))
    }
}

/// A page of approvals, newest first.
async fn list(
    services: &Services,
    request: v1::ListApprovalsRequest,
) -> Result<v1::ListApprovalsResponse, Status> {
    let mut violations = Vec::new();
    let log_id = services.journal.head().log_id;
    let asked = request.filter.clone().unwrap_or_default();
    let question = Question::new("ListApprovals", log_id.as_bytes(), &asked);
    let before = question.position(&request.page_token, &mut violations).unwrap_or(u64::MAX);
    let wanted = Wanted::parse(request.filter, &mut violations);
    let size = from_proto::page_size(request.page_size).unwrap_or_else(|violation| {
        violations.push(violation);
        0
    });
    if !violations.is_empty() {
        return Err(status::invalid(&violations));
    }
    let found = services.agent.query(move |view| {
        let older = view.state.approvals.range(..before).rev();
        let matching = older.filter(|(_, approval)| wanted.matches(approval));
        let mut some: Vec<_> = matching
            .take(size + 1)
            .map(|(seq, approval)| (*seq, to_proto::approval(view, approval)))
            .collect();
        let promotion = view.state.learning.promotion.as_deref();
        if let Some(found) = promotion.filter(|p| p.seq < before && wanted.takes(p)) {
            let at = some.partition_point(|(seq, _)| *seq > found.seq);
            some.insert(at, (found.seq, to_proto::promotion(found)));
        }
        let more = some.len() > size;
        some.truncate(size);
        let next = some.last().map(|(seq, _)| *seq).filter(|_| more);
        (some.into_iter().map(|(_, approval)| approval).collect::<Vec<_>>(), next)
    });
    let (mut approvals, next) = found.await.map_err(outcome::gone)?;
    answer_times(services, &mut approvals).await?;
    let next_page_token = next.map(|before| question.token(before)).unwrap_or_default();
    Ok(v1::ListApprovalsResponse { approvals, next_page_token })
}

/// Adds when each was answered: that is in the log, a short way behind the request.
async fn answer_times(services: &Services, approvals: &mut [v1::Approval]) -> Result<(), Status> {
    let answered = approvals.iter().filter(|approval| !approval.decided_by.is_empty());
    let mut wanted: BTreeSet<u64> =
        answered.filter_map(|approval| ids::parse_approval(&approval.id).ok()).collect();
    let Some(first) = wanted.first().copied() else { return Ok(()) };
    let log = Log::of(services);
    let times = log.reading(move |reader| {
        let mut times: BTreeMap<u64, Millis> = BTreeMap::new();
        let (mut next, mut looked_at) = (first, 0);
        while !wanted.is_empty() && looked_at < SCAN_RECORDS {
            let entries = log::read_sound(reader, next, log::READ_RECORDS)?;
            let Some(last) = entries.last() else { break };
            (next, looked_at) = (last.seq.saturating_add(1), looked_at + entries.len());
            for entry in entries.iter().filter(|entry| may_answer(&entry.line)) {
                let Ok(record) = reader.blobs().record(&entry.line) else { continue };
                if let Body::ApprovalAnswered { approval, .. } = record.body
                    && wanted.remove(&approval)
                {
                    times.insert(approval, record.at);
                }
            }
        }
        Ok::<_, journal::Error>(times)
    });
    let times = times.await?;
    for approval in approvals {
        let at = ids::parse_approval(&approval.id).ok().and_then(|seq| times.get(&seq));
        approval.decide_time = at.copied().map(to_proto::timestamp);
    }
    Ok(())
}

fn may_answer(line: &[u8]) -> bool {
    log::event_name(line)
        .is_none_or(|event| matches!(event, "APPROVAL_GRANTED" | "APPROVAL_REJECTED"))
}

async fn approve(
    services: &Services,
    request: Request<v1::ApproveActionRequest>,
) -> Result<v1::ApproveActionResponse, Status> {
    let (_, extensions, mut content) = request.into_parts();
    let request_id = std::mem::take(&mut content.request_id);
    let by = outcome::by(&extensions, APPROVE, &request_id, &content, false)?;
    let approval = ids::parse_approval(&content.approval_id)?;
    let digest = ids::parse_digest("plan_digest", &content.plan_digest);
    let (digest, comment) = from_proto::both(digest, from_proto::reason(&content.reason))?;
    let ask = Ask::Approve { approval, plan_digest: Some(digest), comment };
    let decided = match outcome::answer(services.agent.ask(ask, by).await)? {
        Reply::Decided { seq: Some(seq), .. } => seq,
        // What was learned is put in force: no gate judges that, and nothing is executed.
        Reply::Done { .. } => return promoted(services, approval).await,
        Reply::Repeated { .. } if is_promotion(services, approval).await? => {
            return promoted(services, approval).await;
        }
        Reply::Repeated { seq } => decided_after(services, seq, approval).await?,
        other => return Err(unexpected(&other, &request_id)),
    };
    let (decision, _) = decision::read_decision(services, decided).await?;
    let approval = Some(get(services, approval).await?);
    Ok(v1::ApproveActionResponse { approval, decision: Some(decision) })
}

async fn promoted(services: &Services, approval: u64) -> Result<v1::ApproveActionResponse, Status> {
    let approval = Some(get(services, approval).await?);
    Ok(v1::ApproveActionResponse { approval, decision: None })
}

async fn is_promotion(services: &Services, approval: u64) -> Result<bool, Status> {
    let known = services.agent.query(move |view| view.state.learning.promotion(approval).is_some());
    known.await.map_err(outcome::gone)
}

async fn reject(
    services: &Services,
    request: Request<v1::RejectActionRequest>,
) -> Result<v1::RejectActionResponse, Status> {
    let (_, extensions, mut content) = request.into_parts();
    let request_id = std::mem::take(&mut content.request_id);
    let by = outcome::by(&extensions, REJECT, &request_id, &content, false)?;
    let approval = ids::parse_approval(&content.approval_id)?;
    let comment =
        from_proto::reason(&content.reason).map_err(|violation| status::invalid(&[violation]))?;
    let ask = Ask::Reject { approval, comment };
    match outcome::answer(services.agent.ask(ask, by).await)? {
        Reply::Done { .. } | Reply::Repeated { .. } => {
            let approval = Some(get(services, approval).await?);
            Ok(v1::RejectActionResponse { approval })
        }
        other => Err(unexpected(&other, &request_id)),
    }
}

fn unexpected(reply: &Reply, request_id: &str) -> Status {
    tracing::error!(?reply, "the loop answered an approval with something else");
    status::internal(request_id)
}

/// The decision that followed when `approval` was granted by the record at `answered`.
async fn decided_after(services: &Services, answered: u64, approval: u64) -> Result<u64, Status> {
    let behind = Log::of(services).after(answered, FOLLOW_UP).await?;
    let executes = |record: &Record| {
        let grant = record.decision().and_then(|decided| decided.proposal.grant.as_ref());
        grant.is_some_and(|grant| grant.approval == approval)
    };
    let found = behind.iter().find(|published| executes(&published.record));
    found.map(|published| published.record.seq).ok_or_else(|| {
        let (id, state) = (ids::approval(approval), ApprovalState::Approved);
        tracing::error!(%id, ?state, "no decision follows the answer");
        status::internal(&id)
    })
}

#[cfg(test)]
mod tests;

//! A second person answers what the first one asked for.

use std::time::Duration;

use agentctl_api::v1::approval_service_server::ApprovalService as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::auth::{Principal, Role};
use crate::grpc::decision::tests::propose;
use crate::grpc::decision::tests::server::{Server, adjustment};

/// A server where an operator's request waits for a second person.
async fn waiting() -> (Server, v1::Approval) {
    let server = Server::ready().await;
    let held = propose(&server, adjustment("0.85")).await.unwrap();
    assert_eq!(held.ruling(), v1::Ruling::Held, "{}", held.summary);
    let mut all = list(&server, v1::ListApprovalsRequest::default()).await.unwrap().approvals;
    assert_eq!(all.len(), 1);
    (server, all.remove(0))
}

fn service(server: &Server) -> Service {
    Service(server.services.clone())
}

async fn list(
    server: &Server,
    request: v1::ListApprovalsRequest,
) -> Result<v1::ListApprovalsResponse, Status> {
    let request = Server::ask(Role::Viewer, request);
    service(server).list_approvals(request).await.map(Response::into_inner)
}

fn as_principal<T>(name: &str, role: Role, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Principal::new(name, [role], None));
    request
}

fn yes(approval: &v1::Approval) -> v1::ApproveActionRequest {
    v1::ApproveActionRequest {
        approval_id: approval.id.clone(),
        plan_digest: approval.plan.as_ref().expect("a plan").digest.clone(),
        reason: "looks right".into(),
        request_id: String::new(),
    }
}

async fn approve(
    server: &Server,
    name: &str,
    request: v1::ApproveActionRequest,
) -> Result<v1::ApproveActionResponse, Status> {
    let request = as_principal(name, Role::Approver, request);
    service(server).approve_action(request).await.map(Response::into_inner)
}

fn told(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().expect("an ErrorInfo").reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_person_approves_and_the_plan_runs_once() {
    let (server, approval) = waiting().await;
    assert_eq!(approval.state(), v1::ApprovalState::Pending);
    assert_eq!(approval.requested_by, "operator");
    assert!(approval.expire_time.is_some() && !approval.summary.is_empty());
    let request_id = "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned();
    let request = v1::ApproveActionRequest { request_id, ..yes(&approval) };
    let answer = approve(&server, "grace", request.clone()).await.unwrap();
    let decision = answer.decision.expect("a decision");
    assert_eq!(decision.ruling(), v1::Ruling::Permitted, "{}", decision.summary);
    assert_eq!(decision.approval_id, approval.id);
    let now = answer.approval.expect("the approval");
    assert_eq!((now.decided_by.as_str(), now.decide_reason.as_str()), ("grace", "looks right"));
    assert!(now.decide_time.is_some());

    let again = approve(&server, "grace", request).await.unwrap();
    assert_eq!(again.decision.expect("the same decision").id, decision.id);
    let status = approve(&server, "grace", yes(&approval)).await.unwrap_err();
    assert_eq!(told(&status), (Code::FailedPrecondition, "REQUEST_CLOSED".into()));
    let web = AppName::parse("web").unwrap();
    let moved = move |view: &crate::agent::AgentView<'_>| {
        view.state.apps.get(&web).map(|app| app.adjusted.len())
    };
    assert_eq!(server.until(moved).await, 1, "the threshold is in force");
    let outcome = decision.outcome.expect("a threshold is in force at once");
    assert_eq!(outcome.kind(), v1::OutcomeKind::Verified);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asked_cannot_approve_and_nobody_approves_what_they_did_not_see() {
    let (server, approval) = waiting().await;
    let status = approve(&server, "operator", yes(&approval)).await.unwrap_err();
    assert_eq!(told(&status), (Code::PermissionDenied, "SELF_APPROVAL".into()));
    let plan_digest = format!("sha256:{}", "0".repeat(64));
    let stale = v1::ApproveActionRequest { plan_digest, ..yes(&approval) };
    let status = approve(&server, "grace", stale).await.unwrap_err();
    assert_eq!(told(&status), (Code::Aborted, "REQUEST_CHANGED".into()));
    let pending = &status.get_details_error_info().unwrap().metadata["plan_digest"];
    assert_eq!(*pending, approval.plan.as_ref().unwrap().digest, "what is pending is told");

    let empty = v1::ApproveActionRequest {
        approval_id: approval.id.clone(),
        ..v1::ApproveActionRequest::default()
    };
    let status = approve(&server, "grace", empty).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2);
    let unknown = v1::ApproveActionRequest { approval_id: "apr-9999".into(), ..yes(&approval) };
    assert_eq!(approve(&server, "grace", unknown).await.unwrap_err().code(), Code::NotFound);
    let now = list(&server, v1::ListApprovalsRequest::default()).await.unwrap().approvals;
    assert_eq!(now, [approval], "it still waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_comes_too_late_is_no_approval() {
    let (server, approval) = waiting().await;
    server.services.clock.advance(Duration::from_secs(3_600).as_millis() as u64);
    let status = approve(&server, "grace", yes(&approval)).await.unwrap_err();
    assert_eq!(told(&status), (Code::FailedPrecondition, "APPROVAL_EXPIRED".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_is_on_record_with_its_reason() {
    let (server, approval) = waiting().await;
    let reject = v1::RejectActionRequest {
        approval_id: approval.id.clone(),
        reason: "not today".into(),
        request_id: String::new(),
    };
    let request = as_principal("grace", Role::Approver, reject);
    let answer = service(&server).reject_action(request).await.unwrap().into_inner();
    let now = answer.approval.expect("the approval");
    assert_eq!(now.state(), v1::ApprovalState::Rejected);
    assert_eq!(now.decide_reason, "not today");
    assert!(now.decide_time.is_some());
    let none = list(&server, v1::ListApprovalsRequest::default()).await.unwrap();
    assert!(none.approvals.is_empty(), "pending ones are what a list shows by default");
    let states = vec![v1::ApprovalState::Rejected.into()];
    let filter = Some(v1::ApprovalFilter { states, ..Default::default() });
    let request = v1::ListApprovalsRequest { filter, ..Default::default() };
    assert_eq!(list(&server, request).await.unwrap().approvals, [now]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_approvals_walk_everything_once_newest_first() {
    let (server, _) = waiting().await;
    // Each new plan takes the place of the one before.
    for n in 1..7 {
        propose(&server, adjustment(&format!("0.8{n}"))).await.unwrap();
    }
    let states = [v1::ApprovalState::Pending.into(), v1::ApprovalState::Superseded.into()];
    let filter = Some(v1::ApprovalFilter { states: states.to_vec(), ..Default::default() });
    let mut request = v1::ListApprovalsRequest { page_size: 3, filter, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = list(&server, request.clone()).await.unwrap();
        assert!(page.approvals.len() <= 3);
        found.extend(page.approvals);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let entered =
        |approval: &v1::Approval| approval.plan.as_ref().unwrap().parameters["enter"].clone();
    let entered: Vec<String> = found.iter().map(entered).collect();
    assert_eq!(entered[..3], ["0.860", "0.850", "0.840"]);
    assert_eq!(found[1].superseded_by, found[0].id);
    let filter = v1::ApprovalFilter {
        states: vec![77],
        apps: vec!["NO".into()],
        actions: vec!["dance".into()],
    };
    let bad = v1::ListApprovalsRequest { filter: Some(filter), ..Default::default() };
    let status = list(&server, bad).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 3);
}

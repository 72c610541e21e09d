//! What was learned is shown, brought and promoted over the wire.

use agentctl_api::v1::approval_service_server::ApprovalService as _;
use agentd_core::action::Action;
use agentd_core::backtest::Verdict;
use agentd_core::choose::ccq::{Fixed, Knowledge, OWN, Signature, Trial};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::auth::{Principal, Role};
use crate::grpc::telemetry::harness::Server;

fn service(server: &Server) -> Service {
    Service::new(server.services.clone())
}

fn told(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().expect("an ErrorInfo").reason)
}

fn fields(status: &Status) -> Vec<(String, String)> {
    let found = status.get_details_bad_request().expect("violations").field_violations;
    found.into_iter().map(|one| (one.field, one.description)).collect()
}

/// What an agent of `env` knows that has restarted something a few times.
fn snapshot(env: Env) -> String {
    let mut knowledge = Knowledge::default();
    for n in 0..9 {
        let (signature, action) = (Signature::Down, Action::Restart);
        let (cost, cost0, chance) = (Fixed::ONE, Fixed::ONE, Fixed::micro(800_000));
        let resolved = n % 3 != 0;
        knowledge.learn(OWN, &Trial { signature, action, resolved, cost, chance, cost0 });
    }
    let learned = Expertise { knowledge, ..Expertise::default() };
    Snapshot::new(env, "agent-else", 7, &learned, &[]).text()
}

async fn import(
    server: &Server,
    snapshot: String,
    weak_prior: bool,
) -> Result<v1::ImportLearningResponse, Status> {
    let reason = "from the drill".to_owned();
    let request = v1::ImportLearningRequest { snapshot, weak_prior, reason, ..Default::default() };
    let request = Server::ask(Role::Admin, request);
    service(server).import_learning(request).await.map(Response::into_inner)
}

async fn shown(server: &Server, candidate: bool) -> Result<v1::GetLearningResponse, Status> {
    let request = Server::ask(Role::Viewer, v1::GetLearningRequest { candidate });
    service(server).get_learning(request).await.map(Response::into_inner)
}

async fn promote(
    server: &Server,
    candidate_digest: &str,
) -> Result<v1::PromoteLearningResponse, Status> {
    let request = v1::PromoteLearningRequest {
        candidate_digest: candidate_digest.to_owned(),
        reason: "it knows more".to_owned(),
        ..Default::default()
    };
    let request = Server::ask(Role::Operator, request);
    service(server).promote_learning(request).await.map(Response::into_inner)
}

#[tokio::test]
async fn what_is_brought_is_checked_whole_and_shown_again() {
    let server = Server::start(Env::Stage);
    let text = snapshot(Env::Stage);
    let answer = import(&server, text.clone(), false).await.unwrap();
    assert!(answer.seq > 0 && !answer.candidate && !answer.weak_prior, "{answer:?}");
    let now = shown(&server, false).await.unwrap();
    assert_eq!(now.digest, answer.digest);
    let read = Snapshot::parse(&now.snapshot).unwrap();
    assert_eq!(read.knowledge, Snapshot::parse(&text).unwrap().knowledge);
    assert_eq!(read.parents, [Snapshot::parse(&text).unwrap().digest]);
    let again = import(&server, text.clone(), false).await.unwrap();
    assert_eq!(again.seq, 0, "everything in it is known");

    let touched = text.replace("\"trials\": 9", "\"trials\": 10");
    let status = import(&server, touched, false).await.unwrap_err();
    assert_eq!(told(&status), (Code::InvalidArgument, "LEARNING_INVALID".into()));
    let [(field, rule)] = &fields(&status)[..] else { panic!("{status:?}") };
    assert!(field == "snapshot" && rule.contains("`digest`"), "{field} {rule}");
    let cut = text.split_at(text.len() / 2).0.to_owned();
    let status = import(&server, cut, false).await.unwrap_err();
    let [(field, rule)] = &fields(&status)[..] else { panic!("{status:?}") };
    assert!(field.starts_with("snapshot.knowledge.origins"), "{field}");
    assert!(rule.contains("line "), "{rule}");
    let status = import(&server, snapshot(Env::Dev), false).await.unwrap_err();
    let [(field, rule)] = &fields(&status)[..] else { panic!("{status:?}") };
    assert!(field == "snapshot.env" && rule.contains("weak prior"), "{field} {rule}");
    assert_eq!(shown(&server, false).await.unwrap().digest, now.digest, "nothing is half loaded");
    let weak = import(&server, snapshot(Env::Dev), true).await.unwrap();
    assert!(weak.weak_prior && weak.from_environment == "dev", "{weak:?}");

    let status = promote(&server, "").await.unwrap_err();
    assert_eq!(told(&status), (Code::FailedPrecondition, "NO_CANDIDATE".into()));
    let status = shown(&server, true).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let reset = v1::ResetLearningRequest { reason: "drill".into(), ..Default::default() };
    let reset = service(&server).reset_learning(Server::ask(Role::Admin, reset)).await;
    let reset = reset.unwrap().into_inner();
    assert!(reset.seq > 0 && reset.digest == weak.digest, "{reset:?}");
}

#[tokio::test]
async fn prod_promotes_what_the_log_speaks_for_and_another_human_approves() {
    let server = Server::start(Env::Prod);
    let before = shown(&server, false).await.unwrap();
    let answer = import(&server, snapshot(Env::Prod), false).await.unwrap();
    assert!(answer.candidate, "in prod nothing is in force before it is promoted");
    let now = shown(&server, true).await.unwrap();
    assert_eq!((&now.digest, &now.candidate_digest), (&before.digest, &answer.digest));
    Snapshot::parse(&now.snapshot).unwrap();

    // Nothing has happened on this server, so its log speaks for nothing.
    let status = promote(&server, "").await.unwrap_err();
    assert_eq!(told(&status), (Code::FailedPrecondition, "BACKTEST_NOT_PASSED".into()));
    assert!(status.message().contains("inconclusive"), "{}", status.message());
    let other = format!("sha256:{}", "0".repeat(64));
    let status = promote(&server, &other).await.unwrap_err();
    assert_eq!(told(&status), (Code::Aborted, "CANDIDATE_CHANGED".into()));

    // A log that speaks for it, as if it had been read.
    let state = |view: &crate::agent::AgentView<'_>| (view.state.acting(), view.state.taught());
    let (acting, candidate) = server.services.agent.query(state).await.unwrap();
    let backtest = Backtested {
        acting: acting.digest(),
        candidate: candidate.digest(),
        upto: 1,
        differing: 0,
        situations: 12,
        outcomes: 12,
        difference: agentd_core::backtest::Interval::default(),
        verdict: Verdict::Better,
        why: None,
    };
    let ask = Ask::Promote { backtest: Box::new(backtest), reason: "it knows more".into() };
    let by = By { principal: "grace".into(), human: true, request: None, validate_only: false };
    server.services.agent.ask(ask, by).await.unwrap().unwrap();

    let approvals = approval::Service(server.services.clone());
    let request = Server::ask(Role::Viewer, v1::ListApprovalsRequest::default());
    let listed = approvals.list_approvals(request).await.unwrap().into_inner().approvals;
    let [waiting] = &listed[..] else { panic!("{listed:?}") };
    let plan = waiting.plan.as_ref().unwrap();
    assert_eq!(
        (plan.action.as_str(), plan.parameters["verdict"].as_str()),
        (to_proto::PROMOTE, "better")
    );
    assert_eq!(shown(&server, false).await.unwrap().approval_id, waiting.id);
    let yes = v1::ApproveActionRequest {
        approval_id: waiting.id.clone(),
        plan_digest: plan.digest.clone(),
        reason: "read it".into(),
        request_id: "67e55044-10b1-426f-9247-bb680e5fe0c8".into(),
    };
    let asks = |name: &str| {
        let mut request = Request::new(yes.clone());
        let who = Principal::new(name, [Role::Approver], None);
        request.extensions_mut().insert(who);
        approvals.approve_action(request)
    };
    let status = asks("grace").await.unwrap_err();
    assert_eq!(told(&status), (Code::PermissionDenied, "SELF_APPROVAL".into()));
    for _ in 0..2 {
        let done = asks("ann").await.unwrap().into_inner();
        assert!(done.decision.is_none());
        let now = done.approval.unwrap();
        assert_eq!((now.state(), now.decided_by.as_str()), (v1::ApprovalState::Verified, "ann"));
        assert!(now.decide_time.is_some());
    }
    let after = shown(&server, false).await.unwrap();
    assert_eq!((after.digest, after.candidate_digest), (answer.digest, String::new()));
    assert!(after.approval_id.is_empty());
}

//! Rules that are checked, applied and tried against a running loop.

use agentd_core::app::Env;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::auth::Role;
use crate::grpc::telemetry::harness::Server;

fn service(server: &Server) -> Service {
    Service(server.services.clone())
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("an ErrorInfo").reason
}

async fn current(server: &Server) -> Policy {
    server.services.agent.query(|view| view.policy.clone()).await.unwrap()
}

fn text(policy: &Policy) -> String {
    toml::to_string(policy).unwrap()
}

async fn apply(
    server: &Server,
    request: v1::ApplyPolicyRequest,
) -> Result<v1::ApplyPolicyResponse, Status> {
    let request = v1::ApplyPolicyRequest { reason: "drill".into(), ..request };
    let answer = service(server).apply_policy(Server::ask(Role::Admin, request)).await;
    answer.map(Response::into_inner)
}

async fn applied(server: &Server) -> usize {
    let entries = server.services.journal.reader().read(1, 4_096, usize::MAX).unwrap();
    entries.iter().filter(|e| log::event_name(&e.line) == Some("POLICY_APPLIED")).count()
}

#[tokio::test]
async fn a_policy_is_checked_completely_and_compared_with_the_one_in_force() {
    let server = Server::start(Env::Dev);
    let mut policy = current(&server).await;
    policy.repetition.limit = 4;
    let validate = |text: String| {
        let request = Server::ask(Role::Viewer, v1::ValidatePolicyRequest { text });
        let service = service(&server);
        async move { service.validate_policy(request).await.unwrap().into_inner() }
    };
    let good = validate(text(&policy)).await;
    assert!(good.faults.is_empty(), "{good:?}");
    let told: Vec<_> = good.differences.iter().map(|d| d.setting.as_str()).collect();
    assert_eq!(told, ["repetition.limit"]);
    policy.repetition.window_ms = 1;
    policy.env = Env::Prod;
    let bad = validate(text(&policy)).await;
    let fields: Vec<_> = bad.faults.iter().map(|f| f.field.as_str()).collect();
    assert!(fields.contains(&"env") && fields.contains(&"repetition.window_ms"), "{fields:?}");
    let none = validate("limit = ".to_owned()).await;
    assert!(none.digest.is_empty() && none.faults[0].rule.contains("line 1"), "{none:?}");
    assert_eq!(applied(&server).await, 1, "only the one of the start");
}

#[tokio::test]
async fn an_applied_policy_is_in_force_on_record_and_answered_once() {
    let server = Server::start(Env::Dev);
    let before = current(&server).await;
    let mut next = before.clone();
    next.budget.per_hour = 7;
    let request = v1::ApplyPolicyRequest {
        request_id: "67e55044-10b1-426f-9247-bb680e5fe0c8".into(),
        text: text(&next),
        expected_digest: ids::digest(&before.digest()),
        ..Default::default()
    };
    let first = apply(&server, request.clone()).await.unwrap();
    assert_eq!(current(&server).await, next);
    assert_eq!(first.digest, ids::digest(&next.digest()));
    assert_eq!(first.previous_digest, ids::digest(&before.digest()));
    assert_eq!(first.differences.len(), 1);
    let again = apply(&server, request).await.unwrap();
    assert_eq!(again, first, "the same request is answered the same");
    assert_eq!(applied(&server).await, 2);
    let stale = v1::ApplyPolicyRequest {
        text: text(&before),
        expected_digest: ids::digest(&before.digest()),
        ..Default::default()
    };
    let status = apply(&server, stale).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Aborted, "POLICY_CHANGED".to_owned()));
    let same = v1::ApplyPolicyRequest { text: text(&next), ..Default::default() };
    assert_eq!(apply(&server, same).await.unwrap().seq, 0, "nothing differs");
    let dry =
        v1::ApplyPolicyRequest { text: text(&before), validate_only: true, ..Default::default() };
    assert_eq!(apply(&server, dry).await.unwrap().seq, 0);
    assert_eq!(current(&server).await, next);
}

#[tokio::test]
async fn a_bad_policy_keeps_the_one_in_force() {
    let server = Server::start(Env::Dev);
    let before = current(&server).await;
    let mut bad = before.clone();
    bad.confidence.r1 = 3;
    bad.breaker.failures = 0;
    let request = v1::ApplyPolicyRequest { text: text(&bad), ..Default::default() };
    let status = apply(&server, request).await.unwrap_err();
    assert_eq!(reason(&status), "POLICY_INVALID");
    let told = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(told.len(), 2, "{told:?}");
    let unreadable = v1::ApplyPolicyRequest { text: "x".into(), ..Default::default() };
    assert_eq!(apply(&server, unreadable).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!((current(&server).await, applied(&server).await), (before, 1));
}

#[tokio::test]
async fn a_simulation_tells_what_would_differ_and_touches_nothing() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    server.until_ready("web").await;
    let executed = server.memory.executed();
    let head = server.services.publisher.newest();
    let simulate = |request: v1::SimulatePolicyRequest| {
        let request = Server::ask(Role::Viewer, request);
        let service = service(&server);
        async move { service.simulate_policy(request).await.map(Response::into_inner) }
    };
    let settings = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        v1::SimulatePolicyRequest { settings: pairs.collect(), ..Default::default() }
    };
    let off = simulate(settings(&[("levels.DEPLOY", "OFF")])).await.unwrap();
    assert_eq!(off.differences.len(), 1, "{off:?}");
    let differs = &off.differences[0];
    assert_eq!(
        (differs.ruling(), differs.new_ruling()),
        (v1::Ruling::Permitted, v1::Ruling::Refused)
    );
    assert_eq!(
        (differs.app.as_str(), differs.new_reason.as_str()),
        ("web", "ACTION_ELIGIBILITY_FAILED")
    );
    assert_eq!(differs.gates, ["autonomy"]);
    let same =
        v1::SimulatePolicyRequest { text: text(&current(&server).await), ..Default::default() };
    let same = simulate(same).await.unwrap();
    assert!(same.judged >= 1 && same.differences.is_empty(), "the same policy: nothing differs");
    let one = v1::SimulatePolicyRequest {
        which: Some(v1::simulate_policy_request::Which::DecisionId(differs.decision_id.clone())),
        ..settings(&[("levels.DEPLOY", "PROPOSE")])
    };
    let one = simulate(one).await.unwrap();
    assert_eq!((one.judged, one.differences.len()), (1, 0), "a human's deployment in dev: {one:?}");
    let faulty = simulate(settings(&[("repetition.window_ms", "1")])).await.unwrap();
    assert!(!faulty.faults.is_empty(), "it can be tried, and could not be applied");
    for bad in [
        v1::SimulatePolicyRequest::default(),
        settings(&[("no.such", "1")]),
        settings(&[("repetition.limit", "many")]),
        v1::SimulatePolicyRequest { limit: -1, ..settings(&[("repetition.limit", "4")]) },
        v1::SimulatePolicyRequest {
            apps: vec!["A".into()],
            ..settings(&[("repetition.limit", "4")])
        },
        v1::SimulatePolicyRequest { text: "?".into(), ..Default::default() },
    ] {
        assert_eq!(simulate(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let missing = v1::SimulatePolicyRequest {
        which: Some(v1::simulate_policy_request::Which::DecisionId("dec-1".into())),
        ..settings(&[("repetition.limit", "4")])
    };
    assert_eq!(simulate(missing).await.unwrap_err().code(), Code::NotFound);
    let decisions = server.services.journal.reader().read(head + 1, 4_096, usize::MAX).unwrap();
    let decided = decisions.iter().any(|e| log::event_name(&e.line) == Some("RL_DECISION"));
    assert!(!decided && server.memory.executed() == executed, "no decision, no effect");
}

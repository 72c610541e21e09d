//! Apps that are changed, let go and looked back on.

use agentctl_api::v1::onboarding_service_server::OnboardingService as _;
use agentd_core::app::Env;
use tonic::{Code, Response};
use tonic_types::StatusExt as _;

use super::super::Service;
use super::*;
use crate::auth::Role;
use crate::grpc::telemetry::harness::{Server, onboarding};

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("an ErrorInfo").reason
}

async fn ask(
    server: &Server,
    request: v1::UpdateAppRequest,
) -> Result<v1::UpdateAppResponse, Status> {
    let service = Service(server.services.clone());
    service.update_app(Server::ask(Role::Operator, request)).await.map(Response::into_inner)
}

/// A request that replaces these fields.
fn request(paths: &[&str], specification: v1::OnboardAppRequest) -> v1::UpdateAppRequest {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    v1::UpdateAppRequest {
        specification: Some(v1::OnboardAppRequest { name: "web".into(), ..specification }),
        update_mask: Some(prost_types::FieldMask { paths }),
        ..Default::default()
    }
}

fn labelled(value: &str) -> v1::UpdateAppRequest {
    let labels = [("team".to_owned(), value.to_owned())].into();
    request(&["labels"], v1::OnboardAppRequest { labels, ..Default::default() })
}

async fn etag(server: &Server) -> String {
    let name = AppName::parse("web").unwrap();
    look_up(&server.services, name).await.unwrap().unwrap().0.etag
}

#[tokio::test]
async fn settings_are_in_force_with_the_answer_and_nothing_is_restarted() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    server.until_ready("web").await;
    let executed = server.memory.executed();
    let before = etag(&server).await;
    let change = v1::UpdateAppRequest { etag: before.clone(), ..labelled("shop") };
    let answer = ask(&server, change.clone()).await.unwrap();
    let decision = answer.decision.unwrap();
    assert_eq!((decision.action.as_str(), decision.ruling()), ("CONFIGURE", v1::Ruling::Permitted));
    let app = answer.app.unwrap();
    assert_eq!((app.revision.as_str(), app.labels["team"].as_str()), ("2", "shop"));
    assert_ne!(app.etag, before);
    assert_eq!(server.memory.executed(), executed, "no process was touched");
    let status = ask(&server, change).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Aborted, "ETAG_MISMATCH".to_owned()));
    let same = ask(&server, labelled("shop")).await.unwrap();
    assert!(same.unchanged && same.decision.is_none(), "{same:?}");
    assert_eq!(etag(&server).await, app.etag);
}

#[tokio::test]
async fn a_new_program_is_deployed_and_a_repeat_of_the_request_is_not_another_one() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    server.until_ready("web").await;
    let exec = v1::ExecSource { path: "/bin/true".into(), args: vec!["2".into()] };
    let source = Some(v1::onboard_app_request::Source::Exec(exec));
    let change = v1::UpdateAppRequest {
        request_id: "67e55044-10b1-426f-9247-bb680e5fe0c8".into(),
        ..request(&["source"], v1::OnboardAppRequest { source, ..Default::default() })
    };
    let dry =
        v1::UpdateAppRequest { validate_only: true, request_id: String::new(), ..change.clone() };
    let judged = ask(&server, dry).await.unwrap();
    assert_eq!(judged.decision.unwrap().action, "DEPLOY");
    assert!(judged.events.is_empty());
    let first = ask(&server, change.clone()).await.unwrap();
    assert_eq!(first.decision.as_ref().unwrap().ruling(), v1::Ruling::Permitted);
    let again = ask(&server, change).await.unwrap();
    assert_eq!((again.events, again.spec_digest), (first.events, first.spec_digest));
    assert_eq!(server.memory.executed().len(), 2, "the onboarding and one update");
}

#[tokio::test]
async fn everything_that_is_wrong_with_an_update_is_told_and_what_is_not_meant_does_not_count() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let exec = v1::ExecSource { path: "/nowhere/to/be/found".into(), args: vec![] };
    let wrong = v1::OnboardAppRequest {
        source: Some(v1::onboard_app_request::Source::Exec(exec)),
        min_instances: Some(900),
        labels: [("protected".to_owned(), "maybe".to_owned())].into(),
        maintenance_windows: vec![v1::MaintenanceWindow {
            name: "x".into(),
            start: "soon".into(),
            ..Default::default()
        }],
        listen: "nonsense".into(),
        ..Default::default()
    };
    let paths = ["exec", "min_instances", "labels", "maintenance_windows", "colour", "name"];
    let status = ask(&server, request(&paths, wrong.clone())).await.unwrap_err();
    let told = status.get_details_bad_request().unwrap().field_violations;
    let told: Vec<_> = told.iter().map(|violation| violation.field.as_str()).collect();
    for field in [
        "exec.path",
        "min_instances",
        "labels",
        "maintenance_windows[0].start",
        "maintenance_windows[0].end",
        "update_mask",
    ] {
        assert!(told.contains(&field), "{field} in {told:?}");
    }
    assert!(!told.contains(&"listen"), "nobody meant it: {told:?}");
    let nothing = ask(&server, request(&[], wrong.clone())).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    let mut missing = request(&["labels"], v1::OnboardAppRequest::default());
    missing.specification.as_mut().unwrap().name = "other".into();
    assert_eq!(ask(&server, missing).await.unwrap_err().code(), Code::NotFound);
}

async fn history(
    server: &Server,
    request: v1::ListAppHistoryRequest,
) -> Result<v1::ListAppHistoryResponse, Status> {
    let service = Service(server.services.clone());
    service.list_app_history(Server::ask(Role::Viewer, request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn an_app_is_let_go_its_name_is_free_and_its_history_stays() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    server.until_ready("web").await;
    ask(&server, labelled("shop")).await.unwrap();
    let service = Service(server.services.clone());
    let go =
        v1::OffboardAppRequest { name: "web".into(), reason: "moved".into(), ..Default::default() };
    let no_reason = v1::OffboardAppRequest { reason: " ".into(), ..go.clone() };
    let status = service.offboard_app(Server::ask(Role::Operator, no_reason)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let stale = v1::OffboardAppRequest { etag: "old".into(), ..go.clone() };
    let status = service.offboard_app(Server::ask(Role::Operator, stale)).await.unwrap_err();
    assert_eq!(reason(&status), "ETAG_MISMATCH");
    let answer = service.offboard_app(Server::ask(Role::Operator, go.clone())).await.unwrap();
    let decision = answer.into_inner().decision.unwrap();
    assert_eq!((decision.action.as_str(), decision.ruling()), ("OFFBOARD", v1::Ruling::Permitted));
    let name = AppName::parse("web").unwrap();
    let gone = async {
        while look_up(&server.services, name.clone()).await.unwrap().is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.expect("it is let go");
    assert!(server.services.ingest.find("web").is_none(), "signals about it are refused");
    let all =
        history(&server, v1::ListAppHistoryRequest { name: "web".into(), ..Default::default() });
    let all = all.await.unwrap().changes;
    let events: Vec<_> = all.iter().map(|change| change.event.as_str()).collect();
    assert_eq!(events.first(), Some(&"APP_OFFBOARDED"), "{events:?}");
    let specs: Vec<_> = all.iter().filter(|c| c.event == "SPEC_GENERATED").collect();
    assert_eq!(specs.len(), 2);
    assert_eq!(
        (specs[0].fields.as_slice(), specs[0].revision.as_str()),
        (&["labels".to_owned()][..], "2")
    );
    assert!(specs[1].fields.is_empty(), "the first one differs from nothing");

    let mut token = String::new();
    let mut paged = Vec::new();
    loop {
        let request =
            v1::ListAppHistoryRequest { name: "web".into(), page_size: 2, page_token: token };
        let page = history(&server, request).await.unwrap();
        assert!(page.changes.len() <= 2);
        paged.extend(page.changes);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all, "pages add up to the whole");
    let unknown = v1::ListAppHistoryRequest { name: "other".into(), ..Default::default() };
    assert_eq!(history(&server, unknown).await.unwrap_err().code(), Code::NotFound);
    let forged =
        v1::ListAppHistoryRequest { name: "web".into(), page_token: "x".into(), page_size: -1 };
    assert_eq!(history(&server, forged).await.unwrap_err().code(), Code::InvalidArgument);
    let again = service.onboard_app(Server::ask(Role::Operator, onboarding("web"))).await.unwrap();
    assert_eq!(again.into_inner().app.unwrap().revision, "1", "another app under the same name");
}

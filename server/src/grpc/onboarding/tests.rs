use std::collections::BTreeMap;
use std::time::Duration;

use agentd_core::app::Env;
use agentd_core::record::Record;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::auth::Role;
use crate::grpc::telemetry::harness::{Server, onboarding};

fn service(server: &Server) -> Service {
    Service(server.services.clone())
}

async fn ask(
    server: &Server,
    request: v1::OnboardAppRequest,
) -> Result<v1::OnboardAppResponse, Status> {
    let answer = service(server).onboard_app(Server::ask(Role::Operator, request)).await;
    answer.map(Response::into_inner)
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("an ErrorInfo").reason
}

/// Event names of the log, without signs of life.
fn events(server: &Server) -> Vec<String> {
    let entries = server.services.journal.reader().read(1, 4_096, usize::MAX).unwrap();
    let names = entries
        .iter()
        .map(|entry| Record::parse(&entry.line).unwrap().body.event_name().to_owned());
    names.filter(|name| name != "HEARTBEAT").collect()
}

async fn apps(server: &Server) -> usize {
    server.services.agent.query(|view| view.state.apps.len()).await.unwrap()
}

#[tokio::test]
async fn an_accepted_app_has_a_file_a_digest_a_decision_and_runs() {
    let server = Server::start(Env::Dev);
    let answer = ask(&server, onboarding("web")).await.unwrap();
    let file = server.dir.path().join("apps/web/app_spec.json");
    assert_eq!(std::fs::read(&file).unwrap(), answer.spec_json);
    let hex = agentd_core::digest::sha256_hex(&answer.spec_json);
    assert_eq!(answer.spec_digest, format!("sha256:{hex}"));
    assert_eq!(answer.app.unwrap().spec_digest, answer.spec_digest);
    let decision = answer.decision.unwrap();
    assert_eq!((decision.action.as_str(), decision.ruling()), ("DEPLOY", v1::Ruling::Permitted));
    assert!(decision.id.starts_with("dec-"));
    let told: Vec<_> = answer.events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(told[..3], ["ONBOARDING_STARTED", "ONBOARDING_VALIDATION_PASSED", "SPEC_GENERATED"]);
    for event in ["RL_DECISION", "EXECUTION_GATE_PASSED", "DEPLOYMENT_TRIGGERED", "ORCH_EXEC"] {
        assert!(told.contains(&event), "{event} in {told:?}");
    }
    assert!(answer.events.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
    server.until_ready("web").await;
    let got = v1::GetAppRequest { name: "web".into() };
    let got = service(&server).get_app(Server::ask(Role::Viewer, got)).await.unwrap().into_inner();
    assert_eq!(got.spec_json, answer.spec_json);
    assert_eq!(got.app.unwrap().ready_instances, 1);
    assert_eq!(server.memory.executed(), [decision.seq]);
}

#[tokio::test]
async fn every_violation_is_told_at_once_under_the_name_of_its_field() {
    let server = Server::start(Env::Dev);
    let exec = v1::ExecSource { path: "/nowhere/to/be/found".into(), args: vec!["a\nb".into()] };
    let probe = v1::HealthProbe {
        kind: Some(v1::health_probe::Kind::Http(v1::HttpProbe { target: None })),
        interval: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        timeout: None,
    };
    let threshold = v1::ThresholdOverride { detector: "luck".into(), ..Default::default() };
    let request = v1::OnboardAppRequest {
        name: "My API; rm -rf /".into(),
        runtime: "cobol".into(),
        source: Some(v1::onboard_app_request::Source::Exec(exec)),
        min_instances: Some(0),
        max_instances: Some(1_000),
        health_probe: Some(probe),
        environment_variables: BTreeMap::from([("LD_PRELOAD".into(), "x".into())]),
        thresholds: vec![threshold],
        autonomy_level: 77,
        stop_grace: Some(prost_types::Duration { seconds: 86_400, nanos: 0 }),
        working_directory: "relative".into(),
        ..onboarding("web")
    };
    let status = ask(&server, request).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::InvalidArgument, "ONBOARDING_INVALID".into())
    );
    let told = status.get_details_bad_request().unwrap().field_violations;
    let told: Vec<_> = told.iter().map(|violation| violation.field.as_str()).collect();
    for field in [
        "name",
        "runtime",
        "exec.path",
        "exec.args[0]",
        "min_instances",
        "max_instances",
        "health_probe.http",
        "health_probe.interval",
        "environment_variables",
        "thresholds[0].detector",
        "thresholds[0].enter",
        "thresholds[0].leave",
        "autonomy_level",
        "stop_grace",
        "working_directory",
    ] {
        assert!(told.contains(&field), "{field} in {told:?}");
    }
    assert_eq!(apps(&server).await, 0);
    assert!(!server.dir.path().join("apps").exists(), "nothing is made for what is refused");
    let events = events(&server);
    assert_eq!(events[events.len() - 2..], ["ONBOARDING_STARTED", "ONBOARDING_REFUSED"]);
}

#[tokio::test]
async fn a_name_is_taken_once_and_a_request_is_answered_once() {
    let server = Server::start(Env::Dev);
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned();
    let request = v1::OnboardAppRequest { request_id: id.clone(), ..onboarding("web") };
    let first = ask(&server, request.clone()).await.unwrap();
    server.until_ready("web").await;
    std::fs::remove_file(server.dir.path().join("apps/web/app_spec.json")).unwrap();
    let again = ask(&server, request.clone()).await.unwrap();
    assert_eq!((&again.events, &again.spec_json), (&first.events, &first.spec_json));
    assert_eq!(again.decision.unwrap().id, first.decision.unwrap().id);
    assert!(
        server.dir.path().join("apps/web/app_spec.json").exists(),
        "what was lost is made again"
    );

    let status = ask(&server, onboarding("web")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::AlreadyExists, "ALREADY_ONBOARDED".into()));
    let other = v1::OnboardAppRequest { request_id: id, ..onboarding("other") };
    let status = ask(&server, other).await.unwrap_err();
    assert_eq!(reason(&status), "IDEMPOTENCY_KEY_REUSED");
    let odd = v1::OnboardAppRequest { request_id: "7".into(), ..onboarding("other") };
    assert_eq!(ask(&server, odd).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!((apps(&server).await, server.memory.executed().len()), (1, 1));
}

#[tokio::test]
async fn prod_is_refused_wherever_it_is_asked_for() {
    for env in [Env::Dev, Env::Prod] {
        let server = Server::start(env);
        let request = v1::OnboardAppRequest { environment: "prod".into(), ..onboarding("web") };
        let status = ask(&server, request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{env}");
        assert_eq!(reason(&status), "PROD_SAFETY_BLOCK");
        assert_eq!(apps(&server).await, 0);
    }
    let server = Server::start(Env::Dev);
    let stage = v1::OnboardAppRequest { environment: "stage".into(), ..onboarding("web") };
    let nowhere = v1::OnboardAppRequest { environment: "moon".into(), ..onboarding("web") };
    let (stage, nowhere) = (ask(&server, stage).await, ask(&server, nowhere).await);
    let codes = [stage, nowhere].map(|answer| answer.unwrap_err().code());
    assert_eq!(codes, [Code::InvalidArgument; 2], "another environment is as good as none");
}

#[tokio::test]
async fn a_repository_is_judged_by_its_address_and_then_deployed_like_anything_else() {
    if !Path::new("/usr/bin/git").exists() {
        assert!(std::env::var_os("CI").is_none(), "git is part of every machine that tests this");
        eprintln!("NOT RUN: there is no git");
        return;
    }
    let server = Server::start(Env::Dev);
    let repo = |url: &str| {
        let repo = v1::RepoSource { url: url.to_owned(), revision: String::new() };
        let source = Some(v1::onboard_app_request::Source::Repo(repo));
        v1::OnboardAppRequest { source, runtime: "binary".into(), ..onboarding("web") }
    };
    let status = ask(&server, repo("file:///etc")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let told = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(told[0].field, "repo.url");
    assert_eq!(apps(&server).await, 0);
    assert!(server.memory.executed().is_empty());
    let refused = events(&server).iter().filter(|e| *e == "ONBOARDING_REFUSED").count();
    assert_eq!(refused, 1);

    let answer = ask(&server, repo("https://github.com/user/my-api")).await.unwrap();
    let decision = answer.decision.unwrap();
    assert_eq!((decision.action.as_str(), decision.ruling()), ("DEPLOY", v1::Ruling::Permitted));
    server.until_ready("web").await;
    assert_eq!(server.memory.executed(), [decision.seq]);
}

#[tokio::test]
async fn only_validating_shows_the_specification_and_leaves_no_trace() {
    let server = Server::start(Env::Dev);
    assert_eq!(apps(&server).await, 0);
    let before = events(&server);
    let request = v1::OnboardAppRequest { validate_only: true, ..onboarding("web") };
    let answer = ask(&server, request).await.unwrap();
    assert_eq!(answer.app.unwrap().name, "web");
    assert!(String::from_utf8(answer.spec_json).unwrap().contains("\"web\""));
    assert!(answer.decision.is_none() && answer.events.is_empty());
    assert_eq!((apps(&server).await, events(&server)), (0, before));
    assert!(!server.dir.path().join("apps").exists());
}

#[tokio::test]
async fn whoever_hangs_up_in_the_middle_leaves_a_whole_app_behind() {
    let server = Server::start(Env::Dev);
    {
        let call = ask(&server, onboarding("web"));
        tokio::pin!(call);
        tokio::select! {
            biased;
            _ = &mut call => panic!("the disk cannot be this fast"),
            () = std::future::ready(()) => {}
        }
    }
    server.until_ready("web").await;
    let file = server.dir.path().join("apps/web/app_spec.json");
    let made = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), made).await.expect("the file is made");
    assert_eq!(server.memory.executed().len(), 1);
}

#[tokio::test]
async fn an_app_survives_the_server() {
    let server = Server::start(Env::Dev);
    let first = server.onboard("web").await;
    let server = server.restart().await;
    let got = v1::GetAppRequest { name: "web".into() };
    let got = service(&server).get_app(Server::ask(Role::Viewer, got)).await.unwrap().into_inner();
    assert_eq!(got.spec_json, first.spec_json);
    let last = got.app.unwrap().last_decision.unwrap();
    assert_ne!(last.ruling(), v1::Ruling::Unspecified, "read from disk: memory begins anew");
    let name = v1::GetAppRequest { name: "../web".into() };
    let status = service(&server).get_app(Server::ask(Role::Viewer, name)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

async fn list(
    server: &Server,
    request: v1::ListAppsRequest,
) -> Result<v1::ListAppsResponse, Status> {
    let answer = service(server).list_apps(Server::ask(Role::Viewer, request)).await;
    answer.map(Response::into_inner)
}

fn names(answer: &v1::ListAppsResponse) -> Vec<&str> {
    answer.apps.iter().map(|app| app.name.as_str()).collect()
}

#[tokio::test]
async fn apps_come_in_pages_that_nothing_in_between_disturbs() {
    let server = Server::start(Env::Dev);
    for name in ["b", "d", "f"] {
        server.onboard(name).await;
    }
    let two = v1::ListAppsRequest { page_size: 2, ..Default::default() };
    let first = list(&server, two.clone()).await.unwrap();
    assert_eq!((names(&first), first.total_size), (vec!["b", "d"], 3));
    server.onboard("a").await;
    let next = v1::ListAppsRequest { page_token: first.next_page_token.clone(), ..two.clone() };
    let second = list(&server, next).await.unwrap();
    assert_eq!((names(&second), second.next_page_token.as_str()), (vec!["f"], ""));

    let tagged = v1::OnboardAppRequest {
        labels: BTreeMap::from([("team".into(), "shop".into())]),
        ..onboarding("g")
    };
    ask(&server, tagged).await.unwrap();
    let filter =
        |filter: v1::AppFilter| v1::ListAppsRequest { filter: Some(filter), ..Default::default() };
    let labels = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
    let shop = filter(v1::AppFilter { labels, ..Default::default() });
    assert_eq!(names(&list(&server, shop).await.unwrap()), ["g"]);
    let named = v1::AppFilter { names: vec!["d".into(), "x".into()], ..Default::default() };
    assert_eq!(names(&list(&server, filter(named.clone())).await.unwrap()), ["d"]);
    let down = v1::AppFilter { health: vec![v1::AppHealth::Down.into()], ..Default::default() };
    assert_eq!(list(&server, filter(down)).await.unwrap().total_size, 0);

    let stolen = v1::ListAppsRequest { page_token: first.next_page_token, ..filter(named) };
    for bad in [
        stolen,
        v1::ListAppsRequest { page_token: "f".into(), ..two.clone() },
        v1::ListAppsRequest { page_size: -1, ..two },
        filter(v1::AppFilter { health: vec![99], ..Default::default() }),
    ] {
        assert_eq!(list(&server, bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn the_ledger_of_an_app_tells_when_it_was_up_and_what_is_not_known_is_absent() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let up = |view: &crate::agent::AgentView<'_>| {
        let ledger = view.state.ledgers.values().next()?;
        (ledger.now() == agentd_core::uptime::Condition::Up).then_some(())
    };
    server.until(up).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let get = |request| async {
        let asked = Server::ask(Role::Viewer, request);
        service(&server).get_app_uptime(asked).await.map(Response::into_inner)
    };
    let named = v1::GetAppUptimeRequest { name: "web".to_owned(), ..Default::default() };
    let [web] = get(named.clone()).await.unwrap().apps.try_into().unwrap();
    // It counts as down until it answers for the first time, which is no outage.
    assert_eq!(web.outages, 0, "{web:?}");
    assert!(web.availability.is_some_and(|share| share > 0.0), "{web:?}");
    assert!(web.mean_time_to_recovery.is_none(), "it never went down");
    assert_eq!(web.intervals.last().unwrap().condition(), v1::UptimeCondition::Up);
    let [one] = get(v1::GetAppUptimeRequest::default()).await.unwrap().apps.try_into().unwrap();
    assert_eq!((one.app.as_str(), one.intervals.len()), ("web", 0), "spans are told of one app");
    let nobody = v1::GetAppUptimeRequest { name: "nobody".to_owned(), ..Default::default() };
    assert_eq!(get(nobody).await.unwrap_err().code(), Code::NotFound);
    let time = |ms| Some(to_proto::timestamp(ms));
    let backwards = v1::GetAppUptimeRequest { start_time: time(9), end_time: time(8), ..named };
    assert_eq!(get(backwards).await.unwrap_err().code(), Code::InvalidArgument);
}

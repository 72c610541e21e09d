use agentctl_api::v1::scope::Target;
use agentd_core::app::Env;
use agentd_core::gates::GATES;
use agentd_core::policy::Policy;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::auth::Role;
use crate::grpc::telemetry::harness::Server;

const PATIENCE: Duration = Duration::from_secs(60);

fn service(server: &Server) -> Service {
    Service(server.services.clone())
}

fn scope(target: Target) -> Option<v1::Scope> {
    Some(v1::Scope { target: Some(target) })
}

async fn status(server: &Server) -> v1::AgentStatus {
    let asked = Server::ask(Role::Viewer, v1::GetStatusRequest {});
    service(server).get_status(asked).await.unwrap().into_inner().status.unwrap()
}

async fn pause(server: &Server, request: v1::PauseRequest) -> Result<v1::PauseResponse, Status> {
    let answer = service(server).pause(Server::ask(Role::Operator, request)).await;
    answer.map(Response::into_inner)
}

async fn resume(server: &Server, target: Target, id: &str) -> v1::ResumeResponse {
    let request = v1::ResumeRequest {
        scope: scope(target),
        reason: "drill is over".into(),
        request_id: id.into(),
    };
    service(server).resume(Server::ask(Role::Operator, request)).await.unwrap().into_inner()
}

fn drill(target: Target) -> v1::PauseRequest {
    v1::PauseRequest { scope: scope(target), reason: " drill ".into(), ..Default::default() }
}

#[tokio::test]
async fn the_status_tells_who_does_what_and_how_often() {
    let server = Server::start(Env::Dev);
    let onboarded = server.onboard("web").await;
    let status = status(&server).await;
    assert_eq!((status.agent_id.as_str(), status.environment.as_str()), ("agent-0badcafe", "dev"));
    assert_ne!(status.state(), v1::AgentState::Unspecified);
    assert!(status.loop_count > 0 && status.state_counts["deciding"] > 0);
    assert_eq!(status.ruling_counts["permitted"], 1);
    let last = status.last_decision.unwrap();
    assert_eq!(last.id, onboarded.decision.unwrap().id);
    assert_eq!((last.action.as_str(), last.ruling()), ("DEPLOY", v1::Ruling::Permitted));
    assert_eq!(status.last_decision_app, "web");
    assert_eq!(status.apps.len(), 1);
    assert_eq!(status.apps[0].last_decision.as_ref().unwrap().ruling(), v1::Ruling::Permitted);
    assert!(status.apps[0].instances.is_empty() && status.apps[0].ready_instances == 1);
    let log = status.journal.unwrap();
    assert_eq!(
        (log.state(), log.oldest_seq, log.head_hash.len()),
        (v1::JournalState::Writable, 1, 64)
    );
    assert!(log.head_seq > 5 && log.size_bytes > 0);
    assert_eq!(status.policy_digest, format!("sha256:{}", Policy::default_for(Env::Dev).digest()));
    for limit in ["samples_dropped", "signals_rejected", "permits_dropped", "signal_rate_limited"] {
        assert_eq!(status.limit_hits[limit], 0, "{limit}");
    }
    let names: Vec<_> = status.components.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "deploy_agent",
            "worker_pool",
            "issue_detector",
            "uptime_monitor",
            "auto_heal",
            "rl_optimizer",
            "queue_monitor",
            "decision_arbitrator",
            "supervisor_feedback",
            "policy"
        ]
    );
    assert!(status.components.iter().all(|part| part.healthy && !part.detail.is_empty()));
}

#[tokio::test]
async fn a_pause_survives_the_server_and_ends_with_resume() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let set = pause(&server, drill(Target::Environment(true))).await.unwrap();
    let mode = set.mode.unwrap();
    assert_eq!(
        (mode.kind(), mode.reason.as_str(), mode.set_by.as_str()),
        (v1::ModeKind::Pause, "drill", "operator")
    );
    let halt = v1::PauseRequest {
        halt: true,
        duration: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        ..drill(Target::App("web".into()))
    };
    let halted = pause(&server, halt).await.unwrap().mode.unwrap();
    assert_eq!(halted.kind(), v1::ModeKind::Halt);
    let (from, to) = (halted.set_time.unwrap(), halted.expire_time.unwrap());
    assert_eq!(to.seconds - from.seconds, 3_600);

    let server = server.restart().await;
    assert_eq!(status(&server).await.modes, [mode.clone(), halted.clone()]);
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let lifted = resume(&server, Target::Environment(true), id).await;
    assert_eq!((&lifted.lifted, &lifted.remaining), (&vec![mode.clone()], &vec![halted.clone()]));
    let again = resume(&server, Target::Environment(true), id).await;
    assert_eq!((again.seq, again.lifted), (lifted.seq, vec![mode]), "the first answer");
    let nothing = resume(&server, Target::Environment(true), "").await;
    assert_eq!((nothing.seq, nothing.lifted.len()), (0, 0));
    resume(&server, Target::App("web".into()), "").await;
    assert!(status(&server).await.modes.is_empty());
}

#[tokio::test]
async fn a_pause_is_set_once_per_request_and_says_everything_that_is_wrong() {
    let server = Server::start(Env::Dev);
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let request =
        v1::PauseRequest { request_id: id.into(), ..drill(Target::Action("restart".into())) };
    let first = pause(&server, request.clone()).await.unwrap();
    assert_eq!(first.mode.clone().unwrap().scope, scope(Target::Action("RESTART".into())));
    assert_eq!(pause(&server, request.clone()).await.unwrap(), first);
    let other = v1::PauseRequest { halt: true, ..request };
    let status = pause(&server, other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);

    let wrong = v1::PauseRequest {
        scope: scope(Target::Environment(false)),
        reason: " \n".into(),
        duration: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..Default::default()
    };
    let status = pause(&server, wrong).await.unwrap_err();
    let told = status.get_details_bad_request().unwrap().field_violations;
    let told: Vec<_> = told.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(told, ["scope.environment", "reason", "duration"]);
    let unknown = pause(&server, drill(Target::App("nobody".into()))).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    for action in ["drop_database", "dance", "NOOP"] {
        let status = pause(&server, drill(Target::Action(action.into()))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{action}");
    }
}

#[tokio::test]
async fn learning_is_frozen_once_and_whoever_asks_again_learns_by_whom() {
    let server = Server::start(Env::Dev);
    let freeze = |reason: &str| v1::FreezeRequest { reason: reason.into(), ..Default::default() };
    let ask = |request| service_freeze(&server, request);
    let first = ask(freeze("exam")).await;
    assert!(first.seq > 0);
    let mode = first.mode.unwrap();
    assert_eq!(
        (mode.kind(), mode.reason.as_str(), mode.set_by.as_str()),
        (v1::ModeKind::Freeze, "exam", "operator")
    );
    let again = ask(freeze("other")).await;
    assert_eq!((again.seq, again.mode), (0, Some(mode)));
    let modes = status(&server).await.modes;
    assert_eq!(modes.iter().map(v1::Mode::kind).collect::<Vec<_>>(), [v1::ModeKind::Freeze]);
    let thaw = v1::UnfreezeRequest { reason: "over".into(), ..Default::default() };
    let thawed = service(&server).unfreeze(Server::ask(Role::Operator, thaw.clone())).await;
    let thawed = thawed.unwrap().into_inner();
    assert!(thawed.seq > 0 && thawed.remaining.is_empty());
    let thawed = service(&server).unfreeze(Server::ask(Role::Operator, thaw)).await;
    assert_eq!(thawed.unwrap().into_inner().seq, 0);
    let silent = Server::ask(Role::Operator, freeze(""));
    assert_eq!(service(&server).freeze(silent).await.unwrap_err().code(), Code::InvalidArgument);
}

async fn service_freeze(server: &Server, request: v1::FreezeRequest) -> v1::FreezeResponse {
    service(server).freeze(Server::ask(Role::Operator, request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_watcher_hears_of_a_change_at_once_and_of_the_drain() {
    let server = Server::start(Env::Dev);
    let request =
        v1::WatchStatusRequest { interval: Some(prost_types::Duration { seconds: 60, nanos: 0 }) };
    let asked = Server::ask(Role::Viewer, request);
    let mut stream = service(&server).watch_status(asked).await.unwrap().into_inner();
    let first = stream.next().await.unwrap().unwrap().status.unwrap();
    assert!(first.modes.is_empty());
    pause(&server, drill(Target::Environment(true))).await.unwrap();
    let told = async {
        loop {
            let status = stream.next().await.unwrap().unwrap().status.unwrap();
            if !status.modes.is_empty() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("before the interval is over");
    server.services.tasks.stop();
    let ended = async {
        while let Some(item) = stream.next().await {
            if let Err(status) = item {
                assert_eq!(status.code(), Code::Unavailable);
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("a watcher never holds a stop");
    for seconds in [0, 61, -1] {
        let interval = Some(prost_types::Duration { seconds, nanos: 0 });
        let asked = Server::ask(Role::Viewer, v1::WatchStatusRequest { interval });
        let status = service(&server).watch_status(asked).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{seconds}");
    }
}

#[tokio::test]
async fn every_gate_is_listed_with_reasons_that_say_what_to_do() {
    let server = Server::start(Env::Dev);
    let asked = Server::ask(Role::Viewer, v1::ListGatesRequest {});
    let gates = service(&server).list_gates(asked).await.unwrap().into_inner().gates;
    assert_eq!(gates.len(), GATES.len());
    for gate in gates {
        assert!(gate.group() != v1::GateGroup::Unspecified && !gate.summary.is_empty());
        assert!(!gate.reasons.is_empty(), "{}", gate.id);
        for reason in gate.reasons {
            let texts = [&reason.what, &reason.why, &reason.remedy];
            assert!(texts.iter().all(|text| !text.is_empty()), "{}", reason.code);
        }
    }
}

#[tokio::test]
async fn the_policy_in_force_can_be_loaded_again() {
    for env in Env::ALL {
        let server = Server::start(env);
        let asked = Server::ask(Role::Viewer, v1::GetPolicyRequest {});
        let shown = service(&server).get_policy(asked).await.unwrap().into_inner();
        assert_eq!((shown.format.as_str(), shown.origin.as_str()), ("toml", "built-in"));
        let policy: Policy = toml::from_str(&shown.text).unwrap();
        assert_eq!(policy, Policy::default_for(env));
        assert_eq!(shown.digest, format!("sha256:{}", policy.digest()));
    }
    let mut policy = Policy::default_for(Env::Dev);
    policy.learning.seed = u64::MAX;
    let shown = catalogue::policy(&policy, "x").unwrap();
    assert_eq!(toml::from_str::<Policy>(&shown.text).unwrap(), policy);
}

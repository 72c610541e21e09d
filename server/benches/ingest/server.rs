//! What is measured: agentd with so many apps, and servers that throw everything away.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::telemetry_service_server::{TelemetryService, TelemetryServiceServer};
use agentd::act::{Actuator, memory::Memory};
use agentd::agent::{self, Agent, Handle, Parts, Restored};
use agentd::auth::{Authorizer, TokenTable};
use agentd::clock::Clock;
use agentd::grpc::{self, Services};
use agentd::ingest::Ingest;
use agentd::journal;
use agentd::listen::Listen;
use agentd::metrics::Metrics;
use agentd::publish::Publisher;
use agentd::tasks::{OnFailure, Tasks};
use agentd::tlog;
use agentd_core::app::{AppName, Env, OnboardRequest, RequestedSource};
use agentd_core::plan::Fence;
use agentd_core::policy::Policy;
use agentd_core::record::{Observation, Started};
use agentd_core::signal::{Reading, Sample};
use agentd_core::state::State;
use agentd_core::step::{By, Input, Moment, commit, step};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{load, values};

/// Answers what the parent asks, until it closes the input.
async fn attend(address: std::net::SocketAddr, agent: Option<Handle>) {
    println!("{address}");
    std::io::stdout().flush().unwrap();
    let (asked, mut asks) = tokio::sync::mpsc::channel(1);
    let reader = std::thread::Builder::new().name("asks".into());
    reader
        .spawn(move || {
            let mut line = String::new();
            while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
                asked.blocking_send(line.starts_with('!')).unwrap();
                line.clear();
            }
        })
        .unwrap();
    while let Some(is_ping) = asks.recv().await {
        if let Some(agent) = agent.as_ref().filter(|_| is_ping) {
            agent.query(|_| ()).await.unwrap();
            println!();
            continue;
        }
        let incidents = match &agent {
            Some(agent) => agent
                .query(|view| view.state.apps.values().filter(|app| !app.open.is_empty()).count())
                .await
                .unwrap(),
            None => 0,
        };
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        println!("{} {incidents}", cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64);
        std::io::stdout().flush().unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// Throws away what is sent to it, after it was decoded by the generated code.
struct Null;

#[tonic::async_trait]
impl TelemetryService for Null {
    type WatchSignalsStream = tokio_stream::Empty<Result<v1::WatchSignalsResponse, Status>>;
    type StreamSignalsStream = tokio_stream::Empty<Result<v1::StreamSignalsResponse, Status>>;

    async fn watch_signals(
        &self,
        _request: Request<v1::WatchSignalsRequest>,
    ) -> Result<Response<Self::WatchSignalsStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn push_signals(
        &self,
        request: Request<Streaming<v1::PushSignalsRequest>>,
    ) -> Result<Response<v1::PushSignalsResponse>, Status> {
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            std::hint::black_box(message);
        }
        Ok(Response::new(v1::PushSignalsResponse::default()))
    }

    async fn stream_signals(
        &self,
        _request: Request<Streaming<v1::StreamSignalsRequest>>,
    ) -> Result<Response<Self::StreamSignalsStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}

#[tonic::async_trait]
impl MetricsService for Null {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        std::hint::black_box(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// tonic with the generated code, and nothing behind it.
pub(crate) fn null() -> ! {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(TelemetryServiceServer::new(Null))
            .add_service(MetricsServiceServer::new(Null))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(served);
        attend(address, None).await;
    });
    std::process::exit(0)
}

/// agentd with so many apps that are well, of each of which so many samples are known.
pub(crate) fn agentd(dir: &Path, apps: usize, past: u64) -> ! {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let (services, health, agent) = services(dir, (apps, past), &tasks);
        let routes = grpc::routes(&services, health).unwrap();
        let tokens = dir.join("tokens.toml");
        write_tokens(&tokens);
        let authorizer = Arc::new(Authorizer::new(TokenTable::load(&tokens).unwrap()));
        let (listen, serving) = (Listen::new(routes, authorizer), tasks.clone());
        tasks.spawn("listen", OnFailure::Shutdown, async move {
            listen.serve(vec![listener], &serving).await;
        });
        tasks.spawn("agent", OnFailure::Shutdown, async move {
            agent.run().await;
        });
        attend(address, Some(services.agent.clone())).await;
        tasks.stop();
    });
    std::process::exit(0)
}

/// One principal per monitor, because each may only send so much, and only about its own apps.
fn write_tokens(path: &Path) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path).unwrap();
    for n in 0..load::MONITORS {
        let (name, apps) = (load::monitor(n), load::apps_of(n));
        let token = load::token(&name);
        let text = format!("name = \"{name}\"\nroles = [\"monitor\"]\ntoken = \"{token}\"");
        writeln!(file, "[[principal]]\n{text}\napps = {apps:?}").unwrap();
    }
}

/// What a server consists of, as `App` puts it together, with an actuator that has nothing to run.
fn services(
    dir: &Path,
    (apps, past): (usize, u64),
    tasks: &Tasks,
) -> (
    Services,
    tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
    Agent,
) {
    let mut policy = Policy::default_for(Env::Stage);
    // What is measured is what it costs to hear of apps, not what an outage of all monitors costs where the machine is busy otherwise.
    policy.freshness.silence_ms = 600_000;
    let clock = Arc::new(Clock::system());
    let state = state(apps, &policy, clock.now_ms());
    let segments = journal::Config::new(dir.join("proof"));
    let (opened, tlog) =
        tlog::open(tlog::Config::new(dir, "stage"), segments, &mut |_, _| {}).unwrap();
    let (handle, inbox) = agent::inbox();
    let (ingest, metrics) = (Arc::new(Ingest::new()), Arc::new(Metrics::new(Env::Stage)));
    (0..apps).for_each(|app| remember(&ingest, &policy, app, past, clock.now_ms()));
    let publisher = Publisher::new(opened.head.next_seq - 1);
    let parts = Parts {
        id: "agent-0badcafe".to_owned(),
        version: "bench",
        loop_interval: Duration::from_secs(1),
        started: started(),
        clock: Arc::clone(&clock),
        journal: opened.journal.clone(),
        ingest: Arc::clone(&ingest),
        actuator: Arc::new(Memory::new(handle.clone())) as Arc<dyn Actuator>,
        publisher: publisher.clone(),
        metrics: Arc::clone(&metrics),
        tasks: tasks.clone(),
    };
    let restored = Restored { state, policy: policy.clone(), head: opened.head };
    let agent = Agent::new(parts, policy, restored, inbox);
    let (health, service) = tonic_health::server::health_reporter();
    let services = Services {
        metrics,
        agent: handle,
        publisher,
        journal: opened.journal,
        tlog,
        index: None,
        ingest,
        intake: Arc::default(),
        bus: None,
        workers: None,
        clock,
        tasks: tasks.clone(),
        env: Env::Stage,
        data_dir: dir.to_owned(),
        rules: Arc::default(),
        stage: None,
        health,
    };
    (services, service, agent)
}

/// Lets a monitor have reported on the app every ten seconds, so many times.
fn remember(ingest: &Ingest, policy: &Policy, app: usize, past: u64, now: u64) {
    let name = AppName::parse(&load::app(app)).unwrap();
    for report in 0..past {
        ingest.attach(&name);
        let at = now - (past - report) * 10_000;
        for (metric, micro) in values::samples(app, report) {
            let (instance, source) = (None, "past".to_owned());
            let (observed_ms, received_ms) = (at, at);
            let sample = Sample { metric, micro, instance, source, observed_ms, received_ms };
            ingest.sample(&name, &sample);
        }
        let _ = ingest.close(&name, at, policy, 0);
    }
}

fn started() -> Started {
    Started {
        agent_id: "agent-0badcafe".into(),
        version: "bench".into(),
        demo: false,
        dry_run: false,
        frozen: false,
    }
}

/// One app that was onboarded and verified by the brain itself, and so many like it.
fn state(apps: usize, policy: &Policy, now: u64) -> State {
    let mut state = State::new(Env::Stage);
    let mut at = now - 3_600_000;
    let first = AppName::parse(&load::app(0)).unwrap();
    let quiet = |at| Reading::silent(first.clone(), at, Some(at));
    let mut give = |state: &mut State, input: &Input, after: u64| {
        at += after;
        let seq = state.last_seq + 1;
        let moment = Moment { agent: "agent-0badcafe", now: at, seq, log_writable: true };
        let step = step(state, policy, input, &moment);
        commit(state, policy, &step.records);
        at
    };
    let begin =
        Input::Started { started: started(), policy: Box::new(policy.clone()), bytes_cut: None };
    give(&mut state, &begin, 0);
    let request = OnboardRequest {
        name: first.to_string(),
        env: "stage".into(),
        runtime: "binary".into(),
        source: RequestedSource::Exec { path: "/usr/bin/app".into(), args: Vec::new() },
        ..OnboardRequest::default()
    };
    let by = By { principal: "op".into(), human: true, request: None, validate_only: false };
    let request = Box::new(request);
    let at = give(&mut state, &Input::Onboard { request, found: vec![], update: None, by }, 0);
    let decision = state.apps[&first].attempt.as_ref().unwrap().decision;
    let fence = Fence { boot_id: "b".into(), pid: 7, start_time: at };
    for what in [Observation::Started { fence }, Observation::Ready] {
        let reading = quiet(at);
        give(&mut state, &Input::Observed { app: first.clone(), slot: 0, what, reading }, 0);
    }
    let (app, detail, reading) = (first.clone(), String::new(), quiet(at));
    let delivered = Input::Delivered { app, decision, ok: true, detail, untouched: false, reading };
    give(&mut state, &delivered, 0);
    for minutes in 1..=10 {
        give(&mut state, &Input::Reading(quiet(at + minutes * 60_000)), 60_000);
    }
    let (app, history) = (state.apps[&first].clone(), state.specs[&first].clone());
    assert!(app.attempt.is_none() && app.open.is_empty() && app.ready() == app.desired, "{app:#?}");
    let ledger = state.ledgers[&first].clone();
    state.ledgers = BTreeMap::new();
    for n in 0..apps {
        let name = AppName::parse(&load::app(n)).unwrap();
        let mut history = history.clone();
        for revision in &mut history.revisions {
            revision.spec.name = name.clone();
        }
        state.apps.insert(name.clone(), app.clone());
        state.specs.insert(name.clone(), history);
        state.ledgers.insert(name, ledger.clone());
    }
    if apps == 0 {
        (state.apps, state.specs) = Default::default();
    }
    // Nothing of it is in the log, so that the agent begins as if it had seen all of it itself.
    state.last_seq = 0;
    state
}

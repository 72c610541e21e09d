use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentctl_api::v1::agent_service_server::AgentService as _;
use agentctl_api::v1::telemetry_service_client::TelemetryServiceClient;
use agentd_core::app::{AppName, Env};
use agentd_core::signal::Metric;
use tonic::Code as StatusCode;
use tonic::service::interceptor::InterceptedService;
use tonic_types::StatusExt as _;

use super::harness::Server;
use super::*;
use crate::auth::Role;
use crate::clock::Clock;
use crate::grpc::agent;
use crate::tasks::OnFailure;

mod staying;
mod steady;

fn monitor() -> Principal {
    Principal::new("ci", [Role::Monitor], None)
}

fn message(message: Said) -> Result<Bytes, Status> {
    Ok(v1::PushSignalsRequest { message: Some(message) }.encode_to_vec().into())
}

fn hello(epoch: u64) -> Result<Bytes, Status> {
    message(Said::Hello(v1::Hello {
        monitor_id: "edge-1".to_owned(),
        epoch,
        environment: "dev".to_owned(),
        default_ttl: None,
    }))
}

fn batch(seq: u64, signals: Vec<v1::Signal>) -> Result<Bytes, Status> {
    message(Said::Batch(v1::SignalBatch { seq, sent_time: None, signals }))
}

fn bye() -> Result<Bytes, Status> {
    message(Said::Bye(v1::Bye { reason: "done".to_owned() }))
}

fn time(ms: u64) -> Option<prost_types::Timestamp> {
    Some(to_proto::timestamp(ms))
}

/// A signal that breaks no rule.
fn good(server: &Server, app: &str) -> v1::Signal {
    v1::Signal {
        app: app.to_owned(),
        time: time(server.services.clock.now_ms()),
        cpu_utilization: Some(0.25),
        ..v1::Signal::default()
    }
}

async fn send(
    server: &Server,
    principal: Principal,
    messages: Vec<Result<Bytes, Status>>,
) -> Result<v1::PushSignalsResponse, Status> {
    push(&server.services, principal, None, tokio_stream::iter(messages)).await
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("an ErrorInfo").reason
}

fn limits(server: &Server) -> BTreeMap<&'static str, u64> {
    server.services.intake.counters.limits()
}

#[tokio::test]
async fn what_a_monitor_says_reaches_the_agent_under_its_name() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let signal = v1::Signal {
        latency_p99_seconds: Some(0.5),
        restart_count: Some(3),
        conditions: BTreeMap::from([("cpu_high".to_owned(), true)]),
        instance: "0".to_owned(),
        ..good(&server, "web")
    };
    let sent = vec![hello(7), batch(1, vec![signal.clone(), signal]), bye()];
    let summary = send(&server, monitor(), sent).await.unwrap();
    assert_eq!((summary.accepted, summary.rejected, summary.high_water_seq), (2, 0, 1));
    let web = AppName::parse("web").unwrap();
    let reading =
        server.until(move |view| view.readings.get(&web).filter(|r| !r.metrics.is_empty())).await;
    let point = reading.metrics[&Metric::LatencyP99].sources["edge-1@ci"];
    assert_eq!(point.micro, 500_000);
    assert_eq!(reading.metrics[&Metric::RestartCount].sources["edge-1@ci"].micro, 3_000_000);
    assert!(!reading.metrics.contains_key(&Metric::ErrorRatio), "absent is not zero");
    assert!(reading.conditions["cpu_high"].value);
}

#[tokio::test]
async fn who_watches_signals_sees_the_newest_reading_and_none_twice() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    server.onboard("other").await;
    let watch = v1::WatchSignalsRequest {
        apps: vec!["web".to_owned()],
        interval: Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 }),
    };
    let service = Service(server.services.clone());
    let asked = Server::ask(Role::Viewer, watch);
    let mut stream = service.watch_signals(asked).await.unwrap().into_inner();
    let mut seen = Vec::new();
    for seq in 1..=2_u32 {
        let load = f64::from(seq) / 10.0;
        let signal = v1::Signal { error_ratio: Some(load), ..good(&server, "web") };
        let sent = vec![hello(7), batch(u64::from(seq), vec![signal]), bye()];
        assert_eq!(send(&server, monitor(), sent).await.unwrap().accepted, 1);
        loop {
            let answer = stream.next().await.unwrap().unwrap();
            assert!(answer.readings.iter().all(|reading| reading.app == "web"));
            seen.extend(answer.readings);
            let metrics = seen.last().map(|last| &*last.metrics).unwrap_or_default();
            let errors = metrics.iter().find(|metric| metric.name == "error_ratio");
            if let Some(errors) = errors.filter(|metric| metric.value == load) {
                assert_eq!((errors.source.as_str(), errors.sources), ("edge-1@ci", 1));
                break;
            }
        }
    }
    let times: Vec<_> = seen.iter().map(|reading| reading.last_signal_time).collect();
    let mut unique = times.clone();
    unique.dedup();
    assert_eq!(times, unique, "what was sent is not sent again");
}

#[tokio::test]
async fn a_watch_of_what_is_no_app_is_refused_with_every_name() {
    let server = Server::start(Env::Dev);
    let apps = vec!["web".to_owned(), "No App".to_owned(), "-".to_owned()];
    let watch = v1::WatchSignalsRequest { apps, interval: None };
    let service = Service(server.services.clone());
    let refused = service.watch_signals(Server::ask(Role::Viewer, watch)).await;
    let Err(status) = refused else { panic!("accepted") };
    let fields = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = fields.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["apps[1]", "apps[2]"]);
}

/// What is changed in a good signal, and the code and field it is rejected with.
type Bad = (fn(&mut v1::Signal, u64), &'static str, &'static str);

const BAD: [Bad; 20] = [
    (|s, _| s.cpu_utilization = Some(f64::NAN), "NOT_FINITE", "cpu_utilization"),
    (|s, _| s.error_ratio = Some(f64::INFINITY), "NOT_FINITE", "error_ratio"),
    (|s, _| s.latency_p50_seconds = Some(-0.1), "NEGATIVE", "latency_p50_seconds"),
    (|s, _| s.latency_p99_seconds = Some(1e9), "OUT_OF_RANGE", "latency_p99_seconds"),
    (|s, _| s.error_ratio = Some(1.5), "OUT_OF_RANGE", "error_ratio"),
    (|s, _| s.restart_count = Some(u64::MAX), "OUT_OF_RANGE", "restart_count"),
    (|s, now| s.time = time(now + 60_000), "CLOCK_SKEW", "time"),
    (|s, now| s.time = time(now - 600_000), "STALE", "time"),
    (|s, _| s.time = Some(prost_types::Timestamp { seconds: -9, nanos: 0 }), "STALE", "time"),
    (
        |s, _| s.time = Some(prost_types::Timestamp { seconds: 1, nanos: -1 }),
        "OUT_OF_RANGE",
        "time",
    ),
    (|s, _| s.time = None, "EMPTY", "time"),
    (|s, _| s.app = "nobody".to_owned(), "UNKNOWN_APP", "app"),
    (|s, _| s.app = "\u{1b}[2J".to_owned(), "UNKNOWN_APP", "app"),
    (|s, _| s.instance = "zero".to_owned(), "OUT_OF_RANGE", "instance"),
    (|s, _| s.instance = "64".to_owned(), "OUT_OF_RANGE", "instance"),
    (|s, _| s.cpu_utilization = None, "EMPTY", "signal"),
    (|s, _| s.ttl = Some(prost_types::Duration { seconds: 601, nanos: 0 }), "OUT_OF_RANGE", "ttl"),
    (
        |s, _| s.window = Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        "OUT_OF_RANGE",
        "window",
    ),
    (
        |s, _| s.exit = Some(v1::Exit { how: Some(v1::exit::How::Code(256)) }),
        "OUT_OF_RANGE",
        "exit",
    ),
    (
        |s, _| s.conditions = (0..17).map(|n| (format!("c{n}"), true)).collect(),
        "TOO_MANY",
        "conditions",
    ),
];

#[tokio::test]
async fn each_bad_signal_is_rejected_alone_and_the_stream_goes_on() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let now = server.services.clock.now_ms();
    for (epoch, (change, code, field)) in (1..).zip(BAD) {
        let mut bad = good(&server, "web");
        change(&mut bad, now);
        let signals = vec![good(&server, "web"), bad, good(&server, "web")];
        // Every case is a run of its own of the same monitor.
        let summary =
            send(&server, monitor(), vec![hello(epoch), batch(1, signals), bye()]).await.unwrap();
        assert_eq!((summary.accepted, summary.rejected), (2, 1), "{code} {field}");
        let [rejection] = summary.rejections.as_slice() else {
            panic!("{code} {field}: {:?}", summary.rejections)
        };
        assert_eq!((&*rejection.reason, &*rejection.field), (code, field));
        assert_eq!((rejection.seq, rejection.index), (1, 1));
        assert!(!rejection.rule.is_empty() && !rejection.value.contains('\u{1b}'));
    }
}

#[tokio::test]
async fn every_rule_a_signal_breaks_is_told() {
    let server = Server::start(Env::Dev);
    let bad = v1::Signal {
        app: "nobody".to_owned(),
        instance: "x".to_owned(),
        cpu_utilization: Some(f64::NAN),
        memory_utilization: Some(-1.0),
        ..v1::Signal::default()
    };
    let sent = vec![hello(7), batch(1, vec![bad]), bye()];
    let summary = send(&server, monitor(), sent).await.unwrap();
    let told: Vec<_> = summary.rejections.iter().map(|r| r.field.as_str()).collect();
    assert_eq!(told, ["time", "instance", "app", "cpu_utilization", "memory_utilization"]);
    assert_eq!(summary.rejected, 1, "five rules, one signal");
}

#[tokio::test]
async fn a_hundred_bad_signals_end_the_stream_with_the_summary_in_the_details() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let bad = |n| (0..n).map(|_| good(&server, "nobody")).collect::<Vec<_>>();
    let mut last = bad(1);
    last.push(good(&server, "web"));
    let status = send(&server, monitor(), vec![hello(7), batch(1, bad(99)), batch(2, last), bye()])
        .await
        .unwrap_err();
    assert_eq!(status.code(), StatusCode::InvalidArgument);
    assert_eq!(reason(&status), "TOO_MANY_BAD_SIGNALS");
    let named = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(named[0].field, "batch[1].signals[0].app");
    let details = tonic_types::pb::Status::decode(status.details()).unwrap();
    let any = details.details.iter().find(|any| any.type_url.contains("PushSignals")).unwrap();
    let summary = v1::PushSignalsResponse::decode(any.value.as_slice()).unwrap();
    assert_eq!((summary.accepted, summary.rejected, summary.high_water_seq), (1, 100, 2));
    assert_eq!(limits(&server)["signal_streams_cut"], 1);
    let again = send(&server, monitor(), vec![hello(7), batch(1, bad(99)), bye()]).await.unwrap();
    assert_eq!(again.duplicates, 99, "what was judged is not judged twice");
}

#[tokio::test]
async fn what_is_sent_again_after_a_reconnect_is_counted_and_not_applied() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let one = || vec![good(&server, "web")];
    let first = vec![hello(7), batch(1, one()), batch(2, one()), batch(5, one())];
    let summary = send(&server, monitor(), first).await.unwrap();
    assert_eq!((summary.accepted, summary.missed, summary.high_water_seq), (3, 2, 5));
    let again = vec![hello(7), batch(4, one()), batch(5, one()), batch(6, one()), bye()];
    let summary = send(&server, monitor(), again).await.unwrap();
    assert_eq!((summary.accepted, summary.duplicates, summary.high_water_seq), (1, 2, 6));
    let restarted = send(&server, monitor(), vec![hello(8), batch(1, one()), bye()]).await.unwrap();
    assert_eq!((restarted.accepted, restarted.duplicates), (1, 0), "a new run begins at one");
    let other = Principal::new("other", [Role::Monitor], None);
    let summary = send(&server, other, vec![hello(8), batch(1, one()), bye()]).await.unwrap();
    assert_eq!(summary.accepted, 1, "two principals never share a monitor");
    assert_eq!(limits(&server)["signals_missed"], 2);
}

#[tokio::test]
async fn a_monitor_that_is_bound_to_one_app_cannot_speak_of_another() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    server.onboard("db").await;
    let bound = Principal::new("ci", [Role::Monitor], Some(BTreeSet::from(["db".to_owned()])));
    let signals = ["web", "db", "nobody"].map(|app| good(&server, app)).to_vec();
    let summary = send(&server, bound, vec![hello(7), batch(1, signals), bye()]).await.unwrap();
    assert_eq!((summary.accepted, summary.rejected), (1, 2));
    let [web, nobody] = summary.rejections.as_slice() else { panic!("two") };
    assert_eq!((&web.reason, &web.rule), (&nobody.reason, &nobody.rule), "no oracle");
}

#[tokio::test]
async fn a_stream_begins_with_a_proper_hello() {
    let server = Server::start(Env::Dev);
    let status = send(&server, monitor(), vec![batch(1, vec![])]).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (StatusCode::InvalidArgument, "HELLO_MISSING".into())
    );
    assert_eq!(reason(&send(&server, monitor(), vec![]).await.unwrap_err()), "HELLO_MISSING");

    let stranger = v1::Hello { environment: "prod".into(), ..v1::Hello::default() };
    let status = send(&server, monitor(), vec![message(Said::Hello(stranger))]).await.unwrap_err();
    assert_eq!(status.code(), StatusCode::NotFound, "and nothing about its other faults");

    let wrong = v1::Hello {
        monitor_id: "sense/procfs".into(),
        environment: "dev".into(),
        default_ttl: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
        ..v1::Hello::default()
    };
    let status = send(&server, monitor(), vec![message(Said::Hello(wrong))]).await.unwrap_err();
    let named = status.get_details_bad_request().unwrap().field_violations;
    let named: Vec<_> = named.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(named, ["hello.monitor_id", "hello.epoch", "hello.default_ttl"]);

    let status = send(&server, monitor(), vec![hello(7), hello(7)]).await.unwrap_err();
    assert_eq!(reason(&status), "HELLO_REPEATED");
    let empty = Ok(Bytes::new());
    let status = send(&server, monitor(), vec![hello(7), empty]).await.unwrap_err();
    assert_eq!(reason(&status), "MESSAGE_UNKNOWN");
}

#[tokio::test]
async fn a_batch_has_a_size_and_a_principal_has_a_rate() {
    let server = Server::with(Env::Dev, Clock::manual(1_700_000_000_000));
    server.onboard("web").await;
    let signals = |n| vec![good(&server, "web"); n];
    let sent = vec![hello(7), batch(1, signals(BATCH_MAX + 1))];
    let status = send(&server, monitor(), sent).await.unwrap_err();
    assert_eq!(reason(&status), "BATCH_TOO_LARGE");

    let batches = intake::SIGNALS_BURST / 1_000;
    let mut sent = vec![hello(7)];
    sent.extend((1..=batches + 1).map(|seq| batch(seq, signals(1_000))));
    let status = send(&server, monitor(), sent).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (StatusCode::ResourceExhausted, "SIGNAL_RATE".into())
    );
    let wait = status.get_details_retry_info().and_then(|retry| retry.retry_delay).unwrap();
    server.services.clock.advance(u64::try_from(wait.as_millis()).unwrap());
    let sent = vec![hello(7), batch(batches + 1, signals(1_000)), bye()];
    let summary = send(&server, monitor(), sent).await.unwrap();
    assert_eq!((summary.accepted, summary.duplicates), (1_000, 0), "what was refused was not seen");
}

#[tokio::test]
async fn leaving_is_told_from_being_lost() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let lost = || limits(&server)["monitors_lost"];
    send(&server, monitor(), vec![hello(7), bye()]).await.unwrap();
    assert_eq!(lost(), 0);
    send(&server, monitor(), vec![hello(7)]).await.unwrap();
    assert_eq!(lost(), 1, "an end without a word");
    let broken = vec![hello(7), Err(Status::unknown("h2 protocol error"))];
    send(&server, monitor(), broken).await.unwrap_err();
    assert_eq!(lost(), 2, "a broken connection");
    {
        let said = [hello(8), batch(1, vec![good(&server, "web")])];
        let open = tokio_stream::iter(said).chain(tokio_stream::pending());
        let stream = push(&server.services, monitor(), None, Box::pin(open));
        tokio::select! {
            _ = stream => panic!("it has no end"),
            () = heard(&server, 1) => {}
        }
    }
    assert_eq!(lost(), 3, "a cancelled call");
    assert_eq!(server.services.intake.monitors(), 0, "every place is free again");
}

/// Waits until the server has accepted so many signals in all.
async fn heard(server: &Server, signals: u64) {
    let intake = Arc::clone(&server.services.intake);
    while intake.counters.accepted.load(Ordering::Relaxed) < signals {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_claim_that_a_process_ended_is_urgent_and_restarts_nothing() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let exit = Some(v1::Exit { how: Some(v1::exit::How::Signal(9)) });
    let claim = v1::Signal { exit, cpu_utilization: None, ..good(&server, "web") };
    let summary =
        send(&server, monitor(), vec![hello(7), batch(1, vec![claim]), bye()]).await.unwrap();
    assert_eq!(summary.accepted, 1);
    let web = AppName::parse("web").unwrap();
    let app = server
        .until(move |view| {
            let reading = view.readings.get(&web)?;
            reading.conditions.get(EXIT_REPORTED).filter(|c| c.value)?;
            view.state.apps.get(&web).cloned()
        })
        .await;
    assert!(app.open.is_empty(), "the supervisor sees the process run");
    assert_eq!(server.memory.executed().len(), 1, "the deployment and nothing else");
}

#[tokio::test]
async fn a_monitor_can_shorten_the_life_of_a_signal_and_not_lengthen_it() {
    let server = Server::with(Env::Dev, Clock::manual(1_700_000_000_000));
    server.onboard("web").await;
    server.services.clock.advance(60_000);
    let ttl = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let short = v1::Signal { ttl: ttl(2), ..good(&server, "web") };
    let long = v1::Signal {
        ttl: ttl(600),
        cpu_utilization: None,
        memory_utilization: Some(0.5),
        ..good(&server, "web")
    };
    let sent = vec![hello(7), batch(1, vec![short, long]), bye()];
    assert_eq!(send(&server, monitor(), sent).await.unwrap().accepted, 2);
    let (web, now) = (AppName::parse("web").unwrap(), server.services.clock.now_ms());
    let policy = server.services.agent.query(|v| v.policy.clone()).await.unwrap();
    let sources = |after: u64| {
        let reading = server.services.ingest.close(&web, now + after, &policy, 0);
        let alive = |metric| reading.metrics.get(&metric).is_some_and(|s| !s.sources.is_empty());
        (alive(Metric::CpuUtilization), alive(Metric::MemoryUtilization))
    };
    assert_eq!(sources(2_000), (true, true));
    assert_eq!(sources(2_001), (false, true));
    assert_eq!(sources(policy.freshness.ttl_ms + 1), (false, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_signals_delays_neither_the_switch_nor_the_status() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut floods = Vec::new();
    for epoch in 1..=8 {
        let (services, stop) = (server.services.clone(), Arc::clone(&stop));
        let exit = Some(v1::Exit { how: Some(v1::exit::How::Code(1)) });
        let urgent = v1::Signal { exit, ..good(&server, "web") };
        floods.push(server.services.tasks.spawn("flood", OnFailure::Log, async move {
            let principal = Principal::new(&format!("flood{epoch}"), [Role::Monitor], None);
            while !stop.load(Ordering::Relaxed) {
                let batches = (1..).map(|seq| batch(seq, vec![urgent.clone(); 100]));
                let until = Arc::clone(&stop);
                let flood = tokio_stream::iter(batches);
                let flood = flood.take_while(move |_| !until.load(Ordering::Relaxed));
                let flood = tokio_stream::iter([hello(epoch)]).chain(flood);
                // Cut by the rate limit or stopped by us.
                let _ = push(&services, principal.clone(), None, flood).await;
                tokio::task::yield_now().await;
            }
        }));
    }
    let agent = agent::Service(server.services.clone());
    let answered = async {
        for n in 0..5 {
            let scope = Some(v1::Scope { target: Some(v1::scope::Target::Environment(true)) });
            let reason = format!("drill {n}");
            let pause = v1::PauseRequest { scope, reason, ..Default::default() };
            agent.pause(Server::ask(Role::Operator, pause)).await.unwrap();
            let asked = Server::ask(Role::Viewer, v1::GetStatusRequest {});
            let status = agent.get_status(asked).await.unwrap().into_inner().status.unwrap();
            assert_eq!(status.modes.len(), 1, "{n}");
            assert!(status.monitors <= 8);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), answered).await.expect("answered under load");
    stop.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.await.unwrap();
    }
    let web = AppName::parse("web").unwrap();
    let reading = loop {
        let web = web.clone();
        let newest = server.services.agent.query(move |v| v.readings.get(&web)).await;
        match newest.unwrap() {
            Some(reading) => break reading,
            // The flood had few turns, and the loop has not looked at it yet.
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    assert!(reading.conditions.len() <= 32 && reading.metrics.len() <= Metric::ALL.len());
}

#[tokio::test]
async fn a_real_client_on_a_socket_gets_its_summary() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = InterceptedService::new(
        wire::Wire::new(Service(server.services.clone())),
        |mut request: Request<()>| {
            request.extensions_mut().insert(monitor());
            Ok(request)
        },
    );
    let stopping = server.services.tasks.stopping();
    server.services.tasks.spawn("listen", OnFailure::Log, async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let serving = tonic::transport::Server::builder().add_service(service);
        serving.serve_with_incoming_shutdown(incoming, stopping.cancelled()).await.unwrap();
    });
    let mut client = TelemetryServiceClient::connect(format!("http://{address}")).await.unwrap();
    let said = |said: Result<Bytes, Status>| v1::PushSignalsRequest::decode(said.unwrap()).unwrap();
    let sent = [hello(7), batch(1, vec![good(&server, "web")]), bye()].map(said);
    let summary = client.push_signals(tokio_stream::iter(sent)).await.unwrap().into_inner();
    assert_eq!((summary.accepted, summary.high_water_seq), (1, 1));

    let sent = [hello(8), batch(1, vec![good(&server, "web")])].map(said);
    let open = tokio_stream::iter(sent).chain(tokio_stream::pending());
    let (client, watched) = (client.push_signals(open), heard(&server, 2));
    let drained = async {
        watched.await;
        server.services.tasks.stop();
    };
    let (status, ()) = tokio::join!(client, drained);
    assert_eq!(reason(&status.unwrap_err()), "DRAINING", "a stream never holds a stop");
    assert_eq!(limits(&server)["monitors_lost"], 0);
}

//! A whole server on a bus: what is forged there causes nothing, and its end changes nothing.

use std::path::PathBuf;

use agentd::app::{App, Host};
use agentd::bus::Address;
use agentd::config::{Config, ServerArgs};
use agentd::{agent::Ask, journal};
use agentd_core::record::Record;
use agentd_core::step::By;

use super::world::{Redis, STREAM};

async fn server(redis: &Redis) -> App {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let args = ServerArgs {
        listen: Some("127.0.0.1:0".to_owned()),
        data_dir: Some(text(redis.path().join("data"))),
        loop_interval: Some("50ms".to_owned()),
        ..ServerArgs::default()
    };
    let mut config = Config::load(&args).unwrap();
    config.redis = Address::parse(&redis.url());
    let shim = vec![PathBuf::from(env!("CARGO_BIN_EXE_agentd")), PathBuf::from("shim")];
    App::start(config, Host { shim, demo_app: Vec::new() }).await.unwrap()
}

/// One durable act of a human: learning is frozen or thawed.
async fn freeze(app: &App, frozen: bool) {
    let reason = "because".to_owned();
    let principal = "sam".to_owned();
    let by = By { principal, human: true, request: None, validate_only: false };
    app.agent().ask(Ask::Freeze { frozen, reason }, by).await.unwrap().unwrap();
}

/// Event, sequence number and line of everything in the proof log.
fn log(redis: &Redis) -> Vec<(String, String, String)> {
    let mut log = Vec::new();
    let mut read = |seq: u64, line: &[u8]| {
        let record = Record::parse(line).unwrap();
        let line = String::from_utf8(line.to_vec()).unwrap();
        log.push((record.body.event_name().to_owned(), seq.to_string(), line));
    };
    journal::open(journal::Config::new(redis.path().join("data/proof")), &mut read).unwrap();
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forged_on_the_bus_causes_nothing() {
    let Some(redis) = Redis::start(&[]) else { return };
    let app = server(&redis).await;
    freeze(&app, true).await;
    for (event, line) in [
        ("MODE_HALTED", r#"{"body":{"pause_set":{"pause":{"scope":"env","halt":true}}}}"#),
        ("APPROVAL_GRANTED", r#"{"body":{"approved":{"approval":1}}}"#),
        ("RL_DECISION", r#"{"body":{"decided":{"action":"restart"}}}"#),
        ("LEARNING_UNFROZEN", r#"{"body":{"freeze_set":{"frozen":false}}}"#),
        ("gap", "{}"),
    ] {
        for _ in 0..10 {
            redis.run(&[
                "XADD", STREAM, "*", "seq", "2", "event", event, "app", "shop", "line", line,
            ]);
            redis.run(&["PUBLISH", STREAM, line]);
        }
    }
    // Own records, before and after: the loop has turned many times in between.
    for _ in 0..10 {
        freeze(&app, false).await;
        freeze(&app, true).await;
    }
    let (pauses, frozen, apps, approvals) = app
        .agent()
        .query(|view| {
            let state = view.state;
            (state.mode.pauses.clone(), state.mode.frozen, state.apps.len(), state.approvals.len())
        })
        .await
        .unwrap();
    assert!(pauses.is_empty() && frozen && apps == 0 && approvals == 0);
    app.stop().await.unwrap();

    let own = ["AGENT_STARTED", "AGENT_STOPPED", "POLICY_APPLIED", "HEARTBEAT", "STATE_TRANSITION"];
    for (event, ..) in log(&redis) {
        assert!(own.contains(&event.as_str()) || event.starts_with("LEARNING_"), "{event}");
    }
    // The proof that nothing can come from there: apart from what this test ran itself, Redis was never asked for anything but the
    // copy of the last checkpoint (`get`), of which only what the log's own key signed counts.
    let calls = redis.calls();
    let asked = ["xread", "xrange", "xreadgroup", "xlen", "subscribe", "psubscribe", "keys"];
    assert!(asked.iter().all(|command| !calls.contains_key(*command)), "{calls:?}");
    assert!(calls["xadd"] > 50 + 20, "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_goes_on_as_before_when_redis_dies_and_the_bus_has_the_rest() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let app = server(&redis).await;
    freeze(&app, true).await;
    redis.kill();
    // Each of these is durable before it is answered, without Redis.
    for _ in 0..20 {
        freeze(&app, false).await;
        freeze(&app, true).await;
    }
    let deadline = std::time::Instant::now() + super::world::PATIENCE;
    while app.bus().connected {
        assert!(std::time::Instant::now() < deadline, "{:?}", app.bus());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(app.bus().last_error.is_some());
    redis.restart();
    while !app.bus().connected {
        assert!(std::time::Instant::now() < deadline, "{:?}", app.bus());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    app.stop().await.unwrap();

    let log = log(&redis);
    let bus = redis.entries();
    assert!(bus.len() >= 40, "{}", bus.len());
    let tail = &log[log.len() - bus.len()..];
    for (entry, (event, seq, line)) in bus.iter().zip(tail) {
        assert_eq!((&entry["event"], &entry["seq"], &entry["line"]), (event, seq, line));
    }
    assert_eq!(bus.last().unwrap()["event"], "AGENT_STOPPED", "up to the last record");
}

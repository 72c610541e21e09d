//! Several instances of one app, and a probe that is broken instead of them.

use std::collections::BTreeSet;
use std::net::TcpListener;

use agentd_core::app::Env;
use agentd_core::policy::Policy;
use serde_json::Value;

use crate::harness::{App, Options, Server, body, event, processes, seq};

fn pids(server: &Server) -> BTreeSet<u32> {
    let status = server.app_status("idle");
    let running = status["instances"].as_array().unwrap().iter();
    running.filter_map(|i| u32::try_from(i["pid"].as_u64()?).ok()).filter(|pid| *pid > 0).collect()
}

#[test]
fn a_probe_that_is_broken_itself_takes_down_one_of_five_and_no_more() {
    // The built-in policy, with a short look at the outcome: one attempt, and then it is held back.
    let mut policy = Policy::default_for(Env::Stage);
    policy.verification.hold_ms = 300;
    policy.verification.min_uptime_ms = 200;
    policy.verification.deadline_ms = 2_000;
    let server = Server::start(Options { policy: Some(policy), ..Options::default() });
    // What all instances are judged by is something else that ends: a port that nobody holds any more.
    let beacon = TcpListener::bind(server.app_address(0)).unwrap();
    let place = beacon.local_addr().unwrap().to_string();
    let app = App { name: "idle".to_owned(), address: String::new() };
    let words = [
        "onboard",
        "idle",
        "--runtime",
        "binary",
        "--min",
        "5",
        "--health-tcp",
        &place,
        "--health-interval",
        "200ms",
        "--exec",
        "/bin/sleep",
        "1000",
    ];
    server.ctl(&words).ok();
    server.wait_verified(&app, 0);
    let (before, old) = (server.records().head(), pids(&server));
    assert_eq!(old.len(), 5);

    drop(beacon);
    let decision = server.wait_decision(&app, "RESTART", before);
    let ended = server.wait_record("the restart ends", |r| {
        seq(r) > seq(&decision) && matches!(event(r), "ACTION_FAILED" | "ACTION_INCONCLUSIVE")
    });
    assert_eq!(body(&ended, "concluded")["action"], "RESTART", "{ended:#}");
    let records = server.records();
    assert_eq!(records.attempts("RESTART"), 1);
    let stopped =
        |r: &&Value| seq(r) > before && body(r, "observed")["what"]["exited"]["exit"].is_object();
    let stopped = records.of("RUNTIME_EMIT").filter(stopped).count();
    assert_eq!(stopped, 1, "taken down");
    let untouched = old.iter().filter(|pid| processes::runs(**pid)).count();
    assert_eq!(untouched, 4, "run on as they were");
}

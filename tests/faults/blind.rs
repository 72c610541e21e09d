//! Where agentd cannot measure what its apps use, it knows only what it is told: a monitor that is broken says zero.

use crate::harness::{App, Options, Server, Stream, body, event};

/// A server that cannot measure its apps itself, and an app with two instances, one more than it needs.
fn blind(options: Options) -> (Server, App) {
    let server = Server::start(Options { failpoints: "sense.blind=bug".to_owned(), ..options });
    let app = server.onboard_with("web", 8080, &["--instances", "2", "--max", "3"]);
    (server, app)
}

/// A monitor that says, as long as it is kept, that nothing uses anything.
fn zeros(server: &Server, monitor: &str) -> Stream {
    let words = ["signal", "send", "web", "--monitor-id", monitor, "--count", "1000"];
    let said = ["--every", "100ms", "--cpu", "0", "--p99", "0s", "--request-rate", "0"];
    server.follow(&[&words[..], &said].concat())
}

fn wait_fewer(server: &Server) {
    server.wait_record("an instance is taken away", |record| {
        event(record) == "ORCH_EXEC" && body(record, "attempted")["plan"]["action"] == "SCALE_DOWN"
    });
}

#[test]
fn a_lone_monitor_that_says_zero_takes_no_instance_away() {
    let (server, app) = blind(Options::default());
    let _first = zeros(&server, "broken");
    let decision = server.wait_decision(&app, "SCALE_DOWN", 0);
    let ruling = &body(&decision, "decided")["ruling"];
    assert!(ruling.to_string().contains("INSUFFICIENT_SOURCES"), "{ruling:#}");
    let explained = server.ctl(&["explain", "--last", "web"]).ok().stdout;
    assert!(explained.contains("INSUFFICIENT_SOURCES"), "{explained}");
    assert!(explained.contains("freshness.quorum"), "the way out is named: {explained}");
    assert_eq!(server.records().attempts("SCALE_DOWN"), 0);
    assert_eq!(server.app_status("web")["ready_instances"], 2);
    let _second = zeros(&server, "other");
    wait_fewer(&server);
    // The planted bug: one monitor is believed.
    let (server, _) = blind(Options::with(|policy| policy.freshness.quorum = 1));
    let _only = zeros(&server, "broken");
    wait_fewer(&server);
}

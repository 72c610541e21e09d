//! The kill switch: it holds through anything, the agent goes on deciding in its shadow, and lifting it lets the agent act.

use crate::harness::{App, Options, Server, body, event, seq};

fn kinds(server: &Server) -> Vec<String> {
    let status = server.status();
    let modes = status["modes"].as_array().unwrap();
    modes.iter().map(|mode| mode["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_pause_survives_kill_9_and_a_crash_under_it_waits_for_the_resume() {
    let mut server = Server::quick();
    let app = server.onboard("web");
    let before = server.records().head();
    server.ctl(&["pause", "--reason", "INC-481"]).ok();
    server.restart();
    assert_eq!(kinds(&server), ["pause"]);

    app.kill9();
    let refused = server.wait_decision(&app, "RESTART", before);
    assert_eq!(body(&refused, "decided")["ruling"]["reason"], "PAUSED", "{refused:#}");
    server.wait_record("the refusal is recorded", |r| seq(r) > before && event(r) == "PAUSED");
    let report = server.ctl(&["pause", "report", "-o", "json"]).ok().json();
    assert_eq!(report[0]["action"], "RESTART", "{report:#}");
    assert_eq!(report[0]["app"], "web");
    assert_eq!(server.records().attempts("RESTART"), 0);
    assert_eq!(server.app_status("web")["ready_instances"], 0, "it is left as it is");

    server.ctl(&["resume", "--reason", "it is over"]).ok();
    server.wait_verified(&app, before);

    assert!(kinds(&server).is_empty());
    assert_eq!(server.records().attempts("RESTART"), 1);
}

#[test]
fn a_pause_of_one_app_leaves_the_others_in_care() {
    let server = Server::quick();
    let (web, shop) = (server.onboard("web"), server.onboard_with("shop", 8081, &[]));
    let before = server.records().head();
    server.ctl(&["pause", "--app", "web", "--reason", "migration"]).ok();
    web.kill9();
    shop.kill9();
    server.wait_verified(&shop, before);
    server.wait_decision(&web, "RESTART", before);
    assert_eq!(server.app_status("web")["ready_instances"], 0);
    // Another scope is another pause.
    let lifted = server.ctl(&["resume", "--reason", "wrong one", "-o", "json"]).ok().json();
    assert_eq!(lifted["seq"], 0, "{lifted:#}");
    server.ctl(&["resume", "--app", "web", "--reason", "done"]).ok();
    server.wait_verified(&web, before);
}

#[test]
fn a_pause_with_an_end_ends_by_itself() {
    let server = Server::quick();
    let app = server.onboard("web");
    let before = server.records().head();
    server.ctl(&["pause", "--reason", "short", "--for", "2s"]).ok();
    app.kill9();
    server.wait_verified(&app, before);
    let records = server.records();
    let lifted = records.of("MODE_RESUMED").next().expect("it was lifted");
    assert_eq!(body(lifted, "pause_lifted")["reason"], "expired");
    let begun = records.of("ORCH_EXEC").filter(|r| seq(r) > before).map(seq).next().unwrap();
    assert!(begun > seq(lifted), "nothing was done before");
}

#[test]
fn a_halt_stops_a_rollout_at_the_next_safe_point() {
    // Without a health check each instance has to run for a while before it is the next one's turn.
    let server = Server::start(Options::with(|policy| policy.verification.min_uptime_ms = 700));
    let app = App { name: "idle".to_owned(), address: String::new() };
    let words =
        ["onboard", "idle", "--runtime", "binary", "--min", "3", "--exec", "/bin/sleep", "1000"];
    server.ctl(&words).ok();
    server.wait_verified(&app, 0);
    let before = server.records().head();
    server.ctl(&["act", "idle", "restart", "--reason", "rolling"]).ok();
    server.ctl(&["pause", "--halt", "--reason", "stop"]).ok();
    let ended =
        server.wait_record("the rollout ends", |r| seq(r) > before && event(r) == "ORCH_DELIVERED");
    let delivered = body(&ended, "delivered");
    assert_eq!(delivered["ok"], false, "{delivered:#}");
    assert!(delivered["detail"].as_str().unwrap().starts_with("halted"), "{delivered:#}");
    assert_eq!(kinds(&server), ["halt"]);
    let begun = server.records().started().len() - 3;
    assert!((1..3).contains(&begun), "{begun} of 3 were restarted");
    server.wait("all instances run", || {
        (server.app_status("idle")["ready_instances"] == 3).then_some(())
    });
}

#[test]
fn frozen_learning_is_told_and_recorded() {
    let mut server = Server::quick();
    let app = server.onboard("web");
    server.ctl(&["freeze", "--reason", "audit"]).ok();
    assert_eq!(kinds(&server), ["freeze"]);
    server.restart();
    assert_eq!(kinds(&server), ["freeze"], "it survives the server");
    let before = server.records().head();
    server.crash_and_heal(&app);
    let skipped = server
        .wait_record("learning was skipped", |r| seq(r) > before && event(r) == "LEARNING_SKIPPED");
    assert_eq!(body(&skipped, "learning_skipped")["why"], "frozen");
    server.ctl(&["unfreeze", "--reason", "done"]).ok();
    let before = server.records().head();
    server.crash_and_heal(&app);
    server.wait_record("learning goes on", |r| seq(r) > before && event(r) == "LEARNING_UPDATED");
}

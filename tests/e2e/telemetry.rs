//! Signals from outside, one by one judged; and an app that cannot live, which is not hammered.

use agentd_core::app::Env;
use agentd_core::policy::Policy;
use serde_json::Value;

use crate::harness::{Options, Server, event, seq};

fn send(server: &Server, words: &[&str]) -> (i32, Value) {
    let mut all = vec!["signal", "send"];
    all.extend(words);
    all.extend(["-o", "json"]);
    let run = server.ctl(&all);
    (run.code, serde_json::from_str(&run.stdout).unwrap_or(Value::Null))
}

#[test]
fn a_signal_is_accepted_or_rejected_with_its_field_and_rule() {
    let server = Server::quick();
    server.onboard("web");
    let (code, sent) = send(&server, &["web", "--cpu", "0.5", "--p99", "120ms"]);
    assert_eq!((code, &sent["accepted"], &sent["rejected"]), (0, &1.into(), &0.into()), "{sent:#}");
    for (words, field) in [
        (&["nobody", "--cpu", "0.5"][..], "app"),
        (&["web", "--cpu=-0.5"], "cpu"),
        (&["web", "--cpu", "NaN"], "cpu"),
        (&["web", "--cpu", "inf"], "cpu"),
        (&["web", "--error-ratio", "1.5"], "error"),
        (&["web", "--instance", "99999", "--cpu", "0.5"], "instance"),
    ] {
        let (code, sent) = send(&server, words);
        assert_eq!((code, &sent["rejected"]), (2, &1.into()), "{words:?}: {sent:#}");
        let named = sent["rejections"][0]["field"].as_str().unwrap_or_default();
        assert!(named.contains(field), "{words:?}: {sent:#}");
    }
    server.ctl(&["signal", "send", "web"]).exits(2).says(&["says nothing"]);
}

#[test]
fn contradicting_signals_lead_to_a_closer_look_and_to_nothing_else() {
    let server = Server::quick();
    let app = server.onboard("web");
    let pid = app.pid();
    let before = server.records().head();
    let words = ["web", "--condition", "cpu_high=true", "--condition", "cpu_low=true"];
    let (code, sent) = send(&server, &words);
    assert_eq!(code, 0, "{sent:#}");
    let decision = server.wait_decision(&app, "OBSERVE", before);
    assert!(seq(&decision) > before);
    assert_eq!(app.pid(), pid);
    assert!(server.records().of("ORCH_EXEC").all(|r| seq(r) < before));
}

#[test]
fn a_monitor_that_screams_is_not_believed_against_what_the_server_sees_itself() {
    let server = Server::quick();
    let app = server.onboard_with("web", 8080, &["--max", "3"]);
    let before = server.records().head();
    let words = ["web", "--cpu", "0.97", "--count", "12", "--every", "100ms"];
    let (code, sent) = send(&server, &words);
    assert_eq!((code, &sent["accepted"]), (0, &12.into()), "{sent:#}");
    server.wait_decision(&app, "OBSERVE", before);
    let records = server.records();
    assert_eq!(records.attempts("SCALE_UP") + records.attempts("RESTART"), 0);
}

#[test]
fn latency_that_lasts_leads_to_another_instance() {
    let server = Server::quick();
    let app = server.onboard_with("web", 8080, &["--max", "3"]);
    let before = server.records().head();
    let words = ["web", "--p99", "5s", "--count", "20", "--every", "100ms"];
    let (code, sent) = send(&server, &words);
    assert_eq!((code, &sent["accepted"]), (0, &20.into()), "{sent:#}");
    server.wait_decision(&app, "SCALE_UP", before);
    server
        .wait("two instances", || (server.app_status("web")["ready_instances"] == 2).then_some(()));
}

#[test]
fn an_app_that_cannot_live_is_not_started_again_and_again() {
    // The built-in policy, with a short look at the outcome: its cooldowns and its breaker are what the story is about.
    let mut policy = Policy::default_for(Env::Stage);
    policy.verification.hold_ms = 500;
    policy.verification.min_uptime_ms = 300;
    let server = Server::start(Options { policy: Some(policy), ..Options::default() });
    let mut words = server.onboarding("web", &server.app_address(8080), &[]);
    words.extend(["--crash-after-ms".to_owned(), "50".to_owned()]);
    server.ctl_words(&words).ok();
    let refused = server.wait_record("it is restrained", |r| event(r) == "ORCH_REFUSE");
    // Two signs of life later it has had ten seconds to do too much.
    let mut beats = 0;
    server.wait_record("two heartbeats", |r| {
        if seq(r) == 1 {
            beats = 0;
        }
        beats += usize::from(event(r) == "HEARTBEAT" && seq(r) > seq(&refused));
        beats == 2
    });
    let records = server.records();
    let begun = records.count("ORCH_EXEC");
    assert!((1..=4).contains(&begun), "{begun} attempts");
    assert!(records.started().len() <= 4, "{:?}", records.started());
    let explained = server.ctl(&["explain", "--last", "web"]).ok();
    assert!(!explained.stdout.is_empty());
}

//! The agent earns to go alone with an app: humans agree with what it only thought, a second person approves, and what it does not
//! live up to is taken back.

use serde_json::Value;

use crate::harness::{App, Options, Server, body, event, seq};

/// Three answers are enough here, and a relapse has a long time to come.
fn server() -> Server {
    Server::start(Options::with(|policy| policy.graduation.decisions = 3))
}

/// What the report says of restarts.
fn restart(server: &Server) -> Value {
    let report = server.ctl(&["app", "graduation", "web", "-o", "json"]).ok().json();
    let actions = report.as_array().unwrap();
    actions.iter().find(|action| action["action"] == "RESTART").unwrap().clone()
}

fn conditions(report: &Value) -> Vec<bool> {
    report["conditions"].as_array().unwrap().iter().map(|c| c["met"] == true).collect()
}

/// A crash that the agent thinks about, and a human who does what it thought.
fn restarted_by_hand(server: &Server, app: &App) {
    let before = server.records().head();
    app.kill9();
    let decision = server.wait_decision(app, "RESTART", before);
    let ruling = &body(&decision, "decided")["ruling"]["refused"];
    let reason =
        body(&decision, "decided")["ruling"]["reason"].as_str().or(ruling["reason"].as_str());
    assert_eq!(reason, Some("ACTION_ELIGIBILITY_FAILED"), "{decision:#}");
    server.ctl(&["act", "web", "restart", "--reason", "INC-481"]).ok();
    server.wait_verified(app, seq(&decision));
}

#[test]
fn an_app_in_shadow_graduates_acts_alone_and_is_demoted_after_failures() {
    let server = server();
    let app = server.onboard_with("web", 8080, &["--autonomy", "shadow"]);
    for answered in 0..3 {
        let report = restart(&server);
        assert_eq!((&report["answered"], &report["ready"]), (&answered.into(), &false.into()));
        restarted_by_hand(&server, &app);
    }
    server.wait("three answers", || (restart(&server)["answered"] == 3).then_some(()));
    let report = restart(&server);
    assert_eq!((&report["agreed"], &report["level"]), (&3.into(), &"shadow".into()), "{report:#}");
    assert_eq!(conditions(&report), [true, true, true], "{report:#}");
    let page = server.ctl(&["app", "graduation", "web"]).ok().stdout;
    assert!(page.contains("✔ decisions that humans answered: 3, at least 3"), "{page}");
    assert_eq!(server.records().count("AUTONOMOUS_OPERATION"), 0);

    // Whoever asks for more is not the one who approves it.
    let raise = ["app", "update", "web", "--autonomy", "auto", "-o", "json"];
    let held = server.ctl_as("operator", &raise).json();
    assert_eq!(held["result"], "UPDATE HELD", "{held:#}");
    assert_eq!(restart(&server)["level"], "shadow");
    let approvals = server.ctl(&["approval", "list", "--app", "web", "-o", "json"]).ok().json();
    let id = approvals[0]["id"].as_str().unwrap();
    assert_eq!(approvals[0]["plan"]["parameters"]["raises_autonomy_to"], "AUTO", "{approvals:#}");
    let words = ["approve", id, "--reason", "it was right three times", "--yes"];
    server.ctl_as("operator", &words).exits(4);
    server.ctl_as("approver", &words).ok();
    server.wait("it is left to the agent", || (restart(&server)["level"] == "auto").then_some(()));

    // From here on it acts alone; and each crash is a relapse of the one before, so it does not live up to it.
    for _ in 0..4 {
        let before = server.records().head();
        app.kill9();
        server.wait_record("it is restarted, or a human is asked", |r| {
            seq(r) > before && matches!(event(r), "SYSTEM_STABLE" | "AUTONOMY_DEMOTED")
        });
        if server.records().count("AUTONOMY_DEMOTED") == 1 {
            break;
        }
    }
    let records = server.records();
    let demoted = records.of("AUTONOMY_DEMOTED").next().expect("it is taken back");
    assert_eq!(body(demoted, "demoted")["to"], "PROPOSE", "{demoted:#}");
    assert_eq!(body(demoted, "demoted")["failed"], 3, "{demoted:#}");
    assert_eq!(records.count("AUTONOMOUS_OPERATION"), 3, "the fourth crash waits for a human");
    let report = restart(&server);
    assert_eq!((&report["level"], &report["answered"]), (&"propose".into(), &0.into()));
    assert!(report["demote_time"].is_string(), "{report:#}");
    let asked = server.wait("a human is asked", || {
        let list = server.ctl(&["approval", "list", "--app", "web", "-o", "json"]).ok().json();
        list.get(0).cloned()
    });
    assert_eq!(asked["plan"]["action"], "RESTART", "{asked:#}");
    let id = asked["id"].as_str().unwrap();
    server.ctl_as("approver", &["approve", id, "--reason", "x", "--yes"]).ok();
    server.wait_verified(&app, seq(demoted));
    server.ctl(&["proof", "verify"]).ok();
}

#[test]
fn the_report_of_an_app_nobody_answered_about_says_so_and_what_is_no_app_has_none() {
    let mut server = server();
    server.onboard("web");
    let page = server.ctl(&["app", "graduation", "web"]).ok().stdout;
    assert!(page.contains("humans answered no decision about it yet"), "{page}");
    for name in ["nobody", "Not A Name"] {
        server.ctl(&["app", "graduation", name]).exits(3);
    }
    // Asked together with another program it is refused, with the way to do it.
    server.ctl(&["app", "update", "web", "--autonomy", "shadow"]).ok();
    let both = ["app", "update", "web", "--autonomy", "auto", "--env-var", "A=b"];
    server.ctl(&both).exits(2).says(&["autonomy_level", "by itself"]);
    server.restart();
    assert_eq!(restart(&server)["level"], "shadow", "it is part of the log");
}

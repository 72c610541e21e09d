//! What the agent may not do alone: a human answers, never the one who asked, and the gates judge once more.

use agentd_core::action::{Action, Level};
use serde_json::Value;

use crate::harness::{App, Options, Run, Server, body};

fn proposing(ttl_ms: u64) -> Server {
    Server::start(Options::with(|policy| {
        policy.levels.insert(Action::Restart, Level::Propose);
        policy.approval.ttl_ms = ttl_ms;
    }))
}

const LONG: u64 = 600_000;

fn pending(server: &Server, app: &App) -> Value {
    server.wait("an approval to answer", || {
        let list = server.ctl(&["approval", "list", "--app", &app.name, "-o", "json"]).ok().json();
        list.get(0).cloned()
    })
}

fn id(approval: &Value) -> &str {
    approval["id"].as_str().expect("an approval has an id")
}

fn approve(server: &Server, who: &str, approval: &Value) -> Run {
    let words = ["approve", id(approval), "--reason", "INC-481", "--yes", "-o", "json"];
    server.ctl_as(who, &words)
}

#[test]
fn an_approved_restart_is_executed_exactly_once() {
    let server = proposing(LONG);
    let app = server.onboard("web");
    let before = server.records().head();
    let old = app.kill9();
    let approval = pending(&server, &app);
    assert_eq!(approval["plan"]["action"], "RESTART");
    assert!(approval["requested_by"].as_str().unwrap().starts_with("agent-"), "{approval:#}");
    assert_eq!(server.records().attempts("RESTART"), 0, "nothing is done before the answer");

    let denied = server.ctl_as("monitor", &["approve", id(&approval), "--reason", "x", "--yes"]);
    denied.exits(4).says(&["approver"]);
    for who in ["viewer", "operator", "admin"] {
        approve(&server, who, &approval).exits(4);
    }
    let nothing = format!("sha256:{}", "0".repeat(64));
    let wrong = ["approve", id(&approval), "--reason", "x", "--digest", &nothing];
    server.ctl_as("approver", &wrong).exits(7);
    assert_eq!(server.records().attempts("RESTART"), 0);

    // Two people at once.
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| approve(&server, "approver", &approval));
        let two = scope.spawn(|| approve(&server, "local", &approval));
        (one.join().unwrap(), two.join().unwrap())
    });
    let won = [&one, &two].into_iter().filter(|run| run.code == 0).count();
    assert_eq!(won, 1, "one of them was first: {one:#?} {two:#?}");

    server.wait_verified(&app, before);
    assert_ne!(app.pid(), old);
    let records = server.records();
    assert_eq!(records.attempts("RESTART"), 1);
    assert_eq!(records.started().len(), 2, "one start by the deployment, one by the approval");
    assert_eq!(records.count("APPROVAL_GRANTED"), 1);
    let answered = server.ctl(&["approval", "get", id(&approval), "-o", "json"]).ok().json();
    assert_eq!(answered["state"], "verified", "{answered:#}");
    assert_eq!(answered["decide_reason"], "INC-481");
    approve(&server, "approver", &approval).exits(5);
    assert_eq!(server.records().attempts("RESTART"), 1);
}

#[test]
fn whoever_asked_cannot_approve() {
    let server = Server::quick();
    let app = server.onboard("web");
    let ask = [
        "act",
        "web",
        "adjust_thresholds",
        "--reason",
        "noisy",
        "--param",
        "metric=cpu_utilization",
        "--param",
        "enter=0.9",
        "--param",
        "leave=0.7",
        "-o",
        "json",
    ];
    let held = server.ctl(&ask).exits(6).json();
    assert_eq!(held["ruling"], "held", "{held:#}");
    let approval = pending(&server, &app);
    assert_eq!(approval["requested_by"], "local");
    let own = approve(&server, "local", &approval).exits(4);
    assert_eq!(own.error()["reason"], "SELF_APPROVAL");
    assert_eq!(server.records().attempts("ADJUST_THRESHOLDS"), 0);
    approve(&server, "approver", &approval).ok();
    assert_eq!(server.records().attempts("ADJUST_THRESHOLDS"), 1);
}

#[test]
fn a_rejected_plan_is_not_carried_out() {
    let server = proposing(LONG);
    let app = server.onboard("web");
    app.kill9();
    let approval = pending(&server, &app);
    let reject = |who: &str| {
        server
            .ctl_as(who, &["reject", id(&approval), "--reason", "it is the database", "-o", "json"])
    };
    reject("operator").exits(4);
    let answered = reject("approver").ok().json();
    assert_eq!(answered["state"], "rejected");
    approve(&server, "approver", &approval).exits(5);
    let records = server.records();
    assert_eq!((records.attempts("RESTART"), records.count("APPROVAL_REJECTED")), (0, 1));
    assert_eq!(server.app_status("web")["ready_instances"], 0, "it is still down");
}

#[test]
fn an_unanswered_request_expires_by_itself() {
    let server = proposing(1_000);
    let app = server.onboard("web");
    app.kill9();
    let approval = pending(&server, &app);
    let seq_of = |approval: &Value| id(approval).trim_start_matches("apr-").parse::<u64>().unwrap();
    let number = seq_of(&approval);
    server.wait_record("the request expires", |r| {
        body(r, "approval_ended")["approval"] == number
            && body(r, "approval_ended")["state"] == "EXPIRED"
    });
    approve(&server, "approver", &approval).exits(6);
    assert_eq!(server.records().attempts("RESTART"), 0, "neither approval nor denial");
}

#[test]
fn a_request_survives_the_server_and_is_joined_not_doubled() {
    let mut server = proposing(LONG);
    let app = server.onboard("web");
    let before = server.records().head();
    app.kill9();
    let approval = pending(&server, &app);
    server.restart();
    assert_eq!(id(&pending(&server, &app)), id(&approval), "it is the same request");
    let list = server.ctl(&["approval", "list", "-o", "json"]).ok().json();
    assert_eq!(list.as_array().unwrap().len(), 1, "and nothing is asked twice");
    // What a human asks for is the same plan: it joins the one that waits instead of being done beside it.
    let asked = server.ctl(&["act", "web", "restart", "--reason", "by hand", "-o", "json"]);
    assert_eq!(asked.exits(5).json()["reason"], "DUPLICATE_IN_PROGRESS");
    approve(&server, "approver", &approval).ok();
    server.wait_verified(&app, before);
    assert_eq!(server.records().attempts("RESTART"), 1);
}

#[test]
fn a_changed_app_supersedes_the_request_and_the_old_plan_opens_nothing() {
    let server = proposing(LONG);
    let app = server.onboard("web");
    let before = server.records().head();
    app.kill9();
    let first = pending(&server, &app);
    server.ctl(&["app", "update", "web", "--label", "team=shop"]).ok();
    let second = server.wait("it is asked anew, for the new revision", || {
        let list = server.ctl(&["approval", "list", "--app", "web", "-o", "json"]).ok().json();
        list.as_array().unwrap().iter().find(|a| id(a) != id(&first)).cloned()
    });
    let old = server.ctl(&["approval", "get", id(&first), "-o", "json"]).ok().json();
    assert_eq!(old["state"], "superseded", "{old:#}");
    assert_eq!(old["superseded_by"], id(&second));
    approve(&server, "approver", &first).exits(5);
    let stale = first["plan"]["digest"].as_str().unwrap();
    let words = ["approve", id(&second), "--reason", "x", "--yes", "--digest", stale];
    server.ctl_as("approver", &words).exits(7);
    assert_eq!(server.records().attempts("RESTART"), 0);
    approve(&server, "approver", &second).ok();
    server.wait_verified(&app, before);
}

#[test]
fn a_request_for_an_app_that_recovered_is_cleared() {
    let server = proposing(LONG);
    let app = server.onboard("web");
    app.kill9();
    let approval = pending(&server, &app);
    // Somebody brings it up in another way: with another setting of its own.
    server.ctl(&["app", "update", "web", "--env-var", "FIXED=yes", "--wait"]).ok();
    let answered = server.wait("the request ends", || {
        let entry = server.ctl(&["approval", "get", id(&approval), "-o", "json"]).ok().json();
        (entry["state"] != "pending").then_some(entry)
    });
    assert_eq!(answered["state"], "cleared", "{answered:#}");
    approve(&server, "approver", &approval).exits(5);
    assert_eq!(server.records().attempts("RESTART"), 0, "nobody answered, nothing was restarted");
    assert!(app.get("/healthz").is_some());
}

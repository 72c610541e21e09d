//! Rules that change while everything runs, and what other rules would have done.

use agentd_core::action::{Action, Level};
use agentd_core::app::Env;
use agentd_core::policy::{Policy, set};
use serde_json::Value;

use crate::harness::{App, Options, Run, Server, body, deadline, event, processes, quick, seq};

fn save(server: &Server, name: &str, policy: &Policy) -> String {
    let path = server.dir().join(name);
    std::fs::write(&path, toml::to_string(policy).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn apply(server: &Server, policy: &Policy) -> Run {
    let path = save(server, "next.toml", policy);
    server.ctl(&["policy", "apply", &path, "--reason", "drill", "--yes", "-o", "json"])
}

fn digest(server: &Server) -> String {
    let policy = server.ctl(&["policy", "get", "-o", "json"]).ok().json();
    policy["digest"].as_str().unwrap().to_owned()
}

fn expected(policy: &Policy) -> String {
    format!("sha256:{}", policy.digest())
}

/// SIGHUP, and waits until the server has said what came of it.
fn hangup(server: &Server, said: &str) {
    processes::signal(server.pid(), rustix::process::Signal::HUP);
    server.wait(&format!("the server says `{said}`"), || server.log().contains(said).then_some(()));
}

/// A crash within the cooldown: the refused restart.
fn refused(server: &Server, app: &App) -> Value {
    server.crash_and_heal(app);
    let before = server.records().head();
    app.kill9();
    let refused = server.wait_decision(app, "RESTART", before);
    assert_eq!(body(&refused, "decided")["ruling"]["reason"], "COOLDOWN_ACTIVE", "{refused:#}");
    refused
}

fn patient() -> Server {
    Server::start(Options::with(|policy| {
        policy.cooldown.base_ms.insert(Action::Restart, 300_000);
        policy.cooldown.restart_cap_ms = 300_000;
        policy.repetition.window_ms = 366 * 24 * 3_600_000;
        policy.memory.window_ms = 366 * 24 * 3_600_000;
    }))
}

#[test]
fn a_policy_is_applied_under_open_streams_and_a_bad_one_changes_nothing() {
    let server = Server::quick();
    server.onboard("web");
    let mut watch = server.follow(&["watch", "--all", "-o", "jsonl", "--since", "0"]);
    let mut status = server.follow(&["status", "-w", "-o", "jsonl"]);
    status.line(deadline()).expect("the status is watched");

    let mut next = quick();
    next.budget.per_hour = 29;
    let applied = apply(&server, &next).ok().json();
    assert_eq!(applied["differences"][0]["setting"], "budget.per_hour", "{applied:#}");
    assert_eq!(
        (digest(&server), &applied["digest"]),
        (expected(&next), &Value::from(expected(&next)))
    );
    let told = watch.until("POLICY_APPLIED", |line| {
        line["event"] == "POLICY_APPLIED" && line["seq"] == applied["seq"]
    });
    assert!(told.last().unwrap()["summary"].as_str().unwrap().contains("by local: drill"));

    let mut bad = next.clone();
    bad.repetition.window_ms = 1;
    bad.confidence.r1 = 3;
    apply(&server, &bad).exits(2);
    let path = save(&server, "bad.toml", &bad);
    let faults = server.ctl(&["policy", "validate", &path, "-o", "json"]).exits(2).json();
    assert!(faults["faults"].as_array().unwrap().len() >= 2, "{faults:#}");
    let offline = server.ctl(&["policy", "validate", &path, "--offline", "-o", "json"]).exits(2);
    assert_eq!(offline.json()["faults"], faults["faults"], "the same without a server");
    assert_eq!(digest(&server), expected(&next));
    // Only who may change rules changes them; everybody who may look may check.
    for who in ["viewer", "operator", "approver"] {
        let words = ["policy", "apply", &path, "--reason", "x", "--yes"];
        server.ctl_as(who, &["policy", "diff", &path]).ok();
        let good = save(&server, "good.toml", &quick());
        let words = [words[0], words[1], &good, words[3], words[4], words[5]];
        server.ctl_as(who, &words).exits(4);
    }
    assert!(watch.is_running() && status.is_running(), "no stream was stopped");
    let records = server.records();
    let applied = records.of("POLICY_APPLIED").last().unwrap();
    assert_eq!(body(applied, "policy_applied")["author"]["principal"], "local");
}

#[test]
fn the_policy_file_is_read_again_on_sighup_and_a_bad_one_is_told_loudly() {
    let server = Server::quick();
    server.onboard("web");
    let mut watch = server.follow(&["watch", "-o", "jsonl", "--since", "0"]);
    watch.line(deadline()).expect("it is watched");
    let mut next = quick();
    next.approval.ttl_ms = 77_000;
    let write = |text: &str| std::fs::write(server.dir().join("policy.toml"), text).unwrap();
    write(&toml::to_string(&next).unwrap());
    hangup(&server, "policy was read again origin");
    assert_eq!(digest(&server), expected(&next));

    write("env = \"stage\"\nlimits = 3\n");
    hangup(&server, "not usable");
    assert_eq!(digest(&server), expected(&next), "the old one stays");
    let part = |server: &Server| {
        let agents = server.ctl(&["agents", "-o", "json"]).ok().json();
        agents.as_array().unwrap().iter().find(|a| a["name"] == "policy").unwrap().clone()
    };
    let told = part(&server);
    assert_eq!(told["healthy"], false, "{told:#}");
    assert!(told["detail"].as_str().unwrap().contains("limits"), "{told:#}");
    write(&toml::to_string(&quick()).unwrap());
    processes::signal(server.pid(), rustix::process::Signal::HUP);
    server.wait("a good one is taken again", || (part(&server)["healthy"] == true).then_some(()));
    assert_eq!(digest(&server), expected(&quick()));
    assert!(watch.is_running(), "no stream was stopped");
    assert_eq!(server.records().count("POLICY_APPLIED"), 3);
}

#[test]
fn an_applied_policy_outlives_kill_9_until_the_file_says_something_new() {
    let mut server = Server::quick();
    let mut next = quick();
    next.budget.per_hour = 29;
    apply(&server, &next).ok();
    server.restart();
    assert_eq!(digest(&server), expected(&next), "the file is what it was");
    let origin = server.ctl(&["policy", "get", "-o", "json"]).ok().json()["origin"].clone();
    assert_eq!(origin, "applied by local");
    next.budget.per_hour = 28;
    save(&server, "policy.toml", &next);
    server.restart();
    assert_eq!(digest(&server), expected(&next), "the file says something new");
}

#[test]
fn a_start_that_cannot_take_what_was_applied_goes_back_to_the_configured_one() {
    let mut policy = Policy::default_for(Env::Dev);
    policy.learning.exploration_ppm = 0;
    let options = Options { env: Env::Dev, policy: Some(policy.clone()), ..Options::default() };
    let mut server = Server::start(options);
    let mut exploring = policy.clone();
    exploring.learning.exploration_ppm = 50_000;
    apply(&server, &exploring).ok();
    server.restart();
    assert_eq!(digest(&server), expected(&exploring));
    server.options.flags.push("--demo-mode".to_owned());
    server.restart();
    assert_eq!(digest(&server), expected(&policy), "a demonstration never explores");
    assert!(server.log().contains("not usable any more"), "{}", server.log());
    server.ctl(&["proof", "verify"]).ok();
}

#[test]
fn whoever_replaces_a_policy_they_have_not_seen_is_told() {
    let server = Server::quick();
    let before = digest(&server);
    let mut next = quick();
    next.budget.per_hour = 29;
    apply(&server, &next).ok();
    let path = save(&server, "other.toml", &quick());
    let words =
        ["policy", "apply", &path, "--reason", "x", "--yes", "--replaces", &before, "-o", "json"];
    assert_eq!(server.ctl(&words).exits(7).error()["reason"], "POLICY_CHANGED");
    assert_eq!(digest(&server), expected(&next));
    let again = apply(&server, &next).ok().json();
    assert!(again["seq"].is_null(), "nothing differs, nothing is recorded: {again:#}");
}

#[test]
fn another_policy_supersedes_what_waits_and_the_old_digest_opens_nothing() {
    let server = Server::start(Options::with(|policy| {
        policy.levels.insert(Action::Restart, Level::Propose);
        policy.approval.ttl_ms = 600_000;
    }));
    let app = server.onboard("web");
    let before = server.records().head();
    app.kill9();
    let list = || server.ctl(&["approval", "list", "-o", "json"]).ok().json();
    let first = server.wait("a human is asked", || list().get(0).cloned());
    let id = |approval: &Value| approval["id"].as_str().unwrap().to_owned();
    let mut next = server.options.policy.clone().unwrap();
    next.budget.per_hour += 1;
    apply(&server, &next).ok();
    let second = server.wait("it is asked anew", || {
        list().as_array().unwrap().iter().find(|a| id(a) != id(&first)).cloned()
    });
    let old = server.ctl(&["approval", "get", &id(&first), "-o", "json"]).ok().json();
    assert_eq!(old["state"], "superseded", "{old:#}");
    server.ctl_as("approver", &["approve", &id(&first), "--reason", "x", "--yes"]).exits(5);
    let stale = first["plan"]["digest"].as_str().unwrap();
    let words = ["approve", &id(&second), "--reason", "x", "--yes", "--digest", stale];
    server.ctl_as("approver", &words).exits(7);
    assert_eq!(server.records().attempts("RESTART"), 0, "neither of them did anything");
    server.ctl_as("approver", &["approve", &id(&second), "--reason", "x", "--yes"]).ok();
    server.wait_verified(&app, before);
    assert_eq!(server.records().attempts("RESTART"), 1);
}

#[test]
fn the_named_change_really_turns_the_decision() {
    let server = patient();
    let app = server.onboard("web");
    let record = refused(&server, &app);
    let id = format!("dec-{}", seq(&record));
    let told = server.ctl(&["explain", &id, "-o", "json"]).ok().json();
    let verdicts = told["decision"]["verdicts"].as_array().unwrap();
    assert_eq!(verdicts.len(), agentd_core::gates::GATES.len(), "every gate is named");
    let cooldown = verdicts.iter().find(|v| v["gate"] == "cooldown").unwrap();
    assert!(!cooldown["value"].as_str().unwrap().is_empty(), "{cooldown:#}");
    assert!(!cooldown["limit"].as_str().unwrap().is_empty(), "{cooldown:#}");

    let change = &told["nearest_changes"][0];
    assert_eq!(change["setting"], "cooldown.base_ms.RESTART", "{change:#}");
    let to: u64 = change["to_value"].as_str().unwrap().parse().unwrap();
    assert!(to < 300_000, "{change:#}");
    let page = server.ctl(&["explain", &id]).ok().stdout;
    assert!(page.contains(&format!("`cooldown.base_ms.RESTART = {to}`")), "{page}");

    // The command it names answers what it said; one millisecond more does not.
    let head = server.records().head();
    let simulate = |to: u64| {
        let setting = format!("cooldown.base_ms.RESTART={to}");
        server.ctl(&["policy", "simulate", &id, "--set", &setting, "-o", "json"]).ok().json()
    };
    let turned = simulate(to);
    assert_eq!(turned["differences"][0]["new_ruling"], "permitted", "{turned:#}");
    assert_eq!(turned["differences"][0]["gates"], serde_json::json!(["cooldown"]));
    assert_eq!(simulate(to + 1)["differences"], serde_json::json!([]));
    let decided = server.records().into_iter().any(|r| seq(&r) > head && event(&r) == "ORCH_EXEC");
    assert!(!decided, "nothing was touched");

    // And what the simulation says the server does, once it is in force.
    let next =
        set(server.options.policy.as_ref().unwrap(), "cooldown.base_ms.RESTART", "1").unwrap();
    let before = server.records().head();
    apply(&server, &next).ok();
    server.wait_verified(&app, before);
}

#[test]
fn the_past_judged_under_the_same_rules_is_the_past_and_under_looser_ones_is_not() {
    let server = patient();
    let app = server.onboard("web");
    refused(&server, &app);
    let policy = server.options.policy.clone().unwrap();
    let same = save(&server, "same.toml", &policy);
    let backtest = |path: &str, more: &[&str]| {
        let words = [&["policy", "simulate", "--policy", path, "-o", "json"], more].concat();
        server.ctl(&words).ok().json()
    };
    let before = (server.records().attempts("RESTART"), app.find_pid());
    let identical = backtest(&same, &["--since", "1h"]);
    assert!(identical["judged"].as_u64().unwrap() >= 3, "{identical:#}");
    assert_eq!(identical["differences"], serde_json::json!([]), "the same rules: the same past");
    let verified = server.ctl(&["proof", "verify", "--recheck"]);
    assert!(verified.code == 0 || verified.code == 2, "{verified:#?}");
    let mut loose = policy;
    loose.cooldown.base_ms.insert(Action::Restart, 1);
    let loose = save(&server, "loose.toml", &loose);
    let differs = backtest(&loose, &["--app", "web"]);
    let first = &differs["differences"][0];
    assert_eq!((&first["ruling"], &first["new_ruling"]), (&"refused".into(), &"permitted".into()));
    assert_eq!(backtest(&loose, &["--app", "nobody"])["judged"], 0);
    let words = ["policy", "simulate", "--set", "no.such=1", "-o", "json"];
    assert!(server.ctl(&words).exits(2).error()["message"].as_str().unwrap().contains("no.such"));
    server.ctl(&["policy", "simulate", "dec-1", "--set", "repetition.limit=4"]).exits(3);
    let table = server.ctl(&["policy", "simulate", "--policy", &loose]).ok().stdout;
    assert!(table.contains("WOULD BE") && table.contains("nothing was touched"), "{table}");
    assert_eq!(
        (server.records().attempts("RESTART"), app.find_pid()),
        before,
        "nothing was touched"
    );
}

#[test]
fn a_read_only_caller_changes_nothing_whoever_they_are() {
    let server = Server::quick();
    let app = server.onboard("web");
    let pid = app.pid();
    let head = server.records().head();
    let policy = save(&server, "next.toml", &set(&quick(), "budget.per_hour", "9").unwrap());
    for command in [
        &["act", "web", "restart", "--reason", "x"][..],
        &["pause", "--reason", "x"],
        &["freeze", "--reason", "x"],
        &["app", "update", "web", "--autonomy", "off"],
        &["app", "offboard", "web", "--reason", "x", "--yes"],
        &["policy", "apply", &policy, "--reason", "x", "--yes"],
        &["act", "web", "restart", "--reason", "x", "--dry-run"],
    ] {
        let words = [&["--read-only", "-o", "json"], command].concat();
        let run = server.ctl_as("local", &words).exits(4);
        assert_eq!(run.error()["reason"], "READ_ONLY", "{run:#?}");
    }
    for command in [
        &["status"][..],
        &["app", "list"],
        &["policy", "diff", &policy],
        &["explain", "--last", "web"],
    ] {
        server.ctl(&[&["--read-only"], command].concat()).ok();
    }
    let quiet = ["HEARTBEAT", "RUNTIME_EMIT"];
    let made: Vec<_> = server
        .records()
        .into_iter()
        .filter(|r| seq(r) > head && !quiet.contains(&event(r)))
        .collect();
    assert!(made.is_empty(), "{made:#?}");
    assert_eq!(app.pid(), pid);
}

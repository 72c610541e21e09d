//! What other rules would have done: over the decisions of a log, and over telemetry that was recorded elsewhere.

use std::fmt::Write as _;

use agentd_core::action::{Action, Level};
use serde_json::Value;

use crate::harness::{Server, quick};

/// The log of a server, as a file.
fn export(server: &Server) -> String {
    let log = server.ctl(&["proof", "export"]).ok().stdout;
    save(server, "proof.jsonl", &log)
}

fn save(server: &Server, name: &str, text: &str) -> String {
    let path = server.dir().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn backtest(server: &Server, log: &str, policies: [&str; 2]) -> crate::harness::Run {
    let [a, b] = policies;
    server.ctl(&["backtest", "--log", log, "--policy", a, "--policy", b, "-o", "json"])
}

#[test]
fn a_log_is_judged_again_byte_for_byte_and_rules_that_never_restart_would_have_cost_more() {
    let server = Server::quick();
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    let mut idle = quick();
    idle.levels.insert(Action::Restart, Level::Off);
    let idle = save(&server, "idle.toml", &toml::to_string(&idle).unwrap());
    let directory = server.dir().join("data").display().to_string();
    for log in [export(&server), directory] {
        let view = backtest(&server, &log, ["recorded", &idle]).ok().json();
        assert_eq!(view["differing"], 0, "{view:#}");
        assert!(view["decisions"].as_u64().unwrap() >= 2, "{view:#}");
        assert_eq!((&view["a"]["changed"], &view["outcomes"]), (&0.into(), &1.into()), "{view:#}");
        assert!(view["difference"]["mean_micro"].as_i64().unwrap() > 0, "{view:#}");
        // One incident is no ground to say so.
        assert_eq!(view["verdict"], "inconclusive", "{view:#}");
        assert!(view["why"].as_str().unwrap().contains("fewer than"), "{view:#}");
    }
}

#[test]
fn a_log_that_was_touched_and_a_policy_that_is_none_are_told() {
    let server = Server::quick();
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    let log = export(&server);
    let text = std::fs::read_to_string(&log).unwrap();
    let touched =
        text.replace("\"action\":\"RESTART\",\"chance\":", "\"action\":\"RESTART\",\"chance\":1");
    assert_ne!(touched, text);
    let touched = save(&server, "touched.jsonl", &touched);
    let view = backtest(&server, &touched, ["recorded", "q"]).exits(10).json();
    assert!(view["differences"][0].as_str().unwrap().contains("proposal differs"), "{view:#}");

    let torn = save(&server, "torn.jsonl", &format!("{text}{{\"seq\":1"));
    let line = format!("line {}", text.lines().count() + 1);
    backtest(&server, &torn, ["recorded", "q"]).exits(2).says(&[&line]);
    let bad = save(&server, "bad.toml", "env = \"stage\"\nnonsense = 1\n");
    backtest(&server, &log, ["recorded", &bad])
        .exits(2)
        .says(&["bad.toml` is no policy", "line 2"]);
    backtest(&server, "/nowhere.jsonl", ["recorded", "q"]).exits(3);
    let one = ["backtest", "--log", &log, "--policy", "q"];
    server.ctl(&one).exits(2).says(&["two policies are compared"]);
}

/// Ten minutes of telemetry, with an overload in the middle of it.
fn overload() -> String {
    let mut text = "time,app,cpu_utilization,error_ratio\n".to_owned();
    for row in 0..60 {
        let cpu = if (25..35).contains(&row) { 0.97 } else { 0.4 };
        writeln!(text, "{},web,{cpu},0", 1_700_000_000 + 10 * row).unwrap();
    }
    text
}

fn replay(server: &Server, dataset: &str, more: &[&str]) -> Value {
    let words = [&["replay", "--dataset", dataset, "-o", "json"], more].concat();
    server.ctl(&words).ok().json()
}

#[test]
fn recorded_telemetry_goes_through_the_whole_loop_and_the_same_one_gives_the_same_log() {
    let server = Server::quick();
    let dataset = save(&server, "telemetry.csv", &overload());
    for planner in ["rl", "rules"] {
        let view = replay(&server, &dataset, &["--planner", planner]);
        assert_eq!((&view["app"], &view["rows"]), (&"web".into(), &60.into()), "{view:#}");
        assert_eq!(view["findings"]["CPU_OVERLOAD"], 1, "{view:#}");
        assert!(view["actions"]["SCALE_UP"]["permitted"].as_u64().unwrap() >= 1, "{view:#}");
        assert!(view["actions"]["RESTART"].is_null(), "{view:#}");
        let again = replay(&server, &dataset, &["--planner", planner]);
        assert_eq!(view, again);
        let forced = replay(&server, &dataset, &["--planner", planner, "--force-anomaly"]);
        assert!(forced["actions"]["RESTART"]["permitted"].as_u64().unwrap() >= 1, "{forced:#}");
    }
    let page = server.ctl(&["replay", "--dataset", &dataset]).ok().stdout;
    assert!(page.contains("CPU_OVERLOAD") && page.contains("SCALE_UP"), "{page}");
}

#[test]
fn a_bad_dataset_is_refused_with_line_and_column() {
    let server = Server::quick();
    for (text, said) in [
        ("time,app\n1,web\n", "column of a metric is missing"),
        ("time,error_ratio\n1,NaN\n", "error_ratio `NaN`"),
        ("time,error_ratio\n2,0\n1,0\n", "time `1` must be later"),
        ("time,app,error_ratio\n1,a,0\n2,b,0\n", "app `b` must be `a` as in line 2"),
    ] {
        let dataset = save(&server, "bad.csv", text);
        server.ctl(&["replay", "--dataset", &dataset]).exits(2).says(&["line", said]);
    }
    let prod = agentd_core::policy::Policy::default_for(agentd_core::app::Env::Prod);
    let prod = save(&server, "prod.toml", &toml::to_string(&prod).unwrap());
    let dataset = save(&server, "telemetry.csv", &overload());
    let words = ["replay", "--dataset", &dataset, "--policy", &prod];
    server.ctl(&words).exits(2).says(&["cannot be onboarded", "prod"]);
}

#[test]
fn what_was_learned_is_made_from_the_log_and_merged_whole_or_not_at_all() {
    let server = Server::quick();
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    let log = export(&server);
    let show = server.ctl(&["learn", "show", "--log", &log, "-o", "json"]).ok().json();
    let restarts: u64 = show["corrections"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["action"] == "RESTART")
        .map(|row| row["resolved"].as_u64().unwrap())
        .sum();
    assert_eq!(restarts, 1, "{show:#}");
    let calibrated = server.ctl(&["learn", "calibrate", "--log", &log, "-o", "json"]).ok().json();
    assert_eq!(calibrated["count"], 1, "{calibrated:#}");

    let export = |log: &str| server.ctl(&["learn", "export", "--log", log]).ok().stdout;
    let text = export(&log);
    assert_eq!(text, export(&log), "the same log gives the same bytes");
    let one = save(&server, "one.json", &text);
    let merged = server.ctl(&["learn", "merge", &one, &one]).ok().stdout;
    assert_eq!(merged, text);
    let diff = server.ctl(&["learn", "diff", &one, &one, "--exit-code"]).ok();
    assert!(diff.stdout.contains("they know the same"), "{diff:#?}");

    let touched = save(&server, "touched.json", &text.replace("\"trials\": 1", "\"trials\": 9"));
    server
        .ctl(&["learn", "merge", &one, &touched])
        .exits(2)
        .says(&["field `digest`", "touched.json"]);
    let torn = save(&server, "torn.json", text.split_at(text.len() / 2).0);
    server.ctl(&["learn", "diff", &one, &torn]).exits(2).says(&["torn.json", "line "]);
}

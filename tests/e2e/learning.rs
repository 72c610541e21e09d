//! What the agent has learned is taken from server to server, and in prod put in force by humans.

use agentd_core::app::Env;

use crate::harness::{Options, Run, Server};

fn save(server: &Server, name: &str, text: &str) -> String {
    let path = server.dir().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[track_caller]
fn shows(run: &Run, parts: &[&str]) {
    assert_eq!(run.code, 0, "{run:#?}");
    for part in parts {
        assert!(run.stdout.contains(part), "`{part}` is missing: {run:#?}");
    }
}

#[test]
fn what_one_server_learned_another_is_taught_and_prod_only_by_a_backtest_and_a_human() {
    let stage = Server::quick();
    let app = stage.onboard("web");
    stage.crash_and_heal(&app);
    let exported = stage.ctl(&["learn", "export"]).ok().stdout;
    let learned = stage.ctl(&["learn", "show", "-o", "json"]).ok().json();
    assert!(!learned["values"].as_array().unwrap().is_empty(), "{learned:#}");

    // Forgotten, and brought back: the very same. The log has both, and is judged again to the last byte.
    let file = save(&stage, "stage.json", &exported);
    stage.ctl(&["learn", "reset", "--reason", "a drill", "--yes"]).ok();
    shows(&stage.ctl(&["learn", "show"]), &["nothing was learned"]);
    let words = ["learn", "import", &file, "--reason", "the drill is over"];
    shows(&stage.ctl(&words), &["TAKEN IN"]);
    let again = stage.ctl(&["learn", "show", "-o", "json"]).ok().json();
    assert_eq!(again["values"], learned["values"]);
    assert_eq!(again["corrections"], learned["corrections"]);
    shows(&stage.ctl(&words), &["UNCHANGED"]);
    let log = stage.ctl(&["proof", "export"]).ok().stdout;
    let log = save(&stage, "proof.jsonl", &log);
    stage.ctl(&["proof", "verify", &log, "--replay"]).ok();
    let rebuilt = stage.ctl(&["learn", "show", "--log", &log, "-o", "json"]).ok().json();
    assert_eq!(rebuilt["values"], learned["values"], "the table is a fold of the log");

    let bad = save(&stage, "bad.json", &exported.replacen("\"trials\": 1", "\"trials\": \"1\"", 1));
    let words = ["learn", "import", &bad, "--reason", "x"];
    let refused = stage.ctl(&words).exits(2);
    refused.says(&["snapshot.table.CRASH.RESTART.trials", "line "]);
    stage.ctl_as("operator", &words).exits(4);
    let refused = stage.ctl(&["learn", "promote", "--reason", "x", "-o", "json"]).exits(5);
    assert_eq!(refused.error()["reason"], "NO_CANDIDATE", "{refused:#?}");

    let prod = Server::start(Options { env: Env::Prod, policy: None, ..Options::default() });
    let words = ["learn", "import", &file, "--reason", "a start"];
    prod.ctl(&words).exits(2).says(&["weak prior"]);
    let words = ["learn", "import", &file, "--weak-prior", "--reason", "a start"];
    shows(&prod.ctl(&words), &["the candidate", "as a weak prior", "stage"]);
    shows(&prod.ctl(&["learn", "show"]), &["nothing was learned"]);
    let candidate = prod.ctl(&["learn", "show", "--candidate", "-o", "json"]).ok().json();
    assert!(!candidate["corrections"].as_array().unwrap().is_empty(), "{candidate:#}");
    let words = ["learn", "promote", "--reason", "it is a start", "-o", "json"];
    let refused = prod.ctl(&words).exits(5);
    assert_eq!(refused.error()["reason"], "BACKTEST_NOT_PASSED", "{refused:#?}");
    refused.says(&["inconclusive"]);
    shows(&prod.ctl(&["explain", "BACKTEST_NOT_PASSED"]), &["candidate"]);
}

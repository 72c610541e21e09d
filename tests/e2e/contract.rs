//! The contract of the output, on every command there is: with `-o json` stdout is JSON and nothing else, errors are JSON on stderr,
//! and the exit code is one that is documented. A command that is not in the table fails the test, so none is forgotten.

use agentctl::cli::Cli;
use agentctl::exit::Exit;
use clap::CommandFactory as _;
use serde_json::Value;

use crate::harness::{Run, Server};

/// What is run, word by word; the words of the command come first. And how it ends.
type Line = (&'static str, &'static [&'static str], u8);

/// Every command with its arguments. `{…}` is filled in from the server: `{dec}` a decision, `{dir}` a directory of the test.
const COMMANDS: &[Line] = &[
    ("act", &["web", "observe", "--reason", "look"], 0),
    ("agent get", &["auto_heal"], 0),
    ("agent list", &[], 0),
    ("agent state", &[], 0),
    ("agents", &[], 0),
    ("api call", &["AgentService/GetStatus"], 0),
    ("api describe", &["Signal"], 0),
    ("api list", &[], 0),
    ("app describe", &["web"], 0),
    ("app get", &["web"], 0),
    ("app graduation", &["web"], 0),
    ("app history", &["web"], 0),
    ("app list", &[], 0),
    ("app offboard", &["nobody", "--reason", "x", "--yes"], 3),
    ("app spec diff", &["-f", "{dir}/app.yaml"], 0),
    ("app spec export", &["web"], 0),
    ("app spec validate", &["-f", "{dir}/app.yaml"], 0),
    ("app update", &["web", "--label", "team=shop"], 0),
    ("app uptime", &["web"], 0),
    ("approval get", &["apr-999999"], 3),
    ("approval list", &[], 0),
    ("approve", &["apr-999999", "--reason", "x", "--yes"], 3),
    ("auth token create", &["contract", "--role", "viewer"], 0),
    ("auth token list", &[], 0),
    ("auth token revoke", &["contract", "--yes"], 0),
    ("auth whoami", &[], 0),
    ("backtest", &["--log", "{dir}/proof.jsonl", "--policy", "recorded", "--policy", "q"], 0),
    ("bus ping", &[], 0),
    ("bus stats", &[], 0),
    ("bus watch", &["--count", "2", "--every", "250ms"], 0),
    ("completion", &["bash"], 0),
    ("config init", &[], 0),
    ("config validate", &[], 0),
    ("config view", &["--show-origin"], 0),
    ("context delete", &["lab"], 0),
    ("context list", &[], 0),
    ("context set", &["lab"], 0),
    ("context use", &["lab"], 0),
    ("decision get", &["{dec}"], 0),
    ("decision list", &[], 0),
    ("demo", &["--scenario", "onboard"], 0),
    ("doctor", &["--timeout", "50s"], 0),
    ("env describe", &["prod"], 0),
    ("env list", &[], 0),
    ("environment", &[], 0),
    ("exit-codes", &[], 0),
    ("explain", &["{dec}"], 0),
    ("freeze", &["--reason", "x"], 0),
    ("gates", &[], 0),
    ("learn calibrate", &["--log", "{dir}/proof.jsonl"], 3),
    ("learn diff", &["{dir}/learned.json", "{dir}/learned.json"], 0),
    ("learn export", &["--log", "{dir}/proof.jsonl"], 0),
    ("learn import", &["{dir}/learned.json", "--reason", "while it is frozen"], 5),
    ("learn merge", &["{dir}/learned.json", "{dir}/learned.json"], 0),
    ("learn promote", &["--reason", "nothing to promote in stage"], 5),
    ("learn reset", &["--reason", "while it is frozen", "--yes"], 5),
    ("learn show", &["--log", "{dir}/proof.jsonl"], 0),
    ("man", &["signal", "send"], 0),
    (
        "monitor run",
        &["--app", "web", "--probe", "tcp", "--target", "{app}", "--count", "2", "--every", "50ms"],
        0,
    ),
    ("onboard", &["Not A Name", "--runtime", "rust", "--exec", "relative"], 2),
    ("output", &[], 0),
    ("pause", &["--reason", "x", "--app", "web"], 0),
    ("pause report", &[], 0),
    ("policy apply", &["{dir}/policy.toml", "--reason", "x", "--yes"], 0),
    ("policy diff", &["{dir}/policy.toml"], 0),
    ("policy get", &[], 0),
    ("policy simulate", &["{dec}", "--policy", "{dir}/policy.toml"], 0),
    ("policy validate", &["{dir}/policy.toml"], 0),
    ("proof checkpoint", &["--min-size", "1"], 0),
    ("proof export", &[], 0),
    ("proof get", &["1"], 0),
    ("proof list", &[], 0),
    ("proof prove", &["1"], 0),
    ("proof prune", &["--before", "1", "--reason", "x", "--yes"], 5),
    ("proof rotate-key", &["--data-dir", "{dir}"], 1),
    ("proof status", &[], 0),
    ("proof tail", &["--no-follow"], 0),
    ("proof verify", &[], 0),
    ("reject", &["apr-999999", "--reason", "x", "--yes"], 3),
    ("replay", &["--dataset", "{dir}/telemetry.csv"], 0),
    ("resume", &["--reason", "x", "--app", "web"], 0),
    ("scenario list", &[], 0),
    ("scenario run", &["unsafe-action"], 0),
    ("signal import", &["{dir}/signals.jsonl", "--as-now"], 0),
    ("signal send", &["web", "--cpu", "0.1"], 0),
    ("signal tail", &["--count", "1", "--timeout", "50s"], 0),
    ("spec diff", &["-f", "{dir}/app.yaml"], 0),
    ("spec export", &["web"], 0),
    ("spec validate", &["-f", "{dir}/app.yaml"], 0),
    ("status", &[], 0),
    ("top", &[], 0),
    ("unfreeze", &["--reason", "x"], 0),
    ("verify demo", &[], 0),
    ("verify determinism", &[], 0),
    ("verify freeze", &[], 0),
    ("verify governance", &[], 0),
    ("verify proof", &[], 0),
    ("version", &["--server"], 0),
    ("watch", &["--since", "0", "--until", "1"], 0),
];

/// Not run here: `up` is the server of every test of this program, and `verify all` is all of the others.
const ELSEWHERE: [&str; 2] = ["up", "verify all"];

/// Every command that runs: those without commands below them, and those that run either way.
fn commands() -> Vec<String> {
    fn walk(path: &str, command: &clap::Command, all: &mut Vec<String>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            walk(&path, sub, all);
            let runs = !sub.has_subcommands() || !sub.is_subcommand_required_set();
            if runs && !matches!(path.as_str(), "shim" | "demo-app") {
                all.push(path);
            }
        }
    }
    let mut root = Cli::command();
    root.build();
    let mut all = Vec::new();
    walk("", &root, &mut all);
    all
}

#[test]
fn every_command_is_in_the_table() {
    let missing: Vec<String> = commands()
        .into_iter()
        .filter(|path| !ELSEWHERE.contains(&path.as_str()))
        .filter(|path| !COMMANDS.iter().any(|(known, ..)| known == path))
        .collect();
    assert!(missing.is_empty(), "add a line to COMMANDS for: {missing:#?}");
    let all = commands();
    let gone: Vec<_> =
        COMMANDS.iter().filter(|(path, ..)| !all.iter().any(|p| p == path)).collect();
    assert!(gone.is_empty(), "not there any more: {gone:?}");
}

/// One JSON document after the other, and nothing else.
fn documents(run: &Run) -> Vec<Value> {
    let all = serde_json::Deserializer::from_str(&run.stdout).into_iter::<Value>();
    all.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {run:#?}"))
}

fn check(run: &Run, expected: u8) {
    assert_eq!(run.code, i32::from(expected), "{run:#?}");
    assert!(Exit::ALL.iter().any(|exit| i32::from(exit.code()) == run.code), "{run:#?}");
    let documents = documents(run);
    if expected == 0 {
        assert!(!documents.is_empty(), "an answer is at least one document: {run:#?}");
    } else if documents.is_empty() {
        let error = run.error();
        assert_eq!(error["exit_code"], expected, "{run:#?}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{run:#?}");
    }
}

#[test]
fn with_json_stdout_is_json_and_nothing_else() {
    let server = Server::quick();
    let app = server.onboard("web");
    std::fs::write(
        server.dir().join("signals.jsonl"),
        "{\"app\": \"web\", \"error_ratio\": 0.0}\n",
    )
    .unwrap();
    std::fs::write(server.dir().join("telemetry.csv"), "time,error_ratio\n1,0.0\n2,0.0\n").unwrap();
    let log = server.ctl(&["proof", "export"]).ok().stdout;
    std::fs::write(server.dir().join("proof.jsonl"), log).unwrap();
    let log = server.dir().join("proof.jsonl").display().to_string();
    let learned = server.ctl(&["learn", "export", "--log", &log]).ok().stdout;
    std::fs::write(server.dir().join("learned.json"), learned).unwrap();
    let spec = server.ctl(&["app", "spec", "export", "web"]).ok().stdout;
    std::fs::write(server.dir().join("app.yaml"), spec).unwrap();
    let listed = server.ctl(&["decision", "list", "-o", "json"]).ok().json();
    let decision = listed[0]["id"].as_str().unwrap().to_owned();
    let directory = server.dir().display().to_string();
    let fill = |word: &&str| {
        word.replace("{dec}", &decision).replace("{dir}", &directory).replace("{app}", &app.address)
    };
    // Contexts are made before they are used, and a file is written before it is there.
    let order = ["config init", "context set", "auth token create"];
    let rank = |path: &str| order.iter().position(|first| *first == path).unwrap_or(order.len());
    let mut lines = COMMANDS.to_vec();
    lines.sort_by_key(|(path, ..)| (rank(path), path.ends_with("delete")));
    for (path, more, expected) in lines {
        let mut words: Vec<String> = path.split(' ').map(ToOwned::to_owned).collect();
        words.extend(more.iter().map(fill));
        words.extend(["-o".to_owned(), "json".to_owned()]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        check(&server.ctl(&words), expected);
    }
}

#[test]
fn what_a_monitor_may_do_it_does_in_json_too() {
    let server = Server::quick();
    let app = server.onboard("web");
    let sent = server.ctl_as("monitor", &["signal", "send", "web", "--cpu", "0.1", "-o", "json"]);
    assert_eq!(sent.ok().json()["accepted"], 1);
    let csv = server.dir().join("signals.csv");
    std::fs::write(&csv, "app,error_ratio\nweb,0.5\nweb,0.25\n").unwrap();
    let csv = csv.to_str().unwrap();
    let sent = server.ctl_as("monitor", &["signal", "import", csv, "-o", "json"]).ok().json();
    assert_eq!((&sent["accepted"], &sent["rejected"]), (&2.into(), &0.into()), "{sent:#}");
    let words = ["monitor", "run", "--app", "web", "--probe", "tcp", "--target", &app.address];
    let words = [&words[..], &["--count", "3", "--every", "50ms", "-o", "json"]].concat();
    let end = server.ctl_as("monitor", &words).ok().json();
    assert_eq!((&end["sent"], &end["accepted"]), (&3.into(), &3.into()), "{end:#}");
}

#[test]
fn a_filter_a_choice_of_columns_and_names_replace_other_programs() {
    let server = Server::quick();
    server.onboard("web");
    server.onboard_with("shop", 8081, &[]);
    let jq = server.ctl(&["status", "--jq", ".apps[].name"]).ok();
    assert_eq!(jq.stdout, "shop\nweb\n");
    let names = server.ctl(&["agents", "-o", "name"]).ok().stdout;
    assert!(names.lines().any(|line| line == "auto_heal"), "{names}");
    let columns = server.ctl(&["agents", "--columns", "health,agent"]).ok().stdout;
    assert!(columns.starts_with("HEALTH     AGENT\n"), "{columns}");
    server.ctl(&["agents", "--columns", "colour"]).exits(2).says(&["no column `colour`", "HEALTH"]);
    server.ctl(&["status", "--jq", ".["]).exits(2).says(&["is no jq program"]);
}

#[test]
fn the_wrong_environment_stops_a_command_before_it_does_anything() {
    let server = Server::quick();
    server.onboard("web");
    let before = server.records().head();
    let wrong = server.ctl(&["pause", "--reason", "x", "--env", "prod", "-o", "json"]).exits(3);
    assert!(wrong.error()["message"].as_str().unwrap().contains("serves `stage`"), "{wrong:#?}");
    let paused = |r: &Value| r["event_name"] == "MODE_PAUSED";
    assert!(!server.records().into_iter().any(|record| paused(&record)), "after #{before}");
    server.ctl(&["pause", "--reason", "x", "--env", "stage"]).ok();
}

#[test]
fn a_repeated_request_id_is_the_same_request() {
    let server = Server::quick();
    server.onboard("web");
    let id = "5e1f0d0a-6c7d-4b2e-9a57-0f3f6d1c2b3a";
    let words = ["act", "web", "observe", "--reason", "x", "--request-id", id, "-o", "json"];
    let (first, second) = (server.ctl(&words).ok().json(), server.ctl(&words).ok().json());
    assert_eq!(first["id"], second["id"], "{first:#} {second:#}");
}

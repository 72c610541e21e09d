//! Watching: what is recorded is what is seen, once and in order, whatever happens to the server in between.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Options, Run, Server, Stream, event, seq, wait_for};

fn seqs(lines: &[Value]) -> Vec<u64> {
    lines.iter().filter_map(|line| line["seq"].as_u64()).collect()
}

#[test]
fn a_watch_goes_on_through_restarts_without_gap_or_duplicate() {
    let mut server = Server::quick();
    let mut tail = server.follow(&["proof", "tail", "--since", "0", "-o", "jsonl"]);
    let mut watch = server.follow(&["watch", "--since", "0", "--all", "-o", "jsonl"]);
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    server.restart();
    server.crash_and_heal(&app);
    assert_eq!(server.stop(), 0);
    server.up();
    server.crash_and_heal(&app);
    saw_everything_once(&server, &mut tail, &mut watch);
}

/// Both streams began with the first record: what they saw up to now is what was recorded.
fn saw_everything_once(server: &Server, tail: &mut Stream, watch: &mut Stream) {
    let marked = server.ctl(&["pause", "--reason", "the end", "-o", "json"]).ok().json();
    let end = marked["seq"].as_u64().unwrap();

    let entries = tail.until("the end", |line| line["seq"] == end);
    let records = server.records();
    let all: Vec<u64> = (1..=end).collect();
    assert_eq!(seqs(&entries), all, "every record, once, in order");
    for (entry, record) in entries.iter().zip(records.iter()) {
        let raw: Value = serde_json::from_str(entry["raw"].as_str().unwrap()).unwrap();
        assert_eq!(raw, *record, "byte for byte what is in the export");
    }

    let seen = watch.until("the end", |line| line["seq"] == end);
    let shown = seqs(&seen);
    assert!(shown.windows(2).all(|pair| pair[0] < pair[1]), "in order, no duplicate: {shown:?}");
    let decisions: Vec<u64> = seen
        .iter()
        .filter(|line| line["type"] == "decision")
        .filter_map(|l| l["seq"].as_u64())
        .collect();
    let recorded: Vec<u64> =
        records.iter().filter(|r| event(r) == "RL_DECISION" && seq(r) <= end).map(seq).collect();
    assert_eq!(decisions, recorded, "no decision is missing");
    assert!(watch.is_running() && tail.is_running());
}

#[test]
fn watches_go_on_over_new_connections_when_theirs_have_grown_old() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let limits = "[limits]\nmax_connection_age = \"1s\"\nconnection_grace = \"100ms\"\n";
    std::fs::write(config.path(), limits).unwrap();
    let config = config.path().to_str().unwrap();
    let flags = ["--metrics-open", "--config", config].map(str::to_owned).to_vec();
    let server = Server::start(Options { flags, ..Options::default() });
    let mut tail = server.follow(&["proof", "tail", "--since", "0", "-o", "jsonl"]);
    let mut watch = server.follow(&["watch", "--since", "0", "--all", "-o", "jsonl"]);
    let mut status = server.follow(&["status", "--watch", "-o", "jsonl"]);
    let app = server.onboard("web");
    let old_connections = || {
        let page = server.page("/metrics");
        let counted = "agentctl_port_events_total{env=\"stage\",event=\"old_connections\"} ";
        let line = page.lines().find_map(|line| line.strip_prefix(counted)).unwrap();
        line.parse::<u32>().unwrap()
    };
    // Each of the three goes through it three times.
    while old_connections() < 9 {
        server.crash_and_heal(&app);
    }
    saw_everything_once(&server, &mut tail, &mut watch);
    let seen = server.records().iter().last().unwrap()["ts"].as_str().unwrap()[..19].to_owned();
    status
        .until("it goes on", |look| look["time"].as_str().is_some_and(|time| time[..19] >= *seen));
}

#[test]
fn a_cursor_from_any_line_starts_right_behind_it() {
    let mut server = Server::quick();
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    let mut watch = server.follow(&["watch", "--since", "0", "-o", "jsonl"]);
    let seen = watch.until("the restart", |line| {
        line["event"] == "SYSTEM_STABLE" && line["seq"].as_u64() > Some(20)
    });
    let middle = seen.len() / 2;
    let cursor = seen[middle]["cursor"].as_str().unwrap().to_owned();
    drop(watch);
    server.restart();
    let mut again = server.follow(&["watch", "--since", &cursor, "-o", "jsonl"]);
    let last = seen.last().unwrap()["seq"].clone();
    let rest = again.until("the same end", |line| line["seq"] == last);
    assert_eq!(seqs(&rest), seqs(&seen[middle + 1..]), "the rest, no more and no less");

    let other = Server::quick();
    let foreign = other.ctl(&["watch", "--since", &cursor, "-o", "jsonl", "--timeout", "20s"]);
    assert_ne!(foreign.code, 0, "a cursor of another log is refused: {foreign:#?}");
    assert_ne!(foreign.code, 9, "{foreign:#?}");
}

#[test]
fn a_watch_can_be_narrowed_and_counted() {
    let server = Server::quick();
    let web = server.onboard("web");
    let shop = server.onboard_with("shop", 8081, &[]);
    server.crash_and_heal(&web);
    server.crash_and_heal(&shop);
    let words =
        ["watch", "shop", "--since", "0", "--action", "restart", "--until", "1", "-o", "jsonl"];
    let lines = server.ctl(&words).ok().stdout;
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["app"], &first["action"]), (&"shop".into(), &"RESTART".into()));
    let stable = server.ctl(&["watch", "web", "--until", "stable", "--timeout", "50s"]);
    assert_eq!(stable.code, 0, "{stable:#?}");
    server.ctl(&["watch", "nobody", "--until", "stable", "--timeout", "50s"]).exits(3);
    let late = server.ctl(&["watch", "nobody", "--until", "1", "--timeout", "1s"]);
    assert_eq!(late.code, 9, "waiting has an end: {late:#?}");
    let apps: BTreeSet<String> = server
        .ctl(&["decision", "list", "-o", "jsonl"])
        .ok()
        .stdout
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["app"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(apps, BTreeSet::from(["web".to_owned(), "shop".to_owned()]));
}

#[test]
fn looks_go_on_after_a_restart_of_the_server() {
    let mut server = Server::quick();
    server.onboard("web");
    let looks: [&[&str]; 3] = [
        &["signal", "tail", "web", "--every", "250ms", "-o", "jsonl"],
        &["bus", "watch", "--every", "250ms", "-o", "jsonl"],
        &["status", "--watch", "-o", "jsonl"],
    ];
    let mut streams = looks.map(|words| server.follow(words));
    for stream in &mut streams {
        stream.until("a first look", |_| true);
    }
    server.restart();
    assert_eq!(server.stop(), 0);
    server.up();
    let records = server.records();
    let started =
        records.of("AGENT_STARTED").last().unwrap()["ts"].as_str().unwrap()[..19].to_owned();
    for (stream, words) in streams.iter_mut().zip(looks) {
        // Lines from before may still be under way: what is younger than the last start is said by the server that runs now.
        stream.until(&format!("{words:?} goes on"), |look| {
            look["time"].as_str().is_some_and(|time| time[..19] > *started)
        });
        assert!(stream.is_running());
    }
}

/// A command that goes on as somebody else, its first line, and how it ended.
struct Other(std::process::Child, std::io::BufReader<std::process::ChildStdout>);

impl Other {
    fn begin(server: &Server, token: &str, words: &[&str]) -> Self {
        let mut command = server.program();
        command.args(["--address", server.address(), "--token", token]).args(words);
        let (out, err) = (std::process::Stdio::piped(), std::process::Stdio::piped());
        let mut child = command.stdout(out).stderr(err).spawn().unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap());
        Self(child, lines)
    }

    fn first_line(&mut self) -> String {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.1, &mut line).unwrap();
        line
    }

    /// Its exit code and what it said at the end.
    fn ended(mut self) -> (Option<i32>, String) {
        let drain = move || std::io::copy(&mut self.1, &mut std::io::sink());
        let drained = std::thread::Builder::new().spawn(drain).unwrap();
        let status = wait_for(|| self.0.try_wait().unwrap());
        if status.is_none() {
            let _ = self.0.kill();
        }
        drained.join().unwrap().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.0.stderr.take().unwrap(), &mut said).unwrap();
        (status.and_then(|status| status.code()), said)
    }
}

#[test]
fn a_stream_does_not_outlive_the_token_it_was_opened_with() {
    let server = Server::quick();
    let app = server.onboard("web");
    let token = |name: &str, role: &str| {
        let words = ["auth", "token", "create", name, "--role", role, "-o", "json"];
        server.ctl(&words).ok().json()["token"].as_str().unwrap().to_owned()
    };
    let (reader, monitor) = (token("ci", "viewer"), token("probe", "monitor"));
    server.wait("the new tokens are known", || {
        let mut command = server.program();
        command.args(["--address", server.address(), "--token", &monitor, "auth", "whoami"]);
        (Run::of(command).code == 0).then_some(())
    });
    let streams: [&[&str]; 5] = [
        &["watch", "--since", "0", "-o", "jsonl"],
        &["proof", "tail", "--since", "0", "-o", "jsonl"],
        &["signal", "tail", "--every", "250ms", "-o", "jsonl"],
        &["bus", "watch", "--every", "250ms", "-o", "jsonl"],
        &["status", "--watch", "-o", "jsonl"],
    ];
    let mut open: Vec<Other> =
        streams.iter().map(|words| Other::begin(&server, &reader, words)).collect();
    for stream in &mut open {
        assert!(stream.first_line().starts_with('{'));
    }
    let target = format!("http://{}/healthz", app.address);
    let push = ["monitor", "run", "--app", "web", "--probe", "http", "--target", &target];
    let pushing =
        Other::begin(&server, &monitor, &[&push[..], &["--every", "50ms", "-o", "json"]].concat());
    server.wait("it pushes", || (server.status()["monitors"] == 1).then_some(()));
    let mut kept = server.follow(&["watch", "--since", "0", "-o", "jsonl"]);

    for name in ["ci", "probe"] {
        server.ctl(&["auth", "token", "revoke", name, "--yes"]).ok();
    }
    open.push(pushing);
    for (stream, words) in open.into_iter().zip(streams.iter().chain([&&push[..]])) {
        let (code, said) = stream.ended();
        assert_eq!(code, Some(4), "{words:?}: {said}");
        assert!(said.contains("TOKEN_INVALID") && said.contains("revoked"), "{words:?}: {said}");
    }
    server.wait("nobody pushes", || (server.status()["monitors"] == 0).then_some(()));
    server.crash_and_heal(&app);
    kept.until("the others go on", |line| line["event"] == "SYSTEM_STABLE");
    assert!(kept.is_running());
}

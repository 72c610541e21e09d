//! What makes the command line a tool: contexts, tokens, any method of the API, a monitor that outlives its server.

use serde_json::{Value, json};

use crate::harness::{Options, Run, Server, processes, wait_for};

/// A command with the configuration of the test's own home, and no flags that say where the server is.
fn plain(server: &Server, args: &[&str]) -> Run {
    let mut command = server.program();
    command.args(args);
    Run::of(command)
}

#[test]
fn a_context_says_where_the_server_is_and_who_one_is() {
    let server = Server::quick();
    let tokens = server.data_dir().join("tokens.toml");
    let tokens = tokens.to_str().unwrap();
    plain(
        &server,
        &[
            "context",
            "set",
            "here",
            "--address",
            server.address(),
            "--token-file",
            tokens,
            "--as",
            "viewer",
            "--env",
            "stage",
        ],
    )
    .ok();
    let who = plain(&server, &["auth", "whoami", "-o", "json"]).ok().json();
    assert_eq!((&who["name"], &who["environment"]), (&"viewer".into(), &"stage".into()));
    // What the token may not do is refused by the server, not by the file.
    plain(&server, &["pause", "--reason", "x"]).exits(4);
    // A flag wins over the context.
    let who = plain(&server, &["auth", "whoami", "--as", "approver", "-o", "json"]).ok().json();
    assert_eq!(who["name"], "approver");
    plain(&server, &["status", "--context", "nowhere"]).exits(3).says(&["`nowhere`", "here"]);
    plain(&server, &["context", "set", "here", "--env", "prod"]).ok();
    plain(&server, &["status"]).exits(3).says(&["`prod` (from context `here`)", "serves `stage`"]);
    let view = plain(&server, &["config", "view", "--show-origin", "-o", "json"]).ok().json();
    let token = view.as_array().unwrap().iter().find(|s| s["name"] == "token").unwrap();
    assert_eq!(token["value"], "set", "a token is never shown: {view:#}");
}

#[test]
fn a_token_is_made_once_works_at_once_and_is_gone_when_revoked() {
    let server = Server::quick();
    let made = server.ctl(&["auth", "token", "create", "ci", "--role", "viewer", "-o", "json"]);
    let token = made.ok().json()["token"].as_str().unwrap().to_owned();
    let file = std::fs::read_to_string(server.data_dir().join("tokens.toml")).unwrap();
    assert!(!file.contains(&token), "the file holds only the digest");
    let with = |server: &Server, words: &[&str]| {
        let mut command = server.program();
        command.args(["--address", server.address(), "--token", &token]).args(words);
        Run::of(command)
    };
    let who = server.wait("the new token is known", || {
        let run = with(&server, &["auth", "whoami", "-o", "json"]);
        (run.code == 0).then(|| run.json())
    });
    assert_eq!((&who["name"], &who["roles"]), (&"ci".into(), &json!(["viewer"])));
    with(&server, &["pause", "--reason", "x"]).exits(4);
    server.ctl(&["auth", "token", "revoke", "ci", "--yes"]).ok();
    server.wait("the token is unknown", || {
        // Too many tries with a token that is not known are refused in another way.
        (with(&server, &["auth", "whoami"]).code != 0).then_some(())
    });
}

#[test]
fn any_method_can_be_called_and_streams_are_lines() {
    let server = Server::quick();
    server.onboard("web");
    let app = server.ctl(&["api", "call", "OnboardingService/GetApp", "-d", "{\"name\": \"web\"}"]);
    assert_eq!(app.ok().json()["app"]["name"], "web");
    let missing =
        ["api", "call", "OnboardingService/GetApp", "-d", "{\"name\": \"nobody\"}", "-o", "json"];
    assert_eq!(server.ctl(&missing).exits(3).error()["code"], "NOT_FOUND");
    server
        .ctl(&["api", "call", "OnboardingService/GetApp", "-d", "{\"nam\": 1}"])
        .exits(2)
        .says(&["nam"]);
    let mut stream = server.follow(&[
        "api",
        "call",
        "DecisionService/WatchDecisions",
        "-d",
        "{\"beginning\": true}",
        "-o",
        "jsonl",
    ]);
    let lines = stream.until("a decision", |line| line["decision"]["app"] == "web");
    assert!(lines[0]["opened"]["log_id"].is_string(), "{:#}", lines[0]);
}

#[test]
fn a_monitor_comes_back_when_the_server_does_and_says_goodbye_when_it_is_stopped() {
    let mut server = Server::quick();
    let app = server.onboard("web");
    let tokens = server.data_dir().join("tokens.toml");
    let mut command = server.program();
    command.args(["--address", server.address(), "--as", "monitor", "--token-file"]).arg(&tokens);
    command.args([
        "monitor", "run", "--app", "web", "--probe", "http", "--every", "50ms", "-o", "json",
    ]);
    command.args(["--target", &format!("http://{}/healthz", app.address)]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let monitors = |server: &Server| server.status()["monitors"].as_u64();
    server.wait("the monitor is there", || (monitors(&server) == Some(1)).then_some(()));
    server.restart();
    server.wait("the monitor is back", || (monitors(&server) == Some(1)).then_some(()));
    let source = "agentctl-monitor@monitor";
    server.wait("what it sees", || {
        let run =
            server.ctl(&["signal", "tail", "web", "--count", "1", "--timeout", "5s", "-o", "json"]);
        let reading: Value = serde_json::from_str(&run.stdout).ok()?;
        reading["sources"].as_object()?.values().any(|by| by == source).then_some(())
    });
    processes::term(child.id());
    let status = wait_for(|| child.try_wait().unwrap()).expect("it ends");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut said).unwrap();
    assert!(status.success(), "{said}");
    let end: Value = serde_json::from_str(&said).unwrap();
    assert!(
        end["reconnects"].as_u64() >= Some(1) && end["accepted"].as_u64() >= Some(1),
        "{end:#}"
    );
    assert!(!server.log().contains("monitor lost"), "it left, it was not lost: {}", server.log());
}

/// The control group a process is in, where the kernel shows a unified hierarchy.
fn group_of(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let hosts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let there = |dir: &String| std::path::Path::new(dir).join("cgroup.procs").exists();
    hosts.map(|host| format!("{host}{path}")).into_iter().find(there)
}

#[test]
fn a_monitor_looks_at_an_app_in_whatever_way_it_can_be_looked_at() {
    let server = Server::quick();
    let app = server.onboard("web");
    let (url, pid) = (format!("http://{}/healthz", app.address), app.pid());
    let (group, pid) = (group_of(pid), pid.to_string());
    let mut probes = vec![
        ("http", ["--target", &url]),
        ("tcp", ["--target", &app.address]),
        // Whoever asks for the health of agentd itself is answered as by any server of gRPC.
        ("grpc", ["--target", server.address()]),
        ("process", ["--pid", &pid]),
    ];
    match &group {
        Some(group) => probes.push(("cgroup", ["--cgroup", group])),
        None => eprintln!("no control groups of version 2 are mounted: their probe is NOT RUN"),
    }
    for (probe, at) in probes {
        let id = format!("by-{probe}");
        let words = ["monitor", "run", "--app", "web", "--probe", probe, "--monitor-id", &id];
        let often = ["--count", "5", "--every", "50ms", "-o", "json"];
        let words = [&words[..], &at, &often].concat();
        let said = server.ctl_as("monitor", &words).ok().json();
        assert_eq!(
            (&said["accepted"], &said["rejected"]),
            (&5.into(), &0.into()),
            "{probe}: {said:#}"
        );
    }
}

#[test]
fn the_doctor_finds_what_is_wrong_and_says_what_to_do() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut server = Server::quick();
    let data = server.data_dir();
    let data = data.to_str().unwrap();
    let doctor = |server: &Server| {
        server.ctl(&["doctor", "--data-dir", data, "--timeout", "50s", "-o", "json"])
    };
    let found = |run: &Run, check: &str| {
        let all = run.json();
        let all = all.as_array().unwrap().clone();
        all.into_iter().find(|c| c["check"] == check).unwrap_or_default()
    };
    let well = doctor(&server).ok();
    assert_eq!(found(&well, "proof chain")["status"], "ok", "{well:#?}");
    assert_eq!(found(&well, "tokens")["status"], "ok");
    std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o755)).unwrap();
    server.ctl(&["pause", "--reason", "INC-481"]).ok();
    let ill = doctor(&server).exits(1);
    assert_eq!(found(&ill, "data dir")["fix"], format!("chmod 700 {data}"));
    assert_eq!(found(&ill, "mode")["status"], "warning", "{ill:#?}");
    std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o700)).unwrap();
    server.stop();
    let gone = doctor(&server).exits(1);
    assert_eq!(found(&gone, "server")["status"], "failed", "{gone:#?}");
}

#[test]
fn a_policy_that_does_not_hold_back_is_called_a_lie() {
    let server = Server::start(Options::default());
    let policy = server.dir().join("loose.toml");
    // Sound by every rule of the lint, and useless: nothing is ever repeated often enough, no cooldown is long enough to be seen.
    let demo = include_str!("../../deploy/policy/demo.toml");
    let loose = demo
        .replace("RESTART = 400 ", "RESTART = 1 ")
        .replace("restart_cap_ms = 400", "restart_cap_ms = 1");
    assert_ne!(loose, demo);
    std::fs::write(&policy, loose).unwrap();
    let words = ["verify", "governance", "--policy", policy.to_str().unwrap(), "-o", "json"];
    let lie = server.ctl(&words).exits(1);
    let promises = lie.json();
    let cooldown = promises.as_array().unwrap().iter().find(|p| p["check"] == "cooldown").unwrap();
    assert_eq!(cooldown["held"], false, "{promises:#}");
}

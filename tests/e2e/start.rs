//! Starting: what is refused at the door, what a caller without a server is told, and two servers that want one log.

use crate::harness::{Options, Run, Server, event, own_ip};

#[test]
fn a_server_that_is_not_there_is_named_together_with_the_fix() {
    let server = Server::quick();
    let address = format!("{}:1", own_ip());
    let mut command = server.program();
    command.args(["status", "--address", &address]);
    let run = Run::of(command).exits(8);
    run.says(&[&address, "--address", "connection refused", "agentctl up"]);
    let mut command = server.program();
    command.args(["status", "-o", "json"]).env("AGENTCTL_ADDRESS", &address);
    let run = Run::of(command).exits(8);
    assert_eq!(run.error()["exit_code"], 8);
    assert!(run.stderr.contains("AGENTCTL_ADDRESS"), "where the address came from: {run:#?}");
}

#[test]
fn two_servers_cannot_share_a_log_and_the_second_names_the_first() {
    let server = Server::quick();
    let mut command = server.program();
    command.args(["up", "--env", "stage", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(server.data_dir());
    let run = Run::of(command);
    assert_ne!(run.code, 0, "{run:#?}");
    assert!(run.stdout.is_empty(), "it never says that it serves: {run:#?}");
    run.says(&[&server.pid().to_string()]);
    server.ctl(&["pause", "--reason", "the first goes on"]).ok();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = Server::quick();
    let mut command = server.program();
    command.args(["up", "--env", "stage", "--listen", server.address(), "--data-dir"]);
    command.arg(server.dir().join("another"));
    let run = Run::of(command);
    assert_ne!(run.code, 0, "{run:#?}");
    run.says(&[server.address(), "--listen"]);
}

#[test]
fn a_data_directory_belongs_to_one_environment() {
    let mut server = Server::quick();
    server.wait_record("the log is begun", |r| event(r) == "AGENT_STARTED");
    assert_eq!(server.stop(), 0);
    let mut command = server.program();
    command.args(["up", "--env", "dev", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(server.data_dir());
    let run = Run::of(command);
    assert_ne!(run.code, 0, "{run:#?}");
    run.says(&["stage", "dev"]);
}

#[test]
fn plain_text_stays_on_loopback_and_all_mistakes_are_told_at_once() {
    let server = Server::quick();
    let up = |flags: &[&str]| {
        let mut command = server.program();
        command.arg("up").args(flags).arg("--data-dir").arg(server.dir().join("other"));
        Run::of(command)
    };
    up(&["--listen", "0.0.0.0:0"]).exits(2).says(&["--listen", "--tls-cert"]);
    let run = up(&["--env", "production", "--loop-interval", "5", "--agent-id", "bob"]).exits(2);
    run.says(&["production", "--loop-interval", "bob"]);
}

#[test]
fn a_policy_that_could_never_protect_is_refused_with_every_fault() {
    let server = Server::quick();
    let options = Options::with(|policy| {
        policy.repetition.window_ms = 1;
        policy.confidence.r1 = 400;
        policy.learning.exploration_ppm = 1;
    });
    let file = server.dir().join("bad.toml");
    std::fs::write(&file, toml::to_string(&options.policy.unwrap()).unwrap()).unwrap();
    let mut command = server.program();
    command.args(["up", "--env", "stage", "--listen", "127.0.0.1:0", "--policy"]).arg(&file);
    command.arg("--data-dir").arg(server.dir().join("other"));
    let run = Run::of(command);
    assert_ne!(run.code, 0, "{run:#?}");
    run.says(&["repetition.window_ms", "confidence.r1", "learning.exploration_ppm"]);
}

#[test]
fn an_unknown_command_line_is_a_usage_error() {
    let server = Server::quick();
    for words in [&["dance"][..], &["status", "--nonsense"], &["act", "web"], &["pause"]] {
        server.ctl(words).exits(2);
    }
    assert!(
        server.ctl(&["--help"]).ok().stdout.contains("Exit codes")
            || server.ctl(&["--help"]).ok().stdout.contains("exit")
    );
}

#[test]
fn the_server_ends_in_good_order_although_clients_hang_on() {
    use std::io::Write as _;
    let mut server = Server::quick();
    server.onboard("web");
    let mut watch = server.follow(&["watch", "--since", "0", "-o", "jsonl"]);
    watch.until("something", |_| true);
    let silent = std::net::TcpStream::connect(server.address()).unwrap();
    let mut half = std::net::TcpStream::connect(server.address()).unwrap();
    half.write_all(b"PRI * HTTP/2.0").unwrap();
    assert_eq!(server.stop(), 0, "{}", server.log());
    drop((silent, half));
    server.up();
    assert_eq!(server.records().count("AGENT_STOPPED"), 1);
    assert!(watch.is_running(), "the watcher waits for the server");
}

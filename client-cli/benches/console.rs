//! How long a command takes with its start included, and what `agentctl top` costs while it watches 1,000 apps.
//!
//! `cargo bench -p agentctl --bench console`
//!
//! The server is `agentctl up --dry-run` on loopback: apps are onboarded and decided about, and no process is started for them. A
//! command is measured from its spawn to its end; `true` is measured beside it, so that the price of a process is known, and
//! `hyperfine` measures the same command where it is installed. The screen
//! runs on a pseudo terminal of `script` (util-linux) and is skipped without it: first with nothing going on, then with four
//! decisions a second, each of which sends the state of all apps again.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark prints a table, reads the clock and stops at the first surprise"
)]

use std::io::BufRead as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentctl_api::client::{Client, Target};
use agentctl_api::v1;

const AGENTCTL: &str = env!("CARGO_BIN_EXE_agentctl");
const ROUNDS: usize = 100;
const APPS: usize = 1_000;
/// How long the screen is watched each time.
const WATCHED: Duration = Duration::from_secs(20);

struct Server {
    child: Child,
    address: String,
    data: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut child = Command::new(AGENTCTL)
            .args(["up", "--dry-run", "--env", "dev", "--listen", "127.0.0.1:0", "-o", "json"])
            .arg("--data-dir")
            .arg(data.path().join("d"))
            .env("HOME", data.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let view: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = view["address"].as_str().unwrap().to_owned();
        Self { child, address, data }
    }

    fn arguments(&self) -> Vec<String> {
        let data = self.data.path().join("d").display().to_string();
        vec!["--address".to_owned(), self.address.clone(), "--data-dir".to_owned(), data]
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(AGENTCTL);
        command.args(words).args(self.arguments()).env("HOME", self.data.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

fn main() {
    let server = Server::start();
    println!("{:<34} {:>9} {:>9} {:>9}", "COMMAND, start included", "MIN", "MEDIAN", "P95");
    timed("true (a process that does nothing)", || {
        let mut command = Command::new("true");
        command.stdin(Stdio::null());
        command
    });
    for words in
        [&["version"][..], &["auth", "whoami"], &["bus", "stats"], &["status"], &["doctor"]]
    {
        timed(&format!("agentctl {}", words.join(" ")), || server.command(words));
        hyperfine(&server, words);
    }
    // A thread of its own answers the pings of the server while this one sleeps.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = runtime.block_on(onboard(&server));
    timed(&format!("agentctl status, {APPS} apps"), || server.command(&["status"]));
    println!();
    screen(&server, &runtime, &client);
}

fn timed(what: &str, command: impl Fn() -> Command) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let mut command = command();
            let began = Instant::now();
            assert!(command.status().unwrap().success(), "{what}");
            began.elapsed()
        })
        .collect();
    times.sort();
    let ms = |at: usize| format!("{:.1} ms", times[at].as_secs_f64() * 1e3);
    println!("{what:<34} {:>9} {:>9} {:>9}", ms(0), ms(ROUNDS / 2), ms(ROUNDS * 95 / 100));
}

/// The row of a second opinion: what `hyperfine` says of the same command, or why it says nothing.
fn hyperfine(server: &Server, words: &[&str]) {
    let what = "  by hyperfine";
    let report = server.data.path().join("hyperfine.json");
    let line: Vec<String> = [AGENTCTL.to_owned()]
        .into_iter()
        .chain(words.iter().map(|word| (*word).to_owned()))
        .chain(server.arguments())
        .collect();
    let run = Command::new("hyperfine")
        .args(["--shell=none", "--warmup=3", "--style=none", "--export-json"])
        .arg(&report)
        .arg(format!("--runs={ROUNDS}"))
        .arg(line.join(" "))
        .env("HOME", server.data.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let Ok(status) = run else {
        println!("{what:<34} not installed: apt-get install hyperfine, or cargo install hyperfine");
        return;
    };
    assert!(status.success(), "hyperfine {}", words.join(" "));
    let report = std::fs::read_to_string(report).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let mut times: Vec<f64> = report["results"][0]["times"]
        .as_array()
        .unwrap()
        .iter()
        .map(|seconds| seconds.as_f64().unwrap())
        .collect();
    times.sort_by(f64::total_cmp);
    let ms = |at: usize| format!("{:.1} ms", times[at] * 1e3);
    let (median, p95) = (times.len() / 2, times.len() * 95 / 100);
    println!("{what:<34} {:>9} {:>9} {:>9}", ms(0), ms(median), ms(p95));
}

/// Takes many apps under control. The dry run refuses to deploy them, and keeps them.
async fn onboard(server: &Server) -> Client {
    let tokens = server.data.path().join("d").join("tokens.toml");
    let token = agentctl::server::plain_token(&tokens, "local").unwrap();
    let client =
        Client::connect(&Target::new(&server.address, "bench", Some(token))).await.unwrap();
    for n in 0..APPS {
        let exec = v1::ExecSource { path: "/bin/sleep".to_owned(), args: vec!["1000".to_owned()] };
        let request = v1::OnboardAppRequest {
            name: format!("app-{n:04}"),
            environment: "dev".to_owned(),
            runtime: "binary".to_owned(),
            source: Some(v1::onboard_app_request::Source::Exec(exec)),
            ..v1::OnboardAppRequest::default()
        };
        client.onboarding().onboard_app(request).await.unwrap();
    }
    client
}

/// Watches the screen while it watches.
fn screen(server: &Server, runtime: &tokio::runtime::Runtime, client: &Client) {
    let line =
        format!("stty rows 50 cols 160; exec {AGENTCTL} top {}", server.arguments().join(" "));
    let started = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("HOME", server.data.path())
        .env("TERM", "xterm-256color")
        // Keys come from a pipe that stays open and empty.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let Ok(mut script) = started else {
        println!("agentctl top: skipped, there is no `script`");
        return;
    };
    std::thread::sleep(Duration::from_secs(3));
    let top = child_of(script.id()).expect("the screen runs");
    let share = |before: u64| {
        let ticks = cpu_ticks(top) - before;
        let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        100.0 * seconds / WATCHED.as_secs_f64()
    };
    let before = cpu_ticks(top);
    std::thread::sleep(WATCHED);
    println!("agentctl top, {APPS} apps, quiet           {:.2} % of a core", share(before));
    let before = cpu_ticks(top);
    let until = Instant::now() + WATCHED;
    let mut n = 0;
    while Instant::now() < until {
        runtime.block_on(decide(client, n));
        n += 1;
        std::thread::sleep(Duration::from_millis(250));
    }
    println!(
        "agentctl top, {APPS} apps, {:.1} decisions/s {:.2} % of a core",
        f64::from(n) / WATCHED.as_secs_f64(),
        share(before)
    );
    let _ = script.kill();
    let _ = script.wait();
}

async fn decide(client: &Client, n: u32) {
    let request = v1::ProposeActionRequest {
        app: format!("app-{n:04}"),
        action: "OBSERVE".to_owned(),
        reason: "bench".to_owned(),
        ..v1::ProposeActionRequest::default()
    };
    client.decisions().propose_action(request).await.unwrap();
}

/// The process that a process started.
fn child_of(parent: u32) -> Option<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

/// CPU time of a process so far.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the screen runs");
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

//! The bed the benchmarks lie in: a server with real apps under it, and the limits that are measured beside it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agentctl_api::v1;
use agentd::app::{App, Host};
use agentd::config::{Config, ServerArgs};
use agentd_core::app::{AppName, Env};
use agentd_core::policy::Policy;
use rustix::time::{ClockId, clock_gettime};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

/// Nanoseconds of the monotonic clock, which all processes of the host share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// One line of a table of times.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    samples: Vec<u64>,
}

impl Row {
    pub(crate) fn new(name: &str, mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        Self { name: name.to_owned(), samples }
    }

    fn at(&self, percent: usize) -> f64 {
        let last = self.samples.len().saturating_sub(1);
        ms(self.samples.get(last * percent / 100).copied().unwrap_or(0))
    }

    /// Milliseconds.
    pub(crate) fn median(&self) -> f64 {
        self.at(50)
    }

    /// Milliseconds that one of a hundred takes longer than.
    pub(crate) fn p99(&self) -> f64 {
        self.at(99)
    }

    pub(crate) fn header() {
        println!(
            "{:<52} {:>5} {:>9} {:>9} {:>9} {:>9}",
            "case (milliseconds)", "n", "min", "median", "p95", "max"
        );
    }

    pub(crate) fn print(&self) {
        println!(
            "{:<52} {:>5} {:>9.2} {:>9.2} {:>9.2} {:>9.2}",
            self.name,
            self.samples.len(),
            self.at(0),
            self.median(),
            self.at(95),
            self.at(100)
        );
    }

    /// Prints the median beside what it should not exceed.
    pub(crate) fn compare(&self, goal: f64) {
        let share = self.median() / goal;
        println!("  {:<50} {:>6.2} ms = {share:.2} of the goal", self.name, self.median());
    }
}

/// Prints the head of a table of figures that are judged.
pub(crate) fn verdicts() {
    println!("{:<58} {:>10} {:>10} {:>7} {:>8}  met", "case", "measured", "limit", "ratio", "goal");
}

/// Prints a figure beside its limit, what the one is to the other, and whether that is at most the goal; at least, where `goal` is
/// negative.
pub(crate) fn verdict(case: &str, unit: &str, measured: f64, limit: f64, goal: f64) {
    let ratio = measured / limit;
    let (sign, met) = if goal < 0.0 { (">=", ratio >= -goal) } else { ("<=", ratio <= goal) };
    let met = if met { "yes" } else { "NO" };
    let case = format!("{case} ({unit})");
    println!(
        "{case:<58} {measured:>10.3} {limit:>10.3} {ratio:>7.3} {sign} {:>5.2}  {met}",
        goal.abs()
    );
}

/// The limit: one 4 KiB write into zeroed space and `fdatasync`, so often and with so much rest before each.
pub(crate) fn fdatasync(name: &str, dir: &Path, rounds: usize, rest: Duration) -> Row {
    let file = File::create(dir.join("sync")).unwrap();
    file.write_all_at(&vec![0; 4 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let block = [7_u8; 4096];
    let samples = (0..rounds as u64)
        .map(|n| {
            std::thread::sleep(rest);
            let began = now_ns();
            file.write_all_at(&block, n * 4096).unwrap();
            file.sync_data().unwrap();
            now_ns() - began
        })
        .collect();
    Row::new(name, samples)
}

/// A policy with the default gates and short times, so that the twentieth incident is judged like the first.
pub(crate) fn policy() -> Policy {
    let mut policy = Policy::default_for(Env::Stage);
    policy.verification.hold_ms = 50;
    policy.verification.min_uptime_ms = 20;
    for cooldown in policy.cooldown.base_ms.values_mut() {
        *cooldown = 1;
    }
    policy.cooldown.restart_cap_ms = 1;
    policy.cooldown.scale_down_after_up_ms = 1;
    policy.repetition.window_ms = 100;
    policy.memory.window_ms = 100;
    policy.stability.crash_loop_window_ms = 100;
    policy.stability.flap_window_ms = 100;
    policy.stability.flap_exit_ms = 100;
    policy
}

/// Starts a server of stage in this process. `me` is a program that is a shim when its first argument is `shim`.
pub(crate) async fn serve(me: &Path, dir: &Path) -> App {
    let policy_file = dir.join("policy.toml");
    // Whoever measures something else has written another one.
    if !policy_file.exists() {
        std::fs::write(&policy_file, toml::to_string(&policy()).unwrap()).unwrap();
    }
    let args = ServerArgs {
        env: Some("stage".into()),
        listen: Some("127.0.0.1:0".into()),
        data_dir: Some(dir.join("data").display().to_string()),
        policy: Some(policy_file.display().to_string()),
        loop_interval: Some("100ms".into()),
        ..ServerArgs::default()
    };
    let config = Config::load(&args).unwrap();
    let host = Host { shim: vec![me.to_owned(), "shim".into()], demo_app: Vec::new() };
    App::start(config, host).await.unwrap()
}

/// A server in a process of its own, so that what is measured is the server alone.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: String,
    pub(crate) tokens: String,
    /// From the start of the process to its first answer.
    pub(crate) up_ns: u64,
}

impl Process {
    pub(crate) fn start(me: &Path, dir: &Path) -> Self {
        let began = now_ns();
        let mut child = Command::new(me)
            .arg("server")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let up_ns = now_ns() - began;
        let (address, tokens) = line.trim().split_once(' ').unwrap();
        Self { child, address: address.to_owned(), tokens: tokens.to_owned(), up_ns }
    }

    /// A client as one of its principals, with a connection of its own.
    pub(crate) async fn client(&self, principal: &str) -> Client {
        Client::connect(&self.address, Path::new(&self.tokens), principal).await
    }

    pub(crate) fn resident_mib(&self) -> f64 {
        self.status_mib("VmRSS:")
    }

    /// What is not a page of a file, such as the program itself.
    pub(crate) fn anonymous_mib(&self) -> f64 {
        self.status_mib("RssAnon:")
    }

    fn status_mib(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib / 1024.0
    }

    /// Seconds of a core it has used.
    pub(crate) fn cpu(&self) -> f64 {
        cpu_of(self.child.id())
    }

    /// Asks it to end; seconds until it has.
    pub(crate) fn stop(mut self) -> f64 {
        let began = now_ns();
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
        (now_ns() - began) as f64 / 1e9
    }
}

/// Seconds of a core a process has used.
pub(crate) fn cpu_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let ticks: f64 =
        rest.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// A server in this process with apps that are well, and a client of it.
pub(crate) struct Bed {
    pub(crate) server: App,
    pub(crate) client: Client,
    pub(crate) names: Vec<String>,
}

impl Bed {
    pub(crate) async fn with_apps(me: &Path, dir: &Path, apps: usize) -> Self {
        let server = serve(me, dir).await;
        let address = server.address().to_string();
        let client = Client::connect(&address, server.tokens(), "local").await;
        let names: Vec<String> = (0..apps).map(|n| format!("web-{n}")).collect();
        for name in &names {
            client.onboard(name, me, "stamp", &dir.join(name), "").await;
            settle(&server, name).await;
        }
        Self { server, client, names }
    }
}

/// A client of the server at `address`, as one of the principals of its token file.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    token: MetadataValue<Ascii>,
}

impl Client {
    pub(crate) async fn connect(address: &str, tokens: &Path, principal: &str) -> Self {
        let token = agentd::auth::tokens::plain_token(tokens, principal).unwrap();
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let channel = endpoint.unwrap().tcp_nodelay(true).connect().await.unwrap();
        Self { channel, token: format!("Bearer {token}").parse().unwrap() }
    }

    /// The same principal on another connection, on which no byte of an answer fits.
    pub(crate) async fn deaf(self, address: &str) -> Self {
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.initial_stream_window_size(0).connect().await.unwrap();
        Self { channel, ..self }
    }

    /// A request in the name of the principal.
    pub(crate) fn say<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }

    /// Onboards `me MODE FILE`.
    pub(crate) async fn onboard(
        &self,
        name: &str,
        me: &Path,
        mode: &str,
        file: &Path,
        listen: &str,
    ) {
        let request = self.say(v1::OnboardAppRequest {
            name: name.into(),
            environment: "stage".into(),
            runtime: "binary".into(),
            source: Some(v1::onboard_app_request::Source::Exec(v1::ExecSource {
                path: me.display().to_string(),
                args: vec![mode.into(), file.display().to_string()],
            })),
            listen: listen.into(),
            ..v1::OnboardAppRequest::default()
        });
        let mut onboarding =
            v1::onboarding_service_client::OnboardingServiceClient::new(self.channel.clone());
        onboarding.onboard_app(request).await.unwrap();
    }
}

/// Waits until nothing about the app is open or in flight: the next incident meets a verified app.
pub(crate) async fn settle(server: &App, name: &str) {
    let app = AppName::parse(name).unwrap();
    for _ in 0..1_000 {
        let app = app.clone();
        let calm = server
            .agent()
            .query(move |view| {
                view.state.apps.get(&app).is_some_and(|a| {
                    a.attempt.is_none() && a.open.is_empty() && a.ready() >= a.desired
                })
            })
            .await
            .unwrap();
        if calm {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let said = server.agent().query(move |view| format!("{:#?}", view.state.apps.get(&app))).await;
    panic!("{name} does not settle: {}", said.unwrap());
}

/// Ends every app below `dir` by ending its shim, which stops what it was started for.
pub(crate) fn end_apps(dir: &Path) {
    let below = format!("{}/", dir.display());
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(" shim ")
            && line.contains(&below)
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

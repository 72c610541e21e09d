//! How fast a killed process runs again, with every gate and a durable intent in between; and how many connections are refused
//! meanwhile.
//!
//! `cargo bench -p agentctl --bench heal`
//!
//! The limits are measured in the same run: a bare respawn of the same program by its parent, and one write plus `fdatasync` of
//! 4 KiB. Peers (`supervisord`, `pm2`) are measured when they are installed.

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

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentctl_api::v1;
use agentd::app::{App, Host};
use agentd::config::{Config, ServerArgs};
use agentd_core::app::Env;
use agentd_core::policy::Policy;
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use tonic::Request;
use tonic::metadata::MetadataValue;

const ROUNDS: usize = 20;

fn main() {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("shim"), Some(dir)) => {
            let code = agentd::shim::main(Path::new(&dir));
            // The shim's own exit code, as in the real program.
            std::process::exit(if code == std::process::ExitCode::SUCCESS { 0 } else { 1 });
        }
        (Some("stamp"), Some(file)) => stamp(Path::new(&file)),
        (Some("serve"), Some(file)) => serve(Path::new(&file)),
        _ => measure(),
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// The supervised program: its first act is to write when it ran.
fn stamp(file: &Path) -> ! {
    write_stamp(file);
    loop {
        std::thread::park();
    }
}

fn write_stamp(file: &Path) {
    let line = format!("{} {}\n", std::process::id(), now_ns());
    let mut file = OpenOptions::new().append(true).create(true).open(file).unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

/// The supervised program that serves: on the socket it is handed, or none.
fn serve(file: &Path) -> ! {
    write_stamp(file);
    let listener: TcpListener =
        listenfd::ListenFd::from_env().take_tcp_listener(0).unwrap().unwrap();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut buffer = [0; 64];
        let _ = stream.read(&mut buffer);
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    loop {
        std::thread::park();
    }
}

/// Stamps in a file: (pid, nanoseconds).
fn stamps(file: &Path) -> Vec<(i32, u64)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .filter_map(|line| {
            let (pid, ns) = line.split_once(' ')?;
            Some((pid.parse().ok()?, ns.parse().ok()?))
        })
        .collect()
}

fn wait_stamp(file: &Path, count: usize, patience: Duration) -> Option<(i32, u64)> {
    let deadline = Instant::now() + patience;
    loop {
        let seen = stamps(file);
        if seen.len() >= count {
            return seen.last().copied();
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Kills the newest incarnation and gives the nanoseconds until the next one ran.
fn kill_once(file: &Path, patience: Duration) -> Option<u64> {
    let before = stamps(file);
    let pid = before.last()?.0;
    let killed = now_ns();
    kill_process(Pid::from_raw(pid)?, Signal::KILL).ok()?;
    let (_, ran) = wait_stamp(file, before.len() + 1, patience)?;
    Some(ran.saturating_sub(killed))
}

#[derive(Clone)]
struct Row {
    name: String,
    samples: Vec<u64>,
}

impl Row {
    fn new(name: &str, mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        Self { name: name.to_owned(), samples }
    }

    fn median(&self) -> f64 {
        ms(self.samples.get(self.samples.len() / 2).copied().unwrap_or(0))
    }

    fn print(&self) {
        let (min, max) = (self.samples.first().copied(), self.samples.last().copied());
        println!(
            "{:<52} {:>5} {:>9.2} {:>9.2} {:>9.2}",
            self.name,
            self.samples.len(),
            ms(min.unwrap_or(0)),
            self.median(),
            ms(max.unwrap_or(0))
        );
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The limit: the parent itself waits for the end of its child and starts it again, with no one to ask.
fn bare_respawn(me: &Path, dir: &Path) -> Row {
    let file = dir.join("bare");
    let spawn = || -> Child {
        Command::new(me).arg("stamp").arg(&file).stdin(Stdio::null()).spawn().unwrap()
    };
    let mut child = spawn();
    wait_stamp(&file, 1, Duration::from_secs(5)).unwrap();
    let mut samples = Vec::new();
    for n in 0..ROUNDS {
        let killed = now_ns();
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
        child.wait().unwrap();
        child = spawn();
        let (_, ran) = wait_stamp(&file, n + 2, Duration::from_secs(5)).unwrap();
        samples.push(ran - killed);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    Row::new("limit: bare respawn by the parent", samples)
}

/// The limit: one 4 KiB write into zeroed space and `fdatasync`.
fn fdatasync(dir: &Path) -> Row {
    let file = File::create(dir.join("sync")).unwrap();
    file.write_all_at(&vec![0; 4 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let block = [7_u8; 4096];
    let samples = (0..200_u64)
        .map(|n| {
            let began = now_ns();
            file.write_all_at(&block, n * 4096).unwrap();
            file.sync_data().unwrap();
            now_ns() - began
        })
        .collect();
    Row::new("limit: 4 KiB write + fdatasync", samples)
}

struct Bench {
    app: App,
    client: v1::onboarding_service_client::OnboardingServiceClient<tonic::transport::Channel>,
    token: MetadataValue<tonic::metadata::Ascii>,
}

/// A policy with the default gates and short times, so that the twentieth kill is judged like the first.
fn policy() -> String {
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
    toml::to_string(&policy).unwrap()
}

async fn start(me: &Path, dir: &Path) -> Bench {
    let policy_file = dir.join("policy.toml");
    std::fs::write(&policy_file, policy()).unwrap();
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
    let app = App::start(config, host).await.unwrap();
    let token = agentd::auth::tokens::plain_token(app.tokens(), "local").unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", app.address()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let client = v1::onboarding_service_client::OnboardingServiceClient::new(channel);
    Bench { app, client, token: format!("Bearer {token}").parse().unwrap() }
}

impl Bench {
    async fn onboard(&mut self, name: &str, me: &Path, mode: &str, file: &Path, listen: &str) {
        let mut request = Request::new(v1::OnboardAppRequest {
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
        request.metadata_mut().insert("authorization", self.token.clone());
        self.client.onboard_app(request).await.unwrap();
        wait_stamp(file, 1, Duration::from_secs(10)).expect("the app starts");
        self.settle(name).await;
    }

    /// Waits until nothing is in flight: the next kill meets a verified app.
    async fn settle(&self, name: &str) {
        let app = agentd_core::app::AppName::parse(name).unwrap();
        for _ in 0..500 {
            let app = app.clone();
            let calm = self
                .app
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
        panic!("{name} does not settle");
    }

    async fn kills(&self, name: &str, file: &Path) -> Vec<u64> {
        let mut samples = Vec::new();
        for _ in 0..ROUNDS {
            let file = file.to_owned();
            let sample = tokio::task::spawn_blocking(move || {
                kill_once(&file, Duration::from_secs(10)).expect("it is restarted")
            });
            samples.push(sample.await.unwrap());
            self.settle(name).await;
        }
        samples
    }
}

/// Connections of four clients while the app is killed twenty times.
async fn refused(bench: &Bench, file: &Path, address: SocketAddr) -> (u64, u64, u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<[AtomicU64; 3]> = Arc::default();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let outcome = TcpStream::connect(address).and_then(|mut stream| {
                        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
                        let mut answer = Vec::new();
                        stream.read_to_end(&mut answer)?;
                        Ok(answer.len())
                    });
                    let index = match outcome {
                        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => 1,
                        Ok(n) if n > 0 => 0,
                        _ => 2,
                    };
                    counts[index].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    bench.kills("serve", file).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let get = |i: usize| counts[i].load(Ordering::Relaxed);
    (get(0), get(1), get(2))
}

fn peers(me: &Path, dir: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(row) = supervisord(me, dir) {
        rows.push(row);
    }
    if let Some(row) = pm2(me, dir) {
        rows.push(row);
    }
    rows
}

fn peer_rounds(name: &str, file: &Path) -> Option<Row> {
    wait_stamp(file, 1, Duration::from_secs(20))?;
    std::thread::sleep(Duration::from_millis(1_500));
    let mut samples = Vec::new();
    for _ in 0..ROUNDS / 2 {
        samples.push(kill_once(file, Duration::from_secs(20))?);
        std::thread::sleep(Duration::from_millis(1_200));
    }
    Some(Row::new(name, samples))
}

fn supervisord(me: &Path, dir: &Path) -> Option<Row> {
    let file = dir.join("supervisord-stamps");
    let conf = dir.join("supervisord.conf");
    let text = format!(
        "[supervisord]\nnodaemon=true\nlogfile={dir}/supervisord.log\npidfile={dir}/supervisord.pid\n\
         [program:stamp]\ncommand={me} stamp {file}\nautorestart=true\nstartsecs=0\n",
        dir = dir.display(),
        me = me.display(),
        file = file.display()
    );
    std::fs::write(&conf, text).unwrap();
    let mut child = Command::new("supervisord")
        .args(["-n", "-c"])
        .arg(&conf)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let row = peer_rounds("peer: supervisord, startsecs=0", &file);
    kill_process(Pid::from_raw(child.id().cast_signed())?, Signal::TERM).ok()?;
    let _ = child.wait();
    row
}

fn pm2(me: &Path, dir: &Path) -> Option<Row> {
    let file = dir.join("pm2-stamps");
    let home = dir.join("pm2");
    let run = |args: &[&str]| {
        Command::new("pm2")
            .env("PM2_HOME", &home)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok()
    };
    let (me, stamps) = (me.display().to_string(), file.display().to_string());
    run(&["start", &me, "--name", "stamp", "--interpreter", "none", "--", "stamp", &stamps])?;
    let row = peer_rounds("peer: pm2, defaults", &file);
    run(&["kill"])?;
    row
}

fn measure() {
    let me: PathBuf = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let bare = bare_respawn(&me, dir.path());
    let sync = fdatasync(dir.path());
    let (plain, heavy, (answered, refused, cut)) = runtime.block_on(async {
        let mut bench = start(&me, dir.path()).await;
        let file = dir.path().join("web");
        bench.onboard("web", &me, "stamp", &file, "").await;
        let plain = Row::new("agentd: kill -9 to running again", bench.kills("web", &file).await);
        let ballast: Vec<u8> = vec![1; 2 << 30];
        let name = "agentd: the same with 2 GiB resident";
        let heavy = Row::new(name, bench.kills("web", &file).await);
        assert_eq!(ballast.iter().step_by(4096).map(|b| u64::from(*b)).sum::<u64>(), 524_288);
        drop(ballast);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = dir.path().join("serve");
        bench.onboard("serve", &me, "serve", &file, &port.to_string()).await;
        let counts = refused(&bench, &file, port).await;
        for name in ["web", "serve"] {
            let last = stamps(&dir.path().join(name)).last().map(|(pid, _)| *pid);
            end(&bench, name, last).await;
        }
        bench.app.stop().await;
        (plain, heavy, counts)
    });
    println!("{:<52} {:>5} {:>9} {:>9} {:>9}", "case (milliseconds)", "n", "min", "median", "max");
    let goal = bare.median() + sync.median() + 1.0;
    for row in [&bare, &sync, &plain, &heavy] {
        row.print();
    }
    for row in peers(&me, dir.path()) {
        row.print();
    }
    println!("\ngoal: bare respawn + fdatasync + 1 ms = {goal:.2} ms");
    for row in [&plain, &heavy] {
        let share = row.median() / goal;
        println!("  {:<50} {:>6.2} ms = {share:.2} of the goal", row.name, row.median());
    }
    println!(
        "connections over {ROUNDS} kills with `listen`: {answered} answered, {refused} refused, {cut} cut by the kill itself"
    );
}

/// Leaves nothing behind: pauses nothing, asks nobody, ends the shim by ending what it was started for.
async fn end(bench: &Bench, name: &str, pid: Option<i32>) {
    let _ = bench;
    let shims = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (line.contains(" shim ") && line.contains(&format!("/apps/{name}/"))).then_some(pid)
    });
    for shim in shims.chain(pid).collect::<Vec<_>>() {
        if let Some(pid) = Pid::from_raw(shim) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

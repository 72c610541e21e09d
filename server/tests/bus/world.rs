//! A Redis of one's own, a publisher with the bus behind it, and everything that was logged.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use agentd::bus::{self, Address, BusStats, Running};
use agentd::clock::Clock;
use agentd::publish::{Published, Publisher};
use agentd::tasks::Tasks;
use agentd_core::app::{AppName, Env};
use agentd_core::chain;
use agentd_core::record::{Body, Heartbeat, Record};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};

/// Far beyond anything a test should take; a test never measures time.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The stream of the environment the tests use.
pub(super) const STREAM: &str = "agentd:dev:records";

/// A `redis-server` that only this test uses. It is killed, by its id, when the test ends.
pub(super) struct Redis {
    dir: tempfile::TempDir,
    flags: Vec<String>,
    child: Option<Child>,
    password: Option<String>,
}

impl Redis {
    /// Starts one on a socket in a directory of its own; `None`, and a line on the terminal, if there is no `redis-server`.
    pub(super) fn start(flags: &[&str]) -> Option<Self> {
        let mut redis = Self::prepare(flags)?;
        redis.restart();
        Some(redis)
    }

    /// One that asks for a password.
    pub(super) fn locked(password: &str) -> Option<Self> {
        let mut redis = Self::prepare(&["--requirepass", password])?;
        redis.password = Some(password.to_owned());
        redis.restart();
        Some(redis)
    }

    /// All of it but the process.
    pub(super) fn prepare(flags: &[&str]) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Some(Self { dir, flags, child: None, password: None })
    }

    pub(super) fn add_flags(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("r.sock")
    }

    pub(super) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Starts it, again if need be, and waits until it answers. It keeps nothing on disk.
    pub(super) fn restart(&mut self) {
        self.kill();
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.arg("--unixsocket").arg(self.socket()).arg("--dir").arg(self.dir.path());
        command.args(&self.flags).stdin(Stdio::null());
        command.stderr(log.try_clone().unwrap()).stdout(log).process_group(0);
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut client) = self.try_client()
                && redis::cmd("PING").exec(&mut client).is_ok()
            {
                return;
            }
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "redis-server does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn try_client(&self) -> redis::RedisResult<redis::Connection> {
        let mut url = self.url();
        if let Some(password) = &self.password {
            url.push_str(&format!("?pass={password}"));
        }
        redis::Client::open(url)?.get_connection_with_timeout(Duration::from_secs(5))
    }

    pub(super) fn client(&self) -> redis::Connection {
        self.try_client().unwrap()
    }

    /// Runs one command.
    pub(super) fn run(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut self.client()).unwrap()
    }

    /// The fields of every entry of the stream.
    pub(super) fn entries(&self) -> Vec<BTreeMap<String, String>> {
        let mut command = redis::cmd("XRANGE");
        command.arg(STREAM).arg("-").arg("+");
        let entries: Vec<(String, Vec<(String, String)>)> =
            command.query(&mut self.client()).unwrap();
        entries.into_iter().map(|(_, fields)| fields.into_iter().collect()).collect()
    }

    /// Sequence numbers of the records in the stream, in the order of the stream.
    pub(super) fn seqs(&self) -> Vec<u64> {
        self.entries().iter().filter_map(|entry| entry.get("seq")?.parse().ok()).collect()
    }

    /// How often each command was called.
    pub(super) fn calls(&self) -> BTreeMap<String, u64> {
        let info: String =
            redis::cmd("INFO").arg("commandstats").query(&mut self.client()).unwrap();
        let call = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        info.lines().filter_map(call).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_installed() -> bool {
    let version = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    if version.is_ok_and(|status| status.success()) {
        return true;
    }
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let line = format!("\n!!! SKIPPED {name}: there is no redis-server on this machine\n");
    // Not through the macros, which the test harness swallows.
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    assert!(std::env::var_os("CI").is_none(), "CI has a redis-server");
    false
}

/// A publisher with a bus behind it.
pub(super) struct World {
    pub(super) publisher: Publisher,
    next: u64,
    running: Running,
}

impl World {
    /// The log ends at `head`.
    pub(super) fn new(url: &str, head: u64) -> Self {
        logged();
        let publisher = Publisher::new(head);
        let clock = Arc::new(Clock::manual(1_000));
        let address = Address::parse(url);
        assert!(address.is_some(), "an address");
        let running = bus::start(address, Env::Dev, &publisher, &clock, &Tasks::new());
        Self { publisher, next: head + 1, running }
    }

    /// Publishes records all at once; what was published is the answer.
    pub(super) fn publish(&mut self, count: u64) -> Vec<Arc<Published>> {
        let records: Vec<_> = (self.next..self.next + count).map(record).collect();
        self.next += count;
        self.publisher.publish(records.clone());
        records
    }

    pub(super) fn head(&self) -> u64 {
        self.next - 1
    }

    pub(super) fn stats(&self) -> BusStats {
        self.running.monitor().stats()
    }

    pub(super) async fn until(&self, what: &str, is: impl Fn(&BusStats) -> bool) -> BusStats {
        let monitor = self.running.monitor();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = monitor.stats();
            if is(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "waited for {what}: {stats:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until everything was taken or skipped.
    pub(super) async fn caught_up(&self) -> BusStats {
        self.until("the bus to catch up", |stats| stats.connected && stats.lag == 0).await
    }

    pub(super) async fn stop(self) {
        self.running.stop().await;
    }
}

/// A record; every third is about an app.
fn record(seq: u64) -> Arc<Published> {
    let body = Body::Heartbeat(Heartbeat {
        state: Cow::Borrowed("idle"),
        uptime_ms: seq * 10,
        loops: seq,
        last_decision: None,
        states: BTreeMap::new(),
        apps: 0,
        quiet: 0,
    });
    let app = seq.is_multiple_of(3).then(|| AppName::parse("shop").unwrap());
    let actor = "agent-0123abcd".to_owned();
    let record = Record { seq, at: seq, env: Env::Dev, app, cause: None, actor, trace: None, body };
    let line = Bytes::from(record.line(chain::leaf_hash(b"before")));
    let hash = chain::leaf_hash(&line);
    Arc::new(Published::new(record, line, hash))
}

type Log = Arc<Mutex<Vec<u8>>>;

struct LogWriter(Log);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Everything that any test of this file has logged so far, down to the finest level.
pub(super) fn logged() -> String {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Log::default();
        let sink = Arc::clone(&log);
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || LogWriter(Arc::clone(&sink)))
            .init();
        log
    });
    let log = log.lock().unwrap();
    String::from_utf8_lossy(&log).into_owned()
}

//! A server in a directory of its own, and the command line that talks to it. Nothing of it outlives the test.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use agentd_core::app::Env;
use agentd_core::policy::Policy;
use serde_json::Value;
use tempfile::TempDir;

#[path = "harness/apps.rs"]
mod apps;
#[path = "harness/processes.rs"]
pub(crate) mod processes;
#[path = "harness/records.rs"]
mod records;
#[path = "harness/run.rs"]
mod run;

pub(crate) use apps::App;
pub(crate) use records::{Records, body, event, seq};
pub(crate) use run::{Run, Stream, deadline, wait_for};

/// The program under test.
pub(crate) const AGENTCTL: &str = env!("CARGO_BIN_EXE_agentctl");

/// How a server is started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Environment it serves.
    pub(crate) env: Env,
    /// Policy file; `None`: the built-in policy.
    pub(crate) policy: Option<Policy>,
    /// More flags of `agentctl up`.
    pub(crate) flags: Vec<String>,
    /// Failpoints of the server, as its environment variable has them.
    pub(crate) failpoints: String,
}

impl Default for Options {
    fn default() -> Self {
        let policy = Some(quick());
        Self { env: Env::Stage, policy, flags: Vec::new(), failpoints: String::new() }
    }
}

impl Options {
    /// The usual options with another policy.
    pub(crate) fn with(change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = quick();
        change(&mut policy);
        Self { policy: Some(policy), ..Self::default() }
    }
}

/// The policy of stage with times that suit a test. What restrains repeated restarts is moved out of the way: the stories
/// that are about it put it back.
pub(crate) fn quick() -> Policy {
    use agentd_core::action::Action;
    let mut policy = Policy::default_for(Env::Stage);
    policy.verification.hold_ms = 300;
    policy.verification.deadline_ms = 20_000;
    policy.verification.min_uptime_ms = 200;
    for action in [Action::Restart, Action::ScaleUp, Action::ScaleDown] {
        policy.cooldown.base_ms.insert(action, 100);
    }
    policy.cooldown.restart_cap_ms = 100;
    policy.repetition.limit = 45;
    policy.memory.failures = 45;
    policy.memory.identical = 45;
    policy.breaker.failures = 1_000;
    policy.stability.crash_loop_exits = 16;
    policy.stability.flap_changes = 9;
    policy.stability.flap_window_ms = 100;
    policy
}

/// A loopback address that no other test uses: all of 127/8 is loopback, so ports never collide.
pub(crate) fn own_ip() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let pid = std::process::id();
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(n < 250, "one test program has enough addresses for 250");
    format!("127.{}.{}.{n}", 64 + (pid >> 8) % 128, pid % 256)
}

/// A running server, or one that was killed and can be started again.
#[derive(Debug)]
pub(crate) struct Server {
    dir: TempDir,
    ip: String,
    address: String,
    pub(crate) options: Options,
    pub(crate) child: Option<Child>,
    starts: u32,
}

impl Server {
    /// Starts a server and waits until it answers.
    pub(crate) fn start(options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("agentd-e2e-").tempdir().unwrap();
        let ip = own_ip();
        let address = format!("{ip}:0");
        let mut server = Self { dir, ip, address, options, child: None, starts: 0 };
        if let Some(policy) = &server.options.policy {
            std::fs::write(server.policy_file(), toml::to_string(policy).unwrap()).unwrap();
        }
        server.up();
        server
    }

    /// Starts a server with the usual options.
    pub(crate) fn quick() -> Self {
        Self::start(Options::default())
    }

    /// Everything the test writes is below this directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Data directory of the server.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    fn policy_file(&self) -> PathBuf {
        self.dir().join("policy.toml")
    }

    /// Where the server listens; stays the same through restarts.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Process id of the server.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// An address for an app of this test.
    pub(crate) fn app_address(&self, port: u16) -> String {
        format!("{}:{port}", self.ip)
    }

    /// The program with an environment in which nothing of this machine's configuration counts.
    pub(crate) fn program(&self) -> Command {
        let mut command = Command::new(AGENTCTL);
        command.env_clear().current_dir(self.dir()).stdin(Stdio::null());
        command.env("HOME", self.dir()).env("PATH", "/usr/bin:/bin").env("NO_COLOR", "1");
        command
    }

    /// The command that starts this server.
    pub(crate) fn up_command(&self) -> Command {
        let mut command = self.program();
        command.args(["up", "-o", "json", "--loop-interval", "50ms"]);
        command.args(["--listen", &self.address, "--env", self.options.env.as_str()]);
        command.arg("--data-dir").arg(self.data_dir());
        if self.options.policy.is_some() {
            command.arg("--policy").arg(self.policy_file());
        }
        command.args(&self.options.flags);
        if !self.options.failpoints.is_empty() {
            command.env("AGENTD_FAILPOINTS", &self.options.failpoints);
        }
        command
    }

    /// Starts the server on the same data and the same address, and waits until it answers.
    pub(crate) fn up(&mut self) {
        assert!(self.try_up(), "the server did not come up:\n{}", self.log());
    }

    /// As [`Server::up`]; false if it ended before it answered.
    pub(crate) fn try_up(&mut self) -> bool {
        assert!(self.child.is_none(), "it runs already");
        self.starts += 1;
        let log = File::create(self.log_file(self.starts)).unwrap();
        let mut command = self.up_command();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut stdout = Stream::over(child.stdout.take().unwrap());
        self.child = Some(child);
        let Some(line) = stdout.line(deadline()) else { return false };
        let view: Value = serde_json::from_str(&line).unwrap();
        self.address = view["address"].as_str().unwrap().to_owned();
        true
    }

    fn log_file(&self, start: u32) -> PathBuf {
        self.dir().join(format!("server-{start}.log"))
    }

    /// What the server logged since its last start.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file(self.starts)).unwrap_or_default()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Leaves the beginning of a record that was never finished behind the log of a server that was killed. Answers with its length.
    pub(crate) fn tear_log(&self) -> usize {
        const TORN: [u8; 24] = [7; 24];
        let files = std::fs::read_dir(self.data_dir().join("proof/wal")).unwrap().flatten();
        let segments = files.map(|file| file.path());
        let last = segments.filter(|path| path.extension().is_some_and(|e| e == "seg")).max();
        let last = last.expect("a segment");
        let mut bytes = std::fs::read(&last).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let at = end.next_multiple_of(8);
        bytes[at..at + TORN.len()].copy_from_slice(&TORN);
        std::fs::write(&last, bytes).unwrap();
        TORN.len()
    }

    /// SIGTERM, and waits until it is gone. Returns the exit code.
    pub(crate) fn stop(&mut self) -> i32 {
        processes::term(self.pid());
        self.ended().code().unwrap_or(-1)
    }

    /// Waits until the server ends by itself.
    pub(crate) fn ended(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let Some(status) = wait_for(|| child.try_wait().unwrap()) else {
            let _ = child.kill();
            panic!("the server (pid {}) does not end:\n{}", child.id(), self.log());
        };
        status
    }

    /// SIGKILL and a new start.
    pub(crate) fn restart(&mut self) {
        self.kill9();
        self.up();
    }

    /// A command in the name of somebody.
    pub(crate) fn client(&self, principal: &str, args: &[&str]) -> Command {
        self.client_at(&self.address, principal, args)
    }

    fn client_at(&self, address: &str, principal: &str, args: &[&str]) -> Command {
        let mut command = self.program();
        command.args(["--address", address, "--as", principal, "--token-file"]);
        command.arg(self.data_dir().join("tokens.toml")).args(args);
        command
    }

    /// Runs a command as the principal `local`, who may do everything but push signals as a monitor.
    pub(crate) fn ctl(&self, args: &[&str]) -> Run {
        self.ctl_as("local", args)
    }

    /// Runs a command as somebody.
    pub(crate) fn ctl_as(&self, principal: &str, args: &[&str]) -> Run {
        Run::of(self.client(principal, args))
    }

    /// Starts a command that goes on, and hands out its lines.
    pub(crate) fn follow(&self, args: &[&str]) -> Stream {
        Stream::of(self.client("local", args))
    }

    /// The same by way of another address.
    pub(crate) fn follow_through(&self, address: &str, args: &[&str]) -> Stream {
        Stream::of(self.client_at(address, "local", args))
    }

    /// A page of the port, which must be open to this host.
    pub(crate) fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answer
    }

    /// The status of the agent.
    pub(crate) fn status(&self) -> Value {
        self.ctl(&["status", "-o", "json"]).ok().json()
    }

    /// The status of one app.
    pub(crate) fn app_status(&self, app: &str) -> Value {
        self.ctl(&["status", app, "-o", "json"]).ok().json()
    }

    /// Waits until `look` finds something; fails with what was expected and the log of the server.
    pub(crate) fn wait<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        wait_for(look).unwrap_or_else(|| {
            let proof = self.ctl(&["proof", "tail", "--no-follow", "-n", "60"]).stdout;
            panic!(
                "never happened: {what}\n--- log of the server\n{}\n--- proof\n{proof}",
                self.log()
            )
        })
    }

    /// The proof log as its export has it.
    pub(crate) fn records(&self) -> Records {
        Records::parse(&self.ctl(&["proof", "export"]).ok().stdout)
    }

    /// Waits until the log holds a record that `is_it` accepts, and returns the first.
    pub(crate) fn wait_record(&self, what: &str, mut is_it: impl FnMut(&Value) -> bool) -> Value {
        self.wait(what, || self.records().into_iter().find(&mut is_it))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Stopped processes die of it too.
            let _ = child.kill();
            let _ = child.wait();
        }
        processes::kill_below(self.dir.path());
    }
}

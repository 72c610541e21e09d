//! A whole server with a git server beside it: the loop, the gates, the log and real apps. Nothing of it outlives the test.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd::agent::Ask;
use agentd::app::{App, Host};
use agentd::config::{Config, ServerArgs};
use agentd_core::action::Action;
use agentd_core::app::{
    AppName, Env, Field, OnboardRequest, Probe, RequestedHealth, RequestedSource,
};
use agentd_core::policy::Policy;
use agentd_core::record::{Body, Concluded, Record};
use agentd_core::state::{AppState, Approval, ApprovalState, Outcome};
use agentd_core::step::{By, Reply, Update};
use agentd_core::verdict::Ruling;

use super::git::GitServer;
use super::world::{self, own_uids, processes_of};

/// Far beyond anything that should take time, a compiler on a busy machine included; no test measures any.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) struct Server {
    pub(super) dir: tempfile::TempDir,
    pub(super) git: GitServer,
    app: Option<App>,
    ip: String,
}

/// Stage with times that suit a test; what restrains repeated attempts is moved out of the way.
fn policy(git: &GitServer, tools: &Path) -> Policy {
    let mut policy = Policy::default_for(Env::Stage);
    policy.verification.hold_ms = 300;
    policy.verification.deadline_ms = 20_000;
    policy.verification.min_uptime_ms = 200;
    let repeated = [Action::Restart, Action::RetryDeployment, Action::Rollback];
    for action in repeated.into_iter().chain([Action::ScaleUp, Action::ScaleDown]) {
        policy.cooldown.base_ms.insert(action, 200);
    }
    // A few tries while a story goes on, not dozens.
    policy.cooldown.base_ms.insert(Action::RetryDeployment, 1_500);
    policy.cooldown.restart_cap_ms = 200;
    policy.repetition.limit = 45;
    policy.memory.failures = 45;
    policy.memory.identical = 45;
    policy.breaker.failures = 1_000;
    policy.stability.crash_loop_exits = 16;
    policy.stability.flap_changes = 9;
    policy.stability.flap_window_ms = 100;
    let rules = world::rules(git, tools);
    policy.fetch = rules.fetch;
    policy.sandbox = rules.sandbox;
    policy.sandbox.first_uid = own_uids();
    policy.sandbox.disk_bytes_max = 1 << 30;
    policy.sandbox.file_bytes_max = 1 << 30;
    policy
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// As [`Server::start`], with another policy.
    pub(super) async fn with(change: impl FnOnce(&mut Policy)) -> Self {
        let dir = tempfile::Builder::new().prefix("agentd-deploy-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let git = GitServer::start();
        let mut policy = policy(&git, Path::new("/usr/bin"));
        change(&mut policy);
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("policy.toml"), toml::to_string(&policy).unwrap()).unwrap();
        std::fs::write(path("agentd.toml"), "").unwrap();
        let args = ServerArgs {
            config: Some(path("agentd.toml").into()),
            env: Some("stage".to_owned()),
            listen: Some("127.0.0.1:0".to_owned()),
            data_dir: Some(path("data")),
            loop_interval: Some("50ms".to_owned()),
            policy: Some(path("policy.toml")),
            // Learning stands still: a retry is worth the same however often it failed before.
            freeze: Some("true".to_owned()),
            ..ServerArgs::default()
        };
        let shim = vec![PathBuf::from(env!("CARGO_BIN_EXE_agentd")), PathBuf::from("shim")];
        let host = Host { shim, demo_app: Vec::new() };
        let app = App::start(Config::load(&args).unwrap(), host).await.unwrap();
        // All of 127/8 is loopback, so apps of different tests never meet.
        let n = own_uids() / 10 % 250;
        let pid = std::process::id();
        let ip = format!("127.{}.{}.{}", 200 + (pid >> 8) % 50, pid % 256, n + 1);
        Self { dir, git, app: Some(app), ip }
    }

    fn running(&self) -> &App {
        self.app.as_ref().expect("it runs")
    }

    /// Where the app of this test answers.
    pub(super) fn address(&self) -> String {
        format!("{}:8080", self.ip)
    }

    /// What a person would ask for.
    pub(super) fn request(&self, name: &str, runtime: &str) -> OnboardRequest {
        let probe = Probe::Http { url: "/".to_owned() };
        let health = RequestedHealth { probe, interval_ms: Some(200), timeout_ms: None };
        OnboardRequest {
            name: name.to_owned(),
            env: "stage".to_owned(),
            runtime: runtime.to_owned(),
            source: RequestedSource::Repo { url: self.git.url(name), revision: None },
            listen: Some(self.address()),
            health: Some(health),
            ..OnboardRequest::default()
        }
    }

    /// Onboards, or deploys what is in the repository now. Whether it was permitted: the agent may be busy with the app.
    pub(super) async fn deploy(&self, request: OnboardRequest, update: bool) -> bool {
        let request = Box::new(request);
        let ask = if update {
            let anew = Update { fields: [Field::Source].into(), etag: None };
            Ask::Update(request, Vec::new(), anew)
        } else {
            Ask::Onboard(request, Vec::new())
        };
        match self.ask(ask, "olivia").await {
            Reply::Updated { decided: Some(decided), .. } => decided.ruling == Ruling::Permitted,
            Reply::Onboarded { decision: Some(decision), .. } => {
                let records = self.records();
                let decided = records.iter().find(|record| record.seq == decision).unwrap();
                decided.decision().unwrap().ruling == Ruling::Permitted
            }
            reply => panic!("no deployment: {reply:?}"),
        }
    }

    async fn ask(&self, ask: Ask, principal: &str) -> Reply {
        let principal = principal.to_owned();
        let by = By { principal, human: true, request: None, validate_only: false };
        self.running().agent().ask(ask, by).await.unwrap().unwrap()
    }

    /// A second person says yes.
    pub(super) async fn approve(&self, approval: &Approval) {
        let plan_digest = Some(approval.plan_digest.clone());
        let ask = Ask::Approve { approval: approval.seq, plan_digest, comment: "go".to_owned() };
        let reply = self.ask(ask, "alex").await;
        assert!(matches!(reply, Reply::Decided { .. }), "{reply:?}");
    }

    /// Looks at an app.
    pub(super) async fn state(&self, name: &str) -> AppState {
        let name = AppName::parse(name).unwrap();
        let agent = self.running().agent();
        agent.query(move |view| view.state.apps[&name].clone()).await.unwrap()
    }

    /// The request for approval that waits.
    pub(super) async fn pending(&self) -> Option<Approval> {
        let pending = |approval: &&Approval| approval.state == ApprovalState::Pending;
        let agent = self.running().agent();
        let look = agent.query(move |view| view.state.approvals.values().find(pending).cloned());
        look.await.unwrap()
    }

    /// Every record so far.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let mut read = |_: u64, line: &[u8]| records.push(Record::parse(line).unwrap());
        agentd::journal::read_dir(&self.dir.path().join("data/proof"), &mut read).unwrap();
        records
    }

    /// How attempts ended, in order, with what was said.
    pub(super) fn concluded(&self) -> Vec<Concluded> {
        let concluded = |record: Record| match record.body {
            Body::Concluded(concluded) => Some(concluded),
            _ => None,
        };
        self.records().into_iter().filter_map(concluded).collect()
    }

    /// Waits until an attempt has ended like this, so many times.
    pub(super) async fn wait_concluded(&self, action: Action, outcome: Outcome, times: usize) {
        let what = format!("{action} {outcome:?} {times} times");
        self.wait(&what, async || {
            let all = self.concluded();
            let like = |c: &&Concluded| c.action == action && c.outcome == outcome;
            (all.iter().filter(like).count() >= times).then_some(())
        })
        .await;
    }

    /// Waits until `look` finds something.
    #[track_caller]
    pub(super) fn wait<T>(
        &self,
        what: &str,
        look: impl AsyncFn() -> Option<T>,
    ) -> impl Future<Output = T> {
        let what = format!("{what}, at {}", std::panic::Location::caller());
        async move {
            let until = tokio::time::Instant::now() + PATIENCE;
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                if tokio::time::Instant::now() >= until {
                    let tail: Vec<_> = self
                        .records()
                        .into_iter()
                        .rev()
                        .take(40)
                        .map(|r| (r.seq, r.body))
                        .collect();
                    panic!("never happened: {what}\n{tail:#?}");
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    }

    /// Asks the app itself; the body, or nothing when it does not answer.
    pub(super) fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200").then(|| body.trim().to_owned())
    }

    /// Waits until the app answers like this.
    pub(super) async fn wait_answer(&self, wanted: &str) {
        let what = format!("`{wanted}` answers");
        self.wait(&what, async || (self.get("/").as_deref() == Some(wanted)).then_some(())).await;
    }

    pub(super) fn releases(&self, app: &str) -> PathBuf {
        self.dir.path().join("data/apps").join(app).join("releases")
    }

    /// The current release.
    pub(super) fn current(&self, app: &str) -> Option<String> {
        let link = std::fs::read_link(self.releases(app).join("current")).ok()?;
        Some(link.to_str().unwrap().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let (app, dir) = (self.app.take(), self.dir.path().to_owned());
        // A runtime of its own: the one of the test cannot be waited for in here.
        let end = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            // A server that runs brings its shims back.
            if let Some(app) = app {
                runtime.block_on(app.stop());
            }
            for _ in 0..500 {
                let mut left = processes_of(&dir);
                left.extend(shims_of(&dir));
                if left.is_empty() {
                    return;
                }
                for pid in left {
                    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("processes of {} are left", dir.display());
        };
        let ended = std::thread::Builder::new().spawn(end).unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "no process outlives a test");
    }
}

/// Shims have the directory on their command line.
fn shims_of(dir: &Path) -> Vec<u32> {
    let (needle, own) = (dir.as_os_str().as_encoded_bytes(), std::process::id());
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = numbers.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != own && line.windows(needle.len()).any(|window| window == needle)
    });
    found.collect()
}

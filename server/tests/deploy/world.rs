//! A git server, a deployer, and the tools of a build that does whatever the repository says.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use agentd::deploy::{Deployer, Error, Release, Rules};
use agentd_core::app::{AppName, AppSpec, Env, Instances, Runtime, Source};
use agentd_core::policy::{Fetch, Host, Sandbox, Scheme};
use tokio_util::sync::CancellationToken;

use super::git::GitServer;

/// What hostile tools run: whatever the repository says.
pub(super) const BEHAVE: &str = "behave.sh";

pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) git: GitServer,
    pub(super) deployer: Deployer,
    pub(super) rules: Rules,
    pub(super) stop: CancellationToken,
}

/// The rules of a test: this git server is listed, and limits are such that hitting them takes no time.
pub(super) fn rules(git: &GitServer, tools: &Path) -> Rules {
    let mib = 1 << 20;
    let listed = Host { host: "127.0.0.1".to_owned(), scheme: Scheme::Http, port: git.port() };
    let fetch = Fetch { hosts: vec![listed], bytes_max: 8 * mib, ..Fetch::default() };
    let sandbox = Sandbox {
        first_uid: own_uids(),
        disk_bytes_max: 32 * mib,
        file_bytes_max: 16 * mib,
        path: format!("{}:/usr/local/bin:/usr/local/go/bin:/usr/bin:/bin", tools.display()),
        ..Sandbox::default()
    };
    Rules { fetch, sandbox, keep: BTreeSet::new() }
}

/// User ids that no other test uses: the kernel counts the processes of a user wherever they are.
pub(super) fn own_uids() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(n < 100, "one test program has enough users for 100 worlds");
    100_000 + std::process::id() % 1_000 * 1_000 + n * 10
}

impl World {
    /// With a `go` that runs [`BEHAVE`] of the repository: foreign code in the middle of a build.
    pub(super) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("agentd-deploy-").tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open.clone()).unwrap();
        let tools = dir.path().join("tools");
        std::fs::create_dir(&tools).unwrap();
        std::fs::write(tools.join("go"), format!("#!/bin/sh\nexec /bin/sh ./{BEHAVE}\n")).unwrap();
        for path in [tools.clone(), tools.join("go")] {
            std::fs::set_permissions(path, open.clone()).unwrap();
        }
        let git = GitServer::start();
        let rules = rules(&git, &tools);
        let shim = [env!("CARGO_BIN_EXE_agentd"), "shim"].map(OsString::from).to_vec();
        let deployer = Deployer::open(dir.path().join("data/apps"), shim);
        Self { dir, git, deployer, rules, stop: CancellationToken::new() }
    }

    /// An app from a repository of the server.
    pub(super) fn app(&self, name: &str, runtime: Runtime) -> AppSpec {
        AppSpec {
            name: AppName::parse(name).unwrap(),
            env: Env::Stage,
            runtime,
            source: Source::Repo { url: self.git.url(name), revision: None },
            working_dir: None,
            instances: Instances { min: 1, max: 1, desired: 1 },
            listen: None,
            health: None,
            environment: BTreeMap::new(),
            labels: BTreeMap::new(),
            thresholds: BTreeMap::new(),
            windows: Vec::new(),
            autonomy: None,
            stop_grace_ms: 1_000,
        }
    }

    /// Commits a build that behaves like this.
    pub(super) fn build(&self, name: &str, script: &str) -> AppSpec {
        self.git.commit(name, &[("go.mod", "module x\n"), (BEHAVE, script)]);
        self.app(name, Runtime::Go)
    }

    pub(super) async fn make(&self, app: &AppSpec, revision: u32) -> Result<Release, Error> {
        self.deployer.make(app, revision, &self.rules, &self.stop).await
    }

    /// It cannot be deployed; the error. Nothing of it is left, and the next app is not affected.
    #[track_caller]
    pub(super) fn refused(&self, app: &AppSpec) -> impl Future<Output = Error> {
        let caller = std::panic::Location::caller();
        async move {
            let error = self.make(app, 1).await.expect_err(&caller.to_string());
            self.assert_clean(app);
            let next = self.build("next", "mkdir .release && cp go.mod .release/app\n");
            let made = self.make(&next, 1).await;
            assert!(made.is_ok(), "{caller}: the next app is affected: {made:?}");
            self.deployer.remove(&next, 1).await.unwrap();
            error
        }
    }

    pub(super) fn home(&self, app: &AppSpec) -> PathBuf {
        self.dir.path().join("data/apps").join(app.name.as_str())
    }

    /// No release, no beginning of one, and no process.
    #[track_caller]
    pub(super) fn assert_clean(&self, app: &AppSpec) {
        let releases = self.home(app).join("releases");
        let left: Vec<_> = std::fs::read_dir(releases).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "files are left: {left:?}");
        // Every process of a build has its home in its environment.
        let running = processes_of(&self.home(app));
        assert!(running.is_empty(), "processes are left: {running:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What a failed test left running.
        for pid in processes_of(self.dir.path()) {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Processes that have a directory below `dir` in their environment.
pub(super) fn processes_of(dir: &Path) -> Vec<u32> {
    let (needle, own) = (dir.as_os_str().as_encoded_bytes(), std::process::id());
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = numbers.filter(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        *pid != own && environment.windows(needle.len()).any(|window| window == needle)
    });
    found.collect()
}

//! A server in this process; nothing of it outlives the test.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentctl_api::client::{Client, Target};
use agentd::app::{App, Host};
use agentd::auth::tokens;
use agentd::config::{Config, ServerArgs};
use agentd_core::action::Action;
use agentd_core::app::AppName;
use agentd_core::policy::Policy;
use agentd_core::state::Health;
use tempfile::TempDir;

/// Between two restarts.
const COOLDOWN_MS: u64 = 2_000;

/// A server with a data directory.
pub(super) struct Server {
    app: Option<App>,
    dir: TempDir,
}

impl Server {
    /// A server with the rules of the demonstration, but a longer cooldown: a machine that has other work may take a second
    /// from a restart to the next decision.
    pub(super) async fn demo() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let rules = std::fs::read_to_string(root.join("deploy/policy/demo.toml")).unwrap();
        let mut policy: Policy = toml::from_str(&rules).unwrap();
        policy.cooldown.base_ms.insert(Action::Restart, COOLDOWN_MS);
        policy.cooldown.restart_cap_ms = COOLDOWN_MS;
        // Seen to end as well.
        policy.storm.exit_ms = 1_000;
        Self::start("stage", Some(&toml::to_string(&policy).unwrap())).await
    }

    /// A server with these rules, or the built-in ones.
    pub(super) async fn start(env: &str, rules: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agentd.toml");
        std::fs::write(&file, "").unwrap();
        let policy = rules.map(|rules| {
            let path = dir.path().join("policy.toml");
            std::fs::write(&path, rules).unwrap();
            path.to_str().unwrap().to_owned()
        });
        let config = Config::load(&ServerArgs {
            config: Some(file),
            env: Some(env.to_owned()),
            listen: Some("127.0.0.1:0".to_owned()),
            data_dir: Some(dir.path().join("data").to_str().unwrap().to_owned()),
            loop_interval: Some("100ms".to_owned()),
            // As the demonstration does: learning stands still, so that a scenario decides the same each time.
            freeze: Some("true".to_owned()),
            policy,
            ..ServerArgs::default()
        });
        let program = PathBuf::from(env!("CARGO_BIN_EXE_agentctl"));
        let host = Host {
            shim: vec![program.clone(), "shim".into()],
            demo_app: vec![program, "demo-app".into()],
        };
        let app = App::start(config.unwrap(), host).await.unwrap();
        Self { app: Some(app), dir }
    }

    fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    pub(super) async fn client(&self, principal: &str) -> Client {
        let token = tokens::plain_token(self.app().tokens(), principal).unwrap();
        let address = format!("http://{}", self.app().address());
        Client::connect(&Target::new(&address, "the test", Some(token))).await.unwrap()
    }

    pub(super) async fn stop(mut self) {
        self.app.take().unwrap().stop().await.unwrap();
    }

    pub(super) async fn health(&self, app: &str) -> (Health, u32) {
        let name = AppName::parse(app).unwrap();
        let agent = self.app().agent();
        let look = agent.query(move |view| {
            let app = &view.state.apps[&name];
            (app.health(), app.profile.revision)
        });
        look.await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let (app, data) = (self.app.take(), self.dir.path().join("data"));
        // A runtime of its own: the one of the test cannot be waited for in here.
        let end = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            // A test that failed has not stopped it, and a server that runs brings its shims back.
            if let Some(app) = app {
                runtime.block_on(app.stop());
            }
            // Again, if a shim was only on its way when the server stopped.
            for _ in 0..500 {
                runtime.block_on(agentctl::server::end_apps(data.clone())).unwrap();
                if !is_anything_left(&data) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("processes of {} are left", data.display());
        };
        let thread = std::thread::Builder::new().name("end-apps".to_owned()).spawn(end).unwrap();
        let ended = thread.join();
        assert!(ended.is_ok() || std::thread::panicking(), "no process outlives a test");
    }
}

/// Whether a shim of this data directory runs: its command line names the directory.
fn is_anything_left(data: &Path) -> bool {
    let needle = data.as_os_str().as_encoded_bytes();
    let names = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.windows(needle.len()).any(|window| window == needle)
    };
    std::fs::read_dir("/proc").unwrap().flatten().any(names)
}

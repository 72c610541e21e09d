//! A server in this process on a temporary directory, with real processes below it, and two people who talk to it. The demo and
//! `verify` run on one; whatever happens, nothing of it outlives the command.

use agentd::config::ServerArgs;
use tempfile::TempDir;

use super::Context;
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::server::{self, Local};

/// Time between two ticks of the loop: a finding needs some ticks, and nobody wants to wait for it.
const LOOP_INTERVAL: &str = "100ms";

/// What the server goes by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules<'a> {
    /// Policy of stage, as text.
    pub(super) policy: &'a str,
    /// Accept only what the agent itself chose.
    pub(super) demo_mode: bool,
    /// Learning stands still.
    pub(super) freeze: bool,
}

/// A running scratch server.
pub(super) struct Scratch {
    directory: TempDir,
    pub(super) local: Local,
    pub(super) operator: Session,
    pub(super) approver: Session,
}

impl Scratch {
    /// Starts a server; when this returns, it answers.
    pub(super) async fn start(
        prefix: &str,
        rules: &Rules<'_>,
        context: &Context,
    ) -> Result<Self, Failure> {
        let io = |error: std::io::Error| {
            Failure::because(Exit::Failure, "cannot make a temporary data directory", &error)
        };
        let directory = tempfile::Builder::new().prefix(prefix).tempdir().map_err(io)?;
        // A file of its own, so that no agentd.toml that happens to lie around changes anything.
        let file = directory.path().join("agentd.toml");
        std::fs::write(&file, "").map_err(io)?;
        let policy = directory.path().join("policy.toml");
        std::fs::write(&policy, rules.policy).map_err(io)?;
        let config = server::configure(&ServerArgs {
            config: Some(file),
            policy: Some(policy.to_string_lossy().into_owned()),
            env: Some("stage".to_owned()),
            listen: Some("127.0.0.1:0".to_owned()),
            data_dir: Some(directory.path().join("data").to_string_lossy().into_owned()),
            demo_mode: Some(rules.demo_mode.to_string()),
            freeze: Some(rules.freeze.to_string()),
            loop_interval: Some(LOOP_INTERVAL.to_owned()),
            ..ServerArgs::default()
        })?;
        if context.global.verbose {
            // A second server of the same command logs to the same place.
            let _ = server::log(&config);
        }
        let local = Local::start(config).await?;
        let address = local.address().to_string();
        let operator = Session::local(&address, &local.token("operator")?).await?;
        let approver = Session::local(&address, &local.token("approver")?).await?;
        Ok(Self { directory, local, operator, approver })
    }

    /// Stops the server and every process it started.
    pub(super) async fn close(self) -> Result<TempDir, Failure> {
        let data = self.local.data_dir().to_owned();
        self.local.stop().await;
        server::end_apps(data).await?;
        Ok(self.directory)
    }
}

/// Ends at Ctrl-C or SIGTERM.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}

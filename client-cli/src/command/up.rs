//! `agentctl up`: a server in this process, with embedded defaults.

use agentd::config::ServerArgs;
use clap::Args;
use serde::Serialize;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::server::{self, Local};
use crate::text;

/// Run a local server with embedded defaults
///
/// No Docker, no Redis, no configuration needed. Ctrl-C stops it in good order; apps go on running and are adopted again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl up
  agentctl up --env stage --freeze
  agentctl up --listen 127.0.0.1:0 --data-dir /tmp/agentd -o json    prints the address as JSON
  agentctl up --policy stage.toml --dry-run
  agentctl up --env stage --dump-config      every setting, its value and where it came from")]
pub struct UpArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Print every setting with its value and where it came from, and start nothing
    #[arg(long)]
    dump_config: bool,
}

/// What a script that started it needs to know.
#[derive(Debug, Serialize)]
struct UpView<'a> {
    address: String,
    environment: &'a str,
    data_dir: String,
    token_file: String,
    policy_digest: &'a str,
    agent_id: &'a str,
}

pub(super) async fn run(args: UpArgs, context: &mut Context) -> Result<Exit, Failure> {
    let config = server::configure(&args.server)?;
    if args.dump_config {
        context.output.emit(&config.lines(), |page| page.block(&config.dump()))?;
        return Ok(Exit::Ok);
    }
    let export = server::log(&config)?;
    let local = Local::start(config).await?;
    let asked = local.asked_to_stop()?;
    announce(&local, context)?;
    asked.await;
    context.output.say("! stopping: streams end, the last record is written, apps go on");
    local.stop().await;
    // The connection to a collector lives on this runtime, so it is not blocked meanwhile.
    let _ = tokio::task::spawn_blocking(move || export.shut_down()).await;
    context.output.say("✔ stopped");
    Ok(Exit::Ok)
}

fn announce(local: &Local, context: &mut Context) -> Result<(), Failure> {
    let address = local.address().to_string();
    let view = UpView {
        address: address.clone(),
        environment: local.env(),
        data_dir: local.data_dir().display().to_string(),
        token_file: local.tokens().display().to_string(),
        policy_digest: local.policy_digest(),
        agent_id: local.agent_id(),
    };
    context.output.note(|page| {
        page.header(format!("agentctl {}", env!("CARGO_PKG_VERSION")));
        page.pairs(
            2,
            &[
                ("address", address.as_str()),
                ("env", view.environment),
                ("store", &view.data_dir),
                ("tokens", &view.token_file),
                ("policy", &format!("sha256 {}", text::short_digest(view.policy_digest))),
                ("agent", view.agent_id),
            ],
        );
        page.line("next:  agentctl onboard NAME --runtime R --exec PATH   |   agentctl watch   |   Ctrl-C stops it");
    });
    // The banner above is for people; programs read this.
    context.output.emit_item(&view, |_| {})
}

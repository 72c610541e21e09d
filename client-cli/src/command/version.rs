//! `agentctl version`: of this program and of the server.

use agentctl_api::v1;
use clap::Args;
use serde::Serialize;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// Show the version of this program, and of the server with --server
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl version
  agentctl version --server -o json

Exit codes: 0 shown, 8 the server cannot be reached.")]
pub struct VersionArgs {
    /// Also of the server
    #[arg(long)]
    server: bool,
}

#[derive(Debug, Serialize)]
struct VersionView {
    name: &'static str,
    version: &'static str,
    api: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerView>,
}

#[derive(Debug, Serialize)]
struct ServerView {
    address: String,
    version: String,
    environment: String,
}

pub(super) async fn run(args: VersionArgs, context: &mut Context) -> Result<Exit, Failure> {
    let server = if args.server {
        let session = context.connect().await?;
        let answer = session.identity().who_am_i(session.unary(v1::WhoAmIRequest {})).await;
        let who = answer.map_err(|s| session.failure(s))?.into_inner();
        let address = session.address().value.clone();
        Some(ServerView { address, version: who.version, environment: who.environment })
    } else {
        None
    };
    let view = VersionView {
        name: "agentctl",
        version: env!("CARGO_PKG_VERSION"),
        api: "agentctl.v1",
        server,
    };
    context.output.emit(&view, |page| {
        page.line(format!("agentctl {} (api {})", view.version, view.api));
        if let Some(server) = &view.server {
            let ServerView { address, version, environment } = server;
            page.line(format!("agentd {version} at {address}, serves {environment}"));
        }
    })?;
    Ok(Exit::Ok)
}

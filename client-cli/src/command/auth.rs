//! `agentctl auth`: who one is to the server, and the tokens of a server on this host.

use std::path::{Path, PathBuf};

use agentctl_api::v1;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Context, pieces};
use crate::connect;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Table;
use crate::server;

/// Show who one is to the server, and manage the tokens of a server on this host
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl auth whoami
  agentctl auth token create ci --role viewer
  agentctl auth token list")]
pub struct AuthArgs {
    #[command(subcommand)]
    command: AuthCommand,
}

#[derive(Debug, Subcommand)]
enum AuthCommand {
    /// Show what the token stands for: name, roles, and what they allow
    #[command(after_help = "\
Examples:
  agentctl auth whoami
  agentctl auth whoami -o json | jq '.methods'

Exit codes: 0 shown, 4 the token is not known.")]
    Whoami,
    /// Create, list and revoke tokens in the token file of a server on this host
    #[command(after_help = "\
Examples:
  agentctl auth token create ci --role viewer
  agentctl auth token list --data-dir /var/lib/agentd/stage
  agentctl auth token revoke ci")]
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Add a principal and print its token, once: the file keeps only its digest
    #[command(after_help = "\
Examples:
  agentctl auth token create ci --role viewer
  agentctl auth token create node-7 --role monitor --app web --app api
  agentctl auth token create alice --role operator --role viewer > alice.token

A server that runs reads the file again within a second.

Exit codes: 0 made, 2 a name or a role that is not valid.")]
    Create {
        /// Name of the principal: what records call the requester or the approver
        #[arg(value_name = "NAME")]
        name: String,
        /// viewer, monitor, operator, approver or admin
        #[arg(long, value_name = "ROLE", required = true)]
        role: Vec<String>,
        /// App it may push signals about [default: all]
        #[arg(long, value_name = "APP")]
        app: Vec<String>,
    },
    /// List the principals, without their tokens
    #[command(after_help = "\
Examples:
  agentctl auth token list
  agentctl auth token list --data-dir /var/lib/agentd/stage -o json")]
    List,
    /// Remove a principal
    #[command(after_help = "\
Examples:
  agentctl auth token revoke ci

A server that runs reads the file again within a second.

Exit codes: 0 removed, 3 there is no such principal.")]
    Revoke {
        /// Name of the principal
        #[arg(value_name = "NAME")]
        name: String,
    },
}

#[derive(Debug, Serialize)]
struct WhoView {
    name: String,
    roles: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    apps: Vec<String>,
    environment: String,
    server_version: String,
    address: String,
    token_from: String,
    methods: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PrincipalView {
    name: String,
    roles: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    apps: Vec<String>,
    token: &'static str,
}

#[derive(Debug, Serialize)]
struct CreatedView {
    name: String,
    roles: Vec<String>,
    token: String,
    file: String,
}

#[derive(Debug, Serialize)]
struct RevokedView {
    name: String,
    file: String,
}

pub(super) async fn run(args: AuthArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        AuthCommand::Whoami => whoami(context).await,
        AuthCommand::Token { command } => {
            let path = file(context)?;
            match command {
                TokenCommand::Create { name, role, app } => create(path, name, role, &app, context),
                TokenCommand::List => list(&path, context),
                TokenCommand::Revoke { name } => revoke(path, name, context),
            }
        }
    }
}

async fn whoami(context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let answer = session.identity().who_am_i(session.unary(v1::WhoAmIRequest {})).await;
    let who = answer.map_err(|s| session.failure(s))?.into_inner();
    let view = WhoView {
        name: who.principal,
        roles: who.roles,
        apps: who.apps,
        environment: who.environment,
        server_version: who.version,
        address: session.address().value.clone(),
        token_from: session.token_origin().to_owned(),
        methods: who.methods,
    };
    let verbose = context.global.verbose;
    context.output.emit(&view, |page| {
        page.line(format!("{} at {} ({})", view.name, view.address, view.environment));
        let apps = if view.apps.is_empty() { "all".to_owned() } else { view.apps.join(", ") };
        page.pairs(
            2,
            &[
                ("roles", view.roles.join(", ").as_str()),
                ("apps", &apps),
                ("token", &format!("from {}", view.token_from)),
                ("may call", &format!("{} methods (-v lists them)", view.methods.len())),
            ],
        );
        if verbose {
            for method in &view.methods {
                page.line(format!("    {method}"));
            }
        }
    })?;
    Ok(Exit::Ok)
}

/// The token file that is meant: `--token-file`, or the one in the data directory.
fn file(context: &Context) -> Result<PathBuf, Failure> {
    let global = &context.global;
    if let Some(path) = &global.token_file {
        return Ok(path.clone());
    }
    let named = global.data_dir.clone().or_else(|| connect::env("AGENTD_DATA_DIR"));
    server::token_file(named.as_deref()).ok_or_else(|| {
        Failure::new(Exit::NotFound, "there is no token file of a server on this host")
            .hint("name the server's data directory with --data-dir")
    })
}

fn create(
    path: PathBuf,
    name: String,
    roles: Vec<String>,
    apps: &[String],
    context: &mut Context,
) -> Result<Exit, Failure> {
    let token = server::create_token(&path, &name, &roles, apps)?;
    let file = path.display().to_string();
    let view = CreatedView { name, roles, token, file };
    context
        .output
        .say(format!("✔ {} in {}; this is the only time its token is shown", view.name, view.file));
    context.output.emit(&view, |page| page.line(&view.token))?;
    Ok(Exit::Ok)
}

fn list(path: &Path, context: &mut Context) -> Result<Exit, Failure> {
    let views: Vec<_> = server::principals(path)?
        .into_iter()
        .map(|principal| PrincipalView {
            name: principal.name,
            roles: principal.roles,
            apps: principal.apps,
            token: if principal.hashed { "digest" } else { "plain" },
        })
        .collect();
    let columns = context.output.columns();
    context.output.emit_list(&views, |page| {
        let mut table = Table::new(&["NAME", "ROLES", "APPS", "TOKEN"]).fit(columns);
        for view in &views {
            let apps =
                if view.apps.is_empty() { pieces::NONE.to_owned() } else { view.apps.join(" ") };
            table.row([view.name.as_str(), &view.roles.join(" "), &apps, view.token]);
        }
        page.table(&table);
    })?;
    Ok(Exit::Ok)
}

fn revoke(path: PathBuf, name: String, context: &mut Context) -> Result<Exit, Failure> {
    context.confirm(&format!("remove `{name}` from {}?", path.display()), "--yes")?;
    server::revoke_token(&path, &name)?;
    context.output.say("! streams that are open with it stay open until they end");
    let view = RevokedView { name, file: path.display().to_string() };
    context.output.emit(&view, |page| {
        page.line(format!("✔ {} is gone from {}", view.name, view.file));
    })?;
    Ok(Exit::Ok)
}

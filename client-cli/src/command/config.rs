//! `agentctl config`: what the command line would do, and where each setting comes from.

use std::path::PathBuf;

use agentctl_api::client::Tls;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Context, pieces};
use crate::config::{self, Contexts};
use crate::connect;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Table;

/// Show, make and check the configuration of the command line
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl config view --show-origin
  agentctl config init
  agentctl config validate")]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show the settings in force; a token is never shown
    #[command(after_help = "\
Examples:
  agentctl config view
  agentctl config view --show-origin
  agentctl config view --context stage -o json

Exit codes: 0 shown, 2 the file is not valid, 3 the context is not known.")]
    View {
        /// Also where each of them comes from
        #[arg(long)]
        show_origin: bool,
    },
    /// Write a file of contexts with every setting explained
    #[command(after_help = "\
Examples:
  agentctl config init

Exit codes: 0 written, 7 there is a file already.")]
    Init,
    /// Check a file of contexts
    #[command(after_help = "\
Examples:
  agentctl config validate
  agentctl config validate ./agentctl.toml

Exit codes: 0 valid, 2 not valid: every mistake is named with its line.")]
    Validate {
        /// File [default: the one in use]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// One setting.
#[derive(Debug, Serialize)]
struct SettingView {
    name: &'static str,
    value: Option<String>,
    origin: String,
}

#[derive(Debug, Serialize)]
struct FileView {
    file: String,
    contexts: Vec<String>,
}

pub(super) fn run(args: ConfigArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        ConfigCommand::View { show_origin } => view(show_origin, context),
        ConfigCommand::Init => {
            let path = place(None)?;
            if path.exists() {
                return Err(Failure::new(
                    Exit::Conflict,
                    format!("`{}` is there already", path.display()),
                )
                .hint("`agentctl config validate` checks it"));
            }
            config::write_private(&path, config::TEMPLATE)?;
            context.output.say(format!("✔ written to {}", path.display()));
            checked(path, context)
        }
        ConfigCommand::Validate { file } => checked(place(file)?, context),
    }
}

fn place(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    named.or_else(|| config::path(&connect::env)).ok_or_else(|| {
        Failure::usage("there is no place for the file of contexts: HOME is not set")
            .hint("name the file with AGENTCTL_CONFIG")
    })
}

fn checked(path: PathBuf, context: &mut Context) -> Result<Exit, Failure> {
    if !path.exists() {
        return Err(Failure::new(Exit::NotFound, format!("there is no `{}`", path.display()))
            .hint("`agentctl config init` writes one"));
    }
    let contexts = Contexts::load(&path)?;
    let view = FileView {
        file: path.display().to_string(),
        contexts: contexts.contexts.into_keys().collect(),
    };
    context.output.emit(&view, |page| {
        page.line(format!("✔ {} is valid: {} contexts", view.file, view.contexts.len()));
    })?;
    Ok(Exit::Ok)
}

fn view(show_origin: bool, context: &mut Context) -> Result<Exit, Failure> {
    let settings = settings(context)?;
    context.output.emit_list(&settings, |page| {
        let headers: &[&'static str] =
            if show_origin { &["SETTING", "VALUE", "FROM"] } else { &["SETTING", "VALUE"] };
        let mut table = Table::new(headers);
        for setting in &settings {
            let value = setting.value.as_deref().unwrap_or(pieces::NONE);
            let cells = [setting.name, value, &setting.origin];
            table.row(cells.into_iter().take(headers.len()));
        }
        page.table(&table);
    })?;
    Ok(Exit::Ok)
}

fn settings(context: &Context) -> Result<Vec<SettingView>, Failure> {
    let global = &context.global;
    let resolved = connect::resolve(global, &connect::env)?;
    let nowhere = "not set".to_owned();
    let mut settings = Vec::new();
    let mut add = |name, value: Option<String>, origin: String| {
        settings.push(SettingView { name, value, origin });
    };
    let file = resolved.file.map(|file| {
        let there = if file.exists() { "" } else { " (not there)" };
        format!("{}{there}", file.display())
    });
    add("file", file, "AGENTCTL_CONFIG, XDG_CONFIG_HOME or HOME".to_owned());
    let (name, origin) =
        resolved.context.map_or((None, nowhere.clone()), |c| (Some(c.value), c.origin));
    add("context", name, origin);
    add("address", Some(resolved.address.value), resolved.address.origin);
    let tls = match resolved.tls {
        Tls::Automatic => "plain text to loopback, else the roots of this host",
        Tls::Plaintext => "plain text",
        Tls::HostRoots => "the roots of this host",
        Tls::Roots(_) => "an authority of its own",
    };
    add("tls", Some(tls.to_owned()), resolved.tls_origin);
    let (token, origin) =
        resolved.token.map_or((None, nowhere.clone()), |t| (Some("set".to_owned()), t.origin));
    add("token", token, origin);
    let (env, origin) = resolved.environment.map_or((None, nowhere), |e| (Some(e.value), e.origin));
    add("env", env, origin);
    let output = format!("{:?}", global.output).to_ascii_lowercase();
    add("output", Some(output), "--output, AGENTCTL_OUTPUT or the default".to_owned());
    let timeout = global.timeout.map_or_else(|| "15s".to_owned(), |span| span.to_string());
    add("timeout", Some(timeout), "--timeout or the default".to_owned());
    Ok(settings)
}

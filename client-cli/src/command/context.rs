//! `agentctl context`: named servers.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Context, pieces};
use crate::config::{self, Contexts, Profile};
use crate::connect;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Table;

/// Name servers, and choose the one that is meant
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl context set stage --address agentd.stage.example.org:7443 --token-file ~/stage.token
  agentctl context use stage
  agentctl context list")]
pub struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// List the contexts
    #[command(after_help = "\
Examples:
  agentctl context list
  agentctl context list -o name

Exit codes: 0 also if there is none.")]
    List,
    /// Make a context the current one
    #[command(after_help = "\
Examples:
  agentctl context use stage
  agentctl context use -                     none: the default address

Exit codes: 0 done, 3 there is no such context.")]
    Use {
        /// Context, or `-` for none
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Make or change a context from --address, --env, --token-file, --as, --tls-ca, --data-dir
    #[command(after_help = "\
Examples:
  agentctl context set stage --address agentd.stage.example.org:7443 --env stage
  agentctl context set stage --token-file ~/stage.token --as operator
  agentctl context set lab --address 10.0.0.9:7443 --plaintext

A flag that is not given leaves its setting as it is. A token itself is never written: it stays in
its own file. Comments of the file are not kept.

Exit codes: 0 done, 2 a value is not valid.")]
    Set {
        /// Context
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Remove a context
    #[command(after_help = "\
Examples:
  agentctl context delete lab

Exit codes: 0 removed, 3 there is no such context.")]
    Delete {
        /// Context
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// A context, as it is listed.
#[derive(Debug, Serialize)]
struct ContextView {
    name: String,
    current: bool,
    #[serde(flatten)]
    profile: Profile,
}

pub(super) fn run(args: ContextArgs, context: &mut Context) -> Result<Exit, Failure> {
    let path = config::path(&connect::env).ok_or_else(|| {
        Failure::usage("there is no place for the file of contexts: HOME is not set")
            .hint("name the file with AGENTCTL_CONFIG")
    })?;
    let mut contexts = Contexts::load(&path)?;
    match args.command {
        ContextCommand::List => return list(&contexts, context),
        ContextCommand::Use { name } => {
            let chosen = (name != "-").then_some(name);
            if let Some(name) = &chosen {
                known(&contexts, name)?;
            }
            contexts.current = chosen;
        }
        ContextCommand::Set { name } => set(&mut contexts, &name, context)?,
        ContextCommand::Delete { name } => {
            known(&contexts, &name)?;
            contexts.contexts.remove(&name);
            contexts.current = contexts.current.filter(|current| *current != name);
        }
    }
    contexts.save(&path)?;
    context.output.say(format!("✔ written to {}", path.display()));
    list(&contexts, context)
}

fn known(contexts: &Contexts, name: &str) -> Result<(), Failure> {
    if contexts.contexts.contains_key(name) {
        return Ok(());
    }
    Err(Failure::new(Exit::NotFound, format!("context `{name}` is not known"))
        .hint("`agentctl context list` shows those there are"))
}

/// Puts what the global flags say into the context.
fn set(contexts: &mut Contexts, name: &str, context: &Context) -> Result<(), Failure> {
    let global = &context.global;
    if global.token.is_some() {
        return Err(Failure::usage("a token is not written into a context")
            .hint("put it into a file of its own and name that with --token-file"));
    }
    // The file may be read from anywhere.
    let whole = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let old = contexts.contexts.remove(name).unwrap_or_default();
    let profile = Profile {
        address: global.address.clone().or(old.address),
        env: global.env.clone().or(old.env),
        token_file: global.token_file.as_ref().map(whole).or(old.token_file),
        principal: global.principal.clone().or(old.principal),
        plaintext: global.plaintext || (old.plaintext && global.tls_ca.is_none()),
        tls_ca: match &global.tls_ca {
            Some(path) => Some(whole(path)),
            None if global.plaintext => None,
            None => old.tls_ca,
        },
        data_dir: global.data_dir.clone().or(old.data_dir),
    };
    contexts.contexts.insert(name.to_owned(), profile);
    contexts.current.get_or_insert_with(|| name.to_owned());
    let problems = contexts.problems();
    if problems.is_empty() {
        return Ok(());
    }
    let what = format!("context `{name}` is not valid, nothing was written");
    Err(problems.into_iter().fold(Failure::usage(what), |f, (key, rule)| f.fact(key, rule)))
}

fn list(contexts: &Contexts, context: &mut Context) -> Result<Exit, Failure> {
    let is_current = |name: &String| contexts.current.as_ref() == Some(name);
    let views: Vec<_> = contexts
        .contexts
        .iter()
        .map(|(name, profile)| ContextView {
            name: name.clone(),
            current: is_current(name),
            profile: profile.clone(),
        })
        .collect();
    let columns = context.output.columns();
    context.output.emit_list(&views, |page| {
        let mut table =
            Table::new(&["CURRENT", "NAME", "ADDRESS", "ENV", "TOKEN", "TLS"]).fit(columns);
        for view in &views {
            let p = &view.profile;
            let token = p.token_file.as_ref().map(|path| path.display().to_string());
            table.row([
                if view.current { "●" } else { "" },
                &view.name,
                p.address.as_deref().unwrap_or(connect::DEFAULT_ADDRESS),
                p.env.as_deref().unwrap_or(pieces::NONE),
                token.as_deref().or(p.data_dir.as_deref()).unwrap_or(pieces::NONE),
                match (&p.tls_ca, p.plaintext) {
                    (Some(_), _) => "own authority",
                    (None, true) => "plain text",
                    (None, false) => "automatic",
                },
            ]);
        }
        page.table(&table);
    })?;
    if views.is_empty() {
        context.output.say("there is no context: `agentctl context set NAME --address HOST:PORT`");
    }
    Ok(Exit::Ok)
}

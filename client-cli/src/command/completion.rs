//! `agentctl completion` and `agentctl man`: what a shell and a reader of manuals need, made from the tree of commands.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use serde::Serialize;

use super::Context;
use crate::cli::Cli;
use crate::exit::Exit;
use crate::failure::Failure;

/// Print the completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl completion bash > /etc/bash_completion.d/agentctl
  agentctl completion zsh > ~/.zfunc/_agentctl
  agentctl completion fish > ~/.config/fish/completions/agentctl.fish")]
pub struct CompletionArgs {
    /// Shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Print the manual page of a command, or write all of them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl man > agentctl.1
  agentctl man signal send | man -l -
  agentctl man --dir /usr/local/share/man/man1

Exit codes: 0 printed, 3 there is no such command.")]
pub struct ManArgs {
    /// Command [default: agentctl itself]
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write the pages of all commands into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct ScriptView {
    name: String,
    script: String,
}

#[derive(Debug, Serialize)]
struct PageView {
    name: String,
    page: String,
}

pub(super) fn completion(args: CompletionArgs, context: &mut Context) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "agentctl", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let view = ScriptView { name: args.shell.to_string(), script };
    if context.output.is_table() {
        context.output.raw(view.script.as_bytes())?;
        context.output.flush()?;
    } else {
        context.output.emit(&view, |_| {})?;
    }
    Ok(Exit::Ok)
}

pub(super) fn man(args: ManArgs, context: &mut Context) -> Result<Exit, Failure> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    if let Some(directory) = args.dir {
        return write_all(&root, directory, context);
    }
    let mut command = &root;
    for word in &args.command {
        command = command.find_subcommand(word).ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                format!("there is no command `{}`", args.command.join(" ")),
            )
            .hint("`agentctl --help` lists them")
        })?;
    }
    let view = page(command)?;
    if context.output.is_table() {
        context.output.raw(view.page.as_bytes())?;
        context.output.flush()?;
    } else {
        context.output.emit(&view, |_| {})?;
    }
    Ok(Exit::Ok)
}

fn page(command: &clap::Command) -> Result<PageView, Failure> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|error| Failure::because(Exit::Failure, "cannot make the page", &error))?;
    Ok(PageView { name, page: String::from_utf8_lossy(&page).into_owned() })
}

fn write_all(
    root: &clap::Command,
    directory: PathBuf,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let failed = |error: std::io::Error| {
        let what = format!("cannot write manual pages to `{}`", directory.display());
        Failure::because(Exit::Failure, &what, &error)
    };
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let mut written = Vec::new();
    let mut open = vec![root];
    while let Some(command) = open.pop() {
        open.extend(command.get_subcommands().filter(|sub| !sub.is_hide_set()));
        let page = page(command)?;
        let path = directory.join(format!("{}.1", page.name));
        std::fs::write(&path, page.page).map_err(failed)?;
        written.push(FileView { name: path.display().to_string() });
    }
    context.output.emit_list(&written, |page| {
        page.line(format!("✔ {} pages in {}", written.len(), directory.display()));
    })?;
    Ok(Exit::Ok)
}

#[derive(Debug, Serialize)]
struct FileView {
    name: String,
}

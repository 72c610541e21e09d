//! agentctl: the command line of agentd.
//!
//! One noun or verb per file in [`command`]; everything that is printed goes through [`output`], everything that fails
//! through [`failure`], and every way to end is in [`exit`].

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

pub mod cli;
pub mod command;
pub mod config;
pub mod connect;
pub mod demo_app;
pub mod dynamic;
pub mod exit;
pub mod failure;
pub mod output;
pub mod page;
pub mod server;
pub mod spec_file;
pub mod text;
pub mod time;
pub mod view;

use cli::{Cli, Command};
use command::Context;
use exit::Exit;
use failure::Failure;
use output::Output;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // A shim is one small process per instance: it must not pay for the tree of commands.
    let mut arguments = std::env::args_os().skip(1);
    if let (Some(command), Some(directory)) = (arguments.next(), arguments.next())
        && command == "shim"
        && !directory.as_encoded_bytes().starts_with(b"-")
    {
        return server::shim(directory.as_ref());
    }
    match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => {
            // Help and version are answers; everything else is a usage error. A closed stream changes neither.
            if !error.use_stderr() {
                let _ = error.print();
                return Exit::Ok.into();
            }
            // What was typed may come from anywhere: it is shown, never obeyed.
            let text = error.render().to_string();
            let _ = write!(std::io::stderr(), "{}", agentctl_api::text::block(&text));
            Exit::Usage.into()
        }
    }
}

/// Runs one command.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let Cli { global, command } = cli;
    let (command, threads) = match command {
        // These two are other programs that share the file: no runtime, no output of ours.
        Command::Shim(args) => return server::shim(&args.dir),
        Command::DemoApp(args) => return demo_app::run(&args),
        // A server does the work of a server.
        Command::Up(_) | Command::Demo(_) | Command::Verify(_) => (command, 2),
        other => (other, 1),
    };
    let (mut output, filter) = (Output::standard(global.settings()), filter(&global));
    let filter = match filter {
        Ok(filter) => filter,
        Err(failure) => {
            output.failure(&failure);
            return failure.exit().into();
        }
    };
    let output = output.filtered(filter).choosing(global.columns.clone());
    let mut context = Context { output, global };
    // A command that asks one thing waits most of its time: a second thread would only have to be started for it.
    let mut runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(threads).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(interruptible(command, &mut context)),
        Err(error) => Err(Failure::because(Exit::Failure, "cannot start the runtime", &error)),
    };
    match ended {
        Ok(exit) => {
            if let [first, ..] = context.output.unchosen() {
                let note = format!("! --columns: no table with a column `{first}` was shown");
                context.output.say(note);
            }
            exit.into()
        }
        Err(failure) => {
            context.output.failure(&failure);
            failure.exit().into()
        }
    }
}

/// The program of `--jq`, compiled before anything is asked for.
fn filter(global: &cli::Global) -> Result<Option<output::Filter>, Failure> {
    global.jq.as_deref().map(output::Filter::compile).transpose()
}

/// Ctrl-C ends a command with its own exit code. Those that have something to clean up see to it themselves.
async fn interruptible(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    if matches!(
        command,
        Command::Up(_) | Command::Demo(_) | Command::Monitor(_) | Command::Verify(_)
    ) {
        return command::dispatch(command, context).await;
    }
    tokio::select! {
        ended = command::dispatch(command, context) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
    }
}

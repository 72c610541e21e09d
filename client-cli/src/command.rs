//! The commands: one file per noun or verb.

use std::io::Write as _;

use crate::cli::{Command, Global};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Output};

pub mod act;
pub mod agents;
pub mod api;
pub mod app;
pub mod approval;
pub mod auth;
pub mod backtest;
pub mod bus;
pub mod completion;
pub mod config;
pub mod context;
pub mod decision;
pub mod demo;
pub mod doctor;
pub mod env;
pub mod exit_codes;
pub mod explain;
pub mod freeze;
pub mod gates;
pub mod learn;
pub mod monitor;
pub mod onboard;
pub mod pause;
pub mod policy;
pub mod proof;
pub mod replay;
pub mod scenario;
pub mod signal;
pub mod status;
pub mod top;
pub mod topics;
pub mod up;
pub mod verify;
pub mod version;
pub mod watch;

mod flags;
mod follow;
mod pieces;
mod recorded;
mod scratch;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// The printer.
    pub output: Output,
    /// The global flags.
    pub global: Global,
}

impl Context {
    /// Connects to the server the flags name.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn connect(&mut self) -> Result<Session, Failure> {
        let session = Session::open(&self.global).await?;
        let address = session.address();
        self.output.detail(format!(
            "connected to {} (from {}), token from {}",
            address.value,
            address.origin,
            session.token_origin()
        ));
        Ok(session)
    }

    /// The id of this command: the one that was given, or a fresh one.
    #[must_use]
    pub fn request_id(&self) -> String {
        self.global.request_id.clone().unwrap_or_else(request_id)
    }

    /// Asks a yes-or-no question, unless `--yes` answered it.
    ///
    /// # Errors
    /// No is [`Exit::Failure`]; a question that cannot be asked is [`Exit::Usage`] and names `flag`, which answers it.
    pub fn confirm(&mut self, question: &str, flag: &str) -> Result<(), Failure> {
        if self.global.yes {
            return Ok(());
        }
        let answer = self.ask(&format!("{question} [y/N] "), flag)?;
        if matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(Failure::new(Exit::Failure, "not confirmed, nothing was done"))
    }

    /// Asks for a line of text.
    ///
    /// # Errors
    /// A question that cannot be asked is [`Exit::Usage`] and names `flag`, which answers it.
    pub fn ask(&mut self, question: &str, flag: &str) -> Result<String, Failure> {
        if self.global.no_input || !output::can_ask() {
            return Err(Failure::usage(format!("cannot ask `{}` here", question.trim()))
                .hint(format!("add {flag}")));
        }
        let mut line = String::new();
        let mut stderr = std::io::stderr();
        stderr.write_all(crate::text::line(question).as_bytes())?;
        stderr.flush()?;
        std::io::stdin().read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

/// Work that takes long and asks nobody: Ctrl-C still ends the command.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::because(Exit::Failure, &format!("{what} broke off"), &error))?
}

/// A fresh id for a command, so that a repeat by the network is the same command.
fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Runs `command`.
///
/// # Errors
/// Why it failed, with the exit code.
pub async fn dispatch(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::Demo(args) => demo::run(args, context).await,
        Command::Up(args) => up::run(args, context).await,
        Command::Onboard(args) => onboard::run(args, context).await,
        Command::App(args) => app::run(args, context).await,
        Command::Spec(args) => app::spec::run(args, context).await,
        Command::Status(args) => status::run(args, context).await,
        Command::Watch(args) => watch::run(args, context).await,
        Command::Explain(args) => explain::run(args, context).await,
        Command::Approve(args) => approval::approve(args, context).await,
        Command::Reject(args) => approval::reject(args, context).await,
        Command::Act(args) => act::run(args, context).await,
        Command::Pause(args) => pause::run(args, context).await,
        Command::Resume(args) => pause::resume(args, context).await,
        Command::Freeze(args) => freeze::freeze(args, context).await,
        Command::Unfreeze(args) => freeze::unfreeze(args, context).await,
        Command::Approval(args) => approval::run(args, context).await,
        Command::Decision(args) => decision::run(args, context).await,
        Command::Proof(args) => proof::run(args, context).await,
        Command::Replay(args) => replay::run(args, context).await,
        Command::Scenario(args) => scenario::run(args, context).await,
        Command::Signal(args) => signal::run(args, context).await,
        Command::Agents(args) => agents::run(args, context).await,
        Command::Gates(args) => gates::run(args, context).await,
        Command::Policy(args) => policy::run(args, context).await,
        Command::Agent(args) => agents::one(args, context).await,
        Command::Api(args) => api::run(args, context).await,
        Command::Auth(args) => auth::run(args, context).await,
        Command::Backtest(args) => backtest::run(args, context).await,
        Command::Bus(args) => bus::run(args, context).await,
        Command::Completion(args) => completion::completion(args, context),
        Command::Config(args) => config::run(args, context),
        Command::Context(args) => context::run(args, context),
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Env(args) => env::run(args, context).await,
        Command::Learn(args) => learn::run(args, context).await,
        Command::Man(args) => completion::man(args, context),
        Command::Monitor(args) => monitor::run(args, context).await,
        Command::Top(args) => top::run(args, context).await,
        Command::Verify(args) => verify::run(args, context).await,
        Command::Version(args) => version::run(args, context).await,
        Command::ExitCodes(_) => exit_codes::run(context),
        Command::Environment(_) => topics::environment(context),
        Command::Output(_) => topics::output(context),
        // Handled before there is a runtime.
        Command::Shim(_) | Command::DemoApp(_) => Ok(Exit::Ok),
    }
}

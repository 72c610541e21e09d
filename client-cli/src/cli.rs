//! The tree of commands and the flags all of them take.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};

use crate::command;
use crate::exit::Exit;
use crate::output::{Color, Format, Settings};
use crate::time::{Span, TimeStyle};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  agentctl demo                                    real processes crash, heal, and prove it
  agentctl up                                      a local server with embedded defaults
  agentctl onboard my-api --runtime python --exec /usr/bin/python3 -- /srv/my-api/main.py
  agentctl watch my-api                            decisions as they are made
  agentctl explain --last my-api                   why
  agentctl pause --reason \"INC-481\"                stop every new effect";

fn details() -> String {
    format!(
        "{}\nEnvironment:\n  \
         AGENTCTL_ADDRESS   address of the server, where --address does not say\n  \
         AGENTCTL_TOKEN     token, where --token and --token-file do not say\n  \
         AGENTCTL_CONTEXT   context, where --context does not say\n  \
         AGENTCTL_CONFIG    file of contexts, where it is not ~/.config/agentctl/agentctl.toml\n  \
         AGENTCTL_READ_ONLY change nothing, as --read-only\n  \
         AGENTD_DATA_DIR    data directory of a server on this host, where --data-dir does not say\n  \
         NO_COLOR, CLICOLOR, CLICOLOR_FORCE",
        Exit::table()
    )
}

/// Keeps applications healthy and proves everything it did and did not do.
#[derive(Debug, Parser)]
#[command(
    name = "agentctl",
    version,
    styles = STYLES,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{}", details()),
    max_term_width = 100
)]
pub struct Cli {
    /// Flags every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Format of the data on stdout
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "AGENTCTL_OUTPUT",
        hide_env = true
    )]
    pub output: Format,
    /// Server: HOST:PORT or https://HOST:PORT [default: AGENTCTL_ADDRESS, context, 127.0.0.1:7443]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub address: Option<String>,
    /// Context of the configuration file [default: AGENTCTL_CONTEXT, then the current one]
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub context: Option<String>,
    /// Refuse to run against a server of another environment
    #[arg(short, long, global = true, value_name = "ENV")]
    pub env: Option<String>,
    /// Token; other users of this host can see it, --token-file is safer
    #[arg(long, global = true, value_name = "TOKEN", hide_short_help = true)]
    pub token: Option<String>,
    /// File with a token, or a server's tokens.toml
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Principal of tokens.toml to act as [default: local]
    #[arg(long = "as", global = true, value_name = "NAME", hide_short_help = true)]
    pub principal: Option<String>,
    /// Data directory of a server on this host
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Certificate authority of the server, PEM; implies TLS
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub tls_ca: Option<PathBuf>,
    /// Talk plain text to a server on another host
    #[arg(long, global = true, conflicts_with = "tls_ca", hide_short_help = true)]
    pub plaintext: bool,
    /// UUID of this command: the same one again returns the first answer
    #[arg(long, global = true, value_name = "UUID", hide_short_help = true)]
    pub request_id: Option<String>,
    /// Columns of the table, such as app,health
    #[arg(
        long,
        global = true,
        value_name = "NAMES",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub columns: Vec<String>,
    /// Send the JSON of the answer through a jq program
    #[arg(
        long,
        global = true,
        value_name = "PROGRAM",
        conflicts_with = "columns",
        hide_short_help = true
    )]
    pub jq: Option<String>,
    /// Longest time to wait, such as 30s or 2m
    #[arg(long, global = true, value_name = "TIME")]
    pub timeout: Option<Span>,
    /// Change nothing: the server refuses every call that might
    #[arg(long, global = true, env = "AGENTCTL_READ_ONLY", hide_env = true, hide_short_help = true,
        value_parser = clap::builder::FalseyValueParser::new())]
    pub read_only: bool,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Never ask; fail and name the flag instead
    #[arg(long, global = true, hide_short_help = true)]
    pub no_input: bool,
    /// Colour
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_short_help = true
    )]
    pub color: Color,
    /// Times in tables
    #[arg(long, global = true, value_enum, value_name = "STYLE", hide_short_help = true)]
    pub time: Option<TimeStyle>,
    /// No notes on stderr, only data and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// More notes on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

impl Global {
    /// What they say about output.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        Settings {
            format: self.output,
            color: self.color,
            time: self.time,
            quiet: self.quiet,
            verbose: self.verbose,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the doc comment of each command's arguments is its help")]
pub enum Command {
    Demo(command::demo::DemoArgs),
    Up(command::up::UpArgs),
    Onboard(command::onboard::OnboardArgs),
    App(command::app::AppArgs),
    Spec(command::app::spec::SpecArgs),
    Status(command::status::StatusArgs),
    Watch(command::watch::WatchArgs),
    Top(command::top::TopArgs),
    Explain(command::explain::ExplainArgs),
    Approve(command::approval::ApproveArgs),
    Reject(command::approval::RejectArgs),
    Act(command::act::ActArgs),
    Pause(command::pause::PauseArgs),
    Resume(command::pause::ResumeArgs),
    Freeze(command::freeze::FreezeArgs),
    Unfreeze(command::freeze::UnfreezeArgs),
    Approval(command::approval::ApprovalArgs),
    Decision(command::decision::DecisionArgs),
    Proof(command::proof::ProofArgs),
    Scenario(command::scenario::ScenarioArgs),
    Verify(command::verify::VerifyArgs),
    Backtest(command::backtest::BacktestArgs),
    Replay(command::replay::ReplayArgs),
    Learn(command::learn::LearnArgs),
    Signal(command::signal::SignalArgs),
    Agents(command::agents::AgentsArgs),
    Agent(command::agents::AgentArgs),
    Monitor(command::monitor::MonitorArgs),
    #[command(visible_alias = "queue")]
    Bus(command::bus::BusArgs),
    Env(command::env::EnvArgs),
    Doctor(command::doctor::DoctorArgs),
    Auth(command::auth::AuthArgs),
    Context(command::context::ContextArgs),
    Config(command::config::ConfigArgs),
    Api(command::api::ApiArgs),
    Gates(command::gates::GatesArgs),
    Policy(command::policy::PolicyArgs),
    #[command(name = "exit-codes")]
    ExitCodes(command::exit_codes::ExitCodesArgs),
    Completion(command::completion::CompletionArgs),
    Man(command::completion::ManArgs),
    Version(command::version::VersionArgs),
    #[command(hide = true)]
    Environment(command::topics::EnvironmentArgs),
    #[command(hide = true)]
    Output(command::topics::OutputArgs),
    #[command(hide = true)]
    Shim(ShimArgs),
    #[command(hide = true, name = "demo-app")]
    DemoApp(crate::demo_app::DemoAppArgs),
}

/// Parent of one app process; agentd starts it by itself
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentctl shim /var/lib/agentd/apps/my-api/0")]
pub struct ShimArgs {
    /// Directory of the instance
    pub dir: PathBuf,
}

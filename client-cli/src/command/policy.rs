//! `agentctl policy get`: the rules in force.

use agentctl_api::v1;
use clap::{Args, Subcommand};

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::agent::PolicyView;

/// Show the human's rules
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentctl policy get\n  agentctl policy get > stage.toml")]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Print the policy in force, ready to be edited
    #[command(after_help = "\
Examples:
  agentctl policy get
  agentctl policy get > stage.toml           then: agentctl up --policy stage.toml
  agentctl policy get -o json | jq -r .digest")]
    Get,
}

pub(super) async fn run(args: PolicyArgs, context: &mut Context) -> Result<Exit, Failure> {
    let PolicyCommand::Get = args.command;
    let session = context.connect().await?;
    let answer = session.agent().get_policy(session.unary(v1::GetPolicyRequest {})).await;
    let policy = answer.map_err(|s| session.failure(s))?.into_inner();
    context.output.say(format!("policy {} from {}", policy.digest, policy.origin));
    context.output.emit(&PolicyView::from(&policy), |page| page.block(&policy.text))?;
    Ok(Exit::Ok)
}

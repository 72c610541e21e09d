//! `agentctl agents` and `agentctl agent`: the parts of the server and how they do.

use agentctl_api::v1;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Context, pieces};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Table;
use crate::time::{self, TimeStyle};
use crate::view::agent::ComponentView;

/// List the parts of the server and how they do
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl agents
  agentctl agents -o json | jq '.[] | select(.healthy | not)'")]
pub struct AgentsArgs {}

/// Show the agent, its parts and its state
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl agent list
  agentctl agent get auto_heal
  agentctl agent state")]
pub struct AgentArgs {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// List the parts of the server, as `agentctl agents` does
    #[command(after_help = "Examples:\n  agentctl agent list\n  agentctl agent list -o name")]
    List,
    /// Show one part
    #[command(after_help = "\
Examples:
  agentctl agent get queue_monitor

Exit codes: 0 it works, 1 it does not, 3 there is no such part.")]
    Get {
        /// Part, as `agentctl agents` lists it
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Show what the loop does, and how often it was in each of its states
    #[command(after_help = "\
Examples:
  agentctl agent state
  agentctl agent state -o json | jq -r .state")]
    State,
}

/// The loop.
#[derive(Debug, Serialize)]
struct StateView {
    agent_id: String,
    environment: String,
    state: String,
    loop_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_seconds: Option<f64>,
    state_counts: std::collections::BTreeMap<String, u64>,
    ruling_counts: std::collections::BTreeMap<String, u64>,
}

/// Runs `agentctl agent`.
pub(super) async fn one(args: AgentArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        AgentCommand::List => run(AgentsArgs {}, context).await,
        AgentCommand::Get { name } => {
            let status = status(context).await?;
            let part = status.components.iter().find(|part| part.name == name);
            let Some(part) = part else {
                let known: Vec<_> = status.components.iter().map(|c| c.name.as_str()).collect();
                return Err(Failure::new(Exit::NotFound, format!("there is no part `{name}`"))
                    .hint(format!("there are: {}", known.join(", "))));
            };
            let healthy = if part.healthy { "● healthy" } else { "✖ unhealthy" };
            context.output.emit(&ComponentView::from(part), |page| {
                page.line(format!("{}  {healthy}", part.name));
                page.line(&part.detail);
            })?;
            Ok(if part.healthy { Exit::Ok } else { Exit::Failure })
        }
        AgentCommand::State => {
            let status = status(context).await?;
            let view = StateView {
                agent_id: status.agent_id.clone(),
                environment: status.environment.clone(),
                state: crate::view::agent_state(status.state),
                loop_count: status.loop_count,
                uptime_seconds: time::seconds(status.uptime.as_ref()),
                state_counts: status.state_counts.clone(),
                ruling_counts: status.ruling_counts,
            };
            context.output.emit(&view, |page| {
                page.line(format!("{} {} in {}", view.agent_id, view.state, view.environment));
                let mut table = Table::new(&["STATE", "TIMES"]).right(&[1]);
                for (state, count) in &view.state_counts {
                    table.row([state.as_str(), &count.to_string()]);
                }
                page.table(&table);
            })?;
            Ok(Exit::Ok)
        }
    }
}

async fn status(context: &mut Context) -> Result<v1::AgentStatus, Failure> {
    let session = context.connect().await?;
    let answer = session.agent().get_status(session.unary(v1::GetStatusRequest {})).await;
    Ok(answer.map_err(|s| session.failure(s))?.into_inner().status.unwrap_or_default())
}

pub(super) async fn run(_args: AgentsArgs, context: &mut Context) -> Result<Exit, Failure> {
    let status = status(context).await?;
    let views: Vec<_> = status.components.iter().map(ComponentView::from).collect();
    let style = context.output.settings().time;
    let columns = context.output.columns();
    context.output.emit_list(&views, |page| {
        let now = time::now();
        let mut table = Table::new(&["AGENT", "HEALTH", "LAST ACTIVE", "DETAIL"]).fit(columns);
        for c in &status.components {
            table.row([
                c.name.as_str(),
                if c.healthy { "● healthy" } else { "✖ unhealthy" },
                &pieces::moment(c.last_active_time.as_ref(), style, TimeStyle::Relative, now),
                &c.detail,
            ]);
        }
        page.table(&table);
    })?;
    Ok(Exit::Ok)
}

//! `agentctl decision list|get`: decisions of the past.

use agentctl_api::v1;
use clap::{Args, Subcommand};

use super::follow::Since;
use super::watch::{self, RulingArg};
use super::{Context, explain, pieces};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::time::{self, TimeStyle};
use crate::view::decision::DecisionView;

/// List and show past decisions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl decision list --app my-api --ruling refused
  agentctl decision get dec-1077 -o json")]
pub struct DecisionArgs {
    #[command(subcommand)]
    command: DecisionCommand,
}

#[derive(Debug, Subcommand)]
enum DecisionCommand {
    /// List decisions, newest first
    #[command(after_help = "\
Examples:
  agentctl decision list --since 1h
  agentctl decision list --app my-api --action restart --limit 20
  agentctl decision list --reason COOLDOWN_ACTIVE -o jsonl | jq -r .id")]
    List(ListArgs),
    /// Show one decision with all verdicts
    #[command(after_help = "Examples:\n  agentctl decision get dec-1077")]
    Get(GetArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only these apps
    #[arg(long, value_name = "APP")]
    app: Vec<String>,
    /// Only these actions
    #[arg(long, value_name = "ACTION")]
    action: Vec<String>,
    /// Only these rulings
    #[arg(long, value_enum)]
    ruling: Vec<RulingArg>,
    /// Only these reason codes
    #[arg(long, value_name = "CODE")]
    reason: Vec<String>,
    /// From then on: a duration such as 1h, or an RFC 3339 time
    #[arg(long, value_name = "START")]
    since: Option<Since>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,
    /// Read the whole log instead of asking the index where to look
    #[arg(long)]
    exhaustive: bool,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// Decision (dec-…)
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) async fn run(args: DecisionArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        DecisionCommand::List(args) => list(args, context).await,
        DecisionCommand::Get(args) => get(&args.id, context).await,
    }
}

async fn list(args: ListArgs, context: &mut Context) -> Result<Exit, Failure> {
    let start_time = match &args.since {
        None => None,
        Some(since) => Some(since.start_time().ok_or_else(|| {
            Failure::usage("--since of a list is a duration or a time")
                .hint("`agentctl watch --since` takes sequence numbers and cursors")
        })?),
    };
    let session = context.connect().await?;
    let filter = watch::filter(&args.app, &args.action, &args.reason, &args.ruling);
    let request = v1::ListDecisionsRequest {
        page_size: args.limit,
        page_token: String::new(),
        filter: Some(v1::DecisionFilter { start_time, ..filter }),
        summary_only: false,
        exhaustive: args.exhaustive,
    };
    let answer = session.decisions().list_decisions(session.unary(request)).await;
    let response = answer.map_err(|s| session.failure(s))?.into_inner();
    let views: Vec<_> = response.decisions.iter().map(DecisionView::from).collect();
    let style = context.output.settings().time;
    context.output.emit_list(&views, |page| list_page(page, &response.decisions, style))?;
    if !response.next_page_token.is_empty() {
        context.output.say(format!("there are more than {}; --limit shows up to 1000", args.limit));
    }
    Ok(Exit::Ok)
}

fn list_page(page: &mut Page, decisions: &[v1::Decision], style: Option<TimeStyle>) {
    if decisions.is_empty() {
        page.line("no decisions match");
        return;
    }
    let now = time::now();
    let mut table = Table::new(&[
        "TIME UTC", "APP", "SIGNAL", "DECISION", "CONF", "GATES", "OUTCOME", "DETAIL", "ID",
    ]);
    for d in decisions {
        table.row([
            pieces::row_time(d.time.as_ref(), style, now),
            d.app.clone(),
            pieces::findings(d),
            pieces::action(&d.action),
            format!("{:.2}", d.confidence),
            pieces::gate_strip(&d.verdicts),
            pieces::result(d),
            pieces::because(d, now),
            d.id.clone(),
        ]);
    }
    page.table(&table);
}

async fn get(id: &str, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let request = session.unary(v1::GetDecisionRequest { decision_id: id.to_owned() });
    let answer = session.decisions().get_decision(request).await;
    let decision =
        answer.map_err(|s| session.failure(s))?.into_inner().decision.unwrap_or_default();
    let (style, columns) = (context.output.settings().time, context.output.columns());
    context.output.emit(&DecisionView::from(&decision), |page| {
        explain::decision_page(page, &decision, style, columns);
    })?;
    Ok(Exit::Ok)
}

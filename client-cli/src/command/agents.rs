//! `agentctl agents`: the parts of the server and how they do.

use agentctl_api::v1;
use clap::Args;

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

pub(super) async fn run(_args: AgentsArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let answer = session.agent().get_status(session.unary(v1::GetStatusRequest {})).await;
    let status = answer.map_err(|s| session.failure(s))?.into_inner().status.unwrap_or_default();
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

//! `agentctl gates`: the catalogue of gates.

use agentctl_api::v1;
use clap::Args;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Table;
use crate::view::agent::GateView;

/// List the gates every decision goes through
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl gates
  agentctl gates -o json | jq -r '.[].reasons[].code'
  agentctl explain COOLDOWN_ACTIVE           what one reason code means")]
pub struct GatesArgs {}

pub(super) async fn run(_args: GatesArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let answer = session.agent().list_gates(session.unary(v1::ListGatesRequest {})).await;
    let gates = answer.map_err(|s| session.failure(s))?.into_inner().gates;
    let views: Vec<_> = gates.iter().map(GateView::from).collect();
    let columns = context.output.columns();
    context.output.emit_list(&views, |page| {
        let mut table = Table::new(&["GROUP", "GATE", "KEEPS FROM", "REASON CODES"]).fit(columns);
        for (gate, view) in gates.iter().zip(&views) {
            let codes: Vec<_> = view.reasons.iter().map(|reason| reason.code.as_str()).collect();
            let group = format!("{} {}", gate.group, view.group.replace('_', " "));
            table.row([group.as_str(), &view.id, &view.summary, &codes.join(" ")]);
        }
        page.table(&table);
        page.line("all of them judge every proposal; the most restrictive one wins");
    })?;
    Ok(Exit::Ok)
}

//! `agentctl freeze` and `agentctl unfreeze`: whether the agent learns.

use agentctl_api::v1;
use clap::Args;

use super::{Context, pause};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::agent::{ModeChangeView, ModeView};

/// Stop learning and exploration: the same scenario gives the same decision
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentctl freeze --reason \"audit week\"")]
pub struct FreezeArgs {
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Let learning go on
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentctl unfreeze --reason \"audit is over\"")]
pub struct UnfreezeArgs {
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn freeze(args: FreezeArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let request = v1::FreezeRequest { reason: args.reason, request_id: context.request_id() };
    let answer = session.agent().freeze(session.unary(request)).await;
    let response = answer.map_err(|s| session.failure(s))?.into_inner();
    let mode = response.mode.as_ref().map(ModeView::from);
    let view = ModeChangeView { mode, lifted: vec![], remaining: vec![], seq: response.seq };
    let style = context.output.settings().time;
    context.output.emit(&view, |page| {
        pause::in_force(page, response.mode.as_ref(), response.seq, style);
    })?;
    Ok(Exit::Ok)
}

pub(super) async fn unfreeze(args: UnfreezeArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let request = v1::UnfreezeRequest { reason: args.reason, request_id: context.request_id() };
    let answer = session.agent().unfreeze(session.unary(request)).await;
    let response = answer.map_err(|s| session.failure(s))?.into_inner();
    pause::lifted(context, &[], &response.remaining, response.seq)
}

//! `agentctl learn import|promote|reset`: what humans do with what the agent has learned.

use std::path::PathBuf;
use std::time::Duration;

use agentctl_api::v1;
use clap::Args;
use serde::Serialize;

use super::super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Page;
use crate::view::approval::ApprovalView;

/// Reading a long log through takes a while.
const JUDGING: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Snapshot, as `agentctl learn export` writes it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// It is of another environment: a fifth of its weight counts, and its values not at all
    #[arg(long)]
    weak_prior: bool,
    /// Only check it, nothing is changed
    #[arg(long)]
    dry_run: bool,
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    /// Digest of the candidate you mean; another one is refused [default: whatever it is]
    #[arg(long, value_name = "DIGEST")]
    candidate: Option<String>,
    /// Only judge it, nobody is asked
    #[arg(long)]
    dry_run: bool,
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Args)]
pub(super) struct ResetArgs {
    /// In prod: what is in force, instead of the candidate
    #[arg(long)]
    acting: bool,
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Serialize)]
struct ImportView {
    seq: Option<u64>,
    digest: String,
    candidate: bool,
    from_environment: String,
    weak_prior: bool,
}

pub(super) async fn import(args: ImportArgs, context: &mut Context) -> Result<Exit, Failure> {
    let snapshot = super::text_of(&args.file)?;
    let session = context.connect().await?;
    let request = v1::ImportLearningRequest {
        request_id: context.request_id(),
        validate_only: args.dry_run,
        snapshot,
        weak_prior: args.weak_prior,
        reason: args.reason,
    };
    let answer = session.learning().import_learning(session.unary(request)).await;
    let answer = answer.map_err(|s| session.failure(s))?.into_inner();
    let seq = (answer.seq != 0).then_some(answer.seq);
    let view = ImportView {
        seq,
        digest: answer.digest,
        candidate: answer.candidate,
        from_environment: answer.from_environment,
        weak_prior: answer.weak_prior,
    };
    context.output.emit(&view, |page| {
        let into = if view.candidate { "the candidate" } else { "what is in force" };
        match seq {
            None if args.dry_run => page.line("✔ VALID   it can be taken in"),
            None => page.line("○ UNCHANGED   everything in it was known"),
            Some(seq) => {
                page.line(format!("✔ TAKEN IN   into {into}, now {}   proof #{seq}", view.digest));
            }
        }
        if view.weak_prior {
            let from = &view.from_environment;
            page.line(format!("  as a weak prior: it was learned in {from}, and a fifth counts"));
        }
    })?;
    Ok(Exit::Ok)
}

#[derive(Debug, Serialize)]
struct PromoteView {
    backtest: BacktestView,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<ApprovalView>,
}

#[derive(Debug, Serialize)]
struct BacktestView {
    digest: String,
    candidate_digest: String,
    upto_seq: u64,
    differing: u64,
    situations: u64,
    outcomes: u64,
    difference: f64,
    difference_low: f64,
    difference_high: f64,
    verdict: String,
}

impl From<v1::Backtest> for BacktestView {
    fn from(backtest: v1::Backtest) -> Self {
        Self {
            digest: backtest.digest,
            candidate_digest: backtest.candidate_digest,
            upto_seq: backtest.upto_seq,
            differing: backtest.differing,
            situations: backtest.situations,
            outcomes: backtest.outcomes,
            difference: backtest.difference,
            difference_low: backtest.difference_low,
            difference_high: backtest.difference_high,
            verdict: backtest.verdict,
        }
    }
}

pub(super) async fn promote(args: PromoteArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let message = v1::PromoteLearningRequest {
        request_id: context.request_id(),
        validate_only: args.dry_run,
        candidate_digest: args.candidate.unwrap_or_default(),
        reason: args.reason,
    };
    let mut request = session.unary(message);
    request.set_timeout(context.global.timeout.map_or(JUDGING, |span| span.0));
    let answer = session.learning().promote_learning(request).await;
    let answer = answer.map_err(|s| session.failure(s))?.into_inner();
    let view = PromoteView {
        backtest: answer.backtest.unwrap_or_default().into(),
        approval: answer.approval.as_ref().map(ApprovalView::from),
    };
    context.output.emit(&view, |page| {
        backtest_page(page, &view.backtest);
        if let Some(approval) = &answer.approval {
            page.line(format!("◷ WAITS FOR A HUMAN   {}", approval.id));
            page.line(format!("  agentctl approve {} --reason TEXT", approval.id));
        }
    })?;
    Ok(Exit::Ok)
}

fn backtest_page(page: &mut Page, backtest: &BacktestView) {
    let BacktestView { verdict, situations, outcomes, difference, .. } = backtest;
    let (low, high) = (backtest.difference_low, backtest.difference_high);
    page.line(format!("candidate {}: {verdict}", backtest.candidate_digest));
    page.line(format!(
        "  {difference:+.3} ({low:+.3}..{high:+.3}) per decision, over {situations} situations \
         and {outcomes} outcomes"
    ));
}

#[derive(Debug, Serialize)]
struct ResetView {
    seq: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
}

pub(super) async fn reset(args: ResetArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    context.confirm("forget what was learned?", "--yes")?;
    let request = v1::ResetLearningRequest {
        request_id: context.request_id(),
        acting: args.acting,
        reason: args.reason,
    };
    let answer = session.learning().reset_learning(session.unary(request)).await;
    let v1::ResetLearningResponse { seq, digest } =
        answer.map_err(|s| session.failure(s))?.into_inner();
    let view = ResetView { seq: (seq != 0).then_some(seq), digest };
    context.output.emit(&view, |page| match view.seq {
        None => page.line("○ UNCHANGED   there was nothing to forget"),
        Some(seq) => page.line(format!("✔ FORGOTTEN   {}   proof #{seq}", view.digest)),
    })?;
    Ok(Exit::Ok)
}

//! `agentctl app offboard`: stops an app and lets it go.

use agentctl_api::v1;
use clap::Args;

use super::super::Context;
use super::{WAIT, exit_of, fetch, ruling_page, verified, wait_outcome};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::decision::DecisionView;

/// Stop an app and let it go: its records stay, its name is free
///
/// Judged by the gates like everything else; in prod a second person approves. Instances are stopped one at a time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl app offboard my-api --reason \"moved to another host\"
  agentctl app offboard my-api --reason INC-481 --yes --wait
  agentctl app offboard my-api --reason drill --dry-run     what the gates would say

Exit codes: 0 permitted, 5 refused, 6 waits for an approval, 7 changed meanwhile.")]
pub(super) struct OffboardArgs {
    /// App
    #[arg(value_name = "APP")]
    name: String,
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The app as it was read; fails if somebody changed it since [default: as it is asked about]
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
    /// Judge and answer; nothing is recorded or done
    #[arg(long)]
    dry_run: bool,
    /// Wait until every instance is stopped
    #[arg(long)]
    wait: bool,
    /// UUID: the same one again returns the first answer
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
}

pub(super) async fn run(args: OffboardArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let mut etag = args.etag;
    // A repeat of an earlier request may be about an app that is gone by now.
    if !args.dry_run && !context.global.yes {
        let (app, _) = fetch(&session, &args.name).await?;
        let question = format!(
            "stop {} instances of `{}` ({}) and let it go?",
            app.desired_instances, app.name, app.environment
        );
        context.confirm(&question, "--yes")?;
        // What was agreed to is what is done.
        etag = etag.or(Some(app.etag));
    }
    let request = v1::OffboardAppRequest {
        request_id: args.request_id.unwrap_or_else(super::super::request_id),
        validate_only: args.dry_run,
        name: args.name,
        reason: args.reason,
        etag: etag.unwrap_or_default(),
    };
    let answer = session.onboarding().offboard_app(session.unary(request)).await;
    let mut decision =
        answer.map_err(|s| session.failure(s))?.into_inner().decision.unwrap_or_default();
    let exit = exit_of(Some(&decision));
    if args.wait && exit == Exit::Ok && !args.dry_run {
        let limit = context.global.timeout.map_or(WAIT, |span| span.0);
        decision = wait_outcome(&session, &decision.id, limit).await?;
        verified(&decision)?;
    }
    let what = match (exit, decision.outcome.is_some()) {
        (Exit::Ok, _) if args.dry_run => "WOULD BE OFFBOARDED",
        (Exit::Ok, true) => "OFFBOARDED",
        (Exit::Ok, false) => "OFFBOARDING",
        (Exit::Approval, _) => "OFFBOARDING HELD",
        _ => "OFFBOARDING REFUSED",
    };
    context.output.emit(&DecisionView::from(&decision), |page| {
        ruling_page(page, what, &decision, args.dry_run);
    })?;
    Ok(exit)
}

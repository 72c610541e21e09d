//! `agentctl act`: a human asks for an action, through the same gates as the agent.

use agentctl_api::v1;
use clap::Args;

use super::{Context, flags, pieces};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Page;
use crate::time;
use crate::view::decision::DecisionView;

/// Ask for an action; the gates judge it like the agent's own proposals
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl act my-api restart --reason \"stuck after the migration\"
  agentctl act my-api scale_up --param instances=4 --reason \"campaign at noon\"
  agentctl act my-api rollback --reason INC-481 --dry-run     what the gates would say

Exit codes: 0 permitted, 5 refused, 6 waits for an approval.")]
pub struct ActArgs {
    /// App
    #[arg(value_name = "APP")]
    app: String,
    /// Action: restart, scale_up, scale_down, retry_deployment, adjust_thresholds, rollback, observe, noop, escalate
    #[arg(value_name = "ACTION")]
    action: String,
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Parameter of the action
    #[arg(long, value_name = "K=V", value_parser = flags::pair)]
    param: Vec<(String, String)>,
    /// Judge and answer; nothing is recorded or done
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: ActArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let request = v1::ProposeActionRequest {
        request_id: context.request_id(),
        validate_only: args.dry_run,
        app: args.app,
        action: args.action,
        parameters: args.param.into_iter().collect(),
        reason: args.reason,
    };
    let answer = session.decisions().propose_action(session.unary(request)).await;
    let decision =
        answer.map_err(|s| session.failure(s))?.into_inner().decision.unwrap_or_default();
    context.output.emit(&DecisionView::from(&decision), |page| {
        decision_page(page, &decision, args.dry_run);
    })?;
    Ok(exit_of(&decision))
}

/// The exit code for a ruling.
pub(super) fn exit_of(decision: &v1::Decision) -> Exit {
    match decision.ruling() {
        v1::Ruling::Permitted => Exit::Ok,
        v1::Ruling::Held => Exit::Approval,
        v1::Ruling::Refused | v1::Ruling::Unspecified => Exit::Refused,
    }
}

fn decision_page(page: &mut Page, decision: &v1::Decision, dry_run: bool) {
    page.line(format!(
        "{}   {} {}   gates {}   {}",
        pieces::result(decision),
        pieces::action(&decision.action),
        decision.app,
        pieces::gate_strip(&decision.verdicts),
        pieces::because(decision, time::now()),
    ));
    if !decision.approval_id.is_empty() {
        page.line(format!("another person approves: agentctl approve {}", decision.approval_id));
    }
    if dry_run {
        page.line("dry run: nothing was recorded or done");
    } else {
        page.line(format!("proof #{}   agentctl explain {}", decision.seq, decision.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ruling_becomes_an_exit_code() {
        let with =
            |ruling: v1::Ruling| v1::Decision { ruling: ruling.into(), ..Default::default() };
        assert_eq!(exit_of(&with(v1::Ruling::Permitted)), Exit::Ok);
        assert_eq!(exit_of(&with(v1::Ruling::Held)), Exit::Approval);
        assert_eq!(exit_of(&with(v1::Ruling::Refused)), Exit::Refused);
        // What cannot be understood is refused.
        assert_eq!(exit_of(&v1::Decision::default()), Exit::Refused);
    }
}

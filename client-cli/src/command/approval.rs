//! `agentctl approval list|get`, `agentctl approve`, `agentctl reject`: what the agent may not do alone.

use std::time::Duration;

use agentctl_api::v1;
use clap::{Args, Subcommand};
use v1::ApprovalState;

use super::{Context, pieces};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::text;
use crate::time::{self, TimeStyle};
use crate::view::approval::ApprovalView;

/// Time to wait for the outcome, where the command line does not say.
const WAIT: Duration = Duration::from_secs(120);

/// List and show what waits for a human
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl approval list
  agentctl approval get apr-1077")]
pub struct ApprovalArgs {
    #[command(subcommand)]
    command: ApprovalCommand,
}

#[derive(Debug, Subcommand)]
enum ApprovalCommand {
    /// List approvals: those that wait, unless asked for more
    #[command(after_help = "\
Examples:
  agentctl approval list
  agentctl approval list --all
  agentctl approval list --app my-api -o jsonl | jq -r .id")]
    List(ListArgs),
    /// Show one approval with the exact plan
    #[command(after_help = "Examples:\n  agentctl approval get apr-1077")]
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
    /// Also those that are decided or over
    #[arg(long)]
    all: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// Approval (apr-…)
    #[arg(value_name = "ID")]
    id: String,
}

/// Approve exactly one plan
///
/// The plan is shown first and the approval is bound to its digest. The gates judge once more before it runs. Whoever asked
/// for it cannot approve it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl approve apr-1077 --reason \"v7 leaks connections, INC-481\"
  agentctl approve apr-1077 --reason INC-481 --digest sha256:4be1…    bound to the plan you read
  agentctl approve apr-1077 --reason INC-481 --yes --wait    for scripts

Exit codes: 0 approved, 5 refused by the gates, 6 expired, 7 the plan changed.")]
pub struct ApproveArgs {
    /// Approval (apr-…)
    #[arg(value_name = "ID")]
    id: String,
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Digest of the plan you read; another plan is refused
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    /// Wait for the outcome
    #[arg(long)]
    wait: bool,
}

/// Say no to a plan
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl reject apr-1077 --reason \"the cause is the database, not v7\"")]
pub struct RejectArgs {
    /// Approval (apr-…)
    #[arg(value_name = "ID")]
    id: String,
    /// Why; goes into the record and the lesson
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) async fn run(args: ApprovalArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        ApprovalCommand::List(args) => list(args, context).await,
        ApprovalCommand::Get(args) => {
            let session = context.connect().await?;
            let approval = get(&session, &args.id).await?;
            let style = context.output.settings().time;
            context.output.emit(&ApprovalView::from(&approval), |page| {
                approval_page(page, &approval, style);
            })?;
            Ok(Exit::Ok)
        }
    }
}

async fn list(args: ListArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let states = if args.all {
        (1..=10).filter(|state| ApprovalState::try_from(*state).is_ok()).collect()
    } else {
        Vec::new()
    };
    let approvals = pending(
        &session,
        v1::ApprovalFilter {
            states,
            apps: args.app,
            actions: args.action.iter().map(|action| action.to_ascii_uppercase()).collect(),
        },
        args.limit,
    )
    .await?;
    let views: Vec<_> = approvals.iter().map(ApprovalView::from).collect();
    let style = context.output.settings().time;
    context.output.emit_list(&views, |page| list_page(page, &approvals, args.all, style))?;
    Ok(Exit::Ok)
}

/// Approvals by filter, newest first, at most `limit`.
pub(super) async fn pending(
    session: &Session,
    filter: v1::ApprovalFilter,
    limit: i32,
) -> Result<Vec<v1::Approval>, Failure> {
    let request = v1::ListApprovalsRequest {
        page_size: limit,
        page_token: String::new(),
        filter: Some(filter),
    };
    let answer = session.approvals().list_approvals(session.unary(request)).await;
    Ok(answer.map_err(|s| session.failure(s))?.into_inner().approvals)
}

async fn get(session: &Session, id: &str) -> Result<v1::Approval, Failure> {
    let request = session.unary(v1::GetApprovalRequest { approval_id: id.to_owned() });
    let answer = session.approvals().get_approval(request).await;
    Ok(answer.map_err(|s| session.failure(s))?.into_inner().approval.unwrap_or_default())
}

fn list_page(page: &mut Page, approvals: &[v1::Approval], all: bool, style: Option<TimeStyle>) {
    if approvals.is_empty() {
        page.line(if all { "no approvals yet" } else { "nothing waits for a human" });
        return;
    }
    let now = time::now();
    let mut table = Table::new(&[
        "ID",
        "STATE",
        "APP",
        "ACTION",
        "FROM → TO",
        "RISK",
        "REQUESTED BY",
        "EXPIRES",
        "WHY",
    ]);
    for approval in approvals {
        let plan = approval.plan.as_ref();
        let expires = if approval.state() == ApprovalState::Pending {
            pieces::moment(approval.expire_time.as_ref(), style, TimeStyle::Relative, now)
        } else {
            pieces::NONE.to_owned()
        };
        table.row([
            approval.id.clone(),
            pieces::approval_state(approval.state),
            approval.app.clone(),
            plan.map_or_else(|| pieces::NONE.to_owned(), |plan| pieces::action(&plan.action)),
            pieces::from_to(plan),
            plan.map_or_else(|| pieces::NONE.to_owned(), |plan| plan.risk.clone()),
            approval.requested_by.clone(),
            expires,
            approval.summary.clone(),
        ]);
    }
    page.table(&table);
}

fn approval_page(page: &mut Page, approval: &v1::Approval, style: Option<TimeStyle>) {
    let now = time::now();
    page.header(format!("{}   {}", approval.id, pieces::approval_state(approval.state)));
    let mut facts = vec![("app", approval.app.clone())];
    if let Some(plan) = &approval.plan {
        facts.push(("action", pieces::action(&plan.action)));
        facts.push(("from → to", pieces::from_to(Some(plan))));
        if !plan.parameters.is_empty() {
            facts.push(("parameters", pieces::parameters(&plan.parameters)));
        }
        facts.push(("targets", plan.targets.join(", ")));
        facts.push(("risk", plan.risk.clone()));
        if !plan.inverse_action.is_empty() {
            facts.push(("undone by", pieces::action(&plan.inverse_action)));
        }
        facts.push(("plan", plan.digest.clone()));
    }
    facts.push(("why", approval.summary.clone()));
    facts.push(("asked by", approval.requested_by.clone()));
    let relative = TimeStyle::Relative;
    facts.push(("asked", pieces::moment(approval.create_time.as_ref(), style, relative, now)));
    if approval.state() == ApprovalState::Pending {
        let expires = pieces::moment(approval.expire_time.as_ref(), style, relative, now);
        facts.push(("expires", expires));
    }
    if !approval.decided_by.is_empty() {
        let when = pieces::moment(approval.decide_time.as_ref(), style, relative, now);
        let (who, why) = (&approval.decided_by, &approval.decide_reason);
        facts.push(("answered", format!("by {who}, {when}: {why}")));
    }
    if !approval.superseded_by.is_empty() {
        facts.push(("replaced by", approval.superseded_by.clone()));
    }
    facts.push(("decision", format!("agentctl explain {}", approval.decision_id)));
    page.pairs(2, &facts);
}

pub(super) async fn approve(args: ApproveArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let approval = get(&session, &args.id).await?;
    let style = context.output.settings().time;
    context.output.note(|page| approval_page(page, &approval, style));
    let reason = match args.reason {
        Some(reason) => reason,
        None => context.ask("why (goes into the record): ", "--reason TEXT")?,
    };
    let plan = approval.plan.clone().unwrap_or_default();
    let digest = match args.digest {
        Some(digest) => digest,
        None => {
            let what = format!(
                "approve {} {} of {}?",
                pieces::action(&plan.action),
                pieces::from_to(Some(&plan)),
                approval.app
            );
            context.confirm(&what, "--yes, or --digest with the digest of the plan you read")?;
            plan.digest
        }
    };
    let request = v1::ApproveActionRequest {
        approval_id: args.id.clone(),
        plan_digest: digest,
        reason,
        request_id: context.request_id(),
    };
    let answer = session.approvals().approve_action(session.unary(request)).await;
    let response = answer.map_err(|s| session.failure(s))?.into_inner();
    let mut approval = response.approval.unwrap_or_default();
    let decision = response.decision.unwrap_or_default();
    let refused = decision.ruling() == v1::Ruling::Refused;
    if args.wait && !refused {
        let limit = context.global.timeout.map_or(WAIT, |span| span.0);
        approval = outcome(&session, &args.id, limit).await?;
    }
    context.output.emit(&ApprovalView::from(&approval), |page| {
        page.line(format!(
            "✔ approved by {}   {}   {}",
            approval.decided_by,
            if refused {
                format!("✖ refused at execution: {}", pieces::because(&decision, time::now()))
            } else {
                pieces::approval_state(approval.state)
            },
            text::line(&decision.id),
        ));
    })?;
    Ok(if refused { Exit::Refused } else { ended(approval.state()) })
}

/// How an approval that was answered with yes ended.
const fn ended(state: ApprovalState) -> Exit {
    match state {
        ApprovalState::Failed | ApprovalState::Inconclusive => Exit::Failure,
        ApprovalState::Expired => Exit::Approval,
        ApprovalState::Superseded => Exit::Conflict,
        _ => Exit::Ok,
    }
}

/// The approval once it has come to an end.
pub(super) async fn outcome(
    session: &Session,
    id: &str,
    limit: Duration,
) -> Result<v1::Approval, Failure> {
    let mut every = tokio::time::interval(Duration::from_millis(100));
    let over = async {
        loop {
            every.tick().await;
            let approval = get(session, id).await?;
            let open = matches!(
                approval.state(),
                ApprovalState::Pending | ApprovalState::Approved | ApprovalState::Executing
            );
            if !open {
                return Ok(approval);
            }
        }
    };
    tokio::time::timeout(limit, over).await.unwrap_or_else(|_| {
        let what = format!("`{id}` is approved, but has no outcome after {}", time::coarse(limit));
        Err(Failure::new(Exit::TimedOut, what).hint(format!("`agentctl approval get {id}`")))
    })
}

pub(super) async fn reject(args: RejectArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let reason = match args.reason {
        Some(reason) => reason,
        None => context.ask("why (goes into the record): ", "--reason TEXT")?,
    };
    let request =
        v1::RejectActionRequest { approval_id: args.id, reason, request_id: context.request_id() };
    let answer = session.approvals().reject_action(session.unary(request)).await;
    let approval =
        answer.map_err(|s| session.failure(s))?.into_inner().approval.unwrap_or_default();
    context.output.emit(&ApprovalView::from(&approval), |page| {
        page.line(format!("✔ {} rejected by {}", approval.id, approval.decided_by));
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_one_line_each() {
        let approval = v1::Approval {
            id: "apr-1077".to_owned(),
            state: ApprovalState::Pending.into(),
            app: "my-api".to_owned(),
            plan: Some(v1::Plan {
                action: "ROLLBACK".to_owned(),
                from_revision: "v7-3c1f".to_owned(),
                to_revision: "v6-a90b".to_owned(),
                risk: "R3".to_owned(),
                ..Default::default()
            }),
            requested_by: "agent-7f3a9b2c".to_owned(),
            summary: "3 restarts failed in 5m".to_owned(),
            ..Default::default()
        };
        let mut page = Page::default();
        list_page(&mut page, &[approval], false, None);
        assert_eq!(
            page.render(false),
            "ID        STATE      APP     ACTION    FROM → TO          RISK  REQUESTED BY    EXPIRES  WHY\n\
             apr-1077  ◷ pending  my-api  rollback  v7-3c1f → v6-a90b  R3    agent-7f3a9b2c  –        3 restarts failed in 5m\n"
        );
    }

    #[test]
    fn the_outcome_decides_the_exit_code() {
        assert_eq!(ended(ApprovalState::Verified), Exit::Ok);
        assert_eq!(ended(ApprovalState::Executing), Exit::Ok);
        assert_eq!(ended(ApprovalState::Failed), Exit::Failure);
        assert_eq!(ended(ApprovalState::Expired), Exit::Approval);
        assert_eq!(ended(ApprovalState::Superseded), Exit::Conflict);
    }
}

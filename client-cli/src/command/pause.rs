//! `agentctl pause` and `agentctl resume`: the kill switch.

use agentctl_api::v1;
use clap::{Args, Subcommand};
use v1::scope::Target;

use super::{Context, pieces};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::time::{self, Span, TimeStyle};
use crate::view::agent::{ModeChangeView, ModeView};
use crate::view::decision::DecisionView;

/// Stop new effects; with --halt also what is in flight, at its next safe point
///
/// The agent goes on deciding in shadow: `agentctl pause report` lists what would have run.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  agentctl pause --reason \"INC-481\"                          the whole environment
  agentctl pause --app my-api --reason migration --for 30m    one app, ends by itself
  agentctl pause --action restart --reason \"bad image\"        one action, for every app
  agentctl pause --halt --reason \"stop everything\"
  agentctl pause report                                       what would have run")]
pub struct PauseArgs {
    #[command(subcommand)]
    command: Option<PauseCommand>,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT", required = true)]
    reason: Option<String>,
    /// End by itself after this time
    #[arg(long = "for", value_name = "TIME")]
    duration: Option<Span>,
    /// Also stop what is in flight at its next safe point
    #[arg(long)]
    halt: bool,
}

#[derive(Debug, Subcommand)]
enum PauseCommand {
    /// List what would have run but for a pause
    #[command(after_help = "\
Examples:
  agentctl pause report
  agentctl pause report --app my-api --limit 20 -o jsonl")]
    Report(ReportArgs),
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// Only these apps
    #[arg(long, value_name = "APP")]
    app: Vec<String>,
    /// Look at so many decisions, newest first
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,
}

/// What a pause covers; without any flag the environment of the server.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct ScopeArgs {
    /// One app
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// One action, for every app
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
}

impl ScopeArgs {
    fn scope(&self) -> v1::Scope {
        let target = match (&self.app, &self.action) {
            (Some(app), _) => Target::App(app.clone()),
            (None, Some(action)) => Target::Action(action.to_ascii_uppercase()),
            (None, None) => Target::Environment(true),
        };
        v1::Scope { target: Some(target) }
    }
}

/// Lift pauses and halts of exactly this scope
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl resume --reason \"INC-481 is over\"
  agentctl resume --app my-api --reason \"migration done\"")]
pub struct ResumeArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn run(args: PauseArgs, context: &mut Context) -> Result<Exit, Failure> {
    if let Some(PauseCommand::Report(args)) = args.command {
        return report(args, context).await;
    }
    let session = context.connect().await?;
    let request = v1::PauseRequest {
        scope: Some(args.scope.scope()),
        reason: args.reason.unwrap_or_default(),
        duration: args.duration.map(|span| time::span_to_proto(span.0)),
        halt: args.halt,
        request_id: context.request_id(),
    };
    let answer = session.agent().pause(session.unary(request)).await;
    let response = answer.map_err(|s| session.failure(s))?.into_inner();
    let mode = response.mode.as_ref().map(ModeView::from);
    let view = ModeChangeView { mode, lifted: vec![], remaining: vec![], seq: response.seq };
    let style = context.output.settings().time;
    context.output.emit(&view, |page| {
        in_force(page, response.mode.as_ref(), response.seq, style);
    })?;
    Ok(Exit::Ok)
}

/// A restriction that is now in force.
pub(super) fn in_force(
    page: &mut Page,
    mode: Option<&v1::Mode>,
    seq: u64,
    style: Option<TimeStyle>,
) {
    let Some(mode) = mode else { return };
    let view = ModeView::from(mode);
    let ends = match &mode.expire_time {
        Some(_) => {
            pieces::moment(mode.expire_time.as_ref(), style, TimeStyle::Relative, time::now())
        }
        None => "by a human only".to_owned(),
    };
    let proof = if seq == 0 { "in force before".to_owned() } else { format!("proof #{seq}") };
    page.line(format!("✔ {}  {}   ends {ends}   {proof}", view.kind, view.scope));
}

pub(super) async fn resume(args: ResumeArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let request = v1::ResumeRequest {
        scope: Some(args.scope.scope()),
        reason: args.reason,
        request_id: context.request_id(),
    };
    let answer = session.agent().resume(session.unary(request)).await;
    let response = answer.map_err(|s| session.failure(s))?.into_inner();
    lifted(context, &response.lifted, &response.remaining, response.seq)
}

/// What was lifted, and what still stands.
pub(super) fn lifted(
    context: &mut Context,
    lifted: &[v1::Mode],
    remaining: &[v1::Mode],
    seq: u64,
) -> Result<Exit, Failure> {
    let views = |modes: &[v1::Mode]| modes.iter().map(ModeView::from).collect::<Vec<_>>();
    let view =
        ModeChangeView { mode: None, lifted: views(lifted), remaining: views(remaining), seq };
    context.output.emit(&view, |page| {
        if seq == 0 {
            page.line("○ nothing to lift");
        }
        for mode in &view.lifted {
            page.line(format!("✔ lifted {}  {}   proof #{seq}", mode.kind, mode.scope));
        }
        if seq != 0 && view.lifted.is_empty() {
            page.line(format!("✔ lifted   proof #{seq}"));
        }
        for (mode, view) in remaining.iter().zip(&view.remaining) {
            let by = pieces::by_whom(mode);
            page.line(format!("! still in force: {}  {}{by}", view.kind, view.scope));
        }
    })?;
    Ok(Exit::Ok)
}

/// Decisions that nothing but a pause or a halt stood in the way of.
async fn report(args: ReportArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let request = v1::ListDecisionsRequest {
        page_size: args.limit,
        page_token: String::new(),
        filter: Some(v1::DecisionFilter {
            apps: args.app,
            reasons: vec!["PAUSED".to_owned(), "HALTED".to_owned()],
            ..Default::default()
        }),
        summary_only: true,
        exhaustive: false,
    };
    let answer = session.decisions().list_decisions(session.unary(request)).await;
    let decisions = answer.map_err(|s| session.failure(s))?.into_inner().decisions;
    let would_have_run: Vec<_> = decisions.iter().filter(|d| only_paused(d)).collect();
    let views: Vec<_> = would_have_run.iter().map(|d| DecisionView::from(*d)).collect();
    let style = context.output.settings().time;
    context.output.emit_list(&views, |page| {
        if would_have_run.is_empty() {
            page.line("nothing was held back by a pause");
            return;
        }
        let now = time::now();
        let mut table = Table::new(&["TIME UTC", "APP", "WOULD HAVE", "REPEATED", "WHY", "ID"]);
        for d in &would_have_run {
            table.row([
                pieces::row_time(d.time.as_ref(), style, now),
                d.app.clone(),
                pieces::action(&d.action),
                format!("{}x", d.repeat_count + 1),
                d.summary.clone(),
                d.id.clone(),
            ]);
        }
        page.table(&table);
    })?;
    Ok(Exit::Ok)
}

fn only_paused(decision: &v1::Decision) -> bool {
    !decision.blocked_by.is_empty()
        && decision.blocked_by.iter().all(|reason| matches!(reason.as_str(), "PAUSED" | "HALTED"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_leaves_out_what_another_gate_refused_anyway() {
        let blocked = |by: &[&str]| v1::Decision {
            blocked_by: by.iter().map(|reason| (*reason).to_owned()).collect(),
            ..Default::default()
        };
        assert!(only_paused(&blocked(&["PAUSED"])));
        assert!(only_paused(&blocked(&["PAUSED", "HALTED"])));
        assert!(!only_paused(&blocked(&["PAUSED", "COOLDOWN_ACTIVE"])));
        assert!(!only_paused(&blocked(&[])));
    }

    #[test]
    fn without_a_flag_the_environment_is_meant() {
        let scope = ScopeArgs { app: None, action: None }.scope();
        assert_eq!(scope.target, Some(Target::Environment(true)));
        let scope = ScopeArgs { app: None, action: Some("restart".to_owned()) }.scope();
        assert_eq!(scope.target, Some(Target::Action("RESTART".to_owned())));
    }
}

//! `agentctl app`: apps under control, from one look to letting them go.

use std::time::Duration;

use agentctl_api::v1;
use clap::{Args, Subcommand};

use super::{Context, act, pieces, status};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::time::{self, TimeStyle};
use crate::view::app::{AppDetailView, AppView};

mod graduation;
mod history;
mod offboard;
pub mod spec;
mod update;
mod uptime;

/// Time to wait for an outcome, where the command line does not say.
const WAIT: Duration = Duration::from_secs(120);

/// List, show, change and let go of apps
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl app list --health degraded
  agentctl app describe my-api
  agentctl app update my-api --label team=shop --max 6
  agentctl app offboard my-api --reason \"moved to another host\"")]
pub struct AppArgs {
    #[command(subcommand)]
    command: AppCommand,
}

#[derive(Debug, Subcommand)]
enum AppCommand {
    /// List apps, by name
    #[command(after_help = "\
Examples:
  agentctl app list
  agentctl app list --health degraded --health down
  agentctl app list --label team=shop -o json | jq -r '.[].name'")]
    List(ListArgs),
    /// Show one app with its specification
    #[command(after_help = "\
Examples:
  agentctl app get my-api
  agentctl app get my-api -o json | jq -r .etag")]
    Get(NameArgs),
    /// Show everything about one app: how it does, what it is, what was done to it
    #[command(after_help = "Examples:\n  agentctl app describe my-api")]
    Describe(NameArgs),
    /// Show what was done to an app, newest first; also to one that was let go
    #[command(after_help = "\
Examples:
  agentctl app history my-api
  agentctl app history my-api --limit 20 -o jsonl")]
    History(history::HistoryArgs),
    /// Show when apps were up, and how often they were healed
    #[command(after_help = "\
Examples:
  agentctl app uptime
  agentctl app uptime my-api --since 7d
  agentctl app uptime --csv > uptime.csv

Time in which nobody knew, because nothing reported or the agent was away, counts neither for an
app nor against it. MTTR is the mean time from down to up.")]
    Uptime(uptime::UptimeArgs),
    /// Show what speaks for leaving an app to the agent, action by action, and what is missing
    #[command(after_help = "\
Examples:
  agentctl app graduation my-api
  agentctl app graduation my-api -o json | jq '.[] | select(.ready)'

A human raises the autonomy with `agentctl app update`, and a second one approves.")]
    Graduation(NameArgs),
    Update(Box<update::UpdateArgs>),
    Offboard(offboard::OffboardArgs),
    Spec(spec::SpecArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only apps in this state
    #[arg(long, value_enum)]
    health: Vec<HealthArg>,
    /// Only apps with this label
    #[arg(long, value_name = "K=V", value_parser = super::flags::pair)]
    label: Vec<(String, String)>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum HealthArg {
    /// Nothing fresh is known.
    Unknown,
    /// It is being started.
    Starting,
    /// Everything is ready.
    Healthy,
    /// It serves, and something is wrong.
    Degraded,
    /// Nothing of it is ready.
    Down,
}

impl From<HealthArg> for v1::AppHealth {
    fn from(health: HealthArg) -> Self {
        match health {
            HealthArg::Unknown => Self::Unknown,
            HealthArg::Starting => Self::Starting,
            HealthArg::Healthy => Self::Healthy,
            HealthArg::Degraded => Self::Degraded,
            HealthArg::Down => Self::Down,
        }
    }
}

#[derive(Debug, Args)]
struct NameArgs {
    /// App
    #[arg(value_name = "APP")]
    name: String,
}

pub(super) async fn run(args: AppArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        AppCommand::List(args) => list(args, context).await,
        AppCommand::Get(args) => get(&args.name, context).await,
        AppCommand::Describe(args) => describe(&args.name, context).await,
        AppCommand::History(args) => history::run(args, context).await,
        AppCommand::Uptime(args) => uptime::run(args, context).await,
        AppCommand::Graduation(args) => graduation::run(&args.name, context).await,
        AppCommand::Update(args) => update::run(*args, context).await,
        AppCommand::Offboard(args) => offboard::run(args, context).await,
        AppCommand::Spec(args) => spec::run(args, context).await,
    }
}

/// All pages up to the limit.
async fn list(args: ListArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let filter = v1::AppFilter {
        names: Vec::new(),
        health: args.health.iter().map(|health| v1::AppHealth::from(*health).into()).collect(),
        labels: args.label.into_iter().collect(),
    };
    let (mut apps, mut page_token) = (Vec::new(), String::new());
    loop {
        let left = args.limit.saturating_sub(apps.len()).min(1_000);
        let request = v1::ListAppsRequest {
            page_size: i32::try_from(left).unwrap_or(1_000),
            page_token,
            filter: Some(filter.clone()),
        };
        let answer = session.onboarding().list_apps(session.unary(request)).await;
        let response = answer.map_err(|s| session.failure(s))?.into_inner();
        apps.extend(response.apps);
        page_token = response.next_page_token;
        if page_token.is_empty() || apps.len() >= args.limit {
            break;
        }
    }
    let views: Vec<_> = apps.iter().map(AppView::from).collect();
    context.output.emit_list(&views, |page| list_page(page, &apps))?;
    if !page_token.is_empty() {
        context.output.say(format!("there are more than {}; --limit shows more", args.limit));
    }
    Ok(Exit::Ok)
}

fn list_page(page: &mut Page, apps: &[v1::App]) {
    if apps.is_empty() {
        page.line("no apps");
        return;
    }
    let mut table =
        Table::new(&["APP", "HEALTH", "INSTANCES", "RUNTIME", "REVISION", "AUTONOMY", "LABELS"]);
    for app in apps {
        let labels: Vec<_> = app.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        table.row([
            app.name.clone(),
            pieces::health(app.health),
            format!("{}/{}", app.ready_instances, app.desired_instances),
            app.runtime.clone(),
            app.revision.clone(),
            autonomy(app),
            if labels.is_empty() { pieces::NONE.to_owned() } else { labels.join(" ") },
        ]);
    }
    page.table(&table);
}

fn autonomy(app: &v1::App) -> String {
    match app.autonomy_level() {
        v1::AutonomyLevel::Unspecified => pieces::NONE.to_owned(),
        _ => crate::view::autonomy_level(app.autonomy_level),
    }
}

/// An app, and the specification in force.
async fn fetch(session: &Session, name: &str) -> Result<(v1::App, Vec<u8>), Failure> {
    let request = session.unary(v1::GetAppRequest { name: name.to_owned() });
    let answer = session.onboarding().get_app(request).await.map_err(|s| session.failure(s))?;
    let v1::GetAppResponse { app, spec_json } = answer.into_inner();
    Ok((app.unwrap_or_default(), spec_json))
}

fn detail(app: &v1::App, spec_json: &[u8]) -> AppDetailView {
    AppDetailView { app: app.into(), spec: serde_json::from_slice(spec_json).ok() }
}

async fn get(name: &str, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let (app, spec_json) = fetch(&session, name).await?;
    context.output.emit(&detail(&app, &spec_json), |page| {
        list_page(page, std::slice::from_ref(&app));
        page.line(format!("etag {}   spec {}", app.etag, app.spec_digest));
    })?;
    Ok(Exit::Ok)
}

/// How many changes and decisions a description shows.
const SHOWN: i32 = 5;

async fn describe(name: &str, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let (app, spec_json) = fetch(&session, name).await?;
    let changes = history::fetch(&session, name, SHOWN).await?;
    let request = v1::ListDecisionsRequest {
        page_size: SHOWN,
        filter: Some(v1::DecisionFilter { apps: vec![name.to_owned()], ..Default::default() }),
        summary_only: true,
        ..Default::default()
    };
    let answer = session.decisions().list_decisions(session.unary(request)).await;
    let decisions = answer.map_err(|s| session.failure(s))?.into_inner().decisions;
    let style = context.output.settings().time;
    context.output.emit(&detail(&app, &spec_json), |page| {
        status::app_page(page, &app, style);
        page.blank();
        page.header("SPECIFICATION");
        page.line(format!("etag {}", app.etag));
        if let Ok(file) = spec::file_of(&spec_json)
            && let Ok(yaml) = serde_saphyr::to_string(&file)
        {
            page.block(&yaml);
        }
        page.blank();
        page.header("CHANGES");
        history::page(page, &changes, style);
        page.blank();
        page.header("DECISIONS");
        decisions_page(page, &decisions, style);
    })?;
    Ok(Exit::Ok)
}

fn decisions_page(page: &mut Page, decisions: &[v1::Decision], style: Option<TimeStyle>) {
    let now = time::now();
    let mut table = Table::new(&["TIME UTC", "ACTION", "RESULT", "WHY", "ID"]);
    for decision in decisions {
        table.row([
            pieces::row_time(decision.time.as_ref(), style, now),
            pieces::action(&decision.action),
            pieces::result(decision),
            pieces::because(decision, now),
            decision.id.clone(),
        ]);
    }
    page.table(&table);
}

/// The exit code for what the gates said, with no decision at all counting as done.
fn exit_of(decision: Option<&v1::Decision>) -> Exit {
    decision.map_or(Exit::Ok, act::exit_of)
}

/// Waits until it is known what came of a decision.
async fn wait_outcome(
    session: &Session,
    id: &str,
    limit: Duration,
) -> Result<v1::Decision, Failure> {
    let mut every = tokio::time::interval(Duration::from_millis(100));
    let known = async {
        loop {
            every.tick().await;
            let request = session.unary(v1::GetDecisionRequest { decision_id: id.to_owned() });
            let answer = session.decisions().get_decision(request).await;
            let decision = answer.map_err(|s| session.failure(s))?.into_inner().decision;
            if let Some(decision) = decision.filter(|decision| decision.outcome.is_some()) {
                return Ok(decision);
            }
        }
    };
    tokio::time::timeout(limit, known).await.unwrap_or_else(|_late| {
        let what = format!("what became of {id} is not known after {}", time::coarse(limit));
        Err(Failure::new(Exit::TimedOut, what)
            .hint(format!("it goes on by itself: `agentctl decision get {id}`")))
    })
}

/// Fails unless the outcome was verified.
fn verified(decision: &v1::Decision) -> Result<(), Failure> {
    let outcome = decision.outcome.clone().unwrap_or_default();
    if outcome.kind() == v1::OutcomeKind::Verified {
        return Ok(());
    }
    let kind = crate::view::outcome_kind(outcome.kind);
    let what = format!("{} of `{}` is {kind}", pieces::action(&decision.action), decision.app);
    Err(Failure::new(Exit::Failure, what)
        .fact("outcome", outcome.summary)
        .hint(format!("`agentctl explain {}` shows what was decided", decision.id)))
}

/// What the gates said, for people.
fn ruling_page(page: &mut Page, what: &str, decision: &v1::Decision, dry_run: bool) {
    let glyph = match decision.ruling() {
        v1::Ruling::Permitted => '✔',
        v1::Ruling::Held => '◷',
        _ => '✖',
    };
    page.line(format!(
        "{glyph} {what}   {}   gates {}   {}",
        pieces::action(&decision.action),
        pieces::gate_strip(&decision.verdicts),
        pieces::because(decision, time::now()),
    ));
    if dry_run {
        page.line("dry run: nothing was recorded or done");
        return;
    }
    if !decision.approval_id.is_empty() {
        page.line(format!("another person approves: agentctl approve {}", decision.approval_id));
    }
    page.line(format!("proof #{}   agentctl explain {}", decision.seq, decision.id));
}

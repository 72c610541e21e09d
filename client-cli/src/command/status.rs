//! `agentctl status`: the agent and its apps, now or continuously.

use agentctl_api::v1;
use clap::Args;

use super::follow::Link;
use super::{Context, pieces};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::text;
use crate::time::{self, TimeStyle};
use crate::view::agent::{self, StatusView};
use crate::view::app::AppView;

/// Show the agent and its apps, or one app in detail
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl status
  agentctl status my-api                     instances, readings, findings, cooldowns
  agentctl status -w                         redrawn whenever something changes
  agentctl status -o json | jq '.apps[] | select(.health != \"healthy\") | .name'")]
pub struct StatusArgs {
    /// App [default: all]
    #[arg(value_name = "APP")]
    app: Option<String>,
    /// Go on until interrupted
    #[arg(short, long)]
    watch: bool,
}

pub(super) async fn run(args: StatusArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    if args.watch {
        return follow(&args, &session, context).await;
    }
    if let Some(name) = &args.app {
        let app = get_app(&session, name).await?;
        let style = context.output.settings().time;
        context.output.emit(&AppView::from(&app), |page| app_page(page, &app, style))?;
        return Ok(Exit::Ok);
    }
    let answer = session.agent().get_status(session.unary(v1::GetStatusRequest {})).await;
    let status = answer.map_err(|s| session.failure(s))?.into_inner().status.unwrap_or_default();
    let style = context.output.settings().time;
    context.output.emit(&StatusView::from(&status), |page| status_page(page, &status, style))?;
    Ok(Exit::Ok)
}

pub(super) async fn get_app(session: &Session, name: &str) -> Result<v1::App, Failure> {
    let request = session.unary(v1::GetAppRequest { name: name.to_owned() });
    let answer = session.onboarding().get_app(request).await.map_err(|s| session.failure(s))?;
    Ok(answer.into_inner().app.unwrap_or_default())
}

async fn follow(
    args: &StatusArgs,
    session: &Session,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let limit = context.global.timeout;
    let watching = async {
        let mut watch = session.watch_status(v1::WatchStatusRequest { interval: None });
        let mut link = Link::default();
        loop {
            let answer = link.next(&mut watch, session, &mut context.output).await?;
            show(args, &answer.status.unwrap_or_default(), context)?;
        }
    };
    match limit {
        None => watching.await,
        Some(limit) => match tokio::time::timeout(limit.0, watching).await {
            Ok(ended) => ended,
            // Watching for a while is what was asked for.
            Err(_) => Ok(Exit::Ok),
        },
    }
}

fn show(args: &StatusArgs, status: &v1::AgentStatus, context: &mut Context) -> Result<(), Failure> {
    let style = context.output.settings().time;
    let page = |page: &mut Page| match &args.app {
        None => status_page(page, status, style),
        Some(name) => match status.apps.iter().find(|app| app.name == *name) {
            Some(app) => app_page(page, app, style),
            None => page.line(format!("✖ app {name} is not onboarded here")),
        },
    };
    if context.output.can_redraw() {
        return context.output.redraw(page);
    }
    match &args.app {
        None => context.output.emit_item(&StatusView::from(status), page),
        Some(name) => {
            let app = status.apps.iter().find(|app| app.name == *name).map(AppView::from);
            context.output.emit_item(&app, page)
        }
    }
}

/// The whole status.
pub(super) fn status_page(page: &mut Page, status: &v1::AgentStatus, style: Option<TimeStyle>) {
    let now = status.time.as_ref().and_then(time::of).unwrap_or_else(time::now);
    let span = |span: Option<&prost_types::Duration>| {
        span.map_or_else(|| pieces::NONE.to_owned(), |s| time::coarse(time::span_of(s)))
    };
    page.header(format!(
        "AGENT {}  {}  loop {}  {}  up {}   ENV {}   STORE {}   PAUSED {}",
        status.agent_id,
        crate::view::agent_state(status.state),
        text::thousands(status.loop_count),
        span(status.loop_interval.as_ref()),
        span(status.uptime.as_ref()),
        environment(status),
        store(status.journal.as_ref()),
        paused(&status.modes),
    ));
    for mode in &status.modes {
        let view = agent::ModeView::from(mode);
        let ends = pieces::moment(mode.expire_time.as_ref(), style, TimeStyle::Relative, now);
        let ends =
            if mode.expire_time.is_some() { format!("   ends {ends}") } else { String::new() };
        page.line(format!("! {}  {}{}{ends}", view.kind, view.scope, pieces::by_whom(mode)));
    }
    if status.storm {
        page.line("! storm: disruptive effects are held back until the environment is calm");
    }
    for component in status.components.iter().filter(|component| !component.healthy) {
        page.line(format!("✖ {}  {}", component.name, component.detail));
    }
    if status.apps.is_empty() {
        page.line("no apps yet: `agentctl onboard NAME --runtime R --exec PATH`");
        return;
    }
    let mut table = Table::new(&[
        "APP",
        "HEALTH",
        "INSTANCES",
        "CPU",
        "MEM",
        "P99",
        "LAST DECISION",
        "COOLDOWNS",
        "APPROVALS",
    ]);
    for app in &status.apps {
        table.row(app_row(app, style, now));
    }
    page.table(&table);
}

fn environment(status: &v1::AgentStatus) -> String {
    let frozen = status.modes.iter().any(|mode| mode.kind() == v1::ModeKind::Freeze);
    if frozen { format!("{} (frozen)", status.environment) } else { status.environment.clone() }
}

fn store(journal: Option<&v1::JournalStatus>) -> String {
    match journal {
        Some(journal) if journal.state() == v1::JournalState::Writable => {
            format!("✔ #{}", journal.head_seq)
        }
        Some(journal) => {
            format!("✖ {} {}", crate::view::journal_state(journal.state), journal.detail)
        }
        None => pieces::NONE.to_owned(),
    }
}

fn paused(modes: &[v1::Mode]) -> String {
    let scopes: Vec<_> = modes
        .iter()
        .filter(|mode| matches!(mode.kind(), v1::ModeKind::Pause | v1::ModeKind::Halt))
        .map(|mode| agent::scope_text(mode.scope.as_ref()))
        .collect();
    if scopes.is_empty() { "no".to_owned() } else { scopes.join(", ") }
}

fn app_row(
    app: &v1::App,
    style: Option<TimeStyle>,
    now: chrono::DateTime<chrono::Utc>,
) -> [String; 9] {
    let reading = app.reading.as_ref().filter(|reading| !reading.stale);
    [
        app.name.clone(),
        pieces::health(app.health),
        format!("{}/{}", app.ready_instances, app.desired_instances),
        pieces::percent(reading.and_then(|r| r.cpu_utilization)),
        pieces::percent(reading.and_then(|r| r.memory_utilization)),
        pieces::latency(reading.and_then(|r| r.latency_p99_seconds)),
        app.last_decision
            .as_ref()
            .map_or_else(|| pieces::NONE.to_owned(), |last| last_decision(last, style, now)),
        cooldowns(&app.cooldowns, now),
        match app.pending_approvals {
            0 => pieces::NONE.to_owned(),
            n => format!("{n} pending"),
        },
    ]
}

fn last_decision(
    last: &v1::DecisionSummary,
    style: Option<TimeStyle>,
    now: chrono::DateTime<chrono::Utc>,
) -> String {
    let when = pieces::moment(last.time.as_ref(), style, TimeStyle::Relative, now);
    let how = match (last.outcome(), last.ruling()) {
        (v1::OutcomeKind::Verified, _) => "✔".to_owned(),
        (v1::OutcomeKind::Failed, _) => "✖ failed".to_owned(),
        (v1::OutcomeKind::Inconclusive, _) => "◐ inconclusive".to_owned(),
        (_, v1::Ruling::Refused) => format!("✖ {}", last.reason),
        (_, v1::Ruling::Held) => "◷ held".to_owned(),
        _ if pieces::is_quiet(&last.action) => "○".to_owned(),
        _ => "▶".to_owned(),
    };
    format!("{} {how} {when}", pieces::action(&last.action))
}

fn cooldowns(cooldowns: &[v1::Cooldown], now: chrono::DateTime<chrono::Utc>) -> String {
    let running: Vec<_> = cooldowns
        .iter()
        .filter_map(|cooldown| {
            let clear = cooldown.clear_time.as_ref().and_then(time::of)?;
            let left = clear.signed_duration_since(now).to_std().ok()?;
            Some(format!("{} {}", pieces::action(&cooldown.action), time::coarse(left)))
        })
        .collect();
    if running.is_empty() { pieces::NONE.to_owned() } else { running.join(", ") }
}

/// One app in detail.
pub(super) fn app_page(page: &mut Page, app: &v1::App, style: Option<TimeStyle>) {
    let now = time::now();
    page.header(format!("{}   {}   {}", app.name, pieces::health(app.health), app.environment));
    let mut facts = vec![
        ("runtime", app.runtime.clone()),
        ("revision", app.revision.clone()),
        ("spec", format!("sha256 {}", text::short_digest(&app.spec_digest))),
        (
            "instances",
            format!(
                "{} of {} ready, {} to {} allowed",
                app.ready_instances, app.desired_instances, app.min_instances, app.max_instances
            ),
        ),
        ("autonomy", autonomy(app)),
        ("onboarded", pieces::moment(app.create_time.as_ref(), style, TimeStyle::Relative, now)),
    ];
    if !app.listen.is_empty() {
        facts.push(("listen", app.listen.clone()));
    }
    if let Some(availability) = app.availability {
        facts.push(("availability", format!("{:.3}%", availability * 100.0)));
    }
    if let Some(reading) = &app.reading {
        facts.push(("reading", reading_text(reading)));
    }
    if let Some(last) = &app.last_decision {
        facts.push(("last decision", format!("{}   {}", last_decision(last, style, now), last.id)));
    }
    facts.push(("cooldowns", cooldowns(&app.cooldowns, now)));
    if app.pending_approvals > 0 {
        facts.push((
            "approvals",
            format!("{} pending: agentctl approval list", app.pending_approvals),
        ));
    }
    page.pairs(2, &facts);
    for finding in &app.findings {
        page.line(format!(
            "  ! {}  {} (limit {})  {}",
            finding.detector, finding.value, finding.threshold, finding.summary
        ));
    }
    if !app.instances.is_empty() {
        page.table(&instances(app, style, now));
    }
}

fn autonomy(app: &v1::App) -> String {
    match app.autonomy_level() {
        v1::AutonomyLevel::Unspecified => "as the policy says".to_owned(),
        _ => format!("{} at most", crate::view::autonomy_level(app.autonomy_level)),
    }
}

fn instances(app: &v1::App, style: Option<TimeStyle>, now: chrono::DateTime<chrono::Utc>) -> Table {
    let mut table = Table::new(&[
        "INSTANCE",
        "STATE",
        "PID",
        "UP",
        "RESTARTS",
        "CPU",
        "MEM",
        "LAST EXIT",
        "REVISION",
    ])
    .indent(2);
    for i in &app.instances {
        table.row([
            i.index.to_string(),
            pieces::instance_state(i.state),
            if i.pid == 0 { pieces::NONE.to_owned() } else { i.pid.to_string() },
            pieces::moment(i.start_time.as_ref(), style, TimeStyle::Relative, now),
            i.restart_count.to_string(),
            pieces::percent(i.cpu_utilization),
            pieces::percent(i.memory_utilization),
            i.last_exit.as_ref().map_or_else(|| pieces::NONE.to_owned(), crate::view::exit_text),
            text::fit(&i.revision, 12),
        ]);
    }
    table
}

fn reading_text(reading: &v1::AppReading) -> String {
    let age = reading
        .age
        .as_ref()
        .map_or_else(String::new, |age| format!(", {} old", time::coarse(time::span_of(age))));
    format!(
        "cpu {}  mem {}  p50 {}  p99 {}  errors {}   ({}{age}{})",
        pieces::percent(reading.cpu_utilization),
        pieces::percent(reading.memory_utilization),
        pieces::latency(reading.latency_p50_seconds),
        pieces::latency(reading.latency_p99_seconds),
        pieces::percent(reading.error_ratio),
        reading.source,
        if reading.stale { ", stale" } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_readable_at_a_glance() {
        let now = time::to_proto(chrono::DateTime::from_timestamp(1_795_442_531, 0).unwrap());
        let earlier = prost_types::Timestamp { seconds: now.seconds - 120, nanos: 0 };
        let later = prost_types::Timestamp { seconds: now.seconds + 44, nanos: 0 };
        let app = v1::App {
            name: "my-api".to_owned(),
            health: v1::AppHealth::Healthy.into(),
            ready_instances: 3,
            desired_instances: 3,
            reading: Some(v1::AppReading {
                cpu_utilization: Some(0.61),
                latency_p99_seconds: Some(0.18),
                ..Default::default()
            }),
            last_decision: Some(v1::DecisionSummary {
                action: "RESTART".to_owned(),
                time: Some(earlier),
                ruling: v1::Ruling::Permitted.into(),
                outcome: v1::OutcomeKind::Verified.into(),
                ..Default::default()
            }),
            cooldowns: vec![v1::Cooldown {
                action: "SCALE_UP".to_owned(),
                clear_time: Some(later),
            }],
            ..Default::default()
        };
        let status = v1::AgentStatus {
            agent_id: "agent-7f3a9b2c".to_owned(),
            environment: "stage".to_owned(),
            state: v1::AgentState::Observing.into(),
            loop_count: 212,
            journal: Some(v1::JournalStatus {
                state: v1::JournalState::Writable.into(),
                head_seq: 1077,
                ..Default::default()
            }),
            apps: vec![app],
            time: Some(now),
            ..Default::default()
        };
        let mut page = Page::default();
        status_page(&mut page, &status, None);
        assert_eq!(
            page.render(false),
            "AGENT agent-7f3a9b2c  observing  loop 212  –  up –   ENV stage   STORE ✔ #1077   PAUSED no\n\
             APP     HEALTH     INSTANCES  CPU  MEM  P99    LAST DECISION     COOLDOWNS     APPROVALS\n\
             my-api  ● healthy  3/3        61%  –    180ms  restart ✔ 2m ago  scale_up 44s  –\n"
        );
    }
}

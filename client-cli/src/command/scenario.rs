//! `agentctl scenario list|run`: rehearsals against real processes.

use std::time::Duration;

use agentctl_api::v1;
use clap::{Args, Subcommand};
use serde::Serialize;
use v1::run_scenario_response::Item;

use super::Context;
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::text;
use crate::time;
use crate::view;

/// List and run rehearsals; never in prod
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl scenario list
  agentctl scenario run crash")]
pub struct ScenarioArgs {
    #[command(subcommand)]
    command: ScenarioCommand,
}

#[derive(Debug, Subcommand)]
enum ScenarioCommand {
    /// List the scenarios of the server
    #[command(after_help = "Examples:\n  agentctl scenario list\n  agentctl scenario list -o json")]
    List,
    /// Run scenarios, step by step, and compare what happens with what is expected
    #[command(after_help = "\
Examples:
  agentctl scenario run crash
  agentctl scenario run crash overload false-alarm
  agentctl scenario run all -o jsonl
  agentctl scenario run rollback-approval      waits for `agentctl approve` in another terminal

Exit codes: 0 every step passed, 1 one did not.")]
    Run(RunArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Scenarios, or `all`
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// App to run them on [default: one of their own, left healthy at the end]
    #[arg(long, value_name = "APP")]
    app: Option<String>,
}

/// A rehearsal.
#[derive(Debug, Serialize)]
pub(super) struct ScenarioView {
    name: String,
    summary: String,
    steps: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    typical_seconds: Option<f64>,
}

/// One step as it goes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct StepView {
    r#type: &'static str,
    scenario: String,
    index: u32,
    total: u32,
    name: String,
    status: String,
    expected: String,
    actual: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_seconds: Option<f64>,
}

impl StepView {
    /// A step of `scenario`.
    pub(super) fn new(scenario: &str, step: &v1::ScenarioStep) -> Self {
        Self {
            r#type: "step",
            scenario: scenario.to_owned(),
            index: step.index,
            total: step.total,
            name: step.name.clone(),
            status: view::step_status(step.status),
            expected: step.expected.clone(),
            actual: step.actual.clone(),
            decision_id: (!step.decision_id.is_empty()).then(|| step.decision_id.clone()),
            elapsed_seconds: time::seconds(step.elapsed.as_ref()),
        }
    }
}

impl StepView {
    /// Decision it led to.
    pub(super) fn decision(&self) -> Option<&str> {
        self.decision_id.as_deref()
    }

    /// What happened.
    pub(super) fn said(&self) -> &str {
        &self.actual
    }

    /// True if it was not as expected.
    pub(super) fn is_failed(&self) -> bool {
        self.status == "failed"
    }

    /// What was expected and what came instead.
    pub(super) fn complaint(&self) -> String {
        format!("{}: expected {}, got {}", self.name, self.expected, self.actual)
    }
}

/// The end of a run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SummaryView {
    r#type: &'static str,
    scenario: String,
    passed: bool,
    passed_steps: u32,
    total_steps: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_seconds: Option<f64>,
    event_counts: std::collections::BTreeMap<String, u64>,
}

impl SummaryView {
    /// The end of a run of `scenario`.
    pub(super) fn new(scenario: &str, summary: &v1::ScenarioSummary) -> Self {
        Self {
            r#type: "summary",
            scenario: scenario.to_owned(),
            passed: summary.passed,
            passed_steps: summary.passed_steps,
            total_steps: summary.total_steps,
            elapsed_seconds: time::seconds(summary.elapsed.as_ref()),
            event_counts: summary.event_counts.clone(),
        }
    }
}

pub(super) async fn run(args: ScenarioArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    match args.command {
        ScenarioCommand::List => {
            let scenarios = list(&session).await?;
            let views: Vec<_> = scenarios.iter().map(scenario_view).collect();
            let columns = context.output.columns();
            context.output.emit_list(&views, |page| {
                let mut table = Table::new(&["NAME", "TAKES", "STEPS", "SHOWS"]).fit(columns);
                for (scenario, view) in scenarios.iter().zip(&views) {
                    let takes = scenario.typical_duration.as_ref().map(time::span_of);
                    table.row([
                        view.name.clone(),
                        takes.map_or_else(String::new, time::coarse),
                        view.steps.len().to_string(),
                        view.summary.clone(),
                    ]);
                }
                page.table(&table);
            })?;
            Ok(Exit::Ok)
        }
        ScenarioCommand::Run(args) => run_all(args, &session, context).await,
    }
}

fn scenario_view(scenario: &v1::Scenario) -> ScenarioView {
    ScenarioView {
        name: scenario.name.clone(),
        summary: scenario.summary.clone(),
        steps: scenario.steps.clone(),
        typical_seconds: time::seconds(scenario.typical_duration.as_ref()),
    }
}

/// The scenarios of the server.
pub(super) async fn list(session: &Session) -> Result<Vec<v1::Scenario>, Failure> {
    let request = session.unary(v1::ListScenariosRequest {});
    let answer = session.scenarios().list_scenarios(request).await;
    Ok(answer.map_err(|s| session.failure(s))?.into_inner().scenarios)
}

/// Runs one scenario and hands out its steps as they come.
pub(super) async fn play(
    session: &Session,
    name: &str,
    app: &str,
    mut on_step: impl FnMut(&v1::ScenarioStep) -> Result<(), Failure>,
) -> Result<v1::ScenarioSummary, Failure> {
    let request = v1::RunScenarioRequest {
        name: name.to_owned(),
        app: app.to_owned(),
        request_id: super::request_id(),
    };
    let answer = session.scenarios().run_scenario(request).await;
    let mut stream = answer.map_err(|s| session.failure(s))?.into_inner();
    while let Some(response) = stream.message().await.map_err(|s| session.failure(s))? {
        match response.item {
            Some(Item::Step(step)) => on_step(&step)?,
            Some(Item::Summary(summary)) => return Ok(summary),
            None => {}
        }
    }
    Err(Failure::new(Exit::Failure, format!("scenario `{name}` ended without a result"))
        .hint("the server may have stopped: `agentctl status`"))
}

async fn run_all(args: RunArgs, session: &Session, context: &mut Context) -> Result<Exit, Failure> {
    let mut names = args.names;
    if names.iter().any(|name| name == "all") {
        names = list(session).await?.into_iter().map(|scenario| scenario.name).collect();
    }
    let mut passed = 0;
    let total = names.len();
    for name in &names {
        let app = args.app.as_deref().unwrap_or_default();
        context.output.page(|page| page.header(name))?;
        let output = &mut context.output;
        let run = play(session, name, app, |step| {
            let view = StepView::new(name, step);
            output.emit_item(&view, |page| step_line(page, step))
        });
        let summary = match context.global.timeout {
            None => run.await?,
            Some(limit) => tokio::time::timeout(limit.0, run).await.map_err(|_elapsed| {
                Failure::new(Exit::TimedOut, format!("`{name}` did not end within {limit}"))
            })??,
        };
        passed += usize::from(summary.passed);
        let view = SummaryView::new(name, &summary);
        context.output.emit_item(&view, |page| summary_line(page, &summary))?;
    }
    if total > 1 {
        context.output.page(|page| page.line(format!("{passed} of {total} scenarios passed")))?;
    }
    Ok(if passed == total { Exit::Ok } else { Exit::Failure })
}

/// One step for people: a line when it ends, one for each thing it has to say before, and one if it is not as expected.
pub(super) fn step_line(page: &mut Page, step: &v1::ScenarioStep) {
    if step.status() == v1::StepStatus::Running && step.actual.is_empty() {
        // That it began is for programs.
        return;
    }
    let elapsed = step.elapsed.as_ref().map_or(Duration::ZERO, time::span_of);
    let glyph = match step.status() {
        v1::StepStatus::Passed => '✔',
        v1::StepStatus::Failed => '✖',
        v1::StepStatus::Running => '◷',
        v1::StepStatus::Skipped | v1::StepStatus::Unspecified => '○',
    };
    let said = match step.status() {
        v1::StepStatus::Skipped => "skipped",
        _ => &step.actual,
    };
    let name = text::pad(&text::fit(&text::line(&step.name), NAME), NAME);
    page.line(format!(
        "  {}/{}  {name}  {glyph} {}  {}  {}",
        step.index,
        step.total,
        text::pad(&text::line(said), 44),
        time::precise(elapsed),
        step.decision_id
    ));
    if step.status() == v1::StepStatus::Failed {
        page.line(format!("       expected  {}", step.expected));
    }
}

/// Columns of the name of a step.
const NAME: usize = 44;

fn summary_line(page: &mut Page, summary: &v1::ScenarioSummary) {
    let elapsed = summary.elapsed.as_ref().map_or(Duration::ZERO, time::span_of);
    page.line(format!(
        "{} {} of {} steps in {}",
        if summary.passed { "✔ passed" } else { "✖ failed" },
        summary.passed_steps,
        summary.total_steps,
        time::precise(elapsed)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_failed_says_what_was_expected() {
        let step = v1::ScenarioStep {
            index: 2,
            total: 3,
            name: "restart".to_owned(),
            status: v1::StepStatus::Failed.into(),
            expected: "healthy again".to_owned(),
            actual: "still down".to_owned(),
            decision_id: "dec-9".to_owned(),
            elapsed: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        };
        let mut page = Page::default();
        step_line(&mut page, &step);
        assert_eq!(
            page.render(false),
            "  2/3  restart                                       ✖ still down                                    1.50s  dec-9\n       \
             expected  healthy again\n"
        );
    }
}

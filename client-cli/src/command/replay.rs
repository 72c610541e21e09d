//! `agentctl replay`: the whole loop over recorded telemetry, without a server. Nothing is touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agentd_core::app::{Env, Instances, Millis};
use agentd_core::policy::{Learner, Policy};
use agentd_core::record::format_time;
use agentd_core::rehearsal::{Count, Rehearsal, Report, Told};
use agentd_core::verdict::Ruling;
use clap::Args;
use serde::Serialize;

use super::{Context, blocking};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::server;
use crate::text;

mod dataset;

use dataset::{Dataset, Row};

/// Run the whole loop over recorded telemetry, and tell what it would have done; touches nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl replay --dataset telemetry.csv --planner rl
  agentctl replay --dataset telemetry.csv --planner rules --force-anomaly -o json
  agentctl replay --dataset telemetry.csv --policy stage.toml --instances 3

The dataset is CSV about one app, oldest row first: time (RFC 3339, or seconds since 1970), app,
and the metrics cpu_utilization, memory_utilization, latency_p50, latency_p99, error_ratio,
request_rate, restart_count; empty is unknown. A row holds until the next one, but no longer than
three times the usual distance: a longer gap is silence.")]
pub struct ReplayArgs {
    /// Recorded telemetry
    #[arg(long, value_name = "FILE")]
    dataset: PathBuf,
    /// Who chooses among the actions
    #[arg(long, value_enum, default_value = "rl")]
    planner: Planner,
    /// Let a process end by itself in the middle of it
    #[arg(long)]
    force_anomaly: bool,
    /// Rules of the human [default: the built-in ones of stage]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Instances that run; twice as many may
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(Instances::LIMIT / 2)))]
    instances: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Planner {
    /// The learner that the policy names
    Rl,
    /// The rules alone: learned values never outrank them
    Rules,
}

impl Planner {
    fn plans(self, policy: &mut Policy) {
        if self == Self::Rules {
            policy.learning.learner = Learner::Q;
            policy.learning.trust = u32::MAX;
            policy.learning.exploration_ppm = 0;
        }
    }
}

/// Between two rows the loop turns this often.
const TURN_MS: Millis = 5_000;
/// A row holds for so many usual distances.
const HOLDS: u64 = 3;
/// Most turns of the loop.
const TURNS_MAX: u64 = 2_000_000;

#[derive(Debug, Serialize)]
struct ReplayView {
    app: String,
    planner: Planner,
    policy: String,
    rows: usize,
    from: String,
    to: String,
    findings: BTreeMap<String, u64>,
    actions: BTreeMap<String, Count>,
    escalations: u64,
    decisions: Vec<DecisionView>,
    #[serde(skip_serializing_if = "is_zero")]
    not_told: u64,
    head_hash: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Debug, Serialize)]
struct DecisionView {
    time: String,
    #[serde(flatten)]
    told: Told,
}

pub(super) async fn run(args: ReplayArgs, context: &mut Context) -> Result<Exit, Failure> {
    let view = blocking("the replay", move || replay(&args)).await?;
    context.output.emit(&view, |page| view.page(page))?;
    Ok(Exit::Ok)
}

fn replay(args: &ReplayArgs) -> Result<ReplayView, Failure> {
    let mut policy = match &args.policy {
        Some(file) => server::read_policy(file)?,
        None => Policy::default_for(Env::Stage),
    };
    args.planner.plans(&mut policy);
    let name = args.dataset.display().to_string();
    let Dataset { app, rows } = Dataset::parse(&name, &read(&args.dataset)?)?;
    let ends = rows.first().zip(rows.last()).map(|(first, last)| (first.at, last.at));
    let (from, to) = ends.unwrap_or_default();
    let turns = to.saturating_sub(from) / TURN_MS;
    if turns > TURNS_MAX {
        let days = TURNS_MAX * TURN_MS / 86_400_000;
        return Err(Failure::usage(format!("`{name}` is longer than {days} days"))
            .hint("cut it into parts"));
    }
    let digest = policy.digest();
    let rehearsal = Rehearsal::new(policy, app.clone(), args.instances, from);
    let rehearsal = rehearsal.map_err(|violations| {
        let what = format!("`{app}` cannot be onboarded under this policy");
        violations.into_iter().fold(Failure::usage(what), |failure, violation| {
            failure.fact(violation.field, format!("{}; {}", violation.rule, violation.fix))
        })
    })?;
    let report = play(rehearsal, &rows, args.force_anomaly);
    let Report { findings, actions, escalations, decisions, not_told, head } = report;
    Ok(ReplayView {
        app: app.to_string(),
        planner: args.planner,
        policy: format!("sha256:{digest}"),
        rows: rows.len(),
        from: format_time(from),
        to: format_time(to),
        findings: findings.into_iter().map(|(kind, n)| (kind.as_str().to_owned(), n)).collect(),
        actions: actions.into_iter().map(|(action, n)| (action.to_string(), n)).collect(),
        escalations,
        decisions: decisions
            .into_iter()
            .map(|told| DecisionView { time: format_time(told.at), told })
            .collect(),
        not_told,
        head_hash: head,
    })
}

/// Every row at its time, and what it says until the next one.
fn play(mut rehearsal: Rehearsal, rows: &[Row], force_anomaly: bool) -> Report {
    let holds = usual(rows).saturating_mul(HOLDS).max(TURN_MS);
    let middle = rows.len() / 2;
    for (index, row) in rows.iter().enumerate() {
        row.values.iter().for_each(|(metric, micro)| rehearsal.hear(*metric, *micro));
        if force_anomaly && index == middle {
            rehearsal.crash();
        }
        rehearsal.look();
        let next = rows.get(index + 1).map_or(0, |next| next.at.saturating_sub(row.at));
        let mut gone = 0;
        while gone < next {
            let span = TURN_MS.min(next - gone);
            gone += span;
            rehearsal.go(span);
            // At the time of the next row, the next row says what is.
            if gone < next {
                if gone <= holds {
                    row.values.iter().for_each(|(metric, micro)| rehearsal.hear(*metric, *micro));
                }
                rehearsal.look();
            }
        }
    }
    rehearsal.finish()
}

/// The median distance of two rows.
fn usual(rows: &[Row]) -> Millis {
    let mut distances: Vec<Millis> =
        rows.iter().zip(rows.iter().skip(1)).map(|(a, b)| b.at.saturating_sub(a.at)).collect();
    distances.sort_unstable();
    distances.get(distances.len() / 2).copied().unwrap_or(TURN_MS)
}

/// Largest dataset that is read.
const FILE_MAX: u64 = 256 << 20;

fn read(file: &Path) -> Result<String, Failure> {
    let unreadable = |error: &std::io::Error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let exit = if missing { Exit::NotFound } else { Exit::Usage };
        Failure::because(exit, &format!("cannot read `{}`", file.display()), error)
    };
    let size = std::fs::metadata(file).map_err(|error| unreadable(&error))?.len();
    if size > FILE_MAX {
        let most = FILE_MAX >> 20;
        return Err(Failure::usage(format!("`{}` is larger than {most} MiB", file.display())));
    }
    std::fs::read_to_string(file).map_err(|error| unreadable(&error))
}

fn ruling(ruling: &Ruling) -> String {
    match ruling {
        Ruling::Permitted => "✔ permitted".to_owned(),
        Ruling::Held { reason } => format!("◷ held: {reason}"),
        Ruling::Refused { reason, instead } => format!("✖ refused: {reason}, {instead} instead"),
    }
}

/// Decisions that a page shows.
const SHOWN: usize = 20;

impl ReplayView {
    fn page(&self, page: &mut Page) {
        let rows = text::count(u64::try_from(self.rows).unwrap_or(u64::MAX), "row", "rows");
        page.line(format!("{}   {rows}, {} to {}", self.app, self.from, self.to));
        if self.decisions.is_empty() {
            page.line("○ nothing would have been decided");
            return;
        }
        let mut table = Table::new(&["TIME", "FINDINGS", "ACTION", "CONFIDENCE", "RULING"]);
        for DecisionView { time, told } in self.decisions.iter().take(SHOWN) {
            let findings: Vec<&str> = told.findings.iter().map(|kind| kind.as_str()).collect();
            let confidence = format!("{}.{:03}", told.confidence / 1_000, told.confidence % 1_000);
            let ruling = ruling(&told.ruling);
            table.row([
                time.clone(),
                findings.join(","),
                told.action.to_string(),
                confidence,
                ruling,
            ]);
        }
        page.table(&table);
        let all = u64::try_from(self.decisions.len()).unwrap_or(u64::MAX) + self.not_told;
        let hidden = all.saturating_sub(u64::try_from(SHOWN).unwrap_or(0));
        if hidden > 0 {
            page.line(format!("and {hidden} more: -o json shows them"));
        }
        let done: u64 = self.actions.values().map(|count| count.permitted).sum();
        let asked: u64 = self.actions.values().map(|count| count.held).sum();
        let refused: u64 = self.actions.values().map(|count| count.refused).sum();
        let decided = text::count(all, "decision", "decisions");
        page.line(format!(
            "{decided}: {done} permitted, {asked} held for a human, {refused} refused; humans told {}",
            text::count(self.escalations, "time", "times")
        ));
    }
}

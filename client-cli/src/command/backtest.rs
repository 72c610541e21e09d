//! `agentctl backtest`: two policies against the decisions of a log and what came of them, without a server.

use std::path::{Path, PathBuf};

use agentd_core::app::Env;
use agentd_core::backtest::{Comparison, Estimate, Fit, Fitted, Interval, Report, Rules};
use agentd_core::policy::{Learner, Policy};
use clap::Args;
use serde::Serialize;

use super::recorded::each;
use super::{Context, blocking};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::server;
use crate::text;

/// Compare two policies over the decisions of a log, and tell which would have cost less
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl backtest --log proof.jsonl --policy recorded --policy stage.toml
  agentctl backtest --log /var/lib/agentd --policy q --policy ccq -o json

A policy is a FILE, `recorded` (the one each decision was made under), or the newest of the log
with another learner: `q` or `ccq`. Costs are steps (30 s) of full downtime per decision.

Exit codes: 0 it was judged, 10 a recorded decision comes out differently.")]
pub struct BacktestArgs {
    /// Export of a log (JSON lines), or a data directory
    #[arg(long, value_name = "FILE|DIR")]
    log: PathBuf,
    /// The policy to compare with, and then the one to judge
    #[arg(long = "policy", value_name = "POLICY", required = true)]
    policies: Vec<String>,
}

#[derive(Debug, Serialize)]
struct BacktestView {
    decisions: u64,
    differing: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<String>,
    policies: Vec<String>,
    #[serde(flatten)]
    report: Report,
}

pub(super) async fn run(args: BacktestArgs, context: &mut Context) -> Result<Exit, Failure> {
    let view = blocking("the backtest", move || judge(&args)).await?;
    context.output.emit(&view, |page| view.page(page))?;
    Ok(if view.differing == 0 { Exit::Ok } else { Exit::ProofFailed })
}

fn judge(args: &BacktestArgs) -> Result<BacktestView, Failure> {
    let [a, b] = args.policies.as_slice() else {
        let given = args.policies.len();
        return Err(Failure::usage(format!("two policies are compared, {given} given"))
            .hint("give --policy twice: the one to compare with, and the one to judge"));
    };
    // What is wrong with a policy is told before a long log is read.
    let (a, b) = (Asked::read(a)?, Asked::read(b)?);
    let mut fit: Option<Fit> = None;
    let mut env = None;
    each(&args.log, &mut |record| {
        env.get_or_insert(record.env);
        fit.get_or_insert_with(|| Fit::new(record.env)).fold(&record);
    })?;
    let (Some(fit), Some(env)) = (fit, env) else {
        return Err(Failure::usage(format!("`{}` holds no record", args.log.display())));
    };
    let fitted = fit.finish();
    let mut comparison = Comparison::new(&fitted, a.rules(&fitted, env)?, b.rules(&fitted, env)?);
    each(&args.log, &mut |record| comparison.fold(&record))?;
    let report = comparison.report();
    Ok(BacktestView {
        decisions: fitted.decisions,
        differing: fitted.differing,
        differences: fitted.told.iter().map(ToString::to_string).collect(),
        policies: args.policies.clone(),
        report,
    })
}

/// A policy as it was asked for.
enum Asked {
    Recorded,
    Learner(Learner),
    File { name: String, policy: Box<Policy> },
}

impl Asked {
    fn read(name: &str) -> Result<Self, Failure> {
        match name {
            "recorded" => Ok(Self::Recorded),
            "q" => Ok(Self::Learner(Learner::Q)),
            "ccq" => Ok(Self::Learner(Learner::Ccq)),
            file => {
                let policy = Box::new(server::read_policy(Path::new(file))?);
                Ok(Self::File { name: name.to_owned(), policy })
            }
        }
    }

    fn rules(&self, fitted: &Fitted, env: Env) -> Result<Rules, Failure> {
        match self {
            Self::Recorded => Ok(Rules::Recorded),
            Self::Learner(learner) => {
                let mut policy = fitted.newest.clone();
                policy.learning.learner = *learner;
                Ok(Rules::Given(Box::new(policy)))
            }
            Self::File { name, policy } if policy.env != env => {
                let (theirs, text) = (policy.env, format!("the log is one of {env}"));
                Err(Failure::usage(format!("`{name}` is a policy of {theirs}, and {text}")))
            }
            Self::File { policy, .. } => Ok(Rules::Given(policy.clone())),
        }
    }
}

impl BacktestView {
    fn page(&self, page: &mut Page) {
        let judged = text::count(self.decisions, "decision", "decisions");
        if self.differing == 0 {
            page.line(format!("✔ {judged} judged again, all the same bytes"));
        } else {
            page.line(format!("✖ {} of {judged} come out differently", self.differing));
            self.differences.iter().for_each(|difference| page.line(format!("  {difference}")));
        }
        let Report { situations, outcomes, difference, verdict, why, .. } = &self.report;
        let situations = text::count(*situations, "situation", "situations");
        page.line(format!("{situations} compared, {outcomes} outcomes known"));
        let headers =
            ["POLICY", "CHANGED", "COST", "90 %", "DOUBLY ROBUST", "LOG ALONE", "EFFECTIVE"];
        let mut table = Table::new(&headers).right(&[1, 2, 4, 5, 6]);
        for (name, estimate) in self.policies.iter().zip([&self.report.a, &self.report.b]) {
            table.row(row(name, estimate));
        }
        page.table(&table);
        let names = self.policies.join("` against `");
        let Interval { mean_micro, .. } = difference;
        let word = verdict.as_str();
        page.line(format!(
            "verdict of the second: {word}   `{names}`: {} ({}) per decision",
            text::milli(*mean_micro),
            span(difference)
        ));
        if let Some(why) = why {
            page.line(format!("  {why}"));
        }
    }
}

fn row(name: &str, estimate: &Estimate) -> [String; 7] {
    let alone = estimate.self_normalized_micro.map_or_else(|| "-".to_owned(), text::milli);
    let effective = estimate.effective_milli;
    [
        name.to_owned(),
        estimate.changed.to_string(),
        text::milli(estimate.model.mean_micro),
        span(&estimate.model),
        text::milli(estimate.doubly_robust.mean_micro),
        alone,
        format!("{}.{}", effective / 1_000, effective % 1_000 / 100),
    ]
}

fn span(interval: &Interval) -> String {
    format!("{}..{}", text::milli(interval.low_micro), text::milli(interval.high_micro))
}

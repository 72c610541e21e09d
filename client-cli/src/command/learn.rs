//! `agentctl learn`: what the agent has learned. Of a log it is shown, exported, merged, compared and calibrated without a server; a
//! server is asked for what it decides by now, and to take in, promote and forget.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agentctl_api::v1;
use agentd_core::choose::Taught;
use agentd_core::choose::calibration::{Calibration, Prediction, calibration};
use agentd_core::choose::ccq::Signature;
use agentd_core::choose::snapshot::{Snapshot, TEXT_MAX};
use agentd_core::record::{Body, Record};
use agentd_core::replay::Replay;
use agentd_core::state::Outcome;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::recorded::each;
use super::{Context, blocking};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::text;

mod change;

/// Show, export, bring, promote and forget what was learned
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl learn show
  agentctl learn export --log /var/lib/agentd > agent-1.json
  agentctl learn merge agent-1.json agent-2.json > fleet.json
  agentctl learn import fleet.json --reason \"what the others know\"
  agentctl learn promote --reason \"it knows more, INC-481\"
  agentctl learn calibrate --log proof.jsonl

What was learned is a fold of the log: `agentctl proof export > proof.jsonl` is all it takes. In
prod the agent decides by what was promoted, and what it learns there is a candidate beside that.")]
pub struct LearnArgs {
    #[command(subcommand)]
    command: LearnCommand,
}

#[derive(Debug, Subcommand)]
enum LearnCommand {
    /// Show what was learned, by what an incident looks like and what was done
    #[command(after_help = "\
Examples:
  agentctl learn show                          what the server decides by
  agentctl learn show --candidate              what is not promoted yet
  agentctl learn show --log /var/lib/agentd -o json")]
    Show(SourceArgs),
    /// Print a snapshot of what was learned, named by its digest
    #[command(after_help = "\
Examples:
  agentctl learn export > agent-1.json
  agentctl learn export --log proof.jsonl > agent-1.json")]
    Export(SourceArgs),
    /// Take in what other agents have learned, or this one in the past
    #[command(after_help = "\
Examples:
  agentctl learn import fleet.json --reason \"what the others know\"
  agentctl learn import stage.json --weak-prior --reason \"a start for prod\"
  agentctl learn import fleet.json --dry-run --reason check

In prod it is for the candidate. Exit codes: 0, 2 it cannot be taken in, 5 learning is frozen.")]
    Import(change::ImportArgs),
    /// Ask a human to put the candidate in force, if the log says that it is better
    #[command(after_help = "\
Examples:
  agentctl learn promote --reason \"it knows more, INC-481\"
  agentctl learn promote --dry-run --reason check

The server judges every decision of its log again, with the candidate and without; then whoever
did not ask approves it. Exit codes: 0 asked, 5 not better or frozen, 7 another candidate.")]
    Promote(change::PromoteArgs),
    /// Forget what was learned: in prod the candidate
    #[command(after_help = "\
Examples:
  agentctl learn reset --reason \"it was a drill\"
  agentctl learn reset --acting --reason \"back to the catalogue\" --yes")]
    Reset(change::ResetArgs),
    /// Print what several snapshots of one environment know together; the order does not matter
    #[command(after_help = "\
Examples:
  agentctl learn merge agent-1.json agent-2.json > fleet.json")]
    Merge(MergeArgs),
    /// Show in what two snapshots differ
    #[command(after_help = "\
Examples:
  agentctl learn diff monday.json friday.json
  agentctl learn diff monday.json friday.json --exit-code

Exit codes: 0, with --exit-code 1 if they differ.")]
    Diff(DiffArgs),
    /// Tell whether the chances that were given came true: reliability table, Brier score, calibration error
    #[command(after_help = "\
Examples:
  agentctl learn calibrate --log proof.jsonl
  agentctl learn calibrate --log proof.jsonl --jq .error_ppm")]
    Calibrate(LogArgs),
}

#[derive(Debug, Args)]
struct LogArgs {
    /// Export of a log (JSON lines), or a data directory
    #[arg(long, value_name = "FILE|DIR")]
    log: PathBuf,
}

#[derive(Debug, Args)]
struct SourceArgs {
    /// Export of a log (JSON lines), or a data directory [default: ask the server]
    #[arg(long, value_name = "FILE|DIR")]
    log: Option<PathBuf>,
    /// The candidate of a server of prod, instead of what is in force
    #[arg(long)]
    candidate: bool,
}

#[derive(Debug, Args)]
struct MergeArgs {
    /// Snapshots
    #[arg(value_name = "FILE", required = true, num_args = 2..)]
    files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct DiffArgs {
    /// The older one
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// The newer one
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// End with 1 if there are differences
    #[arg(long)]
    exit_code: bool,
}

pub(super) async fn run(args: LearnArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        LearnCommand::Show(args) => {
            let snapshot = known(args, context).await?;
            let view = LearnedView::of(&snapshot);
            context.output.emit(&view, |page| view.page(page))?;
            Ok(Exit::Ok)
        }
        LearnCommand::Export(args) => {
            let snapshot = known(args, context).await?;
            context.output.raw(snapshot.text().as_bytes())?;
            Ok(Exit::Ok)
        }
        LearnCommand::Merge(args) => {
            let mut snapshots = args.files.iter().map(|file| Ok((file, read(file)?)));
            let first: Result<_, Failure> = snapshots
                .next()
                .unwrap_or_else(|| Err(Failure::usage("there is nothing to merge")));
            let merged = snapshots.try_fold(first?.1, |all, next| {
                let (file, next) = next?;
                all.merged(&next).map_err(|error| refused(file, &error))
            })?;
            context.output.raw(merged.text().as_bytes())?;
            Ok(Exit::Ok)
        }
        LearnCommand::Import(args) => change::import(args, context).await,
        LearnCommand::Promote(args) => change::promote(args, context).await,
        LearnCommand::Reset(args) => change::reset(args, context).await,
        LearnCommand::Diff(args) => diff(&args, context),
        LearnCommand::Calibrate(args) => {
            let predictions = blocking("the reading", move || predictions(&args.log)).await?;
            let Some(calibration) = calibration(predictions) else {
                return Err(Failure::new(Exit::NotFound, "no outcome in the log was predicted")
                    .hint(
                        "the learner `ccq` predicts: `agentctl policy get` shows which is asked",
                    ));
            };
            context.output.emit(&calibration, |page| calibration_page(page, &calibration))?;
            Ok(Exit::Ok)
        }
    }
}

/// What was learned, by a log or by a server.
async fn known(args: SourceArgs, context: &mut Context) -> Result<Snapshot, Failure> {
    let SourceArgs { log, candidate } = args;
    if let Some(log) = log {
        return blocking("the reading", move || learned(&log, candidate)).await;
    }
    let session = context.connect().await?;
    let request = session.unary(v1::GetLearningRequest { candidate });
    let answer = session.learning().get_learning(request).await;
    let text = answer.map_err(|s| session.failure(s))?.into_inner().snapshot;
    Snapshot::parse(&text).map_err(|error| {
        Failure::because(Exit::Failure, "the server sent what is no snapshot", &error)
    })
}

/// What a log teaches.
fn learned(log: &Path, candidate: bool) -> Result<Snapshot, Failure> {
    let mut replay: Option<Replay> = None;
    let mut agent = String::new();
    each(log, &mut |record| {
        if let Body::Started(started) = &record.body {
            agent.clone_from(&started.agent_id);
        }
        replay.get_or_insert_with(|| Replay::new(record.env)).fold(&record);
    })?;
    let Some(Replay { state, .. }) = replay else {
        return Err(Failure::usage(format!("`{}` holds no record", log.display())));
    };
    let (expertise, parents) = match &state.learning.candidate {
        Some(learned) if candidate => (learned.expertise.clone(), &learned.parents),
        None if candidate => {
            return Err(Failure::new(Exit::NotFound, "there is no candidate in the log")
                .hint("only a server of prod has one: leave `--candidate` out"));
        }
        _ => (state.acting(), &state.learning.parents),
    };
    Ok(Snapshot::new(state.env, &agent, state.last_seq, &expertise, parents))
}

/// Every chance that was given, and what came of it in the end.
fn predictions(log: &Path) -> Result<Vec<Prediction>, Failure> {
    let mut given: BTreeMap<u64, Prediction> = BTreeMap::new();
    each(log, &mut |record| predicted(&mut given, &record))?;
    Ok(given.into_values().collect())
}

fn predicted(given: &mut BTreeMap<u64, Prediction>, record: &Record) {
    let Body::Learned { lesson, calibrated: Some(calibrated), .. } = &record.body else { return };
    let corrected = record.cause.and_then(|seq| given.get_mut(&seq));
    match (lesson.taught, corrected) {
        (Taught::Relapsed, Some(prediction)) => prediction.happened = false,
        (Taught::Outcome(outcome), _) => {
            let chance_ppm = u32::try_from(calibrated.trial.chance.to_micro()).unwrap_or(0);
            let happened = outcome == Outcome::Verified;
            given.insert(record.seq, Prediction { chance_ppm, happened });
        }
        (Taught::Relapsed, None) | (Taught::Rejected, _) => {}
    }
}

/// Largest snapshot that is read.
const FILE_MAX: u64 = TEXT_MAX as u64;

fn read(file: &Path) -> Result<Snapshot, Failure> {
    let text = text_of(file)?;
    Snapshot::parse(&text).map_err(|error| refused(file, &error))
}

fn text_of(file: &Path) -> Result<String, Failure> {
    let unreadable = |error: &std::io::Error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let exit = if missing { Exit::NotFound } else { Exit::Usage };
        Failure::because(exit, &format!("cannot read `{}`", file.display()), error)
    };
    if std::fs::metadata(file).map_err(|error| unreadable(&error))?.len() > FILE_MAX {
        let most = FILE_MAX >> 20;
        return Err(Failure::usage(format!("`{}` is larger than {most} MiB", file.display())));
    }
    std::fs::read_to_string(file).map_err(|error| unreadable(&error))
}

fn refused(file: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::usage(format!("`{}`: {error}", file.display()))
        .hint("`agentctl learn export` writes snapshots")
}

#[derive(Debug, Serialize)]
struct LearnedView {
    digest: String,
    environment: String,
    catalogue: String,
    agent: String,
    last_seq: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parents: Vec<String>,
    corrections: Vec<CorrectionView>,
    values: Vec<ValueView>,
}

/// What is believed of one action under one signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct CorrectionView {
    signature: &'static str,
    action: String,
    trials: u32,
    resolved: u32,
    /// Log-odds by which the catalogue is wrong.
    offset_micro: i64,
    /// How sure that is.
    precision_micro: i64,
    /// What an attempt costs against the catalogue.
    cost_micro: i64,
}

#[derive(Debug, Serialize)]
struct ValueView {
    finding: &'static str,
    action: String,
    q_micro: i64,
    trials: u32,
    verified: u32,
    rejected: u32,
}

impl LearnedView {
    fn of(snapshot: &Snapshot) -> Self {
        let values = snapshot.table.iter().map(|(finding, action, value)| ValueView {
            finding: finding.as_str(),
            action: action.to_string(),
            q_micro: value.q_micro,
            trials: value.trials,
            verified: value.verified,
            rejected: value.rejected,
        });
        Self {
            digest: snapshot.digest.clone(),
            environment: snapshot.env.to_string(),
            catalogue: snapshot.catalogue.clone(),
            agent: snapshot.agent.clone(),
            last_seq: snapshot.last_seq,
            parents: snapshot.parents.clone(),
            corrections: corrections(snapshot),
            values: values.collect(),
        }
    }

    fn page(&self, page: &mut Page) {
        let digest = self.digest.get(..12).unwrap_or_default();
        page.line(format!(
            "{}   {}   up to #{}   sha256:{digest}",
            self.environment, self.agent, self.last_seq
        ));
        if self.corrections.is_empty() && self.values.is_empty() {
            page.line("○ nothing was learned");
            return;
        }
        let headers = ["LOOKS LIKE", "ACTION", "TRIED", "HELPED", "LOG-ODDS", "COST"];
        let mut table = Table::new(&headers).right(&[2, 3, 4, 5]);
        for c in &self.corrections {
            table.row([
                c.signature.to_owned(),
                c.action.clone(),
                c.trials.to_string(),
                c.resolved.to_string(),
                signed(c.offset_micro),
                text::milli(c.cost_micro),
            ]);
        }
        page.table(&table);
        let mut table = Table::new(&["FINDING", "ACTION", "TRIED", "HELPED", "REJECTED", "VALUE"])
            .right(&[2, 3, 4, 5]);
        for v in &self.values {
            table.row([
                v.finding.to_owned(),
                v.action.clone(),
                v.trials.to_string(),
                v.verified.to_string(),
                v.rejected.to_string(),
                text::milli(v.q_micro),
            ]);
        }
        page.table(&table);
    }
}

fn corrections(snapshot: &Snapshot) -> Vec<CorrectionView> {
    let mut all = Vec::new();
    for signature in Signature::ALL {
        for (action, learned) in snapshot.knowledge.beliefs(signature).iter() {
            all.push(CorrectionView {
                signature: signature.as_str(),
                action: action.to_string(),
                trials: learned.trials,
                resolved: learned.resolved,
                offset_micro: learned.offset.to_micro(),
                precision_micro: learned.precision.to_micro(),
                cost_micro: learned.cost.to_micro(),
            });
        }
    }
    all
}

fn signed(micro: i64) -> String {
    let plus = if micro > 0 { "+" } else { "" };
    format!("{plus}{}", text::milli(micro))
}

#[derive(Debug, Serialize)]
struct DiffView {
    from: String,
    to: String,
    differences: Vec<DifferenceView>,
}

#[derive(Debug, Serialize)]
struct DifferenceView {
    signature: &'static str,
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<CorrectionView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<CorrectionView>,
}

fn diff(args: &DiffArgs, context: &mut Context) -> Result<Exit, Failure> {
    let (from, to) = (read(&args.from)?, read(&args.to)?);
    let mut pairs: BTreeMap<_, (Option<CorrectionView>, Option<CorrectionView>)> = BTreeMap::new();
    let key = |c: &CorrectionView| (c.signature, c.action.clone());
    for c in corrections(&from) {
        let at = key(&c);
        pairs.entry(at).or_default().0 = Some(c);
    }
    for c in corrections(&to) {
        let at = key(&c);
        pairs.entry(at).or_default().1 = Some(c);
    }
    let differing = pairs.into_iter().filter(|(_, (from, to))| from != to);
    let difference =
        |((signature, action), (from, to))| DifferenceView { signature, action, from, to };
    let differences = differing.map(difference).collect();
    let view = DiffView { from: from.digest, to: to.digest, differences };
    context.output.emit(&view, |page| {
        if view.differences.is_empty() {
            page.line("○ they know the same");
            return;
        }
        let headers = ["LOOKS LIKE", "ACTION", "TRIED", "LOG-ODDS", "THEN TRIED", "THEN LOG-ODDS"];
        let mut table = Table::new(&headers).right(&[2, 3, 4, 5]);
        for difference in &view.differences {
            let part = |c: &Option<CorrectionView>| match c {
                Some(c) => [c.trials.to_string(), signed(c.offset_micro)],
                None => ["-".to_owned(), "-".to_owned()],
            };
            let [a, b] = part(&difference.from);
            let [c, d] = part(&difference.to);
            table.row([difference.signature.to_owned(), difference.action.clone(), a, b, c, d]);
        }
        page.table(&table);
    })?;
    let differ = args.exit_code && !view.differences.is_empty();
    Ok(if differ { Exit::Failure } else { Exit::Ok })
}

fn calibration_page(page: &mut Page, calibration: &Calibration) {
    let share = |ppm: u64| text::milli(i64::try_from(ppm).unwrap_or(i64::MAX));
    let mut table = Table::new(&["OUTCOMES", "PREDICTED", "HELPED"]).right(&[0, 1, 2]);
    for bin in &calibration.bins {
        table.row([bin.count.to_string(), share(bin.predicted_ppm), share(bin.observed_ppm)]);
    }
    page.table(&table);
    page.line(format!(
        "{}   calibration error (ECE) {}   Brier {}, of the base rate {}",
        text::count(calibration.count, "outcome", "outcomes"),
        share(calibration.error_ppm),
        share(calibration.brier_ppm),
        share(calibration.base_ppm)
    ));
}

//! `healgym bench` prints the public table; `--check` compares it with the targets and fails when one is missed.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints a table and reads the clock"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agentd_core::choose::ccq::{COUNT, Catalogue, Knowledge, Signature, judge};
use healgym::bench::{self, Extent};
use healgym::nab;
use healgym::world::World;

const USAGE: &str =
    "usage: healgym bench [--worlds N] [--incidents N] [--check]\n       healgym nab FOLDER";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [command, folder] if command == "nab" => series(Path::new(folder)),
        _ => parse(&arguments).and_then(|(extent, check)| run(extent, check)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn parse(arguments: &[String]) -> Result<(Extent, bool), String> {
    let (command, rest) = arguments.split_first().ok_or(USAGE)?;
    if command != "bench" {
        return Err(format!("`{command}` is no command\n{USAGE}"));
    }
    let (mut extent, mut check) = (Extent { worlds: 24, incidents: 500 }, false);
    let mut rest = rest.iter();
    while let Some(flag) = rest.next() {
        let mut number = || {
            let value = rest.next().ok_or_else(|| format!("`{flag}` needs a number\n{USAGE}"))?;
            let number = value.parse().ok().filter(|n| (1..=100_000).contains(n));
            number.ok_or_else(|| format!("`{value}` is no number from 1 to 100000\n{USAGE}"))
        };
        match flag.as_str() {
            "--worlds" => extent.worlds = number()?,
            "--incidents" => extent.incidents = number()?,
            "--check" => check = true,
            _ => return Err(format!("`{flag}` is no option\n{USAGE}")),
        }
    }
    Ok((extent, check))
}

/// A measured figure and the bound it must keep.
struct Target {
    name: &'static str,
    value: f64,
    bound: f64,
    at_least: bool,
}

impl Target {
    fn least(name: &'static str, value: f64, bound: f64) -> Self {
        Self { name, value, bound, at_least: true }
    }

    fn most(name: &'static str, value: f64, bound: f64) -> Self {
        Self { name, value, bound, at_least: false }
    }

    fn is_met(&self) -> bool {
        if self.at_least { self.value >= self.bound } else { self.value <= self.bound }
    }
}

fn run(extent: Extent, check: bool) -> Result<bool, String> {
    let world = World::nominal()?;
    let mut targets = nominal(&world, extent);
    targets.extend(perturbed(&world, extent));
    targets.extend(merge_and_shift(&world, extent));
    latency();
    println!("\n## Targets\n\n| target | measured | bound | |\n|---|---|---|---|");
    for target in &targets {
        let sign = if target.at_least { ">=" } else { "<=" };
        let met = if target.is_met() { "met" } else { "MISSED" };
        println!("| {} | {:.4} | {sign} {} | {met} |", target.name, target.value, target.bound);
    }
    Ok(!check || targets.iter().all(Target::is_met))
}

fn nominal(world: &World, extent: Extent) -> Vec<Target> {
    println!(
        "## The published world, exact values per incident (learners after {})",
        extent.incidents
    );
    println!("\n| policy | score | cost | success | MTTR s | harmful |\n|---|---|---|---|---|---|");
    let mut targets = Vec::new();
    for row in bench::nominal(world, extent.incidents) {
        let bench::Nominal { name, value, score } = row;
        let seconds = 30.0 * value.steps;
        println!(
            "| {name} | {score:.1} | {:.3} | {:.3} | {seconds:.0} | {:.2} |",
            value.cost, value.success, value.harmful
        );
        if name == "ccq" {
            targets.push(Target::least("success, published world", value.success, 0.935));
            targets.push(Target::most("MTTR in seconds, published world", seconds, 100.0));
        }
    }
    targets
}

fn perturbed(world: &World, extent: Extent) -> Vec<Target> {
    println!("\n## {} perturbed worlds, {} incidents each", extent.worlds, extent.incidents);
    println!("\n| learner | mean scores | worst | regret | harmful | better than rules |");
    println!("|---|---|---|---|---|---|");
    let rows = bench::perturbed(world, extent);
    for row in &rows {
        let scores: Vec<String> =
            row.scores.iter().map(|(n, score)| format!("{n}: {score:.1}")).collect();
        println!(
            "| {} | {} | {:.1} | {:.3} | {:.2} | {} |",
            row.name,
            scores.join(", "),
            row.worst,
            row.regret,
            row.harmful,
            row.better_than_rules
        );
    }
    let Some(ccq) = rows.iter().find(|row| row.name == "ccq") else { return Vec::new() };
    let score = |after| {
        let found = ccq.scores.iter().find(|(n, _)| *n == after);
        found.map_or(f64::NAN, |(_, score)| *score)
    };
    let mut targets = vec![
        Target::least("ccq score at 50 incidents, mean", score(50), 90.0),
        Target::least("ccq score at 500 incidents, mean", score(500), 94.0),
        Target::least("ccq score at 500 incidents, worst world", ccq.worst, 85.0),
        Target::most("ccq regret per incident in the first 500", ccq.regret, 0.12),
        Target::most("harmful actions per incident while learning", ccq.harmful, 0.45),
    ];
    let share = f64::from(ccq.better_than_rules) / f64::from(extent.worlds);
    targets.push(Target::least("share of worlds with less regret than rules", share, 10.0 / 12.0));
    if let Some(calibration) = ccq.calibration {
        println!(
            "\nCalibration of ccq: {} predictions, ECE {:.4}, Brier {:.4} (base rate {:.4})",
            calibration.count, calibration.error, calibration.brier, calibration.base
        );
        targets.push(Target::most("calibration error (ECE)", calibration.error, 0.03));
        targets.push(Target::most("Brier score", calibration.brier, 0.12));
    }
    targets
}

fn merge_and_shift(world: &World, extent: Extent) -> Vec<Target> {
    let merged = bench::merge(world, extent);
    println!("\n## Four agents with a quarter of the incidents each, merged");
    println!(
        "\none of the four {:.1}, the four together {:.1}, one agent with all incidents {:.1}",
        merged.one, merged.together, merged.alone
    );
    let shift = bench::shift(world, 12);
    println!("\n## A restart and one more instance change places after 500 incidents");
    let scores: Vec<String> =
        shift.after.iter().map(|(n, score)| format!("+{n}: {score:.1}")).collect();
    println!("\nbefore {:.1}, then {}", shift.before, scores.join(", "));
    let noticed = shift.noticed.unwrap_or(f64::INFINITY);
    println!("noticed after {noticed:.1} affected incidents in the mean");
    println!("drifts raised before there was one, in 12 lives: {}", shift.false_alarms);
    let later = shift.after.iter().find(|(n, _)| *n == 300).map_or(f64::NAN, |(_, score)| *score);
    vec![
        Target::most("points lost by merging", merged.alone - merged.together, 2.0),
        Target::least("score 300 incidents after the shift", later, 75.0),
        Target::most("affected incidents until a drift is noticed", noticed, 50.0),
    ]
}

/// How long one decision takes: the backup of a whole signature, and the draws of every action. Not a target of `--check`.
fn latency() {
    let (catalogue, knowledge) = (Catalogue::builtin(), Knowledge::default());
    let (signature, limits) = (Signature::DownDeploy, [16, 2, 3, 0, 0, 1]);
    let beliefs = knowledge.beliefs(signature);
    let mut times: Vec<f64> = (0..2_000)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(judge(&catalogue, &beliefs, signature, &[0; COUNT], limits));
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |permille: usize| times.get(times.len() * permille / 1_000).copied().unwrap_or(0.0);
    println!("\n## Replanning one signature and judging every action");
    println!("\nmedian {:.0} us, p99 {:.0} us", at(500), at(990));
}

/// The part of the anomaly benchmark in `folder`: whether the alarms are those of the independent implementation, what they are
/// worth, and what a sample costs.
fn series(folder: &Path) -> Result<bool, String> {
    let reference = nab::reference()?;
    let (mut found, mut samples, mut equal) = (BTreeMap::new(), 0, 0);
    let mut spent = Duration::ZERO;
    for (name, labels) in &reference.files {
        let path = folder.join(name).with_extension("txt");
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let values = nab::values(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let start = Instant::now();
        let alarms = nab::alarms(&values, labels.probation);
        spent += start.elapsed();
        samples += values.len();
        equal += usize::from(alarms == labels.alarm_idx);
        found.insert(name.as_str(), alarms);
    }
    println!("{equal} of {} series have the reference's alarms", found.len());
    for profile in nab::PROFILES {
        let alarms = |name: &str, _: &nab::Labels| found.get(name).cloned().unwrap_or_default();
        println!("{}: {:.2}", profile.name, nab::score(&reference, profile, alarms));
    }
    let each = spent.as_secs_f64() * 1e9 / samples.max(1) as f64;
    println!("{samples} samples, {each:.0} ns each");
    Ok(equal == found.len())
}

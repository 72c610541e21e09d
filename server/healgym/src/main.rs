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

use agentd_core::choose::ccq::{Catalogue, Knowledge};
use healgym::agent::Ccq;
use healgym::bench::{self, Extent};
use healgym::life::{Scale, live, worth};
use healgym::random::Random;
use healgym::world::World;
use healgym::{backtest, nab};

mod speed;
mod targets;

use targets::Target;

const USAGE: &str = "\
usage: healgym bench [--worlds N] [--incidents N] [--quick] [--check]
       healgym nab FOLDER
       healgym catalogue FILE [FILE ...]";

/// What is measured unless it has to be quick.
const FULL: Extent = Extent { worlds: 24, incidents: 500, lives: 12, logs: 24 };
/// The least that the targets speak of.
const QUICK: Extent = Extent { worlds: 12, incidents: 500, lives: 6, logs: 8 };

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [command, folder] if command == "nab" => series(Path::new(folder)),
        [command, files @ ..] if command == "catalogue" && !files.is_empty() => {
            files.iter().try_fold(true, |all, file| Ok(catalogue(Path::new(file))? && all))
        }
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
    let (mut extent, mut check) = (FULL, false);
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
            "--quick" => extent = QUICK,
            "--check" => check = true,
            _ => return Err(format!("`{flag}` is no option\n{USAGE}")),
        }
    }
    Ok((extent, check))
}

fn run(extent: Extent, check: bool) -> Result<bool, String> {
    let world = World::nominal()?;
    let published = bench::published_error(&world)?;
    let mut targets = vec![
        Target::most("largest distance from a published exact value", published, 1e-6).limit(0.0),
    ];
    targets.extend(nominal(&world, extent));
    targets.extend(perturbed(&world, extent));
    targets.extend(merge_and_shift(&world, extent));
    targets.push(backtests(&world, extent));
    targets.extend(speed::measure());
    Ok(targets::print(&targets) || !check)
}

/// What a backtest of a log is off by, in the published world and in one the catalogue is wrong about.
fn backtests(world: &World, extent: Extent) -> Target {
    const INCIDENTS: u32 = 1_000;
    let error = backtest::error(world, INCIDENTS, extent.logs);
    let foreign = backtest::error(&world.perturbed(1), INCIDENTS, extent.logs);
    println!(
        "\n## What other rules would have cost, by a backtest of a log of {INCIDENTS} incidents"
    );
    println!("\nroot mean square error {:.2} %", 100.0 * error);
    println!("in a world that is not as the catalogue says {:.2} %", 100.0 * foreign);
    Target::most("backtest cost error at 1000 incidents (RMSE)", error, 0.05).limit(0.0)
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
            "| {} | {} | {:.1} | {:.3} | {:.2} ({:.2}) | {} |",
            row.name,
            scores.join(", "),
            row.worst,
            row.regret,
            row.harmful,
            row.least_harmful,
            row.better_than_rules
        );
    }
    let Some(ccq) = rows.iter().find(|row| row.name == "ccq") else { return Vec::new() };
    let score = |after| {
        let found = ccq.scores.iter().find(|(n, _)| *n == after);
        found.map_or(f64::NAN, |(_, score)| *score)
    };
    let mut targets = vec![
        Target::least("ccq score at 50 incidents, mean", score(50), 90.0).limit(100.0),
        Target::least("ccq score at 500 incidents, mean", score(500), 94.0).limit(100.0),
        Target::least("ccq score at 500 incidents, worst world", ccq.worst, 85.0).limit(100.0),
        Target::most("ccq regret per incident in the first 500", ccq.regret, 0.12).limit(0.0),
        Target::most("harmful actions per incident while learning", ccq.harmful, 0.45),
    ];
    let share = f64::from(ccq.better_than_rules) / f64::from(extent.worlds);
    targets.push(Target::least("share of worlds with less regret than rules", share, 10.0 / 12.0));
    if let Some(calibration) = ccq.calibration {
        println!(
            "\nCalibration of ccq: {} predictions, ECE {:.4}, Brier {:.4} (base rate {:.4})",
            calibration.count, calibration.error, calibration.brier, calibration.base
        );
        targets.push(Target::most("calibration error (ECE)", calibration.error, 0.03).limit(0.0));
        let predictions = calibration.count as f64;
        targets.push(Target::least("predictions that rests on", predictions, 5_000.0));
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
    let shift = bench::shift(world, extent.lives);
    println!("\n## A restart and one more instance change places after 500 incidents");
    let scores: Vec<String> =
        shift.after.iter().map(|(n, score)| format!("+{n}: {score:.1}")).collect();
    println!("\nbefore {:.1}, then {}", shift.before, scores.join(", "));
    let noticed = shift.noticed.unwrap_or(f64::INFINITY);
    println!("noticed after {noticed:.1} affected incidents in the mean");
    let (lives, false_alarms) = (extent.lives, shift.false_alarms);
    println!("drifts raised before there was one, in {lives} lives: {false_alarms}");
    let later = shift.after.iter().find(|(n, _)| *n == 300).map_or(f64::NAN, |(_, score)| *score);
    vec![
        Target::most("points lost by merging", merged.alone - merged.together, 2.0),
        Target::least("score 300 incidents after the shift", later, 75.0).limit(100.0),
        Target::most("affected incidents until a drift is noticed", noticed, 50.0),
    ]
}

/// What a fault catalogue is worth in the published world: alone, and corrected by incidents. Nothing is half loaded.
fn catalogue(file: &Path) -> Result<bool, String> {
    const INCIDENTS: u32 = 500;
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let catalogue = match Catalogue::parse(&text) {
        Ok(catalogue) => catalogue,
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| println!("{}: {mistake}", file.display()));
            return Ok(false);
        }
    };
    let world = World::nominal()?;
    let scale = Scale::of(&world);
    println!("{}: `{}` sha256:{}", file.display(), catalogue.version, catalogue.digest());
    let mut agent = Ccq::believing(catalogue, "gym", Knowledge::default());
    let alone = scale.score(worth(&world, &mut agent).cost);
    live(&world, &mut agent, INCIDENTS, &[], &mut Random::new(7));
    let learned = scale.score(worth(&world, &mut agent).cost);
    println!(
        "score in the published world: {alone:.1} alone, {learned:.1} after {INCIDENTS} incidents"
    );
    Ok(true)
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

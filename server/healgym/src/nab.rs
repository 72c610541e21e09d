//! The anomaly benchmark: what the alarms of the agent's baseline are worth on series whose anomalies are labelled.
//!
//! The scorer is the one of A. Lavin and S. Ahmad: "Evaluating real-time anomaly detection algorithms: the Numenta anomaly benchmark"
//! (ICMLA 2015): a window is worth more the earlier it is found, an alarm outside costs more the further it is behind the last window,
//! and the sum is scaled so that no alarm at all is 0 and perfection 100.

use std::collections::BTreeMap;

use agentd_core::detect::{Baseline, Seen};
use serde::Deserialize;

const REFERENCE: &str = include_str!("../data/nab/reference.json");

/// What is published about this part of the benchmark.
#[derive(Debug, Deserialize)]
pub struct Reference {
    /// Scores by detector and profile.
    pub expected_scores_on_this_part: BTreeMap<String, BTreeMap<String, f64>>,
    /// By name of the series.
    pub files: BTreeMap<String, Labels>,
}

/// One series.
#[derive(Debug, Deserialize)]
pub struct Labels {
    /// Samples.
    pub n: usize,
    /// Samples at its beginning that are not scored.
    pub probation: usize,
    /// First and last sample of each anomaly.
    pub windows: Vec<(usize, usize)>,
    /// Alarms of the independent implementation.
    pub alarm_idx: Vec<usize>,
}

/// What a found and a missed window and an alarm outside weigh.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    found: f64,
    missed: f64,
    outside: f64,
}

/// The profiles of the benchmark.
pub const PROFILES: [Profile; 3] = [
    Profile { name: "standard", found: 1.0, missed: 1.0, outside: 0.11 },
    Profile { name: "lowFP", found: 1.0, missed: 1.0, outside: 0.22 },
    Profile { name: "lowFN", found: 1.0, missed: 2.0, outside: 0.11 },
];

/// Everything published about this part.
///
/// # Errors
/// When the file is not what this version reads.
pub fn reference() -> Result<Reference, String> {
    serde_json::from_str(REFERENCE).map_err(|error| error.to_string())
}

/// The values of a series, in millionths, one per line of `text`.
///
/// # Errors
/// The first line that is no number.
pub fn values(text: &str) -> Result<Vec<i64>, String> {
    let value = |(n, line): (usize, &str)| {
        let number = line.parse::<f64>().ok().filter(|x| x.is_finite() && x.abs() < 1e9);
        let number = number.ok_or_else(|| format!("line {}: `{line}` is no value", n + 1))?;
        Ok((number * 1e6).round() as i64)
    };
    text.lines().enumerate().map(value).collect()
}

/// Alarms of the baseline on a series, by index.
#[must_use]
pub fn alarms(values: &[i64], probation: usize) -> Vec<usize> {
    let mut baseline = Baseline::new(probation, Baseline::HISTORY);
    let alarm =
        |(n, value): (usize, &i64)| matches!(baseline.push(*value), Seen::Alarm(_)).then_some(n);
    values.iter().enumerate().filter_map(alarm).collect()
}

/// The score of `alarms` over all series.
pub fn score(
    reference: &Reference,
    profile: Profile,
    mut alarms: impl FnMut(&str, &Labels) -> Vec<usize>,
) -> f64 {
    let (mut raw, mut windows) = (0.0, 0.0);
    for (name, labels) in &reference.files {
        raw += one(labels, profile, &alarms(name, labels));
        windows += labels.windows.len() as f64;
    }
    let nothing = -profile.missed * windows;
    100.0 * (raw - nothing) / (profile.found * windows - nothing)
}

fn one(labels: &Labels, profile: Profile, alarms: &[usize]) -> f64 {
    let mut windows = vec![-profile.missed; labels.windows.len()];
    let mut outside = 0.0;
    for alarm in alarms.iter().filter(|alarm| **alarm >= labels.probation) {
        let holds = |(first, last): &(usize, usize)| (*first..=*last).contains(alarm);
        if let Some(n) = labels.windows.iter().position(holds) {
            let (first, last) = labels.windows[n];
            let place = (last - alarm + 1) as f64 / (last - first + 1) as f64;
            let found = profile.found * sigmoid(-place) / sigmoid(-1.0);
            windows[n] = windows[n].max(found);
        } else {
            let before = labels.windows.iter().rfind(|(_, last)| last < alarm);
            outside += before.map_or(-1.0, |(first, last)| {
                sigmoid((alarm - last) as f64 / (last - first) as f64)
            });
        }
    }
    windows.iter().sum::<f64>() + profile.outside * outside
}

fn sigmoid(place: f64) -> f64 {
    if place > 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * place).exp()) - 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str) -> Vec<i64> {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/data/nab/");
        let path = format!("{root}{}", name.replace(".csv", ".txt"));
        values(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn nab_alarms_are_those_of_the_independent_implementation() {
        let reference = reference().unwrap();
        assert_eq!(reference.files.len(), 28);
        for (name, labels) in &reference.files {
            let values = series(name);
            assert_eq!(values.len(), labels.n, "{name}");
            assert_eq!(alarms(&values, labels.probation), labels.alarm_idx, "{name}");
        }
    }

    #[test]
    fn nab_scores_are_the_published_ones() {
        let reference = reference().unwrap();
        for (detector, scores) in &reference.expected_scores_on_this_part {
            for profile in PROFILES {
                let ours = score(&reference, profile, |_, labels| match detector.as_str() {
                    "baseline_three_tests" => labels.alarm_idx.clone(),
                    "no_alarm" => Vec::new(),
                    _ => (labels.probation..labels.n).step_by(97).collect(),
                });
                let published = scores[profile.name];
                assert!((ours - published).abs() < 1e-6, "{detector} {}: {ours}", profile.name);
            }
        }
    }

    #[test]
    fn an_earlier_alarm_is_worth_more_and_one_outside_costs() {
        let labels = Labels { n: 100, probation: 10, windows: vec![(40, 60)], alarm_idx: vec![] };
        let of = |alarms: &[usize]| one(&labels, PROFILES[0], alarms);
        assert!(of(&[41]) > of(&[55]) && of(&[55]) > of(&[]));
        assert!(of(&[30, 41]) < of(&[41]) && of(&[41, 50]) == of(&[41]));
        assert!(of(&[5, 41]) == of(&[41]), "the probation is not scored");
    }

    #[test]
    fn a_line_that_is_no_value_is_named() {
        assert_eq!(values("1\n2.5\n").unwrap(), [1_000_000, 2_500_000]);
        for bad in ["", "x", "NaN", "inf", "1e12"] {
            let error = values(&format!("1\n{bad}\n")).unwrap_err();
            assert_eq!(error, format!("line 2: `{bad}` is no value"));
        }
    }
}

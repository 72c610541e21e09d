//! What the learner and the statistics take. The machine is shared: of several rounds the least disturbed one counts.

use std::hint::black_box;
use std::time::Instant;

use agentd_core::choose::ccq::{COUNT, Catalogue, Knowledge, Signature, judge};
use agentd_core::detect::Baseline;
use healgym::random::Random;

use crate::targets::Target;

const ROUNDS: usize = 50;

/// One of a hundred takes longer than that, in milliseconds; the best of several rounds, each shorter than a turn on a busy core.
fn p99(mut once: impl FnMut()) -> f64 {
    let round = |_| {
        let mut times: Vec<f64> = (0..100)
            .map(|_| {
                let start = Instant::now();
                once();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times.last().copied().unwrap_or(f64::NAN)
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

/// Microseconds that one sample of one metric takes, with a past as long as it gets.
fn baseline() -> f64 {
    const ROUNDS: usize = 7;
    let mut random = Random::new(11);
    let values: Vec<i64> =
        (0..20_000).map(|_| 500_000 + (50_000.0 * random.normal()) as i64).collect();
    let round = |_| {
        let mut baseline = Baseline::new(Baseline::WARM_UP, Baseline::HISTORY);
        let start = Instant::now();
        values.iter().for_each(|value| _ = black_box(baseline.push(*value)));
        start.elapsed().as_secs_f64() * 1e6 / values.len() as f64
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

pub(crate) fn measure() -> Vec<Target> {
    let (catalogue, knowledge) = (Catalogue::builtin(), Knowledge::default());
    // What can be done about a failed deployment is the most there is to plan.
    let (signature, limits) = (Signature::DownDeploy, [16, 2, 3, 0, 0, 1]);
    let beliefs = knowledge.beliefs(signature);
    let replan = p99(|| {
        black_box(judge(&catalogue, &beliefs, signature, &[0; COUNT], limits));
    });
    vec![
        Target::most("replanning one signature and judging every action, p99 ms", replan, 0.5),
        Target::most("baseline, us per sample and metric", baseline(), 2.0),
    ]
}

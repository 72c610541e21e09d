//! Ratios of passes that alternate, and whether they meet a goal.

/// How far the middle half of a reference may move before nothing is said about what is compared with it.
const SPREAD_MAX: f64 = 0.25;

/// The same figure of many passes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Passes(Vec<f64>);

impl Passes {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The middle half of the passes, as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        (self.at(0.75) - self.at(0.25)) / self.median()
    }

    /// This by that, pass by pass: what the machine did to one of a pair it did to the other.
    pub(crate) fn over(&self, reference: &Self) -> Self {
        Self(self.0.iter().zip(&reference.0).map(|(a, b)| a / b).collect())
    }
}

pub(crate) fn header(figure: &str) {
    println!(
        "{:<58} {:>10} {:>10} {:>24} {:>9} {:>6}",
        "case", figure, "reference", "ratio (least to most)", "goal", "met"
    );
}

/// What a ratio has to be.
#[derive(Debug, Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Nobody said.
    Open,
}

impl Goal {
    fn written(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most:.2}"),
            Self::AtLeast(least) => format!(">= {least:.2}"),
            Self::Open => "-".to_owned(),
        }
    }

    fn judge(self, ratio: f64) -> &'static str {
        match self {
            Self::AtMost(most) if ratio <= most => "yes",
            Self::AtLeast(least) if ratio >= least => "yes",
            Self::AtMost(_) | Self::AtLeast(_) => "MISSED",
            Self::Open => "-",
        }
    }
}

/// What this costs by what the reference costs, which should be at most `goal`.
pub(crate) fn compare(case: &str, own: &Passes, reference: &Passes, goal: f64) {
    line(case, own, reference, &own.over(reference), Goal::AtMost(goal));
}

/// What a peer costs by what this costs, which should be at least `goal` if there is one.
pub(crate) fn peer(case: &str, own: &Passes, peer: &Passes, goal: Option<f64>) {
    let goal = goal.map_or(Goal::Open, Goal::AtLeast);
    line(case, own, peer, &peer.over(own), goal);
}

fn line(case: &str, own: &Passes, reference: &Passes, ratios: &Passes, goal: Goal) {
    let (ratio, noisy) = (ratios.median(), reference.spread() > SPREAD_MAX);
    let met = if noisy { "noisy" } else { goal.judge(ratio) };
    let range = format!("{ratio:.2} ({:.2} to {:.2})", ratios.at(0.0), ratios.at(1.0));
    let goal = goal.written();
    println!(
        "{case:<58} {:>10.3} {:>10.3} {range:>24} {goal:>9} {met:>6}",
        own.median(),
        reference.median()
    );
    if noisy {
        let percent = 100.0 * reference.spread();
        println!(
            "  failed: the reference itself moved by {percent:.0} % in this run; run it again"
        );
    }
}

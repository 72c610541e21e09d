//! The one table: each figure beside a limit of the same run, as a multiple of it, and what that multiple has to be.

use std::time::Duration;

/// What a multiple has to be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// The table, printed line by line as it comes.
#[derive(Default)]
pub(crate) struct Table {
    met: usize,
    missed: Vec<String>,
    absent: usize,
}

fn line(what: &str, measured: &str, limit: &str, [ratio, goal, verdict]: [&str; 3]) {
    println!("{what:<62} {measured:>10}  {limit:<29} {ratio:>9} {goal:>9} {verdict:>8}");
}

impl Table {
    /// Prints the heading.
    pub(crate) fn head(self) -> Self {
        line("what", "measured", "limit or peer of this run", ["ratio", "goal", ""]);
        self
    }

    /// A figure that no goal is about.
    pub(crate) fn note(&self, what: &str, measured: &str, limit: &str, ratio: Option<f64>) {
        let ratio = ratio.map(|ratio| format!("{ratio:.2} x")).unwrap_or_default();
        line(what, measured, limit, [&ratio, "", ""]);
    }

    /// A figure that is to be a multiple of a limit.
    pub(crate) fn goal(
        &mut self,
        what: &str,
        measured: &str,
        (limit, ratio): (&str, f64),
        goal: Goal,
    ) {
        let (met, wanted) = match goal {
            Goal::AtMost(most) => (ratio <= most, format!("<= {most} x")),
            Goal::AtLeast(least) => (ratio >= least, format!(">= {least} x")),
        };
        let verdict = if met { "met" } else { "MISSED" };
        line(what, measured, limit, [&format!("{ratio:.2} x"), &wanted, verdict]);
        if met {
            self.met += 1;
        } else {
            self.missed.push(what.trim().to_owned());
        }
    }

    /// A rate that has a goal of its own.
    pub(crate) fn rate(&mut self, what: &str, rate: f64, least: f64) {
        let limit = format!("{}/s", thousands(least));
        self.goal(what, &per_second(rate), (&limit, rate / least), Goal::AtLeast(1.0));
    }

    /// A time that has a goal of its own.
    pub(crate) fn time(&mut self, what: &str, took: Duration, most: Duration) {
        let ratio = took.as_secs_f64() / most.as_secs_f64();
        self.goal(what, &time(took), (&time(most), ratio), Goal::AtMost(1.0));
    }

    /// A peer that is not on this machine.
    pub(crate) fn absent(&mut self, what: &str) {
        self.absent += 1;
        line(what, "not here", "", ["", "", ""]);
    }

    /// What came of it.
    pub(crate) fn end(self) {
        let Self { met, missed, absent } = self;
        println!("{met} goals met, {} missed, {absent} peers not here", missed.len());
        for what in missed {
            println!("missed: {what}");
        }
    }
}

fn thousands(count: f64) -> String {
    format!("{:.0}k", count / 1e3)
}

pub(crate) fn per_second(rate: f64) -> String {
    if rate < 10_000.0 { format!("{rate:.0}/s") } else { format!("{}/s", thousands(rate)) }
}

pub(crate) fn time(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 10_000.0 { format!("{micros:.0} us") } else { format!("{:.0} ms", micros / 1e3) }
}

/// Sorts the times, and gives the one that so many of a thousand do not exceed.
pub(crate) fn percentile(times: &mut [Duration], permille: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * permille / 1000).min(times.len() - 1)]
}

//! What was measured beside what it must be.

/// A measured figure and the bound it must keep.
#[derive(Debug)]
pub(crate) struct Target {
    name: String,
    value: f64,
    goal: f64,
    /// What nobody can do better than, where that is known.
    limit: Option<f64>,
    at_least: bool,
}

impl Target {
    pub(crate) fn least(name: impl Into<String>, value: f64, goal: f64) -> Self {
        Self { name: name.into(), value, goal, limit: None, at_least: true }
    }

    pub(crate) fn most(name: impl Into<String>, value: f64, goal: f64) -> Self {
        Self { name: name.into(), value, goal, limit: None, at_least: false }
    }

    pub(crate) fn limit(self, limit: f64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// A figure that is none meets nothing.
    pub(crate) fn is_met(&self) -> bool {
        if self.at_least { self.value >= self.goal } else { self.value <= self.goal }
    }
}

/// Prints all of them; whether every one is met.
pub(crate) fn print(targets: &[Target]) -> bool {
    println!("\n## Targets\n\n| target | measured | limit | goal | measured / goal | |");
    println!("|---|---|---|---|---|---|");
    for target in targets {
        let Target { name, value, goal, limit, at_least } = target;
        let sign = if *at_least { ">=" } else { "<=" };
        let met = if target.is_met() { "met" } else { "MISSED" };
        let limit = limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
        let ratio = if *goal == 0.0 { value - goal } else { value / goal };
        println!("| {name} | {value:.4} | {limit} | {sign} {goal} | {ratio:.3} | {met} |");
    }
    targets.iter().all(Target::is_met)
}

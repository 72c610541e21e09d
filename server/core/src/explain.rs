//! Records as sentences: server, command line and dashboard say the same.

use crate::action::Action;
use crate::app::AppName;
use crate::choose::Resolves;
use crate::detect::{Alarm, Finding};
use crate::reason::Reason;
use crate::record::{Decided, format_time};
use crate::signal::MICRO;
use crate::verdict::{Effect, Fact, Ruling, Verdict};

/// A decision in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// One line: what was decided and why.
    pub headline: String,
    /// What was seen, one line per finding, and then the alarms that are none.
    pub saw: Vec<String>,
    /// What was weighed, best first.
    pub weighed: Vec<String>,
    /// What every gate said, in the order of the groups.
    pub gates: Vec<String>,
    /// The nearest change that would turn the ruling around, if one alone would.
    pub if_not: Option<String>,
}

/// Explains a decision from its record alone.
#[must_use]
pub fn decision(decided: &Decided) -> Explanation {
    let action = decided.proposal.action;
    let mut verdicts: Vec<&Verdict> = decided.verdicts.iter().collect();
    verdicts.sort_by(|a, b| (a.group, &a.gate).cmp(&(b.group, &b.gate)));
    Explanation {
        headline: headline(decided),
        saw: saw(decided),
        weighed: weighed(decided),
        gates: verdicts
            .iter()
            .map(|v| format!("{} {}: {}", v.group, v.gate, verdict(v, action)))
            .collect(),
        if_not: if_not(decided),
    }
}

/// Every candidate with its numbers, in their order, and then what the learner takes the incident for.
fn weighed(decided: &Decided) -> Vec<String> {
    let diagnosis = decided.proposal.diagnosis.iter().map(|diagnosis| {
        let named = |(name, chance): &(String, u32)| format!("{name} {}", share(*chance));
        let faults: Vec<String> = diagnosis.faults.iter().map(named).collect();
        format!("looks like {}: {}", diagnosis.signature.as_str(), faults.join(", "))
    });
    let candidates = decided.proposal.candidates.iter().map(|c| {
        let resolves = c.resolves.map(|resolves| {
            let Resolves { chance, low, high } = resolves;
            format!(" resolves {} ({} to {})", share(chance), share(low), share(high))
        });
        format!(
            "{} chance {}{} value {} from {} outcomes",
            c.action,
            share(c.chance),
            resolves.unwrap_or_default(),
            fact(&Fact::Micro(c.value)),
            c.trials
        )
    });
    candidates.chain(diagnosis).collect()
}

fn share(permille: u32) -> String {
    fact(&Fact::Permille(permille))
}

/// One line: what was decided and why.
#[must_use]
pub fn headline(decided: &Decided) -> String {
    let action = decided.proposal.action;
    match &decided.ruling {
        Ruling::Permitted if action.is_passive() => format!("{action}: {}", because(decided)),
        Ruling::Permitted => format!("{action} permitted: {}", because(decided)),
        Ruling::Held { reason } => {
            format!("{action} waits for a human ({reason}): {}", because(decided))
        }
        Ruling::Refused { reason, instead } => {
            format!("{action} refused ({reason}), {instead} instead: {}", because(decided))
        }
    }
}

fn because(decided: &Decided) -> String {
    match decided.findings.first() {
        Some(first) => first.detail.clone(),
        None if decided.proposal.source.is_human() => "a human asked for it".to_owned(),
        None => "nothing is wrong".to_owned(),
    }
}

/// Every finding, and then every alarm of the statistics that no finding tells already.
fn saw(decided: &Decided) -> Vec<String> {
    let alarms = decided.reading.alarms.iter();
    let untold = alarms.filter(|alarm| !decided.findings.iter().any(|f| tells(f, alarm)));
    let alarms = untold.map(|alarm| {
        let Alarm { metric, since, deviation } = alarm;
        format!("alarm since {}: {} by {deviation}", format_time(*since), metric.as_str())
    });
    decided.findings.iter().map(|finding| seen(decided, finding)).chain(alarms).collect()
}

/// Whether the finding was made of that alarm.
fn tells(finding: &Finding, alarm: &Alarm) -> bool {
    finding.metric == Some(alarm.metric) && finding.detail.ends_with(&alarm.deviation.to_string())
}

/// One finding of a decision in words, with the history it rests on: an alarm says that itself, a threshold has looked at the ticks
/// that are known, and what the supervisor saw needs none.
#[must_use]
pub fn seen(decided: &Decided, finding: &Finding) -> String {
    let line = self::finding(finding);
    let Some(metric) = finding.metric else { return line };
    if decided.reading.alarms.iter().any(|alarm| tells(finding, alarm)) {
        return line;
    }
    let ticks = decided.reading.metrics.get(&metric).map_or(0, |series| series.recent.len());
    format!("{line}, {ticks} ticks known")
}

/// One finding in words.
#[must_use]
pub fn finding(finding: &Finding) -> String {
    let name = finding.kind.as_str();
    match (&finding.value, &finding.limit) {
        (Fact::None, _) => format!("{name}: {}", finding.detail),
        (value, Fact::None) => format!("{name}: {} ({})", finding.detail, fact(value)),
        (value, limit) => {
            format!("{name}: {} ({} against {})", finding.detail, fact(value), fact(limit))
        }
    }
}

/// One verdict in words.
#[must_use]
pub fn verdict(verdict: &Verdict, action: Action) -> String {
    let seen = match (&verdict.value, &verdict.limit) {
        (Fact::None, Fact::None) => String::new(),
        (Fact::None, limit) => format!(", limit {}", fact(limit)),
        (value, Fact::None) => format!(", {}", fact(value)),
        (value, limit) => format!(", {} against {}", fact(value), fact(limit)),
    };
    let clears =
        verdict.clears_at.map(|at| format!(", clears at {}", format_time(at))).unwrap_or_default();
    match (verdict.effect, verdict.reason) {
        (Effect::Pass, _) => format!("passes {action}{seen}"),
        (Effect::Hold, Some(reason)) => format!("holds {action}: {reason}{seen}{clears}"),
        (Effect::Refuse, Some(reason)) => format!("refuses {action}: {reason}{seen}{clears}"),
        (Effect::Hold | Effect::Refuse, None) => format!("blocks {action} without a reason"),
    }
}

/// What humans are told at the end of a ladder.
#[must_use]
pub fn escalation(app: &AppName, decided: &Decided) -> String {
    format!("app {app} needs a human: {}", headline(decided))
}

/// The one sentence humans get when a storm begins.
#[must_use]
pub fn storm(unhealthy: u32, apps: u32) -> String {
    format!(
        "{unhealthy} of {apps} apps are unhealthy: nothing that runs is taken down, and what is down is started one after the other"
    )
}

/// A value or limit in words, with its unit.
#[must_use]
pub fn fact(fact: &Fact) -> String {
    match fact {
        Fact::None => "-".to_owned(),
        Fact::Count(n) => n.to_string(),
        Fact::Ms(ms) if *ms < 10_000 => format!("{ms} ms"),
        Fact::Ms(ms) if *ms < 600_000 => format!("{} s", ms / 1_000),
        Fact::Ms(ms) => format!("{} min", ms / 60_000),
        Fact::At(at) => format_time(*at),
        Fact::Permille(p) => format!("{}.{:03}", p / 1_000, p % 1_000),
        Fact::Micro(micro) => {
            let sign = if *micro < 0 { "-" } else { "" };
            let (whole, part) = (
                micro.unsigned_abs() / MICRO.unsigned_abs(),
                micro.unsigned_abs() % MICRO.unsigned_abs(),
            );
            format!("{sign}{whole}.{:03}", part / 1_000)
        }
        Fact::Level(level) => level.as_str().to_owned(),
        Fact::Action(action) => action.to_string(),
        Fact::Actions(actions) => {
            actions.iter().map(Action::to_string).collect::<Vec<_>>().join(" ")
        }
        Fact::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Fact::Text(text) => text.to_string(),
    }
}

/// When exactly one gate stands in the way, what would make it pass.
fn if_not(decided: &Decided) -> Option<String> {
    let mut blocking = decided.verdicts.iter().filter(|v| v.effect != Effect::Pass);
    let only = blocking.next()?;
    if blocking.next().is_some() {
        return None;
    }
    let change = match (only.clears_at, only.reason) {
        (Some(at), _) => format!("from {} on", format_time(at)),
        (None, Some(Reason::ApprovalRequired | Reason::ActionEligibilityFailed))
            if only.effect == Effect::Hold =>
        {
            "with a human's approval".to_owned()
        }
        (None, Some(Reason::UncertaintyNoop)) => {
            format!("with a confidence of {} or more", fact(&only.limit))
        }
        (None, Some(reason)) => reason.todo().to_owned(),
        (None, None) => return None,
    };
    Some(format!("`{}` would pass {change}", only.gate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Env;
    use crate::detect::{Deviation, Test};
    use crate::record::Observation;
    use crate::signal::{Exit, Metric};
    use crate::step::Input;
    use crate::step::world::World;

    /// The newest decision after so many slow ticks, and the alarms that stood meanwhile.
    fn decided(slow: u32, alarms: &[Alarm]) -> Decided {
        let mut world = World::new(Env::Stage);
        let app = world.onboard("web", 1);
        for _ in 0..slow {
            world.now += 1_000;
            world.say(&app, "edge", Metric::LatencyP99, 3 * MICRO);
            let mut reading = world.close(&app);
            reading.alarms = alarms.to_vec();
            world.give(&Input::Reading(reading));
        }
        if slow == 0 {
            let what = Observation::Exited { fence: None, exit: Exit::Signal(9), expected: false };
            let mut reading = world.close(&app);
            reading.alarms = alarms.to_vec();
            world.give(&Input::Observed { app, slot: 0, what, reading });
        }
        world.last_decision().clone()
    }

    /// The decision about memory that grew tick by tick.
    fn leaking() -> Decided {
        let mut world = World::new(Env::Stage);
        let app = world.onboard("web", 1);
        for step in 0..8 {
            let percent = MICRO / 100 * (45 + 3 * step);
            world.hear(&app, 1_000, &[(Metric::MemoryUtilization, percent)]);
        }
        world.last_decision().clone()
    }

    fn alarm(test: Test, high: i64) -> Alarm {
        let deviation = Deviation { test, value: 20 * high, low: 0, high, history: 900 };
        Alarm { metric: Metric::ErrorRatio, since: 1_000_000, deviation }
    }

    #[test]
    fn every_layer_says_test_value_expectation_and_history() {
        let alarms = [alarm(Test::ErrorSum, 1_000), alarm(Test::BurnPage, 14_400_000)];
        let hard = decision(&decided(0, &[])).saw;
        assert_eq!(hard, ["CRASH: instance 0 ended: signal 9 (1 against 0)"]);
        let threshold = decision(&decided(3, &[])).saw;
        let line = "LATENCY: 99th percentile of the response time at or above the limit in 3 of the \
                    last 5 ticks (3.000 against 1.600), 3 ticks known";
        assert_eq!(threshold, [line]);
        let growth = decision(&leaking()).saw;
        let line = "MEMORY_GROWTH: memory grew in 1000 permille of all pairs of ticks \
                    (0.210 against 0.200), 8 ticks known";
        assert_eq!(growth, [line]);
        // The finding is open by then, and tells what the threshold sees; what opened it stands below.
        let sum = decision(&decided(1, &alarms)).saw;
        let own =
            "error_ratio by error_sum: 0.020000, expected 0.000000 to 0.001000 after 900 samples";
        assert!(sum[0].starts_with("ERROR_RATE: ") && sum[1].ends_with(own), "{sum:?}");
        let page = "alarm since 1970-01-01T00:16:40.000Z: error_ratio by burn_page: 288.000000 times \
                    the budget, expected 0.000000 to 14.400000 after 900 samples";
        assert_eq!(sum[2..], [page], "and what is no finding is not forgotten");
    }
}

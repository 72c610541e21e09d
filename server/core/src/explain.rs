//! Records as sentences: server, command line and dashboard say the same.

use crate::action::Action;
use crate::app::AppName;
use crate::choose::Resolves;
use crate::detect::Finding;
use crate::reason::Reason;
use crate::record::{Decided, format_time};
use crate::signal::MICRO;
use crate::verdict::{Effect, Fact, Ruling, Verdict};

/// A decision in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// One line: what was decided and why.
    pub headline: String,
    /// What was seen, one line per finding.
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
        saw: decided.findings.iter().map(finding).collect(),
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

//! What would have turned a decision: the smallest single change of a rule or of the situation that leads to another ruling.
//!
//! Nothing here is guessed from the text of a verdict. A change is a way to make another case out of a recorded one; it counts only
//! if the case, judged again by every gate, really comes out differently, and of a number the value nearest to what it is.

use crate::action::{Action, Level, ceiling};
use crate::app::Millis;
use crate::choose::{self, Choice, Proposal};
use crate::detect::{Finding, View};
use crate::gates::{self, Case};
use crate::policy::{Confidence, Policy, lint, set};
use crate::record::{Decided, Trigger, format_time};
use crate::state::DECISIONS;
use crate::step::seen;
use crate::verdict::{Effect, Ruling, Verdict};

mod change;
mod knobs;
#[cfg(test)]
mod tests;

pub use change::{Change, Counted, Obstacle};
use knobs::{KNOBS, Knob, Toward};

/// A decision as it comes out when it is judged again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is proposed.
    pub proposal: Proposal,
    /// What every gate says.
    pub verdicts: Vec<Verdict>,
    /// What it adds up to.
    pub ruling: Ruling,
}

/// Judges a recorded decision under another policy: what the agent saw by itself it detects and chooses anew, what a human asked
/// for it only judges. The rest of the environment is as it was recorded: how many apps were in trouble at that time is
/// history, not a rule.
#[must_use]
pub fn rejudge(decided: &Decided, policy: &Policy) -> Judged {
    judge(decided, policy, &[], true)
}

/// A change and what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The gate whose mind it changes.
    pub gate: String,
    /// The change.
    pub change: Change,
    /// The action that would have been decided on.
    pub action: Action,
    /// The ruling it would have had.
    pub ruling: Ruling,
    /// Whether it takes all changes of the list together: none of them alone is enough.
    pub together: bool,
}

/// Most changes that are told.
const FLIPS: usize = 6;

/// The nearest changes that would have turned the ruling on a decision, rules before circumstances and the smallest first. Of what
/// was blocked: what would have let it through. Of what was done: what would have kept it back. Of what the agent did not want
/// to do at all: what would have made it act.
#[must_use]
pub fn nearest(decided: &Decided, policy: &Policy) -> Vec<Flip> {
    let flips = if decided.ruling != Ruling::Permitted {
        permits(decided, policy)
    } else if decided.proposal.action.is_passive() {
        stirs(decided, policy)
    } else {
        restrains(decided, policy)
    };
    flips.into_iter().take(FLIPS).collect()
}

/// Sections of the policy that detectors read.
const DETECTED: [&str; 3] = ["thresholds.", "stability.", "freshness."];

fn judge(decided: &Decided, policy: &Policy, changes: &[Change], anew: bool) -> Judged {
    let mut case = decided.clone();
    let mut rules = policy.clone();
    let (mut chosen_anew, mut seen_anew) = (anew, anew);
    for change in changes {
        match change {
            Change::Setting { path, to, .. } => {
                // A path that leads nowhere changes nothing, and so it turns nothing.
                rules = set(&rules, path, to).unwrap_or(rules);
                chosen_anew = true;
                seen_anew |= DETECTED.iter().any(|section| path.starts_with(section));
            }
            other => other.apply(&mut case),
        }
    }
    let Decided { app, reading, now, row, beliefs, seq, .. } = &case;
    let view = View { app, policy: &rules, reading, now: *now };
    let mut findings = if seen_anew { seen(&view, case.trigger) } else { case.findings.clone() };
    let mut proposal = case.proposal.clone();
    if chosen_anew && case.trigger == Trigger::Reading {
        proposal = choose::choose(&Choice {
            app,
            policy: &rules,
            findings: &findings,
            reading,
            row,
            beliefs,
            frozen: case.around.frozen,
            leeway: case.leeway.as_ref(),
            now: *now,
            seq: *seq,
        });
    }
    for change in changes {
        change.amend(&mut proposal, &mut findings, &case);
    }
    let enforced = gates::enforce(
        &Case {
            app,
            around: &case.around,
            policy: &rules,
            // The digest a plan was approved under is part of the evidence, not of the rules.
            policy_digest: &case.policy_digest,
            proposal: &proposal,
            findings: &findings,
            reading,
            now: *now,
        },
        *seq,
    );
    Judged { findings, proposal, verdicts: enforced.verdicts, ruling: enforced.ruling }
}

const fn rank(ruling: &Ruling) -> u8 {
    match ruling {
        Ruling::Permitted => 0,
        Ruling::Held { .. } => 1,
        Ruling::Refused { .. } => 2,
    }
}

/// One decision and what counts as having turned it.
struct Search<'a> {
    decided: &'a Decided,
    policy: &'a Policy,
    /// Rules a policy breaks already: a change may not add to them.
    faults: usize,
    /// Changes that are made in any case.
    given: Vec<Change>,
    turned: &'a dyn Fn(&Judged) -> bool,
}

impl<'a> Search<'a> {
    fn new(decided: &'a Decided, policy: &'a Policy, turned: &'a dyn Fn(&Judged) -> bool) -> Self {
        Self { decided, policy, faults: lint(policy).len(), given: Vec::new(), turned }
    }

    fn judged(&self, change: &Change) -> Judged {
        let changes: Vec<Change> = self.given.iter().chain([change]).cloned().collect();
        judge(self.decided, self.policy, &changes, false)
    }

    fn turns(&self, change: &Change) -> bool {
        (self.turned)(&self.judged(change))
    }

    /// The rules with what is given.
    fn rules(&self) -> Policy {
        self.given.iter().fold(self.policy.clone(), |rules, change| match change {
            Change::Setting { path, to, .. } => set(&rules, path, to).unwrap_or(rules),
            _ => rules,
        })
    }

    /// The value of a number of the policy nearest to the one it has that turns the decision. What a gate says changes once along
    /// such a number, so halving the way finds it; whatever is found was judged.
    fn number(&self, path: &str, toward: Toward) -> Option<Change> {
        let rules = self.rules();
        let from = knobs::get(&rules, path)?;
        let change = |to: u64| Change::Setting {
            path: path.to_owned(),
            from: from.to_string(),
            to: to.to_string(),
        };
        let end = match toward {
            Toward::Least(least) if least < from => least,
            Toward::Most(most) if most > from => most,
            Toward::Least(_) | Toward::Most(_) => return None,
        };
        if !self.turns(&change(end)) {
            return None;
        }
        let (mut stays, mut turns) = (from, end);
        while stays.abs_diff(turns) > 1 {
            let middle = stays.midpoint(turns);
            if self.turns(&change(middle)) {
                turns = middle;
            } else {
                stays = middle;
            }
        }
        let found = change(turns);
        self.is_sound(&found).then_some(found)
    }

    /// A rule that no server would take is no way out.
    fn is_sound(&self, change: &Change) -> bool {
        let Change::Setting { path, to, .. } = change else { return true };
        set(&self.rules(), path, to).is_ok_and(|rules| lint(&rules).len() <= self.faults)
    }

    fn level(&self, to: Level) -> Option<Change> {
        let action = self.decided.proposal.action;
        let from = self.rules().levels.get(&action).copied().unwrap_or(Level::Off);
        let change = Change::Setting {
            path: format!("levels.{action}"),
            from: from.as_str().to_owned(),
            to: to.as_str().to_owned(),
        };
        let possible = to != from && to <= ceiling(action);
        (possible && self.turns(&change) && self.is_sound(&change)).then_some(change)
    }

    fn flip(&self, gate: &str, change: Change) -> Flip {
        let Judged { proposal, ruling, .. } = self.judged(&change);
        let (gate, action) = (gate.to_owned(), proposal.action);
        Flip { gate, change, action, ruling, together: false }
    }

    /// Rules of one gate that turn the decision when they are loosened, or tightened.
    fn settings(&self, gate: &str, loosen: bool) -> Vec<Change> {
        let action = self.decided.proposal.action;
        let of_gate = KNOBS.iter().filter(|knob| knob.gate == gate);
        let mut found: Vec<Change> = of_gate
            .filter_map(|Knob { path, loose, tight, .. }| {
                let toward = if loosen { *loose } else { *tight };
                self.number(&path.replace("{action}", action.as_str()), toward)
            })
            .collect();
        if matches!(gate, "autonomy" | "approval") {
            let ladder = [Level::Off, Level::Shadow, Level::Propose, Level::Auto];
            let steps: Vec<Level> = match loosen {
                true => ladder.to_vec(),
                false => ladder.into_iter().rev().collect(),
            };
            found.extend(steps.into_iter().find_map(|level| self.level(level)));
        }
        if gate == "maintenance" && loosen {
            found.extend(self.windows());
        }
        found
    }

    /// Ending the open window of the policy now.
    fn windows(&self) -> Option<Change> {
        let rules = self.rules();
        let open = rules.windows.iter().enumerate().filter_map(|(index, window)| {
            let change = Change::Setting {
                path: format!("windows[{index}].end"),
                from: window.end.clone().unwrap_or_default(),
                to: format_time(self.decided.now),
            };
            (self.turns(&change) && self.is_sound(&change)).then_some(change)
        });
        open.into_iter().next()
    }

    /// Circumstances behind the verdict of one gate that turn the decision.
    fn circumstances(&self, verdict: &Verdict) -> Vec<Change> {
        let mut tried = knobs::circumstances(self.decided, verdict);
        tried.extend(self.time());
        tried.retain(|change| self.turns(change));
        tried
    }

    /// The first moment at which a gate clears that turns the decision.
    fn time(&self) -> Option<Change> {
        let now = self.decided.now;
        let mut moments: Vec<Millis> = self
            .decided
            .verdicts
            .iter()
            .filter_map(|v| v.clears_at)
            .filter(|at| *at > now)
            .collect();
        moments.sort_unstable();
        let changes = moments.into_iter().map(|at| Change::Later { at, by: at - now });
        changes.into_iter().find(|change| self.turns(change))
    }
}

fn blocking(decided: &Decided) -> impl Iterator<Item = &Verdict> {
    decided.verdicts.iter().filter(|verdict| verdict.effect != Effect::Pass)
}

/// What would have let a blocked action through.
fn permits(decided: &Decided, policy: &Policy) -> Vec<Flip> {
    let (action, before) = (decided.proposal.action, rank(&decided.ruling));
    let turned =
        |judged: &Judged| judged.proposal.action == action && rank(&judged.ruling) < before;
    let search = Search::new(decided, policy, &turned);
    let mut settings = Vec::new();
    let mut circumstances = Vec::new();
    for verdict in blocking(decided) {
        let flip = |change| search.flip(&verdict.gate, change);
        settings.extend(search.settings(&verdict.gate, true).into_iter().map(flip));
        circumstances.extend(search.circumstances(verdict).into_iter().map(flip));
    }
    let mut flips = sorted(settings);
    for flip in circumstances {
        if !flips.iter().any(|known| known.change == flip.change) {
            flips.push(flip);
        }
    }
    if flips.is_empty() { together(decided, policy) } else { flips }
}

/// One change per gate that stands in the way, none of which is enough alone.
fn together(decided: &Decided, policy: &Policy) -> Vec<Flip> {
    let action = decided.proposal.action;
    let mut given: Vec<(String, Change)> = Vec::new();
    for verdict in blocking(decided) {
        let gate = &*verdict.gate;
        let passes = |judged: &Judged| {
            let said = judged.verdicts.iter().find(|v| v.gate == gate).map(|v| v.effect);
            judged.proposal.action == action && said == Some(Effect::Pass)
        };
        let mut search = Search::new(decided, policy, &passes);
        search.given = given.iter().map(|(_, change)| change.clone()).collect();
        if passes(&judge(decided, policy, &search.given, false)) {
            continue;
        }
        let change = search
            .settings(gate, true)
            .into_iter()
            .next()
            .or_else(|| search.circumstances(verdict).into_iter().next());
        let Some(change) = change else { return Vec::new() };
        given.push((gate.to_owned(), change));
    }
    let changes: Vec<Change> = given.iter().map(|(_, change)| change.clone()).collect();
    let Judged { proposal, ruling, .. } = judge(decided, policy, &changes, false);
    if proposal.action != action || rank(&ruling) >= rank(&decided.ruling) {
        return Vec::new();
    }
    let flip =
        |(gate, change)| Flip { gate, change, action, ruling: ruling.clone(), together: true };
    given.into_iter().map(flip).collect()
}

/// What would have kept back what was done.
fn restrains(decided: &Decided, policy: &Policy) -> Vec<Flip> {
    let action = decided.proposal.action;
    let turned =
        |judged: &Judged| judged.proposal.action == action && judged.ruling != Ruling::Permitted;
    let search = Search::new(decided, policy, &turned);
    let flips = decided.verdicts.iter().flat_map(|verdict| {
        let mut changes = search.settings(&verdict.gate, false);
        changes.extend(knobs::doubts(decided, verdict).filter(|change| search.turns(change)));
        changes.into_iter().map(|change| search.flip(&verdict.gate, change)).collect::<Vec<_>>()
    });
    sorted(flips.collect())
}

/// What would have made the agent act where it did not want to.
fn stirs(decided: &Decided, policy: &Policy) -> Vec<Flip> {
    if decided.trigger != Trigger::Reading {
        return Vec::new();
    }
    let turned = |judged: &Judged| !judged.proposal.action.is_passive();
    let search = Search::new(decided, policy, &turned);
    let paths = policy.thresholds.iter().flat_map(|(metric, rule)| {
        let path = |name: &str| format!("thresholds.{}.{name}", metric.as_str());
        let leave = u64::try_from(rule.leave).unwrap_or(0).saturating_add(1);
        [(path("enter"), Toward::Least(leave)), (path("k"), Toward::Least(1))]
    });
    let changes = paths.filter_map(|(path, toward)| search.number(&path, toward));
    sorted(changes.map(|change| search.flip("detect", change)).collect())
}

/// The smallest change first, in proportion to what it changes; one per path.
fn sorted(mut flips: Vec<Flip>) -> Vec<Flip> {
    flips.sort_by_key(|flip| distance(&flip.change));
    let mut seen = std::collections::BTreeSet::new();
    flips.retain(|flip| seen.insert(flip.change.name().to_owned()));
    flips
}

/// How far a change goes, in permille of what is there.
fn distance(change: &Change) -> u64 {
    let share = |from: u64, to: u64| from.abs_diff(to).saturating_mul(1_000) / from.max(1);
    match change {
        Change::Setting { from, to, .. } => match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) => share(from, to),
            // A level or a time is a decision, not a measure.
            _ => 1_000,
        },
        Change::Confidence { from, to } | Change::Count { from, to, .. } => {
            share((*from).into(), (*to).into())
        }
        Change::Later { .. } | Change::Lifted(_) => 1_000,
    }
}

/// Bounds the knobs share with the linter.
const REMEMBERED: u64 = DECISIONS as u64 - 1;
const FLOOR: u64 = Confidence::FLOOR as u64;

//! How far the agent has earned to go alone with an app, action by action, and how it loses that again.
//!
//! Two sources of evidence, both folded from the log: what humans said to what the agent would have done (they approved it, did the
//! same themselves, did something else, or the app needed nothing), and what became of what it did alone. A [`Track`] keeps the newest
//! of both. [`report`] holds it against the rule of the policy; a human raises the autonomy of the app then, and a second one approves.
//! What was given by name is taken back by itself: [`lost`] says when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::action::{Action, Level, ceiling};
use crate::app::{Env, Millis};
use crate::detect::FindingKind;
use crate::plan::Operation;
use crate::policy::{Graduation, Policy};
use crate::record::{Body, Concluded, Decided, Record};
use crate::state::{AppState, ApprovalState, Attempt, Health, Outcome};
use crate::verdict::{Effect, Fact};

/// Most answers remembered per app and action: the newest say how it is now.
pub const ANSWERS: usize = 50;
/// Most outcomes of what the agent did alone that are remembered per app and action.
pub const ALONE: usize = 10;

/// What a human's conduct said about one thing that the agent would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// They approved it, or did the same, and it was verified.
    Agreed,
    /// They approved it, or did the same, and it did not help.
    Unproven,
    /// They rejected it, or did something else.
    Differed,
    /// The app was well again before anybody had done anything.
    Unneeded,
}

/// The outcome of something that the agent did alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alone {
    /// When it ended.
    pub at: Millis,
    /// Verified, and not undone since by a relapse.
    pub held: bool,
    /// What it was to clear.
    pub findings: Vec<FindingKind>,
}

/// How one action fared with one app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    /// Newest last, at most [`ANSWERS`].
    pub answers: VecDeque<Answer>,
    /// Newest last, at most [`ALONE`].
    pub alone: VecDeque<Alone>,
}

/// What the agent would have done about the open incident, had its level let it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadowed {
    /// The action.
    pub action: Action,
    /// The decision.
    pub decision: u64,
}

/// How far the agent's judgement counts with one app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// Evidence by action.
    pub tracks: BTreeMap<Action, Track>,
    /// What waits for a human's conduct to be compared with.
    pub shadowed: Option<Shadowed>,
    /// Actions that had graduated when a human raised the autonomy: the only ones that prod leaves to the agent.
    pub graduated: BTreeSet<Action>,
    /// Actions that were taken back since, and when.
    pub demoted: BTreeMap<Action, Millis>,
}

/// The agent lost the autonomy of one action on one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demoted {
    /// The action.
    pub action: Action,
    /// The level from here on.
    pub to: Level,
    /// Outcomes that did not hold ...
    pub failed: u32,
    /// ... of the newest so many.
    pub of: u32,
    /// One sentence.
    pub message: String,
}

impl Standing {
    /// Whether there is nothing to say: most apps.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn answer(&mut self, action: Action, answer: Answer) {
        let answers = &mut self.tracks.entry(action).or_default().answers;
        if answers.len() >= ANSWERS {
            answers.pop_front();
        }
        answers.push_back(answer);
    }

    fn alone(&mut self, action: Action, alone: Alone) {
        let outcomes = &mut self.tracks.entry(action).or_default().alone;
        if outcomes.len() >= ALONE {
            outcomes.pop_front();
        }
        outcomes.push_back(alone);
    }

    /// What was verified has not held if the same comes back soon after.
    fn relapse(&mut self, kind: FindingKind, at: Millis, within: Millis) {
        let newest = self.tracks.values_mut().filter_map(|track| track.alone.back_mut());
        for alone in newest.filter(|alone| at.saturating_sub(alone.at) < within) {
            alone.held &= !alone.findings.contains(&kind);
        }
    }

    /// Another level was given: what has graduated is fixed, and what was done alone is counted anew.
    fn settle(&mut self, policy: &Policy) {
        let ready = |(action, track): (&Action, &Track)| {
            is_graduated(track, &policy.graduation).then_some(*action)
        };
        self.graduated = self.tracks.iter().filter_map(ready).collect();
        self.demoted.clear();
        self.shadowed = None;
        self.tracks.values_mut().for_each(|track| track.alone.clear());
    }
}

/// Folds one record about `app` into its standing; part of [`crate::state::evolve`], before the rest of the app follows.
pub(crate) fn follow(app: &mut AppState, record: &Record, policy: &Policy) {
    let standing = &mut app.standing;
    match &record.body {
        Body::Decided(decided) if is_shadow(decided) => {
            let action = decided.proposal.action;
            standing.shadowed = Some(Shadowed { action, decision: record.seq });
        }
        Body::Raised(finding) => {
            standing.relapse(finding.kind, record.at, policy.graduation.relapse_ms);
        }
        Body::HealthChanged { health: Health::Healthy } if app.attempt.is_none() => {
            if let Some(shadowed) = standing.shadowed.take() {
                standing.answer(shadowed.action, Answer::Unneeded);
            }
        }
        Body::Attempted(attempt) => match attempt.plan.operation {
            Operation::Configure { raises: Some(_), .. } => standing.settle(policy),
            _ if !attempt.human => standing.shadowed = None,
            _ => {}
        },
        Body::ApprovalAnswered { state: ApprovalState::Rejected, .. } => {
            let held = |d: &&crate::state::Remembered| Some(d.seq) == record.cause && !d.human;
            if let Some(action) = app.decisions.iter().find(held).map(|d| d.action) {
                app.standing.answer(action, Answer::Differed);
            }
        }
        Body::Concluded(concluded) => {
            if let Some(attempt) = app.attempt.as_ref().filter(|a| a.decision == concluded.decision)
            {
                conclude(standing, attempt, concluded, record.at);
            }
        }
        Body::Demoted(demoted) => {
            standing.demoted.insert(demoted.action, record.at);
            standing.tracks.remove(&demoted.action);
        }
        _ => {}
    }
}

/// A decision of the agent that nothing but its level kept from being carried out or asked for.
fn is_shadow(decided: &Decided) -> bool {
    let against = || decided.verdicts.iter().filter(|v| v.effect != Effect::Pass);
    let shadow =
        |gate: &str, value: &Fact| gate == "autonomy" && *value == Fact::Level(Level::Shadow);
    decided.proposal.source == crate::choose::Source::Agent
        && decided.proposal.plan.is_some()
        && against().next().is_some()
        && against().all(|v| shadow(&v.gate, &v.value))
}

fn conclude(standing: &mut Standing, attempt: &Attempt, concluded: &Concluded, at: Millis) {
    let (action, verified) = (concluded.action, concluded.outcome == Outcome::Verified);
    let said = |same: bool| match (same, verified) {
        (false, _) => Answer::Differed,
        (true, true) => Answer::Agreed,
        (true, false) => Answer::Unproven,
    };
    match (attempt.human, attempt.approval) {
        (true, _) => {
            if let Some(shadowed) = standing.shadowed.take() {
                standing.answer(shadowed.action, said(action == shadowed.action));
            }
        }
        (false, Some(_)) => standing.answer(action, said(true)),
        // Something that a human wanted took its place: it says nothing about the agent.
        (false, None) if concluded.human => {}
        (false, None) => {
            let findings = attempt.trigger.clone();
            standing.alone(action, Alone { at, held: verified, findings });
        }
    }
}

/// The most the agent may do alone with `app`, whatever the policy says of `action`: the limit of the app itself, what it earned in
/// prod, and what was taken back.
#[must_use]
pub fn limit(app: &AppState, env: Env, action: Action) -> Level {
    let standing = &app.standing;
    let given = app.profile.autonomy.unwrap_or_else(|| unnamed(env));
    let earned = env != Env::Prod || standing.graduated.contains(&action);
    match given {
        Level::Auto if !earned || standing.demoted.contains_key(&action) => Level::Propose,
        other => other,
    }
}

/// What an app is left to the agent with whose specification names no level: in prod autonomy is given by name.
#[must_use]
pub const fn unnamed(env: Env) -> Level {
    match env {
        Env::Dev | Env::Stage => Level::Auto,
        Env::Prod => Level::Propose,
    }
}

/// What `asked` gives the agent that it does not have now; `None` when it gives nothing. Naming `AUTO` anew gives back what was taken,
/// and in prod what has graduated since.
#[must_use]
pub fn raised(app: &AppState, policy: &Policy, asked: Option<Level>, named: bool) -> Option<Level> {
    let now = app.profile.autonomy.unwrap_or_else(|| unnamed(policy.env));
    let then = asked.unwrap_or_else(|| unnamed(policy.env));
    let standing = &app.standing;
    let more = || {
        let ready = |(action, track): (&Action, &Track)| {
            is_graduated(track, &policy.graduation) && !standing.graduated.contains(action)
        };
        !standing.demoted.is_empty()
            || (policy.env == Env::Prod && standing.tracks.iter().any(ready))
    };
    let again = named && asked == Some(Level::Auto) && now == Level::Auto && more();
    (then > now || again).then_some(then)
}

/// Whether any action has graduated: without one, `AUTO` in prod would give nothing.
#[must_use]
pub fn any_graduated(app: &AppState, policy: &Policy) -> bool {
    app.standing.tracks.values().any(|track| is_graduated(track, &policy.graduation))
}

fn is_graduated(track: &Track, rule: &Graduation) -> bool {
    let Count { answered, agreed, .. } = Count::of(track);
    answered >= rule.decisions && permille(agreed, answered) >= rule.agreement_permille
}

fn permille(part: u32, whole: u32) -> u32 {
    part.saturating_mul(1_000).checked_div(whole).unwrap_or(0)
}

/// What the agent has to give back now: an action that it was given by name, and that failed or relapsed too often of late.
#[must_use]
pub(crate) fn lost(app: &AppState, policy: &Policy) -> Option<Demoted> {
    let rule = &policy.graduation;
    let given = app.profile.autonomy == Some(Level::Auto);
    let (action, failed, of) =
        app.standing.tracks.iter().filter(|_| given).find_map(|(action, track)| {
            let newest = || track.alone.iter().rev().take(rule.of as usize);
            let failed = newest().filter(|alone| !alone.held).count();
            let is_lost =
                failed >= rule.failures as usize && limit(app, policy.env, *action) == Level::Auto;
            is_lost.then(|| (*action, small(failed), small(newest().count())))
        })?;
    let to = Level::Propose;
    let message = format!(
        "{action} of {} is {} from here on: {failed} of the last {of} that the agent did alone did not hold",
        app.profile.name,
        to.as_str()
    );
    Some(Demoted { action, to, failed, of, message })
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Answers by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub answered: u32,
    /// [`Answer::Agreed`].
    pub agreed: u32,
    /// [`Answer::Unproven`].
    pub unproven: u32,
    /// [`Answer::Differed`].
    pub differed: u32,
    /// [`Answer::Unneeded`].
    pub unneeded: u32,
}

impl Count {
    fn of(track: &Track) -> Self {
        let of = |kind| small(track.answers.iter().filter(|answer| **answer == kind).count());
        Self {
            answered: small(track.answers.len()),
            agreed: of(Answer::Agreed),
            unproven: of(Answer::Unproven),
            differed: of(Answer::Differed),
            unneeded: of(Answer::Unneeded),
        }
    }
}

/// One condition of graduation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What is asked for.
    pub what: &'static str,
    /// What is there.
    pub value: Fact,
    /// The least that is enough.
    pub limit: Fact,
    /// Whether it is enough.
    pub met: bool,
}

/// The case for leaving one action on one app to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The action.
    pub action: Action,
    /// The level in force, with everything that limits it.
    pub level: Level,
    /// What humans said, newest so many.
    pub count: Count,
    /// Outcomes of what the agent did alone since its level last changed, newest so many, that held.
    pub held: u32,
    /// Those that failed or relapsed.
    pub failed: u32,
    /// When its autonomy was taken back.
    pub demoted_at: Option<Millis>,
    /// What graduation asks for.
    pub conditions: Vec<Condition>,
}

impl Report {
    /// Whether every condition is met.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.iter().all(|condition| condition.met)
    }
}

/// The case for every action that can be left to the agent at all.
#[must_use]
pub fn report(app: &AppState, policy: &Policy) -> Vec<Report> {
    let can = |action: &Action| {
        action.is_selectable() && !action.is_passive() && ceiling(*action) == Level::Auto
    };
    Action::ALL.into_iter().filter(can).map(|action| of_action(app, policy, action)).collect()
}

fn of_action(app: &AppState, policy: &Policy, action: Action) -> Report {
    let none = Track::default();
    let track = app.standing.tracks.get(&action).unwrap_or(&none);
    let (rule, count) = (&policy.graduation, Count::of(track));
    let agreement = permille(count.agreed, count.answered);
    let granted = policy.level(action);
    let least = |what, value: u32, limit: u32| Condition {
        what,
        value: Fact::Count(value.into()),
        limit: Fact::Count(limit.into()),
        met: value >= limit,
    };
    let held = track.alone.iter().filter(|alone| alone.held).count();
    Report {
        action,
        level: granted.min(limit(app, policy.env, action)),
        count,
        held: small(held),
        failed: small(track.alone.len().saturating_sub(held)),
        demoted_at: app.standing.demoted.get(&action).copied(),
        conditions: vec![
            least("decisions that humans answered", count.answered, rule.decisions),
            Condition {
                what: "share of them that was agreed with and verified",
                value: Fact::Permille(agreement),
                limit: Fact::Permille(rule.agreement_permille),
                met: agreement >= rule.agreement_permille,
            },
            Condition {
                what: "level the policy allows",
                value: Fact::Level(granted),
                limit: Fact::Level(Level::Auto),
                met: granted == Level::Auto,
            },
        ],
    }
}

#[cfg(test)]
mod tests;

//! Exploration: now and then another remedy than the best is taken, so that the learner can find out what it does not know.
//!
//! That is done to apps that somebody depends on, so it has limits, and they are looked at before anything is drawn:
//!
//! * never with a rollback, with one instance fewer, or with an action that takes more away than it gives;
//! * never with an action whose chance to beat doing nothing is below [`CHANCE_MIN`];
//! * never when doing nothing is best, while learning is frozen, or in stage;
//! * in prod only with what a human has to approve;
//! * never while the error budget of the app is spent, another app is in trouble too, or a plan waits for a human;
//! * once per incident, and in one of [`SHARE`] decisions of a day, or once.
//!
//! The probability with which the chosen action was chosen is part of the proposal: `(1 - eps) [it is the best] + eps / n`.

use serde::{Deserialize, Serialize};

use super::{Choice, Ranked, draw};
use crate::action::{Action, Level};
use crate::app::{Env, Millis};
use crate::graduation;

/// Least chance to beat doing nothing, in permille.
const CHANCE_MIN: u32 = 300;
/// At most one in so many decisions of a day explores: 2 %.
const SHARE: usize = 50;
/// Most exploratory actions in one incident.
const PER_INCIDENT: usize = 1;
const DAY: Millis = 24 * 60 * 60 * 1_000;

/// What forbids to explore, beside the app itself. Part of the evidence of a decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leeway {
    /// The app was down for longer than it may be in a month.
    pub budget_spent: bool,
    /// Other apps that are in trouble: which of them depend on each other nobody knows, so any may be the cause.
    pub elsewhere: u32,
    /// A plan for the app waits for a human: it is not exchanged for another one by chance.
    pub waits: bool,
}

/// Draws, and puts what was drawn first. Gives whether that was not the best, and the probability with which it was chosen.
pub(super) fn explore(choice: &Choice<'_>, options: &mut [Ranked]) -> (bool, u32) {
    let ppm = if may_explore(choice) { exploration_ppm(choice) } else { 0 };
    let drawable = drawable(choice, options);
    if ppm == 0 || drawable.iter().all(|index| *index == 0) {
        return (false, draw::CERTAIN_PPM);
    }
    let draw = draw::Draw::new(choice.policy.learning.seed, &choice.app.profile.name, choice.seq);
    let index = drawable.get(draw.index(drawable.len())).copied().unwrap_or(0);
    let index = if draw.explores(ppm) { index } else { 0 };
    if let Some(head) = options.get_mut(..=index) {
        head.rotate_right(1);
    }
    (index != 0, propensity_ppm(ppm, &drawable, index))
}

/// The share of decisions that explore, in millionths. Stage is deterministic whatever its policy says.
fn exploration_ppm(choice: &Choice<'_>) -> u32 {
    let asked = choice.policy.learning.exploration_ppm.min(draw::CERTAIN_PPM);
    if choice.frozen || choice.policy.env == Env::Stage { 0 } else { asked }
}

/// Whether this is a moment to explore in at all.
fn may_explore(choice: &Choice<'_>) -> bool {
    let Some(leeway) = choice.leeway else { return true };
    let Choice { app, now, .. } = *choice;
    let since = |from: Millis| app.decisions.iter().filter(move |d| d.at >= from);
    let explored = |from: Millis| since(from).filter(|d| d.explored).count();
    let day = now.saturating_sub(DAY);
    let a_day = (since(day).count() / SHARE).max(1);
    let begun = app.open.values().map(|open| open.since).min().unwrap_or(now);
    !leeway.budget_spent
        && !leeway.waits
        && leeway.elsewhere == 0
        && explored(begun) < PER_INCIDENT
        && explored(day) < a_day
}

/// Indices of what may be drawn: remedies, when the best is one, that take nothing away and may well help; in prod only those that a
/// human must approve.
fn drawable(choice: &Choice<'_>, options: &[Ranked]) -> Vec<usize> {
    if !options.first().is_some_and(Ranked::is_remedy) {
        return Vec::new();
    }
    let supervised = |action: Action| {
        let level = choice.policy.level(action);
        level.min(graduation::limit(choice.app, choice.policy.env, action)) <= Level::Propose
    };
    let harmless =
        |a: Action| matches!(a, Action::Restart | Action::ScaleUp | Action::RetryDeployment);
    let promising = |o: &Ranked| choice.leeway.is_none() || o.candidate.chance >= CHANCE_MIN;
    let allowed = |o: &Ranked| {
        let action = o.candidate.action;
        o.is_remedy()
            && harmless(action)
            && promising(o)
            && (choice.policy.env != Env::Prod || supervised(action))
    };
    let indexed = options.iter().enumerate();
    indexed.filter(|(_, option)| allowed(option)).map(|(index, _)| index).collect()
}

/// Probability, in millionths, that the option at `index` is chosen: an equal share of the exploration if it can be drawn, and all
/// the rest if it is the best.
pub(super) fn propensity_ppm(ppm: u32, drawable: &[usize], index: usize) -> u32 {
    let count = u32::try_from(drawable.len()).unwrap_or(u32::MAX).max(1);
    let share = ppm / count;
    if index == 0 {
        let others = drawable.iter().filter(|i| **i != 0).count();
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        draw::CERTAIN_PPM.saturating_sub(share.saturating_mul(others))
    } else {
        share
    }
}

#[cfg(test)]
mod tests;

//! What `ccq` says about the candidates of an incident.

use super::ccq::{ACTIONS, COUNT, Catalogue, Effort, Judgement, Limits, Tried, judge, position};
use super::{Choice, Diagnosis, Ranked, Resolves};
use crate::action::{Action, Level};
use crate::detect::Signature;
use crate::policy::Learner;
use crate::state::Outcome;

/// How often each of [`ACTIONS`] is looked ahead in one incident. Together they take less time than the horizon, so that there is
/// always a next step to think about, however long an incident lasts.
const AHEAD: Limits = [3, 2, 3, 1, 1, 1];
/// Faults that are named.
const NAMED: usize = 3;

/// What the learner says; nothing when another learner is asked, or the catalogue does not know what the incident looks like.
pub(super) struct Judged(Option<(Signature, Judgement)>);

impl Judged {
    pub(super) fn new(
        choice: &Choice<'_>,
        signature: Option<Signature>,
        options: &[Ranked],
    ) -> Self {
        let asked = choice.policy.learning.learner == Learner::Ccq;
        let signature = signature.filter(|_| asked);
        Self(signature.and_then(|signature| appraise(choice, signature, options)))
    }

    /// Gives the candidates the numbers of the learner instead of those of the table. What a rule takes for harmless, because it only
    /// starts what is down, stays above its floor.
    pub(super) fn apply(&self, options: &mut [Ranked]) {
        let Some((_, judgement)) = &self.0 else { return };
        for option in options {
            let of = |judged: &&super::ccq::Judged| judged.action == option.candidate.action;
            let Some(judged) = judgement.ranked.iter().find(of) else { continue };
            option.candidate.chance = judged.beats_noop.max(option.floor);
            option.candidate.value = judged.cost_micro.saturating_neg();
            option.candidate.trials = judged.trials;
            option.candidate.resolves = Some(Resolves {
                chance: judged.resolves,
                low: judged.resolves_low,
                high: judged.resolves_high,
            });
        }
    }

    /// What it made of the incident.
    pub(super) fn diagnosis(self, chosen: Option<Action>) -> Option<Diagnosis> {
        let (signature, judgement) = self.0?;
        let judged = judgement.ranked.iter().find(|judged| Some(judged.action) == chosen);
        let expected = judged.map(|judged| judged.expected);
        let mut faults = judgement.diagnosis;
        faults.truncate(NAMED);
        Some(Diagnosis { signature, faults, expected })
    }
}

/// What the catalogue, corrected by the beliefs, says of all candidates.
pub(super) fn appraise(
    choice: &Choice<'_>,
    signature: Signature,
    options: &[Ranked],
) -> Option<(Signature, Judgement)> {
    let catalogue = Catalogue::builtin();
    let tried = tried(choice, &catalogue);
    let limits = limits(choice, &tried, options, catalogue.horizon);
    let judgement = judge(&catalogue, choice.beliefs, signature, &tried, limits)?;
    Some((signature, judgement))
}

/// What was tried in vain since something helped last, by the agent and within the memory; and how many steps nothing helped.
fn tried(choice: &Choice<'_>, catalogue: &Catalogue) -> Tried {
    let since = choice.now.saturating_sub(choice.policy.memory.window_ms);
    let helped = |outcome: Option<Outcome>| outcome == Some(Outcome::Verified);
    let recent = choice.app.decisions.iter().rev();
    let mut tried = [0; COUNT];
    for decision in recent.take_while(|d| !helped(d.outcome) && d.at >= since) {
        let counts = decision.executed && !decision.human;
        let in_vain = decision.outcome == Some(Outcome::Failed);
        if let Some(count) = position(decision.action).and_then(|p| tried.get_mut(p))
            && counts
            && in_vain
        {
            *count += 1;
        }
    }
    for (count, most) in tried.iter_mut().zip(AHEAD) {
        *count = (*count).min(most);
    }
    if let Some(still) = tried.first_mut() {
        *still = waited(choice, catalogue);
    }
    tried
}

/// Steps since the incident began, as far as they are looked at.
fn waited(choice: &Choice<'_>, catalogue: &Catalogue) -> u8 {
    let begun = choice.app.open.values().map(|open| open.since).min();
    let lasts = begun.map_or(0, |at| choice.now.saturating_sub(at));
    let most = AHEAD.first().copied().unwrap_or(0);
    u8::try_from(lasts / catalogue.step_ms.max(1)).unwrap_or(u8::MAX).min(most)
}

/// What the gates may let through at all: candidates that can be carried out and whose level is not off, each as often as is looked
/// ahead and once more in any case. Doing nothing is never forbidden.
fn limits(choice: &Choice<'_>, tried: &Tried, options: &[Ranked], horizon: u8) -> Limits {
    let mut limits = *tried;
    for (((action, limit), tried), ahead) in
        ACTIONS.into_iter().zip(&mut limits).zip(tried).zip(AHEAD)
    {
        let possible = |option: &Ranked| option.candidate.action == action && option.is_remedy();
        let permitted = choice.policy.level(action) > Level::Off && options.iter().any(possible);
        if action == Action::Noop {
            *limit = horizon;
        } else if permitted {
            *limit = ahead.max(tried + 1);
        }
    }
    limits
}

const _: () = {
    let mut steps = 0;
    let mut rest: &[u8] = &AHEAD;
    let mut efforts: &[Effort] = &super::ccq::EFFORTS;
    while let ([ahead, more @ ..], [effort, others @ ..]) = (rest, efforts) {
        steps += *ahead * effort.steps;
        (rest, efforts) = (more, others);
    }
    assert!(steps < super::ccq::BUILTIN_HORIZON, "an incident must leave a step to look ahead");
};

#[cfg(test)]
mod tests;

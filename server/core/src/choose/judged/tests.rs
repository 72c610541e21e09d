use crate::action::{Action, Level};
use crate::choose::ccq::{Fixed, OWN, Trial};
use crate::choose::{Candidate, Proposal};
use crate::detect::Signature;
use crate::detect::story::{MONITOR, Story};
use crate::policy::{Confidence, Learner};
use crate::signal::{Exit, MICRO, Metric};
use crate::state::Outcome;

const PERCENT: i64 = MICRO / 100;

/// The catalogue is asked.
fn healthy(instances: u32) -> Story {
    let mut story = Story::healthy(instances);
    story.policy.learning.learner = Learner::Ccq;
    story
}

fn overloaded(metric: Metric, micro: i64) -> Story {
    let mut story = healthy(2);
    (0..3).for_each(|_| _ = story.hears(metric, micro));
    story
}

fn candidate(proposal: &Proposal, action: Action) -> &Candidate {
    proposal.candidates.iter().find(|candidate| candidate.action == action).unwrap()
}

/// Attempts under the signature of what is wrong end like that.
fn ended(story: &mut Story, action: Action, resolved: bool, times: u32) {
    let signature = story.chooses().diagnosis.unwrap().signature;
    for _ in 0..times {
        let trial = Trial {
            signature,
            action,
            resolved,
            cost: Fixed::ONE,
            chance: Fixed::micro(500_000),
            cost0: Fixed::ONE,
        };
        story.knowledge.learn(OWN, &trial);
    }
}

#[test]
fn a_decision_says_what_it_looks_like_what_it_may_be_and_how_likely_the_remedy_helps() {
    let proposal = overloaded(Metric::MemoryUtilization, 95 * PERCENT).chooses();
    let diagnosis = proposal.diagnosis.clone().unwrap();
    assert_eq!(diagnosis.signature, Signature::MemRising);
    assert_eq!(diagnosis.faults[0].0, "leak");
    assert!(diagnosis.faults.len() <= 3 && diagnosis.expected.is_some());
    let restart = candidate(&proposal, Action::Restart);
    let resolves = restart.resolves.unwrap();
    assert!(resolves.low < resolves.chance && resolves.chance < resolves.high);
    assert!(restart.value > candidate(&proposal, Action::Noop).value);
    assert!(candidate(&proposal, Action::Escalate).resolves.is_none());
}

#[test]
fn errors_of_an_app_that_is_well_itself_are_no_reason_to_restart_it() {
    let story = overloaded(Metric::ErrorRatio, 50 * PERCENT);
    let proposal = story.chooses();
    assert_eq!(proposal.diagnosis.unwrap().signature, Signature::DepErrors);
    assert!(proposal.confidence < Confidence::FLOOR, "{}", proposal.confidence);
}

#[test]
fn what_points_to_no_cause_is_looked_at_before_anything_is_done() {
    let signature = |story: &Story| story.chooses().diagnosis.unwrap().signature;
    let mut story = overloaded(Metric::LatencyP99, 3 * MICRO);
    assert_eq!(signature(&story), Signature::CpuLoad, "slow is overloaded");
    assert!(story.chooses().confidence >= story.policy.confidence.r1);
    for _ in 0..3 {
        story.says(MONITOR, Metric::LatencyP99, 3 * MICRO);
        story.hears(Metric::ErrorRatio, 50 * PERCENT);
    }
    assert_eq!(signature(&story), Signature::Unspecific, "slow and failing may be anything");
    assert!(story.chooses().confidence < Confidence::FLOOR);
}

#[test]
fn the_signature_is_that_of_what_is_answered_and_what_stands_around_it() {
    let mut story = healthy(1);
    story.exits(0, Exit::Code(1));
    let signature = |story: &Story| story.chooses().diagnosis.map(|d| d.signature);
    assert_eq!(signature(&story), Some(Signature::Down));
    story.exits(0, Exit::Code(1));
    assert_eq!(signature(&story), Some(Signature::DownRepeat));
    story.did(Action::Deploy, Outcome::Verified);
    assert_eq!(signature(&story), Some(Signature::DownDeploy));
    // What is not in the catalogue is left to the rules.
    let mut silent = healthy(1);
    silent.passes(46_000);
    assert_eq!(silent.chooses().diagnosis, None);
}

#[test]
fn experience_outranks_the_rule_where_every_remedy_has_enough_of_it() {
    let mut story = overloaded(Metric::MemoryUtilization, 95 * PERCENT);
    let trust = story.policy.learning.trust;
    ended(&mut story, Action::Restart, false, 4 * trust);
    ended(&mut story, Action::ScaleUp, true, trust - 1);
    let doubted = story.chooses();
    assert_eq!(candidate(&doubted, Action::Restart).trials, 4 * trust);
    ended(&mut story, Action::ScaleUp, true, 3 * trust);
    let proposal = story.chooses();
    assert_eq!(proposal.action, Action::ScaleUp);
    let (up, restart) =
        (candidate(&proposal, Action::ScaleUp), candidate(&proposal, Action::Restart));
    assert!(up.value > restart.value && up.chance > restart.chance);
}

#[test]
fn failures_in_an_incident_change_what_it_may_be() {
    let mut story = overloaded(Metric::MemoryUtilization, 95 * PERCENT);
    let leak = |story: &Story| {
        let faults = story.chooses().diagnosis.unwrap().faults;
        faults.into_iter().find(|(name, _)| name == "leak").unwrap().1
    };
    let before = leak(&story);
    story.did(Action::Restart, Outcome::Failed);
    assert!(leak(&story) < before);
    // What helped ended the incident.
    story.did(Action::Restart, Outcome::Verified);
    assert_eq!(leak(&story), before);
}

#[test]
fn what_the_gates_would_refuse_is_not_looked_ahead_to() {
    let mut story = overloaded(Metric::MemoryUtilization, 95 * PERCENT);
    assert!(candidate(&story.chooses(), Action::ScaleUp).resolves.is_some());
    story.policy.levels.insert(Action::ScaleUp, Level::Off);
    assert!(candidate(&story.chooses(), Action::ScaleUp).resolves.is_none());
}

#[test]
fn however_long_it_lasts_there_is_a_next_step() {
    let mut story = overloaded(Metric::MemoryUtilization, 95 * PERCENT);
    for _ in 0..20 {
        story.did(Action::Restart, Outcome::Failed);
        story.did(Action::ScaleUp, Outcome::Failed);
    }
    story.now += 10 * 60 * 1_000;
    let restart = candidate(&story.chooses(), Action::Restart).clone();
    assert!(restart.resolves.is_some());
}

#[test]
fn the_policy_names_the_learner_that_is_asked() {
    let mut story = overloaded(Metric::MemoryUtilization, 95 * PERCENT);
    let asked = story.chooses();
    story.policy.learning.learner = Learner::Q;
    let other = story.chooses();
    assert!(asked.diagnosis.is_some() && other.diagnosis.is_none());
    assert_ne!(asked.confidence, other.confidence);
}

#[test]
fn a_frozen_learner_says_the_same_every_time() {
    let mut story = overloaded(Metric::MemoryUtilization, 95 * PERCENT);
    story.frozen = true;
    let first = serde_json::to_vec(&story.chooses()).unwrap();
    let knowledge = story.knowledge.digest();
    assert!((0..200).all(|_| serde_json::to_vec(&story.chooses()).unwrap() == first));
    assert_eq!(story.knowledge.digest(), knowledge);
}

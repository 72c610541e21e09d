use proptest::prelude::*;

use super::exploration::propensity_ppm;
use super::*;
use crate::action::{Level, Risk};
use crate::app::Env;
use crate::detect::story::{MONITOR, Story};
use crate::plan::Operation;
use crate::policy::Learner;
use crate::signal::{Exit, MICRO, Metric, Series};
use crate::state::{Outcome, Phase};

const CPU: Metric = Metric::CpuUtilization;
const PERCENT: i64 = MICRO / 100;

/// Three ticks of the metric over its threshold.
fn overloaded(metric: Metric, micro: i64) -> Story {
    let mut story = Story::healthy(2);
    (0..3).for_each(|_| _ = story.hears(metric, micro));
    story
}

/// The learner is the table by finding, so that the rule's own numbers are told.
fn by_table(mut story: Story) -> Story {
    story.policy.learning.learner = Learner::Q;
    story
}

fn taught(story: &mut Story, action: Action, outcome: Outcome, times: usize) {
    let finding = primary(&story.findings()).unwrap().kind;
    let took_ms = if outcome == Outcome::Verified { 30_000 } else { 300_000 };
    for _ in 0..times {
        let lesson = Lesson { finding, action, taught: Taught::Outcome(outcome), took_ms };
        story.table.learn(&lesson);
    }
}

fn passes_its_minimum(story: &Story, proposal: &Proposal) -> bool {
    let risk = proposal.action.risk(story.app.desired);
    proposal.confidence >= story.policy.confidence.minimum(risk)
}

#[track_caller]
fn check(story: &Story, expected: Action) -> Proposal {
    let proposal = story.chooses();
    assert_eq!(proposal.action, expected, "{proposal:?}");
    assert_eq!(proposal.plan.is_some(), !expected.is_passive());
    assert!(proposal.candidates.iter().any(|c| c.action == Action::Noop));
    assert_eq!(proposal.source, Source::Agent);
    proposal
}

#[test]
fn nothing_wrong_nothing_done() {
    let proposal = check(&Story::healthy(2), Action::Noop);
    assert_eq!((proposal.confidence, proposal.because.len()), (1_000, 0));
}

#[test]
fn a_crash_is_answered_by_starting_what_is_down() {
    let mut story = Story::healthy(2);
    story.exits(1, Exit::Signal(9));
    assert_eq!(check(&by_table(story.clone()), Action::Restart).confidence, 900);
    let proposal = check(&story, Action::Restart);
    assert!(passes_its_minimum(&story, &proposal), "{}", proposal.confidence);
    assert_eq!(proposal.because, [FindingKind::Crash]);
    let plan = proposal.plan.unwrap();
    assert_eq!(plan.disrupts(), 0, "the instance that runs is left alone");
    assert!(matches!(&plan.operation, Operation::Restart { targets } if targets.len() == 1));
}

#[test]
fn a_crash_is_healed_although_signals_contradict_each_other() {
    let mut story = Story::healthy(2);
    story.says(MONITOR, CPU, 99 * PERCENT);
    story.says("monitor/core", CPU, 0);
    story.look();
    check(&story, Action::Observe);
    story.exits(1, Exit::Code(1));
    let proposal = check(&story, Action::Restart);
    assert_eq!(proposal.because, [FindingKind::Crash, FindingKind::Contradiction]);
}

#[test]
fn a_crash_loop_goes_back_to_a_revision_that_worked_or_goes_on_trying() {
    let mut story = Story::healthy(1);
    (0..3).for_each(|_| _ = story.exits(0, Exit::Code(1)));
    let proposal = check(&story, Action::Restart);
    assert_eq!(proposal.because, [FindingKind::CrashLoop, FindingKind::Crash]);
    assert!(passes_its_minimum(&story, &proposal));
    taught(&mut story, Action::Restart, Outcome::Failed, 50);
    assert!(passes_its_minimum(&story, &check(&story, Action::Restart)), "it never gives up");
    story.app.profile.rollback_to = Some(2);
    check(&story, Action::Restart);
    story.did(Action::Deploy, Outcome::Verified);
    let proposal = check(&story, Action::Rollback);
    assert!(passes_its_minimum(&story, &proposal), "a deployment of late is blamed for it");
}

#[test]
fn a_failed_deployment_is_tried_again_and_then_taken_back() {
    let mut story = by_table(Story::healthy(1));
    story.app.profile.failed_revision = Some(3);
    story.app.profile.rollback_to = Some(2);
    story.look();
    let proposal = check(&story, Action::RetryDeployment);
    assert!(passes_its_minimum(&story, &proposal));
    story.did(Action::RetryDeployment, Outcome::Failed);
    check(&story, Action::RetryDeployment);
    story.did(Action::RetryDeployment, Outcome::Failed);
    check(&story, Action::Rollback);

    // Whoever asks the catalogue does not hope that the same revision works a third time.
    let mut story = Story::healthy(1);
    story.policy.learning.learner = Learner::Ccq;
    story.app.profile.failed_revision = Some(3);
    story.look();
    let proposal = check(&story, Action::RetryDeployment);
    assert!(passes_its_minimum(&story, &proposal), "{proposal:?}");
    story.app.profile.rollback_to = Some(2);
    check(&story, Action::RetryDeployment);
    story.did(Action::RetryDeployment, Outcome::Failed);
    assert!(passes_its_minimum(&story, &check(&story, Action::Rollback)));
}

#[test]
fn errors_are_blamed_on_a_deployment_of_late() {
    let mut story = overloaded(Metric::ErrorRatio, 20 * PERCENT);
    check(&story, Action::Restart);
    story.app.profile.rollback_to = Some(2);
    check(&story, Action::Restart);
    story.did(Action::Deploy, Outcome::Verified);
    let proposal = check(&story, Action::Rollback);
    assert!(passes_its_minimum(&story, &proposal));
    story.now += 31 * 60 * 1_000;
    story.look();
    check(&story, Action::Restart);
}

#[test]
fn every_first_remedy_passes_its_minimum_with_full_evidence() {
    for (metric, expected) in [
        (CPU, Action::ScaleUp),
        (Metric::MemoryUtilization, Action::Restart),
        (Metric::LatencyP99, Action::ScaleUp),
        (Metric::ErrorRatio, Action::Restart),
    ] {
        let micro = if metric == Metric::LatencyP99 { 3 * MICRO } else { 99 * PERCENT };
        let story = by_table(overloaded(metric, micro));
        let proposal = check(&story, expected);
        assert!(passes_its_minimum(&story, &proposal), "{metric:?}: {}", proposal.confidence);
        assert!(proposal.action.risk(1) <= Risk::R2);
    }
    let mut story = Story::healthy(2);
    story.becomes(1, Phase::Unready);
    assert!(passes_its_minimum(&story, &check(&story, Action::Restart)));
}

#[test]
fn an_overload_at_the_maximum_is_told_to_humans_once() {
    let mut story = overloaded(CPU, 95 * PERCENT);
    story.app.profile.max = 2;
    check(&story, Action::Escalate);
    story.app.escalated = true;
    check(&story, Action::Noop);
}

#[test]
fn a_spike_is_proposed_with_a_confidence_below_every_minimum() {
    let mut story = Story::healthy(2);
    (0..5).for_each(|_| _ = story.hears(CPU, 20 * PERCENT));
    story.hears(CPU, 99 * PERCENT);
    let one = check(&story, Action::ScaleUp);
    story.hears(CPU, 99 * PERCENT);
    let two = check(&story, Action::ScaleUp);
    assert!(one.confidence < two.confidence && two.confidence < 500, "{two:?}");
    // However well the action served before, and whatever the rule asks for.
    for (k, n) in [(3, 5), (5, 5), (12, 12), (12, 1)] {
        let rule = story.policy.thresholds.get_mut(&CPU).unwrap();
        (rule.k, rule.n) = (k, n);
        let lesson = Lesson {
            finding: FindingKind::CpuOverload,
            action: Action::ScaleUp,
            taught: Taught::Outcome(Outcome::Verified),
            took_ms: 0,
        };
        (0..1_000).for_each(|_| _ = story.table.learn(&lesson));
        assert!(check(&story, Action::ScaleUp).confidence < crate::policy::Confidence::FLOOR);
    }
}

#[test]
fn while_an_overload_falls_the_agent_doubts_that_it_must_act_again() {
    let mut story = overloaded(CPU, 95 * PERCENT);
    assert!(passes_its_minimum(&story, &check(&story, Action::ScaleUp)));
    (0..4).for_each(|_| _ = story.hears(CPU, 70 * PERCENT));
    assert!(passes_its_minimum(&story, &check(&story, Action::ScaleUp)), "not below leave yet");
    let mut story = overloaded(CPU, 95 * PERCENT);
    for micro in [10, 10, 70, 10, 10] {
        story.hears(CPU, micro * PERCENT);
    }
    assert!(story.app.open.contains_key(&FindingKind::CpuOverload));
    assert!(!passes_its_minimum(&story, &check(&story, Action::ScaleUp)));
}

#[test]
fn evidence_that_ages_or_is_disputed_is_worth_less() {
    let mut story = by_table(overloaded(CPU, 95 * PERCENT));
    assert_eq!(check(&story, Action::ScaleUp).confidence, 850);
    story.passes(15_000);
    assert_eq!(check(&story, Action::ScaleUp).confidence, 425, "half at the end of its time");
    story.passes(1);
    assert_eq!(check(&story, Action::ScaleUp).confidence, 0, "no data is no evidence");

    let mut story = by_table(overloaded(CPU, 95 * PERCENT));
    story.says("monitor/core", CPU, 70 * PERCENT);
    story.look();
    assert_eq!(check(&story, Action::ScaleUp).confidence, 850, "above leave is agreement");
    story.now += 1;
    story.says("monitor/core", CPU, 50 * PERCENT);
    story.look();
    assert_eq!(check(&story, Action::ScaleUp).confidence, 425, "one of two agrees");
}

#[test]
fn contradiction_and_flapping_alone_are_observed_and_hide_no_remedy_from_the_gates() {
    let mut story = Story::healthy(1);
    story.claims(MONITOR, "memory_high", true);
    story.claims(MONITOR, "memory_low", true);
    story.look();
    check(&story, Action::Observe);
    let mut story = overloaded(CPU, 95 * PERCENT);
    story.claims(MONITOR, "memory_high", true);
    story.claims(MONITOR, "memory_low", true);
    story.look();
    // What would be done if the signals could be believed; the gate `conflict` refuses it.
    let proposal = check(&story, Action::ScaleUp);
    assert_eq!(proposal.because, [FindingKind::CpuOverload, FindingKind::Contradiction]);

    let mut story = Story::healthy(1);
    for ago in [500_000, 400_000, 300_000] {
        story.health_was(crate::state::Health::Healthy, ago);
        story.health_was(crate::state::Health::Down, ago - 1_000);
    }
    story.look();
    check(&story, Action::Observe);
}

#[test]
fn silence_is_observed_and_then_told_to_humans_once() {
    let mut story = Story::healthy(2);
    story.passes(46_000);
    check(&story, Action::Observe);
    story.passes(45_000);
    check(&story, Action::Escalate);
    story.app.escalated = true;
    check(&story, Action::Observe);
}

#[test]
fn a_leak_is_answered_by_a_restart() {
    let mut story = Story::healthy(2);
    (0..9).for_each(|n| _ = story.hears(Metric::MemoryUtilization, (45 + 3 * n) * PERCENT));
    let proposal = check(&story, Action::Restart);
    assert!(passes_its_minimum(&story, &proposal));
}

#[test]
fn unused_capacity_is_given_back_only_when_it_is_known_to_be_unused() {
    let mut story = Story::healthy(2);
    (1..Series::RECENT).for_each(|_| _ = story.hears(CPU, 10 * PERCENT));
    check(&story, Action::Noop);
    story.hears(CPU, 10 * PERCENT);
    let proposal = check(&story, Action::ScaleDown);
    assert!(passes_its_minimum(&story, &proposal));
    story.passes(16_000);
    check(&story, Action::Noop);
    (0..Series::RECENT).for_each(|_| _ = story.hears(CPU, 10 * PERCENT));
    story.hears(CPU, 33 * PERCENT);
    check(&story, Action::Noop);
}

#[test]
fn failures_lower_a_value_below_the_next_one_but_only_trusted_values_outrank_the_rule() {
    let mut story = by_table(overloaded(Metric::MemoryUtilization, 95 * PERCENT));
    let trust = usize::try_from(story.policy.learning.trust).unwrap();
    taught(&mut story, Action::Restart, Outcome::Failed, trust);
    taught(&mut story, Action::ScaleUp, Outcome::Verified, trust - 1);
    let row = story.table.row(FindingKind::MemoryOverload);
    assert!(row.get(Action::Restart).q_micro < row.get(Action::ScaleUp).q_micro);
    check(&story, Action::Restart);
    taught(&mut story, Action::ScaleUp, Outcome::Verified, 1);
    let proposal = check(&story, Action::ScaleUp);
    let ranked: Vec<_> = proposal.candidates.iter().map(|c| (c.action, c.rank)).collect();
    let expected =
        [(Action::ScaleUp, 1), (Action::Restart, 0), (Action::Escalate, 2), (Action::Noop, 3)];
    assert_eq!(ranked, expected);
    story.frozen = true;
    check(&story, Action::ScaleUp);
}

#[test]
fn equal_values_go_to_the_action_that_changes_least() {
    let mut story = by_table(overloaded(Metric::MemoryUtilization, 95 * PERCENT));
    let trust = story.policy.learning.trust;
    let value = Value { q_micro: -1, trials: trust, verified: trust, rejected: 0 };
    let row = serde_json::json!({ "RESTART": value, "SCALE_UP": value });
    let table = serde_json::json!({ "MEMORY_OVERLOAD": row });
    story.table = serde_json::from_value(table).unwrap();
    check(&story, Action::ScaleUp);
}

#[test]
fn what_cannot_be_carried_out_comes_last_and_is_not_compared() {
    let mut story = by_table(overloaded(Metric::MemoryUtilization, 95 * PERCENT));
    story.app.profile.max = 2;
    taught(&mut story, Action::Restart, Outcome::Failed, 9);
    taught(&mut story, Action::ScaleUp, Outcome::Verified, 9);
    let proposal = check(&story, Action::Restart);
    assert_eq!(proposal.candidates.last().unwrap().action, Action::ScaleUp);
}

fn exploring(env: Env, exploration_ppm: u32) -> Story {
    let mut story = overloaded(Metric::MemoryUtilization, 95 * PERCENT);
    story.policy = Policy::default_for(env);
    story.policy.learning.learner = Learner::Q;
    story.policy.learning.exploration_ppm = exploration_ppm;
    story
}

fn draws(mut story: Story) -> Vec<Proposal> {
    let mut draw = |seq| {
        story.seq = seq;
        story.chooses()
    };
    (0..2_000).map(&mut draw).collect()
}

#[test]
fn exploration_takes_another_remedy_now_and_then_and_says_with_which_probability() {
    let proposals = draws(exploring(Env::Dev, 200_000));
    let (explored, best): (Vec<_>, Vec<_>) = proposals.iter().partition(|p| p.explored);
    assert!((150..250).contains(&explored.len()), "{} of 2,000 at 10 %", explored.len());
    let odd = |p: &&Proposal| p.action == Action::ScaleUp && p.propensity_ppm == 100_000;
    assert!(explored.iter().all(odd));
    let usual = |p: &&Proposal| p.action == Action::Restart && p.propensity_ppm == 900_000;
    assert!(best.iter().all(usual));
}

#[test]
fn frozen_stage_and_unsupervised_prod_never_explore() {
    let mut frozen = exploring(Env::Dev, 1_000_000);
    frozen.frozen = true;
    let mut graduated = exploring(Env::Prod, 1_000_000);
    graduated.app.profile.autonomy = Some(Level::Auto);
    for action in [Action::Restart, Action::ScaleUp] {
        graduated.policy.levels.insert(action, Level::Auto);
        graduated.app.standing.graduated.insert(action);
    }
    for story in [frozen, exploring(Env::Stage, 1_000_000), exploring(Env::Dev, 0), graduated] {
        let usual = |p: &Proposal| {
            !p.explored && p.action == Action::Restart && p.propensity_ppm == 1_000_000
        };
        assert!(draws(story).iter().all(usual));
    }
    assert!(draws(exploring(Env::Prod, 1_000_000)).iter().any(|p| p.explored));
}

#[test]
fn rollback_scale_down_and_passive_choices_are_never_explored() {
    let mut failed = exploring(Env::Dev, 1_000_000);
    failed.app.profile.failed_revision = Some(3);
    failed.app.profile.rollback_to = Some(2);
    assert!(draws(failed).iter().all(|p| p.action == Action::RetryDeployment && !p.explored));

    let mut silent = Story::healthy(2);
    silent.policy = exploring(Env::Dev, 1_000_000).policy;
    silent.passes(46_000);
    assert!(draws(silent).iter().all(|p| p.action == Action::Observe && !p.explored));

    let mut idle = Story::healthy(2);
    idle.policy = exploring(Env::Dev, 1_000_000).policy;
    (0..Series::RECENT).for_each(|_| _ = idle.hears(CPU, 0));
    assert!(draws(idle).iter().all(|p| p.action == Action::ScaleDown && !p.explored));
}

#[test]
fn another_remedy_may_be_explored_instead_of_a_rollback() {
    let mut story = Story::healthy(1);
    story.policy = exploring(Env::Dev, 300_000).policy;
    story.app.profile.rollback_to = Some(2);
    story.did(Action::Deploy, Outcome::Verified);
    (0..3).for_each(|_| _ = story.exits(0, Exit::Code(1)));
    for proposal in draws(story) {
        let expected = match proposal.action {
            Action::Rollback => (false, 700_000),
            Action::Restart => (true, 300_000),
            other => panic!("{other}"),
        };
        assert_eq!((proposal.explored, proposal.propensity_ppm), expected);
    }
}

proptest! {
    #[test]
    fn propensities_sum_to_one(
        ppm in 0..=1_000_000_u32,
        drawable in prop::collection::btree_set(0..6_usize, 1..6),
    ) {
        let drawable: Vec<usize> = drawable.into_iter().collect();
        let best = (!drawable.contains(&0)).then_some(0);
        let all = drawable.iter().copied().chain(best);
        let sum: u32 = all.map(|index| propensity_ppm(ppm, &drawable, index)).sum();
        prop_assert_eq!(sum, 1_000_000);
    }

    #[test]
    fn the_same_input_gives_the_same_bytes(
        seed in any::<u64>(), seq in any::<u64>(), ppm in 0..=1_000_000_u32, micro in 0..200_i64,
    ) {
        let mut story = exploring(Env::Dev, ppm);
        (story.policy.learning.seed, story.seq) = (seed, seq);
        story.hears(Metric::MemoryUtilization, micro * PERCENT);
        let bytes = serde_json::to_vec(&story.chooses()).unwrap();
        prop_assert_eq!(&bytes, &serde_json::to_vec(&story.clone().chooses()).unwrap());
        let read: Proposal = serde_json::from_slice(&bytes).unwrap();
        prop_assert_eq!(serde_json::to_vec(&read).unwrap(), bytes);
    }
}

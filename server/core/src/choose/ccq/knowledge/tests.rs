use proptest::prelude::*;

use super::*;
use crate::choose::ccq::backup::shifted;

fn trial(signature: Signature, action: Action, resolved: bool, chance: i64) -> Trial {
    Trial {
        signature,
        action,
        resolved,
        cost: Fixed::micro(1_500_000),
        chance: Fixed::micro(chance),
        cost0: Fixed::micro(1_000_000),
    }
}

/// Restarts of what is down help as often as `helped` says.
fn restarts(knowledge: &mut Knowledge, origin: &str, helped: impl Iterator<Item = bool>) -> u32 {
    let learn = |resolved| {
        let odds = restart(knowledge).correction().odds;
        let chance = shifted(Fixed::micro(800_000), odds).to_micro();
        let trial = trial(Signature::Down, Action::Restart, resolved, chance);
        u32::from(knowledge.learn(origin, &trial).drifted)
    };
    helped.map(learn).sum()
}

fn restart(knowledge: &Knowledge) -> Learned {
    knowledge.beliefs(Signature::Down).get(Action::Restart)
}

#[test]
fn the_offset_goes_to_where_the_outcomes_are() {
    let mut knowledge = Knowledge::default();
    // The catalogue says 80 %, the world 50 %: an offset of -ln 4.
    restarts(&mut knowledge, "a", (0..400).map(|n| n % 2 == 0));
    let learned = restart(&knowledge);
    let offset = learned.offset.to_micro() as f64 / 1e6;
    assert!((offset + 4_f64.ln()).abs() < 0.15, "{offset}");
    assert_eq!((learned.trials, learned.resolved), (400, 200));
    assert!((learned.cost.to_micro() - 1_500_000).abs() < 20_000, "{:?}", learned.cost);
}

#[test]
fn an_outcome_that_did_not_last_is_as_if_it_had_failed() {
    let (mut failed, mut relapsed) = (Knowledge::default(), Knowledge::default());
    let chance = 800_000;
    for (knowledge, last) in [(&mut failed, false), (&mut relapsed, true)] {
        for resolved in [true, false, true, true, last] {
            knowledge.learn("a", &trial(Signature::Down, Action::Restart, resolved, chance));
        }
    }
    let stale = relapsed.clone();
    relapsed.relapse("a", &trial(Signature::Down, Action::Restart, true, chance));
    let (failed, corrected) = (restart(&failed), restart(&relapsed));
    assert_eq!((failed.trials, failed.resolved), (corrected.trials, corrected.resolved));
    assert_eq!(failed.precision, corrected.precision);
    assert!((failed.offset.to_micro() - corrected.offset.to_micro()).abs() < 10, "{corrected:?}");
    // Who knows it as it was before does not bring it back.
    let mut merged = relapsed.clone();
    merged.merge(&stale).unwrap();
    assert_eq!(merged, relapsed);
    // What was never learned as resolved cannot be taken back.
    let mut none = Knowledge::default();
    none.relapse("a", &trial(Signature::Down, Action::Restart, true, chance));
    assert_eq!(restart(&none), Learned::default());
}

#[test]
fn what_was_never_tried_is_as_the_catalogue_says() {
    let mut knowledge = Knowledge::default();
    restarts(&mut knowledge, "a", [true].into_iter());
    let other = knowledge.beliefs(Signature::Down).get(Action::Rollback);
    assert_eq!(other, Learned::default());
    assert_eq!(knowledge.beliefs(Signature::Flap).get(Action::Restart), Learned::default());
}

#[test]
fn a_world_that_changes_is_noticed_and_believed_soon() {
    let mut knowledge = Knowledge::default();
    let steady = restarts(&mut knowledge, "a", (0..200).map(|n| n % 5 != 0));
    assert_eq!(steady, 0, "as expected is no drift");
    let sure = restart(&knowledge).precision;
    let drifts = restarts(&mut knowledge, "a", (0..20).map(|_| false));
    assert!(drifts >= 1);
    assert!(restart(&knowledge).precision < sure);
    assert!(restart(&knowledge).offset < Fixed::whole(-2), "{:?}", restart(&knowledge));
}

#[test]
fn a_drift_of_one_agent_ends_what_the_others_knew_before_it() {
    let (mut one, mut other) = (Knowledge::default(), Knowledge::default());
    restarts(&mut other, "b", (0..100).map(|n| n % 5 != 0));
    one.merge(&other).unwrap();
    restarts(&mut one, "a", (0..40).map(|_| false));
    let doubted = restart(&one);
    one.merge(&other).unwrap();
    assert_eq!(restart(&one), doubted, "what was known before the drift comes not back");
    // The other agent learns of the drift and goes on from there.
    other.merge(&one).unwrap();
    restarts(&mut other, "b", (0..5).map(|_| false));
    one.merge(&other).unwrap();
    assert_eq!(restart(&one), restart(&other));
    assert!(restart(&one).precision > doubted.precision);
}

#[test]
fn agents_that_learn_apart_know_together_what_one_agent_would() {
    let outcomes = |from: u32| (from..from + 100).map(|n| n % 10 < 6);
    let mut alone = Knowledge::default();
    restarts(&mut alone, "a", outcomes(0).chain(outcomes(100)));
    let mut merged = Knowledge::default();
    for (origin, from) in [("a", 0), ("b", 100)] {
        let mut knowledge = Knowledge::default();
        restarts(&mut knowledge, origin, outcomes(from));
        merged.merge(&knowledge).unwrap();
    }
    let (one, two) = (restart(&alone), restart(&merged));
    assert_eq!((one.trials, one.resolved), (two.trials, two.resolved));
    assert!((one.offset.to_micro() - two.offset.to_micro()).abs() < 100_000, "{one:?} {two:?}");
}

#[test]
fn too_many_agents_are_refused_whole() {
    let mut knowledge = Knowledge::default();
    (0..ORIGINS).for_each(|n| _ = restarts(&mut knowledge, &n.to_string(), [true].into_iter()));
    let before = knowledge.clone();
    let mut other = Knowledge::default();
    restarts(&mut other, "one more", [true].into_iter());
    assert_eq!(knowledge.merge(&other), Err(MergeError::Origins(65)));
    assert_eq!(knowledge, before);
}

#[test]
fn another_environment_is_a_weak_prior() {
    let mut stage = Knowledge::default();
    restarts(&mut stage, "a", (0..200).map(|n| n % 2 == 0));
    let mut prod = Knowledge::default();
    prod.merge(&stage.weakened("stage")).unwrap();
    let (there, here) = (restart(&stage), restart(&prod));
    assert!(here.offset < Fixed::ZERO && here.offset > there.offset);
    assert!(here.precision < there.precision.times(Fixed::micro(250_000)));
}

prop_compose! {
    fn experience()(
        trials in prop::collection::vec(
            (0..3_usize, 0..3_usize, 0..4_usize, any::<bool>(), 50_000..950_000_i64), 0..60,
        )
    ) -> Vec<Knowledge> {
        // Versions of three agents' knowledge, each as it was at some moment.
        let mut all = vec![Knowledge::default(); 3];
        let mut versions = Vec::new();
        for (agent, signature, action, resolved, chance) in trials {
            let (signature, action) = (Signature::ALL[signature], ACTIONS[action]);
            all[agent].learn(&agent.to_string(), &trial(signature, action, resolved, chance));
            versions.push(all[agent].clone());
        }
        versions.extend(all);
        versions
    }
}

fn merged(parts: &[&Knowledge]) -> Knowledge {
    let mut all = Knowledge::default();
    parts.iter().for_each(|part| all.merge(part).unwrap());
    all
}

proptest! {
    #[test]
    fn a_merge_is_commutative_associative_and_idempotent(
        versions in experience(), a in any::<prop::sample::Index>(),
        b in any::<prop::sample::Index>(), c in any::<prop::sample::Index>(),
    ) {
        let (a, b, c) = (a.get(&versions), b.get(&versions), c.get(&versions));
        prop_assert_eq!(merged(&[a, b]), merged(&[b, a]));
        prop_assert_eq!(merged(&[&merged(&[a, b]), c]), merged(&[a, &merged(&[b, c])]));
        prop_assert_eq!(&merged(&[a, a]), a);
        prop_assert_eq!(merged(&[a, b, a]), merged(&[a, b]));
    }

    #[test]
    fn knowledge_reads_back_as_it_was(versions in experience()) {
        for knowledge in versions {
            let json = serde_json::to_vec(&knowledge).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Knowledge>(&json).unwrap(), knowledge);
        }
    }
}

#[test]
fn a_rejection_moves_the_belief_as_a_failure_does_and_is_no_outcome() {
    let (mut failed, mut rejected) = (Knowledge::default(), Knowledge::default());
    let said_no = trial(Signature::Down, Action::Restart, false, 800_000);
    failed.learn("a", &said_no);
    let change = rejected.reject("a", &said_no);
    assert!(change.after.offset < change.before.offset && !change.drifted);
    let (failed, after) = (restart(&failed), restart(&rejected));
    assert_eq!((failed.offset, failed.precision), (after.offset, after.precision));
    assert_eq!((after.trials, after.resolved, after.cost), (0, 0, Fixed::ONE));
    // However often it is said, it is nothing the world did.
    let drifts = (0..200).filter(|_| rejected.reject("a", &said_no).drifted).count();
    assert_eq!(drifts, 0);
    // Who knows it as it was before does not bring that back.
    let (stale, mut news) = (rejected.clone(), rejected.clone());
    news.reject("a", &said_no);
    let mut merged = news.clone();
    merged.merge(&stale).unwrap();
    assert_eq!(merged, news);
}

#[test]
fn what_another_environment_went_through_never_ends_what_is_known_here() {
    let (mut stage, mut prod) = (Knowledge::default(), Knowledge::default());
    restarts(&mut stage, "a", (0..200).map(|n| n % 5 != 0));
    let drifts = restarts(&mut stage, "a", (0..20).map(|_| false));
    assert!(drifts >= 1, "their world changed");
    restarts(&mut prod, "b", (0..50).map(|n| n % 5 != 0));
    let before = restart(&prod);
    prod.merge(&stage.weakened("stage")).unwrap();
    let after = restart(&prod);
    assert!(after.trials >= before.trials && after.precision > before.precision, "{after:?}");
    // A fifth of their outcomes: not enough to be trusted where the own ones were not.
    assert!(after.trials - before.trials <= restart(&stage).trials / 5);
}

#[test]
fn what_was_signed_comes_home_under_the_own_name() {
    let mut own = Knowledge::default();
    restarts(&mut own, OWN, (0..9).map(|n| n % 3 != 0));
    let signed = own.signed("agent-1");
    assert_ne!(signed, own);
    assert_eq!(signed.adopted("agent-1"), own);
    let mut again = own.clone();
    again.merge(&signed.adopted("agent-1")).unwrap();
    assert_eq!(again, own, "nothing counts twice");
    // The bug this would be: taken for another agent's, the same outcomes would count twice.
    again.merge(&signed.adopted("agent-2")).unwrap();
    assert_eq!(restart(&again).trials, 18);
}

//! What the learners are worth, on a scale that fits into a test; `healgym bench` measures more.

use agentd_core::choose::ccq::{
    ACTIONS, Backup, COUNT, Catalogue, Correction, Knowledge, position,
};

use crate::agent::{Ccq, Learner, Rules};
use crate::exact::{Move, Situation, evaluate, evaluate_all, optimal};
use crate::life::{Prediction, Scale, calibration, live, worth};
use crate::random::Random;
use crate::world::{SIGNATURES, Shield, World, reference_values};

#[test]
fn the_catalogue_of_the_agent_is_the_published_world() {
    let (world, catalogue) = (World::nominal().unwrap(), Catalogue::builtin());
    let near = |micro: i64, exact: f64| (micro as f64 / 1e6 - exact).abs() < 1e-9;
    assert_eq!(catalogue.horizon, world.horizon);
    assert!(near(catalogue.escalation, world.escalation));
    for (f, fault) in catalogue.faults.iter().enumerate() {
        assert!(near(fault.prior, world.prior[f]) && near(fault.downtime, world.downtime[f]));
        for (s, signature) in SIGNATURES.into_iter().enumerate() {
            assert!(
                near(fault.likelihood(signature), world.looks[f][s]),
                "{} {signature:?}",
                fault.name
            );
        }
        // The published file does not know the repetition of a deployment.
        for a in (0..COUNT).filter(|a| *a != 4) {
            assert!(
                near(fault.effects[a].fixes, world.fixes[f][a]),
                "{} {}",
                fault.name,
                ACTIONS[a]
            );
            assert!(near(fault.effects[a].harm, world.harm[f][a]), "{} {}", fault.name, ACTIONS[a]);
            assert_eq!(catalogue.efforts[a].steps, world.steps[a]);
            assert!(near(catalogue.efforts[a].cost, world.price[a]));
        }
    }
}

#[test]
fn the_integers_of_the_agent_reproduce_the_published_values() {
    let (world, catalogue) = (World::nominal().unwrap(), Catalogue::builtin());
    let none = [Correction::NONE; COUNT];
    for shield in [Shield::On, Shield::Off] {
        for (signature, action, value) in reference_values(shield).unwrap() {
            let limits = world.limits(signature, shield);
            let backup = Backup::new(&catalogue, signature, none, [0; COUNT], limits).unwrap();
            let expected = backup.expected(&[0; COUNT])[position(action).unwrap()].unwrap();
            let ours = expected.value.to_micro() as f64 / 1e6;
            // Chances are held within one and 999 of a thousand: what the world rules out, the agent takes for very unlikely.
            assert!((ours - value).abs() < 0.02, "{signature:?} {action}: {ours} {value}");
        }
    }
    // Without the gate that lets nothing uncertain through.
    let greedy = SIGNATURES.map(|signature| {
        let first = Situation::first(&world, signature, Shield::On);
        let backup = Backup::new(&catalogue, signature, none, [0; COUNT], first.limits).unwrap();
        let best = |at: &Situation| vec![Move::certain(backup.greedy(&at.tried).unwrap())];
        evaluate(&world, first, &mut |at| best(at)).cost
    });
    let ours: f64 = greedy.iter().sum();
    assert!(
        (ours - optimal(&world, Shield::On).cost).abs() < 1e-6,
        "the policy is the optimal one"
    );
}

#[test]
fn in_a_world_that_is_not_as_the_catalogue_says_learning_pays_and_rules_are_worse() {
    let world = World::nominal().unwrap().perturbed(1);
    let scale = Scale::of(&world);
    let mut agent = Ccq::new("test", Knowledge::default());
    let life = live(&world, &mut agent, 120, &[0, 120], &mut Random::new(1_001));
    assert!(life.score(120) > life.score(0), "{:?}", life.scores);
    let rules = scale.score(worth(&world, &mut Rules).cost);
    assert!(life.score(0) > rules + 20.0, "{:?} {rules}", life.scores);
    let calibration = calibration(life.predictions);
    assert!(calibration.brier < calibration.base, "{calibration:?}");
}

/// Takes the worst instead of the best.
struct Perverse(Ccq);

impl Learner for Perverse {
    fn best(&mut self, at: &Situation) -> usize {
        let best = self.0.best(at);
        at.permitted().find(|action| *action != best).unwrap_or(best)
    }

    fn explorable(&mut self, _: &Situation) -> Vec<usize> {
        Vec::new()
    }

    fn chance(&mut self, at: &Situation, action: usize) -> Option<f64> {
        self.0.chance(at, action)
    }

    fn learn(&mut self, at: &Situation, action: usize, resolved: bool, cost: f64) -> bool {
        self.0.learn(at, action, resolved, cost)
    }
}

#[test]
fn a_learner_that_does_the_wrong_thing_is_found_out() {
    let world = World::nominal().unwrap();
    let scale = Scale::of(&world);
    let mut perverse = Perverse(Ccq::frozen());
    let value = evaluate_all(&world, Shield::On, &mut |at| vec![Move::certain(perverse.best(at))]);
    assert!(scale.score(value.cost) < 20.0);
}

#[test]
fn predictions_that_are_too_sure_are_found_out() {
    let mut random = Random::new(3);
    let mut predict = |says: fn(f64) -> f64| {
        let one = |_| {
            let chance = random.uniform();
            Prediction { chance: says(chance), happened: random.happens(chance) }
        };
        calibration((0..5_000).map(one).collect())
    };
    let (honest, sure) = (predict(|p| p), predict(|p| if p > 0.5 { 0.95 } else { 0.05 }));
    assert!(honest.error < 0.03, "{honest:?}");
    assert!(sure.error > 0.15 && sure.brier > honest.brier, "{sure:?}");
}

#[test]
fn a_world_that_changes_is_noticed() {
    let world = World::nominal().unwrap();
    let mut agent = Ccq::new("test", Knowledge::default());
    let mut random = Random::new(5);
    live(&world, &mut agent, 100, &[], &mut random);
    let life = live(&world.shifted(), &mut agent, 100, &[], &mut random);
    assert!(!life.drifts.is_empty());
}

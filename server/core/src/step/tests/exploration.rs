//! Exploration in the loop: a plan that was drawn and waits for a human, and an app whose error budget burns.

use super::*;
use crate::app::{AppName, OnboardRequest};
use crate::detect::{Alarm, Test};
use crate::policy::{Burn, Learner, Policy};
use crate::record::Decided;

const PERCENT: i64 = MICRO / 100;
/// So near to being full that filling up is no growth: what is wrong is one thing, and stays it.
const CALM: [(Metric, i64); 2] =
    [(Metric::MemoryUtilization, 78 * PERCENT), (Metric::RequestRate, 50 * MICRO)];
const FULL: [(Metric, i64); 2] =
    [(Metric::MemoryUtilization, 97 * PERCENT), (Metric::RequestRate, 50 * MICRO)];
/// Worlds that differ in nothing but the draw.
const DRAWS: u64 = 8;

/// An app with room for more instances, and an agent that explores whenever it may.
fn curious(env: Env, seed: u64) -> (World, AppName) {
    let mut world = World::new(Env::Stage);
    let request = OnboardRequest { max_instances: Some(16), ..World::request("web", 2) };
    world.try_onboard(request, World::by("olivia"));
    world.pass(world.policy.verification.hold_ms + 5_000);
    match env {
        Env::Prod => world.turn_prod(),
        _ => (world.state.env, world.policy) = (env, Policy::default_for(env)),
    }
    (world.policy.learning.exploration_ppm, world.policy.learning.seed) = (1_000_000, seed);
    world.policy.learning.learner = Learner::Q;
    // An hour is long for a test: a budget that would be gone in two days if a minute went on like this.
    let (times_milli, long_ms, short_ms, pages) = (14_400, MINUTE, 5_000, true);
    world.policy.statistics.burn = vec![Burn { times_milli, long_ms, short_ms, pages }];
    world.start_agent();
    let app = AppName::parse("web").unwrap();
    // A deployment that is long over is not to blame for what comes.
    world.now += HOUR;
    world.hear(&app, 10_000, &CALM);
    (world, app)
}

/// A world of prod in which something else than the best waits for a human, and the number of the question.
fn asked() -> (World, AppName, u64) {
    let drawn = |seed| {
        let (mut world, app) = curious(Env::Prod, seed);
        for _ in 0..60 {
            world.hear(&app, 1_000, &FULL);
            if let Some(approval) = world.app(&app).approval {
                return world.state.approvals[&approval].explored.then_some((world, app, approval));
            }
        }
        panic!("nobody is asked: {:?}", world.last_decision());
    };
    (0..DRAWS).find_map(drawn).expect("now and then another than the best is drawn")
}

#[test]
fn what_was_drawn_to_explore_is_not_exchanged_while_it_waits_and_is_done_as_it_was_asked() {
    let (mut world, app, approval) = asked();
    let drawn = world.state.approvals[&approval].clone();
    let decisions = world.decisions().count();
    world.hear(&app, 2 * MINUTE, &FULL);
    let waits = &world.state.approvals[&approval];
    assert_eq!(waits, &drawn, "it waits as it was asked");
    assert_eq!(waits.state, ApprovalState::Pending);
    assert_eq!(world.decisions().count(), decisions, "and nothing else is proposed meanwhile");

    let (comment, reading) = ("go".to_owned(), Some(world.close(&app)));
    let (plan_digest, by) = (Some(drawn.plan_digest.clone()), World::by("ann"));
    world.give(&Input::Approve { approval, plan_digest, comment, reading, by });
    assert_eq!(world.executed.last().map(|(_, done)| done), Some(&drawn.plan.operation));
    world.assert_replays();
}

#[test]
fn planted_a_question_that_forgets_it_was_drawn_is_exchanged_for_the_best() {
    let (mut world, app, approval) = asked();
    let drawn = world.state.approvals[&approval].clone();
    world.state.approvals.get_mut(&approval).unwrap().explored = false;
    world.hear(&app, 2 * MINUTE, &FULL);
    let (old, new) = (&world.state.approvals[&approval], world.app(&app).approval);
    assert_eq!(old.state, ApprovalState::Superseded);
    let best = &world.state.approvals[&new.expect("the best is asked for")];
    assert_ne!(best.plan.action, drawn.plan.action);
}

/// What is done first when memory fills up while so many percent of the requests fail, by an agent that hears that the budget burns, or
/// is deaf to that.
fn first_remedy(seed: u64, failing: i64, hears: bool) -> Decided {
    let (mut world, app) = curious(Env::Dev, seed);
    let turn = |world: &mut World, says: &[(Metric, i64)]| {
        world.now += 1_000;
        world.give(&Input::Tick);
        world.say(&app, "monitor", Metric::ErrorRatio, failing * PERCENT);
        says.iter().for_each(|(metric, micro)| world.say(&app, "monitor", *metric, *micro));
        let mut reading = world.close(&app);
        // Failures are a finding too; here it is the budget alone that matters.
        reading.alarms.retain(|alarm| hears && burns(alarm));
        world.give(&Input::Reading(reading));
    };
    (0..45).for_each(|_| turn(&mut world, &CALM));
    let before = world.decisions().count();
    for _ in 0..20 {
        turn(&mut world, &FULL);
        let remedy = |d: &&Decided| !d.proposal.action.is_passive();
        if let Some(decided) = world.decisions().skip(before).find(remedy) {
            return decided.clone();
        }
    }
    panic!("nothing is done: {:?}", world.last_decision());
}

fn burns(alarm: &Alarm) -> bool {
    matches!(alarm.deviation.test, Test::BurnPage | Test::BurnTicket)
}

#[test]
fn an_app_whose_error_budget_burns_is_not_explored() {
    let explored = |failing, hears| {
        let all = (0..DRAWS).map(|seed| first_remedy(seed, failing, hears));
        all.filter(|decided| decided.proposal.explored).count()
    };
    assert!(explored(0, true) > 0, "or nothing below says anything");
    for seed in 0..DRAWS {
        let decided = first_remedy(seed, 3, true);
        assert!(decided.reading.alarms.iter().any(burns), "{:?}", decided.reading.alarms);
        assert!(decided.leeway.unwrap().budget_spent, "and the decision says why");
        assert!(!decided.proposal.explored, "{:?}", decided.proposal);
    }
    // The planted bug: an agent that is deaf to what the budget says, and to nothing else.
    assert!(explored(3, false) > 0, "then it experiments on an app in trouble");
}

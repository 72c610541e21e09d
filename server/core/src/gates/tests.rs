//! Properties of the chain as a whole, each with a planted bug that it has to find.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};

use super::arbitrary::{any_scene, any_stubborn_gate};
use super::scene::{MINUTE, NOW, Scene};
use super::*;
use crate::action::{Level, Risk};
use crate::search::counterexample;
use crate::state::{Breaker, Outcome};

mod fuzz;

/// A way to come to a ruling; the real one or a planted bug.
type Chain = fn(&[Gate], &Case<'_>) -> Ruling;

fn real(gates: &[Gate], case: &Case<'_>) -> Ruling {
    enforce_with(gates, case, 1).ruling
}

/// Planted bug: stops at the first gate that does not pass.
fn stops_at_the_first(gates: &[Gate], case: &Case<'_>) -> Ruling {
    let mut verdicts = gates.iter().map(|gate| judge(gate, case));
    match verdicts.find(|verdict| verdict.effect != Effect::Pass) {
        Some(first) => rule(&[first], case.proposal.action),
        None => Ruling::Permitted,
    }
}

/// Planted bug: the last gate has the last word.
fn last_word(gates: &[Gate], case: &Case<'_>) -> Ruling {
    let verdicts: Vec<Verdict> = gates.iter().map(|gate| judge(gate, case)).collect();
    rule(verdicts.last().map(std::slice::from_ref).unwrap_or_default(), case.proposal.action)
}

/// Planted bug: the majority decides.
fn majority(gates: &[Gate], case: &Case<'_>) -> Ruling {
    let verdicts: Vec<Verdict> = gates.iter().map(|gate| judge(gate, case)).collect();
    let against = verdicts.iter().filter(|v| v.effect != Effect::Pass).count();
    if against * 2 < verdicts.len() {
        Ruling::Permitted
    } else {
        rule(&verdicts, case.proposal.action)
    }
}

fn strictness(ruling: &Ruling) -> u8 {
    match ruling {
        Ruling::Permitted => 0,
        Ruling::Held { .. } => 1,
        Ruling::Refused { .. } => 2,
    }
}

/// Runs a property on many cases; the first counterexample, if there is one.
/// A planted bug is found after tens of cases or hundreds, so nearly all of these are for what is real.
fn search<T: std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
    holds: impl Fn(T) -> bool,
) -> Option<String> {
    counterexample(2_000, strategy, |case| (!holds(case)).then(|| "counterexample".to_owned()))
}

/// Cases with the gates in any order, and some stubborn ones among them.
fn any_list() -> impl Strategy<Value = (Scene, Vec<Gate>)> {
    let extra = proptest::collection::vec(any_stubborn_gate(), 0..3);
    (any_scene(), extra).prop_flat_map(|(scene, extra)| {
        let gates = [GATES, extra.as_slice()].concat();
        (Just(scene), Just(gates).prop_shuffle())
    })
}

fn order_matters(chain: Chain) -> Option<String> {
    search(any_list(), |(scene, gates)| {
        let mut sorted = gates.clone();
        sorted.sort_by_key(|gate| (gate.group, gate.id));
        chain(&gates, &scene.case()) == chain(&sorted, &scene.case())
    })
}

fn more_gates_permit_more(chain: Chain) -> Option<String> {
    let lists = any_list().prop_flat_map(|(scene, gates)| {
        let all = gates.len();
        (Just(scene), Just(gates), 1..all)
    });
    search(lists, |(scene, gates, some)| {
        let few = strictness(&chain(&gates[..some], &scene.case()));
        few <= strictness(&chain(&gates, &scene.case()))
    })
}

#[test]
fn the_order_of_the_gates_never_matters() {
    assert_eq!(order_matters(real), None);
    assert!(order_matters(stops_at_the_first).is_some(), "the property finds a planted bug");
    assert!(order_matters(last_word).is_some(), "the property finds a planted bug");
}

#[test]
fn adding_a_gate_never_permits_more() {
    assert_eq!(more_gates_permit_more(real), None);
    assert!(more_gates_permit_more(last_word).is_some(), "the property finds a planted bug");
    assert!(more_gates_permit_more(majority).is_some(), "the property finds a planted bug");
}

#[test]
fn no_gate_at_all_refuses() {
    let scene = Scene::default();
    let none = enforce_with(&[], &scene.case(), 1);
    assert!(matches!(none.ruling, Ruling::Refused { .. }) && none.permit.is_none());
}

#[test]
fn a_gate_that_blocks_without_a_reason_refuses() {
    fn mute(case: &Case<'_>) -> Judgement {
        let judgement = Judgement::hold(Reason::Flapping, Fact::None, Fact::None);
        let _ = case;
        Judgement { reason: None, ..judgement }
    }
    let gate = Gate { id: "mute", group: 1, summary: "", reasons: &[], judge: mute };
    let enforced = enforce_with(&[gate], &Scene::default().case(), 1);
    assert!(matches!(enforced.ruling, Ruling::Refused { .. }) && enforced.permit.is_none());
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_permit_needs_every_gate_to_pass(scene in any_scene()) {
        let enforced = enforce(&scene.case(), 7);
        let all = enforced.verdicts.iter().all(|verdict| verdict.effect == Effect::Pass);
        prop_assert_eq!(enforced.verdicts.len(), GATES.len(), "every gate is always judged");
        prop_assert_eq!(enforced.ruling == Ruling::Permitted, all);
        prop_assert_eq!(enforced.permit.is_some(), all && scene.proposal.plan.is_some());
        if let Some(permit) = enforced.permit {
            prop_assert_eq!(permit.decision(), 7);
            prop_assert_eq!(Some(permit.plan()), scene.proposal.plan.as_ref());
        }
    }

    #[test]
    fn a_permit_is_for_what_was_judged(scene in any_scene()) {
        if let Some(permit) = enforce(&scene.case(), 7).permit {
            prop_assert!(!scene.proposal.action.is_passive());
            prop_assert_eq!(permit.plan().action, scene.proposal.action);
            prop_assert_eq!(&permit.plan().app, &scene.app.profile.name);
        }
    }

    #[test]
    fn a_block_says_why_and_what_it_saw(scene in any_scene()) {
        for (gate, verdict) in GATES.iter().zip(enforce(&scene.case(), 7).verdicts) {
            if let Some(reason) = verdict.reason {
                prop_assert!(gate.reasons.contains(&reason), "{} says {}", gate.id, reason);
            }
            if verdict.effect != Effect::Pass {
                prop_assert!(verdict.reason.is_some(), "{:?}", verdict);
                prop_assert!(verdict.value != Fact::None && verdict.limit != Fact::None, "{:?}", verdict);
                prop_assert!(verdict.clears_at.is_none_or(|at| at > scene.now), "{:?}", verdict);
            }
        }
    }

    #[test]
    fn the_same_case_gets_the_same_bytes(scene in any_scene()) {
        let bytes = || serde_json::to_vec(&enforce(&scene.case(), 7).verdicts).unwrap();
        prop_assert_eq!(bytes(), bytes());
    }

    #[test]
    fn nothing_is_always_possible_for_who_may_propose(mut scene in any_scene()) {
        scene.passive(Action::Noop);
        scene.proposal.requested_as = None;
        let known = match &scene.proposal.source {
            crate::choose::Source::Agent => true,
            crate::choose::Source::Human { principal, .. } => {
                let direct = scene.around.demo && scene.proposal.grant.is_none();
                !principal.is_empty() && !direct
            }
            crate::choose::Source::Other { .. } => false,
        };
        prop_assert_eq!(enforce(&scene.case(), 7).ruling == Ruling::Permitted, known);
    }

    #[test]
    fn time_alone_clears_what_says_so(scene in any_scene()) {
        for (gate, verdict) in GATES.iter().zip(enforce(&scene.case(), 7).verdicts) {
            let Some(at) = verdict.clears_at.filter(|_| verdict.effect != Effect::Pass) else {
                continue;
            };
            // Flapping and storm end by a finding and a record, which do not come by waiting for this gate alone.
            if matches!(gate.id, "flapping" | "storm" | "hourly") || at == Millis::MAX {
                continue;
            }
            let mut before = scene.clone();
            before.now = at - 1;
            prop_assert!((gate.judge)(&before.case()).effect != Effect::Pass, "{}", gate.id);
            // A repeating window may open again, another one may follow.
            if gate.id != "maintenance" {
                let mut then = scene.clone();
                then.now = at;
                then.app.attempt = None;
                prop_assert_eq!((gate.judge)(&then.case()).effect, Effect::Pass, "{}", gate.id);
            }
        }
    }
}

#[test]
fn the_generator_reaches_every_ruling_and_every_reason() {
    let mut runner = TestRunner::deterministic();
    let mut rulings = [0_u32; 3];
    let mut reasons = std::collections::BTreeSet::new();
    for _ in 0..6_000 {
        let scene = any_scene().new_tree(&mut runner).unwrap().current();
        let enforced = enforce(&scene.case(), 7);
        rulings[usize::from(strictness(&enforced.ruling))] += 1;
        reasons.extend(enforced.verdicts.into_iter().filter_map(|verdict| verdict.reason));
    }
    assert!(rulings.iter().all(|n| *n > 150), "{rulings:?}");
    let unreached: Vec<_> = GATES
        .iter()
        .flat_map(|gate| gate.reasons)
        .filter(|reason| !reasons.contains(reason))
        .collect();
    assert_eq!(unreached, Vec::<&Reason>::new());
}

#[test]
fn every_gate_has_its_own_file_and_group() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gates");
    let mut files: Vec<String> = std::fs::read_dir(here)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| !["arbitrary", "scene", "tests"].contains(&name.as_str()))
        .collect();
    let mut ids: Vec<String> = GATES.iter().map(|gate| gate.id.to_owned()).collect();
    files.sort();
    ids.sort();
    assert_eq!(ids, files, "one gate per file, and every file is in the list once");
    assert!(GATES.is_sorted_by_key(|gate| gate.group), "the list reads by group");
    let groups: std::collections::BTreeSet<u8> = GATES.iter().map(|gate| gate.group).collect();
    assert_eq!(groups.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert!(GATES.iter().all(|gate| !gate.summary.is_empty() && !gate.reasons.is_empty()));
}

#[test]
fn every_reason_is_answered_by_a_gate_or_decided_elsewhere() {
    for reason in Reason::ALL {
        let gates = GATES.iter().filter(|gate| gate.reasons.contains(reason)).count();
        let elsewhere = ELSEWHERE.iter().filter(|(other, _)| other == reason).count();
        assert!((gates > 0) != (elsewhere > 0), "{reason}: {gates} gates, {elsewhere} elsewhere");
    }
}

/// One point of the product of all numeric boundaries.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    /// Since the last restart, and which in a row it was.
    last: Option<(Millis, u32)>,
    /// Restarts ten minutes ago, and half an hour ago.
    repeats: (u32, u32),
    /// Failed scale-ups twenty minutes ago.
    failures: u32,
    confidence: u32,
    /// The breaker's time from now, in milliseconds.
    breaker: Option<i64>,
    /// Other instances that are down, of four.
    down: u32,
    disrupting: u32,
    effects: u32,
    unhealthy: u32,
    human: bool,
}

impl Numbers {
    /// A running instance of `web` hangs and is to be restarted, in stage with 40 apps.
    fn scene(self) -> Scene {
        let mut s = Scene::default();
        s.around.apps = 40;
        s.hang();
        s.kill(&(0..self.down).collect::<Vec<_>>());
        if let Some((ago, streak)) = self.last {
            s.effect(Action::Restart, ago, streak);
        }
        for _ in 0..self.repeats.1 {
            s.remember(Action::Restart, 30 * MINUTE, Some(Outcome::Verified));
        }
        for _ in 0..self.failures {
            s.remember(Action::ScaleUp, 20 * MINUTE, Some(Outcome::Failed));
        }
        for _ in 0..self.repeats.0 {
            s.remember(Action::Restart, 10 * MINUTE, Some(Outcome::Verified));
        }
        if let Some(from_now) = self.breaker {
            let open_until = Some(NOW.saturating_add_signed(from_now));
            s.app.breakers.insert(Action::Restart, Breaker { failures: 3, open_until, opens: 1 });
        }
        s.proposal.confidence = self.confidence;
        s.around.disrupting = self.disrupting;
        s.around.effects_last_hour = self.effects;
        s.around.unhealthy = self.unhealthy;
        if self.human {
            s.human();
        }
        s
    }

    /// The gates that must block, written down from the contract's tables and not from the gates' code: 60 s doubling to 15 min,
    /// 3 per 15 min, 0.60, more than 3 failures or equal actions, a quarter of the instances, a twentieth of the apps, 30 per
    /// hour, three tenths of the apps.
    fn blocked_by(self) -> Vec<&'static str> {
        let wait = |streak: u32| [60_000, 120_000, 240_000, 480_000, 900_000][streak as usize - 1];
        let cold = self.last.is_some_and(|(ago, streak)| ago < wait(streak));
        let rows = [
            ("app_budget", self.down >= 1),
            ("breaker", self.breaker.is_some_and(|from_now| from_now > 0)),
            ("concurrency", self.disrupting >= 2),
            ("confidence", self.confidence < 600),
            ("cooldown", cold),
            ("hourly", self.effects >= 30),
            ("memory", self.failures > 3 || self.repeats.0 + self.repeats.1 > 3),
            ("repetition", self.repeats.0 >= 3),
            ("storm", self.unhealthy >= 12),
        ];
        if self.human {
            return Vec::new();
        }
        rows.into_iter().filter(|(_, blocks)| *blocks).map(|(id, _)| id).collect()
    }
}

fn product() -> Vec<Numbers> {
    let mut all = Vec::new();
    let lasts =
        [None, Some((59_999, 1)), Some((60_000, 1)), Some((899_999, 5)), Some((900_000, 5))];
    let breakers = [None, Some(1), Some(0), Some(-1)];
    let repeats = [(2, 0), (3, 0), (2, 1), (2, 2), (0, 4)];
    // Nested loops would be ten deep: the digits of one number in mixed radix choose instead.
    let radices = [lasts.len(), breakers.len(), repeats.len(), 2, 2, 2, 2, 2, 2, 2];
    for mut n in 0..radices.iter().product::<usize>() {
        let mut digit = |radix: usize| {
            let digit = n % radix;
            n /= radix;
            digit
        };
        let [
            last,
            breaker,
            repeat,
            failures,
            confidence,
            down,
            disrupting,
            effects,
            unhealthy,
            human,
        ] = radices.map(&mut digit);
        all.push(Numbers {
            last: lasts[last],
            repeats: repeats[repeat],
            failures: [3, 4][failures],
            confidence: [599, 600][confidence],
            breaker: breakers[breaker],
            down: [0, 1][down],
            disrupting: [1, 2][disrupting],
            effects: [29, 30][effects],
            unhealthy: [11, 12][unhealthy],
            human: human == 1,
        });
    }
    all
}

/// Points of the product at which `gates` and the reference disagree.
fn disagreements(gates: &[Gate], points: &[Numbers]) -> usize {
    let disagrees = |numbers: &&Numbers| {
        let enforced = enforce_with(gates, &numbers.scene().case(), 1);
        let mut blocking: Vec<_> = enforced
            .verdicts
            .iter()
            .filter(|verdict| verdict.effect != Effect::Pass)
            .map(|verdict| verdict.gate.as_ref())
            .collect();
        blocking.sort_unstable();
        let expected = numbers.blocked_by();
        blocking != expected
            || (enforced.ruling == Ruling::Permitted) != expected.is_empty()
            || enforced.permit.is_some() != expected.is_empty()
    };
    points.iter().filter(disagrees).count()
}

#[test]
fn the_numeric_gates_agree_with_the_contract_at_every_boundary() {
    assert_eq!(Action::Restart.risk(4), Risk::R1);
    let points = product();
    assert_eq!(points.len(), 5 * 4 * 5 * 128);
    assert_eq!(disagreements(GATES, &points), 0);
    // Planted bug: each numeric gate in turn lets everything through.
    let numeric = [
        "app_budget",
        "breaker",
        "concurrency",
        "confidence",
        "cooldown",
        "hourly",
        "memory",
        "repetition",
        "storm",
    ];
    let sample: Vec<Numbers> = points.iter().step_by(7).copied().collect();
    for id in numeric {
        let blind = |gate: &Gate| {
            let judge =
                if gate.id == id { |_: &Case<'_>| Judgement::not_applicable() } else { gate.judge };
            Gate { judge, ..*gate }
        };
        let gates: Vec<Gate> = GATES.iter().map(blind).collect();
        assert!(disagreements(&gates, &sample) > 0, "a blind gate `{id}` is found");
    }
}

#[test]
fn every_gate_alone_can_turn_a_permit_into_a_block() {
    // A gate that never fires is a guard that looks strict and does nothing.
    let mut runner = TestRunner::deterministic();
    let mut decisive = std::collections::BTreeSet::new();
    for _ in 0..12_000 {
        let scene = any_scene().new_tree(&mut runner).unwrap().current();
        let verdicts = enforce(&scene.case(), 7).verdicts;
        let mut against = verdicts.iter().filter(|verdict| verdict.effect != Effect::Pass);
        if let (Some(only), None) = (against.next(), against.next()) {
            decisive.insert(only.gate.to_string());
        }
    }
    let idle: Vec<&str> =
        GATES.iter().map(|gate| gate.id).filter(|id| !decisive.contains(*id)).collect();
    assert_eq!(idle, Vec::<&str>::new());
}

#[test]
fn a_whole_chain_is_cheap_enough_to_run_on_every_proposal() {
    // No figure here: it only shows that a passing chain allocates nothing but the list of verdicts and the permit's plan.
    let scene = Scene::default();
    let enforced = enforce(&scene.case(), 1);
    assert_eq!(enforced.ruling, Ruling::Permitted, "{:?}", enforced.verdicts);
    for verdict in &enforced.verdicts {
        let borrowed = |fact: &Fact| match fact {
            Fact::Text(text) => matches!(text, Cow::Borrowed(_)),
            Fact::Actions(_) => false,
            _ => true,
        };
        assert!(borrowed(&verdict.value) && borrowed(&verdict.limit), "{verdict:?}");
        assert!(matches!(verdict.gate, Cow::Borrowed(_)));
    }
    assert_eq!(scene.policy.level(Action::Restart), Level::Auto);
}

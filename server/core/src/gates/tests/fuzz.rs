//! What a permit must never do, written down a second time and without the gates, against any number of decisions nobody thought of.
//!
//! `AGENTD_FUZZED=1000000 cargo test --release -p agentd-core --lib fuzz -- --nocapture` judges a million of them.

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

use crate::action::{Action, Level, ceiling};
use crate::app::Env;
use crate::choose::Source;
use crate::gates::arbitrary::any_scene;
use crate::gates::scene::Scene;
use crate::gates::{GATES, Gate, enforce_with};
use crate::policy::Confidence;
use crate::state::Scope;
use crate::verdict::Ruling;

/// Decisions unless it is asked for more.
const FEW: usize = 1_500;

/// The gate that keeps a law, and whether a scene breaks it when its action is carried out.
type Law = (&'static str, fn(&Scene) -> bool);

fn is_agent(s: &Scene) -> bool {
    s.proposal.source == Source::Agent
}

/// The agent goes alone: nobody approved it.
fn is_alone(s: &Scene) -> bool {
    is_agent(s) && s.proposal.grant.is_none()
}

const LAWS: [Law; 16] = [
    ("source", |s| match &s.proposal.source {
        Source::Agent => false,
        Source::Human { principal, .. } => principal.is_empty(),
        Source::Other { .. } => true,
    }),
    ("source", |s| is_alone(s) && !s.proposal.action.is_selectable()),
    ("demo_intake", |s| s.around.demo && !is_agent(s) && s.proposal.grant.is_none()),
    ("unsafe_name", |s| s.proposal.requested_as.as_deref() == Some("drop_database")),
    ("dry_run", |s| s.around.dry_run),
    ("log", |s| !s.around.log_writable),
    ("pause", |s| {
        let covers = |scope: &Scope| match scope {
            Scope::Env => true,
            Scope::App(app) => *app == s.app.profile.name,
            Scope::Action(action) => *action == s.proposal.action,
        };
        let open = |until: Option<u64>| until.is_none_or(|until| s.now < until);
        let paused = s.around.pauses.iter().any(|pause| open(pause.until) && covers(&pause.scope));
        s.proposal.action.is_selectable() && paused
    }),
    ("environment", |s| s.policy.env != s.around.env),
    // A change of settings touches nothing, and takes the label away.
    ("protected", |s| s.app.profile.protected && s.proposal.action != Action::Configure),
    ("autonomy", |s| {
        let level = s.policy.levels.get(&s.proposal.action).copied().unwrap_or(Level::Off);
        let level = level.min(ceiling(s.proposal.action));
        let enough = if s.proposal.grant.is_some() { Level::Propose } else { Level::Auto };
        is_agent(s) && level < enough
    }),
    ("autonomy", |s| is_alone(s) && s.proposal.explored && s.around.env == Env::Prod),
    ("in_flight", |s| s.proposal.action.is_selectable() && s.app.attempt.is_some()),
    ("breaker", |s| {
        let breaker = s.app.breakers.get(&s.proposal.action);
        is_agent(s) && breaker.and_then(|b| b.open_until).is_some_and(|until| s.now < until)
    }),
    ("confidence", |s| is_agent(s) && s.proposal.confidence < Confidence::FLOOR),
    ("cooldown", |s| {
        let base = s.policy.cooldown.base_ms.get(&s.proposal.action).copied().unwrap_or(0);
        let last = s.app.last_effect.get(&s.proposal.action);
        is_agent(s) && last.is_some_and(|last| s.now < last.at.saturating_add(base))
    }),
    ("approval", |s| {
        let grant = s.proposal.grant.as_ref();
        let void = |g: &crate::choose::Grant| s.now >= g.expires_at || g.approver == g.requester;
        grant.is_some_and(void)
    }),
];

/// The first law that is broken when what `gates` make of `scene` is carried out.
fn broken(gates: &[Gate], scene: &Scene) -> Option<&'static str> {
    let enforced = enforce_with(gates, &scene.case(), 7);
    let acts = enforced.ruling == Ruling::Permitted && !scene.proposal.action.is_passive();
    if !acts && enforced.permit.is_none() {
        return None;
    }
    LAWS.iter().find(|(_, breaks)| breaks(scene)).map(|(gate, _)| *gate)
}

/// The core has no environment: how many is asked when it is compiled.
fn asked() -> usize {
    option_env!("AGENTD_FUZZED").map_or(FEW, |n| n.parse().expect("a number of decisions"))
}

#[test]
fn no_decision_breaks_a_law_however_odd_the_case() {
    let mut runner = TestRunner::deterministic();
    let (scenes, decisions) = (any_scene(), asked());
    let (mut broke, mut permitted) = (Vec::new(), 0_usize);
    for n in 0..decisions {
        let scene = scenes.new_tree(&mut runner).unwrap().current();
        permitted += usize::from(enforce_with(GATES, &scene.case(), 7).permit.is_some());
        if let Some(law) = broken(GATES, &scene) {
            broke.push((n, law, scene));
        }
    }
    assert!(permitted > decisions / 50, "{permitted} of {decisions} were carried out at all");
    let first = broke.first();
    assert!(first.is_none(), "{} of {decisions} broke a law: {first:#?}", broke.len());
    println!("{decisions} decisions, {permitted} carried out, 0 violations");
}

#[test]
fn a_gate_that_is_left_out_is_found_out() {
    const MANY: usize = 20_000;
    let scenes = any_scene();
    let mut unnoticed = Vec::new();
    for gate in GATES.iter().filter(|gate| LAWS.iter().any(|(id, _)| *id == gate.id)) {
        let others: Vec<Gate> = GATES.iter().copied().filter(|g| g.id != gate.id).collect();
        // Without the gate of the level its approval is still asked for, and the other way round: each is the second look of the other.
        let others: Vec<Gate> = match gate.id {
            "autonomy" => others.into_iter().filter(|g| g.id != "approval").collect(),
            _ => others,
        };
        let mut runner = TestRunner::deterministic();
        let mut next = || scenes.new_tree(&mut runner).unwrap().current();
        if !(0..MANY).any(|_| broken(&others, &next()) == Some(gate.id)) {
            unnoticed.push(gate.id);
        }
    }
    assert_eq!(unnoticed, Vec::<&str>::new());
}

//! Any case at all: a story, changed in some ways, with numbers from the edges of their types as well.

use proptest::prelude::*;

use super::scene::{MINUTE, NOW, Scene};
use super::{CommonCause, Gate, Judgement};
use crate::action::{Action, Level};
use crate::app::{AppName, Env, Millis};
use crate::detect::FindingKind;
use crate::plan::Operation;
use crate::policy::{Policy, Window};
use crate::reason::Reason;
use crate::signal::Metric;
use crate::state::{Breaker, Health, LastEffect, Outcome, Scope, Storm};
use crate::verdict::Fact;

/// Number of [`change`]s.
const CHANGES: usize = 40;

pub(crate) fn any_scene() -> impl Strategy<Value = Scene> {
    let action = proptest::sample::select(Action::ALL.to_vec());
    let changes = proptest::collection::vec((0..CHANGES, any_amount()), 0..5);
    (any::<bool>(), proptest::option::of(action), changes).prop_map(|(hangs, action, changes)| {
        let mut scene = Scene::default();
        if hangs {
            scene.hang();
        }
        if let Some(action) = action {
            scene.propose(action);
        }
        for (which, amount) in changes {
            change(&mut scene, which, amount);
        }
        scene.app.decisions.make_contiguous().sort_by_key(|decision| decision.at);
        scene
    })
}

fn any_amount() -> impl Strategy<Value = u64> {
    let edge = proptest::sample::select(vec![0, 1, 2, 3, 4, u64::from(u32::MAX), u64::MAX]);
    prop_oneof![4 => 0_u64..8, 2 => 0_u64..2_000, 2 => 0_u64..2 * 60 * MINUTE, 1 => edge]
}

/// One change of a scene. Most can happen; a few cannot, on purpose: a gate has to stand them all the same.
fn change(s: &mut Scene, which: usize, amount: u64) {
    let small = u32::try_from(amount).unwrap_or(u32::MAX);
    let ago = NOW.saturating_sub(amount);
    let pick = |n: usize| amount as usize % n;
    match which {
        0 => s.human(),
        1 => s.monitor(),
        2 => s.human_named(if amount.is_multiple_of(2) { "" } else { "bob" }),
        3 => s.grant(),
        4 if s.proposal.plan.is_some() => s.pending(amount, 8),
        5 if s.proposal.plan.is_some() => s.in_flight(amount),
        6 => s.paused(Scope::Env, amount.is_multiple_of(2), Some(NOW.saturating_add(amount))),
        7 => s.paused(Scope::Action(s.proposal.action), amount.is_multiple_of(2), None),
        8 => s.around.dry_run = true,
        9 => s.around.demo = true,
        10 => s.around.log_writable = false,
        11 => s.around.env = Env::ALL[pick(3)],
        12 => {
            let env = Env::ALL[pick(3)];
            (s.policy, s.around.env) = (Policy::default_for(env), env);
        }
        13 => s.app.profile.protected = true,
        14 => s.app.profile.autonomy = Some(level(amount)),
        15 => _ = s.policy.levels.insert(s.proposal.action, level(amount)),
        16 => s.proposal.explored = true,
        17 => s.proposal.confidence = small,
        18 => {
            let effect = LastEffect { at: ago, streak: small };
            s.app.last_effect.insert(s.proposal.action, effect);
        }
        19 => _ = s.app.last_effect.insert(Action::ScaleUp, LastEffect { at: ago, streak: 1 }),
        _ => change_history(s, which, amount),
    }
}

/// The second half of [`change`]: what happened before, and what is going on.
fn change_history(s: &mut Scene, which: usize, amount: u64) {
    let small = u32::try_from(amount).unwrap_or(u32::MAX);
    let ago = NOW.saturating_sub(amount);
    let pick = |n: usize| amount as usize % n;
    match which {
        20 => {
            for n in (0..amount.min(10)).rev() {
                let outcome = (n.is_multiple_of(2)).then_some(Outcome::Failed);
                s.remember(s.proposal.action, n * MINUTE, outcome);
            }
        }
        21 => {
            let open_until =
                Some(if amount.is_multiple_of(2) { NOW.saturating_add(amount) } else { ago });
            let breaker = Breaker { failures: small, open_until, opens: small };
            s.app.breakers.insert(s.proposal.action, breaker);
        }
        22 => s.also(FindingKind::ALL[pick(FindingKind::ALL.len())]),
        23 => s.find(FindingKind::CpuOverload, Some(Metric::CpuUtilization)),
        24 => s.reading.metrics.clear(),
        25 => s.reading.last_seen = Some(ago),
        26 => s.kill(&[pick(4) as u32]),
        27 => s.around.disrupting = small,
        28 => s.around.effects_last_hour = small,
        29 => (s.around.unhealthy, s.around.starting) = (small, small / 2),
        30 => s.around.storm = Some(Storm { since: ago, calm_since: Some(ago), ramp: small }),
        31 => s.around.canary = Some(canary(s, small)),
        32 => s.policy.windows.push(window(amount)),
        33 => extreme(&mut s.policy, small, amount),
        34 => s.proposal.requested_as = Some(["restart", "drop_database", "x"][pick(3)].to_owned()),
        35 => {
            s.health(Health::Healthy, amount.min(NOW));
            s.health(Health::Degraded, amount.min(NOW) / 2);
        }
        36 => {
            // Longer ago than repetition looks back, and within memory.
            for n in (0..amount.min(8)).rev() {
                s.remember(Action::AdjustThresholds, 20 * MINUTE + n, Some(Outcome::Failed));
            }
        }
        37 => {
            s.grant();
            s.proposal.grant.as_mut().unwrap().expires_at = NOW.saturating_sub(amount % 2);
        }
        38 => other_operation(s, amount),
        _ => s.proposal.plan = None,
    }
}

/// A plan that says one thing and does another.
fn other_operation(s: &mut Scene, amount: u64) {
    let (from, revision) = (s.app.desired, s.app.profile.revision);
    s.operation(match amount % 3 {
        0 => Operation::Scale { from, to: from + 1 },
        1 => Operation::Deploy { revision, instances: from },
        _ => Operation::Rollback { from: revision, to: revision, instances: from },
    });
}

fn level(amount: u64) -> Level {
    [Level::Off, Level::Shadow, Level::Propose, Level::Auto][amount as usize % 4]
}

fn canary(s: &Scene, position: u32) -> CommonCause {
    let kind = s.proposal.because.first().copied().unwrap_or(FindingKind::Crash);
    let first = AppName::parse("api").unwrap();
    let until = position.is_multiple_of(3).then(|| NOW.saturating_add(position.into()));
    CommonCause { kind, apps: 5, first, allowance: position / 2, position, until }
}

fn window(amount: Millis) -> Window {
    Window {
        name: "night".to_owned(),
        start: ["2025-12-31T23:00:00Z", "soon"][amount as usize % 2].to_owned(),
        end: (!amount.is_multiple_of(3)).then(|| "2026-01-01T00:00:01Z".to_owned()),
        every_ms: (amount.is_multiple_of(5)).then_some(amount),
        apps: Vec::new(),
    }
}

/// Numbers no linter would let through: gates have to stand them all the same.
fn extreme(policy: &mut Policy, small: u32, amount: u64) {
    policy.repetition.limit = small;
    policy.repetition.window_ms = amount;
    policy.memory.failures = small;
    policy.memory.identical = small / 2;
    policy.memory.window_ms = amount;
    policy.cooldown.restart_cap_ms = amount;
    policy.cooldown.scale_down_after_up_ms = amount;
    policy.cooldown.base_ms.values_mut().for_each(|base| *base = amount);
    policy.budget.per_app_permille = small;
    policy.budget.concurrent_permille = small;
    policy.storm.permille = small;
    policy.storm.exit_ms = amount;
    policy.stability.flap_exit_ms = amount;
    policy.freshness.ttl_ms = amount;
}

/// A gate that says one thing whatever the case is.
pub(super) fn any_stubborn_gate() -> impl Strategy<Value = Gate> {
    let gate = |id, group, judge| Gate { id, group, summary: "", reasons: &[], judge };
    proptest::sample::select(vec![
        gate("a_pass", 1, |_| Judgement::pass(Fact::None, Fact::None)),
        gate("a_hold", 1, |_| Judgement::hold(Reason::Flapping, Fact::None, Fact::None)),
        gate("z_hold", 7, |_| Judgement::hold(Reason::Flapping, Fact::None, Fact::None)),
        gate("a_refuse", 1, |_| Judgement::refuse(Reason::Storm, Fact::None, Fact::None)),
        gate("z_refuse", 7, |_| Judgement::refuse(Reason::Storm, Fact::None, Fact::None)),
    ])
}

use proptest::prelude::*;

use super::story::{MONITOR, Story};
use super::*;
use crate::action::Action;
use crate::app::Override;
use crate::plan::Operation;
use crate::policy::Learner;
use crate::signal::{Exit, MICRO, Point, Series};
use crate::state::{Health, Open, Outcome, Phase};

const CPU: Metric = Metric::CpuUtilization;
const MEMORY: Metric = Metric::MemoryUtilization;
const PERCENT: i64 = MICRO / 100;

#[track_caller]
fn check(kind: FindingKind, what: &str, expected: bool, tell: impl Fn(&mut Story)) {
    let mut story = Story::healthy(2);
    tell(&mut story);
    story.look();
    assert_eq!(story.app.open.contains_key(&kind), expected, "{kind:?}: {what}");
}

#[test]
fn the_list_names_every_kind_once_and_the_most_urgent_first() {
    let listed: Vec<FindingKind> = DETECTORS.iter().map(|detector| detector.kind).collect();
    // An anomaly is a suspicion and never more: no detector finds it.
    let found: Vec<FindingKind> =
        FindingKind::ALL.into_iter().filter(|kind| *kind != FindingKind::Anomaly).collect();
    assert_eq!(listed, found);
    assert!(FindingKind::ALL.is_sorted());
    assert!(WATCHES.iter().all(|watch| claim_of(watch.metric).is_some()));
}

#[test]
fn a_healthy_app_is_quiet() {
    let story = Story::healthy(2);
    assert!(is_quiet(&story.view()));
    assert_eq!(story.findings(), []);
}

#[test]
fn crash() {
    let kind = FindingKind::Crash;
    let exit = Exit::Signal(9);
    check(kind, "a wanted instance exited", true, |s| {
        s.exits(1, exit);
    });
    check(kind, "even with exit code 0", true, |s| {
        s.exits(1, Exit::Code(0));
    });
    check(kind, "a surplus instance exited", false, |s| {
        s.phase(2, Phase::Exited);
    });
    check(kind, "a wanted instance vanished", true, |s| {
        s.app.instances.remove(&0);
    });
    check(kind, "nothing was ever started", false, |s| {
        s.app.instances.clear();
    });
    check(kind, "an attempt is about to start it", false, |s| {
        s.attempts_restart(1);
        s.phase(1, Phase::Stopped);
    });
    check(kind, "the attempt is about another instance", true, |s| {
        s.attempts_restart(0);
        s.exits(1, exit);
    });
    check(kind, "it exits again after the attempt was carried out", true, |s| {
        s.attempts_restart(1);
        s.app.attempt.as_mut().unwrap().delivered_at = Some(s.now);
        s.exits(1, exit);
    });
    check(kind, "it was raised, and the attempt has not started it yet", true, |s| {
        s.exits(1, exit);
        s.attempts_restart(1);
    });
    check(kind, "it runs again", false, |s| {
        s.exits(1, exit);
        s.attempts_restart(1);
        s.becomes(1, Phase::Starting);
    });
}

#[test]
fn a_crash_says_how_the_instance_ended() {
    let mut story = Story::healthy(2);
    story.exits(1, Exit::Signal(9));
    let finding = &story.findings()[0];
    assert_eq!(finding.detail, "instance 1 ended: signal 9");
    assert_eq!((&finding.value, finding.persistence), (&Fact::Count(1), 1_000));
}

#[test]
fn the_third_exit_in_ten_minutes_is_a_crash_loop_until_it_runs_for_the_hold_time() {
    let mut story = Story::healthy(1);
    for expected in [vec![FindingKind::Crash], vec![FindingKind::Crash]] {
        assert_eq!(story.exits(0, Exit::Code(1)), expected);
        assert_eq!(story.becomes(0, Phase::Ready), []);
        story.hears(CPU, 0);
    }
    let both = [FindingKind::CrashLoop, FindingKind::Crash];
    assert_eq!(story.exits(0, Exit::Code(1)), both);
    assert_eq!(story.becomes(0, Phase::Ready), [FindingKind::CrashLoop]);
    for _ in 0..59 {
        assert_eq!(story.hears(CPU, 0), [FindingKind::CrashLoop]);
    }
    assert_eq!(story.hears(CPU, 0), [], "a minute without an exit");
    assert_eq!(story.exits(0, Exit::Code(1)), both, "four exits are still in the span");
    assert_eq!(story.passes(700_000), [both[0], both[1]], "it stays while it is down");
}

#[test]
fn exits_spread_over_a_long_time_are_no_loop() {
    let mut story = Story::healthy(1);
    for _ in 0..6 {
        assert!(!story.exits(0, Exit::Code(1)).contains(&FindingKind::CrashLoop));
        story.becomes(0, Phase::Ready);
        story.passes(301_000);
    }
}

#[test]
fn deployment() {
    let kind = FindingKind::DeploymentFailed;
    check(kind, "the deployment failed", true, |s| s.app.profile.failed_revision = Some(4));
    let again = Operation::Deploy { revision: 4, instances: 2 };
    check(kind, "it is being tried again", false, |s| {
        s.app.profile.failed_revision = Some(4);
        s.attempts(Action::RetryDeployment, again.clone());
    });
    check(kind, "something else is being tried", true, |s| {
        s.app.profile.failed_revision = Some(4);
        s.attempts_restart(0);
    });
}

#[test]
fn unresponsive() {
    let kind = FindingKind::Unresponsive;
    check(kind, "a wanted instance does not answer", true, |s| s.phase(1, Phase::Unready));
    check(kind, "a surplus instance does not answer", false, |s| s.phase(3, Phase::Unready));
    check(kind, "an instance is starting", false, |s| s.phase(1, Phase::Starting));
}

/// The four thresholds with the default values: over, between leave and enter, and below leave.
const LEVELS: [(FindingKind, Metric, [i64; 3]); 4] = [
    (FindingKind::CpuOverload, CPU, [80 * PERCENT, 79 * PERCENT, 63 * PERCENT]),
    (FindingKind::MemoryOverload, MEMORY, [90 * PERCENT, 89 * PERCENT, 71 * PERCENT]),
    (FindingKind::Latency, Metric::LatencyP99, [2 * MICRO, 199 * PERCENT, 159 * PERCENT]),
    (FindingKind::ErrorRate, Metric::ErrorRatio, [5 * PERCENT, 5 * PERCENT - 1, 4 * PERCENT - 1]),
];

#[test]
fn an_overload_opens_at_three_of_five_and_closes_after_three_below_leave() {
    for (kind, metric, [over, between, below]) in LEVELS {
        let mut story = Story::healthy(2);
        for value in [over, between, over, between] {
            assert_eq!(story.hears(metric, value), [], "{kind:?}: two of four");
        }
        assert_eq!(story.hears(metric, over), [kind], "three of five");
        for value in [between, below, below, between, below, below] {
            assert_eq!(story.hears(metric, value), [kind], "never three in a row below leave");
        }
        assert_eq!(story.hears(metric, below), [], "three in a row");
        assert_eq!(story.suspected(), [], "and that ends the suspicion too");
    }
}

#[test]
fn a_spike_is_suspected_for_a_moment_and_never_a_finding() {
    let mut story = Story::healthy(2);
    for _ in 0..5 {
        story.hears(CPU, 20 * PERCENT);
    }
    assert!(is_quiet(&story.view()));
    assert_eq!(story.hears(CPU, 99 * PERCENT), []);
    assert_eq!(story.suspected(), [FindingKind::CpuOverload]);
    assert!(!is_quiet(&story.view()), "a suspicion is decided on");
    for _ in 0..2 {
        assert_eq!(story.hears(CPU, 20 * PERCENT), []);
        assert_eq!(story.suspected(), [FindingKind::CpuOverload]);
    }
    story.hears(CPU, 20 * PERCENT);
    assert_eq!(story.suspected(), []);
    assert!(is_quiet(&story.view()));
}

#[test]
fn thresholds_of_the_app_come_before_those_of_the_policy_and_moved_ones_before_both() {
    let own = Override { enter: 50 * PERCENT, leave: 40 * PERCENT };
    let moved = Override { enter: 95 * PERCENT, leave: 90 * PERCENT };
    let mut story = Story::healthy(2);
    story.app.profile.thresholds.insert(CPU, own);
    (0..2).for_each(|_| assert_eq!(story.hears(CPU, 55 * PERCENT), []));
    assert_eq!(story.hears(CPU, 55 * PERCENT), [FindingKind::CpuOverload]);
    story.app.adjusted.insert(CPU, moved);
    assert_eq!(story.hears(CPU, 55 * PERCENT), [], "three below the new leave value");
}

#[test]
fn ticks_from_before_a_gap_neither_open_nor_close() {
    let mut story = Story::healthy(2);
    story.hears(CPU, 95 * PERCENT);
    story.hears(CPU, 95 * PERCENT);
    story.passes(16_000);
    assert_eq!(story.hears(CPU, 95 * PERCENT), [], "one tick since the gap");
    assert_eq!(story.hears(CPU, 95 * PERCENT), []);
    assert_eq!(story.hears(CPU, 95 * PERCENT), [FindingKind::CpuOverload]);
    story.hears(CPU, 10 * PERCENT);
    story.hears(CPU, 10 * PERCENT);
    assert_eq!(story.passes(20_000), [FindingKind::CpuOverload], "no data is no recovery");
    assert_eq!(story.hears(CPU, 10 * PERCENT), [FindingKind::CpuOverload]);
    assert_eq!(story.hears(CPU, 10 * PERCENT), [FindingKind::CpuOverload]);
    assert_eq!(story.hears(CPU, 10 * PERCENT), []);
}

#[test]
fn a_monitor_that_reports_every_ten_seconds_is_good_enough() {
    let mut story = Story::healthy(2);
    for expected in [&[][..], &[], &[FindingKind::CpuOverload]] {
        story.passes(9_000);
        assert_eq!(story.hears(CPU, 95 * PERCENT), expected);
    }
}

#[test]
fn a_claim_alone_is_a_suspicion_and_completes_numbers() {
    let mut story = Story::healthy(2);
    story.claims(MONITOR, "cpu_high", true);
    assert_eq!(story.look(), []);
    assert_eq!(story.suspected(), [FindingKind::CpuOverload]);

    let mut story = Story::healthy(2);
    story.hears(CPU, 95 * PERCENT);
    story.hears(CPU, 95 * PERCENT);
    story.claims(MONITOR, "cpu_high", true);
    assert_eq!(story.look(), [], "the newest tick says the same: it is counted once");
    story.hears(CPU, 75 * PERCENT);
    story.claims(MONITOR, "cpu_high", true);
    assert_eq!(story.look(), [FindingKind::CpuOverload]);
    for _ in 0..5 {
        story.claims(MONITOR, "cpu_high", true);
        assert_eq!(story.hears(CPU, 0), [FindingKind::CpuOverload], "the claim stands");
    }
    story.claims(MONITOR, "cpu_high", false);
    assert_eq!(story.hears(CPU, 0), []);
}

#[test]
fn contradiction() {
    let kind = FindingKind::Contradiction;
    let other = "monitor/core";
    check(kind, "one says high and one says low", true, |s| {
        s.says(MONITOR, CPU, 80 * PERCENT);
        s.says(other, CPU, 32 * PERCENT);
    });
    check(kind, "one is not high enough", false, |s| {
        s.says(MONITOR, CPU, 79 * PERCENT);
        s.says(other, CPU, 0);
    });
    check(kind, "one is not low enough", false, |s| {
        s.says(MONITOR, CPU, 99 * PERCENT);
        s.says(other, CPU, 33 * PERCENT);
    });
    check(kind, "one is from another time", false, |s| {
        s.says(MONITOR, CPU, 99 * PERCENT);
        s.passes(16_000);
        s.says(other, CPU, 0);
    });
    check(kind, "one metric high and another low", false, |s| {
        s.says(MONITOR, CPU, 99 * PERCENT);
        s.says(other, MEMORY, 0);
    });
    for (high, low) in [
        ("cpu_high", "cpu_low"),
        ("memory_high", "memory_low"),
        ("error_rate_high", "error_rate_zero"),
    ] {
        check(kind, high, true, |s| {
            s.claims(MONITOR, high, true);
            s.claims(MONITOR, low, true);
        });
        check(kind, low, false, |s| {
            s.claims(MONITOR, high, true);
            s.claims(MONITOR, low, false);
        });
    }
}

#[test]
fn a_contradiction_names_the_metric_and_both_sources_and_ends_with_either() {
    let mut story = Story::healthy(2);
    story.says(MONITOR, CPU, 99 * PERCENT);
    story.says("sense/process", CPU, PERCENT);
    assert_eq!(story.look(), [FindingKind::Contradiction]);
    let expected = "cpu_utilization: `monitor/edge` says high and `sense/process` says low";
    assert_eq!(story.findings()[0].detail, expected);
    story.passes(10_000);
    story.says("sense/process", CPU, PERCENT);
    assert_eq!(story.passes(6_000), []);
}

#[test]
fn a_leak_is_found_before_the_memory_is_full_and_noise_is_not_one() {
    let mut story = Story::healthy(2);
    for step in 0..7 {
        assert_eq!(story.hears(MEMORY, (45 + 3 * step) * PERCENT), [], "too few ticks");
    }
    assert_eq!(story.hears(MEMORY, 66 * PERCENT), [FindingKind::MemoryGrowth]);
    assert_eq!(story.passes(20_000), [FindingKind::MemoryGrowth], "no data is no recovery");
    for _ in 0..5 {
        assert_eq!(story.hears(MEMORY, 66 * PERCENT), [FindingKind::MemoryGrowth]);
    }
    for _ in 0..8 {
        story.hears(MEMORY, 20 * PERCENT);
    }
    assert_eq!(story.look(), []);

    let mut noisy = Story::healthy(2);
    for step in 0..20 {
        let value = if step % 2 == 0 { 50 } else { 75 };
        assert_eq!(noisy.hears(MEMORY, value * PERCENT), []);
    }
    let mut low = Story::healthy(2);
    for step in 0..12 {
        assert_eq!(low.hears(MEMORY, (5 + 3 * step) * PERCENT), [], "below half there is time");
    }
}

#[test]
fn one_odd_tick_does_not_hide_a_leak() {
    let mut story = Story::healthy(2);
    for step in 0..10 {
        let value = if step == 5 { 1 } else { 45 + 3 * step };
        story.hears(MEMORY, value * PERCENT);
    }
    assert_eq!(story.look(), [FindingKind::MemoryGrowth]);
}

#[test]
fn four_turns_within_ten_minutes_are_flapping_until_fifteen_minutes_of_calm() {
    let mut story = Story::healthy(1);
    for ago in [540_000, 360_000, 180_000] {
        story.health_was(Health::Healthy, ago);
        story.health_was(Health::Down, ago - 60_000);
    }
    assert_eq!(story.look(), [FindingKind::Flapping]);
    for _ in 0..12 {
        story.window.seen(story.now + 60_000);
        assert_eq!(story.passes(60_000), [FindingKind::Flapping]);
    }
    story.window.seen(story.now + 60_000);
    assert_eq!(story.passes(60_000), [], "two minutes before and thirteen since");

    check(FindingKind::Flapping, "worse and worse is one turn", false, |s| {
        for (health, ago) in
            [(Health::Healthy, 5_000), (Health::Degraded, 4_000), (Health::Down, 3_000)]
        {
            s.health_was(health, ago);
            s.health_was(Health::Degraded, ago - 500);
        }
    });
    check(FindingKind::Flapping, "not to know is no turn", false, |s| {
        for ago in [5_000, 4_000, 3_000, 2_000] {
            s.health_was(Health::Healthy, ago);
            s.health_was(Health::Unknown, ago - 500);
        }
    });
    check(FindingKind::Flapping, "turns of long ago", false, |s| {
        for ago in [5_000_000, 4_000_000, 3_000_000, 2_000_000] {
            s.health_was(Health::Healthy, ago);
            s.health_was(Health::Down, ago - 500);
        }
    });
}

#[test]
fn silence_is_counted_from_the_last_word_of_anybody() {
    let mut story = Story::healthy(2);
    assert_eq!(story.passes(45_000), []);
    assert_eq!(story.passes(1), [FindingKind::Silence]);
    assert!(!is_quiet(&story.view()));
    story.claims(MONITOR, "warm", true);
    assert_eq!(story.look(), [], "a boolean is a word too");

    let mut mute = Story::onboarded(1);
    assert_eq!(mute.passes(100_000), [], "nothing runs, so nobody can report");
    mute.phase(0, Phase::Ready);
    assert_eq!(mute.look(), [FindingKind::Silence], "counted from the onboarding");
    let expected = "no signal for 100 s";
    assert_eq!(mute.findings()[0].detail, expected);
}

#[test]
fn an_open_overload_survives_the_silence_of_its_monitor() {
    let mut story = Story::healthy(2);
    (0..3).for_each(|_| _ = story.hears(CPU, 95 * PERCENT));
    assert_eq!(story.passes(60_000), [FindingKind::CpuOverload, FindingKind::Silence]);
    let finding = &story.findings()[0];
    assert_eq!((&finding.value, finding.persistence), (&Fact::None, 0));
}

#[test]
fn what_can_be_saved_is_not_quiet() {
    let mut story = Story::healthy(2);
    for tick in 1..=Series::RECENT {
        assert!(is_quiet(&story.view()), "{tick} ticks are too few to know");
        story.hears(CPU, 10 * PERCENT);
    }
    assert!(is_idle(&story.view()) && !is_quiet(&story.view()));
    story.app.profile.min = 2;
    assert!(is_quiet(&story.view()), "nothing to give back");
}

#[test]
fn quiet_needs_every_wanted_instance_and_nothing_in_flight() {
    let mut story = Story::healthy(2);
    story.phase(1, Phase::Starting);
    assert!(!is_quiet(&story.view()));
    let mut story = Story::healthy(2);
    story.attempts_restart(0);
    assert!(!is_quiet(&story.view()));
    let mut story = Story::healthy(2);
    story.app.open.insert(FindingKind::Crash, Open { since: 0, seq: 1 });
    assert!(!is_quiet(&story.view()));
}

fn any_point() -> impl Strategy<Value = Point> {
    let micro = prop_oneof![Just(0), Just(i64::MAX), Just(i64::MIN), 0..2 * MICRO, any::<i64>()];
    let at = prop_oneof![Just(0), Just(u64::MAX), 1_000_000_u64..1_020_000, any::<u64>()];
    (micro, at).prop_map(|(micro, at)| Point { micro, at })
}

fn any_series() -> impl Strategy<Value = Series> {
    let sources = prop::collection::btree_map("[a-c]", any_point(), 0..3);
    let recent = prop::collection::vec(any_point(), 0..=Series::RECENT);
    (sources, recent).prop_map(|(sources, recent)| Series { sources, recent })
}

fn any_story() -> impl Strategy<Value = Story> {
    let metrics = prop::collection::btree_map(
        prop::sample::select(Metric::ALL.to_vec()),
        any_series(),
        0..Metric::ALL.len(),
    );
    let open = prop::collection::btree_set(prop::sample::select(FindingKind::ALL.to_vec()), 0..4);
    let edge = || prop_oneof![Just(0_u64), Just(u64::MAX), 1_000_000_u64..1_020_000];
    let turns = prop::collection::vec((any::<bool>(), edge()), 0..10);
    let numbers = (edge(), edge(), prop::collection::vec(edge(), 0..16));
    (metrics, open, turns, numbers, prop_oneof![0_u32..5, Just(u32::MAX)], any::<[u32; 2]>())
        .prop_map(|(metrics, open, turns, (now, seen, exits), desired, [k, n])| {
            let mut story = Story::healthy(desired.min(3));
            story.app.desired = desired;
            story.app.exits = exits.into();
            story.now = now;
            story.reading.metrics = metrics;
            story.reading.last_seen = Some(seen);
            for kind in open {
                story.app.open.insert(kind, Open { since: seen, seq: 1 });
            }
            for (healthy, at) in turns {
                let health = if healthy { Health::Healthy } else { Health::Down };
                story.app.states.push_back(crate::state::HealthChange {
                    health,
                    at,
                    planned: false,
                });
            }
            if let Some(rule) = story.policy.thresholds.get_mut(&CPU) {
                (rule.k, rule.n) = (k, n);
                rule.enter = i64::MAX;
                rule.leave = i64::MIN;
            }
            if story.app.desired > 2 {
                story.did(Action::Restart, Outcome::Failed);
            }
            story
        })
}

proptest! {
    #[test]
    fn extreme_numbers_never_panic_and_order_never_breaks(story in any_story()) {
        let findings = story.findings();
        prop_assert!(findings.iter().map(|f| f.kind).is_sorted());
        prop_assert!(findings.iter().all(|f| f.persistence <= 1_000));
        prop_assert_eq!(&findings, &story.findings());
        if is_quiet(&story.view()) {
            prop_assert!(findings.is_empty() && suspicions(&story.view()).is_empty());
        }
        let proposal = story.chooses();
        prop_assert!(proposal.confidence <= 1_000 && proposal.propensity_ppm <= 1_000_000);
        let bytes = serde_json::to_vec(&proposal).unwrap();
        prop_assert_eq!(bytes, serde_json::to_vec(&story.chooses()).unwrap());
    }

    #[test]
    fn looking_again_at_the_same_moment_changes_nothing(mut story in any_story()) {
        let settle = |story: &mut Story| {
            let kinds: Vec<FindingKind> = story.findings().iter().map(|f| f.kind).collect();
            story.app.open.retain(|kind, _| kinds.contains(kind));
            for kind in &kinds {
                story.app.open.entry(*kind).or_insert(Open { since: 0, seq: 0 });
            }
            kinds
        };
        // A threshold whose leave value is not below its enter value is refused by the policy's lint.
        story.policy.thresholds.remove(&CPU);
        let first = settle(&mut story);
        prop_assert_eq!(first, settle(&mut story));
    }

    #[test]
    fn below_k_ticks_a_threshold_never_opens(values in prop::collection::vec(0..100_i64, 1..12)) {
        let mut story = Story::healthy(2);
        let mut over = std::collections::VecDeque::new();
        for value in values {
            story.hears(CPU, value * PERCENT);
            over.push_back(value >= 80);
            if over.len() > 5 {
                over.pop_front();
            }
            let enough = over.iter().filter(|o| **o).count() >= 3;
            let open = story.app.open.contains_key(&FindingKind::CpuOverload);
            prop_assert!(!enough || open);
            if !open {
                prop_assert!(!enough);
            }
        }
    }
}

fn alarm(metric: Metric, test: Test) -> Alarm {
    let deviation = Deviation { test, value: 20_000, low: 0, high: 1_000, history: 900 };
    Alarm { metric, since: 0, deviation }
}

#[test]
fn what_is_only_unusual_is_suspected_and_never_acted_on() {
    let mut story = Story::healthy(2);
    story.reading.alarms = vec![alarm(Metric::RequestRate, Test::Level)];
    assert!(!is_quiet(&story.view()), "it is recorded");
    assert_eq!(story.findings(), []);
    assert_eq!(story.suspected(), [FindingKind::Anomaly]);
    assert!(story.chooses().action.is_passive());
    let said = &suspicions(&story.view())[0].detail;
    assert_eq!(
        said,
        "request_rate by level: 0.020000, expected 0.000000 to 0.001000 after 900 samples"
    );
}

#[test]
fn a_budget_that_runs_out_is_told_to_humans_once_and_one_that_will_not_last_is_recorded() {
    let mut story = Story::healthy(2);
    let tells = |story: &mut Story, test| {
        story.reading.alarms = vec![alarm(Metric::ErrorRatio, test)];
        assert_eq!((story.findings(), story.suspected()), (vec![], vec![FindingKind::Anomaly]));
        story.chooses().action
    };
    assert_eq!(tells(&mut story, Test::BurnTicket), Action::Observe);
    assert_eq!(tells(&mut story, Test::BurnPage), Action::Escalate);
    story.app.escalated = true;
    assert_eq!(tells(&mut story, Test::BurnPage), Action::Observe, "they know");
}

#[test]
fn failures_that_add_up_are_a_finding_that_no_action_may_rest_on_until_the_threshold_agrees() {
    let mut story = Story::healthy(2);
    // The catalogue does not hope that a restart helps against errors; the rule does, once it is sure of them.
    story.policy.learning.learner = Learner::Q;
    story.reading.alarms = vec![alarm(Metric::ErrorRatio, Test::ErrorSum)];
    let findings = story.findings();
    assert_eq!((findings.len(), findings[0].kind), (1, FindingKind::ErrorRate));
    assert_eq!(story.chooses().confidence, 0, "below every minimum");
    (0..5).for_each(|_| _ = story.hears(Metric::ErrorRatio, MICRO / 2));
    story.reading.alarms = vec![alarm(Metric::ErrorRatio, Test::ErrorSum)];
    let findings = story.findings();
    assert_eq!((findings.len(), findings[0].persistence), (1, 1_000), "the threshold comes first");
    assert!(story.chooses().confidence > 500);
}

use proptest::prelude::*;

use super::*;
use crate::app::Env;
use crate::policy::Policy;
use crate::signal::{Exit, MICRO};

const CPU: Metric = Metric::CpuUtilization;
const NOW: Millis = 1_000_000;

fn rules() -> Policy {
    Policy::default_for(Env::Stage)
}

fn window() -> Window {
    Window::new(AppName::parse("web").unwrap())
}

fn sample(source: &str, instance: Option<u32>, micro: i64, observed_ms: Millis) -> Sample {
    let source = source.to_owned();
    Sample { metric: CPU, micro, instance, source, observed_ms, received_ms: observed_ms }
}

fn recent(reading: &Reading) -> Vec<i64> {
    reading.metrics.get(&CPU).map_or(Vec::new(), |s| s.recent.iter().map(|p| p.micro).collect())
}

#[test]
fn a_tick_is_the_worst_source_and_a_source_is_the_mean_of_its_instances() {
    let mut window = window();
    for sample in [
        sample("a", Some(0), 10, NOW),
        sample("a", Some(1), 40, NOW),
        sample("b", None, 20, NOW - 500),
    ] {
        assert_eq!(window.push(&sample), Push::Kept);
    }
    let reading = window.close(NOW, &rules(), 0);
    assert_eq!(recent(&reading), [25]);
    let sources = &reading.metrics[&CPU].sources;
    assert_eq!(sources["a"], Point { micro: 25, at: NOW });
    assert_eq!(sources["b"], Point { micro: 20, at: NOW - 500 });
    assert_eq!((reading.at, reading.last_seen), (NOW, Some(NOW)));
}

#[test]
fn without_news_a_tick_adds_nothing() {
    let mut window = window();
    window.push(&sample("a", None, 10, NOW));
    assert_eq!(recent(&window.close(NOW, &rules(), 0)), [10]);
    assert_eq!(recent(&window.close(NOW + 1, &rules(), 0)), [10]);
    assert_eq!(window.push(&sample("a", None, 10, NOW)), Push::OutOfOrder, "sent again");
    assert_eq!(recent(&window.close(NOW + 2, &rules(), 0)), [10]);
    window.push(&sample("a", None, 10, NOW + 3));
    assert_eq!(recent(&window.close(NOW + 3, &rules(), 0)), [10, 10]);
}

#[test]
fn the_spike_of_a_slow_monitor_is_one_tick_while_a_fast_one_goes_on() {
    let mut window = window();
    window.push(&sample("slow", None, 99, NOW));
    window.push(&sample("fast", None, 5, NOW));
    window.close(NOW, &rules(), 0);
    for tick in 1..4 {
        window.push(&sample("fast", None, 5, NOW + tick));
        window.close(NOW + tick, &rules(), 0);
    }
    let reading = window.close(NOW + 4, &rules(), 0);
    assert_eq!(recent(&reading), [99, 5, 5, 5]);
    assert_eq!(reading.metrics[&CPU].sources.len(), 2, "its value is still known");
}

#[test]
fn a_share_of_the_machine_stands_back_behind_what_a_monitor_says() {
    let mut window = window();
    let own = |at: Millis| Sample {
        metric: Metric::MemoryUtilization,
        ..sample(MACHINE, Some(0), 2, at)
    };
    let heap =
        |at: Millis| Sample { metric: Metric::MemoryUtilization, ..sample("a", None, 90, at) };
    let close = |window: &mut Window, at: Millis| {
        let reading = window.close(at, &rules(), 0);
        let series = reading.metrics[&Metric::MemoryUtilization].clone();
        let recent: Vec<i64> = series.recent.iter().map(|point| point.micro).collect();
        (series.sources.into_keys().collect::<Vec<_>>(), recent)
    };
    window.push(&own(NOW));
    window.push(&own(NOW + 1));
    assert_eq!(
        close(&mut window, NOW + 1),
        (vec![MACHINE.to_owned()], vec![2]),
        "nobody else says"
    );

    // From 2 to 90 nothing has grown: it is another limit, which the first sample of it tells.
    window.push(&heap(NOW + 2));
    window.push(&own(NOW + 2));
    assert_eq!(close(&mut window, NOW + 2), (vec!["a".to_owned()], vec![90]));
    window.push(&own(NOW + 3));
    assert_eq!(close(&mut window, NOW + 3).1, [90], "and no tick lies between two of the monitor");

    // Its silence is no fall to 2: what it said last is remembered, and so is what it was a share of.
    let ttl = rules().freshness.ttl_ms;
    window.push(&own(NOW + 2 * ttl));
    assert_eq!(close(&mut window, NOW + 2 * ttl), (vec![], vec![90]));
    let forgotten = NOW + ttl * (Series::RECENT as u64 + 2);
    window.push(&own(forgotten));
    close(&mut window, forgotten);
    window.push(&own(forgotten + 1));
    assert_eq!(close(&mut window, forgotten + 1), (vec![MACHINE.to_owned()], vec![2]));
}

#[test]
fn older_values_than_the_known_one_are_refused_and_of_two_at_one_moment_the_worse_counts() {
    let mut window = window();
    assert_eq!(window.push(&sample("a", None, 50, NOW)), Push::Kept);
    assert_eq!(window.push(&sample("a", None, 99, NOW - 1)), Push::OutOfOrder);
    assert_eq!(window.push(&sample("a", Some(1), 50, NOW - 1)), Push::Kept, "another instance");
    assert_eq!(window.push(&sample("a", None, 40, NOW)), Push::OutOfOrder);
    assert_eq!(window.push(&sample("a", None, 60, NOW)), Push::Superseded);
    assert_eq!(recent(&window.close(NOW, &rules(), 0)), [55]);
}

#[test]
fn what_outlived_its_time_is_forgotten() {
    let mut window = window();
    window.push(&sample("a", None, 50, NOW));
    window.condition("warm", &Condition { value: true, source: "a".to_owned(), at: NOW });
    let reading = window.close(NOW + rules().freshness.ttl_ms, &rules(), 0);
    assert_eq!((reading.conditions.len(), reading.metrics[&CPU].sources.len()), (1, 1));
    let reading = window.close(NOW + rules().freshness.ttl_ms + 1, &rules(), 0);
    assert_eq!((reading.conditions.len(), reading.metrics[&CPU].sources.len()), (0, 0));
    assert_eq!(recent(&reading), [50], "ticks are history");
    assert_eq!(
        reading.stale,
        [(CPU, NOW + rules().freshness.ttl_ms)].into(),
        "and since when is known"
    );
    let reading = window.close(NOW + 1_000_000, &rules(), 0);
    assert_eq!(reading, Reading::silent(window.app().clone(), NOW + 1_000_000, Some(NOW)));
}

#[test]
fn what_is_heard_again_is_not_stale_any_more_and_one_source_of_two_is_enough() {
    let mut window = window();
    let ttl = rules().freshness.ttl_ms;
    window.push(&sample("lost", None, 50, NOW));
    window.push(&sample("steady", None, 40, NOW + ttl));
    let reading = window.close(NOW + ttl + 1, &rules(), 0);
    assert_eq!(reading.stale, [].into(), "the other one goes on");
    let gone = window.close(NOW + 2 * ttl + 1, &rules(), 0);
    assert_eq!(gone.stale, [(CPU, NOW + 2 * ttl)].into());
    assert!(gone.has_expired_since(Some(&reading)) && gone.has_expired_since(None));
    let later = window.close(NOW + 2 * ttl + 2, &rules(), 0);
    assert!(!later.has_expired_since(Some(&gone)), "told once");
    window.push(&sample("lost", None, 50, NOW + 3 * ttl));
    assert_eq!(window.close(NOW + 3 * ttl, &rules(), 0).stale, [].into());
}

#[test]
fn a_metric_of_a_slower_pace_has_a_longer_life() {
    let mut window = window();
    window.push(&sample("a", None, 50, NOW));
    let mut slow = rules();
    slow.freshness.ttl_by_metric = [(CPU, 60_000)].into();
    let reading = window.close(NOW + 60_000, &slow, 0);
    assert_eq!((reading.metrics[&CPU].sources.len(), reading.stale.len()), (1, 0));
    assert_eq!(window.close(NOW + 60_001, &slow, 0).stale, [(CPU, NOW + 60_000)].into());
}

#[test]
fn a_value_that_nobody_looked_at_gives_way_and_is_counted() {
    let mut window = window();
    assert_eq!(window.push(&sample("a", None, 50, NOW)), Push::Kept);
    assert_eq!(window.push(&sample("a", None, 60, NOW + 1)), Push::Superseded);
    assert_eq!(window.push(&sample("b", None, 60, NOW + 1)), Push::Kept, "another source");
    assert_eq!(recent(&window.close(NOW + 1, &rules(), 0)), [60], "the newest counts");
    assert_eq!(window.push(&sample("a", None, 70, NOW + 2)), Push::Kept, "it was looked at");
}

#[test]
fn a_shorter_life_ends_sooner_and_counts_for_an_app_that_is_younger_than_the_difference() {
    let ttl = rules().freshness.ttl_ms;
    let mut signal = accepted();
    signal.samples = vec![sample("a", None, 50, NOW)];
    let condition = Condition { value: true, source: "a".to_owned(), at: NOW };
    signal.conditions.insert("warm".to_owned(), condition);
    let known = |ttl_ms, after: Millis| {
        let mut window = window();
        window.absorb(&Accepted { ttl_ms, ..signal.clone() });
        // Onboarded in the millisecond in which it was first heard of.
        let reading = window.close(NOW + after, &rules(), NOW);
        let sources = reading.metrics.get(&CPU).map_or(0, |series| series.sources.len());
        (sources, reading.conditions.len(), reading.stale.get(&CPU).copied())
    };
    assert_eq!(known(Some(2_000), 2_000), (1, 1, None));
    assert_eq!(known(Some(2_000), 2_001), (0, 0, Some(NOW + 2_000)));
    assert_eq!(known(Some(10 * ttl), ttl), (1, 1, None));
    assert_eq!(known(Some(10 * ttl), ttl + 1), (0, 0, Some(NOW + ttl)), "never longer");
}

#[test]
fn an_earlier_life_under_the_same_name_is_not_inherited() {
    let mut window = window();
    window.push(&sample("a", None, 50, NOW));
    window.close(NOW, &rules(), 0);
    let reading = window.close(NOW + 2, &rules(), NOW + 1);
    assert_eq!(reading, Reading::silent(window.app().clone(), NOW + 2, None));
}

#[test]
fn after_a_restart_of_the_server_monitors_have_their_time_to_report() {
    let mut window = Window::resumed(AppName::parse("web").unwrap(), NOW);
    assert_eq!(window.close(NOW + 5, &rules(), 0).last_seen, Some(NOW));
    assert_eq!(window.last_seen(), Some(NOW));
}

#[test]
fn the_last_twelve_ticks_are_kept() {
    let mut window = window();
    for tick in 0..20 {
        window.push(&sample("a", None, tick, NOW + tick.unsigned_abs()));
        window.close(NOW + tick.unsigned_abs(), &rules(), 0);
    }
    let expected: Vec<i64> = (8..20).collect();
    assert_eq!(recent(&window.close(NOW + 20, &rules(), 0)), expected);
}

#[test]
fn every_limit_is_counted() {
    let mut window = window();
    for n in 0..Window::SOURCES {
        assert_eq!(window.push(&sample(&format!("s{n}"), None, 1, NOW)), Push::Kept);
    }
    assert_eq!(window.push(&sample("one-more", None, 1, NOW)), Push::TooManySources);
    for n in 0..Window::INSTANCES {
        let slot = u32::try_from(n).unwrap();
        assert_eq!(window.push(&sample("s0", Some(slot), 1, NOW)), Push::Kept);
    }
    assert_eq!(window.push(&sample("s0", Some(64), 1, NOW)), Push::TooManyInstances);
    let condition = Condition { value: true, source: "a".to_owned(), at: NOW };
    for n in 0..Window::CONDITIONS {
        assert_eq!(window.condition(&format!("c{n}"), &condition), Push::Kept);
    }
    assert_eq!(window.condition("one_more", &condition), Push::TooManyConditions);

    let mut signal = accepted();
    signal.samples = vec![
        sample("one-more", None, 1, NOW),
        sample("s0", None, 1, NOW - 1),
        sample("s0", None, 2, NOW + 1),
    ];
    let expected = Absorbed { kept: 1, superseded: 1, out_of_order: 1, dropped: 1 };
    assert_eq!(window.absorb(&signal), expected);
    window.close(NOW + 20_000, &rules(), 0);
    let late = sample("one-more", None, 1, NOW + 20_000);
    assert_eq!(window.push(&late), Push::Kept, "the silent ones made room");
}

fn accepted() -> Accepted {
    Accepted {
        app: AppName::parse("web").unwrap(),
        instance: None,
        received_ms: NOW,
        samples: Vec::new(),
        conditions: BTreeMap::new(),
        exit: None,
        ttl_ms: None,
    }
}

#[test]
fn exits_and_critical_conditions_are_urgent() {
    let mut signal = accepted();
    assert!(!urgent(&signal));
    let condition = |value| Condition { value, source: "a".to_owned(), at: NOW };
    signal.conditions.insert("cpu_high".to_owned(), condition(true));
    signal.conditions.insert("disk_critical".to_owned(), condition(false));
    assert!(!urgent(&signal));
    signal.conditions.insert("disk_critical".to_owned(), condition(true));
    assert!(urgent(&signal));
    assert!(urgent(&Accepted { exit: Some(Exit::Code(0)), ..accepted() }));
}

#[test]
fn a_signal_that_only_says_an_exit_is_a_word_too() {
    let mut window = window();
    window.absorb(&Accepted { exit: Some(Exit::Unknown), ..accepted() });
    assert_eq!(window.close(NOW, &rules(), 0).last_seen, Some(NOW));
}

#[test]
fn extreme_values_do_not_overflow_the_mean() {
    let mut window = window();
    for slot in 0..Instances::LIMIT {
        window.push(&sample("a", Some(slot), i64::MAX, u64::MAX));
    }
    assert_eq!(recent(&window.close(u64::MAX, &rules(), 0)), [i64::MAX]);
    assert_eq!(recent(&window.close(0, &rules(), 0)), [i64::MAX], "a clock that went back");
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let metric = prop::sample::select(vec![CPU, Metric::ErrorRatio]);
    let instance = prop::option::of(0..3_u32);
    (metric, 0..5 * MICRO, instance, "[a-d]", 0..4_u64).prop_map(
        |(metric, micro, instance, source, ago)| {
            let received_ms = NOW;
            Sample { metric, micro, instance, source, observed_ms: NOW - ago, received_ms }
        },
    )
}

proptest! {
    #[test]
    fn the_order_of_samples_within_a_tick_does_not_matter(
        (samples, shuffled) in prop::collection::vec(any_sample(), 0..40)
            .prop_flat_map(|samples| (Just(samples.clone()), Just(samples).prop_shuffle())),
        claims in prop::collection::vec(("[a-c]", "[a-c]", any::<bool>()), 0..8),
    ) {
        let read = |samples: &[Sample], backwards: bool| {
            let mut window = window();
            for sample in samples {
                window.push(sample);
            }
            let mut claims = claims.clone();
            if backwards {
                claims.reverse();
            }
            for (name, source, value) in claims {
                window.condition(&name, &Condition { value, source, at: NOW });
            }
            window.close(NOW, &rules(), 0)
        };
        let (one, other) = (read(&samples, false), read(&shuffled, true));
        prop_assert_eq!(serde_json::to_vec(&one).unwrap(), serde_json::to_vec(&other).unwrap());
    }
}

proptest! {
    /// What the loop rests on when it does not close a window of which nothing is heard.
    #[test]
    fn until_something_is_heard_or_ends_closing_it_again_gives_the_same(
        said in prop::collection::vec((0..3_u32, 0..2_000_u64, 1..20_u64, any::<bool>()), 1..12),
        later in 1..400_000_u64,
    ) {
        let (mut window, policy) = (window(), rules());
        let mut now = NOW;
        for (instance, after, life, claims) in said {
            now += after;
            window.hold(&sample("a", Some(instance), 10, now), Life::new(Some(life * 1_000)));
            if claims {
                window.claim("cpu_high", (true, "a", now), Life::new(Some(life * 700)));
            }
            window.close(now, &policy, 0);
        }
        let known = window.close(now, &policy, 0);
        let ends = window.same_until().expect("something is known");
        let at = now + later;
        let same = |mut window: Window, at| Reading { at: now, ..window.close(at, &policy, 0) } == known;
        prop_assert_eq!(same(window.clone(), at.min(ends - 1)), true);
        prop_assert_eq!(same(window.clone(), ends.saturating_sub(1)), true);
        // In the end nothing is known, and nothing is left that could end.
        let mut rest = 0;
        while let Some(ends) = window.same_until() {
            window.close(ends, &policy, 0);
            rest += 1;
        }
        prop_assert!(rest < 100 && window.close(Millis::MAX, &policy, 0).metrics.is_empty());
    }
}

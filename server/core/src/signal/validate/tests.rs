use proptest::prelude::*;

use super::*;
use crate::app::Env;
use crate::policy::Policy;

const NOW: Millis = 1_700_000_000_000;

fn rules() -> Freshness {
    Policy::default_for(Env::Stage).freshness
}

fn known(name: &str) -> Option<AppName> {
    (name == "web").then(|| AppName::parse(name).unwrap())
}

fn signal() -> Signal {
    Signal {
        app: "web".to_owned(),
        instance: Some(0),
        observed_ms: NOW,
        metrics: BTreeMap::from([(Metric::CpuUtilization, 0.5)]),
        conditions: BTreeMap::new(),
        exit: None,
    }
}

fn judge(signal: &Signal) -> Result<Accepted, Vec<Rejection>> {
    validate(signal, "monitor/edge", NOW, &rules(), known)
}

#[track_caller]
fn check(tell: impl FnOnce(&mut Signal), expected: &[(Code, &str)]) {
    let mut signal = signal();
    tell(&mut signal);
    let rejections = judge(&signal).err().unwrap_or_default();
    let found: Vec<_> = rejections.iter().map(|r| (r.code, r.field.as_str())).collect();
    assert_eq!(found, expected, "{rejections:?}");
}

#[test]
fn a_good_signal_becomes_fixed_point_samples() {
    let mut signal = signal();
    signal.metrics.insert(Metric::LatencyP99, 0.123_456_7);
    signal.conditions.insert("cpu_high".to_owned(), true);
    let accepted = judge(&signal).unwrap();
    let values: Vec<_> = accepted.samples.iter().map(|s| (s.metric, s.micro)).collect();
    assert_eq!(values, [(Metric::CpuUtilization, 500_000), (Metric::LatencyP99, 123_457)]);
    let expected = Condition { value: true, source: "monitor/edge".to_owned(), at: NOW };
    assert_eq!(accepted.conditions["cpu_high"], expected);
    assert_eq!(accepted.samples[0].source, "monitor/edge");
    assert_eq!((accepted.instance, accepted.received_ms), (Some(0), NOW));
}

#[test]
fn every_rule_has_a_code() {
    check(|_| (), &[]);
    check(|s| s.app = "api".to_owned(), &[(Code::UnknownApp, "app")]);
    check(|s| s.observed_ms = NOW + 30_001, &[(Code::ClockSkew, "observed")]);
    check(|s| s.observed_ms = NOW - 300_001, &[(Code::Stale, "observed")]);
    check(|s| s.observed_ms = 0, &[(Code::Stale, "observed")]);
    check(|s| s.observed_ms = u64::MAX, &[(Code::ClockSkew, "observed")]);
    check(|s| s.observed_ms = NOW + 30_000, &[]);
    check(|s| s.observed_ms = NOW - 300_000, &[]);
    check(|s| s.instance = Some(64), &[(Code::OutOfRange, "instance")]);
    check(|s| s.metrics.clear(), &[(Code::Empty, "signal")]);
    check(
        |s| {
            s.metrics.clear();
            s.exit = Some(Exit::Code(1));
        },
        &[],
    );
}

#[test]
fn every_number_that_cannot_be_is_named() {
    let cpu = |value: f64, code: Option<Code>| {
        let expected: Vec<_> = code.map(|code| (code, "cpu_utilization")).into_iter().collect();
        check(|s| _ = s.metrics.insert(Metric::CpuUtilization, value), &expected);
    };
    for value in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        cpu(value, Some(Code::NotFinite));
    }
    for value in [-1.0, -f64::MIN_POSITIVE, f64::MIN] {
        cpu(value, Some(Code::Negative));
    }
    for value in [1_024.000_001, 1e18, 1e300, f64::MAX] {
        cpu(value, Some(Code::OutOfRange));
    }
    for value in [0.0, -0.0, f64::MIN_POSITIVE, f64::from_bits(1), 1_024.0] {
        cpu(value, None);
    }
    let ratio = |value| {
        check(
            |s| _ = s.metrics.insert(Metric::ErrorRatio, value),
            &[(Code::OutOfRange, "error_ratio")],
        );
    };
    ratio(1.000_001);
}

#[test]
fn all_violations_are_reported_at_once() {
    check(
        |s| {
            s.app = "nobody".to_owned();
            s.observed_ms = 0;
            s.instance = Some(u32::MAX);
            s.metrics.insert(Metric::LatencyP99, f64::NAN);
            s.metrics.insert(Metric::ErrorRatio, -1.0);
            s.conditions.insert("Bad".to_owned(), true);
        },
        &[
            (Code::UnknownApp, "app"),
            (Code::Stale, "observed"),
            (Code::OutOfRange, "instance"),
            (Code::NotFinite, "latency_p99"),
            (Code::Negative, "error_ratio"),
            (Code::InvalidName, "conditions"),
        ],
    );
}

#[test]
fn names_of_conditions_keep_their_rule() {
    let name = |name: &str, ok: bool| {
        let expected: &[_] = if ok { &[] } else { &[(Code::InvalidName, "conditions")] };
        check(|s| _ = s.conditions.insert(name.to_owned(), true), expected);
    };
    for good in ["a", "cpu_high", "a0_", &"a".repeat(64)] {
        name(good, true);
    }
    for bad in ["", "A", "0a", "_a", "a-b", "a b", "ä", "a\u{1b}[31m", &"a".repeat(65)] {
        name(bad, false);
    }
    let many = |count: usize| {
        move |s: &mut Signal| {
            s.conditions = (0..count).map(|n| (format!("c{n}"), true)).collect();
        }
    };
    check(many(32), &[]);
    check(many(33), &[(Code::TooMany, "conditions")]);
}

#[test]
fn quoted_values_are_cut() {
    let mut signal = signal();
    signal.app = "x".repeat(10_000);
    let rejections = judge(&signal).unwrap_err();
    assert_eq!(rejections[0].value.len(), 80);
}

#[test]
fn conversion_rounds_once_to_the_nearest_millionth() {
    let cases = [
        (0.0, 0),
        (0.000_000_4, 0),
        (0.000_000_6, 1),
        (1.0, 1_000_000),
        (0.1, 100_000),
        (0.3, 300_000),
        // 0.5 / 2^19 millionths exactly: a tie goes up.
        (0.5_f64.powi(7), 7_813),
        (9_007_199_254.740_991, 9_007_199_254_740_992),
        (9_223_372_036_854.775, 9_223_372_036_854_775_391),
        (4_503_599_627_370_496.0, i64::MAX),
    ];
    for (value, expected) in cases {
        let micro = millionths(value).unwrap_or(i64::MAX);
        assert_eq!(micro, expected, "{value}");
    }
}

proptest! {
    #[test]
    fn conversion_agrees_with_decimal_text(micro in 0..1_000_000_000_000_i64) {
        let text = format!("{}.{:06}", micro / MICRO, micro % MICRO);
        prop_assert_eq!(millionths(text.parse().unwrap()), Some(micro));
    }

    #[test]
    fn no_bits_make_it_panic(bits in any::<u64>(), observed in any::<u64>(), now in any::<u64>()) {
        let mut signal = signal();
        signal.observed_ms = observed;
        signal.metrics.insert(Metric::RequestRate, f64::from_bits(bits));
        if let Ok(accepted) = validate(&signal, "m", now, &rules(), known) {
            let limit = Metric::RequestRate.max_micro();
            prop_assert!(accepted.samples.iter().all(|s| (0..=limit).contains(&s.micro)));
        }
    }
}

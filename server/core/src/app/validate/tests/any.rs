//! Any request at all.

use proptest::prelude::*;

use super::*;

/// Pieces that attacks and mistakes are made of, and anything else.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("https://"),
        Just("http://"),
        Just("127.0.0.1"),
        Just("[::1]"),
        Just(":80"),
        Just("/"),
        Just("github.com"),
        Just("@"),
        Just("%2e"),
        Just("-"),
        Just(".."),
        Just("stage"),
        Just("shop"),
        Just("\n"),
        Just("\u{202e}"),
        Just("0x7f"),
        Just("localhost"),
        Just("a.b"),
    ];
    prop_oneof![
        ".{0,40}",
        "[a-z]{1,8}",
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat()),
    ]
}

fn any_source() -> impl Strategy<Value = RequestedSource> {
    let args = proptest::collection::vec(any_text(), 0..3);
    prop_oneof![
        Just(RequestedSource::None),
        Just(exec("/bin/true", &[])),
        (any_text(), args).prop_map(|(path, args)| RequestedSource::Exec { path, args }),
        (any_text(), proptest::option::of(any_text()))
            .prop_map(|(url, revision)| RequestedSource::Repo { url, revision }),
    ]
}

fn any_health() -> impl Strategy<Value = RequestedHealth> {
    let probe = prop_oneof![
        any_text().prop_map(|url| Probe::Http { url }),
        any_text().prop_map(|address| Probe::Tcp { address }),
        (any_text(), any_text()).prop_map(|(address, service)| Probe::Grpc { address, service }),
    ];
    let span = || proptest::option::of(prop_oneof![any::<u64>(), 1_u64..5_000]);
    (probe, span(), span()).prop_map(|(probe, interval_ms, timeout_ms)| RequestedHealth {
        probe,
        interval_ms,
        timeout_ms,
    })
}

fn any_request() -> impl Strategy<Value = OnboardRequest> {
    let maybe_text = || proptest::option::of(any_text());
    let number = || proptest::option::of(prop_oneof![0_u32..70, any::<u32>()]);
    let texts = || proptest::collection::btree_map(any_text(), any_text(), 0..3);
    let name = prop_oneof![Just("shop".to_owned()), any_text()];
    let env = prop_oneof![Just("stage".to_owned()), any_text()];
    let runtime = prop_oneof![Just("go".to_owned()), any_text()];
    let metric = prop_oneof![Just("cpu_utilization".to_owned()), any_text()];
    let thresholds = proptest::collection::btree_map(metric, any::<(f64, f64)>(), 0..2);
    let health = proptest::option::of(any_health());
    (
        (name, env, runtime, any_source(), maybe_text()),
        (number(), number(), number(), maybe_text(), health),
        (texts(), texts(), thresholds, maybe_text(), proptest::option::of(any::<u64>())),
    )
        .prop_map(|(a, b, c)| OnboardRequest {
            name: a.0,
            env: a.1,
            runtime: a.2,
            source: a.3,
            working_dir: a.4,
            min_instances: b.0,
            max_instances: b.1,
            desired_instances: b.2,
            listen: b.3,
            health: b.4,
            environment: c.0,
            labels: c.1,
            thresholds: c.2,
            windows: Vec::new(),
            autonomy: c.3,
            stop_grace_ms: c.4,
        })
}

/// The rules once more, written against the result instead of the request.
fn assert_holds(spec: &AppSpec) {
    assert!(AppName::parse(spec.name.as_str()).is_ok() && spec.name.as_str() != "agentd");
    assert_eq!(spec.env, Env::Stage);
    let Instances { min, max, desired } = spec.instances;
    assert!(1 <= min && min <= desired && desired <= max && max <= 64);
    let plain = |text: &String| !text.chars().any(char::is_control);
    match &spec.source {
        Source::Exec { path, args } => {
            assert!(path.starts_with('/') && !path.contains("..") && plain(path));
            assert!(args.len() <= 256 && args.iter().all(plain));
        }
        Source::Repo { url, revision } => {
            assert!(url.starts_with("https://") && url.len() <= 2_048 && url.is_ascii());
            assert!(!url.contains(['@', '%', ' ', '\n']) && !url.contains("localhost"));
            assert!(!url.contains("127.0.0.1") && !url.contains("::1"));
            assert!(revision.as_ref().is_none_or(|r| !r.starts_with('-') && plain(r)));
        }
    }
    let socket = |text: &String| text.parse::<std::net::SocketAddr>().is_ok_and(|a| a.port() > 0);
    assert!(spec.listen.as_ref().is_none_or(socket));
    if let Some(health) = &spec.health {
        assert!(health.timeout_ms >= 10 && health.timeout_ms < health.interval_ms);
        if let Probe::Http { url } = &health.probe {
            assert!(url.starts_with("http://") && url.is_ascii() && plain(url));
        }
    }
    assert!(spec.environment.iter().all(|(k, v)| plain(v) && k.is_ascii()));
    assert!(!spec.environment.contains_key("LD_PRELOAD"));
    assert!(spec.thresholds.values().all(|o| 0 < o.leave && o.leave < o.enter));
    assert!(spec.stop_grace_ms <= 600_000);
    assert!(spec.to_json().len() <= 32 * 1_024);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_request_panics_and_what_passes_obeys_every_rule(
        request in any_request(),
        taken in any::<bool>(),
    ) {
        match validate(Env::Stage, &Fetch::default(), &request, taken) {
            Ok(spec) => {
                prop_assert!(!taken);
                assert_holds(&spec);
            }
            Err(violations) => {
                prop_assert!(!violations.is_empty());
                let whole = |v: &Violation| !v.field.is_empty() && !v.reason.is_empty()
                    && !v.rule.is_empty() && !v.fix.is_empty() && v.value.len() <= 203;
                prop_assert!(violations.iter().all(whole), "{:?}", violations);
            }
        }
        prop_assert_eq!(
            validate(Env::Stage, &Fetch::default(), &request, taken),
            validate(Env::Stage, &Fetch::default(), &request, taken)
        );
    }

    #[test]
    fn one_wrong_field_is_one_violation_more(name in any_text(), path in any_text()) {
        let with = |name: &str, path: &str| {
            let found = wrong(|r| {
                r.name = name.to_owned();
                r.source = exec(path, &[]);
            });
            found.len()
        };
        prop_assert_eq!(
            with(&name, &path),
            with(&name, "/bin/true") + with("shop", &path)
        );
    }
}

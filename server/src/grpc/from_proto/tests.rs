use agentd_core::app::{Env, Probe, RequestedSource};
use proptest::prelude::*;

use super::*;

fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

#[test]
fn a_time_that_is_none_is_not_bent_into_one() {
    assert_eq!(millis(&Timestamp { seconds: 1, nanos: 999_999_999 }), Some(1_999));
    for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
        assert_eq!(millis(&Timestamp { seconds, nanos }), None, "{seconds} {nanos}");
        assert_eq!(span(&Duration { seconds, nanos }), None, "{seconds} {nanos}");
    }
    assert_eq!(show_span(&seconds(90)), "90 s");
    assert_eq!(show_span(&Duration { seconds: 0, nanos: 5_000_000 }), "5 ms");
    assert_eq!(show_span(&seconds(-3)), "-3 s 0 ns");
}

#[test]
fn a_page_has_bounds_and_an_id_has_one_spelling() {
    assert_eq!([0, 1, 1_000, i32::MAX].map(|n| page_size(n).unwrap()), [100, 1, 1_000, 1_000]);
    assert_eq!(page_size(-1).unwrap_err().field, "page_size");
    assert_eq!(seq_of("dec-", "dec-17"), Some(17));
    for bad in ["dec-", "dec-017", "dec-0", "dec-+1", "apr-17", "17", "dec-99999999999999999999"] {
        assert_eq!(seq_of("dec-", bad), None, "{bad}");
    }
}

#[test]
fn a_pause_has_a_reason_a_scope_and_at_most_thirty_days() {
    assert_eq!(reason("  why  ").unwrap(), "why");
    assert!(reason(" ").is_err() && reason(&"x".repeat(1_025)).is_err());
    assert_eq!(pause_ms(None).unwrap(), None);
    assert_eq!(pause_ms(Some(&seconds(30 * 86_400))).unwrap(), Some(PAUSE_MAX_MS));
    for bad in [0, -1, 30 * 86_400 + 1] {
        assert!(pause_ms(Some(&seconds(bad))).is_err(), "{bad}");
    }
    assert_eq!(scope(None).unwrap_err().field, "scope");
}

#[test]
fn what_is_absent_stays_absent() {
    let (request, found) = onboard(&v1::OnboardAppRequest::default());
    assert!(found.is_empty(), "the core says what is missing");
    assert_eq!(request, agentd_core::app::OnboardRequest::default());
    assert_eq!(request.source, RequestedSource::None);
}

#[test]
fn every_field_arrives_where_it_belongs() {
    let http = v1::HttpProbe { target: Some(v1::http_probe::Target::Path("/healthz".into())) };
    let wire = v1::OnboardAppRequest {
        name: "web".into(),
        environment: "dev".into(),
        runtime: "binary".into(),
        source: Some(v1::onboard_app_request::Source::Exec(v1::ExecSource {
            path: "/opt/web".into(),
            args: vec!["-v".into()],
        })),
        min_instances: Some(1),
        desired_instances: Some(2),
        max_instances: Some(4),
        listen: "127.0.0.1:8080".into(),
        health_probe: Some(v1::HealthProbe {
            kind: Some(v1::health_probe::Kind::Http(http)),
            interval: Some(seconds(3)),
            timeout: Some(seconds(1)),
        }),
        thresholds: vec![
            v1::ThresholdOverride {
                detector: "cpu_overload".into(),
                enter: Some(0.9),
                leave: Some(0.7),
                hold: None,
            },
            v1::ThresholdOverride {
                detector: "latency_p99".into(),
                enter: Some(1.0),
                leave: Some(0.5),
                hold: None,
            },
        ],
        autonomy_level: v1::AutonomyLevel::Propose.into(),
        stop_grace: Some(seconds(7)),
        ..Default::default()
    };
    let (request, found) = onboard(&wire);
    assert!(found.is_empty(), "{found:?}");
    let probe = request.health.as_ref().map(|health| health.probe.clone());
    assert_eq!(probe, Some(Probe::Http { url: "/healthz".into() }));
    assert_eq!(request.thresholds["cpu_utilization"], (0.9, 0.7));
    assert_eq!(request.thresholds["latency_p99"], (1.0, 0.5));
    assert_eq!(request.autonomy.as_deref(), Some("PROPOSE"));
    let spec = agentd_core::app::validate(Env::Dev, &Default::default(), &request, false)
        .expect("it is valid");
    assert_eq!((spec.instances.min, spec.instances.desired, spec.instances.max), (1, 2, 4));
    assert_eq!(spec.stop_grace_ms, 7_000);
}

#[test]
fn a_threshold_is_whole_and_comes_once() {
    let cpu = |detector: &str, leave| v1::ThresholdOverride {
        detector: detector.into(),
        enter: Some(0.9),
        leave,
        hold: None,
    };
    let thresholds = vec![
        cpu("cpu_overload", Some(0.5)),
        cpu("cpu_utilization", Some(0.6)),
        cpu("latency", None),
        v1::ThresholdOverride { hold: Some(seconds(5)), ..cpu("error_rate", Some(0.1)) },
    ];
    let (_, found) = onboard(&v1::OnboardAppRequest { thresholds, ..Default::default() });
    let fields: Vec<_> = found.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["thresholds[1].detector", "thresholds[2].leave", "thresholds[3].hold"]);
}

proptest! {
    #[test]
    fn no_signal_from_outside_makes_the_server_stumble(
        app in ".{0,80}",
        instance in ".{0,20}",
        seconds in any::<i64>(),
        nanos in any::<i32>(),
        value in any::<f64>(),
        count in any::<u64>(),
        code in any::<i32>(),
        now in 0..u64::MAX / 2,
    ) {
        let wire = v1::Signal {
            app,
            instance,
            time: Some(Timestamp { seconds, nanos }),
            cpu_utilization: Some(value),
            restart_count: Some(count),
            window: Some(Duration { seconds, nanos }),
            ttl: Some(Duration { seconds, nanos }),
            exit: Some(v1::Exit { how: Some(v1::exit::How::Code(code)) }),
            ..Default::default()
        };
        let claim = signal(wire, now);
        let rules = &agentd_core::policy::Policy::default_for(Env::Dev).freshness;
        let judged = agentd_core::signal::validate(&claim.signal, "m@p", now, rules, |name| {
            AppName::parse(name).ok()
        });
        if let Ok(accepted) = judged {
            prop_assert!(accepted.samples.iter().all(|sample| sample.micro >= 0));
        }
    }
}

#[test]
fn the_api_says_of_a_share_how_much_is_taken() {
    use agentd_core::signal::{MICRO, Metric};
    use prost::Message as _;
    let set = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let file = set.file.iter().find(|f| f.name() == "agentctl/v1/telemetry.proto").unwrap();
    let at = file.message_type.iter().position(|m| m.name() == "Signal").unwrap();
    let comment = |field: &str| {
        let fields = &file.message_type[at].field;
        let field = fields.iter().position(|f| f.name() == field).unwrap();
        let path = [4, at, 2, field].map(|part| i32::try_from(part).unwrap());
        let said = file.source_code_info.as_ref().unwrap().location.iter();
        said.into_iter().find(|l| l.path == path).unwrap().leading_comments().to_owned()
    };
    for (field, metric) in [
        ("cpu_utilization", Metric::CpuUtilization),
        ("memory_utilization", Metric::MemoryUtilization),
    ] {
        let most = format!("at most {}", metric.max_micro() / MICRO);
        assert!(comment(field).contains(&most), "{field}: {}", comment(field));
    }
    assert_eq!(Metric::ErrorRatio.max_micro(), MICRO);
    assert!(comment("error_ratio").contains("0 to 1"));
}

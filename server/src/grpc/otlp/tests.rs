use agentd_core::app::Env;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::*;
use crate::auth::Role;
use crate::grpc::telemetry::harness::Server;

const SECOND: u64 = 1_000_000_000;

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn resource(named: &[(&str, &str)], metrics: Vec<Metric>) -> ResourceMetrics {
    let attributes = named.iter().map(|(key, value)| text(key, value)).collect();
    ResourceMetrics {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
        ..ResourceMetrics::default()
    }
}

fn web(metrics: Vec<Metric>) -> ResourceMetrics {
    resource(&[("service.name", "web"), ("deployment.environment.name", "dev")], metrics)
}

fn gauge(name: &str, unit: &str, value: f64, time: u64) -> Metric {
    let point = NumberDataPoint {
        time_unix_nano: time,
        value: Some(Value::AsDouble(value)),
        ..NumberDataPoint::default()
    };
    Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        data: Some(Data::Gauge(Gauge { data_points: vec![point] })),
        ..Metric::default()
    }
}

/// Requests so far, below a tenth of a second and below one.
fn requests(fast: u64, slow: u64, time: u64, failed: bool) -> Metric {
    let point = HistogramDataPoint {
        start_time_unix_nano: SECOND,
        time_unix_nano: time,
        count: fast + slow,
        bucket_counts: vec![fast, slow, 0],
        explicit_bounds: vec![0.1, 1.0],
        attributes: failed.then(|| text("error.type", "500")).into_iter().collect(),
        ..HistogramDataPoint::default()
    };
    Metric {
        name: "http.server.request.duration".to_owned(),
        unit: "s".to_owned(),
        data: Some(Data::Histogram(Histogram {
            data_points: vec![point],
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        })),
        ..Metric::default()
    }
}

fn signal(memory: &mut Memory, resource: &ResourceMetrics) -> (Option<v1::Signal>, Vec<Refused>) {
    let mut refused = Vec::new();
    let resource = resource.encode_to_vec();
    let read = read(&resource, "dev", |n| AppName::parse(n).ok(), memory, 0, &mut refused);
    (read.map(|heard| heard.signal()), refused)
}

#[test]
fn only_requests_since_the_last_export_count() {
    let mut memory = Memory::default();
    let at = |n: u64| 1_000 * SECOND + n * SECOND;
    let (first, _) = signal(&mut memory, &web(vec![requests(9_000, 0, at(0), false)]));
    assert_eq!(first, None, "how many of them are of late is not known");
    let both = vec![requests(9_010, 30, at(10), false), requests(10, 0, at(10), true)];
    let (Some(seen), refused) = signal(&mut memory, &web(both)) else { panic!("nothing") };
    assert_eq!(refused, []);
    // The failing ones are a series that is new and old: it counts from the next export on.
    assert_eq!((seen.request_rate, seen.error_ratio), (Some(4.0), Some(0.0)));
    assert!(seen.latency_p50_seconds.unwrap() > 0.1 && seen.latency_p99_seconds.unwrap() < 1.0);
    let more = vec![requests(9_010, 30, at(20), false), requests(20, 0, at(20), true)];
    let (Some(seen), _) = signal(&mut memory, &web(more)) else { panic!("nothing") };
    assert_eq!((seen.request_rate, seen.error_ratio), (Some(1.0), Some(1.0)));
    let few = vec![requests(9_012, 30, at(30), false)];
    let (Some(seen), _) = signal(&mut memory, &web(few)) else { panic!("nothing") };
    assert_eq!(
        (seen.request_rate, seen.error_ratio, seen.latency_p99_seconds),
        (Some(0.2), None, None)
    );
}

#[test]
fn a_share_is_told_or_made_of_a_part_and_its_whole_and_never_guessed() {
    let mut memory = Memory::default();
    let mut cpu = |metrics| signal(&mut memory, &web(metrics)).0.and_then(|s| s.cpu_utilization);
    assert_eq!(cpu(vec![gauge("container.cpu.usage", "{cpu}", 1.5, SECOND)]), None, "of how many");
    let limit = || gauge("k8s.container.cpu.limit", "{cpu}", 2.0, SECOND);
    assert_eq!(cpu(vec![gauge("container.cpu.usage", "{cpu}", 1.5, SECOND), limit()]), Some(0.75));
    let told = gauge("process.cpu.utilization", "1", 0.5, SECOND);
    let better = gauge("k8s.container.cpu.limit.utilization", "1", 0.25, SECOND);
    assert_eq!(cpu(vec![told.clone(), better]), Some(0.25), "the limit of the container counts");
    let percent = gauge("process.cpu.utilization", "%", 40.0, SECOND);
    assert_eq!(cpu(vec![percent]), Some(0.4));
    let mut gone = told;
    if let Some(Data::Gauge(Gauge { data_points })) = &mut gone.data {
        data_points[0].flags = 1;
    }
    assert_eq!(cpu(vec![gone]), None, "a value that was withdrawn is none");
}

#[test]
fn resources_that_are_none_of_ours_are_refused_whole() {
    let mut memory = Memory::default();
    let metrics = || vec![gauge("process.cpu.utilization", "1", 0.5, SECOND)];
    let name = ("service.name", "web");
    for (named, why) in [
        (vec![name], "deployment.environment.name"),
        (vec![name, ("deployment.environment.name", "prod")], "got `prod`"),
        (vec![("deployment.environment.name", "dev")], "UNKNOWN_APP"),
    ] {
        let (read, refused) = signal(&mut memory, &resource(&named, metrics()));
        let [refused] = refused.as_slice() else { panic!("{named:?}: {refused:?}") };
        assert!(read.is_none() && refused.points == 1 && refused.why.contains(why), "{refused:?}");
    }
    let old = resource(&[name, ("deployment.environment", "dev")], metrics());
    assert!(signal(&mut memory, &old).0.is_some(), "the name it had before");
}

#[test]
fn an_instance_whose_id_is_too_long_is_refused_with_the_reason() {
    let mut memory = Memory::default();
    let mut of = |length| {
        let id = "x".repeat(length);
        let named = [
            ("service.name", "web"),
            ("deployment.environment.name", "dev"),
            ("service.instance.id", id.as_str()),
        ];
        let metrics = vec![gauge("process.cpu.utilization", "1", 0.5, SECOND)];
        signal(&mut memory, &resource(&named, metrics))
    };
    assert!(of(256).0.is_some());
    let (None, refused) = of(257) else { panic!("taken") };
    let told = partial(&refused).unwrap();
    assert_eq!(told.rejected_data_points, 1);
    assert!(told.error_message.contains("at most 256 bytes, got 257"), "{told:?}");
}

#[tokio::test]
async fn every_instance_is_one_of_its_app() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let now = server.services.clock.now_ms() * 1_000_000;
    let of = |id: &str, value| {
        let named = [
            ("service.name", "web"),
            ("deployment.environment.name", "dev"),
            ("service.instance.id", id),
        ];
        resource(&named, vec![gauge("process.cpu.utilization", "1", value, now)])
    };
    let request =
        ExportMetricsServiceRequest { resource_metrics: vec![of("6a2c", 0.25), of("9f1e", 0.75)] };
    let monitor = Principal::new("ci", [Role::Monitor], None);
    let request = request.encode_to_vec();
    assert!(matches!(plain(&request), Ok(Cow::Borrowed(_))), "read where it lies");
    let answer = export(&server.services, monitor, &request).unwrap();
    assert_eq!(answer.partial_success, None);
    let app = AppName::parse("web").unwrap();
    let point = server
        .until(move |view| {
            let metrics = view.readings.get(&app)?.metrics;
            let series = metrics.get(&agentd_core::signal::Metric::CpuUtilization)?;
            series.sources.get("otlp@ci").copied()
        })
        .await;
    assert_eq!(point.micro, 500_000, "the mean of both, and no contradiction");
}

/// One of every kind that has a meaning, and what points carry beside their values.
fn everything() -> ResourceMetrics {
    let mut memory = gauge("process.memory.usage", "By", 1024.0, SECOND);
    if let Some(Data::Gauge(Gauge { data_points })) = memory.data.take() {
        let sum = Sum { data_points, aggregation_temporality: 2, is_monotonic: false };
        memory.data = Some(Data::Sum(sum));
    }
    let mut metrics = vec![
        memory,
        gauge("process.cpu.utilization", "1", 0.5, SECOND),
        gauge("nobody.knows.this", "1", 0.5, SECOND),
        requests(50, 3, 9 * SECOND, true),
    ];
    metrics.reverse();
    web(metrics)
}

#[test]
fn what_was_damaged_is_read_alike_or_left_to_generated_code() {
    let request = ExportMetricsServiceRequest { resource_metrics: vec![everything()] };
    let whole = request.encode_to_vec();
    assert!(shape::is_plain(&whole));
    let mut plain = 0;
    for at in 0..whole.len() {
        for with in [0x00, 0x01, 0x08, 0x0a, 0x7a, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = with;
            assert!(
                !shape::is_plain(&bytes[..at])
                    || ExportMetricsServiceRequest::decode(&bytes[..at]).is_ok()
            );
            if !shape::is_plain(&bytes) {
                continue;
            }
            plain += 1;
            let read = ExportMetricsServiceRequest::decode(bytes.as_slice()).expect("it is plain");
            let told = |bytes: &[u8]| {
                let (mut memory, mut refused) = (Memory::default(), Vec::new());
                let find = |name: &str| AppName::parse(name).ok();
                let signals: Vec<_> = lay::resources(bytes)
                    .map(|one| super::read(one, "dev", find, &mut memory, 0, &mut refused))
                    .collect();
                format!("{signals:?} {refused:?}")
            };
            assert_eq!(told(&bytes), told(&read.encode_to_vec()), "{with:#x} at {at}");
        }
    }
    assert!(plain > 100, "the damage was not always to the form");
}

#[test]
fn what_is_not_plain_is_written_plainly_and_what_is_malformed_is_refused() {
    let resource = everything().encode_to_vec();
    let around = |inner: &[u8]| {
        let mut bytes = vec![0x0a];
        prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
        bytes.extend(inner);
        bytes
    };
    for (what, more) in [("a field nobody knows", &[0x7a, 1, 0][..]), ("a group", &[0x7b, 0x7c])] {
        let request = around(&[&resource[..], more].concat());
        let written = plain(&request).unwrap();
        assert!(matches!(written, Cow::Owned(_)), "{what}");
        assert_eq!(written, around(&resource), "{what}");
    }
    let deep = (0..200).fold(Vec::new(), |inner, _| [&[0x7b][..], &inner, &[0x7c]].concat());
    for malformed in [&[0x0a, 9, 1][..], &around(&[0x1a, 1, 0xff]), &around(&deep)] {
        assert!(plain(malformed).is_err(), "{malformed:x?}");
    }
}

//! Onboarding: what a person asks for, as the core wants to judge it.
//!
//! The core judges every value. Judged here is only what its request has no word for: a message without its one-of, a number
//! outside of an enum, a time that is none, a list where the core has a map.

use std::collections::{BTreeMap, BTreeSet};

use agentctl_api::v1;
use agentd_core::action::Level;
use agentd_core::app::{
    Field, Millis, OnboardRequest, Probe, RequestedHealth, RequestedSource, RequestedWindow,
    Violation,
};
use agentd_core::detect::FindingKind;
use agentd_core::signal::Metric;
use prost_types::Duration;

use super::{show_span, span};

const INVALID: &str = "INVALID";
const REQUIRED: &str = "REQUIRED";
const OUT_OF_RANGE: &str = "OUT_OF_RANGE";

/// Detectors with a threshold, and the metric each looks at.
const DETECTORS: [(FindingKind, Metric); 4] = [
    (FindingKind::CpuOverload, Metric::CpuUtilization),
    (FindingKind::MemoryOverload, Metric::MemoryUtilization),
    (FindingKind::Latency, Metric::LatencyP99),
    (FindingKind::ErrorRate, Metric::ErrorRatio),
];

/// The request for the core, and what is wrong with the message itself, in the order of its fields.
#[must_use]
pub fn onboard(wire: &v1::OnboardAppRequest) -> (OnboardRequest, Vec<Violation>) {
    let mut found = Vec::new();
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let request = OnboardRequest {
        name: wire.name.clone(),
        env: wire.environment.clone(),
        runtime: wire.runtime.clone(),
        source: source(wire.source.as_ref()),
        working_dir: given(&wire.working_directory),
        min_instances: wire.min_instances,
        max_instances: wire.max_instances,
        desired_instances: wire.desired_instances,
        listen: given(&wire.listen),
        health: wire.health_probe.as_ref().and_then(|probe| health(probe, &mut found)),
        environment: wire.environment_variables.clone(),
        labels: wire.labels.clone(),
        thresholds: thresholds(&wire.thresholds, &mut found),
        windows: windows(&wire.maintenance_windows, &mut found),
        autonomy: autonomy(wire.autonomy_level, &mut found),
        stop_grace_ms: time("stop_grace", wire.stop_grace.as_ref(), &mut found),
    };
    (request, found)
}

/// The name of a field of the core's request in the proto.
#[must_use]
pub fn field(core: &str) -> String {
    let renamed = match core {
        "repo" => "repo.url",
        "working_dir" => "working_directory",
        "instances" | "instances.desired" => "desired_instances",
        "instances.min" => "min_instances",
        "instances.max" => "max_instances",
        "health.interval_ms" => "health_probe.interval",
        "health.timeout_ms" => "health_probe.timeout",
        "autonomy" => "autonomy_level",
        "stop_grace_ms" => "stop_grace",
        other => match other.strip_prefix("health.") {
            Some(probe) => return format!("health_probe.{probe}"),
            None => other,
        },
    };
    renamed.to_owned()
}

fn source(wire: Option<&v1::onboard_app_request::Source>) -> RequestedSource {
    use v1::onboard_app_request::Source;
    match wire {
        None => RequestedSource::None,
        Some(Source::Exec(exec)) => {
            RequestedSource::Exec { path: exec.path.clone(), args: exec.args.clone() }
        }
        Some(Source::Repo(repo)) => RequestedSource::Repo {
            url: repo.url.clone(),
            revision: Some(repo.revision.clone()).filter(|revision| !revision.is_empty()),
        },
    }
}

fn health(wire: &v1::HealthProbe, found: &mut Vec<Violation>) -> Option<RequestedHealth> {
    use v1::health_probe::Kind;
    let interval_ms = time("health_probe.interval", wire.interval.as_ref(), found);
    let timeout_ms = time("health_probe.timeout", wire.timeout.as_ref(), found);
    let probe = match &wire.kind {
        Some(Kind::Http(http)) => http_probe(http, found)?,
        Some(Kind::Tcp(tcp)) => Probe::Tcp { address: tcp.address.clone() },
        Some(Kind::Grpc(grpc)) => {
            Probe::Grpc { address: grpc.address.clone(), service: grpc.service.clone() }
        }
        None => {
            let rule = "must be http, tcp or grpc";
            let fix = "say how, or leave the whole probe out";
            found.push(Violation::new("health_probe", REQUIRED, "", rule, fix));
            return None;
        }
    };
    Some(RequestedHealth { probe, interval_ms, timeout_ms })
}

/// The core tells a path from a URL by its first character; here the two are different fields.
fn http_probe(wire: &v1::HttpProbe, found: &mut Vec<Violation>) -> Option<Probe> {
    use v1::http_probe::Target;
    let (field, value, rule) = match &wire.target {
        Some(Target::Path(path)) if path.starts_with('/') => {
            return Some(Probe::Http { url: path.clone() });
        }
        Some(Target::Url(url)) if !url.is_empty() && !url.starts_with('/') => {
            return Some(Probe::Http { url: url.clone() });
        }
        Some(Target::Path(path)) => {
            ("health_probe.http.path", path.as_str(), "must be a path from `/`")
        }
        Some(Target::Url(url)) => {
            ("health_probe.http.url", url.as_str(), "must be an `http://` URL")
        }
        None => ("health_probe.http", "", "must be a path or a URL"),
    };
    let reason = if value.is_empty() { REQUIRED } else { INVALID };
    found.push(Violation::new(field, reason, value, rule, "give the one that fits"));
    None
}

fn time(field: &str, wire: Option<&Duration>, found: &mut Vec<Violation>) -> Option<Millis> {
    let duration = wire?;
    let ms = span(duration);
    if ms.is_none() {
        let rule = "must be a time that is not negative";
        let value = show_span(duration);
        found.push(Violation::new(field, OUT_OF_RANGE, &value, rule, "choose a time, or none"));
    }
    ms
}

fn autonomy(wire: i32, found: &mut Vec<Violation>) -> Option<String> {
    let level = match v1::AutonomyLevel::try_from(wire) {
        Ok(v1::AutonomyLevel::Unspecified) => return None,
        Ok(v1::AutonomyLevel::Off) => Level::Off,
        Ok(v1::AutonomyLevel::Shadow) => Level::Shadow,
        Ok(v1::AutonomyLevel::Propose) => Level::Propose,
        Ok(v1::AutonomyLevel::Auto) => Level::Auto,
        Err(_unknown) => {
            let (rule, fix) = ("must be one of the levels", "name a level, or leave it out");
            let value = wire.to_string();
            found.push(Violation::new("autonomy_level", INVALID, &value, rule, fix));
            return None;
        }
    };
    Some(level.as_str().to_owned())
}

fn thresholds(
    wire: &[v1::ThresholdOverride],
    found: &mut Vec<Violation>,
) -> BTreeMap<String, (f64, f64)> {
    let mut good = BTreeMap::new();
    for (index, threshold) in wire.iter().enumerate() {
        let mut break_rule = |field: &str, reason: &str, value: &str, rule: &str, fix: &str| {
            let field = format!("thresholds[{index}].{field}");
            found.push(Violation::new(&field, reason, value, rule, fix));
        };
        let metric = metric_of(&threshold.detector);
        if metric.is_none() {
            let rule = "must be one of cpu_overload, memory_overload, latency, error_rate";
            let fix = "name a detector with a threshold";
            break_rule("detector", INVALID, &threshold.detector, rule, fix);
        }
        for (field, value) in [("enter", threshold.enter), ("leave", threshold.leave)] {
            if value.is_none() {
                let fix = "give both: one value alone would leave the other to chance";
                break_rule(field, REQUIRED, "", "must be given", fix);
            }
        }
        if let Some(hold) = &threshold.hold {
            let rule = "must be absent: how long a value must hold is the policy's for every app";
            break_rule("hold", INVALID, &show_span(hold), rule, "leave it out");
        }
        let (Some(metric), Some(enter), Some(leave)) = (metric, threshold.enter, threshold.leave)
        else {
            continue;
        };
        if good.insert(metric.as_str().to_owned(), (enter, leave)).is_some() {
            let rule = "must not come twice";
            break_rule("detector", INVALID, &threshold.detector, rule, "leave one of them out");
        }
    }
    good
}

fn windows(wire: &[v1::MaintenanceWindow], found: &mut Vec<Violation>) -> Vec<RequestedWindow> {
    let window = |(index, window): (usize, &v1::MaintenanceWindow)| RequestedWindow {
        name: window.name.clone(),
        start: window.start.clone(),
        end: Some(window.end.clone()).filter(|end| !end.is_empty()),
        every_ms: time(
            &format!("maintenance_windows[{index}].every"),
            window.every.as_ref(),
            found,
        ),
    };
    wire.iter().enumerate().map(window).collect()
}

/// The fields an update means, by their names in the proto, and what is wrong with the mask.
#[must_use]
pub fn update_mask(paths: &[String]) -> (BTreeSet<Field>, Vec<Violation>) {
    let (mut fields, mut found) = (BTreeSet::new(), Vec::new());
    let mut wrong = |path: &str, rule: &str, fix: &str| {
        found.push(Violation::new("update_mask", INVALID, path, rule, fix));
    };
    for path in paths {
        match MASK.iter().find(|(name, _)| name == path) {
            Some((_, field)) => _ = fields.insert(*field),
            None if path == "*" => fields.extend(Field::ALL),
            None if path == "name" || path == "environment" => {
                wrong(path, "cannot be changed: it is the app itself", "onboard another app");
            }
            None => {
                let names: Vec<&str> = MASK.iter().map(|(name, _)| *name).collect();
                let rule = format!("must be `*` or among {}", names.join(", "));
                wrong(path, &rule, "name whole fields of the specification");
            }
        }
    }
    if paths.is_empty() {
        wrong("", "must name at least one field", "name the fields to replace, or `*`");
    }
    (fields, found)
}

/// What the core calls the fields of the specification.
const MASK: [(&str, Field); 16] = [
    ("runtime", Field::Runtime),
    ("source", Field::Source),
    ("exec", Field::Source),
    ("repo", Field::Source),
    ("working_directory", Field::WorkingDir),
    ("min_instances", Field::MinInstances),
    ("max_instances", Field::MaxInstances),
    ("desired_instances", Field::DesiredInstances),
    ("listen", Field::Listen),
    ("health_probe", Field::Health),
    ("environment_variables", Field::Environment),
    ("labels", Field::Labels),
    ("thresholds", Field::Thresholds),
    ("maintenance_windows", Field::Windows),
    ("autonomy_level", Field::Autonomy),
    ("stop_grace", Field::StopGrace),
];

/// The name of a field in the proto.
#[must_use]
pub fn field_name(field: Field) -> &'static str {
    MASK.iter().find(|(_, known)| *known == field).map_or("", |(name, _)| name)
}

/// The metric behind a detector, by the detector's id or by the metric's own name.
fn metric_of(detector: &str) -> Option<Metric> {
    DETECTORS
        .into_iter()
        .find(|(kind, metric)| {
            detector == kind.as_str().to_ascii_lowercase() || detector == metric.as_str()
        })
        .map(|(_, metric)| metric)
}

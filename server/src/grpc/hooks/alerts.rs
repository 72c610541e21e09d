//! The webhook of Alertmanager, version 4. A firing alert is a claim about an app, and a resolved one the claim that it is over; both
//! are signals like any other, which no action follows from alone.

use std::collections::BTreeMap;

use agentctl_api::v1;
use agentd_core::app::Millis;
use agentd_core::signal::{Code, Rejection};
use chrono::DateTime;
use serde::Deserialize;
use tonic::Status;

use super::unreadable;
use crate::grpc::status::{self, Violation};
use crate::grpc::to_proto;

/// Labels that name the app, the first one that is there.
const APP: [&str; 4] = ["app", "service", "service_name", "job"];
/// Labels that name the environment.
const ENVIRONMENT: [&str; 2] = ["environment", "env"];
/// Most labels or annotations of one alert.
const LABELS_MAX: usize = 128;

/// What Alertmanager sends. Fields that nothing depends on are not read.
#[derive(Debug, Deserialize)]
struct Webhook {
    version: String,
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    starts_at: Option<String>,
}

/// The alerts of a body as signals at `now`: what an alert says holds while it is sent, whenever it began.
///
/// # Errors
/// The body is not readable, or of another version.
pub fn read(
    body: &[u8],
    environment: &str,
    now: Millis,
) -> Result<Vec<Result<v1::Signal, Rejection>>, Status> {
    let webhook: Webhook =
        serde_json::from_slice(body).map_err(|error| unreadable("body", &error.to_string()))?;
    if webhook.version != "4" {
        let violation = Violation::new("version", webhook.version, "must be `4`");
        return Err(status::invalid(&[violation]));
    }
    Ok(webhook.alerts.into_iter().map(|alert| signal(alert, environment, now)).collect())
}

fn signal(alert: Alert, environment: &str, now: Millis) -> Result<v1::Signal, Rejection> {
    let Alert { status, labels, annotations, starts_at } = alert;
    if labels.len() > LABELS_MAX || annotations.len() > LABELS_MAX {
        let count = labels.len().max(annotations.len()).to_string();
        let rule = format!("must be at most {LABELS_MAX} labels and as many annotations");
        return Err(reject(Code::TooMany, "labels", &count, &rule));
    }
    let firing = match status.as_str() {
        "firing" => true,
        "resolved" => false,
        other => {
            return Err(reject(Code::OutOfRange, "status", other, "must be firing or resolved"));
        }
    };
    let label = |names: &[&str]| names.iter().find_map(|name| labels.get(*name));
    if let Some(other) = label(&ENVIRONMENT).filter(|named| *named != environment) {
        // Another environment is answered as if its apps did not exist.
        return Err(reject(Code::UnknownApp, "labels.environment", other, "must be the server's"));
    }
    let Some(app) = label(&APP) else {
        let rule = "must name the app as app, service, service_name or job";
        return Err(reject(Code::UnknownApp, "labels", "", rule));
    };
    // An alert that begins tomorrow comes from a clock that is wrong.
    let starts = starts_at.and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
    let starts = starts.and_then(|at| u64::try_from(at.timestamp_millis()).ok()).unwrap_or(0);
    let condition = match labels.get("condition").or_else(|| labels.get("alertname")) {
        Some(name) => snake_case(name),
        None => return Err(reject(Code::Empty, "labels.alertname", "", "must be given")),
    };
    let mut signal = v1::Signal {
        app: app.clone(),
        // Where it runs, and not which slot it is, is what Prometheus calls instance.
        instance: String::new(),
        time: Some(to_proto::timestamp(starts.max(now))),
        conditions: BTreeMap::from([(condition, firing)]),
        ..v1::Signal::default()
    };
    if firing {
        numbers(&annotations, &mut signal)?;
    }
    Ok(signal)
}

/// Annotations that carry the value of a metric, such as `cpu_utilization: "{{ $value }}"`.
fn numbers(
    annotations: &BTreeMap<String, String>,
    signal: &mut v1::Signal,
) -> Result<(), Rejection> {
    let number = |name: &str| {
        let Some(text) = annotations.get(name) else { return Ok(None) };
        let rule = "must be a number";
        let read = text.trim().parse::<f64>();
        read.map(Some).map_err(|_no_number| reject(Code::NotFinite, name, text, rule))
    };
    signal.cpu_utilization = number("cpu_utilization")?;
    signal.memory_utilization = number("memory_utilization")?;
    signal.latency_p50_seconds = number("latency_p50_seconds")?;
    signal.latency_p99_seconds = number("latency_p99_seconds")?;
    signal.error_ratio = number("error_ratio")?;
    signal.request_rate = number("request_rate")?;
    Ok(())
}

fn reject(code: Code, field: &str, value: &str, rule: &str) -> Rejection {
    Rejection { code, field: field.to_owned(), value: value.to_owned(), rule: rule.to_owned() }
}

/// `HighErrorRate` is `high_error_rate`: the names of conditions.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut before_upper = true;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            if !before_upper {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        } else if matches!(letter, '-' | ' ' | '.') {
            snake.push('_');
        } else {
            snake.push(letter);
        }
        before_upper = letter.is_ascii_uppercase() || matches!(letter, '-' | ' ' | '.' | '_');
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_alerts_are_names_of_conditions() {
        for (name, condition) in [
            ("HighErrorRate", "high_error_rate"),
            ("cpu_high", "cpu_high"),
            ("KubePodCrashLooping", "kube_pod_crash_looping"),
            ("CPUThrottlingHigh", "cputhrottling_high"),
            ("disk-critical", "disk_critical"),
            ("Node Down", "node_down"),
        ] {
            assert_eq!(snake_case(name), condition);
        }
    }
}

//! Metrics as OpenTelemetry has them: any SDK and any Collector is a monitor.
//!
//! A resource is an app: `service.name` names it, `deployment.environment.name` has to be the environment of this server, and
//! `service.instance.id` tells instances apart. Its metrics become one signal, which is judged like any other. What is not taken is
//! told in `partial_success`, with the reason.

use std::borrow::Cow;
use std::sync::PoisonError;

use agentctl_api::text;
use agentctl_api::v1;
use agentd_core::app::{AppName, Millis};
use agentd_core::signal::{Metric, Rejection, Spoken, Values};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::MetricsService;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::{DecodeError, Message as _};
use tonic::{Request, Response, Status};

use super::telemetry::report::Reporter;
use super::{Services, from_proto, outcome};
use crate::auth::Principal;

mod histogram;
mod lay;
mod measure;
mod memory;
mod shape;
pub(super) mod wire;
mod words;

use lay::Named;
use measure::{Measured, Origin, Refused};
pub use memory::Memory;

/// Largest request in bytes, unpacked.
pub const REQUEST_MAX: usize = 4 << 20;
/// Resources of one request that are looked at.
pub const RESOURCES_MAX: usize = 1_000;
/// Longest `service.instance.id`, in bytes: it is remembered.
const INSTANCE_MAX: usize = 256;
/// Who reports, in records.
const MONITOR: &str = "otlp";
/// Reasons that are told of one request.
const TOLD: usize = 5;
/// Longest message, in bytes.
const MESSAGE_MAX: usize = 1_000;

/// The service.
#[derive(Debug, Clone)]
pub struct Service(pub Services);

impl Service {
    /// Export, with the request as it was sent.
    async fn take(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let principal = outcome::principal(request.extensions())?.clone();
        // As the generated service says it.
        let read = plain(request.get_ref());
        let request = read.map_err(|error| Status::internal(error.to_string()))?;
        let _turn = self.0.intake.turn().await;
        Ok(Response::new(export(&self.0, principal, &request)?))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take(request.map(|request| request.encode_to_vec().into())).await
    }
}

/// A request that can be read where it lies: as it was sent, or as generated code writes what it read of it.
///
/// # Errors
/// What generated code says of a request that is none.
pub(super) fn plain(request: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError> {
    if shape::is_plain(request) {
        return Ok(Cow::Borrowed(request));
    }
    ExportMetricsServiceRequest::decode(request).map(|read| Cow::Owned(read.encode_to_vec()))
}

/// Takes in a request that is [`plain`].
///
/// # Errors
/// `RESOURCE_EXHAUSTED` when the principal sends faster than it may.
pub(super) fn export(
    services: &Services,
    principal: Principal,
    request: &[u8],
) -> Result<ExportMetricsServiceResponse, Status> {
    let now = services.clock.now_ms();
    services.intake.spend(principal.name(), lay::resources(request).count(), now)?;
    let mut reporter = Reporter::new(services, principal, MONITOR);
    let mut refused = Vec::new();
    for (at, resource) in lay::resources(request).enumerate() {
        if at >= RESOURCES_MAX {
            let why = format!("more than {RESOURCES_MAX} resources in one request");
            refused.push(Refused { points: lay::all_points(resource), why });
            continue;
        }
        take(services, &mut reporter, resource, now, &mut refused);
    }
    reporter.settle();
    Ok(ExportMetricsServiceResponse { partial_success: partial(&refused) })
}

/// One resource.
fn take(
    services: &Services,
    reporter: &mut Reporter<'_>,
    resource: &[u8],
    now: Millis,
    refused: &mut Vec<Refused>,
) {
    // An app the token may not report on is answered like one that does not exist.
    let find = |name: &str| {
        let mine = reporter.principal().may_report(name);
        mine.then(|| services.ingest.find(name)).flatten()
    };
    let mut memory = services.intake.otlp.lock().unwrap_or_else(PoisonError::into_inner);
    let read = read(resource, services.env.as_str(), find, &mut memory, now, refused);
    drop(memory);
    let Some(heard) = read else { return };
    let spoken = heard.spoken();
    if spoken.and_then(|spoken| reporter.hear(heard.app, &spoken, &[], now)).is_some() {
        return;
    }
    if let Err(rejections) = reporter.take(from_proto::signal(heard.signal(), now), None, now) {
        let whys = rejections.iter().map(|found| {
            let Rejection { code, field, value, rule } = found;
            format!("{}: {field} {rule}, got `{value}`", code.as_str())
        });
        let why = format!("app `{}`: {}", heard.app, whys.collect::<Vec<_>>().join("; "));
        refused.push(Refused { points: heard.points, why });
    }
}

/// What a resource says of an app.
#[derive(Debug, Clone, Copy)]
struct Heard<'a> {
    app: &'a str,
    slot: Option<u32>,
    values: Values<f64>,
    /// Time of the newest point, in nanoseconds; 0 if none has one.
    newest: u64,
    /// Points that were taken.
    points: u64,
}

impl Heard<'_> {
    /// As it is heard without being copied; `None` where only the long way can say what it is.
    fn spoken(&self) -> Option<Spoken> {
        let Self { slot: instance, values, newest, .. } = *self;
        let observed_ms = Some(newest / 1_000_000).filter(|_| newest > 0)?;
        Some(Spoken { instance, observed_ms, values, ttl_ms: None })
    }

    fn signal(&self) -> v1::Signal {
        let (seconds, nanos) = (self.newest / 1_000_000_000, self.newest % 1_000_000_000);
        let time = prost_types::Timestamp {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: i32::try_from(nanos).unwrap_or(0),
        };
        v1::Signal {
            app: self.app.to_owned(),
            instance: self.slot.map(|slot| slot.to_string()).unwrap_or_default(),
            time: Some(time).filter(|_| self.newest > 0),
            cpu_utilization: self.values.get(Metric::CpuUtilization),
            memory_utilization: self.values.get(Metric::MemoryUtilization),
            latency_p50_seconds: self.values.get(Metric::LatencyP50),
            latency_p99_seconds: self.values.get(Metric::LatencyP99),
            error_ratio: self.values.get(Metric::ErrorRatio),
            request_rate: self.values.get(Metric::RequestRate),
            restart_count: self.values.get(Metric::RestartCount).map(|n| n as u64),
            ..v1::Signal::default()
        }
    }
}

/// What a resource says; `None` when that is nothing, or nothing that can be taken.
fn read<'a>(
    resource: &'a [u8],
    served: &str,
    find: impl Fn(&str) -> Option<AppName>,
    memory: &mut Memory,
    now: Millis,
    refused: &mut Vec<Refused>,
) -> Option<Heard<'a>> {
    let Named { service: name, environment, instance } = Named::of_resource(resource);
    let mut refuse = |why: String| {
        refused.push(Refused { points: lay::all_points(resource), why });
        None
    };
    if environment != Some(served) {
        let got = environment.unwrap_or_default();
        return refuse(format!(
            "app `{name}`: deployment.environment.name must be the environment of this server, got `{got}`; \
             set it in OTEL_RESOURCE_ATTRIBUTES"
        ));
    }
    let Some(app) = find(name) else {
        return refuse(format!(
            "UNKNOWN_APP: service.name must be an onboarded app that this token may report on, got `{name}`"
        ));
    };
    if instance.len() > INSTANCE_MAX {
        let got = instance.len();
        return refuse(format!(
            "app `{name}`: service.instance.id must be at most {INSTANCE_MAX} bytes, got {got}"
        ));
    }
    let Ok(slot) = memory.slot(&app, instance, now) else {
        return refuse(format!("app `{name}`: more instances than there may be"));
    };
    let origin = Origin { app: &app, instance, now };
    let Measured { values, newest, points, refused: mut broken } =
        measure::measure(resource, origin, memory);
    let points = points.saturating_sub(broken.iter().map(|found| found.points).sum());
    refused.append(&mut broken);
    // The first export of a counter has nothing to say yet.
    let says_something = points > 0 && !values.is_empty();
    says_something.then_some(Heard { app: name, slot, values, newest, points })
}

/// The signals of recorded requests: one JSON document, or one on each line as the Collector's file exporter writes them.
///
/// # Errors
/// What cannot be read or breaks a rule, with the number of its line.
pub fn recorded(text: &str, served: &str) -> Result<Vec<v1::Signal>, Vec<(usize, String)>> {
    let documents: Vec<(usize, &str)> = match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => vec![(1, text)],
        Err(_) => (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).collect(),
    };
    let (mut memory, mut signals, mut wrong) = (Memory::default(), Vec::new(), Vec::new());
    for (number, document) in documents {
        let request: ExportMetricsServiceRequest = match serde_json::from_str(document) {
            Ok(request) => request,
            Err(error) => {
                wrong.push((number, error.to_string()));
                continue;
            }
        };
        let (mut refused, find) = (Vec::new(), |name: &str| AppName::parse(name).ok());
        for resource in lay::resources(&request.encode_to_vec()) {
            let read = read(resource, served, find, &mut memory, 0, &mut refused);
            signals.extend(read.map(|heard| heard.signal()));
        }
        wrong.extend(refused.into_iter().map(|found| (number, found.why)));
    }
    if wrong.is_empty() { Ok(signals) } else { Err(wrong) }
}

/// What is told of what was not taken; nothing when everything was.
fn partial(refused: &[Refused]) -> Option<ExportMetricsPartialSuccess> {
    let points = refused.iter().fold(0_u64, |sum, found| sum.saturating_add(found.points));
    if refused.is_empty() {
        return None;
    }
    let mut whys: Vec<&str> = Vec::new();
    for found in refused {
        if !whys.contains(&found.why.as_str()) && whys.len() < TOLD {
            whys.push(&found.why);
        }
    }
    let message = text::line(&whys.join("\n")).into_owned();
    Some(ExportMetricsPartialSuccess {
        rejected_data_points: i64::try_from(points).unwrap_or(i64::MAX),
        error_message: text::cut(&message, MESSAGE_MAX).into_owned(),
    })
}

#[cfg(test)]
mod tests;

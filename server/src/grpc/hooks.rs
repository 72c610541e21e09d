//! Signals that come by HTTP instead of gRPC: OpenTelemetry, Alertmanager, CloudEvents. A body is read by the form it has, and what
//! it says goes the way of every signal; the answer tells what was not taken.

use std::borrow::Cow;
use std::time::Duration;

use agentctl_api::v1;
use agentd_core::app::Millis;
use agentd_core::policy::Freshness;
use agentd_core::signal::{self, Rejection};
use agentd_core::window::Absorbed;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message as _;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::from_proto::Claim;
use super::status::{self, Violation};
use super::telemetry::report::Reporter;
use super::telemetry::session::rejection;
use super::{Services, from_proto, otlp};
use crate::auth::Principal;
use crate::pages::Answer;

pub mod alerts;
pub mod events;
mod recent;

pub use recent::Recent;

/// Largest body, unpacked.
pub const BODY_MAX: usize = otlp::REQUEST_MAX;
/// Most signals of one body.
pub const SIGNALS_MAX: usize = 1_000;
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

/// A door for signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// OTLP over HTTP.
    Metrics,
    /// The webhook of Alertmanager, version 4.
    Alertmanager,
    /// CloudEvents, structured, batched or binary.
    CloudEvents,
}

impl Hook {
    /// The door at `path`.
    #[must_use]
    pub fn at(path: &str) -> Option<Self> {
        match path {
            "/v1/metrics" => Some(Self::Metrics),
            "/v1/alertmanager" => Some(Self::Alertmanager),
            "/v1/cloudevents" => Some(Self::CloudEvents),
            _ => None,
        }
    }
}

/// What became of the signals of a body.
#[derive(Debug, Default, Serialize)]
struct Taken {
    accepted: u64,
    #[serde(skip_serializing_if = "is_zero")]
    duplicates: u64,
    rejected: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejections: Vec<Told>,
}

impl Taken {
    /// Counts what became of the signal at `index` of the body.
    fn note(&mut self, index: u32, judged: Result<Absorbed, Vec<Rejection>>) {
        match judged {
            Ok(_absorbed) => self.accepted += 1,
            Err(rejections) => {
                self.rejected += 1;
                self.rejections.extend(rejections.iter().map(|found| {
                    let v1::Rejection { reason, field, value, rule, .. } =
                        rejection(0, index, found);
                    Told { index, reason, field, value, rule }
                }));
            }
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One rejection.
#[derive(Debug, Serialize)]
struct Told {
    index: u32,
    reason: String,
    field: String,
    value: String,
    rule: String,
}

/// Takes in what came through a door.
pub(crate) fn answer(
    services: &Services,
    hook: Hook,
    principal: Principal,
    headers: &HeaderMap,
    body: Bytes,
) -> Answer {
    let kind = media_type(headers);
    let answered = match hook {
        Hook::Metrics => metrics(services, principal, &kind, &body),
        Hook::Alertmanager => alertmanager(services, principal, &kind, &body),
        Hook::CloudEvents => cloud_events(services, principal, &kind, headers, &body),
    };
    answered.unwrap_or_else(|status| refused(&status, hook == Hook::Metrics && kind == PROTOBUF))
}

/// The type of a body without its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn metrics(
    services: &Services,
    principal: Principal,
    kind: &str,
    body: &Bytes,
) -> Result<Answer, Status> {
    let (request, json) = match kind {
        PROTOBUF => {
            let read = otlp::plain(body);
            (read.map_err(|error| unreadable("body", &error.to_string()))?, false)
        }
        JSON => {
            let read = serde_json::from_slice::<ExportMetricsServiceRequest>(body);
            let read = read.map_err(|error| unreadable("body", &error.to_string()))?;
            (Cow::Owned(read.encode_to_vec()), true)
        }
        other => return Ok(unsupported(other, "application/x-protobuf or application/json")),
    };
    let response = otlp::export(services, principal, &request)?;
    let (body, content_type) = if json {
        (serde_json::to_vec(&response).unwrap_or_default().into(), JSON)
    } else {
        (response.encode_to_vec().into(), PROTOBUF)
    };
    Ok(Answer::new(StatusCode::OK, content_type, body))
}

fn alertmanager(
    services: &Services,
    principal: Principal,
    kind: &str,
    body: &[u8],
) -> Result<Answer, Status> {
    if kind != JSON {
        return Ok(unsupported(kind, JSON));
    }
    let now = services.clock.now_ms();
    let signals = alerts::read(body, services.env.as_str(), now)?;
    let reporter = Reporter::new(services, principal, "alertmanager");
    spend(services, &reporter, signals.len(), now)?;
    Ok(told(&take(&reporter, signals, now)))
}

fn cloud_events(
    services: &Services,
    principal: Principal,
    kind: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Status> {
    let header = |name: &str| {
        let name = HeaderName::from_bytes(format!("ce-{name}").as_bytes()).ok()?;
        headers.get(name)?.to_str().ok().map(str::to_owned)
    };
    let read = match kind {
        "application/cloudevents+json" => events::structured(body)?,
        "application/cloudevents-batch+json" => events::batch(body)?,
        JSON => vec![events::binary(header, body)?],
        other => {
            let rule = "application/cloudevents+json, application/cloudevents-batch+json, or \
                        application/json with ce- headers";
            return Ok(unsupported(other, rule));
        }
    };
    let now = services.clock.now_ms();
    let reporter = Reporter::new(services, principal, "cloudevents");
    let count = read.len();
    spend(services, &reporter, count, now)?;
    let (mut taken, rules) = (Taken::default(), services.ingest.rules());
    for (index, event) in (0_u32..).zip(read) {
        let name = name_of(&event);
        let from = reporter.principal().name();
        let claim = from_proto::signal(event.signal, now);
        // What breaks a rule is not remembered: it may be sent again when the cause is gone, and is no duplicate then.
        if holds(services, &reporter, &claim, &rules, now) && !services.intake.is_first(from, &name)
        {
            taken.duplicates += 1;
        } else {
            taken.note(index, reporter.take(claim, None, now));
        }
    }
    Ok(told(&taken))
}

/// What names an event of a principal: the same id and source from another one are another event, or whoever guesses them could make
/// the events of others look like duplicates. Quoted, so that no text within one part reads as the border of two.
fn name_of(event: &events::Event) -> String {
    format!("{:?}", (&event.source, &event.id))
}

/// Whether a claim would be taken, without taking it: what is taken cannot be given back when it turns out to be a duplicate.
fn holds(
    services: &Services,
    reporter: &Reporter<'_>,
    claim: &Claim,
    rules: &Freshness,
    now: Millis,
) -> bool {
    let known = |name: &str| {
        let mine = reporter.principal().may_report(name);
        mine.then(|| services.ingest.find(name)).flatten()
    };
    claim.rejections.is_empty()
        && signal::validate(&claim.signal, &reporter.source, now, rules, known).is_ok()
}

/// Takes signals out of what a principal may send, before any of them is looked at.
fn spend(
    services: &Services,
    reporter: &Reporter<'_>,
    signals: usize,
    now: Millis,
) -> Result<(), Status> {
    if signals > SIGNALS_MAX {
        let rule = format!("must be at most {SIGNALS_MAX} signals");
        return Err(status::invalid(&[Violation::new("body", signals.to_string(), rule)]));
    }
    services.intake.spend(reporter.principal().name(), signals, now)
}

/// Applies signals one by one; what could not be read as one is a rejection already.
fn take(
    reporter: &Reporter<'_>,
    signals: Vec<Result<v1::Signal, Rejection>>,
    now: Millis,
) -> Taken {
    let mut taken = Taken::default();
    for (index, signal) in (0_u32..).zip(signals) {
        let read = signal.map_err(|rejection| vec![rejection]);
        let judged =
            read.and_then(|signal| reporter.take(from_proto::signal(signal, now), None, now));
        taken.note(index, judged);
    }
    taken
}

/// 200 when something was taken or nothing was refused. A sender tries again what failed with 5xx and gives up what failed with 4xx,
/// and trying again changes nothing about a signal that breaks a rule.
fn told(taken: &Taken) -> Answer {
    let all_bad = taken.rejected > 0 && taken.accepted == 0 && taken.duplicates == 0;
    let status = if all_bad { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Answer::new(status, JSON, serde_json::to_vec(taken).unwrap_or_default().into())
}

/// A body that is not what it says it is.
fn unreadable(field: &str, why: &str) -> Status {
    status::invalid_because("UNREADABLE", &[Violation::new(field, why, "must be readable")])
}

fn unsupported(kind: &str, rule: &str) -> Answer {
    let line = format!("content-type must be {rule}, got `{kind}`");
    Answer::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, &line)
}

/// A status of gRPC as HTTP has it. To whoever speaks protobuf the body is a `google.rpc.Status`, as OTLP asks.
pub(crate) fn refused(status: &Status, protobuf: bool) -> Answer {
    let code = match status.code() {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let retry = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    let answer = if protobuf {
        let plain = || {
            let message = status.message().to_owned();
            let code = i32::from(status.code());
            tonic_types::pb::Status { code, message, details: Vec::new() }.encode_to_vec()
        };
        let body = if status.details().is_empty() { plain() } else { status.details().to_vec() };
        Answer::new(code, PROTOBUF, body.into())
    } else {
        let info = status.get_details_error_info();
        let reason = info.map(|info| info.reason).unwrap_or_default();
        let error = serde_json::json!({ "reason": reason, "message": status.message() });
        Answer::new(code, JSON, serde_json::to_vec(&error).unwrap_or_default().into())
    };
    answer.retry_after(retry.map(whole_seconds))
}

/// `Retry-After` knows whole seconds.
fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests;

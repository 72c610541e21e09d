//! Signals from monitors: one stream per monitor, judged signal by signal, applied in place.
//!
//! There is no queue between the socket and the table of windows. A batch is applied whole or not at all, and the numbers of
//! batches are shared by all streams of a monitor, so that what is sent again after a reconnect changes nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentctl_api::v1::push_signals_request::Message as Wire;
use agentctl_api::v1::telemetry_service_server::TelemetryService;
use agentctl_api::{text, v1};
use agentd_core::app::Millis;
use agentd_core::policy::Freshness;
use agentd_core::record::format_time;
use agentd_core::signal::{self, Accepted, Arrival, BadSignals, Code, Condition, Rejection};
use agentd_core::window;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::from_proto::{self, Claim, Greeting};
use super::pace::{self, Looks};
use super::status::{self, Violation};
use super::{Services, outcome};
use crate::agent::Gone;
use crate::auth::Principal;
use crate::tasks::OnFailure;

pub mod intake;
mod tail;

use intake::{Counters, Intake};

/// Most signals in one batch.
pub const BATCH_MAX: usize = 1_000;
/// Rejections that are told one by one; the rest is counted.
pub const REJECTIONS_MAX: usize = 100;
/// Time a stream has for its first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Rejections named in the status of a stream that was cut.
const NAMED: usize = 8;
/// Longest value that is quoted back, in bytes.
const VALUE_MAX: usize = 128;
/// Condition that stands for the claim that a process of the app ended. It is no hard fact: the supervisor knows by itself which
/// processes run, so that no monitor can have a healthy app restarted.
pub const EXIT_REPORTED: &str = "exit_reported";

/// The service.
#[derive(Debug)]
pub struct Service(pub Services);

#[tonic::async_trait]
impl TelemetryService for Service {
    type WatchSignalsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchSignalsResponse, Status>> + Send>>;

    async fn watch_signals(
        &self,
        request: Request<v1::WatchSignalsRequest>,
    ) -> Result<Response<Self::WatchSignalsStream>, Status> {
        let wire = request.into_inner();
        let interval = pace::interval(wire.interval.as_ref())?;
        let apps = tail::apps(&wire.apps)?;
        let (items, stream) = mpsc::channel(1);
        let services = self.0.clone();
        self.0.tasks.spawn("watch-signals", OnFailure::Log, async move {
            let (name, services, items) = ("signals", &services, &items);
            tail::watch(&Looks { name, services, interval, items }, &apps).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn push_signals(
        &self,
        request: Request<Streaming<v1::PushSignalsRequest>>,
    ) -> Result<Response<v1::PushSignalsResponse>, Status> {
        let principal = outcome::principal(request.extensions())?.clone();
        let summary = push(&self.0, principal, request.into_inner()).await?;
        Ok(Response::new(summary))
    }
}

/// Serves one stream to its end.
async fn push<S>(
    services: &Services,
    principal: Principal,
    mut messages: S,
) -> Result<v1::PushSignalsResponse, Status>
where
    S: Stream<Item = Result<v1::PushSignalsRequest, Status>> + Unpin,
{
    let intake = Arc::clone(&services.intake);
    let _seat = intake.take_seat(principal.name(), services.clock.now_ms())?;
    let stopping = services.tasks.stopping();
    let first = tokio::select! {
        biased;
        () = stopping.cancelled() => return Err(outcome::gone(Gone)),
        first = tokio::time::timeout(HELLO_TIMEOUT, messages.next()) => first,
    };
    let first = first.map_err(|_elapsed| status::deadline_exceeded())?;
    let greeting = greet(services, first)?;
    let rules = services.agent.query(|view| view.policy.freshness.clone()).await;
    let rules = rules.map_err(outcome::gone)?;
    let mut session = Session::new(services, intake, principal, greeting, rules);
    loop {
        let message = tokio::select! {
            biased;
            () = stopping.cancelled() => {
                session.end = End::Drained;
                return Err(outcome::gone(Gone));
            }
            message = messages.next() => message,
        };
        match message {
            // The monitor is lost, or its library does not tell the two apart; what was applied stays applied.
            None => return Ok(session.summary()),
            Some(message) => {
                if session.take(message?.message)? {
                    return Ok(session.summary());
                }
            }
        }
        // A stream that always has a message ready must not keep its thread from the others.
        tokio::task::consume_budget().await;
    }
}

/// Judges the first message.
fn greet(
    services: &Services,
    first: Option<Result<v1::PushSignalsRequest, Status>>,
) -> Result<Greeting, Status> {
    let message = first.transpose()?.and_then(|request| request.message);
    let Some(Wire::Hello(hello)) = message else {
        let got = message.as_ref().map_or("", name_of);
        let violation = Violation::new("message", got, "must be hello in the first message");
        return Err(status::invalid_because("HELLO_MISSING", &[violation]));
    };
    if hello.environment != services.env.as_str() {
        // Another environment is answered as if it did not exist.
        return Err(status::not_found("environment", &hello.environment));
    }
    from_proto::hello(&hello).map_err(|violations| status::invalid(&violations))
}

const fn name_of(message: &Wire) -> &'static str {
    match message {
        Wire::Hello(_) => "hello",
        Wire::Batch(_) => "batch",
        Wire::Bye(_) => "bye",
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Without a word: the monitor is lost, which says nothing about its apps.
    Lost,
    /// With Bye.
    Left,
    /// By us, because of what it sent.
    Cut,
    /// By us, because the server stops.
    Drained,
}

/// One stream after its Hello. Counts its end when dropped, however that comes about.
#[derive(Debug)]
struct Session<'a> {
    services: &'a Services,
    intake: Arc<Intake>,
    principal: Principal,
    /// `monitor@principal`: two principals never share a monitor, and a probe's name has no `@`.
    source: String,
    epoch: u64,
    ttl_ms: Option<Millis>,
    rules: Freshness,
    bad: BadSignals,
    summary: v1::PushSignalsResponse,
    end: End,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let counters = &self.intake.counters;
        match self.end {
            End::Lost => {
                Counters::add(&counters.monitors_lost, 1);
                tracing::warn!(source = %self.source, "monitor lost: stream ended without bye");
            }
            End::Left => Counters::add(&counters.monitors_left, 1),
            End::Cut => Counters::add(&counters.streams_cut, 1),
            End::Drained => {}
        }
    }
}

impl<'a> Session<'a> {
    fn new(
        services: &'a Services,
        intake: Arc<Intake>,
        principal: Principal,
        greeting: Greeting,
        rules: Freshness,
    ) -> Self {
        let source = format!("{}@{}", greeting.monitor_id, principal.name());
        let summary = v1::PushSignalsResponse {
            high_water_seq: intake.high_water(&source, greeting.epoch),
            ..Default::default()
        };
        Self {
            services,
            intake,
            principal,
            source,
            epoch: greeting.epoch,
            ttl_ms: greeting.default_ttl_ms,
            rules,
            bad: BadSignals::default(),
            summary,
            end: End::Lost,
        }
    }

    fn summary(&mut self) -> v1::PushSignalsResponse {
        std::mem::take(&mut self.summary)
    }

    /// Takes one message; `true` after the last one.
    fn take(&mut self, message: Option<Wire>) -> Result<bool, Status> {
        match message {
            Some(Wire::Batch(batch)) => self.batch(batch).map(|()| false),
            Some(Wire::Bye(bye)) => {
                let reason = text::cut(&text::line(&bye.reason), VALUE_MAX).into_owned();
                tracing::info!(source = %self.source, reason, "monitor left");
                self.end = End::Left;
                Ok(true)
            }
            Some(Wire::Hello(_)) => {
                Err(self.cut("HELLO_REPEATED", "message", "hello", "must come only once"))
            }
            None => Err(self.cut("MESSAGE_UNKNOWN", "message", "", "must be a batch or bye")),
        }
    }

    fn cut(&mut self, reason: &str, field: &str, value: &str, rule: &str) -> Status {
        self.end = End::Cut;
        status::invalid_because(reason, &[Violation::new(field, value, rule)])
    }

    /// Applies a batch, unless it was seen before. Never half: what ends the stream is said after the whole batch was judged.
    fn batch(&mut self, batch: v1::SignalBatch) -> Result<(), Status> {
        let count = batch.signals.len();
        if count > BATCH_MAX {
            let rule = "must be at most 1000 signals";
            return Err(self.cut("BATCH_TOO_LARGE", "batch.signals", &count.to_string(), rule));
        }
        let now = self.services.clock.now_ms();
        if let Err(status) = self.intake.spend(self.principal.name(), count, now) {
            self.end = End::Cut;
            return Err(status);
        }
        let signals = u64::try_from(count).unwrap_or(u64::MAX);
        let counters = &self.intake.counters;
        match self.intake.observe(&self.source, self.epoch, batch.seq, now) {
            Arrival::Duplicate => {
                Counters::add(&counters.duplicates, signals);
                self.summary.duplicates = self.summary.duplicates.saturating_add(signals);
            }
            Arrival::New { missed } => {
                Counters::add(&counters.missed, missed);
                self.summary.missed = self.summary.missed.saturating_add(missed);
                for (index, signal) in (0..).zip(batch.signals) {
                    self.judge(batch.seq, index, signal, now);
                }
            }
        }
        self.summary.high_water_seq = self.summary.high_water_seq.max(batch.seq);
        if self.bad.count() >= BadSignals::LIMIT {
            self.end = End::Cut;
            return Err(too_many_bad(&self.summary));
        }
        Ok(())
    }

    fn judge(&mut self, seq: u64, index: u32, wire: v1::Signal, now: Millis) {
        let Claim { signal, ttl_ms, mut rejections } = from_proto::signal(wire, now);
        // An app the token may not report on is answered like one that does not exist.
        let known = |name: &str| {
            let mine = self.principal.may_report(name);
            mine.then(|| self.services.ingest.find(name)).flatten()
        };
        match signal::validate(&signal, &self.source, now, &self.rules, known) {
            Ok(accepted) if rejections.is_empty() => {
                self.accept(accepted, ttl_ms.or(self.ttl_ms), now);
            }
            judged => {
                let found = judged.err().unwrap_or_default().into_iter();
                rejections.extend(found.map(|rejection| as_on_wire(rejection, &signal)));
                self.reject(seq, index, &rejections);
            }
        }
    }

    fn accept(&mut self, mut accepted: Accepted, ttl_ms: Option<Millis>, now: Millis) {
        if accepted.exit.is_some() {
            let condition = Condition { value: true, source: self.source.clone(), at: now };
            accepted.conditions.insert(EXIT_REPORTED.to_owned(), condition);
        }
        if let Some(ttl_ms) = ttl_ms {
            age(&mut accepted, self.rules.ttl_ms.saturating_sub(ttl_ms));
        }
        let counters = &self.intake.counters;
        Counters::add(&counters.accepted, 1);
        counters.last_signal_ms.fetch_max(now, Ordering::Relaxed);
        if let Some(observed) = accepted.samples.iter().map(|sample| sample.observed_ms).max() {
            self.services.metrics.signal(now.saturating_sub(observed));
        }
        self.summary.accepted = self.summary.accepted.saturating_add(1);
        self.services.ingest.accept(&accepted);
        if window::urgent(&accepted) && self.intake.may_urge(&accepted.app, now) {
            self.services.agent.urgent(accepted.app);
        }
    }

    fn reject(&mut self, seq: u64, index: u32, rejections: &[Rejection]) {
        // The count decides at the end of the batch.
        let _ = self.bad.add();
        Counters::add(&self.intake.counters.rejected, 1);
        self.summary.rejected = self.summary.rejected.saturating_add(1);
        let room = REJECTIONS_MAX.saturating_sub(self.summary.rejections.len());
        let shown = |value: &str| text::cut(&text::line(value), VALUE_MAX).into_owned();
        self.summary.rejections.extend(rejections.iter().take(room).map(|rejection| {
            v1::Rejection {
                seq,
                index,
                reason: rejection.code.as_str().to_owned(),
                field: shown(&rejection.field),
                value: shown(&rejection.value),
                rule: rejection.rule.clone(),
            }
        }));
    }
}

/// Makes what was accepted look `by` milliseconds older, so that it expires that much earlier than the policy's time to live.
/// A monitor can shorten the life of what it says and never lengthen it. When it was heard last does not change.
fn age(accepted: &mut Accepted, by: Millis) {
    for sample in &mut accepted.samples {
        sample.received_ms = sample.received_ms.saturating_sub(by);
    }
    for condition in accepted.conditions.values_mut() {
        condition.at = condition.at.saturating_sub(by);
    }
}

/// A rejection of the core with the names of the proto and with times that can be read.
fn as_on_wire(rejection: Rejection, signal: &signal::Signal) -> Rejection {
    let field = match rejection.field.as_str() {
        "observed" => "time",
        "latency_p50" => "latency_p50_seconds",
        "latency_p99" => "latency_p99_seconds",
        other => other,
    };
    let time = Some(format_time(signal.observed_ms)).filter(|time| !time.is_empty());
    let value = match (field, time) {
        ("time", Some(time)) => time,
        _ => rejection.value,
    };
    let rule = match rejection.code {
        Code::UnknownApp => "must be an onboarded app that this token may report on".to_owned(),
        _ => rejection.rule,
    };
    Rejection { field: field.to_owned(), value, rule, ..rejection }
}

/// The status of a stream that was cut for its bad signals: the first of them as violations, and the summary without the list.
fn too_many_bad(summary: &v1::PushSignalsResponse) -> Status {
    let violations: Vec<Violation> = summary
        .rejections
        .iter()
        .take(NAMED)
        .map(|r| {
            let field = format!("batch[{}].signals[{}].{}", r.seq, r.index, r.field);
            Violation::new(field, &*r.value, format!("{} ({})", r.rule, r.reason))
        })
        .collect();
    let bare = v1::PushSignalsResponse { rejections: Vec::new(), ..summary.clone() };
    with_summary(status::invalid_because("TOO_MANY_BAD_SIGNALS", &violations), &bare)
}

fn with_summary(status: Status, summary: &v1::PushSignalsResponse) -> Status {
    let Ok(mut details) = tonic_types::pb::Status::decode(status.details()) else { return status };
    details.details.push(prost_types::Any {
        type_url: "type.googleapis.com/agentctl.v1.PushSignalsResponse".to_owned(),
        value: summary.encode_to_vec(),
    });
    Status::with_details(status.code(), status.message(), details.encode_to_vec().into())
}

#[cfg(test)]
pub(in crate::grpc) mod harness;
#[cfg(test)]
mod tests;

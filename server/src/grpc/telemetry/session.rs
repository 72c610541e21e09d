//! One stream after its Hello: its batches in order, and what became of them.

use std::sync::Arc;

use agentctl_api::v1::push_signals_request::Message as Wire;
use agentctl_api::{text, v1};
use agentd_core::app::Millis;
use agentd_core::signal::{Arrival, BadSignals, Rejection};
use prost::Message as _;
use tonic::Status;

use super::intake::{Counters, Intake};
use super::report::Reporter;
use super::{BATCH_MAX, REJECTIONS_MAX, VALUE_MAX};
use crate::auth::Principal;
use crate::grpc::Services;
use crate::grpc::from_proto::{self, Greeting};
use crate::grpc::status::{self, Violation};

/// Rejections named in the status of a stream that was cut.
const NAMED: usize = 8;

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
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
pub(super) struct Session<'a> {
    services: &'a Services,
    intake: Arc<Intake>,
    reporter: Reporter<'a>,
    epoch: u64,
    ttl_ms: Option<Millis>,
    bad: BadSignals,
    /// What became of its signals so far.
    pub(super) summary: v1::PushSignalsResponse,
    /// How it ends, as far as is known.
    pub(super) end: End,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let counters = &self.intake.counters;
        match self.end {
            End::Lost => {
                Counters::add(&counters.monitors_lost, 1);
                tracing::warn!(source = %self.reporter.source, "monitor lost: stream ended without bye");
            }
            End::Left => Counters::add(&counters.monitors_left, 1),
            End::Cut => Counters::add(&counters.streams_cut, 1),
            End::Drained => {}
        }
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(services: &'a Services, principal: Principal, greeting: &Greeting) -> Self {
        let intake = Arc::clone(&services.intake);
        let reporter = Reporter::new(services, principal, &greeting.monitor_id);
        let summary = v1::PushSignalsResponse {
            high_water_seq: intake.high_water(&reporter.source, greeting.epoch),
            ..Default::default()
        };
        Self {
            services,
            intake,
            reporter,
            epoch: greeting.epoch,
            ttl_ms: greeting.default_ttl_ms,
            bad: BadSignals::default(),
            summary,
            end: End::Lost,
        }
    }

    /// Takes one message; `true` after the last one.
    pub(super) fn take(&mut self, message: Option<Wire>) -> Result<bool, Status> {
        match message {
            Some(Wire::Batch(batch)) => self.batch(batch).map(|()| false),
            Some(Wire::Bye(bye)) => {
                let reason = text::cut(&text::line(&bye.reason), VALUE_MAX).into_owned();
                tracing::info!(source = %self.reporter.source, reason, "monitor left");
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
        if let Err(status) = self.intake.spend(self.reporter.principal().name(), count, now) {
            self.end = End::Cut;
            return Err(status);
        }
        let signals = u64::try_from(count).unwrap_or(u64::MAX);
        let counters = &self.intake.counters;
        match self.intake.observe(&self.reporter.source, self.epoch, batch.seq, now) {
            Arrival::Duplicate => {
                Counters::add(&counters.duplicates, signals);
                self.summary.duplicates = self.summary.duplicates.saturating_add(signals);
            }
            Arrival::New { missed } => {
                Counters::add(&counters.missed, missed);
                self.summary.missed = self.summary.missed.saturating_add(missed);
                self.reporter.refresh();
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
        let summary = &mut self.summary;
        match self.reporter.take(from_proto::signal(wire, now), self.ttl_ms, now) {
            Ok(absorbed) => {
                summary.accepted = summary.accepted.saturating_add(1);
                let gave_way = u64::from(absorbed.superseded > 0);
                summary.superseded = summary.superseded.saturating_add(gave_way);
            }
            Err(rejections) => {
                // The count decides at the end of the batch.
                let _ = self.bad.add();
                summary.rejected = summary.rejected.saturating_add(1);
                let room = REJECTIONS_MAX.saturating_sub(summary.rejections.len());
                let told = rejections.iter().take(room).map(|found| rejection(seq, index, found));
                summary.rejections.extend(told);
            }
        }
    }
}

/// A rejection as it is told.
pub(in crate::grpc) fn rejection(seq: u64, index: u32, found: &Rejection) -> v1::Rejection {
    let shown = |value: &str| text::cut(&text::line(value), VALUE_MAX).into_owned();
    v1::Rejection {
        seq,
        index,
        reason: found.code.as_str().to_owned(),
        field: shown(&found.field),
        value: shown(&found.value),
        rule: found.rule.clone(),
    }
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

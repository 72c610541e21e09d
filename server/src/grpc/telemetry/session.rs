//! One stream after its Hello: its batches in order, and what became of them.

use std::sync::Arc;

use agentctl_api::v1::push_signals_request::Message as Said;
use agentctl_api::{text, v1};
use agentd_core::app::Millis;
use agentd_core::signal::{Arrival, BadSignals, Claims, Place, Rejection};
use agentd_core::window::Absorbed;
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use super::intake::{Counters, Intake, Seat};
use super::report::Reporter;
use super::walk::{self, Draft, Drafts};
use super::{BATCH_MAX, REJECTIONS_MAX, VALUE_MAX, generated};
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
    seat: &'a Seat,
    epoch: u64,
    /// Where it is among the monitors whose messages are counted.
    place: Place,
    ttl_ms: Option<Millis>,
    /// When the turn under way began.
    now: Millis,
    bad: BadSignals,
    /// Room for the signals of a batch.
    drafts: Drafts<'static>,
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
    pub(super) fn new(
        services: &'a Services,
        seat: &'a Seat,
        principal: Principal,
        greeting: &Greeting,
    ) -> Self {
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
            seat,
            epoch: greeting.epoch,
            place: Place::default(),
            ttl_ms: greeting.default_ttl_ms,
            now: 0,
            bad: BadSignals::default(),
            drafts: Drafts::default(),
            summary,
            end: End::Lost,
        }
    }

    /// A turn begins: what comes in it comes at one time and is judged by one set of rules.
    pub(super) fn begin(&mut self) {
        self.now = self.services.clock.now_ms();
        self.reporter.refresh();
    }

    /// A turn is over: what was heard in it is counted.
    pub(super) fn settle(&mut self) {
        self.reporter.settle();
    }

    /// Takes one message, and says how many signals were in it; `None` after the last one.
    pub(super) fn take(&mut self, message: &Bytes) -> Result<Option<usize>, Status> {
        let mut drafts = std::mem::take(&mut self.drafts).emptied();
        let Some(walked) = walk::batch(message, self.ttl_ms, &mut drafts) else {
            return self.said(generated(message)?);
        };
        if self.admit(walked.seq, walked.count)? {
            let now = self.now;
            for (index, (draft, conditions)) in (0..).zip(drafts.iter()) {
                self.hear(walked.seq, index, draft, conditions, now)?;
            }
        }
        self.drafts = drafts.emptied();
        self.close(walked.seq).map(|()| Some(walked.count))
    }

    /// Takes a message that generated code has read.
    fn said(&mut self, message: Option<Said>) -> Result<Option<usize>, Status> {
        match message {
            Some(Said::Batch(batch)) => {
                let count = batch.signals.len();
                if self.admit(batch.seq, count)? {
                    for (index, signal) in (0..).zip(batch.signals) {
                        self.judge(batch.seq, index, signal, self.now);
                    }
                }
                self.close(batch.seq).map(|()| Some(count))
            }
            Some(Said::Bye(bye)) => {
                let reason = text::cut(&text::line(&bye.reason), VALUE_MAX).into_owned();
                tracing::info!(source = %self.reporter.source, reason, "monitor left");
                self.end = End::Left;
                Ok(None)
            }
            Some(Said::Hello(_)) => {
                Err(self.cut("HELLO_REPEATED", "message", "hello", "must come only once"))
            }
            None => Err(self.cut("MESSAGE_UNKNOWN", "message", "", "must be a batch or bye")),
        }
    }

    fn cut(&mut self, reason: &str, field: &str, value: &str, rule: &str) -> Status {
        self.end = End::Cut;
        status::invalid_because(reason, &[Violation::new(field, value, rule)])
    }

    /// Whether a batch is to be applied: not if it was seen before. Never half: what ends the stream is said after the whole batch was
    /// judged.
    fn admit(&mut self, seq: u64, count: usize) -> Result<bool, Status> {
        if count > BATCH_MAX {
            let rule = "must be at most 1000 signals";
            return Err(self.cut("BATCH_TOO_LARGE", "batch.signals", &count.to_string(), rule));
        }
        if let Err(status) = self.seat.spend(count, self.now) {
            self.end = End::Cut;
            return Err(status);
        }
        let counters = &self.intake.counters;
        let (source, place) = (&self.reporter.source, &mut self.place);
        match self.intake.observe(source, self.epoch, seq, self.now, place) {
            Arrival::Duplicate => {
                let signals = u64::try_from(count).unwrap_or(u64::MAX);
                Counters::add(&counters.duplicates, signals);
                self.summary.duplicates = self.summary.duplicates.saturating_add(signals);
                Ok(false)
            }
            Arrival::New { missed } => {
                if missed > 0 {
                    Counters::add(&counters.missed, missed);
                    self.summary.missed = self.summary.missed.saturating_add(missed);
                }
                Ok(true)
            }
        }
    }

    /// A batch was judged, or was seen before.
    fn close(&mut self, seq: u64) -> Result<(), Status> {
        self.summary.high_water_seq = self.summary.high_water_seq.max(seq);
        if self.bad.count() >= BadSignals::LIMIT {
            self.end = End::Cut;
            return Err(too_many_bad(&self.summary));
        }
        Ok(())
    }

    /// Applies a signal where it lies if it breaks no rule, and lets generated code read it otherwise.
    fn hear(
        &mut self,
        seq: u64,
        index: u32,
        draft: &Draft<'_>,
        conditions: Claims<'_>,
        now: Millis,
    ) -> Result<(), Status> {
        let plain = draft.is_plain.then_some(&draft.spoken);
        let heard = plain.and_then(|spoken| self.reporter.hear(draft.app, spoken, conditions, now));
        match heard {
            Some(absorbed) => self.accepted(absorbed),
            None => match v1::Signal::decode(draft.bytes) {
                Ok(wire) => self.judge(seq, index, wire, now),
                Err(error) => return Err(Status::internal(error.to_string())),
            },
        }
        Ok(())
    }

    fn accepted(&mut self, absorbed: Absorbed) {
        let summary = &mut self.summary;
        summary.accepted = summary.accepted.saturating_add(1);
        let gave_way = u64::from(absorbed.superseded > 0);
        summary.superseded = summary.superseded.saturating_add(gave_way);
    }

    fn judge(&mut self, seq: u64, index: u32, wire: v1::Signal, now: Millis) {
        match self.reporter.take(from_proto::signal(wire, now), self.ttl_ms, now) {
            Ok(absorbed) => self.accepted(absorbed),
            Err(rejections) => {
                // The count decides at the end of the batch.
                let _ = self.bad.add();
                let summary = &mut self.summary;
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

//! A batch that is read where it lies: no signal of it is copied before it is known what becomes of it.
//!
//! Only what is written plainly is taken here. Whatever is not (a field nobody knows, one that comes twice, a text that is none, bytes
//! that end too early) leaves the whole message to the generated code, which skips it, puts it together or refuses it as it always did;
//! and a signal that says something out of the ordinary is read by it alone, so that there is one place that says what is wrong.

use agentd_core::app::Millis;
use agentd_core::signal::{Claims, Metric, Spoken, Values};

use super::BATCH_MAX;
use crate::grpc::from_proto::{CONDITIONS, TTL_MAX_MS, TTL_MIN_MS};
use crate::grpc::reader::{Form, Once, Reader, tag};

/// Fields of `PushSignalsRequest` and `StreamSignalsRequest`, which are the same.
const BATCH: u64 = tag(2, Form::Bytes);
/// Fields of `SignalBatch`.
const SEQ: u64 = tag(1, Form::Varint);
const SENT: u64 = tag(2, Form::Bytes);
const SIGNAL: u64 = tag(3, Form::Bytes);
/// Fields of `Signal`.
const APP: u64 = tag(1, Form::Bytes);
const INSTANCE: u64 = tag(2, Form::Bytes);
const TIME: u64 = tag(3, Form::Bytes);
const CPU: u64 = tag(4, Form::Fixed64);
const MEMORY: u64 = tag(5, Form::Fixed64);
const LATENCY_P50: u64 = tag(6, Form::Fixed64);
const LATENCY_P99: u64 = tag(7, Form::Fixed64);
const ERRORS: u64 = tag(8, Form::Fixed64);
const REQUESTS: u64 = tag(9, Form::Fixed64);
const RESTARTS: u64 = tag(10, Form::Varint);
const WINDOW: u64 = tag(11, Form::Bytes);
const CONDITION: u64 = tag(13, Form::Bytes);
const TTL: u64 = tag(14, Form::Bytes);
/// Fields of `Timestamp` and `Duration`, which are the same.
const SECONDS: u64 = tag(1, Form::Varint);
const NANOS: u64 = tag(2, Form::Varint);
/// Fields of an entry of a map.
const KEY: u64 = tag(1, Form::Bytes);
const VALUE: u64 = tag(2, Form::Varint);

/// One signal, still where it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft<'a> {
    /// All of it, for generated code.
    pub(super) bytes: &'a [u8],
    /// The app it speaks of.
    pub(super) app: &'a str,
    /// It says nothing that only generated code can tell.
    pub(super) is_plain: bool,
    /// What it says.
    pub(super) spoken: Spoken,
    /// Where its conditions begin and end among those of the batch.
    conditions: (usize, usize),
}

/// The signals of a batch. Kept from one batch to the next for its room.
#[derive(Debug, Default)]
pub(super) struct Drafts<'a> {
    signals: Vec<Draft<'a>>,
    conditions: Vec<(&'a str, bool)>,
}

/// What a batch says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walked {
    pub(super) seq: u64,
    /// Signals in it; beyond [`BATCH_MAX`] they are only counted.
    pub(super) count: usize,
}

impl<'a> Drafts<'a> {
    /// The same room for what lies elsewhere.
    #[expect(clippy::unnecessary_filter_map, reason = "the items are of another lifetime")]
    pub(super) fn emptied<'b>(self) -> Drafts<'b> {
        let Self { mut signals, mut conditions } = self;
        signals.clear();
        conditions.clear();
        // Collected where it lies: a vector into which nothing is put keeps its allocation.
        Drafts {
            signals: signals.into_iter().filter_map(|_| None).collect(),
            conditions: conditions.into_iter().filter_map(|_| None).collect(),
        }
    }

    /// The signals in their order, each with its conditions.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Draft<'a>, Claims<'_>)> {
        self.signals.iter().map(|draft| {
            let (from, to) = draft.conditions;
            (draft, self.conditions.get(from..to).unwrap_or_default())
        })
    }
}

/// Reads a message that is nothing but a batch; `None` leaves it to generated code, whatever was put into `drafts`. A signal that does
/// not say how long it counts gets `ttl_ms`.
pub(super) fn batch<'a>(
    message: &'a [u8],
    ttl_ms: Option<Millis>,
    drafts: &mut Drafts<'a>,
) -> Option<Walked> {
    let mut outer = Reader::new(message);
    let (Some(BATCH), body, None) = (outer.tag()?, outer.bytes()?, outer.tag()?) else {
        return None;
    };
    let (mut fields, mut once) = (Reader::new(body), Once::default());
    let mut walked = Walked { seq: 0, count: 0 };
    while let Some(tag) = fields.tag()? {
        if tag == SIGNAL {
            let bytes = fields.bytes()?;
            walked.count = walked.count.saturating_add(1);
            if walked.count <= BATCH_MAX {
                drafts.signals.push(draft(bytes, ttl_ms, &mut drafts.conditions)?);
            }
            continue;
        }
        once.note(tag)?;
        match tag {
            SEQ => walked.seq = fields.varint()?,
            SENT => {
                span(fields.bytes()?)?;
            }
            _ => return None,
        }
    }
    Some(walked)
}

#[inline]
fn draft<'a>(
    bytes: &'a [u8],
    default_ttl_ms: Option<Millis>,
    conditions: &mut Vec<(&'a str, bool)>,
) -> Option<Draft<'a>> {
    let (mut fields, mut once) = (Reader::new(bytes), Once::default());
    let first = conditions.len();
    let (mut app, mut instance, mut ttl_ms, mut time) = ("", Some(None), Some(None), None);
    let (mut window, mut named_once) = (Some(1), true);
    let mut values = Values::default();
    while let Some(tag) = fields.tag()? {
        if tag == CONDITION {
            let (name, value) = entry(fields.bytes()?)?;
            let so_far = conditions.get(first..).unwrap_or_default();
            named_once &= so_far.iter().all(|(known, _)| *known != name);
            if so_far.len() <= CONDITIONS {
                conditions.push((name, value));
            }
            continue;
        }
        once.note(tag)?;
        match tag {
            APP => app = fields.text()?,
            INSTANCE => instance = slot(fields.text()?),
            TIME => time = span(fields.bytes()?)?,
            CPU => values.set(Metric::CpuUtilization, fields.double()?),
            MEMORY => values.set(Metric::MemoryUtilization, fields.double()?),
            LATENCY_P50 => values.set(Metric::LatencyP50, fields.double()?),
            LATENCY_P99 => values.set(Metric::LatencyP99, fields.double()?),
            ERRORS => values.set(Metric::ErrorRatio, fields.double()?),
            REQUESTS => values.set(Metric::RequestRate, fields.double()?),
            // A counter is exact up to 2^53; the core takes no more than 10^9 of them.
            RESTARTS => values.set(Metric::RestartCount, fields.varint()? as f64),
            WINDOW => window = span(fields.bytes()?)?.filter(|ms| *ms > 0),
            TTL => ttl_ms = span(fields.bytes()?)?.filter(is_ttl).map(Some),
            _ => return None,
        }
    }
    let number = conditions.len().saturating_sub(first);
    let is_plain = time.is_some()
        && instance.is_some()
        && window.is_some()
        && ttl_ms.is_some()
        && named_once
        && number <= CONDITIONS;
    Some(Draft {
        bytes,
        app,
        is_plain,
        spoken: Spoken {
            instance: instance.flatten(),
            observed_ms: time.unwrap_or(0),
            values,
            ttl_ms: ttl_ms.flatten().or(default_ttl_ms),
        },
        conditions: (first, conditions.len()),
    })
}

fn is_ttl(ms: &Millis) -> bool {
    (TTL_MIN_MS..=TTL_MAX_MS).contains(ms)
}

/// The instance, if one is named; `None` for a text that names none.
fn slot(text: &str) -> Option<Option<u32>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}

/// A time or a span in milliseconds; `Some(None)` for one that is negative, or none.
fn span(bytes: &[u8]) -> Option<Option<Millis>> {
    let (mut fields, mut once) = (Reader::new(bytes), Once::default());
    let (mut seconds, mut nanos) = (0, 0);
    while let Some(tag) = fields.tag()? {
        once.note(tag)?;
        match tag {
            SECONDS => seconds = fields.varint()?,
            NANOS => nanos = fields.varint()?,
            _ => return None,
        }
    }
    // Both are signed: what is negative is written as a number beyond what either may be.
    let positive = i64::try_from(seconds).is_ok() && nanos < 1_000_000_000;
    let millis = || seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000);
    Some(positive.then(millis).flatten())
}

/// One entry of the map of conditions.
fn entry(bytes: &[u8]) -> Option<(&str, bool)> {
    let (mut fields, mut once) = (Reader::new(bytes), Once::default());
    let (mut name, mut value) = ("", false);
    while let Some(tag) = fields.tag()? {
        once.note(tag)?;
        match tag {
            KEY => name = fields.text()?,
            VALUE => value = fields.varint()? != 0,
            _ => return None,
        }
    }
    Some((name, value))
}

#[cfg(test)]
mod tests;

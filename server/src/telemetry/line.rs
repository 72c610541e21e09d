//! One line per event: for people, or one JSON object with the agent, its state and its last decision.

use std::fmt;

use serde::ser::{SerializeMap as _, Serializer as _};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;
use super::speaker::{self, Introduction};
use super::trace::TraceId;

/// A field that holds JSON of our own; it becomes part of the line instead of text in it.
const EMBEDDED: &str = "decision_data";
/// Fields that are for machines: the message says the same in words.
const FOR_MACHINES: [&str; 3] = ["event", "decision_type", EMBEDDED];
/// Digits of a trace id that people are shown.
const SHORT: usize = 8;

/// Writes lines in one of the two forms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    format: LogFormat,
    who: fn() -> Introduction,
}

impl Lines {
    /// Lines of the agent of this process.
    pub(super) const fn new(format: LogFormat) -> Self {
        Self::of(format, speaker::who)
    }

    /// Lines of `who`.
    pub(super) const fn of(format: LogFormat, who: fn() -> Introduction) -> Self {
        Self { format, who }
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, value.into());
    }
}

impl Said {
    fn take(&mut self, field: &Field, value: Value) {
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        match field.name() {
            "message" => self.message = text(value),
            EMBEDDED => {
                let text = text(value);
                let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
                self.fields.push((EMBEDDED, value));
            }
            name => self.fields.push((name, value)),
        }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let scope = context.event_scope();
        let mut spans = scope.into_iter().flatten();
        let trace = spans.find_map(|span| span.extensions().get::<TraceId>().cloned());
        let speaker = (self.who)();
        match self.format {
            LogFormat::Text => text(&mut writer, event, &said, (&speaker, trace.as_ref())),
            LogFormat::Json => {
                let line =
                    json(event, &said, (&speaker, trace.as_ref())).map_err(|_error| fmt::Error)?;
                writeln!(writer, "{line}")
            }
        }
    }
}

fn text(
    writer: &mut Writer<'_>,
    event: &Event<'_>,
    said: &Said,
    (speaker, trace): (&Introduction, Option<&TraceId>),
) -> fmt::Result {
    SystemTime.format_time(writer)?;
    write!(writer, " {:>5} ", event.metadata().level())?;
    if let Some(id) = &speaker.id {
        write!(writer, "{id} {} ", speaker.state)?;
    }
    write!(writer, "{}", said.message)?;
    for (name, value) in said.fields.iter().filter(|(name, _)| !FOR_MACHINES.contains(name)) {
        match value {
            Value::String(text) => write!(writer, " {name}={text}")?,
            other => write!(writer, " {name}={other}")?,
        }
    }
    if let Some(trace) = trace {
        write!(writer, " trace={}", trace.as_str().get(..SHORT).unwrap_or_default())?;
    }
    writeln!(writer)
}

fn json(
    event: &Event<'_>,
    said: &Said,
    (speaker, trace): (&Introduction, Option<&TraceId>),
) -> Result<String, serde_json::Error> {
    let mut timestamp = String::new();
    // Writing to a String cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let mut out = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::new(&mut out);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", &timestamp)?;
    map.serialize_entry("level", event.metadata().level().as_str())?;
    if let Some(id) = &speaker.id {
        map.serialize_entry("agent_id", id)?;
        map.serialize_entry("agent_state", speaker.state)?;
        map.serialize_entry("last_decision", &speaker.last)?;
    }
    for (name, value) in said.fields.iter().filter(|(name, _)| !OWN.contains(name)) {
        map.serialize_entry(name, value)?;
    }
    map.serialize_entry("message", &said.message)?;
    if let Some(trace) = trace {
        map.serialize_entry("trace_id", trace.as_str())?;
    }
    map.serialize_entry("target", event.metadata().target())?;
    map.end()?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Keys that every line has: an event cannot write them again.
const OWN: [&str; 6] =
    ["timestamp", "level", "agent_id", "agent_state", "last_decision", "trace_id"];

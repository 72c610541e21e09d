//! One trace per turn of the loop: its id is in every line that is logged within, and in what is sent to a collector.

use std::fmt;

use tracing::field::{Empty, Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Span, Subscriber, info_span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Name of the field that carries the id.
const FIELD: &str = "trace_id";

/// Names everything that one turn of the loop did: 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceId(String);

impl TraceId {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A new trace.
#[derive(Debug)]
pub(crate) struct Turn {
    /// The span of the whole turn.
    pub(crate) span: Span,
    /// Its id; `None` where nobody listens.
    pub(crate) id: Option<TraceId>,
}

/// Begins the trace of a turn.
pub(crate) fn turn() -> Turn {
    let span = info_span!("turn", trace_id = Empty);
    let id = (!span.is_disabled()).then(|| exported(&span).unwrap_or_else(TraceId::random));
    if let Some(id) = &id {
        span.record(FIELD, id.as_str());
    }
    Turn { span, id }
}

/// The id under which a collector knows the trace of `span`, if it is sent to one.
#[cfg(feature = "otel")]
fn exported(span: &Span) -> Option<TraceId> {
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    let context = span.context();
    let known = context.span().span_context().clone();
    known.is_valid().then(|| TraceId(known.trace_id().to_string()))
}

#[cfg(not(feature = "otel"))]
const fn exported(_span: &Span) -> Option<TraceId> {
    None
}

/// Keeps the id with the span, for the lines logged within.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traces;

struct Find(Option<TraceId>);

impl Visit for Find {
    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == FIELD {
            self.0 = Some(TraceId(value.to_owned()));
        }
    }
}

impl<S> Layer<S> for Traces
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, _attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // A span within a turn belongs to its trace, even when it outlives the turn.
        let Some(span) = context.span(id) else { return };
        let of_parent = span.parent().and_then(|p| p.extensions().get::<TraceId>().cloned());
        if let Some(trace) = of_parent {
            span.extensions_mut().replace(trace);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut find = Find(None);
        values.record(&mut find);
        if let (Some(trace), Some(span)) = (find.0, context.span(id)) {
            span.extensions_mut().replace(trace);
        }
    }
}

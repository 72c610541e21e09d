//! Log lines: to standard error, as text or JSON, and never able to steer a terminal. And traces, one per turn of the loop.

use std::io::{self, Write};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::Config;

mod line;
#[cfg(feature = "otel")]
mod otlp;
pub(crate) mod speaker;
pub(crate) mod trace;

pub use trace::TraceId;

/// Whether this build can send traces to a collector.
pub const EXPORTS: bool = cfg!(feature = "otel");

/// What is logged unless told otherwise.
pub const DEFAULT_FILTER: &str = "info";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

impl LogFormat {
    /// The format called `name`, if it is one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error("invalid log filter `{0}`")]
    Filter(String),
    /// The collector cannot be used.
    #[error("cannot send traces: {0}")]
    Collector(String),
    /// Something in this process logs already.
    #[error("logging is set up already")]
    AlreadySet,
}

/// True if `text` is a filter [`init`] accepts.
#[must_use]
pub fn is_filter(text: &str) -> bool {
    EnvFilter::builder().parse(text).is_ok()
}

/// How this process logs and traces.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// How lines look.
    pub format: LogFormat,
    /// What is logged.
    pub filter: &'a str,
    /// Collector that traces are sent to.
    pub otlp: Option<&'a str>,
    /// Environment the traces are of.
    pub env: &'a str,
}

impl<'a> Settings<'a> {
    /// As configured.
    #[must_use]
    pub fn of(config: &'a Config) -> Self {
        Self {
            format: config.log_format,
            filter: &config.log_filter,
            otlp: config.otlp.as_deref(),
            env: config.env.as_str(),
        }
    }
}

/// What has to be sent before the process ends.
#[must_use = "traces that were not sent yet are lost"]
#[derive(Debug, Default)]
pub struct Export {
    #[cfg(feature = "otel")]
    collector: Option<otlp::Export>,
}

impl Export {
    /// Sends the last traces, if any go anywhere. Blocks for at most two seconds.
    pub fn shut_down(self) {
        #[cfg(feature = "otel")]
        if let Some(collector) = self.collector {
            collector.shut_down();
        }
    }
}

/// Spans are of this program alone: what libraries do within a turn is no step of the loop.
fn spans() -> Targets {
    Targets::new().with_target("agentd", LevelFilter::INFO)
}

/// Sends log lines of the whole process to standard error from now on, and traces to a collector if there is one. Must be called on
/// a runtime.
///
/// # Errors
/// [`Error`] for an invalid filter or collector, or if it was called before.
pub fn init(settings: Settings<'_>) -> Result<Export, Error> {
    let Settings { format, filter, .. } = settings;
    let level =
        EnvFilter::builder().parse(filter).map_err(|_e| Error::Filter(filter.to_owned()))?;
    let lines = tracing_subscriber::fmt::layer()
        .event_format(line::Lines::new(format))
        .with_writer(SafeStderr(format))
        .with_filter(level);
    let traces = trace::Traces.with_filter(spans());
    let subscriber = tracing_subscriber::registry().with(traces).with(lines);
    #[cfg(feature = "otel")]
    if let Some(endpoint) = settings.otlp {
        let (collector, tracer) = otlp::start(endpoint, settings.env).map_err(Error::Collector)?;
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(spans());
        let set = subscriber.with(layer).try_init();
        return set
            .map(|()| Export { collector: Some(collector) })
            .map_err(|_taken| Error::AlreadySet);
    }
    subscriber.try_init().map(|()| Export::default()).map_err(|_taken| Error::AlreadySet)
}

/// Standard error behind the sanitizer.
#[derive(Debug, Clone, Copy)]
struct SafeStderr(LogFormat);

impl<'a> MakeWriter<'a> for SafeStderr {
    type Writer = SafeWriter<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        SafeWriter { format: self.0, inner: io::stderr() }
    }
}

/// Escapes what could steer a terminal. The formatter hands over one whole event per write; a line end inside an event is
/// escaped too, so that nobody can forge a line of their own.
struct SafeWriter<W> {
    format: LogFormat,
    inner: W,
}

impl<W: Write> Write for SafeWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let (event, end) = text.strip_suffix('\n').map_or((&*text, ""), |event| (event, "\n"));
        let safe = match self.format {
            LogFormat::Text => agentctl_api::text::line(event),
            LogFormat::Json => agentctl_api::text::json(event),
        };
        self.inner.write_all(format!("{safe}{end}").as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;

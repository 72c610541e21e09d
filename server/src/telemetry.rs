//! Log lines: to standard error, as text or JSON, and never able to steer a terminal.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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
    /// Something in this process logs already.
    #[error("logging is set up already")]
    AlreadySet,
}

/// True if `text` is a filter [`init`] accepts.
#[must_use]
pub fn is_filter(text: &str) -> bool {
    EnvFilter::builder().parse(text).is_ok()
}

/// Sends log lines of the whole process to standard error from now on.
///
/// # Errors
/// [`Error`] for an invalid filter, or if it was called before.
pub fn init(format: LogFormat, filter: &str) -> Result<(), Error> {
    let level =
        EnvFilter::builder().parse(filter).map_err(|_e| Error::Filter(filter.to_owned()))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(SafeStderr(format))
        .with_ansi(false);
    let set = match format {
        LogFormat::Text => subscriber.with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    set.map_err(|_taken| Error::AlreadySet)
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
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(LogFormat, Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Captured {
        type Writer = SafeWriter<Self>;
        fn make_writer(&'a self) -> Self::Writer {
            SafeWriter { format: self.0, inner: self.clone() }
        }
    }

    const HOSTILE: &str = "evil\u{1b}[2J\u{9b}\u{202e}\r\n2026-01-01 ERROR forged";

    #[test]
    fn text_from_outside_can_neither_steer_a_terminal_nor_forge_a_line() {
        let captured = Captured::default();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(captured.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(name = HOSTILE, "{HOSTILE}");
        });
        let out =
            String::from_utf8(captured.1.lock().expect("not poisoned").clone()).expect("utf-8");
        assert_eq!(out.matches('\n').count(), 1, "{out}");
        assert!(out.trim_end().chars().all(|c| !c.is_control() && c != '\u{202e}'), "{out:?}");
        assert!(out.contains("forged"), "nothing is hidden");
    }

    #[test]
    fn json_stays_json() {
        let captured = Captured(LogFormat::Json, Arc::default());
        let subscriber = tracing_subscriber::fmt().json().with_writer(captured.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(app = "a\u{1b}\u{202e}\n", "plain");
        });
        let out = captured.1.lock().expect("not poisoned").clone();
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(value["fields"]["app"], "a\u{1b}\u{202e}\n");
        assert!(!String::from_utf8_lossy(&out).contains('\u{202e}'));
    }

    #[test]
    fn filters_are_checked_before_they_are_used() {
        assert!(is_filter("info") && is_filter("agentd=debug,info") && is_filter("off"));
        assert!(!is_filter("agentd=loud") && !is_filter("=,="));
    }
}

//! What following a stream has in common: where to start, and what is said when the connection goes and comes back.

use std::time::Duration;

use agentctl_api::client::{Resumable, Watch, WatchEvent};

use crate::connect::Session;
use crate::failure::Failure;
use crate::output::Output;
use crate::time;

/// Whether the stream is up, so that each change is told once.
#[derive(Debug, Default)]
pub(super) struct Link {
    down: bool,
    /// The newest record that was seen, or batch that was sent; 0: what is followed has no numbers.
    pub(super) seq: u64,
}

impl Link {
    /// The stream is gone and comes back by itself.
    pub(super) fn lost(&mut self, output: &mut Output, why: &Failure, wait: Duration) {
        if !std::mem::replace(&mut self.down, true) {
            let seq = self.seq;
            let behind = if seq == 0 { String::new() } else { format!(" behind #{seq}") };
            output.say(format!("! connection lost{behind}, waiting for the server"));
        }
        output.detail(format!("{why}; next try in {}", time::coarse(wait)));
    }

    /// The stream works.
    pub(super) fn restored(&mut self, output: &mut Output) {
        if std::mem::take(&mut self.down) {
            let gapless = if self.seq == 0 { "" } else { ", nothing was missed" };
            output.say(format!("✔ connected again{gapless}"));
        }
    }

    /// The next item of `watch`, however long it takes and however often the server is away in between.
    pub(super) async fn next<S: Resumable>(
        &mut self,
        watch: &mut Watch<S>,
        session: &Session,
        output: &mut Output,
    ) -> Result<S::Item, Failure> {
        loop {
            match watch.next().await.map_err(|status| session.failure(status))? {
                WatchEvent::Item(item) => {
                    self.restored(output);
                    return Ok(item);
                }
                WatchEvent::Resumed => self.restored(output),
                WatchEvent::Interrupted { status, wait } => {
                    self.lost(output, &session.failure(status), wait);
                }
            }
        }
    }
}

/// Where to start, as it is written on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Since {
    /// So long ago.
    Ago(Duration),
    /// Behind this sequence number.
    Seq(u64),
    /// At this time.
    Time(chrono::DateTime<chrono::Utc>),
    /// Behind this cursor.
    Cursor(String),
}

/// Longest cursor that is sent.
const CURSOR_MAX: usize = 512;

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(seq) = text.parse() {
            return Ok(Self::Seq(seq));
        }
        if let Ok(span) = text.parse::<time::Span>() {
            return Ok(Self::Ago(span.0));
        }
        if let Ok(at) = chrono::DateTime::parse_from_rfc3339(text) {
            return Ok(Self::Time(at.to_utc()));
        }
        let plain = |c: char| c.is_ascii_graphic();
        if text.is_empty() || text.len() > CURSOR_MAX || !text.chars().all(plain) {
            return Err("not a start: write a duration such as 10m, a sequence number, an RFC 3339 time or a cursor".to_owned());
        }
        Ok(Self::Cursor(text.to_owned()))
    }
}

impl Since {
    /// The time it stands for, if it stands for one.
    pub(super) fn start_time(&self) -> Option<prost_types::Timestamp> {
        match self {
            Self::Ago(span) => {
                let delta = chrono::TimeDelta::from_std(*span).ok()?;
                time::now().checked_sub_signed(delta).map(time::to_proto)
            }
            Self::Time(at) => Some(time::to_proto(*at)),
            Self::Seq(_) | Self::Cursor(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_recognised_by_its_form() {
        let parse = |text: &str| text.parse::<Since>().unwrap();
        assert_eq!(parse("10m"), Since::Ago(Duration::from_secs(600)));
        assert_eq!(parse("1077"), Since::Seq(1077));
        assert!(matches!(parse("2026-11-23T14:02:11Z"), Since::Time(_)));
        assert_eq!(parse("c1.9f3a.1077"), Since::Cursor("c1.9f3a.1077".to_owned()));
        for bad in ["", "two words", "a\u{1b}b", "é"] {
            assert!(bad.parse::<Since>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lost_connection_is_told_once_and_so_is_its_return() {
        let (mut output, _, err) = crate::output::tests::taped(crate::output::Format::Table);
        let mut link = Link { seq: 7, ..Link::default() };
        let why = Failure::new(crate::exit::Exit::Unreachable, "gone");
        link.restored(&mut output);
        link.lost(&mut output, &why, Duration::from_secs(1));
        link.lost(&mut output, &why, Duration::from_secs(2));
        link.restored(&mut output);
        link.restored(&mut output);
        assert_eq!(
            err.text(),
            "! connection lost behind #7, waiting for the server\n✔ connected again, nothing was missed\n"
        );
    }
}

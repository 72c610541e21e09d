//! What the index keeps of an entry.

use crate::blobs::Blobs;

/// What an entry is about, read from its line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Event name; empty for a line that cannot be read as a record: it is shown in every list, where it fails with its number.
    pub event: String,
    /// App.
    pub app: Option<String>,
    /// Reason code.
    pub reason: Option<&'static str>,
    /// Sequence number of the decision it belongs to.
    pub decision: Option<u64>,
}

impl Facts {
    /// Reads them.
    #[must_use]
    pub fn of(blobs: &Blobs, line: &[u8]) -> Self {
        match blobs.record(line) {
            Ok(record) => Self {
                event: record.body.event_name().to_owned(),
                app: record.app.as_ref().map(ToString::to_string),
                reason: record.reason(),
                decision: record.decision_seq(),
            },
            Err(_) => Self::default(),
        }
    }
}

//! How much of the log is kept, and what else has the rest of it.

use serde::{Deserialize, Serialize};

use crate::record::{Body, Record};

/// What the log says about its own keeping.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Records up to this one are no longer kept; 0: all are there.
    pub pruned: u64,
    /// The newest snapshot of the state has the records up to this one in it.
    pub snapshot: u64,
    /// The largest export has the records up to this one.
    pub exported: u64,
    /// The record that says so.
    pub exported_seq: u64,
}

impl Kept {
    /// The oldest record that is kept.
    #[must_use]
    pub const fn oldest(&self) -> u64 {
        self.pruned.saturating_add(1)
    }

    /// Folds a record in.
    pub(super) fn fold(&mut self, record: &Record) {
        match &record.body {
            Body::Snapshotted(snapshot) => self.snapshot = self.snapshot.max(snapshot.upto),
            Body::Exported(export) if export.size > self.exported => {
                self.exported = export.size;
                self.exported_seq = record.seq;
            }
            Body::Pruned(pruned) => self.pruned = self.pruned.max(pruned.upto),
            _ => {}
        }
    }
}

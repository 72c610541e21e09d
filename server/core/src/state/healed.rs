//! What is remembered of something that helped, for as long as it may turn out that it did not.

use serde::{Deserialize, Serialize};

use super::AppState;
use crate::app::Millis;
use crate::choose::Lesson;
use crate::choose::ccq::Trial;
use crate::detect::FindingKind;

/// A lesson from something that helped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healed {
    /// When it was learned.
    pub at: Millis,
    /// Sequence number of the record that says so.
    pub seq: u64,
    /// The lesson.
    pub lesson: Lesson,
    /// What it said about the fault catalogue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

impl Healed {
    /// Whether a finding says that it did not last: the incident is back within `within`, and nothing was done since then that
    /// could have brought it about.
    #[must_use]
    pub fn is_undone(&self, kind: FindingKind, app: &AppState, at: Millis, within: Millis) -> bool {
        let down = |kind| matches!(kind, FindingKind::Crash | FindingKind::CrashLoop);
        let same = kind == self.lesson.finding || (down(kind) && down(self.lesson.finding));
        let untouched = app.attempt.is_none() && app.last_effect.values().all(|e| e.at <= self.at);
        same && untouched && at.saturating_sub(self.at) <= within
    }
}

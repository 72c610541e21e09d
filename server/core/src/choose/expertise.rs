//! What both learners know, as one thing: what is exported, imported, compared and promoted.

use serde::{Deserialize, Serialize};

use super::ccq::{Change, Knowledge, MergeError, OWN, Trial};
use super::table::{Lesson, Taught, Value, ValueTable};

/// What both learners know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expertise {
    /// Values by finding and action.
    pub table: ValueTable,
    /// Corrections of the fault catalogue.
    pub knowledge: Knowledge,
}

impl Expertise {
    /// SHA-256 of the canonical JSON form, in hex: what it is called by.
    #[must_use]
    pub fn digest(&self) -> String {
        crate::digest::sha256_hex(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Whether nothing was learned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Both learners learn, whichever is asked: the policy may name the other one tomorrow. Whoever freezes learning does not call this.
    pub fn learn(&mut self, lesson: &Lesson, trial: Option<&Trial>) -> Lessons {
        learn(&mut self.table, &mut self.knowledge, lesson, trial)
    }

    /// Takes in what others know: their knowledge beside the own, and values only where there are none yet, because those of two
    /// agents cannot be added up. The same a second time changes nothing.
    ///
    /// # Errors
    /// [`MergeError`] when together they are too many agents; nothing is changed then.
    pub fn take_in(&mut self, other: &Self) -> Result<(), MergeError> {
        self.knowledge.merge(&other.knowledge)?;
        self.table.fill(&other.table);
        Ok(())
    }
}

/// What a lesson changed: the value before and after it, and what it says about the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lessons {
    /// Before.
    pub before: Value,
    /// After.
    pub after: Value,
    /// What it says about the catalogue, if it says anything.
    pub change: Option<Change>,
}

/// Folds a lesson, and the trial that came with it, into what both learners know.
pub(crate) fn learn(
    table: &mut ValueTable,
    knowledge: &mut Knowledge,
    lesson: &Lesson,
    trial: Option<&Trial>,
) -> Lessons {
    let (before, after) = table.learn(lesson);
    let change = trial.map(|trial| match lesson.taught {
        Taught::Relapsed => knowledge.relapse(OWN, trial),
        Taught::Rejected => knowledge.reject(OWN, trial),
        Taught::Outcome(_) => knowledge.learn(OWN, trial),
    });
    Lessons { before, after, change }
}

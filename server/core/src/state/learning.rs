//! What is learned beside what the agent decides by. In prod nothing that was learned is acted on before a human promoted it: outcomes
//! teach a candidate, a copy that grows, and a promotion puts that in force as it was when it was asked for.

use serde::{Deserialize, Serialize};

use super::{ApprovalState, State};
use crate::app::{Env, Millis};
use crate::choose::{Expertise, Lesson, Lessons, ccq::Trial, learn};
use crate::record::{Asked, Backtested, Forgotten, Imported, LearningChange, Promoted, Record};

/// Most digests that are remembered of what something was made from.
const PARENTS: usize = 16;

/// What is learned beside the table and the knowledge in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learning {
    /// What was learned and not promoted yet; absent: nothing more than what is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Box<Candidate>>,
    /// The newest promotion that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<Box<Promotion>>,
    /// Digests of what is in force was made from, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
}

impl Learning {
    /// Whether there is nothing of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Where an approval of it is; `None` when `approval` is of something else.
    #[must_use]
    pub fn promotion(&self, approval: u64) -> Option<&Promotion> {
        self.promotion.as_deref().filter(|promotion| promotion.seq == approval)
    }

    pub(super) fn settle(&mut self, approval: u64, to: ApprovalState) -> Option<&mut Promotion> {
        let promotion = self.promotion.as_deref_mut().filter(|p| p.seq == approval)?;
        promotion.state = to;
        if matches!(
            to,
            ApprovalState::Rejected | ApprovalState::Expired | ApprovalState::Superseded
        ) {
            promotion.candidate = None;
        }
        Some(promotion)
    }
}

/// What was learned and not promoted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// All of it: what it grew from is in it.
    pub expertise: Expertise,
    /// Digests of what it was made from, oldest first.
    pub parents: Vec<String>,
}

/// A request to put the candidate in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Sequence number of the request: also the number of the approval.
    pub seq: u64,
    /// What speaks for it.
    pub backtest: Backtested,
    /// What an approver must repeat.
    pub plan_digest: String,
    /// Who asked.
    pub requester: String,
    /// Why.
    pub reason: String,
    /// When.
    pub requested_at: Millis,
    /// Expires then.
    pub expires_at: Millis,
    /// Where it is.
    pub state: ApprovalState,
    /// Who answered.
    pub decided_by: Option<String>,
    /// What they said.
    pub comment: Option<String>,
    /// The candidate as it was then: what is learned meanwhile waits for the next one. Absent when the request has ended.
    pub candidate: Option<Candidate>,
}

impl State {
    /// What the agent decides by.
    #[must_use]
    pub fn acting(&self) -> Expertise {
        Expertise { table: self.table.clone(), knowledge: self.knowledge.clone() }
    }

    /// Whether what is learned here has to be promoted before it counts.
    #[must_use]
    pub fn promotes(&self) -> bool {
        self.env == Env::Prod
    }

    /// What outcomes teach: the candidate where there is one, else what the agent decides by.
    #[must_use]
    pub fn taught(&self) -> Expertise {
        match &self.learning.candidate {
            Some(candidate) if self.promotes() => candidate.expertise.clone(),
            _ => self.acting(),
        }
    }

    /// The candidate; from here on there is one, that knows what is in force.
    fn candidate(&mut self) -> &mut Candidate {
        let (table, knowledge) = (&self.table, &self.knowledge);
        self.learning.candidate.get_or_insert_with(|| {
            let expertise = Expertise { table: table.clone(), knowledge: knowledge.clone() };
            let parents = vec![expertise.digest()];
            Box::new(Candidate { expertise, parents })
        })
    }

    pub(super) fn learn(&mut self, lesson: &Lesson, trial: Option<&Trial>, candidate: bool) {
        let _: Lessons = if candidate {
            self.candidate().expertise.learn(lesson, trial)
        } else {
            learn(&mut self.table, &mut self.knowledge, lesson, trial)
        };
    }

    pub(super) fn change_learning(&mut self, change: &LearningChange, record: &Record) {
        match change {
            LearningChange::Imported(imported) => self.import(imported),
            LearningChange::Forgotten(Forgotten { acting: true, .. }) => self.enforce(None),
            LearningChange::Forgotten(_) => self.learning.candidate = None,
            LearningChange::Asked(asked) => self.ask(asked, record),
            LearningChange::Refused(_) => {}
            LearningChange::Promoted(promoted) => self.promote(promoted),
        }
    }

    fn import(&mut self, imported: &Imported) {
        let Imported { candidate, expertise, snapshot, .. } = imported;
        if *candidate {
            let candidate = self.candidate();
            // It was tried before it was recorded.
            let _ = candidate.expertise.take_in(expertise);
            descend(&mut candidate.parents, snapshot);
        } else {
            let mut acting = self.acting();
            let _ = acting.take_in(expertise);
            (self.table, self.knowledge) = (acting.table, acting.knowledge);
            descend(&mut self.learning.parents, snapshot);
        }
    }

    fn ask(&mut self, asked: &Asked, record: &Record) {
        self.learning.promotion = Some(Box::new(Promotion {
            seq: record.seq,
            backtest: asked.backtest.clone(),
            plan_digest: asked.plan_digest.clone(),
            requester: record.actor.clone(),
            reason: asked.reason.clone(),
            requested_at: record.at,
            expires_at: asked.expires_at,
            state: ApprovalState::Pending,
            decided_by: None,
            comment: None,
            candidate: self.learning.candidate.as_deref().cloned(),
        }));
    }

    fn promote(&mut self, promoted: &Promoted) {
        let Some(promotion) = self.learning.settle(promoted.approval, ApprovalState::Verified)
        else {
            return;
        };
        let Some(candidate) = promotion.candidate.take() else { return };
        if self
            .learning
            .candidate
            .as_deref()
            .is_some_and(|now| now.expertise == candidate.expertise)
        {
            self.learning.candidate = None;
        }
        self.enforce(Some(candidate));
    }

    /// The agent decides by it from here on; by the catalogue alone when it is nothing.
    fn enforce(&mut self, candidate: Option<Candidate>) {
        let (expertise, parents) =
            candidate.map(|candidate| (candidate.expertise, candidate.parents)).unwrap_or_default();
        (self.table, self.knowledge) = (expertise.table, expertise.knowledge);
        self.learning.parents = parents;
    }
}

fn descend(parents: &mut Vec<String>, from: &str) {
    parents.retain(|parent| parent != from);
    if parents.len() >= PARENTS {
        parents.remove(0);
    }
    parents.push(from.to_owned());
}

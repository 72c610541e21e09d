//! What humans did with what the agent has learned.

use serde::{Deserialize, Serialize};

use super::Request;
use crate::app::{Env, Millis};
use crate::backtest::{Interval, Verdict};
use crate::choose::Expertise;

/// A human changed what the agent has learned, or wanted to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearningChange {
    /// What others learned was taken in.
    Imported(Imported),
    /// Something learned was forgotten.
    Forgotten(Forgotten),
    /// Somebody wants the agent to decide by the candidate: a human is asked.
    Asked(Asked),
    /// The same, and the log does not say that the candidate is better.
    Refused(Backtested),
    /// From here on the agent decides by what was the candidate when it was asked for.
    Promoted(Promoted),
}

/// What others learned, or this agent in the past, was taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Digest of the snapshot.
    pub snapshot: String,
    /// Where it was learned.
    pub from: Env,
    /// It is of another environment, and counts for little.
    pub weak_prior: bool,
    /// It is for the candidate: what the agent decides by is not touched.
    pub candidate: bool,
    /// What was taken in.
    pub expertise: Expertise,
    /// Why.
    pub reason: String,
    /// Idempotency of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

/// Something learned was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// What the agent decides by; else the candidate.
    pub acting: bool,
    /// Digest of what was forgotten.
    pub digest: String,
    /// Why.
    pub reason: String,
    /// Idempotency of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

/// Somebody wants the agent to decide by the candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// What speaks for it.
    pub backtest: Backtested,
    /// What an approver must repeat.
    pub plan_digest: String,
    /// Why.
    pub reason: String,
    /// Until when it can be approved.
    pub expires_at: Millis,
    /// Idempotency of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

/// The agent decides by what was the candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// Sequence number of the request that was approved.
    pub approval: u64,
    /// Digest of what it decides by now.
    pub digest: String,
    /// Digest of what it decided by before.
    pub previous: String,
}

/// What the log says about the candidate against what the agent decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backtested {
    /// Digest of what the agent decides by.
    pub acting: String,
    /// Digest of the candidate.
    pub candidate: String,
    /// The last record that was read.
    pub upto: u64,
    /// Decisions that come out differently from how they are recorded: a log with any proves nothing.
    pub differing: u64,
    /// Situations that were compared.
    pub situations: u64,
    /// Outcomes that are known of them.
    pub outcomes: u64,
    /// What the candidate costs more, situation by situation.
    pub difference: Interval,
    /// The candidate against what the agent decides by.
    pub verdict: Verdict,
    /// Why it is not decided, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Backtested {
    /// Whether it speaks for the candidate.
    #[must_use]
    pub const fn is_passed(&self) -> bool {
        self.differing == 0 && matches!(self.verdict, Verdict::Better)
    }

    /// Why it does not, in words.
    #[must_use]
    pub fn because(&self) -> String {
        if self.differing > 0 {
            return format!("{} recorded decisions come out differently", self.differing);
        }
        self.why.clone().unwrap_or_else(|| "the candidate costs more".to_owned())
    }

    /// SHA-256 of its canonical JSON form and of the policy in force, in hex: an approval is bound to both.
    #[must_use]
    pub fn plan_digest(&self, policy_digest: &str) -> String {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(0);
        bytes.extend_from_slice(policy_digest.as_bytes());
        crate::digest::sha256_hex(&bytes)
    }
}

impl LearningChange {
    /// The event name in the export.
    #[must_use]
    pub const fn event_name(&self) -> &'static str {
        match self {
            Self::Imported(_) => "LEARNING_IMPORTED",
            Self::Forgotten(_) => "LEARNING_RESET",
            Self::Asked(_) => "PROMOTION_REQUESTED",
            Self::Refused(_) => "PROMOTION_REFUSED",
            Self::Promoted(_) => "LEARNING_PROMOTED",
        }
    }

    /// Idempotency of the request it answers.
    #[must_use]
    pub const fn request(&self) -> Option<&Request> {
        match self {
            Self::Imported(imported) => imported.request.as_ref(),
            Self::Forgotten(forgotten) => forgotten.request.as_ref(),
            Self::Asked(asked) => asked.request.as_ref(),
            Self::Refused(_) | Self::Promoted(_) => None,
        }
    }
}

//! What the caller of a request is told.

use crate::app::{AppSpec, Violation};
use crate::record::Decided;
use crate::verdict::Ruling;

use super::Unmet;

/// What the caller of a request is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Nothing to say.
    None,
    /// The app is onboarded (or would be: `validate_only`).
    Onboarded {
        /// Its specification.
        spec: Box<AppSpec>,
        /// Sequence number of the record that carries it.
        seq: Option<u64>,
        /// Sequence number of the deployment decision.
        decision: Option<u64>,
    },
    /// The app is changed (or would be: `validate_only`).
    Updated {
        /// Its specification.
        spec: Box<AppSpec>,
        /// Sequence number of the record that carries it; `None` for `validate_only`, and when nothing differs.
        seq: Option<u64>,
        /// What the gates said to putting it in force; `None` when nothing differs.
        decided: Option<Box<Decided>>,
    },
    /// The input was refused.
    Invalid(Vec<Violation>),
    /// A decision was made.
    Decided {
        /// Its sequence number; `None` for `validate_only`.
        seq: Option<u64>,
        /// The ruling.
        ruling: Ruling,
        /// The decision itself.
        decided: Box<Decided>,
    },
    /// A switch was set.
    Done {
        /// Sequence number of its record; `None` when nothing changed.
        seq: Option<u64>,
    },
    /// The same request was answered before.
    Repeated {
        /// Sequence number of the answer.
        seq: u64,
    },
    /// The request cannot be done.
    Failed(Failure),
}

/// Why a request cannot be done. Not a refusal by a gate: those are rulings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no such app here.
    #[error("app `{0}` does not exist")]
    NoSuchApp(String),
    /// Somebody changed the app since the caller read it.
    #[error("app `{app}` was changed since it was read")]
    Changed {
        /// Which.
        app: String,
        /// What it is now.
        etag: String,
    },
    /// There is no such approval here.
    #[error("approval `apr-{0}` does not exist")]
    NoSuchApproval(u64),
    /// The approval is not pending any more.
    #[error("approval `apr-{approval}` is {state}")]
    ApprovalClosed {
        /// Which.
        approval: u64,
        /// Where it is.
        state: String,
    },
    /// The approver asked for it themself.
    #[error("`{0}` asked for this action and cannot approve it")]
    SelfApproval(String),
    /// What was approved is not what is pending.
    #[error("the plan is not the one that was shown")]
    PlanChanged {
        /// Digest that is pending.
        pending: String,
    },
    /// The approval came too late.
    #[error("approval `apr-{0}` has expired")]
    ApprovalExpired(u64),
    /// The action does not exist.
    #[error("`{0}` is not an action")]
    UnknownAction(String),
    /// The request id was used with other content.
    #[error("request id `{0}` was used with other content")]
    RequestReused(String),
    /// An app of this name exists.
    #[error("app `{0}` exists already")]
    AppExists(String),
    /// A stated limit is reached.
    #[error("the limit of {limit} {what} is reached")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        limit: usize,
    },
    /// Records cannot go yet, or not at all.
    #[error("the records before {before} cannot be pruned: {}", all(unmet))]
    Unprunable {
        /// Before which one.
        before: u64,
        /// Everything that stands against it.
        unmet: Vec<Unmet>,
    },
    /// Learning is frozen: what was learned stays as it is.
    #[error("learning is frozen")]
    Frozen,
    /// There is nothing to promote.
    #[error("there is no candidate: {0}")]
    NoCandidate(&'static str),
    /// What was judged is not what is there now.
    #[error("the candidate, or what it is compared with, was learned further meanwhile")]
    CandidateChanged {
        /// Digest of the candidate as it is now.
        candidate: String,
    },
    /// The log does not say that the candidate is better.
    #[error("the backtest of the candidate says `{verdict}`: {why}")]
    BacktestNotPassed {
        /// What it says.
        verdict: &'static str,
        /// Why.
        why: String,
    },
    /// The principal is no human with a right to act.
    #[error("`{0}` may not ask for actions")]
    NotHuman(String),
}

fn all(unmet: &[Unmet]) -> String {
    unmet.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

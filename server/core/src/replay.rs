//! Replay: the state from the log, and every decision judged again from its own record.

use std::collections::BTreeMap;

use crate::choose::{self, Choice};
use crate::detect::View;
use crate::gates::{self, Case};
use crate::policy::Policy;
use crate::record::{Body, Decided, Record, Trigger};
use crate::snapshot::Snapshot;
use crate::state::{State, evolve};
use crate::step::seen;

/// Folds records into a state and keeps track of the policy that was in force.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The state so far.
    pub state: State,
    /// The policy in force.
    pub policy: Policy,
    /// Every policy the log carries, by digest.
    policies: BTreeMap<String, Policy>,
}

/// A decision that does not come out as recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Judged again, it says something else.
    #[error("decision `dec-{seq}` comes out differently: {what} differs")]
    Differs {
        /// Which.
        seq: u64,
        /// What differs first.
        what: &'static str,
    },
    /// The log does not carry the policy it was judged under.
    #[error("decision `dec-{seq}` names policy `{digest}`, which the log does not carry")]
    UnknownPolicy {
        /// Which.
        seq: u64,
        /// The digest it names.
        digest: String,
    },
}

impl Replay {
    /// Before the first record.
    #[must_use]
    pub fn new(env: crate::app::Env) -> Self {
        let policy = Policy::default_for(env);
        Self { state: State::new(env), policy, policies: BTreeMap::new() }
    }

    /// Behind the last record of a snapshot. Policies from before it are not known.
    #[must_use]
    pub fn resume(snapshot: Snapshot) -> Self {
        let Snapshot { policy, state, .. } = snapshot;
        let policies = BTreeMap::from([(policy.digest(), policy.clone())]);
        Self { state, policy, policies }
    }

    /// Folds one record in.
    pub fn fold(&mut self, record: &Record) {
        if let Body::PolicyApplied { policy, digest, .. } = &record.body {
            self.policy = (**policy).clone();
            self.policies.insert(digest.clone(), (**policy).clone());
        }
        if let Body::Snapshotted(kept) = &record.body {
            self.policies.insert(kept.policy.digest(), (*kept.policy).clone());
        }
        evolve(&mut self.state, record, &self.policy);
    }

    /// The policy with that digest, if the log carries it so far.
    #[must_use]
    pub fn named(&self, digest: &str) -> Option<&Policy> {
        self.policies.get(digest)
    }

    /// Judges a decision again under the policy it names.
    ///
    /// # Errors
    /// [`Mismatch`] when it comes out differently, or its policy is not in the log.
    pub fn recheck(&self, decided: &Decided) -> Result<(), Mismatch> {
        let digest = &decided.policy_digest;
        let policy = self
            .policies
            .get(digest)
            .ok_or_else(|| Mismatch::UnknownPolicy { seq: decided.seq, digest: digest.clone() })?;
        recheck(decided, policy)
    }
}

/// Judges a decision again from its own evidence: findings, proposal, verdicts and ruling must come out byte for byte.
///
/// # Errors
/// [`Mismatch::Differs`] naming the first part that differs.
pub fn recheck(decided: &Decided, policy: &Policy) -> Result<(), Mismatch> {
    let differs = |what| Mismatch::Differs { seq: decided.seq, what };
    let Decided { app, reading, now, .. } = decided;
    let view = View { app, policy, reading, now: *now };
    let findings = seen(&view, decided.trigger);
    same(&findings, &decided.findings).ok_or_else(|| differs("findings"))?;
    if decided.trigger == Trigger::Reading {
        let proposal = choose::choose(&Choice {
            app,
            policy,
            findings: &findings,
            reading,
            row: &decided.row,
            beliefs: &decided.beliefs,
            frozen: decided.around.frozen,
            leeway: decided.leeway.as_ref(),
            now: *now,
            seq: decided.seq,
        });
        same(&proposal, &decided.proposal).ok_or_else(|| differs("proposal"))?;
    }
    let case = Case {
        app,
        around: &decided.around,
        policy,
        policy_digest: &decided.policy_digest,
        proposal: &decided.proposal,
        findings: &findings,
        reading,
        now: *now,
    };
    let enforced = gates::enforce(&case, decided.seq);
    same(&enforced.verdicts, &decided.verdicts).ok_or_else(|| differs("verdicts"))?;
    same(&enforced.ruling, &decided.ruling).ok_or_else(|| differs("ruling"))
}

/// Byte equality of the serialized forms.
fn same<T: serde::Serialize>(a: &T, b: &T) -> Option<()> {
    let bytes = |value: &T| serde_json::to_vec(value).ok();
    (bytes(a)? == bytes(b)?).then_some(())
}

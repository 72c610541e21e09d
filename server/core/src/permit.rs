//! The permit: proof, in the type system, that every gate passed.
//!
//! Its fields are private, it is neither `Clone` nor serializable, and only [`crate::gates::enforce`] can make one. An actuator
//! takes it by value, so an effect without a ruling, or two effects from one ruling, do not compile:
//!
//! ```compile_fail
//! let forged = agentd_core::permit::Permit { plan: todo!(), decision: 1 };
//! ```

use crate::plan::Plan;

/// The right to execute one plan once.
#[derive(Debug)]
#[must_use = "a permit that is dropped is an action that was decided and never taken"]
pub struct Permit {
    plan: Plan,
    decision: u64,
}

impl Permit {
    /// Only the gate chain calls this.
    pub(crate) const fn new(plan: Plan, decision: u64) -> Self {
        Self { plan, decision }
    }

    /// What may be done.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Sequence number of the decision that permits it; also the id an actuator is idempotent on.
    #[must_use]
    pub const fn decision(&self) -> u64 {
        self.decision
    }
}

//! The rules of the agent: which action answers which signature, in which order. Each is given up after two failures, as in
//! `agentd-core`; behind the last one nothing is done, until a human takes over.

use agentd_core::choose::ccq::Signature;

use crate::exact::{Move, Situation};

/// Failures after which the next remedy gets its turn.
const TRIED: u8 = 2;

const UP: usize = 1;
const RESTART: usize = 2;
const ROLLBACK: usize = 5;

/// The remedies of a signature, best first.
#[must_use]
pub const fn remedies(signature: Signature) -> &'static [usize] {
    match signature {
        Signature::DownDeploy | Signature::DownRepeat => &[ROLLBACK, RESTART],
        Signature::Down | Signature::DepErrors => &[RESTART],
        Signature::MemRising => &[RESTART, UP],
        Signature::CpuLoad => &[UP],
        Signature::Unspecific => &[UP, RESTART],
        Signature::Flap | Signature::Conflict | Signature::Stale => &[],
    }
}

/// What the rules would do.
#[must_use]
pub fn act(at: &Situation) -> usize {
    let open = |action: &&usize| {
        let tried = at.tried[**action];
        tried < TRIED && tried < at.limits[**action]
    };
    remedies(at.signature).iter().find(open).copied().unwrap_or(0)
}

/// The rules as a policy.
#[must_use]
pub fn policy(at: &Situation) -> Vec<Move> {
    vec![Move::certain(act(at))]
}

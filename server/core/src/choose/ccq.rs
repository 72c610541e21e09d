//! Catalogue-calibrated Q: what the catalogue expects, corrected by what happened, backed up exactly.
//!
//! `Q(x, a) = c(x, a) + (1 - p(x, a)) min Q(x', a')` over what the gates permit, with `p` and `c` from the catalogue's belief about
//! the fault, an offset in log-odds and a cost ratio per (signature, action). The offset moves the chance with every fault, so that
//! the belief after a failure and the chance before it are of one piece. Integers only.

mod backup;
mod catalogue;
mod confidence;
mod fixed;
mod knowledge;

pub use crate::detect::Signature;
pub use backup::{Backup, Correction, Expected, Limits, Tried};
pub use catalogue::{
    ACTIONS, BUILTIN_HORIZON, COUNT, Catalogue, EFFORTS, Effect, Effort, Fault, Flaw, Mistake,
    position,
};
pub use confidence::Expectation;
pub use confidence::{Draws, Judged, Judgement, judge, rank};
pub use fixed::Fixed;
pub use knowledge::{
    Beliefs, Cell, Change, Knowledge, Learned, MergeError, ORIGINS, OWN, Row, Trial,
};

#[cfg(test)]
mod tests;

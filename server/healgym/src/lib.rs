//! HealGym: a fault environment whose optimum is known exactly.
//!
//! A fault is hidden; what the incident looks like is drawn once; after that only failures tell more. So every policy can be
//! evaluated exactly, and so can its regret. Measured here is the very code of the agent: the learners of `agentd-core`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![expect(clippy::indexing_slicing, reason = "a simulation over arrays of fixed length")]

pub mod agent;
pub mod backtest;
pub mod bench;
pub mod exact;
pub mod life;
pub mod nab;
pub mod parallel;
pub mod random;
pub mod rules;
pub mod world;

#[cfg(test)]
mod tests;

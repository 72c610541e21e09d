//! The pure brain of agentd.
//!
//! ```text
//! Signal --validate--> Sample --window--> Reading --detect--> Finding* --choose--> Proposal
//!     --gates--> Verdict* = Ruling --step--> Record* (durable) --evolve--> State, and only then: Permit -> effect
//! ```
//!
//! No IO, no clock, no randomness, no floating point on the decide path: the same state, policy, input, time and sequence
//! number give the same bytes, today and in a replay years from now.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod action;
pub mod app;
pub mod backtest;
pub mod chain;
pub mod choose;
pub mod counterfactual;
pub mod detect;
pub mod digest;
pub mod explain;
pub mod gates;
pub mod graduation;
pub mod permit;
pub mod plan;
pub mod policy;
pub mod reason;
pub mod record;
pub mod rehearsal;
pub mod replay;
#[cfg(test)]
mod search;
pub mod signal;
pub mod snapshot;
pub mod state;
pub mod step;
pub mod tlog;
pub mod uptime;
pub mod verdict;
pub mod window;

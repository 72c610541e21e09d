//! The life of the agent on its log.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::app::Millis;

/// The start of an agent on this log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Agent id.
    pub agent_id: String,
    /// Version of the program.
    pub version: String,
    /// Demo mode.
    pub demo: bool,
    /// Dry run.
    pub dry_run: bool,
    /// Frozen by configuration.
    pub frozen: bool,
}

/// The end of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Uptime in milliseconds.
    pub uptime_ms: Millis,
    /// Turns of the loop.
    pub loops: u64,
    /// Decisions made.
    pub decisions: u64,
}

/// A sign of life, every five seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// State at this moment.
    pub state: Cow<'static, str>,
    /// Uptime in milliseconds.
    pub uptime_ms: Millis,
    /// Turns of the loop.
    pub loops: u64,
    /// The last decision.
    pub last_decision: Option<u64>,
    /// Entries into each state since the start.
    pub states: BTreeMap<Cow<'static, str>, u64>,
    /// Apps.
    pub apps: u32,
    /// Quiet apps: nothing open, everything ready.
    pub quiet: u32,
}

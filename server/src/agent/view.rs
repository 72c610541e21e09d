//! What others may read of the agent, and what it counts.

use std::borrow::Cow;
use std::collections::BTreeMap;

use agentd_core::app::{AppName, Millis};
use agentd_core::policy::Policy;
use agentd_core::state::State;

use super::{AgentState, Readings};

/// A look at the agent between two turns: everything in it is durable.
#[derive(Debug)]
pub struct AgentView<'a> {
    /// Agent id.
    pub id: &'a str,
    /// Version of the program.
    pub version: &'static str,
    /// Where it was before it answered.
    pub phase: AgentState,
    /// The state.
    pub state: &'a State,
    /// The rules in force.
    pub policy: &'a Policy,
    /// Latest reading per app.
    pub readings: &'a Readings,
    /// What was counted.
    pub counters: &'a Counters,
    /// When it started.
    pub started_at: Millis,
    /// Now.
    pub now: Millis,
    /// Why the log cannot be written, if it cannot.
    pub blocked: Option<String>,
    /// Time between two ticks, in milliseconds.
    pub loop_interval_ms: Millis,
}

/// Counted since the start.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Turns of the loop that had something to do.
    pub loops: u64,
    /// Decisions recorded.
    pub decisions: u64,
    /// Permitted ones.
    pub permitted: u64,
    /// Held ones.
    pub held: u64,
    /// Refused ones.
    pub refused: u64,
    /// Equal decisions that were only counted.
    pub repeated: u64,
    /// The last decision.
    pub last_decision: Option<u64>,
    /// The app of the last decision.
    pub last_app: Option<AppName>,
    /// Permits that were dropped because their intent was not durable.
    pub permits_dropped: u64,
    /// Sightings that came while the log could not be written; the level is looked at again.
    pub sightings_deferred: u64,
    /// Records that were too long for the log.
    pub records_too_long: u64,
    entered: [u64; AgentState::ALL.len()],
}

impl Counters {
    /// Notes that a state was entered.
    pub(super) fn enter(&mut self, phase: AgentState) {
        let position = AgentState::ALL.iter().position(|p| *p == phase);
        if let Some(count) = position.and_then(|i| self.entered.get_mut(i)) {
            *count = count.saturating_add(1);
        }
    }

    /// Entries into each state.
    #[must_use]
    pub fn states(&self) -> BTreeMap<Cow<'static, str>, u64> {
        AgentState::ALL
            .iter()
            .zip(self.entered)
            .map(|(phase, n)| (Cow::Borrowed(phase.as_str()), n))
            .collect()
    }
}

//! Who logs. A process has one log and one agent that it is about: every line says which one, in which state it is, and what it
//! decided last.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use agentd_core::record::{Decided, Record, format_time};
use agentd_core::verdict::Ruling;
use serde::Serialize;

use crate::agent::AgentState;

/// The agent of this process. Where a test runs several servers in one process, the lines are about the last one that spoke.
static SPEAKER: Speaker =
    Speaker { state: AtomicUsize::new(0), said: Mutex::new(Said { id: None, last: None }) };

struct Speaker {
    state: AtomicUsize,
    said: Mutex<Said>,
}

struct Said {
    id: Option<String>,
    last: Option<LastDecision>,
}

/// A decision as a log line shows it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LastDecision {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    data: Data,
}

/// What was decided.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Data {
    id: String,
    app: Option<String>,
    action: &'static str,
    ruling: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    confidence: f64,
}

/// Kind of every decision, as the log names it.
pub(crate) const KIND: &str = "rl_decision";

impl Data {
    /// What a log line says of `decided`.
    pub(crate) fn of(record: &Record, decided: &Decided) -> Self {
        let (ruling, reason) = match &decided.ruling {
            Ruling::Permitted => ("permitted", None),
            Ruling::Held { reason } => ("held", Some(reason.as_str())),
            Ruling::Refused { reason, .. } => ("refused", Some(reason.as_str())),
        };
        Self {
            id: crate::grpc::ids::decision(record.seq),
            app: record.app.as_ref().map(ToString::to_string),
            action: decided.proposal.action.as_str(),
            ruling,
            reason,
            confidence: f64::from(decided.proposal.confidence) / 1_000.0,
        }
    }

    /// In words.
    pub(crate) fn sentence(&self) -> String {
        let Self { id, app, action, ruling, reason, confidence } = self;
        let app = app.as_deref().unwrap_or("-");
        let why = reason.map_or_else(String::new, |reason| format!(" {reason}"));
        format!("{id} {app} {action} {ruling}{why}, confidence {confidence:.2}")
    }
}

impl LastDecision {
    pub(super) fn of(record: &Record, data: &Data) -> Self {
        Self { kind: KIND, timestamp: format_time(record.at), data: data.clone() }
    }
}

/// What is known of the speaker at one moment.
#[derive(Debug, Clone)]
pub(super) struct Introduction {
    pub(super) id: Option<String>,
    pub(super) state: &'static str,
    pub(super) last: Option<LastDecision>,
}

/// From now on lines are about the agent called `id`.
pub(crate) fn introduce(id: &str) {
    let mut said = SPEAKER.said.lock().unwrap_or_else(PoisonError::into_inner);
    *said = Said { id: Some(id.to_owned()), last: None };
}

/// It is in another state.
pub(crate) fn enter(state: AgentState) {
    let position = AgentState::ALL.iter().position(|known| *known == state).unwrap_or(0);
    SPEAKER.state.store(position, Ordering::Relaxed);
}

/// It has decided something, durably.
pub(crate) fn decided(record: &Record, data: &Data) {
    let last = LastDecision::of(record, data);
    SPEAKER.said.lock().unwrap_or_else(PoisonError::into_inner).last = Some(last);
}

/// Who speaks.
pub(super) fn who() -> Introduction {
    let state = AgentState::ALL.get(SPEAKER.state.load(Ordering::Relaxed));
    let said = SPEAKER.said.lock().unwrap_or_else(PoisonError::into_inner);
    Introduction {
        id: said.id.clone(),
        state: state.map_or("idle", |state| state.as_str()),
        last: said.last.clone(),
    }
}

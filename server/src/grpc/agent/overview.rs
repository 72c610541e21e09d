//! The status of the agent, put together from one look at it and what the shell counts.

use std::collections::BTreeMap;
use std::path::Path;

use agentctl_api::v1;
use agentd_core::app::Millis;
use agentd_core::state::{ApprovalState, Outcome};
use tonic::Status;

use super::components;
use crate::agent::{AgentState, AgentView, Counters};
use crate::bus::{self, BusStats};
use crate::deploy::{Load, Monitor};
use crate::grpc::log::Log;
use crate::grpc::onboarding::latest;
use crate::grpc::{Services, ids, outcome, to_proto};
use crate::journal;

/// Apps in one status; there are pages of them in ListApps.
const APPS_MAX: usize = 1_000;

/// The status now.
pub(super) async fn status(services: &Services) -> Result<v1::AgentStatus, Status> {
    let shell = Shell::of(services);
    let seen = services.agent.query(move |view| (see(view, &shell), last_outcome(view))).await;
    let (mut status, last) = seen.map_err(outcome::gone)?;
    status.journal = Some(log_status(services).await);
    latest::complete(services, &mut status.apps).await;
    if let Some((seq, known)) = last {
        // What was decided is in the state; what the gates said is in its record.
        let record = Log::of(services).record(seq).await;
        status.last_decision = match record {
            Ok(Some(found)) => to_proto::decision_summary(&found.record, known),
            // A damaged log must not take the status away, which is what shows the damage.
            Ok(None) | Err(_) => {
                let id = ids::decision(seq);
                Some(v1::DecisionSummary { id, ..v1::DecisionSummary::default() })
            }
        };
    }
    Ok(status)
}

/// What the loop does not know.
#[derive(Debug)]
pub(super) struct Shell {
    limits: BTreeMap<&'static str, u64>,
    last_signal: Option<Millis>,
    pub(super) monitors: u32,
    pub(super) watchers: u32,
    pub(super) bus: Option<BusStats>,
    pub(super) workers: Option<Load>,
    /// Why the policy file was not taken when it was read last.
    pub(super) rejected: Option<String>,
}

impl Shell {
    fn of(services: &Services) -> Self {
        let intake = &services.intake;
        let mut limits = intake.counters.limits();
        limits.insert("monitors_forgotten", intake.forgotten());
        limits.insert("samples_dropped", services.ingest.dropped());
        if let Some(bus) = &services.bus {
            limits.insert("bus_records_dropped", bus.stats().dropped);
        }
        let workers = services.workers.as_ref().map(Monitor::load);
        if let Some(load) = &workers {
            limits.insert("deployments_refused", load.refused);
        }
        Self {
            rejected: services.rules.rejected(),
            limits,
            last_signal: intake.counters.last_signal(),
            monitors: intake.monitors(),
            // Where there is a bus it follows the ring like a watcher, as the specification files do, and neither is one.
            watchers: u32::try_from(services.publisher.watchers())
                .unwrap_or(u32::MAX)
                .saturating_sub(if services.bus.is_some() { 2 } else { 0 }),
            bus: services.bus.as_ref().map(bus::Monitor::stats),
            workers,
        }
    }
}

fn see(view: &AgentView<'_>, shell: &Shell) -> v1::AgentStatus {
    let state = view.state;
    let pending = |a: &&agentd_core::state::Approval| a.state == ApprovalState::Pending;
    let pending = state.approvals.values().filter(pending).count();
    let heard = view.readings.heard().map(|(_, at)| at).max();
    let name = view.counters.last_app.as_ref();
    v1::AgentStatus {
        agent_id: view.id.to_owned(),
        environment: state.env.as_str().to_owned(),
        version: view.version.to_owned(),
        state: phase(view.phase).into(),
        start_time: Some(to_proto::timestamp(view.started_at)),
        uptime: Some(to_proto::duration(view.now.saturating_sub(view.started_at))),
        loop_count: view.counters.loops,
        loop_interval: Some(to_proto::duration(view.loop_interval_ms)),
        last_decision: None,
        last_decision_app: name.map(ToString::to_string).unwrap_or_default(),
        state_counts: named(view.counters.states()),
        ruling_counts: rulings(view.counters),
        modes: to_proto::modes(&state.mode),
        apps: apps(view),
        journal: None,
        limit_hits: limits(view, shell),
        policy_digest: ids::digest(&state.policy_digest),
        pending_approvals: u32::try_from(pending).unwrap_or(u32::MAX),
        components: components::all(view, shell),
        last_signal_time: heard.max(shell.last_signal).map(to_proto::timestamp),
        monitors: shell.monitors,
        watchers: shell.watchers,
        time: Some(to_proto::timestamp(view.now)),
        storm: state.storm.is_some(),
    }
}

/// The newest decision of this start and how it ended, if that is known.
fn last_outcome(view: &AgentView<'_>) -> Option<(u64, Option<Outcome>)> {
    let seq = view.counters.last_decision?;
    let app = view.counters.last_app.as_ref().and_then(|name| view.state.apps.get(name));
    let known = app.and_then(|app| app.decisions.iter().rev().find(|d| d.seq == seq));
    Some((seq, known.and_then(|decision| decision.outcome)))
}

fn named<K: ToString>(counts: impl IntoIterator<Item = (K, u64)>) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, count)| (name.to_string(), count)).collect()
}

fn rulings(counters: &Counters) -> BTreeMap<String, u64> {
    named([
        ("permitted", counters.permitted),
        ("held", counters.held),
        ("refused", counters.refused),
        ("repeated", counters.repeated),
    ])
}

fn apps(view: &AgentView<'_>) -> Vec<v1::App> {
    let names = view.state.apps.keys().take(APPS_MAX);
    names
        .filter_map(|name| to_proto::app(view, name))
        .map(|app| v1::App { instances: Vec::new(), ..app })
        .collect()
}

fn limits(view: &AgentView<'_>, shell: &Shell) -> BTreeMap<String, u64> {
    let counters = view.counters;
    let omitted = view.state.apps.len().saturating_sub(APPS_MAX);
    let mut limits = named(shell.limits.iter().map(|(name, count)| (*name, *count)));
    limits.extend(named([
        ("permits_dropped", counters.permits_dropped),
        ("sightings_deferred", counters.sightings_deferred),
        ("records_too_long", counters.records_too_long),
        ("status_apps_omitted", u64::try_from(omitted).unwrap_or(u64::MAX)),
    ]));
    limits
}

const fn phase(phase: AgentState) -> v1::AgentState {
    match phase {
        AgentState::Idle => v1::AgentState::Idle,
        AgentState::Observing => v1::AgentState::Observing,
        AgentState::Validating => v1::AgentState::Validating,
        AgentState::Deciding => v1::AgentState::Deciding,
        AgentState::Enforcing => v1::AgentState::Enforcing,
        AgentState::Acting => v1::AgentState::Acting,
        AgentState::ObservingResults => v1::AgentState::ObservingResults,
        AgentState::Explaining => v1::AgentState::Explaining,
        AgentState::Blocked => v1::AgentState::Blocked,
        AgentState::ShuttingDown => v1::AgentState::ShuttingDown,
    }
}

async fn log_status(services: &Services) -> v1::JournalStatus {
    let dir = services.data_dir.clone();
    let size_bytes = tokio::task::spawn_blocking(move || log_bytes(&dir)).await.unwrap_or(0);
    let (head, reader) = (services.journal.head(), services.journal.reader());
    let (state, detail) = match services.journal.status() {
        journal::Status::Writable => (v1::JournalState::Writable, String::new()),
        journal::Status::Unwritable { reason } => (v1::JournalState::Unavailable, reason),
        journal::Status::Damaged(damage) => (v1::JournalState::Damaged, damage.to_string()),
    };
    v1::JournalStatus {
        state: state.into(),
        log_id: head.log_id.to_string(),
        head_seq: head.next_seq.saturating_sub(1),
        oldest_seq: reader.oldest_seq(),
        head_hash: head.hash.to_string(),
        detail,
        size_bytes,
    }
}

/// Directory of the proof log below the data directory, and of its segments below that.
const SEGMENTS: &str = "proof/wal";

/// Bytes of the log's files; what cannot be looked at counts as nothing.
fn log_bytes(data_dir: &Path) -> u64 {
    let Ok(files) = std::fs::read_dir(data_dir.join(SEGMENTS)) else { return 0 };
    let sizes = files.filter_map(|file| file.ok()?.metadata().ok()).map(|meta| meta.len());
    sizes.fold(0, u64::saturating_add)
}

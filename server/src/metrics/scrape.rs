//! Levels at the moment of a scrape: what the loop, the bus, the port and the intake say of themselves.

use std::collections::BTreeMap;

use agentd_core::state::{ApprovalState, Health};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::agent::{AgentState, AgentView};
use crate::bus::BusStats;

/// What the loop says of itself.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    loop_: Option<Loop>,
    /// What is beside the loop.
    pub outside: Outside,
}

#[derive(Debug, Clone)]
struct Loop {
    agent_id: String,
    version: &'static str,
    phase: AgentState,
    can_act: bool,
    uptime_ms: u64,
    loops: u64,
    head: u64,
    approvals: u64,
    in_flight: u64,
    pauses: u64,
    findings: u64,
    storm: bool,
    frozen: bool,
    apps: BTreeMap<&'static str, u64>,
}

/// What is beside the loop.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// How the bus is.
    pub bus: Option<BusStats>,
    /// Who watches right now.
    pub watchers: u64,
    /// Signals accepted since the start.
    pub signals: u64,
    /// How often each limit was hit since the start, by name.
    pub limits: BTreeMap<&'static str, u64>,
    /// What the port accepted and refused since the start, by name.
    pub port: BTreeMap<&'static str, u64>,
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

const HEALTHS: [(Health, &str); 4] = [
    (Health::Healthy, "healthy"),
    (Health::Degraded, "degraded"),
    (Health::Down, "down"),
    (Health::Unknown, "unknown"),
];

impl Snapshot {
    /// What `view` shows.
    #[must_use]
    pub fn of(view: &AgentView<'_>) -> Self {
        let state = view.state;
        let apps = || state.apps.values();
        let of = |health: Health| count(apps().filter(|app| app.health() == health).count());
        let pending = |a: &&agentd_core::state::Approval| a.state == ApprovalState::Pending;
        let loop_ = Loop {
            agent_id: view.id.to_owned(),
            version: view.version,
            phase: view.phase,
            can_act: view.blocked.is_none(),
            uptime_ms: view.now.saturating_sub(view.started_at),
            loops: view.counters.loops,
            head: state.last_seq,
            approvals: count(state.approvals.values().filter(pending).count()),
            in_flight: count(apps().filter(|app| app.attempt.is_some()).count()),
            pauses: count(state.mode.pauses.len()),
            findings: count(apps().map(|app| app.open.len()).sum()),
            storm: state.storm.is_some(),
            frozen: state.mode.frozen,
            apps: HEALTHS.iter().map(|(health, name)| (*name, of(*health))).collect(),
        };
        Self { loop_: Some(loop_), outside: Outside::default() }
    }

    /// Fills an empty registry.
    pub(super) fn registry(&self, mut registry: Registry) -> Registry {
        let up = u64::from(self.loop_.is_some());
        gauge(&mut registry, "agent_up", "1 while the loop answers", up);
        if let Some(loop_) = &self.loop_ {
            loop_.fill(&mut registry);
        }
        self.outside.fill(&mut registry);
        registry
    }
}

impl Loop {
    fn fill(&self, r: &mut Registry) {
        let labels = [("version", self.version.to_owned()), ("agent_id", self.agent_id.clone())];
        r.register(
            "build",
            "Version of the server and id of its agent",
            Info::new(labels.to_vec()),
        );
        let states = Family::<Vec<(&'static str, &'static str)>, Gauge>::default();
        for state in AgentState::ALL {
            let here = i64::from(state == self.phase);
            states.get_or_create(&vec![("state", state.as_str())]).set(here);
        }
        r.register("agent_state", "1 for the state the agent is in", states);
        let apps = Family::<Vec<(&'static str, &'static str)>, Gauge>::default();
        for (health, n) in &self.apps {
            apps.get_or_create(&vec![("health", *health)]).set(level(*n));
        }
        r.register("apps", "Apps by health", apps);
        gauge(
            r,
            "agent_can_act",
            "0 while the proof log cannot be written",
            u64::from(self.can_act),
        );
        gauge(r, "agent_uptime_seconds", "Time since the start", self.uptime_ms / 1_000);
        gauge(r, "approvals_pending", "Plans that wait for a human", self.approvals);
        gauge(r, "effects_in_flight", "Actions without an outcome yet", self.in_flight);
        gauge(r, "findings_open", "Findings that are open", self.findings);
        gauge(r, "pauses", "Pauses and halts in force", self.pauses);
        gauge(r, "storm", "1 in a storm", u64::from(self.storm));
        gauge(r, "learning_frozen", "1 while learning stands still", u64::from(self.frozen));
        gauge(r, "proof_head", "Sequence number of the newest record", self.head);
        counter(r, "loops", "Turns of the loop that had something to do", self.loops);
    }
}

impl Outside {
    fn fill(&self, r: &mut Registry) {
        if let Some(bus) = &self.bus {
            let backend = vec![("backend", bus.backend)];
            r.register("bus", "The bus that records are offered to", Info::new(backend));
            gauge(
                r,
                "bus_connected",
                "1 if the bus took what it was offered last",
                bus.connected.into(),
            );
            gauge(r, "bus_lag_records", "Records that wait for the bus", bus.lag);
            counter(r, "bus_published", "Records the bus took", bus.published);
            counter(r, "bus_dropped", "Records that were skipped for the bus", bus.dropped);
        }
        gauge(r, "watchers", "Open streams of records", self.watchers);
        counter(r, "signals", "Signals accepted", self.signals);
        named(r, "limit_hits", "How often each limit was hit", "limit", &self.limits);
        named(r, "port_events", "Connections and requests on the port", "event", &self.port);
    }
}

fn level(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(level(value));
    registry.register(name, help, gauge);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn named(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: &BTreeMap<&'static str, u64>,
) {
    let family = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
    for (which, n) in values {
        family.get_or_create(&vec![(label, *which)]).inc_by(*n);
    }
    registry.register(name, help, family);
}

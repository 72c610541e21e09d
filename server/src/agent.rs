//! The agent: sole owner of the state, one explicit loop, a closed set of events.
//!
//! ```text
//! drain the inbox -> step each -> one append, one fsync -> publish -> dispatch permits
//! ```
//!
//! The records of a batch are folded into the state as they are made, so that the second input of a batch sees the effect of the
//! first; nothing leaves the loop (no answer, no publication, no permit) before all of them are durable. If they cannot be made
//! durable the state is rebuilt from what is.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use agentd_core::app::{AppName, Millis};
use agentd_core::detect;
use agentd_core::policy::Policy;
use agentd_core::record::{Body, Heartbeat, Started, Stopped};
use agentd_core::signal::Reading;
use agentd_core::state::State;
use agentd_core::step::Input;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, info_span};

use crate::act::{Actuator, Delivery, Sighting};
use crate::clock::Clock;
use crate::ingest::Ingest;
use crate::journal::{self, Journal};
use crate::publish::Publisher;
use crate::tasks::Tasks;
use crate::telemetry::{speaker, trace};

mod batch;
mod dispatch;
mod due;
mod handle;
mod readings;
mod view;

use due::Due;

#[cfg(test)]
pub(crate) use batch::tell;
pub use handle::{Ask, Gone, Handle, Unavailable};
pub use readings::Readings;
pub use view::{AgentView, Counters};

/// Inputs judged in one turn of the loop; what is beyond waits for the next.
pub const BATCH: usize = 256;
/// Events that may wait for the loop. A full inbox makes callers wait; it never loses anything.
pub const INBOX: usize = 4_096;
/// Time between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Time between two tries to get the log back.
const RECOVER: Duration = Duration::from_secs(1);

/// Where the agent is in its loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentState {
    /// Waits.
    Idle,
    /// Takes in what happened.
    Observing,
    /// Folds signals into readings.
    Validating,
    /// Looks for findings and chooses.
    Deciding,
    /// Runs the choice through the gates and makes it durable.
    Enforcing,
    /// Hands permits to the actuator.
    Acting,
    /// Watches what came of them.
    ObservingResults,
    /// Publishes what was decided and why.
    Explaining,
    /// Cannot act: the log cannot be written.
    Blocked,
    /// Drains.
    ShuttingDown,
}

impl AgentState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Idle,
        Self::Observing,
        Self::Validating,
        Self::Deciding,
        Self::Enforcing,
        Self::Acting,
        Self::ObservingResults,
        Self::Explaining,
        Self::Blocked,
        Self::ShuttingDown,
    ];

    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Observing => "observing",
            Self::Validating => "validating",
            Self::Deciding => "deciding",
            Self::Enforcing => "enforcing",
            Self::Acting => "acting",
            Self::ObservingResults => "observing_results",
            Self::Explaining => "explaining",
            Self::Blocked => "blocked",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// Everything that reaches the loop.
pub enum Event {
    /// A window must be closed at once.
    Urgent(AppName),
    /// An actuator or probe saw something.
    Sighting(Sighting),
    /// An effect ended.
    Delivered {
        /// The app.
        app: AppName,
        /// The decision that permitted it.
        decision: u64,
        /// How it ended.
        delivery: Delivery,
    },
    /// Somebody asks for something that needs a record.
    Ask(Box<handle::Asked>),
    /// Somebody wants to read.
    Query(Box<dyn FnOnce(&AgentView<'_>) + Send>),
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Urgent(_) => "Urgent",
            Self::Sighting(_) => "Sighting",
            Self::Delivered { .. } => "Delivered",
            Self::Ask(_) => "Ask",
            Self::Query(_) => "Query",
        })
    }
}

/// What ended the wait of the loop.
enum Wake {
    Recover,
    Heartbeat,
    Tick,
    Events,
}

/// What the agent works with; everything but the state itself.
#[derive(Debug)]
pub struct Parts {
    /// Agent id.
    pub id: String,
    /// Version of the program.
    pub version: &'static str,
    /// Time between two ticks.
    pub loop_interval: Duration,
    /// Demo mode, dry run, frozen: as configured.
    pub started: Started,
    /// The clock.
    pub clock: Arc<Clock>,
    /// The proof log.
    pub journal: Journal,
    /// Where windows are.
    pub ingest: Arc<Ingest>,
    /// What acts.
    pub actuator: Arc<dyn Actuator>,
    /// Where records go once they are durable.
    pub publisher: Publisher,
    /// What is counted of them.
    pub metrics: Arc<crate::metrics::Metrics>,
    /// The spawner.
    pub tasks: Tasks,
}

/// The loop.
#[derive(Debug)]
pub struct Agent {
    parts: Parts,
    state: State,
    /// The rules in force.
    policy: Policy,
    /// The rules of the configuration.
    configured: Policy,
    head: journal::Head,
    inbox: mpsc::Receiver<Event>,
    handle: Handle,
    /// Inputs the loop gives itself, judged before anything from outside.
    own: VecDeque<Input>,
    /// Latest reading per app, for status.
    readings: Readings,
    /// The apps that are looked at next.
    due: Due,
    /// Tokens that stop an effect in flight at its next safe point.
    in_flight: BTreeMap<u64, (AppName, CancellationToken)>,
    /// Deliveries that came while the log could not be written.
    undelivered: Vec<(AppName, u64, Delivery)>,
    /// Equal decisions counted since they were last written.
    repeats: BTreeMap<AppName, (u64, u64)>,
    /// Sightings were lost while the log could not be written: look again.
    resync: bool,
    phase: AgentState,
    /// Trace of the turn under way.
    trace: Option<trace::TraceId>,
    counters: Counters,
    started_at: Millis,
}

/// The receiving end of the inbox. It exists before the agent does, because an actuator that reports to the agent is one of the
/// agent's parts.
#[derive(Debug)]
pub struct Inbox {
    events: mpsc::Receiver<Event>,
    handle: Handle,
}

/// Makes an inbox and the handle to it.
#[must_use]
pub fn inbox() -> (Handle, Inbox) {
    let (sender, events) = mpsc::channel(INBOX);
    let handle = Handle::new(sender);
    (handle.clone(), Inbox { events, handle })
}

/// What is known from the log when the agent starts.
#[derive(Debug)]
pub struct Restored {
    /// The state.
    pub state: State,
    /// The policy that was in force last.
    pub policy: Policy,
    /// Where the log ends.
    pub head: journal::Head,
}

impl Agent {
    /// An agent on a log that was replayed, behind an inbox made by [`inbox`]. It does nothing before [`Agent::run`].
    ///
    /// `configured` is the policy of the configuration. What a human applied since an agent last started with the very same one
    /// stays in force.
    #[must_use]
    pub fn new(parts: Parts, configured: Policy, restored: Restored, inbox: Inbox) -> Self {
        let Inbox { events: inbox, handle } = inbox;
        let Restored { state, policy, head } = restored;
        let applied = configured.digest() == state.policy_base;
        let policy = if applied { policy } else { configured.clone() };
        parts.clock.not_before(state.last_at);
        parts.ingest.set_rules(&policy.freshness);
        let started_at = parts.clock.now_ms();
        for name in state.apps.keys() {
            parts.ingest.resume(name, started_at);
        }
        let was_used = state.last_seq > 0;
        let own = VecDeque::from([Input::Started {
            started: parts.started.clone(),
            policy: Box::new(configured.clone()),
            bytes_cut: parts.journal.untold_cut(),
        }]);
        Self {
            parts,
            state,
            policy,
            configured,
            head,
            inbox,
            handle,
            own,
            readings: Readings::default(),
            due: Due::default(),
            in_flight: BTreeMap::new(),
            undelivered: Vec::new(),
            repeats: BTreeMap::new(),
            resync: was_used,
            phase: AgentState::Idle,
            trace: None,
            counters: Counters::default(),
            started_at,
        }
    }

    /// Runs until the stop signal fires, then finishes the step it is in and returns its final statistics.
    pub async fn run(mut self) -> Stopped {
        let stopping = self.parts.tasks.stopping();
        let mut tick = interval_at(Instant::now(), self.parts.loop_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut recover = interval_at(Instant::now() + RECOVER, RECOVER);
        recover.set_missed_tick_behavior(MissedTickBehavior::Skip);
        speaker::introduce(&self.parts.id);
        self.all_are_due();
        let turn = self.begin_trace();
        self.turn(Vec::new()).instrument(turn).await;
        tracing::info!(env = %self.state.env, version = self.parts.version, "agent started");
        loop {
            self.enter(AgentState::Idle);
            let mut events = Vec::new();
            let wake = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                _ = recover.tick() => Wake::Recover,
                _ = heartbeat.tick() => Wake::Heartbeat,
                _ = tick.tick() => Wake::Tick,
                n = self.inbox.recv_many(&mut events, BATCH) => {
                    if n == 0 {
                        break;
                    }
                    Wake::Events
                }
            };
            let turn = self.begin_trace();
            self.woken(wake, events).instrument(turn).await;
        }
        self.shut_down().await
    }

    /// Begins the trace of a turn.
    fn begin_trace(&mut self) -> Span {
        let trace::Turn { span, id } = trace::turn();
        self.trace = id;
        span
    }

    /// One turn, and one trace.
    async fn woken(&mut self, wake: Wake, events: Vec<Event>) {
        match wake {
            Wake::Recover => self.try_recover().await,
            Wake::Heartbeat => self.beat(),
            Wake::Tick => {
                info_span!("sense", apps = self.state.apps.len()).in_scope(|| self.sense());
            }
            Wake::Events => {}
        }
        self.turn(events).await;
    }

    fn enter(&mut self, phase: AgentState) {
        if phase != self.phase {
            speaker::enter(phase);
            self.counters.enter(phase);
            self.phase = phase;
        }
    }

    /// One tick: what is due is looked at, and decided on unless it is quiet; and time itself is an input.
    fn sense(&mut self) {
        if self.is_blocked() {
            return;
        }
        self.enter(AgentState::Validating);
        self.own.push_back(Input::Tick);
        if std::mem::take(&mut self.resync) {
            self.discover();
        }
        self.parts.ingest.news(|app| self.due.next(app));
        for name in self.due.take(self.parts.clock.now_ms()) {
            let now = self.parts.clock.now_ms();
            let Some(app) = self.state.apps.get(&name) else { continue };
            let (policy, onboarded_at) = (&self.policy, app.onboarded_at);
            let (reading, ends) = self.parts.ingest.tick(&name, now, policy, onboarded_at);
            let view = detect::View { app, policy, reading: &reading, now };
            let quiet = detect::is_quiet(&view);
            if quiet {
                let until = ends.into_iter().chain(detect::quiet_until(&view)).min();
                self.due.wait(&name, until);
            } else {
                self.due.next(&name);
            }
            if self.readings.expires(&reading) {
                self.own.push_back(Input::Stale(reading.clone()));
            } else if !quiet {
                self.own.push_back(Input::Reading(reading.clone()));
            }
            self.readings.put(reading);
        }
    }

    /// Whatever was known of them is to be looked at anew.
    fn all_are_due(&mut self) {
        self.state.apps.keys().for_each(|app| self.due.next(app));
    }

    fn close_window(&self, name: &AppName, now: Millis) -> Option<Reading> {
        let app = self.state.apps.get(name)?;
        Some(self.parts.ingest.close(name, now, &self.policy, app.onboarded_at))
    }

    fn beat(&mut self) {
        if self.is_blocked() {
            return;
        }
        let quiet = self.state.apps.values().filter(|app| app.open.is_empty()).count();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.own.push_back(Input::Heartbeat(Heartbeat {
            state: Cow::Borrowed(self.phase.as_str()),
            uptime_ms: self.uptime_ms(),
            loops: self.counters.loops,
            last_decision: self.counters.last_decision,
            states: self.counters.states(),
            apps: count(self.state.apps.len()),
            quiet: count(quiet),
        }));
        for (app, (decision, count)) in std::mem::take(&mut self.repeats) {
            self.own.push_back(Input::Repeats { app, decision, count });
        }
    }

    fn uptime_ms(&self) -> Millis {
        self.parts.clock.now_ms().saturating_sub(self.started_at)
    }

    /// Finishes in good order: effects in flight stop at their next safe point, the last record says so.
    async fn shut_down(mut self) -> Stopped {
        self.enter(AgentState::ShuttingDown);
        for (_, token) in self.in_flight.values() {
            token.cancel();
        }
        let stopped = Stopped {
            uptime_ms: self.uptime_ms(),
            loops: self.counters.loops,
            decisions: self.counters.decisions,
        };
        for (app, (decision, count)) in std::mem::take(&mut self.repeats) {
            self.own.push_back(Input::Repeats { app, decision, count });
        }
        self.own.push_back(Input::Transition { path: vec![Cow::Borrowed("shutting_down")] });
        self.own.push_back(Input::Stopped(stopped.clone()));
        self.turn(Vec::new()).await;
        tracing::info!(
            uptime_ms = stopped.uptime_ms,
            loops = stopped.loops,
            decisions = stopped.decisions,
            "agent stopped"
        );
        stopped
    }
}

/// Whether a record shows a refusal that watchers must have seen before it counts as emitted.
const fn is_refusal(body: &Body) -> bool {
    matches!(body, Body::Refused { .. })
}

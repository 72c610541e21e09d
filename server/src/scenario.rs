//! Scenarios: failures made on purpose, on real processes, with what is expected to follow.
//!
//! A scenario is a list of steps; each does something through the same doors as everybody else (the handle of the loop, the
//! signal windows, a signal to a process, a request to an app's port) and then waits for what the proof log says. Nothing in the
//! agent knows of them: what they show is what happens anyway.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentd_core::app::{Env, Millis};
use agentd_core::policy::Policy;
use agentd_core::state::Scope;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::act::Boxed;
use crate::agent::{AgentView, Handle};
use crate::clock::Clock;
use crate::ingest::Ingest;
use crate::journal::Journal;
use crate::publish::Publisher;
use crate::tasks::Tasks;

mod cooldown;
mod crash;
mod failed_deployment;
mod false_alarm;
mod follow;
mod halt;
mod kill_switch;
mod latency;
mod load;
mod low_confidence;
mod onboard;
mod overload;
mod overloaded_environment;
mod play;
mod repetition;
mod rollback;
mod signal_conflict;
mod slow_deployment;
mod steps;
mod storm;
mod unsafe_action;
mod web;

use play::{Play, Unmet};

/// Steps and summaries that may wait for a reader.
pub const PROGRESS: usize = 64;
/// A reader that takes nothing for this long is gone, and the scenario ends.
const STALLED: Duration = Duration::from_secs(30);

/// Every scenario, in the order in which they are best shown.
pub const SCENARIOS: &[Scenario] = &[
    onboard::SCENARIO,
    crash::SCENARIO,
    overload::SCENARIO,
    false_alarm::SCENARIO,
    signal_conflict::SCENARIO,
    cooldown::SCENARIO,
    repetition::SCENARIO,
    rollback::SCENARIO,
    kill_switch::SCENARIO,
    unsafe_action::SCENARIO,
    overloaded_environment::SCENARIO,
    low_confidence::SCENARIO,
    slow_deployment::SCENARIO,
    failed_deployment::SCENARIO,
    halt::SCENARIO,
    // Last: what it leaves behind is an environment in a storm, until it has been calm for long enough.
    storm::SCENARIO,
];

/// The scenario called `name`, if there is one.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

/// A rehearsal: steps with what is expected of each.
#[derive(Debug)]
pub struct Scenario {
    /// Name, such as `crash`.
    pub name: &'static str,
    /// What it shows; one sentence.
    pub summary: &'static str,
    /// In order.
    pub steps: &'static [Step],
    /// Whether it can be run on an app that is there already.
    pub any_app: bool,
    /// Whether a human asks for an action in it, which demo mode does not take in.
    pub human: bool,
    /// How long it takes, about, in milliseconds.
    typical: fn(&Tempo) -> Millis,
}

impl Scenario {
    /// How long it takes, about, under the rules of `tempo`.
    #[must_use]
    pub fn typical(&self, tempo: &Tempo) -> Duration {
        Duration::from_millis((self.typical)(tempo))
    }
}

/// One step.
#[derive(Debug)]
pub struct Step {
    /// What is done.
    pub name: &'static str,
    /// What should happen.
    pub expected: &'static str,
    run: for<'a> fn(&'a mut Play) -> Boxed<'a, Result<Seen, Unmet>>,
}

/// What happened in a step that went as expected.
#[derive(Debug)]
struct Seen {
    actual: String,
    decision: Option<u64>,
}

impl Seen {
    fn new(actual: impl Into<String>) -> Self {
        Self { actual: actual.into(), decision: None }
    }

    fn of(decision: u64, actual: impl Into<String>) -> Self {
        Self { actual: actual.into(), decision: Some(decision) }
    }
}

/// The rules in force and the pace of the loop: every deadline and every estimate follows from them.
#[derive(Debug, Clone)]
pub struct Tempo {
    /// The policy.
    pub policy: Policy,
    /// Time between two ticks of the loop, in milliseconds.
    pub tick_ms: Millis,
}

impl Tempo {
    /// The tempo of a running agent.
    #[must_use]
    pub fn of(view: &AgentView<'_>) -> Self {
        Self { policy: view.policy.clone(), tick_ms: view.loop_interval_ms }
    }

    /// About how long an effect takes until it is verified.
    fn effect_ms(&self) -> Millis {
        // A process starts and answers within a tenth of a second; the loop looks once per tick.
        self.policy.verification.hold_ms.saturating_add(self.tick_ms).saturating_add(100)
    }

    /// Time a decision may take: some ticks, and five seconds for a machine that has other work.
    fn reaction(&self) -> Duration {
        Duration::from_millis(self.tick_ms.saturating_mul(10).saturating_add(5_000))
    }

    /// Time an effect may take until its outcome is on record: the policy's own deadline for readiness, and then the one for the
    /// outcome.
    fn patience(&self) -> Duration {
        let deadline = self.policy.verification.deadline_ms.saturating_mul(2);
        self.reaction().saturating_add(Duration::from_millis(deadline))
    }
}

/// The doors a scenario goes through; the same as everybody's.
#[derive(Debug, Clone)]
pub struct Doors {
    /// The loop.
    pub agent: Handle,
    /// Durable records.
    pub publisher: Publisher,
    /// The proof log, for what the publisher does not hold any more.
    pub journal: Journal,
    /// Signal windows.
    pub ingest: Arc<Ingest>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// The spawner.
    pub tasks: Tasks,
    /// The environment.
    pub env: Env,
    /// Where specifications are written to.
    pub data_dir: PathBuf,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// The app to run it on; `None`: one of its own.
    pub app: Option<String>,
    /// The caller's id for it.
    pub request_id: Option<String>,
    /// Who asks.
    pub principal: String,
}

/// Why a scenario does not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another one runs.
    #[error("scenario `{scenario}` is running; one at a time")]
    Busy {
        /// Its name.
        scenario: &'static str,
    },
    /// This very request runs.
    #[error("request id `{0}` is running already")]
    SameRequest(String),
    /// The agent would decide and touch nothing.
    #[error("the server is started with --dry-run: nothing would happen")]
    DryRun,
    /// Effects are paused, so nothing would follow.
    #[error("effects are paused in the environment; resume first")]
    Paused,
    /// Demo mode takes in nothing that a human asks for.
    #[error("scenario `{0}` asks for an action as a human, which demo mode does not take in")]
    DemoMode(&'static str),
    /// It needs an app of its own.
    #[error("scenario `{0}` runs on an app of its own only")]
    OwnApp(&'static str),
    /// There is no such app here.
    #[error("app `{0}` does not exist")]
    NoSuchApp(String),
    /// The path of the demo app cannot be put into a specification.
    #[error("the path of the demo app is not UTF-8 text")]
    DemoApp,
    /// No port is free.
    #[error("no loopback port is free: {0}")]
    Port(String),
    /// The loop has ended.
    #[error("the agent has stopped")]
    Stopped,
}

/// Where scenarios run: one at a time.
#[derive(Debug)]
pub struct Stage {
    demo_app: Vec<PathBuf>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug, Clone)]
struct Running {
    scenario: &'static str,
    request_id: Option<String>,
}

/// The right to be on stage; given up when dropped.
#[derive(Debug)]
pub struct Seat {
    stage: Arc<Stage>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        *self.stage.lock() = None;
    }
}

impl Stage {
    /// A stage for this demo app: its executable and leading arguments, never empty.
    #[must_use]
    pub fn new(demo_app: Vec<PathBuf>) -> Self {
        Self { demo_app, running: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the stage.
    ///
    /// # Errors
    /// [`Error::Busy`], or [`Error::SameRequest`] when it is this very request that runs.
    pub fn enter(self: &Arc<Self>, request: &Request) -> Result<Seat, Error> {
        let mut running = self.lock();
        if let Some(other) = &*running {
            return Err(match &request.request_id {
                Some(id) if other.request_id.as_ref() == Some(id) => Error::SameRequest(id.clone()),
                _ => Error::Busy { scenario: other.scenario },
            });
        }
        let scenario = request.scenario.name;
        *running = Some(Running { scenario, request_id: request.request_id.clone() });
        Ok(Seat { stage: Arc::clone(self) })
    }
}

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Under way.
    Running,
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// Not run, because an earlier one failed.
    Skipped,
}

/// One step as it goes.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// Place, from 1.
    pub index: u32,
    /// Steps in all.
    pub total: u32,
    /// The step.
    pub step: &'static Step,
    /// How it goes.
    pub status: Status,
    /// What happened; empty while nothing has.
    pub actual: String,
    /// Decision it led to.
    pub decision: Option<u64>,
    /// Since it began.
    pub elapsed: Duration,
}

/// The end of a run.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Steps that passed.
    pub passed: u32,
    /// Steps in all.
    pub total: u32,
    /// From the beginning to the end.
    pub elapsed: Duration,
    /// Records it made, by event name.
    pub events: BTreeMap<&'static str, u64>,
}

/// What is told of a run.
#[derive(Debug, Clone)]
pub enum Progress {
    /// A step began or ended, or has something to say.
    Step(StepReport),
    /// Last.
    Summary(Summary),
}

/// A run that may begin.
#[derive(Debug)]
pub struct Run {
    seat: Seat,
    play: Play,
    scenario: &'static Scenario,
    began: Instant,
}

impl Run {
    /// Takes the stage and looks whether the scenario can be shown at all.
    ///
    /// # Errors
    /// [`Error`]; nothing was done then.
    pub async fn prepare(
        stage: &Arc<Stage>,
        doors: Doors,
        request: Request,
    ) -> Result<Self, Error> {
        let seat = stage.enter(&request)?;
        let scenario = request.scenario;
        if request.app.is_some() && !scenario.any_app {
            return Err(Error::OwnApp(scenario.name));
        }
        let gone = |_gone| Error::Stopped;
        let (tempo, mode) = doors
            .agent
            .query(|view| (Tempo::of(view), view.state.mode.clone()))
            .await
            .map_err(gone)?;
        if mode.dry_run {
            return Err(Error::DryRun);
        }
        if mode.pauses.iter().any(|pause| !matches!(pause.scope, Scope::App(_))) {
            return Err(Error::Paused);
        }
        if mode.demo && scenario.human {
            return Err(Error::DemoMode(scenario.name));
        }
        let play = Play::open(doors, tempo, &request, &stage.demo_app).await?;
        Ok(Self { seat, play, scenario, began: Instant::now() })
    }

    /// Runs to the end, or until nobody listens any more or the server stops. What was started is left healthy either way, or
    /// stopped where it cannot be.
    pub async fn perform(self, progress: mpsc::Sender<Progress>) {
        let Self { seat, mut play, scenario, began } = self;
        tracing::info!(scenario = scenario.name, app = %play.app(), "scenario begins");
        let stopping = play.stopping();
        let passed = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = progress.closed() => None,
            passed = steps_of(&mut play, scenario, &progress) => passed,
        };
        let total = count(scenario.steps.len());
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = play.tidy() => {}
        }
        play.catch_up().await;
        let events = play.events();
        drop(seat);
        tracing::info!(scenario = scenario.name, passed, total, "scenario ended");
        let Some(passed) = passed else { return };
        let elapsed = began.elapsed();
        let summary = Summary { passed, total, elapsed, events };
        // Nobody listens any more: then there is nobody to tell.
        let _ = progress.send_timeout(Progress::Summary(summary), STALLED).await;
    }
}

/// Runs the steps in order; what comes after one that failed is skipped. Gives how many passed, or `None` when nobody listens.
async fn steps_of(
    play: &mut Play,
    scenario: &'static Scenario,
    progress: &mpsc::Sender<Progress>,
) -> Option<u32> {
    let total = count(scenario.steps.len());
    let mut passed: u32 = 0;
    for (step, index) in scenario.steps.iter().zip(1..) {
        let began = Instant::now();
        let status =
            if passed.saturating_add(1) == index { Status::Running } else { Status::Skipped };
        let elapsed = Duration::ZERO;
        let (actual, decision) = (String::new(), None);
        let report = StepReport { index, total, step, status, actual, decision, elapsed };
        tell(progress, report.clone()).await?;
        if status == Status::Skipped {
            continue;
        }
        play.catch_up().await;
        play.begin(progress.clone(), report.clone());
        let (status, seen) = match (step.run)(play).await {
            Ok(seen) => (Status::Passed, seen),
            Err(unmet) => (Status::Failed, Seen::new(unmet.to_string())),
        };
        passed += u32::from(status == Status::Passed);
        let Seen { actual, decision } = seen;
        let elapsed = began.elapsed();
        tell(progress, StepReport { status, actual, decision, elapsed, ..report }).await?;
    }
    Some(passed)
}

/// `None` when nobody listens.
async fn tell(progress: &mpsc::Sender<Progress>, report: StepReport) -> Option<()> {
    progress.send_timeout(Progress::Step(report), STALLED).await.ok()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

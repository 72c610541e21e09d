//! A run of a scenario: its app, its way through the doors, and what one step leaves for the next.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use agentd_core::action::Action;
use agentd_core::app::{
    AppName, Field, Millis, OnboardRequest, Probe, RequestedHealth, RequestedSource,
};
use agentd_core::plan::Fence;
use agentd_core::record::{Body, Concluded, Decided, Record};
use agentd_core::signal::{self, Metric, Signal};
use agentd_core::state::{AppState, Health, Outcome, Scope};
use agentd_core::step::{By, Reply, Update};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::follow::{Follow, Mark};
use super::load::Load;
use super::{Doors, Error, Progress, Request, Seen, StepReport, Tempo};
use crate::agent::Ask;
use crate::specs;

/// Numbers tried behind a name that is taken.
const SUFFIXES: u32 = 10_000;
/// Time between two health questions to an app of a scenario.
const HEALTH_INTERVAL_MS: Millis = 500;
/// Time for an answer.
const HEALTH_TIMEOUT_MS: Millis = 400;
/// Time between TERM and KILL of an app of a scenario.
const STOP_GRACE_MS: Millis = 1_000;

/// Why a step did not go as expected.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unmet {
    /// It did not happen in time.
    #[error("waited {waited_ms} ms for {what}; last decision: {last}; last record: {newest}")]
    Late { what: String, waited_ms: u64, last: String, newest: &'static str },
    /// Something else happened.
    #[error("{0}")]
    Differs(String),
    /// The loop has ended.
    #[error("the agent has stopped")]
    Stopped,
    /// The log cannot be written or read.
    #[error("the proof log: {0}")]
    Log(String),
}

/// What one step leaves for the next.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The incarnation that was killed last.
    pub(super) victim: Option<Fence>,
    /// When the failure was made, or was found.
    pub(super) hit_at: Millis,
    /// Time until the app was ready again, in milliseconds.
    pub(super) ready_ms: Option<Millis>,
    /// What the instances use of a core, in words.
    pub(super) shares: String,
    /// Where the records since that begin.
    pub(super) since: Mark,
    /// The decision whose outcome is waited for.
    pub(super) decision: Option<u64>,
    /// Other decisions whose outcomes are waited for.
    pub(super) others: Vec<u64>,
    /// What ran before, by slot.
    pub(super) running: BTreeMap<u32, Fence>,
    /// The approval that is waited for.
    pub(super) approval: Option<u64>,
    /// When what was refused clears.
    pub(super) clears_at: Millis,
    /// Meters of instances, by slot.
    pub(super) meters: BTreeMap<u32, crate::sense::process::Meter>,
    /// Load that is going on.
    pub(super) load: Option<Load>,
    /// A pause of this run is in force.
    pub(super) paused: bool,
    /// A specification that works, to go back to.
    pub(super) good: Option<Box<OnboardRequest>>,
}

/// An app of a run and where it listens.
#[derive(Debug)]
struct Cast {
    app: AppName,
    address: SocketAddr,
}

/// A run.
#[derive(Debug)]
pub(super) struct Play {
    doors: Doors,
    pub(super) tempo: Tempo,
    by: By,
    scenario: &'static str,
    app: AppName,
    /// The app was there before.
    pub(super) guest: bool,
    demo_app: Vec<String>,
    address: SocketAddr,
    /// The other apps of this run.
    others: VecDeque<Cast>,
    pub(super) log: Follow,
    /// Where the records of the present step begin.
    pub(super) begun: Mark,
    pub(super) notes: Notes,
    telling: Option<(mpsc::Sender<Progress>, StepReport, Instant)>,
    reported_ms: Millis,
}

impl Play {
    /// Finds a name and a port, or the app that was named.
    pub(super) async fn open(
        doors: Doors,
        tempo: Tempo,
        request: &Request,
        demo_app: &[PathBuf],
    ) -> Result<Self, Error> {
        let demo_app = demo_app.iter().map(|part| part.to_str().map(str::to_owned));
        let demo_app: Vec<String> = demo_app.collect::<Option<_>>().ok_or(Error::DemoApp)?;
        let (wanted, scenario) = (request.app.clone(), request.scenario.name);
        let named = doors.agent.query(move |view| match wanted {
            Some(name) => {
                let known = AppName::parse(&name).ok().filter(|n| view.state.apps.contains_key(n));
                known.ok_or(Error::NoSuchApp(name))
            }
            None => free_name(scenario, |name| view.state.apps.contains_key(name)),
        });
        let app = named.await.map_err(|_gone| Error::Stopped)??;
        let address = free_port().await.map_err(|error| Error::Port(error.to_string()))?;
        let principal = request.principal.clone();
        let log =
            Follow::new(doors.publisher.clone(), &doors.journal, app.clone(), principal.clone());
        Ok(Self {
            doors,
            tempo,
            by: By { principal, human: true, request: None, validate_only: false },
            scenario,
            app,
            guest: request.app.is_some(),
            demo_app,
            address,
            others: VecDeque::new(),
            begun: log.mark(),
            log,
            notes: Notes::default(),
            telling: None,
            reported_ms: 0,
        })
    }

    /// The app.
    pub(super) const fn app(&self) -> &AppName {
        &self.app
    }

    /// Where it listens.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Brings names and ports for more apps, until there are `n` in all.
    pub(super) async fn enlarge(&mut self, n: usize) -> Result<(), Unmet> {
        while self.size() < n {
            let scenario = self.scenario;
            let ours: Vec<AppName> = self.others.iter().map(|cast| cast.app.clone()).collect();
            let ours: Vec<AppName> = ours.into_iter().chain([self.app.clone()]).collect();
            let named = self.doors.agent.query(move |view| {
                let known = |name: &AppName| view.state.apps.contains_key(name);
                free_name(scenario, |name| known(name) || ours.contains(name))
            });
            let app = named.await.map_err(|_gone| Unmet::Stopped)?;
            let app = app.map_err(|error| Unmet::Differs(error.to_string()))?;
            let address = free_port().await.map_err(|error| Unmet::Differs(error.to_string()))?;
            self.log.also(app.clone());
            self.others.push_back(Cast { app, address });
        }
        Ok(())
    }

    /// How many apps the run has.
    pub(super) fn size(&self) -> usize {
        self.others.len().saturating_add(1)
    }

    /// Goes on with the next app of the run; after as many turns as there are apps it is the first one again.
    pub(super) fn turn(&mut self) {
        let Some(Cast { app, address }) = self.others.pop_front() else { return };
        let app = std::mem::replace(&mut self.app, app);
        let address = std::mem::replace(&mut self.address, address);
        self.others.push_back(Cast { app, address });
    }

    /// The doors.
    pub(super) const fn doors(&self) -> &Doors {
        &self.doors
    }

    /// Who asks.
    pub(super) fn principal(&self) -> &str {
        &self.by.principal
    }

    /// Fires when the server drains.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.doors.tasks.stopping()
    }

    /// Records of this run, by event name.
    pub(super) fn events(&self) -> BTreeMap<&'static str, u64> {
        self.log.events()
    }

    /// Takes in what is durable; what cannot be read is not counted.
    pub(super) async fn catch_up(&mut self) {
        if let Err(error) = self.log.catch_up().await {
            tracing::warn!(%error, "records of a scenario cannot be read");
        }
    }

    /// A step begins.
    pub(super) fn begin(&mut self, progress: mpsc::Sender<Progress>, report: StepReport) {
        self.begun = self.log.mark();
        self.telling = Some((progress, report, Instant::now()));
    }

    /// Says something while a step is under way. It is lost when the reader is behind.
    pub(super) fn say(&self, seen: Seen) {
        if let Some((progress, report, began)) = &self.telling {
            let (actual, decision) = (seen.actual, seen.decision);
            let report =
                StepReport { actual, decision, elapsed: began.elapsed(), ..report.clone() };
            let _ = progress.try_send(Progress::Step(report));
        }
    }

    /// Asks the loop for something as the caller.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Reply, Unmet> {
        let answered = self.doors.agent.ask(ask, self.by.clone()).await;
        let answered = answered.map_err(|_gone| Unmet::Stopped)?;
        answered.map_err(|unavailable| Unmet::Log(unavailable.reason))
    }

    /// Puts it on record that a failure is about to be made.
    pub(super) async fn announce(&self, what: &str) -> Result<(), Unmet> {
        let (app, scenario) = (self.app.clone(), self.scenario.to_owned());
        self.ask(Ask::Inject { app, scenario, what: what.to_owned() }).await.map(drop)
    }

    /// The state of the app.
    pub(super) async fn state(&self) -> Result<AppState, Unmet> {
        let name = self.app.clone();
        let state = self.doors.agent.query(move |view| view.state.apps.get(&name).cloned()).await;
        let state = state.map_err(|_gone| Unmet::Stopped)?;
        state.ok_or_else(|| Unmet::Differs(format!("app `{}` does not exist", self.app)))
    }

    /// What a person would ask for: the demo app with these arguments, on this run's port.
    pub(super) fn request(&self, args: &[&str], max_instances: u32) -> OnboardRequest {
        let (path, first) = match self.demo_app.split_first() {
            Some((path, first)) => (path.clone(), first),
            None => (String::new(), &[][..]),
        };
        let args = first.iter().cloned().chain(args.iter().map(|a| (*a).to_owned())).collect();
        OnboardRequest {
            name: self.app.to_string(),
            env: self.doors.env.as_str().to_owned(),
            runtime: "binary".to_owned(),
            source: RequestedSource::Exec { path, args },
            max_instances: Some(max_instances),
            listen: Some(self.address.to_string()),
            health: Some(RequestedHealth {
                probe: Probe::Http { url: "/healthz".to_owned() },
                interval_ms: Some(HEALTH_INTERVAL_MS),
                timeout_ms: Some(HEALTH_TIMEOUT_MS),
            }),
            stop_grace_ms: Some(STOP_GRACE_MS),
            ..OnboardRequest::default()
        }
    }

    /// Onboards or updates. Gives the digest of the specification and the decision to deploy it.
    pub(super) async fn deploy(
        &mut self,
        request: OnboardRequest,
        update: bool,
    ) -> Result<(String, u64), Unmet> {
        let request = Box::new(request);
        let ask = match update {
            false => Ask::Onboard(request, Vec::new()),
            true => {
                let fields = Field::ALL.into_iter().collect();
                Ask::Update(request, Vec::new(), Update { fields, etag: None })
            }
        };
        let (spec, decision) = match self.ask(ask).await? {
            Reply::Onboarded { spec, decision: Some(decision), .. } => (spec, decision),
            Reply::Updated { spec, decided: Some(decided), .. } => (spec, decided.seq),
            Reply::Invalid(violations) => {
                let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
                return Err(Unmet::Differs(format!("refused: {}", all.join("; "))));
            }
            other => return Err(Unmet::Differs(format!("{other:?}"))),
        };
        let digest = spec.digest();
        let data_dir = self.doors.data_dir.clone();
        let written = tokio::task::spawn_blocking(move || specs::write(&data_dir, &spec)).await;
        if let Ok(Err(error)) = written {
            return Err(Unmet::Differs(error.to_string()));
        }
        Ok((digest, decision))
    }

    /// What monitors report at one moment; the loop has looked at it when this returns.
    pub(super) async fn hear(&mut self, said: &[(&str, Metric, f64)]) -> Result<(), Unmet> {
        let now = self.doors.clock.now_ms();
        // A monitor's word counts only if it is newer than its last one.
        self.reported_ms = now.max(self.reported_ms.saturating_add(1));
        for (monitor, metric, value) in said {
            let signal = Signal {
                app: self.app.to_string(),
                instance: None,
                observed_ms: self.reported_ms,
                metrics: BTreeMap::from([(*metric, *value)]),
                conditions: BTreeMap::new(),
                exit: None,
            };
            let rules = &self.tempo.policy.freshness;
            let known = |name: &str| self.doors.ingest.find(name);
            match signal::validate(&signal, monitor, now, rules, known) {
                Ok(accepted) => {
                    let _ = self.doors.ingest.accept(&accepted);
                }
                Err(rejected) => {
                    return Err(Unmet::Differs(format!("signal rejected: {rejected:?}")));
                }
            }
        }
        self.doors.agent.urgent(self.app.clone());
        // Events are taken in order: when this is answered, the window was closed.
        self.doors.agent.query(|_| ()).await.map_err(|_gone| Unmet::Stopped)
    }

    /// A deadline from now.
    pub(super) fn within(span: Duration) -> Instant {
        Instant::now() + span
    }

    /// The first decision since `mark` that `pick` takes.
    pub(super) async fn decision<T>(
        &mut self,
        mark: Mark,
        within: Duration,
        what: &str,
        mut pick: impl FnMut(&Decided) -> Option<T>,
    ) -> Result<(u64, T), Unmet> {
        let pick = |record: &Record| {
            let decided = record.decision()?;
            Some((record.seq, pick(decided)?))
        };
        self.log.find(mark, Self::within(within), what, pick).await
    }

    /// How `decision` ended.
    pub(super) async fn outcome(&mut self, decision: u64) -> Result<Concluded, Unmet> {
        let what = format!("the outcome of dec-{decision}");
        let pick = |record: &Record| match &record.body {
            Body::Concluded(concluded) if concluded.decision == decision => Some(concluded.clone()),
            _ => None,
        };
        let deadline = Self::within(self.tempo.patience());
        self.log.find(Mark::default(), deadline, &what, pick).await
    }

    /// Waits until `decision` is verified.
    pub(super) async fn verified(&mut self, decision: u64) -> Result<Concluded, Unmet> {
        let concluded = self.outcome(decision).await?;
        match concluded.outcome {
            Outcome::Verified => Ok(concluded),
            Outcome::Failed | Outcome::Inconclusive => Err(Unmet::Differs(format!(
                "dec-{decision} {} ended {:?}: {}",
                concluded.action, concluded.outcome, concluded.detail
            ))),
        }
    }

    /// What was executed since `mark`.
    pub(super) fn executed(&self, mark: Mark) -> Vec<Action> {
        let action = |record: &Record| match &record.body {
            Body::Attempted(attempt) => Some(attempt.plan.action),
            _ => None,
        };
        self.log.since(mark).filter_map(action).collect()
    }

    /// Leaves the app healthy if it can be: load ends, a pause is lifted, and what is down is started, or replaced by the last
    /// specification that worked. What fails here is logged and left to the agent and to people.
    pub(super) async fn tidy(&mut self) {
        self.telling = None;
        if let Some(load) = self.notes.load.take() {
            load.stop().await;
        }
        if std::mem::take(&mut self.notes.paused) {
            for _ in 0..self.size() {
                let scope = Scope::App(self.app.clone());
                let reason = "the scenario is over".to_owned();
                if let Err(error) = self.ask(Ask::Resume { scope, reason }).await {
                    tracing::warn!(%error, app = %self.app, "the pause of a scenario stays");
                }
                self.turn();
            }
        }
        if self.guest {
            return;
        }
        for _ in 0..self.size() {
            if let Err(error) = self.heal().await {
                tracing::warn!(%error, app = %self.app, "an app of a scenario is left as it is");
            }
            self.turn();
        }
    }

    async fn heal(&mut self) -> Result<(), Unmet> {
        let Ok(state) = self.state().await else { return Ok(()) };
        if state.health() == Health::Healthy && state.attempt.is_none() {
            return Ok(());
        }
        let pending = state.attempt.as_ref().map(|attempt| attempt.decision);
        if let Some(decision) = pending {
            let _ = self.outcome(decision).await;
        }
        let state = self.state().await?;
        if state.health() == Health::Healthy {
            return Ok(());
        }
        if state.profile.failed_revision.is_some()
            && let Some(good) = self.notes.good.take()
        {
            let (_, decision) = self.deploy(*good, true).await?;
            return self.verified(decision).await.map(drop);
        }
        if state.down().next().is_none() {
            return self.recovered().await;
        }
        let reason = "the scenario is over".to_owned();
        let (app, name) = (self.app.clone(), Action::Restart.as_str().to_owned());
        match self.ask(Ask::Act { app, name, params: Default::default(), reason }).await? {
            Reply::Decided { seq: Some(decision), .. } => self.verified(decision).await.map(drop),
            other => Err(Unmet::Differs(format!("{other:?}"))),
        }
    }
}

impl Play {
    /// Waits until the app is healthy: what was started last may still be on its way.
    async fn recovered(&mut self) -> Result<(), Unmet> {
        // Marked before it is looked at: what changes meanwhile is found.
        self.log.catch_up().await?;
        let since = self.log.mark();
        if self.state().await?.health() == Health::Healthy {
            return Ok(());
        }
        let app = self.app.clone();
        let healthy = |record: &Record| match record.body {
            Body::HealthChanged { health: Health::Healthy }
                if record.app.as_ref() == Some(&app) =>
            {
                Some(())
            }
            _ => None,
        };
        let deadline = Self::within(self.tempo.patience());
        self.log.find(since, deadline, "the app to be healthy", healthy).await
    }
}

/// `demo-<scenario>`, or the first `demo-<scenario>-<n>` that is free.
fn free_name(scenario: &str, taken: impl Fn(&AppName) -> bool) -> Result<AppName, Error> {
    let plain = format!("demo-{scenario}");
    let names = std::iter::once(plain.clone()).chain((2..SUFFIXES).map(|n| format!("{plain}-{n}")));
    let free = names.filter_map(|name| AppName::parse(&name).ok()).find(|name| !taken(name));
    free.ok_or(Error::NoSuchApp(plain))
}

/// A loopback port that is free now. It is bound again, and then held, when the app is deployed; in between somebody else could
/// take it, and then the deployment says so.
async fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let taken =
            |names: &'static [&'static str]| move |name: &AppName| names.contains(&name.as_str());
        let name = |names| free_name("crash", taken(names)).unwrap().to_string();
        assert_eq!(name(&[]), "demo-crash");
        assert_eq!(name(&["demo-crash"]), "demo-crash-2");
        assert_eq!(name(&["demo-crash", "demo-crash-2", "demo-crash-4"]), "demo-crash-3");
    }
}

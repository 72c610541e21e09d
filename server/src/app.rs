//! Wiring: bind early, replay, start what runs, drain in order.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentd_core::app::Env;
use agentd_core::policy::Policy;
use agentd_core::record::{Started, Stopped};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::act::process::ProcessActuator;
use crate::act::{self, Actuator};
use crate::agent::{self, Agent, Handle, Parts, Restored};
use crate::auth::{self, Authorizer, tokens::TokenTable};
use crate::blobs;
use crate::bus;
use crate::clock::Clock;
use crate::config::Config;
use crate::deploy::{self, Deployer};
use crate::grpc::{self, Services};
use crate::index::Index;
use crate::ingest::Ingest;
use crate::journal::{self, Journal};
use crate::listen::{self, Listen};
use crate::metrics::Metrics;
use crate::pages::Pages;
use crate::publish::Publisher;
use crate::rules::{self, Rulebook};
use crate::scenario::Stage;
use crate::snapshot::Taker;
use crate::specs;
use crate::tasks::{OnFailure, Tasks};
use crate::tlog::{self, Tlog};

mod restore;

/// Version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the program around the server brings.
#[derive(Debug, Clone)]
pub struct Host {
    /// Executable and leading arguments that become a shim: `[<this program>, "shim"]`.
    pub shim: Vec<PathBuf>,
    /// Executable and leading arguments of the demo app, for scenarios; empty: no scenarios.
    pub demo_app: Vec<PathBuf>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be made.
    #[error("cannot use data directory `{path}`")]
    DataDir {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}: is another server running there?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The tokens are not usable.
    #[error("cannot use the token file")]
    Tokens(#[from] auth::tokens::Error),
    /// The certificate or key is not usable.
    #[error("cannot use the certificate")]
    Tls(#[from] listen::tls::Error),
    /// The policy cannot be used.
    #[error("cannot use the policy")]
    Policy(#[from] rules::Error),
    /// The proof log cannot be opened.
    #[error("cannot open the proof log")]
    Journal(#[from] tlog::Error),
    /// The witnesses are not usable.
    #[error("cannot use the witnesses in `{path}`: {why}")]
    Witnesses {
        /// The policy file.
        path: PathBuf,
        /// Everything that is wrong with it.
        why: String,
    },
    /// The log holds something this version cannot read.
    #[error("the proof log cannot be read at entry {seq}")]
    Log {
        /// Where.
        seq: u64,
        /// Why.
        source: blobs::Error,
    },
    /// The log is of another environment.
    #[error("the data directory belongs to environment `{found}`, this server serves `{served}`")]
    Environment {
        /// Whose it is.
        found: Env,
        /// What was asked for.
        served: Env,
    },
    /// The processes cannot be taken over.
    #[error("cannot take over the processes")]
    Processes(#[from] act::process::Error),
    /// The signal that has the policy read again cannot be taken over.
    #[error("cannot take over SIGHUP")]
    Signals(#[source] std::io::Error),
    /// The compiled descriptor set cannot be served.
    #[error("cannot serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl Error {
    /// True if somebody has to change the configuration or a file it names; starting again would not help.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        match self {
            Self::DataDir { .. }
            | Self::Tokens(_)
            | Self::Tls(_)
            | Self::Policy(_)
            | Self::Witnesses { .. }
            | Self::Journal(tlog::Error::Witnesses(_))
            | Self::Environment { .. } => true,
            Self::Bind { .. }
            | Self::Journal(_)
            | Self::Log { .. }
            | Self::Processes(_)
            | Self::Signals(_)
            | Self::Reflection(_) => false,
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    otlp: Vec<SocketAddr>,
    agent_id: String,
    policy_digest: String,
    tasks: Tasks,
    agent: JoinHandle<()>,
    served: JoinHandle<()>,
    statistics: mpsc::Receiver<Stopped>,
    handle: Handle,
    clock: Arc<Clock>,
    bus: bus::Running,
    tokens: PathBuf,
    tlog: Tlog,
}

impl App {
    /// Starts a server; when this returns, it answers.
    ///
    /// # Errors
    /// [`Error`]; nothing runs then.
    pub async fn start(config: Config, host: Host) -> Result<Self, Error> {
        make_data_dir(&config.data_dir)?;
        let rules = Rules::load(&config)?;
        let (listeners, address, otlp) = bind_all(&config).await?;
        let (journal, tlog, restored) = restore::open_log(&config)?;
        let tasks = Tasks::new();
        let (clock, ingest) = (Arc::new(Clock::system()), Arc::new(Ingest::new()));
        let (handle, inbox) = agent::inbox();
        let shared = (handle.clone(), Arc::clone(&ingest), Arc::clone(&clock));
        let (actuator, workers) = processes(&config, &host, shared, &tasks).await?;
        let publisher = Publisher::new(restored.head.next_seq.saturating_sub(1));
        let bus = bus::start(config.redis.clone(), config.env, &publisher, &clock, &tasks);
        let metrics = Arc::new(Metrics::new(config.env));
        let agent_id = agent_id(&config)?;
        let policy_digest = in_force(&rules.policy, &restored).digest();
        let parts = Parts {
            id: agent_id.clone(),
            version: VERSION,
            loop_interval: config.loop_interval,
            started: started(&config, &agent_id),
            clock: Arc::clone(&clock),
            journal: journal.clone(),
            ingest: Arc::clone(&ingest),
            actuator: Arc::clone(&actuator),
            publisher: publisher.clone(),
            metrics: Arc::clone(&metrics),
            tasks: tasks.clone(),
        };
        let agent = Agent::new(parts, rules.policy, restored, inbox);
        let (health, health_service) = tonic_health::server::health_reporter();
        let services = Services {
            agent: handle.clone(),
            publisher,
            journal: journal.clone(),
            tlog,
            index: index(&config, &journal),
            ingest,
            intake: Arc::default(),
            metrics,
            bus: Some(bus.monitor()),
            workers: Some(workers),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            env: config.env,
            data_dir: config.data_dir.clone(),
            rules: Arc::clone(&rules.book),
            stage: stage(&config, &host),
            health: health.clone(),
        };
        let routes = grpc::routes(&services, health_service)?;
        attend(&services, journal, health)?;
        let listen = port(routes, &services, (rules.tokens, rules.tls), &config);
        let served = serve(listen, listeners, &tasks);
        let (agent, statistics) = run(agent, actuator, &tasks);
        Ok(Self {
            address,
            otlp,
            agent_id,
            policy_digest,
            tasks,
            agent,
            served,
            statistics,
            handle,
            clock,
            bus,
            tokens: token_file(&config),
            tlog: services.tlog,
        })
    }

    /// Where it listens; the port is known even if 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for OTLP beside that: over gRPC, over HTTP.
    #[must_use]
    pub fn otlp(&self) -> &[SocketAddr] {
        &self.otlp
    }

    /// Id of its agent.
    #[must_use]
    pub fn agent_id(&self) -> &str {
        &self.agent_id
    }

    /// Digest of the policy in force.
    #[must_use]
    pub fn policy_digest(&self) -> &str {
        &self.policy_digest
    }

    /// The token file in use.
    #[must_use]
    pub fn tokens(&self) -> &Path {
        &self.tokens
    }

    /// The way into the loop, for tests in the same process.
    #[must_use]
    pub fn agent(&self) -> Handle {
        self.handle.clone()
    }

    /// Its clock, for whoever measures what takes longer than they can wait.
    #[must_use]
    pub fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.clock)
    }

    /// How the bus is.
    #[must_use]
    pub fn bus(&self) -> bus::BusStats {
        self.bus.monitor().stats()
    }

    /// Takes SIGTERM and SIGINT over at once; what is returned ends at the first of them, or when a task has ended that the server
    /// cannot do without. Called before the server is announced: whoever knows of it may ask it to stop.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn asked_to_stop(&self) -> std::io::Result<impl Future<Output = ()> + use<>> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stopping = self.tasks.stopping();
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = stopping.cancelled() => {}
            }
        })
    }

    /// Drains: streams end, the step in progress is finished, the last record is written. Applications go on running.
    pub async fn stop(mut self) -> Option<Stopped> {
        self.tasks.stop();
        let stopped = self.statistics.recv().await;
        // Both end by themselves once asked to; a task that panicked has been reported by its spawner.
        let _ = self.agent.await;
        if let Err(error) = self.tlog.publish_all().await {
            tracing::warn!(%error, "the end of the proof log is not published");
        }
        // The last record was published: the bus may have it too.
        self.bus.stop().await;
        let _ = self.served.await;
        stopped
    }
}

/// What is read and checked before anything runs.
struct Rules {
    policy: Policy,
    book: Arc<Rulebook>,
    tokens: TokenTable,
    tls: Option<listen::tls::TlsSetup>,
}

impl Rules {
    fn load(config: &Config) -> Result<Self, Error> {
        let book = Rulebook::new(config.policy.clone(), config.env, config.demo_mode);
        let policy = book.load()?;
        let tokens = match &config.tokens {
            Some(path) => TokenTable::load(path)?,
            None => TokenTable::load_or_generate(&config.data_dir)?,
        };
        let tls = match &config.tls {
            Some(files) => Some(listen::tls::TlsSetup::load(&files.certificate, &files.key)?),
            None => None,
        };
        Ok(Self { policy, book: Arc::new(book), tokens, tls })
    }
}

/// The one port, and the addresses where OpenTelemetry looks for it.
async fn bind_all(
    config: &Config,
) -> Result<(Vec<TcpListener>, SocketAddr, Vec<SocketAddr>), Error> {
    let (listener, address) = bind(config.listen).await?;
    let (mut listeners, mut otlp) = (vec![listener], Vec::new());
    for wanted in config.otlp_grpc_listen.into_iter().chain(config.otlp_http_listen) {
        let (listener, bound) = bind(wanted).await?;
        tracing::info!(address = %bound, "listens for OTLP as well");
        listeners.push(listener);
        otlp.push(bound);
    }
    Ok((listeners, address, otlp))
}

/// Binds before the replay: whoever connects early waits in the backlog instead of being refused.
async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let fail = |source| Error::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

/// Takes over what runs, with what makes releases of apps that come from repositories.
async fn processes(
    config: &Config,
    host: &Host,
    shared: (Handle, Arc<Ingest>, Arc<Clock>),
    tasks: &Tasks,
) -> Result<(Arc<dyn Actuator>, deploy::Monitor), Error> {
    let root = config.data_dir.join("apps");
    let shim = host.shim.iter().map(|part| part.clone().into_os_string()).collect();
    let deployer = Deployer::open(root.clone(), shim);
    let workers = deployer.monitor();
    let (period, tasks) = (config.loop_interval, tasks.clone());
    let opened = ProcessActuator::open((root, deployer), &host.shim, period, shared, tasks).await?;
    Ok((Arc::new(opened), workers))
}

/// Where scenarios run: not in prod, and not without an app to run them on.
fn stage(config: &Config, host: &Host) -> Option<Arc<Stage>> {
    let possible = config.env != Env::Prod && !host.demo_app.is_empty();
    possible.then(|| Arc::new(Stage::new(host.demo_app.clone())))
}

/// Who may call what, by the token file as it is and as it will be.
fn authorizer(tokens: TokenTable, config: &Config, tasks: &Tasks) -> Arc<Authorizer> {
    let authorizer = Arc::new(Authorizer::new(tokens));
    let fresh = auth::reload::watch(token_file(config), Arc::clone(&authorizer), tasks.stopping());
    tasks.spawn("tokens", OnFailure::Log, fresh);
    authorizer
}

fn token_file(config: &Config) -> PathBuf {
    config.tokens.clone().unwrap_or_else(|| config.data_dir.join(auth::tokens::FILE_NAME))
}

fn started(config: &Config, agent_id: &str) -> Started {
    Started {
        agent_id: agent_id.to_owned(),
        version: VERSION.to_owned(),
        demo: config.demo_mode,
        dry_run: config.dry_run,
        frozen: config.freeze,
    }
}

/// The one port: gRPC, and pages beside it.
fn port(
    routes: tonic::service::Routes,
    services: &Services,
    (tokens, tls): (TokenTable, Option<listen::tls::TlsSetup>),
    config: &Config,
) -> Listen<tonic::service::Routes> {
    let listen = Listen::new(routes, authorizer(tokens, config, &services.tasks));
    let pages = Pages::new(services, listen.counters(), config.metrics_open);
    listen.with_limits(config.limits.clone()).with_tls(tls).with_pages(pages)
}

/// What goes on beside the loop and the port.
fn attend(
    services: &Services,
    journal: Journal,
    health: tonic_health::server::HealthReporter,
) -> Result<(), Error> {
    let tasks = &services.tasks;
    tasks.spawn("health", OnFailure::Log, watch_health(journal, health, tasks.clone()));
    tasks.spawn("spec-files", OnFailure::Log, specs::follow(services.clone()));
    let taker = Taker::new(services.agent.clone(), services.journal.clone(), services.tlog.clone());
    tasks.spawn("snapshots", OnFailure::Log, taker.run(tasks.clone()));
    rules::reload_on_hangup(services).map_err(Error::Signals)
}

fn serve(
    listen: Listen<tonic::service::Routes>,
    listeners: Vec<TcpListener>,
    tasks: &Tasks,
) -> JoinHandle<()> {
    let serving = tasks.clone();
    tasks.spawn("listen", OnFailure::Shutdown, async move {
        listen.serve(listeners, &serving).await;
    })
}

/// Runs the loop; its final statistics come through the channel.
fn run(
    agent: Agent,
    actuator: Arc<dyn Actuator>,
    tasks: &Tasks,
) -> (JoinHandle<()>, mpsc::Receiver<Stopped>) {
    let (report, statistics) = mpsc::channel(1);
    let running = tasks.spawn("agent", OnFailure::Shutdown, async move {
        let stopped = agent.run().await;
        actuator.close().await;
        // Nobody asks for the statistics when the server is dropped instead of stopped.
        let _ = report.send(stopped).await;
    });
    (running, statistics)
}

fn make_data_dir(path: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::DataDir { path: path.to_owned(), source })
}

/// What a human applied stays in force, unless it breaks a rule of this version or of the way it was started: then the policy of the
/// configuration is put in force again, and said to be.
fn keep_sound(config: &Config, restored: &mut Restored) {
    let faults = rules::check(&restored.policy, config.env, config.demo_mode);
    if faults.is_empty() || restored.state.policy_author.is_file() {
        return;
    }
    let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
    tracing::error!(
        faults = all.join("; "),
        "the applied policy is not usable any more: the configured one is in force"
    );
    restored.state.policy_base.clear();
}

/// The policy the agent begins with.
fn in_force<'a>(configured: &'a Policy, restored: &'a Restored) -> &'a Policy {
    let applied = configured.digest() == restored.state.policy_base;
    if applied { &restored.policy } else { configured }
}

/// The index beside the log. Without it lists are slower, which is no reason not to start.
fn index(config: &Config, journal: &Journal) -> Option<Index> {
    let started = Index::start(&config.data_dir.join("proof"), journal);
    started.inspect_err(|error| tracing::error!(%error, "the proof log has no index")).ok()
}

/// The configured id, or the one kept in the data directory, or a fresh `agent-<8 hex>` that is kept from now on.
fn agent_id(config: &Config) -> Result<String, Error> {
    if let Some(id) = &config.agent_id {
        return Ok(id.clone());
    }
    let path = config.data_dir.join("agent_id");
    let io = |source| Error::DataDir { path: path.clone(), source };
    match std::fs::read_to_string(&path) {
        Ok(id) if crate::config::parse_agent_id(id.trim()).is_some() => Ok(id.trim().to_owned()),
        Ok(_) | Err(_) => {
            let random = uuid::Uuid::new_v4().simple().to_string();
            let id = format!("agent-{}", random.get(..8).unwrap_or("00000000"));
            std::fs::write(&path, &id).map_err(io)?;
            Ok(id)
        }
    }
}

/// Keeps `grpc.health.v1` in step with the log: an agent that cannot record cannot act.
async fn watch_health(
    journal: Journal,
    health: tonic_health::server::HealthReporter,
    tasks: Tasks,
) {
    let mut status = journal.watch_status();
    let stopping = tasks.stopping();
    loop {
        let can_act = *status.borrow_and_update() == journal::Status::Writable;
        grpc::report_health(&health, can_act).await;
        tokio::select! {
            changed = status.changed() => if changed.is_err() { break },
            () = stopping.cancelled() => {
                grpc::report_health(&health, false).await;
                break;
            }
        }
    }
}

/// Longest time a server takes to stop: the drain of its port and one second.
pub const STOP_MAX: Duration = Duration::from_secs(11);

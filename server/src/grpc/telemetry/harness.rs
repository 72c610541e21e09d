//! A whole server without a socket, for tests of the services: the real loop on a real log in a temporary directory, with the
//! actuator that has no outside world.

use std::sync::Arc;
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::onboarding_service_server::OnboardingService as _;
use agentd_core::app::{AppName, Env};
use agentd_core::policy::Policy;
use agentd_core::record::{Record, Started};
use agentd_core::replay::Replay;
use agentd_core::step::By;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::Request;

use crate::act::{Actuator, memory::Memory};
use crate::agent::{Agent, AgentView, Ask, Parts, Restored};
use crate::auth::{Principal, Role};
use crate::clock::Clock;
use crate::grpc::{Services, onboarding};
use crate::ingest::Ingest;
use crate::journal;
use crate::publish::Publisher;
use crate::tasks::{OnFailure, Tasks};
use crate::tlog;

/// Longest wait for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(60);

pub(in crate::grpc) struct Server {
    pub(in crate::grpc) services: Services,
    pub(in crate::grpc) memory: Arc<Memory>,
    pub(in crate::grpc) dir: Arc<TempDir>,
    agent: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.services.tasks.stop();
    }
}

impl Server {
    pub(in crate::grpc) fn start(env: Env) -> Self {
        Self::with(env, Clock::system())
    }

    pub(in crate::grpc) fn with(env: Env, clock: Clock) -> Self {
        Self::open(env, clock, Arc::new(tempfile::tempdir().unwrap()))
    }

    /// Stops the server and starts it again on what it left behind.
    pub(in crate::grpc) async fn restart(mut self) -> Self {
        let (env, dir) = (self.services.env, Arc::clone(&self.dir));
        self.services.tasks.stop();
        self.agent.take().unwrap().await.unwrap();
        drop(self);
        Self::open(env, Clock::system(), dir)
    }

    fn open(env: Env, clock: Clock, dir: Arc<TempDir>) -> Self {
        let config = journal::Config::new(dir.path().join("proof"));
        let mut replay = Replay::new(env);
        let (opened, tlog) =
            tlog::open(tlog::Config::on_demand(dir.path()), config, &mut |_, line| {
                replay.fold(&Record::parse(line).unwrap());
            })
            .unwrap();
        let (handle, inbox) = crate::agent::inbox();
        let memory = Arc::new(Memory::new(handle.clone()));
        let tasks = Tasks::new();
        let clock = Arc::new(clock);
        let ingest = Arc::new(Ingest::new());
        let publisher = Publisher::new(opened.head.next_seq - 1);
        let agent_id = "agent-0badcafe".to_owned();
        let started = Started {
            agent_id: agent_id.clone(),
            version: "test".to_owned(),
            demo: false,
            dry_run: false,
            frozen: false,
        };
        let metrics = Arc::new(crate::metrics::Metrics::new(Env::Stage));
        let parts = Parts {
            metrics: Arc::clone(&metrics),
            id: agent_id,
            version: "test",
            loop_interval: Duration::from_millis(50),
            started,
            clock: Arc::clone(&clock),
            journal: opened.journal.clone(),
            ingest: Arc::clone(&ingest),
            actuator: Arc::clone(&memory) as Arc<dyn Actuator>,
            publisher: publisher.clone(),
            tasks: tasks.clone(),
        };
        let Replay { state, policy: applied, .. } = replay;
        let restored = Restored { state, policy: applied, head: opened.head };
        let agent = Agent::new(parts, Policy::default_for(env), restored, inbox);
        let agent = tasks.spawn("agent", OnFailure::Shutdown, async move {
            agent.run().await;
        });
        let (health, _) = tonic_health::server::health_reporter();
        let services = Services {
            metrics,
            agent: handle,
            publisher,
            journal: opened.journal,
            tlog,
            index: None,
            ingest,
            intake: Arc::default(),
            bus: None,
            workers: None,
            clock,
            tasks,
            env,
            data_dir: dir.path().to_owned(),
            rules: Arc::default(),
            stage: None,
            health,
        };
        Self { services, memory, dir, agent: Some(agent) }
    }

    /// Takes an app under control, and waits until it runs.
    pub(in crate::grpc) async fn onboard(&self, name: &str) -> v1::OnboardAppResponse {
        let request = Self::ask(Role::Operator, onboarding(name));
        let answer = onboarding::Service(self.services.clone()).onboard_app(request).await;
        self.until_ready(name).await;
        answer.unwrap().into_inner()
    }

    /// So many records more, at least.
    pub(in crate::grpc) async fn live(&self, records: u64) {
        for turn in 0..records {
            let principal = "olivia".to_owned();
            let by = By { principal, human: true, request: None, validate_only: false };
            let ask = Ask::Freeze { frozen: turn % 2 == 0, reason: format!("turn {turn}") };
            self.services.agent.ask(ask, by).await.unwrap().unwrap();
        }
    }

    /// A request of a principal called after its role.
    pub(in crate::grpc) fn ask<T>(role: Role, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Principal::new(role.as_str(), [role], None));
        request
    }

    /// Waits until `look` finds what it looks for.
    pub(in crate::grpc) async fn until<T, F>(&self, look: F) -> T
    where
        T: Send + 'static,
        F: Fn(&AgentView<'_>) -> Option<T> + Clone + Send + 'static,
    {
        let wait = async {
            loop {
                let look = look.clone();
                if let Some(found) =
                    self.services.agent.query(move |view| look(view)).await.unwrap()
                {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it never happened")
    }

    /// Waits until the app has as many ready instances as it should.
    pub(in crate::grpc) async fn until_ready(&self, app: &str) {
        let app = AppName::parse(app).unwrap();
        self.until(move |view| {
            view.state.apps.get(&app).filter(|app| app.ready() >= app.desired).map(|_| ())
        })
        .await;
    }
}

/// A request that breaks no rule.
pub(in crate::grpc) fn onboarding(name: &str) -> v1::OnboardAppRequest {
    let exec = v1::ExecSource { path: "/bin/sleep".to_owned(), args: vec!["60".to_owned()] };
    v1::OnboardAppRequest {
        name: name.to_owned(),
        environment: "dev".to_owned(),
        runtime: "binary".to_owned(),
        source: Some(v1::onboard_app_request::Source::Exec(exec)),
        ..v1::OnboardAppRequest::default()
    }
}

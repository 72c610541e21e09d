//! The real loop on a real log, with an actuator that has no outside world and is in no hurry: an effect ends when the loop has been
//! told of everything it caused, so that what follows from it does not depend on which thread was faster.

use std::sync::Arc;
use std::time::Duration;

use agentctl_api::v1;
use agentd_core::app::{AppName, Env};
use agentd_core::policy::Policy;
use agentd_core::record::Started;
use agentd_core::signal::{MICRO, Metric, Sample};
use agentd_core::state::State;
use tempfile::TempDir;
use tonic::Request;

use crate::act::Actuator;
use crate::act::memory::Memory;
use crate::agent::{Agent, AgentView, Ask, Parts, Restored};
use crate::auth::{Principal, Role};
use crate::clock::Clock;
use crate::grpc::{Services, outcome};
use crate::index::Index;
use crate::ingest::Ingest;
use crate::journal;
use crate::publish::Publisher;
use crate::tasks::{OnFailure, Tasks};
use crate::tlog;

/// Longest wait for something that has to happen.
pub(in crate::grpc) const PATIENCE: Duration = Duration::from_secs(60);
pub(in crate::grpc) struct Server {
    pub(in crate::grpc) services: Services,
    pub(in crate::grpc) memory: Arc<Memory>,
    _dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.services.tasks.stop();
    }
}

impl Server {
    pub(in crate::grpc) fn start() -> Self {
        let env = Env::Stage;
        let dir = tempfile::tempdir().unwrap();
        let config = journal::Config::new(dir.path().join("proof"));
        let published = tlog::Config::on_demand(dir.path());
        let (opened, tlog) = tlog::open(published, config, &mut |_, _| {}).unwrap();
        let index = Index::start(&dir.path().join("proof"), &opened.journal).unwrap();
        let (handle, inbox) = crate::agent::inbox();
        let memory = Arc::new(Memory::new(handle.clone()));
        let (tasks, ingest) = (Tasks::new(), Arc::new(Ingest::new()));
        let clock = Arc::new(Clock::manual(1_800_000_000_000));
        let publisher = Publisher::new(0);
        let started = Started {
            agent_id: "agent-0badcafe".to_owned(),
            version: "test".to_owned(),
            demo: false,
            dry_run: false,
            frozen: false,
        };
        let metrics = Arc::new(crate::metrics::Metrics::new(Env::Stage));
        let parts = Parts {
            metrics: Arc::clone(&metrics),
            id: started.agent_id.clone(),
            version: "test",
            loop_interval: Duration::from_millis(20),
            started,
            clock: Arc::clone(&clock),
            journal: opened.journal.clone(),
            ingest: Arc::clone(&ingest),
            actuator: Arc::clone(&memory) as Arc<dyn Actuator>,
            publisher: publisher.clone(),
            tasks: tasks.clone(),
        };
        let restored = Restored {
            state: State::new(env),
            policy: Policy::default_for(env),
            head: opened.head,
        };
        let agent = Agent::new(parts, Policy::default_for(env), restored, inbox);
        tasks.spawn("agent", OnFailure::Shutdown, async move {
            agent.run().await;
        });
        let (health, _) = tonic_health::server::health_reporter();
        let services = Services {
            metrics,
            agent: handle,
            publisher,
            journal: opened.journal,
            tlog,
            index: Some(index),
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
        Self { services, memory, _dir: dir }
    }

    /// A server where app `web` is deployed and nothing is in flight.
    pub(in crate::grpc) async fn ready() -> Self {
        let server = Self::start();
        server.onboard("web").await;
        server.settled().await;
        server
    }

    /// Onboards an app with two instances as `operator`.
    pub(in crate::grpc) async fn onboard(&self, name: &str) {
        use agentd_core::app::{OnboardRequest, RequestedSource};
        let source = RequestedSource::Exec { path: "/bin/true".into(), args: Vec::new() };
        let request = OnboardRequest {
            name: name.into(),
            env: self.services.env.as_str().into(),
            runtime: "binary".into(),
            source,
            min_instances: Some(1),
            desired_instances: Some(2),
            max_instances: Some(4),
            ..OnboardRequest::default()
        };
        let by = agentd_core::step::By {
            principal: "operator".into(),
            human: true,
            request: None,
            validate_only: false,
        };
        let ask = Ask::Onboard(Box::new(request), Vec::new());
        outcome::answer(self.services.agent.ask(ask, by).await).unwrap();
    }

    /// Lets time pass until nothing is in flight at `web` and nothing is wrong with it, so that the agent has nothing to decide. A
    /// monitor reports all the while.
    pub(in crate::grpc) async fn settled(&self) {
        let web = AppName::parse("web").unwrap();
        let (clock, ingest) = (Arc::clone(&self.services.clock), Arc::clone(&self.services.ingest));
        self.until(move |view| {
            let app = view.state.apps.get(&web)?;
            let busy = app.attempt.is_some() || !app.open.is_empty() || app.ready() < app.desired;
            clock.advance(u64::from(busy) * 1_000);
            let now = clock.now_ms();
            let sample = Sample {
                metric: Metric::CpuUtilization,
                micro: MICRO / 2,
                instance: None,
                source: "ci".to_owned(),
                observed_ms: now,
                received_ms: now,
            };
            ingest.sample(&web, &sample);
            (!busy).then_some(())
        })
        .await;
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
                let found = self.services.agent.query(move |view| look(view)).await.unwrap();
                if let Some(found) = found {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it never happened")
    }

    /// A request of a principal called after its role.
    pub(in crate::grpc) fn ask<T>(role: Role, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Principal::new(role.as_str(), [role], None));
        request
    }
}

/// A request for an action of `web`.
pub(in crate::grpc) fn proposal(action: &str) -> v1::ProposeActionRequest {
    v1::ProposeActionRequest {
        app: "web".into(),
        action: action.into(),
        reason: "drill".into(),
        ..Default::default()
    }
}

/// Asks for something that needs a second person everywhere.
pub(in crate::grpc) fn adjustment(enter: &str) -> v1::ProposeActionRequest {
    let parameters = [("metric", "cpu_utilization"), ("enter", enter), ("leave", "0.7")];
    let parameters = parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    v1::ProposeActionRequest { parameters, ..proposal("ADJUST_THRESHOLDS") }
}

//! Rehearsals over the wire: what there is, and one run as a stream of its steps.

use std::pin::Pin;
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::run_scenario_response::Item;
use agentctl_api::v1::scenario_service_server::ScenarioService;
use agentd_core::app::Env;
use agentd_core::reason::Reason;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::status::{self, Violation};
use super::{Services, ids, outcome, to_proto};
use crate::agent::Gone;
use crate::scenario::{self, Doors, Error, Progress, Run, StepReport, Summary, Tempo};
use crate::tasks::OnFailure;

/// Time after which the stage may be free again.
const BUSY_RETRY: Duration = Duration::from_secs(5);
/// Time after which a port may be free again.
const PORT_RETRY: Duration = Duration::from_secs(1);

/// The service.
#[derive(Debug)]
pub struct Service(pub Services);

type Responses = Pin<Box<dyn Stream<Item = Result<v1::RunScenarioResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ScenarioService for Service {
    type RunScenarioStream = Responses;

    async fn list_scenarios(
        &self,
        _request: Request<v1::ListScenariosRequest>,
    ) -> Result<Response<v1::ListScenariosResponse>, Status> {
        // Where none can be run there are none.
        if self.0.stage.is_none() {
            return Ok(Response::new(v1::ListScenariosResponse::default()));
        }
        let tempo = self.0.agent.query(Tempo::of).await.map_err(outcome::gone)?;
        let scenarios = scenario::SCENARIOS.iter().map(|s| listed(s, &tempo)).collect();
        Ok(Response::new(v1::ListScenariosResponse { scenarios }))
    }

    async fn run_scenario(
        &self,
        request: Request<v1::RunScenarioRequest>,
    ) -> Result<Response<Self::RunScenarioStream>, Status> {
        let (_, extensions, mut wire) = request.into_parts();
        let id = std::mem::take(&mut wire.request_id);
        let by = outcome::by(&extensions, "ScenarioService/RunScenario", &id, &wire, false)?;
        let services = &self.0;
        let Some(stage) = &services.stage else { return Err(no_stage(services.env)) };
        let known = scenario::find(&wire.name);
        let scenario = known.ok_or_else(|| status::not_found("scenario", &wire.name))?;
        let request = scenario::Request {
            scenario,
            app: (!wire.app.is_empty()).then_some(wire.app),
            request_id: by.request.map(|request| request.id),
            principal: by.principal,
        };
        let run = Run::prepare(stage, doors(services), request).await.map_err(refused)?;
        let (progress, steps) = mpsc::channel(scenario::PROGRESS);
        // On a task of its own: whoever hangs up ends the run, and what it started is still left in order.
        services.tasks.spawn("scenario", OnFailure::Log, run.perform(progress));
        Ok(Response::new(Box::pin(ReceiverStream::new(steps).map(|one| Ok(response(one))))))
    }
}

fn doors(services: &Services) -> Doors {
    Doors {
        agent: services.agent.clone(),
        publisher: services.publisher.clone(),
        journal: services.journal.clone(),
        ingest: services.ingest.clone(),
        clock: services.clock.clone(),
        tasks: services.tasks.clone(),
        env: services.env,
        data_dir: services.data_dir.clone(),
    }
}

fn listed(scenario: &scenario::Scenario, tempo: &Tempo) -> v1::Scenario {
    v1::Scenario {
        name: scenario.name.to_owned(),
        summary: scenario.summary.to_owned(),
        steps: scenario.steps.iter().map(|step| step.name.to_owned()).collect(),
        typical_duration: Some(span(scenario.typical(tempo))),
    }
}

fn response(progress: Progress) -> v1::RunScenarioResponse {
    let item = match progress {
        Progress::Step(report) => Item::Step(step(report)),
        Progress::Summary(summary) => Item::Summary(self::summary(summary)),
    };
    v1::RunScenarioResponse { item: Some(item) }
}

fn step(report: StepReport) -> v1::ScenarioStep {
    let status = match report.status {
        scenario::Status::Running => v1::StepStatus::Running,
        scenario::Status::Passed => v1::StepStatus::Passed,
        scenario::Status::Failed => v1::StepStatus::Failed,
        scenario::Status::Skipped => v1::StepStatus::Skipped,
    };
    v1::ScenarioStep {
        index: report.index,
        total: report.total,
        name: report.step.name.to_owned(),
        status: status.into(),
        expected: report.step.expected.to_owned(),
        actual: report.actual,
        decision_id: report.decision.map(ids::decision).unwrap_or_default(),
        elapsed: Some(span(report.elapsed)),
    }
}

fn summary(summary: Summary) -> v1::ScenarioSummary {
    v1::ScenarioSummary {
        passed: summary.passed == summary.total,
        passed_steps: summary.passed,
        total_steps: summary.total,
        elapsed: Some(span(summary.elapsed)),
        event_counts: summary.events.into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
    }
}

fn span(span: Duration) -> prost_types::Duration {
    to_proto::duration(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn no_stage(env: Env) -> Status {
    if env == Env::Prod {
        let text = "failures are never made on purpose in prod; run scenarios in dev or stage";
        return status::precondition(Reason::ProdSafetyBlock.as_str(), "environment:prod", text);
    }
    let text = "this server has no demo app; start it with agentctl up";
    status::precondition("NO_DEMO_APP", "server", text)
}

fn refused(error: Error) -> Status {
    let text = error.to_string();
    match error {
        Error::Busy { .. } => {
            status::exhausted("SCENARIO_RUNNING", "scenarios", &text, Some(BUSY_RETRY))
        }
        Error::SameRequest(id) => status::already_exists("REQUEST_RUNNING", "request", &id),
        Error::DryRun => status::precondition(Reason::DryRun.as_str(), "server", &text),
        Error::Paused => status::precondition(Reason::Paused.as_str(), "environment", &text),
        Error::DemoMode(name) => status::precondition(Reason::DemoModeBlock.as_str(), name, &text),
        Error::OwnApp(_) => {
            status::invalid(&[Violation::new("app", text, "must be empty for this scenario")])
        }
        Error::NoSuchApp(name) => status::not_found("app", &name),
        Error::DemoApp => status::precondition("NO_DEMO_APP", "server", &text),
        Error::Port(_) => status::unavailable("NO_PORT", &text, Some(PORT_RETRY)),
        Error::Stopped => outcome::gone(Gone),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn every_reason_not_to_begin_has_its_code() {
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned();
        for (error, code, reason) in [
            (Error::Busy { scenario: "crash" }, Code::ResourceExhausted, "SCENARIO_RUNNING"),
            (Error::SameRequest(id), Code::AlreadyExists, "REQUEST_RUNNING"),
            (Error::DryRun, Code::FailedPrecondition, "DRY_RUN"),
            (Error::Paused, Code::FailedPrecondition, "PAUSED"),
            (Error::DemoMode("repetition"), Code::FailedPrecondition, "DEMO_MODE_BLOCK"),
            (Error::OwnApp("overload"), Code::InvalidArgument, "INVALID_ARGUMENT"),
            (Error::NoSuchApp("x".to_owned()), Code::NotFound, "NOT_FOUND"),
            (Error::DemoApp, Code::FailedPrecondition, "NO_DEMO_APP"),
            (Error::Port("full".to_owned()), Code::Unavailable, "NO_PORT"),
            (Error::Stopped, Code::Unavailable, "DRAINING"),
        ] {
            let status = refused(error);
            let info = status.get_details_error_info().expect("an ErrorInfo");
            assert_eq!((status.code(), &*info.reason), (code, reason));
        }
        assert_eq!(no_stage(Env::Prod).code(), Code::FailedPrecondition);
        assert_eq!(no_stage(Env::Stage).code(), Code::FailedPrecondition);
    }
}

//! Taking applications under control, and looking at them.

use std::path::Path;

use agentctl_api::v1;
use agentctl_api::v1::onboarding_service_server::OnboardingService;
use agentd_core::app::{AppName, AppSpec, OnboardRequest, Violation};
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Record};
use agentd_core::state::SpecHistory;
use agentd_core::step::{By, Reply};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::log::{self, Log};
use super::{Services, from_proto, ids, outcome, status, to_proto};
use crate::agent::Ask;
use crate::specs;
use crate::tasks::OnFailure;

mod graduation;
mod history;
mod host;
pub(super) mod latest;
mod list;
mod update;
mod uptime;

/// Records one onboarding can make: more than there are kinds of them.
const RECORDS_MAX: usize = 64;

/// The service.
#[derive(Debug)]
pub struct Service(pub Services);

#[tonic::async_trait]
impl OnboardingService for Service {
    async fn onboard_app(
        &self,
        request: Request<v1::OnboardAppRequest>,
    ) -> Result<Response<v1::OnboardAppResponse>, Status> {
        let (_, extensions, mut wire) = request.into_parts();
        let id = std::mem::take(&mut wire.request_id);
        let method = "OnboardingService/OnboardApp";
        let by = outcome::by(&extensions, method, &id, &wire, wire.validate_only)?;
        // On a task of its own: whoever hangs up after the record was made still gets the file that belongs to it.
        let (reply, answer) = oneshot::channel();
        let services = self.0.clone();
        self.0.tasks.spawn("onboard", OnFailure::Log, async move {
            // Nobody waits any more when the call was cancelled.
            let _ = reply.send(onboard(&services, &wire, by).await);
        });
        let answer = answer.await.map_err(|_panicked| status::internal("onboard"))?;
        answer.map(Response::new)
    }

    async fn get_app(
        &self,
        request: Request<v1::GetAppRequest>,
    ) -> Result<Response<v1::GetAppResponse>, Status> {
        let asked = request.into_inner().name;
        let missing = || status::not_found("app", &asked);
        let name = AppName::parse(&asked).map_err(|_invalid| missing())?;
        let (app, spec) = look_up(&self.0, name).await?.ok_or_else(missing)?;
        Ok(Response::new(v1::GetAppResponse { app: Some(app), spec_json: spec.to_json() }))
    }

    async fn list_apps(
        &self,
        request: Request<v1::ListAppsRequest>,
    ) -> Result<Response<v1::ListAppsResponse>, Status> {
        let listing = list::Listing::read(request.into_inner())?;
        let page = self.0.agent.query(move |view| listing.page(view)).await;
        let mut page = page.map_err(outcome::gone)?;
        latest::complete(&self.0, &mut page.apps).await;
        Ok(Response::new(page))
    }

    async fn update_app(
        &self,
        request: Request<v1::UpdateAppRequest>,
    ) -> Result<Response<v1::UpdateAppResponse>, Status> {
        update::update(&self.0, request).await.map(Response::new)
    }

    async fn offboard_app(
        &self,
        request: Request<v1::OffboardAppRequest>,
    ) -> Result<Response<v1::OffboardAppResponse>, Status> {
        update::offboard(&self.0, request).await.map(Response::new)
    }

    async fn get_app_uptime(
        &self,
        request: Request<v1::GetAppUptimeRequest>,
    ) -> Result<Response<v1::GetAppUptimeResponse>, Status> {
        uptime::get(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn list_app_history(
        &self,
        request: Request<v1::ListAppHistoryRequest>,
    ) -> Result<Response<v1::ListAppHistoryResponse>, Status> {
        history::list(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn get_app_graduation(
        &self,
        request: Request<v1::GetAppGraduationRequest>,
    ) -> Result<Response<v1::GetAppGraduationResponse>, Status> {
        graduation::report(&self.0, &request.into_inner().name).await.map(Response::new)
    }
}

async fn look_up(services: &Services, name: AppName) -> Result<Option<(v1::App, AppSpec)>, Status> {
    let found = services.agent.query(move |view| {
        let spec = view.state.specs.get(&name).and_then(SpecHistory::spec)?.clone();
        Some((to_proto::app(view, &name)?, spec))
    });
    let mut found = found.await.map_err(outcome::gone)?;
    if let Some((app, _)) = &mut found {
        latest::complete(services, std::slice::from_mut(app)).await;
    }
    Ok(found)
}

/// Validates, records and decides in one step of the loop; then makes the file.
async fn onboard(
    services: &Services,
    wire: &v1::OnboardAppRequest,
    by: By,
) -> Result<v1::OnboardAppResponse, Status> {
    let (request, mut found) = from_proto::onboard(wire);
    found.extend(host::seen(services, &request, "onboarding").await?);
    match ask(services, request, found, by).await? {
        Reply::Onboarded { spec, seq: None, .. } => Ok(preview(&spec)),
        Reply::Onboarded { seq: Some(seq), .. } | Reply::Repeated { seq } => {
            accepted(services, seq).await
        }
        other => {
            tracing::error!(?other, "no answer to an onboarding");
            Err(status::internal("onboard"))
        }
    }
}

async fn ask(
    services: &Services,
    request: OnboardRequest,
    found: Vec<Violation>,
    by: By,
) -> Result<Reply, Status> {
    match services.agent.ask(Ask::Onboard(Box::new(request), found), by).await {
        Ok(Ok(Reply::Invalid(violations))) => Err(refused(&violations)),
        answer => outcome::answer(answer),
    }
}

/// What is wrong, all of it. A request that is sound in itself and still cannot be done is no invalid argument.
fn refused(violations: &[Violation]) -> Status {
    if let [only] = violations {
        let Violation { field, reason, value, rule, fix } = only;
        if reason == Reason::ProdSafetyBlock.as_str() {
            let subject = format!("{field}:{value}");
            return status::precondition(reason, &subject, &format!("{rule}; {fix}"));
        }
    }
    let wire: Vec<status::Violation> = violations
        .iter()
        .map(|v| status::Violation::new(from_proto::field(&v.field), &*v.value, &*v.rule))
        .collect();
    status::invalid_because("ONBOARDING_INVALID", &wire)
}

/// The app as it would be.
fn preview(spec: &AppSpec) -> v1::OnboardAppResponse {
    let digest = ids::digest(&spec.digest());
    let level = spec.autonomy.map_or(v1::AutonomyLevel::Unspecified, to_proto::level);
    let app = v1::App {
        name: spec.name.to_string(),
        environment: spec.env.as_str().to_owned(),
        runtime: spec.runtime.as_str().to_owned(),
        spec_digest: digest.clone(),
        desired_instances: spec.instances.desired,
        min_instances: spec.instances.min,
        max_instances: spec.instances.max,
        autonomy_level: level.into(),
        labels: spec.labels.clone(),
        listen: spec.listen.clone().unwrap_or_default(),
        ..v1::App::default()
    };
    v1::OnboardAppResponse {
        app: Some(app),
        spec_json: spec.to_json(),
        spec_digest: digest,
        decision: None,
        events: Vec::new(),
    }
}

/// The answer to an onboarding whose specification is record `seq`; the same one for every repetition of the request.
async fn accepted(services: &Services, seq: u64) -> Result<v1::OnboardAppResponse, Status> {
    let records = records_of(services, seq).await?;
    let Some((spec, digest)) = generated(&records, seq) else {
        tracing::error!(seq, "the record of an onboarding carries no specification");
        return Err(status::internal("onboard"));
    };
    write_file(services, spec.clone()).await;
    let app = look_up(services, spec.name.clone()).await?.map(|(app, _)| app);
    Ok(v1::OnboardAppResponse {
        app,
        spec_json: spec.to_json(),
        spec_digest: ids::digest(digest),
        decision: records.iter().find_map(to_proto::decision),
        events: events(&records),
    })
}

/// The specification that record `seq` of a request carries, and its digest.
fn generated(records: &[Record], seq: u64) -> Option<(&AppSpec, &str)> {
    match records.iter().find(|record| record.seq == seq).map(|record| &record.body) {
        Some(Body::SpecGenerated { spec, digest, .. }) => Some((spec, digest)),
        _ => None,
    }
}

fn events(records: &[Record]) -> Vec<v1::AcceptedEvent> {
    let event = |record: &Record| v1::AcceptedEvent {
        seq: record.seq,
        event: record.body.event_name().to_owned(),
        time: Some(to_proto::timestamp(record.at)),
    };
    records.iter().map(event).collect()
}

/// The records of the step that made the specification `seq`: from its cause on, one after the other, about one app, at one
/// moment.
async fn records_of(services: &Services, seq: u64) -> Result<Vec<Record>, Status> {
    let log = Log::of(services);
    let spec = log.record(seq).await?.ok_or_else(|| status::internal("onboard"))?;
    let first = spec.record.cause.unwrap_or(seq);
    // From disk: what is durable is there before it is published.
    let entries = log.reading(move |reader| log::read_sound(reader, first, RECORDS_MAX)).await?;
    let mut records = Vec::with_capacity(entries.len());
    for entry in entries {
        let record = log::parse(entry.seq, &entry.line)?;
        if record.app != spec.record.app || record.at != spec.record.at {
            break;
        }
        records.push(record);
    }
    Ok(records)
}

/// Makes the file unless it is there. The log has the specification: a disk that refuses the copy takes nothing back, and the
/// next start tries again.
async fn write_file(services: &Services, spec: AppSpec) {
    let dir = services.data_dir.clone();
    let app = spec.name.clone();
    let write = move |dir: &Path| match specs::path(dir, &spec.name).try_exists() {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => specs::write(dir, &spec).map(|_path| ()),
    };
    match tokio::task::spawn_blocking(move || write(&dir)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%app, %error, cause, "specification is recorded, but not in its file");
        }
        Err(error) => tracing::error!(%app, %error, "writing a specification panicked"),
    }
}

#[cfg(test)]
mod tests;

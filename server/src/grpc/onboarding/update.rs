//! Changing an app, and letting it go.

use agentctl_api::v1;
use agentd_core::app::{AppName, AppSpec, OnboardRequest};
use agentd_core::record::Decided;
use agentd_core::step::{Reply, Update};
use tonic::{Request, Status};

use super::super::status::Violation;
use super::super::to_proto::{self, Subject};
use super::super::{Services, from_proto, ids, outcome, status};
use super::{host, look_up, records_of, refused};
use crate::agent::Ask;

const UPDATE: &str = "OnboardingService/UpdateApp";
const OFFBOARD: &str = "OnboardingService/OffboardApp";

/// Replaces fields of an app. The whole of it is one step of the loop, so nobody can change the app in between.
pub(super) async fn update(
    services: &Services,
    request: Request<v1::UpdateAppRequest>,
) -> Result<v1::UpdateAppResponse, Status> {
    let (_, extensions, mut wire) = request.into_parts();
    let id = std::mem::take(&mut wire.request_id);
    let by = outcome::by(&extensions, UPDATE, &id, &wire, wire.validate_only)?;
    let specification = wire.specification.unwrap_or_default();
    let paths = wire.update_mask.map(|mask| mask.paths).unwrap_or_default();
    let (fields, mut found) = from_proto::update_mask(&paths);
    let (asked, broken) = from_proto::onboard(&specification);
    // What is not meant does not count, neither for good nor for bad.
    let meant = OnboardRequest::default().with(&asked, &fields);
    let is_meant = |field: &str| {
        let whole = field.split(['.', '[']).next().unwrap_or(field);
        fields.iter().any(|field| from_proto::field_name(*field) == whole)
    };
    found.extend(broken.into_iter().filter(|violation| is_meant(&violation.field)));
    found.extend(host::seen(services, &meant, "update").await?);
    let request = OnboardRequest { name: asked.name, ..meant };
    let etag = Some(wire.etag).filter(|etag| !etag.is_empty());
    let ask = Ask::Update(Box::new(request), found, Update { fields, etag });
    match services.agent.ask(ask, by).await {
        Ok(Ok(Reply::Invalid(violations))) => Err(refused(&violations)),
        answer => match outcome::answer(answer)? {
            Reply::Updated { spec, seq: None, decided } => {
                preview(services, &spec, decided.as_deref()).await
            }
            Reply::Updated { seq: Some(seq), .. } | Reply::Repeated { seq } => {
                accepted(services, seq).await
            }
            other => {
                tracing::error!(?other, "no answer to an update");
                Err(status::internal("update"))
            }
        },
    }
}

/// What would come of it; nothing differs when nothing was judged.
async fn preview(
    services: &Services,
    spec: &AppSpec,
    decided: Option<&Decided>,
) -> Result<v1::UpdateAppResponse, Status> {
    let subject = Subject { seq: None, env: services.env, cause: 0 };
    Ok(v1::UpdateAppResponse {
        app: look_up(services, spec.name.clone()).await?.map(|(app, _)| app),
        spec_json: spec.to_json(),
        spec_digest: ids::digest(&spec.digest()),
        decision: decided.map(|decided| to_proto::judged(decided, &subject)),
        events: Vec::new(),
        unchanged: decided.is_none(),
    })
}

/// The answer to an update whose specification is record `seq`; the same one for every repetition of the request.
async fn accepted(services: &Services, seq: u64) -> Result<v1::UpdateAppResponse, Status> {
    let records = records_of(services, seq).await?;
    let Some((spec, digest)) = super::generated(&records, seq) else {
        tracing::error!(seq, "the record of an update carries no specification");
        return Err(status::internal("update"));
    };
    let app = look_up(services, spec.name.clone()).await?.map(|(app, _)| app);
    // With the approval it waits for, where it waits for one.
    let decision = match records.iter().find(|record| record.decision().is_some()) {
        Some(decided) => Some(super::super::decision::read(services, decided.seq).await?),
        None => None,
    };
    Ok(v1::UpdateAppResponse {
        app,
        spec_json: spec.to_json(),
        spec_digest: ids::digest(digest),
        decision,
        events: super::events(&records),
        unchanged: false,
    })
}

/// Stops an app and lets it go. The answer comes with the ruling; the end is a record.
pub(super) async fn offboard(
    services: &Services,
    request: Request<v1::OffboardAppRequest>,
) -> Result<v1::OffboardAppResponse, Status> {
    let (_, extensions, mut wire) = request.into_parts();
    let id = std::mem::take(&mut wire.request_id);
    let by = outcome::by(&extensions, OFFBOARD, &id, &wire, wire.validate_only)?;
    let name = AppName::parse(&wire.name)
        .map_err(|_invalid| Violation::new("name", &wire.name, AppName::RULE));
    let (app, reason) = from_proto::both(name, from_proto::reason(&wire.reason))?;
    let etag = Some(wire.etag).filter(|etag| !etag.is_empty());
    let ask = Ask::Offboard { app, reason, etag };
    let decision = match outcome::answer(services.agent.ask(ask, by).await)? {
        Reply::Decided { seq: None, decided, .. } => {
            to_proto::judged(&decided, &Subject { seq: None, env: services.env, cause: 0 })
        }
        Reply::Decided { seq: Some(seq), .. } | Reply::Repeated { seq } => {
            super::super::decision::read(services, seq).await?
        }
        other => {
            tracing::error!(?other, "no answer to an offboarding");
            return Err(status::internal("offboard"));
        }
    };
    Ok(v1::OffboardAppResponse { decision: Some(decision) })
}

#[cfg(test)]
mod tests;

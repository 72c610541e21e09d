//! The agent itself: how it does, and the commands that restrict it.

use std::pin::Pin;
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::agent_service_server::AgentService;
use agentd_core::record::{Author, Body};
use agentd_core::step::Reply;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status};

use super::pace::Looks;
use super::status::{self, Violation};
use super::{Services, from_proto, outcome, to_proto};
use crate::agent::{AgentView, Ask};
use crate::tasks::OnFailure;

mod catalogue;
mod components;
mod history;
mod overview;

/// Time between two answers of a watch when nothing changes and the watcher names none.
const INTERVAL_MS: u64 = 5_000;
const INTERVALS_MS: std::ops::RangeInclusive<u64> = 1_000..=60_000;
/// Least time between two answers of a watch, however much changes.
const GAP: Duration = Duration::from_millis(250);

/// The service.
#[derive(Debug)]
pub struct Service(pub Services);

#[tonic::async_trait]
impl AgentService for Service {
    type WatchStatusStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchStatusResponse, Status>> + Send>>;

    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let status = Some(overview::status(&self.0).await?);
        Ok(Response::new(v1::GetStatusResponse { status }))
    }

    async fn watch_status(
        &self,
        request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let interval = interval(request.into_inner().interval.as_ref())?;
        let (items, stream) = mpsc::channel(1);
        let services = self.0.clone();
        self.0.tasks.spawn("watch-status", OnFailure::Log, async move {
            let (name, services, items) = ("status", &services, &items);
            watch(&Looks { name, services, interval, items }).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn pause(
        &self,
        request: Request<v1::PauseRequest>,
    ) -> Result<Response<v1::PauseResponse>, Status> {
        let (_, extensions, mut wire) = request.into_parts();
        let id = std::mem::take(&mut wire.request_id);
        let scope = from_proto::scope(wire.scope.as_ref());
        let reason = from_proto::reason(&wire.reason);
        let ttl_ms = from_proto::pause_ms(wire.duration.as_ref());
        let (scope, reason, ttl_ms) = from_proto::all(scope, reason, ttl_ms)?;
        let ask = Ask::Pause { scope, halt: wire.halt, reason, ttl_ms };
        let seq = self.ask(&extensions, "AgentService/Pause", &id, &wire, ask).await?;
        // The record has what was set; the state may have moved on.
        let record = history::record(&self.0, seq).await?;
        let Body::PauseSet { pause, .. } = record.body else {
            return Err(status::internal("pause"));
        };
        Ok(Response::new(v1::PauseResponse { mode: Some(to_proto::pause(&pause)), seq }))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ResumeResponse>, Status> {
        let (_, extensions, mut wire) = request.into_parts();
        let id = std::mem::take(&mut wire.request_id);
        let scope = from_proto::scope(wire.scope.as_ref());
        let (scope, reason) = from_proto::both(scope, from_proto::reason(&wire.reason))?;
        let ask = Ask::Resume { scope: scope.clone(), reason };
        let seq = self.ask(&extensions, "AgentService/Resume", &id, &wire, ask).await?;
        let lifted = match seq {
            0 => None,
            seq => history::pause_before(&self.0, seq, scope).await?,
        };
        let lifted = lifted.iter().map(to_proto::pause).collect();
        let remaining = self.modes().await?;
        Ok(Response::new(v1::ResumeResponse { lifted, remaining, seq }))
    }

    async fn freeze(
        &self,
        request: Request<v1::FreezeRequest>,
    ) -> Result<Response<v1::FreezeResponse>, Status> {
        let (_, extensions, mut wire) = request.into_parts();
        let id = std::mem::take(&mut wire.request_id);
        let reason = from_proto::reason(&wire.reason).map_err(|one| status::invalid(&[one]))?;
        let ask = Ask::Freeze { frozen: true, reason };
        let seq = self.ask(&extensions, "AgentService/Freeze", &id, &wire, ask).await?;
        let mode = history::freeze_at(&self.0, seq).await?;
        Ok(Response::new(v1::FreezeResponse { mode: Some(mode), seq }))
    }

    async fn unfreeze(
        &self,
        request: Request<v1::UnfreezeRequest>,
    ) -> Result<Response<v1::UnfreezeResponse>, Status> {
        let (_, extensions, mut wire) = request.into_parts();
        let id = std::mem::take(&mut wire.request_id);
        let reason = from_proto::reason(&wire.reason).map_err(|one| status::invalid(&[one]))?;
        let ask = Ask::Freeze { frozen: false, reason };
        let seq = self.ask(&extensions, "AgentService/Unfreeze", &id, &wire, ask).await?;
        let remaining = self.modes().await?;
        Ok(Response::new(v1::UnfreezeResponse { remaining, seq }))
    }

    async fn list_gates(
        &self,
        _request: Request<v1::ListGatesRequest>,
    ) -> Result<Response<v1::ListGatesResponse>, Status> {
        Ok(Response::new(v1::ListGatesResponse { gates: catalogue::gates() }))
    }

    async fn get_policy(
        &self,
        _request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let read = |view: &AgentView<'_>| (view.policy.clone(), view.state.policy_author.clone());
        let (policy, author) = self.0.agent.query(read).await.map_err(outcome::gone)?;
        let origin = match author {
            Author::File => self.0.rules.origin(),
            Author::Principal(name) => format!("applied by {name}"),
        };
        let policy = catalogue::policy(&policy, &origin)?;
        Ok(Response::new(policy))
    }
}

impl Service {
    /// Asks for a switch and waits until it is durable; the sequence number of its record, 0 if nothing changed.
    async fn ask(
        &self,
        extensions: &Extensions,
        method: &'static str,
        id: &str,
        content: &impl Message,
        ask: Ask,
    ) -> Result<u64, Status> {
        let by = outcome::by(extensions, method, id, content, false)?;
        match outcome::answer(self.0.agent.ask(ask, by).await)? {
            Reply::Done { seq } => Ok(seq.unwrap_or(0)),
            Reply::Repeated { seq } => Ok(seq),
            other => {
                tracing::error!(?other, method, "no answer to a switch");
                Err(status::internal(method))
            }
        }
    }

    async fn modes(&self) -> Result<Vec<v1::Mode>, Status> {
        let modes = self.0.agent.query(|view| to_proto::modes(&view.state.mode)).await;
        modes.map_err(outcome::gone)
    }
}

fn interval(wire: Option<&prost_types::Duration>) -> Result<Duration, Status> {
    let Some(duration) = wire else { return Ok(Duration::from_millis(INTERVAL_MS)) };
    match from_proto::span(duration) {
        Some(ms) if INTERVALS_MS.contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => {
            let rule = "must be 1 s to 60 s, or absent";
            let value = from_proto::show_span(duration);
            Err(status::invalid(&[Violation::new("interval", value, rule)]))
        }
    }
}

/// Sends the status now, after every change and at least once per interval, until the reader leaves or the server drains.
async fn watch(looks: &Looks<'_, v1::WatchStatusResponse>) {
    let mut head = looks.services.publisher.head();
    loop {
        head.mark_unchanged();
        let status = overview::status(looks.services).await;
        let look = status.map(|status| v1::WatchStatusResponse { status: Some(status) });
        if !looks.show(look).await || !looks.wait_or_change(&mut head, GAP).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests;

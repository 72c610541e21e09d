//! `DecisionService`: decisions live, one by one and in pages, explained, and asked for.

use std::pin::Pin;

use agentctl_api::v1;
use agentctl_api::v1::decision_service_server::DecisionService;
use prost::Message as _;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{Services, status};

pub(in crate::grpc) mod explain;
mod list;
mod propose;
mod watch;
pub(in crate::grpc) mod wire;

/// The decision recorded at `seq`, with what became of it.
///
/// # Errors
/// `NOT_FOUND` when there is none, and what reading the log fails with.
pub(super) async fn read(services: &Services, seq: u64) -> Result<v1::Decision, Status> {
    read_decision(services, seq).await.map(|(decision, _)| decision)
}

use list::fill_last_decisions;
pub(super) use list::read_decision;

/// The service.
#[derive(Debug, Clone)]
pub struct Service(pub Services);

#[tonic::async_trait]
impl DecisionService for Service {
    type WatchDecisionsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchDecisionsResponse, Status>> + Send>>;

    async fn watch_decisions(
        &self,
        request: Request<v1::WatchDecisionsRequest>,
    ) -> Result<Response<Self::WatchDecisionsStream>, Status> {
        // For callers in this process; over the wire the bytes go as they are, see [`wire`].
        let items = watch::watch(&self.0, request).await?.map(|item| {
            let decoded = v1::WatchDecisionsResponse::decode(item?);
            decoded.map_err(|_what| status::internal("stream"))
        });
        Ok(Response::new(Box::pin(items)))
    }

    async fn get_decision(
        &self,
        request: Request<v1::GetDecisionRequest>,
    ) -> Result<Response<v1::GetDecisionResponse>, Status> {
        let decision = list::get(&self.0, &request.get_ref().decision_id).await?;
        Ok(Response::new(v1::GetDecisionResponse { decision: Some(decision) }))
    }

    async fn list_decisions(
        &self,
        request: Request<v1::ListDecisionsRequest>,
    ) -> Result<Response<v1::ListDecisionsResponse>, Status> {
        list::list(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn explain_decision(
        &self,
        request: Request<v1::ExplainDecisionRequest>,
    ) -> Result<Response<v1::ExplainDecisionResponse>, Status> {
        let explanation = explain::explain(&self.0, request.into_inner()).await?;
        Ok(Response::new(v1::ExplainDecisionResponse { explanation: Some(explanation) }))
    }

    async fn propose_action(
        &self,
        request: Request<v1::ProposeActionRequest>,
    ) -> Result<Response<v1::ProposeActionResponse>, Status> {
        let decision = propose::propose(&self.0, request).await?;
        Ok(Response::new(v1::ProposeActionResponse { decision: Some(decision) }))
    }
}

#[cfg(test)]
pub(in crate::grpc) mod tests;

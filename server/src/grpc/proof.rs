//! `ProofService`: the log in pages, live, verified and exported.

use agentctl_api::v1;
use agentctl_api::v1::proof_service_server::ProofService;
use tonic::{Request, Response, Status};

use super::Services;
use super::feed::Outlet;

mod export;
mod list;
mod verify;
mod watch;

/// The service.
#[derive(Debug, Clone)]
pub struct Service(pub Services);

#[tonic::async_trait]
impl ProofService for Service {
    type WatchProofEntriesStream = Outlet<v1::WatchProofEntriesResponse>;
    type ExportProofStream = Outlet<v1::ExportProofResponse>;

    async fn list_proof_entries(
        &self,
        request: Request<v1::ListProofEntriesRequest>,
    ) -> Result<Response<v1::ListProofEntriesResponse>, Status> {
        list::list(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn watch_proof_entries(
        &self,
        request: Request<v1::WatchProofEntriesRequest>,
    ) -> Result<Response<Self::WatchProofEntriesStream>, Status> {
        watch::watch(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn verify_proof(
        &self,
        request: Request<v1::VerifyProofRequest>,
    ) -> Result<Response<v1::VerifyProofResponse>, Status> {
        verify::verify(&self.0, request.get_ref().recheck_decisions).await.map(Response::new)
    }

    async fn export_proof(
        &self,
        request: Request<v1::ExportProofRequest>,
    ) -> Result<Response<Self::ExportProofStream>, Status> {
        export::export(&self.0, request.into_inner()).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests;

//! `ProofService`: the log in pages, live, verified, exported and proven.

use agentctl_api::v1;
use agentctl_api::v1::proof_service_server::ProofService;
use tonic::{Request, Response, Status};

use super::Services;
use super::feed::{Few, Outlet};

mod export;
mod keep;
mod list;
mod tree;
mod verify;
mod watch;

/// The service.
#[derive(Debug, Clone)]
pub struct Service(pub Services);

#[tonic::async_trait]
impl ProofService for Service {
    type WatchProofEntriesStream = Outlet<Few<v1::WatchProofEntriesResponse>>;
    type ExportProofStream = Outlet<Few<v1::ExportProofResponse>>;

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
        watch::watch(&self.0, request).await.map(Response::new)
    }

    async fn verify_proof(
        &self,
        request: Request<v1::VerifyProofRequest>,
    ) -> Result<Response<v1::VerifyProofResponse>, Status> {
        verify::verify(&self.0, *request.get_ref()).await.map(Response::new)
    }

    async fn export_proof(
        &self,
        request: Request<v1::ExportProofRequest>,
    ) -> Result<Response<Self::ExportProofStream>, Status> {
        export::export(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn get_proof_entry(
        &self,
        request: Request<v1::GetProofEntryRequest>,
    ) -> Result<Response<v1::GetProofEntryResponse>, Status> {
        tree::entry(&self.0, request.get_ref().seq).await.map(Response::new)
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        tree::checkpoint(&self.0, request.get_ref().min_size).await.map(Response::new)
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<v1::GetInclusionProofRequest>,
    ) -> Result<Response<v1::GetInclusionProofResponse>, Status> {
        tree::inclusion(&self.0, *request.get_ref()).await.map(Response::new)
    }

    async fn get_consistency_proof(
        &self,
        request: Request<v1::GetConsistencyProofRequest>,
    ) -> Result<Response<v1::GetConsistencyProofResponse>, Status> {
        tree::consistency(&self.0, *request.get_ref()).await.map(Response::new)
    }

    async fn get_proof_status(
        &self,
        _request: Request<v1::GetProofStatusRequest>,
    ) -> Result<Response<v1::GetProofStatusResponse>, Status> {
        keep::status(&self.0).await.map(Response::new)
    }

    async fn record_export(
        &self,
        request: Request<v1::RecordExportRequest>,
    ) -> Result<Response<v1::RecordExportResponse>, Status> {
        let (_, extensions, wire) = request.into_parts();
        keep::record_export(&self.0, &extensions, wire).await.map(Response::new)
    }

    async fn prune_proof(
        &self,
        request: Request<v1::PruneProofRequest>,
    ) -> Result<Response<v1::PruneProofResponse>, Status> {
        let (_, extensions, wire) = request.into_parts();
        keep::prune(&self.0, &extensions, wire).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests;

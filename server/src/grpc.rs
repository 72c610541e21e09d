//! The gRPC services: the only place where wire types meet core types, and where errors meet status codes.

use std::sync::Arc;

use agentctl_api::v1;
use agentctl_api::v1::agent_service_server::AgentServiceServer;
use agentctl_api::v1::approval_service_server::ApprovalServiceServer;
use agentctl_api::v1::bus_service_server::BusServiceServer;
use agentctl_api::v1::identity_service_server::IdentityServiceServer;
use agentctl_api::v1::learning_service_server::LearningServiceServer;
use agentctl_api::v1::onboarding_service_server::OnboardingServiceServer;
use agentctl_api::v1::policy_service_server::PolicyServiceServer;
use agentctl_api::v1::proof_service_server::ProofServiceServer;
use agentctl_api::v1::scenario_service_server::ScenarioServiceServer;
use agentctl_api::v1::telemetry_service_server::TelemetryServiceServer;
use agentd_core::app::Env;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::MetricsServiceServer;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::agent::Handle;
use crate::clock::Clock;
use crate::index::Index;
use crate::ingest::Ingest;
use crate::journal::Journal;
use crate::publish::Publisher;
use crate::scenario::Stage;
use crate::tasks::Tasks;
use crate::tlog::Tlog;

pub mod agent;
pub mod approval;
pub mod bus;
mod candidates;
pub mod decision;
mod feed;
mod filter;
pub mod from_proto;
pub mod hooks;
pub mod identity;
pub mod ids;
pub mod learning;
mod log;
pub mod onboarding;
mod opaque;
pub mod otlp;
pub mod outcome;
mod pace;
mod page;
pub mod policy;
pub mod proof;
pub mod scenario;
pub mod status;
pub mod telemetry;
pub mod to_proto;

/// Largest request message in bytes.
pub const REQUEST_MAX: usize = 256 << 10;
/// Largest telemetry message in bytes.
pub const SIGNALS_MAX: usize = 1 << 20;

/// What the services work with; clones share it.
#[derive(Debug, Clone)]
pub struct Services {
    /// The loop.
    pub agent: Handle,
    /// Durable records.
    pub publisher: Publisher,
    /// The proof log, for reading.
    pub journal: Journal,
    /// The proof log, as it is published.
    pub tlog: Tlog,
    /// Which entries are about what; `None` where a test runs without it.
    pub index: Option<Index>,
    /// Signal windows.
    pub ingest: Arc<Ingest>,
    /// What telemetry streams share: sequence numbers, quotas, counters.
    pub intake: Arc<telemetry::intake::Intake>,
    /// What is counted for Prometheus.
    pub metrics: Arc<crate::metrics::Metrics>,
    /// How the bus is; `None` where a test runs without one.
    pub bus: Option<crate::bus::Monitor>,
    /// How busy the deploy workers are; `None` where a test runs without them.
    pub workers: Option<crate::deploy::Monitor>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// The spawner, and the stop signal that ends streams.
    pub tasks: Tasks,
    /// The environment.
    pub env: Env,
    /// Where the specifications are written to.
    pub data_dir: std::path::PathBuf,
    /// Where the policy of the configuration comes from.
    pub rules: Arc<crate::rules::Rulebook>,
    /// Where scenarios run; `None` in prod.
    pub stage: Option<Arc<Stage>>,
    /// Health as `grpc.health.v1` tells it.
    pub health: HealthReporter,
}

/// All routes: the services, health and reflection.
///
/// # Errors
/// The compiled descriptor set cannot be read, which a test rules out.
pub fn routes<H>(services: &Services, health: H) -> Result<Routes, tonic_reflection::server::Error>
where
    H: tonic::codegen::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    H::Future: Send + 'static,
{
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let s = || services.clone();
    Ok(Routes::new(health)
        .add_service(reflection)
        .add_service(
            AgentServiceServer::new(agent::Service(s())).max_decoding_message_size(REQUEST_MAX),
        )
        .add_service(
            ApprovalServiceServer::new(approval::Service(s()))
                .max_decoding_message_size(REQUEST_MAX),
        )
        .add_service(
            BusServiceServer::new(bus::Service(s())).max_decoding_message_size(REQUEST_MAX),
        )
        .add_service(
            IdentityServiceServer::new(identity::Service(s()))
                .max_decoding_message_size(REQUEST_MAX),
        )
        .add_service(
            LearningServiceServer::new(learning::Service::new(s()))
                .max_decoding_message_size(learning::REQUEST_MAX),
        )
        .add_service(decision::wire::Wire::new(decision::Service(s())))
        .add_service(
            OnboardingServiceServer::new(onboarding::Service(s()))
                .max_decoding_message_size(REQUEST_MAX),
        )
        .add_service(
            PolicyServiceServer::new(policy::Service(s())).max_decoding_message_size(REQUEST_MAX),
        )
        .add_service(
            ProofServiceServer::new(proof::Service(s())).max_decoding_message_size(REQUEST_MAX),
        )
        .add_service(
            ScenarioServiceServer::new(scenario::Service(s()))
                .max_decoding_message_size(REQUEST_MAX),
        )
        .add_service(
            TelemetryServiceServer::new(telemetry::Service(s()))
                .max_decoding_message_size(SIGNALS_MAX),
        )
        .add_service(
            MetricsServiceServer::new(otlp::Service(s()))
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(otlp::REQUEST_MAX),
        ))
}

/// Name under which health tells whether the agent can act.
pub const AGENT_HEALTH: &str = "agentctl.v1.AgentService";

/// Says on the health service whether the agent can act: not while the log cannot be written. Queries go on.
pub async fn report_health(health: &HealthReporter, can_act: bool) {
    let status = if can_act { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status(AGENT_HEALTH, status).await;
}

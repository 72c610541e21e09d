//! What a client needs around the generated code: a connection with clear errors, a token on every call, and watches that
//! survive a restart of the server.

use std::error::Error as StdError;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::text;
use crate::v1::agent_service_client::AgentServiceClient;
use crate::v1::approval_service_client::ApprovalServiceClient;
use crate::v1::bus_service_client::BusServiceClient;
use crate::v1::decision_service_client::DecisionServiceClient;
use crate::v1::identity_service_client::IdentityServiceClient;
use crate::v1::learning_service_client::LearningServiceClient;
use crate::v1::onboarding_service_client::OnboardingServiceClient;
use crate::v1::policy_service_client::PolicyServiceClient;
use crate::v1::proof_service_client::ProofServiceClient;
use crate::v1::scenario_service_client::ScenarioServiceClient;
use crate::v1::telemetry_service_client::TelemetryServiceClient;

mod backoff;
mod watch;

pub use backoff::Backoff;
pub use watch::{
    BusWatch, DecisionWatch, ProofWatch, Resumable, SignalWatch, StatusWatch, Watch, WatchEvent,
};

/// Largest message a client takes.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Where and how to connect.
#[derive(Clone)]
pub struct Target {
    /// `host:port`, or a `http://` or `https://` URL.
    pub address: String,
    /// Where the address came from, such as `--address`, for errors.
    pub origin: String,
    /// Token sent with every call.
    pub token: Option<String>,
    /// How the server is trusted.
    pub tls: Tls,
    /// Time for the connection to come up.
    pub connect_timeout: Duration,
    /// Every call tells the server that it must change nothing, and the server refuses those that might.
    pub read_only: bool,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token stays out of every log.
        f.debug_struct("Target")
            .field("address", &self.address)
            .field("origin", &self.origin)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// How a server is trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tls {
    /// Plain text to loopback; the roots of this host for everything else.
    #[default]
    Automatic,
    /// No TLS, not even to other hosts: the token crosses the network in plain text.
    Plaintext,
    /// TLS with the roots of this host.
    HostRoots,
    /// TLS with these roots alone, PEM.
    Roots(Vec<u8>),
}

impl Target {
    /// A target with a token, automatic TLS and five seconds to connect.
    #[must_use]
    pub fn new(address: &str, origin: &str, token: Option<String>) -> Self {
        Self {
            address: address.to_owned(),
            origin: origin.to_owned(),
            token,
            tls: Tls::Automatic,
            connect_timeout: Duration::from_secs(5),
            read_only: false,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not one.
    #[error("invalid address `{address}` (from {origin}), expected `host:port`")]
    Address {
        /// As it was given.
        address: String,
        /// Where it came from.
        origin: String,
    },
    /// The token cannot be sent.
    #[error("the token holds characters that no token has")]
    Token,
    /// The TLS roots cannot be used.
    #[error("cannot use the TLS roots: {cause}")]
    Tls {
        /// Innermost cause.
        cause: String,
    },
    /// Nobody answers, or not in the right protocol.
    #[error("cannot reach agentd at `{address}` (from {origin}): {cause}")]
    Unreachable {
        /// Address that was tried.
        address: String,
        /// Where it came from.
        origin: String,
        /// Innermost cause, such as `connection refused`.
        cause: String,
    },
}

/// Key of the metadata with which a call binds itself to change nothing.
const READ_ONLY: &str = "agentctl-read-only";

/// Puts the token on every call, and the promise to change nothing where it was given.
#[derive(Clone)]
pub struct Bearer {
    token: Option<MetadataValue<Ascii>>,
    read_only: bool,
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.token {
            request.metadata_mut().insert("authorization", value.clone());
        }
        if self.read_only {
            request.metadata_mut().insert(READ_ONLY, MetadataValue::from_static("true"));
        }
        Ok(request)
    }
}

/// A connection that carries a token.
pub type Connection = InterceptedService<Channel, Bearer>;

/// A connection to one server; clones share it. It comes back by itself after the server was away.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects, and waits until the connection is up.
    ///
    /// # Errors
    /// [`Error`], with the address, where it came from, and the innermost cause.
    pub async fn connect(target: &Target) -> Result<Self, Error> {
        let bearer = bearer(target)?;
        let endpoint = endpoint(target)?;
        let channel = endpoint.connect().await.map_err(|error| Error::Unreachable {
            address: text::line(&target.address).into_owned(),
            origin: target.origin.clone(),
            cause: innermost(&error),
        })?;
        Ok(Self { connection: InterceptedService::new(channel, bearer) })
    }

    /// The connection itself, for calls whose types are only known while the program runs.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// The service that takes apps under control.
    #[must_use]
    pub fn onboarding(&self) -> OnboardingServiceClient<Connection> {
        OnboardingServiceClient::new(self.connection.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The service that takes signals.
    #[must_use]
    pub fn telemetry(&self) -> TelemetryServiceClient<Connection> {
        TelemetryServiceClient::new(self.connection.clone())
    }

    /// The service that shows decisions.
    #[must_use]
    pub fn decisions(&self) -> DecisionServiceClient<Connection> {
        DecisionServiceClient::new(self.connection.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The service that takes approvals.
    #[must_use]
    pub fn approvals(&self) -> ApprovalServiceClient<Connection> {
        ApprovalServiceClient::new(self.connection.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The service of the rules.
    #[must_use]
    pub fn policy(&self) -> PolicyServiceClient<Connection> {
        PolicyServiceClient::new(self.connection.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The service of what was learned.
    #[must_use]
    pub fn learning(&self) -> LearningServiceClient<Connection> {
        LearningServiceClient::new(self.connection.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The service that reads the proof log.
    #[must_use]
    pub fn proof(&self) -> ProofServiceClient<Connection> {
        ProofServiceClient::new(self.connection.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The service of the agent itself.
    #[must_use]
    pub fn agent(&self) -> AgentServiceClient<Connection> {
        AgentServiceClient::new(self.connection.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The service that shows how the bus does.
    #[must_use]
    pub fn bus(&self) -> BusServiceClient<Connection> {
        BusServiceClient::new(self.connection.clone())
    }

    /// The service that says who calls.
    #[must_use]
    pub fn identity(&self) -> IdentityServiceClient<Connection> {
        IdentityServiceClient::new(self.connection.clone())
    }

    /// The service that runs scenarios.
    #[must_use]
    pub fn scenarios(&self) -> ScenarioServiceClient<Connection> {
        ScenarioServiceClient::new(self.connection.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Follows decisions across restarts of the server.
    #[must_use]
    pub fn watch_decisions(&self, request: crate::v1::WatchDecisionsRequest) -> DecisionWatch {
        Watch::new(self.decisions(), request)
    }

    /// Follows the proof log across restarts of the server.
    #[must_use]
    pub fn watch_proof(&self, request: crate::v1::WatchProofEntriesRequest) -> ProofWatch {
        Watch::new(self.proof(), request)
    }

    /// Follows the readings of signals across restarts of the server.
    #[must_use]
    pub fn watch_signals(&self, request: crate::v1::WatchSignalsRequest) -> SignalWatch {
        Watch::new(self.telemetry(), request)
    }

    /// Follows the status across restarts of the server.
    #[must_use]
    pub fn watch_status(&self, request: crate::v1::WatchStatusRequest) -> StatusWatch {
        Watch::new(self.agent(), request)
    }

    /// Looks at the bus across restarts of the server.
    #[must_use]
    pub fn watch_bus(&self, request: crate::v1::WatchBusRequest) -> BusWatch {
        Watch::new(self.bus(), request)
    }
}

/// Whether an address is one, without connecting.
///
/// # Errors
/// [`Error::Address`].
pub fn check_address(address: &str) -> Result<(), Error> {
    let target = Target { tls: Tls::Plaintext, ..Target::new(address, "", None) };
    endpoint(&target).map(drop)
}

fn bearer(target: &Target) -> Result<Bearer, Error> {
    let read_only = target.read_only;
    let Some(token) = target.token.as_deref() else {
        return Ok(Bearer { token: None, read_only });
    };
    let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_invalid| Error::Token)?;
    value.set_sensitive(true);
    Ok(Bearer { token: Some(value), read_only })
}

fn endpoint(target: &Target) -> Result<Endpoint, Error> {
    let invalid = || Error::Address {
        address: text::cut(&text::line(&target.address), 256).into_owned(),
        origin: target.origin.clone(),
    };
    let (scheme, rest) = match target.address.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest.trim_end_matches('/')),
        Some(_) => return Err(invalid()),
        None => (None, target.address.as_str()),
    };
    let (host, port) = rest.rsplit_once(':').ok_or_else(invalid)?;
    let plain_host = host.trim_start_matches('[').trim_end_matches(']');
    let valid_host = plain_host.parse::<IpAddr>().is_ok()
        || (!host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)));
    if !valid_host || port.parse::<u16>().is_err() {
        return Err(invalid());
    }
    let loopback = plain_host == "localhost"
        || plain_host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    // A token implies TLS, unless the bytes do not leave this host or the user said otherwise.
    let roots = match (&target.tls, scheme) {
        (Tls::Plaintext, _) => None,
        (Tls::Automatic, Some("http") | None) if loopback => None,
        (Tls::Automatic | Tls::HostRoots, _) => Some(ClientTlsConfig::new().with_native_roots()),
        (Tls::Roots(pem), _) => {
            Some(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
        }
    };
    let scheme = if roots.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{port}"))
        .map_err(|_invalid| invalid())?
        .connect_timeout(target.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    match roots {
        None => Ok(endpoint),
        Some(roots) => {
            endpoint.tls_config(roots).map_err(|error| Error::Tls { cause: innermost(&error) })
        }
    }
}

/// The end of the chain of sources: tonic's own text says only "transport error".
fn innermost(error: &dyn StdError) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let cause = text::line(&last.to_string()).into_owned();
    // What the operating system adds after its words, such as ` (os error 111)`, is for nobody who reads this.
    match cause.split_once(" (os error ") {
        Some((words, _)) => words.to_lowercase(),
        None => cause,
    }
}

#[cfg(test)]
mod tests;

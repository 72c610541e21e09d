//! The way to a server: which address and which token, where each came from, and errors that name all of it.

use std::net::IpAddr;
use std::time::Duration;

use agentctl_api::client::{
    self, BusWatch, Client, Connection, DecisionWatch, ProofWatch, SignalWatch, StatusWatch,
    Target, Tls,
};
use agentctl_api::v1;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::cli::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::time;

mod resolve;

pub(crate) use resolve::{Resolved, env, resolve};

/// Address of a server with its defaults.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7443";

/// Time for an answer, where the command line does not say.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// A setting and the place it was found in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    /// Its value.
    pub value: String,
    /// Where it came from, for error messages.
    pub origin: String,
}

/// An open connection to one server.
#[derive(Debug, Clone)]
pub struct Session {
    client: Client,
    address: Sourced,
    token_origin: String,
    timeout: Duration,
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $module:ident::$client:ident;)+) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> v1::$module::$client<Connection> {
            self.client.$name()
        })+
    };
}

impl Session {
    /// Connects as the global flags say.
    ///
    /// # Errors
    /// Invalid settings, an unusable token file, or a server that cannot be reached.
    pub async fn open(global: &Global) -> Result<Self, Failure> {
        let (session, environment) = Self::unguarded(global).await?;
        if let Some(environment) = environment {
            session.guard(&environment).await?;
        }
        Ok(session)
    }

    /// As [`Session::open`], for a request that names its environment itself: the server judges it, and puts its answer on record.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn unguarded(global: &Global) -> Result<(Self, Option<Sourced>), Failure> {
        let resolved = resolve(global, &env)?;
        let timeout = global.timeout.map_or(CALL_TIMEOUT, |span| span.0);
        let Resolved { address, token, tls, environment, .. } = resolved;
        let session = Self::connect(address, token, tls, timeout, global.read_only).await?;
        Ok((session, environment))
    }

    /// Goes no further if the server serves another environment than the one that is meant.
    async fn guard(&self, expected: &Sourced) -> Result<(), Failure> {
        let request = self.unary(v1::WhoAmIRequest {});
        let answer = self.identity().who_am_i(request).await.map_err(|s| self.failure(s))?;
        let served = answer.into_inner().environment;
        if served == expected.value {
            return Ok(());
        }
        let (value, origin) = (&expected.value, &expected.origin);
        let what = format!(
            "environment `{value}` (from {origin}) is not served at {}, which serves `{served}`",
            self.address.value
        );
        Err(Failure::new(Exit::NotFound, what)
            .hint("nothing was done; --address or --context names another server"))
    }

    /// Connects to a server in this process with one of its tokens.
    ///
    /// # Errors
    /// A token that is none, or a server that does not answer.
    pub async fn local(address: &str, token: &str) -> Result<Self, Failure> {
        let origin = "this process".to_owned();
        let token = Sourced { value: token.to_owned(), origin: origin.clone() };
        let address = Sourced { value: address.to_owned(), origin };
        Self::connect(address, Some(token), Tls::Automatic, CALL_TIMEOUT, false).await
    }

    async fn connect(
        address: Sourced,
        token: Option<Sourced>,
        tls: Tls,
        timeout: Duration,
        read_only: bool,
    ) -> Result<Self, Failure> {
        let origin = token.as_ref().map(|token| token.origin.clone());
        let mut target =
            Target::new(&address.value, &address.origin, token.map(|token| token.value));
        target.tls = tls;
        target.read_only = read_only;
        let client = Client::connect(&target).await.map_err(|error| match &error {
            client::Error::Unreachable { cause, .. } => cannot_reach(&address, cause),
            client::Error::Address { .. } => {
                Failure::usage(error.to_string()).hint(format!("such as {DEFAULT_ADDRESS}"))
            }
            client::Error::Token => Failure::usage(error.to_string())
                .fact("token", format!("from {}", origin.as_deref().unwrap_or("nowhere"))),
            client::Error::Tls { .. } => Failure::usage(error.to_string()),
        })?;
        let token_origin = origin.unwrap_or_else(|| "nowhere: none was found".to_owned());
        Ok(Self { client, address, token_origin, timeout })
    }

    services! {
        /// Onboarding.
        onboarding: onboarding_service_client::OnboardingServiceClient;
        /// Telemetry.
        telemetry: telemetry_service_client::TelemetryServiceClient;
        /// Decisions.
        decisions: decision_service_client::DecisionServiceClient;
        /// Approvals.
        approvals: approval_service_client::ApprovalServiceClient;
        /// The rules.
        policy: policy_service_client::PolicyServiceClient;
        /// What was learned.
        learning: learning_service_client::LearningServiceClient;
        /// The proof log.
        proof: proof_service_client::ProofServiceClient;
        /// The agent.
        agent: agent_service_client::AgentServiceClient;
        /// The bus.
        bus: bus_service_client::BusServiceClient;
        /// Who calls.
        identity: identity_service_client::IdentityServiceClient;
        /// Scenarios.
        scenarios: scenario_service_client::ScenarioServiceClient;
    }

    /// Follows decisions across restarts of the server.
    #[must_use]
    pub fn watch_decisions(&self, request: v1::WatchDecisionsRequest) -> DecisionWatch {
        self.client.watch_decisions(request)
    }

    /// Follows the proof log across restarts of the server.
    #[must_use]
    pub fn watch_proof(&self, request: v1::WatchProofEntriesRequest) -> ProofWatch {
        self.client.watch_proof(request)
    }

    /// Follows the readings of signals across restarts of the server.
    #[must_use]
    pub fn watch_signals(&self, request: v1::WatchSignalsRequest) -> SignalWatch {
        self.client.watch_signals(request)
    }

    /// Follows the status across restarts of the server.
    #[must_use]
    pub fn watch_status(&self, request: v1::WatchStatusRequest) -> StatusWatch {
        self.client.watch_status(request)
    }

    /// Looks at the bus across restarts of the server.
    #[must_use]
    pub fn watch_bus(&self, request: v1::WatchBusRequest) -> BusWatch {
        self.client.watch_bus(request)
    }

    /// The connection itself, for calls whose types are only known while the program runs.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.client.connection()
    }

    /// Where the server is.
    #[must_use]
    pub const fn address(&self) -> &Sourced {
        &self.address
    }

    /// Where the token came from.
    #[must_use]
    pub fn token_origin(&self) -> &str {
        &self.token_origin
    }

    /// Time for an answer.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.timeout
    }

    /// A request that has to be answered in time.
    #[must_use]
    pub fn unary<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// What an RPC answered instead of a result, with what only this side knows.
    #[must_use]
    pub fn failure(&self, status: Status) -> Failure {
        if is_local_timeout(&status) {
            let (address, timeout) = (&self.address.value, time::coarse(self.timeout));
            let what = format!("no answer from {address} in {timeout}");
            return Failure::new(Exit::TimedOut, what).hint("allow more time with --timeout");
        }
        if is_of_transport(&status) {
            return cannot_reach(&self.address, &cause(&status));
        }
        let failure = Failure::of_status(&status);
        if status.code() == Code::Unauthenticated {
            return failure.fact("token", format!("from {}", self.token_origin));
        }
        failure
    }
}

/// True if the connection is gone and a new try may work: the server restarts, drains or was cut off.
#[must_use]
pub fn is_transient(status: &Status) -> bool {
    !is_local_timeout(status) && (is_of_transport(status) || status.code() == Code::Unavailable)
}

/// agentd puts an `ErrorInfo` on each status of its own; one without was made by the transport.
fn is_of_transport(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
        && status.get_details_error_info().is_none()
}

fn is_local_timeout(status: &Status) -> bool {
    matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded)
        && status.message() == "Timeout expired"
}

fn cause(status: &Status) -> String {
    let Some(mut innermost) = std::error::Error::source(status) else {
        return status.message().to_owned();
    };
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

fn cannot_reach(address: &Sourced, cause: &str) -> Failure {
    let Sourced { value, origin } = address;
    let headline = format!("cannot reach agentd at {value} (from {origin}): {cause}");
    let failure = Failure::new(Exit::Unreachable, headline);
    if is_loopback(value) {
        failure
            .hint("start one with `agentctl up`, or name another one with --address or --context")
    } else {
        failure.hint("check that agentd listens there; `agentctl context list` shows the others")
    }
}

fn is_loopback(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A session with a server that is not there: nothing is sent before a call.
    pub(crate) async fn with_server(listener: tokio::net::TcpListener) -> Session {
        let address = listener.local_addr().unwrap().to_string();
        Session::local(&address, "a-token").await.unwrap()
    }

    async fn refused_port() -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_address_its_origin_and_the_fix() {
        let value = format!("127.0.0.1:{}", refused_port().await);
        let address = Sourced { value: value.clone(), origin: "--address".to_owned() };
        let failure =
            Session::connect(address, None, Tls::Automatic, CALL_TIMEOUT, false).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Unreachable);
        let mut page = crate::page::Page::default();
        failure.page(&mut page);
        assert_eq!(
            page.render(false),
            format!(
                "error: cannot reach agentd at {value} (from --address): connection refused\n\
                 hint:  start one with `agentctl up`, or name another one with --address or --context\n"
            )
        );
    }

    #[test]
    fn loopback_is_this_host_and_nothing_that_looks_like_it() {
        assert!(is_loopback("127.0.0.1:7443") && is_loopback("http://[::1]:1"));
        assert!(!is_loopback("10.0.0.9:7443") && !is_loopback("localhost.example.org:1"));
    }
}

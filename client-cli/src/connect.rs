//! The way to a server: which address and which token, where each came from, and errors that name all of it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentctl_api::client::{self, Client, Connection, DecisionWatch, ProofWatch, Target, Tls};
use agentctl_api::v1;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::cli::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::{server, time};

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
        let address = address(global, &env);
        let token = token(global, &address.value, &env)?;
        let tls = match &global.tls_ca {
            Some(path) => Tls::Roots(std::fs::read(path).map_err(|error| {
                let what = format!("cannot read --tls-ca `{}`", path.display());
                Failure::because(Exit::Usage, &what, &error)
            })?),
            None if global.plaintext => Tls::Plaintext,
            None => Tls::Automatic,
        };
        let timeout = global.timeout.map_or(CALL_TIMEOUT, |span| span.0);
        Self::connect(address, token, tls, timeout, global.read_only).await
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
        /// The proof log.
        proof: proof_service_client::ProofServiceClient;
        /// The agent.
        agent: agent_service_client::AgentServiceClient;
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
        failure.hint("start one with `agentctl up`, or name another one with --address")
    } else {
        failure.hint("check that agentd listens there; --address names another one")
    }
}

fn is_loopback(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `--address`, then `AGENTCTL_ADDRESS`, then the default.
fn address(global: &Global, env: Env<'_>) -> Sourced {
    let (value, origin) = match (&global.address, env("AGENTCTL_ADDRESS")) {
        (Some(value), _) => (value.clone(), "--address"),
        (None, Some(value)) => (value, "AGENTCTL_ADDRESS"),
        (None, None) => (DEFAULT_ADDRESS.to_owned(), "the default"),
    };
    Sourced { value, origin: origin.to_owned() }
}

/// `--token`, then `--token-file`, then `AGENTCTL_TOKEN`, then the token file of a server on this host; `None` if there is
/// none. The token of a local server is never sent to another host, unless its directory was named.
fn token(global: &Global, address: &str, env: Env<'_>) -> Result<Option<Sourced>, Failure> {
    let found = |value: String, origin: String| Ok(Some(Sourced { value, origin }));
    if let Some(token) = &global.token {
        return found(token.clone(), "--token".to_owned());
    }
    if let Some(path) = &global.token_file {
        return found(token_in(path, global)?, format!("--token-file {}", path.display()));
    }
    if let Some(token) = env("AGENTCTL_TOKEN") {
        return found(token, "AGENTCTL_TOKEN".to_owned());
    }
    if let Some(directory) = global.data_dir.clone().or_else(|| env("AGENTD_DATA_DIR")) {
        let path = Path::new(&directory).join(server::TOKENS_FILE);
        return found(server::plain_token(&path, global.principal())?, shown(&path));
    }
    if !is_loopback(address) {
        return Ok(None);
    }
    for path in server::local_token_files() {
        if path.exists() {
            return found(server::plain_token(&path, global.principal())?, shown(&path));
        }
    }
    Ok(None)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A token file is the server's, with principals, or one with nothing but a token.
fn token_in(path: &PathBuf, global: &Global) -> Result<String, Failure> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    if matches!(extension, Some("toml" | "json")) {
        return server::plain_token(path, global.principal());
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = format!("cannot read token file `{}`", path.display());
        Failure::because(Exit::Usage, &what, &error)
    })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A session with a server that is not there: nothing is sent before a call.
    pub(crate) async fn with_server(listener: tokio::net::TcpListener) -> Session {
        let address = listener.local_addr().unwrap().to_string();
        Session::local(&address, "a-token").await.unwrap()
    }

    fn nowhere(_: &str) -> Option<String> {
        None
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
                 hint:  start one with `agentctl up`, or name another one with --address\n"
            )
        );
    }

    #[test]
    fn a_flag_beats_the_environment_and_that_the_default() {
        let set = |name: &str| Some(format!("{name}:1"));
        let flagged = Global { address: Some("h:2".to_owned()), ..Global::default() };
        assert_eq!(address(&flagged, &set).value, "h:2");
        assert_eq!(address(&Global::default(), &set).origin, "AGENTCTL_ADDRESS");
        assert_eq!(address(&Global::default(), &nowhere).value, DEFAULT_ADDRESS);
    }

    #[test]
    fn a_token_comes_from_the_flag_the_file_or_the_environment_in_this_order() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "from-file\n").unwrap();
        let set = |name: &str| (name == "AGENTCTL_TOKEN").then(|| "from-env".to_owned());
        let mut global = Global { token: Some("from-flag".to_owned()), ..Global::default() };
        let mut origins = Vec::new();
        for _ in 0..3 {
            origins.push(token(&global, DEFAULT_ADDRESS, &set).unwrap().unwrap().value);
            global.token_file = global.token.take().map(|_| file.clone());
        }
        assert_eq!(origins, ["from-flag", "from-file", "from-env"]);
    }

    #[test]
    fn the_token_of_a_local_server_never_goes_to_another_host_by_itself() {
        assert_eq!(token(&Global::default(), "10.0.0.9:7443", &nowhere).unwrap(), None);
        assert!(is_loopback("127.0.0.1:7443") && is_loopback("http://[::1]:1"));
        assert!(!is_loopback("10.0.0.9:7443") && !is_loopback("localhost.example.org:1"));
    }
}

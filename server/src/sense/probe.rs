//! Asking an app from outside whether it is well.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// A question with one good kind of answer. Has no deadline of its own: the caller sets one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `GET path` over HTTP/1.1; any 2xx or 3xx is healthy. Redirects are not followed.
    Http {
        /// Where to connect to.
        address: SocketAddr,
        /// Path and query, beginning with `/`.
        path: String,
    },
    /// A connection that is accepted is healthy. Behind a socket that agentd holds this only says that the machine is up.
    Tcp {
        /// Where to connect to.
        address: SocketAddr,
    },
    /// `grpc.health.v1.Health/Check`; SERVING is healthy.
    Grpc {
        /// Where to connect to.
        address: SocketAddr,
        /// Which service to ask about; empty for the whole server.
        service: String,
    },
}

/// Why an app is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody accepts connections.
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    /// The connection broke, or the answer is not HTTP.
    #[error("no valid HTTP answer from {0}")]
    Http(SocketAddr, #[source] hyper::Error),
    /// The question cannot be put.
    #[error("`{0}` is not a path")]
    Path(String),
    /// An answer that is neither 2xx nor 3xx.
    #[error("HTTP status {}", .0.as_u16())]
    Status(StatusCode),
    /// The gRPC call failed.
    #[error("gRPC status {code}: `{text}`")]
    Grpc {
        /// The name of the status code.
        code: String,
        /// What the server says.
        text: String,
    },
    /// No gRPC connection.
    #[error("no gRPC connection to {0}")]
    Transport(SocketAddr, #[source] tonic::transport::Error),
    /// The server says that it does not serve.
    #[error("gRPC health is {0}")]
    NotServing(&'static str),
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { address, path } => write!(f, "http://{address}{path}"),
            Self::Tcp { address } => write!(f, "tcp://{address}"),
            Self::Grpc { address, service } => write!(f, "grpc://{address}/{service}"),
        }
    }
}

impl Probe {
    /// Asks once.
    ///
    /// # Errors
    /// Why the app is not healthy.
    pub async fn check(&self) -> Result<(), Error> {
        match self {
            Self::Tcp { address } => connect(*address).await.map(drop),
            Self::Http { address, path } => http(*address, path).await,
            Self::Grpc { address, service } => grpc(*address, service).await,
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    TcpStream::connect(address).await.map_err(|source| Error::Connect(address, source))
}

async fn http(address: SocketAddr, path: &str) -> Result<(), Error> {
    let uri = Uri::from_str(path).ok().filter(|uri| uri.path().starts_with('/'));
    let uri = uri.ok_or_else(|| Error::Path(path.to_owned()))?;
    let request = Request::get(uri)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "agentd-probe")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_invalid| Error::Path(path.to_owned()))?;
    let stream = TokioIo::new(connect(address).await?);
    let failed = |source| Error::Http(address, source);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(failed)?;
    tokio::pin!(connection);
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    // The connection is driven beside the request and dropped with it: the body of the answer is never read.
    let response = tokio::select! {
        biased;
        response = &mut answer => response.map_err(failed)?,
        ended = &mut connection => {
            ended.map_err(failed)?;
            answer.await.map_err(failed)?
        }
    };
    let status = response.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(Error::Status(status)) }
}

async fn grpc(address: SocketAddr, service: &str) -> Result<(), Error> {
    let failed = |source| Error::Transport(address, source);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(failed)?;
    let channel = endpoint.connect().await.map_err(failed)?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await.map_err(|status| {
        let text = status.message().chars().take(200).collect();
        Error::Grpc { code: format!("{:?}", status.code()), text }
    })?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        ServingStatus::NotServing => Err(Error::NotServing("NOT_SERVING")),
        ServingStatus::ServiceUnknown => Err(Error::NotServing("SERVICE_UNKNOWN")),
        ServingStatus::Unknown => Err(Error::NotServing("UNKNOWN")),
    }
}

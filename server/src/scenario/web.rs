//! Requests to an app's own port, as its users make them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Most bytes of an answer.
const ANSWER_MAX: usize = 64 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nobody accepts connections.
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    /// The request cannot be put.
    #[error("not a request")]
    Request(#[source] http::Error),
    /// The connection broke, or the answer is not HTTP.
    #[error("no valid answer")]
    Http(#[source] hyper::Error),
    /// The body broke off, or is too long.
    #[error("no complete answer: {0}")]
    Body(String),
    /// Too slow.
    #[error("no answer within {0} ms")]
    Late(u128),
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// `GET path` over a connection of its own.
pub(super) async fn get(
    address: SocketAddr,
    path: &str,
    within: Duration,
) -> Result<Answer, Error> {
    let late = |_elapsed| Error::Late(within.as_millis());
    tokio::time::timeout(within, ask(address, path)).await.map_err(late)?
}

async fn ask(address: SocketAddr, path: &str) -> Result<Answer, Error> {
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "agentd-scenario")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(Error::Request)?;
    let refused = |source| Error::Connect(address, source);
    let stream = TokioIo::new(TcpStream::connect(address).await.map_err(refused)?);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(Error::Http)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(Error::Http)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| Error::Body(error.to_string()))?.to_bytes();
        Ok(Answer { status, body })
    };
    // The connection ends when the exchange has given its sender up; what went wrong with it shows in the exchange.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

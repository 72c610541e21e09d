//! What every request passes before a service sees it: strict HTTP, request id, deadline, authentication, role; and the net
//! under the service: a panic becomes `INTERNAL` instead of a reset without a status.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tower::{Service, ServiceExt as _};

use super::body::GuardedBody;
use super::counters::Counters;
use super::lifetime::{self, Ends, Lifetime};
use super::page::Reader;
use super::shed::{Place, Shed};
use crate::auth::{Authorizer, Principal, Stay};
use crate::grpc::status::{self, Violation};
use crate::pages::Pages;
use crate::tasks::{Panicked, caught};

const REQUEST_ID: &str = "x-request-id";
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Longest id taken over from a client.
const MAX_REQUEST_ID: usize = 64;

/// Names one request in logs and in `INTERNAL` errors. Services find it in the extensions of their request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The edge of one server.
#[derive(Debug, Clone)]
pub(super) struct Edge<S> {
    routes: S,
    authorizer: Arc<Authorizer>,
    counters: Arc<Counters>,
    ids: Arc<Ids>,
    shed: Arc<Shed>,
    pages: Option<Arc<Pages>>,
}

/// Ids of requests that brought none: random per start, counted within.
#[derive(Debug)]
struct Ids {
    start: u32,
    next: AtomicU64,
}

impl<S> Edge<S> {
    pub(super) fn new(
        routes: S,
        authorizer: Arc<Authorizer>,
        shed: Arc<Shed>,
        pages: Option<Arc<Pages>>,
    ) -> Self {
        let counters = Arc::clone(&shed.counters);
        // Without randomness ids are still unique within this start.
        let start = getrandom::u32().unwrap_or(0);
        let ids = Arc::new(Ids { start, next: AtomicU64::new(1) });
        Self { routes, authorizer, counters, ids, shed, pages }
    }

    /// True if there is anything beside gRPC.
    pub(super) const fn has_pages(&self) -> bool {
        self.pages.is_some()
    }

    /// The edge for a connection that asks for a page.
    pub(super) fn on_page(&self, peer: SocketAddr) -> Reader {
        let pages = self.pages.clone();
        Reader::new(pages, Arc::clone(&self.authorizer), Arc::clone(&self.shed), peer)
    }

    /// The edge as one connection sees it.
    pub(super) fn on_connection(
        &self,
        peer: SocketAddr,
        local: Option<SocketAddr>,
        life: Lifetime,
    ) -> Connection<S>
    where
        S: Clone,
    {
        Connection { edge: self.clone(), peer, local, life }
    }

    fn request_id(&self, headers: &HeaderMap) -> RequestId {
        let offered = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| {
            (1..=MAX_REQUEST_ID).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        });
        match offered {
            Some(id) => RequestId(id.into()),
            None => {
                let next = self.ids.next.fetch_add(1, Ordering::Relaxed);
                RequestId(format!("req-{:08x}-{next:x}", self.ids.start).into())
            }
        }
    }

    /// Everything that is checked before a service sees the request.
    fn check(
        &self,
        request: &mut Request<Incoming>,
        connection: TcpConnectInfo,
        peer: SocketAddr,
        (id, life): (&RequestId, &Lifetime),
    ) -> Result<Terms, Status> {
        let limit = grpc_timeout(request.headers())?;
        let changes = self.authorizer.changes();
        let (path, headers) = (request.uri().path(), request.headers());
        let principal = self.authorizer.admit(path, headers, peer.ip(), Instant::now())?;
        let caller = principal.as_ref().map_or("", Principal::name);
        let place = self.shed.place(path, caller)?;
        let stay = principal
            .as_ref()
            .and_then(|principal| Stay::of(&self.authorizer, changes, path, headers, principal));
        // No service needs the token any more, and what does not have it cannot leak it.
        request.headers_mut().remove(AUTHORIZATION);
        let extensions = request.extensions_mut();
        if let Some(principal) = principal {
            extensions.insert(principal);
        }
        extensions.insert(id.clone());
        extensions.insert(connection);
        life.is_useful();
        extensions.insert(life.leaving());
        Ok(Terms { limit, place, ends: lifetime::ends(stay, life.leaving()) })
    }
}

/// How long a request may last.
struct Terms {
    /// What its caller gave it.
    limit: Option<Duration>,
    /// Where it is served, until it is answered.
    place: Place,
    /// When it may not go on, whatever it is doing.
    ends: Ends,
}

/// The edge of one connection: hyper's service.
#[derive(Debug, Clone)]
pub(super) struct Connection<S> {
    edge: Edge<S>,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    life: Lifetime,
}

type Answer = Response<GuardedBody>;

impl<S> hyper::service::Service<Request<Incoming>> for Connection<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let edge = &self.edge;
        edge.counters.bump(&edge.counters.requests);
        if edge.has_pages() && super::page::is_one(&request) {
            let reader = edge.on_page(self.peer);
            let life = self.life.clone();
            return Box::pin(async move {
                let answer = reader.read(request).await;
                if answer.status().is_success() {
                    life.is_useful();
                }
                Ok(answer)
            });
        }
        if let Some(answer) = not_grpc(&request, edge.has_pages()) {
            return Box::pin(std::future::ready(Ok(answer)));
        }
        let id = edge.request_id(request.headers());
        let info = TcpConnectInfo { local_addr: self.local, remote_addr: Some(self.peer) };
        let terms = match edge.check(&mut request, info, self.peer, (&id, &self.life)) {
            Ok(terms) => terms,
            Err(status) => {
                edge.counters.bump(&edge.counters.requests_denied);
                let answer = refused(&status, &id, &edge.counters);
                tracing::debug!(
                    path = request.uri().path(),
                    peer = %self.peer,
                    request = %id,
                    code = ?status.code(),
                    "request denied"
                );
                return Box::pin(std::future::ready(Ok(answer)));
            }
        };
        let serve = edge.routes.clone().oneshot(request);
        Box::pin(guarded(serve, terms, id, Arc::clone(&edge.counters)))
    }
}

/// Runs one request: its deadline holds, a place is not held for ever, and a panic in it is an answer.
async fn guarded<F>(
    serve: F,
    Terms { limit, place, mut ends }: Terms,
    id: RequestId,
    counters: Arc<Counters>,
) -> Result<Answer, Infallible>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    let now = tokio::time::Instant::now();
    let deadline = limit.and_then(|limit| now.checked_add(limit));
    // A stream that has begun gave its place back, and lasts as long as its caller wants.
    let begins = place.patience(limit).and_then(|patience| now.checked_add(patience));
    let served = async {
        tokio::select! {
            biased;
            why = &mut ends => Err(why),
            answer = caught(serve) => Ok(answer),
        }
    };
    let outcome = match begins {
        None => Some(served.await),
        Some(begins) => tokio::time::timeout_at(begins, served).await.ok(),
    };
    let outcome = match outcome {
        Some(Err(why)) => {
            counters.bump(&counters.requests_denied);
            return Ok(refused(&why, &id, &counters));
        }
        Some(Ok(answer)) => Some(answer),
        None => None,
    };
    let response = match outcome {
        Some(Ok(Ok(response))) => response,
        Some(Err(Panicked)) => {
            counters.bump(&counters.panics);
            tracing::error!(request = %id, "a request panicked");
            return Ok(refused(&status::internal(id.as_str()), &id, &counters));
        }
        None => {
            counters.bump(&counters.deadlines_passed);
            return Ok(refused(&status::deadline_exceeded(), &id, &counters));
        }
    };
    let (mut parts, body) = response.into_parts();
    stamp(&mut parts.headers, &id);
    Ok(Response::from_parts(parts, GuardedBody::new(body, deadline, Some(ends), id, counters)))
}

fn refused(status: &Status, id: &RequestId, counters: &Arc<Counters>) -> Answer {
    let (mut parts, ()) = status.clone().into_http::<()>().into_parts();
    stamp(&mut parts.headers, id);
    let body = GuardedBody::new(Body::empty(), None, None, id.clone(), Arc::clone(counters));
    Response::from_parts(parts, body)
}

fn stamp(headers: &mut HeaderMap, id: &RequestId) {
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
}

/// The answer to a request that is no gRPC at all: tonic itself would process a GET or any content type.
fn not_grpc(request: &Request<Incoming>, has_pages: bool) -> Option<Answer> {
    let refuse = |code| {
        let mut response = Response::new(GuardedBody::empty());
        *response.status_mut() = code;
        response
    };
    // Every method is called with POST; a page is not.
    let takes = has_pages.then(|| super::page::takes(request.uri().path())).flatten();
    let takes = takes.unwrap_or(super::page::CALLED);
    if request.method() != Method::POST {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(takes));
        return Some(response);
    }
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let grpc = kind
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')));
    (!grpc).then(|| refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// The deadline the client gave, as the gRPC protocol writes it: at most eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    parse_timeout(value.as_bytes()).map(Some).ok_or_else(|| {
        status::invalid(&[Violation::new(
            GRPC_TIMEOUT,
            String::from_utf8_lossy(value.as_bytes()),
            "must be 1 to 8 digits and one of H, M, S, m, u, n",
        )])
    })
}

fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::Limits;

    #[test]
    fn a_timeout_is_taken_exactly_as_the_protocol_writes_it() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("2M", Some(Duration::from_secs(120))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("+1S", None),
            ("1s", None),
            ("1.5S", None),
            ("1 S", None),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), expected, "{text}");
        }
    }

    const EXPORT: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    const HOUR: Duration = Duration::from_secs(3_600);

    /// One place of each kind, held for a moment.
    fn narrow() -> Shed {
        let limits = Limits { max_telemetry: 1, max_queries: 1, ..Limits::default() };
        let mut shed = Shed::new(&limits, Arc::new(Counters::default()));
        shed.patience = Duration::from_millis(50);
        shed
    }

    async fn served<F>(shed: &Shed, path: &str, limit: Option<Duration>, serve: F) -> Answer
    where
        F: Future<Output = Result<Response<Body>, Infallible>>,
    {
        let ends = lifetime::ends(None, Lifetime::default().leaving());
        let place = shed.place(path, "a").expect("a place");
        let terms = Terms { limit, place, ends };
        let id = RequestId("req-1".into());
        let Ok(answer) = guarded(serve, terms, id, Arc::clone(&shed.counters)).await;
        answer
    }

    #[tokio::test]
    async fn a_body_that_never_ends_gives_its_place_back() {
        let shed = narrow();
        for limit in [None, Some(HOUR)] {
            let hung = served(&shed, EXPORT, limit, std::future::pending());
            let answer = tokio::time::timeout(HOUR / 100, hung).await.expect("an answer");
            let status = Status::from_header_map(answer.headers()).expect("a status");
            assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
            assert!(shed.place(EXPORT, "a").is_ok(), "free again");
        }
        assert_eq!(shed.counters.snapshot()["deadlines_passed"], 2);
        let streams = "/agentctl.v1.TelemetryService/PushSignals";
        let stream = served(&shed, streams, None, std::future::pending());
        let waited = tokio::time::timeout(4 * shed.patience, stream).await;
        assert!(waited.is_err(), "nobody waits for its place");
    }

    #[tokio::test]
    async fn a_watch_that_has_begun_goes_on() {
        use http_body_util::{BodyExt as _, StreamBody};
        let shed = narrow();
        let watch = "/agentctl.v1.DecisionService/WatchDecisions";
        let frames = tokio_stream::pending::<Result<hyper::body::Frame<bytes::Bytes>, Status>>();
        let begun = async { Ok(Response::new(Body::new(StreamBody::new(frames)))) };
        let mut answer = served(&shed, watch, None, begun).await;
        assert!(shed.place(watch, "a").is_ok(), "free again");
        let next = tokio::time::timeout(4 * shed.patience, answer.body_mut().frame()).await;
        assert!(next.is_err(), "still open");
    }
}

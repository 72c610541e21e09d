//! Requests for a page beside gRPC: GET and HEAD, over HTTP/1.1 or HTTP/2. Who may read which is in the same table as the methods.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::Code;
use tonic::body::Body;
use tonic_types::StatusExt as _;

use super::body::GuardedBody;
use super::counters::Counters;
use super::hook;
use super::shed::Shed;
use crate::auth::{Authorizer, matrix};
use crate::grpc::hooks::Hook;
use crate::pages::{Answer, Pages};
use crate::tasks::{Panicked, caught};

/// Who reads pages on one connection: hyper's service for HTTP/1.1.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) pages: Option<Arc<Pages>>,
    pub(super) authorizer: Arc<Authorizer>,
    counters: Arc<Counters>,
    pub(super) shed: Arc<Shed>,
    pub(super) peer: SocketAddr,
}

/// True if a page is asked for or signals are brought to a door, and no method is called.
pub(super) fn is_one(request: &Request<Incoming>) -> bool {
    hook::of(request).is_some()
        || (is_read(request.method()) && matrix::page(request.uri().path()).is_some())
}

/// How a page is read.
const READ: &str = "GET, HEAD";
/// How signals are brought, and methods called.
pub(super) const CALLED: &str = "POST";

/// What the header `allow` says of `path`; `None` if neither a page nor a door is there.
pub(super) fn takes(path: &str) -> Option<&'static str> {
    if Hook::at(path).is_some() {
        return Some(CALLED);
    }
    matrix::page(path).map(|_| READ)
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

impl Reader {
    pub(super) fn new(
        pages: Option<Arc<Pages>>,
        authorizer: Arc<Authorizer>,
        shed: Arc<Shed>,
        peer: SocketAddr,
    ) -> Self {
        let counters = Arc::clone(&shed.counters);
        Self { pages, authorizer, counters, shed, peer }
    }

    /// Answers one request.
    pub(super) async fn read(&self, request: Request<Incoming>) -> Response<GuardedBody> {
        let head_only = request.method() == Method::HEAD;
        let path = request.uri().path().to_owned();
        let answering = async {
            match hook::of(&request) {
                Some(hook) => self.take(hook, request).await,
                None => self.answer(&request).await,
            }
        };
        let answer = self.settled(&path, answering).await;
        if answer.status.is_client_error() {
            self.counters.bump(&self.counters.requests_denied);
        }
        render(answer, head_only, takes(&path))
    }

    /// The answer, also of who panics: the connection and its other requests live on.
    async fn settled(&self, path: &str, answering: impl Future<Output = Answer>) -> Answer {
        match caught(answering).await {
            Ok(answer) => answer,
            Err(Panicked) => {
                self.counters.bump(&self.counters.panics);
                tracing::error!(path, peer = %self.peer, "a request panicked");
                Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
            }
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        let known = self.pages.as_ref().zip(matrix::page(path));
        let allowed = match takes(path) {
            Some(READ) => is_read(request.method()),
            // Who brings something to a door was sent there before.
            Some(_) => false,
            // Nothing is there, however it is asked for.
            None => true,
        };
        if !allowed {
            let line = "pages are read with GET or HEAD, and signals are brought with POST";
            return Answer::text(StatusCode::METHOD_NOT_ALLOWED, line);
        }
        let Some((pages, access)) = known else {
            let text = "no such page; this port speaks gRPC over HTTP/2, and has /metrics, /healthz, /readyz, /checkpoint and /tile/";
            return Answer::text(StatusCode::NOT_FOUND, text);
        };
        let open = pages.is_open(path) && self.peer.ip().to_canonical().is_loopback();
        let here = open && is_asked_by_address(request);
        let (headers, now) = (request.headers(), Instant::now());
        let admitted = self.authorizer.admit_to(access, path, headers, self.peer.ip(), now);
        match admitted {
            Err(status) if !here => refused(&status),
            _ => pages.answer(path).await,
        }
    }
}

/// Whether the reader named this host by its address or as `localhost`. A page in a browser that was led here by a name of its own
/// (DNS rebinding) did not, so an open page is not open to it.
fn is_asked_by_address(request: &Request<Incoming>) -> bool {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = header.or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
    host.is_some_and(is_local_name)
}

fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn refused(status: &tonic::Status) -> Answer {
    let code = match status.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::NOT_FOUND,
    };
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    Answer::text(code, &format!("{reason}: {}", status.message()))
}

fn render(answer: Answer, head_only: bool, takes: Option<&'static str>) -> Response<GuardedBody> {
    let Answer { status, content_type, cache, body, retry_after } = answer;
    let body = if head_only { Bytes::new() } else { body };
    let mut response = Response::new(GuardedBody::whole(Body::new(Full::new(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    match (status, takes) {
        (StatusCode::UNAUTHORIZED, _) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        (StatusCode::METHOD_NOT_ALLOWED, Some(takes)) => {
            headers.insert(ALLOW, HeaderValue::from_static(takes));
        }
        _ => {}
    }
    response
}

impl hyper::service::Service<Request<Incoming>> for Reader {
    type Response = Response<GuardedBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.counters.bump(&self.counters.requests);
        let reader = self.clone();
        Box::pin(async move { Ok(reader.read(request).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::TokenTable;

    #[tokio::test]
    async fn a_panic_at_a_door_is_an_answer_and_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let table = TokenTable::load_or_generate(dir.path()).expect("tokens");
        let counters = Arc::new(Counters::default());
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let authorizer = Arc::new(Authorizer::new(table));
        let shed = Arc::new(Shed::new(&super::super::Limits::default(), Arc::clone(&counters)));
        let reader = Reader::new(None, authorizer, shed, peer);
        let answer = reader.settled("/v1/metrics", async { panic!("as asked") }).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(counters.snapshot()["panics"], 1);
        let fine = async { Answer::text(StatusCode::OK, "fine") };
        assert_eq!(reader.settled("/v1/metrics", fine).await.status, StatusCode::OK);
        assert_eq!(counters.snapshot()["panics"], 1);
    }

    #[test]
    fn a_refused_method_is_told_what_the_path_takes() {
        for (path, expected) in [
            ("/metrics", Some("GET, HEAD")),
            ("/tile/0/000", Some("GET, HEAD")),
            ("/v1/metrics", Some("POST")),
            ("/v1/alertmanager", Some("POST")),
            ("/nothing", None),
        ] {
            assert_eq!(takes(path), expected, "{path}");
            let refused = Answer::text(StatusCode::METHOD_NOT_ALLOWED, "no");
            let rendered = render(refused, false, takes(path));
            let told = rendered.headers().get(ALLOW).map(|value| value.to_str().expect("text"));
            assert_eq!(told, expected, "{path}");
        }
    }

    #[test]
    fn only_this_host_is_this_host() {
        for host in ["localhost", "localhost:7443", "127.0.0.1", "127.0.0.1:1", "[::1]:7443"] {
            assert!(is_local_name(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example", "10.0.0.1:7443", "127.0.0.1.nip.io"]
        {
            assert!(!is_local_name(host), "{host}");
        }
    }
}

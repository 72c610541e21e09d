//! The accept loop against clients that do not behave, on real sockets.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::*;
use crate::auth::{Principal, TokenTable, tokens};

mod age;
mod attacks;
mod encrypted;
mod services;

const GENEROUS: Duration = Duration::from_secs(30);
const METHOD: &str = "/agentctl.v1.DecisionService/WatchDecisions";

/// A server whose one service does what the header `x-test` says.
struct TestServer {
    address: SocketAddr,
    tasks: Tasks,
    counters: Arc<Counters>,
    release: Arc<Notify>,
    token: String,
    authorizer: Arc<Authorizer>,
    serving: JoinHandle<Drained>,
    _dir: tempfile::TempDir,
}

fn quick() -> Limits {
    Limits {
        preface_timeout: Duration::from_secs(2),
        tls_timeout: Duration::from_secs(2),
        drain_timeout: GENEROUS,
        ..Limits::default()
    }
}

async fn start(limits: Limits) -> TestServer {
    start_with(limits, None).await
}

async fn start_with(limits: Limits, tls: Option<TlsSetup>) -> TestServer {
    let dir = tempfile::tempdir().expect("a directory");
    let table = TokenTable::load_or_generate(dir.path()).expect("tokens");
    let path = dir.path().join(tokens::FILE_NAME);
    let token = tokens::plain_token(&path, tokens::LOCAL).expect("a token");
    let release = Arc::new(Notify::new());
    let notify = Arc::clone(&release);
    let service = tower::service_fn(move |request| behave(request, Arc::clone(&notify)));
    let authorizer = Arc::new(Authorizer::new(table));
    let listen = Listen::new(service, Arc::clone(&authorizer)).with_limits(limits).with_tls(tls);
    let counters = listen.counters();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let tasks = Tasks::new();
    let owned = tasks.clone();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    tasks.spawn("serve", OnFailure::Log, async move {
        let _ = sender.send(listen.serve(vec![listener], &owned).await);
    });
    #[expect(clippy::disallowed_methods, reason = "the test waits for the answer of the task")]
    let serving = tokio::spawn(async move { receiver.await.expect("serve answers") });
    TestServer { address, tasks, counters, release, token, authorizer, serving, _dir: dir }
}

impl TestServer {
    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    async fn client(&self) -> SendRequest<Empty<Bytes>> {
        let io = TokioIo::new(self.tcp().await);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("h2");
        self.tasks.spawn("client", OnFailure::Log, async move {
            let _ = connection.await;
        });
        sender
    }

    fn request(&self, behaviour: &str) -> http::request::Builder {
        Request::post(format!("http://test{METHOD}"))
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer {}", self.token))
            .header("x-test", behaviour)
    }

    fn count(&self, name: &str) -> u64 {
        self.counters.snapshot()[name]
    }

    async fn stop(self) -> Drained {
        self.tasks.stop();
        self.stopped().await
    }

    async fn stopped(self) -> Drained {
        timeout(GENEROUS, self.serving).await.expect("serve returns").expect("no panic")
    }
}

async fn behave(
    request: Request<Incoming>,
    release: Arc<Notify>,
) -> Result<Response<Body>, Infallible> {
    let behaviour = request.headers()["x-test"].to_str().expect("text").to_owned();
    assert!(request.headers().get("authorization").is_none(), "the token stays at the edge");
    assert_eq!(request.extensions().get::<Principal>().expect("a principal").name(), "local");
    assert!(request.extensions().get::<RequestId>().is_some());
    match behaviour.as_str() {
        "ok" => {}
        "panic" => panic!("as asked"),
        "wait" => release.notified().await,
        "hang" => std::future::pending().await,
        "panic-stream" => {
            let body = tokio_stream::iter([0, 1]).map_item(|i| {
                assert_eq!(i, 0, "as asked");
                Ok::<_, Status>(Frame::data(Bytes::from_static(b"\0\0\0\0\0")))
            });
            return Ok(grpc(Body::new(StreamBody::new(body))));
        }
        _ => {
            let chunk = Bytes::from(vec![0; 16 * 1024]);
            let leaves = Leaves(release);
            let body = tokio_stream::iter(std::iter::repeat(())).map_item(move |()| {
                let _held = &leaves;
                Ok::<_, Status>(Frame::data(chunk.clone()))
            });
            return Ok(grpc(Body::new(StreamBody::new(body))));
        }
    }
    Ok(Status::ok("").into_http())
}

/// Tells that the stream that holds it was let go.
struct Leaves(Arc<Notify>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

trait MapItem: tokio_stream::Stream + Sized {
    fn map_item<T>(self, f: impl FnMut(Self::Item) -> T) -> impl tokio_stream::Stream<Item = T> {
        tokio_stream::StreamExt::map(self, f)
    }
}
impl<S: tokio_stream::Stream> MapItem for S {}

fn grpc(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", "application/grpc".parse().expect("a header"));
    response
}

fn code(headers: &HeaderMap) -> Code {
    Status::from_header_map(headers).expect("a grpc-status").code()
}

async fn call(
    client: &mut SendRequest<Empty<Bytes>>,
    request: http::request::Builder,
) -> Response<Incoming> {
    let request = request.body(Empty::new()).expect("a request");
    timeout(GENEROUS, client.send_request(request)).await.expect("an answer").expect("an answer")
}

/// Reads a stream to its end; answers what it ends with.
async fn trailers(stream: Response<Incoming>) -> HeaderMap {
    let mut body = stream.into_body();
    loop {
        let frame = timeout(GENEROUS, body.frame()).await.expect("ends").expect("trailers");
        if let Ok(trailers) = frame.expect("no reset").into_trailers() {
            return trailers;
        }
    }
}

/// Waits until the server closes the connection; answers what it sent before.
async fn read_to_close(tcp: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is a close too.
    let _ = timeout(GENEROUS, tcp.read_to_end(&mut all)).await.expect("the server closes");
    all
}

#[tokio::test]
async fn a_good_request_passes_and_carries_its_id() {
    let server = start(quick()).await;
    let mut client = server.client().await;
    let answer = call(&mut client, server.request("ok").header("x-request-id", "mine-1")).await;
    assert_eq!(code(answer.headers()), Code::Ok);
    assert_eq!(answer.headers()["x-request-id"], "mine-1");
    let answer = call(&mut client, server.request("ok").header("x-request-id", "no good!")).await;
    let id = answer.headers()["x-request-id"].to_str().expect("text");
    assert!(id.starts_with("req-"), "{id}");
    assert_eq!(server.stop().await, Drained { aborted: 0 });
}

#[tokio::test]
async fn silent_clients_are_closed_and_hurt_nobody() {
    let server = start(quick()).await;
    let mut silent = server.tcp().await;
    let mut half = server.tcp().await;
    half.write_all(b"PRI * HTTP/2.0\r\n").await.expect("sent");
    let mut client = server.client().await;
    assert_eq!(code(call(&mut client, server.request("ok")).await.headers()), Code::Ok);
    assert_eq!(read_to_close(&mut silent).await, b"");
    assert_eq!(read_to_close(&mut half).await, b"");
    assert_eq!(code(call(&mut client, server.request("ok")).await.headers()), Code::Ok);
    assert_eq!(server.count("preface_failures"), 2);
    server.stop().await;
}

#[tokio::test]
async fn a_browser_is_told_what_the_port_speaks() {
    let server = start(quick()).await;
    let mut tcp = server.tcp().await;
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let answer = String::from_utf8(read_to_close(&mut tcp).await).expect("text");
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.contains("gRPC"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_grpc_is_refused_by_http_status() {
    let server = start(quick()).await;
    let mut client = server.client().await;
    let get = Request::get(format!("http://test{METHOD}"))
        .header("content-type", "application/grpc")
        .header("x-test", "panic");
    let answer = call(&mut client, get).await;
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    for kind in ["application/json", "application/grpc-web", "application/grpcx", "text/html", ""] {
        let post = Request::post(format!("http://test{METHOD}")).header("content-type", kind);
        assert_eq!(
            call(&mut client, post).await.status(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{kind}"
        );
    }
    for kind in ["application/grpc", "application/grpc+proto", "application/grpc;x=y"] {
        let post = Request::post(format!("http://test{METHOD}")).header("content-type", kind);
        let answer = call(&mut client, post).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(code(answer.headers()), Code::Unauthenticated, "{kind}");
    }
    let unknown = server.request("panic").uri("http://test/agentctl.v1.Nobody/Knows");
    assert_eq!(code(call(&mut client, unknown).await.headers()), Code::Unimplemented);
    server.stop().await;
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_connection_lives_on() {
    let server = start(quick()).await;
    let mut client = server.client().await;
    let answer = call(&mut client, server.request("panic")).await;
    assert_eq!(code(answer.headers()), Code::Internal);
    let stream = call(&mut client, server.request("panic-stream")).await;
    let collected =
        timeout(GENEROUS, stream.into_body().collect()).await.expect("ends").expect("ends");
    assert_eq!(code(collected.trailers().expect("trailers")), Code::Internal);
    assert_eq!(collected.to_bytes().len(), 5, "what came before the panic was sent");
    assert_eq!(code(call(&mut client, server.request("ok")).await.headers()), Code::Ok);
    assert_eq!(server.count("panics"), 2);
    server.stop().await;
}

#[tokio::test]
async fn the_deadline_of_the_client_holds_for_answers_and_for_streams() {
    let server = start(quick()).await;
    let mut client = server.client().await;
    let answer = call(&mut client, server.request("hang").header("grpc-timeout", "50m")).await;
    assert_eq!(code(answer.headers()), Code::DeadlineExceeded);
    let stream = call(&mut client, server.request("forever").header("grpc-timeout", "50m")).await;
    assert_eq!(code(&trailers(stream).await), Code::DeadlineExceeded);
    let answer = call(&mut client, server.request("ok").header("grpc-timeout", "soon")).await;
    assert_eq!(code(answer.headers()), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn a_revoked_token_ends_a_stream_whose_client_reads_nothing() {
    let server = start(quick()).await;
    let mut client = server.client().await;
    let stream = call(&mut client, server.request("forever")).await;
    // The window is full by then, and hyper polls the body no more.
    sleep(Duration::from_millis(300)).await;
    let other = tempfile::tempdir().expect("a directory");
    server.authorizer.replace(TokenTable::load_or_generate(other.path()).expect("tokens"));
    timeout(GENEROUS, server.release.notified()).await.expect("the stream is let go unread");
    assert_eq!(code(&trailers(stream).await), Code::Unauthenticated);
    assert_eq!(server.count("requests_denied"), 1);
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once_and_seats_come_back() {
    let limits = Limits { max_connections: 2, reserved_for_loopback: 0, ..Limits::default() };
    let server = start(limits).await;
    let mut first = server.client().await;
    let second = server.client().await;
    assert_eq!(code(call(&mut first, server.request("ok")).await.headers()), Code::Ok);
    let mut third = server.tcp().await;
    assert_eq!(read_to_close(&mut third).await, b"");
    assert_eq!(server.count("refused_connections"), 1);
    drop(second);
    // The seat is free when the server has seen the close: try until then.
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < GENEROUS, "the seat never came back");
        let io = TokioIo::new(server.tcp().await);
        if let Ok((mut sender, connection)) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await
        {
            server.tasks.spawn("client", OnFailure::Log, async move {
                let _ = connection.await;
            });
            let request = server.request("ok").body(Empty::<Bytes>::new()).expect("a request");
            if sender.send_request(request).await.is_ok() {
                break;
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn draining_lets_requests_in_flight_finish() {
    let server = start(quick()).await;
    let mut client = server.client().await;
    assert_eq!(code(call(&mut client, server.request("ok")).await.headers()), Code::Ok);
    let request = server.request("wait").body(Empty::new()).expect("a request");
    let in_flight = client.send_request(request);
    // The request is on its way before the drain begins.
    let started = Instant::now();
    while server.count("requests") < 2 {
        assert!(started.elapsed() < GENEROUS, "the request never came");
        sleep(Duration::from_millis(5)).await;
    }
    server.tasks.stop();
    server.release.notify_one();
    let answer = timeout(GENEROUS, in_flight).await.expect("an answer").expect("an answer");
    assert_eq!(code(answer.headers()), Code::Ok);
    let address = server.address;
    assert_eq!(server.stopped().await, Drained { aborted: 0 });
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn draining_ends_in_time_whatever_clients_do() {
    let drain_timeout = Duration::from_secs(2);
    let limits = Limits { preface_timeout: GENEROUS, drain_timeout, ..Limits::default() };
    let server = start(limits).await;
    let _silent = server.tcp().await;
    let mut half = server.tcp().await;
    half.write_all(b"PRI *").await.expect("sent");
    // A watcher that never reads, and a call that never answers.
    let mut client = server.client().await;
    let watcher = call(&mut client, server.request("forever")).await;
    let request = server.request("hang").body(Empty::new()).expect("a request");
    let mut other = server.client().await;
    let hanging = other.send_request(request);
    tokio::pin!(hanging);
    let started = Instant::now();
    while server.count("requests") < 2 {
        assert!(started.elapsed() < GENEROUS, "the requests never came");
        tokio::select! {
            biased;
            _ = &mut hanging => panic!("it hangs"),
            () = sleep(Duration::from_millis(5)) => {}
        }
    }
    assert_eq!(server.stop().await, Drained { aborted: 2 }, "those two and not the silent ones");
    assert!(timeout(GENEROUS, hanging).await.expect("ends").is_err());
    drop(watcher);
}

//! The accept loop: one port, HTTP/2, and limits on everything a client can hold open.
//!
//! tonic's own server loop never returns while a client keeps a stream open or sends no preface, sets no limit on streams, and
//! spins when file descriptors run out. This one has a deadline for every wait, and draining ends in bounded time whatever
//! clients do.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use crate::auth::Authorizer;
use crate::pages::Pages;
use crate::tasks::{OnFailure, Tasks};

mod body;
mod counters;
mod edge;
mod hook;
mod lifetime;
mod metered;
mod occupancy;
mod page;
mod preface;
mod shed;
pub mod tls;

pub use counters::Counters;
use edge::Edge;
pub use edge::RequestId;
pub use lifetime::Leaving;
use lifetime::{LAST_WORD, Lifetime, Over};
use metered::Metered;
use occupancy::{Occupancy, Seat};
use shed::Shed;
pub use tls::TlsSetup;

/// What clients may hold open, and for how long they may keep the server waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub max_connections: usize,
    /// Connections from one address; 127.0.0.1 and ::1 are exempt, since everything on the host shares them.
    pub max_connections_per_address: usize,
    /// Of all connections, those only 127.0.0.1 and ::1 may use: a flood from outside cannot shut the operator out.
    pub reserved_for_loopback: usize,
    /// Open streams per connection.
    pub max_streams: u32,
    /// Requests with signals in flight; more are refused, so that what people command is served.
    pub max_telemetry: usize,
    /// Questions in flight.
    pub max_queries: usize,
    /// Time for the 24 bytes that open an HTTP/2 connection.
    pub preface_timeout: Duration,
    /// Time for a TLS handshake.
    pub tls_timeout: Duration,
    /// Time between HTTP/2 pings on a quiet connection.
    pub keepalive_interval: Duration,
    /// Time for the answer to a ping.
    pub keepalive_timeout: Duration,
    /// Time for the first request that is let in; a connection that had none is closed.
    pub first_request_timeout: Duration,
    /// Age at which a connection takes no more requests, a fifth more or less.
    pub max_connection_age: Duration,
    /// Time for what is open on a connection that is old; then it is ended.
    pub connection_grace: Duration,
    /// Bytes of all headers of a request.
    pub max_header_list: u32,
    /// Time for requests in flight after the drain began; then they are cut.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_address: 256,
            reserved_for_loopback: 32,
            max_streams: 256,
            max_telemetry: 64,
            max_queries: 512,
            preface_timeout: Duration::from_secs(3),
            tls_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            first_request_timeout: Duration::from_secs(10),
            max_connection_age: Duration::from_secs(30 * 60),
            connection_grace: Duration::from_secs(30),
            max_header_list: 16 * 1024,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Streams a client may open and reset before they are accepted ("rapid reset", CVE-2023-44487).
const MAX_PENDING_ACCEPT_RESETS: usize = 20;
/// Streams the server resets for a client's errors ("made you reset", CVE-2025-8671).
const MAX_LOCAL_ERROR_RESETS: usize = 128;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes buffered per stream for a client that reads slowly.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Time for a page from the first byte asked to the last byte taken.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for aborted connections to go away; they only have to be polled once.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// Serves requests that passed the edge (strict HTTP, request id, deadline, authentication, role) with `routes`, which is
/// `tonic::service::Routes` in production.
#[derive(Debug)]
pub struct Listen<S> {
    routes: S,
    authorizer: Arc<Authorizer>,
    limits: Limits,
    tls: Option<TlsSetup>,
    counters: Arc<Counters>,
    pages: Option<Arc<Pages>>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut at the deadline because they still had requests in flight.
    pub aborted: usize,
}

impl<S> Listen<S> {
    /// Serves `routes` in plain text with default limits.
    #[must_use]
    pub fn new(routes: S, authorizer: Arc<Authorizer>) -> Self {
        Self {
            routes,
            authorizer,
            limits: Limits::default(),
            tls: None,
            counters: Arc::new(Counters::default()),
            pages: None,
        }
    }

    /// With other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// With TLS on every connection.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<TlsSetup>) -> Self {
        self.tls = tls;
        self
    }

    /// With pages beside gRPC.
    #[must_use]
    pub fn with_pages(mut self, pages: Pages) -> Self {
        self.pages = Some(Arc::new(pages));
        self
    }

    /// What was refused, cut or lost so far; stays readable while the server runs.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

impl<S> Listen<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    /// Accepts on every listener until `tasks` stop, then drains: no new connections, GOAWAY on the open ones, requests in
    /// flight may end within the drain timeout, what is left is cut. Returns within the drain timeout plus one second.
    pub async fn serve(self, listeners: Vec<TcpListener>, tasks: &Tasks) -> Drained {
        let stopping = tasks.stopping();
        let drain_timeout = self.limits.drain_timeout;
        let shed = Arc::new(Shed::new(&self.limits, Arc::clone(&self.counters)));
        let shared = Arc::new(Shared {
            edge: Edge::new(self.routes, self.authorizer, shed, self.pages),
            occupancy: Occupancy::new(&self.limits),
            limits: self.limits,
            tls: self.tls,
            counters: self.counters,
            stopping: stopping.clone(),
            abort: CancellationToken::new(),
        });
        for listener in listeners {
            let accept = Arc::clone(&shared).accept_loop(listener, tasks.clone());
            tasks.spawn("accept", OnFailure::Shutdown, accept);
        }
        stopping.cancelled().await;
        if timeout(drain_timeout, shared.occupancy.empty()).await.is_ok() {
            return Drained { aborted: 0 };
        }
        let aborted = shared.occupancy.taken();
        shared.counters.add(&shared.counters.aborted_at_drain, aborted);
        tracing::warn!(connections = aborted, "drain deadline passed, cutting connections");
        shared.abort.cancel();
        // A task that does not even yield to its abort must not hold the process.
        let _ = timeout(ABORT_GRACE, shared.occupancy.empty()).await;
        Drained { aborted }
    }
}

struct Shared<S> {
    edge: Edge<S>,
    limits: Limits,
    tls: Option<TlsSetup>,
    occupancy: Arc<Occupancy>,
    counters: Arc<Counters>,
    stopping: CancellationToken,
    abort: CancellationToken,
}

impl<S> Shared<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    async fn accept_loop(self: Arc<Self>, listener: TcpListener, tasks: Tasks) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.accept_failed(&error).await;
                    continue;
                }
            };
            let Some(seat) = self.occupancy.take(peer.ip()) else {
                self.counters.bump(&self.counters.refused_connections);
                tracing::debug!(%peer, "connection refused: limit reached");
                continue;
            };
            self.counters.bump(&self.counters.accepted_connections);
            tasks.spawn(
                "connection",
                OnFailure::Log,
                Arc::clone(&self).connection(tcp, peer, seat),
            );
        }
    }

    /// Errors of one connection pass; want of descriptors or memory is waited out instead of spinning on it.
    async fn accept_failed(&self, error: &io::Error) {
        let passing = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::Interrupted
        );
        if !passing {
            if self.counters.bump(&self.counters.accept_errors).is_power_of_two() {
                tracing::error!(%error, "cannot accept connections");
            }
            tokio::select! {
                () = self.stopping.cancelled() => {}
                () = sleep(ACCEPT_BACKOFF) => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, tcp: TcpStream, peer: SocketAddr, _seat: Seat) {
        let _ = tcp.set_nodelay(true);
        let local = tcp.local_addr().ok();
        let abort = self.abort.clone();
        // Each way a connection may go is in a box of its own: most go one, and would keep room for all of them.
        let serve = async {
            match &self.tls {
                None => Box::pin(self.opened(tcp, peer, local)).await,
                Some(tls) => Box::pin(self.encrypted(tls, tcp, peer, local)).await,
            }
        };
        abort.run_until_cancelled(serve).await;
    }

    async fn encrypted(
        &self,
        tls: &TlsSetup,
        tcp: TcpStream,
        peer: SocketAddr,
        local: Option<SocketAddr>,
    ) {
        let handshake = Box::pin(tls.acceptor().accept(tcp));
        match self.in_time(self.limits.tls_timeout, handshake).await {
            Some(Ok(stream)) => Box::pin(self.opened(stream, peer, local)).await,
            Some(Err(error)) => {
                self.counters.bump(&self.counters.tls_failures);
                tracing::debug!(%peer, %error, "TLS handshake failed");
            }
            None => {
                self.counters.bump(&self.counters.tls_failures);
            }
        }
    }

    /// Serves a connection by what it begins with.
    async fn opened<Io>(&self, mut io: Io, peer: SocketAddr, local: Option<SocketAddr>)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self.in_time(self.limits.preface_timeout, preface::read(&mut io)).await {
            Some(Ok(preface::Opening::Http2)) => Box::pin(self.http2(io, peer, local)).await,
            Some(Ok(preface::Opening::Http1(first))) if self.edge.has_pages() => {
                Box::pin(self.http1(preface::Replayed::behind(first, io), peer)).await;
            }
            Some(Ok(preface::Opening::Http1(_) | preface::Opening::Other)) => {
                self.counters.bump(&self.counters.preface_failures);
                let answer = preface::refuse(&mut io);
                self.in_time(self.limits.preface_timeout, answer).await;
            }
            Some(Err(_)) | None => {
                self.counters.bump(&self.counters.preface_failures);
            }
        }
    }

    async fn http2<Io>(&self, io: Io, peer: SocketAddr, local: Option<SocketAddr>)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let requests = StreamTasks { abort: self.abort.clone() };
        let mut builder = hyper::server::conn::http2::Builder::new(requests);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .adaptive_window(false)
            .max_concurrent_streams(self.limits.max_streams)
            .max_header_list_size(self.limits.max_header_list)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_PENDING_ACCEPT_RESETS)
            .max_local_error_reset_streams(MAX_LOCAL_ERROR_RESETS)
            .keep_alive_interval(self.limits.keepalive_interval)
            .keep_alive_timeout(self.limits.keepalive_timeout);
        let io = Metered::new(io, Arc::clone(&self.counters));
        let io = TokioIo::new(preface::Replayed::new(io));
        let life = Lifetime::default();
        let service = self.edge.on_connection(peer, local, life.clone());
        let mut connection = Box::pin(builder.serve_connection(io, service));
        let over = tokio::select! {
            ended = connection.as_mut() => return self.ended(peer, ended),
            () = self.stopping.cancelled() => None,
            over = life.over(&self.limits) => Some(over),
        };
        connection.as_mut().graceful_shutdown();
        let Some(over) = over else { return self.ended(peer, connection.await) };
        self.counters.bump(match over {
            Over::Old => &self.counters.old_connections,
            Over::Useless => &self.counters.useless_connections,
        });
        // It is told to go (GOAWAY). What is open may end by itself, then it is ended, and who takes no last word is cut.
        if let Ok(ended) = timeout(self.limits.connection_grace, connection.as_mut()).await {
            return self.ended(peer, ended);
        }
        life.leave();
        match timeout(LAST_WORD, connection).await {
            Ok(ended) => self.ended(peer, ended),
            Err(_elapsed) => {
                self.counters.bump(&self.counters.cut_connections);
                tracing::debug!(%peer, "an old connection took no last word and was cut");
            }
        }
    }

    fn ended(&self, peer: SocketAddr, ended: Result<(), hyper::Error>) {
        if let Err(error) = ended {
            self.counters.bump(&self.counters.broken_connections);
            tracing::debug!(%peer, %error, "connection ended with an error");
        }
    }

    /// One request for a page, one answer, and the connection ends: scrapers and probes come every few seconds, and nothing is
    /// held open for them.
    async fn http1<Io>(&self, io: Io, peer: SocketAddr)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.preface_timeout)
            .max_buf_size(usize::try_from(self.limits.max_header_list).unwrap_or(16 * 1024))
            .half_close(true)
            .keep_alive(false);
        let serving = builder.serve_connection(TokioIo::new(io), self.edge.on_page(peer));
        let ended = self.in_time(PAGE_TIMEOUT, serving).await;
        if !matches!(ended, Some(Ok(()))) {
            self.counters.bump(&self.counters.broken_connections);
            tracing::debug!(%peer, "connection for a page ended early");
        }
    }

    /// Runs `step` of a connection that serves nothing yet: over when the time is up or the server stops.
    async fn in_time<F: Future>(&self, limit: Duration, step: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            done = timeout(limit, step) => done.ok(),
        }
    }
}

/// Runs the requests of a connection; they end with it and at the abort.
#[derive(Debug, Clone)]
struct StreamTasks {
    abort: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for StreamTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, request: F) {
        let abort = self.abort.clone();
        TokioExecutor::new().execute(async move {
            abort.run_until_cancelled_owned(request).await;
        });
    }
}

#[cfg(test)]
mod tests;

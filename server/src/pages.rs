//! The pages beside gRPC on the one port, for scrapers and probes: `/metrics`, `/healthz`, `/readyz`; and for
//! whoever verifies the proof log with tools of their own: `/checkpoint` and `/tile/...` of C2SP tlog-tiles.

mod tlog;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use crate::agent::Handle;
use crate::auth::Principal;
use crate::bus;
use crate::grpc::Services;
use crate::grpc::hooks::{self, Hook};
use crate::ingest::Ingest;
use crate::listen::Counters;
use crate::metrics::{CONTENT_TYPE, Metrics, Outside, Snapshot};
use crate::publish::Publisher;
use crate::tasks::Tasks;
use crate::tlog::Tlog;

/// Longest time the loop may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);
const TEXT: &str = "text/plain; charset=utf-8";

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// What it is.
    pub content_type: &'static str,
    /// How long a cache may keep it.
    pub cache: &'static str,
    /// The bytes.
    pub body: Bytes,
    /// Seconds after which to ask again.
    pub retry_after: Option<u64>,
}

const NO_STORE: &str = "no-store";

impl Answer {
    /// A line of text.
    #[must_use]
    pub fn text(status: StatusCode, line: &str) -> Self {
        let body = format!("{}\n", agentctl_api::text::line(line)).into();
        Self::new(status, TEXT, body)
    }

    /// An answer that no cache keeps.
    #[must_use]
    pub const fn new(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        Self { status, content_type, cache: NO_STORE, body, retry_after: None }
    }

    /// With the time after which to ask again.
    #[must_use]
    pub const fn retry_after(mut self, seconds: Option<u64>) -> Self {
        self.retry_after = seconds;
        self
    }
}

/// What the pages are made of.
#[derive(Debug)]
pub struct Pages {
    agent: Handle,
    publisher: Publisher,
    ingest: Arc<Ingest>,
    intake: Arc<crate::grpc::telemetry::intake::Intake>,
    bus: Option<bus::Monitor>,
    metrics: Arc<Metrics>,
    port: Arc<Counters>,
    tlog: Tlog,
    tasks: Tasks,
    /// For what is brought to the doors beside the pages.
    services: Services,
    open: bool,
}

impl Pages {
    /// Pages of the server behind `services`; `open`: whoever is on this host reads the metrics without a token.
    #[must_use]
    pub fn new(services: &Services, port: Arc<Counters>, open: bool) -> Self {
        Self {
            agent: services.agent.clone(),
            publisher: services.publisher.clone(),
            ingest: Arc::clone(&services.ingest),
            intake: Arc::clone(&services.intake),
            bus: services.bus.clone(),
            metrics: Arc::clone(&services.metrics),
            port,
            tlog: services.tlog.clone(),
            tasks: services.tasks.clone(),
            services: services.clone(),
            open,
        }
    }

    /// Whether whoever is on this host reads the page at `path` without a token: the metrics at most.
    #[must_use]
    pub fn is_open(&self, path: &str) -> bool {
        self.open && path == "/metrics"
    }

    /// The page at `path`; who may read it was decided before.
    pub async fn answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => self.metrics().await,
            "/healthz" => Answer::text(StatusCode::OK, "ok"),
            "/readyz" => self.ready().await,
            "/checkpoint" => tlog::checkpoint(&self.tlog),
            tile if tile.starts_with("/tile/") => tlog::tile(&self.tlog, tile).await,
            _ => Answer::text(StatusCode::NOT_FOUND, "no such page"),
        }
    }

    /// Takes in what `principal` brought to a door.
    pub fn take(
        &self,
        hook: Hook,
        principal: Principal,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Answer {
        if self.tasks.stopping().is_cancelled() {
            let line = "the server stops";
            return Answer::text(StatusCode::SERVICE_UNAVAILABLE, line).retry_after(Some(2));
        }
        hooks::answer(&self.services, hook, principal, headers, body)
    }

    /// A turn to judge what was brought to a door, among all who bring signals.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.intake.turn().await
    }

    /// Served even when the loop does not answer: then is when somebody looks.
    async fn metrics(&self) -> Answer {
        let asked = timeout(PATIENCE, self.agent.query(Snapshot::of)).await;
        let mut snapshot = asked.ok().and_then(Result::ok).unwrap_or_default();
        snapshot.outside = self.outside();
        let body = self.metrics.render(&snapshot).into();
        Answer::new(StatusCode::OK, CONTENT_TYPE, body)
    }

    fn outside(&self) -> Outside {
        let mut limits = self.intake.counters.limits();
        limits.insert("samples_dropped", self.ingest.dropped());
        Outside {
            bus: self.bus.as_ref().map(bus::Monitor::stats),
            watchers: u64::try_from(self.publisher.watchers()).unwrap_or(u64::MAX),
            signals: self.intake.counters.accepted(),
            limits,
            port: self.port.snapshot(),
        }
    }

    /// Ready is who can act: the loop answers, the log can be written, and the server does not stop.
    async fn ready(&self) -> Answer {
        let no = |why| Answer::text(StatusCode::SERVICE_UNAVAILABLE, why);
        if self.tasks.stopping().is_cancelled() {
            return no("not ready: the server stops");
        }
        match timeout(PATIENCE, self.agent.query(|view| view.blocked.is_none())).await {
            Ok(Ok(true)) => Answer::text(StatusCode::OK, "ready"),
            Ok(Ok(false)) => no("not ready: the proof log cannot be written"),
            Ok(Err(_gone)) => no("not ready: the agent has stopped"),
            Err(_elapsed) => no("not ready: the loop does not answer"),
        }
    }
}

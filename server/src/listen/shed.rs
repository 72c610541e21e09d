//! What is refused first when more comes in than can be served: signals, then what is asked for; never what people command, nor the
//! question whether the server lives.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::Limits;
use super::counters::Counters;
use crate::auth::Role;
use crate::auth::matrix::{self, Access};
use crate::grpc::status;

/// Time after which what was refused may come again.
const RETRY: Duration = Duration::from_secs(1);
/// Who never ends a request gives its place back after this.
const PATIENCE: Duration = Duration::from_secs(10);

/// How soon a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// Signals in one request. The streams of monitors are bounded per principal, by seats and by rate.
    Telemetry,
    /// Questions: they can be asked again.
    Query,
    /// Commands of people, streams that are bounded elsewhere, health.
    Never,
}

impl Priority {
    /// The priority of the method or door at `path`.
    pub(super) fn of(path: &str) -> Self {
        let streams = ["PushSignals", "StreamSignals"];
        if streams.iter().any(|method| path.ends_with(method)) {
            return Self::Never;
        }
        match matrix::access(path).or_else(|| matrix::hook(path)) {
            None | Some(Access::Public) => Self::Never,
            Some(access @ Access::AnyOf(roles)) => {
                match (access.mutates(), roles.contains(&Role::Monitor)) {
                    (true, true) => Self::Telemetry,
                    (true, false) => Self::Never,
                    (false, _) => Self::Query,
                }
            }
        }
    }
}

/// The places for requests that may be refused; each is held until its request is answered.
#[derive(Debug)]
pub(super) struct Shed {
    telemetry: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    /// Time within which an answer begins that nobody gave another one.
    pub(super) patience: Duration,
    /// What was refused, here and elsewhere at the edge.
    pub(super) counters: Arc<Counters>,
}

/// A place; free again when dropped. None is needed by what is never refused.
#[derive(Debug)]
pub(super) struct Place {
    priority: Priority,
    patience: Duration,
    _held: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Time within which the answer must begin when its caller gave it `asked`. Who brings signals needs no longer than that; a question
    /// may have a long answer, for whoever says to wait for it.
    pub(super) fn patience(&self, asked: Option<Duration>) -> Option<Duration> {
        match self.priority {
            Priority::Never => asked,
            Priority::Query => asked.or(Some(self.patience)),
            Priority::Telemetry => Some(asked.unwrap_or(self.patience).min(self.patience)),
        }
    }
}

impl Shed {
    pub(super) fn new(limits: &Limits, counters: Arc<Counters>) -> Self {
        Self {
            telemetry: Arc::new(Semaphore::new(limits.max_telemetry)),
            queries: Arc::new(Semaphore::new(limits.max_queries)),
            patience: PATIENCE,
            counters,
        }
    }

    /// A place for the request at `path`.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` (`OVERLOADED`) when those of its priority are taken.
    pub(super) fn place(&self, path: &str) -> Result<Place, Status> {
        let counters = &self.counters;
        let priority = Priority::of(path);
        let held = match priority {
            Priority::Never => None,
            Priority::Telemetry => {
                Some(self.take(&self.telemetry, "telemetry", &counters.telemetry_shed)?)
            }
            Priority::Query => Some(self.take(&self.queries, "queries", &counters.queries_shed)?),
        };
        Ok(Place { priority, patience: self.patience, _held: held })
    }

    fn take(
        &self,
        places: &Arc<Semaphore>,
        what: &str,
        shed: &AtomicU64,
    ) -> Result<OwnedSemaphorePermit, Status> {
        match Arc::clone(places).try_acquire_owned() {
            Ok(held) => Ok(held),
            Err(_none_left) => {
                self.counters.bump(shed);
                let message = format!("as many {what} are in flight as can be served; come again");
                Err(status::exhausted("OVERLOADED", what, &message, Some(RETRY)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telemetry_goes_first_then_questions_and_commands_never() {
        let ranked = [
            ("/grpc.health.v1.Health/Check", Priority::Never),
            ("/agentctl.v1.AgentService/Pause", Priority::Never),
            ("/agentctl.v1.AgentService/Freeze", Priority::Never),
            ("/agentctl.v1.ApprovalService/ApproveAction", Priority::Never),
            ("/agentctl.v1.DecisionService/ProposeAction", Priority::Never),
            ("/agentctl.v1.AgentService/GetStatus", Priority::Query),
            ("/agentctl.v1.DecisionService/WatchDecisions", Priority::Query),
            ("/agentctl.v1.IdentityService/WhoAmI", Priority::Query),
            (
                "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
                Priority::Telemetry,
            ),
            ("/v1/metrics", Priority::Telemetry),
            ("/v1/alertmanager", Priority::Telemetry),
            ("/agentctl.v1.TelemetryService/StreamSignals", Priority::Never),
        ];
        for (path, priority) in ranked {
            assert_eq!(Priority::of(path), priority, "{path}");
        }
        let limits = Limits { max_telemetry: 2, max_queries: 1, ..Limits::default() };
        let shed = Shed::new(&limits, Arc::new(Counters::default()));
        let _held = [shed.place("/v1/metrics"), shed.place("/v1/alertmanager")].map(Result::unwrap);
        let status = shed.place("/v1/metrics").unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
        let question = shed.place("/agentctl.v1.AgentService/GetStatus").unwrap();
        assert!(shed.place("/agentctl.v1.AgentService/GetStatus").is_err());
        for _ in 0..100 {
            assert!(shed.place("/agentctl.v1.AgentService/Pause").is_ok());
        }
        drop(question);
        assert!(shed.place("/agentctl.v1.AgentService/GetStatus").is_ok(), "free again");
        assert_eq!(shed.counters.snapshot()["telemetry_shed"], 1);
    }

    #[test]
    fn who_holds_a_place_is_answered_in_time_whatever_it_asks_for() {
        let shed = Shed::new(&Limits::default(), Arc::new(Counters::default()));
        let (short, long) = (Duration::from_millis(250), Duration::from_secs(3_600));
        for (path, expected) in [
            ("/v1/metrics", [Some(PATIENCE), Some(short), Some(PATIENCE)]),
            ("/agentctl.v1.ProofService/VerifyProof", [Some(PATIENCE), Some(short), Some(long)]),
            ("/agentctl.v1.AgentService/Pause", [None, Some(short), Some(long)]),
            ("/agentctl.v1.TelemetryService/PushSignals", [None, Some(short), Some(long)]),
        ] {
            let place = shed.place(path).unwrap();
            let asked = [None, Some(short), Some(long)];
            assert_eq!(asked.map(|asked| place.patience(asked)), expected, "{path}");
        }
    }
}

//! What is refused first when more comes in than can be served: signals, then what is asked for; never what people command, nor the
//! question whether the server lives.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

/// The places of one priority. While there is room enough anybody may have them; once half of them are taken, whoever has a quarter
/// gets no more. So one caller alone never has more than half, and others always find room beside it.
#[derive(Debug)]
struct Places {
    count: usize,
    taken: Mutex<BTreeMap<String, usize>>,
}

/// One of them; free again when dropped.
#[derive(Debug)]
struct Held {
    places: Arc<Places>,
    caller: String,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    /// All are taken.
    All,
    /// The caller has its share.
    Share,
}

impl Places {
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { count, taken: Mutex::default() })
    }

    fn take(self: &Arc<Self>, caller: &str) -> Result<Held, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // No more callers than places have an entry.
        let all: usize = taken.values().sum();
        let here = taken.get(caller).copied().unwrap_or(0);
        if all >= self.count {
            return Err(Full::All);
        }
        if all >= self.count / 2 && here >= (self.count / 4).max(1) {
            return Err(Full::Share);
        }
        taken.insert(caller.to_owned(), here + 1);
        Ok(Held { places: Arc::clone(self), caller: caller.to_owned() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.caller) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

/// The places for requests that may be refused; each is held until its request is answered.
#[derive(Debug)]
pub(super) struct Shed {
    telemetry: Arc<Places>,
    queries: Arc<Places>,
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
    _held: Option<Held>,
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
            telemetry: Places::new(limits.max_telemetry),
            queries: Places::new(limits.max_queries),
            patience: PATIENCE,
            counters,
        }
    }

    /// A place for the request of `caller` at `path`.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` (`OVERLOADED`) when those of its priority are taken, or as many as this caller may have.
    pub(super) fn place(&self, path: &str, caller: &str) -> Result<Place, Status> {
        let priority = Priority::of(path);
        let counters = &self.counters;
        let (places, what, shed) = match priority {
            Priority::Never => {
                return Ok(Place { priority, patience: self.patience, _held: None });
            }
            Priority::Telemetry => (&self.telemetry, "telemetry", &counters.telemetry_shed),
            Priority::Query => (&self.queries, "queries", &counters.queries_shed),
        };
        match places.take(caller) {
            Ok(held) => Ok(Place { priority, patience: self.patience, _held: Some(held) }),
            Err(full) => Err(self.refused(full, what, shed)),
        }
    }

    fn refused(&self, full: Full, what: &str, shed: &AtomicU64) -> Status {
        self.counters.bump(shed);
        let message = match full {
            Full::All => format!("as many {what} are in flight as can be served; come again"),
            Full::Share => format!("your share of the {what} in flight is taken; come again"),
        };
        status::exhausted("OVERLOADED", what, &message, Some(RETRY))
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
            // Streams of monitors last as long as the monitor does; they are bounded by seats and by rate.
            ("/agentctl.v1.TelemetryService/PushSignals", Priority::Never),
            ("/agentctl.v1.TelemetryService/StreamSignals", Priority::Never),
        ];
        for (path, priority) in ranked {
            assert_eq!(Priority::of(path), priority, "{path}");
        }
        let limits = Limits { max_telemetry: 2, max_queries: 1, ..Limits::default() };
        let shed = Shed::new(&limits, Arc::new(Counters::default()));
        let _held = [shed.place("/v1/metrics", "a"), shed.place("/v1/alertmanager", "b")]
            .map(Result::unwrap);
        let status = shed.place("/v1/metrics", "c").unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
        let question = shed.place("/agentctl.v1.AgentService/GetStatus", "a").unwrap();
        assert!(shed.place("/agentctl.v1.AgentService/GetStatus", "a").is_err());
        for _ in 0..100 {
            assert!(shed.place("/agentctl.v1.AgentService/Pause", "a").is_ok());
        }
        drop(question);
        assert!(shed.place("/agentctl.v1.AgentService/GetStatus", "a").is_ok(), "free again");
        assert_eq!(shed.counters.snapshot()["telemetry_shed"], 1);
    }

    #[test]
    fn one_caller_leaves_room_for_the_others() {
        let limits = Limits { max_telemetry: 16, ..Limits::default() };
        let shed = Shed::new(&limits, Arc::new(Counters::default()));
        let greedy = || shed.place("/v1/metrics", "greedy");
        let all: Vec<_> = std::iter::from_fn(|| greedy().ok()).collect();
        assert_eq!(all.len(), 8, "half of them");
        assert!(greedy().unwrap_err().message().contains("share"));
        let mut others = Vec::new();
        for name in ["b", "c"] {
            others.extend((0..4).map(|_| shed.place("/v1/metrics", name).expect("room")));
        }
        let full = shed.place("/v1/metrics", "d").unwrap_err();
        assert!(full.message().contains("as many telemetry"), "{full}");
        drop(others);
        assert!(greedy().is_err(), "it still has its share");
        drop(all);
        assert!(greedy().is_ok());
        assert!(shed.telemetry.taken.lock().unwrap().is_empty(), "nobody is remembered for ever");
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
            let place = shed.place(path, "a").unwrap();
            let asked = [None, Some(short), Some(long)];
            assert_eq!(asked.map(|asked| place.patience(asked)), expected, "{path}");
        }
    }
}

//! What the telemetry streams of one server share: who has how many of them open, how fast each principal may send, which
//! messages were seen before, and what was counted. All of it is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_core::app::{AppName, Millis};
use agentd_core::signal::{Arrival, Place, Sequences};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;

use crate::grpc::hooks::Recent;
use crate::grpc::otlp::Memory;
use crate::grpc::status;

/// Streams one principal may have open at once.
pub const STREAMS: u32 = 16;
/// Signals per second one principal may send in the long run.
pub const SIGNALS_PER_SECOND: u64 = 50_000;
/// Signals one principal may send at once after a pause.
pub const SIGNALS_BURST: u64 = 2 * SIGNALS_PER_SECOND;
/// Principals remembered at once; one more, and one without an open stream is forgotten.
const ACCOUNTS: usize = 1_024;
/// Apps whose windows may be closed out of turn in each span of [`URGENT_SPAN_MS`]; the others wait for the tick.
pub const URGENT_APPS: usize = 64;
/// Span in which one app's window is closed out of turn at most once.
pub const URGENT_SPAN_MS: Millis = 100;

/// Shared by all telemetry streams of one server.
#[derive(Debug)]
pub struct Intake {
    turns: Semaphore,
    sequences: Mutex<Sequences>,
    accounts: Mutex<BTreeMap<String, Arc<Mutex<Account>>>>,
    urged: Mutex<Urged>,
    /// What OpenTelemetry's counters said last.
    pub(in crate::grpc) otlp: Mutex<Memory>,
    events: Mutex<Recent>,
    /// What was counted.
    pub counters: Counters,
}

impl Default for Intake {
    fn default() -> Self {
        // No more than half of the threads of the server judge signals at once: whoever pauses, approves or watches is served beside a
        // flood. Where there is but one thread, they are served between two messages of it.
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::with_turns((threads / 2).max(1))
    }
}

/// One principal.
#[derive(Debug, Clone, Copy)]
struct Account {
    streams: u32,
    /// Signals it may send now, in thousandths: what a millisecond brings is a whole number of them.
    milli: u64,
    at: Millis,
}

/// Apps whose windows were closed out of turn in the present span.
#[derive(Debug, Default)]
struct Urged {
    since: Millis,
    apps: BTreeSet<AppName>,
}

/// Counted since the start of the server.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) missed: AtomicU64,
    pub(super) superseded: AtomicU64,
    pub(super) monitors_left: AtomicU64,
    pub(super) monitors_lost: AtomicU64,
    pub(super) streams_refused: AtomicU64,
    pub(super) streams_cut: AtomicU64,
    pub(super) rate_limited: AtomicU64,
    pub(super) urgent_deferred: AtomicU64,
    pub(super) last_signal_ms: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// How often each limit was hit and how much was lost, by name.
    #[must_use]
    pub fn limits(&self) -> BTreeMap<&'static str, u64> {
        [
            ("signals_rejected", &self.rejected),
            ("signals_missed", &self.missed),
            ("signals_superseded", &self.superseded),
            ("monitors_lost", &self.monitors_lost),
            ("signal_streams_refused", &self.streams_refused),
            ("signal_streams_cut", &self.streams_cut),
            ("signal_rate_limited", &self.rate_limited),
            ("urgent_deferred", &self.urgent_deferred),
        ]
        .into_iter()
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
        .collect()
    }

    /// Signals accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// When the newest signal was accepted, if one was.
    #[must_use]
    pub fn last_signal(&self) -> Option<Millis> {
        Some(self.last_signal_ms.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }
}

/// An open stream's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    intake: Arc<Intake>,
    principal: String,
    account: Arc<Mutex<Account>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut account = lock(&self.account);
        account.streams = account.streams.saturating_sub(1);
    }
}

impl Seat {
    /// As [`Intake::spend`], for the principal of the stream.
    pub(super) fn spend(&self, signals: usize, now: Millis) -> Result<(), Status> {
        let spent = lock(&self.account).spend(signals, now);
        spent.map_err(|wait| self.intake.limited(&self.principal, wait))
    }
}

impl Account {
    /// Takes so many signals out of what may be sent, or says in how many milliseconds they may.
    fn spend(&mut self, signals: usize, now: Millis) -> Result<(), Millis> {
        let cost = u64::try_from(signals.max(1)).unwrap_or(u64::MAX).saturating_mul(1_000);
        let earned = now.saturating_sub(self.at).saturating_mul(SIGNALS_PER_SECOND);
        self.milli = self.milli.saturating_add(earned).min(SIGNALS_BURST * 1_000);
        self.at = self.at.max(now);
        match self.milli.checked_sub(cost) {
            Some(left) => {
                self.milli = left;
                Ok(())
            }
            None => Err(cost.saturating_sub(self.milli).div_ceil(SIGNALS_PER_SECOND)),
        }
    }
}

impl Intake {
    /// Signals are judged by so many streams at a time.
    pub(super) fn with_turns(turns: usize) -> Self {
        Self {
            turns: Semaphore::new(turns),
            sequences: Mutex::default(),
            accounts: Mutex::default(),
            urged: Mutex::default(),
            otlp: Mutex::default(),
            events: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Waits for a turn to judge what came in one message; who waits longest is next. Nothing is dropped by it: what is not read yet
    /// waits where it is, and the window of its stream tells the monitor to slow down.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed; without a permit there would merely be no order.
        self.turns.acquire().await.ok()
    }

    /// A place for one more stream of `principal`.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` (`STREAMS`) when it has [`STREAMS`] of them, or when too many principals have one.
    pub(super) fn take_seat(
        self: &Arc<Self>,
        principal: &str,
        now: Millis,
    ) -> Result<Seat, Status> {
        let Some(account) = self.account(principal, now) else {
            return Err(self.refuse_seat(principal));
        };
        let taken = {
            let mut account = lock(&account);
            let free = account.streams < STREAMS;
            account.streams += u32::from(free);
            free
        };
        if !taken {
            return Err(self.refuse_seat(principal));
        }
        Ok(Seat { intake: Arc::clone(self), principal: principal.to_owned(), account })
    }

    fn refuse_seat(&self, principal: &str) -> Status {
        Counters::add(&self.counters.streams_refused, 1);
        let message =
            format!("`{principal}` has {STREAMS} signal streams open, the most there may be");
        let retry = Some(Duration::from_secs(1));
        status::exhausted("STREAMS", &format!("principal:{principal}"), &message, retry)
    }

    /// Takes `signals` out of what `principal` may send; an empty batch costs as much as one signal.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` (`SIGNAL_RATE`) with the time after which as many may be sent.
    pub(in crate::grpc) fn spend(
        &self,
        principal: &str,
        signals: usize,
        now: Millis,
    ) -> Result<(), Status> {
        let Some(account) = self.account(principal, now) else {
            return Err(self.refuse_seat(principal));
        };
        let spent = lock(&account).spend(signals, now);
        spent.map_err(|wait| self.limited(principal, wait))
    }

    fn limited(&self, principal: &str, wait: Millis) -> Status {
        Counters::add(&self.counters.rate_limited, 1);
        let message =
            format!("more than {SIGNALS_PER_SECOND} signals per second from `{principal}`");
        let retry = Some(Duration::from_millis(wait.max(1)));
        status::exhausted("SIGNAL_RATE", &format!("principal:{principal}"), &message, retry)
    }

    /// The account of a principal; `None` when too many have one and none of them can be forgotten.
    fn account(&self, principal: &str, now: Millis) -> Option<Arc<Mutex<Account>>> {
        let mut accounts = lock(&self.accounts);
        if let Some(known) = accounts.get(principal) {
            return Some(Arc::clone(known));
        }
        if accounts.len() >= ACCOUNTS {
            // One that somebody is about to use is not idle either.
            let idle = accounts.iter().find(|(_, a)| Arc::strong_count(a) == 1);
            let idle = idle.map(|(name, _)| name.clone())?;
            accounts.remove(&idle);
        }
        let fresh = Account { streams: 0, milli: SIGNALS_BURST * 1_000, at: now };
        let fresh = Arc::new(Mutex::new(fresh));
        accounts.insert(principal.to_owned(), Arc::clone(&fresh));
        Some(fresh)
    }

    /// What the sequence number of a batch says.
    pub(super) fn observe(
        &self,
        source: &str,
        epoch: u64,
        seq: u64,
        now: Millis,
        place: &mut Place,
    ) -> Arrival {
        lock(&self.sequences).observe(source, epoch, seq, now, place)
    }

    /// Notes an event of `principal` by what names it; `false` if it came before.
    pub(in crate::grpc) fn is_first(&self, principal: &str, name: &str) -> bool {
        lock(&self.events).is_first(principal, name)
    }

    /// Highest number seen of this run of the monitor.
    pub(super) fn high_water(&self, source: &str, epoch: u64) -> u64 {
        lock(&self.sequences).last(source, epoch).unwrap_or(0)
    }

    /// Whether the window of `app` may be closed out of turn now. A monitor that calls everything urgent gets the pace of the
    /// tick, and the loop stays free for people.
    pub(super) fn may_urge(&self, app: &AppName, now: Millis) -> bool {
        let mut urged = lock(&self.urged);
        if now.saturating_sub(urged.since) >= URGENT_SPAN_MS {
            urged.since = now;
            urged.apps.clear();
        }
        let first = urged.apps.len() < URGENT_APPS && urged.apps.insert(app.clone());
        drop(urged);
        if !first {
            Counters::add(&self.counters.urgent_deferred, 1);
        }
        first
    }

    /// Monitors with an open stream.
    #[must_use]
    pub fn monitors(&self) -> u32 {
        lock(&self.accounts).values().map(|a| lock(a).streams).fold(0, u32::saturating_add)
    }

    /// Monitors whose sequence numbers were forgotten to make room.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        lock(&self.sequences).forgotten()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is valid between any two statements that change it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn a_principal_has_sixteen_streams_and_gets_a_place_back_when_one_ends() {
        let intake = Arc::new(Intake::default());
        let mut seats: Vec<_> =
            (0..STREAMS).map(|_| intake.take_seat("ci", 0).expect("free")).collect();
        let status = intake.take_seat("ci", 0).expect_err("full");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_details_retry_info().is_some());
        assert!(intake.take_seat("other", 0).is_ok(), "another principal is not affected");
        seats.pop();
        assert_eq!(intake.monitors(), STREAMS - 1);
        assert!(intake.take_seat("ci", 0).is_ok());
        assert_eq!(intake.counters.limits()["signal_streams_refused"], 1);
    }

    #[test]
    fn a_burst_is_free_and_then_the_rate_counts() {
        let intake = Arc::new(Intake::default());
        let _seat = intake.take_seat("ci", 0).expect("free");
        let burst = usize::try_from(SIGNALS_BURST).unwrap();
        intake.spend("ci", burst, 0).expect("the burst");
        let status = intake.spend("ci", 1_000, 0).expect_err("used up");
        let wait = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
        assert_eq!(wait, Some(Duration::from_millis(20)), "1,000 signals at 50 per millisecond");
        intake.spend("ci", 1_000, 20).expect("after the time that was named");
        assert!(intake.spend("ci", 0, 20).is_err(), "an empty batch is not free");
        assert!(intake.spend("ci", burst, 3_600_000).is_ok(), "never more than one burst is saved");
        assert!(intake.spend("ci", 1, 3_600_000).is_err());
    }

    #[test]
    fn reconnecting_does_not_refill_what_was_spent() {
        let intake = Arc::new(Intake::default());
        let seat = intake.take_seat("ci", 0).expect("free");
        intake.spend("ci", usize::try_from(SIGNALS_BURST).unwrap(), 0).expect("the burst");
        drop(seat);
        let _seat = intake.take_seat("ci", 0).expect("free");
        assert!(intake.spend("ci", 1, 0).is_err());
    }

    #[test]
    fn a_flood_of_principals_does_not_grow_the_table() {
        let intake = Arc::new(Intake::default());
        for n in 0..3 * ACCOUNTS {
            drop(intake.take_seat(&format!("p{n}"), 0).expect("an idle one makes room"));
        }
        assert_eq!(lock(&intake.accounts).len(), ACCOUNTS);
    }

    #[test]
    fn an_app_is_urgent_once_per_span_and_only_so_many_apps_are() {
        let intake = Intake::default();
        let app = |n: usize| AppName::parse(&format!("a{n}")).unwrap();
        assert!(intake.may_urge(&app(0), 1_000));
        assert!(!intake.may_urge(&app(0), 1_099));
        let urged = (1..500).filter(|n| intake.may_urge(&app(*n), 1_050)).count();
        assert_eq!(urged, URGENT_APPS - 1);
        assert!(intake.may_urge(&app(0), 1_100), "the next span");
        assert!(intake.counters.limits()["urgent_deferred"] > 0);
    }
}

//! What the edge refused, cut or lost: hitting a limit is counted, never silent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start of the server.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) accepted_connections: AtomicU64,
    pub(super) refused_connections: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) tls_failures: AtomicU64,
    pub(super) preface_failures: AtomicU64,
    pub(super) broken_connections: AtomicU64,
    pub(super) aborted_at_drain: AtomicU64,
    pub(super) old_connections: AtomicU64,
    pub(super) useless_connections: AtomicU64,
    pub(super) cut_connections: AtomicU64,
    pub(super) slowed_reads: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) requests_denied: AtomicU64,
    pub(super) deadlines_passed: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) telemetry_shed: AtomicU64,
    pub(super) queries_shed: AtomicU64,
}

impl Counters {
    /// All of them by name.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        [
            ("accepted_connections", &self.accepted_connections),
            ("refused_connections", &self.refused_connections),
            ("accept_errors", &self.accept_errors),
            ("tls_failures", &self.tls_failures),
            ("preface_failures", &self.preface_failures),
            ("broken_connections", &self.broken_connections),
            ("aborted_at_drain", &self.aborted_at_drain),
            ("old_connections", &self.old_connections),
            ("useless_connections", &self.useless_connections),
            ("cut_connections", &self.cut_connections),
            ("slowed_reads", &self.slowed_reads),
            ("requests", &self.requests),
            ("requests_denied", &self.requests_denied),
            ("deadlines_passed", &self.deadlines_passed),
            ("panics", &self.panics),
            ("telemetry_shed", &self.telemetry_shed),
            ("queries_shed", &self.queries_shed),
        ]
        .into_iter()
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
        .collect()
    }

    /// Counts one; answers the new count.
    pub(super) fn bump(&self, counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    pub(super) fn add(&self, counter: &AtomicU64, by: usize) {
        counter.fetch_add(u64::try_from(by).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

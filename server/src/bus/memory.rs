//! The bus of a server without Redis: a ring in this process, with counters.

use std::collections::VecDeque;

use super::{Bus, Depth, Entry, Error};

/// Entries held. Fewer than the publisher keeps, and the same ones: it costs a pointer each.
pub const LIMIT: usize = 1_024;

/// The newest entries, up to a limit.
#[derive(Debug)]
pub struct MemoryBus {
    ring: VecDeque<Entry>,
    limit: usize,
    evicted: u64,
}

impl MemoryBus {
    /// An empty ring for up to `limit` entries.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { ring: VecDeque::with_capacity(limit), limit, evicted: 0 }
    }

    /// What it holds, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.ring.iter()
    }
}

impl Bus for MemoryBus {
    const BACKEND: &'static str = "memory";

    async fn publish(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let all = self.ring.len().saturating_add(entries.len());
        let surplus = all.saturating_sub(self.limit);
        let from_ring = surplus.min(self.ring.len());
        self.ring.drain(..from_ring);
        self.ring.extend(entries.iter().skip(surplus - from_ring).cloned());
        self.evicted = self.evicted.saturating_add(u64::try_from(surplus).unwrap_or(u64::MAX));
        Ok(())
    }

    fn depth(&self) -> Option<Depth> {
        let held = u64::try_from(self.ring.len()).unwrap_or(u64::MAX);
        Some(Depth { held, evicted: self.evicted })
    }
}

//! Events that came lately: one that is sent again is told from a new one.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};

/// Events remembered.
pub(super) const EVENTS: usize = 10_000;

/// The newest events, by what names them.
#[derive(Debug, Default)]
pub struct Recent {
    order: VecDeque<u64>,
    known: BTreeSet<u64>,
    /// Secret, so that nobody can choose an event that has the mark of another principal's.
    keys: RandomState,
}

impl Recent {
    /// Notes an event; `false` if it came before.
    pub fn is_first(&mut self, name: &str) -> bool {
        let mark = self.keys.hash_one(name);
        if !self.known.insert(mark) {
            return false;
        }
        self.order.push_back(mark);
        if self.order.len() > EVENTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_first_once_and_memory_does_not_grow() {
        let mut recent = Recent::default();
        assert!(recent.is_first("a") && !recent.is_first("a"));
        for n in 0..2 * EVENTS {
            assert!(recent.is_first(&format!("{n}")));
        }
        assert_eq!((recent.order.len(), recent.known.len()), (EVENTS, EVENTS));
        assert!(recent.is_first("a"), "it was long ago");
    }
}

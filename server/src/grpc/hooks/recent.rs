//! Events that came lately: one that is sent again is told from a new one. Each principal has its own, so that one that sends many
//! pushes out nobody else's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};

/// Events remembered of each principal.
pub(super) const EVENTS: usize = 10_000;
/// Principals whose events are remembered; one more, and the one that was silent longest is forgotten.
const PRINCIPALS: usize = 64;

/// The newest events of every principal.
#[derive(Debug, Default)]
pub struct Recent {
    principals: BTreeMap<String, Events>,
    /// Counts what was asked, to tell who was silent longest.
    turn: u64,
    /// Secret, so that nobody can choose an event that has the mark of another one.
    keys: RandomState,
}

impl Recent {
    /// Notes an event of `principal`; `false` if it came before.
    pub fn is_first(&mut self, principal: &str, name: &str) -> bool {
        self.turn = self.turn.saturating_add(1);
        if !self.principals.contains_key(principal) && self.principals.len() >= PRINCIPALS {
            let longest = self.principals.iter().min_by_key(|(_, events)| events.last);
            if let Some(silent) = longest.map(|(name, _)| name.clone()) {
                self.principals.remove(&silent);
            }
        }
        let events = self.principals.entry(principal.to_owned()).or_default();
        events.last = self.turn;
        events.is_first(self.keys.hash_one(name))
    }
}

/// The newest events of one principal, by the mark of what names them.
#[derive(Debug, Default)]
struct Events {
    order: VecDeque<u64>,
    known: BTreeSet<u64>,
    last: u64,
}

impl Events {
    fn is_first(&mut self, mark: u64) -> bool {
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
        assert!(recent.is_first("ci", "a") && !recent.is_first("ci", "a"));
        for n in 0..2 * EVENTS {
            assert!(recent.is_first("ci", &format!("{n}")));
        }
        let events = &recent.principals["ci"];
        assert_eq!((events.order.len(), events.known.len()), (EVENTS, EVENTS));
        assert!(recent.is_first("ci", "a"), "it was long ago");
    }

    #[test]
    fn a_principal_that_sends_many_pushes_out_nobody_elses() {
        let mut recent = Recent::default();
        assert!(recent.is_first("quiet", "a"));
        for n in 0..=EVENTS {
            recent.is_first("noisy", &format!("{n}"));
        }
        assert!(!recent.is_first("quiet", "a"));
        for n in 0..PRINCIPALS {
            recent.is_first(&format!("p{n}"), "a");
        }
        assert_eq!(recent.principals.len(), PRINCIPALS);
        assert!(
            recent.is_first("noisy", "0"),
            "it was silent longest, and there is no room for all"
        );
    }
}

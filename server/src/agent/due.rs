//! Which windows are closed at the next tick: those in which something was heard, those in which something ends to count, and those
//! of apps that something happened to. Any other one would say what it said before, so a tick costs what is new, not what there is.

use std::collections::{BTreeSet, HashMap};

use agentd_core::app::{AppName, Millis};

/// The apps whose windows wait to be closed.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Those that do not wait for a time.
    next: BTreeSet<AppName>,
    /// Each of the others once, at a time when it may be due.
    times: BTreeSet<(Millis, AppName)>,
    waits: HashMap<AppName, Wait>,
}

/// How long the window of an app can wait.
#[derive(Debug, Clone, Copy)]
struct Wait {
    /// Until then nothing ends to count.
    until: Millis,
    /// Its place among the times: not later. What is heard all the time moves the end on, and not the place.
    place: Millis,
}

impl Due {
    /// At the next tick.
    pub(super) fn next(&mut self, app: &AppName) {
        if !self.next.contains(app) {
            self.next.insert(app.clone());
        }
    }

    /// Not before that time, unless it is heard of; `None` if only then.
    pub(super) fn wait(&mut self, app: &AppName, until: Option<Millis>) {
        let Some(until) = until else { return self.forget(app) };
        match self.waits.get_mut(app) {
            Some(wait) if wait.place <= until => wait.until = until,
            _ => self.put(app, until),
        }
    }

    /// It is gone, or nothing about it ends by itself.
    pub(super) fn forget(&mut self, app: &AppName) {
        if let Some(wait) = self.waits.remove(app) {
            self.times.remove(&(wait.place, app.clone()));
        }
    }

    /// The apps whose windows are to be closed at `now`, in the order of their names. Each of them is to be put back.
    pub(super) fn take(&mut self, now: Millis) -> BTreeSet<AppName> {
        while self.times.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, app)) = self.times.pop_first()
        {
            match self.waits.remove(&app) {
                Some(wait) if wait.until > now => self.put(&app, wait.until),
                _ => _ = self.next.insert(app),
            }
        }
        std::mem::take(&mut self.next)
    }

    fn put(&mut self, app: &AppName, until: Millis) {
        self.forget(app);
        self.times.insert((until, app.clone()));
        self.waits.insert(app.clone(), Wait { until, place: until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    fn taken(due: &mut Due, now: Millis) -> Vec<String> {
        due.take(now).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_window_is_due_when_something_in_it_ends_and_not_before() {
        let mut due = Due::default();
        due.wait(&app("web"), Some(15_001));
        due.wait(&app("db"), Some(20_001));
        assert!(taken(&mut due, 15_000).is_empty());
        assert_eq!(taken(&mut due, 15_001), ["web"]);
        assert!(taken(&mut due, 15_002).is_empty(), "once");
        assert_eq!(taken(&mut due, 90_000), ["db"]);
    }

    #[test]
    fn what_is_heard_all_the_time_is_not_closed_for_its_age() {
        let mut due = Due::default();
        for second in 0..100 {
            due.wait(&app("web"), Some(second * 1_000 + 15_001));
            assert!(taken(&mut due, second * 1_000).is_empty(), "{second}");
            assert_eq!((due.times.len(), due.waits.len()), (1, 1), "it has one place");
        }
        assert_eq!(taken(&mut due, 99_000 + 15_001), ["web"]);
    }

    #[test]
    fn what_ends_sooner_than_was_thought_is_due_sooner() {
        let mut due = Due::default();
        due.wait(&app("web"), Some(3_600_000));
        for second in 0..100 {
            due.wait(&app("web"), Some(second * 1_000 + 1));
            assert_eq!(taken(&mut due, second * 1_000 + 1), ["web"]);
            due.wait(&app("web"), Some(3_600_000));
            assert_eq!((due.times.len(), due.waits.len()), (1, 1), "it has one place");
        }
        due.wait(&app("web"), None);
        assert!(taken(&mut due, Millis::MAX).is_empty() && due.times.is_empty());
    }

    #[test]
    fn who_is_due_at_once_is_taken_once_and_in_the_order_of_names() {
        let mut due = Due::default();
        due.wait(&app("web"), Some(1));
        for name in ["web", "db", "cache", "web"] {
            due.next(&app(name));
        }
        assert_eq!(taken(&mut due, 5), ["cache", "db", "web"]);
        due.wait(&app("web"), Some(9));
        due.forget(&app("web"));
        assert!(taken(&mut due, 10).is_empty());
    }
}

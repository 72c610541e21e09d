//! The uptime ledger: when each app was up, down, or nobody knew, and how often it was healed. A fold of the log, like everything.
//!
//! Up is who serves: healthy, or degraded with an instance that answers. While agentd is away nobody looks, so that time is unknown,
//! and unknown time counts neither for an app nor against it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::app::Millis;
use crate::record::{Body, Record};
use crate::state::{Health, Outcome, State};

/// Intervals remembered of an app; what was before the oldest is forgotten.
pub const INTERVALS: usize = 128;
/// Ended attempts remembered of an app.
pub const ATTEMPTS: usize = 128;

/// Whether an app serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Condition {
    /// At least one instance answers.
    Up,
    /// None does.
    Down,
    /// Nobody knows.
    Unknown,
}

impl Condition {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Down => "DOWN",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl From<Health> for Condition {
    fn from(health: Health) -> Self {
        match health {
            Health::Healthy | Health::Degraded => Self::Up,
            Health::Down => Self::Down,
            Health::Unknown => Self::Unknown,
        }
    }
}

/// A span in one condition; `until` is the end of the window where it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// What was.
    pub condition: Condition,
    /// From when.
    pub from: Millis,
    /// Until when.
    pub until: Millis,
}

/// The ledger of one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Changes, oldest first; never empty, and no two neighbours are the same.
    changes: VecDeque<(Millis, Condition)>,
    /// Attempts of the agent that ended, oldest first.
    attempts: VecDeque<(Millis, Outcome)>,
    /// When the newest attempt ended that is no longer remembered.
    forgotten: Option<Millis>,
}

/// What the ledger says about a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Begin of the window, or of what is remembered of it: the last [`INTERVALS`] changes and the last [`ATTEMPTS`] attempts.
    /// Every number is of the same span.
    pub from: Millis,
    /// End of the window.
    pub until: Millis,
    /// Time in each condition.
    pub up_ms: Millis,
    /// See [`Report::up_ms`].
    pub down_ms: Millis,
    /// See [`Report::up_ms`].
    pub unknown_ms: Millis,
    /// Times it went down from where it was up; that nobody looked in between makes no second outage of one. One that began before
    /// the window and lasts into it counts.
    pub outages: u32,
    /// Mean time from down to up, of the outages that ended; `None` when none did.
    pub mttr_ms: Option<Millis>,
    /// Attempts of the agent that were verified.
    pub healed: u32,
    /// Attempts of the agent that ended, however they did.
    pub attempts: u32,
    /// The spans, oldest first.
    pub intervals: Vec<Interval>,
}

impl Report {
    /// Share of the known time it was up, in millionths; `None` when nothing is known.
    #[must_use]
    pub fn availability_micro(&self) -> Option<u64> {
        share(self.up_ms, self.up_ms.saturating_add(self.down_ms))
    }

    /// Share of the attempts that healed, in millionths; `None` when there was none.
    #[must_use]
    pub fn healing_micro(&self) -> Option<u64> {
        share(self.healed.into(), self.attempts.into())
    }
}

fn share(part: u64, whole: u64) -> Option<u64> {
    let micro = (u128::from(part) * 1_000_000).checked_div(u128::from(whole))?;
    u64::try_from(micro).ok()
}

impl Ledger {
    /// The ledger of an app that was onboarded at `at`: nothing is known yet.
    #[must_use]
    pub fn new(at: Millis) -> Self {
        let changes = VecDeque::from([(at, Condition::Unknown)]);
        Self { changes, attempts: VecDeque::new(), forgotten: None }
    }

    /// Folds a record about the app.
    pub(crate) fn fold(&mut self, record: &Record) {
        match &record.body {
            Body::HealthChanged { health } => self.change(record.at, (*health).into()),
            Body::Concluded(concluded) if !concluded.human => {
                self.attempted(record.at, concluded.outcome);
            }
            _ => {}
        }
    }

    fn attempted(&mut self, at: Millis, outcome: Outcome) {
        if self.attempts.len() >= ATTEMPTS {
            self.forgotten = self.attempts.pop_front().map(|(at, _)| at);
        }
        self.attempts.push_back((at, outcome));
    }

    /// Nobody looked from `from` until `until`; then it is as it was until something else is seen.
    pub(crate) fn unwatched(&mut self, from: Millis, until: Millis) {
        let was = self.now();
        if from < until {
            self.change(from, Condition::Unknown);
            self.change(until, was);
        }
    }

    /// How it is.
    #[must_use]
    pub fn now(&self) -> Condition {
        self.changes.back().map_or(Condition::Unknown, |(_, condition)| *condition)
    }

    fn change(&mut self, at: Millis, condition: Condition) {
        if self.now() == condition {
            return;
        }
        if self.changes.len() >= INTERVALS {
            self.changes.pop_front();
        }
        self.changes.push_back((at, condition));
    }

    /// What is known of the time from `from` until `until`.
    #[must_use]
    pub fn report(&self, from: Millis, until: Millis) -> Report {
        let known = self.changes.front().map_or(until, |(at, _)| *at);
        // A window that reaches to what was forgotten begins behind it, or the attempts would be those of another time than the rest.
        let kept = self.forgotten.filter(|at| *at >= from).and(self.attempts.front());
        let kept = kept.map_or(0, |(at, _)| *at);
        let from = from.max(known).max(kept).min(until);
        let ends = self.changes.iter().skip(1).map(|(at, _)| *at).chain([until]);
        let mut report = Report {
            from,
            until,
            up_ms: 0,
            down_ms: 0,
            unknown_ms: 0,
            outages: 0,
            mttr_ms: None,
            healed: 0,
            attempts: 0,
            intervals: Vec::new(),
        };
        let (mut repairs, mut repaired) = (0_u64, 0_u64);
        // Whether the next time it is down is an outage: it was up since the last one, whether or not somebody looked all the time.
        let mut was_up = false;
        // What never was up is not repaired either: it is begun.
        let mut began = false;
        for ((begin, condition), end) in self.changes.iter().zip(ends) {
            was_up |= *condition == Condition::Up;
            began |= was_up;
            let (from, until) = ((*begin).max(from), end.min(until));
            if from >= until {
                continue;
            }
            let span = until.saturating_sub(from);
            let sum = match condition {
                Condition::Up => &mut report.up_ms,
                Condition::Down => &mut report.down_ms,
                Condition::Unknown => &mut report.unknown_ms,
            };
            *sum = sum.saturating_add(span);
            report.intervals.push(Interval { condition: *condition, from, until });
            if *condition == Condition::Down && std::mem::take(&mut was_up) {
                report.outages = report.outages.saturating_add(1);
            }
            // How long a repair took is known when it began and ended in the window, and nobody looked away in between.
            let whole = *condition == Condition::Down && from == *begin && until == end;
            if began && whole && self.at(end) == Some(Condition::Up) {
                repairs = repairs.saturating_add(1);
                repaired = repaired.saturating_add(span);
            }
        }
        report.mttr_ms = repaired.checked_div(repairs);
        let within = self.attempts.iter().filter(|(at, _)| (from..=until).contains(at));
        for (_, outcome) in within {
            report.attempts = report.attempts.saturating_add(1);
            let healed = *outcome == Outcome::Verified;
            report.healed = report.healed.saturating_add(healed.into());
        }
        report
    }

    /// What it changed to at `at`, if it did.
    fn at(&self, at: Millis) -> Option<Condition> {
        self.changes.iter().rev().find(|(then, _)| *then == at).map(|(_, condition)| *condition)
    }
}

/// Keeps the ledgers: the part of [`crate::state::evolve`] that concerns them, before it moves the position of the state.
pub(crate) fn account(state: &mut State, record: &Record) {
    match (&record.body, &record.app) {
        (Body::Started(_), _) => {
            for ledger in state.ledgers.values_mut() {
                ledger.unwatched(state.last_at, record.at);
            }
        }
        (Body::SpecGenerated { spec, .. }, _) => {
            state.ledgers.entry(spec.name.clone()).or_insert_with(|| Ledger::new(record.at));
        }
        (Body::Offboarded { .. }, Some(app)) => {
            state.ledgers.remove(app);
        }
        (_, Some(app)) => {
            if let Some(ledger) = state.ledgers.get_mut(app) {
                ledger.fold(record);
            }
        }
        (_, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Env;
    use crate::step::Input;
    use crate::step::world::World;

    fn ledger(changes: &[(Millis, Condition)]) -> Ledger {
        let mut ledger = Ledger::new(0);
        for (at, condition) in changes {
            ledger.change(*at, *condition);
        }
        ledger
    }

    use Condition::{Down, Unknown, Up};

    #[test]
    fn availability_is_the_share_of_the_known_time() {
        let report = ledger(&[(100, Up), (800, Down), (900, Up)]).report(0, 1_100);
        assert_eq!((report.up_ms, report.down_ms, report.unknown_ms), (900, 100, 100));
        assert_eq!(report.availability_micro(), Some(900_000));
        assert_eq!((report.outages, report.mttr_ms), (1, Some(100)));
        assert_eq!(ledger(&[]).report(0, 1_000).availability_micro(), None, "nothing is known");
    }

    #[test]
    fn only_what_lies_in_the_window_counts() {
        let ledger = ledger(&[(100, Up), (800, Down), (900, Up)]);
        let report = ledger.report(850, 950);
        assert_eq!((report.up_ms, report.down_ms, report.outages), (50, 50, 1));
        assert_eq!(report.mttr_ms, None, "when it began is not in it");
        assert_eq!(ledger.report(900, 900).intervals, []);
        let later = ledger.report(5_000, 4_000);
        assert_eq!(
            (later.up_ms, later.intervals.len()),
            (0, 0),
            "a window that ends before it begins"
        );
    }

    #[test]
    fn while_nobody_looked_nothing_is_known_and_then_it_is_as_it_was() {
        let mut ledger = ledger(&[(100, Up)]);
        ledger.unwatched(500, 700);
        let report = ledger.report(0, 1_000);
        assert_eq!((report.up_ms, report.unknown_ms, report.outages), (700, 300, 0));
        ledger.change(1_000, Down);
        ledger.unwatched(1_100, 1_200);
        ledger.change(1_300, Up);
        let report = ledger.report(0, 1_400);
        assert_eq!(report.mttr_ms, Some(100), "from where it was seen down again");
        assert_eq!(
            report.outages, 1,
            "agentd that is started again during an outage makes no other"
        );
        assert_eq!(ledger.report(1_250, 1_400).outages, 1, "it lasts into the window");
        assert_eq!(ledger.report(1_300, 1_400).outages, 0);
        assert_eq!(
            report.intervals.iter().map(|i| i.condition).collect::<Vec<_>>(),
            [Unknown, Up, Unknown, Up, Down, Unknown, Down, Up]
        );
    }

    #[test]
    fn what_is_forgotten_is_not_claimed() {
        let flaps = (0..400).map(|n| (1_000 + n * 10, if n % 2 == 0 { Up } else { Down }));
        let report = ledger(&flaps.collect::<Vec<_>>()).report(0, 10_000);
        assert_eq!(report.intervals.len(), INTERVALS);
        assert_eq!(report.from, report.intervals[0].from, "the window begins where memory does");
        assert_eq!(report.up_ms + report.down_ms, report.until - report.from);
    }

    #[test]
    fn what_never_was_up_did_not_go_down() {
        let ledger = ledger(&[(100, Down), (200, Unknown), (300, Down), (400, Up)]);
        let report = ledger.report(0, 500);
        assert_eq!((report.outages, report.down_ms, report.mttr_ms), (0, 200, None));
    }

    #[test]
    fn attempts_that_are_forgotten_move_the_begin_of_the_window() {
        let mut ledger = ledger(&[(100, Up)]);
        let count = u64::try_from(ATTEMPTS).unwrap();
        for n in 0..count {
            ledger.attempted(1_000 + n, Outcome::Verified);
        }
        let of = |ledger: &Ledger, from| {
            let report = ledger.report(from, 10_000);
            (report.from, u64::from(report.attempts))
        };
        assert_eq!(of(&ledger, 0), (0, count), "nothing is forgotten yet");
        ledger.attempted(2_000, Outcome::Failed);
        assert_eq!(of(&ledger, 0), (1_001, count));
        assert_eq!(of(&ledger, 1_000), (1_001, count));
        assert_eq!(of(&ledger, 1_500), (1_500, 1), "a window behind it is whole");
        let report = ledger.report(0, 10_000);
        assert_eq!(report.up_ms, report.until - report.from, "and all of it is of one span");
    }

    #[test]
    fn an_app_that_crashes_and_is_healed_has_it_in_its_ledger() {
        let mut world = World::new(Env::Stage);
        let app = world.onboard("web", 1);
        world.pass(120_000);
        let before = world.now;
        // The first restart does not help, the second one does.
        world.broken.push(app.clone());
        world.crash(&app, 0);
        world.broken.clear();
        world.pass(10 * 60_000);
        let report = world.state.ledgers[&app].report(before, world.now);
        assert_eq!((report.healed, report.attempts), (1, 2));
        assert!(report.outages >= 1 && report.up_ms > report.down_ms, "{report:?}");
        assert!(report.mttr_ms.is_some_and(|mttr| mttr > 0), "{report:?}");
        world.assert_replays();
    }

    #[test]
    fn the_time_agentd_was_away_is_unknown() {
        let mut world = World::new(Env::Stage);
        let app = world.onboard("web", 1);
        world.pass(60_000);
        world.give(&Input::Tick);
        let (away, last) = (world.now, world.state.last_at);
        world.now += 600_000;
        world.start_agent();
        let report = world.state.ledgers[&app].report(last, world.now);
        assert_eq!((report.unknown_ms, report.outages), (world.now - last, 0));
        assert!(away >= last);
        assert_eq!(world.state.ledgers[&app].now(), Up);
        world.assert_replays();
    }

    #[test]
    fn an_app_that_is_let_go_leaves_no_ledger() {
        let mut world = World::new(Env::Stage);
        let app = world.onboard("web", 1);
        assert!(world.state.ledgers.contains_key(&app));
        world.pass(120_000);
        world.offboard(&app, World::by("olivia"));
        world.pass(60_000);
        assert!(!world.state.ledgers.contains_key(&app), "{:?}", world.events().last());
    }
}

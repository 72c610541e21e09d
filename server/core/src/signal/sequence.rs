//! Sequence numbers of monitors, and the limit on bad signals in one stream.
//!
//! A monitor numbers its messages densely from 1 in each epoch (an epoch is one run of the monitor, named by a random number).
//! So a message that is sent again is recognised, and messages that never came are counted.

use crate::app::Millis;

/// What the sequence number of a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It was not seen before: apply it.
    New {
        /// Messages between the last one and this one that never came.
        missed: u64,
    },
    /// It was seen before: count it, and apply nothing.
    Duplicate,
}

/// The sequence numbers of the monitors that were heard last.
#[derive(Debug, Clone, Default)]
pub struct Sequences {
    /// In the order of their names.
    monitors: Vec<Tracked>,
    forgotten: u64,
}

/// Where a monitor was found last. Looked at first, and believed only if the monitor is still there: each of its messages would have
/// to be looked for among all monitors otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place(usize);

#[derive(Debug, Clone)]
struct Tracked {
    monitor: String,
    epoch: u64,
    last: u64,
    at: Millis,
}

impl Sequences {
    /// Monitors remembered at once. One more, and the one that was silent for longest is forgotten: its next message counts as
    /// the first one ever.
    pub const MONITORS: usize = 1_000;

    /// Notes that message `seq` of `epoch` arrived from `monitor`. The number 0 means that the monitor does not number its
    /// messages. The first message ever heard of a monitor misses nothing, whatever its number: the server may be the one that
    /// started late.
    pub fn observe(
        &mut self,
        monitor: &str,
        epoch: u64,
        seq: u64,
        now: Millis,
        place: &mut Place,
    ) -> Arrival {
        if seq == 0 {
            return Arrival::New { missed: 0 };
        }
        let there = self.monitors.get(place.0).is_some_and(|known| known.monitor == monitor);
        let found = if there { Ok(place.0) } else { self.find(monitor) };
        let Some(known) = found.ok().and_then(|at| self.monitors.get_mut(at)) else {
            self.make_room();
            *place = Place(self.find(monitor).unwrap_or_else(|at| at));
            let new = Tracked { monitor: monitor.to_owned(), epoch, last: seq, at: now };
            self.monitors.insert(place.0, new);
            return Arrival::New { missed: 0 };
        };
        *place = Place(found.unwrap_or_default());
        known.at = now;
        let last = if known.epoch == epoch { known.last } else { 0 };
        if seq <= last {
            return Arrival::Duplicate;
        }
        (known.epoch, known.last) = (epoch, seq);
        Arrival::New { missed: (seq - last).saturating_sub(1) }
    }

    fn find(&self, monitor: &str) -> Result<usize, usize> {
        self.monitors.binary_search_by(|known| known.monitor.as_str().cmp(monitor))
    }

    /// Highest number seen of `monitor` in its current epoch, for a monitor that reconnects.
    #[must_use]
    pub fn last(&self, monitor: &str, epoch: u64) -> Option<u64> {
        let known = self.monitors.get(self.find(monitor).ok()?)?;
        (known.epoch == epoch).then_some(known.last)
    }

    /// Monitors that were forgotten because of [`Sequences::MONITORS`].
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn make_room(&mut self) {
        if self.monitors.len() < Self::MONITORS {
            return;
        }
        let oldest = (0..).zip(&self.monitors).min_by_key(|(_, known)| known.at);
        if let Some((at, _)) = oldest {
            self.monitors.remove(at);
            self.forgotten = self.forgotten.saturating_add(1);
        }
    }
}

/// Counts the bad signals of one stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct BadSignals(u32);

impl BadSignals {
    /// This many bad signals end the stream.
    pub const LIMIT: u32 = 100;

    /// Counts one; `true` when the stream must end.
    #[must_use]
    pub fn add(&mut self) -> bool {
        self.0 = self.0.saturating_add(1);
        self.0 >= Self::LIMIT
    }

    /// Bad signals so far.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Arrival = Arrival::New { missed: 0 };

    /// As a new stream hears it, which does not know where the monitor is.
    fn hear(known: &mut Sequences, monitor: &str, epoch: u64, seq: u64, now: Millis) -> Arrival {
        known.observe(monitor, epoch, seq, now, &mut Place::default())
    }

    #[test]
    fn a_message_that_is_sent_again_after_a_reconnect_is_a_duplicate() {
        let mut sequences = Sequences::default();
        for seq in 1..=3 {
            assert_eq!(hear(&mut sequences, "edge", 7, seq, 0), NEW);
        }
        assert_eq!(sequences.last("edge", 7), Some(3));
        assert_eq!(hear(&mut sequences, "edge", 7, 2, 1), Arrival::Duplicate);
        assert_eq!(hear(&mut sequences, "edge", 7, 3, 1), Arrival::Duplicate);
        assert_eq!(hear(&mut sequences, "edge", 7, 4, 1), NEW);
    }

    #[test]
    fn messages_that_never_came_are_counted_once() {
        let mut sequences = Sequences::default();
        assert_eq!(hear(&mut sequences, "edge", 7, 500, 0), NEW);
        assert_eq!(hear(&mut sequences, "edge", 7, 504, 0), Arrival::New { missed: 3 });
        assert_eq!(hear(&mut sequences, "edge", 7, 502, 0), Arrival::Duplicate);
        assert_eq!(hear(&mut sequences, "edge", 7, 505, 0), NEW);
    }

    #[test]
    fn a_restarted_monitor_begins_again_at_one() {
        let mut sequences = Sequences::default();
        assert_eq!(hear(&mut sequences, "edge", 7, 90, 0), NEW);
        assert_eq!(hear(&mut sequences, "edge", 8, 1, 0), NEW);
        assert_eq!(hear(&mut sequences, "edge", 9, 3, 0), Arrival::New { missed: 2 });
        assert_eq!(sequences.last("edge", 8), None);
    }

    #[test]
    fn monitors_do_not_share_numbers_and_unnumbered_messages_are_never_duplicates() {
        let mut sequences = Sequences::default();
        assert_eq!(hear(&mut sequences, "a", 1, 1, 0), NEW);
        assert_eq!(hear(&mut sequences, "b", 1, 1, 0), NEW);
        assert_eq!(hear(&mut sequences, "c", 1, 0, 0), NEW);
        assert_eq!(hear(&mut sequences, "c", 1, 0, 0), NEW);
        assert_eq!(
            hear(&mut sequences, "a", 1, u64::MAX, 0),
            Arrival::New { missed: u64::MAX - 2 }
        );
    }

    #[test]
    fn the_monitor_that_was_silent_for_longest_makes_room() {
        let mut sequences = Sequences::default();
        for n in 0..Sequences::MONITORS {
            hear(&mut sequences, &format!("m{n}"), 1, 5, n as u64);
        }
        // m0 speaks again, so m1 is now the oldest.
        assert_eq!(hear(&mut sequences, "m0", 1, 5, 2_000), Arrival::Duplicate);
        hear(&mut sequences, "late", 1, 1, 2_001);
        assert_eq!(sequences.forgotten(), 1);
        assert_eq!(sequences.last("m1", 1), None);
        assert_eq!(sequences.last("m0", 1), Some(5));
    }

    /// A place is where a monitor was: others come before it and it is forgotten itself, and the place is of somebody else then.
    #[test]
    fn a_stream_finds_its_monitor_wherever_it_is_by_now() {
        let (mut sequences, mut place) = (Sequences::default(), Place::default());
        for (seq, other) in (1..=100).zip(["a", "n", "b"].iter().cycle()) {
            hear(&mut sequences, &format!("{other}{seq}"), 1, 9, 0);
            assert_eq!(sequences.observe("m", 7, seq, 1, &mut place), NEW, "{seq}");
            assert_eq!(sequences.observe("m", 7, seq, 1, &mut place), Arrival::Duplicate, "{seq}");
        }
        for n in 0..Sequences::MONITORS {
            hear(&mut sequences, &format!("l{n}"), 1, 9, 2);
        }
        assert_eq!(sequences.last("m", 7), None, "forgotten");
        assert_eq!(sequences.observe("m", 7, 50, 3, &mut place), NEW);
        assert_eq!(sequences.last("m", 7), Some(50));
    }

    #[test]
    fn the_hundredth_bad_signal_ends_the_stream() {
        let mut bad = BadSignals::default();
        assert!((1..BadSignals::LIMIT).all(|_| !bad.add()));
        assert!(bad.add());
        assert_eq!(bad.count(), 100);
    }
}

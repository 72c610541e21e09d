//! What is remembered between two exports: counters tell their sum since a start, and what counts is what was added. Bounded.

use std::collections::BTreeMap;

use agentd_core::app::{AppName, Instances, Millis};

use super::histogram::Counts;

/// Series remembered in all.
pub(super) const SERIES: usize = 200_000;
/// Series remembered of one instance of an app.
pub(super) const SERIES_PER_INSTANCE: usize = 1_000;
/// An instance that was not heard of for so long makes room for another one.
const FORGET_MS: Millis = 600_000;
/// A counter that is seen for the first time counts from its start if that is no longer ago.
const YOUNG_NANOS: u64 = 120_000_000_000;

/// Everything that is remembered.
#[derive(Debug, Default)]
pub struct Memory {
    instances: BTreeMap<(AppName, String), Instance>,
    series: usize,
}

/// One instance of an app, as `service.instance.id` names it.
#[derive(Debug)]
struct Instance {
    slot: u32,
    heard: Millis,
    series: BTreeMap<SeriesKey, Last>,
}

/// A metric and a fingerprint of the attributes of a point.
pub(super) type SeriesKey = (String, u64);

/// A point of a counter or of a histogram.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Last {
    pub(super) start: u64,
    pub(super) time: u64,
    pub(super) value: Value,
}

/// What it says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// The sum.
    Sum(f64),
    /// The histogram.
    Counts(Counts, u64),
}

/// What was added, and in how many seconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Added {
    pub(super) value: Value,
    pub(super) seconds: f64,
}

/// A limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Memory {
    /// The slot of an instance; a number below the limit of instances is its own slot.
    pub(super) fn slot(&mut self, app: &AppName, id: &str, now: Millis) -> Result<u32, Full> {
        let key = (app.clone(), id.to_owned());
        if let Some(known) = self.instances.get_mut(&key) {
            known.heard = now;
            return Ok(known.slot);
        }
        let own = || {
            let first = (app.clone(), String::new());
            self.instances.range(first..).take_while(|((name, _), _)| name == app)
        };
        let taken: std::collections::BTreeSet<u32> = own().map(|(_, i)| i.slot).collect();
        let named = id.parse::<u32>().ok().filter(|slot| *slot < Instances::LIMIT);
        let free = named.or_else(|| (0..Instances::LIMIT).find(|slot| !taken.contains(slot)));
        let slot = match free {
            Some(slot) => slot,
            None => {
                let gone = own()
                    .filter(|(_, i)| now.saturating_sub(i.heard) >= FORGET_MS)
                    .min_by_key(|(_, i)| i.heard)
                    .map(|(key, i)| (key.clone(), i.slot));
                let (key, slot) = gone.ok_or(Full)?;
                self.forget(&key);
                slot
            }
        };
        self.instances.insert(key, Instance { slot, heard: now, series: BTreeMap::new() });
        Ok(slot)
    }

    fn forget(&mut self, key: &(AppName, String)) {
        let gone = self.instances.remove(key).map_or(0, |instance| instance.series.len());
        self.series = self.series.saturating_sub(gone);
    }

    /// Notes a cumulative point and says what it adds; `None` when that is not known yet, or it is no news.
    pub(super) fn add(
        &mut self,
        of: (&AppName, &str),
        key: SeriesKey,
        point: Last,
        now: Millis,
    ) -> Result<Option<Added>, Full> {
        let owner = (of.0.clone(), of.1.to_owned());
        let full = self.series >= SERIES;
        if full && !self.instances.get(&owner).is_some_and(|i| i.series.contains_key(&key)) {
            self.make_room(now)?;
        }
        let Some(instance) = self.instances.get_mut(&owner) else { return Err(Full) };
        let room = instance.series.len() < SERIES_PER_INSTANCE;
        match instance.series.get_mut(&key) {
            Some(last) if point.time <= last.time => Ok(None),
            Some(last) => {
                let before = std::mem::replace(last, point.clone());
                Ok(Some(added(&before, &point)))
            }
            None if !room => Err(Full),
            None => {
                instance.series.insert(key, point.clone());
                self.series = self.series.saturating_add(1);
                let young =
                    point.start > 0 && point.time.saturating_sub(point.start) <= YOUNG_NANOS;
                Ok(young.then(|| since_start(&point)))
            }
        }
    }

    fn make_room(&mut self, now: Millis) -> Result<(), Full> {
        let quiet = self.instances.iter().filter(|(_, i)| !i.series.is_empty());
        let oldest = quiet.min_by_key(|(_, i)| i.heard).map(|(key, i)| (key.clone(), i.heard));
        let (key, heard) = oldest.ok_or(Full)?;
        if now.saturating_sub(heard) < FORGET_MS {
            return Err(Full);
        }
        self.forget(&key);
        Ok(())
    }
}

fn since_start(point: &Last) -> Added {
    Added { value: point.value.clone(), seconds: seconds(point.start, point.time) }
}

fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

/// From one point to the next. A later start, or a sum that fell, is a counter that began again.
fn added(before: &Last, point: &Last) -> Added {
    let between = match (&before.value, &point.value) {
        _ if point.start > before.time => None,
        (Value::Sum(then), Value::Sum(now)) => (now >= then).then(|| Value::Sum(now - then)),
        (Value::Counts(then, old), Value::Counts(now, count)) => {
            count.checked_sub(*old).zip(now.since(then)).map(|(n, counts)| Value::Counts(counts, n))
        }
        _ => None,
    };
    match between {
        Some(value) => Added { value, seconds: seconds(before.time, point.time) },
        None => since_start(point),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn sum(start: u64, time: u64, value: f64) -> Last {
        Last { start: start * SECOND, time: time * SECOND, value: Value::Sum(value) }
    }

    fn web() -> AppName {
        AppName::parse("web").unwrap()
    }

    fn key(n: usize) -> SeriesKey {
        (format!("m{n}"), 0)
    }

    #[test]
    fn what_was_added_counts_and_what_is_sent_again_does_not() {
        let mut memory = Memory::default();
        memory.slot(&web(), "a", 0).unwrap();
        let mut add = |point| memory.add((&web(), "a"), key(0), point, 0).unwrap();
        assert_eq!(add(sum(1, 1_000, 5.0)), None, "the first of an old counter says nothing");
        let added = |value, seconds| Some(Added { value: Value::Sum(value), seconds });
        assert_eq!(add(sum(1, 1_010, 7.0)), added(2.0, 10.0));
        assert_eq!(add(sum(1, 1_010, 7.0)), None, "again");
        assert_eq!(add(sum(1_015, 1_020, 1.0)), added(1.0, 5.0), "it began again");
        assert_eq!(add(sum(1_015, 1_030, 0.5)), added(0.5, 15.0), "it fell");
    }

    #[test]
    fn a_counter_that_has_just_begun_counts_from_its_start() {
        let mut memory = Memory::default();
        memory.slot(&web(), "a", 0).unwrap();
        let added = memory.add((&web(), "a"), key(0), sum(1_000, 1_005, 5.0), 0).unwrap();
        assert_eq!(added, Some(Added { value: Value::Sum(5.0), seconds: 5.0 }));
    }

    #[test]
    fn instances_get_slots_and_one_that_was_silent_for_long_makes_room() {
        let mut memory = Memory::default();
        for n in 0..Instances::LIMIT {
            assert_eq!(memory.slot(&web(), &format!("id-{n}"), 1), Ok(n));
        }
        assert_eq!(memory.slot(&web(), "id-3", 2), Ok(3));
        assert_eq!(memory.slot(&web(), "late", 2), Err(Full));
        assert_eq!(memory.slot(&web(), "late", FORGET_MS + 1), Ok(0));
        let other = AppName::parse("other").unwrap();
        assert_eq!(memory.slot(&other, "7", 0), Ok(7), "a number is its own slot");
    }

    #[test]
    fn a_flood_of_series_is_refused_and_the_known_ones_go_on() {
        let mut memory = Memory::default();
        memory.slot(&web(), "a", 0).unwrap();
        for n in 0..SERIES_PER_INSTANCE {
            memory.add((&web(), "a"), key(n), sum(1, 1, 1.0), 0).unwrap();
        }
        let one_more = key(SERIES_PER_INSTANCE);
        assert_eq!(memory.add((&web(), "a"), one_more, sum(1, 1, 1.0), 0), Err(Full));
        assert!(memory.add((&web(), "a"), key(0), sum(1, 2, 2.0), 0).unwrap().is_some());
        assert_eq!(memory.series, SERIES_PER_INSTANCE);
    }
}

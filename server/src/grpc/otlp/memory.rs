//! What is remembered between two exports: counters tell their sum since a start, and what counts is what was added. Bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agentd_core::app::{AppName, Instances, Millis};

use super::histogram::Counts;

/// Series remembered in all.
pub(super) const SERIES: usize = 200_000;
/// Series remembered of one instance of an app.
pub(super) const SERIES_PER_INSTANCE: usize = 1_000;
/// Buckets remembered in all: series alone do not say how much memory is used.
const BUCKETS: usize = 4_000_000;
/// Buckets remembered of one instance of an app, so that one app cannot use up what all of them have.
const BUCKETS_PER_INSTANCE: usize = 40_000;
/// An instance that was not heard of for so long makes room for another one.
const FORGET_MS: Millis = 600_000;
/// A counter that is seen for the first time counts from its start if that is no longer ago.
const YOUNG_NANOS: u64 = 120_000_000_000;

/// Everything that is remembered.
#[derive(Debug, Default)]
pub struct Memory {
    instances: HashMap<AppName, BTreeMap<String, Instance>>,
    series: usize,
    buckets: usize,
    /// When instances without series were let go last.
    swept: Millis,
}

/// One instance of an app, as `service.instance.id` names it.
#[derive(Debug)]
struct Instance {
    slot: Option<u32>,
    heard: Millis,
    series: BTreeMap<SeriesKey, Last>,
    buckets: usize,
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
    /// The slot of an instance; `None` when no instance is named, and the app as a whole is meant. A number below the limit of
    /// instances is its own slot, unless another instance was there before.
    pub(super) fn slot(
        &mut self,
        app: &AppName,
        id: &str,
        now: Millis,
    ) -> Result<Option<u32>, Full> {
        if let Some(known) = self.instances.get_mut(app).and_then(|own| own.get_mut(id)) {
            known.heard = now;
            return Ok(known.slot);
        }
        self.drop_empty(now);
        let slot = if id.is_empty() { None } else { Some(self.free_slot(app, id, now)?) };
        let series = BTreeMap::new();
        let instance = Instance { slot, heard: now, series, buckets: 0 };
        self.instances.entry(app.clone()).or_default().insert(id.to_owned(), instance);
        Ok(slot)
    }

    /// A slot that no other instance of the app has: that there are only so many of them limits the instances.
    fn free_slot(&mut self, app: &AppName, id: &str, now: Millis) -> Result<u32, Full> {
        let own = || self.instances.get(app).into_iter().flatten();
        let taken: BTreeSet<u32> = own().filter_map(|(_, i)| i.slot).collect();
        // `07` and `+7` are names: one number is not to be many instances.
        let number = id.parse::<u32>().ok();
        let number = number.filter(|slot| *slot < Instances::LIMIT && slot.to_string() == id);
        let mut wanted = number.into_iter().chain(0..Instances::LIMIT);
        if let Some(slot) = wanted.find(|slot| !taken.contains(slot)) {
            return Ok(slot);
        }
        let gone = own()
            .filter(|(_, i)| i.is_silent(now))
            .filter_map(|(id, i)| Some((i.heard, id.clone(), i.slot?)))
            .min();
        let (_, id, slot) = gone.ok_or(Full)?;
        self.forget(app, &id);
        Ok(slot)
    }

    /// Lets go of silent instances that have no series, of whatever app: the limit of series does not see them. Now and then is
    /// enough, because only what was heard of in between can have come.
    fn drop_empty(&mut self, now: Millis) {
        if now.saturating_sub(self.swept) >= FORGET_MS {
            self.swept = now;
            self.instances.retain(|_, own| {
                own.retain(|_, i| !i.series.is_empty() || !i.is_silent(now));
                !own.is_empty()
            });
        }
    }

    fn forget(&mut self, app: &AppName, id: &str) {
        let Some(own) = self.instances.get_mut(app) else { return };
        if let Some(gone) = own.remove(id) {
            self.series = self.series.saturating_sub(gone.series.len());
            self.buckets = self.buckets.saturating_sub(gone.buckets);
        }
        if own.is_empty() {
            self.instances.remove(app);
        }
    }

    /// Notes a cumulative point and says what it adds; `None` when that is not known yet, or it is no news.
    pub(super) fn add(
        &mut self,
        (app, id): (&AppName, &str),
        key: SeriesKey,
        point: Last,
        now: Millis,
    ) -> Result<Option<Added>, Full> {
        let instance = self.instances.get(app).and_then(|own| own.get(id)).ok_or(Full)?;
        let last = instance.series.get(&key);
        if last.is_some_and(|last| point.time <= last.time) {
            return Ok(None);
        }
        // A known series can grow: its buckets are as many as were told last.
        let (old, new) = (last.map_or(0, |last| last.value.size()), point.value.size());
        let (one, more) = (usize::from(last.is_none()), new.saturating_sub(old));
        let fits = |has: usize, add: usize, limit: usize| add == 0 || has + add <= limit;
        if !fits(instance.series.len(), one, SERIES_PER_INSTANCE)
            || !fits(instance.buckets, more, BUCKETS_PER_INSTANCE)
        {
            return Err(Full);
        }
        while !fits(self.series, one, SERIES) || !fits(self.buckets, more, BUCKETS) {
            self.make_room(now)?;
        }
        let own = self.instances.get_mut(app);
        let instance = own.and_then(|own| own.get_mut(id)).ok_or(Full)?;
        instance.buckets = instance.buckets.saturating_sub(old).saturating_add(new);
        self.buckets = self.buckets.saturating_sub(old).saturating_add(new);
        self.series = self.series.saturating_add(one);
        if let Some(before) = instance.series.insert(key, point.clone()) {
            return Ok(Some(added(&before, &point)));
        }
        let young = point.start > 0 && point.time.saturating_sub(point.start) <= YOUNG_NANOS;
        Ok(young.then(|| since_start(&point)))
    }

    /// Forgets the instance that has been silent longest of those whose series take up room.
    fn make_room(&mut self, now: Millis) -> Result<(), Full> {
        let all = self.instances.iter();
        let all = all.flat_map(|(app, own)| own.iter().map(move |(id, i)| (i.heard, app, id, i)));
        let silent = all.filter(|(.., i)| !i.series.is_empty() && i.is_silent(now));
        let oldest = silent.min_by_key(|(heard, app, id, _)| (*heard, *app, *id));
        let (app, id) = oldest.map(|(_, app, id, _)| (app.clone(), id.clone())).ok_or(Full)?;
        self.forget(&app, &id);
        Ok(())
    }
}

impl Instance {
    /// Whether it may make room for another one.
    const fn is_silent(&self, now: Millis) -> bool {
        now.saturating_sub(self.heard) >= FORGET_MS
    }
}

impl Value {
    /// Buckets that have to be remembered.
    fn size(&self) -> usize {
        match self {
            Self::Sum(_) => 0,
            Self::Counts(counts, _) => counts.size(),
        }
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
            assert_eq!(memory.slot(&web(), &format!("id-{n}"), 1), Ok(Some(n)));
        }
        assert_eq!(memory.slot(&web(), "id-3", 2), Ok(Some(3)));
        assert_eq!(memory.slot(&web(), "late", 2), Err(Full));
        assert_eq!(memory.slot(&web(), "late", FORGET_MS + 1), Ok(Some(0)));
        let other = AppName::parse("other").unwrap();
        assert_eq!(memory.slot(&other, "7", 0), Ok(Some(7)), "a number is its own slot");
    }

    #[test]
    fn no_two_instances_share_a_slot_however_their_ids_are_written() {
        let mut memory = Memory::default();
        assert_eq!(memory.slot(&web(), "", 0), Ok(None), "the app as a whole takes no slot");
        assert_eq!(memory.slot(&web(), "named", 0), Ok(Some(0)));
        assert_eq!(memory.slot(&web(), "7", 0), Ok(Some(7)));
        for (id, slot) in [("07", 1), ("+7", 2), ("007", 3), ("0", 4), ("64", 5)] {
            assert_eq!(memory.slot(&web(), id, 0), Ok(Some(slot)), "{id}");
        }
        let given = (0..1_000).filter_map(|n| memory.slot(&web(), &format!("+{n}"), 0).ok());
        let distinct: BTreeSet<_> = given.collect();
        // `+7` is one of them.
        assert_eq!((distinct.len(), memory.instances[&web()].len()), (64 - 6, 64 + 1));
        assert_eq!(memory.slot(&web(), "9", 0), Err(Full), "numbers are limited like names");
    }

    #[test]
    fn silent_instances_without_series_are_let_go() {
        let mut memory = Memory::default();
        for n in 0..100 {
            let app = AppName::parse(&format!("app-{n}")).unwrap();
            memory.slot(&app, "", 1).unwrap();
        }
        memory.slot(&web(), "a", 1).unwrap();
        memory.add((&web(), "a"), key(0), sum(1, 1, 1.0), 1).unwrap();
        memory.slot(&web(), "b", FORGET_MS + 1).unwrap();
        let left: Vec<_> = memory.instances.values().map(BTreeMap::len).collect();
        assert_eq!(left, [2], "the one with a series, and the new one");
    }

    fn histogram(time: u64, buckets: i32) -> Last {
        let counts = (0..buckets).map(|index| (index, 1)).collect();
        let counts = Counts::Exponential { scale: 0, zeros: 0, counts };
        Last { start: 1, time, value: Value::Counts(counts, 1) }
    }

    #[test]
    fn buckets_are_limited_and_a_known_series_cannot_grow_beyond_that() {
        let mut memory = Memory::default();
        memory.slot(&web(), "a", 0).unwrap();
        let mut add = |n, time, buckets| {
            memory.add((&web(), "a"), key(n), histogram(time, buckets), 0).map(|_added| ())
        };
        for n in 0..40 {
            assert_eq!(add(n, 1, 1_000), Ok(()));
        }
        assert_eq!(add(40, 1, 1), Err(Full));
        assert_eq!(add(0, 2, 1_001), Err(Full), "it grew");
        assert_eq!(add(0, 3, 900), Ok(()));
        assert_eq!(add(40, 1, 100), Ok(()), "what another one gave back");
        assert_eq!(memory.buckets, BUCKETS_PER_INSTANCE);

        memory.buckets = BUCKETS;
        memory.slot(&web(), "b", FORGET_MS).unwrap();
        let late = memory.add((&web(), "b"), key(0), histogram(1, 10), FORGET_MS - 1);
        assert_eq!(late, Err(Full), "nobody has been silent for so long");
        memory.add((&web(), "b"), key(0), histogram(1, 10), FORGET_MS).unwrap();
        assert_eq!(memory.buckets, BUCKETS - BUCKETS_PER_INSTANCE + 10);
        assert_eq!(memory.series, 1);
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

//! The window: what was heard of one app lately, folded into one [`Reading`] when it is closed.
//!
//! Ephemeral and bounded. One window belongs to one ingest shard, which pushes samples as they come and closes the window once per
//! tick, or at once when something [`urgent`] arrived.
//!
//! * Of each (metric, source, instance) only the newest sample counts, and only until its time to live has passed.
//! * The value of a source is the mean over its instances.
//! * A tick is the worst value of the sources that said something new since the window was closed last. A source that was
//!   silent in between is not counted again, or one spike of a slow monitor would look like many.
//! * What the server measured against the whole machine, for want of a limit of the app, counts only while nobody reports the metric
//!   who may know one: two shares of two limits are no contradiction, and one is no past of the other.
//!
//! So the order in which samples of one tick arrive does not matter.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::app::{AppName, Instances, Millis};
use crate::policy::{Freshness, Policy};
use crate::signal::{
    Accepted, Believed, CONDITIONS, Condition, MACHINE, Metric, Point, Reading, Sample, Series,
};

mod statistics;
mod voices;

use statistics::Statistics;
use voices::{Life, Said, Voices};

/// What became of something that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Push {
    /// It counts.
    Kept,
    /// It counts, and what it replaced was never looked at: readings come faster than decisions.
    Superseded,
    /// It says nothing newer than what is known from the same source already.
    OutOfOrder,
    /// The app has [`Window::SOURCES`] sources of this metric already.
    TooManySources,
    /// The source has [`Window::INSTANCES`] instances already.
    TooManyInstances,
    /// The app has [`Window::CONDITIONS`] conditions already.
    TooManyConditions,
}

/// How much of a signal counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Absorbed {
    /// Samples and conditions that count.
    pub kept: u32,
    /// Of these, samples that took the place of one nobody had looked at.
    pub superseded: u32,
    /// Refused because something newer was known.
    pub out_of_order: u32,
    /// Dropped because of a limit.
    pub dropped: u32,
}

/// What is known of the signals of one app.
#[derive(Debug, Clone)]
pub struct Window {
    app: AppName,
    last_seen: Option<Millis>,
    voices: Voices,
    /// In the order of [`Metric::ALL`].
    tracks: [Track; Metric::ALL.len()],
    conditions: BTreeMap<String, Claimed>,
    statistics: Statistics,
    /// See [`Window::same_until`].
    same_until: Option<Millis>,
}

/// A custom boolean, and how long it counts.
#[derive(Debug, Clone)]
struct Claimed {
    condition: Condition,
    life: Life,
}

/// What became of one metric each time the window was closed.
#[derive(Debug, Clone)]
struct Track {
    recent: Vec<Point>,
    /// Whether the ticks are shares of the whole machine.
    of_machine: bool,
    /// Since when nothing that was said of it counts, while that is so.
    stale_since: Option<Millis>,
}

/// Whether the window must be closed at once: an exit is a hard fact, and a monitor can call a condition critical.
#[must_use]
pub fn urgent(signal: &Accepted) -> bool {
    let critical = |(name, c): (&String, &Condition)| c.value && name.ends_with("_critical");
    signal.exit.is_some() || signal.conditions.iter().any(critical)
}

impl Window {
    /// Sources remembered per metric.
    pub const SOURCES: usize = 16;
    /// Instances remembered per source and metric, beside what a source says of the app as a whole.
    pub const INSTANCES: usize = Instances::LIMIT as usize;
    /// Conditions remembered.
    pub const CONDITIONS: usize = CONDITIONS;

    /// The window of an app that was never heard of.
    #[must_use]
    pub const fn new(app: AppName) -> Self {
        Self {
            app,
            last_seen: None,
            voices: Voices::new(),
            tracks: [const { Track::new() }; Metric::ALL.len()],
            conditions: BTreeMap::new(),
            statistics: Statistics::new(),
            same_until: None,
        }
    }

    /// The window of an app that is known from before the server started at `now`. Its monitors get the same time to report as
    /// if they had just been heard: that the server was away is not the silence of a monitor.
    #[must_use]
    pub fn resumed(app: AppName, now: Millis) -> Self {
        Self { last_seen: Some(now), ..Self::new(app) }
    }

    /// The app.
    #[must_use]
    pub const fn app(&self) -> &AppName {
        &self.app
    }

    /// Receive time of the newest signal.
    #[must_use]
    pub const fn last_seen(&self) -> Option<Millis> {
        self.last_seen
    }

    /// When the first of what was known at the last closing ends to count: until then, or until something is heard, closing it again
    /// gives the same. How fast the error budget was used up is looked at anew with what is heard, and with what ends.
    #[must_use]
    pub const fn same_until(&self) -> Option<Millis> {
        self.same_until
    }

    /// Takes a whole signal in.
    pub fn absorb(&mut self, signal: &Accepted) -> Absorbed {
        self.seen(signal.received_ms);
        let (mut absorbed, life) = (Absorbed::default(), Life::new(signal.ttl_ms));
        for sample in &signal.samples {
            absorbed.count(self.hold(sample, life));
        }
        for (name, Condition { value, source, at }) in &signal.conditions {
            absorbed.count(self.claim(name, (*value, source, *at), life));
        }
        absorbed
    }

    /// Takes a whole signal in that is still where it was read. Where nothing new is named nothing is allocated.
    #[inline]
    pub fn hear(&mut self, signal: &Believed<'_>) -> Absorbed {
        let (received_ms, source) = (signal.received_ms(), signal.source());
        self.seen(received_ms);
        let (mut absorbed, life) = (Absorbed::default(), Life::new(signal.ttl_ms()));
        let said = Said { observed_ms: signal.observed_ms(), received_ms, life };
        let speaker = (source, signal.instance());
        self.voices.keep(speaker, said, signal.values().iter(), |push| absorbed.count(push));
        for (name, value) in signal.conditions() {
            absorbed.count(self.claim(name, (*value, source, received_ms), life));
        }
        absorbed
    }

    /// Notes that something was heard, whatever it said.
    pub fn seen(&mut self, received_ms: Millis) {
        self.last_seen = self.last_seen.max(Some(received_ms));
    }

    /// Takes one sample in.
    pub fn push(&mut self, sample: &Sample) -> Push {
        self.hold(sample, Life::new(None))
    }

    fn hold(&mut self, sample: &Sample, life: Life) -> Push {
        let Sample { metric, micro, observed_ms, received_ms, .. } = *sample;
        self.seen(received_ms);
        let mut became = Push::Kept;
        let speaker = (sample.source.as_str(), sample.instance);
        let said = Said { observed_ms, received_ms, life };
        self.voices.keep(speaker, said, [(metric, micro)], |push| became = push);
        became
    }

    /// Takes one custom boolean in; the last one received counts, and of two received together the one that is true.
    pub fn condition(&mut self, name: &str, condition: &Condition) -> Push {
        let Condition { value, source, at } = condition;
        self.claim(name, (*value, source, *at), Life::new(None))
    }

    fn claim(&mut self, name: &str, (value, source, at): (bool, &str, Millis), life: Life) -> Push {
        self.seen(at);
        let full = self.conditions.len() >= Self::CONDITIONS;
        match self.conditions.get_mut(name) {
            Some(Claimed { condition: known, .. }) if (known.at, known.value) > (at, value) => {
                Push::OutOfOrder
            }
            Some(Claimed { condition: known, life: own }) => {
                if (known.at, known.value) < (at, value) || source < known.source.as_str() {
                    (known.value, known.at, *own) = (value, at, life);
                    source.clone_into(&mut known.source);
                }
                Push::Kept
            }
            None if full => Push::TooManyConditions,
            None => {
                let condition = Condition { value, source: source.to_owned(), at };
                self.conditions.insert(name.to_owned(), Claimed { condition, life });
                Push::Kept
            }
        }
    }

    /// Closes one tick and gives everything that is known at `now`. What is older than its time to live, or from before the app
    /// was onboarded, is forgotten.
    pub fn close(&mut self, now: Millis, policy: &Policy, onboarded_at: Millis) -> Reading {
        let rules = &policy.freshness;
        let mut ticks = BTreeMap::new();
        let first = Cell::new(Millis::MAX);
        let alive = |at: Millis, ttl: Millis| {
            let alive = at >= onboarded_at && now.saturating_sub(at) <= ttl;
            if alive {
                first.set(first.get().min(at.saturating_add(ttl).saturating_add(1)));
            }
            alive
        };
        self.conditions
            .retain(|_, claimed| alive(claimed.condition.at, claimed.life.within(rules.ttl_ms)));
        let ends = self.ends(rules, &alive);
        self.voices.retain(|metric, at, life| alive(at, life.within(rules.ttl_of(metric))));
        let (mut metrics, mut stale) = (BTreeMap::new(), BTreeMap::new());
        for ((metric, track), end) in Metric::ALL.into_iter().zip(&mut self.tracks).zip(ends) {
            let mut opinions = self.voices.opinions(metric).peekable();
            let is_known = opinions.peek().is_some();
            track.measure(self.voices.opinions(metric).all(|opinion| opinion.source == MACHINE));
            let mut sources = BTreeMap::new();
            let mut tick: Option<Point> = None;
            for opinion in opinions.filter(|opinion| track.believes(opinion.source)) {
                sources.insert(opinion.source.to_owned(), opinion.point);
                tick =
                    tick.into_iter().chain(opinion.is_news.then_some(opinion.point)).reduce(worst);
            }
            ticks.extend(tick.map(|tick| (metric, tick)));
            track.close(tick, end, is_known);
            // No run of ticks without a gap reaches further back.
            let reach = rules.ttl_of(metric).saturating_mul(Series::RECENT as u64);
            track.recent.retain(|point| alive(point.at, reach));
            track.stale_since = track.stale_since.filter(|since| alive(*since, reach));
            // A run of ticks ends with the life of its newest one, however short its monitors want it to be.
            let ttl = rules.ttl_of(metric);
            let _ = track.recent.last().is_some_and(|newest| alive(newest.at, ttl));
            stale.extend(track.stale_since.map(|since| (metric, since)));
            if is_known || !track.recent.is_empty() {
                metrics.insert(metric, Series { sources, recent: track.recent.clone() });
            }
        }
        self.voices.settle();
        self.same_until = Some(first.get()).filter(|first| *first < Millis::MAX);
        Reading {
            app: self.app.clone(),
            at: now,
            last_seen: self.last_seen.filter(|at| *at >= onboarded_at),
            metrics,
            conditions: self
                .conditions
                .iter()
                .map(|(name, claimed)| (name.clone(), claimed.condition.clone()))
                .collect(),
            stale,
            alarms: self.statistics.take(&self.app, now, policy, &ticks),
        }
    }

    /// When the last word on each metric ends to count. What an earlier app of the same name said does not go stale, it is of no
    /// concern.
    fn ends(
        &self,
        rules: &Freshness,
        alive: &impl Fn(Millis, Millis) -> bool,
    ) -> [Option<Millis>; Metric::ALL.len()] {
        Metric::ALL.map(|metric| {
            let ttl = rules.ttl_of(metric);
            let own = self.voices.lives(metric).filter(|(at, _)| alive(*at, Millis::MAX));
            own.map(|(at, life)| at.saturating_add(life.within(ttl))).max()
        })
    }
}

/// The worse of two values, at the time of the later one.
fn worst(a: Point, b: Point) -> Point {
    Point { micro: a.micro.max(b.micro), at: a.at.max(b.at) }
}

impl Absorbed {
    fn count(&mut self, push: Push) {
        let superseded = push == Push::Superseded;
        self.superseded = self.superseded.saturating_add(superseded.into());
        let counter = match push {
            Push::Kept | Push::Superseded => &mut self.kept,
            Push::OutOfOrder => &mut self.out_of_order,
            Push::TooManySources | Push::TooManyInstances | Push::TooManyConditions => {
                &mut self.dropped
            }
        };
        *counter = counter.saturating_add(1);
    }
}

impl Track {
    const fn new() -> Self {
        Self { recent: Vec::new(), of_machine: false, stale_since: None }
    }

    /// Notes whether nobody speaks but the server with a share of the machine. Ticks of one limit are no past of the other's.
    fn measure(&mut self, of_machine: bool) {
        let of_machine = of_machine && (self.of_machine || self.recent.is_empty());
        if self.of_machine != of_machine {
            self.of_machine = of_machine;
            self.recent.clear();
        }
    }

    /// A share of the machine stands back behind what a monitor says, as long as that is remembered.
    fn believes(&self, source: &str) -> bool {
        self.of_machine || source != MACHINE
    }

    /// Takes in the tick, if anybody said something new, and when the last word on it ends to count.
    fn close(&mut self, tick: Option<Point>, end: Option<Millis>, is_known: bool) {
        self.stale_since = if is_known { None } else { end.or(self.stale_since) };
        if let Some(tick) = tick {
            if self.recent.len() >= Series::RECENT {
                self.recent.remove(0);
            }
            self.recent.push(tick);
        }
    }
}

#[cfg(test)]
mod tests;

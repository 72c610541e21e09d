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

use std::collections::BTreeMap;

use crate::app::{AppName, Instances, Millis};
use crate::policy::Policy;
use crate::signal::{
    Accepted, Believed, CONDITIONS, Condition, MACHINE, Metric, Point, Reading, Sample, Series,
    SourceId,
};

mod statistics;

use statistics::Statistics;

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
    metrics: BTreeMap<Metric, Track>,
    conditions: BTreeMap<String, Claimed>,
    statistics: Statistics,
}

/// A custom boolean, and how long its monitor wants it to count.
#[derive(Debug, Clone)]
struct Claimed {
    condition: Condition,
    ttl_ms: Option<Millis>,
}

/// One metric.
#[derive(Debug, Clone, Default)]
struct Track {
    sources: BTreeMap<SourceId, Source>,
    recent: Vec<Point>,
    /// Whether the ticks are shares of the whole machine.
    of_machine: bool,
    /// Since when nothing that was said of it counts, while that is so.
    stale_since: Option<Millis>,
}

/// One source of one metric.
#[derive(Debug, Clone, Default)]
struct Source {
    instances: BTreeMap<Option<u32>, Held>,
}

/// The newest sample of one instance, how long its monitor wants it to count, and whether it came since the window was closed last.
#[derive(Debug, Clone, Copy)]
struct Held {
    latest: Latest,
    ttl_ms: Option<Millis>,
    is_news: bool,
}

/// The newest sample of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Latest {
    observed_ms: Millis,
    micro: i64,
    received_ms: Millis,
}

/// How long something counts: a monitor can shorten the life of what it says and never lengthen it.
fn life(own: Option<Millis>, policy: Millis) -> Millis {
    own.map_or(policy, |own| own.min(policy))
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
            metrics: BTreeMap::new(),
            conditions: BTreeMap::new(),
            statistics: Statistics::new(),
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

    /// Takes a whole signal in.
    pub fn absorb(&mut self, signal: &Accepted) -> Absorbed {
        self.seen(signal.received_ms);
        let mut absorbed = Absorbed::default();
        for sample in &signal.samples {
            absorbed.count(self.hold(sample, signal.ttl_ms));
        }
        for (name, Condition { value, source, at }) in &signal.conditions {
            absorbed.count(self.claim(name, (*value, source, *at), signal.ttl_ms));
        }
        absorbed
    }

    /// Takes a whole signal in that is still where it was read. Where nothing new is named nothing is allocated.
    pub fn hear(&mut self, signal: &Believed<'_>) -> Absorbed {
        let (received_ms, source) = (signal.received_ms(), signal.source());
        self.seen(received_ms);
        let mut absorbed = Absorbed::default();
        for (metric, micro) in signal.values() {
            let latest = Latest { observed_ms: signal.observed_ms(), micro, received_ms };
            let held = Held { latest, ttl_ms: signal.ttl_ms(), is_news: true };
            absorbed.count(self.keep(metric, source, signal.instance(), held));
        }
        for (name, value) in signal.conditions() {
            absorbed.count(self.claim(name, (*value, source, received_ms), signal.ttl_ms()));
        }
        absorbed
    }

    /// Notes that something was heard, whatever it said.
    pub fn seen(&mut self, received_ms: Millis) {
        self.last_seen = self.last_seen.max(Some(received_ms));
    }

    /// Takes one sample in.
    pub fn push(&mut self, sample: &Sample) -> Push {
        self.hold(sample, None)
    }

    fn hold(&mut self, sample: &Sample, ttl_ms: Option<Millis>) -> Push {
        let Sample { micro, observed_ms, received_ms, .. } = *sample;
        self.seen(received_ms);
        let latest = Latest { observed_ms, micro, received_ms };
        let held = Held { latest, ttl_ms, is_news: true };
        self.keep(sample.metric, &sample.source, sample.instance, held)
    }

    fn keep(&mut self, metric: Metric, source: &str, instance: Option<u32>, held: Held) -> Push {
        let track = self.metrics.entry(metric).or_default();
        if let Some(known) = track.sources.get_mut(source) {
            return known.keep(instance, held);
        }
        if track.sources.len() >= Self::SOURCES {
            return Push::TooManySources;
        }
        track.sources.entry(source.to_owned()).or_default().keep(instance, held)
    }

    /// Takes one custom boolean in; the last one received counts, and of two received together the one that is true.
    pub fn condition(&mut self, name: &str, condition: &Condition) -> Push {
        let Condition { value, source, at } = condition;
        self.claim(name, (*value, source, *at), None)
    }

    fn claim(
        &mut self,
        name: &str,
        (value, source, at): (bool, &str, Millis),
        ttl_ms: Option<Millis>,
    ) -> Push {
        self.seen(at);
        let full = self.conditions.len() >= Self::CONDITIONS;
        match self.conditions.get_mut(name) {
            Some(Claimed { condition: known, .. }) if (known.at, known.value) > (at, value) => {
                Push::OutOfOrder
            }
            Some(Claimed { condition: known, ttl_ms: life }) => {
                if (known.at, known.value) < (at, value) || source < known.source.as_str() {
                    (known.value, known.at, *life) = (value, at, ttl_ms);
                    source.clone_into(&mut known.source);
                }
                Push::Kept
            }
            None if full => Push::TooManyConditions,
            None => {
                let condition = Condition { value, source: source.to_owned(), at };
                self.conditions.insert(name.to_owned(), Claimed { condition, ttl_ms });
                Push::Kept
            }
        }
    }

    /// Closes one tick and gives everything that is known at `now`. What is older than its time to live, or from before the app
    /// was onboarded, is forgotten.
    pub fn close(&mut self, now: Millis, policy: &Policy, onboarded_at: Millis) -> Reading {
        let rules = &policy.freshness;
        let mut ticks = BTreeMap::new();
        let alive = |at: Millis, ttl: Millis| at >= onboarded_at && now.saturating_sub(at) <= ttl;
        self.conditions
            .retain(|_, claimed| alive(claimed.condition.at, life(claimed.ttl_ms, rules.ttl_ms)));
        for (metric, track) in &mut self.metrics {
            let ttl = rules.ttl_of(*metric);
            ticks.extend(track.close(ttl, &alive).map(|tick| (*metric, tick)));
            // No run of ticks without a gap reaches further back.
            let reach = ttl.saturating_mul(Series::RECENT as u64);
            track.recent.retain(|point| alive(point.at, reach));
            track.stale_since = track.stale_since.filter(|since| alive(*since, reach));
        }
        self.metrics.retain(|_, track| !track.is_forgotten());
        let tracks = || self.metrics.iter();
        Reading {
            app: self.app.clone(),
            at: now,
            last_seen: self.last_seen.filter(|at| *at >= onboarded_at),
            metrics: tracks()
                .filter(|(_, track)| !track.sources.is_empty() || !track.recent.is_empty())
                .map(|(metric, track)| (*metric, track.series()))
                .collect(),
            conditions: self
                .conditions
                .iter()
                .map(|(name, claimed)| (name.clone(), claimed.condition.clone()))
                .collect(),
            stale: tracks().filter_map(|(m, track)| Some((*m, track.stale_since?))).collect(),
            alarms: self.statistics.take(&self.app, now, policy, &ticks),
        }
    }
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
    /// Gives the tick, if anybody said something new.
    fn close(&mut self, ttl: Millis, alive: &impl Fn(Millis, Millis) -> bool) -> Option<Point> {
        // What an earlier app of the same name said does not go stale, it is of no concern.
        let ends = self.held().filter(|held| alive(held.latest.received_ms, Millis::MAX));
        let end = ends.map(|held| held.latest.received_ms.saturating_add(held.life(ttl))).max();
        for source in self.sources.values_mut() {
            source.instances.retain(|_, held| alive(held.latest.received_ms, held.life(ttl)));
        }
        self.sources.retain(|_, source| !source.instances.is_empty());
        self.stale_since = match end {
            Some(_) if self.sources.is_empty() => end,
            Some(_) => None,
            None => self.stale_since,
        };
        let of_machine = self.sources.keys().all(|name| name == MACHINE)
            && (self.of_machine || self.recent.is_empty());
        if self.of_machine != of_machine {
            self.of_machine = of_machine;
            self.recent.clear();
        }
        let spoke = self.counted().filter(|(_, source)| source.spoke());
        let spoke = spoke.filter_map(|(_, source)| source.point());
        let tick = spoke.reduce(|a, b| Point { micro: a.micro.max(b.micro), at: a.at.max(b.at) });
        if let Some(tick) = tick {
            if self.recent.len() >= Series::RECENT {
                self.recent.remove(0);
            }
            self.recent.push(tick);
        }
        for held in self.sources.values_mut().flat_map(|source| source.instances.values_mut()) {
            held.is_news = false;
        }
        tick
    }

    /// The sources that are believed: a share of the machine stands back behind what a monitor says, as long as that is remembered.
    fn counted(&self) -> impl Iterator<Item = (&SourceId, &Source)> {
        self.sources.iter().filter(|(name, _)| self.of_machine || *name != MACHINE)
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.sources.values().flat_map(|source| source.instances.values())
    }

    fn is_forgotten(&self) -> bool {
        self.sources.is_empty() && self.recent.is_empty() && self.stale_since.is_none()
    }

    fn series(&self) -> Series {
        let point = |(name, source): (&SourceId, &Source)| Some((name.clone(), source.point()?));
        Series { sources: self.counted().filter_map(point).collect(), recent: self.recent.clone() }
    }
}

impl Held {
    /// How long it counts where the policy has so long a life for its metric.
    fn life(&self, policy: Millis) -> Millis {
        life(self.ttl_ms, policy)
    }
}

impl Source {
    fn keep(&mut self, instance: Option<u32>, held: Held) -> Push {
        match self.instances.get_mut(&instance) {
            // Of two values for one moment the worse one counts, whichever came first; a value that is sent again is no news.
            Some(known) if known.latest >= held.latest => return Push::OutOfOrder,
            Some(known) => {
                let unread = std::mem::replace(known, held).is_news;
                return if unread { Push::Superseded } else { Push::Kept };
            }
            None => {
                let slots = self.instances.keys().flatten().count();
                if instance.is_some() && slots >= Window::INSTANCES {
                    return Push::TooManyInstances;
                }
                self.instances.insert(instance, held);
            }
        }
        Push::Kept
    }

    /// Whether it said something since the window was closed last.
    fn spoke(&self) -> bool {
        self.instances.values().any(|held| held.is_news)
    }

    /// When the newest of its instances was heard.
    fn heard(&self) -> Option<Millis> {
        self.instances.values().map(|held| held.latest.received_ms).max()
    }

    /// The mean over the instances, and when the newest of them was heard.
    fn point(&self) -> Option<Point> {
        let at = self.heard()?;
        let values = self.instances.values().map(|held| i128::from(held.latest.micro));
        let sum: i128 = values.sum();
        let mean = sum / i128::try_from(self.instances.len()).ok()?;
        Some(Point { micro: i64::try_from(mean).ok()?, at })
    }
}

#[cfg(test)]
mod tests;

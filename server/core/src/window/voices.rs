//! Who says what: the newest sample of each source, for each instance and metric.
//!
//! A signal speaks with one voice of up to seven metrics, so the voice is found once for all of them, and what it said last is
//! renewed where it lies.

use smol_str::SmolStr;

use crate::app::Millis;
use crate::signal::{Metric, Point};

use super::{Push, Window};

/// All that is heard of one app, in the order of sources and instances.
#[derive(Debug, Clone)]
pub(super) struct Voices(Vec<Voice>);

/// What one source says of one instance of the app, or of the app as a whole.
#[derive(Debug, Clone)]
struct Voice {
    source: SmolStr,
    instance: Option<u32>,
    /// The newest sample of each metric, in the order of [`Metric::ALL`]; one at least.
    held: [Option<Held>; Metric::ALL.len()],
}

/// When something was said, and how long it counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) observed_ms: Millis,
    pub(super) received_ms: Millis,
    pub(super) life: Life,
}

/// How long something counts: a monitor can shorten the life of what it says and never lengthen it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life(u32);

/// The newest sample of one metric, and whether it came since the window was closed last.
#[derive(Debug, Clone, Copy)]
struct Held {
    observed_ms: Millis,
    micro: i64,
    received_ms: Millis,
    life: Life,
    is_news: bool,
}

/// What one source says of one metric.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opinion<'a> {
    pub(super) source: &'a str,
    /// The mean over its instances, and when the newest of them was heard.
    pub(super) point: Point,
    /// It said something since the window was closed last.
    pub(super) is_news: bool,
}

impl Life {
    /// As its monitor wants it, if it wants any. What lasts more than seven weeks lasts as long as the policy has it.
    pub(super) fn new(wanted: Option<Millis>) -> Self {
        Self(wanted.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(u32::MAX))
    }

    /// How long it is where the policy has so long a life for it.
    pub(super) fn within(self, policy: Millis) -> Millis {
        if self.0 == u32::MAX { policy } else { policy.min(u64::from(self.0)) }
    }
}

impl Voices {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Takes in what a source says of an instance, and tells what became of each sample.
    pub(super) fn keep(
        &mut self,
        (source, instance): (&str, Option<u32>),
        said: Said,
        values: impl IntoIterator<Item = (Metric, i64)>,
        mut tell: impl FnMut(Push),
    ) {
        let mut place = self.find(source, instance);
        for (metric, micro) in values {
            let voice = place.ok().and_then(|at| self.0.get_mut(at));
            let known = voice.and_then(|voice| voice.held.get_mut(metric as usize)?.as_mut());
            tell(match known {
                Some(known) => known.renew(said, micro),
                None => self.admit(&mut place, (source, instance), metric, said.of(micro)),
            });
        }
    }

    fn find(&self, source: &str, instance: Option<u32>) -> Result<usize, usize> {
        let wanted = (source, instance);
        self.0.binary_search_by(|voice| (voice.source.as_str(), voice.instance).cmp(&wanted))
    }

    /// Takes in the first sample of a metric, if there is room for one more source of it, or for one more instance of its source.
    #[cold]
    fn admit(
        &mut self,
        place: &mut Result<usize, usize>,
        (source, instance): (&str, Option<u32>),
        metric: Metric,
        held: Held,
    ) -> Push {
        let own = || self.on(metric).filter(|(voice, _)| voice.source == source);
        if own().next().is_none() && self.opinions(metric).count() >= Window::SOURCES {
            return Push::TooManySources;
        }
        let slots = own().filter(|(voice, _)| voice.instance.is_some()).count();
        if instance.is_some() && slots >= Window::INSTANCES {
            return Push::TooManyInstances;
        }
        let at = place.unwrap_or_else(|at| {
            let voice = Voice { source: source.into(), instance, held: Default::default() };
            self.0.insert(at, voice);
            at
        });
        *place = Ok(at);
        let voice = self.0.get_mut(at);
        if let Some(empty) = voice.and_then(|voice| voice.held.get_mut(metric as usize)) {
            *empty = Some(held);
        }
        Push::Kept
    }

    /// Forgets every sample that does not count any more: `counts` is asked for each with when it came and how long it lives.
    pub(super) fn retain(&mut self, counts: impl Fn(Metric, Millis, Life) -> bool) {
        self.0.retain_mut(|voice| {
            for (metric, held) in Metric::ALL.into_iter().zip(&mut voice.held) {
                *held = held.filter(|held| counts(metric, held.received_ms, held.life));
            }
            voice.held.iter().any(Option::is_some)
        });
    }

    /// From here on nothing of it is news.
    pub(super) fn settle(&mut self) {
        let held = self.0.iter_mut().flat_map(|voice| voice.held.iter_mut().flatten());
        held.for_each(|held| held.is_news = false);
    }

    /// When the samples of a metric came, and how long they live.
    pub(super) fn lives(&self, metric: Metric) -> impl Iterator<Item = (Millis, Life)> {
        self.on(metric).map(|(_, held)| (held.received_ms, held.life))
    }

    /// The samples of one metric.
    fn on(&self, metric: Metric) -> impl Iterator<Item = (&Voice, &Held)> {
        let voices = self.0.iter();
        voices.filter_map(move |voice| Some((voice, voice.held.get(metric as usize)?.as_ref()?)))
    }

    /// What each source says of a metric, in the order of sources.
    pub(super) fn opinions(&self, metric: Metric) -> impl Iterator<Item = Opinion<'_>> {
        let mut held = self.on(metric).peekable();
        std::iter::from_fn(move || {
            let (voice, first) = held.next()?;
            let (mut sum, mut count) = (i128::from(first.micro), 1_i128);
            let (mut at, mut is_news) = (first.received_ms, first.is_news);
            while let Some((_, next)) = held.next_if(|(other, _)| other.source == voice.source) {
                sum = sum.saturating_add(i128::from(next.micro));
                count = count.saturating_add(1);
                at = at.max(next.received_ms);
                is_news |= next.is_news;
            }
            // The mean lies between two that fit.
            let micro = i64::try_from(sum.checked_div(count)?).ok()?;
            Some(Opinion { source: voice.source.as_str(), point: Point { micro, at }, is_news })
        })
    }
}

impl Said {
    const fn of(self, micro: i64) -> Held {
        let Self { observed_ms, received_ms, life } = self;
        Held { observed_ms, micro, received_ms, life, is_news: true }
    }
}

impl Held {
    /// Of two values for one moment the worse one counts, whichever came first; a value that is sent again is no news.
    fn renew(&mut self, said: Said, micro: i64) -> Push {
        let known = (self.observed_ms, self.micro, self.received_ms);
        if known >= (said.observed_ms, micro, said.received_ms) {
            return Push::OutOfOrder;
        }
        let unread = std::mem::replace(self, said.of(micro)).is_news;
        if unread { Push::Superseded } else { Push::Kept }
    }
}

//! A signal that is still where it was read: judged by the rules of [`validate`](super::validate), and nothing of it is copied.
//!
//! Nearly every signal breaks no rule and names nothing new, and such a one should cost little more than the reading of its bytes. What
//! is not believed here goes the long way, which says why.

use crate::app::Millis;
use crate::policy::Freshness;
use crate::signal::Metric;

use super::validate::{CONDITIONS, check_instance, in_micro, is_condition_name, is_in_time};

/// The value of each metric that is known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Values<T> {
    /// One bit for each metric, by its place in [`Metric::ALL`].
    known: u8,
    of: [T; Metric::ALL.len()],
}

impl<T: Copy> Values<T> {
    /// Notes a value; of two the last one counts.
    #[inline]
    pub fn set(&mut self, metric: Metric, value: T) {
        if let Some(of) = self.of.get_mut(metric as usize) {
            *of = value;
            self.known |= 1 << metric as u8;
        }
    }

    /// The value of a metric.
    #[must_use]
    pub fn get(&self, metric: Metric) -> Option<T> {
        self.iter().find(|(of, _)| *of == metric).map(|(_, value)| value)
    }

    /// Whether none is known.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.known == 0
    }

    /// Those that are known, in the order of [`Metric::ALL`].
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (Metric, T)> {
        let known = self.known;
        let all = Metric::ALL.into_iter().zip(self.of);
        all.filter(move |(metric, _)| known & 1 << *metric as u8 != 0)
    }
}

impl<T: Copy + Default> FromIterator<(Metric, T)> for Values<T> {
    fn from_iter<I: IntoIterator<Item = (Metric, T)>>(values: I) -> Self {
        values.into_iter().fold(Self::default(), |mut all, (metric, value)| {
            all.set(metric, value);
            all
        })
    }
}

/// What was read, but for its conditions.
#[derive(Debug, Clone, Copy)]
pub struct Spoken {
    /// Instance slot, if it speaks of one.
    pub instance: Option<u32>,
    /// Time of the measurement as the monitor's clock tells it.
    pub observed_ms: Millis,
    /// Values in natural units.
    pub values: Values<f64>,
    /// How long it counts, if its monitor wants that to be shorter than the policy has it.
    pub ttl_ms: Option<Millis>,
}

/// Custom booleans, each name once.
pub type Claims<'a> = &'a [(&'a str, bool)];

/// What breaks no rule; only [`Spoken::believe`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Believed<'a> {
    spoken: &'a Spoken,
    conditions: Claims<'a>,
    micros: Values<i64>,
    source: &'a str,
    received_ms: Millis,
}

impl Spoken {
    /// Judges what `source` said and what arrived at `now`; `None` if it breaks any rule, or says nothing.
    #[must_use]
    #[inline]
    pub fn believe<'a>(
        &'a self,
        conditions: Claims<'a>,
        source: &'a str,
        now: Millis,
        rules: &Freshness,
    ) -> Option<Believed<'a>> {
        let no_such_slot = self.instance.and_then(check_instance).is_some();
        let named = conditions.iter().all(|(name, _)| is_condition_name(name));
        if !is_in_time(self.observed_ms, now, rules)
            || no_such_slot
            || !named
            || conditions.len() > CONDITIONS
        {
            return None;
        }
        let mut micros = Values::default();
        for (metric, value) in self.values.iter() {
            micros.set(metric, in_micro(metric, value)?);
        }
        let is_silent = micros.is_empty() && conditions.is_empty();
        let believed = Believed { spoken: self, conditions, micros, source, received_ms: now };
        (!is_silent).then_some(believed)
    }
}

impl<'a> Believed<'a> {
    /// Instance slot, if it speaks of one.
    #[must_use]
    pub const fn instance(&self) -> Option<u32> {
        self.spoken.instance
    }

    /// When it was measured, by the monitor's clock.
    #[must_use]
    pub const fn observed_ms(&self) -> Millis {
        self.spoken.observed_ms
    }

    /// When it arrived, by ours.
    #[must_use]
    pub const fn received_ms(&self) -> Millis {
        self.received_ms
    }

    /// How long it counts, if that is shorter than the policy has it.
    #[must_use]
    pub const fn ttl_ms(&self) -> Option<Millis> {
        self.spoken.ttl_ms
    }

    /// Who said it.
    #[must_use]
    pub const fn source(&self) -> &'a str {
        self.source
    }

    /// Values in millionths.
    #[must_use]
    #[inline]
    pub const fn values(&self) -> &Values<i64> {
        &self.micros
    }

    /// Custom booleans.
    #[must_use]
    pub const fn conditions(&self) -> Claims<'a> {
        self.conditions
    }

    /// Whether its window must be closed at once; see [`urgent`](crate::window::urgent).
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.conditions().iter().any(|(name, value)| *value && name.ends_with("_critical"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::app::{AppName, Env};
    use crate::policy::Policy;
    use crate::signal::{Signal, validate};
    use crate::window::Window;

    const NOW: Millis = 1_700_000_000_000;

    fn any_value() -> impl Strategy<Value = Option<f64>> {
        prop_oneof![
            4 => Just(None),
            4 => (0.0..1.0_f64).prop_map(Some),
            1 => prop::sample::select(vec![-0.0, -1.0, 1.5, 1e12, f64::NAN, f64::INFINITY])
                .prop_map(Some),
        ]
    }

    proptest! {
        /// Two judges that differ would be none: what is believed here is what the long way accepts, and changes the same.
        #[test]
        fn what_is_believed_is_what_is_accepted(
            instance in prop::option::of(0..70_u32),
            observed_ms in prop::sample::select(vec![NOW, NOW - 1, NOW + 60_000, NOW - 3_600_000]),
            values in prop::array::uniform7(any_value()),
            conditions in prop::collection::btree_map("[a-z]{1,3}|[A-Z]", any::<bool>(), 0..3),
            ttl_ms in prop::option::of(1_000..20_000_u64),
        ) {
            let app = AppName::parse("web").unwrap();
            let policy = Policy::default_for(Env::Stage);
            let rules = &policy.freshness;
            let given = || Metric::ALL.into_iter().zip(values).filter_map(|(m, v)| Some((m, v?)));
            let signal = Signal {
                app: app.to_string(),
                instance,
                observed_ms,
                metrics: given().collect::<BTreeMap<_, _>>(),
                conditions: conditions.clone(),
                exit: None,
            };
            let long = validate(&signal, "edge@ci", NOW, rules, |_| Some(app.clone()));
            let named: Vec<_> = conditions.iter().map(|(name, v)| (name.as_str(), *v)).collect();
            let values = given().collect();
            let spoken = Spoken { instance, observed_ms, values, ttl_ms };
            let short = spoken.believe(&named, "edge@ci", NOW, rules);
            prop_assert_eq!(short.is_some(), long.is_ok(), "{:?}", long);
            if let (Some(short), Ok(mut long)) = (short, long) {
                long.ttl_ms = ttl_ms;
                let (mut one, mut other) = (Window::new(app.clone()), Window::new(app));
                prop_assert_eq!(one.hear(&short), other.absorb(&long));
                prop_assert_eq!(one.hear(&short), other.absorb(&long), "said again");
                let later = NOW + 9_000;
                prop_assert_eq!(one.close(later, &policy, 0), other.close(later, &policy, 0));
            }
        }
    }
}

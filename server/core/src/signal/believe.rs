//! A signal that is still where it was read: judged by the rules of [`validate`](super::validate), and nothing of it is copied.
//!
//! Nearly every signal breaks no rule and names nothing new, and such a one should cost little more than the reading of its bytes. What
//! is not believed here goes the long way, which says why.

use crate::app::Millis;
use crate::policy::Freshness;
use crate::signal::Metric;

use super::validate::{CONDITIONS, check_instance, check_time, is_condition_name, to_micro};

/// One value for each metric, in the order of [`Metric::ALL`]; what is absent is unknown.
pub type Values<T> = [Option<T>; Metric::ALL.len()];

/// What was read.
#[derive(Debug, Clone, Copy)]
pub struct Spoken<'a> {
    /// Instance slot, if it speaks of one.
    pub instance: Option<u32>,
    /// Time of the measurement as the monitor's clock tells it.
    pub observed_ms: Millis,
    /// Values in natural units.
    pub values: Values<f64>,
    /// Custom booleans, each name once.
    pub conditions: &'a [(&'a str, bool)],
    /// How long it counts, if its monitor wants that to be shorter than the policy has it.
    pub ttl_ms: Option<Millis>,
}

/// What breaks no rule; only [`Spoken::believe`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Believed<'a> {
    spoken: Spoken<'a>,
    micros: Values<i64>,
    source: &'a str,
    received_ms: Millis,
}

impl<'a> Spoken<'a> {
    /// Judges what `source` said and what arrived at `now`; `None` if it breaks any rule, or says nothing.
    #[must_use]
    pub fn believe(self, source: &'a str, now: Millis, rules: &Freshness) -> Option<Believed<'a>> {
        let in_time = check_time(self.observed_ms, now, rules).is_none();
        let no_such_slot = self.instance.and_then(check_instance).is_some();
        let named = self.conditions.iter().all(|(name, _)| is_condition_name(name));
        if !in_time || no_such_slot || !named || self.conditions.len() > CONDITIONS {
            return None;
        }
        let (mut micros, mut silent) = (Values::default(), self.conditions.is_empty());
        for ((metric, value), micro) in Metric::ALL.into_iter().zip(self.values).zip(&mut micros) {
            if let Some(value) = value {
                *micro = Some(to_micro(metric, value).ok()?);
                silent = false;
            }
        }
        (!silent).then_some(Believed { spoken: self, micros, source, received_ms: now })
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
    pub fn values(&self) -> impl Iterator<Item = (Metric, i64)> {
        Metric::ALL.into_iter().zip(self.micros).filter_map(|(m, micro)| Some((m, micro?)))
    }

    /// Custom booleans.
    #[must_use]
    pub const fn conditions(&self) -> &'a [(&'a str, bool)] {
        self.spoken.conditions
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
            let given = Metric::ALL.into_iter().zip(values).filter_map(|(m, v)| Some((m, v?)));
            let signal = Signal {
                app: app.to_string(),
                instance,
                observed_ms,
                metrics: given.collect::<BTreeMap<_, _>>(),
                conditions: conditions.clone(),
                exit: None,
            };
            let long = validate(&signal, "edge@ci", NOW, rules, |_| Some(app.clone()));
            let named: Vec<_> = conditions.iter().map(|(name, v)| (name.as_str(), *v)).collect();
            let spoken = Spoken { instance, observed_ms, values, conditions: &named, ttl_ms };
            let short = spoken.believe("edge@ci", NOW, rules);
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

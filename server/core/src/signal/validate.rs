//! From what a monitor claims to what is believed: fixed-point samples, or every rule the signal breaks.
//!
//! One bad field rejects the whole signal, because a monitor that gets one number wrong is not trusted with the others; it never
//! rejects the stream. The only floating-point numbers of this crate come in here and leave as integers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::app::{AppName, Instances, Millis};
use crate::policy::Freshness;
use crate::signal::{Condition, Exit, MICRO, Metric, Sample, Signal};

/// Most custom booleans in one signal, and of one app.
pub(crate) const CONDITIONS: usize = 32;
/// Most characters of an offending value that are quoted back.
const QUOTED: usize = 80;

/// A signal after validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The app it speaks of.
    pub app: AppName,
    /// The instance slot, if it speaks of one.
    pub instance: Option<u32>,
    /// When it arrived.
    pub received_ms: Millis,
    /// Values, in the order of the metrics.
    pub samples: Vec<Sample>,
    /// Custom booleans by name.
    pub conditions: BTreeMap<String, Condition>,
    /// The process ended.
    pub exit: Option<Exit>,
    /// How long it counts, if its monitor wants that to be shorter than the policy has it.
    pub ttl_ms: Option<Millis>,
}

/// Why a field was rejected. The codes are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// No app of that name is onboarded.
    UnknownApp,
    /// Measured further in the future than clocks may differ.
    ClockSkew,
    /// Measured too long ago.
    Stale,
    /// NaN or an infinity.
    NotFinite,
    /// Below zero.
    Negative,
    /// Above what the metric can be, or a slot that cannot exist.
    OutOfRange,
    /// A condition's name breaks its rule.
    InvalidName,
    /// More conditions than one signal may carry.
    TooMany,
    /// Nothing is reported at all.
    Empty,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 9] = [
        Self::UnknownApp,
        Self::ClockSkew,
        Self::Stale,
        Self::NotFinite,
        Self::Negative,
        Self::OutOfRange,
        Self::InvalidName,
        Self::TooMany,
        Self::Empty,
    ];

    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownApp => "UNKNOWN_APP",
            Self::ClockSkew => "CLOCK_SKEW",
            Self::Stale => "STALE",
            Self::NotFinite => "NOT_FINITE",
            Self::Negative => "NEGATIVE",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::InvalidName => "INVALID_NAME",
            Self::TooMany => "TOO_MANY",
            Self::Empty => "EMPTY",
        }
    }
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Which kind of rule.
    pub code: Code,
    /// The field, such as `cpu_utilization` or `conditions`.
    pub field: String,
    /// The value as it was claimed, cut to 80 characters. From outside: sanitize before printing.
    pub value: String,
    /// The rule, for humans.
    pub rule: String,
}

/// Validates `signal`, which `source` sent and which arrived at `now`; `known` finds an onboarded app by its name.
///
/// # Errors
/// Every rule that is broken, never only the first.
pub fn validate(
    signal: &Signal,
    source: &str,
    now: Millis,
    rules: &Freshness,
    known: impl Fn(&str) -> Option<AppName>,
) -> Result<Accepted, Vec<Rejection>> {
    let mut rejections = Vec::new();
    let app = known(&signal.app);
    if app.is_none() {
        let rule = "must be the name of an onboarded app".to_owned();
        rejections.push(rejection(Code::UnknownApp, "app", &signal.app, rule));
    }
    rejections.extend(check_time(signal.observed_ms, now, rules));
    rejections.extend(signal.instance.and_then(check_instance));
    let samples = check_metrics(signal, source, now, &mut rejections);
    check_conditions(&signal.conditions, &mut rejections);
    if signal.metrics.is_empty() && signal.conditions.is_empty() && signal.exit.is_none() {
        let rule = "must report a metric, a condition or an exit".to_owned();
        rejections.push(rejection(Code::Empty, "signal", "", rule));
    }
    match app {
        Some(app) if rejections.is_empty() => Ok(Accepted {
            app,
            instance: signal.instance,
            received_ms: now,
            samples,
            conditions: conditions(signal, source, now),
            exit: signal.exit,
            ttl_ms: None,
        }),
        _ => Err(rejections),
    }
}

fn rejection(code: Code, field: &str, value: &str, rule: String) -> Rejection {
    Rejection { code, field: quoted(field), value: quoted(value), rule }
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED).collect()
}

/// Neither too early nor too late.
#[inline]
pub(super) const fn is_in_time(observed: Millis, now: Millis, rules: &Freshness) -> bool {
    observed <= now.saturating_add(rules.future_ms) && observed.saturating_add(rules.past_ms) >= now
}

fn check_time(observed: Millis, now: Millis, rules: &Freshness) -> Option<Rejection> {
    if is_in_time(observed, now, rules) {
        return None;
    }
    let (code, rule) = if observed > now {
        (Code::ClockSkew, format!("must be at most {} ms in the future", rules.future_ms))
    } else {
        (Code::Stale, format!("must be at most {} ms in the past", rules.past_ms))
    };
    Some(rejection(code, "observed", &observed.to_string(), rule))
}

pub(super) fn check_instance(slot: u32) -> Option<Rejection> {
    let rule = || format!("must be below {}", Instances::LIMIT);
    let outside = slot >= Instances::LIMIT;
    outside.then(|| rejection(Code::OutOfRange, "instance", &slot.to_string(), rule()))
}

fn check_metrics(
    signal: &Signal,
    source: &str,
    now: Millis,
    rejections: &mut Vec<Rejection>,
) -> Vec<Sample> {
    let mut samples = Vec::with_capacity(signal.metrics.len());
    for (&metric, &value) in &signal.metrics {
        match to_micro(metric, value) {
            Ok(micro) => samples.push(Sample {
                metric,
                micro,
                instance: signal.instance,
                source: source.to_owned(),
                observed_ms: signal.observed_ms,
                received_ms: now,
            }),
            Err((code, rule)) => {
                rejections.push(rejection(code, metric.as_str(), &value.to_string(), rule));
            }
        }
    }
    samples
}

/// A value in millionths; `None` if it breaks a rule, and [`to_micro`] says which.
#[inline]
pub(super) fn in_micro(metric: Metric, value: f64) -> Option<i64> {
    let sound = value >= 0.0 && value.is_finite();
    sound.then(|| millionths(value)).flatten().filter(|micro| *micro <= metric.max_micro())
}

fn to_micro(metric: Metric, value: f64) -> Result<i64, (Code, String)> {
    in_micro(metric, value).ok_or_else(|| {
        if !value.is_finite() {
            (Code::NotFinite, "must be a finite number".to_owned())
        } else if value < 0.0 {
            (Code::Negative, "must not be negative".to_owned())
        } else {
            let max = metric.max_micro() / MICRO;
            (Code::OutOfRange, format!("must be at most {max}"))
        }
    })
}

/// The finite, non-negative `value` in millionths, rounded to the nearest integer, ties upwards; `None` above `i64::MAX`.
///
/// Exact: the number is taken apart into its 53-bit integer and its power of two (IEEE 754-2019, section 3.4) and multiplied as
/// an integer, so that the product is rounded once and not twice as by `value * 1e6`.
#[inline]
fn millionths(value: f64) -> Option<i64> {
    const FRACTION_BITS: u32 = 52;
    const BIAS: i32 = 1_075;
    let bits = value.to_bits();
    let fraction = u128::from(bits & ((1 << FRACTION_BITS) - 1));
    let stored = i32::try_from((bits >> FRACTION_BITS) & 0x7ff).ok()?;
    let (integer, exponent) = match stored {
        0 => (fraction, 1 - BIAS),
        _ => (fraction | (1 << FRACTION_BITS), stored - BIAS),
    };
    // At most 2^53 * 10^6 < 2^73.
    let product = integer * u128::from(MICRO.unsigned_abs());
    let shift = exponent.unsigned_abs();
    let rounded = match exponent {
        // Above 2^52 the number has no fraction; 2^(73 + 53) still fits, and anything larger is out of range anyway.
        0..=53 => product << shift,
        54.. => return None,
        // Below 2^-74 nothing is left of the product.
        ..=-75 => 0,
        _ => (product + (1 << (shift - 1))) >> shift,
    };
    i64::try_from(rounded).ok()
}

fn check_conditions(conditions: &BTreeMap<String, bool>, rejections: &mut Vec<Rejection>) {
    if conditions.len() > CONDITIONS {
        let rule = format!("must be at most {CONDITIONS} conditions");
        let count = conditions.len().to_string();
        rejections.push(rejection(Code::TooMany, "conditions", &count, rule));
        return;
    }
    for name in conditions.keys().filter(|name| !is_condition_name(name)) {
        let rule = "must match ^[a-z][a-z0-9_]{0,63}$".to_owned();
        rejections.push(rejection(Code::InvalidName, "conditions", name, rule));
    }
}

pub(super) fn is_condition_name(name: &str) -> bool {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_';
    name.len() <= 64
        && name.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        && name.as_bytes().iter().all(inner)
}

fn conditions(signal: &Signal, source: &str, now: Millis) -> BTreeMap<String, Condition> {
    let believed = |value: bool| Condition { value, source: source.to_owned(), at: now };
    signal.conditions.iter().map(|(name, value)| (name.clone(), believed(*value))).collect()
}

#[cfg(test)]
mod tests;

//! Telemetry: who a monitor says it is, and what it claims.
//!
//! What the wire can say and the core has no word for is judged here (a time that is missing, an instance that is no number, a
//! time to live); everything else is left to the core's rules, so that a claim has one judge.

use std::collections::BTreeMap;

use agentctl_api::v1;
use agentd_core::app::Millis;
use agentd_core::signal::{Code, Exit, Metric, Rejection, Signal};
use prost_types::Duration;

use super::{Violation, millis, show_span, span};

/// Shortest time to live a monitor may ask for.
pub const TTL_MIN_MS: Millis = 1_000;
/// Longest time to live a monitor may ask for.
pub const TTL_MAX_MS: Millis = 600_000;
/// Most characters of a monitor's id.
const MONITOR_ID_MAX: usize = 64;
const MONITOR_ID_RULE: &str = "must match ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
const TTL_RULE: &str = "must be 1 s to 10 min, or absent";
/// Most custom booleans in one signal.
pub const CONDITIONS: usize = 16;
/// The signals of Linux.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// A monitor that introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Its id; no `@` and no `/`, so that no monitor can pass for a probe of the server.
    pub monitor_id: String,
    /// Number of this run of it.
    pub epoch: u64,
    /// Time to live of signals that name none.
    pub default_ttl_ms: Option<Millis>,
}

/// Reads the first message of a stream; its environment is not looked at here.
///
/// # Errors
/// Every violation.
pub fn hello(wire: &v1::Hello) -> Result<Greeting, Vec<Violation>> {
    let mut violations = Vec::new();
    if !is_monitor_id(&wire.monitor_id) {
        violations.push(Violation::new("hello.monitor_id", &*wire.monitor_id, MONITOR_ID_RULE));
    }
    if wire.epoch == 0 {
        // Zero is what a client that forgot it sends: after its restart everything would look like a repetition.
        let rule = "must be a random number of this run of the monitor, not 0";
        violations.push(Violation::new("hello.epoch", "0", rule));
    }
    let default_ttl_ms = match ttl_ms(wire.default_ttl.as_ref()) {
        Ok(ttl) => ttl,
        Err(value) => {
            violations.push(Violation::new("hello.default_ttl", value, TTL_RULE));
            None
        }
    };
    if violations.is_empty() {
        Ok(Greeting { monitor_id: wire.monitor_id.clone(), epoch: wire.epoch, default_ttl_ms })
    } else {
        Err(violations)
    }
}

fn is_monitor_id(id: &str) -> bool {
    id.len() <= MONITOR_ID_MAX
        && id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The time to live in milliseconds, or the text of one that breaks the rule.
fn ttl_ms(wire: Option<&Duration>) -> Result<Option<Millis>, String> {
    let Some(duration) = wire else { return Ok(None) };
    match span(duration) {
        Some(ms @ TTL_MIN_MS..=TTL_MAX_MS) => Ok(Some(ms)),
        _ => Err(show_span(duration)),
    }
}

/// A signal as far as the wire can tell.
#[derive(Debug, Clone)]
pub struct Claim {
    /// For the core to validate.
    pub signal: Signal,
    /// Time to live it asks for.
    pub ttl_ms: Option<Millis>,
    /// What the wire said that the core has no word for.
    pub rejections: Vec<Rejection>,
}

/// Takes a signal apart. What is absent stays absent; nothing is corrected.
#[must_use]
pub fn signal(wire: v1::Signal, now: Millis) -> Claim {
    let mut rejections = Vec::new();
    let mut reject = |code, field: &str, value: String, rule: &str| {
        rejections.push(Rejection { code, field: field.to_owned(), value, rule: rule.to_owned() });
    };
    let observed_ms = match &wire.time {
        // A time before 1970 is as stale as 1970.
        Some(time) if time.seconds < 0 => 0,
        Some(time) => millis(time).unwrap_or_else(|| {
            let value = format!("{} s {} ns", time.seconds, time.nanos);
            reject(Code::OutOfRange, "time", value, "must be a time");
            now
        }),
        None => {
            reject(Code::Empty, "time", String::new(), "must be given");
            now
        }
    };
    let instance = match wire.instance.as_str() {
        "" => None,
        text => text.parse::<u32>().map(Some).unwrap_or_else(|_no_index| {
            let rule = "must be the index of an instance, or empty";
            reject(Code::OutOfRange, "instance", text.to_owned(), rule);
            None
        }),
    };
    let ttl_ms = ttl_ms(wire.ttl.as_ref()).unwrap_or_else(|value| {
        reject(Code::OutOfRange, "ttl", value, TTL_RULE);
        None
    });
    if let Some(window) =
        wire.window.as_ref().filter(|window| span(window).is_none_or(|ms| ms == 0))
    {
        reject(Code::OutOfRange, "window", show_span(window), "must be more than 0, or absent");
    }
    if wire.conditions.len() > CONDITIONS {
        let count = wire.conditions.len().to_string();
        reject(Code::TooMany, "conditions", count, "must be at most 16 conditions");
    }
    let exit = wire.exit.map(|exit| {
        read_exit(exit).unwrap_or_else(|(code, value, rule)| {
            reject(code, "exit", value, rule);
            Exit::Unknown
        })
    });
    let metrics = metrics(&wire);
    let (app, conditions) = (wire.app, wire.conditions);
    let signal = Signal { app, instance, observed_ms, metrics, conditions, exit };
    Claim { signal, ttl_ms, rejections }
}

fn metrics(wire: &v1::Signal) -> BTreeMap<Metric, f64> {
    // A counter is exact up to 2^53; the core takes no more than 10^9 of them.
    let restarts = wire.restart_count.map(|count| count as f64);
    [
        (Metric::CpuUtilization, wire.cpu_utilization),
        (Metric::MemoryUtilization, wire.memory_utilization),
        (Metric::LatencyP50, wire.latency_p50_seconds),
        (Metric::LatencyP99, wire.latency_p99_seconds),
        (Metric::ErrorRatio, wire.error_ratio),
        (Metric::RequestRate, wire.request_rate),
        (Metric::RestartCount, restarts),
    ]
    .into_iter()
    .filter_map(|(metric, value)| Some((metric, value?)))
    .collect()
}

fn read_exit(wire: v1::Exit) -> Result<Exit, (Code, String, &'static str)> {
    use v1::exit::How;
    match wire.how {
        Some(How::Code(code @ 0..=255)) => Ok(Exit::Code(code)),
        Some(How::Signal(signal)) if SIGNALS.contains(&signal) => Ok(Exit::Signal(signal)),
        Some(How::Code(code)) => {
            Err((Code::OutOfRange, code.to_string(), "must be an exit code from 0 to 255"))
        }
        Some(How::Signal(signal)) => {
            Err((Code::OutOfRange, signal.to_string(), "must be a signal number from 1 to 64"))
        }
        None => Err((Code::Empty, String::new(), "must say a code or a signal")),
    }
}

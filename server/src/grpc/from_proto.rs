//! From wire messages to what the core and the loop understand, with every violation at once.
//!
//! Field names in violations are those of the proto, so that a client can point at its own request.

use agentctl_api::v1;
use agentd_core::app::{AppName, Millis};
use agentd_core::state::Scope;
use prost_types::{Duration, Timestamp};
use tonic::Status;

use super::status::{self, Violation};

mod onboarding;
mod signals;

pub use onboarding::{field, field_name, onboard, update_mask};
pub use signals::{CONDITIONS, Claim, Greeting, TTL_MAX_MS, TTL_MIN_MS, hello, signal};

/// Most characters of a reason.
pub const REASON_MAX: usize = 1_024;
/// Longest pause that ends by itself.
pub const PAUSE_MAX_MS: Millis = 30 * 86_400_000;
/// Things on a page unless the caller says otherwise.
pub const PAGE_DEFAULT: usize = 100;
/// Most things on a page.
pub const PAGE_MAX: usize = 1_000;

/// A sequence number from an id such as `dec-17` with the prefix `dec-`; `None` for what was never given out as one.
#[must_use]
pub fn seq_of(prefix: &str, id: &str) -> Option<u64> {
    let digits = id.strip_prefix(prefix)?;
    // One spelling per number: no sign, no leading zero.
    let canonical = !digits.is_empty()
        && !digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    canonical.then(|| digits.parse().ok()).flatten()
}

/// Milliseconds since the Unix epoch; `None` for a time before it, or one that is no time.
#[must_use]
pub fn millis(time: &Timestamp) -> Option<Millis> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let nanos = u64::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000)
}

/// A span in milliseconds; `None` for a negative one, or one that is none.
#[must_use]
pub fn span(duration: &Duration) -> Option<Millis> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u64::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000)
}

/// A span as text, for quoting one that breaks a rule.
#[must_use]
pub fn show_span(duration: &Duration) -> String {
    match span(duration) {
        Some(ms) if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        Some(ms) => format!("{ms} ms"),
        None => format!("{} s {} ns", duration.seconds, duration.nanos),
    }
}

/// The number of things on a page.
///
/// # Errors
/// The violation, for a negative number. More than [`PAGE_MAX`] is [`PAGE_MAX`].
pub fn page_size(asked: i32) -> Result<usize, Violation> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(n) => Ok(n.min(PAGE_MAX)),
        Err(_negative) => Err(Violation::new("page_size", asked.to_string(), "must be 0 to 1000")),
    }
}

/// A mandatory reason, without the white space around it.
///
/// # Errors
/// The violation.
pub fn reason(text: &str) -> Result<String, Violation> {
    let text = text.trim();
    let rule = match text.chars().count() {
        0 => "must be given: it goes into the record",
        1..=REASON_MAX => return Ok(text.to_owned()),
        _ => "must be at most 1024 characters",
    };
    Err(Violation::new("reason", text, rule))
}

/// What a pause covers.
///
/// # Errors
/// The violation, for a scope that is missing or names no app or action.
pub fn scope(wire: Option<&v1::Scope>) -> Result<Scope, Violation> {
    use v1::scope::Target;
    match wire.and_then(|scope| scope.target.as_ref()) {
        None => Err(Violation::new(
            "scope",
            "",
            "must be given: the environment, one app or one action",
        )),
        Some(Target::Environment(true)) => Ok(Scope::Env),
        Some(Target::Environment(false)) => {
            Err(Violation::new("scope.environment", "false", "must be true where it is given"))
        }
        Some(Target::App(name)) => AppName::parse(name)
            .map(Scope::App)
            .map_err(|_invalid| Violation::new("scope.app", name, AppName::RULE)),
        Some(Target::Action(name)) => match agentd_core::action::parse(name) {
            agentd_core::action::Requested::Known(action) if !action.is_passive() => {
                Ok(Scope::Action(action))
            }
            _ => {
                let rule = "must be an action that changes something, such as RESTART";
                Err(Violation::new("scope.action", name, rule))
            }
        },
    }
}

/// The time after which a pause ends by itself.
///
/// # Errors
/// The violation, for a time that is none or not within bounds.
pub fn pause_ms(wire: Option<&Duration>) -> Result<Option<Millis>, Violation> {
    let Some(duration) = wire else { return Ok(None) };
    match span(duration) {
        Some(ms @ 1_000..=PAUSE_MAX_MS) => Ok(Some(ms)),
        _ => {
            let rule = "must be 1 s to 30 days, or absent";
            Err(Violation::new("duration", show_span(duration), rule))
        }
    }
}

/// The values, if nothing is wrong with any of them.
///
/// # Errors
/// `INVALID_ARGUMENT` with every violation.
pub fn both<A, B>(a: Result<A, Violation>, b: Result<B, Violation>) -> Result<(A, B), Status> {
    all(a, b, Ok(())).map(|(a, b, ())| (a, b))
}

/// As [`both`], for three.
///
/// # Errors
/// `INVALID_ARGUMENT` with every violation.
pub fn all<A, B, C>(
    a: Result<A, Violation>,
    b: Result<B, Violation>,
    c: Result<C, Violation>,
) -> Result<(A, B, C), Status> {
    match (a, b, c) {
        (Ok(a), Ok(b), Ok(c)) => Ok((a, b, c)),
        (a, b, c) => {
            let broken = a.err().into_iter().chain(b.err()).chain(c.err());
            Err(status::invalid(&broken.collect::<Vec<_>>()))
        }
    }
}

#[cfg(test)]
mod tests;

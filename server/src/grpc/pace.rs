//! How often a stream of looks may look.

use std::time::Duration;

use tonic::Status;

use super::from_proto;
use super::status::{self, Violation};

/// Time between two looks of a stream whose caller names none.
const DEFAULT_MS: u64 = 1_000;
const RANGE_MS: std::ops::RangeInclusive<u64> = 250..=60_000;

/// The time between two looks.
///
/// # Errors
/// `INVALID_ARGUMENT` for less than 250 ms or more than 60 s.
pub(super) fn interval(wire: Option<&prost_types::Duration>) -> Result<Duration, Status> {
    let Some(duration) = wire else { return Ok(Duration::from_millis(DEFAULT_MS)) };
    match from_proto::span(duration) {
        Some(ms) if RANGE_MS.contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => {
            let rule = "must be 250 ms to 60 s, or absent";
            let value = from_proto::show_span(duration);
            Err(status::invalid(&[Violation::new("interval", value, rule)]))
        }
    }
}

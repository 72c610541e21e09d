//! Times and durations as people write and read them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;

/// How times are shown in tables. JSON and YAML always carry RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TimeStyle {
    /// `2m ago`.
    Relative,
    /// `2026-11-23T14:02:11.482Z`.
    Iso,
    /// Seconds since 1970.
    Unix,
}

/// A duration as it is written on the command line: `250ms`, `30s`, `10m`, `2h`, `1d`, `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Text that is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a duration: write a number with a unit, such as `250ms`, `30s`, `10m`, `2h` or `1h30m`"
)]
pub struct NotASpan;

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let is_number = |c: char| c.is_ascii_digit() || c == '.';
            let digits = rest.find(|c| !is_number(c)).ok_or(NotASpan)?;
            let (number, tail) = rest.split_at(digits);
            let unit_len = tail.find(is_number).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            let number: f64 = number.parse().map_err(|_invalid| NotASpan)?;
            let seconds_per_unit = match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                "d" => 86_400.0,
                _ => return Err(NotASpan),
            };
            let part = Duration::try_from_secs_f64(number * seconds_per_unit)
                .map_err(|_out_of_range| NotASpan)?;
            // Whole milliseconds: nobody writes less, and binary fractions would show.
            let part = Duration::from_millis(
                u64::try_from((part + Duration::from_micros(500)).as_millis())
                    .map_err(|_out_of_range| NotASpan)?,
            );
            total = total.checked_add(part).ok_or(NotASpan)?;
            rest = tail;
        }
        if text.is_empty() { Err(NotASpan) } else { Ok(Self(total)) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&coarse(self.0))
    }
}

/// The present moment, by the one reader of the clock.
#[must_use]
pub fn now() -> DateTime<Utc> {
    let ms = agentd::clock::Clock::system().now_ms();
    i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default()
}

/// A protobuf time; `None` if it is outside what a calendar can show.
#[must_use]
pub fn of(stamp: &Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(stamp.seconds, u32::try_from(stamp.nanos).ok()?)
}

/// A calendar time as protobuf.
#[must_use]
pub fn to_proto(time: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
    }
}

/// A duration as protobuf.
#[must_use]
pub fn span_to_proto(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// A protobuf duration; a negative one is zero.
#[must_use]
pub fn span_of(span: &prost_types::Duration) -> Duration {
    Duration::new(u64::try_from(span.seconds).unwrap_or(0), u32::try_from(span.nanos).unwrap_or(0))
}

/// RFC 3339 with milliseconds and `Z`.
#[must_use]
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// RFC 3339 of a protobuf time, for JSON.
#[must_use]
pub fn json(stamp: Option<&Timestamp>) -> Option<String> {
    stamp.and_then(of).map(rfc3339)
}

/// Seconds of a protobuf duration, for JSON.
#[must_use]
pub fn seconds(span: Option<&prost_types::Duration>) -> Option<f64> {
    span.map(|span| span_of(span).as_secs_f64())
}

/// `14:02:11` (UTC).
#[must_use]
pub fn clock(time: DateTime<Utc>) -> String {
    time.format("%H:%M:%S").to_string()
}

/// The moment as `style` wants it, seen from `now`.
#[must_use]
pub fn moment(time: DateTime<Utc>, style: TimeStyle, now: DateTime<Utc>) -> String {
    match style {
        TimeStyle::Iso => rfc3339(time),
        TimeStyle::Unix => format!("{}.{:03}", time.timestamp(), time.timestamp_subsec_millis()),
        TimeStyle::Relative => {
            if now.signed_duration_since(time).num_milliseconds().abs() < 1_000 {
                return "just now".to_owned();
            }
            let delta = now.signed_duration_since(time);
            delta.to_std().map_or_else(
                |_| format!("in {}", coarse(delta.abs().to_std().unwrap_or_default())),
                |past| format!("{} ago", coarse(past)),
            )
        }
    }
}

/// The two largest units: `250ms`, `4.2s`, `44s`, `9m12s`, `2h`, `3d4h`.
#[must_use]
pub fn coarse(span: Duration) -> String {
    let s = span.as_secs();
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{small}{small_unit}")
        }
    };
    match s {
        0 => format!("{}ms", span.as_millis()),
        1..10 => {
            let tenths = span.as_millis() / 100;
            if tenths.is_multiple_of(10) {
                format!("{s}s")
            } else {
                format!("{}.{}s", tenths / 10, tenths % 10)
            }
        }
        10..60 => format!("{s}s"),
        60..3_600 => pair(s / 60, "m", s % 60, "s"),
        3_600..86_400 => pair(s / 3_600, "h", s % 3_600 / 60, "m"),
        _ => pair(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

/// Seconds with two digits: `0.41s`, for things that are timed.
#[must_use]
pub fn precise(span: Duration) -> String {
    format!("{:.2}s", span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, ms) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1h30m", 5_400_000),
            ("2.1s", 2_100),
            ("1.5h", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse::<Span>().unwrap().0, Duration::from_millis(ms), "{text}");
        }
        for bad in
            ["", "10", "m", "-5s", "1.2.3s", ".s", "10 m", "5x", "99999999999999999999s", "s10"]
        {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_are_shown_with_their_two_largest_units() {
        for (ms, text) in [
            (0, "0ms"),
            (250, "250ms"),
            (4_200, "4.2s"),
            (5_000, "5s"),
            (44_900, "44s"),
            (552_000, "9m12s"),
            (120_000, "2m"),
            (7_200_000, "2h"),
            (273_600_000, "3d4h"),
        ] {
            assert_eq!(coarse(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn a_moment_has_three_faces() {
        let now = DateTime::from_timestamp_millis(1_795_442_531_482).unwrap();
        let earlier = now - chrono::TimeDelta::seconds(132);
        assert_eq!(moment(earlier, TimeStyle::Relative, now), "2m12s ago");
        assert_eq!(moment(now, TimeStyle::Relative, earlier), "in 2m12s");
        assert_eq!(moment(now, TimeStyle::Relative, now), "just now");
        assert_eq!(moment(now, TimeStyle::Unix, now), "1795442531.482");
        assert_eq!(moment(now, TimeStyle::Iso, now), "2026-11-23T14:02:11.482Z");
    }

    #[test]
    fn times_survive_the_wire() {
        let time = DateTime::from_timestamp_millis(1_795_442_531_482).unwrap();
        assert_eq!(of(&to_proto(time)), Some(time));
        assert_eq!(of(&Timestamp { seconds: i64::MAX, nanos: 0 }), None);
        assert_eq!(of(&Timestamp { seconds: 0, nanos: -1 }), None);
    }
}

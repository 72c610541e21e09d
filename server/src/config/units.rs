//! Text to values with units, and back.

use std::net::SocketAddr;
use std::time::Duration;

/// A span such as `250ms`, `1s`, `15m`, `2h` or `7d`: a whole number and one unit.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|at| (1..=12).contains(at))?;
    let (count, unit) = text.split_at_checked(digits)?;
    let count: u64 = count.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(count)),
        "s" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_secs(count.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(count.checked_mul(3600)?)),
        "d" => Some(Duration::from_secs(count.checked_mul(86_400)?)),
        _ => None,
    }
}

/// A span as [`parse_duration`] reads it, in the largest unit that is exact; below a millisecond is cut off.
#[must_use]
pub fn show_duration(span: Duration) -> String {
    let ms = span.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

pub(super) fn duration_within(text: &str, min: Duration, max: Duration) -> Option<Duration> {
    parse_duration(text).filter(|span| (min..=max).contains(span))
}

pub(super) fn count_within(text: &str, max: usize) -> Option<usize> {
    text.parse().ok().filter(|count| (1..=max).contains(count))
}

pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" | "" => Some(false),
        _ => None,
    }
}

/// An address and a port. Of all names only `localhost` is taken: what a name resolves to may change.
pub(super) fn parse_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}").parse().ok(),
        None => text.parse().ok(),
    }
}

/// The address of a collector as it was written, if it is one and holds no password.
pub(super) fn parse_endpoint(text: &str) -> Option<String> {
    let uri: http::Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let plain = !authority.as_str().contains('@') && uri.query().is_none();
    (scheme && plain && authority.port_u16().is_some()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written_alike() {
        for (text, ms) in [
            ("250ms", 250),
            ("1s", 1000),
            ("90s", 90_000),
            ("15m", 900_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("0ms", 0),
        ] {
            let span = Duration::from_millis(ms);
            assert_eq!(parse_duration(text), Some(span));
            assert_eq!(parse_duration(&show_duration(span)), Some(span));
        }
        for text in ["", "s", "1", "1.5s", "-1s", "1 s", "1s ", "1sec", "1h30m", "٣s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_duration("99999999999999999999s"), None);
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
    }

    #[test]
    fn a_collector_is_named_by_scheme_host_and_port() {
        for good in ["http://127.0.0.1:4317", "https://otel.example:4317/", "http://[::1]:1"] {
            assert!(parse_endpoint(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "4317",
            "127.0.0.1:4317",
            "http://h",
            "grpc://h:1",
            "http://u:p@h:1",
            "http://h:1?a",
        ] {
            assert_eq!(parse_endpoint(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_need_a_port_and_are_no_names() {
        assert!(parse_address("[::1]:7443").is_some_and(|a| a.ip().is_loopback()));
        assert!(parse_address("localhost:0").is_some_and(|a| a.ip().is_loopback()));
        for text in ["127.0.0.1", "7443", ":7443", "example.org:7443", "localhost:http", ""] {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }
}

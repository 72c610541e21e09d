//! Alarms of the statistics: what a test saw, what it expected, and what that expectation rests on.

use serde::{Deserialize, Serialize};

use crate::app::Millis;
use crate::signal::Metric;

/// A test of the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// A value outside everything that was seen before.
    Range,
    /// The mean of late is not where it used to be.
    Level,
    /// Values of late vary more, or less, than they used to.
    Volatility,
    /// More requests fail than the budget allows, added up over samples.
    ErrorSum,
    /// The error budget is used up so fast that somebody must look now.
    BurnPage,
    /// The error budget is used up so fast that it will not last.
    BurnTicket,
}

impl Test {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::Level => "level",
            Self::Volatility => "volatility",
            Self::ErrorSum => "error_sum",
            Self::BurnPage => "burn_page",
            Self::BurnTicket => "burn_ticket",
        }
    }
}

/// What a test saw. All numbers in millionths of the metric's unit; those of a burn rate are multiples of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deviation {
    /// Which test.
    pub test: Test,
    /// What it looked at: the value, the mean, or the standard deviation of late.
    pub value: i64,
    /// Least value it expected.
    pub low: i64,
    /// Largest value it expected.
    pub high: i64,
    /// Samples the expectation rests on.
    pub history: u32,
}

/// A deviation that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Of which metric.
    pub metric: Metric,
    /// Since when.
    pub since: Millis,
    /// What was seen when it began.
    pub deviation: Deviation,
}

impl std::fmt::Display for Deviation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { test, value, low, high, history } = self;
        let unit = match test {
            Test::BurnPage | Test::BurnTicket => " times the budget",
            Test::Range | Test::Level | Test::Volatility | Test::ErrorSum => "",
        };
        let (test, value) = (test.as_str(), Micro(*value));
        let (low, high) = (Micro(*low), Micro(*high));
        write!(f, "{test}: {value}{unit}, expected {low} to {high} after {history} samples")
    }
}

/// Millionths as a decimal number.
struct Micro(i64);

impl std::fmt::Display for Micro {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, size) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        write!(f, "{sign}{}.{:06}", size / 1_000_000, size % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_says_what_it_saw_and_what_it_expected() {
        let (value, low, high) = (-1_500_000, 20_000, 2_000_001);
        let seen = Deviation { test: Test::Level, value, low, high, history: 6_400 };
        assert_eq!(
            seen.to_string(),
            "level: -1.500000, expected 0.020000 to 2.000001 after 6400 samples"
        );
    }
}

//! A share of failed requests that is a little too high for long: what no threshold on one sample sees.
//!
//! The sums of Page (E. S. Page: "Continuous inspection schemes", Biometrika 41 (1954)) over the log-likelihood ratio of two
//! binomials: as many failures as the budget allows, or ten times as many. One sample adds a quarter of the limit at most, so that a
//! blip of fewer than four samples never is an alarm, however bad.

use super::alarm::{Deviation, Test};
use crate::choose::ccq::Fixed;
use crate::signal::MICRO;

/// Most that one sample adds.
const CLIP: Fixed = Fixed::whole(10);
/// The sum that is an alarm.
const LIMIT: Fixed = Fixed::whole(40);
/// So far below the limit it is over: e^5 to one that no more fails than may. Back at zero it would take as many good requests again to
/// be sure as it took bad ones, which an app with few requests does not have within an hour.
const OVER: Fixed = Fixed::whole(35);
/// Most requests that one sample stands for.
const REQUESTS: u32 = 1_000_000;

/// The sum of one app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorSum {
    budget: i64,
    /// What a failed request adds.
    failed: Fixed,
    /// What an answered request adds; negative.
    answered: Fixed,
    sum: Fixed,
    standing: bool,
    samples: u32,
}

impl ErrorSum {
    /// For a share of failed requests that may be `budget`, in millionths.
    #[must_use]
    pub fn new(budget: i64) -> Self {
        let usual = budget.clamp(1, MICRO / 20);
        let (p0, p1) = (Fixed::micro(usual), Fixed::micro(usual * 10));
        let rest = |p: Fixed| Fixed::ONE.minus(p);
        Self {
            budget: usual,
            failed: p1.ln().minus(p0.ln()),
            answered: rest(p1).ln().minus(rest(p0).ln()),
            sum: Fixed::ZERO,
            standing: false,
            samples: 0,
        }
    }

    /// Takes one sample in: so many requests, of which that share failed, in millionths. Gives the deviation while it stands: from
    /// the limit on, until enough requests were answered. What comes after that is added up from nothing.
    pub fn push(&mut self, requests: u32, ratio: i64) -> Option<Deviation> {
        let requests = requests.min(REQUESTS);
        let ratio = ratio.clamp(0, MICRO);
        let failed = (i64::from(requests) * ratio + MICRO / 2) / MICRO;
        let failed = i32::try_from(failed).unwrap_or(i32::MAX);
        let answered = i32::try_from(requests).unwrap_or(i32::MAX).saturating_sub(failed);
        let news = self.failed.times(Fixed::whole(failed));
        let news = news.plus(self.answered.times(Fixed::whole(answered))).min(CLIP);
        self.sum = self.sum.plus(news).clamp(Fixed::ZERO, LIMIT);
        self.samples = self.samples.saturating_add(1);
        if self.standing && self.sum <= OVER {
            (self.standing, self.sum) = (false, Fixed::ZERO);
        }
        self.standing |= self.sum == LIMIT;
        self.standing.then_some(Deviation {
            test: Test::ErrorSum,
            value: ratio,
            low: 0,
            high: self.budget,
            history: self.samples,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One in a thousand may fail; samples of 15 seconds at 50 requests per second.
    const BUDGET: i64 = 1_000;
    const REQUESTS: u32 = 750;

    /// Failed requests of one sample, as chance has it.
    fn drawn(seed: &mut u64, share: f64) -> i64 {
        let mut failed = 0;
        for _ in 0..REQUESTS {
            *seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            failed += i64::from(((*seed >> 11) as f64 / (1_u64 << 53) as f64) < share);
        }
        failed * MICRO / i64::from(REQUESTS)
    }

    /// The median number of samples until an incident of that share is an alarm.
    fn noticed(share: f64) -> usize {
        let mut until: Vec<usize> = (1..=41_u64)
            .map(|seed| {
                let (mut sum, mut seed) = (ErrorSum::new(BUDGET), seed * 7_919);
                (0..100).for_each(|_| _ = sum.push(REQUESTS, drawn(&mut seed, 0.001)));
                let mut alarms =
                    (1..1_000).filter(|_| sum.push(REQUESTS, drawn(&mut seed, share)).is_some());
                alarms.next().unwrap()
            })
            .collect();
        until.sort_unstable();
        until[until.len() / 2]
    }

    #[test]
    fn incidents_are_noticed_as_soon_as_they_can_be_told_from_chance() {
        let total = noticed(1.0);
        assert_eq!(total, 4, "a total outage takes a minute");
        assert!(noticed(0.03) == 4 && noticed(0.01) <= 7, "105 seconds");
        assert!(noticed(0.005) <= 30, "and half a percent is noticed at all: {}", noticed(0.005));
    }

    #[test]
    fn blips_are_no_incident_and_a_day_of_them_raises_next_to_nothing() {
        let (mut sum, mut seed) = (ErrorSum::new(BUDGET), 5);
        let (mut alarms, mut before) = (0, false);
        for n in 0..4 * 60 * 24 * 4 {
            // Once an hour everything fails for 15 to 45 seconds.
            let blip = n % 240 < 1 + n / 240 % 3;
            let now =
                sum.push(REQUESTS, drawn(&mut seed, if blip { 1.0 } else { 0.001 })).is_some();
            alarms += u32::from(now && !before);
            before = now;
        }
        assert!(alarms <= 2, "{alarms} in four days");
    }

    #[test]
    fn an_alarm_ends_when_the_failures_do() {
        let mut sum = ErrorSum::new(BUDGET);
        (0..10).for_each(|_| _ = sum.push(REQUESTS, MICRO));
        assert_eq!(sum.push(REQUESTS, MICRO).unwrap().high, BUDGET);
        let mut slow = sum;
        assert!(sum.push(REQUESTS, 0).is_none(), "750 good answers say enough");
        assert!(sum.push(0, 0).is_none(), "no request says nothing");
        // Two requests per second, a sample every five seconds: less than the five minutes that an outcome has.
        let standing = (0..1_000).take_while(|_| slow.push(10, 0).is_some()).count();
        assert!((30..60).contains(&standing), "{standing}");
    }

    #[test]
    fn failures_that_go_on_are_no_end_of_it_and_new_ones_have_to_add_up_again() {
        let (mut sum, mut seed) = (ErrorSum::new(BUDGET), 7);
        (0..10).for_each(|_| _ = sum.push(REQUESTS, MICRO));
        let ended = (0..200).filter(|_| sum.push(REQUESTS, drawn(&mut seed, 0.01)).is_none());
        assert!(ended.count() <= 1, "one in a hundred is ten times too many");
        (0..3).for_each(|_| _ = sum.push(REQUESTS, 0));
        let blip: Vec<bool> = (0..4).map(|_| sum.push(REQUESTS, MICRO).is_some()).collect();
        assert_eq!(blip, [false, false, false, true], "as many as the first time");
    }
}

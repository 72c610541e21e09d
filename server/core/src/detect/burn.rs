//! How fast an app uses up its error budget: what tells humans that an objective will be missed, long before it is.
//!
//! After B. Beyer et al.: "The Site Reliability Workbook", chapter 5 (O'Reilly, 2018): a rule looks at a long span, so that a blip is
//! none of its business, and at a short one, so that it ends soon after the failures do. Both must burn too fast. What of the long
//! span is not known yet is taken for good: an app of a minute has used up a minute of its budget at most. Spans are kept in sixtieths
//! of the long one, so that three days of an app take as much memory as an hour of it: 3 KB at most.

use std::collections::VecDeque;

use super::alarm::{Deviation, Test};
use crate::app::Millis;
use crate::policy::Burn;
use crate::signal::MICRO;

/// Parts of the long span that are remembered.
const PARTS: u64 = 60;
/// Fewer failures in the long span are chance, whatever share they are of.
const FAILED: u64 = 10;

/// The budget of one app under one rule.
#[derive(Debug, Clone)]
pub struct BurnRate {
    rule: Burn,
    budget: i64,
    /// In the order of their numbers.
    parts: VecDeque<Part>,
    /// The sums of all of them.
    all: Sums,
    standing: bool,
}

/// One part of the long span.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    number: u64,
    samples: u32,
    /// The time they stand for.
    span: Millis,
    requests: u64,
    /// In millionths of a request: a share of few requests is less than one.
    failed: u64,
}

/// The sums of parts. Wider than those, so that what was added can be taken away again.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    samples: u128,
    span: u128,
    requests: u128,
    failed: u128,
}

impl Sums {
    const NONE: Self = Self { samples: 0, span: 0, requests: 0, failed: 0 };

    fn add(&mut self, part: &Part) {
        self.samples += u128::from(part.samples);
        self.span += u128::from(part.span);
        self.requests += u128::from(part.requests);
        self.failed += u128::from(part.failed);
    }

    fn take(&mut self, part: &Part) {
        self.samples -= u128::from(part.samples);
        self.span -= u128::from(part.span);
        self.requests -= u128::from(part.requests);
        self.failed -= u128::from(part.failed);
    }

    /// As one part, as full as one can be.
    fn part(&self) -> Part {
        let narrow = |wide: u128| u64::try_from(wide).unwrap_or(u64::MAX);
        Part {
            number: 0,
            samples: u32::try_from(self.samples).unwrap_or(u32::MAX),
            span: narrow(self.span),
            requests: narrow(self.requests),
            failed: narrow(self.failed),
        }
    }
}

impl BurnRate {
    /// For a share of failed requests that may be `budget`, in millionths.
    #[must_use]
    pub const fn new(rule: Burn, budget: i64) -> Self {
        Self { rule, budget, parts: VecDeque::new(), all: Sums::NONE, standing: false }
    }

    /// Whether it follows that rule with that budget.
    #[must_use]
    pub fn follows(&self, rule: &Burn, budget: i64) -> bool {
        self.rule == *rule && self.budget == budget
    }

    /// Takes one sample of the time `at` in, which stands for so long: so many requests, of which that share failed, in millionths.
    pub fn push(&mut self, at: Millis, span: Millis, requests: u64, ratio: i64) {
        let number = self.number(at);
        let is_new = self.parts.back().is_none_or(|last| last.number < number);
        if is_new {
            // One in a minute at most: room for one more is enough.
            if self.parts.len() == self.parts.capacity() {
                self.parts.reserve_exact(4);
            }
            self.parts.push_back(Part { number, ..Part::default() });
        }
        if let Some(last) = self.parts.back_mut() {
            self.all.take(last);
            let share = ratio.clamp(0, MICRO).unsigned_abs();
            last.samples = last.samples.saturating_add(1);
            last.span = last.span.saturating_add(span);
            last.requests = last.requests.saturating_add(requests);
            last.failed = last.failed.saturating_add(requests.saturating_mul(share));
            self.all.add(last);
        }
    }

    /// The deviation, while it stands at `now`: both spans burn as fast as the rule says, until one of them is below four fifths of it.
    pub fn judge(&mut self, now: Millis) -> Option<Deviation> {
        let number = self.number(now);
        let is_old = |part: &Part| number.saturating_sub(part.number) >= PARTS;
        while self.parts.front().is_some_and(is_old)
            && let Some(old) = self.parts.pop_front()
        {
            self.all.take(&old);
        }
        let short = self.rule.short_ms.div_ceil(self.width()).clamp(1, PARTS);
        let all = self.all.part();
        let of_late = self.sum(number.saturating_add(1).saturating_sub(short));
        let asked = i64::from(self.rule.times_milli).saturating_mul(1_000);
        let limit = if self.standing { asked / 5 * 4 } else { asked };
        let value = self.times(&all, self.rule.long_ms);
        let lasts = self.times(&of_late, of_late.span) >= limit;
        let counts = all.failed / MICRO.unsigned_abs() >= FAILED;
        self.standing = counts && lasts && value >= limit;
        self.standing.then_some(Deviation {
            test: if self.rule.pages { Test::BurnPage } else { Test::BurnTicket },
            value,
            low: 0,
            high: asked,
            history: all.samples,
        })
    }

    fn width(&self) -> Millis {
        (self.rule.long_ms / PARTS).max(1)
    }

    fn number(&self, at: Millis) -> u64 {
        at / self.width()
    }

    /// What is remembered of the parts from `first` on.
    fn sum(&self, first: u64) -> Part {
        let mut sums = Sums::NONE;
        self.parts.iter().rev().take_while(|part| part.number >= first).for_each(|p| sums.add(p));
        sums.part()
    }

    /// So many times as fast as the budget allows, in millionths, if nothing else fails in the `whole` span.
    fn times(&self, part: &Part, whole: Millis) -> i64 {
        let allowed = u128::from(part.requests) * u128::from(self.budget.max(1).unsigned_abs());
        let share = u128::from(part.failed) * u128::from(MICRO.unsigned_abs());
        let times = share.checked_div(allowed).unwrap_or(0) * u128::from(part.span.min(whole));
        i64::try_from(times / u128::from(whole.max(1))).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Millis = 1_000;
    const MINUTE: Millis = 60 * SECOND;
    const HOUR: Millis = 60 * MINUTE;
    /// One in a thousand may fail; samples of half a minute at 50 requests per second.
    const BUDGET: i64 = 1_000;
    const SPAN: Millis = 30 * SECOND;
    const REQUESTS: u64 = 1_500;

    /// An app, its budget, and what came of it.
    struct Told {
        rates: Vec<BurnRate>,
        at: Millis,
    }

    impl Told {
        fn new() -> Self {
            let rates = Burn::usual().into_iter().map(|rule| BurnRate::new(rule, BUDGET)).collect();
            Self { rates, at: 1_700_000_000_000 }
        }

        /// So long that share of the requests fails; gives how long it took until each rule was an alarm.
        fn fails(&mut self, share: i64, span: Millis) -> Vec<Option<Millis>> {
            let mut told = vec![None; self.rates.len()];
            let begun = self.at;
            while self.at < begun + span {
                self.at += SPAN;
                for (rate, told) in self.rates.iter_mut().zip(&mut told) {
                    rate.push(self.at, SPAN, REQUESTS, share);
                    if rate.judge(self.at).is_some() && told.is_none() {
                        *told = Some(self.at - begun);
                    }
                }
            }
            told
        }

        fn stand(&mut self) -> Vec<bool> {
            self.rates.iter_mut().map(|rate| rate.judge(self.at).is_some()).collect()
        }
    }

    #[test]
    fn a_budget_that_would_last_for_two_days_pages_and_one_for_a_month_is_a_ticket() {
        let mut app = Told::new();
        assert_eq!(
            app.fails(500, 72 * HOUR),
            [None, None, None],
            "half of the budget is what it is for"
        );
        let told = app.fails(2_000, 72 * HOUR);
        assert!(told[0].is_none() && told[1].is_none(), "nobody is woken by twice of it: {told:?}");
        assert!(told[2].unwrap() < 40 * HOUR, "and somebody is told of it: {told:?}");
        let mut app = Told::new();
        app.fails(500, 72 * HOUR);
        let told = app.fails(MICRO, HOUR);
        assert!(told[0].unwrap() <= 2 * MINUTE, "2 % of a month's budget are gone: {told:?}");
    }

    #[test]
    fn blips_of_half_a_minute_are_no_page_and_an_alarm_ends_soon_after_the_failures() {
        let mut app = Told::new();
        app.fails(0, 6 * HOUR);
        for _ in 0..24 {
            assert_eq!(app.fails(MICRO, 30 * SECOND)[0], None);
            app.fails(0, HOUR);
        }
        app.fails(MICRO, 10 * MINUTE);
        assert!(app.stand()[0]);
        app.fails(0, 4 * MINUTE);
        assert!(app.stand()[0], "the short span still knows");
        app.fails(0, 2 * MINUTE);
        assert!(!app.stand()[0], "and no longer does");
    }

    #[test]
    fn an_alarm_says_how_fast_and_on_what_that_rests() {
        let mut app = Told::new();
        app.fails(0, HOUR);
        app.fails(MICRO, 6 * MINUTE);
        let seen = app.rates[0].judge(app.at).unwrap();
        let Deviation { test, value, low, high, history } = seen;
        assert_eq!((test, low, high), (Test::BurnPage, 0, 14_400_000));
        // A tenth of an hour failed, a thousandth might: a hundred times.
        assert!((95_000_000..=105_000_000).contains(&value), "{value}");
        assert!((118..=120).contains(&history), "an hour of samples: {history}");
        assert!(seen.to_string().contains("times the budget"), "{seen}");
    }

    #[test]
    fn an_app_that_is_new_has_used_up_no_more_than_it_lived() {
        let mut app = Told::new();
        assert_eq!(
            app.fails(20_000, 30 * MINUTE)[0],
            None,
            "20 times as fast, for half of the hour"
        );
        assert_eq!(app.fails(20_000, 30 * MINUTE)[0], Some(13 * MINUTE + SPAN));
        let told = Told::new().fails(MICRO, HOUR);
        assert_eq!(told[0], Some(MINUTE), "a total outage is no matter of history");
    }

    #[test]
    fn nothing_is_made_of_a_few_failures_or_of_no_request() {
        let rule = Burn::usual()[0];
        let mut quiet = BurnRate::new(rule, BUDGET);
        for n in 0..240 {
            // Two requests a minute, and nine of them fail within two hours.
            quiet.push(n * SPAN, SPAN, 1, if n % 27 == 0 { MICRO } else { 0 });
            assert_eq!(quiet.judge(n * SPAN), None, "{n}");
        }
        let mut idle = BurnRate::new(rule, BUDGET);
        idle.push(0, SPAN, 0, MICRO);
        assert_eq!(idle.judge(0), None);
    }

    #[test]
    fn whatever_comes_it_remembers_no_more_than_the_long_span_and_nothing_overflows() {
        let mut rate = BurnRate::new(Burn::usual()[2], 1);
        for n in 0..10_000_u64 {
            let at = if n % 7 == 0 { n * HOUR / 2 } else { n * HOUR };
            rate.push(at, Millis::MAX, u64::MAX, i64::MAX);
            rate.judge(at);
            assert!(rate.parts.len() as u64 <= PARTS, "{}", rate.parts.len());
        }
        assert!(rate.judge(Millis::MAX).is_none(), "long ago is no longer known");
    }
}

//! The uptime ledger of apps, as the state has it.

use agentctl_api::v1;
use agentd_core::app::{AppName, Millis};
use agentd_core::uptime::{Condition, Interval, Ledger, Report};
use prost_types::Timestamp;
use tonic::Status;

use super::super::status::{self, Violation};
use super::super::{Services, filter, outcome, to_proto};

/// Apps of one answer: the first by name. The API and the help of `agentctl app uptime` say so.
const APPS_MAX: usize = 1_000;
/// The window of whoever names none.
const WINDOW_MS: Millis = 24 * 3_600_000;

/// What the ledgers say.
///
/// # Errors
/// `INVALID_ARGUMENT` for a time that is none or a window that ends before it begins, `NOT_FOUND` for an app that does not exist.
pub(super) async fn get(
    services: &Services,
    request: v1::GetAppUptimeRequest,
) -> Result<v1::GetAppUptimeResponse, Status> {
    let v1::GetAppUptimeRequest { name, start_time, end_time } = request;
    let asked = window(start_time.as_ref(), end_time.as_ref(), services.clock.now_ms());
    let (from, until) = asked.map_err(|violations| status::invalid(&violations))?;
    let missing = || status::not_found("app", &name);
    let wanted = match name.as_str() {
        "" => None,
        text => Some(AppName::parse(text).map_err(|_invalid| missing())?),
    };
    let asked = services.agent.query(move |view| {
        let ledgers = &view.state.ledgers;
        match wanted {
            Some(app) => {
                ledgers.get(&app).map(|ledger| vec![told(&app, ledger, (from, until), true)])
            }
            None => {
                let all = ledgers.iter().take(APPS_MAX);
                Some(all.map(|(app, ledger)| told(app, ledger, (from, until), false)).collect())
            }
        }
    });
    let apps = asked.await.map_err(outcome::gone)?.ok_or_else(missing)?;
    Ok(v1::GetAppUptimeResponse { apps })
}

/// The window that is asked for. A time that is none is no window of somebody else's choice: what is told about it would be taken for
/// the answer.
fn window(
    start: Option<&Timestamp>,
    end: Option<&Timestamp>,
    now: Millis,
) -> Result<(Millis, Millis), Vec<Violation>> {
    let mut violations = Vec::new();
    let until = filter::time("end_time", end, &mut violations).unwrap_or(now).min(now);
    let from = filter::time("start_time", start, &mut violations);
    let from = from.unwrap_or_else(|| until.saturating_sub(WINDOW_MS));
    if violations.is_empty() && from > until {
        let value = agentd_core::record::format_time(from);
        let rule = "must not be after end_time, or the present";
        violations.push(Violation::new("start_time", value, rule));
    }
    if violations.is_empty() { Ok((from, until)) } else { Err(violations) }
}

fn told(app: &AppName, ledger: &Ledger, window: (Millis, Millis), spans: bool) -> v1::AppUptime {
    let report = ledger.report(window.0, window.1);
    let natural = |micro: u64| micro as f64 / 1e6;
    let availability = report.availability_micro().map(natural);
    let healing_success_ratio = report.healing_micro().map(natural);
    let Report { from, until, up_ms, down_ms, unknown_ms, outages, mttr_ms, .. } = report;
    let Report { healed, attempts, intervals, .. } = report;
    let duration = |ms: Millis| to_proto::duration(ms);
    v1::AppUptime {
        app: app.to_string(),
        start_time: Some(to_proto::timestamp(from)),
        end_time: Some(to_proto::timestamp(until)),
        up: Some(duration(up_ms)),
        down: Some(duration(down_ms)),
        unknown: Some(duration(unknown_ms)),
        availability,
        outages,
        mean_time_to_recovery: mttr_ms.map(duration),
        healed,
        attempts,
        healing_success_ratio,
        intervals: intervals.iter().filter(|_| spans).map(interval).collect(),
    }
}

fn interval(span: &Interval) -> v1::UptimeInterval {
    let condition = match span.condition {
        Condition::Up => v1::UptimeCondition::Up,
        Condition::Down => v1::UptimeCondition::Down,
        Condition::Unknown => v1::UptimeCondition::Unknown,
    };
    v1::UptimeInterval {
        condition: condition.into(),
        start_time: Some(to_proto::timestamp(span.from)),
        end_time: Some(to_proto::timestamp(span.until)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 2 * WINDOW_MS;

    fn at(seconds: i64, nanos: i32) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos })
    }

    #[test]
    fn a_time_that_is_none_is_refused_and_never_replaced() {
        for wrong in [at(-1, 0), at(9, -1), at(9, 1_000_000_000), at(i64::MAX, 0)] {
            let fields = |start: Option<&Timestamp>, end: Option<&Timestamp>| {
                let violations = window(start, end, NOW).unwrap_err();
                violations.into_iter().map(|v| v.field).collect::<Vec<_>>()
            };
            assert_eq!(fields(wrong.as_ref(), None), ["start_time"], "{wrong:?}");
            assert_eq!(fields(None, wrong.as_ref()), ["end_time"], "{wrong:?}");
            assert_eq!(fields(wrong.as_ref(), wrong.as_ref()), ["end_time", "start_time"]);
        }
    }

    #[test]
    fn what_is_not_set_is_a_day_that_ends_now() {
        assert_eq!(window(None, None, NOW).unwrap(), (WINDOW_MS, NOW));
        assert_eq!(window(at(1, 0).as_ref(), None, NOW).unwrap(), (1_000, NOW));
        let future = at(1_000_000_000, 0);
        assert_eq!(window(None, future.as_ref(), NOW).unwrap(), (WINDOW_MS, NOW));
        let backwards = window(at(9, 0).as_ref(), at(8, 0).as_ref(), NOW).unwrap_err();
        assert_eq!(backwards.len(), 1);
    }
}

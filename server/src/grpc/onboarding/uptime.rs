//! The uptime ledger of apps, as the state has it.

use agentctl_api::v1;
use agentd_core::app::{AppName, Millis};
use agentd_core::uptime::{Condition, Interval, Ledger, Report};
use tonic::Status;

use super::super::status::{self, Violation};
use super::super::{Services, from_proto, outcome, to_proto};

/// Apps of one answer.
const APPS_MAX: usize = 1_000;
/// The window of whoever names none.
const WINDOW_MS: Millis = 24 * 3_600_000;

/// What the ledgers say.
///
/// # Errors
/// `INVALID_ARGUMENT` for a window that ends before it begins, `NOT_FOUND` for an app that does not exist.
pub(super) async fn get(
    services: &Services,
    request: v1::GetAppUptimeRequest,
) -> Result<v1::GetAppUptimeResponse, Status> {
    let v1::GetAppUptimeRequest { name, start_time, end_time } = request;
    let now = services.clock.now_ms();
    let time = |wire: Option<&prost_types::Timestamp>| wire.and_then(from_proto::millis);
    let until = time(end_time.as_ref()).unwrap_or(now).min(now);
    let from = time(start_time.as_ref()).unwrap_or_else(|| until.saturating_sub(WINDOW_MS));
    if from > until {
        let value = agentd_core::record::format_time(from);
        let rule = "must not be after end_time, or the present";
        return Err(status::invalid(&[Violation::new("start_time", value, rule)]));
    }
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

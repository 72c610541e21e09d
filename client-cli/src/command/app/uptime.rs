//! `agentctl app uptime`: when apps were up, and how often they were healed.

use std::fmt::Write as _;
use std::time::Duration;

use agentctl_api::v1;
use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;

use super::super::{Context, pieces};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::text;
use crate::time::{self, Span, TimeStyle};

/// Spans that are drawn of one app; all of them are in the other forms.
const DRAWN: usize = 20;

#[derive(Debug, Args)]
pub(super) struct UptimeArgs {
    /// App [default: the first 1000 by name]
    #[arg(value_name = "APP")]
    name: Option<String>,
    /// How far to look back
    #[arg(long, value_name = "TIME", default_value = "24h")]
    since: Span,
    /// Print comma-separated values
    #[arg(long)]
    csv: bool,
}

/// The ledger of one app.
#[derive(Debug, Clone, Serialize)]
struct UptimeView {
    app: String,
    start_time: Option<String>,
    end_time: Option<String>,
    up_seconds: Option<f64>,
    down_seconds: Option<f64>,
    unknown_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    availability: Option<f64>,
    outages: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_time_to_recovery_seconds: Option<f64>,
    healed: u32,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    healing_success_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    intervals: Vec<IntervalView>,
}

#[derive(Debug, Clone, Serialize)]
struct IntervalView {
    condition: String,
    start_time: Option<String>,
    end_time: Option<String>,
}

impl From<&v1::AppUptime> for UptimeView {
    fn from(found: &v1::AppUptime) -> Self {
        Self {
            app: found.app.clone(),
            start_time: time::json(found.start_time.as_ref()),
            end_time: time::json(found.end_time.as_ref()),
            up_seconds: time::seconds(found.up.as_ref()),
            down_seconds: time::seconds(found.down.as_ref()),
            unknown_seconds: time::seconds(found.unknown.as_ref()),
            availability: found.availability,
            outages: found.outages,
            mean_time_to_recovery_seconds: time::seconds(found.mean_time_to_recovery.as_ref()),
            healed: found.healed,
            attempts: found.attempts,
            healing_success_ratio: found.healing_success_ratio,
            intervals: found
                .intervals
                .iter()
                .map(|span| IntervalView {
                    condition: condition(span),
                    start_time: time::json(span.start_time.as_ref()),
                    end_time: time::json(span.end_time.as_ref()),
                })
                .collect(),
        }
    }
}

fn condition(span: &v1::UptimeInterval) -> String {
    let name = span.condition().as_str_name();
    name.trim_start_matches("UPTIME_CONDITION_").to_ascii_lowercase()
}

pub(super) async fn run(args: UptimeArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let now = time::now();
    let start = start(now, args.since.0);
    let request = v1::GetAppUptimeRequest {
        name: args.name.clone().unwrap_or_default(),
        start_time: Some(time::to_proto(start)),
        end_time: None,
    };
    let answer = session.onboarding().get_app_uptime(session.unary(request)).await;
    let apps = answer.map_err(|s| session.failure(s))?.into_inner().apps;
    let views: Vec<_> = apps.iter().map(UptimeView::from).collect();
    if args.csv {
        context.output.raw(csv(&views).as_bytes())?;
        return Ok(Exit::Ok);
    }
    let style = context.output.settings().time;
    context.output.emit_list(&views, |to| page(to, &apps, style))?;
    Ok(Exit::Ok)
}

/// So long before `now`. Nothing was before 1970, and the server refuses a time before it.
fn start(now: DateTime<Utc>, since: Duration) -> DateTime<Utc> {
    let back = chrono::Duration::from_std(since).ok();
    let start = back.and_then(|back| now.checked_sub_signed(back));
    start.map_or(DateTime::UNIX_EPOCH, |start| start.max(DateTime::UNIX_EPOCH))
}

fn page(page: &mut Page, apps: &[v1::AppUptime], style: Option<TimeStyle>) {
    if apps.is_empty() {
        page.line("no apps");
        return;
    }
    let mut table =
        Table::new(&["APP", "AVAILABILITY", "UP", "DOWN", "UNKNOWN", "OUTAGES", "MTTR", "HEALED"]);
    for app in apps {
        let span = |found: Option<&prost_types::Duration>| {
            found.map_or_else(|| pieces::NONE.to_owned(), |span| time::precise(time::span_of(span)))
        };
        let share = |found: Option<f64>| {
            found.map_or_else(|| pieces::NONE.to_owned(), |share| format!("{:.3} %", share * 100.0))
        };
        table.row([
            app.app.clone(),
            share(app.availability),
            span(app.up.as_ref()),
            span(app.down.as_ref()),
            span(app.unknown.as_ref()),
            app.outages.to_string(),
            span(app.mean_time_to_recovery.as_ref()),
            format!("{} of {}", app.healed, app.attempts),
        ]);
    }
    page.table(&table);
    let [one] = apps else { return };
    let hidden = one.intervals.len().saturating_sub(DRAWN);
    let mut table = Table::new(&["FROM", "FOR", "CONDITION"]);
    for span in one.intervals.iter().skip(hidden) {
        table.row([
            pieces::moment(span.start_time.as_ref(), style, TimeStyle::Iso, time::now()),
            length(span).map_or_else(|| pieces::NONE.to_owned(), time::precise),
            glyph(span),
        ]);
    }
    page.blank();
    page.table(&table);
    if hidden > 0 {
        let spans = u64::try_from(hidden).unwrap_or(u64::MAX);
        page.line(format!("and {} before", text::count(spans, "span", "spans")));
    }
}

fn length(span: &v1::UptimeInterval) -> Option<Duration> {
    let (start, end) = (time::of(span.start_time.as_ref()?)?, time::of(span.end_time.as_ref()?)?);
    (end - start).to_std().ok()
}

fn glyph(span: &v1::UptimeInterval) -> String {
    let health = match span.condition() {
        v1::UptimeCondition::Up => v1::AppHealth::Healthy,
        v1::UptimeCondition::Down => v1::AppHealth::Down,
        v1::UptimeCondition::Unknown | v1::UptimeCondition::Unspecified => v1::AppHealth::Unknown,
    };
    let shown = pieces::health(health.into());
    let mark = shown.split(' ').next().unwrap_or_default().to_owned();
    format!("{mark} {}", condition(span))
}

/// One line for each app. Names of apps need no quotes, and what is not known is empty.
fn csv(views: &[UptimeView]) -> String {
    let mut out = String::from(
        "app,start_time,end_time,up_seconds,down_seconds,unknown_seconds,availability,outages,\
         mean_time_to_recovery_seconds,healed,attempts,healing_success_ratio\n",
    );
    let number = |found: Option<f64>| found.map(|n| n.to_string()).unwrap_or_default();
    for v in views {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{},{}",
            v.app,
            v.start_time.as_deref().unwrap_or_default(),
            v.end_time.as_deref().unwrap_or_default(),
            number(v.up_seconds),
            number(v.down_seconds),
            number(v.unknown_seconds),
            number(v.availability),
            v.outages,
            number(v.mean_time_to_recovery_seconds),
            v.healed,
            v.attempts,
            number(v.healing_success_ratio),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn web() -> v1::AppUptime {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let span = |condition: v1::UptimeCondition, from, until| v1::UptimeInterval {
            condition: condition.into(),
            start_time: at(from),
            end_time: at(until),
        };
        v1::AppUptime {
            app: "web".to_owned(),
            start_time: at(0),
            end_time: at(1_000),
            up: seconds(900),
            down: seconds(100),
            unknown: seconds(0),
            availability: Some(0.9),
            outages: 1,
            mean_time_to_recovery: seconds(100),
            healed: 1,
            attempts: 2,
            healing_success_ratio: Some(0.5),
            intervals: vec![
                span(v1::UptimeCondition::Down, 0, 100),
                span(v1::UptimeCondition::Up, 100, 1_000),
            ],
        }
    }

    #[test]
    fn who_looks_back_further_than_there_is_sees_all_there_is() {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::days(10);
        let days = |days: u64| Duration::from_secs(days * 86_400);
        assert_eq!(start(now, days(1)), DateTime::UNIX_EPOCH + chrono::Duration::days(9));
        assert_eq!(start(now, days(11)), DateTime::UNIX_EPOCH);
        assert_eq!(start(now, Duration::MAX), DateTime::UNIX_EPOCH);
    }

    #[test]
    fn a_ledger_is_a_line_and_its_spans() {
        let mut drawn = Page::default();
        page(&mut drawn, &[web()], Some(TimeStyle::Iso));
        let text = drawn.render(false);
        assert!(text.contains("90.000 %") && text.contains("1 of 2"), "{text}");
        assert!(text.contains("down") && text.contains("up"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_empty_in_csv_and_never_zero() {
        let silent = v1::AppUptime { app: "new".to_owned(), ..v1::AppUptime::default() };
        let views = [UptimeView::from(&web()), UptimeView::from(&silent)];
        let text = csv(&views);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[1],
            "web,1970-01-01T00:00:00.000Z,1970-01-01T00:16:40.000Z,900,100,0,0.9,1,100,1,2,0.5"
        );
        assert_eq!(lines[2], "new,,,,,,,0,,0,0,");
        assert_eq!(lines[0].split(',').count(), lines[2].split(',').count());
    }
}

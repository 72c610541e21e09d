//! `agentctl signal tail`: the readings decisions are made on.

use std::collections::BTreeMap;

use agentctl_api::v1;
use clap::Args;
use serde::Serialize;

use crate::command::follow::Link;
use crate::command::{Context, pieces};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::text;
use crate::time::{self, Span, TimeStyle};

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// Apps [default: all]
    #[arg(value_name = "APP")]
    apps: Vec<String>,
    /// Shortest time between two readings of an app, 250ms to 1m
    #[arg(long, value_name = "TIME", default_value = "1s")]
    every: Span,
    /// End after so many readings
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// A reading, for programs.
#[derive(Debug, Serialize)]
struct ReadingView {
    app: String,
    time: Option<String>,
    last_signal_time: Option<String>,
    metrics: BTreeMap<String, f64>,
    sources: BTreeMap<String, String>,
    conditions: BTreeMap<String, bool>,
}

impl From<&v1::SignalReading> for ReadingView {
    fn from(reading: &v1::SignalReading) -> Self {
        let metrics = || reading.metrics.iter();
        Self {
            app: reading.app.clone(),
            time: time::json(reading.time.as_ref()),
            last_signal_time: time::json(reading.last_signal_time.as_ref()),
            metrics: metrics().map(|m| (m.name.clone(), m.value)).collect(),
            sources: metrics().map(|m| (m.name.clone(), m.source.clone())).collect(),
            conditions: reading.conditions.clone(),
        }
    }
}

pub(super) async fn run(args: TailArgs, context: &mut Context) -> Result<Exit, Failure> {
    let limit = context.global.timeout;
    match limit {
        None => follow(args, context).await,
        // Watching for a while is what was asked for.
        Some(limit) => match tokio::time::timeout(limit.0, follow(args, context)).await {
            Ok(ended) => ended,
            Err(_elapsed) => Ok(Exit::Ok),
        },
    }
}

async fn follow(args: TailArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let request = v1::WatchSignalsRequest {
        apps: args.apps,
        interval: Some(time::span_to_proto(args.every.0)),
    };
    let mut watch = session.watch_signals(request);
    let mut link = Link::default();
    let style = context.output.settings().time;
    let mut shown = 0;
    loop {
        let answer = link.next(&mut watch, &session, &mut context.output).await?;
        for reading in &answer.readings {
            context.output.emit_item(&ReadingView::from(reading), |page| {
                page.line(row(reading, style));
            })?;
            shown += 1;
            if args.count == Some(shown) {
                return Ok(Exit::Ok);
            }
        }
    }
}

/// `14:02:11  my-api  cpu 61%  p99 180ms  cpu_high`.
fn row(reading: &v1::SignalReading, style: Option<TimeStyle>) -> String {
    let when = pieces::row_time(reading.last_signal_time.as_ref(), style, time::now());
    let mut words = vec![text::pad(&when, 8), text::pad(&text::line(&reading.app), 12)];
    words.extend(reading.metrics.iter().map(metric));
    words.extend(reading.conditions.iter().map(|(name, value)| format!("{name}={value}")));
    if words.len() == 2 {
        words.push("heard, and nothing measured".to_owned());
    }
    words.join("  ")
}

fn metric(metric: &v1::MetricReading) -> String {
    let value = metric.value;
    match metric.name.as_str() {
        "cpu_utilization" => format!("cpu {}", pieces::percent(Some(value))),
        "memory_utilization" => format!("memory {}", pieces::percent(Some(value))),
        "error_ratio" => format!("errors {:.1}%", value * 100.0),
        "latency_p50" => format!("p50 {}", pieces::latency(Some(value))),
        "latency_p99" => format!("p99 {}", pieces::latency(Some(value))),
        "request_rate" => format!("{value:.1}/s"),
        "restart_count" => format!("restarts {value:.0}"),
        other => format!("{other} {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_one_line_with_the_units_people_use() {
        let metric = |name: &str, value| v1::MetricReading {
            name: name.to_owned(),
            value,
            ..v1::MetricReading::default()
        };
        let reading = v1::SignalReading {
            app: "my-api".to_owned(),
            last_signal_time: Some(prost_types::Timestamp { seconds: 1_795_442_531, nanos: 0 }),
            metrics: vec![
                metric("cpu_utilization", 0.61),
                metric("latency_p99", 0.18),
                metric("error_ratio", 0.052),
            ],
            conditions: BTreeMap::from([("cpu_high".to_owned(), true)]),
            ..v1::SignalReading::default()
        };
        assert_eq!(
            row(&reading, None),
            "14:02:11  my-api        cpu 61%  p99 180ms  errors 5.2%  cpu_high=true"
        );
    }
}

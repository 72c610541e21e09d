//! `agentctl bus`: where records are offered to programs that follow along.

use agentctl_api::v1;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::follow::Link;
use super::{Context, pieces};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::time::{self, Span, TimeStyle};

/// Show how the bus does
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl bus stats
  agentctl bus watch
  agentctl bus ping

Nothing is read from the bus, so nothing on it causes an act: losing it delays no decision.")]
pub struct BusArgs {
    #[command(subcommand)]
    command: BusCommand,
}

#[derive(Debug, Subcommand)]
enum BusCommand {
    /// Show the bus in figures
    #[command(after_help = "\
Examples:
  agentctl bus stats
  agentctl bus stats -o json | jq .lag

Exit codes: 0 shown, whether or not the bus is there.")]
    Stats,
    /// Show the bus again and again, with the rate of what it takes
    #[command(after_help = "\
Examples:
  agentctl bus watch
  agentctl bus watch --every 5s -o jsonl
  agentctl bus watch --count 10")]
    Watch {
        /// Time between two looks, 250ms to 1m
        #[arg(long, value_name = "TIME", default_value = "1s")]
        every: Span,
        /// End after so many
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Ask whether the bus takes what it is offered
    #[command(after_help = "\
Examples:
  agentctl bus ping && echo fine

Exit codes: 0 it does, 8 it does not.")]
    Ping,
}

/// The bus, for programs.
#[derive(Debug, Serialize)]
struct BusView {
    name: String,
    place: String,
    connected: bool,
    published: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    published_per_second: Option<f64>,
    dropped: u64,
    lag: u64,
    failures: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evicted: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_published_time: Option<String>,
    time: Option<String>,
}

impl BusView {
    /// The stats, with the rate since the look before.
    fn new(stats: &v1::BusStats, before: Option<&v1::BusStats>) -> Self {
        let at = |stats: &v1::BusStats| stats.time.as_ref().and_then(time::of);
        let rate = before.and_then(|before| {
            let span = at(stats)?.signed_duration_since(at(before)?).to_std().ok()?;
            let count = stats.published.checked_sub(before.published)?;
            (!span.is_zero()).then(|| count as f64 / span.as_secs_f64())
        });
        Self {
            name: stats.backend.clone(),
            place: stats.place.clone(),
            connected: stats.connected,
            published: stats.published,
            published_per_second: rate.map(|rate| (rate * 10.0).round() / 10.0),
            dropped: stats.dropped,
            lag: stats.lag,
            failures: stats.failures,
            held: stats.held,
            evicted: stats.evicted,
            last_error: (!stats.last_error.is_empty()).then(|| stats.last_error.clone()),
            last_published_time: time::json(stats.last_published_time.as_ref()),
            time: time::json(stats.time.as_ref()),
        }
    }
}

pub(super) async fn run(args: BusArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    if let BusCommand::Watch { every, count } = args.command {
        return watch(&session, every, count, context).await;
    }
    let answer = session.bus().get_bus_stats(session.unary(v1::GetBusStatsRequest {})).await;
    let stats = answer.map_err(|s| session.failure(s))?.into_inner().stats.unwrap_or_default();
    let view = BusView::new(&stats, None);
    if matches!(args.command, BusCommand::Ping) {
        context.output.emit(&view, |page| page.line(health(&view)))?;
        return Ok(if view.connected { Exit::Ok } else { Exit::Unreachable });
    }
    let style = context.output.settings().time;
    context.output.emit(&view, |page| {
        let taken = stats.last_published_time.as_ref();
        stats_page(page, &view, &pieces::moment(taken, style, TimeStyle::Relative, time::now()));
    })?;
    Ok(Exit::Ok)
}

/// Looks again and again, also when the server was away in between.
async fn watch(
    session: &Session,
    every: Span,
    count: Option<u64>,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let request = v1::WatchBusRequest { interval: Some(time::span_to_proto(every.0)) };
    let mut watch = session.watch_bus(request);
    let (mut link, mut before, mut shown) = (Link::default(), None, 0);
    loop {
        let answer = link.next(&mut watch, session, &mut context.output).await?;
        let stats = answer.stats.unwrap_or_default();
        let view = BusView::new(&stats, before.as_ref());
        context.output.emit_item(&view, |page| watch_line(page, &view, shown == 0))?;
        before = Some(stats);
        shown += 1;
        if count == Some(shown) {
            return Ok(Exit::Ok);
        }
    }
}

/// Whether it is there, in a line.
fn health(view: &BusView) -> String {
    let place = if view.place.is_empty() { "in the server" } else { &view.place };
    match (&view.last_error, view.connected) {
        (_, true) => format!("✔ {} {place} takes what it is offered", view.name),
        (Some(error), false) => format!("✖ {} {place}: {error}", view.name),
        (None, false) => format!("◷ {} {place} was offered nothing yet", view.name),
    }
}

fn known(value: Option<u64>) -> String {
    value.map_or_else(|| pieces::NONE.to_owned(), |value| value.to_string())
}

fn stats_page(page: &mut Page, view: &BusView, last: &str) {
    page.line(health(view));
    let mut table =
        Table::new(&["PUBLISHED", "LAG", "DROPPED", "FAILURES", "HELD", "EVICTED", "LAST TAKEN"])
            .right(&[0, 1, 2, 3, 4, 5]);
    table.row([
        view.published.to_string(),
        view.lag.to_string(),
        view.dropped.to_string(),
        view.failures.to_string(),
        known(view.held),
        known(view.evicted),
        last.to_owned(),
    ]);
    page.table(&table);
    if view.dropped > 0 {
        page.line("! dropped records stand on the bus as gaps; the proof log has them all");
    }
}

fn watch_line(page: &mut Page, view: &BusView, first: bool) {
    if first {
        page.header(format!(
            "{:<8}  {:<7}  {:>9}  {:>7}  {:>6}  {:>7}  {:>8}",
            "TIME", "BACKEND", "PUBLISHED", "PER S", "LAG", "DROPPED", "FAILURES"
        ));
    }
    let clock = view.time.as_deref().and_then(|time| time.get(11..19)).unwrap_or_default();
    let rate = view.published_per_second.map_or_else(|| pieces::NONE.to_owned(), |r| r.to_string());
    let glyph = if view.connected { "✔" } else { "✖" };
    page.line(format!(
        "{clock:<8}  {:<7}  {:>9}  {rate:>7}  {:>6}  {:>7}  {:>8}  {glyph}",
        view.name, view.published, view.lag, view.dropped, view.failures
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(published: u64, second: i64) -> v1::BusStats {
        v1::BusStats {
            backend: "redis".to_owned(),
            place: "10.0.0.9:6379".to_owned(),
            connected: true,
            published,
            time: Some(prost_types::Timestamp { seconds: second, nanos: 0 }),
            ..v1::BusStats::default()
        }
    }

    #[test]
    fn the_rate_is_what_was_taken_between_two_looks() {
        assert_eq!(BusView::new(&stats(10, 1), None).published_per_second, None);
        let view = BusView::new(&stats(25, 3), Some(&stats(10, 1)));
        assert_eq!(view.published_per_second, Some(7.5));
        // A restart of the server begins to count again: that is no rate.
        assert_eq!(BusView::new(&stats(1, 9), Some(&stats(25, 3))).published_per_second, None);
    }

    #[test]
    fn whether_it_is_there_is_said_in_words() {
        let mut view = BusView::new(&stats(1, 1), None);
        assert_eq!(health(&view), "✔ redis 10.0.0.9:6379 takes what it is offered");
        view.connected = false;
        view.last_error = Some("no connection: refused".to_owned());
        assert_eq!(health(&view), "✖ redis 10.0.0.9:6379: no connection: refused");
    }
}

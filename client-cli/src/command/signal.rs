//! `agentctl signal`: sends signals for scripts, imports recorded ones, and shows what decisions see.

use std::collections::BTreeMap;

use agentctl_api::v1;
use clap::{Args, Subcommand};
use serde::Serialize;

mod import;
pub(super) mod push;
mod tail;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::time::{self, Span};

/// Send health signals, and show what decisions see
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl signal send my-api --cpu 0.9 --p99 2.1s
  agentctl signal tail my-api
  agentctl signal import incident.jsonl --as-now")]
pub struct SignalArgs {
    #[command(subcommand)]
    command: SignalCommand,
}

#[derive(Debug, Subcommand)]
enum SignalCommand {
    /// Send one signal, or several with a pause between
    #[command(after_help = "\
Examples:
  agentctl signal send my-api --cpu 0.9 --memory 0.4 --p99 2.1s
  agentctl signal send my-api --instance 0 --exit-signal 9
  agentctl signal send my-api --condition cpu_high=true --condition cpu_low=true
  agentctl signal send my-api --cpu 0.97 --count 5 --every 1s

Exit codes: 0 all accepted, 2 one was rejected.")]
    Send(Box<SendArgs>),
    /// Show the newest reading of each app as decisions see it, live
    #[command(after_help = "\
Examples:
  agentctl signal tail
  agentctl signal tail my-api --every 250ms
  agentctl signal tail -o jsonl | jq 'select(.metrics.error_ratio > 0.05) | .app'

A reading is what the signals of all monitors come to after they were checked: where sources
disagree, the worst of them. What is not known is not shown; it is never zero.")]
    Tail(tail::TailArgs),
    /// Send recorded signals: JSON lines in the proto3 form of Signal, CSV with its fields as header, Alertmanager or OTLP JSON
    #[command(after_help = "\
Examples:
  agentctl signal import signals.jsonl
  agentctl signal import incident.csv --as-now
  agentctl signal import - < signals.jsonl
  agentctl signal import metrics.json --as-now

What Alertmanager sends to a webhook and metrics in the JSON form of OTLP are read as well.
A CSV header names fields of Signal, such as app,time,cpu_utilization,error_ratio; empty cells are
unknown. `agentctl api describe Signal` shows the fields. Signals older than five minutes are
refused, --as-now gives them the present time.

Exit codes: 0 all accepted, 2 one was rejected or cannot be read.")]
    Import(import::ImportArgs),
}

#[derive(Debug, Args)]
struct SendArgs {
    /// App
    #[arg(value_name = "APP")]
    app: String,
    /// Instance [default: the app as a whole]
    #[arg(long, value_name = "INSTANCE")]
    instance: Option<String>,
    /// Share of the CPU limit in use, 0 to 1
    #[arg(long, value_name = "SHARE")]
    cpu: Option<f64>,
    /// Share of the memory limit in use, 0 to 1
    #[arg(long, value_name = "SHARE")]
    memory: Option<f64>,
    /// Median response time, such as 120ms
    #[arg(long, value_name = "TIME")]
    p50: Option<Span>,
    /// 99th percentile of the response time
    #[arg(long, value_name = "TIME")]
    p99: Option<Span>,
    /// Failed requests over all requests, 0 to 1
    #[arg(long, value_name = "SHARE")]
    error_ratio: Option<f64>,
    /// Requests per second
    #[arg(long, value_name = "RATE")]
    request_rate: Option<f64>,
    /// Restarts so far, a counter that only grows
    #[arg(long, value_name = "N")]
    restarts: Option<u64>,
    /// A process of the app ended with this code
    #[arg(long, value_name = "CODE", conflicts_with = "exit_signal")]
    exit_code: Option<i32>,
    /// A process of the app was ended by this signal
    #[arg(long, value_name = "NUMBER")]
    exit_signal: Option<i32>,
    /// Boolean such as cpu_high=true
    #[arg(long, value_name = "NAME=BOOL", value_parser = condition)]
    condition: Vec<(String, bool)>,
    /// How long it counts as fresh
    #[arg(long, value_name = "TIME")]
    ttl: Option<Span>,
    /// Who sends; stable across calls
    #[arg(long, value_name = "ID", default_value = "agentctl")]
    monitor_id: String,
    /// Send it so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    count: u64,
    /// Pause between two
    #[arg(long, value_name = "TIME", default_value = "1s")]
    every: Span,
}

fn condition(text: &str) -> Result<(String, bool), String> {
    match text.split_once('=') {
        Some((name, "true")) if !name.is_empty() => Ok((name.to_owned(), true)),
        Some((name, "false")) if !name.is_empty() => Ok((name.to_owned(), false)),
        _ => Err("write NAME=true or NAME=false".to_owned()),
    }
}

impl SendArgs {
    fn signal(&self) -> v1::Signal {
        use v1::exit::How;
        let how = self.exit_code.map(How::Code).or_else(|| self.exit_signal.map(How::Signal));
        let seconds = |span: Option<Span>| span.map(|span| span.0.as_secs_f64());
        v1::Signal {
            app: self.app.clone(),
            instance: self.instance.clone().unwrap_or_default(),
            time: Some(time::to_proto(time::now())),
            cpu_utilization: self.cpu,
            memory_utilization: self.memory,
            latency_p50_seconds: seconds(self.p50),
            latency_p99_seconds: seconds(self.p99),
            error_ratio: self.error_ratio,
            request_rate: self.request_rate,
            restart_count: self.restarts,
            window: None,
            exit: how.map(|how| v1::Exit { how: Some(how) }),
            conditions: self.condition.iter().cloned().collect::<BTreeMap<_, _>>(),
            ttl: self.ttl.map(|span| time::span_to_proto(span.0)),
        }
    }

    fn says_something(&self) -> bool {
        let v1::Signal { time: _, app: _, instance: _, ttl: _, .. } = self.signal();
        let signal = self.signal();
        signal.cpu_utilization.is_some()
            || signal.memory_utilization.is_some()
            || signal.latency_p50_seconds.is_some()
            || signal.latency_p99_seconds.is_some()
            || signal.error_ratio.is_some()
            || signal.request_rate.is_some()
            || signal.restart_count.is_some()
            || signal.exit.is_some()
            || !signal.conditions.is_empty()
    }
}

/// What became of the signals.
#[derive(Debug, Serialize)]
struct SentView {
    accepted: u64,
    duplicates: u64,
    rejected: u64,
    rejections: Vec<RejectionView>,
}

#[derive(Debug, Serialize)]
struct RejectionView {
    seq: u64,
    reason: String,
    field: String,
    rule: String,
    value: String,
}

impl SentView {
    fn new(response: &v1::PushSignalsResponse) -> Self {
        Self {
            accepted: response.accepted,
            duplicates: response.duplicates,
            rejected: response.rejected,
            rejections: response
                .rejections
                .iter()
                .map(|r| RejectionView {
                    seq: r.seq,
                    reason: r.reason.clone(),
                    field: r.field.clone(),
                    rule: r.rule.clone(),
                    value: r.value.clone(),
                })
                .collect(),
        }
    }
}

pub(super) async fn run(args: SignalArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        SignalCommand::Send(args) => send(&args, context).await,
        SignalCommand::Tail(args) => tail::run(args, context).await,
        SignalCommand::Import(args) => import::run(args, context).await,
    }
}

async fn send(args: &SendArgs, context: &mut Context) -> Result<Exit, Failure> {
    if !args.says_something() {
        return Err(Failure::usage("the signal says nothing")
            .hint("add a value, such as --cpu 0.9 or --condition cpu_high=true"));
    }
    let session = context.connect().await?;
    let batches = (0..args.count).map(|_| || vec![args.signal()]);
    let response = push::all(&args.monitor_id, batches, args.every.0, &session).await?;
    told(&response, context)
}

/// Shows what became of the signals.
fn told(response: &v1::PushSignalsResponse, context: &mut Context) -> Result<Exit, Failure> {
    let view = SentView::new(response);
    context.output.emit(&view, |page| sent_page(page, &view))?;
    Ok(if view.rejected == 0 { Exit::Ok } else { Exit::Usage })
}

fn sent_page(page: &mut Page, view: &SentView) {
    let glyph = if view.rejected == 0 { '✔' } else { '✖' };
    page.line(format!(
        "{glyph} {} accepted, {} duplicate, {} rejected",
        view.accepted, view.duplicates, view.rejected
    ));
    let mut table = Table::new(&[]).indent(2);
    for r in &view.rejections {
        let value = format!("got \"{}\"", r.value);
        table.row([r.field.as_str(), &r.rule, &value, &r.reason]);
    }
    if !table.is_empty() {
        page.table(&table);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(line: &str) -> Box<SendArgs> {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Signal(SignalArgs { command: SignalCommand::Send(args) }) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_said_stays_unknown() {
        let signal = parsed("agentctl signal send my-api --cpu 0.9 --p99 2100ms").signal();
        assert_eq!(signal.cpu_utilization, Some(0.9));
        assert_eq!(signal.latency_p99_seconds, Some(2.1));
        assert_eq!(signal.memory_utilization, None);
        assert_eq!(signal.exit, None);
    }

    #[test]
    fn a_contradiction_can_be_sent_on_purpose() {
        let signal = parsed(
            "agentctl signal send my-api --condition cpu_high=true --condition cpu_low=true",
        )
        .signal();
        assert_eq!(signal.conditions.len(), 2);
    }

    #[test]
    fn an_empty_signal_is_noticed_before_it_is_sent() {
        assert!(!parsed("agentctl signal send my-api").says_something());
        assert!(parsed("agentctl signal send my-api --exit-code 1").says_something());
    }
}

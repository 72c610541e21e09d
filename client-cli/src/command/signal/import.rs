//! `agentctl signal import`: recorded signals, from JSON lines or CSV, and from what Alertmanager and OpenTelemetry write.

use std::io::Read as _;

use agentctl_api::v1;
use clap::Args;
use prost_reflect::MessageDescriptor;
use serde_json::{Map, Value};

use super::{push, told};
use crate::command::Context;
use crate::dynamic;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::server::forms;
use crate::text;
use crate::time::{self, Span};

/// Largest file that is read.
const FILE_MAX: u64 = 64 * 1024 * 1024;
/// Most signals of one import.
const SIGNALS_MAX: usize = 1_000_000;
/// Signals of one batch: far below both limits of the server.
const BATCH: usize = 500;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// File, or `-` for stdin
    #[arg(value_name = "FILE")]
    file: String,
    /// Form of the file [default: by its name, else jsonl]
    #[arg(long, value_enum)]
    format: Option<Form>,
    /// Give every signal the time at which it is sent
    #[arg(long)]
    as_now: bool,
    /// Who sends; stable across calls
    #[arg(long, value_name = "ID", default_value = "agentctl-import")]
    monitor_id: String,
    /// Pause between two batches of 500
    #[arg(long, value_name = "TIME", default_value = "0s")]
    every: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// The proto3 JSON form of Signal, one on each line
    Jsonl,
    /// Fields of Signal by their header
    Csv,
    /// What Alertmanager sends to a webhook
    Alertmanager,
    /// Metrics in the JSON form of OTLP, as the Collector's file exporter writes them
    Otlp,
}

/// The form of a file that names none: by its name, or by the field the forms of others cannot do without.
fn form_of(file: &str, text: &str) -> Form {
    let begins = text.get(..text.len().min(512)).unwrap_or(text);
    if file.ends_with(".csv") {
        Form::Csv
    } else if begins.contains("\"resourceMetrics\"") {
        Form::Otlp
    } else if text.contains("\"alerts\"") && text.contains("\"receiver\"") {
        Form::Alertmanager
    } else {
        Form::Jsonl
    }
}

pub(super) async fn run(args: ImportArgs, context: &mut Context) -> Result<Exit, Failure> {
    let text = read(&args.file)?;
    let form = args.format.unwrap_or_else(|| form_of(&args.file, &text));
    // What is wrong with a file is told before a server is asked; the forms of others name their environment.
    let own = match form {
        Form::Jsonl | Form::Csv => Some(parse(&text, form)?),
        Form::Alertmanager | Form::Otlp => None,
    };
    let session = context.connect().await?;
    let signals = match own {
        Some(signals) => signals,
        None => foreign(&text, form, &push::environment(&session).await?)?,
    };
    if signals.is_empty() {
        return Err(Failure::usage(format!("`{}` holds no signals", args.file)));
    }
    let as_now = args.as_now;
    let batches = signals.chunks(BATCH).map(|part| {
        move || {
            let mut part = part.to_vec();
            let now = time::to_proto(time::now());
            for signal in part.iter_mut().filter(|signal| as_now || signal.time.is_none()) {
                signal.time = Some(now);
            }
            part
        }
    });
    let response = push::all(&args.monitor_id, batches, args.every.0, &session).await?;
    told(&response, context)
}

fn read(file: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == "-" {
        std::io::stdin().lock().take(FILE_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text))
    };
    let length = read
        .map_err(|error| Failure::because(Exit::Usage, &format!("cannot read `{file}`"), &error))?;
    if u64::try_from(length).unwrap_or(u64::MAX) > FILE_MAX {
        return Err(Failure::usage(format!("`{file}` is larger than {} MiB", FILE_MAX >> 20)));
    }
    Ok(text)
}

/// Mistakes that are told one by one.
const TOLD: usize = 20;

/// Every signal of the text, or every line that is none.
fn parse(text: &str, form: Form) -> Result<Vec<v1::Signal>, Failure> {
    let pool = dynamic::pool()?;
    let signal = pool
        .get_message_by_name("agentctl.v1.Signal")
        .ok_or_else(|| Failure::new(Exit::Failure, "this program does not know its own API"))?;
    let lines: Vec<(usize, Result<String, String>)> = match form {
        Form::Jsonl => text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(at, line)| (at + 1, Ok(line.to_owned())))
            .collect(),
        Form::Csv => rows(text, &signal)?,
        Form::Alertmanager | Form::Otlp => Vec::new(),
    };
    if lines.len() > SIGNALS_MAX {
        return Err(Failure::usage(format!("more than {SIGNALS_MAX} signals")));
    }
    let (mut signals, mut wrong) = (Vec::new(), Vec::new());
    for (number, line) in lines {
        let parsed = line.and_then(|line| {
            let dynamic = dynamic::from_json(&signal, &line).map_err(|e| e.to_string())?;
            dynamic.transcode_to::<v1::Signal>().map_err(|error| error.to_string())
        });
        match parsed {
            Ok(signal) => signals.push(signal),
            Err(why) => wrong.push((number, why)),
        }
    }
    if wrong.is_empty() {
        return Ok(signals);
    }
    let what = format!(
        "{} of {} lines are no signals, nothing was sent",
        wrong.len(),
        wrong.len() + signals.len()
    );
    let failure = wrong.iter().take(TOLD).fold(Failure::usage(what), |failure, (number, why)| {
        failure.fact(format!("line {number}"), why.as_str())
    });
    Err(failure.hint("`agentctl api describe Signal` shows the fields"))
}

/// Every signal of a file in the form of another program.
fn foreign(text: &str, form: Form, environment: &str) -> Result<Vec<v1::Signal>, Failure> {
    let read = match form {
        Form::Otlp => forms::otlp(text, environment),
        _ => forms::alertmanager(text, environment),
    };
    read.map_err(|wrong| {
        let what = format!("{} things are no signals, nothing was sent", wrong.len());
        wrong.iter().take(TOLD).fold(Failure::usage(what), |failure, (number, why)| {
            failure.fact(format!("line {number}"), why.as_str())
        })
    })
}

/// Lines with their numbers, each as the JSON of a signal, or why it is none.
type Rows = Vec<(usize, Result<String, String>)>;

/// The rows of a CSV file: cells are fields by their header, empty ones are absent.
fn rows(text: &str, signal: &MessageDescriptor) -> Result<Rows, Failure> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let Some((_, header)) = lines.next() else { return Ok(Vec::new()) };
    let header: Vec<&str> = header.split(',').map(str::trim).collect();
    let unknown: Vec<_> =
        header.iter().filter(|name| signal.get_field_by_name(name).is_none()).copied().collect();
    if !unknown.is_empty() {
        let known: Vec<_> = signal.fields().map(|field| field.name().to_owned()).collect();
        let what =
            format!("the header names what a signal has not: {}", text::line(&unknown.join(", ")));
        return Err(Failure::usage(what).hint(format!("the fields are {}", known.join(", "))));
    }
    Ok(lines.map(|(at, line)| (at + 1, row(line, &header))).collect())
}

fn row(line: &str, header: &[&str]) -> Result<String, String> {
    if line.contains('"') {
        return Err("quoted cells are not read; no field of a signal needs them".to_owned());
    }
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    if cells.len() != header.len() {
        return Err(format!("{} cells, the header has {}", cells.len(), header.len()));
    }
    let filled = header.iter().zip(cells).filter(|(_, cell)| !cell.is_empty());
    // proto3 JSON takes numbers as strings, so that no cell has to be understood here.
    let fields: Map<String, Value> =
        filled.map(|(name, cell)| ((*name).to_owned(), Value::from(cell))).collect();
    Ok(Value::from(fields).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_and_csv_are_the_same_signals() {
        let jsonl = "{\"app\":\"web\",\"cpu_utilization\":0.9,\"ttl\":\"30s\"}\n\n\
                     {\"app\":\"api\",\"errorRatio\":0.1}\n";
        let csv = "app, cpu_utilization,error_ratio,ttl\nweb,0.9,,30s\napi,,0.1,\n";
        let signals = parse(jsonl, Form::Jsonl).unwrap();
        assert_eq!(parse(csv, Form::Csv).unwrap(), signals);
        assert_eq!(signals.len(), 2);
        assert_eq!((signals[0].cpu_utilization, signals[0].error_ratio), (Some(0.9), None));
    }

    #[test]
    fn what_alertmanager_and_the_collector_write_is_recognised_and_read() {
        let alerts = r#"{"version":"4","receiver":"a","alerts":[{"status":"firing",
            "labels":{"alertname":"HighCpu","app":"web"},"startsAt":"2026-01-01T00:00:00Z"}]}"#;
        assert_eq!(form_of("-", alerts), Form::Alertmanager);
        let signals = foreign(alerts, Form::Alertmanager, "stage").unwrap();
        assert_eq!(signals[0].conditions, [("high_cpu".to_owned(), true)].into());

        let line = |env: &str, time: u64, used: f64| {
            let at = time * 1_000_000_000;
            format!(
                r#"{{"resourceMetrics":[{{"resource":{{"attributes":[
                {{"key":"service.name","value":{{"stringValue":"web"}}}},
                {{"key":"deployment.environment.name","value":{{"stringValue":"{env}"}}}}]}},
                "scopeMetrics":[{{"metrics":[
                {{"name":"jvm.cpu.count","gauge":{{"dataPoints":[{{"asInt":"2","timeUnixNano":"{at}"}}]}}}},
                {{"name":"process.cpu.time","unit":"s","sum":{{"aggregationTemporality":2,"isMonotonic":true,
                "dataPoints":[{{"asDouble":{used},"startTimeUnixNano":"1000","timeUnixNano":"{at}"}}]}}}}]}}]}}]}}"#
            )
            .replace('\n', "")
        };
        let file = format!("{}\n{}\n", line("stage", 1_000, 50.0), line("stage", 1_010, 60.0));
        assert_eq!(form_of("metrics.json", &file), Form::Otlp);
        let signals = foreign(&file, Form::Otlp, "stage").unwrap();
        assert_eq!(signals.len(), 1, "the first one has nothing to compare with");
        assert_eq!(signals[0].cpu_utilization, Some(0.5), "10 s of CPU in 10 s on two cores");
        let failure = foreign(&line("prod", 1_000, 50.0), Form::Otlp, "stage").unwrap_err();
        assert!(failure.to_string().contains("nothing was sent"), "{failure}");
        assert!(foreign("{", Form::Otlp, "stage").is_err());
        assert!(foreign("{}", Form::Alertmanager, "stage").is_err());
    }

    #[test]
    fn every_line_that_is_no_signal_is_named_and_nothing_is_sent() {
        let failure = parse("{\"app\":\"web\"}\n{\"cpu\":1}\nnonsense\n", Form::Jsonl).unwrap_err();
        assert_eq!(failure.to_string(), "2 of 3 lines are no signals, nothing was sent");
        let mut page = crate::page::Page::default();
        failure.page(&mut page);
        let text = page.render(false);
        assert!(text.contains("line 2") && text.contains("line 3"), "{text}");
        let failure = parse("app,cpu\nweb,1\n", Form::Csv).unwrap_err();
        assert!(failure.to_string().contains("has not: cpu"), "{failure}");
        let failure = parse("app,error_ratio\nweb,1,2\nweb,\"1\"\n", Form::Csv).unwrap_err();
        assert_eq!(failure.to_string(), "2 of 2 lines are no signals, nothing was sent");
    }
}

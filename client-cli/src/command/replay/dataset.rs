//! Recorded telemetry of one app as CSV: read whole, or refused with every cell that is wrong.

use agentd_core::app::{AppName, Millis};
use agentd_core::signal::Metric;
use chrono::DateTime;

use crate::failure::Failure;
use crate::text;

/// Most rows of a dataset.
const ROWS_MAX: usize = 1_000_000;
/// Mistakes that are told one by one.
const TOLD: usize = 20;
/// The app of a dataset that names none.
const UNNAMED: &str = "dataset";

/// Telemetry of one app, oldest first; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dataset {
    pub(super) app: AppName,
    pub(super) rows: Vec<Row>,
}

/// What was measured at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) at: Millis,
    /// In millionths of the metric's unit.
    pub(super) values: Vec<(Metric, i64)>,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Time,
    App,
    Metric(Metric),
}

impl Column {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "time" | "timestamp" => Some(Self::Time),
            "app" => Some(Self::App),
            _ => Metric::ALL.into_iter().find(|m| m.as_str() == name).map(Self::Metric),
        }
    }
}

impl Dataset {
    /// Reads the text of `file`.
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, Failure> {
        let mut lines = text.lines().zip(1_u64..).filter(|(line, _)| !line.trim().is_empty());
        let (header, _) = lines
            .next()
            .ok_or_else(|| Failure::usage(format!("`{file}` is empty")).hint(format()))?;
        let columns = columns(file, header)?;
        let (mut reader, mut rows) = (Reader::default(), Vec::new());
        for (line, number) in lines {
            if rows.len() >= ROWS_MAX {
                return Err(Failure::usage(format!("`{file}` has more than {ROWS_MAX} rows"))
                    .hint("cut it into parts"));
            }
            rows.extend(reader.row(line, number, &columns));
        }
        reader.told(file)?;
        if rows.is_empty() {
            return Err(Failure::usage(format!("`{file}` has no row below its header")));
        }
        let app = reader.app.map_or_else(|| AppName::parse(UNNAMED), |(app, _)| Ok(app));
        let app = app.map_err(|_unnamed| Failure::usage(AppName::RULE))?;
        Ok(Self { app, rows })
    }
}

/// How a dataset looks.
fn format() -> String {
    let metrics: Vec<&str> = Metric::ALL.into_iter().map(Metric::as_str).collect();
    format!("the first line names the columns: time, app (optional), {}", metrics.join(", "))
}

fn columns(file: &str, header: &str) -> Result<Vec<Column>, Failure> {
    let mut columns = Vec::new();
    for name in header.split(',').map(str::trim) {
        let Some(column) = Column::parse(name) else {
            let what = format!("`{file}` line 1: `{}` is no column", text::line(name));
            return Err(Failure::usage(what).hint(format()));
        };
        if columns.contains(&column) {
            let what = format!("`{file}` line 1: `{name}` is there twice");
            return Err(Failure::usage(what).hint(format()));
        }
        columns.push(column);
    }
    let missing = if !columns.contains(&Column::Time) {
        Some("time")
    } else if !columns.iter().any(|column| matches!(column, Column::Metric(_))) {
        Some("of a metric")
    } else {
        None
    };
    match missing {
        None => Ok(columns),
        Some(name) => {
            let what = format!("`{file}` line 1: the column {name} is missing");
            Err(Failure::usage(what).hint(format()))
        }
    }
}

/// What the rows have to agree on, and everything that is wrong with them.
#[derive(Default)]
struct Reader {
    app: Option<(AppName, u64)>,
    last: Option<Millis>,
    wrong: Vec<(u64, String)>,
    count: usize,
}

impl Reader {
    fn row(&mut self, line: &str, number: u64, columns: &[Column]) -> Option<Row> {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        if cells.len() != columns.len() {
            let (have, need) = (cells.len(), columns.len());
            self.fault(number, format!("{have} cells, the header has {need}"));
            return None;
        }
        let (mut at, mut values) = (None, Vec::new());
        for (cell, column) in cells.into_iter().zip(columns) {
            match column {
                Column::Time => at = self.time(cell, number),
                Column::App => self.named(cell, number),
                // What is absent is unknown, never zero.
                Column::Metric(_) if cell.is_empty() => {}
                Column::Metric(metric) => match value(*metric, cell) {
                    Ok(micro) => values.push((*metric, micro)),
                    Err(why) => self.fault(number, why),
                },
            }
        }
        Some(Row { at: at?, values })
    }

    fn time(&mut self, cell: &str, number: u64) -> Option<Millis> {
        let Some(at) = moment(cell) else {
            let cell = text::line(cell);
            self.fault(number, format!("time `{cell}` must be RFC 3339, or seconds since 1970"));
            return None;
        };
        if self.last.is_some_and(|last| last >= at) {
            self.fault(
                number,
                format!("time `{cell}` must be later than the one of the row before"),
            );
        }
        self.last = Some(at);
        Some(at)
    }

    fn named(&mut self, cell: &str, number: u64) {
        match (AppName::parse(cell), &self.app) {
            (Ok(app), None) => self.app = Some((app, number)),
            (Ok(app), Some((known, since))) if app != *known => {
                let what = format!("app `{app}` must be `{known}` as in line {since}");
                self.fault(number, what);
            }
            (Ok(_), Some(_)) => {}
            (Err(_), _) => {
                self.fault(number, format!("app `{}` {}", text::line(cell), AppName::RULE));
            }
        }
    }

    fn fault(&mut self, number: u64, what: String) {
        self.count += 1;
        if self.wrong.len() < TOLD {
            self.wrong.push((number, what));
        }
    }

    fn told(&self, file: &str) -> Result<(), Failure> {
        if self.count == 0 {
            return Ok(());
        }
        let mistakes = if self.count == 1 { "mistake" } else { "mistakes" };
        let what = format!("`{file}` has {} {mistakes}, nothing was replayed", self.count);
        Err(self.wrong.iter().fold(Failure::usage(what), |failure, (number, why)| {
            failure.fact(format!("line {number}"), why.as_str())
        }))
    }
}

/// RFC 3339, or seconds since 1970 with or without a fraction.
fn moment(cell: &str) -> Option<Millis> {
    if let Ok(time) = DateTime::parse_from_rfc3339(cell) {
        return u64::try_from(time.timestamp_millis()).ok();
    }
    let (whole, rest) = cell.split_once('.').unwrap_or((cell, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(rest) || whole.len() > 11 {
        return None;
    }
    let milli: String = rest.chars().chain("000".chars()).take(3).collect();
    whole.parse::<u64>().ok()?.checked_mul(1_000)?.checked_add(milli.parse().ok()?)
}

/// A value in millionths.
fn value(metric: Metric, cell: &str) -> Result<i64, String> {
    let (name, most) = (metric.as_str(), metric.max_micro() / 1_000_000);
    let rule = || format!("{name} `{}` must be a number from 0 to {most}", text::line(cell));
    let number: f64 = cell.parse().map_err(|_not_a_number| rule())?;
    if !number.is_finite() || number < 0.0 {
        return Err(rule());
    }
    // Rounded to millionths as text, so that no binary fraction shows.
    let micro =
        format!("{number:.6}").replace('.', "").parse::<i64>().map_err(|_not_a_number| rule())?;
    if micro <= metric.max_micro() { Ok(micro) } else { Err(rule()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let failure = Dataset::parse("t.csv", text).unwrap_err();
        let mut page = crate::page::Page::default();
        failure.page(&mut page);
        page.render(false)
    }

    #[test]
    fn rows_of_one_app_are_read_with_what_is_known_in_them() {
        let text = "time,app,cpu_utilization,latency_p99\n\
                    2026-01-01T00:00:00Z,web,0.5,\n\n\
                    1767225605.5,web,0.75,0.1\n";
        let Dataset { app, rows } = Dataset::parse("t.csv", text).unwrap();
        assert_eq!(app.as_str(), "web");
        assert_eq!(rows[0].values, [(Metric::CpuUtilization, 500_000)]);
        assert_eq!(rows[1].at - rows[0].at, 5_500);
        assert_eq!(
            rows[1].values,
            [(Metric::CpuUtilization, 750_000), (Metric::LatencyP99, 100_000)]
        );
    }

    #[test]
    fn a_header_without_what_it_needs_names_the_column() {
        assert!(told("").contains("is empty"));
        assert!(told("app,cpu_utilization\n").contains("column time is missing"));
        assert!(told("time,app\n").contains("metric is missing"));
        let unknown = told("time,cpu\n1,2\n");
        assert!(unknown.contains("line 1: `cpu` is no column"), "{unknown}");
        assert!(unknown.contains("cpu_utilization"), "it says which there are: {unknown}");
        assert!(told("time,time,error_ratio\n").contains("there twice"));
        assert!(told("time,error_ratio\n").contains("no row"));
    }

    #[test]
    fn every_cell_that_is_wrong_is_named_with_its_line_and_column() {
        let text = told(
            "time,app,error_ratio\n100,web,NaN\n90,web,0.1\n110,api,0.1\n120,web,1.5\n130,web\n\
             soon,web,0.1\n140,web,-1\n",
        );
        for part in [
            "7 mistakes, nothing was replayed",
            "error_ratio `NaN` must be a number from 0 to 1",
            "time `90` must be later",
            "app `api` must be `web` as in line 2",
            "error_ratio `1.5`",
            "2 cells, the header has 3",
            "time `soon`",
            "error_ratio `-1`",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        for line in 2..=8 {
            assert!(text.contains(&format!("line {line}")), "{line}: {text}");
        }
    }

    #[test]
    fn of_many_mistakes_the_first_are_told_and_all_are_counted() {
        let rows: String = (0..50).map(|n| format!("{n},x\n")).collect();
        let text = told(&format!("time,error_ratio\n{rows}"));
        assert!(text.contains("50 mistakes") && !text.contains("line 30"), "{text}");
    }
}

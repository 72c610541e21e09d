//! `agentctl watch`: decisions and what came of them, as they become durable.

use std::collections::VecDeque;

use agentctl_api::v1;
use agentd_core::reason::Reason;
use clap::Args;
use serde::Serialize;
use v1::watch_decisions_request::Start;
use v1::watch_decisions_response::Item;

use super::follow::{Link, Since};
use super::{Context, pieces};
use crate::connect::{self, Session};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::page::Page;
use crate::text;
use crate::time;
use crate::view::decision::DecisionView;

/// Watch decisions as they are made; goes on where it was when the server restarts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl watch                                 every app, from now on
  agentctl watch my-api billing --tail 20        the last 20, then what comes
  agentctl watch --since 10m --ruling refused    what was refused, from then on
  agentctl watch my-api --until stable --timeout 2m
  agentctl watch -o jsonl | jq -r .reason        one object per line; .cursor goes into --since

GATES has one glyph per group: intake, mode, environment, governance, self-restraint,
blast radius, approval.
  ● passed   ◐ held   ✖ refused   · not judged")]
pub struct WatchArgs {
    /// Apps [default: all]
    #[arg(value_name = "APP")]
    apps: Vec<String>,
    /// Where to start: a duration such as 10m, a sequence number, an RFC 3339 time, or a cursor
    #[arg(long, value_name = "START")]
    since: Option<Since>,
    /// Start with the last N decisions
    #[arg(long, value_name = "N", conflicts_with = "since", value_parser = clap::value_parser!(u32).range(1..=1000))]
    tail: Option<u32>,
    /// Only these actions
    #[arg(long, value_name = "ACTION")]
    action: Vec<String>,
    /// Only these rulings
    #[arg(long, value_enum, visible_alias = "outcome")]
    ruling: Vec<RulingArg>,
    /// Only these reason codes
    #[arg(long, value_name = "CODE")]
    reason: Vec<String>,
    /// End after N decisions, or when every app is healthy
    #[arg(long, value_name = "stable|N")]
    until: Option<Until>,
    /// Also every other event: heartbeats, mode changes, the verdict of each gate
    #[arg(long)]
    all: bool,
}

/// A ruling on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RulingArg {
    /// All gates passed.
    #[value(alias = "executed")]
    Permitted,
    /// Waits for a human.
    #[value(alias = "pending")]
    Held,
    /// Not run.
    Refused,
    /// Nothing, on purpose.
    Noop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Stable,
    Count(u64),
}

impl std::str::FromStr for Until {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("stable", _) => Ok(Self::Stable),
            (_, Ok(count)) if count > 0 => Ok(Self::Count(count)),
            _ => Err("write `stable` or a number from 1"),
        }
    }
}

/// The filter of the API for what the command line says.
pub(super) fn filter(
    apps: &[String],
    actions: &[String],
    reasons: &[String],
    rulings: &[RulingArg],
) -> v1::DecisionFilter {
    let mut actions: Vec<_> = actions.iter().map(|action| action.to_ascii_uppercase()).collect();
    let mut wanted = Vec::new();
    for ruling in rulings {
        match ruling {
            RulingArg::Permitted => wanted.push(v1::Ruling::Permitted.into()),
            RulingArg::Held => wanted.push(v1::Ruling::Held.into()),
            RulingArg::Refused => wanted.push(v1::Ruling::Refused.into()),
            RulingArg::Noop => actions.push("NOOP".to_owned()),
        }
    }
    let reasons = reasons.iter().map(|reason| reason.to_ascii_uppercase()).collect();
    v1::DecisionFilter {
        apps: apps.to_vec(),
        actions,
        reasons,
        rulings: wanted,
        ..Default::default()
    }
}

/// One line of a watch in JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Decision {
        cursor: &'a str,
        #[serde(flatten)]
        decision: Box<DecisionView>,
    },
    Event {
        cursor: &'a str,
        seq: u64,
        time: Option<String>,
        event: &'a str,
        app: &'a str,
        decision_id: &'a str,
        reason: &'a str,
        summary: &'a str,
    },
}

pub(super) async fn run(args: WatchArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let limit = context.global.timeout;
    let stable = args.until == Some(Until::Stable);
    let apps = args.apps.clone();
    let until = args.until;
    let tail_start = match args.tail {
        Some(tail) => Some(behind_the_last(tail, &args, &session).await?),
        None => None,
    };
    let watch = async {
        let mut watch = Watch::new(args, &session, &mut context.output);
        watch.tail_start = tail_start;
        if stable {
            tokio::select! {
                ended = watch.follow() => ended,
                ended = until_stable(&session, &apps) => ended,
            }
        } else {
            watch.follow().await
        }
    };
    match limit {
        None => watch.await,
        Some(limit) => match tokio::time::timeout(limit.0, watch).await {
            Ok(ended) => ended,
            // Watching for a while is what was asked for.
            Err(_) if until.is_none() => Ok(Exit::Ok),
            Err(_) => Err(timed_out(&session, &apps, limit, stable).await),
        },
    }
}

/// The sequence number behind which the last so many decisions stand. The server's own `tail` counts every record.
async fn behind_the_last(tail: u32, args: &WatchArgs, session: &Session) -> Result<u64, Failure> {
    let request = v1::ListDecisionsRequest {
        page_size: i32::try_from(tail).unwrap_or(i32::MAX).clamp(1, 1000),
        page_token: String::new(),
        filter: Some(filter(&args.apps, &args.action, &args.reason, &args.ruling)),
        summary_only: true,
    };
    let answer = session.decisions().list_decisions(session.unary(request)).await;
    let decisions = answer.map_err(|s| session.failure(s))?.into_inner().decisions;
    Ok(decisions.iter().map(|d| d.seq).min().map_or(0, |oldest| oldest.saturating_sub(1)))
}

/// What was not there yet when the time was over.
async fn timed_out(session: &Session, apps: &[String], limit: time::Span, stable: bool) -> Failure {
    let mut failure = Failure::new(Exit::TimedOut, format!("not done within {limit}"));
    if !stable {
        return failure;
    }
    if let Ok(answer) = session.agent().get_status(session.unary(v1::GetStatusRequest {})).await {
        let status = answer.into_inner().status.unwrap_or_default();
        for app in status.apps.iter().filter(|app| is_watched(app, apps) && !is_stable(app)) {
            let counts = format!("{}/{}", app.ready_instances, app.desired_instances);
            failure = failure
                .fact(app.name.as_str(), format!("{}  {counts}", pieces::health(app.health)));
        }
    }
    failure.hint("`agentctl status APP` shows what is missing")
}

fn is_watched(app: &v1::App, apps: &[String]) -> bool {
    apps.is_empty() || apps.contains(&app.name)
}

/// Healthy, complete, and nothing open.
pub(super) fn is_stable(app: &v1::App) -> bool {
    app.health() == v1::AppHealth::Healthy
        && app.findings.is_empty()
        && app.ready_instances >= app.desired_instances
}

async fn until_stable(session: &Session, apps: &[String]) -> Result<Exit, Failure> {
    let mut every = tokio::time::interval(std::time::Duration::from_millis(500));
    loop {
        every.tick().await;
        let answer = session.agent().get_status(session.unary(v1::GetStatusRequest {})).await;
        let status = match answer {
            Ok(answer) => answer.into_inner().status.unwrap_or_default(),
            Err(status) if connect::is_transient(&status) => continue,
            Err(status) => return Err(session.failure(status)),
        };
        let known = |name: &String| status.apps.iter().any(|app| app.name == *name);
        if let Some(missing) = apps.iter().find(|name| !known(name)) {
            return Err(Failure::new(Exit::NotFound, format!("app `{missing}` not found")));
        }
        if status.apps.iter().filter(|app| is_watched(app, apps)).all(is_stable) {
            return Ok(Exit::Ok);
        }
    }
}

/// Decisions whose events are still shown under a filter.
const REMEMBERED: usize = 1000;

struct Watch<'a> {
    args: WatchArgs,
    session: &'a Session,
    output: &'a mut Output,
    /// Behind which record to start, if the last decisions were asked for.
    tail_start: Option<u64>,
    last_seq: u64,
    shown: VecDeque<String>,
    count: u64,
    header: bool,
}

impl<'a> Watch<'a> {
    fn new(args: WatchArgs, session: &'a Session, output: &'a mut Output) -> Self {
        let (last_seq, shown) = (0, VecDeque::new());
        let tail_start = None;
        Self { args, session, output, tail_start, last_seq, shown, count: 0, header: false }
    }

    fn is_filtered(&self) -> bool {
        !(self.args.action.is_empty() && self.args.ruling.is_empty() && self.args.reason.is_empty())
    }

    fn request(&self) -> v1::WatchDecisionsRequest {
        let start = match (&self.args.since, self.tail_start) {
            (Some(Since::Cursor(cursor)), _) => Start::Cursor(cursor.clone()),
            (Some(Since::Seq(seq)), _) => Start::AfterSeq(*seq),
            (Some(since), _) => match since.start_time() {
                Some(time) => Start::StartTime(time),
                None => Start::Beginning(true),
            },
            (None, Some(0)) => Start::Beginning(true),
            (None, Some(seq)) => Start::AfterSeq(seq),
            (None, None) => Start::Now(true),
        };
        let WatchArgs { apps, action, reason, ruling, .. } = &self.args;
        v1::WatchDecisionsRequest {
            start: Some(start),
            filter: Some(filter(apps, action, reason, ruling)),
            bookmark_interval: None,
            include_events: true,
        }
    }

    /// Follows until it is done. A lost connection is taken up again behind the last item.
    async fn follow(&mut self) -> Result<Exit, Failure> {
        let mut watch = self.session.watch_decisions(self.request());
        let mut link = Link::default();
        loop {
            link.seq = self.last_seq;
            let response = link.next(&mut watch, self.session, self.output).await?;
            if self.take(&response)? {
                return Ok(Exit::Ok);
            }
        }
    }

    /// Takes one item; true if it was the last one wanted.
    fn take(&mut self, response: &v1::WatchDecisionsResponse) -> Result<bool, Failure> {
        let mut done = false;
        match &response.item {
            Some(Item::Opened(opened)) => {
                self.output.detail(format!(
                    "log {} from #{}, head #{}",
                    opened.log_id, opened.start_seq, opened.head_seq
                ));
                if self.last_seq == 0 {
                    self.last_seq = opened.start_seq.saturating_sub(1);
                }
            }
            Some(Item::Decision(decision)) if decision.seq > self.last_seq => {
                self.last_seq = decision.seq;
                self.decision(decision, &response.cursor)?;
                done = self.args.until == Some(Until::Count(self.count));
            }
            Some(Item::Event(event)) if event.seq > self.last_seq => {
                self.last_seq = event.seq;
                self.event(event, &response.cursor)?;
            }
            Some(Item::Bookmark(bookmark)) => self.bookmark(bookmark),
            // Seen before the connection was lost, or a kind of a newer server.
            _ => {}
        }
        Ok(done)
    }

    fn decision(&mut self, decision: &v1::Decision, cursor: &str) -> Result<(), Failure> {
        self.count += 1;
        if self.is_filtered() {
            if self.shown.len() == REMEMBERED {
                self.shown.pop_front();
            }
            self.shown.push_back(decision.id.clone());
        }
        let style = self.output.settings().time;
        let header = !std::mem::replace(&mut self.header, true);
        let line = Line::Decision { cursor, decision: Box::new(decision.into()) };
        self.output.emit_item(&line, |page| {
            if header {
                page.header(COLUMNS.map(|(name, width)| text::pad(name, width)).join("  "));
            }
            page.line(decision_row(decision, style));
        })
    }

    fn event(&mut self, event: &v1::EventSummary, cursor: &str) -> Result<(), Failure> {
        let shown = !self.is_filtered() || self.shown.contains(&event.decision_id);
        let wanted = shown && (self.args.all || came_of_a_decision(event));
        if !wanted {
            return Ok(());
        }
        let line = Line::Event {
            cursor,
            seq: event.seq,
            time: time::json(event.time.as_ref()),
            event: &event.event,
            app: &event.app,
            decision_id: &event.decision_id,
            reason: &event.reason,
            summary: &event.summary,
        };
        let style = self.output.settings().time;
        self.output.emit_item(&line, |page| page.line(event_row(event, style)))
    }

    fn bookmark(&mut self, bookmark: &v1::Bookmark) {
        let style = self.output.settings().time;
        let when = pieces::row_time(bookmark.time.as_ref(), style, time::now());
        match bookmark.phase() {
            v1::bookmark::Phase::Draining => self.output.say("! the server stops"),
            v1::bookmark::Phase::Replay => {
                self.output
                    .detail(format!("{when}  replay #{} of #{}", bookmark.seq, bookmark.head_seq));
            }
            _ if self.output.is_table() => self.output.note(|page: &mut Page| {
                page.line(format!(
                    "{}  ·  live, nothing new behind #{}",
                    text::pad(&when, 8),
                    bookmark.seq
                ));
            }),
            _ => {}
        }
    }
}

/// True for what a decision led to. What led to the decision is in the decision itself: its findings and verdicts.
fn came_of_a_decision(event: &v1::EventSummary) -> bool {
    !event.decision_id.is_empty()
        && Reason::parse(&event.event).is_none()
        && !matches!(
            event.event.as_str(),
            "RL_CONSUME"
                | "RL_DECISION"
                | "ORCH_REFUSE"
                | "REFUSAL_EMIT_SUCCESS"
                | "AUTONOMOUS_OPERATION"
                | "EXECUTION_GATE_PASSED"
                | "REQUEST_ANSWERED"
        )
}

const COLUMNS: [(&str, usize); 9] = [
    ("TIME UTC", 8),
    ("APP", 12),
    ("SIGNAL", 28),
    ("DECISION", 11),
    ("CONF", 4),
    ("GATES", 7),
    ("OUTCOME", 12),
    ("DETAIL", 34),
    ("ID", 0),
];

fn row(cells: [String; 9]) -> String {
    let mut out = String::new();
    for (cell, (name, width)) in cells.iter().zip(COLUMNS) {
        let cell = text::line(cell);
        // A time in another style and an explanation are shown in full, even if the columns behind them shift.
        let cell = match name {
            "TIME UTC" | "DETAIL" | "ID" => cell.into_owned(),
            _ => text::fit(&cell, width),
        };
        out.push_str(&text::pad(&cell, width));
        out.push_str("  ");
    }
    out
}

fn decision_row(decision: &v1::Decision, style: Option<time::TimeStyle>) -> String {
    let now = time::now();
    let repeats = match decision.repeat_count {
        0 => String::new(),
        n => format!(" (+{n})"),
    };
    row([
        pieces::row_time(decision.time.as_ref(), style, now),
        if decision.app.is_empty() { "·".to_owned() } else { decision.app.clone() },
        pieces::findings(decision),
        pieces::action(&decision.action),
        format!("{:.2}", decision.confidence),
        pieces::gate_strip(&decision.verdicts),
        pieces::result(decision),
        format!("{}{repeats}", pieces::because(decision, now)),
        decision.id.clone(),
    ])
}

fn event_row(event: &v1::EventSummary, style: Option<time::TimeStyle>) -> String {
    let when = pieces::row_time(event.time.as_ref(), style, time::now());
    let app = if event.app.is_empty() { "·" } else { event.app.as_str() };
    let about = if event.reason.is_empty() || event.reason == event.event {
        event.summary.clone()
    } else {
        format!("{} {}", event.reason, event.summary)
    };
    text::line(&format!(
        "{}  {}  ↳ {}  {about}  {}",
        text::pad(&when, 8),
        text::pad(&text::fit(&text::line(app), 12), 12),
        event.event,
        event.decision_id
    ))
    .into_owned()
}

#[cfg(test)]
mod tests;

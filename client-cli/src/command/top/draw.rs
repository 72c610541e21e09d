//! The picture. Every piece of text from outside goes through the one sanitizer before it is put on the screen.

use agentctl_api::v1;
use chrono::{DateTime, Utc};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table};

use super::keys::KEYS;
use super::model::{Mode, Model, Page};
use crate::command::pieces;
use crate::text;
use crate::time;
use crate::view;

/// Age from which the badge says so.
const STALE: chrono::TimeDelta = chrono::TimeDelta::seconds(12);

/// Draws everything.
pub(super) fn all(frame: &mut Frame<'_>, model: &Model) {
    draw(frame, model, time::now());
}

/// Draws everything as it is at `now`.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: DateTime<Utc>) {
    let [head, tabs, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(header(model, now)), head);
    frame.render_widget(Paragraph::new(tab_line(model)), tabs);
    match (&model.mode, model.page) {
        (Mode::Help, _) => help(frame, body),
        (Mode::Detail { seq, from }, _) => detail(frame, body, model, (*seq, *from)),
        (_, Page::Apps) => apps(frame, body, model, now),
        (_, Page::Decisions) => decisions(frame, body, model, now),
        (_, Page::Approvals) => approvals(frame, body, model, now),
        (_, Page::Bus) => bus(frame, body, model, now),
        (_, Page::Agent) => agent(frame, body, model, now),
    }
    if let Mode::Confirm { what, reason, .. } = &model.mode {
        confirm(frame, body, what, reason);
    }
    frame.render_widget(Paragraph::new(footer(model)), foot);
}

/// Text from outside, made harmless.
fn clean(text: &str) -> String {
    text::line(text).into_owned()
}

fn fg(color: Color) -> Style {
    Style::new().fg(color)
}

/// A glyph has a colour; the word behind it says the same.
fn glyph(word: String) -> Span<'static> {
    let color = match word.chars().next() {
        Some('✔' | '●') => Color::Green,
        Some('✖') => Color::Red,
        Some('◐' | '◷' | '▶' | '!') => Color::Yellow,
        _ => return Span::raw(word),
    };
    Span::styled(word, fg(color))
}

fn header(model: &Model, now: DateTime<Utc>) -> Vec<Line<'static>> {
    let badge = match (&model.lost, model.seen) {
        (Some(_), _) => Span::styled("✖ OFFLINE", fg(Color::Red)),
        (None, Some(seen)) if now.signed_duration_since(seen) > STALE => {
            let age = now.signed_duration_since(seen).num_seconds();
            Span::styled(format!("◐ STALE {age}s"), fg(Color::Yellow))
        }
        (None, Some(_)) => Span::styled("● LIVE", fg(Color::Green)),
        (None, None) => Span::raw("◷ CONNECTING"),
    };
    let Some(status) = &model.status else {
        return vec![Line::from(vec![badge, Span::raw(format!("  {}", clean(&model.address)))])];
    };
    let uptime = status.uptime.as_ref().map(time::span_of).map_or_else(String::new, time::coarse);
    let first = format!(
        "  {}  {} at {}  {}  loop {}  up {uptime}  as {}{}",
        clean(&status.environment).to_uppercase(),
        clean(&status.agent_id),
        clean(&model.address),
        view::agent_state(status.state),
        status.loop_count,
        clean(&model.rights.name),
        if model.rights.reads_only() { " (read-only)" } else { "" },
    );
    let rulings = |name: &str| status.ruling_counts.get(name).copied().unwrap_or(0);
    let log = status.journal.clone().unwrap_or_default();
    let mut second = vec![Span::raw(format!(
        "decisions {} permitted, {} held, {} refused   proof #{} {}   monitors {}   ",
        rulings("permitted"),
        rulings("held"),
        rulings("refused"),
        log.head_seq,
        view::journal_state(log.state),
        status.monitors,
    ))];
    for mode in &status.modes {
        let kind = view::mode_kind(mode.kind).to_uppercase();
        second.push(Span::styled(
            format!("! {kind}{}  ", clean(&pieces::by_whom(mode))),
            fg(Color::Yellow).add_modifier(Modifier::BOLD),
        ));
    }
    if status.storm {
        second.push(Span::styled("! STORM", fg(Color::Red)));
    }
    vec![Line::from(vec![badge, Span::raw(first)]), Line::from(second)]
}

fn tab_line(model: &Model) -> Line<'static> {
    let mut spans = Vec::new();
    for (at, page) in Page::ALL.into_iter().enumerate() {
        let count = match page {
            Page::Apps => model.status.as_ref().map_or(0, |status| status.apps.len()),
            Page::Decisions => model.decisions.len(),
            Page::Approvals => model.approvals.len(),
            Page::Bus | Page::Agent => 0,
        };
        let shown = if count == 0 { String::new() } else { format!(" {count}") };
        let label = format!(" {} {}{shown} ", at + 1, page.name());
        let style = match page {
            _ if page == model.page => Style::new().add_modifier(Modifier::REVERSED),
            Page::Approvals if count > 0 => fg(Color::Yellow),
            _ => Style::new(),
        };
        spans.push(Span::styled(label, style));
    }
    if !model.filter.is_empty() {
        spans.push(Span::styled(format!("  /{}", clean(&model.filter)), fg(Color::Cyan)));
    }
    Line::from(spans)
}

fn footer(model: &Model) -> Line<'static> {
    match &model.mode {
        Mode::Jump(typed) => Line::raw(format!(":{}▏", clean(typed))),
        Mode::Filter(typed) => Line::raw(format!("/{}▏", clean(typed))),
        Mode::Confirm { .. } => Line::raw("Enter does it   Esc leaves it"),
        Mode::Help => Line::raw("any key goes back"),
        Mode::Detail { .. } => Line::raw("↑ ↓ more gates   any other key goes back"),
        Mode::Browse => match (&model.lost, model.said.is_empty()) {
            (Some(why), _) => Line::from(glyph(format!("✖ {}", clean(why)))),
            (None, false) => Line::from(glyph(clean(&model.said))),
            (None, true) => Line::raw(": jump   / filter   Enter open   ? keys   q quit"),
        },
    }
}

/// A table of which only the rows that fit are made, with the selected one among them.
fn list(
    frame: &mut Frame<'_>,
    area: Rect,
    headers: &[&'static str],
    widths: &[Constraint],
    (count, selected): (usize, Option<usize>),
    row: impl Fn(usize) -> Vec<Span<'static>>,
) {
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    let first = selected.map_or(0, |row| (row + 1).saturating_sub(room));
    let rows = (first..count.min(first + room)).map(|at| {
        let style = match selected == Some(at) {
            true => Style::new().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        Row::new(row(at)).style(style)
    });
    let head = Row::new(headers.iter().copied()).style(Style::new().add_modifier(Modifier::BOLD));
    let table = Table::new(rows, widths.iter().copied()).header(head).column_spacing(2);
    frame.render_widget(table, area);
}

fn raw(text: impl Into<String>) -> Span<'static> {
    Span::raw(text.into())
}

fn ago(stamp: Option<&prost_types::Timestamp>, now: DateTime<Utc>) -> String {
    let past = stamp.and_then(time::of).and_then(|at| now.signed_duration_since(at).to_std().ok());
    past.map_or_else(|| pieces::NONE.to_owned(), |past| format!("{} ago", time::coarse(past)))
}

fn apps(frame: &mut Frame<'_>, area: Rect, model: &Model, now: DateTime<Utc>) {
    let apps = model.apps();
    if apps.is_empty() {
        let what = if model.filter.is_empty() {
            "no app yet: agentctl onboard NAME --runtime R --exec PATH"
        } else {
            "no app passes the filter; Esc lifts it"
        };
        frame.render_widget(Paragraph::new(what), area);
        return;
    }
    let headers = ["APP", "HEALTH", "READY", "CPU", "P99", "ERRORS", "LAST DECISION", "WAITS"];
    let widths = [
        Constraint::Max(28),
        Constraint::Length(11),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Fill(1),
        Constraint::Length(5),
    ];
    list(frame, area, &headers, &widths, (apps.len(), Some(model.row)), |at| {
        let Some(app) = apps.get(at) else { return Vec::new() };
        let reading = app.reading.clone().unwrap_or_default();
        let last = app.last_decision.as_ref().map_or_else(
            || pieces::NONE.to_owned(),
            |last| {
                let ruling = view::ruling(last.ruling);
                let when = ago(last.time.as_ref(), now);
                let why = match last.reason.as_str() {
                    "EXECUTION_GATE_PASSED" => String::new(),
                    reason => format!("{reason} "),
                };
                format!("{} {ruling} {why}{when}", pieces::action(&last.action))
            },
        );
        let waits = match app.pending_approvals {
            0 => raw(pieces::NONE),
            n => glyph(format!("◷ {n}")),
        };
        vec![
            raw(clean(&app.name)),
            glyph(pieces::health(app.health)),
            raw(format!("{}/{}", app.ready_instances, app.desired_instances)),
            raw(pieces::percent(reading.cpu_utilization)),
            raw(pieces::latency(reading.latency_p99_seconds)),
            raw(pieces::percent(reading.error_ratio)),
            raw(clean(&last)),
            waits,
        ]
    });
}

fn decisions(frame: &mut Frame<'_>, area: Rect, model: &Model, now: DateTime<Utc>) {
    let shown = model.shown_decisions();
    if shown.is_empty() {
        frame
            .render_widget(Paragraph::new("no decision yet, or none that passes the filter"), area);
        return;
    }
    let headers = ["TIME", "APP", "SIGNAL", "DECISION", "CONF", "GATES", "RESULT", "DETAIL"];
    let widths = [
        Constraint::Length(8),
        Constraint::Max(16),
        Constraint::Max(24),
        Constraint::Length(12),
        Constraint::Length(4),
        Constraint::Length(7),
        Constraint::Length(14),
        Constraint::Min(30),
    ];
    list(frame, area, &headers, &widths, (shown.len(), Some(model.row)), |at| {
        let Some(decision) = shown.get(at) else { return Vec::new() };
        vec![
            raw(pieces::row_time(decision.time.as_ref(), None, now)),
            raw(clean(&decision.app)),
            raw(clean(&pieces::findings(decision))),
            raw(clean(&pieces::action(&decision.action))),
            raw(format!("{:.2}", decision.confidence)),
            raw(pieces::gate_strip(&decision.verdicts)),
            glyph(clean(&pieces::result(decision))),
            raw(clean(&pieces::because(decision, now))),
        ]
    });
}

fn approvals(frame: &mut Frame<'_>, area: Rect, model: &Model, now: DateTime<Utc>) {
    let shown = model.shown_approvals();
    if shown.is_empty() {
        frame.render_widget(Paragraph::new("✔ nothing waits for a human"), area);
        return;
    }
    let headers = ["ID", "APP", "ACTION", "FROM → TO", "REQUESTED BY", "EXPIRES", "WHY"];
    let widths = [
        Constraint::Length(10),
        Constraint::Max(20),
        Constraint::Length(17),
        Constraint::Length(20),
        Constraint::Length(16),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    list(frame, area, &headers, &widths, (shown.len(), Some(model.row)), |at| {
        let Some(approval) = shown.get(at) else { return Vec::new() };
        let plan = approval.plan.as_ref();
        let action = plan.map_or_else(String::new, |plan| pieces::action(&plan.action));
        let left = approval.expire_time.as_ref().and_then(time::of);
        let left = left.and_then(|at| at.signed_duration_since(now).to_std().ok());
        vec![
            raw(clean(&approval.id)),
            raw(clean(&approval.app)),
            raw(clean(&action)),
            raw(clean(&pieces::from_to(plan))),
            raw(clean(&approval.requested_by)),
            raw(left.map_or_else(|| "over".to_owned(), |left| format!("in {}", time::coarse(left)))),
            raw(clean(&approval.summary)),
        ]
    });
}

fn bus(frame: &mut Frame<'_>, area: Rect, model: &Model, now: DateTime<Utc>) {
    let Some(bus) = &model.bus else {
        frame.render_widget(Paragraph::new("◷ not heard of yet"), area);
        return;
    };
    let known =
        |value: Option<u64>| value.map_or_else(|| pieces::NONE.to_owned(), |v| v.to_string());
    let health = if bus.connected { "✔ takes what it is offered" } else { "✖ takes nothing" };
    let place = if bus.place.is_empty() { "in the server".to_owned() } else { clean(&bus.place) };
    let mut rows = vec![
        ("backend", format!("{} {place}", clean(&bus.backend))),
        ("health", health.to_owned()),
        ("published", bus.published.to_string()),
        ("lag", bus.lag.to_string()),
        ("dropped", bus.dropped.to_string()),
        ("failures", bus.failures.to_string()),
        ("held", known(bus.held)),
        ("evicted", known(bus.evicted)),
        ("last taken", ago(bus.last_published_time.as_ref(), now)),
    ];
    if !bus.last_error.is_empty() {
        rows.push(("last error", clean(&bus.last_error)));
    }
    pairs(frame, area, &rows);
}

fn pairs(frame: &mut Frame<'_>, area: Rect, rows: &[(&str, String)]) {
    let lines: Vec<_> = rows
        .iter()
        .map(|(name, value)| Line::from(vec![raw(format!("{name:<12}")), glyph(value.clone())]))
        .collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn agent(frame: &mut Frame<'_>, area: Rect, model: &Model, now: DateTime<Utc>) {
    let Some(status) = &model.status else { return };
    let headers = ["AGENT", "HEALTH", "LAST ACTIVE", "DETAIL"];
    let widths = [
        Constraint::Length(20),
        Constraint::Length(11),
        Constraint::Length(12),
        Constraint::Fill(1),
    ];
    list(frame, area, &headers, &widths, (status.components.len(), Some(model.row)), |at| {
        let Some(part) = status.components.get(at) else { return Vec::new() };
        vec![
            raw(clean(&part.name)),
            glyph(if part.healthy { "● healthy" } else { "✖ unhealthy" }.to_owned()),
            raw(ago(part.last_active_time.as_ref(), now)),
            raw(clean(&part.detail)),
        ]
    });
}

/// One decision: what was seen, and what each gate said.
fn detail(frame: &mut Frame<'_>, area: Rect, model: &Model, (seq, from): (u64, usize)) {
    let Some(decision) = model.decisions.iter().find(|decision| decision.seq == seq) else {
        return;
    };
    let title = format!(
        " {}  {} {}  {}  {} ",
        clean(&decision.id),
        clean(&pieces::action(&decision.action)),
        clean(&decision.app),
        clean(&pieces::result(decision)),
        clean(&decision.reason),
    );
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [top, rest] = Layout::vertical([Constraint::Length(2), Constraint::Fill(1)]).areas(inner);
    let said =
        vec![Line::raw(clean(&pieces::findings(decision))), Line::raw(clean(&decision.summary))];
    frame.render_widget(Paragraph::new(said), top);
    // What stood in the way first.
    let mut verdicts: Vec<&v1::Verdict> = decision.verdicts.iter().collect();
    verdicts.sort_by_key(|verdict| (std::cmp::Reverse(verdict.effect), verdict.group));
    let headers = ["", "GATE", "REASON", "VALUE", "LIMIT"];
    let widths = [
        Constraint::Length(1),
        Constraint::Length(16),
        Constraint::Length(28),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ];
    // Never beyond the last one.
    let from = from.min(verdicts.len().saturating_sub(1));
    let left = verdicts.len() - from;
    list(frame, rest, &headers, &widths, (left, None), |at| {
        let Some(verdict) = verdicts.get(from + at) else { return Vec::new() };
        vec![
            glyph(pieces::effect(verdict.effect).to_owned()),
            raw(clean(&verdict.gate)),
            raw(clean(&verdict.reason)),
            raw(clean(&verdict.value)),
            raw(clean(&verdict.limit)),
        ]
    });
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<_> =
        KEYS.iter().map(|(key, does)| Line::raw(format!("  {key:<14}  {does}"))).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), area);
}

/// A question over the page.
fn confirm(frame: &mut Frame<'_>, area: Rect, what: &str, reason: &str) {
    let width = area.width.saturating_sub(4).min(90);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + area.height.saturating_sub(5) / 2,
        width,
        height: area.height.min(5),
    };
    let lines = vec![
        Line::raw(clean(what)),
        Line::raw(""),
        Line::raw(format!("reason: {}▏", clean(reason))),
    ];
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" sure? ")), place);
}

#[cfg(test)]
mod tests;

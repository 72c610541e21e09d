//! What the keys do: as in k9s, `:` jumps, `/` filters, `?` explains, Esc goes back.

use agentctl_api::v1;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::feed::Order;
use super::model::{Mode, Model, Next, Page};
use crate::command::pieces;

/// Every key, for the page of keys.
pub(super) const KEYS: [(&str, &str); 12] = [
    ("1 … 5, Tab", "change the page"),
    (":", "jump to a page by the beginning of its name; :q quits"),
    ("/", "filter by name; Esc lifts the filter"),
    ("↑ ↓ j k", "move"),
    ("g G PgUp PgDn", "move far"),
    ("Enter", "apps: its decisions; decisions: the gates, one by one"),
    ("a", "approvals: approve the plan that is shown"),
    ("r", "approvals: reject it"),
    ("p", "pause every new effect"),
    ("u", "resume"),
    ("Esc", "go back"),
    ("q, Ctrl-C", "quit"),
];

/// Longest text that is typed.
const TYPED_MAX: usize = 200;
/// Rows of a far move.
const FAR: usize = 10;

/// Takes a key.
pub(super) fn press(model: &mut Model, key: KeyEvent) -> Next {
    if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
        return Next::Quit;
    }
    match std::mem::replace(&mut model.mode, Mode::Browse) {
        Mode::Browse => browse(model, key.code),
        Mode::Help => Next::Nothing,
        Mode::Detail { seq, from } => match key.code {
            KeyCode::Down | KeyCode::Char('j') => set(model, Mode::Detail { seq, from: from + 1 }),
            KeyCode::Up | KeyCode::Char('k') => {
                set(model, Mode::Detail { seq, from: from.saturating_sub(1) })
            }
            _ => Next::Nothing,
        },
        Mode::Jump(typed) => match edit(typed, key.code) {
            Typed::Going(typed) => set(model, Mode::Jump(typed)),
            Typed::Left => Next::Nothing,
            Typed::Done(typed) => jump(model, &typed),
        },
        Mode::Filter(typed) => match edit(typed, key.code) {
            Typed::Going(typed) => {
                // What is typed filters at once.
                model.filter.clone_from(&typed);
                model.row = 0;
                set(model, Mode::Filter(typed))
            }
            Typed::Left => {
                model.filter.clear();
                Next::Nothing
            }
            Typed::Done(typed) => {
                model.filter = typed;
                Next::Nothing
            }
        },
        Mode::Confirm { what, order, reason } => match edit(reason, key.code) {
            Typed::Going(reason) => set(model, Mode::Confirm { what, order, reason }),
            Typed::Left => {
                model.say("nothing was done".to_owned());
                Next::Nothing
            }
            Typed::Done(reason) if reason.trim().is_empty() => {
                model.say("✖ a reason goes into the record: type one, or Esc".to_owned());
                set(model, Mode::Confirm { what, order, reason })
            }
            Typed::Done(reason) => {
                model.say(format!("{what} …"));
                Next::Order(with_reason(order, reason.trim()))
            }
        },
    }
}

fn set(model: &mut Model, mode: Mode) -> Next {
    model.mode = mode;
    Next::Nothing
}

/// Text while it is typed.
enum Typed {
    Going(String),
    Left,
    Done(String),
}

fn edit(mut typed: String, key: KeyCode) -> Typed {
    match key {
        KeyCode::Enter => return Typed::Done(typed),
        KeyCode::Esc => return Typed::Left,
        KeyCode::Backspace => {
            typed.pop();
        }
        KeyCode::Char(c) if typed.len() < TYPED_MAX && !c.is_control() => typed.push(c),
        _ => {}
    }
    Typed::Going(typed)
}

fn jump(model: &mut Model, typed: &str) -> Next {
    if matches!(typed.trim(), "q" | "quit") {
        return Next::Quit;
    }
    match Page::named(typed) {
        Some(page) => model.go(page),
        None => {
            let names = Page::ALL.map(Page::name).join(", ");
            model.say(format!("✖ there is no page `{typed}`; there are {names}"));
        }
    }
    Next::Nothing
}

fn browse(model: &mut Model, key: KeyCode) -> Next {
    let last = model.rows().saturating_sub(1);
    match key {
        KeyCode::Char('q') => return Next::Quit,
        KeyCode::Char('?') => model.mode = Mode::Help,
        KeyCode::Char(':') => model.mode = Mode::Jump(String::new()),
        KeyCode::Char('/') => model.mode = Mode::Filter(model.filter.clone()),
        KeyCode::Char(digit @ '1'..='5') => {
            let at = digit.to_digit(10).and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
            if let Some(page) = Page::ALL.get(at - 1) {
                model.go(*page);
            }
        }
        KeyCode::Tab => {
            let at = Page::ALL.iter().position(|page| *page == model.page).unwrap_or(0);
            if let Some(page) = Page::ALL.get((at + 1) % Page::ALL.len()) {
                model.go(*page);
            }
        }
        KeyCode::Down | KeyCode::Char('j') => model.row = (model.row + 1).min(last),
        KeyCode::Up | KeyCode::Char('k') => model.row = model.row.saturating_sub(1),
        KeyCode::PageDown => model.row = (model.row + FAR).min(last),
        KeyCode::PageUp => model.row = model.row.saturating_sub(FAR),
        KeyCode::Home | KeyCode::Char('g') => model.row = 0,
        KeyCode::End | KeyCode::Char('G') => model.row = last,
        KeyCode::Esc => {
            model.filter.clear();
            model.said.clear();
        }
        KeyCode::Enter => open(model),
        KeyCode::Char('a') => {
            on_approval(model, |id, digest| Order::Approve { id, digest, reason: String::new() });
        }
        KeyCode::Char('r') => {
            on_approval(model, |id, _| Order::Reject { id, reason: String::new() });
        }
        KeyCode::Char('p') => {
            let forbidden = model.rights.pause.clone();
            let what = "pause every new effect".to_owned();
            confirm(model, forbidden, what, Order::Pause { reason: String::new() });
        }
        KeyCode::Char('u') => {
            let forbidden = model.rights.resume.clone();
            confirm(model, forbidden, "resume".to_owned(), Order::Resume { reason: String::new() });
        }
        _ => {}
    }
    Next::Nothing
}

fn open(model: &mut Model) {
    match model.page {
        Page::Apps => {
            let name = model.apps().get(model.row).map(|app| app.name.clone());
            if let Some(name) = name {
                model.go(Page::Decisions);
                model.filter = name;
            }
        }
        Page::Decisions => {
            let seq = model.shown_decisions().get(model.row).map(|decision| decision.seq);
            if let Some(seq) = seq {
                model.mode = Mode::Detail { seq, from: 0 };
            }
        }
        Page::Approvals | Page::Bus | Page::Agent => {}
    }
}

/// Asks for the reason of an order about the selected approval.
fn on_approval(model: &mut Model, order: impl FnOnce(String, String) -> Order) {
    if model.page != Page::Approvals {
        model.say("approvals are on page 3".to_owned());
        return;
    }
    let Some(approval) = model.shown_approvals().get(model.row).map(|a| (*a).clone()) else {
        model.say("nothing waits for an answer".to_owned());
        return;
    };
    let v1::Approval { id, plan, app, .. } = approval;
    let plan = plan.unwrap_or_default();
    let (action, change) = (pieces::action(&plan.action), pieces::from_to(Some(&plan)));
    let order = order(id.clone(), plan.digest);
    let verb = if matches!(order, Order::Approve { .. }) { "approve" } else { "reject" };
    let what = format!("{verb} {id}: {action} {app} {change}");
    confirm(model, model.rights.approve.clone(), what, order);
}

fn confirm(model: &mut Model, forbidden: Option<String>, what: String, order: Order) {
    match forbidden {
        Some(why) => model.say(format!("✖ {why}")),
        None => model.mode = Mode::Confirm { what, order, reason: String::new() },
    }
}

fn with_reason(order: Order, text: &str) -> Order {
    let reason = text.to_owned();
    match order {
        Order::Approve { id, digest, .. } => Order::Approve { id, digest, reason },
        Order::Reject { id, .. } => Order::Reject { id, reason },
        Order::Pause { .. } => Order::Pause { reason },
        Order::Resume { .. } => Order::Resume { reason },
    }
}

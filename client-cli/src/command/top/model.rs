//! What the screen shows: everything that came, bounded, and where the person is in it.

use std::collections::VecDeque;

use agentctl_api::v1;
use chrono::{DateTime, Utc};
use ratatui::crossterm::event::KeyEvent;

use super::feed::Order;
use crate::time;

/// Decisions that are kept.
pub(super) const DECISIONS: usize = 500;

/// Something that changes the screen.
#[derive(Debug)]
pub(super) enum Event {
    /// A key.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// The agent and its apps.
    Status(Box<v1::AgentStatus>),
    /// The connection is lost; why.
    Lost(String),
    /// A decision.
    Decision(Box<v1::Decision>),
    /// What came of one.
    CameOf(Box<v1::EventSummary>),
    /// What waits for a human.
    Approvals(Vec<v1::Approval>),
    /// The bus.
    Bus(Box<v1::BusStats>),
    /// How an order ended.
    Said(String),
}

/// What is to be done after an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing but drawing.
    Nothing,
    /// Something on the server.
    Order(Order),
    /// The end.
    Quit,
}

/// What the token may do, as the server says; `None`: it may. The text says why not.
#[derive(Debug, Clone, Default)]
pub(super) struct Rights {
    /// Name of the principal.
    pub(super) name: String,
    pub(super) approve: Option<String>,
    pub(super) pause: Option<String>,
    pub(super) resume: Option<String>,
}

impl Rights {
    pub(super) fn of(who: &v1::WhoAmIResponse, read_only: bool) -> Self {
        let lacks = |method: &str, role: &str| {
            let path = format!("/agentctl.v1.{method}");
            match (read_only, who.methods.contains(&path)) {
                (true, _) => Some("this screen is read-only".to_owned()),
                (false, true) => None,
                (false, false) => Some(format!("{} lacks the role {role}", who.principal)),
            }
        };
        Self {
            name: who.principal.clone(),
            approve: lacks("ApprovalService/ApproveAction", "approver"),
            pause: lacks("AgentService/Pause", "operator or approver"),
            resume: lacks("AgentService/Resume", "operator"),
        }
    }

    /// True if nothing can be changed.
    pub(super) const fn reads_only(&self) -> bool {
        self.approve.is_some() && self.pause.is_some() && self.resume.is_some()
    }
}

/// A page of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Apps,
    Decisions,
    Approvals,
    Bus,
    Agent,
}

impl Page {
    pub(super) const ALL: [Self; 5] =
        [Self::Apps, Self::Decisions, Self::Approvals, Self::Bus, Self::Agent];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Apps => "apps",
            Self::Decisions => "decisions",
            Self::Approvals => "approvals",
            Self::Bus => "bus",
            Self::Agent => "agent",
        }
    }

    /// The page that `name` begins to name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        let begins = |page: &Self| !name.is_empty() && page.name().starts_with(&name);
        Self::ALL.into_iter().find(begins)
    }
}

/// What the keys mean right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// Moving around.
    Browse,
    /// Typing the name of a page.
    Jump(String),
    /// Typing a filter.
    Filter(String),
    /// Typing the reason of an order, which is also its confirmation.
    Confirm {
        /// What would be done, in words.
        what: String,
        /// The order without its reason.
        order: Order,
        /// The reason so far.
        reason: String,
    },
    /// Looking at one decision.
    Detail {
        /// Which one.
        seq: u64,
        /// First gate that is shown.
        from: usize,
    },
    /// Looking at the keys.
    Help,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) address: String,
    pub(super) rights: Rights,
    pub(super) page: Page,
    pub(super) mode: Mode,
    pub(super) filter: String,
    /// Selected row of the page.
    pub(super) row: usize,
    pub(super) status: Option<v1::AgentStatus>,
    /// When the status came.
    pub(super) seen: Option<DateTime<Utc>>,
    /// Why there is no connection.
    pub(super) lost: Option<String>,
    /// Newest first.
    pub(super) decisions: VecDeque<v1::Decision>,
    pub(super) approvals: Vec<v1::Approval>,
    pub(super) bus: Option<v1::BusStats>,
    /// The last thing that was said.
    pub(super) said: String,
}

impl Model {
    pub(super) fn new(address: String, rights: Rights) -> Self {
        Self {
            address,
            rights,
            page: Page::Apps,
            mode: Mode::Browse,
            filter: String::new(),
            row: 0,
            status: None,
            seen: None,
            lost: None,
            decisions: VecDeque::new(),
            approvals: Vec::new(),
            bus: None,
            said: String::new(),
        }
    }

    pub(super) fn say(&mut self, what: String) {
        self.said = what;
    }

    /// Takes one event.
    pub(super) fn take(&mut self, event: Event) -> Next {
        match event {
            Event::Key(key) => return super::keys::press(self, key),
            Event::Resized => {}
            Event::Status(status) => {
                self.status = Some(sorted(*status));
                self.seen = Some(time::now());
                self.lost = None;
            }
            Event::Lost(why) => self.lost = Some(why),
            Event::Decision(decision) => self.decided(*decision),
            Event::CameOf(event) => self.came_of(&event),
            Event::Approvals(waiting) => self.approvals = waiting,
            Event::Bus(stats) => self.bus = Some(*stats),
            Event::Said(what) => self.said = what,
        }
        self.row = self.row.min(self.rows().saturating_sub(1));
        Next::Nothing
    }

    fn decided(&mut self, decision: v1::Decision) {
        if self.decisions.iter().any(|known| known.seq == decision.seq) {
            return;
        }
        if self.decisions.len() == DECISIONS {
            self.decisions.pop_back();
        }
        // Whoever looks at a row goes on looking at it.
        if self.page == Page::Decisions && self.row > 0 && self.matches(&decision.app) {
            self.row += 1;
        }
        self.decisions.push_front(decision);
    }

    /// The outcome of a decision is a record of its own.
    fn came_of(&mut self, event: &v1::EventSummary) {
        let kind = match event.event.as_str() {
            "SYSTEM_STABLE" => v1::OutcomeKind::Verified,
            "ACTION_FAILED" => v1::OutcomeKind::Failed,
            "ACTION_INCONCLUSIVE" => v1::OutcomeKind::Inconclusive,
            _ => return,
        };
        if let Some(decision) = self.decisions.iter_mut().find(|d| d.id == event.decision_id) {
            decision.outcome = Some(v1::Outcome {
                kind: kind.into(),
                summary: event.summary.clone(),
                ..v1::Outcome::default()
            });
        }
    }

    /// Whether a name passes the filter.
    pub(super) fn matches(&self, name: &str) -> bool {
        self.filter.is_empty() || name.contains(&self.filter)
    }

    /// The apps that pass the filter, the ill ones first.
    pub(super) fn apps(&self) -> Vec<&v1::App> {
        let apps = self.status.iter().flat_map(|status| &status.apps);
        apps.filter(|app| self.matches(&app.name)).collect()
    }

    /// The decisions whose app or action passes the filter, newest first.
    pub(super) fn shown_decisions(&self) -> Vec<&v1::Decision> {
        let passes = |d: &&v1::Decision| {
            self.matches(&d.app) || self.matches(&d.action.to_ascii_lowercase())
        };
        self.decisions.iter().filter(passes).collect()
    }

    /// The approvals whose app or id passes the filter.
    pub(super) fn shown_approvals(&self) -> Vec<&v1::Approval> {
        let passes = |a: &&v1::Approval| self.matches(&a.app) || self.matches(&a.id);
        self.approvals.iter().filter(passes).collect()
    }

    /// Rows of the page.
    pub(super) fn rows(&self) -> usize {
        match self.page {
            Page::Apps => self.apps().len(),
            Page::Decisions => self.shown_decisions().len(),
            Page::Approvals => self.shown_approvals().len(),
            Page::Bus => 0,
            Page::Agent => self.status.as_ref().map_or(0, |status| status.components.len()),
        }
    }

    pub(super) fn go(&mut self, page: Page) {
        if self.page != page {
            self.page = page;
            self.row = 0;
        }
        self.mode = Mode::Browse;
    }
}

/// The ill apps first, then by name.
fn sorted(mut status: v1::AgentStatus) -> v1::AgentStatus {
    let rank = |app: &v1::App| match app.health() {
        v1::AppHealth::Down => 0,
        v1::AppHealth::Degraded => 1,
        v1::AppHealth::Starting => 2,
        v1::AppHealth::Unknown | v1::AppHealth::Unspecified => 3,
        v1::AppHealth::Healthy => 4,
    };
    status.apps.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)));
    status
}

//! Filters of decisions and of proof entries: validated once, then asked per record.
//!
//! Fields that are set must all match; inside one field any match will do. What has no such field does not match it.

use std::collections::BTreeSet;

use agentctl_api::v1;
use agentd_core::action::{Action, Requested, parse};
use agentd_core::app::{AppName, Millis};
use agentd_core::record::{Body, Decided, Record};
use agentd_core::verdict::Effect;
use prost_types::Timestamp;

use super::log::Envelope;
use super::status::Violation;
use super::{from_proto, ids, page, to_proto};
use crate::index::Wanted;

/// Longest event name in a filter.
const NAME_MAX: usize = 64;
/// Event name of a decision.
const DECISION: &str = "RL_DECISION";

/// A span of time; open where nothing is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// From then on.
    pub(super) from: Option<Millis>,
    /// Before then.
    pub(super) until: Option<Millis>,
}

impl Span {
    fn parse(
        from: Option<&Timestamp>,
        until: Option<&Timestamp>,
        violations: &mut Vec<Violation>,
    ) -> Self {
        let from = time("filter.start_time", from, violations);
        let until = time("filter.end_time", until, violations);
        if let (Some(from), Some(until)) = (from, until)
            && from >= until
        {
            let rule = "must be after `filter.start_time`";
            violations.push(Violation::new("filter.end_time", until.to_string(), rule));
        }
        Self { from, until }
    }

    pub(super) fn contains(self, at: Millis) -> bool {
        self.from.is_none_or(|from| at >= from) && !self.is_over(at)
    }

    /// Whether nothing from `at` on is inside.
    pub(super) fn is_over(self, at: Millis) -> bool {
        self.until.is_some_and(|until| at >= until)
    }
}

/// The time in `field`, if there is one.
pub(super) fn time(
    field: &str,
    asked: Option<&Timestamp>,
    violations: &mut Vec<Violation>,
) -> Option<Millis> {
    let asked = asked?;
    let at = from_proto::millis(asked);
    if at.is_none() {
        let rule = "must be a time after 1970";
        violations.push(Violation::new(field, format!("{} s", asked.seconds), rule));
    }
    at
}

fn apps(names: Vec<String>, violations: &mut Vec<Violation>) -> BTreeSet<AppName> {
    page::check_count("filter.apps", names.len(), violations);
    let mut apps = BTreeSet::new();
    for name in names {
        match AppName::parse(&name) {
            Ok(app) => {
                apps.insert(app);
            }
            Err(_) => violations.push(Violation::new("filter.apps", name, AppName::RULE)),
        }
    }
    apps
}

fn reasons(codes: Vec<String>, violations: &mut Vec<Violation>) -> BTreeSet<String> {
    page::check_count("filter.reasons", codes.len(), violations);
    for code in codes.iter().filter(|code| !to_proto::is_reason(code)) {
        let rule = "must be a reason code; ListGates names them all";
        violations.push(Violation::new("filter.reasons", code, rule));
    }
    codes.into_iter().collect()
}

/// An action that nobody may ask for by name, and that decisions are about all the same.
fn unselectable(name: &str) -> Option<Action> {
    let named = |action: &Action| name.eq_ignore_ascii_case(action.as_str());
    Action::ALL.into_iter().find(|action| !action.is_selectable() && named(action))
}

/// The names under which decisions about `names` are known.
pub(super) fn actions(names: &[String], violations: &mut Vec<Violation>) -> BTreeSet<&'static str> {
    page::check_count("filter.actions", names.len(), violations);
    let mut actions = BTreeSet::new();
    for name in names {
        match parse(name) {
            Requested::Known(action) => {
                actions.insert(action.as_str());
            }
            Requested::ScaleBySign => {
                actions.extend([Action::ScaleUp.as_str(), Action::ScaleDown.as_str()]);
            }
            Requested::Unsafe(refused) => {
                actions.insert(refused);
            }
            Requested::Unknown if unselectable(name).is_some() => {
                actions.extend(unselectable(name).map(Action::as_str));
            }
            Requested::Unknown => {
                let mut violation = super::outcome::unknown_action_violation(name);
                violation.field = "filter.actions".to_owned();
                violations.push(violation);
            }
        }
    }
    actions
}

/// Which decisions, and which events beside them.
#[derive(Debug, Clone, Default)]
pub(super) struct DecisionFilter {
    apps: BTreeSet<AppName>,
    actions: BTreeSet<&'static str>,
    reasons: BTreeSet<String>,
    rulings: Vec<v1::Ruling>,
    /// When.
    pub(super) span: Span,
}

impl DecisionFilter {
    pub(super) fn parse(
        filter: Option<v1::DecisionFilter>,
        violations: &mut Vec<Violation>,
    ) -> Self {
        let Some(filter) = filter else { return Self::default() };
        let mut rulings = Vec::new();
        page::check_count("filter.rulings", filter.rulings.len(), violations);
        for number in &filter.rulings {
            match v1::Ruling::try_from(*number) {
                Ok(ruling) if ruling != v1::Ruling::Unspecified => rulings.push(ruling),
                _ => {
                    let rule = "must be PERMITTED, HELD or REFUSED";
                    violations.push(Violation::new("filter.rulings", number.to_string(), rule));
                }
            }
        }
        let (from, until) = (filter.start_time.as_ref(), filter.end_time.as_ref());
        Self {
            span: Span::parse(from, until, violations),
            actions: actions(&filter.actions, violations),
            apps: apps(filter.apps, violations),
            reasons: reasons(filter.reasons, violations),
            rulings,
        }
    }

    /// What the index is asked for: decisions, as far as it knows what they are about.
    pub(super) fn wanted(&self) -> Wanted {
        let apps = self.apps.iter().map(ToString::to_string).collect();
        Wanted { apps, events: vec![DECISION.to_owned()], ..Wanted::default() }
    }

    fn is_about(&self, record: &Record) -> bool {
        self.span.contains(record.at)
            && (self.apps.is_empty()
                || record.app.as_ref().is_some_and(|app| self.apps.contains(app)))
    }

    pub(super) fn matches(&self, record: &Record, decided: &Decided) -> bool {
        self.is_about(record)
            && (self.actions.is_empty()
                || self.actions.contains(decided.proposal.action.as_str())
                || requested(decided).is_some_and(|name| self.actions.contains(name)))
            && (self.reasons.is_empty()
                || self.reasons.contains(decided.ruling.reason_code())
                || blocking(decided).any(|reason| self.reasons.contains(reason)))
            && (self.rulings.is_empty()
                || self.rulings.contains(&to_proto::ruling(&decided.ruling)))
    }

    /// Whether a record that is no decision belongs in a watch with this filter.
    pub(super) fn matches_event(&self, record: &Record) -> bool {
        self.is_about(record)
            && self.rulings.is_empty()
            && (self.actions.is_empty()
                || action_of(&record.body).is_some_and(|a| self.actions.contains(a.as_str())))
            && (self.reasons.is_empty()
                || record.reason().is_some_and(|r| self.reasons.contains(r)))
    }
}

/// The name that was refused by name, if it was one.
fn requested(decided: &Decided) -> Option<&'static str> {
    match parse(decided.proposal.requested_as.as_deref()?) {
        Requested::Unsafe(name) => Some(name),
        _ => None,
    }
}

fn blocking(decided: &Decided) -> impl Iterator<Item = &'static str> {
    let blocking = decided.verdicts.iter().filter(|v| v.effect != Effect::Pass);
    blocking.filter_map(|v| v.reason).map(agentd_core::reason::Reason::as_str)
}

fn action_of(body: &Body) -> Option<Action> {
    Some(match body {
        Body::Blocked { action, .. }
        | Body::Refused { action, .. }
        | Body::Autonomous { action } => *action,
        Body::Attempted(attempt) => attempt.plan.action,
        Body::Concluded(concluded) => concluded.action,
        Body::ApprovalRequested(approval) => approval.plan.action,
        Body::Learned { lesson, .. } => lesson.action,
        _ => return None,
    })
}

/// Which proof entries.
#[derive(Debug, Clone, Default)]
pub(super) struct ProofFilter {
    apps: BTreeSet<AppName>,
    events: BTreeSet<String>,
    reasons: BTreeSet<String>,
    decisions: BTreeSet<u64>,
    /// When.
    pub(super) span: Span,
}

impl ProofFilter {
    pub(super) fn parse(filter: Option<v1::ProofFilter>, violations: &mut Vec<Violation>) -> Self {
        let Some(filter) = filter else { return Self::default() };
        page::check_count("filter.events", filter.events.len(), violations);
        for event in filter.events.iter().filter(|event| !is_event_name(event)) {
            let rule = "must be an event name such as RL_DECISION";
            violations.push(Violation::new("filter.events", event, rule));
        }
        page::check_count("filter.decision_ids", filter.decision_ids.len(), violations);
        let mut decisions = BTreeSet::new();
        for id in &filter.decision_ids {
            match ids::parse_decision("filter.decision_ids", id) {
                Ok(seq) => {
                    decisions.insert(seq);
                }
                Err(violation) => violations.push(violation),
            }
        }
        let (from, until) = (filter.start_time.as_ref(), filter.end_time.as_ref());
        Self {
            span: Span::parse(from, until, violations),
            apps: apps(filter.apps, violations),
            events: filter.events.into_iter().collect(),
            reasons: reasons(filter.reasons, violations),
            decisions,
        }
    }

    /// Whether nothing is filtered: then what is sent is the log as it is.
    pub(super) fn is_everything(&self) -> bool {
        self.apps.is_empty()
            && self.events.is_empty()
            && self.reasons.is_empty()
            && self.decisions.is_empty()
            && self.span == Span::default()
    }

    /// What the index is asked for. Time is not: entries are in its order.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            apps: self.apps.iter().map(ToString::to_string).collect(),
            events: self.events.iter().cloned().collect(),
            reasons: self.reasons.iter().cloned().collect(),
            decisions: self.decisions.iter().copied().collect(),
        }
    }

    /// Whether a line can match, by what is cheap to read of it.
    pub(super) fn may_match(&self, line: &[u8]) -> bool {
        if !self.events.is_empty()
            && super::log::event_name(line).is_some_and(|event| !self.events.contains(event))
        {
            return false;
        }
        if self.apps.is_empty() && self.span == Span::default() {
            return true;
        }
        // What cannot be read is looked at in full, where it fails with a reason.
        Envelope::parse(line).is_none_or(|envelope| {
            (self.events.is_empty() || self.events.contains(&*envelope.event_name))
                && (self.apps.is_empty()
                    || envelope.app.as_deref().is_some_and(|app| {
                        AppName::parse(app).is_ok_and(|app| self.apps.contains(&app))
                    }))
                && envelope.at().is_none_or(|at| self.span.contains(at))
        })
    }

    pub(super) fn matches(&self, record: &Record) -> bool {
        self.span.contains(record.at)
            && (self.apps.is_empty()
                || record.app.as_ref().is_some_and(|app| self.apps.contains(app)))
            && (self.events.is_empty() || self.events.contains(record.body.event_name()))
            && (self.reasons.is_empty()
                || record.reason().is_some_and(|r| self.reasons.contains(r)))
            && (self.decisions.is_empty()
                || record.decision_seq().is_some_and(|seq| self.decisions.contains(&seq)))
    }
}

fn is_event_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_value_of_a_filter_is_reported_at_once() {
        let filter = v1::DecisionFilter {
            apps: vec!["web".into(), "../etc".into()],
            actions: vec!["restart".into(), "dance".into()],
            reasons: vec!["COOLDOWN_ACTIVE".into(), "BAD_MOOD".into()],
            rulings: vec![1, 0, 77],
            start_time: Some(Timestamp { seconds: -1, nanos: 0 }),
            end_time: None,
        };
        let mut violations = Vec::new();
        DecisionFilter::parse(Some(filter), &mut violations);
        let values: Vec<&str> = violations.iter().map(|v| v.value.as_str()).collect();
        assert_eq!(values, ["0", "77", "-1 s", "dance", "../etc", "BAD_MOOD"]);
    }

    #[test]
    fn a_flood_of_values_is_refused() {
        let filter = v1::ProofFilter {
            events: vec!["HEARTBEAT".into(); 101],
            decision_ids: vec!["dec-1".into(); 101],
            ..Default::default()
        };
        let mut violations = Vec::new();
        ProofFilter::parse(Some(filter), &mut violations);
        assert_eq!(violations.len(), 2, "{violations:?}");
    }

    #[test]
    fn an_alias_means_the_actions_it_stands_for() {
        let mut violations = Vec::new();
        let names = ["scale_workers", "Deploy", "restart_service", "drop_database"];
        let names = names.map(str::to_owned);
        let actions = actions(&names, &mut violations);
        assert!(violations.is_empty(), "{violations:?}");
        let expected = ["DEPLOY", "RESTART", "SCALE_DOWN", "SCALE_UP", "drop_database"];
        assert_eq!(actions.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_span_ends_before_its_end_and_is_never_backwards() {
        let span = Span { from: Some(10), until: Some(20) };
        assert_eq!([9, 10, 19, 20].map(|at| span.contains(at)), [false, true, true, false]);
        assert!(span.is_over(20) && !span.is_over(19));
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let mut violations = Vec::new();
        Span::parse(at(2).as_ref(), at(2).as_ref(), &mut violations);
        assert_eq!(violations.len(), 1);
    }
}

//! For tests: one app, its window and its policy, told as a story.

use std::collections::BTreeMap;

use crate::action::Action;
use crate::app::{AppName, Env, Millis};
use crate::choose::Leeway;
use crate::choose::ccq::Knowledge;
use crate::choose::{Choice, Proposal, Row, ValueTable, choose, primary};
use crate::detect::{Finding, FindingKind, View, detect, signature, suspicions};
use crate::plan::{Operation, Plan, Target};
use crate::policy::Policy;
use crate::signal::{Condition, Exit, Metric, Reading, Sample};
use crate::state::{
    AppState, Attempt, Health, HealthChange, Instance, LastEffect, Open, Outcome, Phase, Profile,
    Remembered,
};
use crate::window::Window;

pub(crate) const MONITOR: &str = "monitor/edge";
const BEGIN: Millis = 1_700_000_000_000;

#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub(crate) app: AppState,
    pub(crate) policy: Policy,
    pub(crate) window: Window,
    pub(crate) reading: Reading,
    pub(crate) table: ValueTable,
    pub(crate) knowledge: Knowledge,
    pub(crate) now: Millis,
    pub(crate) frozen: bool,
    pub(crate) leeway: Leeway,
    pub(crate) seq: u64,
}

/// An app of which nothing has run yet.
pub(crate) fn app(name: &str, desired: u32, onboarded_at: Millis) -> AppState {
    AppState {
        profile: Profile {
            name: AppName::parse(name).unwrap(),
            revision: 3,
            spec_digest: "d".repeat(64),
            min: 1,
            max: 4,
            protected: false,
            autonomy: None,
            has_health: true,
            thresholds: BTreeMap::new(),
            windows: Vec::new(),
            rollback_to: None,
            failed_revision: None,
        },
        desired,
        instances: Default::default(),
        open: Default::default(),
        cleared: Default::default(),
        decisions: Default::default(),
        states: Default::default(),
        last_effect: Default::default(),
        breakers: Default::default(),
        attempt: None,
        approval: None,
        exits: Default::default(),
        healthy_since: None,
        last_decision: None,
        adjusted: Default::default(),
        onboarded_at,
        escalated: false,
        standing: Default::default(),
        before: None,
        healed: None,
        expired_at: None,
    }
}

impl Story {
    /// An app that was never started.
    pub(crate) fn onboarded(instances: u32) -> Self {
        let name = AppName::parse("web").unwrap();
        Self {
            app: app("web", instances, BEGIN),
            policy: Policy::default_for(Env::Stage),
            window: Window::new(name.clone()),
            reading: Reading::silent(name, BEGIN, None),
            table: ValueTable::default(),
            knowledge: Knowledge::default(),
            now: BEGIN,
            frozen: false,
            leeway: Leeway::default(),
            seq: 100,
        }
    }

    /// An app with that many ready instances, heard of just now.
    pub(crate) fn healthy(instances: u32) -> Self {
        let mut story = Self::onboarded(instances);
        (0..instances).for_each(|slot| story.phase(slot, Phase::Ready));
        story.window.seen(BEGIN);
        story.look();
        story
    }

    pub(crate) fn phase(&mut self, slot: u32, phase: Phase) {
        let instance = Instance {
            phase,
            fence: None,
            since: self.now,
            started_at: self.now,
            restarts: 0,
            last_exit: None,
        };
        self.app.instances.insert(slot, instance);
    }

    /// The process of `slot` ends.
    pub(crate) fn exits(&mut self, slot: u32, exit: Exit) -> Vec<FindingKind> {
        self.phase(slot, Phase::Exited);
        self.app.instances.get_mut(&slot).unwrap().last_exit = Some(exit);
        self.app.exits.push_back(self.now);
        self.look()
    }

    pub(crate) fn becomes(&mut self, slot: u32, phase: Phase) -> Vec<FindingKind> {
        self.phase(slot, phase);
        self.look()
    }

    /// A value arrives, without a tick.
    pub(crate) fn says(&mut self, source: &str, metric: Metric, micro: i64) {
        self.window.push(&Sample {
            metric,
            micro,
            instance: None,
            source: source.to_owned(),
            observed_ms: self.now,
            received_ms: self.now,
        });
    }

    /// A custom boolean arrives, without a tick.
    pub(crate) fn claims(&mut self, source: &str, name: &str, value: bool) {
        let condition = Condition { value, source: source.to_owned(), at: self.now };
        self.window.condition(name, &condition);
    }

    /// A second passes, the monitor says `micro`, the window is closed.
    pub(crate) fn hears(&mut self, metric: Metric, micro: i64) -> Vec<FindingKind> {
        self.now += 1_000;
        self.says(MONITOR, metric, micro);
        self.look()
    }

    /// Time passes in which nobody says anything; the window is closed at its end.
    pub(crate) fn passes(&mut self, span: Millis) -> Vec<FindingKind> {
        self.now += span;
        self.look()
    }

    /// Closes the window, runs the detectors, opens and closes findings; gives what is open.
    pub(crate) fn look(&mut self) -> Vec<FindingKind> {
        self.reading = self.window.close(self.now, &self.policy, self.app.onboarded_at);
        let kinds: Vec<FindingKind> = self.findings().iter().map(|f| f.kind).collect();
        self.app.open.retain(|kind, _| kinds.contains(kind));
        for kind in &kinds {
            let open = Open { since: self.now, seq: self.seq };
            self.app.open.entry(*kind).or_insert(open);
        }
        kinds
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { app: &self.app, policy: &self.policy, reading: &self.reading, now: self.now }
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        detect(&self.view())
    }

    pub(crate) fn suspected(&self) -> Vec<FindingKind> {
        suspicions(&self.view()).iter().map(|f| f.kind).collect()
    }

    /// What is chosen about the findings, or about the suspicions when there are none.
    pub(crate) fn chooses(&self) -> Proposal {
        let mut findings = self.findings();
        if findings.is_empty() {
            findings = suspicions(&self.view());
        }
        let row = primary(&findings).map_or_else(Row::default, |f| self.table.row(f.kind));
        let beliefs = signature::of(&self.view(), &findings);
        let beliefs = beliefs.map(|s| self.knowledge.beliefs(s)).unwrap_or_default();
        choose(&Choice {
            app: &self.app,
            policy: &self.policy,
            findings: &findings,
            reading: &self.reading,
            row: &row,
            beliefs: &beliefs,
            frozen: self.frozen,
            leeway: Some(&self.leeway),
            now: self.now,
            seq: self.seq,
        })
    }

    pub(crate) fn health_was(&mut self, health: Health, ago: Millis) {
        self.app.states.push_back(HealthChange { health, at: self.now - ago, planned: false });
    }

    /// An attempt is in flight and nothing has been carried out yet.
    pub(crate) fn attempts(&mut self, action: Action, operation: Operation) {
        let plan = Plan {
            app: self.app.profile.name.clone(),
            action,
            operation,
            revision: 3,
            spec_digest: String::new(),
        };
        self.app.attempt = Some(Attempt {
            decision: self.seq,
            plan,
            started_at: self.now,
            delivered_at: None,
            trigger: Vec::new(),
            human: false,
            approval: None,
            indeterminate: false,
            expected: None,
        });
    }

    pub(crate) fn attempts_restart(&mut self, slot: u32) {
        let targets = vec![Target { slot, fence: None, running: false }];
        self.attempts(Action::Restart, Operation::Restart { targets });
    }

    /// The agent did it just now, and that was its outcome.
    pub(crate) fn did(&mut self, action: Action, outcome: Outcome) {
        self.app.decisions.push_back(Remembered {
            seq: self.seq,
            at: self.now,
            action,
            executed: true,
            human: false,
            explored: false,
            outcome: Some(outcome),
        });
        self.app.last_effect.insert(action, LastEffect { at: self.now, streak: 1 });
    }
}

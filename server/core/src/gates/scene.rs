//! One complete case to change for a test: stage, app `web` with four instances of which one has crashed, and the agent proposes
//! to start it. Every gate passes.

use std::collections::BTreeMap;

use super::{Case, Gate, PendingPlan, Surroundings};
use crate::action::Action;
use crate::app::{AppName, Env, Millis};
use crate::choose::{Grant, Proposal, Source};
use crate::detect::{Finding, FindingKind};
use crate::plan::{Fence, Operation, Plan, Target};
use crate::policy::Policy;
use crate::reason::Reason;
use crate::signal::{Condition, MICRO, Metric, Point, Reading, Series};
use crate::state::{
    AppState, Attempt, Health, HealthChange, Instance, LastEffect, Outcome, Pause, Phase, Profile,
    Remembered, Scope,
};
use crate::verdict::{Effect, Fact};

pub(crate) const MINUTE: Millis = 60_000;
/// 2026-01-01T00:00:00Z.
pub(crate) const NOW: Millis = 1_767_225_600_000;

/// An owned [`Case`].
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) app: AppState,
    pub(crate) around: Surroundings,
    pub(crate) policy: Policy,
    pub(crate) policy_digest: String,
    pub(crate) proposal: Proposal,
    pub(crate) findings: Vec<Finding>,
    pub(crate) reading: Reading,
    pub(crate) now: Millis,
}

impl Default for Scene {
    fn default() -> Self {
        let name = AppName::parse("web").unwrap();
        let mut scene = Self {
            app: app(&name),
            around: around(),
            policy: Policy::default_for(Env::Stage),
            policy_digest: "policy".to_owned(),
            proposal: Proposal {
                action: Action::Restart,
                plan: None,
                missing: None,
                confidence: 900,
                candidates: Vec::new(),
                because: vec![FindingKind::Crash],
                source: Source::Agent,
                requested_as: None,
                grant: None,
                explored: false,
                diagnosis: None,
                propensity_ppm: 1_000_000,
            },
            findings: Vec::new(),
            reading: Reading::silent(name, NOW, Some(NOW)),
            now: NOW,
        };
        scene.hear(Metric::CpuUtilization, "monitor", 0);
        scene.instances(4);
        scene.kill(&[3]);
        scene.find(FindingKind::Crash, None);
        scene
    }
}

fn app(name: &AppName) -> AppState {
    AppState {
        profile: Profile {
            name: name.clone(),
            revision: 2,
            spec_digest: "spec".to_owned(),
            min: 1,
            max: 8,
            protected: false,
            autonomy: None,
            has_health: true,
            thresholds: BTreeMap::new(),
            windows: Vec::new(),
            rollback_to: Some(1),
            failed_revision: Some(2),
        },
        desired: 0,
        instances: BTreeMap::new(),
        open: BTreeMap::new(),
        cleared: BTreeMap::new(),
        decisions: Default::default(),
        states: Default::default(),
        last_effect: BTreeMap::new(),
        breakers: BTreeMap::new(),
        attempt: None,
        approval: None,
        exits: Default::default(),
        healthy_since: None,
        last_decision: None,
        adjusted: BTreeMap::new(),
        onboarded_at: 0,
        escalated: false,
        standing: Default::default(),
        before: None,
        healed: None,
        expired_at: None,
    }
}

fn around() -> Surroundings {
    Surroundings {
        env: Env::Stage,
        pauses: Vec::new(),
        dry_run: false,
        demo: false,
        frozen: false,
        log_writable: true,
        apps: 20,
        unhealthy: 1,
        disrupting: 0,
        starting: 0,
        effects_last_hour: 0,
        oldest_effect_at: None,
        storm: None,
        canary: None,
        pending: None,
    }
}

impl Scene {
    pub(crate) fn case(&self) -> Case<'_> {
        Case {
            app: &self.app,
            around: &self.around,
            policy: &self.policy,
            policy_digest: &self.policy_digest,
            proposal: &self.proposal,
            findings: &self.findings,
            reading: &self.reading,
            now: self.now,
        }
    }

    fn slots(&mut self, slots: &[u32], phase: Phase) {
        for slot in slots {
            let fence = Some(Fence { boot_id: "boot".to_owned(), pid: 100 + slot, start_time: 7 });
            let (since, started_at) = (NOW - MINUTE, NOW - 2 * MINUTE);
            let instance =
                Instance { phase, fence, since, started_at, restarts: 0, last_exit: None };
            self.app.instances.insert(*slot, instance);
        }
        self.plan();
    }

    /// So many instances, all ready.
    pub(crate) fn instances(&mut self, n: u32) {
        self.app.desired = n;
        self.app.instances.clear();
        self.slots(&(0..n).collect::<Vec<_>>(), Phase::Ready);
    }

    pub(crate) fn all_ready(&mut self) {
        self.instances(self.app.desired);
    }

    pub(crate) fn all_down(&mut self) {
        self.kill(&(0..self.app.desired).collect::<Vec<_>>());
    }

    pub(crate) fn only_instance(&mut self) {
        self.instances(1);
        self.kill(&[0]);
    }

    /// These instances exit.
    pub(crate) fn kill(&mut self, slots: &[u32]) {
        self.slots(slots, Phase::Exited);
    }

    /// All run, but the last one hangs, and the agent proposes to restart it.
    pub(crate) fn hang(&mut self) {
        self.all_ready();
        self.slots(&[self.app.desired - 1], Phase::Unready);
        self.proposal.action = Action::Restart;
        self.findings.clear();
        self.find(FindingKind::Unresponsive, None);
    }

    /// A finding that the proposal answers.
    pub(crate) fn find(&mut self, kind: FindingKind, metric: Option<Metric>) {
        self.also(kind);
        self.findings.last_mut().unwrap().metric = metric;
        self.proposal.because = vec![kind];
        self.plan();
    }

    /// A finding beside.
    pub(crate) fn also(&mut self, kind: FindingKind) {
        self.findings.push(Finding {
            kind,
            metric: None,
            value: Fact::Count(5),
            limit: Fact::Count(3),
            persistence: 1_000,
            detail: String::new(),
        });
    }

    /// Another action, with the plan that carries it out.
    pub(crate) fn propose(&mut self, action: Action) {
        self.proposal.action = action;
        self.plan();
    }

    pub(crate) fn passive(&mut self, action: Action) {
        self.propose(action);
    }

    /// Makes the plan of the proposed action for the app as it is.
    fn plan(&mut self) {
        let app = &self.app;
        let from = app.desired;
        let operation = match self.proposal.action {
            Action::Noop | Action::Observe | Action::Escalate => {
                self.proposal.plan = None;
                return;
            }
            Action::Restart => Operation::Restart { targets: self.targets() },
            Action::ScaleUp => Operation::Scale { from, to: from + 1 },
            Action::ScaleDown => Operation::Scale { from, to: from.saturating_sub(1) },
            Action::RetryDeployment | Action::Deploy => {
                Operation::Deploy { revision: 2, instances: from }
            }
            Action::AdjustThresholds => Operation::AdjustThreshold {
                metric: Metric::CpuUtilization,
                enter: MICRO,
                leave: MICRO / 2,
            },
            Action::Rollback => Operation::Rollback { from: 2, to: 1, instances: from },
            Action::Configure => Operation::Configure { revision: 3, raises: None },
            Action::Offboard => Operation::Offboard { instances: from },
        };
        self.operation(operation);
    }

    /// What is down, or else what hangs, or else everything.
    fn targets(&self) -> Vec<Target> {
        let all = || self.app.instances.iter();
        let hangs = self.findings.iter().any(|f| f.kind == FindingKind::Unresponsive);
        let wanted = |i: &Instance| {
            if hangs { i.phase == Phase::Unready } else { !i.phase.is_running() }
        };
        let any = all().any(|(_, i)| wanted(i));
        all()
            .filter(|(_, i)| !any || wanted(i))
            .map(|(slot, i)| Target {
                slot: *slot,
                fence: i.fence.clone(),
                running: i.phase.is_running(),
            })
            .collect()
    }

    pub(crate) fn operation(&mut self, operation: Operation) {
        self.proposal.plan = Some(Plan {
            app: self.app.profile.name.clone(),
            action: self.proposal.action,
            operation,
            revision: self.app.profile.revision,
            spec_digest: self.app.profile.spec_digest.clone(),
        });
    }

    pub(crate) fn human(&mut self) {
        self.human_named("alice");
    }

    pub(crate) fn human_named(&mut self, principal: &str) {
        let (principal, reason) = (principal.to_owned(), "because".to_owned());
        self.proposal.source = Source::Human { principal, reason };
    }

    pub(crate) fn monitor(&mut self) {
        self.proposal.source = Source::Other { principal: "monitor".to_owned() };
    }

    /// Bob approved the plan.
    pub(crate) fn grant(&mut self) {
        let requester = match &self.proposal.source {
            Source::Agent => "agent".to_owned(),
            Source::Human { principal, .. } | Source::Other { principal } => principal.clone(),
        };
        let plan = self.proposal.plan.as_ref();
        self.proposal.grant = Some(Grant {
            approval: 50,
            approver: "bob".to_owned(),
            requester,
            plan_digest: plan.map(|p| p.digest(&self.policy_digest)).unwrap_or_default(),
            expires_at: NOW + MINUTE,
        });
    }

    /// The plan waits for a human already.
    pub(crate) fn pending(&mut self, approval: u64, decision: u64) {
        let plan = self.proposal.plan.as_ref().unwrap();
        let plan_digest = plan.digest(&self.policy_digest);
        self.around.pending = Some(PendingPlan { approval, decision, plan_digest });
    }

    /// The plan is being carried out already.
    pub(crate) fn in_flight(&mut self, decision: u64) {
        self.app.attempt = Some(Attempt {
            decision,
            plan: self.proposal.plan.clone().unwrap(),
            started_at: NOW - 1_000,
            delivered_at: None,
            trigger: Vec::new(),
            human: false,
            approval: None,
            indeterminate: false,
            expected: None,
        });
    }

    pub(crate) fn paused(&mut self, scope: Scope, halt: bool, until: Option<Millis>) {
        let (by, reason) = ("carol".to_owned(), "because".to_owned());
        self.around.pauses.push(Pause { scope, halt, by, reason, since: NOW - MINUTE, until });
    }

    pub(crate) fn effect(&mut self, action: Action, ago: Millis, streak: u32) {
        self.app.last_effect.insert(action, LastEffect { at: NOW - ago, streak });
    }

    /// The agent did this.
    pub(crate) fn remember(&mut self, action: Action, ago: Millis, outcome: Option<Outcome>) {
        let seq = self.app.decisions.len() as u64;
        let at = NOW - ago;
        let (executed, human) = (true, false);
        let explored = false;
        let remembered = Remembered { seq, at, action, executed, human, explored, outcome };
        self.app.decisions.push_back(remembered);
    }

    pub(crate) fn health(&mut self, health: Health, ago: Millis) {
        self.app.states.push_back(HealthChange { health, at: NOW - ago, planned: false });
    }

    pub(crate) fn hear(&mut self, metric: Metric, source: &str, ago: Millis) {
        let point = Point { micro: MICRO / 2, at: NOW - ago };
        let series: &mut Series = self.reading.metrics.entry(metric).or_default();
        series.sources.insert(source.to_owned(), point);
    }

    pub(crate) fn claim(&mut self, name: &str, ago: Millis) {
        let condition = Condition { value: true, source: "monitor".to_owned(), at: NOW - ago };
        self.reading.conditions.insert(name.to_owned(), condition);
    }
}

/// What a gate is expected to say. What is not set is not compared.
#[derive(Debug, Clone)]
pub(crate) struct Expect {
    effect: Effect,
    reason: Option<Reason>,
    value: Option<Fact>,
    limit: Option<Fact>,
    clears: Option<Option<Millis>>,
    self_imposed: Option<bool>,
}

const fn expect(effect: Effect, reason: Option<Reason>) -> Expect {
    Expect { effect, reason, value: None, limit: None, clears: None, self_imposed: None }
}

pub(crate) const fn pass() -> Expect {
    expect(Effect::Pass, None)
}

pub(crate) const fn hold(reason: Reason) -> Expect {
    expect(Effect::Hold, Some(reason))
}

pub(crate) const fn refuse(reason: Reason) -> Expect {
    expect(Effect::Refuse, Some(reason))
}

impl Expect {
    pub(crate) const fn saying(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    pub(crate) fn value(mut self, value: Fact) -> Self {
        self.value = Some(value);
        self
    }

    pub(crate) fn limit(mut self, limit: Fact) -> Self {
        self.limit = Some(limit);
        self
    }

    pub(crate) const fn clears(mut self, at: Option<Millis>) -> Self {
        self.clears = Some(at);
        self
    }

    pub(crate) const fn imposed(mut self) -> Self {
        self.self_imposed = Some(false);
        self
    }
}

/// One row of a gate's table: the story, what is different from the default scene, and what the gate says.
pub(crate) type Row = (&'static str, fn(&mut Scene), Expect);

/// Judges every row of a table.
pub(crate) fn check(gate: &Gate, rows: &[Row]) {
    for (story, change, expected) in rows {
        let mut scene = Scene::default();
        change(&mut scene);
        let said = (gate.judge)(&scene.case());
        let tale = format!("{}: {story}: {said:?}", gate.id);
        assert_eq!(said.effect, expected.effect, "{tale}");
        if expected.reason.is_some() || said.effect != Effect::Pass {
            assert_eq!(said.reason, expected.reason, "{tale}");
        }
        if let Some(value) = &expected.value {
            assert_eq!(said.value, *value, "{tale}");
        }
        if let Some(limit) = &expected.limit {
            assert_eq!(said.limit, *limit, "{tale}");
        }
        if let Some(clears) = expected.clears {
            assert_eq!(said.clears_at, clears, "{tale}");
        }
        if let Some(self_imposed) = expected.self_imposed {
            assert_eq!(said.self_imposed, self_imposed, "{tale}");
        }
        if let Some(at) = said.clears_at {
            assert!(at > scene.now, "it clears in the future: {tale}");
        }
    }
}

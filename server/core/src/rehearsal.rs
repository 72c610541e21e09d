//! The whole loop over recorded telemetry of one app: what the agent would have seen, decided and done.
//!
//! Nothing is touched. What the gates permit is taken for carried out at once, and the telemetry goes on as it was recorded, whatever
//! the agent did: so this tells what it would have done, and not what would have come of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::action::Action;
use crate::app::{AppName, Millis, OnboardRequest, RequestedSource, Violation};
use crate::chain::{GENESIS, Hash, leaf_hash};
use crate::detect::FindingKind;
use crate::permit::Permit;
use crate::plan::{Fence, Operation};
use crate::policy::Policy;
use crate::record::{Body, Decided, Observation, Record, Started};
use crate::signal::{Exit, Metric, Reading, Sample};
use crate::state::State;
use crate::step::{By, Input, Moment, Reply, commit, step};
use crate::verdict::Ruling;
use crate::window::Window;

/// Decisions that are told one by one.
const TOLD: usize = 1_000;
const AGENT: &str = "agent-rehearsal";
/// Who reported what was recorded: it is all there is, so it counts as what the server measures itself.
const SOURCE: &str = "sense/recorded";
/// Longest time until the app is taken for deployed.
const PRELUDE_MS: Millis = 30 * 60 * 1_000;
const SECOND: Millis = 1_000;

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// When.
    pub at: Millis,
    /// What was wrong.
    pub findings: Vec<FindingKind>,
    /// What was proposed.
    pub action: Action,
    /// How sure the agent was that it beats doing nothing, in permille.
    pub confidence: u32,
    /// What the gates said.
    pub ruling: Ruling,
}

/// How often something was decided, by what the gates said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Done.
    pub permitted: u64,
    /// A human would have been asked.
    pub held: u64,
    /// Not done.
    pub refused: u64,
}

/// What was found and decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Findings that were raised, by kind.
    pub findings: BTreeMap<FindingKind, u64>,
    /// Decisions by action.
    pub actions: BTreeMap<Action, Count>,
    /// How often humans were told.
    pub escalations: u64,
    /// The first decisions, oldest first.
    pub decisions: Vec<Told>,
    /// Decisions that are not in the list.
    pub not_told: u64,
    /// Hash of the last record: equal runs give equal logs.
    pub head: String,
}

/// An agent that hears what was recorded.
#[derive(Debug)]
pub struct Rehearsal {
    state: State,
    policy: Policy,
    app: AppName,
    window: Window,
    now: Millis,
    head: Hash,
    next_pid: u32,
    report: Report,
    /// Whether the recording has begun: what comes before it is not told.
    begun: bool,
}

impl Rehearsal {
    /// An agent under `policy` that has deployed `app` when the recording begins. In prod it deploys nothing, so there is nothing to hear.
    ///
    /// # Errors
    /// What keeps the app from being onboarded.
    pub fn new(
        policy: Policy,
        app: AppName,
        instances: u32,
        begins: Millis,
    ) -> Result<Self, Vec<Violation>> {
        let mut rehearsal = Self {
            state: State::new(policy.env),
            window: Window::new(app.clone()),
            now: begins.saturating_sub(PRELUDE_MS),
            policy,
            app,
            head: GENESIS,
            next_pid: 1,
            report: Report::default(),
            begun: false,
        };
        rehearsal.prelude(instances, begins)?;
        rehearsal.begun = true;
        Ok(rehearsal)
    }

    fn prelude(&mut self, instances: u32, begins: Millis) -> Result<(), Vec<Violation>> {
        let started = Started {
            agent_id: AGENT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            demo: false,
            dry_run: false,
            frozen: false,
        };
        let policy = Box::new(self.policy.clone());
        self.give(&Input::Started { started, policy, bytes_cut: None });
        let request = Box::new(OnboardRequest {
            name: self.app.to_string(),
            env: self.policy.env.as_str().to_owned(),
            runtime: "binary".to_owned(),
            source: RequestedSource::Exec { path: "/recorded".to_owned(), args: Vec::new() },
            desired_instances: Some(instances),
            max_instances: Some(instances.saturating_mul(2).max(2)),
            ..OnboardRequest::default()
        });
        let by = Self::by("who-recorded");
        let onboard = Input::Onboard { request, found: Vec::new(), update: None, by };
        if let Reply::Invalid(violations) = self.give(&onboard) {
            return Err(violations);
        }
        while self.now < begins {
            // The monitors are there: what they say is what has not begun yet.
            self.window = Window::resumed(self.app.clone(), self.now.saturating_add(SECOND));
            self.pass(SECOND.min(begins.saturating_sub(self.now)));
        }
        Ok(())
    }

    fn by(principal: &str) -> By {
        By { principal: principal.to_owned(), human: true, request: None, validate_only: false }
    }

    /// One value, at the present moment.
    pub fn hear(&mut self, metric: Metric, micro: i64) {
        self.window.push(&Sample {
            metric,
            micro,
            instance: None,
            source: SOURCE.to_owned(),
            observed_ms: self.now,
            received_ms: self.now,
        });
    }

    /// One turn of the loop, at the present moment.
    pub fn look(&mut self) {
        self.give(&Input::Tick);
        let reading = self.close();
        self.give(&Input::Reading(reading));
    }

    /// Time passes, and then the loop turns.
    pub fn pass(&mut self, span: Millis) {
        self.go(span);
        self.look();
    }

    /// Time passes.
    pub fn go(&mut self, span: Millis) {
        self.now = self.now.saturating_add(span);
    }

    /// The process of the first instance ends by itself.
    pub fn crash(&mut self) {
        let fence = self.fence(0);
        self.see(0, Observation::Exited { fence, exit: Exit::Code(1), expected: false });
    }

    /// What was found and decided.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.report.head = self.head.to_string();
        self.report
    }

    fn close(&mut self) -> Reading {
        let onboarded = self.state.apps.get(&self.app).map_or(self.now, |app| app.onboarded_at);
        self.window.close(self.now, &self.policy, onboarded)
    }

    fn fence(&self, slot: u32) -> Option<Fence> {
        self.state.apps.get(&self.app)?.instances.get(&slot)?.fence.clone()
    }

    fn see(&mut self, slot: u32, what: Observation) {
        let reading = self.close();
        self.give(&Input::Observed { app: self.app.clone(), slot, what, reading });
    }

    fn give(&mut self, input: &Input) -> Reply {
        let seq = self.state.last_seq.saturating_add(1);
        let moment = Moment { agent: AGENT, now: self.now, seq, log_writable: true };
        let mut step = step(&self.state, &self.policy, input, &moment);
        commit(&mut self.state, &self.policy, &step.records);
        for record in &step.records {
            self.head = leaf_hash(&record.line(self.head));
            if self.begun {
                self.report.take(record);
            }
        }
        let reply = std::mem::replace(&mut step.reply, Reply::None);
        for permit in step.release(self.state.last_seq) {
            self.carry_out(&permit);
        }
        reply
    }

    /// It succeeds at once.
    fn carry_out(&mut self, permit: &Permit) {
        match permit.plan().operation.clone() {
            Operation::Restart { targets } => {
                targets.iter().for_each(|target| self.start(target.slot));
            }
            Operation::Scale { from, to } if to < from => {
                (to..from).for_each(|slot| self.see(slot, Observation::Removed));
            }
            Operation::Scale { from, to } => (from..to).for_each(|slot| self.start(slot)),
            Operation::Deploy { instances, .. } | Operation::Rollback { instances, .. } => {
                (0..instances).for_each(|slot| self.start(slot));
            }
            Operation::Offboard { .. }
            | Operation::Configure { .. }
            | Operation::AdjustThreshold { .. } => {}
        }
        let (app, decision) = (self.app.clone(), permit.decision());
        let detail = "taken for carried out".to_owned();
        let reading = self.close();
        let (ok, untouched) = (true, false);
        self.give(&Input::Delivered { app, decision, ok, detail, untouched, reading });
    }

    fn start(&mut self, slot: u32) {
        self.next_pid = self.next_pid.saturating_add(1);
        let (pid, start_time) = (self.next_pid, u64::from(self.next_pid));
        let fence = Fence { boot_id: "recorded".to_owned(), pid, start_time };
        self.see(slot, Observation::Started { fence });
        self.see(slot, Observation::Ready);
    }
}

impl Report {
    fn take(&mut self, record: &Record) {
        match &record.body {
            Body::Raised(finding) => *self.findings.entry(finding.kind).or_default() += 1,
            Body::Escalated { .. } => self.escalations += 1,
            Body::Decided(decided) => self.decided(record.at, decided),
            _ => {}
        }
    }

    fn decided(&mut self, at: Millis, decided: &Decided) {
        let count = self.actions.entry(decided.proposal.action).or_default();
        match decided.ruling {
            Ruling::Permitted => count.permitted += 1,
            Ruling::Held { .. } => count.held += 1,
            Ruling::Refused { .. } => count.refused += 1,
        }
        if self.decisions.len() >= TOLD {
            self.not_told += 1;
            return;
        }
        self.decisions.push(Told {
            at,
            findings: decided.findings.iter().map(|finding| finding.kind).collect(),
            action: decided.proposal.action,
            confidence: decided.proposal.confidence,
            ruling: decided.ruling.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Env;
    use crate::signal::MICRO;

    const BEGINS: Millis = 1_700_000_000_000;

    fn rehearse(env: Env, row: impl Fn(&mut Rehearsal, u32)) -> Report {
        let app = AppName::parse("web").unwrap();
        let mut rehearsal = Rehearsal::new(Policy::default_for(env), app, 2, BEGINS).unwrap();
        for second in 0..900 {
            rehearsal.go(1_000);
            rehearsal.hear(Metric::RequestRate, 50 * MICRO);
            row(&mut rehearsal, second);
            rehearsal.look();
        }
        rehearsal.finish()
    }

    fn cpu(rehearsal: &mut Rehearsal, percent: i64) {
        rehearsal.hear(Metric::CpuUtilization, percent * MICRO / 100);
    }

    #[test]
    fn quiet_telemetry_leads_to_nothing() {
        for env in [Env::Dev, Env::Stage] {
            let report = rehearse(env, |rehearsal, _| cpu(rehearsal, 50));
            assert!(report.decisions.is_empty() && report.findings.is_empty(), "{env}: {report:?}");
        }
    }

    #[test]
    fn an_overload_is_answered_by_one_more_instance() {
        let stage = rehearse(Env::Stage, |rehearsal, second| {
            cpu(rehearsal, if (300..420).contains(&second) { 97 } else { 40 });
        });
        assert_eq!(stage.findings.get(&FindingKind::CpuOverload), Some(&1));
        assert!(stage.actions[&Action::ScaleUp].permitted >= 1, "{stage:?}");
    }

    #[test]
    fn an_instance_nobody_needs_is_taken_away_and_one_that_may_be_needed_is_not() {
        let calm = |percent| rehearse(Env::Stage, move |rehearsal, _| cpu(rehearsal, percent));
        let idle = calm(5);
        assert_eq!(idle.actions[&Action::ScaleDown].permitted, 1, "one is the least: {idle:?}");
        assert_eq!(idle.actions.len(), 1, "and nothing else is done: {idle:?}");
        assert!(idle.findings.is_empty(), "nothing is wrong: {idle:?}");
        let busy = calm(50);
        assert!(!busy.actions.contains_key(&Action::ScaleDown), "{busy:?}");
        // A monitor that fell silent does not say that nothing is to be done.
        let silent = rehearse(Env::Stage, |_, _| {});
        assert!(!silent.actions.contains_key(&Action::ScaleDown), "{silent:?}");
    }

    #[test]
    fn what_was_added_for_a_peak_is_kept_for_a_while_and_then_taken_away() {
        let report = rehearse(Env::Stage, |rehearsal, second| {
            cpu(rehearsal, if second < 60 { 97 } else { 5 });
        });
        let permitted = report.decisions.iter().filter(|told| told.ruling == Ruling::Permitted);
        let changes: Vec<_> = permitted.map(|told| (told.action, told.at)).collect();
        let (up, down) = (changes.first(), changes.iter().find(|c| c.0 == Action::ScaleDown));
        let (&(first, up), &(_, down)) = (up.unwrap(), down.unwrap());
        assert_eq!(first, Action::ScaleUp);
        let kept = Policy::default_for(Env::Stage).cooldown.scale_down_after_up_ms;
        assert!(down >= up + kept, "after {} ms", down - up);
    }

    #[test]
    fn what_keeps_an_app_from_being_onboarded_is_said() {
        let app = AppName::parse("web").unwrap();
        let prod = Rehearsal::new(Policy::default_for(Env::Prod), app, 2, BEGINS);
        assert_eq!(prod.unwrap_err()[0].field, "environment");
    }

    #[test]
    fn a_spike_is_not_acted_on_and_a_forced_crash_is() {
        let spike = rehearse(Env::Stage, |rehearsal, second| {
            cpu(rehearsal, if second == 300 { 99 } else { 40 });
        });
        assert!(spike.actions.values().all(|count| count.permitted == 0), "{spike:?}");
        let crash = rehearse(Env::Stage, |rehearsal, second| {
            cpu(rehearsal, 40);
            if second == 300 {
                rehearsal.crash();
            }
        });
        assert_eq!(crash.actions[&Action::Restart].permitted, 1, "{crash:?}");
    }

    #[test]
    fn the_same_recording_gives_the_same_log() {
        let burst = |rehearsal: &mut Rehearsal, second: u32| {
            cpu(rehearsal, i64::from(40 + 57 * u32::from(second % 100 > 60)));
        };
        let (one, two) = (rehearse(Env::Dev, burst), rehearse(Env::Dev, burst));
        assert_eq!(one, two);
        assert!(!one.decisions.is_empty());
        assert_ne!(one.head, rehearse(Env::Dev, |rehearsal, _| cpu(rehearsal, 40)).head);
    }
}

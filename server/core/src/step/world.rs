//! A small world for tests: a log, a state, and apps that obey permits. No clock, no IO: time is a number that is moved.

use std::collections::BTreeMap;

use crate::app::{AppName, Env, Field, Millis, OnboardRequest, RequestedSource};
use crate::chain::GENESIS;
use crate::choose::Params;
use crate::permit::Permit;
use crate::plan::{Fence, Operation};
use crate::policy::Policy;
use crate::record::{Author, Body, Decided, Observation, Record, Request, Started};
use crate::replay::Replay;
use crate::signal::{Exit, Metric, Reading, Sample};
use crate::state::{AppState, Apps, Outcome, State};
use crate::window::Window;

use super::{By, Input, Moment, Reply, Update, step};

/// Agent id of the test world.
pub(crate) const AGENT: &str = "agent-0badcafe";

pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) policy: Policy,
    pub(crate) now: Millis,
    pub(crate) log: Vec<Record>,
    pub(crate) windows: BTreeMap<AppName, Window>,
    /// Apps that end one millisecond after every start.
    pub(crate) broken: Vec<AppName>,
    /// Apps of which no new revision can be fetched.
    pub(crate) unreachable: Vec<AppName>,
    /// Plans that were executed, with the decision that permitted them.
    pub(crate) executed: Vec<(u64, Operation)>,
    next_pid: u32,
}

impl World {
    pub(crate) fn new(env: Env) -> Self {
        let policy = Policy::default_for(env);
        let mut world = Self {
            state: State::new(env),
            policy,
            now: 1_000_000,
            log: Vec::new(),
            windows: BTreeMap::new(),
            broken: Vec::new(),
            unreachable: Vec::new(),
            executed: Vec::new(),
            next_pid: 100,
        };
        world.start_agent();
        world
    }

    pub(crate) fn start_agent(&mut self) {
        let started = Started {
            agent_id: AGENT.to_owned(),
            version: "test".to_owned(),
            demo: false,
            dry_run: false,
            frozen: false,
        };
        let policy = Box::new(self.policy.clone());
        self.give(&Input::Started { started, policy, bytes_cut: None });
    }

    /// The server is one of prod from here on, with the apps it has: nothing is onboarded into prod.
    pub(crate) fn turn_prod(&mut self) {
        self.state.env = Env::Prod;
        self.policy = Policy::default_for(Env::Prod);
        self.start_agent();
    }

    /// One step, committed, its permits obeyed.
    pub(crate) fn give(&mut self, input: &Input) -> Reply {
        let (reply, permits) = self.judge(input);
        for permit in permits {
            self.obey(&permit);
        }
        reply
    }

    /// One step, committed; the permits are not obeyed.
    pub(crate) fn judge(&mut self, input: &Input) -> (Reply, Vec<Permit>) {
        let seq = self.state.last_seq + 1;
        let moment = Moment { agent: AGENT, now: self.now, seq, log_writable: true };
        let mut step = step(&self.state, &self.policy, input, &moment);
        super::commit(&mut self.state, &self.policy, &step.records);
        let counted = Apps::from((*self.state.apps).clone());
        assert_eq!(self.state.apps.census(), counted.census(), "each counts as what it is");
        self.log.extend(step.records.iter().cloned());
        let reply = std::mem::replace(&mut step.reply, Reply::None);
        let last = self.state.last_seq;
        (reply, step.release(last))
    }

    pub(crate) fn obey(&mut self, permit: &Permit) {
        let plan = permit.plan().clone();
        self.executed.push((permit.decision(), plan.operation.clone()));
        let app = plan.app.clone();
        let deploys = matches!(plan.operation, Operation::Deploy { .. });
        if deploys && self.unreachable.contains(&app) {
            return self.report(permit, false, "it cannot be fetched".to_owned(), true);
        }
        let slots: Vec<u32> = match &plan.operation {
            Operation::Restart { targets } => targets.iter().map(|t| t.slot).collect(),
            Operation::Scale { from, to } if to > from => (*from..*to).collect(),
            Operation::Scale { from, to } => {
                for slot in *to..*from {
                    self.see(&app, slot, Observation::Removed);
                }
                Vec::new()
            }
            Operation::Deploy { instances, .. } | Operation::Rollback { instances, .. } => {
                (0..*instances).collect()
            }
            Operation::Offboard { instances } => {
                let stuck = u32::from(self.broken.contains(&app));
                for slot in (stuck..*instances).rev() {
                    self.see(&app, slot, Observation::Removed);
                }
                Vec::new()
            }
            Operation::Configure { .. } | Operation::AdjustThreshold { .. } => Vec::new(),
        };
        for slot in slots {
            self.bring_up(&app, slot);
        }
        let (ok, detail) = (!self.broken.contains(&app), "as far as it went".to_owned());
        self.report(permit, ok, detail, false);
    }

    fn report(&mut self, permit: &Permit, ok: bool, detail: String, untouched: bool) {
        let (app, decision) = (permit.plan().app.clone(), permit.decision());
        let reading = self.close(&app);
        self.give(&Input::Delivered { app, decision, ok, detail, untouched, reading });
    }

    pub(crate) fn bring_up(&mut self, app: &AppName, slot: u32) {
        if let Some(fence) = self.instance_fence(app, slot) {
            let what =
                Observation::Exited { fence: Some(fence), exit: Exit::Signal(15), expected: true };
            self.see(app, slot, what);
        }
        self.next_pid += 1;
        let fence = Fence {
            boot_id: "test".to_owned(),
            pid: self.next_pid,
            start_time: u64::from(self.next_pid),
        };
        self.see(app, slot, Observation::Started { fence });
        if self.broken.contains(app) {
            self.now += 1;
            self.crash(app, slot);
        } else {
            self.see(app, slot, Observation::Ready);
        }
    }

    fn instance_fence(&self, app: &AppName, slot: u32) -> Option<Fence> {
        let instance = self.state.apps.get(app)?.instances.get(&slot)?;
        instance.fence.clone().filter(|_| instance.phase.is_running())
    }

    pub(crate) fn see(&mut self, app: &AppName, slot: u32, what: Observation) {
        let reading = self.close(app);
        self.give(&Input::Observed { app: app.clone(), slot, what, reading });
    }

    pub(crate) fn crash(&mut self, app: &AppName, slot: u32) {
        let fence = self.instance_fence(app, slot);
        let what = Observation::Exited { fence, exit: Exit::Signal(9), expected: false };
        self.see(app, slot, what);
    }

    pub(crate) fn close(&mut self, app: &AppName) -> Reading {
        let onboarded = self.state.apps.get(app).map_or(0, |a| a.onboarded_at);
        let window = self.windows.entry(app.clone()).or_insert_with(|| Window::new(app.clone()));
        window.close(self.now, &self.policy, onboarded)
    }

    /// A healthy monitor says something about every app, then one tick of the loop.
    pub(crate) fn tick(&mut self, by: Millis) {
        self.now += by;
        self.give(&Input::Tick);
        let names: Vec<AppName> = self.state.apps.keys().cloned().collect();
        for name in names {
            self.say(&name, "monitor", Metric::RequestRate, 1_000_000);
            let reading = self.close(&name);
            self.give(&Input::Reading(reading));
        }
    }

    /// Ticks of a second until `span` has passed.
    pub(crate) fn pass(&mut self, span: Millis) {
        let end = self.now + span;
        while self.now < end {
            self.tick(1_000);
        }
    }

    pub(crate) fn say(&mut self, app: &AppName, source: &str, metric: Metric, micro: i64) {
        let sample = Sample {
            metric,
            micro,
            instance: None,
            source: source.to_owned(),
            observed_ms: self.now,
            received_ms: self.now,
        };
        let window = self.windows.entry(app.clone()).or_insert_with(|| Window::new(app.clone()));
        window.push(&sample);
    }

    /// What monitors say about an app for a while, second by second.
    pub(crate) fn hear(&mut self, app: &AppName, span: Millis, says: &[(Metric, i64)]) {
        for _ in 0..span / 1_000 {
            self.now += 1_000;
            self.give(&Input::Tick);
            says.iter().for_each(|(metric, micro)| self.say(app, "monitor", *metric, *micro));
            let reading = self.close(app);
            self.give(&Input::Reading(reading));
        }
    }

    pub(crate) fn by(principal: &str) -> By {
        By { principal: principal.to_owned(), human: true, request: None, validate_only: false }
    }

    pub(crate) fn request(name: &str, instances: u32) -> OnboardRequest {
        OnboardRequest {
            name: name.to_owned(),
            runtime: "binary".to_owned(),
            source: RequestedSource::Exec { path: "/usr/bin/app".to_owned(), args: Vec::new() },
            desired_instances: Some(instances),
            max_instances: Some(instances.max(4)),
            ..OnboardRequest::default()
        }
    }

    /// Onboards an app and brings it up to a verified deployment.
    pub(crate) fn onboard(&mut self, name: &str, instances: u32) -> AppName {
        let reply = self.try_onboard(Self::request(name, instances), Self::by("olivia"));
        assert!(matches!(reply, Reply::Onboarded { .. }), "{reply:?}");
        let app = AppName::parse(name).unwrap();
        self.pass(self.policy.verification.hold_ms + 5_000);
        assert_eq!(self.app(&app).attempt, None, "the deployment is over");
        app
    }

    pub(crate) fn try_onboard(&mut self, request: OnboardRequest, by: By) -> Reply {
        let request =
            Box::new(OnboardRequest { env: self.state.env.as_str().to_owned(), ..request });
        self.give(&Input::Onboard { request, found: Vec::new(), update: None, by })
    }

    /// Deploys the next revision of an app and waits until it is verified.
    pub(crate) fn deploy_next(&mut self, app: &AppName) {
        let next = self.state.specs[app].revisions.len().to_string();
        let request = OnboardRequest {
            environment: BTreeMap::from([("VERSION".to_owned(), next)]),
            ..OnboardRequest::default()
        };
        let reply = self.update(app, request, [Field::Environment], None);
        assert!(matches!(reply, Reply::Updated { seq: Some(_), .. }), "{reply:?}");
        self.pass(self.policy.verification.hold_ms + 5_000);
    }

    /// Olivia changes some fields of an app.
    pub(crate) fn update(
        &mut self,
        app: &AppName,
        request: OnboardRequest,
        fields: impl IntoIterator<Item = Field>,
        etag: Option<String>,
    ) -> Reply {
        let request = Box::new(OnboardRequest { name: app.to_string(), ..request });
        let update = Some(Update { fields: fields.into_iter().collect(), etag });
        self.give(&Input::Onboard { request, found: Vec::new(), update, by: Self::by("olivia") })
    }

    pub(crate) fn offboard(&mut self, app: &AppName, by: By) -> Reply {
        let reading = self.close(app);
        let (app, reason) = (app.clone(), "it moved".to_owned());
        self.give(&Input::Offboard { app, reason, etag: None, reading, by })
    }

    pub(crate) fn apply(&mut self, policy: Policy, author: Author) -> Reply {
        let (reason, by) = ("because".to_owned(), Self::by("adam"));
        let input = Input::ApplyPolicy { policy: Box::new(policy.clone()), author, reason, by };
        let reply = self.give(&input);
        if matches!(reply, Reply::Done { seq: Some(_) }) {
            self.policy = policy;
        }
        reply
    }

    pub(crate) fn act(&mut self, app: &AppName, name: &str, by: By) -> Reply {
        let reading = self.close(app);
        let (app, name) = (app.clone(), name.to_owned());
        let (params, reason) = (Params::default(), "because".to_owned());
        self.give(&Input::Act { app, name, params, reason, reading, by })
    }

    pub(crate) fn approve(&mut self, approval: u64, digest: Option<String>, by: By) -> Reply {
        self.give(&Input::Approve {
            approval,
            plan_digest: digest,
            comment: "go".to_owned(),
            reading: None,
            by,
        })
    }

    pub(crate) fn app(&self, app: &AppName) -> &AppState {
        &self.state.apps[app]
    }

    pub(crate) fn events(&self) -> Vec<&'static str> {
        self.log.iter().map(|record| record.body.event_name()).collect()
    }

    pub(crate) fn count(&self, event: &str) -> usize {
        self.events().iter().filter(|name| **name == event).count()
    }

    pub(crate) fn decisions(&self) -> impl Iterator<Item = &Decided> {
        self.log.iter().filter_map(Record::decision)
    }

    pub(crate) fn last_decision(&self) -> &Decided {
        self.decisions().last().expect("a decision was made")
    }

    pub(crate) fn restarts(&self) -> usize {
        self.executed.iter().filter(|(_, op)| matches!(op, Operation::Restart { .. })).count()
    }

    pub(crate) fn outcomes(&self, outcome: Outcome) -> usize {
        let concluded = |r: &&Record| matches!(&r.body, Body::Concluded(c) if c.outcome == outcome);
        self.log.iter().filter(concluded).count()
    }

    /// Writes the log as lines, reads it back, folds it, rechecks every decision, and expects the very same state.
    pub(crate) fn assert_replays(&self) {
        let mut prev = GENESIS;
        let mut replay = Replay::new(self.state.env);
        for record in &self.log {
            let line = record.line(prev);
            prev = crate::chain::leaf_hash(&line);
            let read = Record::parse(&line).expect("every line is a record");
            assert_eq!(&read, record, "a line says what the record says");
            if let Some(decided) = read.decision() {
                replay.recheck(decided).expect("every decision comes out the same");
            }
            replay.fold(&read);
        }
        assert_eq!(replay.state, self.state, "state = fold of the log");
    }

    pub(crate) fn with_request(principal: &str, id: &str, digest: &str) -> By {
        let request = Request { id: id.to_owned(), digest: digest.to_owned() };
        By { request: Some(request), ..Self::by(principal) }
    }
}

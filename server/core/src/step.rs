//! One step of the brain: an input in, records and sealed permits out.
//!
//! `step` mutates nothing and cannot fail. What it decides becomes real in this order: the shell makes the records durable,
//! [`evolve`] folds them into the state, and only then [`Step::release`] hands out the permits.

use std::collections::BTreeSet;

use crate::action::Action;
use crate::app::{AppName, Field, Millis, OnboardRequest, Violation};
use crate::choose::Params;
use crate::choose::snapshot;
use crate::permit::Permit;
use crate::policy::Policy;
use crate::record::{
    Author, Backtested, Body, Exported, Heartbeat, Observation, Record, Snapshotted, Started,
    Stopped,
};
use crate::signal::Reading;
use crate::state::{AppState, Pause, Scope, State, evolve};

mod common_cause;
mod decide;
mod keep;
mod learning;
mod lifecycle;
mod reply;
mod request;
mod rules;
mod tick;
mod verify;

pub(crate) use decide::seen;
pub use keep::{Prune, Unmet};
pub use learning::promotable;
pub use reply::{Failure, Reply};

/// Everything that can happen to the brain.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A window was closed and is not quiet.
    Reading(Reading),
    /// A window was closed, and metrics in it went stale: their last value outlived its time to live, whatever became of the
    /// monitor that sent it.
    Stale(Reading),
    /// Something was observed about an instance.
    Observed {
        /// The app.
        app: AppName,
        /// Instance slot.
        slot: u32,
        /// What.
        what: Observation,
        /// The app's window at this moment: what was observed may need a decision at once.
        reading: Reading,
    },
    /// An actuator reports the end of an effect.
    Delivered {
        /// The app.
        app: AppName,
        /// The decision it belongs to.
        decision: u64,
        /// Whether it was carried out.
        ok: bool,
        /// What the actuator said.
        detail: String,
        /// It failed before anything was touched.
        untouched: bool,
        /// The app's window at this moment: what came of it may need a decision at once.
        reading: Reading,
    },
    /// A refusal was published.
    RefusalEmitted {
        /// The app.
        app: AppName,
        /// The decision.
        decision: u64,
    },
    /// A human wants an app onboarded.
    Onboard {
        /// What they gave.
        request: Box<OnboardRequest>,
        /// Violations the shell found by looking at the host (an executable that is not there).
        found: Vec<Violation>,
        /// What of it replaces what an app that exists has; `None` for a new app.
        update: Option<Update>,
        /// Who and with which request id.
        by: By,
    },
    /// A human wants an app to be stopped and let go.
    Offboard {
        /// The app.
        app: AppName,
        /// Why.
        reason: String,
        /// The app as they saw it; `None` when they do not mind.
        etag: Option<String>,
        /// The app's window at this moment.
        reading: Reading,
        /// Who and with which request id.
        by: By,
    },
    /// Another policy is to be in force.
    ApplyPolicy {
        /// Which.
        policy: Box<Policy>,
        /// Who says so.
        author: Author,
        /// Why.
        reason: String,
        /// Who and with which request id.
        by: By,
    },
    /// A human wants an action.
    Act {
        /// The app.
        app: AppName,
        /// The action as they named it.
        name: String,
        /// How, where the action leaves a choice.
        params: Params,
        /// Why.
        reason: String,
        /// The app's window at this moment.
        reading: Reading,
        /// Who and with which request id.
        by: By,
    },
    /// A human approves.
    Approve {
        /// Sequence number of the request.
        approval: u64,
        /// The plan they saw; `None` when the client did not repeat it.
        plan_digest: Option<String>,
        /// What they said.
        comment: String,
        /// The app's window at this moment.
        reading: Option<Reading>,
        /// Who and with which request id.
        by: By,
    },
    /// A human rejects.
    Reject {
        /// Sequence number of the request.
        approval: u64,
        /// What they said.
        comment: String,
        /// Who and with which request id.
        by: By,
    },
    /// A human pauses or halts.
    Pause {
        /// The pause; `by`, `since` are filled in.
        scope: Scope,
        /// Also what is in flight.
        halt: bool,
        /// Why.
        reason: String,
        /// Ends by itself after this.
        ttl_ms: Option<Millis>,
        /// Who and with which request id.
        by: By,
    },
    /// A human lifts a pause.
    Resume {
        /// Of what.
        scope: Scope,
        /// Why.
        reason: String,
        /// Who and with which request id.
        by: By,
    },
    /// A human freezes or thaws learning.
    Freeze {
        /// Frozen from here on.
        frozen: bool,
        /// Why.
        reason: String,
        /// Who and with which request id.
        by: By,
    },
    /// A human brings what other agents have learned, or this one in the past.
    Import {
        /// It, read and checked.
        snapshot: Box<snapshot::Snapshot>,
        /// Whether it may be one of another environment.
        weak_prior: bool,
        /// Why.
        reason: String,
        /// Who and with which request id.
        by: By,
    },
    /// A human wants the agent to decide by the candidate.
    Promote {
        /// What the log says about it.
        backtest: Box<Backtested>,
        /// Why.
        reason: String,
        /// Who and with which request id.
        by: By,
    },
    /// A human wants something learned to be forgotten.
    Forget {
        /// What the agent decides by, instead of the candidate.
        acting: bool,
        /// Why.
        reason: String,
        /// Who and with which request id.
        by: By,
    },
    /// The state was kept beside the log.
    Snapshotted(Box<Snapshotted>),
    /// Somebody has a copy of the log that leads to what was signed.
    Exported {
        /// Which.
        export: Exported,
        /// Who and with which request id.
        by: By,
    },
    /// A human wants old records to go.
    Prune {
        /// Which.
        wish: Prune,
        /// Who and with which request id.
        by: By,
    },
    /// Time passed: expiries, storm brake.
    Tick,
    /// A scenario injects a failure.
    Inject {
        /// The app.
        app: AppName,
        /// Which scenario.
        scenario: String,
        /// What is done.
        what: String,
    },
    /// The agent starts on this log.
    Started {
        /// Who and how.
        started: Started,
        /// The policy it starts with.
        policy: Box<Policy>,
        /// Bytes cut from a torn tail.
        bytes_cut: Option<u64>,
    },
    /// The agent stops.
    Stopped(Stopped),
    /// Sign of life.
    Heartbeat(Heartbeat),
    /// Equal decisions were counted.
    Repeats {
        /// The app.
        app: AppName,
        /// The decision.
        decision: u64,
        /// How many.
        count: u64,
    },
    /// The agent went through states.
    Transition {
        /// Oldest first.
        path: Vec<std::borrow::Cow<'static, str>>,
    },
}

/// A change of an app that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Fields of the request that count; the others stay as they are.
    pub fields: BTreeSet<Field>,
    /// The app as the caller saw it; `None` when they do not mind.
    pub etag: Option<String>,
}

/// Who asked, and how a repeat of the same request is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// Principal.
    pub principal: String,
    /// Whether the principal is a human who may ask for actions (operator, approver or admin).
    pub human: bool,
    /// Request id and digest of the content; `None` when the caller gave none.
    pub request: Option<crate::record::Request>,
    /// Only judge, record nothing.
    pub validate_only: bool,
}

/// The result of a step. Records are in order; permits are sealed until their decision is durable.
#[derive(Debug)]
pub struct Step {
    /// To be made durable, in this order, then folded in.
    pub records: Vec<Record>,
    /// The answer to the caller.
    pub reply: Reply,
    /// The decision this step repeats, when it decided the same as before.
    pub repeats: Option<(AppName, u64)>,
    permits: Vec<Permit>,
}

impl Step {
    /// Hands out the permits, now that everything up to `durable` is on disk. A permit whose intent is not durable is dropped:
    /// what is not recorded is not done.
    #[must_use]
    pub fn release(self, durable: u64) -> Vec<Permit> {
        let last = self.records.last().map_or(0, |record| record.seq);
        if last <= durable { self.permits } else { Vec::new() }
    }
}

/// Where and when a step happens, and what it has produced so far.
pub(crate) struct Context<'a> {
    pub(crate) state: &'a State,
    pub(crate) policy: &'a Policy,
    pub(crate) agent: &'a str,
    pub(crate) now: Millis,
    next: u64,
    records: Vec<Record>,
    permits: Vec<Permit>,
    repeats: Option<(AppName, u64)>,
    reply: Reply,
    log_writable: bool,
}

/// The surroundings of a step that are not state.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Agent id: the actor of what the agent does by itself.
    pub agent: &'a str,
    /// The time, from the one clock.
    pub now: Millis,
    /// Sequence number of the first record this step may write.
    pub seq: u64,
    /// Whether the proof log can be written.
    pub log_writable: bool,
}

/// Judges one input. Pure: the same arguments give the same result, byte for byte.
#[must_use]
pub fn step(state: &State, policy: &Policy, input: &Input, moment: &Moment<'_>) -> Step {
    let mut ctx = Context {
        state,
        policy,
        agent: moment.agent,
        now: moment.now.max(state.last_at),
        next: moment.seq,
        records: Vec::new(),
        permits: Vec::new(),
        repeats: None,
        reply: Reply::None,
        log_writable: moment.log_writable,
    };
    dispatch(&mut ctx, input);
    let Context { records, permits, repeats, reply, .. } = ctx;
    Step { records, reply, repeats, permits }
}

fn dispatch(ctx: &mut Context<'_>, input: &Input) {
    match input {
        Input::Reading(reading) => decide::on_reading(ctx, reading),
        Input::Stale(reading) => decide::on_stale(ctx, reading),
        Input::Observed { app, slot, what, reading } => {
            verify::on_observed(ctx, app, *slot, what, reading);
        }
        Input::Delivered { app, decision, ok, detail, untouched, reading } => {
            verify::on_delivered(ctx, (app, *decision), (*ok, *untouched), detail, reading);
        }
        Input::RefusalEmitted { app, decision } => {
            ctx.write(Some(app), Some(*decision), Body::RefusalEmitted);
        }
        Input::Onboard { .. } => lifecycle::onboard(ctx, input),
        Input::Offboard { .. } => lifecycle::offboard(ctx, input),
        Input::ApplyPolicy { .. } => rules::apply(ctx, input),
        Input::Act { .. } => request::act(ctx, input),
        Input::Approve { .. } => request::approve(ctx, input),
        Input::Reject { approval, comment, by } => request::reject(ctx, *approval, comment, by),
        Input::Pause { scope, halt, reason, ttl_ms, by } => {
            let until = ttl_ms.map(|ttl| ctx.now.saturating_add(ttl));
            let pause = Pause {
                scope: scope.clone(),
                halt: *halt,
                by: by.principal.clone(),
                reason: reason.clone(),
                since: ctx.now,
                until,
            };
            request::pause(ctx, pause, by);
        }
        Input::Resume { scope, reason, by } => request::resume(ctx, scope, reason, by),
        Input::Freeze { frozen, reason, by } => request::freeze(ctx, *frozen, reason, by),
        Input::Import { .. } => learning::import(ctx, input),
        Input::Promote { backtest, reason, by } => learning::promote(ctx, backtest, reason, by),
        Input::Forget { acting, reason, by } => learning::forget(ctx, *acting, reason, by),
        Input::Snapshotted(snapshot) => keep::snapshotted(ctx, snapshot),
        Input::Exported { export, by } => keep::exported(ctx, export, by),
        Input::Prune { wish, by } => keep::prune(ctx, wish, by),
        Input::Tick => tick::tick(ctx),
        Input::Inject { app, scenario, what } => {
            let body = Body::Injected { scenario: scenario.clone(), what: what.clone() };
            ctx.write(Some(app), None, body);
        }
        Input::Started { started, policy, bytes_cut } => {
            tick::started(ctx, started, policy, *bytes_cut);
        }
        Input::Stopped(stopped) => {
            ctx.write(None, None, Body::Stopped(stopped.clone()));
        }
        Input::Heartbeat(heartbeat) => {
            ctx.write(None, None, Body::Heartbeat(heartbeat.clone()));
        }
        Input::Repeats { app, decision, count } => {
            let body = Body::Repeated { decision: *decision, count: *count };
            ctx.write(Some(app), Some(*decision), body);
        }
        Input::Transition { path } => {
            ctx.write(None, None, Body::Transition { path: path.clone() });
        }
    }
}

impl Context<'_> {
    /// Adds a record by the agent and returns its sequence number.
    pub(crate) fn write(&mut self, app: Option<&AppName>, cause: Option<u64>, body: Body) -> u64 {
        let actor = self.agent.to_owned();
        self.write_as(actor, app, cause, body)
    }

    /// Adds a record by somebody else.
    pub(crate) fn write_as(
        &mut self,
        actor: String,
        app: Option<&AppName>,
        cause: Option<u64>,
        body: Body,
    ) -> u64 {
        let seq = self.next;
        self.next = self.next.saturating_add(1);
        let (at, env, app) = (self.now, self.state.env, app.cloned());
        self.records.push(Record { seq, at, env, app, cause, actor, trace: None, body });
        seq
    }

    /// Adds a record about `app` and folds it into the copy this step works on.
    pub(crate) fn write_app(&mut self, app: &mut AppState, cause: Option<u64>, body: Body) -> u64 {
        let name = app.profile.name.clone();
        let seq = self.write(Some(&name), cause, body);
        self.fold(app);
        seq
    }

    /// Folds the newest record into the working copy of its app.
    pub(crate) fn fold(&mut self, app: &mut AppState) {
        if let Some(record) = self.records.last() {
            crate::state::evolve_app(app, record, self.policy);
        }
    }

    /// A point to rewind to: judging without recording.
    pub(crate) fn mark(&self) -> (u64, usize, usize) {
        (self.next, self.records.len(), self.permits.len())
    }

    /// Forgets everything since `mark`.
    pub(crate) fn rewind(&mut self, (next, records, permits): (u64, usize, usize)) {
        self.next = next;
        self.records.truncate(records);
        self.permits.truncate(permits);
    }

    /// Sequence number a decision made now gets: its `RL_CONSUME` record comes first.
    pub(crate) const fn next_decision(&self) -> u64 {
        self.next.saturating_add(1)
    }

    /// Sequence number of the next record.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }
}

/// What the CLI needs to know of an action name before it asks.
#[must_use]
pub fn is_known_action(name: &str) -> bool {
    !matches!(crate::action::parse(name), crate::action::Requested::Unknown)
}

/// Folds the records of a step into the state: the live counterpart of [`crate::replay::fold`].
pub fn commit(state: &mut State, policy: &Policy, records: &[Record]) {
    for record in records {
        evolve(state, record, policy);
    }
}

/// Actions whose plan is carried out inside the brain: they touch no process, so no actuator is needed.
#[must_use]
pub(crate) const fn is_internal(action: Action) -> bool {
    matches!(action, Action::AdjustThresholds | Action::Configure)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;

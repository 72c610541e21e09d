//! One turn of the loop.

use std::borrow::Cow;
use std::sync::Arc;

use agentd_core::app::{AppName, Millis};
use agentd_core::permit::Permit;
use agentd_core::record::{Body, Decided, LINE_MAX, Record};
use agentd_core::signal::Reading;
use agentd_core::step::{self, Input, Moment, Reply, Step};
use agentd_core::verdict::Ruling;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Instrument as _, info_span};

use super::handle::{Ask, Asked, Unavailable};
use super::{Agent, AgentState, AgentView, BATCH, Event, is_refusal};
use crate::act::Delivery;
use crate::failpoint;
use crate::journal;
use crate::publish::Published;
use crate::snapshot::{self, NoState};
use crate::telemetry::speaker;

/// Answers that wait until their records are durable.
type Answer = (oneshot::Sender<Result<Reply, Unavailable>>, Reply);

/// What a turn has gathered and not yet made durable.
#[derive(Default)]
struct Batch {
    published: Vec<Arc<Published>>,
    lines: Vec<Bytes>,
    steps: Vec<Step>,
    answers: Vec<Answer>,
    /// Deliveries judged in this turn: nobody reports them twice, so they are kept if the turn is lost.
    delivered: Vec<(AppName, u64, Delivery)>,
    first_seq: u64,
}

impl Agent {
    /// Judges what waits, makes it durable, and only then answers, publishes and acts.
    pub(super) async fn turn(&mut self, mut events: Vec<Event>) {
        let began = Instant::now();
        let loops = self.counters.loops;
        loop {
            self.pass(std::mem::take(&mut events)).await;
            // What a pass leads to (a refusal was emitted) is recorded right away, not at the next event.
            if self.own.is_empty() || self.is_blocked() {
                break;
            }
        }
        if self.counters.loops > loops {
            self.parts.metrics.turn(began.elapsed());
        }
    }

    async fn pass(&mut self, events: Vec<Event>) {
        let mut batch = Batch { first_seq: self.head.next_seq, ..Batch::default() };
        let mut queries = Vec::new();
        if !events.is_empty() || !self.own.is_empty() {
            self.counters.loops = self.counters.loops.saturating_add(1);
        }
        self.enter(AgentState::Observing);
        let waiting = events.len().saturating_add(self.own.len());
        info_span!("decide", inputs = waiting).in_scope(|| {
            for event in events {
                match event {
                    Event::Query(query) => queries.push(query),
                    other => self.take(other, &mut batch),
                }
            }
            for _ in 0..BATCH {
                if self.is_blocked() {
                    break;
                }
                let Some(input) = self.own.pop_front() else { break };
                self.judge(&input, &mut batch);
            }
        });
        self.settle(batch).await;
        for query in queries {
            query(&self.view());
        }
    }

    fn take(&mut self, event: Event, batch: &mut Batch) {
        if self.is_blocked() {
            return self.defer(event);
        }
        let now = self.parts.clock.now_ms();
        match event {
            Event::Urgent(app) => {
                if let Some(reading) = self.look(&app, now) {
                    self.judge(&Input::Reading(reading), batch);
                }
            }
            Event::Sighting(seen) => {
                let known = self.look(&seen.app, now);
                let Some(reading) = known else { return };
                let (app, slot, what) = (seen.app, seen.slot, seen.what);
                self.judge(&Input::Observed { app, slot, what, reading }, batch);
            }
            Event::Delivered { app, decision, delivery } => {
                self.in_flight.remove(&decision);
                let Some(reading) = self.look(&app, now) else { return };
                batch.delivered.push((app.clone(), decision, delivery.clone()));
                self.judge(&delivered(app, decision, delivery, reading), batch);
            }
            Event::Ask(asked) => self.asked(*asked, batch),
            Event::Query(_) => {}
        }
    }

    /// What is known of one app right now, because something happened to it.
    fn look(&self, app: &AppName, now: Millis) -> Option<Reading> {
        info_span!("sense", %app).in_scope(|| self.close_window(app, now))
    }

    /// While the log cannot be written nothing is judged: asks are told so, deliveries are kept, sightings are looked for again.
    fn defer(&mut self, event: Event) {
        match event {
            Event::Ask(asked) => {
                let _ = asked.reply.send(Err(self.unavailable()));
            }
            Event::Delivered { app, decision, delivery } => {
                self.in_flight.remove(&decision);
                self.undelivered.push((app, decision, delivery));
            }
            Event::Sighting(_) => {
                self.counters.sightings_deferred =
                    self.counters.sightings_deferred.saturating_add(1);
                self.resync = true;
            }
            Event::Urgent(_) | Event::Query(_) => {}
        }
    }

    fn asked(&mut self, asked: Asked, batch: &mut Batch) {
        let Asked { ask, by, reply } = asked;
        let now = self.parts.clock.now_ms();
        let input = match ask {
            Ask::Onboard(request, found) => Input::Onboard { request, found, update: None, by },
            Ask::Update(request, found, update) => {
                Input::Onboard { request, found, update: Some(update), by }
            }
            Ask::Offboard { app, reason, etag } => {
                let silent = || Reading::silent(app.clone(), now, None);
                let reading = self.close_window(&app, now).unwrap_or_else(silent);
                Input::Offboard { app, reason, etag, reading, by }
            }
            Ask::ApplyPolicy { policy, author, reason } => {
                Input::ApplyPolicy { policy, author, reason, by }
            }
            Ask::Act { app, name, params, reason } => {
                let silent = || Reading::silent(app.clone(), now, None);
                let reading = self.look(&app, now).unwrap_or_else(silent);
                Input::Act { app, name, params, reason, reading, by }
            }
            Ask::Approve { approval, plan_digest, comment } => {
                let app = self.state.approvals.get(&approval).map(|a| a.plan.app.clone());
                let reading = app.and_then(|app| self.look(&app, now));
                Input::Approve { approval, plan_digest, comment, reading, by }
            }
            Ask::Reject { approval, comment } => Input::Reject { approval, comment, by },
            Ask::Pause { scope, halt, reason, ttl_ms } => {
                Input::Pause { scope, halt, reason, ttl_ms, by }
            }
            Ask::Resume { scope, reason } => Input::Resume { scope, reason, by },
            Ask::Freeze { frozen, reason } => Input::Freeze { frozen, reason, by },
            Ask::Import { snapshot, weak_prior, reason } => {
                Input::Import { snapshot, weak_prior, reason, by }
            }
            Ask::Promote { backtest, reason } => Input::Promote { backtest, reason, by },
            Ask::Forget { acting, reason } => Input::Forget { acting, reason, by },
            Ask::Snapshotted(snapshot) => Input::Snapshotted(snapshot),
            Ask::Exported(export) => Input::Exported { export, by },
            Ask::Prune(wish) => Input::Prune { wish, by },
            Ask::Inject { app, scenario, what } => Input::Inject { app, scenario, what },
        };
        let answer = self.judge(&input, batch);
        batch.answers.push((reply, answer));
    }

    /// Judges one input and folds its records in.
    fn judge(&mut self, input: &Input, batch: &mut Batch) -> Reply {
        self.enter(AgentState::Deciding);
        let now = self.parts.clock.now_ms();
        let moment = Moment {
            agent: &self.parts.id,
            now,
            seq: self.head.next_seq,
            log_writable: !self.is_blocked(),
        };
        let mut step = step::step(&self.state, &self.policy, input, &moment);
        let reply = std::mem::replace(&mut step.reply, Reply::None);
        if let Some((app, decision)) = step.repeats.take() {
            self.repeat(app, decision);
        }
        for record in &step.records {
            self.stage(record, batch);
        }
        batch.steps.push(step);
        reply
    }

    fn stage(&mut self, record: &Record, batch: &mut Batch) {
        let mut record = record.clone();
        // In the envelope, so that the same scenario still gives the same body.
        let trace = self.trace.as_ref().filter(|_| record.decision().is_some());
        record.trace = trace.map(ToString::to_string);
        let mut line = record.line(self.head.hash);
        if line.len() > LINE_MAX
            && let Some(short) = self.detach(&record)
        {
            line = short;
        } else if line.len() > LINE_MAX {
            // A record that does not fit is replaced by one that says so; the state follows the log, so nothing is done.
            self.counters.records_too_long = self.counters.records_too_long.saturating_add(1);
            tracing::error!(seq = record.seq, event = record.body.event_name(), "record too long");
            let path = vec![Cow::Borrowed("record_too_long")];
            record = Record { body: Body::Transition { path }, ..record };
            line = record.line(self.head.hash);
        }
        if let Body::PolicyApplied { policy, .. } = &record.body {
            // In force for every input from here on, also within this turn.
            self.policy = (**policy).clone();
            self.parts.ingest.set_rules(&self.policy.freshness);
            self.all_are_due();
        }
        agentd_core::state::evolve(&mut self.state, &record, &self.policy);
        // Another state, another look.
        record.app.iter().for_each(|app| self.due.next(app));
        self.count(&record);
        let line = Bytes::from(line);
        let hash = agentd_core::chain::leaf_hash(&line);
        self.head.next_seq = record.seq.saturating_add(1);
        self.head.hash = hash;
        batch.lines.push(line.clone());
        batch.published.push(Arc::new(Published::new(record, line, hash)));
    }

    /// The line of a record whose body is now beside the log; `None` if it cannot be kept there.
    fn detach(&self, record: &Record) -> Option<Vec<u8>> {
        let (line, body) = record.line_detached(self.head.hash);
        match self.parts.journal.blobs().put(&body) {
            Ok(_) => Some(line),
            Err(error) => {
                tracing::error!(%error, seq = record.seq, "a body is not kept beside the log");
                None
            }
        }
    }

    fn count(&mut self, record: &Record) {
        let Body::Decided(decided) = &record.body else { return };
        let counters = &mut self.counters;
        counters.decisions = counters.decisions.saturating_add(1);
        let ruling = match decided.ruling {
            Ruling::Permitted => &mut counters.permitted,
            Ruling::Held { .. } => &mut counters.held,
            Ruling::Refused { .. } => &mut counters.refused,
        };
        *ruling = ruling.saturating_add(1);
        counters.last_decision = Some(record.seq);
        counters.last_app.clone_from(&record.app);
    }

    fn repeat(&mut self, app: AppName, decision: u64) {
        self.counters.repeated = self.counters.repeated.saturating_add(1);
        let entry = self.repeats.entry(app).or_insert((decision, 0));
        if entry.0 == decision {
            entry.1 = entry.1.saturating_add(1);
        } else {
            *entry = (decision, 1);
        }
    }

    /// Makes the batch durable; then, and only then, answers, publishes and acts.
    async fn settle(&mut self, batch: Batch) {
        let Batch { published, lines, steps, answers, delivered, first_seq } = batch;
        if lines.is_empty() {
            for (reply, answer) in answers {
                let _ = reply.send(Ok(answer));
            }
            return;
        }
        self.enter(AgentState::Enforcing);
        let enforce = info_span!("enforce", inputs = steps.len());
        let _ = failpoint::hit("agent.before_intent");
        let outcome = if failpoint::bug("agent.act_before_record") {
            // Planted: act first, record afterwards.
            self.act(steps, u64::MAX);
            return drop(self.parts.journal.append(first_seq, lines).await);
        } else {
            let began = Instant::now();
            let records = lines.len();
            let appending = info_span!(parent: &enforce, "record", records, first_seq);
            let outcome = self.parts.journal.append(first_seq, lines).instrument(appending).await;
            self.parts.metrics.append(began.elapsed());
            outcome
        };
        drop(enforce);
        self.parts.journal.blobs().settled();
        match outcome {
            Ok(durable) => {
                let _ = failpoint::hit("agent.after_intent");
                for (reply, answer) in answers {
                    let _ = reply.send(Ok(answer));
                }
                self.publish(&published);
                self.enter(AgentState::Acting);
                info_span!("act").in_scope(|| self.act(steps, durable.last_seq));
                // What was dispatched waits for this task to give way, and an app that is down not for words and numbers.
                tokio::task::yield_now().await;
                self.enter(AgentState::Explaining);
                info_span!("explain").in_scope(|| self.account(&published));
                self.enter(AgentState::ObservingResults);
            }
            Err(error) => {
                self.undelivered.extend(delivered);
                self.lose(&error, answers);
            }
        }
    }

    fn act(&mut self, steps: Vec<Step>, durable: u64) {
        let permits: Vec<Permit> = steps.into_iter().flat_map(|s| s.release(durable)).collect();
        for permit in permits {
            self.dispatch(permit);
        }
    }

    /// Hands what is durable to the watchers, and follows it outside the state.
    fn publish(&mut self, published: &[Arc<Published>]) {
        self.parts.publisher.publish(published.to_vec());
        for one in published {
            let record = &one.record;
            if is_refusal(&record.body)
                && let (Some(app), Some(decision)) = (record.app.clone(), record.cause)
            {
                self.own.push_back(Input::RefusalEmitted { app, decision });
            }
            if let Body::PauseSet { pause, .. } = &record.body
                && pause.halt
            {
                self.halt(&pause.scope);
            }
            if let Body::SpecGenerated { spec, .. } = &record.body {
                self.parts.ingest.attach(&spec.name);
            }
            if let (Body::Offboarded { .. }, Some(app)) = (&record.body, &record.app) {
                self.parts.ingest.detach(app);
                self.due.forget(app);
                self.readings.remove(app);
                self.repeats.remove(app);
            }
        }
    }

    /// Counts what is durable and says it in the log of this process.
    fn account(&self, published: &[Arc<Published>]) {
        for one in published {
            self.parts.metrics.record(&one.record);
            if let Some(decided) = one.record.decision() {
                tell(&one.record, decided);
            }
        }
    }

    /// The append failed: nothing of this batch happened. The state goes back to what is durable.
    fn lose(&mut self, error: &journal::Error, answers: Vec<Answer>) {
        tracing::error!(%error, "proof log cannot be written: no action until it can");
        self.enter(AgentState::Blocked);
        let unavailable = self.unavailable();
        for (reply, _) in answers {
            let _ = reply.send(Err(unavailable.clone()));
        }
        self.rebuild();
        self.resync = true;
    }

    /// The state as the log has it. Where that cannot be had whole, nothing is appended and nothing done: one that lacks something would be
    /// acted on, and kept. What cannot be read now may be readable later; what is gone only a start can make up for.
    fn rebuild(&mut self) {
        let replay = match snapshot::replay(&self.parts.journal, self.state.env) {
            Ok(replay) => replay,
            Err(unreadable @ NoState::Unreadable { .. }) => {
                tracing::error!(%unreadable, "no action until the state can be had from the log");
                return self.parts.journal.hold(unreadable.to_string());
            }
            Err(NoState::Lost(damage)) => {
                tracing::error!(seq = damage.seq, why = %damage.why,
                    "the state cannot be had from the proof log: no action will be taken");
                return self.parts.journal.distrust(damage);
            }
        };
        self.state = replay.state;
        self.head = self.parts.journal.head();
        self.all_are_due();
        if self.state.last_at >= self.started_at {
            // A policy that did not become durable is not in force.
            self.policy = replay.policy;
            self.parts.ingest.set_rules(&self.policy.freshness);
        } else if !self.own.iter().any(is_start) {
            // If not even the start of this agent is durable, it is still to be said.
            self.own.push_front(self.start_input());
        }
    }

    pub(super) fn start_input(&self) -> Input {
        Input::Started {
            started: self.parts.started.clone(),
            policy: Box::new(self.configured.clone()),
            bytes_cut: self.parts.journal.untold_cut(),
        }
    }

    /// Tries to get the log back; what waited for it goes in first.
    pub(super) async fn try_recover(&mut self) {
        if !matches!(self.parts.journal.status(), journal::Status::Unwritable { .. }) {
            return;
        }
        if let Err(error) = self.parts.journal.try_recover().await {
            tracing::warn!(%error, "proof log still cannot be written");
            return;
        }
        self.rebuild();
        if self.is_blocked() {
            return;
        }
        tracing::info!("proof log can be written again");
        self.own.push_back(Input::Transition {
            path: vec![Cow::Borrowed("blocked"), Cow::Borrowed("idle")],
        });
        for (app, decision, delivery) in std::mem::take(&mut self.undelivered) {
            let now = self.parts.clock.now_ms();
            let Some(reading) = self.close_window(&app, now) else { continue };
            self.own.push_back(delivered(app, decision, delivery, reading));
        }
        self.resync = true;
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.parts.journal.status() != journal::Status::Writable
    }

    fn unavailable(&self) -> Unavailable {
        let status = self.parts.journal.status();
        let damaged = matches!(status, journal::Status::Damaged(_));
        Unavailable { reason: blocked_reason(&status).unwrap_or_default(), damaged }
    }

    pub(super) fn view(&self) -> AgentView<'_> {
        AgentView {
            id: &self.parts.id,
            version: self.parts.version,
            phase: if self.is_blocked() { AgentState::Blocked } else { self.phase },
            state: &self.state,
            policy: &self.policy,
            readings: &self.readings,
            counters: &self.counters,
            started_at: self.started_at,
            now: self.parts.clock.now_ms(),
            blocked: blocked_reason(&self.parts.journal.status()),
            loop_interval_ms: u64::try_from(self.parts.loop_interval.as_millis()).unwrap_or(0),
        }
    }
}

/// Says in the log what was decided.
pub(crate) fn tell(record: &Record, decided: &Decided) {
    let data = speaker::Data::of(record, decided);
    speaker::decided(record, &data);
    if tracing::enabled!(tracing::Level::INFO) {
        let json = serde_json::to_string(&data).unwrap_or_default();
        tracing::info!(
            event = "decision",
            decision_type = speaker::KIND,
            decision_data = json,
            "{}",
            data.sentence()
        );
    }
}

fn delivered(app: AppName, decision: u64, delivery: Delivery, reading: Reading) -> Input {
    let Delivery { ok, detail, untouched } = delivery;
    Input::Delivered { app, decision, ok, detail, untouched, reading }
}

const fn is_start(input: &Input) -> bool {
    matches!(input, Input::Started { .. })
}

fn blocked_reason(status: &journal::Status) -> Option<String> {
    match status {
        journal::Status::Writable => None,
        journal::Status::Unwritable { reason } => Some(reason.clone()),
        journal::Status::Damaged(damage) => Some(format!(
            "damaged at entry {} in segment {}: {}",
            damage.seq, damage.segment, damage.why
        )),
    }
}

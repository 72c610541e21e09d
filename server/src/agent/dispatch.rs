//! From a permit to an effect, and the way to stop one.

use std::sync::Arc;

use agentd_core::app::{AppName, AppSpec};
use agentd_core::permit::Permit;
use agentd_core::plan::Operation;
use agentd_core::state::{Revision, Scope, SpecHistory};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::Agent;
use crate::act::{Delivery, Workload};
use crate::deploy;
use crate::failpoint;
use crate::tasks::OnFailure;

impl Agent {
    /// Hands a permit to the actuator. The effect runs on a task of its own: no caller that goes away can cut it in half.
    pub(super) fn dispatch(&mut self, permit: Permit) {
        let decision = permit.decision();
        let app = permit.plan().app.clone();
        let Some(workload) = self.workload_of(&permit) else {
            tracing::error!(%app, decision, "permitted plan names a revision that does not exist");
            self.counters.permits_dropped = self.counters.permits_dropped.saturating_add(1);
            return;
        };
        let stop = CancellationToken::new();
        self.in_flight.insert(decision, (app.clone(), stop.clone()));
        let (actuator, handle) = (Arc::clone(&self.parts.actuator), self.handle.clone());
        tracing::info!(%app, decision, action = %permit.plan().action, "acting");
        // Part of the trace of the turn that permitted it, however long it takes.
        let span = tracing::info_span!("effect", %app, decision, action = %permit.plan().action);
        let effect = async move {
            let _ = failpoint::hit("act.before_effect");
            let delivery = actuator.execute(permit, workload, stop).await;
            let _ = failpoint::hit("act.after_effect");
            // The loop is gone only when the server stops; the next start finds the attempt without an outcome and observes.
            let _ = handle.delivered(app, decision, delivery).await;
        };
        self.parts.tasks.spawn("effect", OnFailure::Log, effect.instrument(span));
    }

    fn workload_of(&self, permit: &Permit) -> Option<Workload> {
        let plan = permit.plan();
        let history = self.state.specs.get(&plan.app)?;
        let app = self.state.apps.get(&plan.app)?;
        let number = match plan.operation {
            Operation::Deploy { revision, .. } => revision,
            Operation::Rollback { to, .. } => to,
            _ => history.current,
        };
        Some(self.workload(&history.revision(number)?.spec, app.desired, history))
    }

    fn workload(&self, spec: &AppSpec, desired: u32, history: &SpecHistory) -> Workload {
        let rule = &self.policy.verification;
        let verified = |revision: &&Revision| revision.verified_at.is_some();
        let keep = history.revisions.iter().filter(verified).map(|revision| revision.number);
        let known = history.revisions.iter().map(|r| (r.number, Arc::new(r.spec.clone())));
        Workload {
            spec: Arc::new(spec.clone()),
            desired,
            min_uptime_ms: rule.min_uptime_ms,
            ready_deadline_ms: rule.deadline_ms,
            revisions: known.collect(),
            rules: deploy::Rules {
                fetch: self.policy.fetch.clone(),
                sandbox: self.policy.sandbox.clone(),
                keep: keep.collect(),
            },
        }
    }

    /// Asks the actuator for the level of everything that should run.
    pub(super) fn discover(&self) {
        let workloads: Vec<Workload> = self
            .state
            .apps
            .iter()
            .filter_map(|(name, app)| {
                let history = self.state.specs.get(name)?;
                Some(self.workload(history.spec()?, app.desired, history))
            })
            .collect();
        if workloads.is_empty() {
            return;
        }
        let actuator = Arc::clone(&self.parts.actuator);
        self.parts.tasks.spawn("discover", OnFailure::Log, async move {
            actuator.discover(&workloads).await;
        });
    }

    /// Stops effects in flight at their next safe point.
    pub(super) fn halt(&self, scope: &Scope) {
        for (decision, (app, stop)) in &self.in_flight {
            let hit = match scope {
                Scope::Env => true,
                Scope::App(name) => name == app,
                Scope::Action(action) => self.is_of(app, *decision, *action),
            };
            if hit {
                tracing::warn!(%app, decision, "halted at the next safe point");
                stop.cancel();
            }
        }
    }

    fn is_of(&self, app: &AppName, decision: u64, action: agentd_core::action::Action) -> bool {
        self.state
            .apps
            .get(app)
            .and_then(|app| app.attempt.as_ref())
            .is_some_and(|attempt| attempt.decision == decision && attempt.plan.action == action)
    }
}

impl From<Result<String, String>> for Delivery {
    fn from(result: Result<String, String>) -> Self {
        match result {
            Ok(detail) => Self::done(detail),
            Err(detail) => Self::failed(detail),
        }
    }
}

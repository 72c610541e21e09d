//! The way into the loop for everybody else.

use agentd_core::app::{AppName, OnboardRequest, Violation};
use agentd_core::choose::Params;
use agentd_core::choose::snapshot::Snapshot;
use agentd_core::policy::Policy;
use agentd_core::record::{Author, Backtested, Exported, Snapshotted};
use agentd_core::state::Scope;
use agentd_core::step::{By, Prune, Reply, Update};
use tokio::sync::{mpsc, oneshot};

use super::{AgentView, Event};
use crate::act::{Delivery, Sighting};

/// What can be asked for. The loop adds the readings it decides on.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Onboard an app; `found` are violations seen by looking at the host.
    Onboard(Box<OnboardRequest>, Vec<Violation>),
    /// Change an app that exists; `found` as above.
    Update(Box<OnboardRequest>, Vec<Violation>, Update),
    /// Stop an app and let it go.
    Offboard {
        /// The app.
        app: AppName,
        /// Why.
        reason: String,
        /// The app as the caller saw it.
        etag: Option<String>,
    },
    /// Put another policy in force.
    ApplyPolicy {
        /// Which.
        policy: Box<Policy>,
        /// Who says so.
        author: Author,
        /// Why.
        reason: String,
    },
    /// Do something to an app.
    Act {
        /// The app.
        app: AppName,
        /// The action as it was named.
        name: String,
        /// How.
        params: Params,
        /// Why.
        reason: String,
    },
    /// Approve.
    Approve {
        /// Which request.
        approval: u64,
        /// The plan that was seen.
        plan_digest: Option<String>,
        /// What was said.
        comment: String,
    },
    /// Reject.
    Reject {
        /// Which request.
        approval: u64,
        /// What was said.
        comment: String,
    },
    /// Pause or halt.
    Pause {
        /// What.
        scope: Scope,
        /// Also what is in flight.
        halt: bool,
        /// Why.
        reason: String,
        /// For how long, in milliseconds.
        ttl_ms: Option<u64>,
    },
    /// Lift a pause.
    Resume {
        /// Of what.
        scope: Scope,
        /// Why.
        reason: String,
    },
    /// Freeze or thaw learning.
    Freeze {
        /// Frozen from here on.
        frozen: bool,
        /// Why.
        reason: String,
    },
    /// Take in what others learned.
    Import {
        /// What, read and checked.
        snapshot: Box<Snapshot>,
        /// Whether it may be of another environment.
        weak_prior: bool,
        /// Why.
        reason: String,
    },
    /// Put the candidate in force.
    Promote {
        /// What the log says about it.
        backtest: Box<Backtested>,
        /// Why.
        reason: String,
    },
    /// Forget something learned.
    Forget {
        /// What is in force, instead of the candidate.
        acting: bool,
        /// Why.
        reason: String,
    },
    /// Say on record that the state was kept beside the log.
    Snapshotted(Box<Snapshotted>),
    /// Say on record that somebody has an export.
    Exported(Exported),
    /// Let old records go.
    Prune(Prune),
    /// Say on record that a failure is about to be injected.
    Inject {
        /// The app.
        app: AppName,
        /// By which scenario.
        scenario: String,
        /// What.
        what: String,
    },
}

/// An ask with its asker and the way back.
#[derive(Debug)]
pub struct Asked {
    pub(super) ask: Ask,
    pub(super) by: By,
    pub(super) reply: oneshot::Sender<Result<Reply, Unavailable>>,
}

/// The log cannot be written, so nothing that needs a record can be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the proof log cannot be written: {reason}")]
pub struct Unavailable {
    /// Why.
    pub reason: String,
    /// The log is damaged: it does not recover by itself.
    pub damaged: bool,
}

/// The loop has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent has stopped")]
pub struct Gone;

/// Handle to the loop; clones share it.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Event>,
}

impl Handle {
    pub(super) const fn new(inbox: mpsc::Sender<Event>) -> Self {
        Self { inbox }
    }

    /// Asks for something and waits until it is durable.
    ///
    /// The ask is carried out even if the caller stops waiting: a cancelled request never leaves half an effect.
    ///
    /// # Errors
    /// [`Gone`] when the loop has ended. The inner error says that the log cannot be written.
    pub async fn ask(&self, ask: Ask, by: By) -> Result<Result<Reply, Unavailable>, Gone> {
        let (reply, answer) = oneshot::channel();
        let asked = Box::new(Asked { ask, by, reply });
        self.inbox.send(Event::Ask(asked)).await.map_err(|_closed| Gone)?;
        answer.await.map_err(|_closed| Gone)
    }

    /// Reads something from the state.
    ///
    /// # Errors
    /// [`Gone`] when the loop has ended.
    pub async fn query<T, F>(&self, read: F) -> Result<T, Gone>
    where
        T: Send + 'static,
        F: FnOnce(&AgentView<'_>) -> T + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let query = Box::new(move |view: &AgentView<'_>| {
            // A caller that stopped waiting has lost interest in the answer.
            let _ = reply.send(read(view));
        });
        self.inbox.send(Event::Query(query)).await.map_err(|_closed| Gone)?;
        answer.await.map_err(|_closed| Gone)
    }

    /// Asks for the window of an app to be closed now. When the inbox is full the next tick does it.
    pub fn urgent(&self, app: AppName) {
        let _ = self.inbox.try_send(Event::Urgent(app));
    }

    /// Reports a sighting.
    ///
    /// # Errors
    /// [`Gone`] when the loop has ended.
    pub async fn sighting(&self, sighting: Sighting) -> Result<(), Gone> {
        self.inbox.send(Event::Sighting(sighting)).await.map_err(|_closed| Gone)
    }

    /// Reports the end of an effect.
    ///
    /// # Errors
    /// [`Gone`] when the loop has ended.
    pub async fn delivered(
        &self,
        app: AppName,
        decision: u64,
        delivery: Delivery,
    ) -> Result<(), Gone> {
        let event = Event::Delivered { app, decision, delivery };
        self.inbox.send(event).await.map_err(|_closed| Gone)
    }
}

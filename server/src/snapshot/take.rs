//! Takes a snapshot whenever enough has happened since the last one, beside the loop.

use std::sync::Arc;

use agentd_core::chain::leaf_hash;
use agentd_core::policy::Policy;
use agentd_core::record::Snapshotted;
use agentd_core::snapshot::Snapshot;
use agentd_core::state::State;
use agentd_core::step::By;
use tokio::sync::Mutex;

use super::Snapshots;
use crate::agent::{Ask, Gone, Handle, Unavailable};
use crate::failpoint;
use crate::journal::{self, Journal};
use crate::tasks::Tasks;
use crate::tlog::{Tlog, Unpublished};

/// Records from one snapshot to the next: what a start folds at most, which takes about a tenth of a second.
const EVERY: u64 = 10_000;

/// Why there is no new snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server stops.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The record of it cannot be written.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The log is not signed that far.
    #[error(transparent)]
    Unpublished(#[from] Unpublished),
    /// The log cannot be read.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The hashes cannot be read, or the file not written.
    #[error("the disk: {0}")]
    Disk(#[from] std::io::Error),
    /// The log moved on in a way it never does.
    #[error("record {0} is gone")]
    Lost(u64),
    /// It was taken, and a start would not find it.
    #[error("a start would find none with the records up to {0} in it")]
    Useless(u64),
}

/// Takes snapshots; clones share the turn.
#[derive(Debug, Clone)]
pub struct Taker {
    agent: Handle,
    journal: Journal,
    tlog: Tlog,
    /// One at a time.
    turn: Arc<Mutex<()>>,
}

impl Taker {
    /// One for this log.
    #[must_use]
    pub fn new(agent: Handle, journal: Journal, tlog: Tlog) -> Self {
        Self { agent, journal, tlog, turn: Arc::default() }
    }

    /// Takes one every [`EVERY`] records until the server stops.
    pub async fn run(self, tasks: Tasks) {
        let (mut durable, stopping) = (self.journal.durable(), tasks.stopping());
        loop {
            let taken = self.agent.query(|view| view.state.kept.snapshot).await;
            let Ok(taken) = taken else { return };
            let due = taken.saturating_add(EVERY);
            tokio::select! {
                () = stopping.cancelled() => return,
                grown = durable.wait_for(|seq| *seq >= due) => if grown.is_err() { return },
            }
            if let Err(error) = self.take(due).await {
                tracing::warn!(%error, "no snapshot of the state is kept");
                // What stood in the way may be gone when the log has grown some more.
                let later = durable.borrow().saturating_add(EVERY / 10);
                tokio::select! {
                    () = stopping.cancelled() => return,
                    grown = durable.wait_for(|seq| *seq >= later) => if grown.is_err() { return },
                }
            }
        }
    }

    /// Sees that there is a snapshot with the records up to `upto` in it.
    ///
    /// # Errors
    /// [`Error`]: there is none.
    pub async fn take(&self, upto: u64) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let read = move |view: &crate::agent::AgentView<'_>| {
            (view.state.kept.snapshot < upto).then(|| (view.policy.clone(), view.state.clone()))
        };
        let Some((policy, state)) = self.agent.query(read).await? else { return Ok(()) };
        self.keep(policy, state).await
    }

    /// Sees that a start finds the state without the records up to `upto`, whatever the records say about snapshots: one that was lost
    /// is replaced.
    ///
    /// # Errors
    /// [`Error`]: it would not.
    pub async fn secure(&self, upto: u64) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        if self.is_held(upto).await? {
            return Ok(());
        }
        let now = self.agent.query(|view| (view.policy.clone(), view.state.clone())).await?;
        self.keep(now.0, now.1).await?;
        if self.is_held(upto).await? { Ok(()) } else { Err(Error::Useless(upto)) }
    }

    async fn is_held(&self, upto: u64) -> Result<bool, Error> {
        let journal = self.journal.clone();
        let held = tokio::task::spawn_blocking(move || super::is_held(&journal, upto)).await;
        Ok(held.map_err(std::io::Error::other)??)
    }

    /// Writes this state, has it recorded, and lets older ones go.
    async fn keep(&self, policy: Policy, state: State) -> Result<(), Error> {
        let seq = state.last_seq;
        // Under a checkpoint first: what is promised is then never less than what a start goes on from.
        self.tlog.publish(seq).await?;
        let (journal, tlog) = (self.journal.clone(), self.tlog.clone());
        let written = tokio::task::spawn_blocking(move || write(&journal, &tlog, policy, state));
        let kept = written.await.map_err(std::io::Error::other)??;
        failpoint::hit("snapshot.before_record")?;
        let by = By { principal: String::new(), human: false, request: None, validate_only: false };
        self.agent.ask(Ask::Snapshotted(Box::new(kept)), by).await??;
        Snapshots::of_log(self.journal.dir()).tidy();
        Ok(())
    }
}

/// Writes the state after a record that is durable and published.
pub(super) fn write(
    journal: &Journal,
    tlog: &Tlog,
    policy: Policy,
    state: State,
) -> Result<Snapshotted, Error> {
    let seq = state.last_seq;
    let entry = journal.reader().read(seq, 1, 1)?.pop().ok_or(Error::Lost(seq))?;
    let root = tlog.root(seq)?.ok_or(Error::Lost(seq))?;
    let log = journal.head().log_id.to_string();
    let snapshot = Snapshot::new(log, leaf_hash(&entry.line), root, policy, state);
    Ok(Snapshots::of_log(journal.dir()).put(&snapshot)?)
}

//! The only place that spawns: every task has a name and a declared reaction to failure.

use std::future::Future;

use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Has the system run this thread only when the others leave it the time: for what nobody waits for.
pub(crate) fn step_back() {
    // Where that cannot be had, it runs like the others.
    let _ = rustix::process::setpriority_process(None, 10);
}

/// What the end of a task by error or panic means for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The process cannot go on without it: shut down.
    Shutdown,
    /// Log it; one connection, one probe or one attempt is affected.
    Log,
}

/// Spawns the named tasks of one server and knows how to end them.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    stop: CancellationToken,
}

impl Tasks {
    /// Tasks under a fresh stop signal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires when the server drains; long-lived tasks and streams select on it.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks every task to end.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Runs `future` as a task called `name`. A panic is logged with the name; with [`OnFailure::Shutdown`] it also stops the
    /// server.
    pub fn spawn<F>(&self, name: &'static str, on_failure: OnFailure, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        #[expect(clippy::disallowed_methods, reason = "the one spawner")]
        tokio::spawn(async move {
            // A set of one: a panic is contained, and aborting the outer task aborts the inner one with it.
            let mut inner = JoinSet::new();
            inner.spawn(future);
            if let Some(Err(error)) = inner.join_next().await
                && error.is_panic()
            {
                tracing::error!(task = name, "task panicked");
                if on_failure == OnFailure::Shutdown {
                    stop.cancel();
                }
            }
        })
    }
}

//! The only place that spawns: every task has a name and a declared reaction to failure.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use tokio::task::JoinHandle;
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
        let future = caught(future);
        #[expect(clippy::disallowed_methods, reason = "the one spawner")]
        tokio::spawn(async move {
            if let Err(Panicked) = future.await {
                tracing::error!(task = name, "task panicked");
                if on_failure == OnFailure::Shutdown {
                    stop.cancel();
                }
            }
        })
    }
}

/// Whoever was asked panicked.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Runs `future`; a panic in it ends it and nothing else.
pub(crate) fn caught<F: Future>(future: F) -> impl Future<Output = Result<F::Output, Panicked>> {
    // In a box of its own: what hands a future on keeps room for it in each place it was in.
    let mut future = Box::pin(future);
    // It is dropped after a panic: nobody sees what it left half done.
    poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_panic) => Poll::Ready(Err(Panicked)),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_panic_ends_its_task_and_the_server_only_where_it_cannot_do_without() {
        let tasks = Tasks::new();
        for (on_failure, stops) in [(OnFailure::Log, false), (OnFailure::Shutdown, true)] {
            let task = tasks.spawn("clumsy", on_failure, async { panic!("as asked") });
            tokio::time::timeout(PATIENCE, task).await.expect("it ends").expect("contained");
            assert_eq!(tasks.stopping().is_cancelled(), stops, "{on_failure:?}");
        }
    }

    #[tokio::test]
    async fn a_task_that_is_aborted_lets_go_of_what_it_holds() {
        let (held, freed) = tokio::sync::oneshot::channel::<()>();
        let task = Tasks::new().spawn("patient", OnFailure::Log, async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        task.abort();
        let freed = tokio::time::timeout(PATIENCE, freed).await.expect("it lets go");
        assert!(freed.is_err(), "without a word");
    }
}

//! The thread that looks through the log beside everything else: first what the start left for later, then one closed segment after
//! the other, from the first on again when it is through. What was altered, or rotted, is found before somebody needs the records.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Error;
use super::index::Shared;
use crate::tasks::step_back;

/// Looks until it is dropped.
#[derive(Debug)]
pub(super) struct Check {
    /// Nothing is sent: that it is gone ends the thread.
    going: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.going.take();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that looks through the proof log panicked");
        }
    }
}

impl Check {
    /// Begins with what is unread; from then on it reads one segment in each `every`.
    pub(super) fn start(shared: Arc<Shared>, every: Duration) -> Result<Self, Error> {
        let (going, stop) = sync_channel::<()>(0);
        let ends_within =
            move |time| matches!(stop.recv_timeout(time), Err(RecvTimeoutError::Disconnected));
        let looking = move || {
            step_back();
            let mut next = 0;
            loop {
                let unread = shared.unread();
                if unread.is_none() && ends_within(every) {
                    return;
                }
                let began = Instant::now();
                let (read, segment) = match unread {
                    Some(segment) => (shared.look_through(segment), segment),
                    None => (shared.look_again(next).map(|then| next = then), next),
                };
                match read {
                    // What was pruned meanwhile need not be looked at.
                    Ok(()) | Err(Error::Pruned { .. }) => {}
                    Err(error) => {
                        tracing::error!(%error, segment, "a part of the proof log cannot be read");
                        if unread.is_some() || matches!(error, Error::Damaged(_)) {
                            return;
                        }
                    }
                }
                // Half of one core at most, while what the start left is made up for.
                if unread.is_some() && ends_within(began.elapsed()) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("journal-check".into()).spawn(looking);
        let thread =
            thread.map_err(|e| Error::io("start", "the thread that looks through the log", e))?;
        Ok(Self { going: Some(going), thread: Some(thread) })
    }
}

//! One instance as agentd sees it: a task that keeps the link to its shim.
//!
//! The task owns the link. Orders come in through a bounded queue, what happens goes out as [`HostEvent`] and as the latest
//! [`InstanceView`]. When the link breaks, a shim is found or started again at once; it takes over the app if that still runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command as Program;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::Error;
use super::link::Link;
use super::view::{HostEvent, InstanceView, LinkState};
use crate::shim::procfs;
use crate::shim::protocol::{
    Command, ExitRecord, Fence, Message, RefusalCode, Reply, Request, Status,
};
use crate::tasks::{OnFailure, Tasks};

/// Orders that may wait for one instance.
pub(super) const ORDERS_MAX: usize = 16;
/// A new shim has this long for its first answer.
const OPEN: Duration = Duration::from_secs(10);
/// Tries to reach a shim that holds the lock but does not listen yet, and the pause between them.
const LOCKED_TRIES: u32 = 40;
const LOCKED_PAUSE: Duration = Duration::from_millis(50);
/// Pause after the first failure to get a shim; doubled up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A link that lasted this long counts as healthy, so the next loss is answered at once.
const HEALTHY: Duration = Duration::from_secs(10);

/// How an order is answered.
type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// What the host asks of an instance.
#[derive(Debug)]
pub(super) enum Order {
    Start {
        action_id: String,
        expect: Option<Fence>,
        answer: Answer<Fence>,
    },
    Stop {
        action_id: String,
        expect: Option<Fence>,
        grace_ms: u64,
        answer: Answer<Option<ExitRecord>>,
    },
    GiveListener {
        listener: Arc<OwnedFd>,
        answer: Answer<()>,
    },
    TakeListener {
        answer: Answer<OwnedFd>,
    },
    Acknowledge {
        through: u64,
    },
    Remove {
        grace_ms: u64,
        answer: Answer<()>,
    },
}

/// Who waits for an answer of the shim.
#[derive(Debug)]
enum Pending {
    Start(Answer<Fence>),
    Stop(Answer<Option<ExitRecord>>),
    GiveListener(Answer<()>),
    TakeListener(Answer<OwnedFd>),
    /// Nobody; the outcome shows in what the shim does.
    Nobody,
}

impl Pending {
    fn fail(self, error: Error) {
        match self {
            Self::Start(answer) => drop(answer.send(Err(error))),
            Self::Stop(answer) => drop(answer.send(Err(error))),
            Self::GiveListener(answer) => drop(answer.send(Err(error))),
            Self::TakeListener(answer) => drop(answer.send(Err(error))),
            Self::Nobody => {}
        }
    }
}

/// What an instance needs to begin.
#[derive(Debug)]
pub(super) struct Seed {
    pub(super) dir: PathBuf,
    pub(super) shim_command: Arc<[OsString]>,
    pub(super) events: mpsc::Sender<HostEvent>,
    pub(super) tasks: Tasks,
    pub(super) view: watch::Sender<InstanceView>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) listener: Option<Arc<OwnedFd>>,
}

/// The task of one instance.
#[derive(Debug)]
pub(super) struct Instance {
    seed: Seed,
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
    /// Highest exit number passed on.
    seen: u64,
    removing: Option<(u64, Answer<()>)>,
}

/// Why the inner loop ended.
enum Ended {
    /// agentd drains; the shim stays.
    Drain,
    /// The link broke.
    Lost(String),
}

impl Instance {
    pub(super) fn new(seed: Seed) -> Self {
        Self { seed, pending: BTreeMap::new(), next_id: 1, seen: 0, removing: None }
    }

    /// Keeps the link until agentd drains or the instance is removed.
    pub(super) async fn run(mut self) {
        let stopping = self.seed.tasks.stopping();
        let mut pause = Duration::ZERO;
        loop {
            let opened = tokio::select! {
                () = stopping.cancelled() => return,
                opened = self.open() => opened,
            };
            let began = Instant::now();
            let why = match opened {
                Ok(link) => match self.serve(link).await {
                    Ended::Drain => return,
                    Ended::Lost(why) => why,
                },
                Err(error) => crate::shim::chain(&error),
            };
            if self.finish_removal().await {
                return;
            }
            if self.seed.view.borrow().link == LinkState::Up {
                let fence = self.view().fence.filter(|_| self.view().running);
                let InstanceView { app, slot, .. } = self.view();
                self.emit(HostEvent::ShimLost { app, slot, fence }).await;
            }
            self.seed.view.send_modify(|view| view.link = LinkState::Down(why.clone()));
            for (_, pending) in std::mem::take(&mut self.pending) {
                pending.fail(Error::ShimLost);
            }
            pause = next_pause(pause, began.elapsed());
            if !self.refuse_orders_for(pause, &why).await {
                return;
            }
        }
    }

    fn view(&self) -> InstanceView {
        self.seed.view.borrow().clone()
    }

    async fn emit(&self, event: HostEvent) {
        // A full queue slows this instance down; the shim keeps what it has to say.
        if self.seed.events.send(event).await.is_err() {
            tracing::debug!("nobody listens to process events any more");
        }
    }

    /// Answers orders with the reason while there is no shim. False when agentd drains.
    async fn refuse_orders_for(&mut self, pause: Duration, why: &str) -> bool {
        let stopping = self.seed.tasks.stopping();
        let wake = sleep(pause);
        tokio::pin!(wake);
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return false,
                () = &mut wake => return true,
                order = self.seed.orders.recv() => match order {
                    None => return false,
                    Some(Order::Remove { grace_ms, answer }) => {
                        self.removing = Some((grace_ms, answer));
                    }
                    Some(order) => refuse(order, why),
                },
            }
        }
    }

    /// Finds the shim that serves the directory, or starts one, and learns the state.
    async fn open(&mut self) -> Result<Link, Error> {
        let mut tries = 0;
        loop {
            let (mut link, found) = match Link::connect(&self.seed.dir).await {
                Ok(link) => (link, true),
                Err(_) => (self.spawn_shim()?, false),
            };
            match timeout(OPEN, self.greet(&mut link, found)).await {
                Ok(Ok(())) => return Ok(link),
                Ok(Err(error)) if error.is_refusal(RefusalCode::Locked) && tries < LOCKED_TRIES => {
                    tries += 1;
                    sleep(LOCKED_PAUSE).await;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::Timeout(millis(OPEN))),
            }
        }
    }

    /// Starts a shim with one end of a socket pair as its standard input, so that nobody has to wait for its socket.
    fn spawn_shim(&self) -> Result<Link, Error> {
        let io = |what| move |source| Error::Io { what, source };
        let (ours, theirs) =
            std::os::unix::net::UnixStream::pair().map_err(io("making a socket pair"))?;
        let errors =
            File::create(self.seed.dir.join("shim.err")).map_err(io("opening shim.err"))?;
        let (program, arguments) = self
            .seed
            .shim_command
            .split_first()
            .ok_or_else(|| Error::Unavailable("no shim command is configured".to_owned()))?;
        // Nothing here may need a hook before `exec`: the standard library then uses `posix_spawn`.
        let mut child = Program::new(program)
            .args(arguments)
            .arg(&self.seed.dir)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(io("starting a shim"))?;
        // Reaped when it ends; it is not killed when agentd does.
        self.seed.tasks.spawn("shim-reaper", OnFailure::Log, async move {
            let _ = child.wait().await;
        });
        Link::over(ours).map_err(io("connecting to a shim"))
    }

    /// Asks for the state and passes on what happened meanwhile.
    async fn greet(&mut self, link: &mut Link, found: bool) -> Result<(), Error> {
        let status = loop {
            let status = self.ask_status(link).await?;
            let InstanceView { app, slot, .. } = self.view();
            for exit in &status.exits {
                self.pass_on_exit(exit.clone()).await;
            }
            if status.last_exit <= self.seen || status.exits.is_empty() {
                self.seen = self.seen.max(status.last_exit);
                if let Some(fence) = status.fence.clone()
                    && (found || status.inherited)
                {
                    let running = status.running;
                    self.emit(HostEvent::Adopted { app, slot, fence, running }).await;
                }
                break status;
            }
        };
        self.sync_listener(link, status.has_listener).await?;
        self.seed.view.send_modify(|view| {
            view.link = LinkState::Up;
            view.running = status.running;
            view.fence = status.fence;
            view.action_id = status.action_id;
            view.started_ms = status.started_ms;
            view.revision = status.revision;
            view.inherited = status.inherited;
            view.shim_pid = status.shim_pid;
            view.output_dropped_bytes = status.output_dropped_bytes;
            view.cgroup = status.cgroup;
        });
        Ok(())
    }

    async fn ask_status(&mut self, link: &mut Link) -> Result<Status, Error> {
        match self.call(link, Command::Status { after: self.seen }, None).await? {
            Reply::Status(status) => Ok(*status),
            _ => Err(Error::Unavailable("the shim answered something else".to_owned())),
        }
    }

    /// The listening socket must be here and there: here so that it outlives the shim, there so that it outlives agentd.
    async fn sync_listener(&mut self, link: &mut Link, theirs: bool) -> Result<(), Error> {
        match (self.seed.listener.clone(), theirs) {
            (Some(listener), false) => {
                self.call(link, Command::GiveListener, Some(listener.as_fd())).await?;
            }
            (None, true) => {
                self.call(link, Command::TakeListener, None).await?;
                self.seed.listener = link.take_fd().map(Arc::new);
            }
            (Some(_), true) | (None, false) => {}
        }
        Ok(())
    }

    /// One request and its answer while the link is not yet served; events in between are passed on.
    async fn call(
        &mut self,
        link: &mut Link,
        command: Command,
        fd: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> Result<Reply, Error> {
        let id = self.take_id();
        link.send(&Request { id, command }, fd).await.map_err(|_gone| Error::ShimLost)?;
        loop {
            match link.receive().await {
                Ok(Some(Message::Reply { id: of, reply })) if of == id => return Ok(reply),
                Ok(Some(Message::Refused { code, text, .. } | Message::Fatal { code, text })) => {
                    return Err(Error::Refused { code, text });
                }
                Ok(Some(other)) => self.on_message(other, link).await,
                Ok(None) => return Err(Error::ShimLost),
                Err(source) => return Err(Error::Io { what: "reading from the shim", source }),
            }
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    async fn serve(&mut self, mut link: Link) -> Ended {
        let stopping = self.seed.tasks.stopping();
        if let Some((grace_ms, _)) = &self.removing
            && let Err(error) = self
                .request(&link, Command::Shutdown { grace_ms: *grace_ms }, None, Pending::Nobody)
                .await
        {
            return Ended::Lost(error.to_string());
        }
        loop {
            let done = tokio::select! {
                biased;
                () = stopping.cancelled() => return Ended::Drain,
                message = link.receive() => match message {
                    Ok(Some(Message::Fatal { text, .. })) => Err(io::Error::other(text)),
                    Ok(Some(message)) => { self.on_message(message, &mut link).await; Ok(()) }
                    Ok(None) => Err(io::Error::other("the shim is gone")),
                    Err(error) => Err(error),
                },
                order = self.seed.orders.recv() => match order {
                    Some(order) => self.on_order(order, &link).await,
                    None => return Ended::Drain,
                },
            };
            if let Err(error) = done {
                return Ended::Lost(error.to_string());
            }
        }
    }

    async fn request(
        &mut self,
        link: &Link,
        command: Command,
        fd: Option<&OwnedFd>,
        pending: Pending,
    ) -> io::Result<()> {
        let id = self.take_id();
        self.pending.insert(id, pending);
        link.send(&Request { id, command }, fd.map(AsFd::as_fd)).await
    }

    async fn on_order(&mut self, order: Order, link: &Link) -> io::Result<()> {
        let (command, pending) = match order {
            Order::Start { action_id, expect, answer } => {
                (Command::Start { action_id, expect }, Pending::Start(answer))
            }
            Order::Stop { action_id, expect, grace_ms, answer } => {
                (Command::Stop { action_id, expect, grace_ms }, Pending::Stop(answer))
            }
            Order::GiveListener { listener, answer } => {
                self.seed.listener = Some(Arc::clone(&listener));
                let pending = Pending::GiveListener(answer);
                return self.request(link, Command::GiveListener, Some(&listener), pending).await;
            }
            Order::TakeListener { answer } => {
                if let Some(Ok(copy)) = self.seed.listener.as_ref().map(|held| held.try_clone()) {
                    let _ = answer.send(Ok(copy));
                    return Ok(());
                }
                (Command::TakeListener, Pending::TakeListener(answer))
            }
            Order::Acknowledge { through } => (Command::Ack { through }, Pending::Nobody),
            Order::Remove { grace_ms, answer } => {
                self.removing = Some((grace_ms, answer));
                (Command::Shutdown { grace_ms }, Pending::Nobody)
            }
        };
        self.request(link, command, None, pending).await
    }

    async fn on_message(&mut self, message: Message, link: &mut Link) {
        match message {
            Message::Started { fence, action_id, revision, at_ms } => {
                self.seed.view.send_modify(|view| {
                    view.running = true;
                    view.inherited = false;
                    view.fence = Some(fence.clone());
                    view.action_id = Some(action_id);
                    view.revision = Some(revision);
                    view.started_ms = Some(at_ms);
                    view.starts += 1;
                });
                let InstanceView { app, slot, .. } = self.view();
                self.emit(HostEvent::Started { app, slot, fence }).await;
            }
            Message::Exited(exit) => self.pass_on_exit(exit).await,
            Message::Reply { id, reply } => {
                if let Some(pending) = self.pending.remove(&id) {
                    settle(pending, reply, link);
                }
            }
            Message::Refused { id, code, text } => {
                if let Some(pending) = self.pending.remove(&id) {
                    pending.fail(Error::Refused { code, text });
                }
            }
            Message::Fatal { text, .. } => tracing::warn!(text, "shim ends"),
        }
    }

    async fn pass_on_exit(&mut self, exit: ExitRecord) {
        if exit.n <= self.seen {
            return;
        }
        self.seen = exit.n;
        self.seed.view.send_modify(|view| {
            if view.fence.as_ref() == Some(&exit.fence) {
                view.running = false;
            }
            view.last_exit = Some(exit.clone());
        });
        let InstanceView { app, slot, .. } = self.view();
        self.emit(HostEvent::Exited { app, slot, exit }).await;
    }

    /// After the shim of an instance to be removed is gone: true if the app is gone too and the instance with it.
    async fn finish_removal(&mut self) -> bool {
        if self.removing.is_none() {
            return false;
        }
        let view = self.view();
        if view.fence.as_ref().is_some_and(|fence| procfs::open_incarnation(fence).is_some()) {
            return false; // its shim was killed meanwhile: the next one is told again
        }
        if let Some(group) = &view.cgroup {
            // Present only if the shim did not leave it in order.
            let _ = crate::shim::kill_group(group);
        }
        let dir = self.seed.dir.clone();
        let outcome = tokio::task::spawn_blocking(move || super::host::clear_dir(&dir)).await;
        self.seed.view.send_modify(|view| view.link = LinkState::Removed);
        if let Some((_, answer)) = self.removing.take() {
            let outcome = outcome.unwrap_or_else(|error| Err(io::Error::other(error)));
            let outcome =
                outcome.map_err(|source| Error::Io { what: "removing the directory", source });
            let _ = answer.send(outcome);
        }
        true
    }
}

fn settle(pending: Pending, reply: Reply, link: &mut Link) {
    match (pending, reply) {
        (Pending::Start(answer), Reply::Started { fence, .. }) => drop(answer.send(Ok(fence))),
        (Pending::Stop(answer), Reply::Stopped { exit }) => drop(answer.send(Ok(exit))),
        (Pending::GiveListener(answer), Reply::Done) => drop(answer.send(Ok(()))),
        (Pending::TakeListener(answer), Reply::Done) => {
            drop(answer.send(link.take_fd().ok_or(Error::ShimLost)));
        }
        (Pending::Nobody, _) => {}
        (pending, _) => {
            pending.fail(Error::Unavailable("the shim answered something else".to_owned()));
        }
    }
}

fn refuse(order: Order, why: &str) {
    let error = Error::Unavailable(why.to_owned());
    match order {
        Order::Start { answer, .. } => Pending::Start(answer).fail(error),
        Order::Stop { answer, .. } => Pending::Stop(answer).fail(error),
        Order::GiveListener { answer, .. } | Order::Remove { answer, .. } => {
            Pending::GiveListener(answer).fail(error);
        }
        Order::TakeListener { answer } => Pending::TakeListener(answer).fail(error),
        Order::Acknowledge { .. } => {}
    }
}

/// At once after a healthy time, then doubling.
fn next_pause(last: Duration, lasted: Duration) -> Duration {
    if lasted >= HEALTHY {
        Duration::ZERO
    } else if last.is_zero() {
        // The first loss after the start: try at once, but never in a hot loop.
        Duration::from_millis(1)
    } else {
        (last * 2).clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_that_never_comes_up_is_not_tried_in_a_hot_loop() {
        let mut pause = Duration::ZERO;
        let mut total = Duration::ZERO;
        for _ in 0..12 {
            pause = next_pause(pause, Duration::ZERO);
            total += pause;
        }
        assert!(total > Duration::from_secs(20), "{total:?}");
        assert_eq!(pause, PAUSE_MAX);
        assert_eq!(next_pause(pause, HEALTHY), Duration::ZERO);
    }
}

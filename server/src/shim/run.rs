//! The loop of a shim and what it does at each turn.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdGetfdFlags, Signal, kill_process_group, pidfd_getfd, pidfd_send_signal,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use super::born;
use super::output::Output;
use super::procfs;
use super::protocol::{
    Command, Config, ExitStatus, Fence, Message, RefusalCode, Reply, Request, SOCKET_FILE, Status,
};
use super::socket::{self, CLIENTS_MAX, Client};
use super::spool::Spool;
use super::tree::{self, Group};
use crate::clock::Clock;

mod start;

/// The beginning of a line waits this long for its end before it is written.
const PARTIAL: Duration = Duration::from_millis(200);
/// The disk is tidied up (exits synced, room made for the next note of birth) this much after something happened, so that it
/// does not delay the next start.
const TIDY: Duration = Duration::from_millis(20);
/// What could not be killed is tried again after this time.
const RETRY: Duration = Duration::from_millis(500);
/// A stop may not ask for more patience.
const GRACE_MS_MAX: u64 = 3_600_000;

/// One life of the app.
#[derive(Debug)]
struct Incarnation {
    fence: Fence,
    action_id: String,
    revision: String,
    started_ms: u64,
    /// Present while it runs.
    pidfd: Option<OwnedFd>,
    /// Started by an earlier shim: not a child, so its exit code cannot be had.
    inherited: bool,
}

/// A stop under way.
#[derive(Debug)]
struct Stopping {
    kill_at: Instant,
    /// Who is to be told: caller and request.
    waiting: Vec<(u64, u64)>,
}

/// A refusal on its way to the caller.
struct Refusal(RefusalCode, String);

/// Everything a shim knows.
#[derive(Debug)]
pub(super) struct Supervisor {
    clock: Clock,
    boot_id: String,
    grace_ms: u64,
    group: Option<Group>,
    output: Output,
    spool: Spool,
    socket: OwnedFd,
    sigchld: UnixStream,
    sigterm: UnixStream,
    clients: Vec<(u64, Client)>,
    clients_seen: u64,
    listener: Option<OwnedFd>,
    latest: Option<Incarnation>,
    stopping: Option<Stopping>,
    /// Leader of a tree of which something is left.
    leftover: Option<u32>,
    ending: bool,
    partial_since: Option<Instant>,
    /// There is a file for the next note of birth.
    laid_out: bool,
    untidy_since: Option<Instant>,
    retry_at: Option<Instant>,
}

/// What a turn of the loop was woken by.
struct Woken {
    app: bool,
    child: bool,
    term: bool,
    caller: bool,
    output: bool,
    clients: Vec<u64>,
}

impl Supervisor {
    /// Opens everything in the current directory.
    pub(super) fn new(config: &Config, group: Option<Group>) -> io::Result<Self> {
        let (sigchld, wake) = UnixStream::pair()?;
        sigchld.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, wake)?;
        let (sigterm, wake) = UnixStream::pair()?;
        sigterm.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGTERM, wake)?;
        // Handled by doing nothing, instead of ignored: what is ignored stays ignored across `exec`.
        for signal in [SIGHUP, SIGINT] {
            signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
        }
        Ok(Self {
            clock: Clock::system(),
            boot_id: procfs::boot_id()?,
            grace_ms: config.grace_ms,
            group,
            output: Output::open(config.log)?,
            spool: Spool::open(".".as_ref())?,
            socket: socket::bind()?,
            sigchld,
            sigterm,
            clients: Vec::new(),
            clients_seen: 0,
            listener: None,
            latest: None,
            stopping: None,
            leftover: None,
            ending: false,
            partial_since: None,
            laid_out: false,
            untidy_since: None,
            retry_at: None,
        })
    }

    /// Finds what an earlier shim left: an app that still runs is taken over, one that ended unseen is noted.
    pub(super) fn adopt_latest(&mut self, config: &Config) {
        let Some(note) = born::recover() else { return };
        let pidfd = procfs::open_incarnation(&note.fence);
        if let Some(pidfd) = &pidfd
            && config.listen
        {
            // Where permitted: the app's descriptor 3 is the socket the earlier shim held.
            self.listener =
                pidfd_getfd(pidfd, 3, PidfdGetfdFlags::empty()).ok().filter(is_listening);
        }
        if pidfd.is_none() && self.spool.last().is_none_or(|exit| exit.fence != note.fence) {
            let at_ms = self.clock.now_ms();
            self.spool.append(note.fence.clone(), ExitStatus::Unknown, at_ms, false);
        }
        if pidfd.is_none() && !tree::sweep(note.fence.pid, self.group.as_ref()) {
            self.leftover = Some(note.fence.pid);
        }
        self.latest = Some(Incarnation {
            fence: note.fence,
            action_id: note.header.action_id,
            revision: note.header.revision,
            started_ms: note.header.at_ms,
            pidfd,
            inherited: true,
        });
    }

    /// Serves until asked to end and the app is gone.
    pub(super) fn run(&mut self, first: Option<Client>) -> io::Result<()> {
        if let Some(client) = first {
            self.add_client(client);
        }
        while !(self.ending && self.running().is_none()) {
            let woken = self.wait()?;
            self.turn(&woken);
        }
        self.output.drain();
        self.spool.sync();
        for (_, client) in &mut self.clients {
            client.flush();
        }
        let _ = fs::remove_file(SOCKET_FILE);
        if let Some(group) = self.group.take() {
            group.leave();
        }
        Ok(())
    }

    fn running(&self) -> Option<&Incarnation> {
        self.latest.as_ref().filter(|latest| latest.pidfd.is_some())
    }

    fn wait(&self) -> io::Result<Woken> {
        let read = PollFlags::IN;
        let [out, err] = self.output.readers();
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.sigchld.as_fd(), read),
            PollFd::from_borrowed_fd(self.sigterm.as_fd(), read),
            PollFd::from_borrowed_fd(self.socket.as_fd(), read),
            PollFd::from_borrowed_fd(out, read),
            PollFd::from_borrowed_fd(err, read),
        ];
        for (_, client) in &self.clients {
            let write = if client.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::from_borrowed_fd(client.stream(), read | write));
        }
        if let Some(pidfd) = self.latest.as_ref().and_then(|latest| latest.pidfd.as_ref()) {
            fds.push(PollFd::from_borrowed_fd(pidfd.as_fd(), read));
        }
        let timeout = self.timeout().map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let at = |index: usize| ready.get(index).copied().unwrap_or(false);
        let clients = self.clients.iter().enumerate();
        Ok(Woken {
            child: at(0),
            term: at(1),
            caller: at(2),
            output: at(3) || at(4),
            clients: clients.filter(|(i, _)| at(5 + i)).map(|(_, (id, _))| *id).collect(),
            app: self.running().is_some() && at(5 + self.clients.len()),
        })
    }

    /// Time until something has to be done unasked.
    fn timeout(&self) -> Option<Duration> {
        let due = [
            self.stopping.as_ref().map(|stopping| stopping.kill_at),
            self.partial_since.map(|since| since + PARTIAL),
            self.untidy_since.map(|since| since + TIDY),
            self.retry_at,
        ];
        let first = due.into_iter().flatten().min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    /// One turn: the app's end first, callers next, output last.
    fn turn(&mut self, woken: &Woken) {
        if woken.child || woken.app {
            self.reap(woken.app);
        }
        if woken.term {
            empty(&mut self.sigterm);
            self.ending = true;
            self.begin_stop(self.grace_ms, None);
        }
        for id in &woken.clients {
            self.serve(*id);
        }
        if woken.caller
            && let Some(client) = socket::accept(&self.socket)
        {
            self.add_client(client);
        }
        self.clients.retain(|(_, client)| !client.is_gone());
        if woken.output {
            self.output.pump();
        }
        self.do_what_is_due();
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        if self.stopping.as_ref().is_some_and(|stopping| stopping.kill_at <= now) {
            self.kill_app();
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.clean_up();
        }
        if !self.output.has_partial() {
            self.partial_since = None;
        } else if self.partial_since.get_or_insert(now).elapsed() >= PARTIAL {
            self.output.flush_partial();
            self.partial_since = None;
        }
        if self.laid_out && !self.spool.is_dirty() {
            self.untidy_since = None;
        } else if self.untidy_since.get_or_insert(now).elapsed() >= TIDY {
            self.spool.sync();
            born::lay_out();
            self.laid_out = true;
            self.untidy_since = None;
        }
    }

    fn add_client(&mut self, mut client: Client) {
        if self.clients.len() >= CLIENTS_MAX {
            let text = format!("{CLIENTS_MAX} callers are connected already");
            client.send(&Message::Refused { id: 0, code: RefusalCode::Busy, text });
            return;
        }
        self.clients_seen += 1;
        self.clients.push((self.clients_seen, client));
    }

    fn client(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.iter_mut().find(|(known, _)| *known == id).map(|(_, client)| client)
    }

    fn broadcast(&mut self, message: &Message) {
        for (_, client) in &mut self.clients {
            client.send(message);
        }
    }

    /// Collects the dead. `app` says that the pidfd of the app is readable.
    fn reap(&mut self, app: bool) {
        empty(&mut self.sigchld);
        while let Some(dead) = tree::reap() {
            if self.running().is_some_and(|latest| latest.fence.pid == dead.pid) {
                let status = match (dead.code, dead.signal) {
                    (Some(code), _) => ExitStatus::Code(code),
                    (None, Some(signal)) => ExitStatus::Signal(signal),
                    (None, None) => ExitStatus::Unknown,
                };
                self.ended(status);
            }
        }
        if app && self.running().is_some_and(|latest| latest.inherited) {
            self.ended(ExitStatus::Unknown);
        }
    }

    /// The app is gone: noted, then announced, then cleaned up after, then those who asked for it are answered.
    fn ended(&mut self, status: ExitStatus) {
        let Some(latest) = &mut self.latest else { return };
        latest.pidfd = None;
        let fence = latest.fence.clone();
        let requested = self.stopping.is_some();
        let record = self.spool.append(fence.clone(), status, self.clock.now_ms(), requested);
        self.broadcast(&Message::Exited(record.clone()));
        self.leftover = Some(fence.pid);
        self.clean_up();
        self.output.drain();
        let waiting = self.stopping.take().map(|stopping| stopping.waiting).unwrap_or_default();
        for (client, id) in waiting {
            let reply = Reply::Stopped { exit: Some(record.clone()) };
            if let Some(client) = self.client(client) {
                client.send(&Message::Reply { id, reply });
            }
        }
        self.look_ahead();
    }

    fn clean_up(&mut self) {
        if self.running().is_none()
            && let Some(leader) = self.leftover
        {
            if tree::sweep(leader, self.group.as_ref()) {
                self.leftover = None;
            } else {
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Reads what the caller sent and carries it out line by line.
    fn serve(&mut self, id: u64) {
        let Some(client) = self.client(id) else { return };
        client.flush();
        for line in client.receive() {
            let request = match serde_json::from_slice::<Request>(&line) {
                Ok(request) => request,
                Err(error) => {
                    let text = format!("the line is not a request: {error}");
                    self.refuse(id, 0, Refusal(RefusalCode::Malformed, text));
                    continue;
                }
            };
            match self.carry_out(id, request.id, request.command) {
                Ok(Some(reply)) => {
                    let message = Message::Reply { id: request.id, reply };
                    if let Some(client) = self.client(id) {
                        client.send(&message);
                    }
                }
                Ok(None) => {}
                Err(refusal) => self.refuse(id, request.id, refusal),
            }
        }
    }

    fn refuse(&mut self, client: u64, id: u64, Refusal(code, text): Refusal) {
        if let Some(client) = self.client(client) {
            client.send(&Message::Refused { id, code, text });
        }
    }

    /// Carries out one request. `None`: answered already, or later.
    fn carry_out(
        &mut self,
        client: u64,
        id: u64,
        command: Command,
    ) -> Result<Option<Reply>, Refusal> {
        match command {
            Command::Start { action_id, expect } => {
                self.start(action_id, expect.as_ref()).map(Some)
            }
            Command::Stop { action_id: _, expect, grace_ms } => {
                if expect.is_some() {
                    self.check_fence(expect.as_ref())?;
                }
                if self.running().is_none() {
                    return Ok(Some(Reply::Stopped { exit: self.spool.last().cloned() }));
                }
                self.begin_stop(grace_ms, Some((client, id)));
                Ok(None)
            }
            Command::Status { after } => Ok(Some(Reply::Status(Box::new(self.status(after))))),
            Command::Ack { through } => match self.spool.acknowledge(through) {
                Ok(()) => Ok(Some(Reply::Done)),
                Err(error) => Err(Refusal(RefusalCode::Io, format!("exit spool: {error}"))),
            },
            Command::GiveListener => {
                let given = self.client(client).and_then(Client::take_fd);
                let given = given.filter(is_listening).ok_or_else(|| {
                    let text = "no listening socket came with the request".to_owned();
                    Refusal(RefusalCode::NoListener, text)
                })?;
                self.listener = Some(given);
                Ok(Some(Reply::Done))
            }
            Command::TakeListener => self.hand_listener(client, id).map(|()| None),
            Command::Shutdown { grace_ms } => {
                self.ending = true;
                if self.running().is_none() {
                    return Ok(Some(Reply::Stopped { exit: self.spool.last().cloned() }));
                }
                self.begin_stop(grace_ms, Some((client, id)));
                Ok(None)
            }
        }
    }

    fn hand_listener(&mut self, client: u64, id: u64) -> Result<(), Refusal> {
        let copy = self.listener.as_ref().and_then(|listener| listener.try_clone().ok());
        let copy = copy.ok_or_else(|| {
            Refusal(RefusalCode::NoListener, "there is no listening socket here".to_owned())
        })?;
        let message = Message::Reply { id, reply: Reply::Done };
        let sent = self.client(client).is_some_and(|c| c.send_with_fd(&message, copy.as_fd()));
        if sent { Ok(()) } else { Err(Refusal(RefusalCode::Busy, "answers are queued".to_owned())) }
    }

    fn status(&self, after: u64) -> Status {
        let latest = self.latest.as_ref();
        Status {
            shim_pid: std::process::id(),
            running: self.running().is_some(),
            fence: latest.map(|latest| latest.fence.clone()),
            action_id: latest.map(|latest| latest.action_id.clone()),
            started_ms: latest.map(|latest| latest.started_ms),
            revision: latest.map(|latest| latest.revision.clone()),
            inherited: latest.is_some_and(|latest| latest.inherited),
            has_listener: self.listener.is_some(),
            exits: self.spool.after(after),
            last_exit: self.spool.last_number(),
            output_dropped_bytes: self.output.dropped_bytes(),
            cgroup: self.group.as_ref().map(|group| group.path().to_owned()),
        }
    }

    fn check_fence(&self, expect: Option<&Fence>) -> Result<(), Refusal> {
        let latest = self.latest.as_ref().map(|latest| &latest.fence);
        if latest == expect {
            return Ok(());
        }
        let show =
            |fence: Option<&Fence>| fence.map_or_else(|| "none".to_owned(), Fence::to_string);
        let text = format!("the latest incarnation is {}, not `{}`", show(latest), show(expect));
        Err(Refusal(RefusalCode::StaleFence, text))
    }

    /// TERM to the app's process group; a stop that is under way can only be hastened.
    fn begin_stop(&mut self, grace_ms: u64, waiting: Option<(u64, u64)>) {
        let kill_at = Instant::now() + Duration::from_millis(grace_ms.min(GRACE_MS_MAX));
        if self.running().is_none() {
            return;
        }
        match &mut self.stopping {
            Some(stopping) => {
                stopping.kill_at = stopping.kill_at.min(kill_at);
                stopping.waiting.extend(waiting);
                return;
            }
            None => {
                self.stopping = Some(Stopping { kill_at, waiting: waiting.into_iter().collect() });
            }
        }
        self.signal_app(Signal::TERM);
        // A stopped process cannot act on TERM.
        self.signal_app(Signal::CONT);
    }

    /// Grace is over.
    fn kill_app(&mut self) {
        self.signal_app(Signal::KILL);
        if let Some(stopping) = &mut self.stopping {
            stopping.kill_at = Instant::now() + RETRY;
        }
    }

    /// Signals the app and its process group. The app is not reaped while its pidfd is held here, so its group is its own.
    fn signal_app(&self, signal: Signal) {
        let Some(latest) = self.running() else { return };
        if let Some(group) = Pid::from_raw(latest.fence.pid.cast_signed()) {
            let _ = kill_process_group(group, signal);
        }
        if let Some(pidfd) = &latest.pidfd {
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }
}

fn is_listening(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

fn empty(pipe: &mut UnixStream) {
    let mut bytes = [0_u8; 64];
    while pipe.read(&mut bytes).is_ok_and(|read| read == bytes.len()) {}
}

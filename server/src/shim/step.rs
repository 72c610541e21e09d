//! `agentd shim step`: the parent of one step of a build.
//!
//! It reads what to run as one line from standard input, runs it as whom and within which limits it is told, and answers with one
//! line on standard output when it is over and nothing of it is left. The input stays open: when it closes, agentd is gone or has
//! changed its mind, and the step ends at once. Unlike an app, a step never outlives whoever asked for it.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use super::confine::Confinement;
use super::prepare::{self, exec_error};
use super::protocol::{Config, LINE_BYTES_MAX};
use super::spawn::{Image, spawn};
use super::tree::{self, Group};
use super::{chain, group_name, set_name};

/// Stands where the directory of an instance stands otherwise.
pub const WORD: &str = "step";
/// How long what a step left behind may resist.
const RESISTANCE: Duration = Duration::from_secs(10);

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is run and how; revision, output files and socket mean nothing here.
    pub config: Config,
    /// It is ended after this time.
    pub deadline_ms: u64,
    /// The only directory it may write below, where the shim is root; otherwise, and if absent, wherever its user may.
    pub writable: Option<PathBuf>,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Its time was over.
    Deadline,
    /// It was not wanted any more.
    Abandoned,
    /// It never began, and why.
    NotStarted(String),
}

/// What a step answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// Whether nothing of it is left.
    pub swept: bool,
}

/// Runs one step from standard input to standard output; what it says goes to standard error.
pub(super) fn main() -> ExitCode {
    let report = match read() {
        Ok(step) => run(&step).unwrap_or_else(|error| not_started(&error)),
        Err(error) => not_started(&error),
    };
    let code = if report.ended == Ended::Code(0) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let mut line = serde_json::to_vec(&report).unwrap_or_default();
    line.push(b'\n');
    // Whoever asked may be gone.
    let _ = io::stdout().write_all(&line);
    code
}

fn not_started(error: &io::Error) -> Report {
    Report { ended: Ended::NotStarted(chain(error)), swept: true }
}

fn read() -> io::Result<Step> {
    let mut line = String::new();
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    io::stdin().lock().take(limit).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn run(step: &Step) -> io::Result<Report> {
    let config = &step.config;
    // Fails only if this is a group leader already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    set_name(&config.label);
    let signals = Signals::take()?;
    let own = format!("step-{}", std::process::id());
    let group = Group::enter(&group_name(&config.label, own.as_ref()));
    let deadline = Instant::now() + Duration::from_millis(step.deadline_ms);
    let ended = match launch(step) {
        Ok(leader) => wait(leader, &signals, deadline)?,
        Err(why) => Ended::NotStarted(why),
    };
    let swept = tree::end_all(group.as_ref(), Instant::now() + RESISTANCE);
    if let Some(group) = group {
        group.leave();
    }
    Ok(Report { ended, swept })
}

/// Ends of pipes that can be read from when a signal has come.
struct Signals {
    child: UnixStream,
    asked: UnixStream,
}

impl Signals {
    fn take() -> io::Result<Self> {
        let pipe = |signals: &[i32]| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
            }
            io::Result::Ok(read)
        };
        Ok(Self { child: pipe(&[SIGCHLD])?, asked: pipe(&[SIGTERM, SIGINT, SIGHUP])? })
    }
}

fn launch(step: &Step) -> Result<u32, String> {
    let config = &step.config;
    let io = |error: io::Error| chain(&error);
    let prepared = prepare::prepare(config).map_err(|error| chain(&error))?;
    let said = || io::stderr().as_fd().try_clone_to_owned().map_err(io);
    let path = prepared.path.clone();
    let image = Image {
        path: prepared.path,
        argv: prepared.argv,
        env: prepared.env,
        cwd: prepared.cwd,
        output: [said()?, said()?],
        listener: None,
        born: None,
        limits: prepared.limits,
        user: config.user,
        confinement: confinement(step),
    };
    // Reaped with everything else.
    spawn(image).map_err(|error| chain(&exec_error(&path, error)))
}

/// Only root can close what is open to others.
fn confinement(step: &Step) -> Option<Confinement> {
    let writable = step.writable.clone().filter(|_| rustix::process::geteuid().is_root())?;
    let cwd = step.config.cwd.clone().unwrap_or_else(|| "/".into());
    Some(Confinement { writable, cwd })
}

/// Waits for the end of the leader, of the time, or of whoever asked.
fn wait(leader: u32, signals: &Signals, deadline: Instant) -> io::Result<Ended> {
    loop {
        while let Some(reaped) = tree::reap() {
            if reaped.pid == leader {
                let unknown = Ended::Code(-1);
                let by_signal = reaped.signal.map(Ended::Signal);
                return Ok(by_signal.or(reaped.code.map(Ended::Code)).unwrap_or(unknown));
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Ended::Deadline);
        }
        let stdin = rustix::stdio::stdin();
        let mut fds = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::new(&signals.child, PollFlags::IN),
            PollFd::new(&signals.asked, PollFlags::IN),
        ];
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [input, _, asked] = fds.map(|fd| !fd.revents().is_empty());
        // Nothing is ever sent behind the first line, so what can be read is its end.
        if input || asked {
            return Ok(Ended::Abandoned);
        }
        let _ = (&signals.child).read(&mut [0; 64]);
    }
}

//! What an agentd and its shims say to each other, and what a shim leaves on disk.
//!
//! One JSON object per line over a unix socket. A request carries an `id` of the caller's choice; the answer repeats it.
//! Events have no id. A file descriptor travels beside the line it belongs to (`SCM_RIGHTS`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Longest line either side accepts, in bytes.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Name of the socket in an instance's directory.
pub const SOCKET_FILE: &str = "shim.sock";
/// Name of the configuration in an instance's directory; read again at every start.
pub const CONFIG_FILE: &str = "shim.json";
/// Name of the file in which the latest incarnation was noted before it became the app.
pub const BORN_FILE: &str = "born";
/// Name of the exit spool in an instance's directory.
pub const SPOOL_FILE: &str = "exits.jsonl";
/// Name of the file that only one living shim can hold locked.
pub const LOCK_FILE: &str = "lock";

/// Identity of one incarnation of a process: a pid alone may be given to somebody else later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// `/proc/sys/kernel/random/boot_id`, so that a fence from before a reboot never matches.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.boot_id, self.pid, self.start_time)
    }
}

/// Configuration of an instance, written by agentd, read by its shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Short name for the process list and the cgroup, such as `web-0`.
    pub label: String,
    /// Program and arguments; never a shell line. At least one element.
    pub argv: Vec<String>,
    /// The whole environment of the app.
    pub env: BTreeMap<String, String>,
    /// Working directory of the app; `/` if absent.
    pub cwd: Option<PathBuf>,
    /// Which revision of the app this is; reported back, never interpreted.
    pub revision: String,
    /// Whether the app is given a listening socket as descriptor 3; a start without one is refused.
    pub listen: bool,
    /// Time between TERM and KILL when nobody else says so, in milliseconds.
    pub grace_ms: u64,
    /// Limits of the output files.
    pub log: LogLimits,
    /// Resource limits of the app.
    pub limits: ResourceLimits,
    /// Who the app runs as; whoever the shim runs as, if absent. With a user, it can never become anybody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
}

/// A user that needs no entry in any table of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
}

/// Limits of the output files of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLimits {
    /// Size of one file, in bytes.
    pub file_bytes_max: u64,
    /// Number of files kept, the current one included.
    pub files_max: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { file_bytes_max: 1024 * 1024, files_max: 5 }
    }
}

/// Resource limits of the app; what is absent is inherited. A limit above the hard limit of the shim is lowered to it,
/// because raising it needs a privilege that containers rarely have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceLimits {
    /// Open files (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
    /// Address space in bytes (`RLIMIT_AS`).
    pub address_space_bytes: Option<u64>,
    /// Core dump size in bytes (`RLIMIT_CORE`).
    pub core_bytes: Option<u64>,
    /// `oom_score_adj` of the app, -1000..=1000; best effort.
    pub oom_score_adj: Option<i16>,
    /// Bytes of one file (`RLIMIT_FSIZE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// Memory that is the process's own to write to, in bytes (`RLIMIT_DATA`): unlike the address space, of which interpreters
    /// reserve far more than they use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// Processes and threads of the app's user (`RLIMIT_NPROC`); if that is the shim's own user, so many more than it has already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// CPU time of one process in seconds (`RLIMIT_CPU`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<u64>,
}

/// How an incarnation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It is gone, but nobody who was allowed to ask was there: its shim was killed.
    Unknown,
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown exit status"),
        }
    }
}

/// One end of an incarnation, numbered without gaps per instance, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Position in the spool.
    pub n: u64,
    /// Which incarnation ended.
    pub fence: Fence,
    /// How it ended.
    pub status: ExitStatus,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Whether a stop was under way: a crash is what was not asked for.
    pub requested: bool,
}

/// A request to a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the caller, repeated in the answer.
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What a shim can be asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Command {
    /// Start the app. Idempotent on `action_id`; refused unless `expect` is the latest incarnation and that one is gone.
    Start {
        /// Identity of the attempt.
        action_id: String,
        /// The incarnation the caller believes to be the latest; `None` if it believes there was none.
        expect: Option<Fence>,
    },
    /// Stop the app: TERM to its process group, KILL to everything it left after `grace_ms`. Answered when it is gone.
    Stop {
        /// Identity of the attempt.
        action_id: String,
        /// Refused unless this incarnation is the latest; `None` means whichever runs.
        expect: Option<Fence>,
        /// Time between TERM and KILL, in milliseconds.
        grace_ms: u64,
    },
    /// Report the state, with the exits numbered above `after`.
    Status {
        /// The highest exit number the caller already has.
        after: u64,
    },
    /// The exits up to and including `through` are recorded elsewhere and may be dropped here.
    Ack {
        /// The highest exit number that is safe.
        through: u64,
    },
    /// Keep the listening socket that comes with this line.
    GiveListener,
    /// Send a copy of the listening socket with the answer.
    TakeListener,
    /// Stop the app as in [`Command::Stop`], then end the shim itself.
    Shutdown {
        /// Time between TERM and KILL, in milliseconds.
        grace_ms: u64,
    },
}

/// A line from a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// The request was carried out.
    Reply {
        /// From the request.
        id: u64,
        /// What came of it.
        reply: Reply,
    },
    /// The request was not carried out.
    Refused {
        /// From the request; 0 if the line could not be read as one.
        id: u64,
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        text: String,
    },
    /// An incarnation began.
    Started {
        /// Its identity.
        fence: Fence,
        /// The attempt that started it.
        action_id: String,
        /// The revision it runs.
        revision: String,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// An incarnation ended; already in the spool.
    Exited(ExitRecord),
    /// The shim cannot do its work and ends.
    Fatal {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        text: String,
    },
}

/// Answers to requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Reply {
    /// The app runs (or this very attempt started it before and it may have ended since).
    Started {
        /// The incarnation.
        fence: Fence,
        /// Whether the attempt had been carried out before.
        repeated: bool,
    },
    /// The app does not run.
    Stopped {
        /// The latest exit, if there ever was one.
        exit: Option<ExitRecord>,
    },
    /// The state.
    Status(Box<Status>),
    /// Nothing to report.
    Done,
}

/// State of an instance as its shim sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Process id of the shim.
    pub shim_pid: u32,
    /// Whether the latest incarnation runs.
    pub running: bool,
    /// The latest incarnation.
    pub fence: Option<Fence>,
    /// The attempt that started it.
    pub action_id: Option<String>,
    /// When it was started, in milliseconds since the Unix epoch.
    pub started_ms: Option<u64>,
    /// The revision it runs.
    pub revision: Option<String>,
    /// Whether it outlived the shim that started it, so that its exit code cannot be known.
    pub inherited: bool,
    /// Whether the shim holds a listening socket.
    pub has_listener: bool,
    /// The exits asked for, oldest first.
    pub exits: Vec<ExitRecord>,
    /// The number of the latest exit; 0 if there was none.
    pub last_exit: u64,
    /// Output lost because it could not be written, in bytes.
    pub output_dropped_bytes: u64,
    /// The control group the instance lives in, if one could be made.
    pub cgroup: Option<PathBuf>,
}

/// Why a shim refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The line is not a request.
    Malformed,
    /// The caller's idea of the latest incarnation is out of date.
    StaleFence,
    /// The latest incarnation runs.
    AlreadyRunning,
    /// The app is being stopped.
    Stopping,
    /// The app could not be executed.
    ExecFailed,
    /// The configuration cannot be read.
    BadConfig,
    /// The app wants a listening socket and none was given.
    NoListener,
    /// Processes of the last incarnation cannot be killed.
    Remains,
    /// Another shim serves this directory.
    Locked,
    /// A limit of the shim is reached.
    Busy,
    /// The operating system refused something.
    Io,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_flat_line_and_survives_hostile_text() {
        let request = Request {
            id: 7,
            command: Command::Start { action_id: "a\n\"$(id)\u{202e}".into(), expect: None },
        };
        let line = serde_json::to_string(&request).unwrap();
        assert!(!line.contains('\n'), "one line: {line}");
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
    }

    #[test]
    fn an_exit_record_is_greppable() {
        let record = ExitRecord {
            n: 3,
            fence: Fence { boot_id: "b".into(), pid: 10, start_time: 99 },
            status: ExitStatus::Signal(9),
            at_ms: 5,
            requested: false,
        };
        let line = serde_json::to_string(&record).unwrap();
        assert!(line.contains(r#""status":{"signal":9}"#), "{line}");
        assert_eq!(serde_json::from_str::<ExitRecord>(&line).unwrap(), record);
    }
}

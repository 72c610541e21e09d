//! What the host tells about its instances: events as they happen, and the latest state.

use std::path::PathBuf;

use crate::shim::protocol::{ExitRecord, Fence};

/// What happened to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// agentd took over an instance that an earlier agentd left, or a new shim took over the app of one that was killed.
    Adopted {
        /// The app.
        app: String,
        /// The instance.
        slot: u32,
        /// The latest incarnation.
        fence: Fence,
        /// Whether it runs.
        running: bool,
    },
    /// An incarnation began.
    Started {
        /// The app.
        app: String,
        /// The instance.
        slot: u32,
        /// The incarnation.
        fence: Fence,
    },
    /// An incarnation ended. Repeated after a restart of agentd until [`super::ProcessHost::acknowledge`] is called with its number.
    Exited {
        /// The app.
        app: String,
        /// The instance.
        slot: u32,
        /// How and when; the number tells repetitions.
        exit: ExitRecord,
    },
    /// The shim is gone; the app may or may not run. A new shim is on its way.
    ShimLost {
        /// The app.
        app: String,
        /// The instance.
        slot: u32,
        /// The incarnation that ran when it was lost.
        fence: Option<Fence>,
    },
}

/// State of the link to a shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Being established.
    Opening,
    /// Orders are carried out.
    Up,
    /// Not to be had at present, and why; tried again.
    Down(String),
    /// The instance was removed.
    Removed,
}

/// The latest known state of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    /// The app.
    pub app: String,
    /// The instance.
    pub slot: u32,
    /// Whether its shim can be reached; if not, the rest may be out of date.
    pub link: LinkState,
    /// Whether the latest incarnation runs.
    pub running: bool,
    /// The latest incarnation.
    pub fence: Option<Fence>,
    /// The attempt that started it.
    pub action_id: Option<String>,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_ms: Option<u64>,
    /// The revision it runs.
    pub revision: Option<String>,
    /// Whether it outlived its shim: its exit code cannot be known.
    pub inherited: bool,
    /// The latest exit.
    pub last_exit: Option<ExitRecord>,
    /// Starts seen since this agentd runs.
    pub starts: u64,
    /// Process id of the shim.
    pub shim_pid: u32,
    /// Output lost, in bytes.
    pub output_dropped_bytes: u64,
    /// The control group of the instance.
    pub cgroup: Option<PathBuf>,
}

impl InstanceView {
    pub(super) fn new(app: &str, slot: u32) -> Self {
        Self {
            app: app.to_owned(),
            slot,
            link: LinkState::Opening,
            running: false,
            fence: None,
            action_id: None,
            started_ms: None,
            revision: None,
            inherited: false,
            last_exit: None,
            starts: 0,
            shim_pid: 0,
            output_dropped_bytes: 0,
            cgroup: None,
        }
    }
}

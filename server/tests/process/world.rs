//! A data directory, a host and everything it starts; nothing of it outlives the test.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd::act::process::{AppProcess, Config, HostEvent, InstanceView, ProcessHost};
use agentd::shim::procfs;
use agentd::shim::protocol::{ExitRecord, Fence, LogLimits, ResourceLimits};
use agentd::tasks::Tasks;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// Far beyond anything a test should take; a test never measures time.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct World {
    root: PathBuf,
    tasks: Tasks,
    pub(super) host: ProcessHost,
    events: mpsc::Receiver<HostEvent>,
    cgroups: Vec<PathBuf>,
    dir: tempfile::TempDir,
}

impl World {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Longer than the 108 bytes a socket address may have.
        let root = dir.path().join("d".repeat(120)).join("apps");
        let (host, tasks, events) = open(&root).await;
        Self { root, tasks, host, events, cgroups: Vec::new(), dir }
    }

    /// The directory of the test; every supervised process carries it in its environment.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// agentd dies: its tasks end and its connections close. What it started goes on.
    pub(super) async fn agentd_dies(&mut self) {
        self.remember_cgroups();
        self.tasks.stop();
        // The host keeps one sender; every instance that still has a link keeps one more.
        until("the tasks to end", || {
            while self.events.try_recv().is_ok() {}
            (self.events.sender_strong_count() == 1).then_some(())
        })
        .await;
    }

    pub(super) async fn agentd_comes_back(&mut self) {
        let (host, tasks, events) = open(&self.root).await;
        self.host = host;
        self.tasks = tasks;
        self.events = events;
    }

    pub(super) fn remember_cgroups(&mut self) {
        self.cgroups.extend(self.host.views().into_iter().filter_map(|view| view.cgroup));
    }

    pub(super) fn app(&self, name: &str, argv: &[&str]) -> AppProcess {
        AppProcess {
            name: name.to_owned(),
            revision: "r1".to_owned(),
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            env: BTreeMap::from([
                ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
                ("DIR".to_owned(), self.path().to_str().unwrap().to_owned()),
            ]),
            cwd: None,
            listen: None,
            grace: Duration::from_secs(5),
            log: LogLimits::default(),
            limits: ResourceLimits::default(),
            user: None,
        }
    }

    /// A shell as the supervised program; the product itself never uses one.
    pub(super) fn script(&self, name: &str, script: &str) -> AppProcess {
        self.app(name, &["/bin/sh", "-c", script])
    }

    /// Makes and starts instance 0.
    pub(super) async fn run(&self, app: &AppProcess) -> Fence {
        self.host.ensure(app, 0).await.unwrap();
        self.host.start(&app.name, 0, "first", None).await.unwrap()
    }

    pub(super) async fn event(&mut self) -> HostEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("a host")
    }

    pub(super) async fn exit(&mut self) -> ExitRecord {
        loop {
            if let HostEvent::Exited { exit, .. } = self.event().await {
                return exit;
            }
        }
    }

    /// An event that has been sent already.
    pub(super) fn waiting_event(&mut self) -> Option<HostEvent> {
        self.events.try_recv().ok()
    }

    pub(super) fn view(&self, app: &str) -> InstanceView {
        self.host.views_of(app).into_iter().next().expect("instance 0")
    }

    pub(super) fn log(&self, app: &str) -> String {
        let path = self.host.log_file(app, 0);
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    pub(super) async fn log_contains(&self, app: &str, text: &str) -> String {
        until(&format!("`{text}` in the log"), || {
            Some(self.log(app)).filter(|log| log.contains(text))
        })
        .await
    }

    /// Everything that carries the test's directory in its environment: what apps started, wherever it went.
    pub(super) fn supervised(&self) -> Vec<u32> {
        processes_with(self.path(), "environ")
    }

    pub(super) fn shims(&self) -> Vec<u32> {
        processes_with(self.path(), "cmdline")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.remember_cgroups();
        self.tasks.stop();
        for _ in 0..200 {
            // Shims first, or they would be asked to look after what dies next.
            let left: Vec<u32> = self.shims().into_iter().chain(self.supervised()).collect();
            if left.is_empty() {
                break;
            }
            left.into_iter().for_each(|pid| signal(pid, Signal::KILL));
            std::thread::sleep(Duration::from_millis(10));
        }
        for group in &self.cgroups {
            let gone = (0..200).any(|_| {
                std::fs::remove_dir(group).is_ok() || !group.exists() || {
                    std::thread::sleep(Duration::from_millis(10));
                    false
                }
            });
            assert!(gone || std::thread::panicking(), "{} is still in use", group.display());
        }
    }
}

async fn open(root: &Path) -> (ProcessHost, Tasks, mpsc::Receiver<HostEvent>) {
    let tasks = Tasks::new();
    let (events, received) = mpsc::channel(1024);
    let shim = [env!("CARGO_BIN_EXE_agentd"), "shim"].map(OsString::from).to_vec();
    let config = Config::new(root.to_owned(), shim);
    (ProcessHost::open(config, tasks.clone(), events).await.unwrap(), tasks, received)
}

fn processes_with(needle: &Path, file: &str) -> Vec<u32> {
    let needle = needle.as_os_str().as_encoded_bytes();
    let own = std::process::id();
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|pid| *pid != own && running(*pid))
        .filter(|pid| {
            let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            text.windows(needle.len()).any(|window| window == needle)
        })
        .collect()
}

pub(super) fn running(pid: u32) -> bool {
    procfs::stat(pid).is_some_and(|stat| stat.is_running())
}

pub(super) fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
}

/// Waits for something that has no event of its own.
pub(super) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a process has ended with all its threads. A zombie's threads may live on for a moment, so its state says nothing.
pub(super) async fn gone(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    until(&format!("the end of {pid:?}"), || procfs::is_gone(&pidfd).then_some(())).await;
}

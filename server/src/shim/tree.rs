//! Everything an app started, found and killed, however it tried to get away.
//!
//! The shim is a subreaper: when a process of the tree dies, its children become children of the shim, even if they left the
//! session. Killing all children until none is left therefore reaches everything. Where a control group (cgroup v2, also in
//! hybrid mode) can be made, the shim lives in one of its own and its members are killed too; that reaches what a killed shim
//! left behind. The shim enters the group once and the app inherits it: moving the app at every start would cost 7 ms.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process_group, pidfd_open,
    pidfd_send_signal, wait,
};

use super::procfs;

/// How long one sweep keeps the shim from its other duties.
const SWEEP: Duration = Duration::from_millis(200);
/// Pause between two looks at processes that are about to die.
const PAUSE: Duration = Duration::from_micros(200);

/// A control group that holds one instance and its shim.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    parent: PathBuf,
}

impl Group {
    /// Makes the group `name` below the group this process is in, and enters it. `None` where that is not possible: no cgroup
    /// v2 mount, not writable, or made read-only by a container.
    pub(super) fn enter(name: &str) -> Option<Self> {
        let mount = cgroup2_mount(&fs::read_to_string("/proc/self/mountinfo").ok()?)?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mut parent = mount.join(own.trim_start_matches('/'));
        // A shim that takes over is started by an agentd that may sit in a group of that name itself, after a nested start.
        if parent.file_name().is_some_and(|last| last == name) {
            parent.pop();
        }
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => return None,
        }
        if fs::write(path.join("cgroup.procs"), "0").is_err() {
            let _ = fs::remove_dir(&path);
            return None;
        }
        Some(Self { path, parent })
    }

    /// Where the group is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the group and removes it; fails silently while something else lives in it.
    pub(super) fn leave(self) {
        if fs::write(self.parent.join("cgroup.procs"), "0").is_ok() {
            let _ = fs::remove_dir(&self.path);
        }
    }

    fn members(&self) -> Vec<u32> {
        let list = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|pid| pid.parse().ok()).collect()
    }
}

/// Kills every member of the group at `path` at once. For groups whose shim is dead.
///
/// # Errors
/// If the kernel has no `cgroup.kill` or the group is gone.
pub fn kill_group(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.kill"), "1")
}

fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        // proc_pid_mountinfo(5): the type follows the separator, the mount point is field 5.
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// A process that was reaped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reaped {
    pub(super) pid: u32,
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
}

/// Reaps one dead child of any kind, without waiting. The re-parented ones would stay zombies otherwise.
pub(super) fn reap() -> Option<Reaped> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = pid.as_raw_nonzero().get().unsigned_abs();
                let (code, signal) = (status.exit_status(), status.terminating_signal());
                return Some(Reaped { pid, code, signal });
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Kills everything the ended incarnation `leader` left behind. True when nothing is left; false when something could not be
/// killed in time (a process in uninterruptible sleep), in which case the caller tries again later.
pub(super) fn sweep(leader: u32, group: Option<&Group>) -> bool {
    let until = Instant::now() + SWEEP;
    loop {
        while reap().is_some() {}
        let seen = remaining(group);
        if seen.is_empty() {
            return true;
        }
        kill_leaders_group(leader, &seen);
        // Opened first, looked at again, then killed: a pid that changed hands in between is not in the second list.
        let still = remaining(group);
        for (pid, handle) in &seen {
            if still.iter().any(|(left, _)| left == pid) {
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Kills the leader's process group in one go, which a process that forks without end cannot outrun. Only if somebody of it is
/// left: after the last one the number is free.
fn kill_leaders_group(leader: u32, seen: &[(u32, OwnedFd)]) {
    let Some(group) = Pid::from_raw(leader.cast_signed()) else { return };
    let in_group = |(pid, _): &(u32, OwnedFd)| {
        Pid::from_raw(pid.cast_signed())
            .is_some_and(|pid| rustix::process::getpgid(Some(pid)).is_ok_and(|of| of == group))
    };
    if seen.iter().any(in_group) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Processes that have to go: children of the shim and members of its control group. Those that ended and wait to be reaped by
/// somebody else are gone already.
fn remaining(group: Option<&Group>) -> Vec<(u32, OwnedFd)> {
    let own = getpid().as_raw_nonzero().get().unsigned_abs();
    let mut pids = procfs::children(own);
    pids.extend(group.map(Group::members).unwrap_or_default());
    pids.retain(|pid| *pid != own);
    pids.sort_unstable();
    pids.dedup();
    let handles = pids.into_iter().filter_map(|pid| Some((pid, open(pid)?)));
    handles.filter(|(_, handle)| !procfs::is_gone(handle)).collect()
}

/// Ends everything below this process and in its control group, however fast it forks. Everything is stopped before anything is
/// killed: what is stopped forks no more, and it keeps its place among the processes its user may have, so the rest runs out of
/// places. True when nothing is left.
pub(super) fn end_all(group: Option<&Group>, until: Instant) -> bool {
    loop {
        let mut stopped = BTreeSet::new();
        loop {
            let mut fresh = everything(group);
            fresh.retain(|(pid, _)| !stopped.contains(pid));
            if fresh.is_empty() || Instant::now() >= until {
                break;
            }
            for (pid, handle) in fresh {
                let _ = pidfd_send_signal(&handle, Signal::STOP);
                stopped.insert(pid);
            }
        }
        for (_, handle) in everything(group) {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
        while reap().is_some() {}
        if everything(group).is_empty() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Everything that has not ended: descendants of this process, and members of its control group.
fn everything(group: Option<&Group>) -> Vec<(u32, OwnedFd)> {
    let own = getpid().as_raw_nonzero().get().unsigned_abs();
    let list = || {
        let mut pids = procfs::descendants(own);
        pids.extend(group.map(Group::members).unwrap_or_default());
        pids.remove(&own);
        pids
    };
    let handles: Vec<_> = list().into_iter().filter_map(|pid| Some((pid, open(pid)?))).collect();
    // Opened first, looked at again: a number that changed hands in between is not in the second list.
    let still = list();
    let alive = |(pid, handle): &(u32, OwnedFd)| still.contains(pid) && !procfs::is_gone(handle);
    handles.into_iter().filter(alive).collect()
}

fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_in_hybrid_and_unified_mode_and_not_invented() {
        let hybrid = "37 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup2_mount(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_mount("22 1 0:20 / / rw - ext4 /dev/vda rw\n"), None);
    }
}

//! The few facts about processes that supervision rests on, read from `/proc`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::protocol::Fence;

/// The fields of `/proc/PID/stat` that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: u32,
    /// State letter; `Z` is a zombie, `X` is dead.
    pub state: char,
    /// Parent.
    pub ppid: u32,
    /// CPU time in user mode, in clock ticks.
    pub utime_ticks: u64,
    /// CPU time in kernel mode, in clock ticks.
    pub stime_ticks: u64,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Resident set, in pages.
    pub rss_pages: u64,
}

impl Stat {
    /// Whether the main thread still runs. A zombie's main thread is gone although its pid is not free yet; whether its other
    /// threads are gone too, only a pidfd tells: [`is_gone`].
    #[must_use]
    pub fn is_running(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Reads one line of `/proc/PID/stat`. The name in parentheses may contain anything, parentheses and spaces included, so the
/// fields are counted from the last `)`.
#[must_use]
pub fn parse_stat(line: &str) -> Option<Stat> {
    let (head, tail) = line.rsplit_once(')')?;
    let (pid, _) = head.split_once(' ')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // proc_pid_stat(5) counts from 1 and the first field after the name is number 3.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        pid: pid.trim().parse().ok()?,
        state: field(3)?.chars().next()?,
        ppid: field(4)?.parse().ok()?,
        utime_ticks: field(14)?.parse().ok()?,
        stime_ticks: field(15)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
        rss_pages: field(24)?.parse().unwrap_or(0),
    })
}

/// Reads `/proc/PID/stat`; `None` if there is no such process.
#[must_use]
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
}

/// The identity of this boot of the machine.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Opens a pidfd of exactly the incarnation `fence` names; `None` if it is gone.
///
/// The descriptor is opened first and the identity compared afterwards: while the descriptor is open and the process not
/// reaped, the pid cannot be given to somebody else in between.
#[must_use]
pub fn open_incarnation(fence: &Fence) -> Option<OwnedFd> {
    if boot_id().ok()? != fence.boot_id {
        return None;
    }
    let pid = Pid::from_raw(i32::try_from(fence.pid).ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let now = stat(fence.pid)?;
    (now.start_time == fence.start_time && !is_gone(&pidfd)).then_some(pidfd)
}

/// Whether the process behind a pidfd has ended with all its threads, reaped or not.
#[must_use]
pub fn is_gone(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// The direct children of `parent`, zombies included.
#[must_use]
pub fn children(parent: u32) -> Vec<u32> {
    // One file where the kernel has CONFIG_PROC_CHILDREN and the parent a single thread; else every process is looked at.
    if let Ok(list) = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")) {
        return list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| stat(*pid).is_some_and(|stat| stat.ppid == parent))
        .collect()
}

/// Every process below `ancestor`, as far as the links from parent to child lead; zombies included.
#[must_use]
pub fn descendants(ancestor: u32) -> BTreeSet<u32> {
    // A process with several threads has children under each of them, so everybody is asked for their parent instead.
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let parents: Vec<(u32, u32)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.ppid)))
        .collect();
    let mut found = BTreeSet::new();
    loop {
        let known = found.len();
        for (pid, parent) in &parents {
            if *parent == ancestor || found.contains(parent) {
                found.insert(*pid);
            }
        }
        if found.len() == known {
            return found;
        }
    }
}

/// Threads of all processes of a user: what the kernel counts against `RLIMIT_NPROC`.
#[must_use]
pub fn tasks_of(uid: u32) -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let mut tasks = 0_u64;
    for entry in entries.flatten() {
        let is_process = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        let Ok(meta) = entry.metadata() else { continue };
        if is_process && meta.uid() == uid {
            let threads = fs::read_dir(entry.path().join("task")).map_or(1, Iterator::count);
            tasks = tasks.saturating_add(u64::try_from(threads).unwrap_or(u64::MAX));
        }
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = "42 (a) S 1 (b) R 7 42 42 0 -1 4194560 1 2 3 4 11 22 0 0 20 0 1 0 12345 1000 55 18446744073709551615";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.pid, stat.state, stat.ppid), (42, 'R', 7));
        assert_eq!((stat.utime_ticks, stat.stime_ticks), (11, 22));
        assert_eq!((stat.start_time, stat.rss_pages), (12345, 55));
    }

    #[test]
    fn descendants_are_found_however_deep_and_tasks_are_counted() {
        let mut child =
            std::process::Command::new("/bin/sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let sees_grandchild = || descendants(child.id()).len() == 1;
        while !sees_grandchild() {
            std::thread::yield_now();
        }
        let own = descendants(std::process::id());
        let below = descendants(child.id());
        assert!(own.contains(&child.id()) && own.is_superset(&below), "{own:?}");
        assert!(tasks_of(rustix::process::getuid().as_raw()) >= 3);
        for pid in below {
            let pid = Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        child.wait().unwrap();
    }

    #[test]
    fn nonsense_is_none() {
        for line in ["", ")", "x (a) R", "1 (a) R 1", "99999999999999 (a) R 7 42"] {
            assert_eq!(parse_stat(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_stale_fence_opens_nothing() {
        let pid = std::process::id();
        let own = stat(pid).unwrap();
        let fence = Fence { boot_id: boot_id().unwrap(), pid, start_time: own.start_time };
        assert!(open_incarnation(&fence).is_some());
        assert!(
            open_incarnation(&Fence { start_time: own.start_time + 1, ..fence.clone() }).is_none()
        );
        assert!(open_incarnation(&Fence { boot_id: "other".into(), ..fence }).is_none());
    }
}

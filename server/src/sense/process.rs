//! CPU and memory of one incarnation, from files that stay open.
//!
//! A kept descriptor costs a quarter of opening the file again, and it pins the identity: when the process is gone, reading fails
//! instead of answering for whoever has the number now.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::shim::procfs::{self, Stat};
use crate::shim::protocol::Fence;

use super::cgroup;

/// Members of a group whose memory is added up.
const MEMBERS_MAX: usize = 256;

/// What an incarnation uses. Unknown is `None`, never zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// CPU as a fraction of one core, or of the group's limit where it has one; above 1 if more than one core is used without a
    /// limit. Unknown at the first reading.
    pub cpu: Option<f64>,
    /// Resident memory in bytes, of the app and what it started where a group tells.
    pub rss_bytes: u64,
    /// Resident memory as a fraction of what it may use: the group's limit, or the memory of the machine.
    pub memory: Option<f64>,
    /// Whether that is the memory of the machine: no limit of its own is known, and whoever knows one is believed before this.
    pub of_machine: bool,
}

/// Reads the figures of one incarnation.
#[derive(Debug)]
pub struct Meter {
    fence: Fence,
    stat: File,
    group: Option<Group>,
    cores: f64,
    memory_bytes: Option<u64>,
    of_machine: bool,
    last: Option<(Instant, f64)>,
}

#[derive(Debug)]
struct Group {
    path: PathBuf,
    cpu_stat: File,
    shim_pid: u32,
}

impl Meter {
    /// Opens the files of the incarnation; `None` if it is gone.
    #[must_use]
    pub fn open(fence: &Fence, group: Option<&Path>, shim_pid: u32) -> Option<Self> {
        let stat = File::open(format!("/proc/{}/stat", fence.pid)).ok()?;
        // Opened first, compared afterwards: the descriptor cannot change its process any more.
        if read_stat(&stat)?.start_time != fence.start_time {
            return None;
        }
        let cores = group.and_then(cgroup::cpu_limit_cores).unwrap_or(1.0).max(0.001);
        let limit = group.and_then(cgroup::memory_limit_bytes);
        let (of_machine, memory_bytes) = (limit.is_none(), limit.or_else(machine_memory_bytes));
        let group = group.and_then(|path| {
            let cpu_stat = File::open(path.join("cpu.stat")).ok()?;
            Some(Group { path: path.to_owned(), cpu_stat, shim_pid })
        });
        let fence = fence.clone();
        Some(Self { fence, stat, group, cores, memory_bytes, of_machine, last: None })
    }

    /// Which incarnation is measured.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Reads once; `None` if the incarnation is gone.
    pub fn read(&mut self) -> Option<Usage> {
        let stat = read_stat(&self.stat).filter(Stat::is_running)?;
        let now = Instant::now();
        let used =
            self.group.as_ref().and_then(Group::cpu_seconds).unwrap_or_else(|| {
                (stat.utime_ticks + stat.stime_ticks) as f64 / ticks_per_second()
            });
        let cpu = self.last.and_then(|(then, before)| {
            let wall = now.duration_since(then).as_secs_f64();
            (wall > 0.0).then(|| ((used - before) / wall / self.cores).max(0.0))
        });
        self.last = Some((now, used));
        let pages = self.group.as_ref().and_then(|group| group.rss_pages(self.fence.pid));
        let rss_bytes = (pages.unwrap_or(0) + stat.rss_pages) * page_bytes();
        let memory = self.memory_bytes.map(|limit| rss_bytes as f64 / limit.max(1) as f64);
        Some(Usage { cpu, rss_bytes, memory, of_machine: self.of_machine })
    }
}

impl Group {
    fn cpu_seconds(&self) -> Option<f64> {
        let us = cgroup::parse_cpu_usage_us(&read_at_start(&self.cpu_stat)?)?;
        Some(us as f64 / 1e6)
    }

    /// Of everything but the app itself and its shim.
    fn rss_pages(&self, app: u32) -> Option<u64> {
        let members = cgroup::members(&self.path, MEMBERS_MAX);
        let others = members.into_iter().filter(|pid| *pid != app && *pid != self.shim_pid);
        Some(others.filter_map(procfs::stat).map(|stat| stat.rss_pages).sum())
    }
}

fn read_stat(file: &File) -> Option<Stat> {
    procfs::parse_stat(&read_at_start(file)?)
}

pub(super) fn read_at_start(file: &File) -> Option<String> {
    let mut buffer = [0_u8; 2048];
    let read = file.read_at(&mut buffer, 0).ok().filter(|read| *read > 0)?;
    Some(String::from_utf8_lossy(buffer.get(..read)?).into_owned())
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second().max(1) as f64
}

pub(super) fn page_bytes() -> u64 {
    u64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

pub(super) fn machine_memory_bytes() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn fence_of(pid: u32) -> Fence {
        let start_time = procfs::stat(pid).unwrap().start_time;
        Fence { boot_id: procfs::boot_id().unwrap(), pid, start_time }
    }

    #[test]
    fn burning_one_core_is_seen_and_the_first_reading_is_unknown_not_zero() {
        let fence = fence_of(std::process::id());
        let mut meter = Meter::open(&fence, None, 0).unwrap();
        let first = meter.read().unwrap();
        assert_eq!(first.cpu, None);
        assert!(first.rss_bytes > 100_000 && first.memory.unwrap() < 1.0);
        assert!(first.of_machine, "it has no group, and so no limit");
        // On a busy machine it takes a while until this process is given that much.
        let patience = Instant::now() + std::time::Duration::from_secs(60);
        let mut seen = 0.0;
        while seen <= 0.1 {
            assert!(Instant::now() < patience, "a busy process shows as {seen}");
            let until = Instant::now() + std::time::Duration::from_millis(300);
            while Instant::now() < until {
                std::hint::black_box(fence_of(std::process::id()));
            }
            seen = meter.read().unwrap().cpu.unwrap();
        }
    }

    #[test]
    fn a_dead_process_has_no_figures_and_a_stale_fence_opens_none() {
        let mut child =
            Command::new("/bin/sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let fence = fence_of(child.id());
        let mut meter = Meter::open(&fence, None, 0).unwrap();
        assert!(meter.read().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(meter.read().is_none());
        assert!(Meter::open(&fence, None, 0).is_none());
        let own = fence_of(std::process::id());
        assert!(Meter::open(&Fence { start_time: own.start_time + 1, ..own }, None, 0).is_none());
    }
}

//! The limits and figures a control group gives, where the kernel has them. Looked for file by file: which controllers are
//! there differs between unified, hybrid and container hosts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::process::{self, Usage};
use crate::shim::procfs;

/// CPU time used by everything in the group, in microseconds, from `cpu.stat`.
#[must_use]
pub fn parse_cpu_usage_us(cpu_stat: &str) -> Option<u64> {
    cpu_stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()
}

/// Reads `cpu.max` (`QUOTA PERIOD` or `max PERIOD`) as a number of cores; `None` without a limit.
#[must_use]
pub fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u32>().ok()?, period.parse::<u32>().ok()?);
    (period > 0).then(|| f64::from(quota) / f64::from(period))
}

/// The tightest of the limits in `file` on the way from `group` up to the root.
fn tightest<T: PartialOrd>(group: &Path, file: &str, parse: fn(&str) -> Option<T>) -> Option<T> {
    let limits = group.ancestors().take_while(|dir| dir.starts_with("/sys/fs/cgroup"));
    let limits = limits.filter_map(|dir| parse(&fs::read_to_string(dir.join(file)).ok()?));
    limits.reduce(|a, b| if b < a { b } else { a })
}

/// Cores the group may use; `None` without a limit.
#[must_use]
pub fn cpu_limit_cores(group: &Path) -> Option<f64> {
    tightest(group, "cpu.max", parse_cpu_max)
}

/// Memory the group may use, in bytes; `None` without a limit.
#[must_use]
pub fn memory_limit_bytes(group: &Path) -> Option<u64> {
    tightest(group, "memory.max", |text| text.trim().parse().ok())
}

/// Processes in the group, at most `limit`.
#[must_use]
pub fn members(group: &Path, limit: usize) -> Vec<u32> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|pid| pid.parse().ok()).take(limit).collect()
}

/// Members whose memory is added up where the group itself does not tell.
const MEMBERS_MAX: usize = 1_024;

/// Reads what everything in a group uses together.
#[derive(Debug)]
pub struct GroupMeter {
    path: PathBuf,
    cpu_stat: File,
    cores: f64,
    memory_bytes: Option<u64>,
    of_machine: bool,
    last: Option<(Instant, f64)>,
}

impl GroupMeter {
    /// Opens the group; `None` if nothing runs in it, or it is none of version 2.
    #[must_use]
    pub fn open(path: &Path) -> Option<Self> {
        let cpu_stat = File::open(path.join("cpu.stat")).ok()?;
        let limit = memory_limit_bytes(path);
        let mut meter = Self {
            path: path.to_owned(),
            cpu_stat,
            cores: cpu_limit_cores(path).unwrap_or(1.0).max(0.001),
            memory_bytes: limit.or_else(process::machine_memory_bytes),
            of_machine: limit.is_none(),
            last: None,
        };
        meter.read().map(|_first| meter)
    }

    /// Reads once; `None` if nothing runs in it any more.
    pub fn read(&mut self) -> Option<Usage> {
        let members = members(&self.path, MEMBERS_MAX);
        if members.is_empty() {
            return None;
        }
        let used = parse_cpu_usage_us(&process::read_at_start(&self.cpu_stat)?)? as f64 / 1e6;
        let now = Instant::now();
        let cpu = self.last.and_then(|(then, before)| {
            let wall = now.duration_since(then).as_secs_f64();
            (wall > 0.0).then(|| ((used - before) / wall / self.cores).max(0.0))
        });
        self.last = Some((now, used));
        let rss_bytes = self.working_set().unwrap_or_else(|| {
            let pages: u64 =
                members.into_iter().filter_map(procfs::stat).map(|stat| stat.rss_pages).sum();
            pages * process::page_bytes()
        });
        let memory = self.memory_bytes.map(|limit| rss_bytes as f64 / limit.max(1) as f64);
        Some(Usage { cpu, rss_bytes, memory, of_machine: self.of_machine })
    }

    /// What the group cannot give back: its memory without the pages of files that nobody used for long.
    fn working_set(&self) -> Option<u64> {
        let read = |file: &str| fs::read_to_string(self.path.join(file)).ok();
        let current: u64 = read("memory.current")?.trim().parse().ok()?;
        Some(current.saturating_sub(parse_inactive_file(&read("memory.stat")?).unwrap_or(0)))
    }
}

fn parse_inactive_file(memory_stat: &str) -> Option<u64> {
    memory_stat.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_measured_as_a_whole_until_nobody_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        assert!(GroupMeter::open(dir.path()).is_none(), "no group");
        write("cpu.stat", "usage_usec 1000000\nuser_usec 1\n");
        write("cgroup.procs", "");
        assert!(GroupMeter::open(dir.path()).is_none(), "nobody is in it");
        write("cgroup.procs", &format!("{}\n", std::process::id()));
        let mut meter = GroupMeter::open(dir.path()).expect("a group");
        let own = meter.read().unwrap();
        assert!(own.rss_bytes > 100_000, "of its members, where it does not tell: {own:?}");
        write("memory.current", "3000000\n");
        write("memory.stat", "anon 7\ninactive_file 1000000\n");
        write("cpu.stat", "usage_usec 61000000\nuser_usec 1\n");
        let usage = meter.read().unwrap();
        assert_eq!(usage.rss_bytes, 2_000_000);
        assert!(usage.cpu.unwrap() > 1.0, "a minute of CPU in a moment: {usage:?}");
        assert!(usage.memory.unwrap() < 1.0);
        write("cgroup.procs", "");
        assert_eq!(meter.read(), None);
    }

    #[test]
    fn limits_are_read_and_the_word_max_is_no_limit() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        for none in ["max 100000\n", "", "1", "1 0", "x y"] {
            assert_eq!(parse_cpu_max(none), None, "{none:?}");
        }
        assert_eq!(parse_cpu_usage_us("usage_usec 42\nuser_usec 40\n"), Some(42));
        assert_eq!(parse_cpu_usage_us("nr_periods 1\n"), None);
    }
}

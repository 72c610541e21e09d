//! The limits and figures a control group gives, where the kernel has them. Looked for file by file: which controllers are
//! there differs between unified, hybrid and container hosts.

use std::fs;
use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::*;

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

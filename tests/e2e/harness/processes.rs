//! Signals to processes a test has started, and their end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::run::wait_for;

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // One that is gone already needs none.
    let _ = kill_process(pid, signal);
}

/// SIGKILL.
pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// SIGTERM.
pub(crate) fn term(pid: u32) {
    signal(pid, Signal::TERM);
}

/// Parent and command line of every process that can be seen.
fn table() -> BTreeMap<u32, (u32, String)> {
    let mut table = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        // The name in parentheses may hold anything; what counts comes behind the last one.
        let mut rest = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, parent) = (rest.next(), rest.next().and_then(|ppid| ppid.parse().ok()));
        if let (Some(state), Some(parent)) = (state, parent)
            && state != "Z"
        {
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            table.insert(pid, (parent, line));
        }
    }
    table
}

/// Whether a process of this id runs.
pub(crate) fn runs(pid: u32) -> bool {
    table().contains_key(&pid)
}

/// Processes whose command line names `dir`, and all below them.
pub(crate) fn below(dir: &Path) -> BTreeSet<u32> {
    let (table, dir) = (table(), dir.display().to_string());
    let me = std::process::id();
    let mut found: BTreeSet<u32> = table
        .iter()
        .filter(|(pid, (_, line))| **pid != me && line.contains(&dir))
        .map(|(pid, _)| *pid)
        .collect();
    loop {
        let more: Vec<u32> = table
            .iter()
            .filter(|(pid, (parent, _))| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Ends everything below `dir` for good.
pub(crate) fn kill_below(dir: &Path) {
    let gone = wait_for(|| {
        let found = below(dir);
        found.iter().for_each(|pid| kill(*pid));
        found.is_empty().then_some(())
    });
    if gone.is_none() && !std::thread::panicking() {
        panic!("processes are left: {:?}", below(dir));
    }
}

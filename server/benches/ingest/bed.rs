//! Servers as processes of their own, and what they used.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What a server says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    /// Processor time of the process so far, in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Apps with an open incident.
    pub(crate) incidents: u64,
}

/// A server that is measured; it ends with its standard input, and so when this program does.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(crate) address: String,
}

impl Process {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut address = String::new();
        output.read_line(&mut address).unwrap();
        let input = child.stdin.take();
        Self { child, input, output, address: address.trim().to_owned() }
    }

    pub(crate) fn used(&mut self) -> Used {
        self.input.as_mut().unwrap().write_all(b"?\n").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let mut numbers = line.split_whitespace().map(|word| word.parse().unwrap());
        Used { cpu_ns: numbers.next().unwrap(), incidents: numbers.next().unwrap() }
    }

    /// Waits until the loop of the server answers.
    pub(crate) fn ping(&mut self) {
        self.input.as_mut().unwrap().write_all(b"!\n").unwrap();
        self.output.read_line(&mut String::new()).unwrap();
    }

    /// Memory of the process, in kibibytes.
    pub(crate) fn resident_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// Processor time of a process so far, in nanoseconds, as the kernel tells everybody: in whole ticks.
pub(crate) fn cpu_ns(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name comes before, in brackets, and may hold anything.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let both = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = both.map(|field| field.parse::<u64>().unwrap()).sum();
    ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second()
}

//! Commands that end, commands that go on, and waiting without a guess at how long.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far beyond anything that should take time; no test measures any.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// When a wait that begins now is over.
pub(crate) fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// Looks again and again until there is something; `None` when the patience is over.
pub(crate) fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = deadline();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

/// What a command answered.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The words of the command.
    pub(crate) command: String,
    /// Exit code; -1 for a signal.
    pub(crate) code: i32,
    /// Data.
    pub(crate) stdout: String,
    /// Everything else.
    pub(crate) stderr: String,
}

impl Run {
    /// Runs a command to its end.
    pub(crate) fn of(mut command: Command) -> Self {
        let words: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        let words = words.join(" ");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = drain(child.stdout.take().unwrap());
        let stderr = drain(child.stderr.take().unwrap());
        let status = wait_for(|| child.try_wait().unwrap());
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let run = Self {
            command: words,
            code: status.and_then(|status| status.code()).unwrap_or(-1),
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        };
        assert!(status.is_some(), "did not end: {run:#?}");
        run
    }

    /// It ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.exits(0)
    }

    /// It ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Its stdout is one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The error that is the last line of its stderr; notes may come before it.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let last = self.stderr.lines().last().unwrap_or_default();
        let value: Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:#?}"));
        value["error"].clone()
    }

    /// Its stderr, which must say each of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is missing: {self:#?}");
        }
        self
    }
}

fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    let read = move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Builder::new().spawn(read).unwrap()
}

/// The lines of a command that goes on. Dropping it ends the command.
#[derive(Debug)]
pub(crate) struct Stream {
    child: Option<Child>,
    lines: Receiver<String>,
}

impl Stream {
    /// Starts a command.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stream = Self::over(child.stdout.take().unwrap());
        stream.child = Some(child);
        stream
    }

    /// The lines of somebody else's output.
    pub(crate) fn over(from: impl Read + Send + 'static) -> Self {
        let (sender, lines) = sync_channel(100_000);
        let read = move || {
            for line in BufReader::new(from).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        };
        Builder::new().spawn(read).unwrap();
        Self { child: None, lines }
    }

    /// The next line; `None` at the end, or when it does not come in time.
    pub(crate) fn line(&mut self, deadline: Instant) -> Option<String> {
        self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Lines as JSON up to and including the first that `last` accepts.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut last: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let (deadline, mut seen) = (deadline(), Vec::new());
        while let Some(line) = self.line(deadline) {
            let value: Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let done = last(&value);
            seen.push(value);
            if done {
                return seen;
            }
        }
        let short: Vec<_> = seen.iter().map(|v| (&v["type"], &v["event"], &v["seq"])).collect();
        panic!("the stream never said {what}: {short:?}");
    }

    /// Whether the command still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

impl Stream {
    /// SIGKILL. What it had said can still be read, and then the lines end.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.kill9();
    }
}

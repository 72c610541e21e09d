//! One step of a deployment: a program that agentd does not run itself but has run by a small process that keeps it within its
//! limits, and whose disk usage is watched from here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use agentd_core::policy::Sandbox;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Error, tree};
use crate::shim::protocol::{Config, LogLimits, ResourceLimits, User};
use crate::shim::step::{self, Ended, Report};

/// How long the small process may take to end what it has been told to end, before it counts as lost.
const LAST_WORD: Duration = Duration::from_secs(20);
/// Pause between two looks at the disk, and how many times longer it is than the look itself.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_SHARE: u32 = 10;
/// What is kept of the last line of a step that failed, in bytes.
const SAID_MAX: usize = 300;
/// How much of the end of the output is looked at for that line.
const TAIL: u64 = 4 * 1024;

/// Where steps are run and within which limits.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    /// Program and first arguments of a shim.
    pub(super) shim: &'a [OsString],
    /// Name of the app.
    pub(super) app: &'a str,
    /// Whom the steps run as.
    pub(super) user: Option<User>,
    /// Their limits.
    pub(super) sandbox: &'a Sandbox,
    /// Working directory.
    pub(super) cwd: PathBuf,
    /// The only place to write to.
    pub(super) writable: PathBuf,
    /// File the output goes to.
    pub(super) log: PathBuf,
    /// Ends them.
    pub(super) stop: &'a CancellationToken,
}

/// What a step may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<'a> {
    /// What is being done, for people.
    pub(super) what: &'static str,
    /// It is over then.
    pub(super) deadline: Instant,
    /// How long that was from the beginning, for people.
    pub(super) timeout_ms: u64,
    /// The directory that may not grow beyond ...
    pub(super) directory: &'a Path,
    /// ... so many bytes.
    pub(super) bytes_max: u64,
}

impl Bench<'_> {
    /// Runs one program to its end.
    ///
    /// # Errors
    /// It did not end well, or it had to be ended. Nothing of it runs any more then.
    pub(super) async fn run(
        &self,
        argv: Vec<String>,
        env: BTreeMap<String, String>,
        bounds: Bounds<'_>,
    ) -> Result<(), Error> {
        let name = argv.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
        let from = std::fs::metadata(&self.log).map_or(0, |meta| meta.len());
        let limit = self.file_bytes(bounds);
        let order = step::Step {
            config: Config {
                label: format!("{}-build", self.app),
                argv,
                env,
                cwd: Some(self.cwd.clone()),
                revision: String::new(),
                listen: false,
                grace_ms: 0,
                log: LogLimits::default(),
                limits: self.limits(limit),
                user: self.user,
            },
            deadline_ms: millis(bounds.deadline.saturating_duration_since(Instant::now())),
            writable: Some(self.writable.clone()),
        };
        let ended = self.carry_out(&order, bounds).await?;
        // What is quick grows between two looks, and a program that hit the limit of a file may have died of it without a word.
        let (directory, log) = (bounds.directory.to_owned(), self.log.clone());
        let look = move || (tree::usage(&directory), said(&log, from));
        let (usage, said) = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        let well = ended == Ended::Code(0);
        if usage.bytes > bounds.bytes_max || (!well && usage.largest >= limit) {
            return Err(Error::TooLarge {
                what: bounds.what,
                bytes_max: bounds.bytes_max.min(limit),
            });
        }
        if well {
            return Ok(());
        }
        Err(match ended {
            Ended::Deadline => Error::Timeout { what: bounds.what, ms: bounds.timeout_ms },
            Ended::NotStarted(why) => {
                Error::Failed { step: name, how: "did not start".into(), said: why }
            }
            Ended::Abandoned => Error::Halted,
            Ended::Code(code) => {
                Error::Failed { step: name, how: format!("exit code {code}"), said }
            }
            Ended::Signal(signal) => {
                Error::Failed { step: name, how: format!("signal {signal}"), said }
            }
        })
    }

    fn file_bytes(&self, bounds: Bounds<'_>) -> u64 {
        self.sandbox.file_bytes_max.min(bounds.bytes_max)
    }

    fn limits(&self, file_bytes: u64) -> ResourceLimits {
        ResourceLimits {
            core_bytes: Some(0),
            file_bytes: Some(file_bytes),
            data_bytes: Some(self.sandbox.memory_bytes_max),
            processes: Some(self.sandbox.processes_max.into()),
            cpu_seconds: Some(self.sandbox.build_cpu_ms.div_ceil(1_000)),
            ..ResourceLimits::default()
        }
    }

    async fn carry_out(&self, order: &step::Step, bounds: Bounds<'_>) -> Result<Ended, Error> {
        let mut child = self.spawn()?;
        let lost =
            |source| Error::Io { what: "speaking to a step", path: self.log.clone(), source };
        let gone = || lost(io::ErrorKind::BrokenPipe.into());
        let mut input = child.stdin.take().ok_or_else(gone)?;
        let mut line = serde_json::to_vec(order).map_err(|error| lost(error.into()))?;
        line.push(b'\n');
        // A step that does not read ends without an answer, which is noticed below.
        let _ = input.write_all(&line).await;
        let mut answers = BufReader::new(child.stdout.take().ok_or_else(gone)?).lines();
        let over = tokio::select! {
            biased;
            answer = answers.next_line() => return self.report(answer, &mut child).await,
            () = self.stop.cancelled() => Error::Halted,
            () = outgrown(bounds) => Error::TooLarge { what: bounds.what, bytes_max: bounds.bytes_max },
        };
        // The end of its input ends it; it answers when nothing of it is left.
        drop(input);
        match timeout(LAST_WORD, answers.next_line()).await {
            Ok(answer) => self.report(answer, &mut child).await.and(Err(over)),
            Err(_) => Err(Error::Remains),
        }
    }

    async fn report(
        &self,
        answer: io::Result<Option<String>>,
        child: &mut Child,
    ) -> Result<Ended, Error> {
        let _ = child.wait().await;
        let answer = answer.ok().flatten().unwrap_or_default();
        match serde_json::from_str::<Report>(&answer) {
            Ok(Report { ended, swept: true }) => Ok(ended),
            Ok(Report { swept: false, .. }) => Err(Error::Remains),
            Err(_) => Ok(Ended::NotStarted("the process that runs it is gone".to_owned())),
        }
    }

    fn spawn(&self) -> Result<Child, Error> {
        let io = |what| move |source| Error::Io { what, path: self.log.clone(), source };
        let lost = || Error::Io {
            what: "starting a step",
            path: self.log.clone(),
            source: io::ErrorKind::NotFound.into(),
        };
        let (program, arguments) = self.shim.split_first().ok_or_else(lost)?;
        // Nothing here may need a hook before `exec`: the standard library then uses `posix_spawn`.
        Command::new(program)
            .args(arguments)
            .arg(step::WORD)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(open_log(&self.log).map_err(io("opening the log of a build"))?)
            .spawn()
            .map_err(io("starting a step"))
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Ends when the directory has outgrown its bounds.
async fn outgrown(bounds: Bounds<'_>) {
    loop {
        let (began, directory) = (Instant::now(), bounds.directory.to_owned());
        let usage = tokio::task::spawn_blocking(move || tree::usage(&directory)).await;
        if usage.is_ok_and(|usage| usage.bytes > bounds.bytes_max) {
            return;
        }
        // Looking at many files takes time: it must not become the main work.
        sleep((began.elapsed() * LOOK_SHARE).max(LOOK)).await;
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The most telling line of what a step said: its last error, or its last words.
fn said(log: &Path, from: u64) -> String {
    let tail = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL))))?;
        let mut tail = Vec::new();
        file.take(TAIL).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = tail().unwrap_or_default();
    let tail = String::from_utf8_lossy(&tail);
    let lines = || tail.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = |line: &&str| {
        ["fatal:", "error:", "npm error", "ERROR:"].iter().any(|word| line.starts_with(word))
    };
    let line = lines().rev().find(error).or_else(|| lines().next_back()).unwrap_or("no output");
    let mut end = line.len().min(SAID_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.get(..end).unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_told_in_one_harmless_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "before\nfatal: old\n").unwrap();
        let from = std::fs::metadata(&log).unwrap().len();
        assert_eq!(said(&log, from), "no output");
        let text = "before\nfatal: old\nwork\nfatal: the \u{1b}[2Jrepo is gone\n\nhint: x\n\n";
        std::fs::write(&log, text).unwrap();
        assert_eq!(said(&log, from), "fatal: the [2Jrepo is gone");
        std::fs::write(&log, format!("{}\n", "ä".repeat(1_000))).unwrap();
        assert_eq!(said(&log, 0), "ä".repeat(SAID_MAX / 2));
        assert_eq!(said(&dir.path().join("nothing"), 0), "no output");
    }
}

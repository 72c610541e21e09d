//! `agentd shim DIR`: the parent of one app process.
//!
//! One small process with one thread per instance. It starts the app, waits for its end, writes its output to files, notes every
//! exit, holds the listening socket and answers agentd on a unix socket. It has its own session, so neither the death nor the
//! upgrade of agentd touches it or the app; and when the shim itself is killed, the app goes on and the next shim finds it.
//!
//! It decides nothing: it never restarts the app by itself.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{FileType, FlockOperation, Mode};
use rustix::io::Errno;

mod born;
mod confine;
pub mod files;
mod output;
mod prepare;
pub mod procfs;
pub mod protocol;
mod run;
pub mod socket;
mod spawn;
mod spool;
pub mod step;
mod tree;

pub use output::{LOG_CURRENT, LOG_DIR};
pub use tree::kill_group;

use protocol::{CONFIG_FILE, Config, LOCK_FILE, Message, RefusalCode};
use socket::Client;

/// Why a shim cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another shim holds the lock of the directory.
    #[error("another shim serves this directory")]
    Locked,
    /// The configuration is missing or not valid.
    #[error("the configuration `{CONFIG_FILE}` cannot be read")]
    Config(#[source] io::Error),
    /// The operating system refused something.
    #[error("{0} failed")]
    Io(&'static str, #[source] io::Error),
}

impl Error {
    fn code(&self) -> RefusalCode {
        match self {
            Self::Locked => RefusalCode::Locked,
            Self::Config(_) => RefusalCode::BadConfig,
            Self::Io(..) => RefusalCode::Io,
        }
    }
}

/// Runs a shim in `dir` until it is asked to end. A socket as standard input is its first caller. The directory of an instance is
/// absolute; the words [`step::WORD`] and [`files::WORD`] in its place make this process the parent of one step of a build, or a
/// server of static files.
#[must_use]
pub fn main(dir: &Path) -> ExitCode {
    if dir == Path::new(files::WORD) {
        return files::main();
    }
    // Numbers 0 to 3 are taken for good: nothing that is opened later can be in the way of the app's descriptor 3.
    let reserved = reserve_descriptors();
    if dir == Path::new(step::WORD) {
        return step::main();
    }
    let mut caller = first_caller();
    let outcome = begin(dir, &mut caller);
    drop(reserved);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = chain(&error);
            if let Some(caller) = &mut caller {
                caller.send(&Message::Fatal { code: error.code(), text: text.clone() });
            }
            let _ = io::Write::write_all(&mut io::stderr(), format!("shim: {text}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn begin(dir: &Path, caller: &mut Option<Client>) -> Result<(), Error> {
    std::env::set_current_dir(dir).map_err(|e| Error::Io("entering the directory", e))?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let lock = lock()?;
    let config = read_config()?;
    // Fails only if this is a group leader already, which is as good: it was started from a shell.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| Error::Io("becoming a subreaper", e.into()))?;
    set_name(&config.label);
    let group = tree::Group::enter(&group_name(&config.label, dir));
    let mut supervisor = run::Supervisor::new(&config, group).map_err(|e| Error::Io("setup", e))?;
    supervisor.adopt_latest(&config);
    supervisor.run(caller.take()).map_err(|e| Error::Io("waiting", e))?;
    drop(lock);
    Ok(())
}

fn reserve_descriptors() -> Vec<OwnedFd> {
    let mut reserved = Vec::new();
    while let Ok(fd) = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        let number = fd.as_raw_fd();
        reserved.push(fd);
        if number >= 3 {
            break;
        }
    }
    reserved
}

/// If standard input is a socket, agentd is already at its other end: no time is lost until the first request.
fn first_caller() -> Option<Client> {
    let stdin = rustix::stdio::stdin();
    let mode = rustix::fs::fstat(stdin).ok()?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::Socket {
        return None;
    }
    let stream = rustix::io::fcntl_dupfd_cloexec(stdin, 4).ok()?;
    rustix::io::ioctl_fionbio(&stream, true).ok()?;
    let null = OpenOptions::new().read(true).open("/dev/null").ok()?;
    rustix::stdio::dup2_stdin(&null).ok()?;
    Some(Client::new(stream))
}

fn lock() -> Result<OwnedFd, Error> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(LOCK_FILE)
        .map_err(|e| Error::Io("opening the lock", e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(Errno::WOULDBLOCK) => Err(Error::Locked),
        Err(error) => Err(Error::Io("locking", error.into())),
    }
}

fn read_config() -> Result<Config, Error> {
    let bytes = std::fs::read(CONFIG_FILE).map_err(Error::Config)?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Config(e.into()))
}

/// The name in the process list is not the program's: whoever kills agentd by name must not hit the shims.
fn set_name(label: &str) {
    // The kernel keeps 15 bytes.
    let mut name: Vec<u8> = format!("shim:{label}").bytes().filter(|b| *b != 0).take(15).collect();
    name.push(0);
    if let Ok(name) = std::ffi::CStr::from_bytes_with_nul(&name) {
        let _ = rustix::thread::set_name(name);
    }
}

/// A name that no other instance of any agentd on this machine has: the label, and the FNV-1a hash of the directory.
fn group_name(label: &str, dir: &Path) -> String {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in dir.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let label: String =
        label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(80).collect();
    format!("agentd-{label}-{hash:016x}")
}

/// An error and everything that led to it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

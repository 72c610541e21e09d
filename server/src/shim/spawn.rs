//! Turns a fork of the shim into the app. The only unsafe code of the project.
//!
//! The work is done here and not in agentd because a hook before `exec` makes the standard library fork instead of
//! `posix_spawn`, and a fork copies the page tables: 137 ms at 2 GiB resident, but nothing in a process of two megabytes.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::UnshareFlags;

use super::confine::{Confinement, confine};
use super::protocol::User;

/// What the child becomes.
#[derive(Debug)]
pub(super) struct Image {
    /// Resolved path of the program.
    pub(super) path: CString,
    /// Arguments, the name included.
    pub(super) argv: Vec<CString>,
    /// Environment as `KEY=value`.
    pub(super) env: Vec<CString>,
    /// Becomes descriptor 3 and is announced by `LISTEN_FDS`.
    pub(super) listener: Option<OwnedFd>,
    /// The child writes its own `/proc/self/stat` here before it becomes the app, if somebody is to find it again.
    pub(super) born: Option<OwnedFd>,
    /// Limits to set.
    pub(super) limits: Vec<(Resource, Rlimit)>,
    /// Whom to become.
    pub(super) user: Option<User>,
    /// The one place to write to, where there is only one.
    pub(super) confinement: Option<Confinement>,
}

/// Starts `image` with the standard streams and working directory of `command`.
///
/// Descriptor 3 of the calling process must be taken, so that nothing of the standard library can sit there.
///
/// # Errors
/// What the child failed with before or in `exec`.
#[expect(unsafe_code, reason = "the hook between fork and exec; the shim has one thread")]
pub(super) fn spawn(command: &mut Command, image: Image) -> io::Result<Child> {
    let shim = rustix::process::getpid();
    // SAFETY: the shim has a single thread, so the child may allocate and call anything; it touches nothing but itself, and the
    // pointers given to `execve` point into `image`, which lives until then. No descriptor table is shared with another thread.
    unsafe {
        command.pre_exec(move || {
            if let Some(confinement) = &image.confinement {
                match rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) {
                    Ok(()) => confine(confinement)?,
                    // A container may not let its root do this; the user and the limits are still its own.
                    Err(Errno::PERM) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            prepare(&image, shim)?;
            let mut env = image.env.clone();
            if image.listener.is_some() {
                env.push(CString::new(format!("LISTEN_PID={}", std::process::id()))?);
            }
            for signal in 1..=64 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            libc::close_range(4, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32);
            if let Some(listener) = &image.listener {
                libc::dup2(listener.as_raw_fd(), 3);
            }
            libc::execve(image.path.as_ptr(), pointers(&image.argv), pointers(&env));
            Err(io::Error::last_os_error())
        });
    }
    command.spawn()
}

/// A null-terminated array of pointers, leaked: it is needed until `exec` replaces the process or the child ends.
fn pointers(strings: &[CString]) -> *const *const libc::c_char {
    let list: Vec<_> = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
    Vec::leak(list).as_ptr()
}

/// The part of the child's work that needs no unsafe code.
fn prepare(image: &Image, shim: rustix::process::Pid) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Some(born) = &image.born {
        let flags = rustix::fs::OFlags::RDONLY;
        let stat = rustix::fs::open(SELF_STAT, flags, rustix::fs::Mode::empty())?;
        let mut line = [0_u8; 1024];
        let length = rustix::io::read(&stat, &mut line)?;
        rustix::io::write(born.as_fd(), line.get(..length).unwrap_or_default())?;
    }
    // Whoever looks after a killed shim reads `born` once; a child that was not noted in time must not become the app.
    if rustix::process::getppid() != Some(shim) {
        return Err(io::Error::other("the shim is gone"));
    }
    for (resource, limit) in &image.limits {
        rustix::process::setrlimit(*resource, *limit)?;
    }
    if let Some(user) = image.user {
        become_user(user)?;
    }
    if image.born.is_none() {
        // Nobody could find it again, so it does not outlive its parent. A change of user would have cleared this.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    }
    Ok(())
}

/// For good: real, effective and saved ids change, so there is no way back, and no file that says setuid leads anywhere.
fn become_user(user: User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // There is one thread, so what is said of it is said of the process.
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

const SELF_STAT: &CStr = c"/proc/self/stat";

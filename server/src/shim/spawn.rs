//! Turns a child of the shim into the app. The only unsafe code of the project.
//!
//! The child shares the memory of the shim until it becomes the app, while the shim stands still: what `vfork` does, and what the
//! standard library's `posix_spawn` does where no hook before `exec` is wanted. A copy of the page tables costs a third of a
//! millisecond even for a process of two megabytes, between the death of an app and its next start. It is done here and not in
//! agentd, whose threads could not stand still.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::{Gid, Pid, Resource, Rlimit, Uid, WaitOptions, waitpid};
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
    /// Working directory.
    pub(super) cwd: PathBuf,
    /// Standard output and standard error; standard input is empty.
    pub(super) output: [OwnedFd; 2],
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

/// Room for the calls of the child, with much to spare: what it reads of `/proc/self/mountinfo` is on the heap.
const STACK_BYTES: usize = 256 * 1024;
/// The stack grows down from an address divisible by this, on every architecture that Linux has.
const STACK_ALIGN: usize = 16;

/// What the child is told and what it tells, in the memory both have.
struct Errand {
    image: Image,
    shim: Pid,
    null: OwnedFd,
    /// What `execve` is given. Here, and not in the child, whose stack is forgotten when it becomes the app.
    lists: [Vec<*const libc::c_char>; 2],
    error: Option<io::Error>,
}

/// Starts `image` and answers with the number of the process, which the caller reaps.
///
/// Descriptors 0 to 3 of the calling process must be taken, so that nothing the child needs can sit there.
///
/// # Errors
/// What the child failed with before or in `exec`; nothing is left of it then.
#[expect(
    unsafe_code,
    reason = "a child in the same memory, which lives in its own stack until `exec`"
)]
pub(super) fn spawn(image: Image) -> io::Result<u32> {
    let read = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", read, rustix::fs::Mode::empty())?;
    let mut errand = Errand {
        image,
        shim: rustix::process::getpid(),
        null,
        lists: Default::default(),
        error: None,
    };
    let mut stack = vec![0_u8; STACK_BYTES];
    // SAFETY: `top` is the end of `stack`, aligned downwards. The shim has a single thread and CLONE_VFORK stops it until the
    // child has become the app or ended, so `stack` and `errand` outlive what the child does with them and nobody else touches
    // the memory meanwhile. No signal is handled on either side: all are blocked before, and the child forgets the handlers
    // before it unblocks them. Descriptors, directories and limits are its own, being neither CLONE_FILES nor CLONE_FS.
    let cloned = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
        let end = stack.as_mut_ptr().add(STACK_BYTES);
        let top = end.sub(end.addr() % STACK_ALIGN);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(child, top.cast(), flags, (&raw mut errand).cast());
        let cloned = if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) };
        libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        cloned
    };
    drop(stack);
    let pid = cloned?;
    match errand.error.take() {
        None => Ok(pid.unsigned_abs()),
        Some(error) => {
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
            Err(error)
        }
    }
}

/// The child: becomes the app, or says why not and ends.
#[expect(unsafe_code, reason = "the entry the kernel calls; see `spawn`")]
extern "C" fn child(errand: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes its own errand, which nobody else looks at before this process has ended or become the app.
    let errand = unsafe { &mut *errand.cast::<Errand>() };
    let Err(error) = become_app(errand) else { return 0 };
    errand.error = Some(error);
    // SAFETY: ends this process without what the shim registered for its own end.
    unsafe { libc::_exit(127) }
}

/// Answers only if it failed.
#[expect(unsafe_code, reason = "signals, descriptors by number and `execve`; see `spawn`")]
fn become_app(errand: &mut Errand) -> io::Result<()> {
    let Errand { image, shim, null, lists, .. } = errand;
    rustix::stdio::dup2_stdin(null)?;
    rustix::stdio::dup2_stdout(&image.output[0])?;
    rustix::stdio::dup2_stderr(&image.output[1])?;
    std::env::set_current_dir(&image.cwd)?;
    if let Some(confinement) = &image.confinement {
        // SAFETY: the new view of the mounts is this process's alone.
        match unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) } {
            Ok(()) => confine(confinement)?,
            // A container may not let its root do this; the user and the limits are still its own.
            Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    prepare(image, *shim)?;
    if image.listener.is_some() {
        image.env.push(CString::new(format!("LISTEN_PID={}", std::process::id()))?);
    }
    *lists = [pointers(&image.argv), pointers(&image.env)];
    let [argv, env] = lists;
    // SAFETY: what the pointers lead to is in `image`, which outlives the call; each list ends with a null. The handlers of the
    // shim are forgotten before a signal can come in.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::close_range(4, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32);
        if let Some(listener) = &image.listener {
            libc::dup2(listener.as_raw_fd(), 3);
        }
        libc::execve(image.path.as_ptr(), argv.as_ptr(), env.as_ptr());
    }
    Err(io::Error::last_os_error())
}

/// A list that ends with a null pointer.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The part of the child's work that needs no unsafe code.
fn prepare(image: &Image, shim: Pid) -> io::Result<()> {
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

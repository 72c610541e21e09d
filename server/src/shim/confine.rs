//! Where a step of a build may write: below one directory, and nowhere else on this machine.
//!
//! The step gets a view of the file system of its own, in which everything but its directory is read-only. What other users left
//! open to everybody (`/tmp`, `/dev/shm`) is no way around the limits of the disk then, and nothing can be left behind there.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};

/// The one place to write to, and where the step works in it.
#[derive(Debug, Clone)]
pub(super) struct Confinement {
    pub(super) writable: PathBuf,
    pub(super) cwd: PathBuf,
}

/// Closes everything but `confinement`, in the view that this process has for itself since it was unshared.
///
/// # Errors
/// Something stays open.
pub(super) fn confine(confinement: &Confinement) -> io::Result<()> {
    let Confinement { writable, cwd } = confinement;
    // What is changed from here on is changed for nobody else.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount_bind(writable, writable)?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    for (point, kept) in table.lines().filter_map(parse).filter(|(point, _)| point != writable) {
        match mount_remount(&point, MountFlags::BIND | MountFlags::RDONLY | kept, "") {
            // One that lies hidden below another cannot be reached to be written to either.
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The directory this process was started in is seen through the old view.
    std::env::set_current_dir(cwd)
}

/// Mount point and the restrictions it has already, from a line of proc_pid_mountinfo(5).
fn parse(line: &str) -> Option<(PathBuf, MountFlags)> {
    let mut fields = line.split(' ').skip(4);
    let (point, options) = (fields.next()?, fields.next()?);
    let mut flags = MountFlags::empty();
    for option in options.split(',') {
        flags |= match option {
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            _ => MountFlags::empty(),
        };
    }
    Some((unescape(point), flags))
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| *byte == b'\\');
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(code) => {
                plain.push(code);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*byte);
                rest = behind;
            }
        }
    }
    Path::new(&OsString::from_vec(plain)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_keep_their_restrictions_and_their_spaces() {
        let line =
            r"36 35 98:0 /m /a\040b\134c rw,nosuid,noexec,relatime master:1 - ext4 /dev/root rw";
        let (point, flags) = parse(line).unwrap();
        assert_eq!(point, Path::new(r"/a b\c"));
        assert_eq!(flags, MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RELATIME);
        assert_eq!(parse("36 35 98:0"), None);
    }
}

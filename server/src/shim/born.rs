//! The note of birth: which process became the app, written by that process itself just before it did.
//!
//! Because the child writes the note, there is no moment at which an app runs that nobody could find again, even if its shim is
//! killed right after the fork.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};

use super::procfs;
use super::protocol::{BORN_FILE, Fence};

/// Where the note is until the app has really been executed.
const NEW_FILE: &str = "born.new";

/// What the shim knows before the fork.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) boot_id: String,
    pub(super) action_id: String,
    pub(super) revision: String,
    pub(super) at_ms: u64,
}

/// A note that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) header: Header,
    pub(super) fence: Fence,
}

/// Makes room for the next note, so that no start has to wait for a new file. A start makes it itself if this failed.
pub(super) fn lay_out() {
    let _ = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(NEW_FILE);
}

/// Begins a note in the current directory; the child adds its line to the returned file.
pub(super) fn begin(header: &Header) -> io::Result<OwnedFd> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(NEW_FILE)?;
    let mut line = serde_json::to_vec(header)?;
    line.push(b'\n');
    file.write_all(&line)?;
    Ok(File::into(file))
}

/// The child became the app: the note is valid from now on.
pub(super) fn commit() -> io::Result<Note> {
    let note = read(NEW_FILE).ok_or_else(|| io::Error::other("the note of birth is torn"))?;
    fs::rename(NEW_FILE, BORN_FILE)?;
    Ok(note)
}

/// The child did not become the app.
pub(super) fn abandon() {
    let _ = fs::remove_file(NEW_FILE);
}

/// What an earlier shim left in the current directory: the latest incarnation, and whether it still runs. A note that was
/// begun and not committed counts if the process it names runs.
pub(super) fn recover() -> Option<Note> {
    if let Some(note) = read(NEW_FILE)
        && procfs::open_incarnation(&note.fence).is_some()
        && fs::rename(NEW_FILE, BORN_FILE).is_ok()
    {
        return Some(note);
    }
    read(BORN_FILE)
}

fn read(name: &str) -> Option<Note> {
    parse(&String::from_utf8_lossy(&fs::read(name).ok()?))
}

fn parse(text: &str) -> Option<Note> {
    let (header, stat) = text.split_once('\n')?;
    let header: Header = serde_json::from_str(header).ok()?;
    let stat = procfs::parse_stat(stat.trim_end())?;
    let fence =
        Fence { boot_id: header.boot_id.clone(), pid: stat.pid, start_time: stat.start_time };
    Some(Note { header, fence })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_note_is_no_note() {
        let header = Header {
            boot_id: "b".into(),
            action_id: "x\ny".into(),
            revision: "r".into(),
            at_ms: 1,
        };
        let line = serde_json::to_string(&header).unwrap();
        let stat = "42 (sh) S 7 42 42 0 -1 4194560 1 2 3 4 11 22 0 0 20 0 1 0 12345 1000 55 1\n";
        let whole = format!("{line}\n{stat}");
        let note = parse(&whole).unwrap();
        assert_eq!((note.fence.pid, note.fence.start_time), (42, 12345));
        assert_eq!(note.header, header);
        for cut in 0..line.len() + 60 {
            assert_eq!(parse(whole.get(..cut).unwrap()), None, "cut at {cut}");
        }
    }
}

//! The directory of a log: its identity and the lock that makes its writer the only one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame::FORMAT_VERSION;
use super::index::first_seq_of;
use super::store::{self, Disk, Store};
use super::{Error, LogId};

/// Longest identity file that is read.
const META_BYTES_MAX: u64 = 4096;
/// Attempts at the lock before the log counts as in use.
const LOCK_ATTEMPTS: u32 = 10;
/// Time between two of them.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

#[derive(Serialize, Deserialize)]
struct Meta {
    format: u32,
    log_id: String,
}

/// A locked directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) log_id: LogId,
    pub(super) segments: Arc<dyn Store>,
    /// The lock goes with the descriptor: a dead process holds nothing.
    lock: File,
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A process being spawned has a copy of the descriptor until it runs its program; closing ours would leave the log
        // locked that long.
        let _ = self.lock.unlock();
    }
}

impl Directory {
    /// Locks `dir` and reads its identity, making both where there is no log yet.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let failed = |e| Error::io("prepare", &format!("the directory `{}`", dir.display()), e);
        store::make_dir(dir).map_err(failed)?;
        let lock = lock(dir)?;
        let segments: Arc<dyn Store> = Arc::new(Disk::create(dir.join("wal")).map_err(failed)?);
        let log_id = match read_identity(dir)? {
            Some(log_id) => log_id,
            None => make_identity(dir, segments.as_ref())?,
        };
        Ok(Self { log_id, segments, lock })
    }
}

/// Identity and segments of an existing log, without locking it.
pub(super) fn look(dir: &Path) -> Result<(LogId, Disk), Error> {
    let log_id = read_identity(dir)?.ok_or_else(|| Error::Identity {
        path: meta_path(dir),
        why: "is missing: this is not the directory of a proof log".into(),
    })?;
    Ok((log_id, Disk::existing(dir.join("wal"))))
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("LOCK");
    let failed = |e| Error::io("open", &format!("`{}`", path.display()), e);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = match options.open(&path) {
        // On a file system gone read-only the log is still served; the lock needs no write access.
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path),
        other => other,
    }
    .map_err(failed)?;
    match try_lock(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.take(32).read_to_string(&mut text);
            return Err(Error::Locked { dir: dir.to_owned(), holder: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(e)) => return Err(failed(e)),
    }
    // Only for the message above: the lock is what counts, so a full disk does not stop the start.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Waits a moment before it gives up: a server that was killed while it started a process is still seen to hold the lock
/// until that process runs its program.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 1..LOCK_ATTEMPTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    file.try_lock()
}

fn meta_path(dir: &Path) -> PathBuf {
    dir.join("meta.json")
}

fn read_identity(dir: &Path) -> Result<Option<LogId>, Error> {
    let path = meta_path(dir);
    let mut text = String::new();
    let read = File::open(&path).and_then(|f| f.take(META_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &format!("`{}`", path.display()), e)),
    }
    let unreadable = |why: String| Error::Identity { path: path.clone(), why };
    let meta: Meta =
        serde_json::from_str(&text).map_err(|e| unreadable(format!("cannot be read: {e}")))?;
    if meta.format != FORMAT_VERSION {
        return Err(Error::Version { found: meta.format, supported: FORMAT_VERSION });
    }
    let log_id = meta.log_id.parse().map_err(|e| unreadable(format!("names no log: {e}")))?;
    Ok(Some(log_id))
}

fn make_identity(dir: &Path, segments: &dyn Store) -> Result<LogId, Error> {
    let path = meta_path(dir);
    let names = segments.names().map_err(|e| Error::io("list", "the segments", e))?;
    if names.iter().any(|name| first_seq_of(name).is_some()) {
        let why = "is missing beside existing segments: restore it from a backup".into();
        return Err(Error::Identity { path, why });
    }
    let log_id = LogId::random();
    let meta = Meta { format: FORMAT_VERSION, log_id: log_id.to_string() };
    let written = serde_json::to_vec(&meta)
        .map_err(io::Error::other)
        .and_then(|text| store::replace_file(&path, &text));
    written.map_err(|e| Error::io("write", &format!("`{}`", path.display()), e))?;
    Ok(log_id)
}

//! Where segments live: a directory of real files, or (in tests) a model of one that loses what was not synced.
//!
//! Names are those of segments and never come from outside. Nothing here retries: what to do after an error is decided by the
//! writer, who knows what had been acknowledged.

use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// The file exists.
    Write,
    /// The file is made, or emptied.
    Create,
}

/// A directory of segments.
pub(super) trait Store: Debug + Send + Sync + 'static {
    /// Names of all files, in no order.
    fn names(&self) -> io::Result<Vec<String>>;
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn StoredFile>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names durable.
    fn sync_names(&self) -> io::Result<()>;
    /// A sync failed, so nothing may be acknowledged any more: ends the process. In a model it ends the writer, which is all that
    /// there is of a process; then it returns.
    fn end_process(&self, reason: &str);
}

/// One open file.
pub(super) trait StoredFile: Debug + Send + Sync {
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes the content and the length durable.
    fn sync(&self) -> io::Result<()>;
}

/// Real files in one directory.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Makes the directory where it is missing: only its owner may enter.
    pub(super) fn create(dir: PathBuf) -> io::Result<Self> {
        make_dir(&dir)?;
        Ok(Self { dir })
    }

    pub(super) const fn existing(dir: PathBuf) -> Self {
        Self { dir }
    }
}

impl Store for Disk {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            // A name that is not text is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn StoredFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match access {
            Access::Read => {}
            Access::Write => {
                options.write(true);
            }
            Access::Create => {
                options.write(true).create(true).truncate(true);
            }
        }
        Ok(Box::new(DiskFile(options.open(self.dir.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn end_process(&self, reason: &str) {
        end_process(reason)
    }
}

/// Ends the process because a sync failed. What the disk holds is not known from here on, and neither a retry nor a second
/// descriptor can tell (Rebello et al., USENIX ATC 2020): only a start that reads the log again and writes its tail anew can.
pub(crate) fn end_process(reason: &str) -> ! {
    tracing::error!(
        reason,
        "a sync of the proof log failed: agentd ends here, nothing that waits is acknowledged; the next start recovers the log"
    );
    std::process::abort()
}

#[derive(Debug)]
struct DiskFile(File);

impl StoredFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, at.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        // fdatasync writes the length too where reading needs it; what it leaves out is the time of the last change.
        self.0.sync_data()
    }
}

/// Makes `dir` and what is missing above it, mode 0700, and makes every new name durable.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dir(parent)?;
    }
    DirBuilder::new().mode(0o700).create(dir)?;
    sync_parent(dir)
}

/// Why a file was not replaced.
#[derive(Debug)]
pub(crate) enum NotReplaced {
    /// It is as it was.
    Unwritten(io::Error),
    /// The new content or its name may not survive a crash.
    Unsynced(io::Error),
}

impl NotReplaced {
    fn into_inner(self) -> io::Error {
        match self {
            Self::Unwritten(error) | Self::Unsynced(error) => error,
        }
    }
}

/// Replaces the file at `path` so that after a crash either the old or the new content is there, whole.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    try_replace_file(path, content).map_err(NotReplaced::into_inner)
}

/// As [`replace_file`], and says what failed.
pub(crate) fn try_replace_file(path: &Path, content: &[u8]) -> Result<(), NotReplaced> {
    let temporary = path.with_extension("tmp");
    let written = || -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(content)?;
        Ok(file)
    };
    let file = written().map_err(NotReplaced::Unwritten)?;
    file.sync_all().map_err(NotReplaced::Unsynced)?;
    std::fs::rename(&temporary, path).map_err(NotReplaced::Unwritten)?;
    sync_parent(path).map_err(NotReplaced::Unsynced)
}

/// Makes the name of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

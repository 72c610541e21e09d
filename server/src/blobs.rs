//! What is too long for a line of the proof log, in files that are called by their digest.
//!
//! ```text
//! <data dir>/proof/blobs/sha256/<2 digits>/<64 digits>
//! ```
//!
//! A file is durable before the line that names it is written, and never changes after that. Whoever reads one checks it against the
//! line; what is missing or was edited is named by its entry, and everything else goes on. A file goes with the last record that names
//! it ([`crate::retention`]): one that was kept while that is found out stays.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_core::chain::Hash;
use agentd_core::record::{self, BLOB_MAX, Detached, Record};

use crate::failpoint;
use crate::journal::{make_dir, replace_file, sync_parent};

/// Name of the directory in the directory of the log.
pub const DIR: &str = "blobs";

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The line is no record.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The body is gone.
    #[error("its body, `{0}`, is missing")]
    Missing(String),
    /// The body is another one.
    #[error("its body, `{0}`, is not the one that was recorded")]
    Differs(String),
    /// The body cannot be read.
    #[error("its body, `{name}`, cannot be read")]
    Io {
        /// Name of the file.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// The files of one log.
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
    in_use: Arc<Mutex<InUse>>,
}

/// Files that no durable line may name yet.
#[derive(Debug, Default)]
struct InUse {
    /// Kept, and the line not durable.
    fresh: BTreeSet<Hash>,
    /// Somebody is finding out what goes: what was fresh when that began, and what was kept since.
    spared: Option<BTreeSet<Hash>>,
}

impl Blobs {
    /// Those of the log in `dir`.
    #[must_use]
    pub fn of_log(dir: &Path) -> Self {
        Self::at(dir.join(DIR))
    }

    /// Those in `dir` itself, as an export has them.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self { dir, in_use: Arc::default() }
    }

    fn in_use(&self) -> MutexGuard<'_, InUse> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lines of everything that was kept so far are durable, or never will be.
    pub fn settled(&self) {
        self.in_use().fresh.clear();
    }

    /// From here on, what is kept stays, whoever names it no more: see [`Blobs::remove`]. What is fresh now stays too.
    pub fn spare(&self) {
        let mut in_use = self.in_use();
        in_use.spared = Some(in_use.fresh.clone());
    }

    /// Removes these, but not what was kept since [`Blobs::spare`]. Answers with how many there were.
    ///
    /// # Errors
    /// The disk; some are there still.
    pub fn remove(&self, going: &BTreeSet<Hash>) -> io::Result<usize> {
        let removed = going
            .iter()
            .try_fold(0, |removed, sha256| Ok(removed + usize::from(self.remove_one(*sha256)?)));
        self.in_use().spared = None;
        removed
    }

    /// One by one: who keeps one waits for no more than one.
    fn remove_one(&self, sha256: Hash) -> io::Result<bool> {
        let in_use = self.in_use();
        if in_use.spared.as_ref().is_none_or(|spared| spared.contains(&sha256)) {
            return Ok(false);
        }
        failpoint::hit("blobs.remove")?;
        match std::fs::remove_file(self.file(sha256)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            gone => Ok(gone.is_ok()),
        }
    }

    fn path(&self, blob: Detached) -> PathBuf {
        self.file(blob.sha256)
    }

    fn file(&self, sha256: Hash) -> PathBuf {
        let name = sha256.to_string();
        let shelf = name.get(..2).unwrap_or_default().to_owned();
        self.dir.join("sha256").join(shelf).join(name)
    }

    /// Keeps these bytes; durable when it returns.
    ///
    /// # Errors
    /// The disk, or more bytes than are kept.
    pub fn put(&self, bytes: &[u8]) -> io::Result<Detached> {
        if bytes.len() > BLOB_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let blob = Detached::of(bytes);
        {
            let mut in_use = self.in_use();
            in_use.fresh.insert(blob.sha256);
            in_use.spared.as_mut().map(|spared| spared.insert(blob.sha256));
        }
        let path = self.path(blob);
        if let Some(shelf) = path.parent() {
            make_dir(shelf)?;
        }
        match self.get(blob) {
            // It may have been written by a run that ended before its name was durable.
            Ok(_) => sync_parent(&path)?,
            Err(_) => replace_file(&path, bytes)?,
        }
        Ok(blob)
    }

    /// The bytes, checked.
    ///
    /// # Errors
    /// They are missing, or others.
    pub fn get(&self, blob: Detached) -> Result<Vec<u8>, Error> {
        let name = blob.sha256.to_string();
        let file = match File::open(self.path(blob)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Missing(name));
            }
            Err(source) => return Err(Error::Io { name, source }),
            Ok(file) => file,
        };
        let mut bytes = Vec::new();
        // One byte more than there should be shows that there are too many.
        let limit = u64::try_from(BLOB_MAX).unwrap_or(u64::MAX).min(blob.bytes).saturating_add(1);
        if let Err(source) = file.take(limit).read_to_end(&mut bytes) {
            return Err(Error::Io { name, source });
        }
        if blob.is_of(&bytes) { Ok(bytes) } else { Err(Error::Differs(name)) }
    }

    /// The record in `line`, whole.
    ///
    /// # Errors
    /// It is none, or its body cannot be had.
    pub fn record(&self, line: &[u8]) -> Result<Record, Error> {
        let record = Record::parse(line)?;
        match record.detached() {
            None => Ok(record),
            Some(blob) => Ok(record.attach(&self.get(blob)?)?),
        }
    }

    /// Checks the body that `line` keeps beside the log, if it does.
    ///
    /// # Errors
    /// It is not there as it was recorded.
    pub fn check(&self, line: &[u8]) -> Result<(), Error> {
        Detached::in_line(line).map_or(Ok(()), |blob| self.get(blob).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use agentd_core::app::Env;
    use agentd_core::chain::GENESIS;
    use agentd_core::record::{Body, LINE_MAX};

    use super::*;

    fn long() -> Record {
        let body = Body::Injected { scenario: "crash".to_owned(), what: "x".repeat(LINE_MAX) };
        let (seq, at, env, actor) = (7, 1_795_448_641_483, Env::Stage, "agent-1".to_owned());
        Record { seq, at, env, app: None, cause: None, actor, trace: None, body }
    }

    #[test]
    fn a_body_is_there_again_and_what_was_done_to_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::of_log(dir.path());
        let (line, body) = long().line_detached(GENESIS);
        assert!(matches!(blobs.record(&line), Err(Error::Missing(_))));
        let blob = blobs.put(&body).unwrap();
        assert_eq!(blobs.put(&body).unwrap(), blob, "twice is once");
        assert_eq!(blobs.record(&line).unwrap(), long());
        blobs.check(&line).unwrap();
        blobs.check(b"{}").unwrap();

        let path = blobs.path(blob);
        for edited in [&body[..body.len() - 1], &[&body[..], b" "].concat()[..], &b""[..]] {
            fs::write(&path, edited).unwrap();
            let error = blobs.record(&line).unwrap_err();
            assert!(matches!(&error, Error::Differs(name) if *name == blob.sha256.to_string()));
            assert!(blobs.check(&line).is_err());
        }
        // Recorded once more, it is whole again.
        blobs.put(&body).unwrap();
        blobs.check(&line).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(matches!(blobs.check(&line), Err(Error::Missing(_))));
        fs::create_dir(&path).unwrap();
        assert!(matches!(blobs.check(&line), Err(Error::Io { .. })));
    }

    #[test]
    fn what_is_kept_while_it_is_found_out_what_goes_stays() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::of_log(dir.path());
        let [old, fresh, again] = [b"old", b"new", b"two"].map(|bytes| {
            blobs.settled();
            blobs.put(bytes).unwrap()
        });
        let all: BTreeSet<Hash> = [old, fresh, again].map(|blob| blob.sha256).into();
        blobs.settled();
        blobs.put(b"new").unwrap();
        assert_eq!(blobs.remove(&all).unwrap(), 0, "nobody asked what goes");
        blobs.spare();
        blobs.settled();
        // Named by the record that is made at this moment.
        blobs.clone().put(b"two").unwrap();
        assert_eq!(blobs.remove(&all).unwrap(), 1);
        assert!(matches!(blobs.get(old), Err(Error::Missing(_))));
        assert!(blobs.get(fresh).is_ok() && blobs.get(again).is_ok());
        blobs.settled();
        blobs.spare();
        assert_eq!(blobs.remove(&all).unwrap(), 2, "gone already is no error");
    }

    #[test]
    fn more_than_is_kept_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Blobs::of_log(dir.path()).put(&vec![b'x'; BLOB_MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}

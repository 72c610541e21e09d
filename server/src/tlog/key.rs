//! The key of the log: a file that only its owner can read, in the form other tools write.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use agentd_core::tlog::SignerKey;

use super::Error;
use crate::journal::sync_parent;

/// Longest key file that is read.
const BYTES_MAX: u64 = 4096;

/// Where the key lies that the one in `path` replaced, while that one signs too.
pub(super) fn before(path: &Path) -> PathBuf {
    with_suffix(path, ".before")
}

/// Where the key lies that is about to replace the one in `path`.
pub(super) fn next(path: &Path) -> PathBuf {
    with_suffix(path, ".next")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What the log signs with: the key in `path`, if there is one, and the one that it replaced, if that one still signs too.
pub(super) fn load(path: &Path) -> Result<Option<SignerKey>, Error> {
    let Some(key) = load_one(path)? else { return Ok(None) };
    Ok(Some(match load_one(&before(path))? {
        // Written just before the exchange that did not come to pass.
        Some(before) if before.verifier() == key.verifier() => key,
        Some(before) => key.replacing(before),
        None => key,
    }))
}

/// The key in `path` alone.
pub(super) fn load_one(path: &Path) -> Result<Option<SignerKey>, Error> {
    let failed = Error::io("read", path);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(&failed)?,
    };
    let mode = file.metadata().map_err(&failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Permissions { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(&failed)?;
    let key = SignerKey::parse(text.trim_end());
    key.map(Some).map_err(|source| Error::Key { path: path.to_owned(), source })
}

/// Makes a key called `origin` in `path`, which must not exist, and makes it durable before anything is signed with it.
pub(super) fn generate(path: &Path, origin: &str) -> Result<SignerKey, Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(Error::Random)?;
    let key = SignerKey::from_seed(origin, &seed)
        .map_err(|source| Error::Key { path: path.to_owned(), source })?;
    let failed = Error::io("make the key of the proof log", path);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(&failed)?;
    let text = format!("{}\n", key.to_secret_text());
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_parent(path))
        .map_err(&failed)?;
    Ok(key)
}

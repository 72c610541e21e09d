//! `app_spec.json`: every specification in force as a file, for people and tools beside the proof log.
//!
//! The log is the authority; the files are copies made once a specification is durable, at
//! `<data_dir>/apps/<name>/app_spec.json`, byte for byte what its digest was made of.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use agentd_core::app::{AppName, AppSpec};
use agentd_core::plan::Operation;
use agentd_core::record::Body;
use agentd_core::state::SpecHistory;

use crate::grpc::Services;
use crate::publish::Next;

/// File name of a specification.
pub const FILE: &str = "app_spec.json";
const APPS: &str = "apps";

/// Distinguishes temporary files of one process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A specification could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} `{}`", path.display())]
pub struct Error {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Error {
    fn new(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { verb, path, source }
    }
}

/// What [`restore`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files that were as they should be.
    pub sound: usize,
    /// Files that were missing or different, and were written again.
    pub written: usize,
}

/// Where the specification of `app` is.
#[must_use]
pub fn path(data_dir: &Path, app: &AppName) -> PathBuf {
    directory(data_dir, app).join(FILE)
}

fn directory(data_dir: &Path, app: &AppName) -> PathBuf {
    data_dir.join(APPS).join(app.as_str())
}

/// Writes the specification so that a reader sees the old file or the new one, never a part; directories 0700, the file 0600.
///
/// Blocks for as long as the disk takes.
///
/// # Errors
/// [`Error`] names the path and what was tried on it. A symbolic link in place of the app's directory is an error.
pub fn write(data_dir: &Path, spec: &AppSpec) -> Result<PathBuf, Error> {
    let directory = directory(data_dir, &spec.name);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(Error::new("make directory", &directory))?;
    let is_directory = fs::symlink_metadata(&directory)
        .map_err(Error::new("look at", &directory))?
        .file_type()
        .is_dir();
    if !is_directory {
        let source = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(Error::new("write below", &directory)(source));
    }
    let target = directory.join(FILE);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = directory.join(format!(".{FILE}.{}.{number}", std::process::id()));
    let written = replace(&temporary, &target, &spec.to_json());
    if written.is_err() {
        // The first error is the one to tell; a left-over is harmless and never read.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    // Makes the new name durable.
    File::open(&directory)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::new("sync directory", &directory))?;
    Ok(target)
}

fn replace(temporary: &Path, target: &Path, content: &[u8]) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)
        .map_err(Error::new("make", temporary))?;
    file.write_all(content).map_err(Error::new("write", temporary))?;
    file.sync_all().map_err(Error::new("sync", temporary))?;
    fs::rename(temporary, target).map_err(Error::new("replace", target))
}

/// Writes every specification in force whose file is missing or differs: after a crash between the record and the file, or
/// when somebody changed a copy. Call it once after replay.
///
/// # Errors
/// The first [`Error`]; files before it are restored.
pub fn restore(data_dir: &Path, specs: &BTreeMap<AppName, SpecHistory>) -> Result<Restored, Error> {
    let mut restored = Restored::default();
    for (name, history) in specs {
        let Some(spec) = history.spec() else { continue };
        match fs::read(path(data_dir, name)) {
            Ok(content) if content == spec.to_json() => {
                restored.sound += 1;
                continue;
            }
            Ok(_) => tracing::warn!(app = %name, "specification file differs from the proof log"),
            Err(_) => tracing::info!(app = %name, "specification file is missing"),
        }
        write(data_dir, spec)?;
        restored.written += 1;
    }
    Ok(restored)
}

/// Keeps the files in step with what is in force, for as long as the server runs: an update, a rollback or an approval changes the
/// file when it changes the app, and what was let go leaves none.
pub async fn follow(services: Services) {
    let mut head = services.publisher.head();
    let mut position = *head.borrow_and_update();
    let stopping = services.tasks.stopping();
    loop {
        // Missed records cost nothing but the next start, which restores every file.
        let records = match services.publisher.after(position, FOLLOWED) {
            Next::Records(records) => records,
            Next::OnDisk => {
                position = services.publisher.newest();
                continue;
            }
        };
        for published in &records {
            position = published.record.seq;
            if let Some(app) = &published.record.app
                && changes_file(&published.record.body)
            {
                renew(&services, app).await;
            }
        }
        if !records.is_empty() {
            continue;
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = head.changed() => if changed.is_err() { return },
        }
    }
}

/// Records taken from the ring at once.
const FOLLOWED: usize = 256;

fn changes_file(body: &Body) -> bool {
    match body {
        Body::Offboarded { .. } => true,
        Body::Attempted(attempt) => matches!(
            attempt.plan.operation,
            Operation::Deploy { .. } | Operation::Configure { .. } | Operation::Rollback { .. }
        ),
        _ => false,
    }
}

/// Writes the specification in force, or removes the file if there is none.
async fn renew(services: &Services, app: &AppName) {
    let name = app.clone();
    let spec = services
        .agent
        .query(move |view| view.state.specs.get(&name).and_then(SpecHistory::spec).cloned());
    let Ok(spec) = spec.await else { return };
    let (dir, name) = (services.data_dir.clone(), app.clone());
    let renewed = tokio::task::spawn_blocking(move || match spec {
        Some(spec) => write(&dir, &spec).map(|_path| ()),
        None => remove(&dir, &name),
    });
    match renewed.await {
        Ok(Ok(())) => {}
        // They are copies of what the log holds; the next start tries again.
        Ok(Err(error)) => tracing::warn!(%app, %error, "specification file is not as it should be"),
        Err(error) => tracing::error!(%app, %error, "renewing a specification file panicked"),
    }
}

fn remove(data_dir: &Path, app: &AppName) -> Result<(), Error> {
    let file = path(data_dir, app);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::new("remove", &file)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use agentd_core::app::{Env, Instances, Runtime, Source};
    use agentd_core::state::Revision;

    use super::*;

    fn spec(name: &str) -> AppSpec {
        AppSpec {
            name: AppName::parse(name).unwrap(),
            env: Env::Dev,
            runtime: Runtime::Binary,
            source: Source::Exec { path: "/bin/true".into(), args: vec![] },
            working_dir: None,
            instances: Instances { min: 1, max: 1, desired: 1 },
            listen: None,
            health: None,
            environment: BTreeMap::new(),
            labels: BTreeMap::new(),
            thresholds: BTreeMap::new(),
            windows: Vec::new(),
            autonomy: None,
            stop_grace_ms: 10_000,
        }
    }

    fn history(spec: AppSpec) -> SpecHistory {
        let revision = Revision {
            number: 1,
            digest: spec.digest(),
            spec,
            verified_at: None,
            rolled_back_to: false,
            settings: false,
        };
        SpecHistory { revisions: vec![revision], current: 1, newest: 1 }
    }

    #[test]
    fn the_file_is_what_was_digested_private_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec("api");
        let file = write(dir.path(), &spec).unwrap();
        assert_eq!(file, path(dir.path(), &spec.name));
        let content = fs::read(&file).unwrap();
        assert_eq!(agentd_core::digest::sha256_hex(&content), spec.digest());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        write(dir.path(), &spec).unwrap();
        assert_eq!(
            fs::read_dir(file.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn a_start_restores_what_is_missing_or_was_changed_and_leaves_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let specs: BTreeMap<_, _> =
            ["a", "b", "c"].map(|n| (AppName::parse(n).unwrap(), history(spec(n)))).into();
        write(dir.path(), &spec("a")).unwrap();
        let changed = write(dir.path(), &spec("b")).unwrap();
        fs::write(&changed, "{}").unwrap();
        assert_eq!(restore(dir.path(), &specs).unwrap(), Restored { sound: 1, written: 2 });
        assert_eq!(restore(dir.path(), &specs).unwrap(), Restored { sound: 3, written: 0 });
        assert_eq!(fs::read(changed).unwrap(), spec("b").to_json());
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(APPS)).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("apps/api")).unwrap();
        let error = write(dir.path(), &spec("api")).unwrap_err();
        assert!(error.to_string().starts_with("cannot write below"), "{error}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}

//! From a configuration to something that can be executed, with an answer in plain words when it cannot.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, getuid};

use super::procfs;
use super::protocol::{Config, ResourceLimits};

/// Where programs without a slash are looked for if the app's environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why an app cannot be executed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no program to run.
    #[error("the command is empty")]
    NoProgram,
    /// A NUL byte cannot be passed to a program.
    #[error("{0} contains a NUL byte")]
    Nul(&'static str),
    /// A name of a variable that cannot be one.
    #[error("`{0}` cannot be the name of an environment variable")]
    BadVariable(String),
    /// The program does not exist.
    #[error("executable `{0}` does not exist")]
    Missing(String),
    /// The program is on no directory of the search path.
    #[error("executable `{program}` is not in PATH `{path}`")]
    NotInPath {
        /// What was asked for.
        program: String,
        /// Where it was looked for.
        path: String,
    },
    /// The program is a directory or has no permission to execute.
    #[error("`{0}` is not an executable file")]
    NotExecutable(String),
    /// The working directory does not exist or is not a directory.
    #[error("working directory `{0}` is not a directory")]
    BadDirectory(String),
    /// The kernel refused.
    #[error("`{path}` cannot be executed{hint}")]
    Exec {
        /// The resolved program.
        path: String,
        /// What usually causes this error.
        hint: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What can be resolved before the fork.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) path: CString,
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    pub(super) cwd: PathBuf,
    pub(super) limits: Vec<(Resource, Rlimit)>,
}

/// Resolves the program and encodes arguments and environment.
///
/// # Errors
/// Anything that would make `exec` fail and can be known beforehand.
pub(super) fn prepare(config: &Config) -> Result<Prepared, Error> {
    let program = config.argv.first().filter(|p| !p.is_empty()).ok_or(Error::NoProgram)?;
    let cwd = config.cwd.clone().unwrap_or_else(|| "/".into());
    if !cwd.is_dir() {
        return Err(Error::BadDirectory(cwd.display().to_string()));
    }
    let path = resolve(program, &cwd, config.env.get("PATH").map(String::as_str))?;
    let mut argv = Vec::new();
    for argument in &config.argv {
        argv.push(c_string(argument.as_bytes().to_vec(), "an argument")?);
    }
    let mut env = Vec::new();
    for (name, value) in &config.env {
        if name.is_empty() || name.contains('=') {
            return Err(Error::BadVariable(name.clone()));
        }
        // These three describe a socket; the shim alone knows whether there is one.
        if !matches!(name.as_str(), "LISTEN_FDS" | "LISTEN_PID" | "LISTEN_FDNAMES") {
            env.push(c_string(format!("{name}={value}").into_bytes(), "the environment")?);
        }
    }
    if config.listen {
        env.push(c_string(b"LISTEN_FDS=1".to_vec(), "the environment")?);
    }
    let path = c_string(path.as_os_str().as_bytes().to_vec(), "the program")?;
    Ok(Prepared { path, argv, env, cwd, limits: limits(config) })
}

fn c_string(bytes: Vec<u8>, what: &'static str) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_nul| Error::Nul(what))
}

/// As `execvp`, except that a file the kernel cannot execute is never given to a shell.
fn resolve(program: &str, cwd: &Path, path: Option<&str>) -> Result<PathBuf, Error> {
    if program.contains('/') {
        let full = cwd.join(program);
        return match fs::metadata(&full) {
            Ok(meta) if is_executable(&meta) => Ok(full),
            Ok(_) => Err(Error::NotExecutable(program.to_owned())),
            Err(_) => Err(Error::Missing(program.to_owned())),
        };
    }
    let path = path.unwrap_or(DEFAULT_PATH);
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| cwd.join(dir).join(OsStr::new(program)))
        .find(|full| fs::metadata(full).is_ok_and(|meta| is_executable(&meta)))
        .ok_or_else(|| Error::NotInPath { program: program.to_owned(), path: path.to_owned() })
}

fn is_executable(meta: &fs::Metadata) -> bool {
    meta.is_file() && meta.permissions().mode() & 0o111 != 0
}

/// Explains the error of a failed `exec`.
pub(super) fn exec_error(path: &CString, source: io::Error) -> Error {
    let hint = match source.raw_os_error() {
        Some(libc::ENOENT) => ": the interpreter or the loader it names does not exist",
        Some(libc::ENOEXEC) => ": it is neither a program of this machine nor a script with `#!`",
        Some(libc::EACCES) => ": not permitted, or on a file system mounted `noexec`",
        Some(libc::E2BIG) => ": arguments and environment are too long",
        _ => "",
    };
    Error::Exec { path: path.to_string_lossy().into_owned(), hint, source }
}

fn limits(config: &Config) -> Vec<(Resource, Rlimit)> {
    let wanted: ResourceLimits = config.limits;
    // The kernel counts what a user has, not what an app has. Counting reads all of `/proc`: a millisecond between the death of an
    // app and its next start, so it is done only where the app has such a limit.
    let there = || if config.user.is_some() { 0 } else { procfs::tasks_of(getuid().as_raw()) };
    [
        (Resource::Nofile, wanted.open_files),
        (Resource::As, wanted.address_space_bytes),
        (Resource::Core, wanted.core_bytes),
        (Resource::Fsize, wanted.file_bytes),
        (Resource::Data, wanted.data_bytes),
        (Resource::Nproc, wanted.processes.map(|more| there().saturating_add(more))),
        (Resource::Cpu, wanted.cpu_seconds),
    ]
    .into_iter()
    .filter_map(|(resource, limit)| {
        let hard = getrlimit(resource).maximum;
        let limit = limit?.min(hard.unwrap_or(u64::MAX));
        Some((resource, Rlimit { current: Some(limit), maximum: Some(limit) }))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(argv: &[&str]) -> Config {
        Config {
            label: "t-0".into(),
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            env: [("LISTEN_PID".to_owned(), "1".to_owned()), ("A".to_owned(), "b c".to_owned())]
                .into(),
            cwd: None,
            revision: "1".into(),
            listen: false,
            grace_ms: 0,
            log: super::super::protocol::LogLimits::default(),
            limits: ResourceLimits::default(),
            user: None,
        }
    }

    fn refusal(config: &Config) -> String {
        prepare(config).unwrap_err().to_string()
    }

    #[test]
    fn every_refusal_names_the_culprit() {
        assert_eq!(refusal(&config(&[])), "the command is empty");
        assert_eq!(refusal(&config(&[""])), "the command is empty");
        assert_eq!(refusal(&config(&["/no/such"])), "executable `/no/such` does not exist");
        assert_eq!(refusal(&config(&["/etc/passwd"])), "`/etc/passwd` is not an executable file");
        assert_eq!(refusal(&config(&["/tmp"])), "`/tmp` is not an executable file");
        assert_eq!(
            refusal(&config(&["no-such-program"])),
            format!("executable `no-such-program` is not in PATH `{DEFAULT_PATH}`")
        );
        assert_eq!(refusal(&config(&["/bin/sh", "a\0b"])), "an argument contains a NUL byte");
        let nowhere = Config { cwd: Some("/no/where".into()), ..config(&["/bin/sh"]) };
        assert_eq!(refusal(&nowhere), "working directory `/no/where` is not a directory");
        let mut bad = config(&["/bin/sh"]);
        bad.env.insert("A=B".into(), "c".into());
        assert_eq!(refusal(&bad), "`A=B` cannot be the name of an environment variable");
    }

    #[test]
    fn the_search_path_is_the_apps_own_and_foreign_socket_variables_are_dropped() {
        let mut wanted = config(&["sh"]);
        let prepared = prepare(&wanted).unwrap();
        assert_eq!(prepared.env, [CString::new("A=b c").unwrap()]);
        wanted.env.insert("PATH".into(), "/no/where".into());
        assert!(refusal(&wanted).contains("/no/where"));
    }
}

//! The server crate as the command line uses it. Every call into `agentd` is in this file, and in the one about what lies beside a log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentd::app::{App, Host};
use agentd::auth::tokens;
use agentd::config::{Config, ServerArgs};
use agentd::telemetry::{Export, Settings};
use agentd_core::app::Env;

use crate::exit::Exit;
use crate::failure::{Failure, chain};

mod beside;

pub use beside::{Bodies, PlainLines};

/// Name of the token file in a data directory.
pub const TOKENS_FILE: &str = tokens::FILE_NAME;

/// Token files of the servers this user may run on this host: the environment of `AGENTD_ENV` first.
#[must_use]
pub fn local_token_files() -> Vec<PathBuf> {
    let named = std::env::var("AGENTD_ENV").ok().and_then(|name| Env::parse(&name));
    let mut envs = vec![Env::Dev, Env::Stage, Env::Prod];
    envs.sort_by_key(|env| Some(*env) != named);
    envs.into_iter().map(|env| agentd::config::default_data_dir(env).join(TOKENS_FILE)).collect()
}

/// The environment called `name`, if it is one.
#[must_use]
pub fn env_of(name: &str) -> Option<Env> {
    Env::parse(name)
}

/// The token of `principal` in a server's token file.
///
/// # Errors
/// The file is not usable, or has no plain token of that name.
pub fn plain_token(path: &Path, principal: &str) -> Result<String, Failure> {
    tokens::plain_token(path, principal).map_err(|error| {
        let failure = Failure::new(Exit::Denied, chain(&error));
        match error {
            tokens::Error::NoToken { .. } => {
                failure.hint("name a principal of that file with --as, or give --token-file")
            }
            _ => failure.hint("give a token with --token-file or AGENTCTL_TOKEN"),
        }
    })
}

/// Everybody in a server's token file.
///
/// # Errors
/// The file is not usable.
pub fn principals(path: &Path) -> Result<Vec<tokens::edit::Listed>, Failure> {
    tokens::edit::list(path).map_err(|error| token_failure(&error))
}

/// Adds a principal to a server's token file, and returns its token, which is nowhere else.
///
/// # Errors
/// The file is not usable, or the entry breaks rules: all of them are named.
pub fn create_token(
    path: &Path,
    name: &str,
    roles: &[String],
    apps: &[String],
) -> Result<String, Failure> {
    let mut known = std::collections::BTreeSet::new();
    for role in roles {
        known.insert(agentd::auth::Role::parse(role).ok_or_else(|| {
            Failure::usage(format!("there is no role `{role}`"))
                .hint("there are viewer, monitor, operator, approver and admin")
        })?);
    }
    let apps = apps.iter().cloned().collect();
    tokens::edit::create(path, name, &known, &apps).map_err(|error| token_failure(&error))
}

/// Removes a principal from a server's token file.
///
/// # Errors
/// The file is not usable, or has no such principal.
pub fn revoke_token(path: &Path, name: &str) -> Result<(), Failure> {
    tokens::edit::revoke(path, name).map_err(|error| token_failure(&error))
}

fn token_failure(error: &tokens::Error) -> Failure {
    match error {
        tokens::Error::NoToken { .. } => Failure::new(Exit::NotFound, error.to_string())
            .hint("`agentctl auth token list` shows who is there"),
        tokens::Error::Invalid { path, problems } => problems.iter().fold(
            Failure::usage(format!("`{}` is left as it was", path.display())),
            |failure, problem| failure.fact("rule", problem.as_str()),
        ),
        tokens::Error::Io { .. } => Failure::new(Exit::Failure, chain(error))
            .hint("name the server's data directory with --data-dir"),
        _ => Failure::new(Exit::Failure, chain(error)),
    }
}

/// Where the tokens of a server on this host are: in the directory that was named, else in the first one there is.
#[must_use]
pub fn token_file(data_dir: Option<&str>) -> Option<PathBuf> {
    match data_dir {
        Some(directory) => Some(Path::new(directory).join(TOKENS_FILE)),
        None => local_token_files().into_iter().find(|path| path.exists()),
    }
}

/// What looks at an app: the same probes and meters as in the server.
pub mod sense {
    pub use agentd::sense::cgroup::GroupMeter;
    pub use agentd::sense::probe::Probe;
    pub use agentd::sense::process::{Meter, Usage};

    use agentd::shim::procfs;
    use agentd::shim::protocol::Fence;

    /// Measures a process; `None` if there is none with this number.
    #[must_use]
    pub fn meter(pid: u32) -> Option<Meter> {
        let start_time = procfs::stat(pid)?.start_time;
        let fence = Fence { boot_id: procfs::boot_id().ok()?, pid, start_time };
        Meter::open(&fence, None, 0)
    }
}

/// Signals in the forms of others.
pub mod forms {
    use agentctl_api::v1;

    use crate::time;

    /// What is wrong, with the number of its line.
    type Wrong = Vec<(usize, String)>;

    /// The alerts of a webhook of Alertmanager.
    ///
    /// # Errors
    /// What cannot be read, or is no signal.
    pub fn alertmanager(text: &str, environment: &str) -> Result<Vec<v1::Signal>, Wrong> {
        let now = u64::try_from(time::now().timestamp_millis()).unwrap_or(0);
        let read = agentd::grpc::hooks::alerts::read(text.as_bytes(), environment, now);
        let (mut signals, mut wrong) = (Vec::new(), Vec::new());
        for alert in read.map_err(|status| vec![(1, status.message().to_owned())])? {
            match alert {
                Ok(signal) => signals.push(signal),
                Err(r) => wrong.push((1, format!("{}: {} {}", r.field, r.value, r.rule))),
            }
        }
        if wrong.is_empty() { Ok(signals) } else { Err(wrong) }
    }

    pub use agentd::grpc::otlp::recorded as otlp;
}

/// Runs this process as the parent of an app.
#[must_use]
pub fn shim(directory: &Path) -> ExitCode {
    agentd::shim::main(directory)
}

/// A server in this process.
#[derive(Debug)]
pub struct Local {
    app: App,
    env: Env,
    data_dir: PathBuf,
}

/// Merges flags, environment and file.
///
/// # Errors
/// Every violation at once.
pub fn configure(args: &ServerArgs) -> Result<Config, Failure> {
    Config::load(args).map_err(|error| match error {
        agentd::config::Error::Invalid(violations) => {
            violations.iter().fold(Failure::usage("the configuration is invalid"), |failure, v| {
                let value =
                    if v.value.is_empty() { String::new() } else { format!("`{}` ", v.value) };
                failure.fact(v.origin.as_str(), format!("{value}{}", v.rule))
            })
        }
        other => Failure::usage(chain(&other)),
    })
}

/// Log lines of the server go to stderr, and traces to a collector if there is one; the rest of them when what is returned is shut
/// down.
///
/// # Errors
/// A filter that is none.
pub fn log(config: &Config) -> Result<Export, Failure> {
    agentd::telemetry::init(Settings::of(config))
        .map_err(|error| Failure::because(Exit::Failure, "cannot set up logging", &error))
}

/// This very program is also the shim and the demo app.
fn host() -> Result<Host, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::because(Exit::Failure, "cannot find this program", &error))?;
    Ok(Host {
        shim: vec![program.clone(), PathBuf::from("shim")],
        demo_app: vec![program, PathBuf::from("demo-app")],
    })
}

impl Local {
    /// Starts a server; when this returns, it answers.
    ///
    /// # Errors
    /// The port is taken, the log is held by another process, or the state cannot be read.
    pub async fn start(config: Config) -> Result<Self, Failure> {
        let (env, data_dir) = (config.env, config.data_dir.clone());
        let app = App::start(config, host()?).await.map_err(|error| {
            let exit = if error.is_configuration() { Exit::Usage } else { Exit::Failure };
            let failure = Failure::new(exit, format!("cannot start the server: {}", chain(&error)));
            match error {
                agentd::app::Error::Bind { .. } => failure.hint(
                    "`agentctl status` shows the server that runs there; --listen takes another port",
                ),
                agentd::app::Error::Journal(agentd::tlog::Error::Journal(_)) => failure.hint(format!(
                    "another server may hold `{}`; --data-dir takes another directory",
                    data_dir.display()
                )),
                _ => failure,
            }
        })?;
        Ok(Self { app, env, data_dir })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.app.address()
    }

    /// Environment it serves.
    #[must_use]
    pub const fn env(&self) -> &'static str {
        self.env.as_str()
    }

    /// Id of its agent.
    #[must_use]
    pub fn agent_id(&self) -> &str {
        self.app.agent_id()
    }

    /// Digest of the policy in force.
    #[must_use]
    pub fn policy_digest(&self) -> &str {
        self.app.policy_digest()
    }

    /// Directory of its log, tokens and apps.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its token file.
    #[must_use]
    pub fn tokens(&self) -> &Path {
        self.app.tokens()
    }

    /// Token of one of its principals.
    ///
    /// # Errors
    /// As [`plain_token`].
    pub fn token(&self, principal: &str) -> Result<String, Failure> {
        plain_token(self.app.tokens(), principal)
    }

    /// Ends when the server is asked to stop. From the moment this is called, so it comes before anybody is told of the server.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub fn asked_to_stop(&self) -> Result<impl Future<Output = ()> + use<>, Failure> {
        let because = |error| Failure::because(Exit::Failure, "cannot wait for signals", &error);
        self.app.asked_to_stop().map_err(because)
    }

    /// Drains and stops. Apps go on running.
    pub async fn stop(self) {
        self.app.stop().await;
    }
}

/// Ends every app below a data directory whose server has stopped: each shim stops its app and then itself.
///
/// # Errors
/// A shim that is there and does not answer.
pub async fn end_apps(data_dir: PathBuf) -> Result<(), Failure> {
    let ended = tokio::task::spawn_blocking(move || end_apps_below(&data_dir.join("apps"), 0));
    match ended.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::because(Exit::Failure, "cannot end an app", &error)),
        Err(error) => Err(Failure::because(Exit::Failure, "cannot end the apps", &error)),
    }
}

/// Directories between `apps` and a shim's socket, at most.
const DEPTH_MAX: u32 = 4;
/// Time an app of the demo has between TERM and KILL, in milliseconds.
const GRACE_MS: u64 = 500;

fn end_apps_below(directory: &Path, depth: u32) -> std::io::Result<()> {
    use agentd::shim::protocol::SOCKET_FILE;
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut result = Ok(());
    for entry in entries {
        let entry = entry?;
        let ended = if entry.file_type()?.is_dir() && depth < DEPTH_MAX {
            end_apps_below(&entry.path(), depth + 1)
        } else if entry.file_name() == SOCKET_FILE {
            end_app(&entry.path())
        } else {
            Ok(())
        };
        // One that fails must not keep the others alive.
        result = result.and(ended);
    }
    result
}

fn end_app(socket: &Path) -> std::io::Result<()> {
    use std::io::{Read as _, Write as _};

    use agentd::shim::protocol::{Command, Request};
    let mut stream = match std::os::unix::net::UnixStream::connect(socket) {
        Ok(stream) => stream,
        // Its shim has ended already.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(()),
        Err(error) => return Err(error),
    };
    let wait = std::time::Duration::from_millis(GRACE_MS * 10);
    stream.set_read_timeout(Some(wait))?;
    let request = Request { id: 1, command: Command::Shutdown { grace_ms: GRACE_MS } };
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    // The shim closes the connection when it ends, and it ends after its app.
    let mut sink = [0_u8; 4096];
    while stream.read(&mut sink)? > 0 {}
    Ok(())
}

/// What one pass over a log on disk found.
#[derive(Debug)]
pub struct DiskLog {
    /// Id of the log.
    pub log_id: Option<String>,
    /// The first fault: the record from which on nothing is trusted, and why.
    pub fault: Option<(u64, String)>,
}

/// Reads the log in a data directory without disturbing its server, and hands out every sound record in order.
///
/// # Errors
/// There is no log, or it cannot be read.
pub fn read_log(data_dir: &Path, on_entry: &mut dyn FnMut(u64, &[u8])) -> Result<DiskLog, Failure> {
    use agentd::journal::Error;
    let directory = log_dir(data_dir);
    match agentd::journal::read_dir(&directory, on_entry) {
        Ok(verified) => Ok(DiskLog { log_id: Some(verified.head.log_id.to_string()), fault: None }),
        Err(Error::Damaged(damage)) => {
            Ok(DiskLog { log_id: None, fault: Some((damage.seq, damage.to_string())) })
        }
        Err(error) => {
            let what = format!("cannot read the log in `{}`", directory.display());
            let failure = Failure::because(Exit::Failure, &what, &error);
            Err(if matches!(error, Error::Identity { .. }) {
                failure.hint(
                    "a log lies in the data directory of a server; an export as tiles has a `checkpoint`",
                )
            } else {
                failure
            })
        }
    }
}

/// The tree over the first `size` entries of the log in `directory`, from the hashes that are kept beside it.
#[must_use]
pub fn stored_tree(directory: &Path, size: u64) -> Option<agentd_core::tlog::tree::Frontier> {
    agentd::tlog::stored_tree(directory, size).ok()
}

/// Gives the log in a data directory another key, or lets the one that was replaced sign no more. Answers with the key before, the
/// key now, and the record of it.
///
/// # Errors
/// A server runs on it, or something is wrong with its files: the key is what it was.
pub async fn rotate_key(
    data_dir: &Path,
    key: Option<PathBuf>,
    anchor: Option<PathBuf>,
) -> Result<(String, String, u64), Failure> {
    let config = tlog_config(data_dir, key, anchor);
    let now = agentd::clock::Clock::system().now_ms();
    let done = agentd::tlog::rotate::rotate(config, now).await.map_err(|e| rotation_failure(&e))?;
    Ok((done.from.to_string(), done.to.to_string(), done.seq))
}

/// Lets the key that was replaced sign no more; answers with it.
///
/// # Errors
/// As [`rotate_key`].
pub async fn retire_key(
    data_dir: &Path,
    key: Option<PathBuf>,
    anchor: Option<PathBuf>,
) -> Result<String, Failure> {
    let config = tlog_config(data_dir, key, anchor);
    let retired = agentd::tlog::rotate::retire(config).await.map_err(|e| rotation_failure(&e))?;
    Ok(retired.to_string())
}

fn tlog_config(
    data_dir: &Path,
    key: Option<PathBuf>,
    anchor: Option<PathBuf>,
) -> agentd::tlog::Config {
    // The environment would be part of the name of a first key; the name of this log is in its key.
    let usual = agentd::tlog::Config::new(data_dir, Env::Dev.as_str());
    agentd::tlog::Config { key: key.unwrap_or_else(|| usual.key.clone()), anchor, ..usual }
}

fn rotation_failure(error: &agentd::tlog::rotate::Error) -> Failure {
    use agentd::tlog::rotate::Error;
    let failure = Failure::because(Exit::Failure, "the key of the log is what it was", error);
    match error {
        Error::NoKey(_) => failure
            .hint("name the server's directory with --data-dir, and its key with --proof-key"),
        Error::Overlapping(_) => {
            failure.hint("`agentctl proof rotate-key --retire` ends that first")
        }
        Error::Log(agentd::tlog::Error::Journal(agentd::journal::Error::Locked { .. })) => {
            failure.hint("stop the server for this: apps go on running")
        }
        Error::Damaged(_) => failure.hint("`agentctl proof verify --data-dir DIR` says more"),
        _ => failure,
    }
}

fn log_dir(data_dir: &Path) -> PathBuf {
    let nested = data_dir.join("proof");
    if nested.is_dir() { nested } else { data_dir.to_owned() }
}

/// Compares the index in a data directory with the log beside it: how many entries were compared, and the first that differs.
///
/// # Errors
/// One of them cannot be read.
pub fn compare_index(data_dir: &Path) -> Result<(u64, Option<(u64, String)>), Failure> {
    let compared = agentd::index::compare_dir(&log_dir(data_dir)).map_err(|error| {
        let what = format!("cannot compare the index in `{}`", data_dir.display());
        Failure::because(Exit::Failure, &what, &error)
    })?;
    Ok((compared.entries, compared.difference.map(|found| (found.seq, found.to_string()))))
}

/// The policy in a file, TOML or JSON.
///
/// # Errors
/// It cannot be read, or is none.
pub fn read_policy(file: &Path) -> Result<agentd_core::policy::Policy, Failure> {
    let text = crate::command::policy::read(file)?;
    agentd::rules::parse(&text).map_err(|detail| {
        Failure::usage(format!("`{}` is no policy: {detail}", file.display()))
            .hint("start from `agentctl policy get`")
    })
}

/// Checks a policy without a server, for the environment it names itself: its digest, and everything that is wrong with it.
#[must_use]
pub fn check_policy(text: &str) -> (String, Vec<crate::view::agent::PolicyFaultView>) {
    use crate::view::agent::PolicyFaultView;
    match agentd::rules::parse(text) {
        Ok(policy) => {
            let faults = agentd::rules::check(&policy, policy.env, false);
            let view = |f: agentd_core::policy::Fault| PolicyFaultView {
                field: f.field,
                value: f.value,
                rule: f.rule,
                fix: f.fix,
            };
            (format!("sha256:{}", policy.digest()), faults.into_iter().map(view).collect())
        }
        Err(detail) => {
            let fault = PolicyFaultView {
                field: String::new(),
                value: String::new(),
                rule: format!("must be a policy: {detail}"),
                fix: "start from `agentctl policy get`".to_owned(),
            };
            (String::new(), vec![fault])
        }
    }
}

//! The policy as text: read, checked, and read again on SIGHUP. What it means is the core's.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use agentd_core::app::Env;
use agentd_core::policy::{Fault, Policy, lint};
use agentd_core::record::Author;
use agentd_core::step::{By, Reply};

use crate::agent::Ask;
use crate::grpc::Services;
use crate::tasks::OnFailure;

/// Largest policy file that is read, in bytes.
const FILE_MAX: u64 = 256 << 10;

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read policy `{}`", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is no policy.
    #[error("policy `{origin}` is not one: {detail}")]
    Text {
        /// Where it comes from.
        origin: String,
        /// What is wrong, with the line.
        detail: String,
    },
    /// It breaks rules; all of them.
    #[error("policy `{origin}` breaks rules\n{}", lines(faults))]
    Faults {
        /// Where it comes from.
        origin: String,
        /// What is wrong.
        faults: Vec<Fault>,
    },
}

fn lines(faults: &[Fault]) -> String {
    let line = |f: &Fault| format!("  {}: `{}` {}; {}", f.field, f.value, f.rule, f.fix);
    faults.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The policy of the configuration: where it comes from, and how it was the last time it was looked at.
#[derive(Debug)]
pub struct Rulebook {
    path: Option<PathBuf>,
    env: Env,
    demo: bool,
    /// Why the file was not taken when it was read last.
    rejected: Mutex<Option<String>>,
}

impl Default for Rulebook {
    /// The built-in policy of dev.
    fn default() -> Self {
        Self::new(None, Env::Dev, false)
    }
}

impl Rulebook {
    /// The policy at `path`, or the built-in one.
    #[must_use]
    pub fn new(path: Option<PathBuf>, env: Env, demo: bool) -> Self {
        Self { path, env, demo, rejected: Mutex::default() }
    }

    /// Where it comes from: a path, or `built-in`.
    #[must_use]
    pub fn origin(&self) -> String {
        self.path.as_ref().map_or_else(|| "built-in".to_owned(), |path| path.display().to_string())
    }

    /// Why the file was not taken when it was read last; `None` if it was.
    #[must_use]
    pub fn rejected(&self) -> Option<String> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, rejected: Option<String>) {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner) = rejected;
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// [`Error`]; of what breaks rules, all of it.
    pub fn load(&self) -> Result<Policy, Error> {
        let Some(path) = &self.path else { return Ok(Policy::default_for(self.env)) };
        let origin = self.origin();
        let text = read(path).map_err(|source| Error::File { path: path.clone(), source })?;
        let policy =
            parse(&text).map_err(|detail| Error::Text { origin: origin.clone(), detail })?;
        let faults = check(&policy, self.env, self.demo);
        if faults.is_empty() { Ok(policy) } else { Err(Error::Faults { origin, faults }) }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > FILE_MAX {
        let text = format!("{size} bytes are more than {FILE_MAX}");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, text));
    }
    std::fs::read_to_string(path)
}

/// A policy from TOML, or from JSON if it begins with a brace.
///
/// # Errors
/// What is wrong, with the line.
pub fn parse(text: &str) -> Result<Policy, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map(|before| before.matches('\n').count() + 1);
        match line {
            Some(line) => format!("{} at line {line}", error.message()),
            None => error.message().to_owned(),
        }
    })
}

/// Everything that keeps `policy` out of force on a server of `env`.
#[must_use]
pub fn check(policy: &Policy, env: Env, demo: bool) -> Vec<Fault> {
    let mut faults = if demo { policy.lint_for_demo() } else { lint(policy) };
    if policy.env != env {
        let fault = Fault {
            field: "env".to_owned(),
            value: policy.env.to_string(),
            rule: format!("must be `{env}`, the environment of this server"),
            fix: "use the policy of this environment".to_owned(),
        };
        faults.insert(0, fault);
    }
    faults
}

/// Has the policy file read again at every SIGHUP. A bad one keeps the policy in force, and says so in the log and the status.
///
/// # Errors
/// The signal cannot be taken over.
pub fn reload_on_hangup(services: &Services) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    let (services, stopping) = (services.clone(), services.tasks.stopping());
    services.tasks.clone().spawn("policy-reload", OnFailure::Log, async move {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                heard = hangup.recv() => if heard.is_none() { return },
            }
            reload(&services).await;
        }
    });
    Ok(())
}

/// Reads the policy file again and puts it in force.
pub async fn reload(services: &Services) {
    let book = std::sync::Arc::clone(&services.rules);
    let origin = book.origin();
    if book.path.is_none() {
        tracing::info!("SIGHUP: there is no policy file to read again");
        return;
    }
    let loaded = tokio::task::spawn_blocking(move || book.load()).await;
    let policy = match loaded {
        Ok(Ok(policy)) => policy,
        Ok(Err(error)) => return reject(services, &chain(&error)),
        Err(error) => return reject(services, &error.to_string()),
    };
    let digest = policy.digest();
    let status = services.agent.query(|view| view.id.to_owned()).await;
    let Ok(principal) = status else { return };
    let by = By { principal, human: false, request: None, validate_only: false };
    let (policy, reason) = (Box::new(policy), format!("`{origin}` was read again"));
    let ask = Ask::ApplyPolicy { policy, author: Author::File, reason };
    match services.agent.ask(ask, by).await {
        Ok(Ok(Reply::Done { seq })) => {
            services.rules.note(None);
            tracing::info!(%origin, %digest, seq, "policy was read again");
        }
        Ok(Ok(Reply::Invalid(violations))) => {
            let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
            reject(services, &all.join("; "));
        }
        Ok(Ok(other)) => reject(services, &format!("unexpected answer {other:?}")),
        Ok(Err(unavailable)) => reject(services, &unavailable.to_string()),
        // The server stops.
        Err(_gone) => {}
    }
}

fn reject(services: &Services, why: &str) {
    let origin = services.rules.origin();
    tracing::error!(%origin, why, "policy was read again and is not usable: the old one stays in force");
    services.rules.note(Some(why.to_owned()));
}

fn chain(error: &dyn std::error::Error) -> String {
    crate::shim::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_from_either_form_and_a_mistake_names_its_line() {
        let policy = Policy::default_for(Env::Stage);
        let toml = toml::to_string(&policy).unwrap();
        assert_eq!(parse(&toml).unwrap(), policy);
        assert_eq!(parse(&serde_json::to_string(&policy).unwrap()).unwrap(), policy);
        let unknown = toml.replace("[repetition]\n", "[repetition]\nlimits = 3\n");
        let error = parse(&unknown).unwrap_err();
        let line = unknown.lines().position(|line| line == "limits = 3").unwrap() + 1;
        assert!(error.contains("unknown field `limits`"), "{error}");
        assert!(error.ends_with(&format!("at line {line}")), "{error}");
        assert!(parse("").unwrap_err().contains("missing field"));
    }

    #[test]
    fn a_policy_of_another_environment_is_refused_with_everything_else_that_is_wrong() {
        let mut policy = Policy::default_for(Env::Prod);
        policy.repetition.window_ms = 1;
        let fields: Vec<String> =
            check(&policy, Env::Stage, false).into_iter().map(|fault| fault.field).collect();
        assert!(fields.contains(&"env".to_owned()), "{fields:?}");
        assert!(fields.contains(&"repetition.window_ms".to_owned()), "{fields:?}");
        let dev = Policy::default_for(Env::Dev);
        assert!(check(&dev, Env::Dev, false).is_empty());
        assert_eq!(check(&dev, Env::Dev, true).len(), 1, "a demo does not explore");
    }

    #[test]
    fn a_file_that_is_not_there_or_too_large_is_no_policy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let book = Rulebook::new(Some(path.clone()), Env::Stage, false);
        assert!(matches!(book.load(), Err(Error::File { .. })));
        std::fs::write(&path, " ".repeat(300 << 10)).unwrap();
        assert!(matches!(book.load(), Err(Error::File { .. })));
        std::fs::write(&path, "env = 7").unwrap();
        assert!(matches!(book.load(), Err(Error::Text { .. })));
    }
}

//! Why a command failed, and how that is told: one headline, all violations at once, and the fix.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use agentd_core::reason::Reason;

use crate::exit::Exit;
use crate::page::{Page, Table};
use crate::time;

/// A failed command.
#[derive(Debug, Clone)]
pub struct Failure(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    exit: Exit,
    headline: String,
    code: Option<Code>,
    reason: Option<String>,
    violations: Vec<Violation>,
    facts: Vec<(String, String)>,
    retry_after: Option<Duration>,
    hints: Vec<String>,
    silent: bool,
}

/// One field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Path of the field.
    pub field: String,
    /// The rule it breaks.
    pub rule: String,
    /// Its value, as the server saw it; `None` if the server did not say.
    pub value: Option<String>,
}

/// A failure in JSON.
#[derive(Debug, Serialize)]
pub struct FailureView<'a> {
    error: ErrorView<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorView<'a> {
    exit_code: u8,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    violations: &'a [Violation],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<f64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    hints: &'a [String],
}

impl Failure {
    /// Fails with `exit` because of `headline`.
    #[must_use]
    pub fn new(exit: Exit, headline: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            exit,
            headline: headline.into(),
            code: None,
            reason: None,
            violations: Vec::new(),
            facts: Vec::new(),
            retry_after: None,
            hints: Vec::new(),
            silent: false,
        }))
    }

    /// Invalid input on the command line.
    #[must_use]
    pub fn usage(headline: impl Into<String>) -> Self {
        Self::new(Exit::Usage, headline)
    }

    /// Ends with `exit` and says nothing: what was to be said was said.
    #[must_use]
    pub fn silent(exit: Exit) -> Self {
        let mut failure = Self::new(exit, "");
        failure.0.silent = true;
        failure
    }

    /// Something that came back cannot be written in the format asked for.
    #[must_use]
    pub fn unprintable(error: &dyn fmt::Display) -> Self {
        Self::new(Exit::Failure, format!("cannot write the answer in this format: {error}"))
    }

    /// Fails because of an error; its sources follow behind colons.
    #[must_use]
    pub fn because(exit: Exit, what: &str, error: &dyn std::error::Error) -> Self {
        Self::new(exit, format!("{what}: {}", chain(error)))
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hints.push(hint.into());
        self
    }

    /// Adds a named fact.
    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.facts.push((name.into(), value.into()));
        self
    }

    /// Puts another headline in place.
    #[must_use]
    pub fn headline(mut self, headline: impl Into<String>) -> Self {
        self.0.headline = headline.into();
        self
    }

    /// Ends with another code.
    #[must_use]
    pub fn exiting(mut self, exit: Exit) -> Self {
        self.0.exit = exit;
        self
    }

    /// How the command ends.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.0.exit
    }

    /// True if nothing is to be said.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.0.silent
    }

    /// Status code of the RPC that failed, if one did.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        self.0.code
    }

    /// Reason code, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// All fields that break a rule.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// What an RPC answered instead of a result.
    #[must_use]
    pub fn of_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = info.map_or("", |info| info.reason.as_str());
        let mut failure =
            Self::new(Exit::of_status(status.code(), reason), headline(status, reason));
        let inner = &mut failure.0;
        inner.code = Some(status.code());
        inner.reason = (!reason.is_empty()).then(|| reason.to_owned());
        if let Some(bad) = details.bad_request() {
            inner.violations =
                bad.field_violations.iter().map(|v| violation(&v.field, &v.description)).collect();
        }
        if let Some(precondition) = details.precondition_failure() {
            for v in &precondition.violations {
                if v.description != inner.headline {
                    inner.facts.push((v.subject.clone(), v.description.clone()));
                }
            }
        }
        if let Some(quota) = details.quota_failure() {
            for v in &quota.violations {
                inner.facts.push((v.subject.clone(), v.description.clone()));
            }
        }
        inner.retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        let metadata = info.map(|info| info.metadata.clone()).unwrap_or_default();
        if let Some(omitted) = metadata.get("violations_omitted") {
            inner.facts.push(("more".to_owned(), format!("{omitted} further violations")));
        }
        inner.hints.extend(fix(status.code(), reason, |key| metadata.get(key).cloned()));
        failure
    }

    /// Writes it for people.
    pub fn page(&self, page: &mut Page) {
        let inner = &self.0;
        page.error(&inner.headline);
        // The server puts a single violation into its message.
        let told = matches!(&*inner.violations, [one] if inner.headline.contains(&one.rule));
        if !inner.violations.is_empty() && !told {
            let mut table = Table::new(&[]).indent(2);
            for violation in &inner.violations {
                let value = violation.value.as_deref().map_or_else(String::new, got);
                table.row([violation.field.as_str(), &violation.rule, &value]);
            }
            page.table(&table);
        }
        let mut facts: Vec<(String, String)> = inner.facts.clone();
        if let Some(reason) = inner.reason.as_deref().and_then(Reason::parse) {
            facts.push((reason.as_str().to_owned(), reason.what().to_owned()));
        }
        if let Some(delay) = inner.retry_after {
            facts.push(("retry".to_owned(), format!("in {}", time::coarse(delay))));
        }
        page.pairs(2, &facts);
        for hint in &inner.hints {
            page.hint(hint);
        }
    }

    /// The same for programs.
    #[must_use]
    pub fn view(&self) -> FailureView<'_> {
        let inner = &self.0;
        FailureView {
            error: ErrorView {
                exit_code: inner.exit.code(),
                message: &inner.headline,
                code: inner.code.map(code_name),
                reason: inner.reason.as_deref(),
                violations: &inner.violations,
                retry_after_seconds: inner.retry_after.map(|delay| delay.as_secs_f64()),
                hints: &inner.hints,
            },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.headline)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    /// An error on our own stdout. A reader that has seen enough (`| head`) is none.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(Exit::Ok);
        }
        Self::new(Exit::Failure, format!("cannot write the output: {error}"))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::of_status(&status)
    }
}

/// An error and its sources, behind colons.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// `got "value"`.
fn got(value: &str) -> String {
    format!("got \"{value}\"")
}

/// The server writes a violation as "RULE, got `VALUE`".
fn violation(field: &str, description: &str) -> Violation {
    let parts = description
        .split_once(", got `")
        .and_then(|(rule, value)| Some((rule, value.strip_suffix('`')?)));
    match parts {
        Some((rule, value)) => Violation {
            field: field.to_owned(),
            rule: rule.to_owned(),
            value: Some(value.to_owned()),
        },
        None => Violation { field: field.to_owned(), rule: description.to_owned(), value: None },
    }
}

fn headline(status: &Status, reason: &str) -> String {
    let message = status.message().trim();
    if message.is_empty() {
        let code = code_name(status.code());
        return if reason.is_empty() {
            format!("the server answered {code}")
        } else {
            format!("the server answered {code} ({reason})")
        };
    }
    message.to_owned()
}

/// What to do about a status, where that can be said.
fn fix(code: Code, reason: &str, metadata: impl Fn(&str) -> Option<String>) -> Vec<String> {
    if let Some(known) = Reason::parse(reason) {
        let mut hints = Vec::new();
        if known.todo() != "nothing" {
            hints.push(known.todo().to_owned());
        }
        hints.push(format!("`agentctl explain {reason}` says more"));
        return hints;
    }
    let hint = match (code, reason) {
        (Code::Unauthenticated, "TOKEN_INVALID") => {
            "the token belongs to another server or was replaced: check --token-file and AGENTCTL_TOKEN".to_owned()
        }
        (Code::Unauthenticated, _) => {
            "give a token with --token-file FILE or AGENTCTL_TOKEN; on the server's own host, --data-dir of the server finds it".to_owned()
        }
        (Code::PermissionDenied, "ROLE_REQUIRED") => match metadata("need") {
            Some(need) => format!("use a token with the role {need}, for example `--as NAME` of the server's token file"),
            None => "use a token with another role".to_owned(),
        },
        (Code::PermissionDenied, "SELF_APPROVAL") => {
            "whoever asked cannot approve: let another principal answer (`--as approver`)".to_owned()
        }
        (Code::PermissionDenied, "READ_ONLY") => {
            "leave --read-only and AGENTCTL_READ_ONLY out, if it is meant to change something".to_owned()
        }
        (Code::Aborted, "ETAG_MISMATCH") => {
            "read it again and repeat: `agentctl app get NAME` shows what it is now".to_owned()
        }
        (Code::Aborted, "POLICY_CHANGED") => {
            "`agentctl policy get` shows the one in force".to_owned()
        }
        (Code::FailedPrecondition, "NOT_PRUNABLE") => {
            "`agentctl proof status` shows what is kept and exported; `agentctl explain NOT_PRUNABLE` says more".to_owned()
        }
        (Code::NotFound, "ENTRY_PRUNED") => {
            "an export has it, `agentctl proof status` says which; `agentctl explain ENTRY_PRUNED` says more".to_owned()
        }
        (Code::OutOfRange, _) => match metadata("oldest_cursor") {
            Some(cursor) if !cursor.is_empty() => format!("the oldest position that works is `--since {cursor}`"),
            Some(_) | None => return Vec::new(),
        },
        (Code::DataLoss, _) => match metadata("seq") {
            Some(seq) => format!("nothing from record {seq} on is trusted: `agentctl proof verify` shows the damage"),
            None => "`agentctl proof verify` shows the damage".to_owned(),
        },
        (Code::DeadlineExceeded, _) => "allow more time with --timeout".to_owned(),
        (Code::Internal, _) => "this is a bug of the server; its log has the request id above".to_owned(),
        (Code::Unimplemented, _) => "the server is older than this agentctl, or lacks this feature".to_owned(),
        (Code::AlreadyExists, _) => "`agentctl status` shows what is there; choose another name".to_owned(),
        _ => return Vec::new(),
    };
    vec![hint]
}

/// A status code as gRPC writes it, such as `INVALID_ARGUMENT`.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for (i, c) in format!("{code:?}").chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests;

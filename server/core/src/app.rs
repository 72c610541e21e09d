//! Applications: names, environments, specifications, and the way from a person's onboarding input to an [`AppSpec`].
//!
//! Nothing is guessed or corrected. Either every field is valid, or all violations are returned at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::action::Level;
use crate::policy::Window;
use crate::signal::Metric;

mod template;
mod update;
mod validate;

pub use template::{Start, Step, Template};
pub use update::Field;
pub(crate) use validate::is_host;
pub use validate::{
    OnboardRequest, RepoUrl, RequestedHealth, RequestedSource, RequestedWindow, Violation,
    is_public, revalidate, validate,
};

/// Milliseconds since the Unix epoch, or a span of them.
pub type Millis = u64;

/// Name of an application: an RFC 1035 label (`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`) that is not a reserved device name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(SmolStr);

impl AppName {
    /// The rule, as quoted in errors.
    pub const RULE: &str =
        "must match ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ and not be a reserved device name";

    /// Parses a name.
    ///
    /// # Errors
    /// [`InvalidName`] when the rule is broken.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        let bytes = name.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let valid = bytes.len() <= 63
            && bytes.first().is_some_and(u8::is_ascii_lowercase)
            && bytes.last().is_some_and(|b| *b != b'-')
            && bytes.iter().all(inner)
            && !RESERVED.contains(&name);
        if valid { Ok(Self(name.into())) } else { Err(InvalidName(name.to_owned())) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names that some file systems treat as devices; a data directory may be copied to one.
const RESERVED: [&str; 10] =
    ["con", "prn", "aux", "nul", "com1", "com2", "com3", "lpt1", "lpt2", "lpt3"];

/// A text that is no [`AppName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid app name `{0}`")]
pub struct InvalidName(pub String);

impl TryFrom<String> for AppName {
    type Error = InvalidName;
    fn try_from(name: String) -> Result<Self, InvalidName> {
        Self::parse(&name)
    }
}

impl std::borrow::Borrow<str> for AppName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<AppName> for String {
    fn from(name: AppName) -> Self {
        name.0.into()
    }
}

impl std::fmt::Display for AppName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The environment a server serves; exactly one for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Env {
    /// Free experimentation; the same gates with wider limits.
    Dev,
    /// Deterministic: exploration is impossible.
    Stage,
    /// A human approves what is not passive, until an app has graduated.
    Prod,
}

impl Env {
    /// Every environment.
    pub const ALL: [Self; 3] = [Self::Dev, Self::Stage, Self::Prod];

    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Stage => "stage",
            Self::Prod => "prod",
        }
    }

    /// The environment called `name`, if it is one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|env| env.as_str() == name)
    }
}

impl std::fmt::Display for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an application is built from; decides the fixed build and start template of a repository deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Node.js.
    Nodejs,
    /// Python.
    Python,
    /// Go.
    Go,
    /// Rust.
    Rust,
    /// Java.
    Java,
    /// A directory of static files.
    Static,
    /// An executable as it is.
    Binary,
}

impl Runtime {
    /// Every runtime.
    pub const ALL: [Self; 7] =
        [Self::Nodejs, Self::Python, Self::Go, Self::Rust, Self::Java, Self::Static, Self::Binary];

    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nodejs => "nodejs",
            Self::Python => "python",
            Self::Go => "go",
            Self::Rust => "rust",
            Self::Java => "java",
            Self::Static => "static",
            Self::Binary => "binary",
        }
    }
}

/// Where the thing to run comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An executable that exists already, with its arguments; never passed through a shell.
    Exec {
        /// Absolute path of the executable.
        path: String,
        /// Arguments, each passed as it is.
        args: Vec<String>,
    },
    /// A git repository.
    Repo {
        /// `https://` URL without user information.
        url: String,
        /// Branch, tag or commit; the default branch when absent.
        revision: Option<String>,
    },
}

/// How readiness is asked for from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The question.
    pub probe: Probe,
    /// Time between two questions, in milliseconds.
    pub interval_ms: Millis,
    /// Time after which no answer is a failure, in milliseconds; less than the interval.
    pub timeout_ms: Millis,
}

/// One kind of health question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// `GET` answers 2xx or 3xx.
    Http {
        /// `http://host:port/path`.
        url: String,
    },
    /// A TCP connection is accepted.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// `grpc.health.v1` answers `SERVING`.
    Grpc {
        /// `host:port`.
        address: String,
        /// Service name; empty asks for the whole server.
        service: String,
    },
}

/// How many instances run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instances {
    /// Never fewer; at least 1.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// Wanted at onboarding.
    pub desired: u32,
}

impl Instances {
    /// Most instances of one app on one host.
    pub const LIMIT: u32 = 64;
}

/// Enter and leave value of one detector threshold, in the metric's fixed-point unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The finding opens above it.
    pub enter: i64,
    /// The finding closes below it; less than `enter`.
    pub leave: i64,
}

/// The validated description of one application; its serialized form is `app_spec.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// Unique in the environment.
    pub name: AppName,
    /// The environment it was onboarded into.
    pub env: Env,
    /// What it is built from.
    pub runtime: Runtime,
    /// Where it comes from.
    pub source: Source,
    /// Working directory; the release directory when absent.
    pub working_dir: Option<String>,
    /// Bounds of the instance count.
    pub instances: Instances,
    /// `ip:port` of the socket that the supervisor holds and hands over, so that a restart refuses nobody.
    pub listen: Option<String>,
    /// Readiness question.
    pub health: Option<HealthCheck>,
    /// Environment variables of the process. Not for secrets: the specification is on record.
    pub environment: BTreeMap<String, String>,
    /// Free labels; `protected` = `true` forbids every effect.
    pub labels: BTreeMap<String, String>,
    /// Thresholds that differ from the policy's.
    pub thresholds: BTreeMap<Metric, Override>,
    /// Maintenance windows of this app, besides those of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// Highest autonomy for this app; the policy's when absent.
    pub autonomy: Option<Level>,
    /// Time between TERM and KILL, in milliseconds.
    pub stop_grace_ms: Millis,
}

impl AppSpec {
    /// The label that takes an application out of the agent's hands.
    pub const PROTECTED_LABEL: &str = "protected";

    /// Whether the label [`AppSpec::PROTECTED_LABEL`] is set to `true`.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        self.labels.get(Self::PROTECTED_LABEL).is_some_and(|v| v == "true")
    }

    /// Canonical bytes: the content of `app_spec.json`, without a final newline.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// SHA-256 of [`AppSpec::to_json`], in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        crate::digest::sha256_hex(&self.to_json())
    }
}

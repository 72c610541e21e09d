//! Configuration: defaults, then `agentd.toml`, then the environment, then flags; later ones win.
//!
//! Everything is checked at the start and all violations are reported at once, each with where the value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_core::app::Env;

use crate::bus::Address;
use crate::listen::Limits;
use crate::telemetry::{self, LogFormat};

mod args;
mod file;
mod keys;
mod units;

pub use args::{Secret, ServerArgs};
use file::ConfigFile;
pub use keys::{KEYS, Key, Line, example, key};
use keys::{OTEL_VARIABLE, REDIS_FLAG};
pub use units::{parse_duration, show_duration};

/// Where the server listens unless told otherwise.
pub const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);

/// Configuration file that is read if it is there and none is named.
pub const DEFAULT_FILE: &str = "agentd.toml";

/// Everything a server is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The one environment it serves.
    pub env: Env,
    /// Address of the one port.
    pub listen: SocketAddr,
    /// Where the log, the tokens and the apps live; absolute.
    pub data_dir: PathBuf,
    /// Id of the agent; `None`: made at the first start and kept.
    pub agent_id: Option<String>,
    /// Time between two ticks of the loop.
    pub loop_interval: Duration,
    /// Policy file; `None`: the built-in policy of the environment.
    pub policy: Option<PathBuf>,
    /// Token file; `None`: `tokens.toml` in the data directory, made at the first start.
    pub tokens: Option<PathBuf>,
    /// Certificate and key; `None`: plain text, on loopback only.
    pub tls: Option<TlsFiles>,
    /// Key of the proof log; `None`: `proof.key` in the data directory, made at the first start.
    pub proof_key: Option<PathBuf>,
    /// Where each checkpoint of the proof log is copied to, in a directory that exists; `None`: nowhere.
    pub proof_anchor: Option<PathBuf>,
    /// Policy file whose witnesses cosign the checkpoints of the proof log; `None`: nobody does.
    pub proof_witnesses: Option<PathBuf>,
    /// Redis that records are offered to; `None`: they are offered to a ring in this process.
    pub redis: Option<Address>,
    /// Accept only what the agent itself chose, from the demo allowlist.
    pub demo_mode: bool,
    /// Learning and exploration stand still.
    pub freeze: bool,
    /// Decide and record, touch nothing.
    pub dry_run: bool,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log_filter: String,
    /// Processes on this host may read the metrics without a token.
    pub metrics_open: bool,
    /// Where OTLP over gRPC is looked for, beside the one port.
    pub otlp_grpc_listen: Option<SocketAddr>,
    /// Where OTLP over HTTP is looked for, beside the one port.
    pub otlp_http_listen: Option<SocketAddr>,
    /// Collector that traces are sent to.
    pub otlp: Option<String>,
    /// Limits of the port.
    pub limits: Limits,
    /// Every setting with its value and where it came from, for the banner and the log.
    pub origins: BTreeMap<&'static str, Setting>,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Path of the certificate chain.
    pub certificate: PathBuf,
    /// Path of the private key.
    pub key: PathBuf,
}

/// A value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As it was written.
    pub value: String,
    /// `--listen`, `AGENTD_LISTEN`, `agentd.toml:3` or `default`.
    pub origin: String,
}

/// A value that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where the value came from.
    pub origin: String,
    /// The value; empty where something is missing.
    pub value: String,
    /// The rule, and how to satisfy it.
    pub rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, value, rule } = self;
        if value.is_empty() {
            write!(f, "{origin}: {rule}")
        } else {
            write!(f, "{origin}: `{}` {rule}", agentctl_api::text::line(value))
        }
    }
}

/// Why a server cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be read.
    #[error("cannot read configuration file `{path}`")]
    Io {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is no TOML.
    #[error("{path}:{line}: {detail}")]
    Syntax {
        /// Its path.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        detail: String,
    },
    /// Values break rules; all of them.
    #[error("invalid configuration\n{}", lines(.0))]
    Invalid(Vec<Violation>),
}

fn lines(violations: &[Violation]) -> String {
    violations.iter().map(|v| format!("  {v}")).collect::<Vec<_>>().join("\n")
}

/// Data directory of an environment unless told otherwise: what systemd gives the unit, else the user's state directory,
/// else one below the current directory.
#[must_use]
pub fn default_data_dir(env: Env) -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("STATE_DIRECTORY")
        .or_else(|| set("XDG_STATE_HOME").map(|dir| dir.join("agentd")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/agentd")))
        .unwrap_or_else(|| PathBuf::from(".agentd"))
        .join(env.as_str())
}

impl Config {
    /// Merges all sources and checks the result.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Invalid`] holds every violation.
    pub fn load(args: &ServerArgs) -> Result<Self, Error> {
        let file = match &args.config {
            Some(path) => Some(ConfigFile::read(path)?),
            None if Path::new(DEFAULT_FILE).is_file() => {
                Some(ConfigFile::read(Path::new(DEFAULT_FILE))?)
            }
            None => None,
        };
        let mut reader = Reader {
            args,
            file: file.as_ref(),
            violations: file.as_ref().map(|file| file.unknown_keys()).unwrap_or_default(),
            origins: BTreeMap::new(),
        };
        let mut config = reader.settings();
        config.limits = reader.limits();
        reader.check_together(&config);
        config.origins = reader.origins;
        if reader.violations.is_empty() {
            Ok(config)
        } else {
            Err(Error::Invalid(reader.violations))
        }
    }

    /// True if only processes on this host can reach the port.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.listen.ip().is_loopback()
    }
}

struct Reader<'a> {
    args: &'a ServerArgs,
    file: Option<&'a ConfigFile>,
    violations: Vec<Violation>,
    origins: BTreeMap<&'static str, Setting>,
}

impl Reader<'_> {
    fn settings(&mut self) -> Config {
        let env = self.take("env", "dev", "must be dev, stage or prod", Env::parse);
        let env = env.unwrap_or(Env::Dev);
        let data_dir = default_data_dir(env);
        let data_dir = data_dir.to_string_lossy();
        let boolean = "must be true or false";
        Config {
            env,
            listen: self
                .take("listen", &DEFAULT_LISTEN.to_string(), ADDRESS_RULE, units::parse_address)
                .unwrap_or(DEFAULT_LISTEN),
            data_dir: self.path("data_dir", &data_dir).unwrap_or_default(),
            agent_id: self.take("agent_id", "", AGENT_ID_RULE, parse_agent_id),
            loop_interval: self
                .take(
                    "loop_interval",
                    "1s",
                    "must be a time from 50ms to 60s, such as 1s",
                    |text| {
                        units::duration_within(
                            text,
                            Duration::from_millis(50),
                            Duration::from_secs(60),
                        )
                    },
                )
                .unwrap_or(Duration::from_secs(1)),
            policy: self.path("policy", ""),
            tokens: self.path("tokens", ""),
            tls: self.tls(),
            proof_key: self.path("proof_key", ""),
            proof_anchor: self.path("proof_anchor", ""),
            proof_witnesses: self.path("proof_witnesses", ""),
            redis: self.redis(),
            demo_mode: self.take("demo_mode", "false", boolean, units::parse_bool).unwrap_or(false),
            freeze: self.take("freeze", "false", boolean, units::parse_bool).unwrap_or(false),
            dry_run: self.take("dry_run", "false", boolean, units::parse_bool).unwrap_or(false),
            log_format: self
                .take("log_format", "text", "must be text or json", LogFormat::parse)
                .unwrap_or(LogFormat::Text),
            log_filter: self
                .take(
                    "log_filter",
                    telemetry::DEFAULT_FILTER,
                    "must be a filter such as info or agentd=debug,info",
                    |text| telemetry::is_filter(text).then(|| text.to_owned()),
                )
                .unwrap_or_default(),
            metrics_open: self
                .take("metrics_open", "false", boolean, units::parse_bool)
                .unwrap_or(false),
            otlp_grpc_listen: self.take("otlp_grpc_listen", "", ADDRESS_RULE, units::parse_address),
            otlp_http_listen: self.take("otlp_http_listen", "", ADDRESS_RULE, units::parse_address),
            otlp: self.otlp(),
            limits: Limits::default(),
            origins: BTreeMap::new(),
        }
    }

    fn tls(&mut self) -> Option<TlsFiles> {
        match (self.path("tls_cert", ""), self.path("tls_key", "")) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (certificate, _) => {
                let (missing, there) = if certificate.is_some() {
                    ("--tls-key", "--tls-cert")
                } else {
                    ("--tls-cert", "--tls-key")
                };
                self.violate(missing, "", &format!("is missing, {there} needs it"));
                None
            }
        }
    }

    /// The address may hold a password, so neither a violation nor the origins repeat it as it was written, and it is not
    /// taken from a flag, which everybody on the host can read in the list of processes.
    fn redis(&mut self) -> Option<Address> {
        // Set to nothing is how a container says that it has none.
        let Setting { value, origin } = self.find("redis").filter(|set| !set.value.is_empty())?;
        let Some(address) = Address::parse(&value) else {
            self.violate(&origin, "", Address::RULE);
            return None;
        };
        if origin == REDIS_FLAG && address.has_password() {
            let rule = "holds a password, which the list of processes would show; \
                give it as AGENTD_REDIS or in the configuration file";
            self.violate(&origin, "", rule);
        }
        let exposed = self.file.filter(|file| file.is_exposed() && self.outside("redis").is_none());
        if let Some(file) = exposed.filter(|_| address.has_password()) {
            let rule = format!(
                "holds a password and others can read it (mode {:04o}), run `chmod 600 {}`",
                file.mode(),
                file.path().display()
            );
            self.violate(&origin, "", &rule);
        }
        self.origins.insert("redis", Setting { value: address.to_string(), origin });
        Some(address)
    }

    /// What a collector is called elsewhere counts as well: below what is called after agentd, above the file.
    fn otlp(&mut self) -> Option<String> {
        let key = "otlp_endpoint";
        let elsewhere = || {
            let value = std::env::var(OTEL_VARIABLE).ok()?;
            Some(Setting { value, origin: OTEL_VARIABLE.to_owned() })
        };
        let found = self.outside(key).or_else(elsewhere);
        let found = found.or_else(|| self.file.and_then(|file| file.get(key)));
        let setting = found.filter(|set| !set.value.is_empty())?;
        if !telemetry::EXPORTS {
            let rule = "this build sends no traces; build it with `--features otel`, or unset it";
            self.violate(&setting.origin, &setting.value, rule);
        } else if units::parse_endpoint(&setting.value).is_none() {
            // It may hold a password, so it is not repeated.
            let rule = "must be http://HOST:PORT or https://HOST:PORT, without user and password";
            self.violate(&setting.origin, "", rule);
        }
        let value = units::parse_endpoint(&setting.value);
        if let Some(value) = value.clone() {
            self.origins.insert(key, Setting { value, origin: setting.origin });
        }
        value
    }

    fn limits(&mut self) -> Limits {
        let default = Limits::default();
        let streams = usize::try_from(default.max_streams).unwrap_or(usize::MAX);
        let streams = self.count("limits.max_streams", streams, 4_096);
        let minute = (Duration::from_millis(100), Duration::from_secs(60), "3s");
        let week = (Duration::from_secs(1), Duration::from_secs(7 * 86_400), "30m");
        Limits {
            max_connections: self.count("limits.max_connections", default.max_connections, 65_536),
            max_connections_per_address: self.count(
                "limits.max_connections_per_address",
                default.max_connections_per_address,
                65_536,
            ),
            max_streams: u32::try_from(streams).unwrap_or(default.max_streams),
            preface_timeout: self.time("limits.preface_timeout", default.preface_timeout, minute),
            tls_timeout: self.time("limits.tls_timeout", default.tls_timeout, minute),
            first_request_timeout: self.time(
                "limits.first_request_timeout",
                default.first_request_timeout,
                minute,
            ),
            max_connection_age: self.time(
                "limits.max_connection_age",
                default.max_connection_age,
                week,
            ),
            connection_grace: self.time(
                "limits.connection_grace",
                default.connection_grace,
                minute,
            ),
            drain_timeout: self.time("limits.drain_timeout", default.drain_timeout, minute),
            ..default
        }
    }

    fn count(&mut self, key: &'static str, default: usize, max: usize) -> usize {
        let rule = format!("must be a whole number, 1 to {max}");
        let parse = |text: &str| units::count_within(text, max);
        self.take(key, &default.to_string(), &rule, parse).unwrap_or(default)
    }

    /// A time between two others, with one that is as an example.
    fn time(
        &mut self,
        key: &'static str,
        default: Duration,
        (min, max, example): (Duration, Duration, &str),
    ) -> Duration {
        let (from, to) = (show_duration(min), show_duration(max));
        let rule = format!("must be a time from {from} to {to}, such as {example}");
        let parse = |text: &str| units::duration_within(text, min, max);
        self.take(key, &show_duration(default), &rule, parse).unwrap_or(default)
    }

    /// Rules about more than one setting.
    fn check_together(&mut self, config: &Config) {
        // A missing half of the pair was reported already.
        let tls_wanted = config.tls.is_some()
            || ["tls_cert", "tls_key"].iter().any(|key| self.origins.contains_key(key));
        let addresses = [
            ("listen", Some(config.listen)),
            ("otlp_grpc_listen", config.otlp_grpc_listen),
            ("otlp_http_listen", config.otlp_http_listen),
        ];
        for (key, address) in addresses {
            let Some(address) = address.filter(|at| !at.ip().is_loopback() && !tls_wanted) else {
                continue;
            };
            let origin = self.origins.get(key).map(|setting| setting.origin.clone());
            self.violate(
                &origin.unwrap_or_default(),
                &address.to_string(),
                "is not a loopback address, and tokens would cross the network in plain text; \
                 give --tls-cert and --tls-key, or listen on 127.0.0.1",
            );
        }
    }

    /// The value of a setting; an empty `default` means that it may be absent.
    fn take<T>(
        &mut self,
        key: &'static str,
        default: &str,
        rule: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let setting = self.find(key).or_else(|| {
            let origin = "default".to_owned();
            (!default.is_empty()).then(|| Setting { value: default.to_owned(), origin })
        })?;
        let parsed = parse(&setting.value);
        if parsed.is_none() {
            self.violate(&setting.origin, &setting.value, rule);
        }
        self.origins.insert(key, setting);
        parsed
    }

    /// A path; a relative one in a file starts at the file's directory.
    fn path(&mut self, key: &'static str, default: &str) -> Option<PathBuf> {
        let base = match self.file {
            Some(file) if self.outside(key).is_none() && file.get(key).is_some() => {
                file.directory()
            }
            _ => Path::new(""),
        };
        let absolute = |text: &str| {
            Some(text)
                .filter(|text| !text.is_empty() && !text.contains(char::is_control))
                .and_then(|text| std::path::absolute(base.join(text)).ok())
        };
        self.take(key, default, "must be a path", absolute)
    }

    fn find(&self, key: &str) -> Option<Setting> {
        self.outside(key).or_else(|| self.file.and_then(|file| file.get(key)))
    }

    /// The value from a flag or the environment: clap has merged them, and only the error wants to know which it was.
    fn outside(&self, key: &str) -> Option<Setting> {
        let value = self.args.get(key)?.to_owned();
        let Key { flag, variable, .. } = keys::key(key)?;
        let from_env = std::env::var(variable).is_ok_and(|set| set == value);
        let origin = if from_env { variable } else { flag };
        Some(Setting { value, origin: (*origin).to_owned() })
    }

    fn violate(&mut self, origin: &str, value: &str, rule: &str) {
        self.violations.push(Violation {
            origin: origin.to_owned(),
            value: value.to_owned(),
            rule: rule.to_owned(),
        });
    }
}

const ADDRESS_RULE: &str = "must be an address and a port, such as 127.0.0.1:7443";
const AGENT_ID_RULE: &str = "must match ^agent-[a-z0-9]([-a-z0-9]{0,55}[a-z0-9])?$";

/// Agents are told apart from people by their name: principals can never begin with `agent-`.
pub(crate) fn parse_agent_id(text: &str) -> Option<String> {
    let rest = text.strip_prefix("agent-")?;
    let valid = (1..=57).contains(&rest.len())
        && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !rest.starts_with('-')
        && !rest.ends_with('-');
    valid.then(|| text.to_owned())
}

#[cfg(test)]
mod tests;

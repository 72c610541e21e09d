//! The settings: what each is called, what it is for, and how all of them are shown.

use std::fmt::Write as _;

use serde::Serialize;

use super::Config;

/// How a value is written in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// In quotes: text, times, addresses, paths.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Count,
}

/// A setting.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file; dotted inside a table.
    pub name: &'static str,
    /// Its flag; empty if it has none.
    pub flag: &'static str,
    /// Its environment variable; empty if it has none.
    pub variable: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Shown where there is no value, or none that is the same on every machine.
    pub example: &'static str,
    pub(super) kind: Kind,
}

impl Key {
    const fn new(
        name: &'static str,
        flag: &'static str,
        variable: &'static str,
        doc: &'static str,
    ) -> Self {
        Self { name, flag, variable, doc, example: "", kind: Kind::Text }
    }

    const fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }

    const fn is(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// `key = value` as the file has it, without the table.
    fn line(&self, value: &str) -> String {
        let name = self.name.rsplit('.').next().unwrap_or_default();
        match self.kind {
            Kind::Text => format!("{name} = {}", toml::Value::String(value.to_owned())),
            Kind::Bool | Kind::Count => format!("{name} = {value}"),
        }
    }

    fn table(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(table, _)| table)
    }
}

/// Flag of the bus: it may hold a password, which a flag must not.
pub(super) const REDIS_FLAG: &str = "--redis";
/// What the makers of OpenTelemetry call the endpoint.
pub(super) const OTEL_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Every setting, in the order in which they are shown; those of a table last.
pub const KEYS: &[Key] = &[
    Key::new("env", "--env", "AGENTD_ENV", "The one environment it serves: dev, stage or prod."),
    Key::new(
        "listen",
        "--listen",
        "AGENTD_LISTEN",
        "Address of the one port. Anything but loopback needs TLS.",
    ),
    Key::new(
        "data_dir",
        "--data-dir",
        "AGENTD_DATA_DIR",
        "Directory of the proof log, the tokens and the apps. Unless set: $STATE_DIRECTORY/ENV, $XDG_STATE_HOME/agentd/ENV or\n\
         ~/.local/state/agentd/ENV, whichever is there first.",
    )
    .example("/var/lib/agentd/dev"),
    Key::new(
        "agent_id",
        "--agent-id",
        "AGENTD_AGENT_ID",
        "Id of the agent. Unless set: made at the first start and kept in the data directory.",
    )
    .example("agent-host-1"),
    Key::new(
        "loop_interval",
        "--loop-interval",
        "AGENTD_LOOP_INTERVAL",
        "Time between two ticks of the loop, 50ms to 60s. What is urgent does not wait for it.",
    ),
    Key::new(
        "policy",
        "--policy",
        "AGENTD_POLICY",
        "Policy file. Unless set: the built-in policy of the environment, which is the one in deploy/policy.",
    )
    .example("/etc/agentd/policy.toml"),
    Key::new(
        "tokens",
        "--tokens",
        "AGENTD_TOKENS",
        "Token file, mode 0600. Unless set: tokens.toml in the data directory, made at the first start.",
    )
    .example("/etc/agentd/tokens.toml"),
    Key::new("tls_cert", "--tls-cert", "AGENTD_TLS_CERT", "Certificate chain, PEM.")
        .example("/etc/agentd/tls.crt"),
    Key::new("tls_key", "--tls-key", "AGENTD_TLS_KEY", "Private key, PEM, mode 0600 or 0640.")
        .example("/etc/agentd/tls.key"),
    Key::new(
        "proof_key",
        "--proof-key",
        "AGENTD_PROOF_KEY",
        "Key that checkpoints of the proof log are signed with, mode 0600. Unless set: proof.key in the data directory, made at\n\
         the first start. Keep a copy: a log without its key cannot be continued.",
    )
    .example("/etc/agentd/proof.key"),
    Key::new(
        "proof_anchor",
        "--proof-anchor",
        "AGENTD_PROOF_ANCHOR",
        "Second copy of each checkpoint of the proof log, in a directory that exists, best on another disk: it shows that an old\n\
         backup of the data directory was restored.",
    )
    .example("/mnt/other-disk/agentd.checkpoint"),
    Key::new(
        "proof_witnesses",
        "--proof-witnesses",
        "AGENTD_PROOF_WITNESSES",
        "Policy file (C2SP tlog-policy) with the witnesses that cosign each checkpoint of the proof log, each with its URL. The same\n\
         file serves `agentctl proof verify --policy`.",
    )
    .example("/etc/agentd/witnesses.policy"),
    Key::new(
        "redis",
        REDIS_FLAG,
        "AGENTD_REDIS",
        "Redis that records are offered to, and that keeps a copy of the last checkpoint of the proof log. Unless set: a ring in\n\
         memory. With a password in it this file must be readable by its owner alone; as a flag a password is refused.",
    )
    .example("redis://127.0.0.1:6379"),
    Key::new(
        "demo_mode",
        "--demo-mode",
        "DEMO_MODE",
        "Accept only what the agent itself chose, from the demo allowlist.",
    )
    .is(Kind::Bool),
    Key::new(
        "freeze",
        "--freeze",
        "DEMO_FREEZE_MODE",
        "Learning and exploration stand still: the same scenario gives the same decision.",
    )
    .is(Kind::Bool),
    Key::new("dry_run", "--dry-run", "AGENTD_DRY_RUN", "Decide and record, touch nothing.")
        .is(Kind::Bool),
    Key::new(
        "log_format",
        "--log-format",
        "AGENTD_LOG_FORMAT",
        "How log lines look: text for people, json for machines.",
    ),
    Key::new(
        "log_filter",
        "--log-filter",
        "AGENTD_LOG",
        "What is logged: a level, or levels by target such as agentd=debug,info.",
    ),
    Key::new(
        "metrics_open",
        "--metrics-open",
        "AGENTD_METRICS_OPEN",
        "Let processes on this host read GET /metrics without a token. Others always need one with the viewer role.",
    )
    .is(Kind::Bool),
    Key::new(
        "otlp_grpc_listen",
        "--otlp-grpc-listen",
        "AGENTD_OTLP_GRPC_LISTEN",
        "Another address of the port, where OpenTelemetry SDKs and Collectors look for OTLP over gRPC. Metrics are taken in on the\n\
         one port as well.",
    )
    .example("127.0.0.1:4317"),
    Key::new(
        "otlp_http_listen",
        "--otlp-http-listen",
        "AGENTD_OTLP_HTTP_LISTEN",
        "The same for OTLP over HTTP: POST /v1/metrics.",
    )
    .example("127.0.0.1:4318"),
    Key::new(
        "otlp_endpoint",
        "--otlp-endpoint",
        "AGENTD_OTLP_ENDPOINT",
        "OpenTelemetry collector that traces are sent to, OTLP over gRPC. OTEL_EXPORTER_OTLP_ENDPOINT is taken as well. Needs a\n\
         build with the feature `otel`.",
    )
    .example("http://127.0.0.1:4317"),
    Key::new("limits.max_connections", "", "", "Connections in all.").is(Kind::Count),
    Key::new(
        "limits.max_connections_per_address",
        "",
        "",
        "Connections from one address; 127.0.0.1 and ::1 are exempt.",
    )
    .is(Kind::Count),
    Key::new("limits.max_streams", "", "", "Open streams per connection.").is(Kind::Count),
    Key::new("limits.preface_timeout", "", "", "Time for the first bytes of a connection."),
    Key::new("limits.tls_timeout", "", "", "Time for a TLS handshake."),
    Key::new(
        "limits.first_request_timeout",
        "",
        "",
        "Time for the first request that is let in; a connection that had none is closed.",
    ),
    Key::new(
        "limits.max_connection_age",
        "",
        "",
        "Age at which a connection takes no more requests, a fifth more or less. Clients go on over a new one.",
    ),
    Key::new(
        "limits.connection_grace",
        "",
        "",
        "Time for what is open on a connection that is old; then it is ended with the status CONNECTION_AGE.",
    ),
    Key::new(
        "limits.drain_timeout",
        "",
        "",
        "Time for requests in flight after the drain began; then they are cut.",
    ),
];

/// The setting called `name`.
#[must_use]
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// A setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its name.
    pub key: &'static str,
    /// Its value; `None` where it is not set. No secret is in it.
    pub value: Option<String>,
    /// Where the value came from: `--listen`, `AGENTD_LISTEN`, `agentd.toml:3` or `default`.
    pub origin: String,
    /// What it is for.
    pub doc: String,
}

impl Config {
    /// Every setting with its value and where it came from. Secrets are not in it.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let line = |key: &'static Key| {
            let set = self.origins.get(key.name).cloned();
            let (value, origin) = match set {
                Some(setting) => (Some(setting.value), setting.origin),
                None => (None, "not set".to_owned()),
            };
            Line { key: key.name, value, origin, doc: key.doc.replace('\n', " ") }
        };
        KEYS.iter().map(line).collect()
    }

    /// The settings in force as a file that would give the same ones, with the origin of each.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut lines = self.lines().into_iter();
        file(|key| {
            let line = lines.next();
            let origin = line.as_ref().map_or("not set", |line| &line.origin);
            let shown = match line.as_ref().and_then(|line| line.value.as_ref()) {
                Some(value) => key.line(value),
                None => format!("# {}", key.line(key.example)),
            };
            format!("{shown}  # {}", agentctl_api::text::line(origin))
        })
    }
}

/// The file that is shipped as an example: every key with its default.
#[must_use]
pub fn example(defaults: &Config) -> String {
    const HEAD: &str = "\
# Configuration of agentd. It is read from agentd.toml in the current directory, or from the file that --config or
# AGENTD_CONFIG names. Flags win over environment variables, those over this file, and this file over the defaults.
# What stands here are the defaults; an unknown key is an error. `agentd --dump-config` prints what is in force.

";
    let body = file(|key| {
        let same_everywhere = key.example.is_empty();
        match defaults.origins.get(key.name).filter(|_| same_everywhere) {
            Some(setting) => key.line(&setting.value),
            None => format!("# {}", key.line(key.example)),
        }
    });
    format!("{HEAD}{body}")
}

/// A configuration file with its comments; `line` writes the line of a key.
fn file(mut line: impl FnMut(&'static Key) -> String) -> String {
    let mut text = String::new();
    let mut table = "";
    for key in KEYS {
        if !text.is_empty() {
            text.push('\n');
        }
        if key.table() != table {
            table = key.table();
            let _ = writeln!(text, "[{table}]\n");
        }
        for doc in key.doc.lines() {
            let _ = writeln!(text, "# {doc}");
        }
        if !key.flag.is_empty() {
            let _ = writeln!(text, "# {}, {}", key.flag, key.variable);
        }
        let _ = writeln!(text, "{}", line(key));
    }
    text
}

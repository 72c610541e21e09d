//! The flags of the server. They are text here: [`super::Config::load`] checks all of them together.

use std::fmt;
use std::path::PathBuf;

/// Text that may hold a password: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Flags of `agentd` and of `agentctl up`. Each can also be set by an environment variable or in `agentd.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct ServerArgs {
    /// Configuration file [default: agentd.toml in the current directory, if there is one]
    #[arg(long, value_name = "PATH", env = "AGENTD_CONFIG")]
    pub config: Option<PathBuf>,

    /// Environment to serve: dev, stage or prod [default: dev]
    #[arg(long, value_name = "ENV", env = "AGENTD_ENV")]
    pub env: Option<String>,

    /// Address and port; anything but loopback needs TLS [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDRESS", env = "AGENTD_LISTEN")]
    pub listen: Option<String>,

    /// Directory of the proof log, the tokens and the apps [default: ~/.local/state/agentd/ENV]
    #[arg(long, value_name = "DIR", env = "AGENTD_DATA_DIR")]
    pub data_dir: Option<String>,

    /// Id of the agent, `agent-…` [default: made at the first start]
    #[arg(long, value_name = "ID", env = "AGENTD_AGENT_ID")]
    pub agent_id: Option<String>,

    /// Time between two ticks of the loop [default: 1s]
    #[arg(long, value_name = "TIME", env = "AGENTD_LOOP_INTERVAL")]
    pub loop_interval: Option<String>,

    /// Policy file [default: the built-in policy of the environment]
    #[arg(long, value_name = "PATH", env = "AGENTD_POLICY")]
    pub policy: Option<String>,

    /// Token file, mode 0600 [default: tokens.toml in the data directory, made at the first start]
    #[arg(long, value_name = "PATH", env = "AGENTD_TOKENS")]
    pub tokens: Option<String>,

    /// Certificate chain, PEM
    #[arg(long, value_name = "PATH", env = "AGENTD_TLS_CERT")]
    pub tls_cert: Option<String>,

    /// Private key, PEM, mode 0600
    #[arg(long, value_name = "PATH", env = "AGENTD_TLS_KEY")]
    pub tls_key: Option<String>,

    /// Key the proof log is signed with, mode 0600 [default: proof.key in the data directory, made at the first start]
    #[arg(long, value_name = "PATH", env = "AGENTD_PROOF_KEY")]
    pub proof_key: Option<String>,

    /// Second copy of each checkpoint of the proof log, on another disk: shows that an old backup was restored
    #[arg(long, value_name = "PATH", env = "AGENTD_PROOF_ANCHOR")]
    pub proof_anchor: Option<String>,

    /// Policy file (C2SP tlog-policy) whose witnesses cosign the checkpoints of the proof log
    #[arg(long, value_name = "PATH", env = "AGENTD_PROOF_WITNESSES")]
    pub proof_witnesses: Option<String>,

    /// Redis to offer records to, redis://… or rediss://…; a password only through the environment or the file
    /// [default: a ring in memory]
    #[arg(long, value_name = "URL", env = "AGENTD_REDIS", hide_env_values = true)]
    pub redis: Option<Secret>,

    /// Accept only what the agent itself chose, from the demo allowlist
    #[arg(
        long,
        value_name = "BOOL",
        env = "DEMO_MODE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub demo_mode: Option<String>,

    /// Learning and exploration stand still: the same scenario gives the same decision
    #[arg(
        long,
        value_name = "BOOL",
        env = "DEMO_FREEZE_MODE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub freeze: Option<String>,

    /// Decide and record, touch nothing
    #[arg(
        long,
        value_name = "BOOL",
        env = "AGENTD_DRY_RUN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub dry_run: Option<String>,

    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "AGENTD_LOG_FORMAT")]
    pub log_format: Option<String>,

    /// What is logged, such as info or agentd=debug,info [default: info]
    #[arg(long, value_name = "FILTER", env = "AGENTD_LOG")]
    pub log_filter: Option<String>,

    /// Let processes on this host read GET /metrics without a token
    #[arg(
        long,
        value_name = "BOOL",
        env = "AGENTD_METRICS_OPEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub metrics_open: Option<String>,

    /// Second address for metrics by OTLP over gRPC, usually 127.0.0.1:4317 [default: the one port alone]
    #[arg(long, value_name = "ADDRESS", env = "AGENTD_OTLP_GRPC_LISTEN")]
    pub otlp_grpc_listen: Option<String>,

    /// Second address for metrics by OTLP over HTTP, usually 127.0.0.1:4318 [default: the one port alone]
    #[arg(long, value_name = "ADDRESS", env = "AGENTD_OTLP_HTTP_LISTEN")]
    pub otlp_http_listen: Option<String>,

    /// OpenTelemetry collector to send traces to, http://HOST:4317 [default: none]
    #[arg(long, value_name = "URL", env = "AGENTD_OTLP_ENDPOINT", hide_env_values = true)]
    pub otlp_endpoint: Option<String>,
}

impl ServerArgs {
    /// The value of the setting called `key`, if a flag or the environment gave one.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let value = match key {
            "redis" => return self.redis.as_ref().map(|Secret(text)| text.as_str()),
            "env" => &self.env,
            "listen" => &self.listen,
            "data_dir" => &self.data_dir,
            "agent_id" => &self.agent_id,
            "loop_interval" => &self.loop_interval,
            "policy" => &self.policy,
            "tokens" => &self.tokens,
            "tls_cert" => &self.tls_cert,
            "tls_key" => &self.tls_key,
            "proof_key" => &self.proof_key,
            "proof_anchor" => &self.proof_anchor,
            "proof_witnesses" => &self.proof_witnesses,
            "demo_mode" => &self.demo_mode,
            "freeze" => &self.freeze,
            "dry_run" => &self.dry_run,
            "log_format" => &self.log_format,
            "log_filter" => &self.log_filter,
            "metrics_open" => &self.metrics_open,
            "otlp_grpc_listen" => &self.otlp_grpc_listen,
            "otlp_http_listen" => &self.otlp_http_listen,
            "otlp_endpoint" => &self.otlp_endpoint,
            _ => return None,
        };
        value.as_deref()
    }
}

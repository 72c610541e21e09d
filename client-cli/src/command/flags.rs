//! What an app is to be, as flags: the same ones for taking it in and for changing it.

use std::collections::BTreeMap;

use agentctl_api::v1;
use clap::Args;
use v1::onboard_app_request::Source;

use crate::time;

/// The specification.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Flags {
    /// Program that is already built: absolute path, and arguments that do not begin with a dash
    #[arg(long, value_name = "PATH [ARG]", num_args = 1..)]
    pub(super) exec: Vec<String>,
    /// Repository to build from: https:// URL without credentials
    #[arg(long, value_name = "URL")]
    pub(super) repo: Option<String>,
    /// Branch, tag or commit of the repository
    #[arg(long, value_name = "REV", requires = "repo")]
    pub(super) revision: Option<String>,
    /// Instances to start with [default: the minimum]
    #[arg(long, value_name = "N")]
    pub(super) instances: Option<u32>,
    /// Fewest instances [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) min: Option<u32>,
    /// Most instances [default: the instances to start with]
    #[arg(long, value_name = "N")]
    pub(super) max: Option<u32>,
    /// Address whose listening socket agentd holds and hands over: no connection is refused during a restart
    #[arg(long, value_name = "ADDRESS")]
    pub(super) listen: Option<String>,
    /// Health by HTTP: a path on the app's own address, or a full http:// URL
    #[arg(long, value_name = "URL|PATH", group = "health")]
    pub(super) health_url: Option<String>,
    /// Health by a TCP connection [default address: the app's own]
    #[arg(long, value_name = "ADDRESS", group = "health", num_args = 0..=1, default_missing_value = "")]
    pub(super) health_tcp: Option<String>,
    /// Health by grpc.health.v1 [default address: the app's own]
    #[arg(long, value_name = "ADDRESS", group = "health", num_args = 0..=1, default_missing_value = "")]
    pub(super) health_grpc: Option<String>,
    /// Time between two looks at its health
    #[arg(long, value_name = "TIME", requires = "health")]
    pub(super) health_interval: Option<time::Span>,
    /// Time one look may take
    #[arg(long, value_name = "TIME", requires = "health")]
    pub(super) health_timeout: Option<time::Span>,
    /// Label
    #[arg(long, value_name = "K=V", value_parser = pair)]
    pub(super) label: Vec<(String, String)>,
    /// Environment variable of the process
    #[arg(long, value_name = "K=V", value_parser = pair)]
    pub(super) env_var: Vec<(String, String)>,
    /// Override of a detector: value that opens the finding, and value that closes it
    #[arg(long, value_name = "DETECTOR=ENTER:LEAVE", value_parser = threshold)]
    pub(super) threshold: Vec<v1::ThresholdOverride>,
    /// Maintenance window of this app, RFC 3339 with an offset; EVERY, such as 24h, repeats it
    #[arg(long, value_name = "NAME=START/END[/EVERY]", value_parser = window)]
    pub(super) window: Vec<v1::MaintenanceWindow>,
    /// Highest level the agent may have for this app
    #[arg(long, value_enum)]
    pub(super) autonomy: Option<Autonomy>,
    /// Time between the polite and the hard stop
    #[arg(long, value_name = "TIME")]
    pub(super) stop_grace: Option<time::Span>,
    /// Working directory of the process
    #[arg(long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// More arguments of the program
    #[arg(last = true, value_name = "ARGS", requires = "exec")]
    pub(super) args: Vec<String>,
}

/// A level on the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Autonomy {
    /// Refused.
    Off,
    /// Decided and recorded, never executed.
    Shadow,
    /// Executed after a human approved it.
    Propose,
    /// Executed.
    Auto,
}

impl From<Autonomy> for v1::AutonomyLevel {
    fn from(level: Autonomy) -> Self {
        match level {
            Autonomy::Off => Self::Off,
            Autonomy::Shadow => Self::Shadow,
            Autonomy::Propose => Self::Propose,
            Autonomy::Auto => Self::Auto,
        }
    }
}

/// `K=V`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

pub(super) fn threshold(text: &str) -> Result<v1::ThresholdOverride, String> {
    let wrong = || "write DETECTOR=ENTER:LEAVE, such as cpu_overload=0.8:0.6".to_owned();
    let (detector, values) = pair(text).map_err(|_invalid| wrong())?;
    let (enter, leave) = values.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| match text {
        "" => Ok(None),
        text => text.parse::<f64>().map(Some).map_err(|_invalid| wrong()),
    };
    Ok(v1::ThresholdOverride { detector, enter: number(enter)?, leave: number(leave)?, hold: None })
}

/// `NAME=START/END[/EVERY]`.
pub(super) fn window(text: &str) -> Result<v1::MaintenanceWindow, String> {
    let wrong = || {
        "write NAME=START/END[/EVERY], such as \
         night=2026-01-31T22:00:00+01:00/2026-02-01T04:00:00+01:00/24h"
            .to_owned()
    };
    let (name, span) = pair(text).map_err(|_invalid| wrong())?;
    let mut parts = span.split('/');
    let (Some(start), Some(end)) = (parts.next(), parts.next()) else { return Err(wrong()) };
    let every = match parts.next() {
        None => None,
        Some(every) => Some(every.parse::<time::Span>().map_err(|_invalid| wrong())?),
    };
    if parts.next().is_some() {
        return Err(wrong());
    }
    Ok(v1::MaintenanceWindow {
        name,
        start: start.to_owned(),
        end: end.to_owned(),
        every: every.map(|span| time::span_to_proto(span.0)),
    })
}

impl Flags {
    /// The flags as a request; what was not given is absent.
    pub(super) fn request(&self) -> v1::OnboardAppRequest {
        let span = |span: Option<time::Span>| span.map(|span| time::span_to_proto(span.0));
        let map = |pairs: &[(String, String)]| pairs.iter().cloned().collect::<BTreeMap<_, _>>();
        v1::OnboardAppRequest {
            source: self.source(),
            min_instances: self.min,
            max_instances: self.max,
            desired_instances: self.instances,
            listen: self.listen.clone().unwrap_or_default(),
            health_probe: self.probe().map(|kind| v1::HealthProbe {
                kind: Some(kind),
                interval: span(self.health_interval),
                timeout: span(self.health_timeout),
            }),
            environment_variables: map(&self.env_var),
            labels: map(&self.label),
            thresholds: self.threshold.clone(),
            maintenance_windows: self.window.clone(),
            autonomy_level: self.autonomy.map_or(v1::AutonomyLevel::Unspecified, Into::into).into(),
            stop_grace: span(self.stop_grace),
            working_directory: self.workdir.clone().unwrap_or_default(),
            ..v1::OnboardAppRequest::default()
        }
    }

    fn source(&self) -> Option<Source> {
        match (&self.repo, self.exec.split_first()) {
            (Some(url), _) => Some(Source::Repo(v1::RepoSource {
                url: url.clone(),
                revision: self.revision.clone().unwrap_or_default(),
            })),
            (None, Some((path, args))) => Some(Source::Exec(v1::ExecSource {
                path: path.clone(),
                args: args.iter().chain(&self.args).cloned().collect(),
            })),
            (None, None) => None,
        }
    }

    pub(super) fn probe(&self) -> Option<v1::health_probe::Kind> {
        use v1::health_probe::Kind;
        use v1::http_probe::Target;
        if let Some(url) = &self.health_url {
            let target = if url.starts_with('/') {
                Target::Path(url.clone())
            } else {
                Target::Url(url.clone())
            };
            return Some(Kind::Http(v1::HttpProbe { target: Some(target) }));
        }
        if let Some(address) = &self.health_tcp {
            return Some(Kind::Tcp(v1::TcpProbe { address: address.clone() }));
        }
        let address = self.health_grpc.clone()?;
        Some(Kind::Grpc(v1::GrpcProbe { address, service: String::new() }))
    }
}

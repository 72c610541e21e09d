//! An app as a file, in YAML or JSON: what `onboard -f` and `app update -f` read and `app spec export` writes.
//!
//! A key that is not known is an error that names the line and the key that may have been meant: nothing is skipped.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use agentctl_api::v1;
use agentd_core::app::{AppSpec, Millis, Probe, Source};
use agentd_core::signal::MICRO;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::time::{self, Span};

/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 256 << 10;

/// An app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the keys are those of the API, documented there")]
pub struct SpecFile {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    pub runtime: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<Repo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Instances>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment_variables: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thresholds: BTreeMap<String, Threshold>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance_windows: Vec<Window>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autonomy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<String>,
}

/// A program that is built already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the keys are those of the API, documented there")]
pub struct Exec {
    pub path: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

/// A repository to build from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the keys are those of the API, documented there")]
pub struct Repo {
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// How many instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the keys are those of the API, documented there")]
pub struct Instances {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u32>,
}

/// How its health is asked for: exactly one of `http`, `tcp` and `grpc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the keys are those of the API, documented there")]
pub struct Health {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// Where a finding opens and closes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the keys are those of the API, documented there")]
pub struct Threshold {
    pub enter: f64,
    pub leave: f64,
}

/// A span in which nothing is done to the app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the keys are those of the API, documented there")]
pub struct Window {
    pub name: String,
    pub start: String,
    pub end: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
}

impl SpecFile {
    /// Reads a file; `-` is stdin.
    ///
    /// # Errors
    /// It cannot be read, or is no specification: with the line, and the key that may have been meant.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let read = if shown == "-" {
            read_limited(std::io::stdin())
        } else {
            std::fs::File::open(path).and_then(read_limited)
        };
        let text = read.map_err(|error| {
            Failure::because(crate::exit::Exit::Usage, &format!("cannot read `{shown}`"), &error)
        })?;
        Self::parse(&text, &shown)
    }

    fn parse(text: &str, shown: &str) -> Result<Self, Failure> {
        serde_saphyr::from_str(text).map_err(|error| misread(&error, shown))
    }

    /// The file that would lead to `spec`.
    #[must_use]
    pub fn of(spec: &AppSpec) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "every threshold is far below 2^53")]
        let natural = |micro: i64| micro as f64 / MICRO as f64;
        let (exec, repo) = match spec.source.clone() {
            Source::Exec { path, args } => (Some(Exec { path, args }), None),
            Source::Repo { url, revision } => (None, Some(Repo { url, revision })),
        };
        let instances = &spec.instances;
        Self {
            name: spec.name.to_string(),
            environment: Some(spec.env.as_str().to_owned()),
            runtime: spec.runtime.as_str().to_owned(),
            exec,
            repo,
            working_directory: spec.working_dir.clone(),
            instances: Some(Instances {
                min: Some(instances.min),
                max: Some(instances.max),
                desired: Some(instances.desired),
            }),
            listen: spec.listen.clone(),
            health: spec.health.as_ref().map(|check| {
                let health = match check.probe.clone() {
                    Probe::Http { url } => Health { http: Some(url), ..Health::default() },
                    Probe::Tcp { address } => Health { tcp: Some(address), ..Health::default() },
                    Probe::Grpc { address, service } => {
                        let service = Some(service).filter(|service| !service.is_empty());
                        Health { grpc: Some(address), service, ..Health::default() }
                    }
                };
                let (interval, timeout) = (span(check.interval_ms), span(check.timeout_ms));
                Health { interval: Some(interval), timeout: Some(timeout), ..health }
            }),
            environment_variables: spec.environment.clone(),
            labels: spec.labels.clone(),
            thresholds: spec
                .thresholds
                .iter()
                .map(|(metric, own)| {
                    let (enter, leave) = (natural(own.enter), natural(own.leave));
                    (metric.as_str().to_owned(), Threshold { enter, leave })
                })
                .collect(),
            maintenance_windows: spec
                .windows
                .iter()
                .map(|window| Window {
                    name: window.name.clone(),
                    start: window.start.clone(),
                    end: window.end.clone().unwrap_or_default(),
                    every: window.every_ms.map(span),
                })
                .collect(),
            autonomy: spec.autonomy.map(|level| level.as_str().to_ascii_lowercase()),
            stop_grace: Some(span(spec.stop_grace_ms)),
        }
    }

    /// The request the file stands for.
    ///
    /// # Errors
    /// What no request has a place for; every value in it is the server's to judge.
    pub fn request(&self) -> Result<v1::OnboardAppRequest, Failure> {
        use v1::onboard_app_request::Source;
        let source = match (&self.exec, &self.repo) {
            (Some(_), Some(_)) => {
                return Err(Failure::usage("`exec` and `repo` exclude each other"));
            }
            (Some(exec), None) => Some(Source::Exec(v1::ExecSource {
                path: exec.path.clone(),
                args: exec.args.clone(),
            })),
            (None, Some(repo)) => Some(Source::Repo(v1::RepoSource {
                url: repo.url.clone(),
                revision: repo.revision.clone().unwrap_or_default(),
            })),
            (None, None) => None,
        };
        let instances = self.instances.clone().unwrap_or_default();
        let window = |window: &Window| {
            Ok(v1::MaintenanceWindow {
                name: window.name.clone(),
                start: window.start.clone(),
                end: window.end.clone(),
                every: duration("maintenance_windows.every", window.every.as_deref())?,
            })
        };
        Ok(v1::OnboardAppRequest {
            name: self.name.clone(),
            environment: self.environment.clone().unwrap_or_default(),
            runtime: self.runtime.clone(),
            source,
            min_instances: instances.min,
            max_instances: instances.max,
            desired_instances: instances.desired,
            listen: self.listen.clone().unwrap_or_default(),
            health_probe: self.health.as_ref().map(Health::probe).transpose()?,
            environment_variables: self.environment_variables.clone(),
            labels: self.labels.clone(),
            thresholds: self
                .thresholds
                .iter()
                .map(|(detector, own)| v1::ThresholdOverride {
                    detector: detector.clone(),
                    enter: Some(own.enter),
                    leave: Some(own.leave),
                    hold: None,
                })
                .collect(),
            maintenance_windows: self
                .maintenance_windows
                .iter()
                .map(window)
                .collect::<Result<_, Failure>>()?,
            autonomy_level: level(self.autonomy.as_deref())?.into(),
            stop_grace: duration("stop_grace", self.stop_grace.as_deref())?,
            working_directory: self.working_directory.clone().unwrap_or_default(),
            ..v1::OnboardAppRequest::default()
        })
    }
}

impl Health {
    fn probe(&self) -> Result<v1::HealthProbe, Failure> {
        use v1::health_probe::Kind;
        use v1::http_probe::Target;
        let kind = match (&self.http, &self.tcp, &self.grpc) {
            (Some(url), None, None) => {
                let path = url.starts_with('/');
                let target =
                    if path { Target::Path(url.clone()) } else { Target::Url(url.clone()) };
                Kind::Http(v1::HttpProbe { target: Some(target) })
            }
            (None, Some(address), None) => Kind::Tcp(v1::TcpProbe { address: address.clone() }),
            (None, None, Some(address)) => Kind::Grpc(v1::GrpcProbe {
                address: address.clone(),
                service: self.service.clone().unwrap_or_default(),
            }),
            _ => {
                let what = "`health` must have exactly one of `http`, `tcp` and `grpc`";
                return Err(Failure::usage(what));
            }
        };
        Ok(v1::HealthProbe {
            kind: Some(kind),
            interval: duration("health.interval", self.interval.as_deref())?,
            timeout: duration("health.timeout", self.timeout.as_deref())?,
        })
    }
}

fn read_limited(from: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    let size = from.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if size as u64 > FILE_MAX {
        let what = format!("more than {FILE_MAX} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, what));
    }
    Ok(text)
}

/// What is wrong with a file, where, and what may have been meant.
fn misread(error: &serde_saphyr::Error, shown: &str) -> Failure {
    use serde_saphyr::Error;
    let plain = error.without_snippet();
    let line = plain.location().map(|at| format!(" line {}", at.line())).unwrap_or_default();
    match plain {
        Error::SerdeUnknownField { field, expected, .. } => {
            let failure = Failure::usage(format!("`{shown}`{line}: there is no key `{field}`"));
            match nearest(field, expected) {
                Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
                None => failure.hint(format!("the keys are {}", expected.join(", "))),
            }
        }
        other => {
            let text = other.to_string();
            let first = text.lines().next().unwrap_or_default();
            Failure::usage(format!("`{shown}`{line}: {first}"))
        }
    }
}

/// The word that is most like `given`, if one is alike enough to have been meant.
fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let alike = |word: &&str| strsim::jaro_winkler(given, word);
    let best = known.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(&best) >= 0.8).then_some(best)
}

fn span(ms: Millis) -> String {
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

fn duration(key: &str, text: Option<&str>) -> Result<Option<prost_types::Duration>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<Span>() {
        Ok(span) => Ok(Some(time::span_to_proto(span.0))),
        Err(_) => Err(Failure::usage(format!("`{key}`: `{text}` is no time"))
            .hint("write it like 500ms, 30s or 24h")),
    }
}

fn level(text: Option<&str>) -> Result<v1::AutonomyLevel, Failure> {
    let Some(text) = text else { return Ok(v1::AutonomyLevel::Unspecified) };
    let name = format!("AUTONOMY_LEVEL_{}", text.to_ascii_uppercase());
    v1::AutonomyLevel::from_str_name(&name).filter(|_| !text.is_empty()).ok_or_else(|| {
        Failure::usage(format!("`autonomy`: `{text}` is no level"))
            .hint("the levels are off, shadow, propose and auto")
    })
}

#[cfg(test)]
mod tests {
    use agentd_core::app::Env;

    use super::*;

    const FULL: &str = "\
name: my-api
environment: stage
runtime: rust
exec:
  path: /srv/my-api
  args: [--port, \"8080\"]
working_directory: /srv
instances: { min: 1, max: 4, desired: 2 }
listen: 127.0.0.1:8080
health: { http: /healthz, interval: 2s, timeout: 500ms }
environment_variables: { RUST_LOG: info }
labels: { team: shop, protected: \"false\" }
thresholds:
  cpu_utilization: { enter: 0.9, leave: 0.7 }
maintenance_windows:
  - name: night
    start: \"2026-01-31T22:00:00+01:00\"
    end: \"2026-02-01T04:00:00+01:00\"
    every: 24h
autonomy: propose
stop_grace: 5s
";

    fn error(text: &str) -> String {
        let failure = SpecFile::parse(text, "app.yaml").unwrap_err();
        let mut page = crate::page::Page::default();
        failure.page(&mut page);
        page.render(false)
    }

    #[test]
    fn yaml_and_json_say_the_same() {
        let file = SpecFile::parse(FULL, "-").unwrap();
        let json = serde_json::to_string_pretty(&file).unwrap();
        assert_eq!(SpecFile::parse(&json, "-").unwrap(), file);
        let yaml = serde_saphyr::to_string(&file).unwrap();
        assert_eq!(SpecFile::parse(&yaml, "-").unwrap(), file);
        let request = file.request().unwrap();
        assert_eq!((request.min_instances, request.desired_instances), (Some(1), Some(2)));
        assert_eq!(request.autonomy_level(), v1::AutonomyLevel::Propose);
        assert_eq!(request.maintenance_windows[0].every.unwrap().seconds, 86_400);
        assert_eq!(request.thresholds[0].enter, Some(0.9));
    }

    #[test]
    fn an_exported_specification_is_the_one_that_was_written() {
        let file = SpecFile::parse(FULL, "-").unwrap();
        let (mut asked, exec) = (agentd_core::app::OnboardRequest::default(), file.exec.clone());
        asked.name.clone_from(&file.name);
        (asked.env, asked.runtime) = ("stage".to_owned(), file.runtime.clone());
        let Exec { path, args } = exec.unwrap();
        asked.source = agentd_core::app::RequestedSource::Exec { path, args };
        asked.labels.clone_from(&file.labels);
        let spec = agentd_core::app::validate(
            Env::Stage,
            &agentd_core::policy::Fetch::default(),
            &asked,
            false,
        )
        .unwrap();
        let exported = SpecFile::of(&spec);
        assert_eq!((&exported.exec, &exported.labels), (&file.exec, &file.labels));
        let yaml = serde_saphyr::to_string(&exported).unwrap();
        assert_eq!(SpecFile::parse(&yaml, "-").unwrap(), exported);
    }

    #[test]
    fn an_unknown_key_is_told_with_its_line_and_what_may_have_been_meant() {
        let text = error("name: a\nruntime: go\nlable: {}\n");
        assert!(text.contains("`app.yaml` line 3: there is no key `lable`"), "{text}");
        assert!(text.contains("did you mean `labels`?"), "{text}");
        let nested = error("name: a\nruntime: go\ninstances:\n  min: 1\n  maxx: 2\n");
        assert!(nested.contains("line 5") && nested.contains("did you mean `max`?"), "{nested}");
        let foreign = error("name: a\nruntime: go\nreplicas: 2\n");
        assert!(foreign.contains("the keys are name, environment, runtime"), "{foreign}");
    }

    #[test]
    fn everything_else_that_is_no_specification_is_refused_with_its_line() {
        for (text, line) in [
            ("name: a\nruntime: go\nname: b\n", "line 3"),
            ("name: a\nruntime: go\ninstances: { min: many }\n", "line 3"),
            ("name: [a\n", "line "),
            ("runtime: go\n", "missing field"),
            ("- a\n", "line 1"),
        ] {
            let told = error(text);
            assert!(told.contains("app.yaml") && told.contains(line), "{text}: {told}");
        }
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n";
        assert!(error(bomb).contains("app.yaml"));
        for (bad, what) in [
            ("name: a\nruntime: go\nstop_grace: soon\n", "stop_grace"),
            ("name: a\nruntime: go\nautonomy: maybe\n", "autonomy"),
            ("name: a\nruntime: go\nhealth: { http: /, tcp: x }\n", "health"),
            ("name: a\nruntime: go\nexec: { path: /a }\nrepo: { url: x }\n", "exec"),
        ] {
            let failure = SpecFile::parse(bad, "-").unwrap().request().unwrap_err();
            assert!(failure.to_string().contains(what), "{failure}");
            assert_eq!(failure.exit(), crate::exit::Exit::Usage);
        }
    }
}

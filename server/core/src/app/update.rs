//! Changing an app that is under control: which fields a request means, and what the result is.
//!
//! An update is an onboarding of what is there already with some fields replaced, so it obeys the same rules, and everything
//! that is wrong with the result is told at once.

use std::collections::BTreeSet;

use super::{AppSpec, OnboardRequest, Probe, RequestedHealth, RequestedSource, Source};
use crate::app::validate::RequestedWindow;
use crate::signal::MICRO;

/// A field of a specification that can be replaced. The name and the environment are the app itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Runtime.
    Runtime,
    /// Program or repository.
    Source,
    /// Working directory.
    WorkingDir,
    /// Fewest instances.
    MinInstances,
    /// Most instances.
    MaxInstances,
    /// Instances to run.
    DesiredInstances,
    /// Address of the held socket.
    Listen,
    /// Readiness question.
    Health,
    /// Environment variables.
    Environment,
    /// Labels.
    Labels,
    /// Detector thresholds.
    Thresholds,
    /// Maintenance windows.
    Windows,
    /// Highest autonomy.
    Autonomy,
    /// Time between TERM and KILL.
    StopGrace,
}

impl Field {
    /// Every field, in the order of the specification.
    pub const ALL: [Self; 14] = [
        Self::Runtime,
        Self::Source,
        Self::WorkingDir,
        Self::MinInstances,
        Self::MaxInstances,
        Self::DesiredInstances,
        Self::Listen,
        Self::Health,
        Self::Environment,
        Self::Labels,
        Self::Thresholds,
        Self::Windows,
        Self::Autonomy,
        Self::StopGrace,
    ];
}

impl OnboardRequest {
    /// The request that would lead to `spec`.
    #[must_use]
    pub fn of(spec: &AppSpec) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "every threshold is far below 2^53")]
        let natural = |micro: i64| micro as f64 / MICRO as f64;
        let thresholds = spec.thresholds.iter();
        Self {
            name: spec.name.to_string(),
            env: spec.env.as_str().to_owned(),
            runtime: spec.runtime.as_str().to_owned(),
            source: match &spec.source {
                Source::Exec { path, args } => {
                    RequestedSource::Exec { path: path.clone(), args: args.clone() }
                }
                Source::Repo { url, revision } => {
                    RequestedSource::Repo { url: url.clone(), revision: revision.clone() }
                }
            },
            working_dir: spec.working_dir.clone(),
            min_instances: Some(spec.instances.min),
            max_instances: Some(spec.instances.max),
            desired_instances: Some(spec.instances.desired),
            listen: spec.listen.clone(),
            health: spec.health.as_ref().map(|health| RequestedHealth {
                probe: health.probe.clone(),
                interval_ms: Some(health.interval_ms),
                timeout_ms: Some(health.timeout_ms),
            }),
            environment: spec.environment.clone(),
            labels: spec.labels.clone(),
            thresholds: thresholds
                .map(|(metric, own)| {
                    (metric.as_str().to_owned(), (natural(own.enter), natural(own.leave)))
                })
                .collect(),
            windows: spec
                .windows
                .iter()
                .map(|window| RequestedWindow {
                    name: window.name.clone(),
                    start: window.start.clone(),
                    end: window.end.clone(),
                    every_ms: window.every_ms,
                })
                .collect(),
            autonomy: spec.autonomy.map(|level| level.as_str().to_owned()),
            stop_grace_ms: Some(spec.stop_grace_ms),
        }
    }

    /// The same with `fields` as in `asked`. A health question that means the app's own address follows that address.
    #[must_use]
    pub fn with(mut self, asked: &Self, fields: &BTreeSet<Field>) -> Self {
        let before = self.listen.clone();
        for field in fields {
            self.take(asked, *field);
        }
        if self.listen != before && !fields.contains(&Field::Health) {
            self.follow(before.as_deref());
        }
        self
    }

    fn take(&mut self, asked: &Self, field: Field) {
        match field {
            Field::Runtime => self.runtime.clone_from(&asked.runtime),
            Field::Source => self.source.clone_from(&asked.source),
            Field::WorkingDir => self.working_dir.clone_from(&asked.working_dir),
            Field::MinInstances => self.min_instances = asked.min_instances,
            Field::MaxInstances => self.max_instances = asked.max_instances,
            Field::DesiredInstances => self.desired_instances = asked.desired_instances,
            Field::Listen => self.listen.clone_from(&asked.listen),
            Field::Health => self.health.clone_from(&asked.health),
            Field::Environment => self.environment.clone_from(&asked.environment),
            Field::Labels => self.labels.clone_from(&asked.labels),
            Field::Thresholds => self.thresholds.clone_from(&asked.thresholds),
            Field::Windows => self.windows.clone_from(&asked.windows),
            Field::Autonomy => self.autonomy.clone_from(&asked.autonomy),
            Field::StopGrace => self.stop_grace_ms = asked.stop_grace_ms,
        }
    }

    /// A question about the old address of the app becomes one about its new address.
    fn follow(&mut self, before: Option<&str>) {
        let (Some(before), Some(health)) = (before, &mut self.health) else { return };
        match &mut health.probe {
            Probe::Http { url } => {
                let own = format!("http://{before}");
                if let Some(path) = url.strip_prefix(&own).filter(|path| path.starts_with('/')) {
                    *url = path.to_owned();
                }
            }
            Probe::Tcp { address } | Probe::Grpc { address, .. } => {
                if address == before {
                    address.clear();
                }
            }
        }
    }
}

impl AppSpec {
    /// Whether `other` runs the same processes in the same way: what differs, if anything, is a setting that can be put in force
    /// without touching one of them.
    #[must_use]
    pub fn runs_like(&self, other: &Self) -> bool {
        let running = |spec: &Self| Self {
            instances: self.instances,
            labels: self.labels.clone(),
            thresholds: self.thresholds.clone(),
            windows: self.windows.clone(),
            autonomy: self.autonomy,
            stop_grace_ms: self.stop_grace_ms,
            ..spec.clone()
        };
        *self == running(other) && self.instances.desired == other.instances.desired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{Env, validate};
    use crate::policy::Fetch;

    fn spec() -> AppSpec {
        let asked = OnboardRequest {
            name: "web".to_owned(),
            env: "stage".to_owned(),
            runtime: "binary".to_owned(),
            source: RequestedSource::Exec { path: "/bin/web".to_owned(), args: vec!["-v".into()] },
            listen: Some("127.0.0.1:8080".to_owned()),
            health: Some(RequestedHealth {
                probe: Probe::Http { url: "/healthz".to_owned() },
                interval_ms: None,
                timeout_ms: None,
            }),
            thresholds: [("cpu_utilization".to_owned(), (0.83, 0.61))].into(),
            labels: [("team".to_owned(), "shop".to_owned())].into(),
            autonomy: Some("PROPOSE".to_owned()),
            windows: vec![RequestedWindow {
                name: "night".to_owned(),
                start: "2026-01-01T01:00:00+01:00".to_owned(),
                end: Some("2026-01-01T02:00:00+01:00".to_owned()),
                every_ms: Some(86_400_000),
            }],
            ..OnboardRequest::default()
        };
        validate(Env::Stage, &Fetch::default(), &asked, false).unwrap()
    }

    #[test]
    fn nothing_is_lost_on_the_way_from_a_specification_to_a_request_and_back() {
        let spec = spec();
        assert_eq!(
            validate(Env::Stage, &Fetch::default(), &OnboardRequest::of(&spec), false),
            Ok(spec)
        );
    }

    #[test]
    fn only_the_named_fields_are_replaced() {
        let spec = spec();
        let nothing = OnboardRequest::default();
        for field in Field::ALL {
            let changed = OnboardRequest::of(&spec).with(&nothing, &[field].into());
            // A question about the own address follows that address; this has a test of its own.
            let follows = (field == Field::Listen).then_some(Field::Health);
            for other in Field::ALL.into_iter().filter(|o| *o != field && Some(*o) != follows) {
                let mut same = OnboardRequest::of(&spec);
                same.take(&changed, other);
                assert_eq!(same, OnboardRequest::of(&spec), "{field:?} changed {other:?}");
            }
            let mut blank = OnboardRequest::default();
            blank.take(&changed, field);
            assert_eq!(blank, nothing, "{field:?} is replaced");
        }
    }

    #[test]
    fn settings_leave_the_processes_alone_and_everything_else_does_not() {
        use Field as F;
        let spec = spec();
        let other = OnboardRequest {
            source: RequestedSource::Exec { path: "/bin/other".to_owned(), args: vec![] },
            runtime: "go".to_owned(),
            working_dir: Some("/srv".to_owned()),
            min_instances: Some(1),
            max_instances: Some(9),
            desired_instances: Some(3),
            listen: Some("127.0.0.1:9090".to_owned()),
            environment: [("A".to_owned(), "b".to_owned())].into(),
            stop_grace_ms: Some(9),
            ..OnboardRequest::default()
        };
        let settings =
            [F::MinInstances, F::MaxInstances, F::Labels, F::Thresholds, F::Windows, F::Autonomy];
        let settings = settings.into_iter().chain([F::StopGrace]);
        for field in settings.clone() {
            let asked = OnboardRequest::of(&spec).with(&other, &[field].into());
            let changed = validate(Env::Stage, &Fetch::default(), &asked, false).unwrap();
            assert!(spec.runs_like(&changed), "{field:?}");
        }
        for field in F::ALL.into_iter().filter(|field| !settings.clone().any(|s| s == *field)) {
            let mut fields = BTreeSet::from([field]);
            fields.extend((field == F::DesiredInstances).then_some(F::MaxInstances));
            let asked = OnboardRequest::of(&spec).with(&other, &fields);
            let changed = validate(Env::Stage, &Fetch::default(), &asked, false).unwrap();
            assert!(!spec.runs_like(&changed), "{field:?}");
        }
    }

    #[test]
    fn a_health_question_about_the_own_address_follows_it() {
        let spec = spec();
        let other =
            OnboardRequest { listen: Some("127.0.0.1:9090".to_owned()), ..Default::default() };
        let asked = OnboardRequest::of(&spec).with(&other, &[Field::Listen].into());
        let moved = validate(Env::Stage, &Fetch::default(), &asked, false).unwrap();
        let url = "http://127.0.0.1:9090/healthz".to_owned();
        assert_eq!(moved.health.unwrap().probe, Probe::Http { url });
    }
}

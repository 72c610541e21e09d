//! Apps.

use std::collections::BTreeMap;

use agentctl_api::v1;
use serde::Serialize;

use super::decision::{DecisionSummaryView, DecisionView, FindingView};
use super::some;
use crate::time;

/// An onboarded application.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct AppView {
    pub name: String,
    pub environment: String,
    pub runtime: String,
    pub health: String,
    pub revision: String,
    pub spec_digest: String,
    pub desired_instances: u32,
    pub ready_instances: u32,
    pub min_instances: u32,
    pub max_instances: u32,
    pub autonomy_level: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    pub instances: Vec<InstanceView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reading: Option<ReadingView>,
    pub findings: Vec<FindingView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<DecisionSummaryView>,
    pub cooldowns: Vec<CooldownView>,
    pub pending_approvals: u32,
    pub labels: BTreeMap<String, String>,
    pub create_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability: Option<f64>,
    pub etag: String,
}

impl From<&v1::App> for AppView {
    fn from(a: &v1::App) -> Self {
        Self {
            name: a.name.clone(),
            environment: a.environment.clone(),
            runtime: a.runtime.clone(),
            health: super::app_health(a.health),
            revision: a.revision.clone(),
            spec_digest: a.spec_digest.clone(),
            desired_instances: a.desired_instances,
            ready_instances: a.ready_instances,
            min_instances: a.min_instances,
            max_instances: a.max_instances,
            autonomy_level: super::autonomy_level(a.autonomy_level),
            listen: some(&a.listen),
            instances: a.instances.iter().map(Into::into).collect(),
            reading: a.reading.as_ref().map(Into::into),
            findings: a.findings.iter().map(Into::into).collect(),
            last_decision: a.last_decision.as_ref().map(Into::into),
            cooldowns: a.cooldowns.iter().map(Into::into).collect(),
            pending_approvals: a.pending_approvals,
            labels: a.labels.clone(),
            create_time: time::json(a.create_time.as_ref()),
            availability: a.availability,
            etag: a.etag.clone(),
        }
    }
}

/// One process of an app.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct InstanceView {
    pub index: u32,
    pub state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_time: Option<String>,
    pub restart_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_utilization: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_utilization: Option<f64>,
    pub revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl From<&v1::Instance> for InstanceView {
    fn from(i: &v1::Instance) -> Self {
        Self {
            index: i.index,
            state: super::instance_state(i.state),
            pid: (i.pid != 0).then_some(i.pid),
            start_time: time::json(i.start_time.as_ref()),
            ready_time: time::json(i.ready_time.as_ref()),
            restart_count: i.restart_count,
            last_exit: i.last_exit.as_ref().map(super::exit_text),
            cpu_utilization: i.cpu_utilization,
            memory_utilization: i.memory_utilization,
            revision: i.revision.clone(),
            address: some(&i.address),
        }
    }
}

/// The newest readings of an app.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct ReadingView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_utilization: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_utilization: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p50_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p99_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    pub source: String,
    pub stale: bool,
}

impl From<&v1::AppReading> for ReadingView {
    fn from(r: &v1::AppReading) -> Self {
        Self {
            cpu_utilization: r.cpu_utilization,
            memory_utilization: r.memory_utilization,
            latency_p50_seconds: r.latency_p50_seconds,
            latency_p99_seconds: r.latency_p99_seconds,
            error_ratio: r.error_ratio,
            request_rate: r.request_rate,
            age_seconds: time::seconds(r.age.as_ref()),
            source: r.source.clone(),
            stale: r.stale,
        }
    }
}

/// A cooldown that still runs.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct CooldownView {
    pub action: String,
    pub clear_time: Option<String>,
}

impl From<&v1::Cooldown> for CooldownView {
    fn from(c: &v1::Cooldown) -> Self {
        Self { action: c.action.clone(), clear_time: time::json(c.clear_time.as_ref()) }
    }
}

/// What came of an onboarding.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct OnboardingView {
    /// `ONBOARDING ACCEPTED`, `ONBOARDING HELD`, `ONBOARDING REFUSED` or `ONBOARDING VALID`.
    pub result: &'static str,
    pub app: Option<AppView>,
    pub spec: Option<serde_json::Value>,
    pub spec_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionView>,
    pub events: Vec<AcceptedEventView>,
}

/// A record that was made for the request.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct AcceptedEventView {
    pub seq: u64,
    pub event: String,
    pub time: Option<String>,
}

impl From<&v1::AcceptedEvent> for AcceptedEventView {
    fn from(e: &v1::AcceptedEvent) -> Self {
        Self { seq: e.seq, event: e.event.clone(), time: time::json(e.time.as_ref()) }
    }
}

/// An app with its specification.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct AppDetailView {
    #[serde(flatten)]
    pub app: AppView,
    pub spec: Option<serde_json::Value>,
}

/// What came of an update.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct UpdateView {
    /// `UPDATED`, `UNCHANGED`, `UPDATE HELD`, `UPDATE REFUSED` or `UPDATE VALID`.
    pub result: &'static str,
    pub app: Option<AppView>,
    pub spec: Option<serde_json::Value>,
    pub spec_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionView>,
    pub events: Vec<AcceptedEventView>,
}

/// One thing that was done to an app.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct AppChangeView {
    pub seq: u64,
    pub time: Option<String>,
    pub event: String,
    pub actor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec_digest: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    pub summary: String,
}

impl From<&v1::AppChange> for AppChangeView {
    fn from(c: &v1::AppChange) -> Self {
        Self {
            seq: c.seq,
            time: time::json(c.time.as_ref()),
            event: c.event.clone(),
            actor: c.actor.clone(),
            revision: some(&c.revision),
            spec_digest: some(&c.spec_digest),
            fields: c.fields.clone(),
            decision_id: some(&c.decision_id),
            summary: c.summary.clone(),
        }
    }
}

/// The case for leaving one action on one app to the agent.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct GraduationView {
    pub action: String,
    pub level: String,
    pub answered: u32,
    pub agreed: u32,
    pub unproven: u32,
    pub differed: u32,
    pub unneeded: u32,
    pub held: u32,
    pub failed: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub demote_time: Option<String>,
    pub conditions: Vec<GraduationConditionView>,
    pub ready: bool,
}

/// One condition of graduation.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct GraduationConditionView {
    pub what: String,
    pub value: String,
    pub limit: String,
    pub met: bool,
}

impl From<&v1::ActionGraduation> for GraduationView {
    fn from(a: &v1::ActionGraduation) -> Self {
        let condition = |c: &v1::GraduationCondition| GraduationConditionView {
            what: c.what.clone(),
            value: c.value.clone(),
            limit: c.limit.clone(),
            met: c.met,
        };
        Self {
            action: a.action.clone(),
            level: super::autonomy_level(a.level),
            answered: a.answered,
            agreed: a.agreed,
            unproven: a.unproven,
            differed: a.differed,
            unneeded: a.unneeded,
            held: a.held,
            failed: a.failed,
            demote_time: time::json(a.demote_time.as_ref()),
            conditions: a.conditions.iter().map(condition).collect(),
            ready: a.ready,
        }
    }
}

/// Two specifications, and where they differ.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are documented by their names")]
pub struct SpecDiffView {
    pub app: String,
    pub differences: Vec<SpecDifferenceView>,
}

/// One place in which two specifications differ.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are documented by their names")]
pub struct SpecDifferenceView {
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<serde_json::Value>,
}

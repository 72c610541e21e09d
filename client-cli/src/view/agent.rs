//! The agent, its modes, gates and policy.

use std::collections::BTreeMap;

use agentctl_api::v1;
use serde::Serialize;

use super::app::AppView;
use super::decision::DecisionSummaryView;
use super::some;
use crate::time;

/// Everything about the agent at one moment.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct StatusView {
    pub agent_id: String,
    pub environment: String,
    pub version: String,
    pub state: String,
    pub time: Option<String>,
    pub start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<f64>,
    pub loop_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loop_interval_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<DecisionSummaryView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_decision_app: Option<String>,
    pub state_counts: BTreeMap<String, u64>,
    pub ruling_counts: BTreeMap<String, u64>,
    pub modes: Vec<ModeView>,
    pub apps: Vec<AppView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalView>,
    pub limit_hits: BTreeMap<String, u64>,
    pub policy_digest: String,
    pub pending_approvals: u32,
    pub components: Vec<ComponentView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_signal_time: Option<String>,
    pub monitors: u32,
    pub watchers: u32,
    pub storm: bool,
}

impl From<&v1::AgentStatus> for StatusView {
    fn from(s: &v1::AgentStatus) -> Self {
        Self {
            agent_id: s.agent_id.clone(),
            environment: s.environment.clone(),
            version: s.version.clone(),
            state: super::agent_state(s.state),
            time: time::json(s.time.as_ref()),
            start_time: time::json(s.start_time.as_ref()),
            uptime_seconds: time::seconds(s.uptime.as_ref()),
            loop_count: s.loop_count,
            loop_interval_seconds: time::seconds(s.loop_interval.as_ref()),
            last_decision: s.last_decision.as_ref().map(Into::into),
            last_decision_app: some(&s.last_decision_app),
            state_counts: s.state_counts.clone(),
            ruling_counts: s.ruling_counts.clone(),
            modes: s.modes.iter().map(Into::into).collect(),
            apps: s.apps.iter().map(Into::into).collect(),
            journal: s.journal.as_ref().map(Into::into),
            limit_hits: s.limit_hits.clone(),
            policy_digest: s.policy_digest.clone(),
            pending_approvals: s.pending_approvals,
            components: s.components.iter().map(Into::into).collect(),
            last_signal_time: time::json(s.last_signal_time.as_ref()),
            monitors: s.monitors,
            watchers: s.watchers,
            storm: s.storm,
        }
    }
}

/// The proof log in figures.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct JournalView {
    pub state: String,
    pub log_id: String,
    pub head_seq: u64,
    pub oldest_seq: u64,
    pub head_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub size_bytes: u64,
}

impl From<&v1::JournalStatus> for JournalView {
    fn from(j: &v1::JournalStatus) -> Self {
        Self {
            state: super::journal_state(j.state),
            log_id: j.log_id.clone(),
            head_seq: j.head_seq,
            oldest_seq: j.oldest_seq,
            head_hash: j.head_hash.clone(),
            detail: some(&j.detail),
            size_bytes: j.size_bytes,
        }
    }
}

/// A part of the server that does one job.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct ComponentView {
    pub name: String,
    pub healthy: bool,
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_active_time: Option<String>,
}

impl From<&v1::Component> for ComponentView {
    fn from(c: &v1::Component) -> Self {
        Self {
            name: c.name.clone(),
            healthy: c.healthy,
            detail: c.detail.clone(),
            last_active_time: time::json(c.last_active_time.as_ref()),
        }
    }
}

/// A restriction in force.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct ModeView {
    pub kind: String,
    /// `environment`, `app NAME` or `action NAME`.
    pub scope: String,
    pub reason: String,
    pub set_by: String,
    pub set_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<String>,
}

impl From<&v1::Mode> for ModeView {
    fn from(m: &v1::Mode) -> Self {
        Self {
            kind: super::mode_kind(m.kind),
            scope: scope_text(m.scope.as_ref()),
            reason: m.reason.clone(),
            set_by: m.set_by.clone(),
            set_time: time::json(m.set_time.as_ref()),
            expire_time: time::json(m.expire_time.as_ref()),
        }
    }
}

/// What a pause covers, in words.
#[must_use]
pub fn scope_text(scope: Option<&v1::Scope>) -> String {
    match scope.and_then(|scope| scope.target.as_ref()) {
        Some(v1::scope::Target::App(app)) => format!("app {app}"),
        Some(v1::scope::Target::Action(action)) => format!("action {action}"),
        Some(v1::scope::Target::Environment(_)) | None => "environment".to_owned(),
    }
}

/// What `pause`, `resume`, `freeze` and `unfreeze` changed.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct ModeChangeView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ModeView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lifted: Vec<ModeView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remaining: Vec<ModeView>,
    pub seq: u64,
}

/// One gate of the catalogue.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct GateView {
    pub id: String,
    pub group: String,
    pub summary: String,
    pub reasons: Vec<ReasonView>,
}

impl From<&v1::Gate> for GateView {
    fn from(g: &v1::Gate) -> Self {
        Self {
            id: g.id.clone(),
            group: super::gate_group(g.group),
            summary: g.summary.clone(),
            reasons: g.reasons.iter().map(Into::into).collect(),
        }
    }
}

/// A reason code and what to do about it.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct ReasonView {
    pub code: String,
    pub what: String,
    pub why: String,
    pub remedy: String,
}

impl From<&v1::ReasonInfo> for ReasonView {
    fn from(r: &v1::ReasonInfo) -> Self {
        Self {
            code: r.code.clone(),
            what: r.what.clone(),
            why: r.why.clone(),
            remedy: r.remedy.clone(),
        }
    }
}

impl From<agentd_core::reason::page::Page> for ReasonView {
    fn from(page: agentd_core::reason::page::Page) -> Self {
        Self {
            code: page.code().to_owned(),
            what: page.what(),
            why: page.why(),
            remedy: page.todo().join(" "),
        }
    }
}

/// The rules in force.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct PolicyView {
    pub digest: String,
    pub origin: String,
    pub format: String,
    pub text: String,
}

impl From<&v1::GetPolicyResponse> for PolicyView {
    fn from(p: &v1::GetPolicyResponse) -> Self {
        Self {
            digest: p.digest.clone(),
            origin: p.origin.clone(),
            format: p.format.clone(),
            text: p.text.clone(),
        }
    }
}

/// What came of a check, a change or a difference of policies.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct PolicyChangeView {
    pub digest: String,
    pub previous_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub faults: Vec<PolicyFaultView>,
    pub differences: Vec<PolicyDifferenceView>,
}

/// One thing that is wrong with a policy.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct PolicyFaultView {
    pub field: String,
    pub value: String,
    pub rule: String,
    pub fix: String,
}

impl From<&v1::PolicyFault> for PolicyFaultView {
    fn from(f: &v1::PolicyFault) -> Self {
        let v1::PolicyFault { field, value, rule, fix } = f.clone();
        Self { field, value, rule, fix }
    }
}

/// One setting in which two policies differ.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct PolicyDifferenceView {
    pub setting: String,
    pub from_value: String,
    pub to_value: String,
}

impl From<&v1::PolicyDifference> for PolicyDifferenceView {
    fn from(d: &v1::PolicyDifference) -> Self {
        let v1::PolicyDifference { setting, from_value, to_value } = d.clone();
        Self { setting, from_value, to_value }
    }
}

/// What other rules would have changed.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct SimulationView {
    pub judged: u32,
    pub skipped: u32,
    pub truncated: bool,
    pub differences: Vec<SimulatedDecisionView>,
    pub faults: Vec<PolicyFaultView>,
}

/// A decision that would have come out differently.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct SimulatedDecisionView {
    pub decision_id: String,
    pub time: Option<String>,
    pub app: String,
    pub action: String,
    pub ruling: String,
    pub reason: String,
    pub new_action: String,
    pub new_ruling: String,
    pub new_reason: String,
    pub gates: Vec<String>,
}

impl From<&v1::SimulatedDecision> for SimulatedDecisionView {
    fn from(d: &v1::SimulatedDecision) -> Self {
        Self {
            decision_id: d.decision_id.clone(),
            time: time::json(d.time.as_ref()),
            app: d.app.clone(),
            action: d.action.clone(),
            ruling: super::ruling(d.ruling),
            reason: d.reason.clone(),
            new_action: d.new_action.clone(),
            new_ruling: super::ruling(d.new_ruling),
            new_reason: d.new_reason.clone(),
            gates: d.gates.clone(),
        }
    }
}

//! Decisions and explanations.

use std::collections::BTreeMap;

use agentctl_api::v1;
use serde::Serialize;

use super::some;
use crate::time;

/// A decision.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct DecisionView {
    pub id: String,
    pub seq: u64,
    pub time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    pub environment: String,
    pub source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    pub action: String,
    pub effective_action: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    pub ruling: String,
    pub reason: String,
    pub blocked_by: Vec<String>,
    pub confidence: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_resolve: Option<ResolutionView>,
    pub exploratory: bool,
    pub shadow: bool,
    pub summary: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<FindingView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<CandidateView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<VerdictView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_id: Option<String>,
    pub policy_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OutcomeView>,
    pub repeat_count: u64,
    pub cause_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

impl From<&v1::Decision> for DecisionView {
    fn from(d: &v1::Decision) -> Self {
        Self {
            id: d.id.clone(),
            seq: d.seq,
            time: time::json(d.time.as_ref()),
            app: some(&d.app),
            environment: d.environment.clone(),
            source: super::decision_source(d.source),
            requested_by: some(&d.requested_by),
            action: d.action.clone(),
            effective_action: d.effective_action.clone(),
            parameters: d.parameters.clone(),
            ruling: super::ruling(d.ruling),
            reason: d.reason.clone(),
            blocked_by: d.blocked_by.clone(),
            confidence: d.confidence,
            p_resolve: d.p_resolve.as_ref().map(Into::into),
            exploratory: d.exploratory,
            shadow: d.shadow,
            summary: d.summary.clone(),
            findings: d.findings.iter().map(Into::into).collect(),
            candidates: d.candidates.iter().map(Into::into).collect(),
            verdicts: d.verdicts.iter().map(Into::into).collect(),
            plan: d.plan.as_ref().map(Into::into),
            approval_id: some(&d.approval_id),
            policy_digest: d.policy_digest.clone(),
            attempt: d.attempt.as_ref().map(Into::into),
            outcome: d.outcome.as_ref().map(Into::into),
            repeat_count: d.repeat_count,
            cause_seq: d.cause_seq,
            trace_id: some(&d.trace_id),
        }
    }
}

/// Something a detector noticed.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct FindingView {
    pub detector: String,
    pub app: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
    pub value: String,
    pub threshold: String,
    pub since: Option<String>,
    pub summary: String,
}

impl From<&v1::Finding> for FindingView {
    fn from(f: &v1::Finding) -> Self {
        Self {
            detector: f.detector.clone(),
            app: f.app.clone(),
            instance: f.instance,
            value: f.value.clone(),
            threshold: f.threshold.clone(),
            since: time::json(f.since_time.as_ref()),
            summary: f.summary.clone(),
        }
    }
}

/// How likely an action ends the incident, with the 90 % interval of that.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct ResolutionView {
    pub chance: f64,
    pub low: f64,
    pub high: f64,
}

impl From<&v1::Resolution> for ResolutionView {
    fn from(resolution: &v1::Resolution) -> Self {
        let v1::Resolution { chance, low, high } = *resolution;
        Self { chance, low, high }
    }
}

/// An action that was weighed.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct CandidateView {
    pub action: String,
    pub value: f64,
    pub confidence: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_resolve: Option<ResolutionView>,
    pub probability: f64,
    pub chosen: bool,
    pub origin: String,
    pub summary: String,
}

impl From<&v1::Candidate> for CandidateView {
    fn from(c: &v1::Candidate) -> Self {
        Self {
            action: c.action.clone(),
            value: c.value,
            confidence: c.confidence,
            p_resolve: c.p_resolve.as_ref().map(Into::into),
            probability: c.probability,
            chosen: c.chosen,
            origin: c.origin.clone(),
            summary: c.summary.clone(),
        }
    }
}

/// What one gate said.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct VerdictView {
    pub gate: String,
    pub group: String,
    pub effect: String,
    pub reason: String,
    pub value: String,
    pub limit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clear_time: Option<String>,
    pub self_imposed: bool,
    pub summary: String,
}

impl From<&v1::Verdict> for VerdictView {
    fn from(v: &v1::Verdict) -> Self {
        Self {
            gate: v.gate.clone(),
            group: super::gate_group(v.group),
            effect: super::gate_effect(v.effect),
            reason: v.reason.clone(),
            value: v.value.clone(),
            limit: v.limit.clone(),
            clear_time: time::json(v.clear_time.as_ref()),
            self_imposed: v.self_imposed,
            summary: v.summary.clone(),
        }
    }
}

/// What would be done, exactly.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct PlanView {
    pub action: String,
    pub app: String,
    pub parameters: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_revision: Option<String>,
    pub targets: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inverse_action: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<f64>,
    pub risk: String,
    pub digest: String,
}

impl From<&v1::Plan> for PlanView {
    fn from(p: &v1::Plan) -> Self {
        Self {
            action: p.action.clone(),
            app: p.app.clone(),
            parameters: p.parameters.clone(),
            from_revision: some(&p.from_revision),
            to_revision: some(&p.to_revision),
            targets: p.targets.clone(),
            inverse_action: some(&p.inverse_action),
            deadline_seconds: time::seconds(p.deadline.as_ref()),
            risk: p.risk.clone(),
            digest: p.digest.clone(),
        }
    }
}

/// An action on its way or done.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct AttemptView {
    pub id: String,
    pub start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    pub delivered: bool,
    pub summary: String,
}

impl From<&v1::Attempt> for AttemptView {
    fn from(a: &v1::Attempt) -> Self {
        Self {
            id: a.id.clone(),
            start_time: time::json(a.start_time.as_ref()),
            end_time: time::json(a.end_time.as_ref()),
            delivered: a.delivered,
            summary: a.summary.clone(),
        }
    }
}

/// What was observed afterwards.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct OutcomeView {
    pub kind: String,
    pub time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_seconds: Option<f64>,
    pub summary: String,
}

impl From<&v1::Outcome> for OutcomeView {
    fn from(o: &v1::Outcome) -> Self {
        Self {
            kind: super::outcome_kind(o.kind),
            time: time::json(o.time.as_ref()),
            recovery_seconds: time::seconds(o.recovery_time.as_ref()),
            summary: o.summary.clone(),
        }
    }
}

/// A decision taken apart.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct ExplanationView {
    pub decision: Option<DecisionView>,
    pub saw: Vec<EvidenceView>,
    pub sentences: Vec<String>,
    pub nearest_changes: Vec<NearestChangeView>,
    pub choice_mode: String,
    pub record_hash: String,
    pub rechecked: bool,
}

impl From<&v1::Explanation> for ExplanationView {
    fn from(e: &v1::Explanation) -> Self {
        Self {
            decision: e.decision.as_ref().map(Into::into),
            saw: e.saw.iter().map(Into::into).collect(),
            sentences: e.sentences.clone(),
            nearest_changes: e.nearest_changes.iter().map(Into::into).collect(),
            choice_mode: e.choice_mode.clone(),
            record_hash: e.record_hash.clone(),
            rechecked: e.rechecked,
        }
    }
}

/// One piece of evidence.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct EvidenceView {
    pub name: String,
    pub value: String,
    pub source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
}

impl From<&v1::Evidence> for EvidenceView {
    fn from(e: &v1::Evidence) -> Self {
        Self {
            name: e.name.clone(),
            value: e.value.clone(),
            source: e.source.clone(),
            age_seconds: time::seconds(e.age.as_ref()),
        }
    }
}

/// The smallest change that would have changed the ruling.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct NearestChangeView {
    pub gate: String,
    pub setting: String,
    pub from_value: String,
    pub to_value: String,
    pub ruling: String,
    pub summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    pub together: bool,
}

impl From<&v1::NearestChange> for NearestChangeView {
    fn from(n: &v1::NearestChange) -> Self {
        Self {
            gate: n.gate.clone(),
            setting: n.setting.clone(),
            from_value: n.from_value.clone(),
            to_value: n.to_value.clone(),
            ruling: super::ruling(n.ruling),
            summary: n.summary.clone(),
            command: some(&n.command),
            together: n.together,
        }
    }
}

/// One line about a decision.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the API, documented there")]
pub struct DecisionSummaryView {
    pub id: String,
    pub time: Option<String>,
    pub action: String,
    pub ruling: String,
    pub reason: String,
    pub outcome: String,
}

impl From<&v1::DecisionSummary> for DecisionSummaryView {
    fn from(d: &v1::DecisionSummary) -> Self {
        Self {
            id: d.id.clone(),
            time: time::json(d.time.as_ref()),
            action: d.action.clone(),
            ruling: super::ruling(d.ruling),
            reason: d.reason.clone(),
            outcome: super::outcome_kind(d.outcome),
        }
    }
}

//! Decisions on the wire: what the record says, and what became of it where that is known.

use std::sync::Arc;

use agentctl_api::v1;
use agentd_core::action::{Action, Requested};
use agentd_core::app::{Env, Millis};
use agentd_core::choose::{Candidate, Proposal, Resolves, Source};
use agentd_core::explain;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Concluded, Decided, GATES_PASSED, Record};
use agentd_core::state::{Outcome, Remembered};
use agentd_core::verdict::{Effect, Fact, Ruling};

use super::{fact, measured, outcome, ruling, timestamp};
use crate::grpc::ids;
use crate::publish::Published;

/// A decision, if the record is one.
#[must_use]
pub fn decision(record: &Record) -> Option<v1::Decision> {
    let decided = record.decision()?;
    let cause = record.cause.unwrap_or(0);
    let subject = Subject { seq: Some(record.seq), env: record.env, cause };
    let trace_id = record.trace.clone().unwrap_or_default();
    Some(v1::Decision { trace_id, ..judged(decided, &subject) })
}

/// What a decision does not say about itself.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Sequence number of its record; `None` when it was only judged.
    pub seq: Option<u64>,
    /// The environment.
    pub env: Env,
    /// The record that caused it; 0: none.
    pub cause: u64,
}

/// A decision from its content.
#[must_use]
pub fn judged(decided: &Decided, subject: &Subject) -> v1::Decision {
    let Decided { proposal, verdicts, app, around, .. } = decided;
    let explained = explain::decision(decided);
    let blocked = verdicts.iter().filter(|v| v.effect != Effect::Pass);
    let instances = app.desired;
    let plan = proposal.plan.as_ref();
    v1::Decision {
        id: subject.seq.map(ids::decision).unwrap_or_default(),
        seq: subject.seq.unwrap_or(0),
        time: Some(timestamp(decided.now)),
        app: app.profile.name.to_string(),
        environment: subject.env.as_str().to_owned(),
        source: source(&proposal.source).into(),
        requested_by: requested_by(&proposal.source).to_owned(),
        action: action_name(proposal),
        effective_action: effective(decided).as_str().to_owned(),
        parameters: plan.map(|p| super::parameters(&p.operation)).unwrap_or_default(),
        ruling: ruling(&decided.ruling).into(),
        reason: decided.ruling.reason_code().to_owned(),
        blocked_by: blocked.filter_map(|v| v.reason).map(|r| r.as_str().to_owned()).collect(),
        confidence: super::share(proposal.confidence),
        exploratory: proposal.explored,
        summary: explained.headline,
        findings: findings_of(decided),
        candidates: candidates(proposal, &explained.weighed),
        verdicts: verdicts.iter().map(|v| super::verdict(v, proposal.action)).collect(),
        plan: plan.map(|plan| super::plan(plan, &decided.policy_digest, instances, None)),
        approval_id: proposal.grant.as_ref().map(|g| ids::approval(g.approval)).unwrap_or_default(),
        policy_digest: ids::digest(&decided.policy_digest),
        attempt: None,
        outcome: None,
        repeat_count: 0,
        cause_seq: subject.cause,
        shadow: around.dry_run || is_shadow(decided),
        trace_id: String::new(),
        p_resolve: chosen_resolution(proposal),
    }
}

/// A decision without what takes most room: candidates and verdicts.
#[must_use]
pub fn summarized(mut decision: v1::Decision) -> v1::Decision {
    decision.candidates.clear();
    decision.verdicts.clear();
    decision
}

/// One line about a decision, if the record is one.
#[must_use]
pub fn decision_summary(record: &Record, known: Option<Outcome>) -> Option<v1::DecisionSummary> {
    let decided = record.decision()?;
    let kind = known.map_or(v1::OutcomeKind::Unspecified, outcome);
    Some(v1::DecisionSummary {
        id: ids::decision(record.seq),
        time: Some(timestamp(record.at)),
        action: action_name(&decided.proposal),
        ruling: ruling(&decided.ruling).into(),
        reason: decided.ruling.reason_code().to_owned(),
        outcome: kind.into(),
    })
}

const fn source(source: &Source) -> v1::DecisionSource {
    match source {
        Source::Agent => v1::DecisionSource::Agent,
        Source::Human { .. } => v1::DecisionSource::Human,
        Source::Other { .. } => v1::DecisionSource::Unspecified,
    }
}

fn requested_by(source: &Source) -> &str {
    match source {
        Source::Agent => "",
        Source::Human { principal, .. } | Source::Other { principal } => principal,
    }
}

/// The action as it is called; a name that is never an action stays what it was.
fn action_name(proposal: &Proposal) -> String {
    match proposal.requested_as.as_deref().map(agentd_core::action::parse) {
        Some(Requested::Unsafe(name)) => name.to_owned(),
        _ => proposal.action.as_str().to_owned(),
    }
}

const fn effective(decided: &Decided) -> Action {
    match decided.ruling {
        Ruling::Permitted | Ruling::Held { .. } => decided.proposal.action,
        Ruling::Refused { instead, .. } => instead,
    }
}

/// Decided and, on purpose, not executed.
fn is_shadow(decided: &Decided) -> bool {
    let shadow = Fact::Level(agentd_core::action::Level::Shadow);
    decided.verdicts.iter().filter(|v| v.effect != Effect::Pass).any(|v| match v.reason {
        Some(Reason::Paused | Reason::Halted | Reason::DryRun) => true,
        Some(Reason::ActionEligibilityFailed) => v.value == shadow || v.limit == shadow,
        _ => false,
    })
}

/// What the detectors noticed.
#[must_use]
pub fn findings_of(decided: &Decided) -> Vec<v1::Finding> {
    let app = &decided.app;
    decided
        .findings
        .iter()
        .map(|finding| v1::Finding {
            detector: finding.kind.as_str().to_ascii_lowercase(),
            app: app.profile.name.to_string(),
            instance: None,
            value: measured(finding.metric, &finding.value),
            threshold: measured(finding.metric, &finding.limit),
            since_time: app.open.get(&finding.kind).map(|open| timestamp(open.since)),
            summary: explain::seen(decided, finding),
        })
        .collect()
}

fn candidates(proposal: &Proposal, weighed: &[String]) -> Vec<v1::Candidate> {
    // The order of the rule stands unless learned values replaced it.
    let chosen_rank = proposal.candidates.first().map_or(0, |c| c.rank);
    let by_value = !proposal.explored
        && proposal.candidates.iter().any(|c| c.trials > 0 && c.rank < chosen_rank);
    let origin = if by_value { "value" } else { "rule" };
    let all = proposal.candidates.iter().enumerate().zip(weighed);
    all.map(|((index, candidate), sentence)| {
        let Candidate { action, chance, value, .. } = *candidate;
        let chosen = index == 0;
        v1::Candidate {
            action: action.as_str().to_owned(),
            value: super::natural(value),
            confidence: super::share(chance),
            probability: if chosen { f64::from(proposal.propensity_ppm) / 1e6 } else { 0.0 },
            chosen,
            origin: origin.to_owned(),
            summary: sentence.clone(),
            p_resolve: candidate.resolves.map(resolution),
        }
    })
    .collect()
}

/// How likely the proposed action ends the incident, as far as the learner says.
fn chosen_resolution(proposal: &Proposal) -> Option<v1::Resolution> {
    let chosen = proposal.candidates.first().filter(|first| first.action == proposal.action)?;
    chosen.resolves.map(resolution)
}

fn resolution(resolves: Resolves) -> v1::Resolution {
    let Resolves { chance, low, high } = resolves;
    let [chance, low, high] = [chance, low, high].map(super::share);
    v1::Resolution { chance, low, high }
}

/// What the agent saw, source by source, with its age at the decision.
#[must_use]
pub fn evidence(decided: &Decided) -> Vec<v1::Evidence> {
    let age = |at: Millis| Some(super::duration(decided.now.saturating_sub(at)));
    let metrics = decided.reading.metrics.iter().flat_map(|(metric, series)| {
        series.sources.iter().map(move |(source, point)| v1::Evidence {
            name: metric.as_str().to_owned(),
            value: measured(Some(*metric), &Fact::Micro(point.micro)),
            source: source.clone(),
            age: age(point.at),
        })
    });
    let conditions = decided.reading.conditions.iter().map(|(name, condition)| v1::Evidence {
        name: name.clone(),
        value: fact(&Fact::Flag(condition.value)),
        source: condition.source.clone(),
        age: age(condition.at),
    });
    let instances = decided.app.instances.iter().map(|(slot, instance)| v1::Evidence {
        name: format!("instance {slot}"),
        value: super::app::phase_name(instance.phase).to_owned(),
        source: "actuator".to_owned(),
        age: age(instance.since),
    });
    metrics.chain(conditions).chain(instances).collect()
}

/// What became of a decision, gathered from the records that belong to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aftermath {
    approval: Option<u64>,
    started_at: Option<Millis>,
    delivered: Option<(Millis, bool, String)>,
    concluded: Option<(Millis, Concluded)>,
    repeats: u64,
    /// Number of the newest record that says any of it; 0 when none does.
    upto: u64,
}

impl Aftermath {
    /// What the records right behind decision `seq` say about it.
    #[must_use]
    pub fn ahead(seq: u64, ahead: &[Arc<Published>]) -> Self {
        let mut aftermath = Self::default();
        for published in ahead {
            aftermath.note(seq, &published.record);
        }
        aftermath
    }

    /// Takes in a record, if it belongs to decision `seq`. The order does not matter.
    pub fn note(&mut self, seq: u64, record: &Record) {
        let at = record.at;
        match &record.body {
            Body::Attempted(attempt) if attempt.decision == seq => {
                self.started_at = Some(attempt.started_at);
            }
            Body::ApprovalRequested(approval) if approval.decision == seq => {
                self.approval = Some(approval.seq);
            }
            Body::Delivered { decision, ok, detail, .. } if *decision == seq => {
                self.delivered = Some((at, *ok, detail.clone()));
            }
            Body::Concluded(concluded) if concluded.decision == seq => {
                self.concluded = Some((at, concluded.clone()));
            }
            Body::Repeated { decision, count } if *decision == seq => {
                self.repeats = self.repeats.saturating_add(*count);
            }
            _ => return,
        }
        self.upto = self.upto.max(record.seq);
    }

    /// Number of the newest record that says any of it; 0 when none does.
    #[must_use]
    pub const fn upto(&self) -> u64 {
        self.upto
    }

    /// Whether its end is known.
    #[must_use]
    pub const fn is_concluded(&self) -> bool {
        self.concluded.is_some()
    }

    /// Adds what is known to a decision.
    pub fn complete(self, decision: &mut v1::Decision) {
        let Self { approval, started_at, delivered, concluded, repeats, upto: _ } = self;
        if let Some(approval) = approval {
            decision.approval_id = ids::approval(approval);
        }
        let ended = delivered.as_ref().map(|(at, ..)| *at);
        let ended = ended.or(concluded.as_ref().map(|(at, _)| *at));
        if started_at.is_some() || ended.is_some() {
            let (delivered, summary) = match delivered {
                Some((_, ok, detail)) => (ok, detail),
                None => (false, String::new()),
            };
            decision.attempt = Some(v1::Attempt {
                id: ids::attempt(decision.seq),
                start_time: started_at.map(timestamp),
                end_time: ended.map(timestamp),
                delivered,
                summary,
            });
        }
        decision.outcome = concluded.map(|(at, concluded)| v1::Outcome {
            kind: outcome(concluded.outcome).into(),
            time: Some(timestamp(at)),
            recovery_time: (concluded.outcome == Outcome::Verified)
                .then(|| super::duration(concluded.elapsed_ms)),
            summary: concluded.detail,
        });
        decision.repeat_count = decision.repeat_count.saturating_add(repeats);
    }
}

/// Adds what the state remembers, where the log was not read far enough to say more.
pub(crate) fn complete_remembered(decision: &mut v1::Decision, remembered: &Remembered) {
    if remembered.executed && decision.attempt.is_none() {
        let id = ids::attempt(decision.seq);
        decision.attempt = Some(v1::Attempt { id, ..v1::Attempt::default() });
    }
    if let Some(known) = remembered.outcome
        && decision.outcome.is_none()
    {
        let kind = outcome(known).into();
        decision.outcome = Some(v1::Outcome { kind, ..v1::Outcome::default() });
    }
}

/// Whether `code` is a reason a decision can have.
#[must_use]
pub(crate) fn is_reason(code: &str) -> bool {
    code == GATES_PASSED || Reason::parse(code).is_some()
}

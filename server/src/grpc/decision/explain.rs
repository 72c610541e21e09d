//! A decision taken apart: what was seen, weighed and said, what would have changed it, and whether judging it again agrees.

use agentctl_api::v1;
use agentctl_api::v1::explain_decision_request::Which;
use agentd_core::action::{Action, Level, ceiling};
use agentd_core::app::AppName;
use agentd_core::explain;
use agentd_core::gates::{Case, enforce};
use agentd_core::policy::{Confidence, Policy};
use agentd_core::record::{Body, Decided, Record};
use agentd_core::replay::recheck;
use agentd_core::verdict::{Effect, Fact, Ruling, Verdict};
use tonic::Status;

use super::super::log::{self, Log};
use super::super::status::Violation;
use super::super::to_proto;
use super::super::{Services, ids, outcome, status};
use crate::journal;

/// Records looked at for the policy a decision was judged under.
const POLICY_RECORDS: usize = 200_000;

/// Explains a decision from its record.
pub(super) async fn explain(
    services: &Services,
    request: v1::ExplainDecisionRequest,
) -> Result<v1::Explanation, Status> {
    let seq = match request.which {
        Some(Which::DecisionId(id)) => {
            ids::parse_decision("decision_id", &id).map_err(|v| status::invalid(&[v]))?
        }
        Some(Which::LastOfApp(name)) => last_of(services, &name).await?,
        None => {
            let rule = "must name a decision or an app";
            return Err(status::invalid(&[Violation::new("which", "", rule)]));
        }
    };
    let (decision, found) = super::read_decision(services, seq).await?;
    let Some(decided) = found.record.decision() else {
        return Err(status::not_found("decision", &ids::decision(seq)));
    };
    let policy = policy_of(services, decided, seq).await?;
    let rechecked = policy.as_ref().is_some_and(|policy| recheck(decided, policy).is_ok());
    let nearest = policy.as_ref().map(|policy| nearest_changes(decided, policy));
    Ok(v1::Explanation {
        saw: to_proto::evidence(decided),
        sentences: sentences(decided, &decision),
        nearest_changes: nearest.unwrap_or_default(),
        choice_mode: choice_mode(decided),
        record_hash: found.hash.to_string(),
        rechecked,
        decision: Some(decision),
    })
}

async fn last_of(services: &Services, name: &str) -> Result<u64, Status> {
    let app = AppName::parse(name).map_err(|_invalid| {
        status::invalid(&[Violation::new("last_of_app", name, AppName::RULE)])
    })?;
    let last = services.agent.query(move |view| {
        view.state.apps.get(&app).map(|app| app.last_decision.as_ref().map(|last| last.seq))
    });
    match last.await.map_err(outcome::gone)? {
        Some(Some(seq)) => Ok(seq),
        Some(None) => Err(status::not_found("decision", &format!("the newest of {name}"))),
        None => Err(status::not_found("app", name)),
    }
}

/// The policy a decision names: the one in force, or one from further back in the log.
async fn policy_of(
    services: &Services,
    decided: &Decided,
    seq: u64,
) -> Result<Option<Policy>, Status> {
    let digest = decided.policy_digest.clone();
    let current = {
        let digest = digest.clone();
        let current = services
            .agent
            .query(move |view| (view.state.policy_digest == digest).then(|| view.policy.clone()));
        current.await.map_err(outcome::gone)?
    };
    if current.is_some() {
        return Ok(current);
    }
    let log = Log::of(services);
    log.reading(move |reader| {
        let (mut at, mut looked_at) = (seq, 0);
        while looked_at < POLICY_RECORDS {
            let entries = reader.read_back(at, log::READ_RECORDS, log::READ_BYTES)?;
            let Some(last) = entries.last() else { break };
            (at, looked_at) = (last.seq, looked_at + entries.len());
            let applied = |line: &[u8]| log::event_name(line) == Some("POLICY_APPLIED");
            for entry in entries.iter().filter(|entry| applied(&entry.line)) {
                if let Ok(Record { body: Body::PolicyApplied { policy, digest: named }, .. }) =
                    Record::parse(&entry.line)
                    && named == digest
                {
                    return Ok::<_, journal::Error>(Some(*policy));
                }
            }
        }
        Ok(None)
    })
    .await
}

/// The explanation in reading order.
fn sentences(decided: &Decided, decision: &v1::Decision) -> Vec<String> {
    let explained = explain::decision(decided);
    let mut sentences = vec![explained.headline];
    sentences.extend(explained.saw);
    sentences.extend(explained.weighed);
    sentences.extend(explained.gates);
    sentences.extend(explained.if_not);
    if let Some(attempt) = decision.attempt.as_ref().filter(|a| !a.summary.is_empty()) {
        let verb = if attempt.delivered { "carried out" } else { "not carried out" };
        sentences.push(format!("{} {verb}: {}", attempt.id, attempt.summary));
    }
    if let Some(outcome) = decision.outcome.as_ref().filter(|o| !o.summary.is_empty()) {
        sentences.push(format!("outcome: {}", outcome.summary));
    }
    sentences
}

fn choice_mode(decided: &Decided) -> String {
    if decided.proposal.source.is_human() {
        return "asked for by a human".to_owned();
    }
    let learning = if decided.around.frozen { "learning frozen" } else { "learning on" };
    let proposal = &decided.proposal;
    if proposal.explored {
        format!("explored with probability {} ppm, {learning}", proposal.propensity_ppm)
    } else if proposal.propensity_ppm == 1_000_000 {
        format!("deterministic, exploration 0, {learning}")
    } else {
        format!("the best, with probability {} ppm, {learning}", proposal.propensity_ppm)
    }
}

/// A change of one setting.
struct Change {
    gate: String,
    setting: String,
    from: String,
    to: String,
    policy: Policy,
}

/// Every change of one setting that turns the ruling around. Each was tried: the decision is judged again with it.
fn nearest_changes(decided: &Decided, policy: &Policy) -> Vec<v1::NearestChange> {
    let blocking = decided.verdicts.iter().filter(|verdict| verdict.effect != Effect::Pass);
    blocking
        .filter_map(|verdict| change(decided, policy, verdict))
        .filter_map(|change| {
            let ruling = judge(decided, &change.policy);
            (rank(&ruling) < rank(&decided.ruling))
                .then(|| told(decided.proposal.action, change, &ruling))
        })
        .collect()
}

fn told(action: Action, change: Change, ruling: &Ruling) -> v1::NearestChange {
    let Change { gate, setting, from, to, .. } = change;
    let becomes = match ruling {
        Ruling::Permitted => "would have been permitted",
        Ruling::Held { .. } => "would have waited for a human",
        Ruling::Refused { .. } => "would have been refused",
    };
    v1::NearestChange {
        summary: format!("with {setting} at {to} instead of {from}, {action} {becomes}"),
        gate,
        setting,
        from_value: from,
        to_value: to,
        ruling: to_proto::ruling(ruling).into(),
    }
}

const fn rank(ruling: &Ruling) -> u8 {
    match ruling {
        Ruling::Permitted => 0,
        Ruling::Held { .. } => 1,
        Ruling::Refused { .. } => 2,
    }
}

fn judge(decided: &Decided, policy: &Policy) -> Ruling {
    let case = Case {
        app: &decided.app,
        around: &decided.around,
        policy,
        policy_digest: &decided.policy_digest,
        proposal: &decided.proposal,
        findings: &decided.findings,
        reading: &decided.reading,
        now: decided.now,
    };
    // The permit goes nowhere: nothing but the ruling leaves this function.
    enforce(&case, decided.seq).ruling
}

/// The smallest change of the setting behind `verdict` that would satisfy its gate; `None` where a human's answer, time or the
/// world would have to change instead.
fn change(decided: &Decided, policy: &Policy, verdict: &Verdict) -> Option<Change> {
    let action = decided.proposal.action;
    let mut changed = policy.clone();
    let (setting, from, to) = match (&*verdict.gate, &verdict.value) {
        ("cooldown", Fact::Ms(elapsed)) => {
            let base = changed.cooldown.base_ms.get_mut(&action)?;
            let before = std::mem::replace(base, *elapsed);
            // The cap bounds the doubled cooldown of a restart, so it has to come down with its base.
            changed.cooldown.restart_cap_ms = changed.cooldown.restart_cap_ms.min(*elapsed);
            (format!("cooldown.base_ms.{action}"), Fact::Ms(before), Fact::Ms(*elapsed))
        }
        ("repetition", Fact::Count(seen)) => {
            let limit = u32::try_from(seen.saturating_add(1)).ok()?;
            let before = std::mem::replace(&mut changed.repetition.limit, limit);
            ("repetition.limit".to_owned(), count(before), count(limit))
        }
        ("hourly", Fact::Count(used)) => {
            let limit = u32::try_from(used.saturating_add(1)).ok()?;
            let before = std::mem::replace(&mut changed.budget.per_hour, limit);
            ("budget.per_hour".to_owned(), count(before), count(limit))
        }
        ("confidence", Fact::Permille(seen)) if *seen >= Confidence::FLOOR => {
            return confidence(policy, verdict, *seen);
        }
        ("autonomy", Fact::Level(level)) => {
            let next = if *level < Level::Propose { Level::Propose } else { Level::Auto };
            if next > ceiling(action) || decided.app.profile.autonomy.is_some_and(|own| own < next)
            {
                return None;
            }
            let before = changed.levels.insert(action, next).unwrap_or(Level::Off);
            (format!("levels.{action}"), Fact::Level(before), Fact::Level(next))
        }
        _ => return None,
    };
    let (from, to) = (explain::fact(&from), explain::fact(&to));
    Some(Change { gate: verdict.gate.to_string(), setting, from, to, policy: changed })
}

/// The minimum that was missed is one of three, by risk.
fn confidence(policy: &Policy, verdict: &Verdict, seen: u32) -> Option<Change> {
    let Fact::Permille(minimum) = verdict.limit else { return None };
    let mut changed = policy.clone();
    let minima = &mut changed.confidence;
    let (name, value) = [("r1", &mut minima.r1), ("r2", &mut minima.r2), ("r3", &mut minima.r3)]
        .into_iter()
        .find(|(_, value)| **value == minimum)?;
    *value = seen;
    Some(Change {
        gate: verdict.gate.to_string(),
        setting: format!("confidence.{name}"),
        from: explain::fact(&Fact::Permille(minimum)),
        to: explain::fact(&Fact::Permille(seen)),
        policy: changed,
    })
}

fn count(number: u32) -> Fact {
    Fact::Count(u64::from(number))
}

//! A decision taken apart: what was seen, weighed and said, what would have changed it, and whether judging it again agrees.

use agentctl_api::v1;
use agentctl_api::v1::explain_decision_request::Which;
use agentd_core::app::AppName;
use agentd_core::counterfactual::{Change, Flip, nearest};
use agentd_core::explain;
use agentd_core::policy::Policy;
use agentd_core::record::{Body, Decided, Record};
use agentd_core::replay::recheck;
use agentd_core::verdict::Ruling;
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
    // Judging again, many times over, is work for a thread that may be busy.
    let judging = decided.clone();
    let judged = tokio::task::spawn_blocking(move || {
        policy
            .map(|policy| (recheck(&judging, &policy).is_ok(), nearest_changes(&judging, &policy)))
    });
    let judged = judged.await.map_err(|_panicked| status::internal("explain"))?;
    let (rechecked, nearest) = judged.unwrap_or_default();
    Ok(v1::Explanation {
        saw: to_proto::evidence(decided),
        sentences: sentences(decided, &decision),
        nearest_changes: nearest,
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
pub(in crate::grpc) async fn policy_of(
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
                if let Ok(Record {
                    body: Body::PolicyApplied { policy, digest: named, .. }, ..
                }) = reader.blobs().record(&entry.line)
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

/// The nearest changes that turn the ruling, each of them tried.
fn nearest_changes(decided: &Decided, policy: &Policy) -> Vec<v1::NearestChange> {
    nearest(decided, policy).into_iter().map(|flip| told(decided, flip)).collect()
}

fn told(decided: &Decided, flip: Flip) -> v1::NearestChange {
    let Flip { gate, change, action, ruling, together } = flip;
    let becomes = match &ruling {
        Ruling::Permitted => "would have been permitted",
        Ruling::Held { .. } => "would have waited for a human",
        Ruling::Refused { .. } => "would have been refused",
    };
    let (from_value, to_value) = change.values();
    let setting = change.name().to_owned();
    let command = match &change {
        Change::Setting { path, to, .. } if !together => {
            let id = ids::decision(decided.seq);
            format!("agentctl policy simulate {id} --set '{path}={to}'")
        }
        _ => String::new(),
    };
    let with = if together { "together with the others, with" } else { "with" };
    v1::NearestChange {
        summary: format!(
            "{with} {setting} at {to_value} instead of {from_value}, {action} {becomes}"
        ),
        gate,
        setting,
        from_value,
        to_value,
        ruling: to_proto::ruling(&ruling).into(),
        command,
        together,
    }
}

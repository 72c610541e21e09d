//! `PolicyService`: the human's rules, checked, applied and tried.

use agentctl_api::v1;
use agentctl_api::v1::policy_service_server::PolicyService;
use agentd_core::policy::{Difference, Fault, Policy, differences};
use agentd_core::record::{Author, Body};
use agentd_core::step::Reply;
use tonic::{Request, Response, Status};

use super::status::Violation;
use super::{Services, from_proto, ids, log, outcome, status};
use crate::agent::Ask;
use crate::rules;

mod simulate;
#[cfg(test)]
mod tests;

const APPLY: &str = "PolicyService/ApplyPolicy";

/// The service.
#[derive(Debug, Clone)]
pub struct Service(pub Services);

#[tonic::async_trait]
impl PolicyService for Service {
    async fn validate_policy(
        &self,
        request: Request<v1::ValidatePolicyRequest>,
    ) -> Result<Response<v1::ValidatePolicyResponse>, Status> {
        let (current, demo) = self.current().await?;
        let digest_in_force = ids::digest(&current.digest());
        let answer = match rules::parse(&request.get_ref().text) {
            Err(detail) => v1::ValidatePolicyResponse {
                faults: vec![unreadable(detail)],
                digest_in_force,
                ..Default::default()
            },
            Ok(policy) => v1::ValidatePolicyResponse {
                faults: faults(rules::check(&policy, self.0.env, demo)),
                digest: ids::digest(&policy.digest()),
                differences: told(differences(&current, &policy)),
                digest_in_force,
            },
        };
        Ok(Response::new(answer))
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Result<Response<v1::ApplyPolicyResponse>, Status> {
        let (_, extensions, mut wire) = request.into_parts();
        let id = std::mem::take(&mut wire.request_id);
        let by = outcome::by(&extensions, APPLY, &id, &wire, wire.validate_only)?;
        let policy = rules::parse(&wire.text)
            .map_err(|detail| Violation::new("text", "a text", format!("is no policy: {detail}")));
        let (policy, reason) = from_proto::both(policy, from_proto::reason(&wire.reason))?;
        let (current, _) = self.current().await?;
        let expected = wire.expected_digest;
        if !expected.is_empty() && expected != ids::digest(&current.digest()) {
            // A repeat of a request that was answered is no conflict with its own effect.
            let repeated = self.repeated(by.request.as_ref().map(|request| &*request.id)).await?;
            if !repeated {
                let text = "another policy is in force than the one this is meant to replace";
                let digest = ids::digest(&current.digest());
                return Err(status::conflict("POLICY_CHANGED", text, &[("digest", &digest)]));
            }
        }
        let author = Author::Principal(by.principal.clone());
        let digest = ids::digest(&policy.digest());
        let ask = Ask::ApplyPolicy { policy: Box::new(policy.clone()), author, reason };
        let seq = match self.0.agent.ask(ask, by).await {
            Ok(Ok(Reply::Invalid(violations))) => {
                let all: Vec<_> = outcome::wire(violations);
                return Err(status::invalid_because("POLICY_INVALID", &all));
            }
            answer => match outcome::answer(answer)? {
                Reply::Done { seq } => seq.unwrap_or(0),
                Reply::Repeated { seq } => seq,
                other => {
                    tracing::error!(?other, "no answer to a policy");
                    return Err(status::internal("policy"));
                }
            },
        };
        let previous = self.before(seq).await?.unwrap_or(current);
        Ok(Response::new(v1::ApplyPolicyResponse {
            digest,
            previous_digest: ids::digest(&previous.digest()),
            seq,
            differences: told(differences(&previous, &policy)),
        }))
    }

    async fn simulate_policy(
        &self,
        request: Request<v1::SimulatePolicyRequest>,
    ) -> Result<Response<v1::SimulatePolicyResponse>, Status> {
        simulate::simulate(&self.0, request.into_inner()).await.map(Response::new)
    }
}

impl Service {
    /// The policy in force, and whether this is a demonstration.
    async fn current(&self) -> Result<(Policy, bool), Status> {
        let read = self.0.agent.query(|view| (view.policy.clone(), view.state.mode.demo));
        read.await.map_err(outcome::gone)
    }

    async fn repeated(&self, id: Option<&str>) -> Result<bool, Status> {
        let Some(id) = id.map(ToOwned::to_owned) else { return Ok(false) };
        let known = self.0.agent.query(move |view| view.state.requests.contains_key(&id));
        known.await.map_err(outcome::gone)
    }

    /// The policy that was in force before record `seq` replaced it.
    async fn before(&self, seq: u64) -> Result<Option<Policy>, Status> {
        if seq == 0 {
            return Ok(None);
        }
        let log = log::Log::of(&self.0);
        log.reading(move |reader| {
            let mut at = seq;
            loop {
                let entries = reader.read_back(at, log::READ_RECORDS, log::READ_BYTES)?;
                let Some(last) = entries.last() else { return Ok(None) };
                at = last.seq;
                for entry in &entries {
                    if log::event_name(&entry.line) == Some("POLICY_APPLIED")
                        && let Ok(record) = reader.blobs().record(&entry.line)
                        && let Body::PolicyApplied { policy, .. } = record.body
                    {
                        return Ok(Some(*policy));
                    }
                }
            }
        })
        .await
    }
}

/// A text that is no policy.
fn unreadable(detail: String) -> v1::PolicyFault {
    v1::PolicyFault {
        rule: format!("must be a policy: {detail}"),
        fix: "start from `agentctl policy get`".to_owned(),
        ..Default::default()
    }
}

fn faults(found: Vec<Fault>) -> Vec<v1::PolicyFault> {
    let wire = |fault: Fault| {
        let Fault { field, value, rule, fix } = fault;
        v1::PolicyFault { field, value, rule, fix }
    };
    found.into_iter().map(wire).collect()
}

fn told(found: Vec<Difference>) -> Vec<v1::PolicyDifference> {
    let wire = |difference: Difference| v1::PolicyDifference {
        setting: difference.path,
        from_value: difference.from.unwrap_or_default(),
        to_value: difference.to.unwrap_or_default(),
    };
    found.into_iter().map(wire).collect()
}

//! `LearningService`: what the agent has learned, shown, brought, put in force and forgotten.

use std::sync::Arc;

use agentctl_api::v1;
use agentctl_api::v1::learning_service_server::LearningService;
use agentd_core::app::Env;
use agentd_core::backtest::promotion;
use agentd_core::choose::Expertise;
use agentd_core::choose::snapshot::{Error, Snapshot, TEXT_MAX};
use agentd_core::record::{Backtested, Record};
use agentd_core::state::{ApprovalState, State};
use agentd_core::step::{By, Failure, Reply, promotable};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::log::{self, Log};
use super::status::{self, Violation};
use super::{Services, approval, from_proto, ids, outcome, to_proto};
use crate::agent::Ask;
use crate::journal::{self, Reader};

/// Largest request: a snapshot, and what is around it.
pub const REQUEST_MAX: usize = TEXT_MAX + (16 << 10);
/// Times a candidate is judged again that learned something meanwhile.
const TRIES: usize = 3;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    services: Services,
    /// Reading a log through keeps a core busy: one at a time.
    judging: Arc<Semaphore>,
}

impl Service {
    /// The service over `services`.
    #[must_use]
    pub fn new(services: Services) -> Self {
        Self { services, judging: Arc::new(Semaphore::new(1)) }
    }
}

#[tonic::async_trait]
impl LearningService for Service {
    async fn get_learning(
        &self,
        request: Request<v1::GetLearningRequest>,
    ) -> Result<Response<v1::GetLearningResponse>, Status> {
        let wanted = request.into_inner().candidate;
        let read = self.services.agent.query(move |view| get(view.id, view.state, wanted));
        read.await.map_err(outcome::gone)?.map(Response::new)
    }

    async fn import_learning(
        &self,
        request: Request<v1::ImportLearningRequest>,
    ) -> Result<Response<v1::ImportLearningResponse>, Status> {
        let (_, extensions, mut wire) = request.into_parts();
        let id = std::mem::take(&mut wire.request_id);
        let by = outcome::by(
            &extensions,
            "LearningService/ImportLearning",
            &id,
            &wire,
            wire.validate_only,
        )?;
        let (snapshot, reason) = read(&wire)?;
        let (from, weak_prior) = (snapshot.env, wire.weak_prior);
        let ask = Ask::Import { snapshot: Box::new(snapshot), weak_prior, reason };
        let seq = self.done(ask, by).await?;
        let read = |state: &State| (state.taught().digest(), state.promotes());
        let (digest, candidate) = self.state(read).await?;
        Ok(Response::new(v1::ImportLearningResponse {
            seq,
            digest: ids::digest(&digest),
            candidate,
            from_environment: from.as_str().to_owned(),
            weak_prior,
        }))
    }

    async fn promote_learning(
        &self,
        request: Request<v1::PromoteLearningRequest>,
    ) -> Result<Response<v1::PromoteLearningResponse>, Status> {
        let (_, extensions, mut wire) = request.into_parts();
        let id = std::mem::take(&mut wire.request_id);
        let by = outcome::by(
            &extensions,
            "LearningService/PromoteLearning",
            &id,
            &wire,
            wire.validate_only,
        )?;
        let wanted = match &*wire.candidate_digest {
            "" => Ok(None),
            digest => ids::parse_digest("candidate_digest", digest).map(Some),
        };
        let (wanted, reason) = from_proto::both(wanted, from_proto::reason(&wire.reason))?;
        self.promote(by, wanted, &reason).await.map(Response::new)
    }

    async fn reset_learning(
        &self,
        request: Request<v1::ResetLearningRequest>,
    ) -> Result<Response<v1::ResetLearningResponse>, Status> {
        let (_, extensions, mut wire) = request.into_parts();
        let id = std::mem::take(&mut wire.request_id);
        let by = outcome::by(&extensions, "LearningService/ResetLearning", &id, &wire, false)?;
        let reason = from_proto::reason(&wire.reason).map_err(|one| status::invalid(&[one]))?;
        let seq = self.done(Ask::Forget { acting: wire.acting, reason }, by).await?;
        let digest = match seq {
            0 => String::new(),
            seq => self.forgotten(seq).await?,
        };
        Ok(Response::new(v1::ResetLearningResponse { seq, digest: ids::digest(&digest) }))
    }
}

/// A snapshot of what is in force or of the candidate, and how it stands.
fn get(agent: &str, state: &State, wanted: bool) -> Result<v1::GetLearningResponse, Status> {
    let learning = &state.learning;
    let candidate = learning.candidate.as_deref();
    let acting = state.acting();
    let digest = acting.digest();
    let candidate_digest = candidate.map(|c| c.expertise.digest()).unwrap_or_default();
    let (learned, parents) = match (wanted, candidate) {
        (false, _) => (acting, &learning.parents),
        (true, Some(candidate)) => (candidate.expertise.clone(), &candidate.parents),
        (true, None) => return Err(status::not_found("candidate", state.env.as_str())),
    };
    let waits =
        |promotion: &&agentd_core::state::Promotion| promotion.state == ApprovalState::Pending;
    let approval = learning.promotion.as_deref().filter(waits).map(|p| ids::approval(p.seq));
    Ok(v1::GetLearningResponse {
        snapshot: Snapshot::new(state.env, agent, state.last_seq, &learned, parents).text(),
        digest: ids::digest(&digest),
        candidate_digest: ids::digest(&candidate_digest),
        approval_id: approval.unwrap_or_default(),
        frozen: state.mode.frozen,
    })
}

/// The snapshot and the reason of an import, or everything that is wrong with them.
fn read(wire: &v1::ImportLearningRequest) -> Result<(Snapshot, String), Status> {
    let reason = from_proto::reason(&wire.reason);
    match (Snapshot::parse(&wire.snapshot), reason) {
        (Ok(snapshot), Ok(reason)) => Ok((snapshot, reason)),
        (snapshot, reason) => {
            let mut all = snapshot.err().map(violations).unwrap_or_default();
            all.extend(reason.err());
            Err(status::invalid_because("LEARNING_INVALID", &all))
        }
    }
}

/// What is wrong with a snapshot, each with its line.
fn violations(error: Error) -> Vec<Violation> {
    let whole = |rule: String| vec![Violation::new("snapshot", "a text", rule)];
    match error {
        Error::Flaws(flaws) => {
            let told = |flaw: agentd_core::choose::snapshot::Flaw| {
                let rule = format!("{}, line {}", flaw.rule, flaw.line);
                Violation::new(format!("snapshot.{}", flaw.field), flaw.value, rule)
            };
            flaws.into_iter().map(told).collect()
        }
        Error::Form { line, field, what } if !field.is_empty() => {
            let rule = format!("is no snapshot at line {line}: {what}");
            vec![Violation::new(format!("snapshot.{field}"), "a text", rule)]
        }
        other => whole(other.to_string()),
    }
}

/// What is compared: what the agent decides by, and the candidate.
struct Pair {
    env: Env,
    acting: Expertise,
    candidate: Expertise,
}

impl Service {
    async fn state<T, F>(&self, read: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&State) -> T + Send + 'static,
    {
        self.services.agent.query(move |view| read(view.state)).await.map_err(outcome::gone)
    }

    /// Asks and waits until it is durable; the sequence number of its record, 0 if nothing changed.
    async fn done(&self, ask: Ask, by: By) -> Result<u64, Status> {
        match outcome::answer(self.services.agent.ask(ask, by).await)? {
            Reply::Done { seq } => Ok(seq.unwrap_or(0)),
            Reply::Repeated { seq } => Ok(seq),
            other => {
                tracing::error!(?other, "no answer about what was learned");
                Err(status::internal("learning"))
            }
        }
    }

    /// Digest of what was forgotten by record `seq`.
    async fn forgotten(&self, seq: u64) -> Result<String, Status> {
        let found = Log::of(&self.services).record(seq).await?;
        let body = found.map(|published| published.record.body.clone());
        Ok(match body {
            Some(agentd_core::record::Body::LearningChanged(change)) => match *change {
                agentd_core::record::LearningChange::Forgotten(forgotten) => forgotten.digest,
                _ => String::new(),
            },
            _ => String::new(),
        })
    }

    /// Judges the candidate and asks a human for it; once more if it learned something meanwhile.
    async fn promote(
        &self,
        by: By,
        wanted: Option<String>,
        reason: &str,
    ) -> Result<v1::PromoteLearningResponse, Status> {
        if let Some(answered) = self.answered(&by).await? {
            return self.asked(answered).await;
        }
        let Ok(_alone) = self.judging.try_acquire() else {
            let text = "a backtest is running already; come again when it is over";
            return Err(status::exhausted("OVERLOADED", "backtests", text, None));
        };
        for tried in 1.. {
            let pair = self.state(pair).await?.map_err(outcome::failure)?;
            let candidate = pair.candidate.digest();
            if wanted.as_ref().is_some_and(|wanted| *wanted != candidate) {
                return Err(outcome::failure(Failure::CandidateChanged { candidate }));
            }
            let backtest = self.judge(pair).await?;
            let ask =
                Ask::Promote { backtest: Box::new(backtest.clone()), reason: reason.to_owned() };
            match self.services.agent.ask(ask, by.clone()).await {
                Ok(Ok(Reply::Failed(Failure::CandidateChanged { .. }))) if tried < TRIES => {}
                answer => match outcome::answer(answer)? {
                    Reply::Done { seq: Some(seq) } | Reply::Repeated { seq } => {
                        return self.asked(seq).await;
                    }
                    _ => {
                        let backtest = Some(to_proto::backtest(&backtest));
                        return Ok(v1::PromoteLearningResponse { backtest, approval: None });
                    }
                },
            }
        }
        Err(status::internal("promote"))
    }

    /// The record that answered the same request before.
    async fn answered(&self, by: &By) -> Result<Option<u64>, Status> {
        let Some(request) = by.request.clone() else { return Ok(None) };
        let read = move |state: &State| match state.requests.get(&request.id) {
            None => Ok(None),
            Some(answered) if answered.digest == request.digest => Ok(Some(answered.seq)),
            Some(_) => Err(Failure::RequestReused(request.id.clone())),
        };
        self.state(read).await?.map_err(outcome::failure)
    }

    /// A promotion that was asked for, as it is now.
    async fn asked(&self, seq: u64) -> Result<v1::PromoteLearningResponse, Status> {
        let read = move |state: &State| {
            state.learning.promotion(seq).map(|p| to_proto::backtest(&p.backtest))
        };
        let backtest = self.state(read).await?;
        let approval = Some(approval::get(&self.services, seq).await?);
        Ok(v1::PromoteLearningResponse { backtest, approval })
    }

    async fn judge(&self, pair: Pair) -> Result<Backtested, Status> {
        let log = Log::of(&self.services);
        let judged = log.reading(move |reader| {
            let Pair { env, acting, candidate } = pair;
            let upto = reader.durable_seq();
            promotion(env, &acting, &candidate, |take| each(reader, upto, take))
        });
        judged.await
    }
}

fn pair(state: &State) -> Result<Pair, Failure> {
    let candidate = promotable(state)?.clone();
    Ok(Pair { env: state.env, acting: state.acting(), candidate })
}

/// Every record that is kept, up to one of them.
fn each(reader: &Reader, upto: u64, take: &mut dyn FnMut(&Record)) -> Result<(), journal::Error> {
    let mut next = reader.oldest_seq();
    while next <= upto {
        let entries = log::read_sound(reader, next, log::READ_RECORDS)?;
        let Some(last) = entries.last() else { break };
        next = last.seq.saturating_add(1);
        for entry in entries.iter().filter(|entry| entry.seq <= upto) {
            // What is no record of this version says nothing that could be compared.
            if let Ok(record) = reader.blobs().record(&entry.line) {
                take(&record);
            }
        }
    }
    Ok(())
}

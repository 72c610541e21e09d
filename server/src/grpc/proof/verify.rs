//! The hash chain checked on disk, and every decision judged again.

use std::time::Instant;

use agentctl_api::v1;
use agentd_core::app::Env;
use agentd_core::record::{Body, Record};
use agentd_core::replay::{Mismatch, Replay};
use tokio::sync::Semaphore;
use tonic::Status;

use super::super::log::{self, Log};
use super::super::{Services, status, to_proto};
use crate::index::{self, Compared, Index};
use crate::journal::{self, Damage, Journal, Reader};
use crate::tlog::PlainLines;

/// Verifications at once in this process: each reads the whole log, so more would only be slower.
static VERIFYING: Semaphore = Semaphore::const_new(1);

/// Verifies the log. What is wrong with it is an answer, not an error.
pub(super) async fn verify(
    services: &Services,
    request: v1::VerifyProofRequest,
) -> Result<v1::VerifyProofResponse, Status> {
    let turn = VERIFYING.acquire().await;
    let turn = turn.map_err(|_never_closed| status::internal("verify-proof"))?;
    let (log, env) = (Log::of(services), services.env);
    let journal = services.journal.clone();
    let index = asked_index(services, request)?;
    // What is published is in the lines too, once the first turn after a start has added what they lacked.
    let progress = services.tlog.progress();
    let plain = {
        let now = progress.borrow();
        now.size().min(now.integrated)
    };
    let mut lines = PlainLines::of_log(services.journal.dir());
    let started = Instant::now();
    let result = log.reading(move |reader| {
        // Whoever does not wait for the answer does not stop the work: the next one waits for that all the same.
        let _turn = turn;
        let mut report = check(&journal, reader)?;
        check_beside(reader, (&mut lines, plain), &mut report)?;
        if request.recheck_decisions {
            judge_again(reader, env, &mut report)?;
        }
        let compared = index.map(|index| index.compare());
        Ok((report, compared))
    });
    let (mut report, compared) = result.await?;
    if let Some(compared) = compared {
        note_index(&mut report, compared)?;
    }
    let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.elapsed = Some(to_proto::duration(elapsed));
    Ok(report)
}

/// The index, if it is to be compared.
fn asked_index(
    services: &Services,
    request: v1::VerifyProofRequest,
) -> Result<Option<Index>, Status> {
    if !request.check_index {
        return Ok(None);
    }
    let missing = || status::unavailable("INDEX_UNAVAILABLE", "this server has no index", None);
    services.index.clone().map(Some).ok_or_else(missing)
}

/// Adds what a comparison of the index found. The chain is as sound as it was: a difference is only named if nothing else is wrong.
fn note_index(
    report: &mut v1::VerifyProofResponse,
    compared: Result<Compared, index::Error>,
) -> Result<(), Status> {
    let compared = compared.map_err(|error| {
        let text = format!("the index cannot be compared: {error}");
        status::unavailable("INDEX_UNAVAILABLE", &text, None)
    })?;
    report.index_checked = compared.entries;
    if let Some(difference) = compared.difference {
        report.valid = false;
        let (seq, summary) = (difference.seq, difference.to_string());
        report.fault.get_or_insert_with(|| v1::ProofFault {
            seq,
            reason: "INDEX_DIFFERS".to_owned(),
            summary,
            ..v1::ProofFault::default()
        });
    }
    Ok(())
}

fn check(journal: &Journal, reader: &Reader) -> Result<v1::VerifyProofResponse, journal::Error> {
    // Read before verifying: the log may grow meanwhile, but it is already known to be altered or not.
    let known = match journal.status() {
        journal::Status::Damaged(damage) => Some(damage),
        journal::Status::Writable | journal::Status::Unwritable { .. } => None,
    };
    let first_seq = reader.oldest_seq();
    let report = |last_seq: u64, head_hash: String, fault: Option<Damage>| {
        let entry_count = last_seq.saturating_add(1).saturating_sub(first_seq);
        v1::VerifyProofResponse {
            valid: fault.is_none(),
            entry_count,
            // Where the first record of a pruned log is bad none is sound, and still it does not begin with the first of all.
            first_seq: if entry_count == 0 && first_seq <= 1 { 0 } else { first_seq },
            last_seq,
            head_hash,
            fault: fault.as_ref().map(self::fault),
            log_id: journal.head().log_id.to_string(),
            ..v1::VerifyProofResponse::default()
        }
    };
    match journal.verify() {
        Ok(verified) => {
            let last = verified.head.next_seq.saturating_sub(1);
            Ok(report(last, verified.head.hash.to_string(), known))
        }
        Err(journal::Error::Damaged(damage)) => {
            let last = damage.seq.saturating_sub(1);
            let hash = if last == 0 && first_seq <= 1 {
                agentd_core::chain::GENESIS.to_string()
            } else {
                let sound = match reader.read(last, 1, 1) {
                    // The record before it is no longer there: what is wrong is still the answer.
                    _ if last < first_seq => Vec::new(),
                    Err(journal::Error::Pruned { .. }) => Vec::new(),
                    other => other?,
                };
                let line = sound.first().map(|entry| &entry.line);
                line.map(|line| agentd_core::chain::leaf_hash(line).to_string()).unwrap_or_default()
            };
            Ok(report(last, hash, Some(damage)))
        }
        Err(error) => Err(error),
    }
}

fn fault(damage: &Damage) -> v1::ProofFault {
    v1::ProofFault {
        seq: damage.seq,
        reason: "CHAIN_BROKEN".to_owned(),
        stored: String::new(),
        computed: String::new(),
        summary: damage.to_string(),
    }
}

/// Checks what is kept beside the log: bodies, and the plain lines up to record `plain`. What is gone or altered leaves the chain as it is:
/// the first one is named.
fn check_beside(
    reader: &Reader,
    (lines, plain): (&mut PlainLines, u64),
    report: &mut v1::VerifyProofResponse,
) -> Result<(), journal::Error> {
    let (mut next, end) = (report.first_seq.max(1), report.last_seq);
    while next <= end {
        let entries = log::read_sound(reader, next, log::READ_RECORDS)?;
        let Some(last) = entries.last().map(|entry| entry.seq) else { break };
        for entry in entries.iter().filter(|entry| entry.seq <= end) {
            let seq = entry.seq;
            let body = reader.blobs().check(&entry.line).map_err(|error| error.to_string());
            let line = if seq <= plain { lines.check(seq, &entry.line) } else { Ok(()) };
            let (reason, summary) = match (body, line) {
                (Ok(()), Ok(())) => continue,
                // Pruned while it was looked at.
                _ if seq < reader.oldest_seq() => {
                    return Err(journal::Error::Pruned { oldest: reader.oldest_seq() });
                }
                (Err(error), _) => ("BODY_LOST", format!("entry {seq}: {error}")),
                (Ok(()), Err(error)) => ("LINES_DIFFER", error.to_string()),
            };
            report.valid = false;
            let reason = reason.to_owned();
            let fault = v1::ProofFault { seq, reason, summary, ..v1::ProofFault::default() };
            report.fault.get_or_insert(fault);
            return Ok(());
        }
        next = last.saturating_add(1);
    }
    Ok(())
}

/// Judges every decision again under the policy it names. One that comes out differently does not break the chain: it is counted,
/// and the first one is named.
fn judge_again(
    reader: &Reader,
    env: Env,
    report: &mut v1::VerifyProofResponse,
) -> Result<(), journal::Error> {
    let mut replay = Replay::new(env);
    // Up to the first record that carries a policy, nobody can say which one a pruned log was under.
    let mut policy_known = report.first_seq <= 1;
    let (mut next, end) = (report.first_seq.max(1), report.last_seq);
    while next <= end {
        let entries = log::read_sound(reader, next, log::READ_RECORDS)?;
        let Some(last) = entries.last().map(|entry| entry.seq) else { break };
        for entry in entries.iter().filter(|entry| entry.seq <= end) {
            let relevant =
                |event| matches!(event, "RL_DECISION" | "POLICY_APPLIED" | "STATE_SNAPSHOT");
            if !log::event_name(&entry.line).is_none_or(relevant) {
                continue;
            }
            let different = match reader.blobs().record(&entry.line) {
                Ok(record) => judge_record(&mut replay, &mut policy_known, &record, report),
                Err(error) => Some(format!("entry {} is no record: {error}", entry.seq)),
            };
            if let Some(summary) = different {
                note_difference(report, entry.seq, summary);
            }
        }
        next = last.saturating_add(1);
    }
    Ok(())
}

fn judge_record(
    replay: &mut Replay,
    policy_known: &mut bool,
    record: &Record,
    report: &mut v1::VerifyProofResponse,
) -> Option<String> {
    match &record.body {
        Body::PolicyApplied { .. } | Body::Snapshotted(_) => {
            replay.fold(record);
            *policy_known = true;
            None
        }
        Body::Decided(decided) => {
            let judged = replay.recheck(decided);
            if matches!(judged, Err(Mismatch::UnknownPolicy { .. })) && !*policy_known {
                return None;
            }
            report.decisions_rechecked += 1;
            judged.err().map(|mismatch| mismatch.to_string())
        }
        _ => None,
    }
}

fn note_difference(report: &mut v1::VerifyProofResponse, seq: u64, summary: String) {
    report.decisions_different += 1;
    report.valid = false;
    if report.fault.is_none() {
        let reason = "DECISION_DIFFERS".to_owned();
        report.fault = Some(v1::ProofFault { seq, reason, summary, ..v1::ProofFault::default() });
    }
}

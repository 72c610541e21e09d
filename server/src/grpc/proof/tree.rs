//! Single entries, checkpoints, and the proofs between them.

use std::io;
use std::sync::Arc;

use agentctl_api::v1;
use agentd_core::chain::Hash;
use agentd_core::tlog::leaf_index;
use agentd_core::tlog::proof::ProofFile;
use tonic::Status;

use super::super::log::Log;
use super::super::status::Violation;
use super::super::{Services, status, to_proto};
use crate::publish::Published as Entry;
use crate::tlog::{Published, Tlog};

/// One entry.
pub(super) async fn entry(
    services: &Services,
    seq: u64,
) -> Result<v1::GetProofEntryResponse, Status> {
    let found = find(services, seq).await?;
    Ok(v1::GetProofEntryResponse { entry: Some(to_proto::proof_entry(&found)) })
}

async fn find(services: &Services, seq: u64) -> Result<Arc<Entry>, Status> {
    if seq == 0 {
        let rule = "must be 1 or more: entries are counted from 1";
        return Err(status::invalid(&[Violation::new("seq", "0", rule)]));
    }
    let log = Log::of(services);
    let found = log.record(seq).await?;
    let oldest = log.oldest();
    let missing = || match seq < oldest {
        true => status::pruned(seq, oldest),
        false => status::not_found("entry", &seq.to_string()),
    };
    found.ok_or_else(missing)
}

/// The newest checkpoint, and at least one over `min_size` entries.
pub(super) async fn checkpoint(
    services: &Services,
    min_size: u64,
) -> Result<v1::GetCheckpointResponse, Status> {
    let published = published(services, min_size).await?;
    let Published { checkpoint, note } = published.as_ref();
    Ok(v1::GetCheckpointResponse {
        checkpoint: note.to_string().into_bytes(),
        verifier_key: services.tlog.key().to_string(),
        origin: checkpoint.origin.clone(),
        size: checkpoint.size,
        root: checkpoint.root.as_bytes().to_vec(),
        durable_size: Log::of(services).durable(),
        failure: services.tlog.progress().borrow().failed.clone().unwrap_or_default(),
    })
}

async fn published(services: &Services, size: u64) -> Result<Arc<Published>, Status> {
    let durable = Log::of(services).durable();
    if size > durable {
        let message = format!("{size} entries are asked for, {durable} are durable");
        return Err(status::out_of_range("AHEAD_OF_HEAD", &message, ""));
    }
    let made = services.tlog.publish(size).await;
    made.map_err(|error| status::unavailable("LOG_UNPUBLISHED", &error.to_string(), None))
}

/// What proves that an entry is in the log.
pub(super) async fn inclusion(
    services: &Services,
    request: v1::GetInclusionProofRequest,
) -> Result<v1::GetInclusionProofResponse, Status> {
    let v1::GetInclusionProofRequest { seq, tree_size } = request;
    // Of an entry that was pruned there is the hash: that is what a proof is about.
    let is_pruned = seq > 0 && seq < Log::of(services).oldest();
    let entry = if is_pruned { None } else { Some(find(services, seq).await?) };
    let index = leaf_index(seq).unwrap_or_default();
    if tree_size != 0 && tree_size < seq {
        let rule = "must be 0, or not less than `seq`";
        let violation = Violation::new("tree_size", tree_size.to_string(), rule);
        return Err(status::invalid(&[violation]));
    }
    let published = published(services, tree_size.max(seq)).await?;
    let size = if tree_size == 0 { published.checkpoint.size } else { tree_size };
    let hashes = reading(services, move |tlog| tlog.inclusion(index, size)).await?;
    let leaf_hash = match &entry {
        Some(entry) => entry.hash.as_bytes().to_vec(),
        None => reading(services, move |tlog| tlog.leaf_hashes(seq, 1).map(Some)).await?,
    };
    let file = (tree_size == 0).then(|| ProofFile {
        extra: entry.map(|entry| entry.line.to_vec()),
        index,
        hashes: hashes.clone(),
        checkpoint: published.note.clone(),
    });
    Ok(v1::GetInclusionProofResponse {
        leaf_index: index,
        tree_size: size,
        leaf_hash,
        hashes: wire(&hashes),
        tlog_proof: file.map(|file| file.to_string().into_bytes()).unwrap_or_default(),
    })
}

/// What proves that the log only grew.
pub(super) async fn consistency(
    services: &Services,
    request: v1::GetConsistencyProofRequest,
) -> Result<v1::GetConsistencyProofResponse, Status> {
    let v1::GetConsistencyProofRequest { first_size: old, second_size } = request;
    if second_size != 0 && second_size < old {
        let rule = "must be 0, or not less than `first_size`: a log only grows";
        let violation = Violation::new("second_size", second_size.to_string(), rule);
        return Err(status::invalid(&[violation]));
    }
    let published = published(services, second_size.max(old)).await?;
    let new = if second_size == 0 { published.checkpoint.size } else { second_size };
    let hashes = reading(services, move |tlog| tlog.consistency(old, new)).await?;
    Ok(v1::GetConsistencyProofResponse { first_size: old, second_size: new, hashes: wire(&hashes) })
}

fn wire(hashes: &[Hash]) -> Vec<Vec<u8>> {
    hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect()
}

/// Does `work` where it may block.
async fn reading<T, F>(services: &Services, work: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce(&Tlog) -> io::Result<Option<T>> + Send + 'static,
{
    let tlog = services.tlog.clone();
    match tokio::task::spawn_blocking(move || work(&tlog)).await {
        Ok(Ok(Some(hashes))) => Ok(hashes),
        // Sizes were checked against a checkpoint that is not taken back.
        Ok(Ok(None)) | Err(_) => Err(status::internal("proof-of-the-log")),
        Ok(Err(error)) => {
            let message = format!("the hashes of the proof log cannot be read: {error}");
            Err(status::unavailable("LOG_UNPUBLISHED", &message, None))
        }
    }
}

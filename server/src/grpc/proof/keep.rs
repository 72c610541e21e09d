//! How much of the log is kept: receipts for exports, and what is pruned.

use agentctl_api::v1;
use agentd_core::record::Exported;
use agentd_core::state::Kept;
use agentd_core::step::{By, Failure, Prune, Reply, Unmet};
use agentd_core::tlog::{Checkpoint, Note};
use http::Extensions;
use tonic::Status;

use super::super::log::Log;
use super::super::status::Violation;
use super::super::{Services, from_proto, outcome, status};
use crate::agent::Ask;
use crate::failpoint;
use crate::retention;
use crate::snapshot::Taker;
use crate::tlog;

const EXPORT: &str = "ProofService/RecordExport";
const PRUNE: &str = "ProofService/PruneProof";

/// How much of the log is kept, and what has the rest.
pub(super) async fn status(services: &Services) -> Result<v1::GetProofStatusResponse, Status> {
    let log = Log::of(services);
    let Kept { snapshot, exported, exported_seq, .. } = kept(services).await?;
    let dir = services.journal.dir().to_owned();
    let counted = tokio::task::spawn_blocking(move || tlog::count_lines(&dir)).await;
    let (line_files, sealed_files) =
        counted.map_err(|_panicked| status::internal("proof-status"))?;
    Ok(v1::GetProofStatusResponse {
        oldest_seq: log.oldest(),
        newest_seq: log.durable(),
        exported_upto: exported,
        exported_seq,
        snapshot_upto: snapshot,
        line_files,
        sealed_files,
    })
}

async fn kept(services: &Services) -> Result<Kept, Status> {
    services.agent.query(|view| view.state.kept.clone()).await.map_err(outcome::gone)
}

/// Says on record that there is an export. What vouches for it is that it leads to a checkpoint that this log signed.
pub(super) async fn record_export(
    services: &Services,
    extensions: &Extensions,
    mut wire: v1::RecordExportRequest,
) -> Result<v1::RecordExportResponse, Status> {
    let id = std::mem::take(&mut wire.request_id);
    let by = outcome::by(extensions, EXPORT, &id, &wire, false)?;
    let export = signed(services, wire.first_seq.max(1), &wire.checkpoint).await?;
    let seq = done(services.agent.ask(Ask::Exported(export), by).await)?;
    Ok(v1::RecordExportResponse { exported_upto: kept(services).await?.exported, seq })
}

/// What an export has from `first` on that leads to a checkpoint of this log.
async fn signed(services: &Services, first: u64, note: &[u8]) -> Result<Exported, Status> {
    let oldest = Log::of(services).oldest();
    if first > oldest {
        // What lies in between would be in no export at all.
        let rule =
            format!("must be {oldest} or less: the export has to have all that is kept here");
        return Err(status::invalid(&[Violation::new("first_seq", first.to_string(), rule)]));
    }
    let refused = |rule: &str| status::invalid(&[Violation::new("checkpoint", "the note", rule)]);
    let opened =
        Note::parse(note).ok().and_then(|note| Checkpoint::open(&note, services.tlog.key()).ok());
    let Some(Checkpoint { size, root, .. }) = opened else {
        return Err(refused("must be a checkpoint that the key of this log signed"));
    };
    let tlog = services.tlog.clone();
    let own = tokio::task::spawn_blocking(move || tlog.root(size)).await;
    match own {
        Ok(Ok(Some(own))) if own == root => Ok(Exported { first, size, root, request: None }),
        Ok(Ok(_)) => Err(refused("must be a checkpoint of this log as it is")),
        Ok(Err(error)) => {
            let text = format!("the hashes of the proof log cannot be read: {error}");
            Err(status::unavailable("LOG_UNPUBLISHED", &text, None))
        }
        Err(_panicked) => Err(status::internal("record-export")),
    }
}

/// Lets old entries go: the record first, then the files.
pub(super) async fn prune(
    services: &Services,
    extensions: &Extensions,
    mut wire: v1::PruneProofRequest,
) -> Result<v1::PruneProofResponse, Status> {
    let id = std::mem::take(&mut wire.request_id);
    let by = outcome::by(extensions, PRUNE, &id, &wire, wire.validate_only)?;
    let before = match wire.before_seq {
        0 => {
            Err(Violation::new("before_seq", "0", "must be 1 or more: entries are counted from 1"))
        }
        before => Ok(before),
    };
    let (before, reason) = from_proto::both(before, from_proto::reason(&wire.reason))?;
    let log = Log::of(services);
    let mut wish = Prune { before, reason, newest_at: None, keys: Vec::new() };
    let upto = wish.upto();
    wish.newest_at = log.record(upto).await?.map(|found| found.record.at);
    // Only asked at first: a prune that is refused leaves nothing behind, not even a snapshot.
    let asked = By { validate_only: true, ..by.clone() };
    let answer = services.agent.ask(Ask::Prune(wish.clone()), asked).await;
    if !lacks_only_a_snapshot(&answer) {
        done(answer)?;
    }
    if wire.validate_only {
        return Ok(v1::PruneProofResponse { oldest_seq: upto.saturating_add(1), seq: 0 });
    }
    secure_snapshot(services, upto).await?;
    wish.keys = log.reading(move |reader| retention::handed_over(reader, upto)).await?;
    let seq = done(services.agent.ask(Ask::Prune(wish), by).await)?;
    let oldest_seq = kept(services).await?.oldest();
    let journal = services.journal.clone();
    let _ = failpoint::hit("prune.recorded");
    let released =
        tokio::task::spawn_blocking(move || retention::release(&journal, oldest_seq)).await;
    match released {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "pruned entries take up space until the next start");
        }
        Err(error) => tracing::error!(%error, "removing pruned entries panicked"),
    }
    Ok(v1::PruneProofResponse { oldest_seq, seq })
}

/// What a prune was answered with.
type Answer = Result<Result<Reply, crate::agent::Unavailable>, crate::agent::Gone>;

/// The one thing that can be made up for.
fn lacks_only_a_snapshot(answer: &Answer) -> bool {
    let Ok(Ok(Reply::Failed(Failure::Unprunable { unmet, .. }))) = answer else { return false };
    matches!(unmet[..], [Unmet::NoSnapshot { .. }])
}

/// Sees that the snapshot that the prune needs is there, whatever the records say about it.
async fn secure_snapshot(services: &Services, upto: u64) -> Result<(), Status> {
    let (agent, journal) = (services.agent.clone(), services.journal.clone());
    let taken = Taker::new(agent, journal, services.tlog.clone()).secure(upto).await;
    taken.map_err(|error| {
        let text = format!("no snapshot of the state is kept: {error}");
        status::unavailable("LOG_UNAVAILABLE", &text, None)
    })
}

/// The record that answered, 0 for none.
fn done(answer: Answer) -> Result<u64, Status> {
    match outcome::answer(answer)? {
        Reply::Done { seq } => Ok(seq.unwrap_or(0)),
        Reply::Repeated { seq } => Ok(seq),
        other => {
            tracing::error!(?other, "no answer about what is kept");
            Err(status::internal("proof-retention"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use agentctl_api::v1::proof_service_server::ProofService as _;
    use agentd_core::app::Env;

    use super::*;
    use crate::auth::Role;
    use crate::grpc::proof::Service;
    use crate::grpc::telemetry::harness::Server as Harness;
    use crate::journal;
    use crate::snapshot::{self, DIR};

    async fn export(server: &Harness) {
        let published = server.services.tlog.publish_all().await.unwrap();
        let checkpoint = published.note.to_string().into_bytes();
        let request = v1::RecordExportRequest { checkpoint, ..Default::default() };
        let request = Harness::ask(Role::Operator, request);
        Service(server.services.clone()).record_export(request).await.unwrap();
    }

    /// A snapshot is on record, and its file is not what a start needs: a new one is there before anything goes.
    async fn is_replaced(harm: fn(&Path)) {
        let server = Harness::start(Env::Stage);
        server.live(700).await;
        let Services { agent, journal, tlog, .. } = server.services.clone();
        let taker = Taker::new(agent, journal.clone(), tlog);
        taker.take(600).await.unwrap();
        let recorded = kept(&server.services).await.unwrap().snapshot;
        assert!(recorded >= 600 && snapshot::is_held(&journal, 512).unwrap());
        export(&server).await;
        harm(&journal.dir().join(DIR));
        taker.take(600).await.unwrap();
        assert!(!snapshot::is_held(&journal, 512).unwrap(), "the record of it holds nothing");

        let reason = "disk".to_owned();
        let wish = v1::PruneProofRequest { before_seq: 600, reason, ..Default::default() };
        let service = Service(server.services.clone());
        let pruned = service.prune_proof(Harness::ask(Role::Admin, wish)).await.unwrap();
        assert_eq!(pruned.into_inner().oldest_seq, 513);
        assert!(kept(&server.services).await.unwrap().snapshot > recorded, "it is another one");
        assert!(snapshot::is_held(&journal, 512).unwrap());
        drop((service, taker, journal));
        let server = server.restart().await;
        let journal = &server.services.journal;
        assert!(snapshot::is_held(journal, 512).unwrap(), "a start finds it");
        retention::resume(journal, 513);
        assert_eq!(journal.reader().oldest_seq(), 513);
        assert_eq!(journal.status(), journal::Status::Writable);
    }

    /// In every file that there is.
    fn edit(dir: &Path, from: &str, to: &str) {
        for file in fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from));
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_snapshot_that_is_gone_is_taken_again_before_entries_go() {
        is_replaced(|dir| fs::remove_dir_all(dir).unwrap()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_snapshot_of_another_format_is_taken_again_before_entries_go() {
        is_replaced(|dir| edit(dir, "\"format\":1", "\"format\":0")).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_snapshot_that_was_edited_is_taken_again_before_entries_go() {
        is_replaced(|dir| edit(dir, "\"frozen\":", "\"frozen\": ")).await;
    }
}

//! What is kept of the log over the wire: exports on record, and pruning.

use agentd_core::app::Env;
use agentd_core::chain::{Hash, leaf_hash};
use agentd_core::tlog::proof::ProofFile;

use super::*;
use crate::auth::Role;
use crate::grpc::proof::Service;
use crate::grpc::telemetry::harness::Server as Harness;

fn service(server: &Harness) -> Service {
    Service(server.services.clone())
}

async fn prune(
    server: &Harness,
    before_seq: u64,
    validate_only: bool,
) -> Result<v1::PruneProofResponse, Status> {
    let (request_id, reason) = (String::new(), "disk".to_owned());
    let request = v1::PruneProofRequest { request_id, validate_only, before_seq, reason };
    let answer = service(server).prune_proof(Harness::ask(Role::Admin, request)).await;
    answer.map(Response::into_inner)
}

async fn record(server: &Harness, checkpoint: &[u8]) -> Result<v1::RecordExportResponse, Status> {
    let checkpoint = checkpoint.to_vec();
    let request = v1::RecordExportRequest { checkpoint, ..Default::default() };
    let answer = service(server).record_export(Harness::ask(Role::Operator, request)).await;
    answer.map(Response::into_inner)
}

async fn checkpoint(server: &Harness, min_size: u64) -> Vec<u8> {
    let request = Request::new(v1::GetCheckpointRequest { min_size });
    service(server).get_checkpoint(request).await.unwrap().into_inner().checkpoint
}

fn why(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().unwrap().reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_go_once_an_export_is_on_record_and_not_before() {
    let server = Harness::start(Env::Stage);
    server.live(700).await;
    let not_prunable = (Code::FailedPrecondition, "NOT_PRUNABLE".to_owned());
    let refused = prune(&server, 600, false).await.unwrap_err();
    assert_eq!(why(&refused), not_prunable);
    assert!(refused.message().contains("an export is on record for the records up to 0"));
    for before in [2, 256, 100_000, u64::MAX] {
        assert_eq!(
            why(&prune(&server, before, false).await.unwrap_err()),
            not_prunable,
            "{before}"
        );
    }
    let zero = prune(&server, 0, false).await.unwrap_err();
    assert_eq!(zero.code(), Code::InvalidArgument);

    for bad in [&b""[..], b"nothing", b"agentctl.dev/stage/x\n1\nAAAA\n\n"] {
        let refused = record(&server, bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad:?}");
    }
    let note = checkpoint(&server, 650).await;
    let recorded = record(&server, &note).await.unwrap();
    assert!(recorded.seq > 0 && recorded.exported_upto >= 650, "{recorded:?}");
    assert_eq!(record(&server, &note).await.unwrap().seq, 0, "it is on record already");

    let dry = prune(&server, 600, true).await.unwrap();
    assert_eq!((dry.oldest_seq, dry.seq), (513, 0));
    let status = || async {
        let request = Request::new(v1::GetProofStatusRequest {});
        service(&server).get_proof_status(request).await.unwrap().into_inner()
    };
    assert_eq!((status().await.oldest_seq, status().await.snapshot_upto), (1, 0));

    let done = prune(&server, 600, false).await.unwrap();
    assert_eq!(done.oldest_seq, 513);
    let now = status().await;
    assert_eq!((now.oldest_seq, now.exported_seq), (513, recorded.seq));
    assert!(now.snapshot_upto >= 512 && now.newest_seq >= done.seq, "{now:?}");
    let again = prune(&server, 600, false).await.unwrap_err();
    assert_eq!(why(&again), not_prunable);
    assert!(again.message().contains("the oldest record is 513"), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_what_is_pruned_is_told_where_the_log_begins() {
    let server = Harness::start(Env::Stage);
    server.live(700).await;
    record(&server, &checkpoint(&server, 700).await).await.unwrap();
    prune(&server, 600, false).await.unwrap();
    let compacted = (Code::OutOfRange, "WATCH_COMPACTED".to_owned());
    let entry = Request::new(v1::GetProofEntryRequest { seq: 512 });
    let gone = (Code::NotFound, "ENTRY_PRUNED".to_owned());
    assert_eq!(why(&service(&server).get_proof_entry(entry).await.unwrap_err()), gone);
    let entry = Request::new(v1::GetProofEntryRequest { seq: 513 });
    service(&server).get_proof_entry(entry).await.unwrap();
    let export = v1::ExportProofRequest { first_seq: 1, last_seq: 600, ..Default::default() };
    let export = service(&server).export_proof(Request::new(export)).await;
    assert_eq!(why(&export.err().unwrap()), compacted);
    let watch =
        v1::WatchProofEntriesRequest { start: Some(From::AfterSeq(5)), ..Default::default() };
    let watch = service(&server).watch_proof_entries(Request::new(watch)).await;
    let status = watch.err().unwrap();
    assert_eq!(why(&status), compacted);
    let oldest = status.get_details_error_info().unwrap().metadata["oldest_cursor"].clone();
    let watch =
        v1::WatchProofEntriesRequest { start: Some(From::Cursor(oldest)), ..Default::default() };
    let watch = service(&server).watch_proof_entries(Request::new(watch)).await;
    let mut watch = watch.unwrap().into_inner();
    let first = loop {
        let item = tokio::time::timeout(std::time::Duration::from_secs(60), watch.next()).await;
        let item = item.expect("it comes").expect("the watch goes on").unwrap();
        if let Some(v1::watch_proof_entries_response::Item::Entry(entry)) = item.item {
            break entry.seq;
        }
    };
    assert_eq!(first, 513, "the cursor that came with the error is one to go on from");
    // What is kept is sound, judged again, and proven together with what is gone.
    let verify = v1::VerifyProofRequest { recheck_decisions: true, check_index: false };
    let verified = service(&server).verify_proof(Request::new(verify)).await.unwrap().into_inner();
    assert!(verified.valid && verified.first_seq == 513, "{verified:?}");
    let key = server.services.tlog.key().clone();
    for (seq, is_kept) in [(1, false), (512, false), (513, true), (520, true)] {
        let proof = v1::GetInclusionProofRequest { seq, tree_size: 0 };
        let proof = service(&server).get_inclusion_proof(Request::new(proof)).await.unwrap();
        let proof = proof.into_inner();
        let file = ProofFile::parse(&proof.tlog_proof).unwrap();
        assert_eq!(file.entry().is_some(), is_kept, "{seq}");
        let leaf = Hash::from_bytes(proof.leaf_hash.as_slice().try_into().unwrap());
        file.verify_leaf(leaf, &key).unwrap();
    }
}

/// What an export answers with: hashes and lines, in the order in which they came.
async fn exported(server: &Harness, request: v1::ExportProofRequest) -> (Vec<Hash>, Vec<String>) {
    let first = request.first_seq;
    let stream = service(server).export_proof(Request::new(request)).await.unwrap();
    let (mut hashes, mut lines) = (Vec::new(), Vec::new());
    let mut stream = stream.into_inner();
    while let Some(part) = stream.next().await {
        let part = part.unwrap();
        assert!(part.leaf_hashes.is_empty() || lines.is_empty(), "hashes come first");
        hashes.extend(part.leaf_hashes.as_chunks().0.iter().map(|hash| Hash::from_bytes(*hash)));
        let text = String::from_utf8(part.lines).unwrap();
        lines.extend(text.lines().map(str::to_owned));
        assert_eq!(part.last_seq, first + (hashes.len() + lines.len()) as u64 - 1);
    }
    (hashes, lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_of_all_that_was_has_the_hashes_of_what_is_pruned() {
    let server = Harness::start(Env::Stage);
    server.live(700).await;
    record(&server, &checkpoint(&server, 700).await).await.unwrap();
    let all = v1::ExportProofRequest { first_seq: 1, last_seq: 700, ..Default::default() };
    let (_, before) = exported(&server, all.clone()).await;
    prune(&server, 600, false).await.unwrap();
    for first_seq in [1, 256, 300, 512, 513, 600] {
        let wanted = v1::ExportProofRequest { first_seq, pruned_as_hashes: true, ..all.clone() };
        let (hashes, lines) = exported(&server, wanted).await;
        let was: Vec<Hash> = before[first_seq as usize - 1..]
            .iter()
            .map(|line| leaf_hash(line.as_bytes()))
            .take(hashes.len())
            .collect();
        assert_eq!(hashes, was, "{first_seq}");
        assert_eq!(hashes.len() as u64, 513_u64.saturating_sub(first_seq));
        assert_eq!(lines, before[first_seq.max(513) as usize - 1..], "{first_seq}");
    }
    let (apps, pruned_as_hashes) = (vec!["web".to_owned()], true);
    let filter = Some(v1::ProofFilter { apps, ..Default::default() });
    let filtered = v1::ExportProofRequest { filter, pruned_as_hashes, ..all };
    let refused = service(&server).export_proof(Request::new(filtered)).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_lacks_what_is_kept_is_no_reason_to_prune_it() {
    let server = Harness::start(Env::Stage);
    server.live(700).await;
    record(&server, &checkpoint(&server, 700).await).await.unwrap();
    prune(&server, 600, false).await.unwrap();
    server.live(300).await;
    let note = checkpoint(&server, 1_000).await;
    let from = |first_seq| {
        let request =
            v1::RecordExportRequest { checkpoint: note.clone(), first_seq, ..Default::default() };
        let service = service(&server);
        async move { service.record_export(Harness::ask(Role::Operator, request)).await }
    };
    for late in [514, 769, u64::MAX] {
        let refused = from(late).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{late}");
        assert!(refused.message().contains("`first_seq` must be 513 or less"), "{refused}");
    }
    assert_eq!(why(&prune(&server, 900, false).await.unwrap_err()).1, "NOT_PRUNABLE");
    assert!(from(513).await.unwrap().into_inner().seq > 0);
    assert_eq!(prune(&server, 900, false).await.unwrap().oldest_seq, 769);
}

//! The log in pages, verified and exported.

use agentctl_api::v1::proof_service_server::ProofService as _;
use agentctl_api::v1::watch_proof_entries_request::Start as From;
use proptest::prelude::*;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::grpc::decision::tests::propose;
use crate::grpc::decision::tests::server::{Server, adjustment, proposal};
use crate::grpc::feed::tests::Book;

mod bodies;
mod indexed;
mod kept;
mod long;
mod tree;

async fn list(
    book: &Book,
    request: v1::ListProofEntriesRequest,
) -> Result<v1::ListProofEntriesResponse, Status> {
    let answer = book.proof().list_proof_entries(Request::new(request)).await;
    answer.map(Response::into_inner)
}

/// All pages of a question: every entry, and the number of pages.
async fn walk(book: &Book, mut request: v1::ListProofEntriesRequest) -> (Vec<u64>, usize) {
    let (mut seqs, mut pages) = (Vec::new(), 0);
    loop {
        let page = list(book, request.clone()).await.unwrap();
        pages += 1;
        seqs.extend(page.entries.iter().map(|entry| entry.seq));
        if page.next_page_token.is_empty() {
            return (seqs, pages);
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_walk_everything_once_in_either_direction() {
    let mut book = Book::open();
    book.write(1_234).await;
    for page_size in [7, 100, 1_000, 2_000] {
        let request = v1::ListProofEntriesRequest { page_size, ..Default::default() };
        let (seqs, pages) = walk(&book, request.clone()).await;
        assert_eq!(seqs, (1..=1_234).collect::<Vec<_>>());
        assert_eq!(pages, 1_234_usize.div_ceil(usize::try_from(page_size.min(1_000)).unwrap()));
        let order = v1::ProofOrder::NewestFirst.into();
        let (seqs, _) = walk(&book, v1::ListProofEntriesRequest { order, ..request }).await;
        assert_eq!(seqs, (1..=1_234).rev().collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_rarely_matches_costs_a_bounded_read_per_page() {
    let mut book = Book::open();
    book.write(45_000).await;
    let events = vec!["RL_DECISION".to_owned()];
    let filter = Some(v1::ProofFilter { events, ..Default::default() });
    let request = v1::ListProofEntriesRequest { filter, exhaustive: true, ..Default::default() };
    let first = list(&book, request.clone()).await.unwrap();
    assert!(first.entries.is_empty() && !first.next_page_token.is_empty(), "short, with a token");
    let (seqs, pages) = walk(&book, request).await;
    assert_eq!((seqs, pages), (Vec::new(), 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_pick_by_app_and_time() {
    let mut book = Book::open();
    book.write(40).await;
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let filter = v1::ProofFilter {
        apps: vec!["web".into()],
        start_time: time(10),
        end_time: time(20),
        ..Default::default()
    };
    let request = v1::ListProofEntriesRequest { filter: Some(filter), ..Default::default() };
    assert_eq!(walk(&book, request.clone()).await.0, [10, 12, 14, 16, 18]);
    let order = v1::ProofOrder::NewestFirst.into();
    let back = v1::ListProofEntriesRequest { order, page_size: 2, ..request };
    assert_eq!(walk(&book, back).await.0, [18, 16, 14, 12, 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_question_is_refused() {
    let mut book = Book::open();
    book.write(10).await;
    let request = v1::ListProofEntriesRequest { page_size: 3, ..Default::default() };
    let token = list(&book, request.clone()).await.unwrap().next_page_token;
    for order in [v1::ProofOrder::NewestFirst, v1::ProofOrder::OldestFirst] {
        let other = v1::ListProofEntriesRequest {
            page_token: token.clone(),
            order: order.into(),
            filter: Some(v1::ProofFilter { apps: vec!["web".into()], ..Default::default() }),
            ..request.clone()
        };
        let status = list(&book, other).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let bad = status.get_details_bad_request().expect("a BadRequest");
        assert_eq!(bad.field_violations[0].field, "page_token");
    }
    let bad = v1::ListProofEntriesRequest { page_size: -1, order: 9, ..request };
    let status = list(&book, bad).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_carries_its_exact_line_and_hash() {
    let mut book = Book::open();
    book.write(3).await;
    let page = list(&book, v1::ListProofEntriesRequest::default()).await.unwrap();
    let mut verifier = agentd_core::chain::LineVerifier::new();
    for entry in &page.entries {
        verifier.check(&entry.raw).unwrap();
        assert_eq!(entry.hash, verifier.head().to_string());
        assert_eq!(entry.event, "STATE_TRANSITION");
    }
    assert_eq!(page.entries[1].app, "web");
}

async fn exported(
    book: &Book,
    request: v1::ExportProofRequest,
) -> Result<(Vec<u8>, u64, Result<(), Status>), Status> {
    let mut stream = book.proof().export_proof(Request::new(request)).await?.into_inner();
    let (mut bytes, mut last) = (Vec::new(), 0);
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => {
                assert_eq!(chunk.lines.last(), Some(&b'\n'), "whole lines");
                bytes.extend_from_slice(&chunk.lines);
                last = chunk.last_seq;
            }
            Err(status) => return Ok((bytes, last, Err(status))),
        }
    }
    Ok((bytes, last, Ok(())))
}

fn lines_of(book: &Book) -> Vec<u8> {
    let mut bytes = Vec::new();
    let dir = book.dir.path().join("proof");
    crate::journal::read_dir(&dir, &mut |_, line| {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    })
    .unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_the_log_byte_for_byte() {
    let mut book = Book::open();
    book.write(3_000).await;
    let (bytes, last, end) = exported(&book, v1::ExportProofRequest::default()).await.unwrap();
    assert!(end.is_ok() && last == 3_000);
    assert_eq!(bytes, lines_of(&book));
    let some = v1::ExportProofRequest { first_seq: 10, last_seq: 12, ..Default::default() };
    let (bytes, last, _) = exported(&book, some).await.unwrap();
    assert_eq!((bytes.iter().filter(|byte| **byte == b'\n').count(), last), (3, 12));
    for (first_seq, last_seq, code) in
        [(12, 10, Code::InvalidArgument), (1, 3_001, Code::OutOfRange)]
    {
        let bad = v1::ExportProofRequest { first_seq, last_seq, ..Default::default() };
        assert_eq!(exported(&book, bad).await.unwrap_err().code(), code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_log_verifies() {
    let mut book = Book::open();
    let verify = v1::VerifyProofRequest { recheck_decisions: true, ..Default::default() };
    let report = book.proof().verify_proof(Request::new(verify)).await.unwrap().into_inner();
    assert!(report.valid && report.entry_count == 0 && report.last_seq == 0, "{report:?}");
    book.write(50).await;
    let report = book.proof().verify_proof(Request::new(verify)).await.unwrap().into_inner();
    assert!(report.valid, "{report:?}");
    assert_eq!((report.entry_count, report.first_seq, report.last_seq), (50, 1, 50));
    assert_eq!(report.head_hash, book.services.journal.head().hash.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_decision_comes_out_the_same_again() {
    let server = Server::ready().await;
    for action in ["drop_database", "RESTART"] {
        propose(&server, proposal(action)).await.unwrap();
    }
    propose(&server, adjustment("0.85")).await.unwrap();
    let proof = Service(server.services.clone());
    let verify = v1::VerifyProofRequest { recheck_decisions: true, ..Default::default() };
    let report = proof.verify_proof(Request::new(verify)).await.unwrap().into_inner();
    assert!(report.valid, "{report:?}");
    assert!(report.decisions_rechecked >= 4, "{report:?}");
    assert_eq!(report.decisions_different, 0);

    let filter = v1::ProofFilter {
        events: vec!["RL_DECISION".into()],
        reasons: vec!["UNSAFE_ACTION_REFUSED".into()],
        ..Default::default()
    };
    let request = v1::ListProofEntriesRequest { filter: Some(filter), ..Default::default() };
    let found = proof.list_proof_entries(Request::new(request)).await.unwrap().into_inner();
    let [entry] = &found.entries[..] else { panic!("one decision: {found:?}") };
    assert_eq!(entry.decision_id, format!("dec-{}", entry.seq));

    // Everything that belongs to it, by its id alone.
    let decision_ids = vec![entry.decision_id.clone()];
    let filter = v1::ProofFilter { decision_ids, ..Default::default() };
    let request = v1::ListProofEntriesRequest { filter: Some(filter), ..Default::default() };
    let found = proof.list_proof_entries(Request::new(request)).await.unwrap().into_inner();
    let events: Vec<&str> = found.entries.iter().map(|entry| entry.event.as_str()).collect();
    for expected in ["RL_DECISION", "UNSAFE_ACTION_REFUSED", "ORCH_REFUSE"] {
        assert!(events.contains(&expected), "{events:?}");
    }
}

/// Flips a byte inside of the line of record `seq`.
fn damage(dir: &std::path::Path, seq: u64) {
    let wal = dir.join("proof").join("wal");
    let needle = format!("step-{seq}\"");
    for file in std::fs::read_dir(wal).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(needle.len()).position(|w| w == needle.as_bytes());
        if let Some(at) = found {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return;
        }
    }
    panic!("record {seq} is not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_served_up_to_it_and_named_at_it() {
    let mut book = Book::open();
    book.write(100).await;
    damage(book.dir.path(), 60);
    for reopened in [false, true] {
        if reopened {
            let Book { dir, services, .. } = book;
            drop(services);
            book = Book::open_in(dir);
        }
        let first = list(&book, v1::ListProofEntriesRequest::default()).await.unwrap();
        let seqs: Vec<u64> = first.entries.iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, (1..=59).collect::<Vec<_>>(), "reopened: {reopened}");
        let page_token = first.next_page_token;
        let rest = v1::ListProofEntriesRequest { page_token, ..Default::default() };
        let status = list(&book, rest).await.unwrap_err();
        assert_eq!(status.code(), Code::DataLoss, "reopened: {reopened}: {status:?}");
        assert_eq!(status.get_details_error_info().unwrap().metadata["seq"], "60");

        let (bytes, last, end) = exported(&book, v1::ExportProofRequest::default()).await.unwrap();
        assert_eq!(last, 59);
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 59);
        assert_eq!(end.unwrap_err().code(), Code::DataLoss, "reopened: {reopened}");

        let start = Some(From::Beginning(true));
        let watch = v1::WatchProofEntriesRequest { start, ..Default::default() };
        let mut stream =
            book.proof().watch_proof_entries(Request::new(watch)).await.unwrap().into_inner();
        if reopened {
            let mut seen = 0;
            let status = loop {
                match stream.next().await.expect("it ends with a status") {
                    Ok(item) => seen = item_seq(&item).unwrap_or(seen),
                    Err(status) => break status,
                }
            };
            assert_eq!((seen, status.code()), (59, Code::DataLoss));
        }

        let verify = v1::VerifyProofRequest { recheck_decisions: true, ..Default::default() };
        let report = book.proof().verify_proof(Request::new(verify)).await.unwrap().into_inner();
        let fault = report.fault.expect("a fault");
        assert_eq!((report.valid, report.last_seq, fault.seq), (false, 59, 60));
        assert_eq!(fault.reason, "CHAIN_BROKEN");
    }
}

fn item_seq(item: &v1::WatchProofEntriesResponse) -> Option<u64> {
    match item.item.as_ref()? {
        v1::watch_proof_entries_response::Item::Entry(entry) => Some(entry.seq),
        v1::watch_proof_entries_response::Item::Bookmark(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_is_asked_is_answered_or_refused(
        page_size in any::<i32>(),
        order in any::<i32>(),
        text in ".{0,80}",
        number in any::<u64>(),
        seconds in any::<i64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut book = Book::open();
            book.write(3).await;
            let filter = Some(v1::ProofFilter {
                apps: vec![text.clone()],
                start_time: Some(prost_types::Timestamp { seconds, nanos: page_size }),
                ..Default::default()
            });
            let page_token = text.clone();
            let request = v1::ListProofEntriesRequest { page_size, page_token, filter, order, exhaustive: false };
            let _ = list(&book, request).await;
            for start in [From::Cursor(text.clone()), From::AfterSeq(number)] {
                let start = Some(start);
                let request = v1::WatchProofEntriesRequest { start, ..Default::default() };
                let _ = book.proof().watch_proof_entries(Request::new(request)).await;
            }
            let request =
                v1::ExportProofRequest {
                    first_seq: number,
                    last_seq: number,
                    ..Default::default()
                };
            let _ = exported(&book, request).await;
        });
    }
}

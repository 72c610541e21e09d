//! An entry whose body is too long for a line: listed, verified and exported like any other, and missed when it is gone.

use agentd_core::record::LINE_MAX;

use super::*;
use crate::agent::Ask;
use crate::blobs;

/// A log whose entry 11 has a long body, in one file beside it.
async fn book() -> (Book, std::path::PathBuf) {
    let mut book = Book::open();
    book.write(10).await;
    book.write_long(LINE_MAX + 1).await;
    book.write(10).await;
    book.indexed().await;
    let mut path = book.dir.path().join("proof").join(blobs::DIR).join("sha256");
    for _ in 0..2 {
        path = std::fs::read_dir(path).unwrap().next().unwrap().unwrap().path();
    }
    (book, path)
}

fn injected() -> v1::ListProofEntriesRequest {
    let events = vec!["FAILURE_INJECTED".to_owned()];
    let filter = v1::ProofFilter { events, ..Default::default() };
    v1::ListProofEntriesRequest { filter: Some(filter), ..Default::default() }
}

async fn report(book: &Book) -> v1::VerifyProofResponse {
    let verify = v1::VerifyProofRequest { check_index: true, recheck_decisions: true };
    book.proof().verify_proof(Request::new(verify)).await.unwrap().into_inner()
}

async fn export(book: &Book) -> Result<Vec<v1::ExportProofResponse>, Status> {
    let request = Request::new(v1::ExportProofRequest::default());
    let mut stream = book.proof().export_proof(request).await.unwrap().into_inner();
    let mut parts = Vec::new();
    while let Some(part) = stream.next().await {
        parts.push(part?);
    }
    Ok(parts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_there_in_every_answer() {
    let (book, path) = book().await;
    assert_eq!(walk(&book, injected()).await, (vec![11], 1));
    let entry = list(&book, injected()).await.unwrap().entries.remove(0);
    assert!(entry.raw.len() < 500, "the line names the body, and is what is hashed");
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(String::from_utf8(entry.raw).unwrap().contains(name));
    let report = report(&book).await;
    assert!(report.valid, "{report:?}");
    let parts = export(&book).await.unwrap();
    let bodies: Vec<_> = parts.iter().flat_map(|part| &part.bodies).collect();
    assert_eq!(bodies, [&std::fs::read(path).unwrap()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_to_it_is_named_and_the_rest_goes_on() {
    let (book, path) = book().await;
    let sound = std::fs::read(&path).unwrap();
    let mut edited = sound.clone();
    edited[100] ^= 1;
    for harm in [Some(edited), Some(Vec::new()), None] {
        match &harm {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let report = report(&book).await;
        let fault = report.fault.unwrap();
        assert_eq!((report.valid, fault.seq, fault.reason.as_str()), (false, 11, "BODY_LOST"));
        assert_eq!(report.last_seq, 21, "the chain is sound: {}", fault.summary);
        let refused = list(&book, injected()).await.unwrap_err();
        assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
        assert_eq!(export(&book).await.unwrap_err().code(), Code::DataLoss);
        let rest = v1::ListProofEntriesRequest { page_size: 5, ..Default::default() };
        assert_eq!(list(&book, rest).await.unwrap().entries.len(), 5);
    }
    std::fs::write(&path, sound).unwrap();
    assert!(report(&book).await.fault.is_none_or(|fault| fault.reason == "INDEX_DIFFERS"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_records_in_full_what_does_not_fit_into_a_line() {
    let server = Server::start();
    let app = agentd_core::app::AppName::parse("web").unwrap();
    let what = "long ".repeat(LINE_MAX);
    let ask = Ask::Inject { app, scenario: "crash".to_owned(), what: what.clone() };
    let by = agentd_core::step::By {
        principal: "operator".into(),
        human: true,
        request: None,
        validate_only: false,
    };
    let _answer = server.services.agent.ask(ask, by).await.unwrap().unwrap();
    let service = Service(server.services.clone());
    let answer = service.list_proof_entries(Request::new(injected())).await.unwrap().into_inner();
    let [entry] = &answer.entries[..] else { panic!("one entry: {answer:?}") };
    let record = server.services.journal.blobs().record(&entry.raw).unwrap();
    let agentd_core::record::Body::Injected { what: read, .. } = record.body else {
        panic!("another body")
    };
    assert_eq!(read, what);
}

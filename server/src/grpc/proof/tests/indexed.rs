//! Lists that the index answers: faster, and otherwise the same.

use super::*;

fn of_web(exhaustive: bool) -> v1::ListProofEntriesRequest {
    let filter = v1::ProofFilter { apps: vec!["web".to_owned()], ..Default::default() };
    v1::ListProofEntriesRequest {
        filter: Some(filter),
        page_size: 300,
        exhaustive,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_the_same_with_the_index_without_it_and_half_way() {
    let mut book = Book::open();
    book.write(3_000).await;
    book.indexed().await;
    let even: Vec<u64> = (1..=3_000).filter(|seq| seq % 2 == 0).collect();
    for exhaustive in [false, true] {
        assert_eq!(walk(&book, of_web(exhaustive)).await.0, even, "exhaustive: {exhaustive}");
        let order = v1::ProofOrder::NewestFirst.into();
        let (back, _) =
            walk(&book, v1::ListProofEntriesRequest { order, ..of_web(exhaustive) }).await;
        assert!(back.iter().eq(even.iter().rev()), "exhaustive: {exhaustive}");
    }
    // The newest ones are found before the index has them.
    for _ in 0..20 {
        book.write(10).await;
        let order = v1::ProofOrder::NewestFirst.into();
        let newest =
            list(&book, v1::ListProofEntriesRequest { order, ..of_web(false) }).await.unwrap();
        assert_eq!(newest.entries[0].seq, book.services.journal.head().next_seq - 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rare_entry_of_a_long_log_is_on_the_first_page() {
    let mut book = Book::open();
    book.write(45_000).await;
    book.indexed().await;
    let rare = |exhaustive| {
        let filter =
            v1::ProofFilter { events: vec!["RL_DECISION".to_owned()], ..Default::default() };
        v1::ListProofEntriesRequest { filter: Some(filter), exhaustive, ..Default::default() }
    };
    assert_eq!(walk(&book, rare(false)).await, (vec![], 1), "nothing, in one page");
    assert_eq!(walk(&book, rare(true)).await.1, 3, "nothing, after three pages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_index_forges_nothing_and_is_found_out() {
    let mut book = Book::open();
    book.write(500).await;
    book.indexed().await;
    let sound = walk(&book, of_web(true)).await.0;
    let verify = v1::VerifyProofRequest { check_index: true, ..Default::default() };
    let proof = book.proof();
    let report = || async { proof.verify_proof(Request::new(verify)).await.unwrap().into_inner() };
    assert_eq!((report().await.valid, report().await.index_checked), (true, 500));

    // Every odd entry is said to be of `web`, none of the even ones is, and one that is not there is.
    let database = book.dir.path().join("proof").join(crate::index::FILE);
    let edit = rusqlite::Connection::open(&database).unwrap();
    edit.execute_batch(
        "UPDATE entry SET app = CASE WHEN seq % 2 = 1 THEN (SELECT id FROM name WHERE text = 'web') END;
         INSERT INTO entry VALUES (7777, 1, (SELECT id FROM name WHERE text = 'web'), NULL, NULL);",
    )
    .unwrap();
    assert_eq!(walk(&book, of_web(false)).await.0, sound);
    for entry in list(&book, of_web(false)).await.unwrap().entries {
        assert_eq!((entry.app.as_str(), entry.seq % 2), ("web", 0), "as the log has it");
    }
    // It was thrown away at the first look, and is made anew with the next entry.
    book.write(1).await;
    book.indexed().await;
    assert_eq!(walk(&book, of_web(false)).await.0, sound);
    assert_eq!((report().await.valid, report().await.index_checked), (true, 501));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_names_the_first_entry_that_differs() {
    let mut book = Book::open();
    book.write(500).await;
    book.indexed().await;
    let database = book.dir.path().join("proof").join(crate::index::FILE);
    let edit = rusqlite::Connection::open(&database).unwrap();
    edit.execute_batch("UPDATE entry SET app = NULL WHERE seq IN (42, 44)").unwrap();
    let verify = v1::VerifyProofRequest { check_index: true, ..Default::default() };
    let report = book.proof().verify_proof(Request::new(verify)).await.unwrap().into_inner();
    let fault = report.fault.unwrap();
    assert_eq!((report.valid, fault.seq, fault.reason.as_str()), (false, 42, "INDEX_DIFFERS"));
    assert!(
        fault.summary.contains("its app is none in the index and `web` in the log"),
        "{}",
        fault.summary
    );
    assert_eq!(report.last_seq, 500, "the log itself is sound");
}

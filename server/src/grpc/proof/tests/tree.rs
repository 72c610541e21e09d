//! Entries, checkpoints and proofs over the wire.

use agentd_core::chain::{Hash, leaf_hash};
use agentd_core::tlog::proof::{ProofFile, verify_consistency, verify_inclusion};
use agentd_core::tlog::{Checkpoint, Note, VerifierKey};

use super::*;

async fn checkpoint(book: &Book, min_size: u64) -> Result<(Checkpoint, VerifierKey), Status> {
    let request = Request::new(v1::GetCheckpointRequest { min_size });
    let answer = book.proof().get_checkpoint(request).await?.into_inner();
    let key: VerifierKey = answer.verifier_key.parse().unwrap();
    let note = Note::parse(&answer.checkpoint).unwrap();
    let checkpoint = Checkpoint::open(&note, &key).unwrap();
    assert_eq!((answer.size, &answer.origin), (checkpoint.size, &checkpoint.origin));
    assert_eq!(answer.root, checkpoint.root.as_bytes());
    assert!(answer.durable_size >= answer.size);
    Ok((checkpoint, key))
}

fn hashes(wire: &[Vec<u8>]) -> Vec<Hash> {
    wire.iter().map(|hash| Hash::from_bytes(hash.as_slice().try_into().unwrap())).collect()
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

#[tokio::test]
async fn every_entry_is_proven_under_a_checkpoint_that_is_made_for_it() {
    let mut book = Book::open();
    book.write(300).await;
    for seq in [1, 2, 255, 256, 257, 300] {
        let entry = Request::new(v1::GetProofEntryRequest { seq });
        let entry = book.proof().get_proof_entry(entry).await.unwrap().into_inner().entry.unwrap();
        assert_eq!((entry.seq, entry.hash.clone()), (seq, leaf_hash(&entry.raw).to_string()));
        let request = Request::new(v1::GetInclusionProofRequest { seq, tree_size: 0 });
        let proof = book.proof().get_inclusion_proof(request).await.unwrap().into_inner();
        let (now, key) = checkpoint(&book, 0).await.unwrap();
        assert!(now.size >= seq, "made because it was needed");
        let file = ProofFile::parse(&proof.tlog_proof).unwrap();
        assert_eq!(file.verify(&entry.raw, &key).unwrap().size, proof.tree_size);
        assert_eq!(file.entry(), Some(entry.raw.as_slice()));
        assert_eq!((file.index, file.hashes), (seq - 1, hashes(&proof.hashes)));
        // In an older tree too, where it is in one.
        let request = Request::new(v1::GetInclusionProofRequest { seq, tree_size: 300 });
        let proof = book.proof().get_inclusion_proof(request).await.unwrap().into_inner();
        let (whole, _) = checkpoint(&book, 300).await.unwrap();
        let leaf = Hash::from_bytes(proof.leaf_hash.as_slice().try_into().unwrap());
        verify_inclusion(leaf, seq - 1, 300, &hashes(&proof.hashes), whole.root).unwrap();
        assert!(proof.tlog_proof.is_empty(), "the checkpoint of an older tree is not kept");
    }
}

#[tokio::test]
async fn a_log_that_grew_proves_that_it_only_grew() {
    let mut book = Book::open();
    let mut seen = Vec::new();
    for more in [0, 1, 2, 253, 1, 300] {
        book.write(more).await;
        let durable = book.services.journal.head().next_seq - 1;
        seen.push(checkpoint(&book, durable).await.unwrap().0);
    }
    let last = seen.last().unwrap();
    for old in &seen {
        let request = v1::GetConsistencyProofRequest { first_size: old.size, second_size: 0 };
        let proof = book.proof().get_consistency_proof(Request::new(request)).await.unwrap();
        let proof = proof.into_inner();
        assert_eq!((proof.first_size, proof.second_size), (old.size, last.size));
        let (a, b) = ((old.size, old.root), (last.size, last.root));
        verify_consistency(a, b, &hashes(&proof.hashes)).unwrap();
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_with_its_rule() {
    let mut book = Book::open();
    book.write(10).await;
    let refused = checkpoint(&book, 11).await.unwrap_err();
    assert_eq!((refused.code(), &*reason(&refused)), (Code::OutOfRange, "AHEAD_OF_HEAD"));
    let service = book.proof();
    let entry = |seq| service.get_proof_entry(Request::new(v1::GetProofEntryRequest { seq }));
    let prove = |seq, tree_size| {
        let request = v1::GetInclusionProofRequest { seq, tree_size };
        service.get_inclusion_proof(Request::new(request))
    };
    let grew = |first_size, second_size| {
        let request = v1::GetConsistencyProofRequest { first_size, second_size };
        service.get_consistency_proof(Request::new(request))
    };
    let (zero, beyond) = (entry(0).await.unwrap_err(), entry(11).await.unwrap_err());
    assert_eq!((zero.code(), beyond.code()), (Code::InvalidArgument, Code::NotFound));
    assert_eq!(prove(0, 0).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(prove(11, 0).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(prove(5, 4).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(prove(5, 11).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(grew(5, 4).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(grew(5, 11).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(grew(11, 0).await.unwrap_err().code(), Code::OutOfRange);
}

//! A policy next to the log: who has to have signed and seen a checkpoint before it is believed.

use agentd_core::tlog::policy::Policy;

use super::tamper::Tree;
use super::*;

const WITNESS: &str =
    "witness.example/conformance+c8465555+BItTAZgtqjSsPBbkpJtyVWByElfKnan7hL+YNqnDQxiP";

fn check(tree: &Tree, policy: &str) -> Result<VerificationView, Failure> {
    let policy = Policy::parse(policy.as_bytes()).unwrap();
    static_tree::verify(&tree.path(), Belief { key: None, policy: Some(&policy) }, false)
}

#[test]
fn the_logs_of_a_policy_are_the_keys_that_are_believed() {
    let tree = Tree::new();
    let view = check(&tree, &format!("log {}\nquorum none\n", tree.key.verifier())).unwrap();
    assert!(view.valid && !view.key_came_with_it, "the key is the one in the policy");
    let name = tree.key.verifier().name().to_owned();
    let other = SignerKey::from_seed(&name, &[6; 32]).unwrap();
    let failure = check(&tree, &format!("log {}\nquorum none\n", other.verifier())).unwrap_err();
    assert_eq!(failure.exit(), Exit::ProofFailed, "of the same name, with another key");
}

#[test]
fn a_checkpoint_that_no_witness_saw_does_not_pass_a_policy_that_asks_for_one() {
    let tree = Tree::new();
    let log = tree.key.verifier();
    let policy = format!("log {log}\nwitness w1 {WITNESS}\nquorum w1\n");
    let failure = check(&tree, &policy).unwrap_err();
    assert_eq!(failure.exit(), Exit::ProofFailed);
    let said = format!("{failure:?}");
    assert!(said.contains("the quorum `w1` is not met: 0 of 1 witnesses"), "{said}");
}

#[test]
fn a_policy_that_cannot_be_read_is_refused_with_all_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy");
    let read = || claims::policy(path.to_str().unwrap()).unwrap_err();
    assert!(read().contains("No such file"), "{}", read());
    std::fs::write(&path, "log x\nquorum w1\n").unwrap();
    let said = read();
    assert!(said.contains("line 1: `x`") && said.contains("line 2: `w1` is not defined"), "{said}");
    std::fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
    assert!(read().contains("64 KiB"), "{}", read());
}

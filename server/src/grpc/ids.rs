//! Ids and digests as callers see them: a prefix and the sequence number of a record.

use tonic::Status;

use super::from_proto;
use super::status::{self, Violation};

const DECISION: &str = "dec-";
const APPROVAL: &str = "apr-";
const ATTEMPT: &str = "act-";
const SHA256: &str = "sha256:";

/// `dec-<seq>`: the decision recorded at `seq`.
#[must_use]
pub fn decision(seq: u64) -> String {
    format!("{DECISION}{seq}")
}

/// `apr-<seq>`: the request for approval recorded at `seq`.
#[must_use]
pub fn approval(seq: u64) -> String {
    format!("{APPROVAL}{seq}")
}

/// `act-<seq>`: the attempt that the decision recorded at `seq` permits.
#[must_use]
pub fn attempt(decision: u64) -> String {
    format!("{ATTEMPT}{decision}")
}

/// `sha256:<hex>`; empty stays empty.
#[must_use]
pub fn digest(hex: &str) -> String {
    if hex.is_empty() { String::new() } else { format!("{SHA256}{hex}") }
}

/// The sequence number in a decision id, which stands in `field`.
///
/// # Errors
/// The violation, when it is no such id.
pub fn parse_decision(field: &str, id: &str) -> Result<u64, Violation> {
    parse(DECISION, field, id)
}

/// The sequence number in an approval id.
///
/// # Errors
/// `INVALID_ARGUMENT` when it is no such id.
pub fn parse_approval(id: &str) -> Result<u64, Status> {
    parse(APPROVAL, "approval_id", id).map_err(|violation| status::invalid(&[violation]))
}

/// The hex part of `sha256:<hex>`, which stands in `field`.
///
/// # Errors
/// The violation, when it is no such digest.
pub fn parse_digest(field: &str, text: &str) -> Result<String, Violation> {
    let hex = text.strip_prefix(SHA256).filter(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    });
    let rule = "must be `sha256:` and 64 lower-case hex digits";
    hex.map(str::to_owned).ok_or_else(|| Violation::new(field, text, rule))
}

fn parse(prefix: &str, field: &str, id: &str) -> Result<u64, Violation> {
    from_proto::seq_of(prefix, id)
        .ok_or_else(|| Violation::new(field, id, format!("must be `{prefix}` and a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_read_back_and_has_one_spelling() {
        for seq in [1, 512, u64::MAX] {
            assert_eq!(parse_decision("decision_id", &decision(seq)), Ok(seq));
            assert_eq!(parse_approval(&approval(seq)).unwrap(), seq);
        }
        for bad in ["", "dec-", "dec-0", "dec-01", "dec-+1", "dec--1", "dec-1 ", "DEC-1", "apr-1"] {
            assert!(parse_decision("decision_id", bad).is_err(), "{bad}");
        }
        assert!(parse_decision("decision_id", "dec-18446744073709551616").is_err(), "too large");
    }

    #[test]
    fn a_digest_is_named_by_its_algorithm() {
        let hex = "ab".repeat(32);
        assert_eq!(parse_digest("plan_digest", &digest(&hex)), Ok(hex.clone()));
        for bad in [hex.clone(), digest(&hex[1..]), digest(&hex.to_uppercase()), String::new()] {
            assert!(parse_digest("plan_digest", &bad).is_err(), "{bad}");
        }
        assert_eq!(digest(""), "", "before the first policy there is no digest");
    }
}

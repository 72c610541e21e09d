//! The hash chain of the proof log, over its exported lines alone.
//!
//! One record is one JSON line without its newline. Each line carries `seq` (dense, from 1) and `prev`, the leaf hash of the
//! line before, so a JSONL file proves its own order and completeness up to its last line without the server that wrote it.
//! The leaf hash is the one of RFC 6962 section 2.1, so the Merkle tree of the log is built over the very same bytes.
//!
//! What a chain cannot show: lines cut off at the end, and a chain rewritten as a whole. Compare the head with a copy kept
//! elsewhere for that ([`LineVerifier::head`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest line in bytes: an entry of a C2SP tlog-tiles bundle has a 16-bit length prefix.
pub const LINE_BYTES_MAX: usize = 65_535;

/// What the first record carries in `prev`.
pub const GENESIS: Hash = Hash([0; 32]);

/// A SHA-256 value; 64 lower-case hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Wraps 32 raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Some(Self(bytes))
    }
}

/// Upper case is refused: one value has one text, or two different lines would carry "the same" hash.
const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            for (digit, value) in pair.iter_mut().zip([byte >> 4, byte & 0xf]) {
                *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
            }
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 lower-case hex digits")]
pub struct NotAHash;

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        Self::parse(text).ok_or(NotAHash)
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Hash;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 lower-case hex digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Hash, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// SHA-256 of a zero byte and the line (RFC 6962 section 2.1, `MTH({d(0)})`).
#[must_use]
pub fn leaf_hash(line: &[u8]) -> Hash {
    let mut sha = Sha256::new();
    sha.update([0]);
    sha.update(line);
    Hash(sha.finalize().into())
}

/// Why a line does not continue the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The line is longer than [`LINE_BYTES_MAX`].
    #[error("record {seq} is {bytes} bytes long, the limit is {LINE_BYTES_MAX}")]
    TooLong {
        /// Where the line stands.
        seq: u64,
        /// Its length.
        bytes: usize,
    },
    /// The line is not one JSON object with one `seq` and one `prev`.
    #[error("record {seq} cannot be read: {why}")]
    Malformed {
        /// Where the line stands.
        seq: u64,
        /// What the parser says.
        why: String,
    },
    /// A record is missing, repeated or out of order.
    #[error("record {expected} is missing: the line in its place says seq {found}")]
    Seq {
        /// The record that should stand here.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// The bytes of one record are not the ones its successor vouched for.
    #[error(
        "record {seq} is not the one record {by} was chained to: stored {stored}, computed {computed}"
    )]
    Prev {
        /// The first record that nothing vouches for.
        seq: u64,
        /// The record whose `prev` disagrees; equal to `seq` for the first line looked at.
        by: u64,
        /// What `by` carries in `prev`.
        stored: Hash,
        /// What it ought to carry.
        computed: Hash,
    },
}

impl Error {
    /// The first record that cannot be vouched for.
    #[must_use]
    pub const fn first_bad_seq(&self) -> u64 {
        match self {
            Self::TooLong { seq, .. } | Self::Malformed { seq, .. } | Self::Prev { seq, .. } => {
                *seq
            }
            Self::Seq { expected, .. } => *expected,
        }
    }
}

/// The two envelope fields of a line that make the chain. A repeated key is refused by the parser.
#[derive(Deserialize)]
#[serde(expecting = "a record")]
struct Link {
    seq: u64,
    prev: Hash,
}

/// Checks lines one by one, in order. Keeps one hash, whatever the length of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineVerifier {
    first_seq: u64,
    next_seq: u64,
    head: Hash,
}

impl Default for LineVerifier {
    fn default() -> Self {
        Self::resume(1, GENESIS)
    }
}

impl LineVerifier {
    /// Starts at record 1.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts at `next_seq`, where `head` is the leaf hash of the record before it.
    #[must_use]
    pub const fn resume(next_seq: u64, head: Hash) -> Self {
        Self { first_seq: next_seq, next_seq, head }
    }

    /// The sequence number the next line must carry.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The leaf hash of the last line accepted: what the next line must carry in `prev`.
    #[must_use]
    pub const fn head(&self) -> Hash {
        self.head
    }

    /// Accepts `line` (without newline) as the next record and returns its leaf hash.
    ///
    /// # Errors
    /// Names the first record that cannot be vouched for; the verifier then stands where it stood.
    pub fn check(&mut self, line: &[u8]) -> Result<Hash, Error> {
        let seq = self.next_seq;
        if line.len() > LINE_BYTES_MAX {
            return Err(Error::TooLong { seq, bytes: line.len() });
        }
        if line.contains(&b'\n') {
            return Err(Error::Malformed { seq, why: "a line feed within the record".into() });
        }
        let link: Link = serde_json::from_slice(line)
            .map_err(|e| Error::Malformed { seq, why: e.to_string() })?;
        if link.seq != seq {
            return Err(Error::Seq { expected: seq, found: link.seq });
        }
        if link.prev != self.head {
            let suspect = if seq == self.first_seq { seq } else { seq.saturating_sub(1) };
            let (stored, computed) = (link.prev, self.head);
            return Err(Error::Prev { seq: suspect, by: seq, stored, computed });
        }
        self.head = leaf_hash(line);
        self.next_seq = seq.saturating_add(1);
        Ok(self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, prev: Hash, text: &str) -> String {
        format!(
            r#"{{"event_name":"HEARTBEAT","seq":{seq},"prev":"{prev}","body":{{"text":"{text}"}}}}"#
        )
    }

    fn log(n: u64) -> Vec<String> {
        let mut prev = GENESIS;
        (1..=n)
            .map(|seq| {
                let line = line(seq, prev, "all quiet");
                prev = leaf_hash(line.as_bytes());
                line
            })
            .collect()
    }

    fn verify(lines: &[String]) -> Result<LineVerifier, Error> {
        let mut verifier = LineVerifier::new();
        for line in lines {
            verifier.check(line.as_bytes())?;
        }
        Ok(verifier)
    }

    #[test]
    fn a_sound_log_verifies_and_yields_its_head() {
        let lines = log(20);
        let verifier = verify(&lines).unwrap();
        assert_eq!(verifier.next_seq(), 21);
        assert_eq!(verifier.head(), leaf_hash(lines[19].as_bytes()));
        let mut rest = LineVerifier::resume(11, leaf_hash(lines[9].as_bytes()));
        assert!(
            lines[10..].iter().all(|l| rest.check(l.as_bytes()).is_ok()),
            "from the middle too"
        );
    }

    #[test]
    fn leaf_hash_is_the_one_of_rfc_6962() {
        // The first test vector of the Certificate Transparency reference: the leaf hash of an empty entry.
        let empty = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(leaf_hash(b"").to_string(), empty);
        assert_eq!(empty.parse(), Ok(leaf_hash(b"")));
    }

    #[test]
    fn an_edit_names_the_edited_record_and_both_hashes() {
        let mut lines = log(20);
        let original = leaf_hash(lines[6].as_bytes());
        lines[6] = lines[6].replace("quiet", "quick");
        let edited = leaf_hash(lines[6].as_bytes());
        let error = verify(&lines).unwrap_err();
        assert_eq!(error, Error::Prev { seq: 7, by: 8, stored: original, computed: edited });
        assert_eq!(error.first_bad_seq(), 7);
        assert!(error.to_string().contains(&original.to_string()));
    }

    #[test]
    fn every_single_byte_edit_before_the_last_line_is_found_at_or_beside_the_edited_record() {
        let lines = log(5);
        for at in 0..4 {
            for byte in 0..lines[at].len() {
                let mut edited = lines[at].clone().into_bytes();
                edited[byte] ^= 1;
                let mut verifier = LineVerifier::new();
                let error = lines
                    .iter()
                    .enumerate()
                    .find_map(|(i, l)| {
                        verifier.check(if i == at { edited.as_slice() } else { l.as_bytes() }).err()
                    })
                    .expect("an edit must be found");
                let seq = at as u64 + 1;
                assert!(
                    (seq.saturating_sub(1)..=seq).contains(&error.first_bad_seq()),
                    "{seq}: {error}"
                );
            }
        }
    }

    #[test]
    fn a_deleted_record_is_named_as_missing() {
        let mut lines = log(20);
        lines.remove(6);
        assert_eq!(verify(&lines).unwrap_err(), Error::Seq { expected: 7, found: 8 });
    }

    #[test]
    fn a_middle_cut_out_is_named_by_its_first_record() {
        let mut lines = log(20);
        lines.drain(4..12);
        assert_eq!(verify(&lines).unwrap_err().first_bad_seq(), 5);
    }

    #[test]
    fn an_inserted_record_is_found_even_when_it_links_back_correctly() {
        let mut lines = log(20);
        let forged = line(8, leaf_hash(lines[6].as_bytes()), "forged");
        lines.insert(7, forged);
        assert_eq!(verify(&lines).unwrap_err(), Error::Seq { expected: 9, found: 8 });
        lines.remove(8);
        assert_eq!(verify(&lines).unwrap_err().first_bad_seq(), 8, "or replaces its victim");
    }

    #[test]
    fn swapped_records_are_found_at_the_first_of_them() {
        let mut lines = log(20);
        lines.swap(8, 13);
        assert_eq!(verify(&lines).unwrap_err(), Error::Seq { expected: 9, found: 14 });
    }

    #[test]
    fn a_forged_beginning_is_found_at_record_one() {
        let mut lines = log(3);
        lines[0] = line(1, leaf_hash(b"other"), "all quiet");
        assert_eq!(verify(&lines).unwrap_err().first_bad_seq(), 1);
    }

    #[test]
    fn lines_that_are_not_one_plain_object_are_refused() {
        let zero = GENESIS;
        for bad in [
            String::new(),
            "{".into(),
            "[]".into(),
            format!(r#"{{"seq":1,"seq":1,"prev":"{zero}"}}"#),
            format!(r#"{{"seq":1,"prev":"{zero}","prev":"{zero}"}}"#),
            format!(r#"{{"seq":-1,"prev":"{zero}"}}"#),
            format!(r#"{{"seq":1.0,"prev":"{zero}"}}"#),
            format!(r#"{{"seq":1,"prev":"{}"}}"#, "0".repeat(63)),
            format!(r#"{{"seq":1,"prev":"{}"}}"#, "A".repeat(64)),
            format!(r#"{{"seq":1,"prev":"{zero}"}} {{}}"#),
            r#"{"seq":1}"#.into(),
            format!("{{\"seq\":1,\n\"prev\":\"{zero}\"}}"),
        ] {
            let error = LineVerifier::new().check(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Malformed { seq: 1, .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn the_longest_line_passes_and_one_byte_more_does_not() {
        let bare = line(1, GENESIS, "").len();
        let fits = line(1, GENESIS, &"x".repeat(LINE_BYTES_MAX - bare));
        assert_eq!(fits.len(), LINE_BYTES_MAX);
        assert!(LineVerifier::new().check(fits.as_bytes()).is_ok());
        let over = line(1, GENESIS, &"x".repeat(LINE_BYTES_MAX - bare + 1));
        let error = LineVerifier::new().check(over.as_bytes()).unwrap_err();
        assert_eq!(error, Error::TooLong { seq: 1, bytes: 65_536 });
    }

    #[test]
    fn a_refused_line_leaves_the_verifier_where_it_stood() {
        let lines = log(2);
        let mut verifier = LineVerifier::new();
        verifier.check(lines[0].as_bytes()).unwrap();
        let before = verifier;
        assert!(verifier.check(b"{}").is_err());
        assert_eq!(verifier, before);
        assert!(verifier.check(lines[1].as_bytes()).is_ok());
    }

    #[test]
    fn a_hash_survives_json() {
        let hash = leaf_hash(b"x");
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(json.len(), 66);
        assert_eq!(serde_json::from_str::<Hash>(&json).unwrap(), hash);
    }
}

//! Text that callers pass back as they got it: cursors and page tokens. Hex with a checksum, so that what was mistyped or made up
//! is told from what was once valid.

use std::fmt::Write as _;

use agentd_core::chain::Hash;
use sha2::{Digest as _, Sha256};

use crate::journal::LogId;

/// What a text stands for; the first byte in it.
const CURSOR: u8 = 1;
const PAGE: u8 = 2;

/// Longest text that is looked at.
const TEXT_MAX: usize = 256;

/// A position in one particular log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    log_id: [u8; 16],
    /// Everything up to this record is behind it; 0 before the first.
    pub(super) seq: u64,
    hash: [u8; 8],
}

impl Cursor {
    /// Behind the record `seq` of log `log_id`, whose leaf hash is `hash`.
    pub(super) fn new(log_id: LogId, seq: u64, hash: Hash) -> Self {
        Self { log_id: *log_id.as_bytes(), seq, hash: prefix(hash) }
    }

    /// Whether it belongs to log `log_id`.
    pub(super) fn is_of(&self, log_id: LogId) -> bool {
        self.log_id == *log_id.as_bytes()
    }

    /// Whether the record it stands behind has leaf hash `hash`.
    pub(super) fn matches(&self, hash: Hash) -> bool {
        self.hash == prefix(hash)
    }

    /// Reads a cursor; `None` when it never was one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = open(CURSOR, text)?;
        let (log_id, rest) = bytes.split_first_chunk::<16>()?;
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let hash = <[u8; 8]>::try_from(rest).ok()?;
        Some(Self { log_id: *log_id, seq: u64::from_be_bytes(*seq), hash })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = [&self.log_id[..], &self.seq.to_be_bytes(), &self.hash].concat();
        f.write_str(&seal(CURSOR, &bytes))
    }
}

/// Where the next page of one particular question begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    question: [u8; 16],
    /// The next page begins at this position.
    pub(super) at: u64,
}

impl Page {
    /// The page at `at` of `question`: everything the answer depends on but the size of the pages.
    pub(super) fn new(question: &[&[u8]], at: u64) -> Self {
        Self { question: fingerprint(question), at }
    }

    /// Whether it is a page of `question`.
    pub(super) fn is_of(&self, question: &[&[u8]]) -> bool {
        self.question == fingerprint(question)
    }

    /// Reads a page token; `None` when it never was one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = open(PAGE, text)?;
        let (question, rest) = bytes.split_first_chunk::<16>()?;
        let at = <[u8; 8]>::try_from(rest).ok()?;
        Some(Self { question: *question, at: u64::from_be_bytes(at) })
    }
}

impl std::fmt::Display for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = [&self.question[..], &self.at.to_be_bytes()].concat();
        f.write_str(&seal(PAGE, &bytes))
    }
}

fn prefix(hash: Hash) -> [u8; 8] {
    hash.as_bytes().first_chunk::<8>().copied().unwrap_or_default()
}

fn fingerprint(question: &[&[u8]]) -> [u8; 16] {
    let mut sha = Sha256::new();
    for part in question {
        sha.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        sha.update(part);
    }
    sha.finalize().first_chunk::<16>().copied().unwrap_or_default()
}

fn seal(kind: u8, bytes: &[u8]) -> String {
    let mut sealed = Vec::with_capacity(bytes.len() + 5);
    sealed.push(kind);
    sealed.extend_from_slice(bytes);
    sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_be_bytes());
    sealed.iter().fold(String::with_capacity(sealed.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn open(kind: u8, text: &str) -> Option<Vec<u8>> {
    if text.len() > TEXT_MAX || !text.len().is_multiple_of(2) {
        return None;
    }
    let bytes: Option<Vec<u8>> = text
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
            _ => None,
        })
        .collect();
    let bytes = bytes?;
    let (sealed, checksum) = bytes.split_last_chunk::<4>()?;
    let (first, content) = sealed.split_first()?;
    let sound = u32::from_be_bytes(*checksum) == crc32c::crc32c(sealed);
    (sound && *first == kind).then(|| content.to_vec())
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use agentd_core::chain::{GENESIS, leaf_hash};
    use proptest::prelude::*;

    use super::*;

    fn log(id: &str) -> LogId {
        id.parse().expect("a log id")
    }

    const ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

    #[test]
    fn a_cursor_knows_its_log_and_its_record() {
        let cursor = Cursor::new(log(ID), 7, leaf_hash(b"seven"));
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        assert!(cursor.is_of(log(ID)) && cursor.matches(leaf_hash(b"seven")));
        assert!(!cursor.matches(leaf_hash(b"other")) && !cursor.matches(GENESIS));
        assert!(!cursor.is_of(log("00000000-0000-0000-0000-000000000000")));
    }

    #[test]
    fn one_wrong_digit_is_noticed() {
        let text = Cursor::new(log(ID), 7, leaf_hash(b"seven")).to_string();
        for at in 0..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(Cursor::parse(&String::from_utf8(wrong).unwrap()), None, "{at}");
        }
        assert_eq!(Page::parse(&text), None, "a cursor is no page token");
    }

    #[test]
    fn a_page_token_belongs_to_its_question() {
        let page = Page::new(&[b"decisions", b"filter"], 9);
        assert_eq!(Page::parse(&page.to_string()), Some(page));
        assert!(page.is_of(&[b"decisions", b"filter"]));
        assert!(!page.is_of(&[b"decisionsf", b"ilter"]), "parts do not run together");
    }

    proptest! {
        #[test]
        fn garbage_is_never_a_cursor_and_never_a_panic(text in ".{0,300}", hex in "[0-9a-f]{0,300}") {
            for garbage in [&text, &hex] {
                prop_assert!(Cursor::parse(garbage).is_none());
                prop_assert!(Page::parse(garbage).is_none());
            }
        }
    }
}

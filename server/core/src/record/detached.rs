//! Bodies that are too long for a line: they lie beside the log under their digest, and the line carries the digest.
//!
//! The line is what is hashed and signed, so the digest in it vouches for the body as if it stood there.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Body, Error, Record, inert};
use crate::chain::Hash;

/// Longest body that is kept beside the log.
pub const BLOB_MAX: usize = 2 << 20;

/// Where the body of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// SHA-256 of its bytes, which is also its name.
    pub sha256: Hash,
    /// How many there are.
    pub bytes: u64,
}

impl Detached {
    /// What stands in a line for these bytes.
    #[must_use]
    pub fn of(blob: &[u8]) -> Self {
        let sha256 = Hash::from_bytes(Sha256::digest(blob).into());
        Self { sha256, bytes: u64::try_from(blob.len()).unwrap_or(u64::MAX) }
    }

    /// Whether these are the bytes.
    #[must_use]
    pub fn is_of(&self, blob: &[u8]) -> bool {
        Self::of(blob) == *self
    }

    /// What a line says about its body, without reading the rest of it; `None` if the body is in the line.
    #[must_use]
    pub fn in_line(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Line {
            body: Reference,
        }
        #[derive(Deserialize)]
        struct Reference {
            detached: Detached,
        }
        const BODY: &[u8] = br#""body":{"detached":{"#;
        // Lines are many and references few: most are told apart without a parser.
        let may = line.windows(BODY.len()).any(|part| part == BODY);
        may.then(|| serde_json::from_slice::<Line>(line).ok()).flatten().map(|l| l.body.detached)
    }
}

impl Record {
    /// The line with the body beside it, and the body: for one that does not fit into a line.
    #[must_use]
    pub fn line_detached(&self, prev: Hash) -> (Vec<u8>, Vec<u8>) {
        let blob = inert(serde_json::to_vec(&self.body).unwrap_or_default());
        let reference = Body::Detached(Detached::of(&blob));
        (self.line_with(self.body.event_name(), &reference, prev), blob)
    }

    /// Where the body is, if it is not in the line.
    #[must_use]
    pub const fn detached(&self) -> Option<Detached> {
        match self.body {
            Body::Detached(detached) => Some(detached),
            _ => None,
        }
    }

    /// The record with its body, once `blob` is found to be that.
    ///
    /// # Errors
    /// It is another one, or no body.
    pub fn attach(self, blob: &[u8]) -> Result<Self, Error> {
        if !self.detached().is_some_and(|detached| detached.is_of(blob)) {
            return Err(Error::Blob);
        }
        match serde_json::from_slice(blob).map_err(Error::Json)? {
            Body::Detached(_) => Err(Error::Blob),
            body => Ok(Self { body, ..self }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LINE_MAX;
    use super::*;
    use crate::app::Env;
    use crate::chain::GENESIS;

    fn long() -> Record {
        let what = format!("\u{202e}{}", "x".repeat(LINE_MAX));
        let body = Body::Injected { scenario: "crash".to_owned(), what };
        let (seq, at, env, actor) = (7, 1_795_448_641_483, Env::Stage, "agent-1".to_owned());
        Record { seq, at, env, app: None, cause: None, actor, trace: None, body }
    }

    #[test]
    fn a_body_of_any_length_is_found_by_the_digest_in_its_line() {
        let record = long();
        assert!(record.line(GENESIS).len() > LINE_MAX);
        let (line, blob) = record.line_detached(GENESIS);
        assert!(line.len() < 400 && line.starts_with(br#"{"event_name":"FAILURE_INJECTED""#));
        let found = Detached::in_line(&line).unwrap();
        assert_eq!((found.bytes, found.is_of(&blob)), (blob.len() as u64, true));
        let read = Record::parse(&line).unwrap();
        assert_eq!(read.detached(), Some(found));
        assert_eq!(read.attach(&blob).unwrap(), record);
        assert_eq!(Detached::in_line(&record.line(GENESIS)), None);
    }

    #[test]
    fn no_other_body_is_taken_for_it() {
        let (line, blob) = long().line_detached(GENESIS);
        let read = || Record::parse(&line).unwrap();
        let mut edited = blob.clone();
        edited[40] ^= 1;
        assert!(read().attach(&edited).is_err());
        assert!(read().attach(&blob[..blob.len() - 1]).is_err());
        assert!(read().attach(b"").is_err());
        assert!(long().attach(&blob).is_err(), "a body that is in its line stays");
        // A reference to a reference leads nowhere.
        let nested = serde_json::to_vec(&Body::Detached(Detached::of(&blob))).unwrap();
        let outer = Record { body: Body::Detached(Detached::of(&nested)), ..long() };
        assert!(outer.attach(&nested).is_err());
    }

    #[test]
    fn a_text_that_looks_like_a_reference_is_none() {
        let what = r#""body":{"detached":{"sha256":"x"}}"#.to_owned();
        let body = Body::Injected { scenario: String::new(), what };
        assert_eq!(Detached::in_line(&Record { body, ..long() }.line(GENESIS)), None);
    }
}

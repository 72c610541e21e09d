//! Cosignatures of witnesses (C2SP tlog-cosignature, Ed25519, type 0x04): a third party says when it saw a checkpoint, and that it
//! has seen nothing of the log that contradicts it.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature as Ed25519, VerifyingKey};

use super::encode;
use super::note::{self, Error, Note};

/// Type of the signature.
const COSIGNATURE: u8 = 0x04;
/// Bytes of the time in front of the signature proper.
const TIME_BYTES: usize = 8;

/// What a witness's cosignature is checked with: `name+hash+key` as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey {
    name: String,
    id: u32,
    public: VerifyingKey,
}

impl WitnessKey {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key alone: two names of it are one witness.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        self.public.as_bytes()
    }

    /// When the witness saw the text of `note`, in seconds since 1970; `None` if it did not cosign it.
    ///
    /// # Errors
    /// A cosignature said to be its own is not.
    pub fn time_of(&self, note: &Note) -> Result<Option<u64>, Error> {
        let mut time = None;
        for signature in note.signatures().iter().filter(|s| s.id == self.id && s.name == self.name)
        {
            let seen = self
                .open(&signature.bytes, note.text())
                .ok_or_else(|| Error::Forged(self.name.clone()))?;
            time = time.max(Some(seen));
        }
        Ok(time)
    }

    fn open(&self, bytes: &[u8], text: &str) -> Option<u64> {
        let (time, signature) = bytes.split_first_chunk::<TIME_BYTES>()?;
        let time = u64::from_be_bytes(*time);
        let signature = Ed25519::from_slice(signature).ok()?;
        self.public.verify_strict(signed_text(time, text).as_bytes(), &signature).ok()?;
        Some(time)
    }
}

/// What a witness signs that saw the checkpoint `text` at `time`.
fn signed_text(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [[COSIGNATURE].as_slice(), self.public.as_bytes()].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.id, encode(&key))
    }
}

impl FromStr for WitnessKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const OTHER: &str = "a witness has an Ed25519 cosignature key (type 4)";
        let (name, id, public) = note::parse_public(text, COSIGNATURE, OTHER)?;
        Ok(Self { name: name.to_owned(), id, public })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::super::SignerKey;
    use super::super::note::Signature;
    use super::*;

    /// A witness called `name`.
    pub(in super::super) fn witness(name: &str, seed: u8) -> (SigningKey, WitnessKey) {
        let secret = SigningKey::from_bytes(&[seed; 32]);
        let public = secret.verifying_key();
        let id = note::key_id(name, COSIGNATURE, &public);
        (secret, WitnessKey { name: name.to_owned(), id, public })
    }

    /// What it makes of `note`.
    pub(in super::super) fn cosign(
        (secret, key): &(SigningKey, WitnessKey),
        note: &Note,
        time: u64,
    ) -> Signature {
        let signature = secret.sign(signed_text(time, note.text()).as_bytes()).to_bytes();
        let bytes = [time.to_be_bytes().as_slice(), &signature].concat();
        Signature { name: key.name.clone(), id: key.id, bytes }
    }

    #[test]
    fn a_cosignature_says_when_and_nothing_of_it_can_be_changed() {
        let log = SignerKey::from_seed("example.com/log", &[1; 32]).unwrap();
        let note = log.sign("example.com/log\n3\nroot\n").unwrap();
        let witness = witness("witness.example/w1", 2);
        let key = &witness.1;
        assert_eq!(key.time_of(&note), Ok(None), "not cosigned");
        let cosigned = note.with_signatures(vec![cosign(&witness, &note, 1_700_000_000)]).unwrap();
        assert_eq!(key.time_of(&cosigned), Ok(Some(1_700_000_000)));
        assert_eq!(cosigned.verify(&log.verifier()), Ok(()), "and the log's own is still there");
        assert_eq!(Note::parse(cosigned.to_string().as_bytes()).as_ref(), Ok(&cosigned));
        let sound = cosign(&witness, &note, 1_700_000_000);
        for at in 0..sound.bytes.len() {
            let mut bytes = sound.bytes.clone();
            bytes[at] ^= 1;
            let forged = Signature { bytes, ..sound.clone() };
            let forged = note.with_signatures(vec![forged]).unwrap();
            assert!(matches!(key.time_of(&forged), Err(Error::Forged(_))), "byte {at}");
        }
        let other = log.sign("example.com/log\n4\nroot\n").unwrap();
        let moved = other.with_signatures(vec![sound]).unwrap();
        assert!(key.time_of(&moved).is_err(), "of another checkpoint");
    }

    #[test]
    fn keys_of_logs_and_witnesses_are_told_apart() {
        let (_, key) = witness("witness.example/w1", 2);
        assert_eq!(key.to_string().parse::<WitnessKey>().as_ref(), Ok(&key));
        assert!(key.to_string().parse::<super::super::VerifierKey>().is_err());
        let log = SignerKey::from_seed("example.com/log", &[1; 32]).unwrap().verifier();
        let error = log.to_string().parse::<WitnessKey>().unwrap_err();
        assert!(error.to_string().contains("type 4"), "{error}");
        for bad in ["", "x", "a+b", "a b+00000000+AA==", "w+00000000+!!"] {
            assert!(bad.parse::<WitnessKey>().is_err(), "{bad}");
        }
    }
}

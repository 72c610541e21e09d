//! Signed notes (C2SP signed-note) with Ed25519 signatures of type 0x01, and the keys as text.
//!
//! A note is a text, an empty line, and one line per signature. A signature names its key by name and by a short id; one by a
//! key that nobody here knows is ignored, one by a known key that does not verify condemns the note.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature as Ed25519, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::{decode, encode};

/// Most bytes of a note: room for witnesses with signatures far longer than Ed25519.
pub const NOTE_BYTES_MAX: usize = 256 << 10;
/// Most signatures of a note.
pub const SIGNATURES_MAX: usize = 64;

const ED25519: u8 = 0x01;
const DASH: &str = "— ";

/// Why a note or a key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a note.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// Not a key.
    #[error("not a key: {0}")]
    Key(&'static str),
    /// The key did not sign it.
    #[error("not signed by `{0}`")]
    Unsigned(String),
    /// The key is said to have signed it, and did not.
    #[error("the signature of `{0}` does not match")]
    Forged(String),
}

/// True for what can name a key: not empty, no spaces, no `+`, nothing that controls a terminal.
#[must_use]
pub fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

pub(super) fn key_id(name: &str, kind: u8, public: &VerifyingKey) -> u32 {
    let mut sha = Sha256::new();
    sha.update(name.as_bytes());
    sha.update([b'\n', kind]);
    sha.update(public.as_bytes());
    let [a, b, c, d, ..]: [u8; 32] = sha.finalize().into();
    u32::from_be_bytes([a, b, c, d])
}

/// What a signature is checked with: `name+hash+key` as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    public: VerifyingKey,
}

impl VerifierKey {
    fn new(name: &str, public: VerifyingKey) -> Self {
        Self { name: name.to_owned(), id: key_id(name, ED25519, &public), public }
    }

    /// Its name; for a log, its origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key alone: two names of it are one key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        self.public.as_bytes()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519];
        key.extend_from_slice(self.public.as_bytes());
        write!(f, "{}+{:08x}+{}", self.name, self.id, encode(&key))
    }
}

impl FromStr for VerifierKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, _, public) =
            parse_public(text, ED25519, "only Ed25519 keys (type 1) are known")?;
        Ok(Self::new(name, public))
    }
}

/// Name, short id and point of the key in `text`, which is of this kind, or of an `other` one and refused.
pub(super) fn parse_public<'a>(
    text: &'a str,
    kind: u8,
    other: &'static str,
) -> Result<(&'a str, u32, VerifyingKey), Error> {
    let bad = Error::Key;
    let (name, rest) = text.split_once('+').ok_or(bad("it has the form name+hash+key"))?;
    let (stated, key) = rest.split_once('+').ok_or(bad("it has the form name+hash+key"))?;
    if !is_key_name(name) {
        return Err(bad("the name is empty or holds spaces"));
    }
    let bytes = decode(key).ok_or(bad("the key is no base64"))?;
    let (found, public) = bytes.split_first().ok_or(bad("the key is empty"))?;
    if *found != kind {
        return Err(bad(other));
    }
    let public = public.try_into().map_err(|_why| bad("an Ed25519 key has 32 bytes"))?;
    let public = VerifyingKey::from_bytes(public).map_err(|_why| bad("no point of the curve"))?;
    let id = key_id(name, kind, &public);
    let stated = (stated.len() == 8).then(|| u32::from_str_radix(stated, 16).ok()).flatten();
    if stated != Some(id) {
        return Err(bad("the hash is not the one of this name and key"));
    }
    if public.is_weak() {
        return Err(bad("a weak point of the curve, for which anything is signed"));
    }
    Ok((name, id, public))
}

/// What a log signs with. Its text holds the secret; `Debug` does not show it.
#[derive(Clone)]
pub struct SignerKey {
    name: String,
    secret: SigningKey,
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignerKey").field("name", &self.name).finish_non_exhaustive()
    }
}

impl SignerKey {
    /// The key called `name` with this secret seed.
    ///
    /// # Errors
    /// The name cannot name a key.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, Error> {
        if !is_key_name(name) {
            return Err(Error::Key("the name is empty or holds spaces or `+`"));
        }
        Ok(Self { name: name.to_owned(), secret: SigningKey::from_bytes(seed) })
    }

    /// Reads `PRIVATE+KEY+name+hash+key`, as other tools write it.
    ///
    /// # Errors
    /// It is not one.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = Error::Key;
        let rest = text
            .strip_prefix("PRIVATE+KEY+")
            .ok_or(bad("a private key begins with PRIVATE+KEY+"))?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad("it has the form PRIVATE+KEY+name+hash+key"));
        };
        let bytes = decode(key).ok_or(bad("the key is no base64"))?;
        let Some((&ED25519, seed)) = bytes.split_first() else {
            return Err(bad("only Ed25519 keys (type 1) are known"));
        };
        let seed = seed.try_into().map_err(|_why| bad("an Ed25519 seed has 32 bytes"))?;
        let key = Self::from_seed(name, seed)?;
        let stated = (id.len() == 8).then(|| u32::from_str_radix(id, 16).ok()).flatten();
        if stated != Some(key.verifier().id) {
            return Err(bad("the hash is not the one of this name and key"));
        }
        Ok(key)
    }

    /// The secret text that [`SignerKey::parse`] reads.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        let mut key = vec![ED25519];
        key.extend_from_slice(self.secret.as_bytes());
        format!("PRIVATE+KEY+{}+{:08x}+{}", self.name, self.verifier().id, encode(&key))
    }

    /// Its public half.
    #[must_use]
    pub fn verifier(&self) -> VerifierKey {
        VerifierKey::new(&self.name, self.secret.verifying_key())
    }

    /// Signs `text`.
    ///
    /// # Errors
    /// The text cannot be that of a note.
    pub fn sign(&self, text: &str) -> Result<Note, Error> {
        check_text(text)?;
        let bytes = self.secret.sign(text.as_bytes()).to_bytes().to_vec();
        let signature = Signature { name: self.name.clone(), id: self.verifier().id, bytes };
        Ok(Note { text: text.to_owned(), signatures: vec![signature] })
    }
}

/// One signature of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Name of the key.
    pub name: String,
    /// Short id of the key.
    pub id: u32,
    /// What the key made of the text.
    pub bytes: Vec<u8>,
}

/// A text with signatures, none of which has been checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

fn check_text(text: &str) -> Result<(), Error> {
    if !text.ends_with('\n') {
        return Err(Error::Malformed("the text does not end with a line feed"));
    }
    if text.bytes().any(|b| b < 0x20 && b != b'\n') {
        return Err(Error::Malformed("a control character"));
    }
    Ok(())
}

impl Note {
    /// Reads a note.
    ///
    /// # Errors
    /// It is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let bad = Error::Malformed;
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(bad("longer than one can be"));
        }
        let whole = std::str::from_utf8(bytes).map_err(|_why| bad("not UTF-8"))?;
        check_text(whole)?;
        let at = whole.rfind("\n\n").ok_or(bad("no empty line before the signatures"))?;
        let (text, rest) = whole.split_at(at + 1);
        let lines = rest.strip_prefix('\n').and_then(|rest| rest.strip_suffix('\n'));
        let lines = lines.ok_or(bad("no signature"))?;
        let signatures: Option<Vec<Signature>> = lines.split('\n').map(signature).collect();
        let signatures = signatures.ok_or(bad("a signature line that is none"))?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(bad("more signatures than are looked at"));
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// The text, not to be believed before [`Note::verify`].
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its signatures.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The same text with these signatures too; one by a key that signed it already takes the place of the older one.
    ///
    /// # Errors
    /// They are more than a note may have.
    pub fn with_signatures(&self, more: Vec<Signature>) -> Result<Self, Error> {
        let mut signatures = self.signatures.clone();
        signatures.retain(|old| !more.iter().any(|new| new.id == old.id && new.name == old.name));
        signatures.extend(more);
        if signatures.len() > SIGNATURES_MAX {
            return Err(Error::Malformed("more signatures than are looked at"));
        }
        Ok(Self { text: self.text.clone(), signatures })
    }

    /// Checks that `key` signed the text.
    ///
    /// # Errors
    /// It did not, or a signature said to be its own is not.
    pub fn verify(&self, key: &VerifierKey) -> Result<(), Error> {
        let mut own =
            self.signatures.iter().filter(|s| s.id == key.id && s.name == key.name).peekable();
        if own.peek().is_none() {
            return Err(Error::Unsigned(key.name.clone()));
        }
        let sound = own.all(|signature| {
            Ed25519::from_slice(&signature.bytes)
                .is_ok_and(|bytes| key.public.verify_strict(self.text.as_bytes(), &bytes).is_ok())
        });
        if sound { Ok(()) } else { Err(Error::Forged(key.name.clone())) }
    }
}

impl Signature {
    /// Reads signature lines, one after the other: what a witness answers with.
    ///
    /// # Errors
    /// A line is none, or they are too many.
    pub fn parse_lines(text: &str) -> Result<Vec<Self>, Error> {
        let bad = Error::Malformed;
        let lines = text.strip_suffix('\n').ok_or(bad("it does not end with a line feed"))?;
        let found: Vec<&str> = lines.split('\n').take(SIGNATURES_MAX + 1).collect();
        if found.len() > SIGNATURES_MAX {
            return Err(bad("more signatures than are looked at"));
        }
        let signatures: Option<Vec<Self>> = found.into_iter().map(signature).collect();
        signatures.ok_or(bad("a signature line that is none"))
    }
}

fn signature(line: &str) -> Option<Signature> {
    let (name, data) = line.strip_prefix(DASH)?.split_once(' ')?;
    let data = decode(data)?;
    let (id, bytes) = data.split_first_chunk::<4>()?;
    let sound = is_key_name(name) && !bytes.is_empty();
    sound.then(|| Signature {
        name: name.to_owned(),
        id: u32::from_be_bytes(*id),
        bytes: bytes.to_vec(),
    })
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for Signature { name, id, bytes } in &self.signatures {
            let data = [id.to_be_bytes().as_slice(), bytes].concat();
            writeln!(f, "{DASH}{name} {}", encode(&data))?;
        }
        Ok(())
    }
}

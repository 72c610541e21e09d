//! One key of a log hands over to the next: a statement that both sign, recorded in the log as `KEY_ROTATED`.
//!
//! Whoever trusts the old key can follow it to the new one without asking anybody. Checkpoints that the old key signed stay what they
//! are, and are checked with the old key.

use super::note::{Error, Note, SignerKey, VerifierKey};

/// First line of the statement: no checkpoint can be taken for one, nor the other way round.
const MAGIC: &str = "agentctl.dev/key-rotation/v1";

/// From which key to which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The key that was trusted.
    pub from: VerifierKey,
    /// The one to trust from here on.
    pub to: VerifierKey,
}

impl Rotation {
    /// The statement that `new` takes the place of `old`, signed by both.
    ///
    /// # Errors
    /// They are not keys of one log.
    pub fn sign(old: &SignerKey, new: &SignerKey) -> Result<Note, Error> {
        let (from, to) = (old.verifier(), new.verifier());
        if from.name() != to.name() || from == to {
            return Err(Error::Key("another key of the same log is needed"));
        }
        let text = format!("{MAGIC}\n{}\n{from}\n{to}\n", from.name());
        new.clone().replacing(old.clone()).sign(&text)
    }

    /// The rotation in `note`, once both keys that it names are found to have signed it. Whether the first of them is to be trusted
    /// is for whoever asks to know.
    ///
    /// # Errors
    /// It is none, or a signature is missing or wrong.
    pub fn open(note: &Note) -> Result<Self, Error> {
        let bad = || Error::Malformed("no statement about a new key");
        let mut lines = note.text().strip_suffix('\n').ok_or_else(bad)?.split('\n');
        if lines.next() != Some(MAGIC) {
            return Err(bad());
        }
        let (Some(origin), Some(from), Some(to), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(bad());
        };
        let (from, to): (VerifierKey, VerifierKey) = (from.parse()?, to.parse()?);
        if from.name() != origin || to.name() != origin || from == to {
            return Err(bad());
        }
        note.verify(&from)?;
        note.verify(&to)?;
        Ok(Self { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use super::super::tree::empty_root;
    use super::*;

    fn key(name: &str, seed: u8) -> SignerKey {
        SignerKey::from_seed(name, &[seed; 32]).unwrap()
    }

    #[test]
    fn the_old_key_vouches_for_the_new_one_and_nobody_else_does() {
        let (a, b, c) = (key("log", 1), key("log", 2), key("log", 3));
        let note = Rotation::sign(&a, &b).unwrap();
        let read = Note::parse(note.to_string().as_bytes()).unwrap();
        let expected = Rotation { from: a.verifier(), to: b.verifier() };
        assert_eq!(Rotation::open(&read).unwrap(), expected);
        assert!(Rotation::sign(&a, &a).is_err() && Rotation::sign(&a, &key("other", 2)).is_err());

        // The thief of the new key writes it alone, a stranger writes it with keys of their own.
        for forger in [b.clone(), c.clone(), b.clone().replacing(c)] {
            let forged = forger.sign(note.text()).unwrap();
            assert!(Rotation::open(&forged).is_err(), "{forged}");
        }
        let edited =
            note.to_string().replacen(&b.verifier().to_string(), &a.verifier().to_string(), 1);
        assert!(Rotation::open(&Note::parse(edited.as_bytes()).unwrap()).is_err());
        for text in [
            "",
            "x\n",
            "agentctl.dev/key-rotation/v1\n",
            "agentctl.dev/key-rotation/v1\nlog\na\nb\n",
        ] {
            if let Ok(note) = a.sign(text) {
                assert!(Rotation::open(&note).is_err(), "{text:?}");
            }
        }
    }

    #[test]
    fn while_both_sign_a_checkpoint_opens_with_either() {
        let (a, b) = (key("log", 1), key("log", 2));
        let checkpoint = Checkpoint { origin: "log".to_owned(), size: 0, root: empty_root() };
        let both = checkpoint.sign(&b.clone().replacing(a.clone())).unwrap();
        let (before, after) = (checkpoint.sign(&a).unwrap(), checkpoint.sign(&b).unwrap());
        let opens = |note: &Note, key: &SignerKey| Checkpoint::open(note, &key.verifier()).is_ok();
        assert_eq!([&before, &both, &after].map(|note| opens(note, &a)), [true, true, false]);
        assert_eq!([&before, &both, &after].map(|note| opens(note, &b)), [false, true, true]);
        assert!(Rotation::open(&both).is_err(), "a checkpoint says nothing about keys");
        assert!(Checkpoint::parse(Rotation::sign(&a, &b).unwrap().text()).is_err());
    }
}

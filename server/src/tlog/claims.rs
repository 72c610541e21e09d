//! What was published before and has to be found again: checked against every record while the journal is replayed.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use agentd_core::chain::Hash;
use agentd_core::tlog::note::NOTE_BYTES_MAX;
use agentd_core::tlog::proof::verify_consistency;
use agentd_core::tlog::tree::{self, Frontier};
use agentd_core::tlog::{Checkpoint, Note, SignerKey, checkpoint};

use super::elsewhere::Copy;
use super::files::HashFiles;
use super::signers::Signers;
use super::worker::Base;
use super::{Config, Error, Published, key};
use crate::journal::{Damage, Journal, Status};

/// Reads promises before the records, and sees whether the records keep them.
#[derive(Debug)]
pub(super) struct Claims {
    key: Option<SignerKey>,
    frontier: Frontier,
    claims: Vec<Claim>,
}

#[derive(Debug)]
struct Claim {
    kept: Kept,
    /// Signed by a key in use, if it is the log's own; who signed a copy is known once the records are.
    published: Published,
    /// The root that the records lead to at this size.
    found: Option<Hash>,
}

/// Where a checkpoint stands.
#[derive(Debug)]
enum Kept {
    /// Beside the log.
    Own(PathBuf),
    /// On the second path.
    Anchor(PathBuf),
    /// In Redis.
    Redis(Box<Copy>),
}

impl Claim {
    const fn is_own(&self) -> bool {
        matches!(self.kept, Kept::Own(_))
    }

    fn place(&self) -> String {
        match &self.kept {
            Kept::Own(path) | Kept::Anchor(path) => path.display().to_string(),
            Kept::Redis(copy) => copy.place(),
        }
    }

    fn size(&self) -> u64 {
        self.published.checkpoint.size
    }

    fn holds(&self) -> bool {
        self.found.is_some_and(|root| root == self.published.checkpoint.root)
    }
}

impl Claims {
    /// Reads the key, the checkpoint and its copy, as far as they exist.
    ///
    /// # Errors
    /// One of them exists and cannot be used.
    pub(super) fn load(config: &Config) -> Result<Self, Error> {
        let key = key::load(&config.key)?;
        let mut claims = Self { key, frontier: Frontier::new(), claims: Vec::new() };
        let own = Some(Kept::Own(config.checkpoint()));
        for kept in own.into_iter().chain(config.anchor.clone().map(Kept::Anchor)) {
            let (Kept::Own(path) | Kept::Anchor(path)) = &kept else { continue };
            let Some(text) = read(path)? else { continue };
            let Some(key) = &claims.key else {
                let (key, checkpoint) = (config.key.clone(), path.clone());
                return Err(Error::KeyLost { key, checkpoint });
            };
            let opened = match kept {
                Kept::Own(_) => open(&text, key),
                _ => unchecked(&text),
            };
            let refused = |source| Error::Checkpoint { path: path.clone(), source };
            let published = opened.map_err(refused)?;
            claims.claims.push(Claim { kept, published, found: None });
        }
        if let (Some(key), Some(address)) = (&claims.key, &config.redis) {
            let mut copy = Copy::new(address.clone(), config.env, key.verifier().name());
            if let Some(published) = copy.load() {
                claims.claims.push(Claim {
                    kept: Kept::Redis(Box::new(copy)),
                    published,
                    found: None,
                });
            }
        }
        claims.check();
        Ok(claims)
    }

    pub(super) const fn key(&self) -> Option<&SignerKey> {
        self.key.as_ref()
    }

    /// Goes on behind the first `size` records, whose tree has this root: the stored hashes lead to it, and say which root it had where
    /// something was promised. `None` if they do not, and the records have to be read to know why. A promise of another root is no
    /// reason to: who made it is known once the records are.
    pub(super) fn behind(mut self, dir: &Path, size: u64, root: Hash) -> Option<Self> {
        self.frontier = stored(dir, size, root)?;
        for mut claim in std::mem::take(&mut self.claims) {
            if claim.size() <= size {
                claim.found = root_before(dir, claim.size(), (size, root));
                if claim.found.is_none() {
                    // Anybody may write to Redis: what a foreign note asks about is no reason to give up a snapshot. One that an older
                    // key of the log signed is compared again before it is written over.
                    let own = self.key.as_ref().map(|key| signed(&claim.published.note, key));
                    if matches!(claim.kept, Kept::Redis(_)) && !matches!(own, Some(Ok(_))) {
                        continue;
                    }
                    return None;
                }
            }
            self.claims.push(claim);
        }
        Some(self)
    }

    /// Takes the next record.
    pub(super) fn entry(&mut self, leaf: Hash) {
        self.frontier.push(leaf, &mut |_, _| {});
        self.check();
    }

    fn check(&mut self) {
        let size = self.frontier.size();
        for claim in &mut self.claims {
            if claim.size() == size {
                claim.found = Some(self.frontier.root());
            }
        }
    }

    /// What the log can go on from. A promise that is not kept is damage, and the journal is told.
    ///
    /// # Errors
    /// The copy on the second path is not one of this log.
    pub(super) fn settle(
        mut self,
        journal: &Journal,
        config: &Config,
        signers: &Signers,
    ) -> Result<Base, Error> {
        self.check_copies(signers)?;
        if !matches!(journal.status(), Status::Damaged(_))
            && let Some(damage) = self.broken(journal, config)
        {
            journal.distrust(damage);
        }
        let own = self.claims.iter().find(|claim| claim.is_own());
        let mut base =
            Base { published: own.map(|claim| claim.published.clone()), ..Base::default() };
        if let Some((claim, root)) = own.and_then(|own| Some((own, own.found?)))
            && claim.holds()
            && let Some(frontier) = stored(&config.dir, claim.size(), root)
        {
            base.frontier = frontier;
        }
        Ok(base)
    }

    /// Keeps the copies that a key of the log signed. Anybody may write to Redis: what else stands there is said and left alone.
    fn check_copies(&mut self, signers: &Signers) -> Result<(), Error> {
        let mut kept = Vec::new();
        for mut claim in std::mem::take(&mut self.claims) {
            let signed = signers.check(&claim.published.note);
            match (signed, &mut claim.kept) {
                (Ok(_), _) | (Err(_), Kept::Own(_)) => kept.push(claim),
                (Err(source), Kept::Anchor(path)) => {
                    return Err(Error::Checkpoint { path: path.clone(), source });
                }
                (Err(error), Kept::Redis(copy)) => copy.say_foreign(&error),
            }
        }
        self.claims = kept;
        Ok(())
    }

    fn broken(&self, journal: &Journal, config: &Config) -> Option<Damage> {
        let kept = self.claims.iter().filter(|claim| claim.holds()).map(Claim::size).max();
        let claim = self.claims.iter().filter(|claim| !claim.holds()).min_by_key(|c| c.size())?;
        let (size, entries) = (claim.size(), self.frontier.size());
        let segment = claim.place();
        let (seq, why) = match claim.found {
            None => {
                let why = format!(
                    "a checkpoint over {size} records was published, and the log ends with record {entries}: \
                     an older copy of it was restored"
                );
                (entries.saturating_add(1), why)
            }
            Some(root) => {
                let named = first_difference(journal, config, size);
                let seq = named.unwrap_or_else(|| kept.unwrap_or(0).saturating_add(1));
                let published = claim.published.checkpoint.root;
                let why = format!(
                    "the records up to {size} are not those that were published: stored root {published}, computed {root}"
                );
                (seq, why)
            }
        };
        Some(Damage { seq, segment, offset: 0, why })
    }
}

/// The tree as the hash files have it, if they lead to `root`.
fn stored(dir: &Path, size: u64, root: Hash) -> Option<Frontier> {
    let mut files = HashFiles::new(dir);
    let frontier = Frontier::load(size, &mut |node| files.node(node)).ok()?;
    (frontier.root() == root).then_some(frontier)
}

/// The root over the first `old` records of the tree with this root, as the hash files have it, if they lead from one to the other.
fn root_before(dir: &Path, old: u64, (size, root): (u64, Hash)) -> Option<Hash> {
    let mut files = HashFiles::new(dir);
    let spans = tree::consistency(old, size)?;
    let proof = tree::resolve(&spans, &mut |node| files.node(node)).ok()?;
    let before = Frontier::load(old, &mut |node| files.node(node)).ok()?.root();
    verify_consistency((old, before), (size, root), &proof).ok()?;
    Some(before)
}

/// The first record whose leaf hash is not the stored one: the hash files remember what was published.
fn first_difference(journal: &Journal, config: &Config, size: u64) -> Option<u64> {
    let mut files = HashFiles::new(&config.dir);
    let reader = journal.reader();
    let mut next = reader.oldest_seq();
    while next <= size {
        let entries = reader.read(next, 256, usize::MAX).ok()?;
        for entry in &entries {
            let stored = files.leaf(entry.seq.checked_sub(1)?).ok()?;
            if stored != agentd_core::chain::leaf_hash(&entry.line) {
                return Some(entry.seq);
            }
        }
        next = entries.last()?.seq.checked_add(1)?;
    }
    None
}

pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = Error::io("read", path);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(&failed)?,
    };
    let mut text = Vec::new();
    // One byte more than the longest: a longer one is refused by the parser instead of being cut to one that fits.
    let limit = u64::try_from(NOTE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut text).map_err(&failed)?;
    Ok(Some(text))
}

/// A checkpoint that a key in use signed.
fn open(text: &[u8], key: &SignerKey) -> Result<Published, checkpoint::Error> {
    let note = Note::parse(text)?;
    Ok(Published { checkpoint: signed(&note, key)?, note })
}

/// A checkpoint, whoever signed it.
pub(super) fn unchecked(text: &[u8]) -> Result<Published, checkpoint::Error> {
    let note = Note::parse(text)?;
    Ok(Published { checkpoint: Checkpoint::parse(note.text())?, note })
}

/// The checkpoint in a note that a key in use signed. A key that is being replaced signed what was published last.
pub(super) fn signed(note: &Note, key: &SignerKey) -> Result<Checkpoint, checkpoint::Error> {
    let mut opened = key.verifiers().map(|key| Checkpoint::open(note, &key));
    let first = opened.next().unwrap_or_else(|| Checkpoint::open(note, &key.verifier()));
    first.or_else(|error| opened.find_map(Result::ok).ok_or(error))
}

#[cfg(test)]
mod tests {
    use agentd_core::chain::leaf_hash;

    use super::super::files::Writer;
    use super::*;
    use crate::bus::Address;

    /// The claims of a log of 600 records with this note in Redis, behind a snapshot of all of them, and what settles them.
    fn behind(size: u64, root: Option<Hash>, signer: &SignerKey) -> (Claims, Signers, Hash) {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Writer::resume(dir.path(), Frontier::new(), 1, 1 << 20).unwrap();
        let mut at_size = files.frontier().root();
        for seq in 1..=600_u64 {
            files.push(seq, format!("{seq}").as_bytes()).unwrap();
            if seq == size {
                at_size = files.frontier().root();
            }
        }
        files.flush().unwrap();
        let origin = signer.verifier().name().to_owned();
        let key = SignerKey::from_seed(&origin, &[1; 32]).unwrap();
        let checkpoint = Checkpoint { origin: origin.clone(), size, root: root.unwrap_or(at_size) };
        let note = checkpoint.sign(signer).unwrap();
        let address = Address::parse("redis://127.0.0.1:1").unwrap();
        let kept = Kept::Redis(Box::new(Copy::new(address, "stage", &origin)));
        let claim = Claim { kept, published: Published { checkpoint, note }, found: None };
        let claims =
            Claims { key: Some(key.clone()), frontier: Frontier::new(), claims: vec![claim] };
        let claims = claims.behind(dir.path(), 600, files.frontier().root());
        let journal = crate::journal::Config::new(dir.path().to_owned());
        let journal = crate::journal::open(journal, &mut |_, _| {}).unwrap().journal;
        (claims.expect("goes on"), Signers::new(key, journal.reader()), at_size)
    }

    #[test]
    fn a_foreign_note_in_redis_takes_no_snapshot_away_and_one_of_the_log_is_held_against_it() {
        let origin = "agentctl.dev/stage/x";
        let [own, foreign] = [1, 2].map(|seed| SignerKey::from_seed(origin, &[seed; 32]).unwrap());
        for size in [0, 1, 3, 256, 511, 600] {
            let wrong = Some(leaf_hash(b"wrong"));
            let (mut claims, signers, _) = behind(size, wrong, &foreign);
            claims.check_copies(&signers).unwrap();
            assert!(claims.claims.is_empty(), "{size}: nobody of the log said so");

            let (mut claims, signers, root) = behind(size, wrong, &own);
            claims.check_copies(&signers).unwrap();
            let found: Vec<_> = claims.claims.iter().map(|c| (c.holds(), c.found)).collect();
            assert_eq!(found, [(false, Some(root))], "{size}: another log with the same key");

            let (mut claims, signers, _) = behind(size, None, &own);
            claims.check_copies(&signers).unwrap();
            assert!(claims.claims.iter().all(Claim::holds) && claims.claims.len() == 1, "{size}");
        }
    }
}

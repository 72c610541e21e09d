//! What this user saw of each log: its key and its last checkpoint, kept as ssh keeps the keys of hosts.
//!
//! A log is believed the first time. From then on it has to continue what was seen: same key, never smaller, and a proof that the
//! state seen before is its beginning. Each client that remembers is a small witness.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use agentctl_api::v1;
use agentd_core::chain::Hash;
use agentd_core::digest::sha256_hex;
use agentd_core::record::HandedOver;
use agentd_core::tlog::note::NOTE_BYTES_MAX;
use agentd_core::tlog::proof::verify_consistency;
use agentd_core::tlog::rotation::Rotation;
use agentd_core::tlog::{Checkpoint, Note, VerifierKey};
use tonic::Code;

use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;

/// Pages of a list that are read in search of one key.
const PAGES_MAX: usize = 1_000;

/// A log as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) key: VerifierKey,
    pub(super) checkpoint: Checkpoint,
    pub(super) note: Note,
}

impl Known {
    /// A note as `key` signed it.
    pub(super) fn open(note: &[u8], key: VerifierKey) -> Result<Self, Failure> {
        let bad = |error: &dyn std::error::Error| {
            Failure::because(Exit::ProofFailed, "the checkpoint cannot be trusted", error)
        };
        let note = Note::parse(note).map_err(|error| bad(&error))?;
        let checkpoint = Checkpoint::open(&note, &key).map_err(|error| bad(&error))?;
        Ok(Self { key, checkpoint, note })
    }
}

/// The directory of memories; without a home there is none.
#[derive(Debug)]
pub(super) struct KnownLogs {
    dir: Option<PathBuf>,
}

impl KnownLogs {
    /// That of this user: `$XDG_STATE_HOME/agentctl/logs`, else below `~/.local/state`.
    pub(super) fn of_user() -> Self {
        let set =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state =
            set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
        Self { dir: state.map(|dir| dir.join("agentctl/logs")) }
    }

    #[cfg(test)]
    fn at(dir: &Path) -> Self {
        Self { dir: Some(dir.to_owned()) }
    }

    /// The file about a log; its name is made of the origin, which is foreign text.
    fn path(&self, origin: &str) -> Option<PathBuf> {
        let name = sha256_hex(origin.as_bytes());
        Some(self.dir.as_ref()?.join(name.get(..32)?))
    }

    /// What was seen of the log called `origin`.
    pub(super) fn get(&self, origin: &str) -> Result<Option<Known>, Failure> {
        let Some(path) = self.path(origin) else { return Ok(None) };
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| unusable(&path, &error))?,
        };
        let corrupt = || {
            Failure::new(Exit::Failure, format!("`{}` is not what agentctl wrote", path.display()))
                .hint("remove it to trust the log afresh")
        };
        if text.len() > NOTE_BYTES_MAX {
            return Err(corrupt());
        }
        let end = text.iter().position(|byte| *byte == b'\n').ok_or_else(corrupt)?;
        let (key, note) = text.split_at(end);
        let key = std::str::from_utf8(key).ok().and_then(|key| key.parse().ok());
        let known = key.and_then(|key| Known::open(note.get(1..)?, key).ok());
        known.filter(|known| known.key.name() == origin).map(Some).ok_or_else(corrupt)
    }

    /// Remembers; answers where.
    pub(super) fn put(&self, known: &Known) -> Result<Option<PathBuf>, Failure> {
        let Some(path) = self.path(known.key.name()) else { return Ok(None) };
        let text = format!("{}\n{}", known.key, known.note);
        write(&path, text.as_bytes()).map_err(|error| unusable(&path, &error))?;
        Ok(Some(path))
    }

    /// Keeps a checkpoint that contradicts what was seen: both are signed, which nobody can talk away.
    fn keep_evidence(&self, found: &Known) -> Option<PathBuf> {
        let path = self.path(found.key.name())?.with_extension("contradiction");
        write(&path, format!("{}\n{}", found.key, found.note).as_bytes()).ok()?;
        Some(path)
    }
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot remember the log in `{}`", path.display());
    Failure::because(Exit::Failure, &what, error)
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    std::fs::rename(&temporary, path)
}

/// How a log relates to what was seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meeting {
    /// Never seen before.
    First,
    /// It continues what was seen at this size.
    Continues(u64),
}

/// Asks for a checkpoint over at least `min_size` entries, and holds it against what was seen of the log.
pub(super) async fn meet(
    session: &Session,
    logs: &KnownLogs,
    min_size: u64,
) -> Result<(Known, Meeting), Failure> {
    let request = session.unary(v1::GetCheckpointRequest { min_size });
    let answer = session.proof().get_checkpoint(request).await;
    let answer = answer.map_err(|status| session.failure(status))?.into_inner();
    let key = answer.verifier_key.parse().map_err(|error: agentd_core::tlog::note::Error| {
        Failure::because(Exit::ProofFailed, "the key of the log cannot be used", &error)
    })?;
    let found = Known::open(&answer.checkpoint, key)?;
    let meeting = accept(session, logs, &found).await?;
    Ok((found, meeting))
}

/// Holds a checkpoint against what was seen of its log, and remembers it.
pub(super) async fn accept(
    session: &Session,
    logs: &KnownLogs,
    found: &Known,
) -> Result<Meeting, Failure> {
    let Some(mut known) = logs.get(found.key.name())? else {
        logs.put(found)?;
        return Ok(Meeting::First);
    };
    let seen = known.checkpoint.size;
    if known.key != found.key {
        if !is_handed_over(session, &known.key, &found.key).await? {
            let how =
                "it is signed with another key, to which the one that was seen did not hand over";
            return Err(contradiction(logs, &known, found, how));
        }
        // What was seen stays as it was signed; what comes after it is held against the new key.
        known.key = found.key.clone();
    }
    if found.checkpoint.size < seen {
        // Perhaps it is only an older answer: what was seen has to be there all the same.
        let request = session.unary(v1::GetCheckpointRequest { min_size: seen });
        match session.proof().get_checkpoint(request).await {
            Ok(newer) => {
                let newer = Known::open(&newer.into_inner().checkpoint, known.key.clone())?;
                if newer.checkpoint.size >= seen {
                    compare(session, logs, &known, &newer).await?;
                    compare(session, logs, found, &newer).await?;
                    logs.put(&newer)?;
                    return Ok(Meeting::Continues(seen));
                }
            }
            Err(status) if status.code() == Code::OutOfRange => {}
            Err(status) => return Err(session.failure(status)),
        }
        let how = format!("it was set back to {} entries", found.checkpoint.size);
        return Err(contradiction(logs, &known, found, &how));
    }
    compare(session, logs, &known, found).await?;
    logs.put(found)?;
    Ok(Meeting::Continues(seen))
}

/// Whether the log records how `trusted` handed over to `found`, over as many keys as there were in between. The records need not be
/// believed: each one carries the signature of a key that is trusted by then.
async fn is_handed_over(
    session: &Session,
    trusted: &VerifierKey,
    found: &VerifierKey,
) -> Result<bool, Failure> {
    let mut rotations = Vec::new();
    let events = vec!["KEY_ROTATED".to_owned(), "LOG_PRUNED".to_owned()];
    let filter = v1::ProofFilter { events, ..Default::default() };
    let mut request = v1::ListProofEntriesRequest { filter: Some(filter), ..Default::default() };
    for _ in 0..PAGES_MAX {
        let answer = session.proof().list_proof_entries(session.unary(request.clone())).await;
        let page = answer.map_err(|status| session.failure(status))?.into_inner();
        let said = page.entries.iter().flat_map(|entry| HandedOver::in_line(&entry.raw));
        rotations.extend(said.filter_map(|said| Some((said.seq, rotation(&said.note)?))));
        if page.next_page_token.is_empty() {
            return Ok(leads_to(rotations, trusted) == *found);
        }
        request.page_token = page.next_page_token;
    }
    Ok(false)
}

/// The rotation that a note states, if it is signed by the keys it is about.
fn rotation(note: &str) -> Option<Rotation> {
    Rotation::open(&Note::parse(note.as_bytes()).ok()?).ok()
}

/// The key that these exchanges, each with the number of its record, lead to from one that is trusted. A prune says again what was
/// recorded before, so they do not come in order.
fn leads_to(mut rotations: Vec<(u64, Rotation)>, trusted: &VerifierKey) -> VerifierKey {
    rotations.sort_by_key(|(seq, _)| *seq);
    rotations.into_iter().fold(trusted.clone(), |trusted, (_, rotation)| {
        if rotation.from == trusted { rotation.to } else { trusted }
    })
}

/// Checks that `newer` continues `older`.
async fn compare(
    session: &Session,
    logs: &KnownLogs,
    older: &Known,
    newer: &Known,
) -> Result<(), Failure> {
    if proves_growth(session, &older.checkpoint, &newer.checkpoint).await? {
        return Ok(());
    }
    let how = "it does not continue what was seen: history was changed";
    Err(contradiction(logs, older, newer, how))
}

/// Whether the server can prove that what `older` covers is the beginning of what `newer` covers.
pub(super) async fn proves_growth(
    session: &Session,
    older: &Checkpoint,
    newer: &Checkpoint,
) -> Result<bool, Failure> {
    let (first_size, second_size) = (older.size, newer.size);
    let hashes = if first_size == second_size || first_size == 0 {
        Vec::new()
    } else {
        let request = session.unary(v1::GetConsistencyProofRequest { first_size, second_size });
        let answer = session.proof().get_consistency_proof(request).await;
        hashes(&answer.map_err(|status| session.failure(status))?.into_inner().hashes)?
    };
    Ok(verify_consistency((first_size, older.root), (second_size, newer.root), &hashes).is_ok())
}

/// Hashes as the API carries them.
pub(super) fn hashes(wire: &[Vec<u8>]) -> Result<Vec<Hash>, Failure> {
    let hash = |bytes: &Vec<u8>| bytes.as_slice().try_into().ok().map(Hash::from_bytes);
    let hashes: Option<Vec<Hash>> = wire.iter().map(hash).collect();
    hashes.ok_or_else(|| Failure::new(Exit::ProofFailed, "the proof holds what is no hash"))
}

fn contradiction(logs: &KnownLogs, known: &Known, found: &Known, how: &str) -> Failure {
    let state = |known: &Known| {
        format!("{} entries, root {}", known.checkpoint.size, known.checkpoint.root)
    };
    let failure =
        Failure::new(Exit::ProofFailed, format!("this is not the log that was seen: {how}"))
            .fact("log", found.key.name())
            .fact("seen before", state(known))
            .fact("found now", state(found));
    let failure = match logs.keep_evidence(found) {
        Some(path) => failure.fact("evidence", path.display().to_string()),
        None => failure,
    };
    match logs.path(known.key.name()) {
        Some(path) => failure.hint(format!(
            "an old backup may have been restored; if you know why, remove `{}` to trust the log afresh",
            path.display()
        )),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use agentd_core::tlog::{SignerKey, tree};

    use super::*;

    fn known(size: u64, seed: u8) -> Known {
        let key = SignerKey::from_seed("log.example/stage", &[seed; 32]).unwrap();
        let origin = key.verifier().name().to_owned();
        let checkpoint = Checkpoint { origin, size, root: tree::empty_root() };
        let note = checkpoint.sign(&key).unwrap().to_string();
        Known::open(note.as_bytes(), key.verifier()).unwrap()
    }

    #[test]
    fn what_was_seen_is_there_again_and_readable_by_nobody_else() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let logs = KnownLogs::at(&dir.path().join("state/logs"));
        assert_eq!(logs.get("log.example/stage").unwrap(), None);
        let path = logs.put(&known(3, 1)).unwrap().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(logs.get("log.example/stage").unwrap(), Some(known(3, 1)));
        logs.put(&known(9, 1)).unwrap();
        assert_eq!(logs.get("log.example/stage").unwrap(), Some(known(9, 1)));
        assert_eq!(logs.get("log.example/prod").unwrap(), None);
        std::fs::write(&path, "x\n").unwrap();
        assert_eq!(
            logs.get("log.example/stage").unwrap_err().exit(),
            Exit::Failure,
            "never ignored"
        );
    }

    #[test]
    fn a_checkpoint_of_another_key_is_none() {
        let found = known(3, 1);
        let stranger = known(3, 2).key;
        let failure = Known::open(found.note.to_string().as_bytes(), stranger).unwrap_err();
        assert_eq!(failure.exit(), Exit::ProofFailed);
    }
}

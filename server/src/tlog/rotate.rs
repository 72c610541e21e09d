//! Another key for the log, while no server runs on it.
//!
//! ```text
//! proof.key          A                 B                       B
//! proof.key.before                     A: signs too            gone: `retire`
//! the log            ... checkpoint A  KEY_ROTATED (A and B)   checkpoints A + B       checkpoints B
//! ```
//!
//! The record comes first, under a checkpoint of the old key; then the keys are exchanged. What breaks off in between is taken up by
//! doing it again: the new key lies beside the old one until then.
//!
//! Copies of the checkpoint elsewhere need not be within reach: what the old key signed there is believed as far as the record allows,
//! also after the old key was retired, and signed anew as soon as a server reaches it.

use std::path::{Path, PathBuf};

use agentd_core::app::Millis;
use agentd_core::chain::leaf_hash;
use agentd_core::record::{Body, Record};
use agentd_core::tlog::rotation::Rotation;
use agentd_core::tlog::{Note, SignerKey, VerifierKey};
use bytes::Bytes;

use super::{Config, Unpublished, claims, key, open};
use crate::journal::{self, Damage, Journal, Status, sync_parent};

/// Why the key stays what it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log cannot be opened, or what belongs to its identity cannot be used.
    #[error(transparent)]
    Log(#[from] super::Error),
    /// There is no key to replace.
    #[error("there is no key in `{}`", .0.display())]
    NoKey(PathBuf),
    /// The exchange before this one is not over.
    #[error("the key in `{}` was replaced and still signs too", .0.display())]
    Overlapping(PathBuf),
    /// No key was replaced.
    #[error("no replaced key signs any more: there is no `{}`", .0.display())]
    NothingToRetire(PathBuf),
    /// The log is damaged.
    #[error("the log cannot be trusted")]
    Damaged(#[source] Damage),
    /// It holds nothing that a server wrote.
    #[error("the log in `{}` holds no record yet", .0.display())]
    Empty(PathBuf),
    /// The record cannot be written.
    #[error("the record of it cannot be written")]
    Journal(#[from] journal::Error),
    /// No checkpoint over the record.
    #[error(transparent)]
    Unpublished(#[from] Unpublished),
    /// The two keys cannot be exchanged.
    #[error(transparent)]
    Key(#[from] agentd_core::tlog::note::Error),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The key before.
    pub from: VerifierKey,
    /// The key now.
    pub to: VerifierKey,
    /// The record of it.
    pub seq: u64,
}

/// Makes a new key, has both keys say so in a record, and lets the new one sign beside the old one from then on.
///
/// # Errors
/// [`Error`]. The old key goes on signing alone, unless the exchange itself was done.
pub async fn rotate(config: Config, now: Millis) -> Result<Rotated, Error> {
    let (path, before) = (config.key.clone(), key::before(&config.key));
    let old = key::load_one(&path)?.ok_or_else(|| Error::NoKey(path.clone()))?;
    if key::load_one(&before)?.is_some_and(|before| before.verifier() != old.verifier()) {
        return Err(Error::Overlapping(before));
    }
    let next = key::next(&path);
    let (from, to, seq) = {
        // The lock of the log is held from here on, so a running server is found out before a key is made.
        let mut last = Vec::new();
        let segments = journal::Config::new(config.dir.clone());
        let (opened, tlog) =
            open(config.clone(), segments, &mut |_, line| line.clone_into(&mut last))?;
        if let Status::Damaged(damage) = opened.journal.status() {
            return Err(Error::Damaged(damage));
        }
        let last = Record::parse(&last).map_err(|_none| Error::Empty(config.dir.clone()))?;
        let new = match key::load_one(&next)? {
            Some(new) => new,
            None => key::generate(&next, old.verifier().name())?,
        };
        let seq = match recorded(&last, &new) {
            Some(seq) => seq,
            None => record(&opened, (&old, &new), &last, now).await?,
        };
        tlog.publish(seq).await?;
        (old.verifier(), new.verifier(), seq)
    };
    exchange(&path).map_err(super::Error::io("exchange the key", &path))?;
    sign_anew(&config).await?;
    Ok(Rotated { from, to, seq })
}

/// Lets the key that was replaced sign no more.
///
/// # Errors
/// There is none, or the log is in use.
pub async fn retire(config: Config) -> Result<VerifierKey, Error> {
    let before = key::before(&config.key);
    let old = key::load_one(&before)?.ok_or_else(|| Error::NothingToRetire(before.clone()))?;
    // Both signed what is published now, or this makes it so: the log can be opened with the new key alone.
    sign_anew(&config).await?;
    let removed = std::fs::remove_file(&before).and_then(|()| sync_parent(&before));
    removed.map_err(super::Error::io("remove", &before))?;
    Ok(old.verifier())
}

/// Whether the last thing that happened was this exchange, which broke off.
fn recorded(last: &Record, new: &SignerKey) -> Option<u64> {
    match &last.body {
        Body::KeyRotated { to, .. } if *to == new.verifier().to_string() => Some(last.seq),
        _ => None,
    }
}

async fn record(
    opened: &journal::Opened,
    (old, new): (&SignerKey, &SignerKey),
    last: &Record,
    now: Millis,
) -> Result<u64, Error> {
    let note = Rotation::sign(old, new)?.to_string();
    let (from, to) = (old.verifier().to_string(), new.verifier().to_string());
    // What was cut is recorded by whoever writes next.
    let cut = opened.journal.untold_cut().map(|bytes_cut| Body::LogRecovered { bytes_cut });
    let bodies = cut.into_iter().chain([Body::KeyRotated { from, to, note }]);
    append(&opened.journal, bodies.collect(), last, now).await
}

/// Appends records that no agent made; answers with the last one.
async fn append(
    journal: &Journal,
    bodies: Vec<Body>,
    last: &Record,
    now: Millis,
) -> Result<u64, Error> {
    let head = journal.head();
    let (mut seq, mut prev, mut lines) = (head.next_seq, head.hash, Vec::new());
    for body in bodies {
        let (at, env, actor) = (now.max(last.at), last.env, "agentctl".to_owned());
        let record = Record { seq, at, env, app: None, cause: None, actor, trace: None, body };
        let line = Bytes::from(record.line(prev));
        (seq, prev) = (seq.saturating_add(1), leaf_hash(&line));
        lines.push(line);
    }
    Ok(journal.append(head.next_seq, lines).await?.last_seq)
}

/// The new key in the place of the old one, which is kept beside it. There is a key at any moment.
fn exchange(path: &Path) -> std::io::Result<()> {
    let before = key::before(path);
    match std::fs::hard_link(path, &before) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_parent(path)?;
    std::fs::rename(key::next(path), path)?;
    sync_parent(path)
}

/// Publishes what there is with the keys there are, and sees that the key in use signed it.
async fn sign_anew(config: &Config) -> Result<(), Error> {
    {
        let segments = journal::Config::new(config.dir.clone());
        let mut last = Vec::new();
        let (opened, tlog) =
            open(config.clone(), segments, &mut |_, line| line.clone_into(&mut last))?;
        if let (Some(bytes_cut), Ok(last)) = (opened.journal.untold_cut(), Record::parse(&last)) {
            let cut = Body::LogRecovered { bytes_cut };
            append(&opened.journal, vec![cut], &last, last.at).await?;
        }
        tlog.publish_all().await?;
        // The thread looks at the keys at its first turn and at its last, which is over when it is dropped.
    }
    let key = key::load_one(&config.key)?.ok_or_else(|| Error::NoKey(config.key.clone()))?;
    let signed = claims::read(&config.checkpoint())?.and_then(|text| Note::parse(&text).ok());
    match signed {
        Some(note) => Ok(note.verify(&key.verifier())?),
        None => Err(Unpublished("the checkpoint is gone".to_owned()).into()),
    }
}

//! The thread that follows the journal: integrates what became durable, syncs, signs, and only then shows the checkpoint.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use agentd_core::tlog::tree::{self, Frontier};
use agentd_core::tlog::{Checkpoint, Note};
use tokio::sync::watch;

use super::elsewhere::{Against, Copy, Kept, Next};
use super::files::Writer;
use super::lines::Sealer;
use super::signers::Signers;
use super::tiles::Tiles;
use super::witness::Witnesses;
use super::{Config, Progress, Published, claims};
use crate::failpoint;
use crate::journal::{
    Damage, Journal, NotReplaced, Status, end_process, replace_file, try_replace_file,
};

/// Records that are read at once.
const READ_RECORDS: usize = 2_048;
/// Bytes of lines that are read at once.
const READ_BYTES: usize = 4 << 20;

/// What the files are known to hold: where writing goes on after a start or a failure.
#[derive(Debug, Clone, Default)]
pub(super) struct Base {
    pub(super) published: Option<Published>,
    pub(super) frontier: Frontier,
}

/// Why a turn came to nothing. It is tried again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{what}: {source}")]
    Disk { what: &'static str, source: io::Error },
    #[error("{0}")]
    Journal(#[from] crate::journal::Error),
    #[error("{0}")]
    Sign(#[from] agentd_core::tlog::checkpoint::Error),
    #[error("{0}")]
    Damaged(Damage),
    #[error("{0}")]
    Anchor(super::Error),
    #[error("`{0}` was removed")]
    Missing(String),
    #[error(
        "the hashes of records before {0}, which are pruned, are gone: restore `hash` from a backup or from the tiles of an export"
    )]
    HashesLost(u64),
}

fn disk(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |source| Failure::Disk { what, source }
}

#[derive(Debug)]
pub(super) struct Worker {
    config: Config,
    signers: Signers,
    journal: Journal,
    base: Base,
    tiles: Arc<Tiles>,
    /// Open while nothing went wrong since.
    files: Option<Writer>,
    progress: watch::Sender<Progress>,
    /// The copy in Redis.
    copy: Option<Copy>,
    /// The copies elsewhere are those of what is published.
    copied: bool,
    witnesses: Option<Witnesses>,
    sealer: Sealer,
}

impl Worker {
    pub(super) fn new(
        config: Config,
        signers: Signers,
        journal: Journal,
        base: Base,
        tiles: Arc<Tiles>,
        progress: watch::Sender<Progress>,
    ) -> Self {
        let origin = signers.key().verifier();
        let copy = config.redis.clone();
        let copy = copy.map(|address| Copy::new(address, config.env, origin.name()));
        let (files, copied, witnesses, sealer) = (None, false, None, Sealer::default());
        Self {
            config,
            signers,
            journal,
            base,
            tiles,
            files,
            progress,
            copy,
            copied,
            witnesses,
            sealer,
        }
    }

    /// Has these cosign each checkpoint.
    pub(super) fn with_witnesses(self, witnesses: Option<Witnesses>) -> Self {
        Self { witnesses, ..self }
    }

    /// Publishes until no handle is left, and then once more.
    pub(super) fn run(mut self, requests: &Receiver<()>) {
        let vkey = format!("{}\n", self.signers.key().verifier());
        if let Err(error) = replace_file(&self.config.dir.join("log.vkey"), vkey.as_bytes()) {
            tracing::warn!(%error, "cannot write the public key of the proof log");
        }
        loop {
            self.turn();
            match requests.recv_timeout(self.config.interval) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.turn();
    }

    fn turn(&mut self) {
        let failed = self.publish().err().map(|failure| failure.to_string());
        let integrated = self.files.as_ref().map(|files| files.frontier().size());
        let published = self.base.published.clone();
        self.progress.send_modify(|progress| {
            if progress.failed != failed
                && let Some(reason) = &failed
            {
                tracing::error!(%reason, "the proof log cannot be published");
            }
            progress.failed = failed;
            progress.attempts = progress.attempts.wrapping_add(1);
            progress.integrated = integrated.unwrap_or(progress.integrated);
            if progress.published.as_deref() != published.as_ref() {
                progress.published = published.map(Arc::new);
            }
        });
    }

    fn publish(&mut self) -> Result<(), Failure> {
        if let Status::Damaged(damage) = self.journal.status() {
            return Err(Failure::Damaged(damage));
        }
        let durable = self.journal.head().next_seq.saturating_sub(1);
        let size = self.base.published.as_ref().map(|published| published.checkpoint.size);
        if self.files.is_some() && size == Some(durable) && self.is_signed() {
            return self.complete();
        }
        let integrated = self.integrate(durable);
        if integrated.is_err() {
            // What was written since may be anywhere between memory and disk: it is written again from what is known.
            self.files = None;
        }
        let frontier = integrated?;
        let origin = self.signers.key().verifier().name().to_owned();
        let checkpoint = Checkpoint { origin, size: frontier.size(), root: frontier.root() };
        let last = self.base.published.as_ref();
        if !self.is_signed() || last.is_none_or(|last| last.checkpoint != checkpoint) {
            let note = checkpoint.sign(self.signers.key())?;
            let text = note.to_string();
            self.copied = false;
            self.anchor(&checkpoint, &text)?;
            let note = self.cosigned(&checkpoint, note);
            self.show(Published { checkpoint, note })?;
        } else {
            self.complete()?;
        }
        self.base.frontier = frontier;
        Ok(())
    }

    /// Writes the lines and hashes of everything that is durable, and syncs them.
    fn integrate(&mut self, durable: u64) -> Result<Frontier, Failure> {
        let files = match self.files.take() {
            Some(files) => self.files.insert(files),
            None => {
                let opened = open(&self.config, &mut self.base, &self.journal, &self.tiles)?;
                self.files.insert(opened)
            }
        };
        if let Some(path) = files.missing() {
            let path = path.display().to_string();
            self.tiles.forget();
            return Err(Failure::Missing(path));
        }
        integrate(files, &self.journal, durable)?;
        self.sealer.seal(|| files.lines().sealable());
        if let Err(error) = files.sync() {
            end_process(&format!("sync the lines and hashes: {error}"));
        }
        Ok(files.frontier().clone())
    }

    /// Does what could not be done when the last checkpoint was made: writes the copies that were out of reach, and asks again for
    /// cosignatures that it lacks.
    fn complete(&mut self) -> Result<(), Failure> {
        let Some(Published { checkpoint, note }) = self.base.published.clone() else {
            return Ok(());
        };
        if !self.copied {
            self.anchor(&checkpoint, &note.to_string())?;
        }
        if !self.witnesses.as_ref().is_some_and(|witnesses| witnesses.are_due(&note)) {
            return Ok(());
        }
        let more = self.cosigned(&checkpoint, note.clone());
        if more == note { Ok(()) } else { self.show(Published { checkpoint, note: more }) }
    }

    fn show(&mut self, published: Published) -> Result<(), Failure> {
        store(&self.config.checkpoint(), &published.note.to_string())
            .map_err(disk("write the checkpoint"))?;
        self.base.published = Some(published);
        Ok(())
    }

    /// The note with what the witnesses make of it.
    fn cosigned(&mut self, checkpoint: &Checkpoint, note: Note) -> Note {
        let Some(witnesses) = &mut self.witnesses else { return note };
        let (tiles, size) = (&self.tiles, checkpoint.size);
        let growth = |old| {
            let Some(spans) = tree::consistency(old, size) else { return Ok(None) };
            tree::resolve(&spans, &mut |node| tiles.node(node, size)).map(Some)
        };
        let signatures = witnesses.cosign(checkpoint, &note, &growth);
        // More than a note has room for cannot come of the witnesses of a policy.
        note.with_signatures(signatures).unwrap_or(note)
    }

    /// Whether the keys in use signed what is published, and no other of the log: after an exchange of keys they did not, and after the
    /// old one was retired it is not to speak for the log any more.
    fn is_signed(&self) -> bool {
        let Some(Published { checkpoint, note }) = &self.base.published else { return true };
        let by_the_log = note.signatures().iter().filter(|s| s.name == checkpoint.origin).count();
        let key = self.signers.key();
        key.verifiers().all(|key| note.verify(&key).is_ok())
            && by_the_log == key.verifiers().count()
    }

    /// Writes the copies elsewhere, unless one already promises what this log does not keep, more records or others: then another log
    /// writes there too, or this one was set back while it ran.
    fn anchor(&mut self, checkpoint: &Checkpoint, text: &str) -> Result<(), Failure> {
        let (tiles, signers) = (&*self.tiles, &self.signers);
        let next = Next { checkpoint, text, tiles, signers };
        let mut copied = true;
        if let Some(copy) = &mut self.copy {
            match copy.replace(next) {
                Kept::Done => {}
                Kept::NotNow => copied = false,
                Kept::Against(against) => {
                    let place = copy.place();
                    return Err(self.set_back(place, &against, checkpoint));
                }
            }
        }
        self.anchor_file(next)?;
        self.copied = copied;
        Ok(())
    }

    fn anchor_file(&self, next: Next<'_>) -> Result<(), Failure> {
        let Next { checkpoint, text, .. } = next;
        let Some(path) = &self.config.anchor else { return Ok(()) };
        if let Some(found) = claims::read(path).map_err(Failure::Anchor)? {
            if found == text.as_bytes() {
                return Ok(());
            }
            let found = self.signers.open(&found)?.checkpoint;
            let against = next.contradicted_by(&found).map_err(disk("read the hashes"))?;
            if let Some(against) = against {
                return Err(self.set_back(path.display().to_string(), &against, checkpoint));
            }
        }
        // Another disk, and a file that is made anew each time: a failure there says nothing about this log.
        replace_file(path, text.as_bytes()).map_err(disk("write the copy of the checkpoint"))
    }

    /// Another copy of the log went further than this one, or another way: nothing is appended to it any more.
    fn set_back(&self, place: String, against: &Against, own: &Checkpoint) -> Failure {
        let Against { found, root } = against;
        let has = match root {
            Some(root) => format!("root {}, this log has root {root}", found.root),
            None => format!("this log has {}", own.size),
        };
        let damage = Damage {
            seq: own.size.saturating_add(1),
            segment: place,
            offset: 0,
            why: format!("a checkpoint over {} records was published elsewhere, {has}", found.size),
        };
        self.journal.distrust(damage.clone());
        Failure::Damaged(damage)
    }
}

/// The files behind what is known of them, or behind nothing if they do not hold even that.
fn open(
    config: &Config,
    base: &mut Base,
    journal: &Journal,
    tiles: &Tiles,
) -> Result<Writer, Failure> {
    let (oldest, seal) = (journal.reader().oldest_seq(), config.seal_bytes);
    if base.frontier.size() == 0 && oldest > 1 {
        return Err(Failure::HashesLost(oldest));
    }
    match Writer::resume(&config.dir, base.frontier.clone(), oldest, seal) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && oldest > 1 => {
            Err(Failure::HashesLost(oldest))
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            *base = Base { published: base.published.take(), ..Base::default() };
            tiles.forget();
            let anew = Writer::resume(&config.dir, Frontier::new(), oldest, seal);
            anew.map_err(disk("open the hashes"))
        }
        other => other.map_err(disk("open the hashes")),
    }
}

fn integrate(files: &mut Writer, journal: &Journal, durable: u64) -> Result<(), Failure> {
    let reader = journal.reader();
    while files.next() <= durable {
        let next = files.next();
        let wanted = usize::try_from(durable - next).unwrap_or(READ_RECORDS).saturating_add(1);
        let entries = reader.read(next, wanted.min(READ_RECORDS), READ_BYTES)?;
        if entries.is_empty() {
            return Err(disk("read the log")(io::ErrorKind::UnexpectedEof.into()));
        }
        for entry in &entries {
            files.push(entry.seq, &entry.line).map_err(disk("write the hashes"))?;
        }
        files.flush().map_err(disk("write the hashes"))?;
    }
    Ok(())
}

/// The checkpoint of the log itself, on the disk of the log.
fn store(path: &Path, text: &str) -> io::Result<()> {
    failpoint::hit("tlog.before_checkpoint")?;
    match try_replace_file(path, text.as_bytes()) {
        Ok(()) => failpoint::hit("tlog.after_checkpoint"),
        Err(NotReplaced::Unwritten(error)) => Err(error),
        Err(NotReplaced::Unsynced(error)) => end_process(&format!("sync the checkpoint: {error}")),
    }
}

//! `agentctl proof export --format tiles|tlog-proof`: the log, or one entry of it, in forms that strangers check.

use std::io::Write as _;
use std::path::Path;

use agentctl_api::v1;
use agentd_core::chain::Hash;
use agentd_core::tlog::Checkpoint;

use super::checkpoint::{Fetched, fetch};
use super::keep::record_export;
use super::known::{Known, KnownLogs, accept, meet, proves_growth};
use super::tiles::{TileWriter, Unusable};
use super::verify::beginning_beside;
use super::{Context, create};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::server::Bodies;
use crate::text;

/// What an export looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ExportFormat {
    /// Lines, byte for byte
    Jsonl,
    /// A directory as C2SP tlog-tiles has it, with the checkpoint; needs --file, and goes on with an earlier export there
    Tiles,
    /// One entry with what proves it, as C2SP tlog-proof has it; needs --entry
    TlogProof,
}

/// Writes the log as a static tree, or what came since into the one that an earlier export left.
pub(super) async fn tiles(
    dir: &Path,
    record: bool,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let failed = |error: &std::io::Error| {
        Failure::because(Exit::Failure, &format!("cannot write `{}`", dir.display()), error)
    };
    // Everything there is at this moment: the checkpoint that was made last may be a second old.
    let request = session.unary(v1::GetCheckpointRequest { min_size: 0 });
    let answer = session.proof().get_checkpoint(request).await;
    let durable = answer.map_err(|status| session.failure(status))?.into_inner().durable_size;
    let (known, _) = meet(&session, &KnownLogs::of_user(), durable).await?;
    let mut writer =
        TileWriter::open(dir, &known.checkpoint.origin).map_err(|error| unusable(dir, &error))?;
    let before = writer.before().cloned();
    if let Some(before) = &before {
        goes_on(&session, dir, before, &known.checkpoint).await?;
    }
    let mut wrong = None;
    let bodies = Bodies::of_log(dir);
    let first = writer.tree().size().saturating_add(1);
    leaves(&session, (first, &known), &bodies, &mut |leaf| {
        let pushed = match leaf {
            Leaf::Kept(line) => writer.push(line),
            Leaf::Pruned(hash) => writer.push_hash(hash),
        };
        pushed.map_err(|error| wrong.get_or_insert(failed(&error)).clone())
    })
    .await?;
    let (tree, checkpoint) = (writer.tree(), &known.checkpoint);
    if (tree.size(), tree.root()) != (checkpoint.size, checkpoint.root) {
        return Err(Failure::new(Exit::ProofFailed, "the entries are not those that were signed")
            .fact("signed", format!("{} entries, root {}", checkpoint.size, checkpoint.root))
            .fact("received", format!("{} entries, root {}", tree.size(), tree.root()))
            .hint("`agentctl proof verify --server` names the first bad entry"));
    }
    let whole_from = writer.finish(&known).map_err(|error| failed(&error))?;
    context.output.say(format!(
        "✔ {} as tiles in {}, under the checkpoint with root {}",
        text::count(known.checkpoint.size, "entry", "entries"),
        dir.display(),
        known.checkpoint.root
    ));
    if let Some(before) = before {
        let new = known.checkpoint.size.saturating_sub(before.size);
        let (new, before) = (text::count(new, "entry is", "entries are"), before.size);
        context.output.say(format!("  {new} new: an export of {} was there", count(before)));
    }
    if whole_from > 1 {
        let gone = whole_from - 1;
        context
            .output
            .say(format!("! up to #{gone} some are there by their hash alone: they are pruned"));
    }
    if record {
        record_export(&session, (whole_from, &known.note.to_string()), context).await?;
    }
    Ok(Exit::Ok)
}

fn count(entries: u64) -> String {
    text::count(entries, "entry", "entries")
}

fn unusable(dir: &Path, error: &Unusable) -> Failure {
    let exit = match error {
        Unusable::Io(_) => Exit::Failure,
        Unusable::NoDirectory | Unusable::Other | Unusable::OtherLog(_) => Exit::Usage,
        Unusable::Altered(_) => Exit::ProofFailed,
    };
    let failure = Failure::because(exit, &format!("cannot export to `{}`", dir.display()), error);
    match error {
        Unusable::Io(_) => failure,
        Unusable::Altered(_) => failure
            .hint("`agentctl proof verify DIR` names the first bad entry; a new directory gets a new export"),
        Unusable::NoDirectory | Unusable::Other | Unusable::OtherLog(_) => {
            failure.hint("name a directory that is new, or that of an earlier export of this log")
        }
    }
}

/// Refuses to mix two histories: the log has to continue what an earlier export has.
async fn goes_on(
    session: &Session,
    dir: &Path,
    before: &Checkpoint,
    now: &Checkpoint,
) -> Result<(), Failure> {
    let goes_on = before.size <= now.size && proves_growth(session, before, now).await?;
    if goes_on {
        return Ok(());
    }
    let what = format!("the log does not continue the export in `{}`", dir.display());
    Err(Failure::new(Exit::ProofFailed, what)
        .fact("exported", format!("{}, root {}", count(before.size), before.root))
        .fact("found now", format!("{}, root {}", count(now.size), now.root))
        .hint("keep the directory: it is evidence of what the log was; export into another one"))
}

/// Writes the proof of one entry.
pub(super) async fn tlog_proof(
    seq: u64,
    file: Option<&Path>,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let logs = KnownLogs::of_user();
    let (known, _) = meet(&session, &logs, 0).await?;
    let Fetched { text, file: proof, checked, .. } = fetch(&session, seq, &known).await?;
    accept(&session, &logs, &checked).await?;
    match file {
        None => context.output.raw(&text)?,
        Some(path) => {
            let mut out = create(path, context.global.yes)?;
            out.write_all(&text).map_err(|error| {
                let what = format!("cannot write `{}`", path.display());
                Failure::because(Exit::Failure, &what, &error)
            })?;
        }
    }
    if proof.entry().is_none() {
        context.output.say(format!("! entry #{seq} is pruned: the proof is about its hash alone"));
    }
    context.output.flush()?;
    Ok(Exit::Ok)
}

/// Keeps beside lines that do not begin with the first entry what shows the tree before them: the proof of their first one. Where that
/// cannot be had they are an export all the same.
pub(super) async fn beginning(
    session: &Session,
    file: &Path,
    first_seq: u64,
    context: &mut Context,
) -> Result<(), Failure> {
    let path = beginning_beside(file);
    let request = session.unary(v1::GetInclusionProofRequest { seq: first_seq, tree_size: 0 });
    match session.proof().get_inclusion_proof(request).await {
        Ok(answer) => {
            let mut out = create(&path, true)?;
            let text = answer.into_inner().tlog_proof;
            out.write_all(&text).and_then(|()| out.sync_all()).map_err(|error| {
                let what = format!("cannot write `{}`", path.display());
                Failure::because(Exit::Failure, &what, &error)
            })?;
            context.output.say(format!(
                "  they begin with #{first_seq}: {} shows where that is in the tree",
                path.display()
            ));
        }
        Err(status) => {
            let why = session.failure(status);
            context.output.say(format!(
                "! they begin with #{first_seq}, and no checkpoint can be held against them: {why}"
            ));
        }
    }
    Ok(())
}

/// One entry of an export.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leaf<'a> {
    /// Its line.
    Kept(&'a [u8]),
    /// Its leaf hash: the server does not keep it any more.
    Pruned(Hash),
}

/// Every entry from `first` on that the checkpoint covers, as the server hands it out.
pub(super) async fn leaves(
    session: &Session,
    (first_seq, known): (u64, &Known),
    bodies: &Bodies,
    on_leaf: &mut dyn FnMut(Leaf<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let last_seq = known.checkpoint.size;
    if last_seq < first_seq {
        return Ok(());
    }
    let request =
        v1::ExportProofRequest { first_seq, last_seq, filter: None, pruned_as_hashes: true };
    let answer = session.proof().export_proof(request).await;
    let mut stream = answer.map_err(|status| session.failure(status))?.into_inner();
    while let Some(part) = stream.message().await.map_err(|status| session.failure(status))? {
        bodies.put(&part.bodies)?;
        for hash in part.leaf_hashes.as_chunks().0 {
            on_leaf(Leaf::Pruned(Hash::from_bytes(*hash)))?;
        }
        for line in part.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            on_leaf(Leaf::Kept(line))?;
        }
    }
    Ok(())
}

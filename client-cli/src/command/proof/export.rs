//! `agentctl proof export --format tiles|tlog-proof`: the log, or one entry of it, in forms that strangers check.

use std::path::Path;

use agentctl_api::v1;
use agentd_core::chain::Hash;
use agentd_core::tlog::tree::Frontier;

use super::checkpoint::fetch;
use super::keep::record_export;
use super::known::{Known, KnownLogs, accept, meet};
use super::tiles::TileWriter;
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
    /// A directory as C2SP tlog-tiles has it, with the checkpoint; needs --file
    Tiles,
    /// One entry with what proves it, as C2SP tlog-proof has it; needs --entry
    TlogProof,
}

/// Writes the whole log as a static tree.
pub(super) async fn tiles(
    dir: &Path,
    record: bool,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let failed = |error: &std::io::Error| {
        Failure::because(Exit::Failure, &format!("cannot write `{}`", dir.display()), error)
    };
    let mut writer = TileWriter::create(dir).map_err(|error| {
        failed(&error).exiting(Exit::Usage).hint("name a directory that is new")
    })?;
    // Everything there is at this moment: the checkpoint that was made last may be a second old.
    let request = session.unary(v1::GetCheckpointRequest { min_size: 0 });
    let answer = session.proof().get_checkpoint(request).await;
    let durable = answer.map_err(|status| session.failure(status))?.into_inner().durable_size;
    let (known, _) = meet(&session, &KnownLogs::of_user(), durable).await?;
    let mut wrong = None;
    let bodies = Bodies::of_log(dir);
    lines(&session, (1, &known), &bodies, &mut |line| {
        writer.push(line).map_err(|error| wrong.get_or_insert(failed(&error)).clone())
    })
    .await?;
    let (tree, checkpoint) = (writer.tree(), &known.checkpoint);
    if (tree.size(), tree.root()) != (checkpoint.size, checkpoint.root) {
        return Err(Failure::new(Exit::ProofFailed, "the entries are not those that were signed")
            .fact("signed", format!("{} entries, root {}", checkpoint.size, checkpoint.root))
            .fact("received", format!("{} entries, root {}", tree.size(), tree.root()))
            .hint("`agentctl proof verify --server` names the first bad entry"));
    }
    writer.finish(&known).map_err(|error| failed(&error))?;
    context.output.say(format!(
        "✔ {} as tiles in {}, under the checkpoint with root {}",
        text::count(known.checkpoint.size, "entry", "entries"),
        dir.display(),
        known.checkpoint.root
    ));
    if record {
        record_export(&session, &known.note.to_string(), context).await?;
    }
    Ok(Exit::Ok)
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
    let (text, _, checked) = fetch(&session, seq, &known).await?;
    accept(&session, &logs, &checked).await?;
    match file {
        None => context.output.raw(&text)?,
        Some(path) => {
            let mut out = create(path, context.global.yes)?;
            std::io::Write::write_all(&mut out, &text).map_err(|error| {
                let what = format!("cannot write `{}`", path.display());
                Failure::because(Exit::Failure, &what, &error)
            })?;
        }
    }
    context.output.flush()?;
    Ok(Exit::Ok)
}

/// The oldest entry that the server keeps, and the tree over what came before it, as a proof of that entry shows it.
pub(super) async fn oldest(session: &Session) -> Result<(u64, Option<Frontier>), Failure> {
    let request = session.unary(v1::GetProofStatusRequest {});
    let answer = session.proof().get_proof_status(request).await;
    let seq = answer.map_err(|status| session.failure(status))?.into_inner().oldest_seq;
    if seq <= 1 {
        return Ok((1, None));
    }
    let request = session.unary(v1::GetInclusionProofRequest { seq, tree_size: seq });
    let answer = session.proof().get_inclusion_proof(request).await;
    let proof = answer.map_err(|status| session.failure(status))?.into_inner();
    let hashes =
        proof.hashes.iter().map(|hash| Some(Hash::from_bytes(hash.as_slice().try_into().ok()?)));
    let hashes: Option<Vec<Hash>> = hashes.collect();
    Ok((seq, hashes.and_then(|hashes| Frontier::of_path(seq - 1, &hashes))))
}

/// Every entry from `first` on that the checkpoint covers, as the server hands it out.
pub(super) async fn lines(
    session: &Session,
    (first, known): (u64, &Known),
    bodies: &Bodies,
    on_line: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let size = known.checkpoint.size;
    if size < first {
        return Ok(());
    }
    let request = v1::ExportProofRequest { first_seq: first, last_seq: size, filter: None };
    let answer = session.proof().export_proof(request).await;
    let mut stream = answer.map_err(|status| session.failure(status))?.into_inner();
    while let Some(part) = stream.message().await.map_err(|status| session.failure(status))? {
        bodies.put(&part.bodies)?;
        for line in part.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            on_line(line)?;
        }
    }
    Ok(())
}

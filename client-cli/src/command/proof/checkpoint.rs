//! `agentctl proof checkpoint` and `agentctl proof prove`: what the log signed, and that an entry is under it.

use std::io::Write as _;
use std::path::PathBuf;

use agentctl_api::v1;
use agentd_core::chain::{GENESIS, Hash, leaf_hash};
use agentd_core::tlog::proof::ProofFile;
use clap::Args;
use serde::Serialize;

use super::known::{Known, KnownLogs, Meeting, accept, hashes, meet};
use super::{Context, create};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Page;
use crate::text;

#[derive(Debug, Args)]
pub(super) struct CheckpointArgs {
    /// Over at least so many entries; it is made at once if there is none yet
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    min_size: u64,
    /// Print the signed note alone, byte for byte
    #[arg(long)]
    note: bool,
}

#[derive(Debug, Args)]
pub(super) struct ProveArgs {
    /// Sequence number of the entry
    #[arg(value_name = "ENTRY", value_parser = clap::value_parser!(u64).range(1..))]
    seq: u64,
    /// Write the proof to this file; an existing one is replaced only with --yes
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A checkpoint that was checked.
#[derive(Debug, Serialize)]
struct CheckpointView {
    origin: String,
    size: u64,
    root_hash: String,
    verifier_key: String,
    /// Size at which this log was seen before; absent: it is seen for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    continues: Option<u64>,
    /// The signed note, verbatim.
    checkpoint: String,
}

impl CheckpointView {
    fn of(known: &Known, meeting: &Meeting) -> Self {
        Self {
            origin: known.checkpoint.origin.clone(),
            size: known.checkpoint.size,
            root_hash: known.checkpoint.root.to_string(),
            verifier_key: known.key.to_string(),
            continues: match meeting {
                Meeting::First => None,
                Meeting::Continues(size) => Some(*size),
            },
            checkpoint: known.note.to_string(),
        }
    }
}

pub(super) async fn checkpoint(
    args: CheckpointArgs,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let (known, meeting) = meet(&session, &KnownLogs::of_user(), args.min_size).await?;
    if args.note {
        context.output.raw(known.note.to_string().as_bytes())?;
        context.output.flush()?;
        return Ok(Exit::Ok);
    }
    let view = CheckpointView::of(&known, &meeting);
    context.output.emit(&view, |page| {
        page.pairs(
            0,
            &[
                ("log", view.origin.as_str()),
                ("entries", &text::thousands(view.size)),
                ("root", &view.root_hash),
                ("key", &view.verifier_key),
            ],
        );
        history(page, &meeting);
    })?;
    Ok(Exit::Ok)
}

/// What remembering adds.
pub(super) fn history(page: &mut Page, meeting: &Meeting) {
    match meeting {
        Meeting::First => {
            page.line("! seen for the first time: compare the key with one from elsewhere");
        }
        Meeting::Continues(size) => {
            let entries = text::count(*size, "entry", "entries");
            page.line(format!("✔ signature  ✔ continues what was seen at {entries}"));
        }
    }
}

/// An entry that is proven to be in the log.
#[derive(Debug, Serialize)]
struct ProofView {
    seq: u64,
    leaf_index: u64,
    leaf_hash: String,
    /// The server has no more than the hash of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pruned: bool,
    tree_size: u64,
    root_hash: String,
    /// From the sibling of the leaf to the child of the root.
    hashes: Vec<String>,
    origin: String,
    verifier_key: String,
    /// All of it as one file, C2SP tlog-proof.
    tlog_proof: String,
}

pub(super) async fn prove(args: ProveArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let logs = KnownLogs::of_user();
    let (known, _) = meet(&session, &logs, 0).await?;
    let Fetched { text, file, leaf, checked } = fetch(&session, args.seq, &known).await?;
    let meeting = accept(&session, &logs, &checked).await?;
    if let Some(path) = &args.file {
        let mut out = create(path, context.global.yes)?;
        out.write_all(&text).and_then(|()| out.sync_all()).map_err(|error| {
            let what = format!("cannot write `{}`", path.display());
            Failure::because(Exit::Failure, &what, &error)
        })?;
    }
    let is_pruned = file.entry().is_none();
    let view = ProofView {
        seq: args.seq,
        leaf_index: file.index,
        leaf_hash: leaf.to_string(),
        pruned: is_pruned,
        tree_size: checked.checkpoint.size,
        root_hash: checked.checkpoint.root.to_string(),
        hashes: file.hashes.iter().map(ToString::to_string).collect(),
        origin: checked.checkpoint.origin.clone(),
        verifier_key: checked.key.to_string(),
        tlog_proof: file.to_string(),
    };
    context.output.emit(&view, |page| {
        let size = text::thousands(view.tree_size);
        page.line(format!(
            "✔ entry #{} is number {} of {size} under root {}",
            view.seq, view.seq, view.root_hash
        ));
        page.line(format!("  log {}  {} hashes", view.origin, view.hashes.len()));
        if view.pruned {
            page.line(
                "! the entry is pruned: the proof is about its hash, and an export has the line",
            );
        }
        history(page, &meeting);
    })?;
    if let Some(path) = &args.file {
        context
            .output
            .say(format!("✔ proof in {}, check it with `agentctl proof verify`", path.display()));
        if view.pruned {
            context.output.say("  it does not carry the entry: --entry FILE gives the line");
        }
    }
    Ok(Exit::Ok)
}

/// The proof of an entry, checked.
pub(super) struct Fetched {
    /// As it came.
    pub(super) text: Vec<u8>,
    pub(super) file: ProofFile,
    /// Hash of the entry, which is not in the file if it is pruned.
    leaf: Hash,
    /// The checkpoint in it.
    pub(super) checked: Known,
}

/// Asks for the proof of an entry.
pub(super) async fn fetch(
    session: &crate::connect::Session,
    seq: u64,
    known: &Known,
) -> Result<Fetched, Failure> {
    let request = session.unary(v1::GetInclusionProofRequest { seq, tree_size: 0 });
    let answer = session.proof().get_inclusion_proof(request).await;
    let answer = answer.map_err(|status| session.failure(status))?.into_inner();
    let text = answer.tlog_proof;
    let bad = |error: &dyn std::error::Error| {
        Failure::because(Exit::ProofFailed, &format!("the proof of entry #{seq} is none"), error)
    };
    let file = ProofFile::parse(&text).map_err(|error| bad(&error))?;
    let leaf = match file.entry() {
        Some(entry) => leaf_hash(entry),
        None => hashes(&[answer.leaf_hash])?.pop().unwrap_or(GENESIS),
    };
    file.verify_leaf(leaf, &known.key).map_err(|error| bad(&error))?;
    if file.index.checked_add(1) != Some(seq) {
        let what =
            format!("the proof is about entry #{}, not #{seq}", file.index.saturating_add(1));
        return Err(Failure::new(Exit::ProofFailed, what));
    }
    let checked = Known::open(file.checkpoint.to_string().as_bytes(), known.key.clone())?;
    Ok(Fetched { text, file, leaf, checked })
}

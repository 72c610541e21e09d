//! `agentctl proof status` and `proof prune`: how much of the log is kept, and what has the rest.

use agentctl_api::v1;
use clap::Args;
use serde::Serialize;

use super::Context;
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::text;

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Let the entries before this one go; bundles of 256 go whole, so it may be some fewer
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    before: u64,
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Say what would go and what stands against it; nothing is recorded or removed
    #[arg(long)]
    dry_run: bool,
}

/// How much of the log is kept.
#[derive(Debug, Serialize)]
struct KeptView {
    oldest_seq: u64,
    newest_seq: u64,
    /// Entries that are no longer kept here: the minimum index of C2SP tlog-tiles.
    minimum_index: u64,
    /// The largest export on record has the entries up to this one; 0: none is.
    exported_upto: u64,
    /// The entry that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    exported_seq: Option<u64>,
    /// The newest snapshot of the state is that after this entry; 0: there is none.
    snapshot_upto: u64,
    line_files: u64,
    sealed_files: u64,
}

impl From<&v1::GetProofStatusResponse> for KeptView {
    fn from(status: &v1::GetProofStatusResponse) -> Self {
        Self {
            oldest_seq: status.oldest_seq,
            newest_seq: status.newest_seq,
            minimum_index: status.oldest_seq.saturating_sub(1),
            exported_upto: status.exported_upto,
            exported_seq: Some(status.exported_seq).filter(|seq| *seq > 0),
            snapshot_upto: status.snapshot_upto,
            line_files: status.line_files,
            sealed_files: status.sealed_files,
        }
    }
}

/// What a prune did.
#[derive(Debug, Serialize)]
struct PrunedView {
    oldest_seq: u64,
    dry_run: bool,
    /// The record of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

pub(super) async fn status(context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let request = session.unary(v1::GetProofStatusRequest {});
    let answer = session.proof().get_proof_status(request).await;
    let view = KeptView::from(&answer.map_err(|s| session.failure(s))?.into_inner());
    let upto = |seq: u64, none: &str| match seq {
        0 => none.to_owned(),
        seq => format!("up to #{seq}"),
    };
    context.output.emit(&view, |page| {
        let pruned = match view.minimum_index {
            0 => "nothing".to_owned(),
            gone => format!("up to #{gone}"),
        };
        let kept = format!("#{}..#{}", view.oldest_seq, view.newest_seq);
        let lines = format!(
            "{}, {} of them sealed and compressed",
            text::count(view.line_files, "file", "files"),
            view.sealed_files
        );
        page.pairs(
            0,
            &[
                ("kept", kept.as_str()),
                ("pruned", &pruned),
                ("exported", &upto(view.exported_upto, "no export is on record")),
                ("snapshot", &upto(view.snapshot_upto, "none yet")),
                ("plain lines", &lines),
            ],
        );
    })?;
    Ok(Exit::Ok)
}

pub(super) async fn prune(args: PruneArgs, context: &mut Context) -> Result<Exit, Failure> {
    if !args.dry_run {
        let what = format!("remove the entries before #{} from the server?", args.before);
        context.confirm(&what, "--yes")?;
    }
    let session = context.connect().await?;
    let request = session.unary(v1::PruneProofRequest {
        request_id: context.request_id(),
        validate_only: args.dry_run,
        before_seq: args.before,
        reason: args.reason,
    });
    let answer = session.proof().prune_proof(request).await.map_err(|s| session.failure(s))?;
    let v1::PruneProofResponse { oldest_seq, seq } = answer.into_inner();
    let view = PrunedView { oldest_seq, dry_run: args.dry_run, seq: Some(seq).filter(|s| *s > 0) };
    context.output.emit(&view, |page| match view.seq {
        Some(seq) => {
            page.line(format!("✔ the log begins with #{oldest_seq}, recorded as entry #{seq}"));
            page.line("  proofs over what is kept still work; an export has the rest");
        }
        None => page.line(format!("○ the log would begin with #{oldest_seq}; nothing was done")),
    })?;
    Ok(Exit::Ok)
}

/// Has the server record that there is an export of what this checkpoint covers, from an entry on.
pub(super) async fn record_export(
    session: &Session,
    (first_seq, checkpoint): (u64, &str),
    context: &mut Context,
) -> Result<(), Failure> {
    let request = session.unary(v1::RecordExportRequest {
        request_id: context.request_id(),
        checkpoint: checkpoint.as_bytes().to_vec(),
        first_seq,
    });
    let answer = session.proof().record_export(request).await.map_err(|s| session.failure(s))?;
    let v1::RecordExportResponse { exported_upto, seq } = answer.into_inner();
    let text = match seq {
        0 => format!("○ an export of the entries up to #{exported_upto} is on record already"),
        seq => format!("✔ recorded as entry #{seq}: what the export has may be pruned"),
    };
    context.output.say(text);
    Ok(())
}

//! `agentctl proof rotate-key`: another key for the log, which whoever knew the old one can follow.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::server;

#[derive(Debug, Args)]
pub(super) struct RotateArgs {
    /// Let the key that was replaced sign no more
    #[arg(long)]
    retire: bool,
    /// File with the key, where it is not in the data directory
    #[arg(long, value_name = "FILE")]
    proof_key: Option<PathBuf>,
    /// Second copy of each checkpoint, as the server is told it
    #[arg(long, value_name = "FILE")]
    proof_anchor: Option<PathBuf>,
}

/// What signs, and what signed before.
#[derive(Debug, Serialize)]
struct RotatedView {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// The record of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    /// The key that signs no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    retired: Option<String>,
}

pub(super) async fn run(args: RotateArgs, context: &mut Context) -> Result<Exit, Failure> {
    let directory = context.global.data_dir.clone().ok_or_else(|| {
        Failure::usage("the key is changed where the log is, while no server runs on it")
            .hint("give the data directory with --data-dir DIR")
    })?;
    let directory = Path::new(&directory);
    if args.retire {
        let retired = server::retire_key(directory, args.proof_key, args.proof_anchor).await?;
        let view = RotatedView { from: None, to: None, seq: None, retired: Some(retired) };
        context.output.emit(&view, |page| {
            let key = view.retired.as_deref().unwrap_or_default();
            page.line(format!("✔ signs no more: {key}"));
            page.line("  what it signed is checked with it as before: keep the public key");
        })?;
        return Ok(Exit::Ok);
    }
    let done = server::rotate_key(directory, args.proof_key, args.proof_anchor).await?;
    let (from, to, seq) = done;
    let view = RotatedView { from: Some(from), to: Some(to), seq: Some(seq), retired: None };
    context.output.emit(&view, |page| {
        page.line(format!("✔ recorded as entry #{seq}, signed by both keys"));
        let text = |key: &Option<String>| key.clone().unwrap_or_default();
        page.pairs(
            2,
            &[("until now", text(&view.from).as_str()), ("from now on", &text(&view.to))],
        );
        page.line("  both sign from here on; `agentctl proof rotate-key --retire` ends that");
    })?;
    Ok(Exit::Ok)
}

//! A `.tlog-proof`: one entry, checked with nothing but the public key of its log.

use std::path::Path;

use agentd_core::chain::LINE_BYTES_MAX;
use agentd_core::tlog::Checkpoint;
use agentd_core::tlog::proof::{Error, FILE_BYTES_MAX, ProofFile};
use agentd_core::tlog::tree::Frontier;
use serde::Serialize;

use super::claims::{Belief, Trust, beginning_of, trust};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Page;
use crate::text;

/// What the file shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ProofFileView {
    valid: bool,
    checked: &'static str,
    origin: String,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tree_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_hash: Option<String>,
    /// The entry that is proven; foreign text until it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

impl ProofFileView {
    pub(super) const fn exit(&self) -> Exit {
        if self.valid { Exit::Ok } else { Exit::ProofFailed }
    }

    pub(super) fn page(&self, page: &mut Page) {
        let seq = self.seq;
        match (&self.fault, &self.entry) {
            (Some(fault), _) => page.line(format!("✖ entry #{seq}: {fault}")),
            (None, entry) => {
                let size = text::thousands(self.tree_size.unwrap_or_default());
                page.line(format!(
                    "✔ entry #{seq} is in the log `{}` of {size} entries",
                    self.origin
                ));
                if let Some(entry) = entry {
                    page.line(format!("  {entry}"));
                }
            }
        }
    }
}

/// The tree over the `before` entries in front of the one that the file at `path` is about. A wrong one leads to no root that was signed.
pub(super) fn tree_before(path: &Path, before: u64) -> Option<Frontier> {
    let bytes = beginning_of(path, FILE_BYTES_MAX).ok()?;
    let file = ProofFile::parse(&bytes).ok().filter(|file| file.index == before)?;
    file.tree_before(Checkpoint::parse(file.checkpoint.text()).ok()?.size)
}

/// What tells such a file from others.
pub(super) const BEGINS_WITH: &[u8] = b"c2sp.org/tlog-proof@";

/// True for the text of such a file.
pub(super) fn is_one(text: &[u8]) -> bool {
    text.starts_with(BEGINS_WITH)
}

/// Checks the file; `entry` is what it is about, where it does not carry that itself.
pub(super) fn verify(
    bytes: &[u8],
    entry: Option<&Path>,
    belief: Belief<'_>,
) -> Result<ProofFileView, Failure> {
    let mut view = ProofFileView {
        valid: false,
        checked: "tlog_proof",
        origin: String::new(),
        seq: 0,
        tree_size: None,
        root_hash: None,
        entry: None,
        fault: None,
    };
    let file = match ProofFile::parse(bytes) {
        Ok(file) => file,
        Err(error) => {
            view.fault = Some(crate::failure::chain(&error));
            return Ok(view);
        }
    };
    view.seq = file.index.saturating_add(1);
    let claimed = match Checkpoint::parse(file.checkpoint.text()) {
        Ok(claimed) => claimed,
        Err(error) => {
            view.fault = Some(crate::failure::chain(&error));
            return Ok(view);
        }
    };
    view.origin = claimed.origin;
    let given = entry
        // An entry of the greatest length may have a line end.
        .map(|path| beginning_of(path, LINE_BYTES_MAX + 1))
        .transpose()
        .map_err(|error| Failure::because(Exit::Failure, "cannot read the entry", &error))?;
    let given = given.as_deref().map(|text| text.strip_suffix(b"\n").unwrap_or(text));
    let Some(entry) = given.or_else(|| file.entry()) else {
        return Err(Failure::usage("the proof does not carry its entry")
            .hint("give the line it is about with --entry FILE"));
    };
    let Trust { key, .. } = trust(&view.origin, belief, None)?;
    belief.hold(&file.checkpoint)?;
    match file.verify(entry, &key) {
        Ok(checkpoint) => {
            view.valid = true;
            view.tree_size = Some(checkpoint.size);
            view.root_hash = Some(checkpoint.root.to_string());
            view.entry = Some(String::from_utf8_lossy(entry).into_owned());
        }
        Err(error @ Error::Root { .. }) => {
            view.fault = Some(format!("this is not the entry that is in the log: {error}"));
        }
        Err(error) => view.fault = Some(crate::failure::chain(&error)),
    }
    Ok(view)
}

//! What lies beside a log: bodies that are too long for a line, and the plain lines.

use std::path::Path;

use super::log_dir;
use crate::exit::Exit;
use crate::failure::Failure;

/// Where bodies lie that are too long for a line of the log.
#[derive(Debug, Clone)]
pub struct Bodies {
    blobs: Option<agentd::blobs::Blobs>,
    /// What is removed with the last of its users.
    _received: Option<std::sync::Arc<tempfile::TempDir>>,
}

impl Bodies {
    /// There are none: a line that names one is a line without its body.
    #[must_use]
    pub const fn nowhere() -> Self {
        Self { blobs: None, _received: None }
    }

    /// In a data directory, or in a directory with tiles.
    #[must_use]
    pub fn of_log(dir: &Path) -> Self {
        Self { blobs: Some(agentd::blobs::Blobs::of_log(&log_dir(dir))), _received: None }
    }

    /// Beside a file with lines.
    #[must_use]
    pub fn beside(file: &Path) -> Self {
        let mut name = file.as_os_str().to_owned();
        name.push(".blobs");
        Self { blobs: Some(agentd::blobs::Blobs::at(name.into())), _received: None }
    }

    /// Where what a server sends is kept until it was checked.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn received() -> Result<Self, Failure> {
        let failed =
            |error| Failure::because(Exit::Failure, "cannot keep what the server sends", &error);
        let dir = tempfile::tempdir().map_err(failed)?;
        let blobs = Some(agentd::blobs::Blobs::at(dir.path().to_owned()));
        Ok(Self { blobs, _received: Some(std::sync::Arc::new(dir)) })
    }

    /// Keeps bodies, each under its digest.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn put(&self, bodies: &[Vec<u8>]) -> Result<(), Failure> {
        let Some(blobs) = &self.blobs else { return Ok(()) };
        let failed = |error| Failure::because(Exit::Failure, "cannot write a body", &error);
        bodies.iter().try_for_each(|body| blobs.put(body).map(drop).map_err(failed))
    }

    /// Checks the body that a line keeps beside the log, if it does; says what is wrong with it.
    ///
    /// # Errors
    /// It is not there as it was recorded.
    pub fn check(&self, line: &[u8]) -> Result<(), String> {
        match &self.blobs {
            Some(blobs) => blobs.check(line).map_err(|error| error.to_string()),
            None if agentd_core::record::Detached::in_line(line).is_some() => {
                Err("its body is not in what is checked".to_owned())
            }
            None => Ok(()),
        }
    }

    /// The record in a line, whole.
    ///
    /// # Errors
    /// It is none, or its body cannot be had.
    pub fn record(&self, line: &[u8]) -> Result<agentd_core::record::Record, agentd::blobs::Error> {
        match &self.blobs {
            Some(blobs) => blobs.record(line),
            None => Ok(agentd_core::record::Record::parse(line)?),
        }
    }
}

/// The plain lines in a log's directory, held against its records as these are read.
#[derive(Debug)]
pub struct PlainLines {
    lines: agentd::tlog::PlainLines,
    /// Records up to this one have to have theirs.
    upto: u64,
    pruned: u64,
    /// The first that is wrong.
    found: Option<(u64, String)>,
}

impl PlainLines {
    /// Those in `directory`, of the records up to `upto`.
    #[must_use]
    pub fn of_log(directory: &Path, upto: u64) -> Self {
        let lines = agentd::tlog::PlainLines::of_log(directory);
        Self { lines, upto, pruned: 0, found: None }
    }

    /// Takes the next record.
    pub fn check(&mut self, seq: u64, record: &[u8]) {
        self.pruned =
            self.pruned.max(agentd_core::record::Pruned::upto_in_line(record).unwrap_or(0));
        // Of what is pruned the lines may be gone before the records are.
        let has_lines = self.lines.first().is_some_and(|first| first <= seq);
        if self.found.is_none() && has_lines && seq <= self.upto {
            self.found = self.lines.check(seq, record).err().map(|d| (d.seq, d.to_string()));
        }
    }

    /// The first record whose line is altered or gone, and what is wrong.
    #[must_use]
    pub fn finish(self) -> Option<(u64, String)> {
        let oldest = self.pruned.saturating_add(1);
        let late = self.lines.first().is_none_or(|first| first > oldest) && oldest <= self.upto;
        if late {
            return Some((oldest, format!("the plain line of record {oldest} is in no file")));
        }
        self.found
    }
}

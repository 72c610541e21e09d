//! The exit spool: every end of an incarnation, kept until agentd says that it has recorded it.
//!
//! An exit is appended before it is announced, so the death of agentd or of the shim loses nothing. What was acknowledged leaves
//! the file a moment later, when the disk is synced too ([`Spool::sync`]): an acknowledgement comes while the next incarnation
//! starts, and may not delay it. A shim that dies in between tells an exit twice, and its number says so. The sync matters only
//! when the machine itself goes down, and then the app went down with it.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::protocol::{ExitRecord, ExitStatus, Fence, SPOOL_FILE};

/// Exits kept when nobody acknowledges them; the oldest go first, and the gap in the numbers shows it.
pub(super) const RECORDS_MAX: usize = 1024;
/// Exits in one answer, so that it fits on a line.
pub(super) const PAGE: usize = 100;
/// The file is written anew when it has this many lines.
const LINES_MAX: usize = 2 * RECORDS_MAX;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Exit(ExitRecord),
    /// Exits up to `n` are recorded elsewhere. Keeps the numbering, and the knowledge of how the latest incarnation ended.
    Through {
        n: u64,
        last: Option<ExitRecord>,
    },
}

/// The exits of one instance.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    file: Option<File>,
    records: VecDeque<ExitRecord>,
    last: Option<ExitRecord>,
    next: u64,
    lines: usize,
    dirty: bool,
    /// The file still holds exits that were acknowledged.
    outdated: bool,
}

impl Spool {
    /// Reads the spool in `dir`. A line that cannot be read is the torn end of a crash and is skipped.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let mut spool = Self {
            dir: dir.to_owned(),
            file: None,
            records: VecDeque::new(),
            last: None,
            next: 1,
            lines: 0,
            dirty: false,
            outdated: false,
        };
        match File::open(spool.dir.join(SPOOL_FILE)) {
            Ok(file) => spool.load(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Whatever was torn must not swallow the next line.
        if let Err(error) = spool.rewrite()
            && error.kind() != io::ErrorKind::StorageFull
        {
            return Err(error);
        }
        Ok(spool)
    }

    fn load(&mut self, file: File) {
        for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
            match serde_json::from_slice(&line) {
                Ok(Line::Exit(record)) if record.n >= self.next => self.remember(record),
                Ok(Line::Through { n, last }) => {
                    self.forget(n);
                    self.last = last.or(self.last.take());
                }
                Ok(Line::Exit(_)) | Err(_) => {}
            }
        }
    }

    fn remember(&mut self, record: ExitRecord) {
        self.next = record.n.saturating_add(1);
        if self.records.len() >= RECORDS_MAX {
            self.records.pop_front();
        }
        self.last = Some(record.clone());
        self.records.push_back(record);
    }

    fn forget(&mut self, through: u64) {
        self.records.retain(|record| record.n > through);
        self.next = self.next.max(through.saturating_add(1));
    }

    /// Numbers and appends an exit. If the disk refuses, it is kept in memory and written with the next one.
    pub(super) fn append(
        &mut self,
        fence: Fence,
        status: ExitStatus,
        at_ms: u64,
        requested: bool,
    ) -> ExitRecord {
        let record = ExitRecord { n: self.next, fence, status, at_ms, requested };
        self.remember(record.clone());
        let written = match (&mut self.file, self.lines < LINES_MAX) {
            (Some(file), true) => write_line(file, &Line::Exit(record.clone())),
            _ => self.rewrite(),
        };
        match written {
            Ok(()) => self.lines += 1,
            Err(_) => self.file = None,
        }
        self.dirty = true;
        record
    }

    /// Drops the exits up to `through`. A caller that knows a higher number than this spool (the disk lost the end) moves the
    /// numbering up, so that no number is used twice.
    pub(super) fn acknowledge(&mut self, through: u64) -> io::Result<()> {
        let moved_up = through > self.last_number();
        self.forget(through);
        self.outdated = true;
        self.dirty = true;
        // Only the file knows numbers across the death of this shim.
        if moved_up { self.rewrite() } else { Ok(()) }
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let temporary = self.dir.join(format!("{SPOOL_FILE}.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)?;
        let through = self.records.front().map_or(self.next, |record| record.n).saturating_sub(1);
        let mut lines = vec![Line::Through { n: through, last: self.last.clone() }];
        lines.extend(self.records.iter().cloned().map(Line::Exit));
        for line in &lines {
            write_line(&mut file, line)?;
        }
        fs::rename(&temporary, self.dir.join(SPOOL_FILE))?;
        self.lines = lines.len();
        self.file = Some(file);
        self.dirty = true;
        self.outdated = false;
        Ok(())
    }

    /// Whether something is not yet safe from a power failure.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Drops what was acknowledged from the file and makes it safe from a power failure. What the disk refuses is done with the
    /// next exit or acknowledgement.
    pub(super) fn sync(&mut self) {
        if !self.dirty {
            return;
        }
        if self.outdated {
            let _ = self.rewrite();
        }
        self.dirty = false;
        if let Some(file) = &self.file {
            let _ = file.sync_data();
        }
    }

    /// The exits above `after`, oldest first, at most [`PAGE`]; who sees fewer than the last number asks again.
    pub(super) fn after(&self, after: u64) -> Vec<ExitRecord> {
        self.records.iter().filter(|record| record.n > after).take(PAGE).cloned().collect()
    }

    /// The latest exit seen by this shim or found in the file.
    pub(super) fn last(&self) -> Option<&ExitRecord> {
        self.last.as_ref()
    }

    /// The number of the latest exit; 0 if there was none.
    pub(super) fn last_number(&self) -> u64 {
        self.next.saturating_sub(1)
    }
}

fn write_line(file: &mut File, line: &Line) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    file.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(pid: u32) -> Fence {
        Fence { boot_id: "boot".into(), pid, start_time: u64::from(pid) }
    }

    fn numbers(spool: &Spool) -> Vec<u64> {
        spool.after(0).iter().map(|record| record.n).collect()
    }

    #[test]
    fn numbers_have_no_gaps_across_shims_and_acknowledgements() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        for pid in 1..=3 {
            spool.append(fence(pid), ExitStatus::Signal(9), 5, false);
        }
        spool.acknowledge(2).unwrap();
        spool.sync();
        drop(spool);
        let mut spool = Spool::open(dir.path()).unwrap();
        assert_eq!(numbers(&spool), [3]);
        spool.acknowledge(3).unwrap();
        assert_eq!(numbers(&spool), [0; 0]);
        spool.sync();
        drop(spool);
        let mut spool = Spool::open(dir.path()).unwrap();
        assert_eq!(numbers(&spool), [0; 0]);
        assert_eq!(spool.last().unwrap().fence, fence(3), "how the latest ended is still known");
        assert_eq!(spool.append(fence(4), ExitStatus::Code(0), 6, true).n, 4);
    }

    #[test]
    fn an_acknowledgement_that_the_shim_did_not_outlive_tells_an_exit_twice_under_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        spool.append(fence(1), ExitStatus::Signal(9), 5, false);
        spool.acknowledge(1).unwrap();
        assert!(spool.is_dirty(), "the file is to be brought up to date");
        drop(spool);
        let mut spool = Spool::open(dir.path()).unwrap();
        assert_eq!(numbers(&spool), [1]);
        assert_eq!(spool.append(fence(2), ExitStatus::Code(0), 6, false).n, 2);
    }

    #[test]
    fn a_torn_last_line_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        spool.append(fence(1), ExitStatus::Code(1), 5, false);
        drop(spool);
        let path = dir.path().join(SPOOL_FILE);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"exit\":{\"n\":2,\"fen").unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        assert_eq!(spool.append(fence(2), ExitStatus::Code(2), 6, false).n, 2);
        drop(spool);
        assert_eq!(numbers(&Spool::open(dir.path()).unwrap()), [1, 2]);
    }

    #[test]
    fn a_caller_that_knows_more_than_the_disk_moves_the_numbers_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        spool.acknowledge(41).unwrap();
        assert_eq!(spool.append(fence(1), ExitStatus::Unknown, 5, false).n, 42);
    }

    #[test]
    fn an_unread_spool_is_bounded_in_memory_and_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        for pid in 1..=5_000 {
            spool.append(fence(pid), ExitStatus::Code(1), 5, false);
        }
        let text = fs::read_to_string(dir.path().join(SPOOL_FILE)).unwrap();
        assert!(text.lines().count() <= LINES_MAX + 1);
        drop(spool);
        let spool = Spool::open(dir.path()).unwrap();
        assert_eq!(spool.last_number(), 5_000);
        assert_eq!(spool.after(0).len(), PAGE);
        assert_eq!(spool.after(4_999).len(), 1);
        assert_eq!(spool.after(0).first().unwrap().n, 5_000 - RECORDS_MAX as u64 + 1);
    }
}

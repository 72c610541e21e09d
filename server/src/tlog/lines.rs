//! The records as plain lines, for `grep`, `jq` and whatever else reads text: in files that are sealed, compressed and at last pruned.
//!
//! ```text
//! log/<first record, 20 digits>.jsonl      the one that grows, which `proof.jsonl` leads to
//! log/<first record, 20 digits>.jsonl.gz   sealed: for zgrep and zcat
//! ```
//!
//! All of it is a copy of what the segments hold, for people and their tools: starts, answers and verifications read the segments, never
//! these lines. A file is sealed at the end of a bundle once it is long enough: the next one is begun and named first, then the old one is
//! compressed beside the log's other work, and only goes when the compressed one is durable under its name. What a crash leaves half done
//! is done again.
//!
//! A start looks at the names. Unless the first file begins early enough, all of them go and are written anew; so are the lines of a sealed
//! one at the end, which cannot grow. Of the one that grows, whole lines are counted: those that are missing are added, those that are too
//! many are cut. What the lines say is not compared with anything then: a verification does that ([`super::PlainLines`]), and names the
//! first line that is not the one of its record. Without the directory `log`, all lines from the oldest record on are written anew.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use agentd_core::tlog::tree::TILE_WIDTH;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::files::Growing;
use crate::failpoint;
use crate::journal::{make_dir, sync_parent};

/// Name of the directory in the directory of the log.
pub(super) const DIR: &str = "log";
/// Leads to the file that grows.
const LINK: &str = "proof.jsonl";
const PLAIN: &str = ".jsonl";
const SEALED: &str = ".jsonl.gz";
/// Bytes that are compressed between two looks at whether it should end.
const STEP: usize = 256 << 10;

/// Held by whoever gives a file another form or removes it: sealing and pruning run beside each other.
static NAMES: Mutex<()> = Mutex::new(());

fn names() -> MutexGuard<'static, ()> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Sealed,
}

/// The number of the first record in the name of a file.
fn first_of(name: &str, end: &str) -> Option<u64> {
    let digits = name.strip_suffix(end)?;
    let all = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| digits.parse().ok()).flatten()
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The files in `log`, by their first record. What a crash left is cleared away.
fn list(dir: &Path) -> io::Result<BTreeMap<u64, Form>> {
    let _held = names();
    let mut found = BTreeMap::new();
    for file in fs::read_dir(dir)? {
        let file = file?;
        let Ok(name) = file.file_name().into_string() else { continue };
        if let Some(first) = first_of(&name, SEALED) {
            found.insert(first, Form::Sealed);
        } else if let Some(first) = first_of(&name, PLAIN) {
            found.entry(first).or_insert(Form::Plain);
        } else if name.ends_with(".tmp") {
            remove(&file.path())?;
        }
    }
    for (first, _) in found.iter().filter(|(_, form)| **form == Form::Sealed) {
        remove(&path(dir, *first, Form::Plain))?;
    }
    Ok(found)
}

/// The file with the lines from record `first` on.
pub(super) fn file(dir: &Path, first: u64, sealed: bool) -> PathBuf {
    path(dir, first, if sealed { Form::Sealed } else { Form::Plain })
}

fn path(dir: &Path, first: u64, form: Form) -> PathBuf {
    let end = match form {
        Form::Plain => PLAIN,
        Form::Sealed => SEALED,
    };
    dir.join(format!("{first:020}{end}"))
}

/// Writes lines behind those that are there.
#[derive(Debug)]
pub(super) struct Lines {
    dir: PathBuf,
    link: PathBuf,
    /// First record of the file that grows.
    first: u64,
    /// The next record to be written.
    next: u64,
    file: Growing,
    /// A file of this length is sealed.
    seal_bytes: u64,
}

impl Lines {
    /// Goes on behind record `size`, as far as the lines up to it are there; those from `oldest` on are kept.
    pub(super) fn resume(log: &Path, oldest: u64, size: u64, seal_bytes: u64) -> io::Result<Self> {
        let (dir, link) = (log.join(DIR), log.join(LINK));
        make_dir(&dir)?;
        // As it was before there were several: one file with all lines.
        if fs::symlink_metadata(&link).is_ok_and(|found| found.is_file()) {
            fs::rename(&link, path(&dir, 1, Form::Plain))?;
        }
        let first = last_before(&dir, oldest, size)?.unwrap_or(oldest);
        let name = path(&dir, first, Form::Plain);
        let wanted = size.saturating_add(1).saturating_sub(first);
        let (count, end) = whole_lines(&name, wanted)?;
        if first.saturating_add(count) < oldest {
            // Lines are gone whose records are gone too: what is kept begins a file of its own.
            remove(&name)?;
            return Self::resume(log, oldest, size, seal_bytes);
        }
        let file = Growing::open(name, end)?;
        let lines = Self { dir, link, first, next: first.saturating_add(count), file, seal_bytes };
        lines.point()?;
        Ok(lines)
    }

    /// The next record that is wanted.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Lets the link lead to the file that grows.
    fn point(&self) -> io::Result<()> {
        let target = Path::new(DIR).join(format!("{:020}{PLAIN}", self.first));
        if fs::read_link(&self.link).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let temporary = self.link.with_extension("tmp");
        remove(&temporary)?;
        symlink(target, &temporary)?;
        fs::rename(&temporary, &self.link)
    }

    /// Adds a record, if it is the next one; it is in the file after [`Lines::flush`].
    pub(super) fn push(&mut self, seq: u64, line: &[u8]) -> io::Result<()> {
        if seq != self.next {
            return Ok(());
        }
        let bundle = seq.saturating_sub(1).is_multiple_of(TILE_WIDTH) && seq > self.first;
        if bundle && self.file.length() >= self.seal_bytes {
            self.begin_next()?;
        }
        self.file.add(line);
        self.file.add(b"\n");
        self.next = seq.saturating_add(1);
        Ok(())
    }

    fn begin_next(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.sync()?;
        self.first = self.next;
        self.file = Growing::open(path(&self.dir, self.first, Form::Plain), 0)?;
        self.point()
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    /// A name that is gone, if there is one.
    pub(super) fn missing(&self) -> Option<&Path> {
        [self.file.path(), self.link.as_path()].into_iter().find(|path| !path.exists())
    }

    /// The oldest file that is whole and not compressed yet.
    pub(super) fn sealable(&self) -> Option<PathBuf> {
        let files = list(&self.dir).ok()?;
        let plain =
            files.iter().find(|(first, form)| **form == Form::Plain && **first < self.first);
        plain.map(|(first, form)| path(&self.dir, *first, *form))
    }
}

/// The file that record `size` + 1 goes on in, by its first record; `None` if there is none. What begins behind it was promised to
/// nobody and goes; so does a sealed file, which does not grow: its lines are written again.
fn last_before(dir: &Path, oldest: u64, size: u64) -> io::Result<Option<u64>> {
    let mut files = list(dir)?;
    let begins = files.keys().next().is_some_and(|first| *first <= oldest);
    while let Some((first, form)) = files.pop_last() {
        let fits = begins && first <= size.saturating_add(1);
        if fits && form == Form::Plain {
            return Ok(Some(first));
        }
        remove(&path(dir, first, form))?;
        if fits {
            // Of the records in it, the pruned ones are not there to be written again.
            return Ok(Some(first.max(oldest)));
        }
    }
    Ok(None)
}

/// How many lines the file begins with, `wanted` at most, and where they end.
fn whole_lines(path: &Path, wanted: u64) -> io::Result<(u64, u64)> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        other => other?,
    };
    let mut reader = BufReader::with_capacity(STEP, file);
    let (mut count, mut end, mut at) = (0, 0, 0);
    while count < wanted {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        for (place, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            (count, end) = (count + 1, at + place as u64 + 1);
            if count == wanted {
                break;
            }
        }
        at += length as u64;
        reader.consume(length);
    }
    Ok((count, end))
}

/// How many files there are, and how many of them are compressed.
pub(super) fn count(log: &Path) -> (u64, u64) {
    let files = list_names(&log.join(DIR));
    let sealed = files.values().filter(|form| **form == Form::Sealed).count();
    (files.len() as u64, sealed as u64)
}

pub(super) fn list_names(dir: &Path) -> BTreeMap<u64, Form> {
    // Somebody else may be writing there: nothing is cleared away.
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = names.filter_map(|file| file.file_name().into_string().ok());
    let mut found = BTreeMap::new();
    for name in names {
        for (end, form) in [(SEALED, Form::Sealed), (PLAIN, Form::Plain)] {
            if let Some(first) = first_of(&name, end) {
                found.insert(first, form);
                break;
            }
        }
    }
    found
}

/// Removes the files that hold only records below `before`; the one that grows stays.
pub(super) fn prune(log: &Path, before: u64) -> io::Result<()> {
    let dir = log.join(DIR);
    let _held = names();
    let files: Vec<u64> = list_names(&dir).into_keys().collect();
    for pair in files.windows(2) {
        if let [first, next] = pair
            && *next <= before
        {
            failpoint::hit("lines.prune")?;
            remove(&path(&dir, *first, Form::Plain))?;
            remove(&path(&dir, *first, Form::Sealed))?;
        }
    }
    Ok(())
}

/// Compresses one file after the other, beside the thread that publishes.
#[derive(Debug, Default)]
pub(super) struct Sealer {
    running: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.running.take().is_some_and(|running| running.join().is_err()) {
            tracing::error!("the thread that seals the lines of the proof log panicked");
        }
    }
}

impl Sealer {
    /// Begins with `file`, unless it is at one still. A failure is said, and tried again.
    pub(super) fn seal(&mut self, file: impl FnOnce() -> Option<PathBuf>) {
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        self.running = None;
        let Some(file) = file() else { return };
        let stop = Arc::clone(&self.stop);
        let sealing = move || {
            if let Err(error) = compress(&file, &stop)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::warn!(%error, file = %file.display(), "lines of the proof log stay as they are");
            }
        };
        let thread = std::thread::Builder::new().name("proof-seal".into()).spawn(sealing);
        self.running = thread.ok();
    }
}

/// Puts a compressed file in the place of a plain one, unless that was pruned or went on growing meanwhile.
fn compress(plain: &Path, stop: &AtomicBool) -> io::Result<()> {
    let sealed = plain.with_extension("jsonl.gz");
    let temporary = plain.with_extension("gz.tmp");
    let mut from = File::open(plain)?;
    let mut to = GzEncoder::new(BufWriter::new(File::create(&temporary)?), Compression::default());
    let (mut step, mut length) = (vec![0; STEP], 0_u64);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let read = from.read(&mut step)?;
        if read == 0 {
            break;
        }
        to.write_all(step.get(..read).unwrap_or_default())?;
        length = length.saturating_add(read as u64);
    }
    let file = to.finish()?.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()?;
    failpoint::hit("lines.seal")?;
    let (_held, was) = (names(), from.metadata()?);
    let same = |now: fs::Metadata| now.ino() == was.ino() && now.len() == length;
    if !fs::metadata(plain).is_ok_and(same) {
        return remove(&temporary);
    }
    fs::rename(&temporary, &sealed)?;
    sync_parent(&sealed)?;
    failpoint::hit("lines.sealed")?;
    fs::remove_file(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(log: &Path) -> Vec<(u64, Form)> {
        list_names(&log.join(DIR)).into_iter().collect()
    }

    /// Lines 1 to 1024 in four files, the first of them sealed.
    fn four_files(log: &Path) {
        let mut lines = Lines::resume(log, 1, 0, 1).unwrap();
        for seq in 1..=1_024 {
            lines.push(seq, b"line").unwrap();
        }
        lines.flush().unwrap();
        compress(&lines.sealable().unwrap(), &AtomicBool::new(false)).unwrap();
        let plain = [257, 513, 769].map(|first| (first, Form::Plain));
        assert_eq!(names_in(log), [&[(1, Form::Sealed)], &plain[..]].concat());
    }

    #[test]
    fn only_what_begins_behind_the_checkpoint_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        four_files(dir.path());
        let lines = Lines::resume(dir.path(), 1, 600, 1).unwrap();
        assert_eq!((lines.first, lines.next()), (513, 601));
        let kept = [(1, Form::Sealed), (257, Form::Plain), (513, Form::Plain)];
        assert_eq!(names_in(dir.path()), kept);
        drop(lines);
        // In the sealed one nothing can be appended: it is begun again, with the oldest record there is.
        let lines = Lines::resume(dir.path(), 100, 200, 1).unwrap();
        assert_eq!((lines.first, lines.next()), (100, 100));
        assert_eq!(names_in(dir.path()), [(100, Form::Plain)]);
    }

    #[test]
    fn a_file_whose_missing_lines_are_pruned_does_not_wait_for_them() {
        let dir = tempfile::tempdir().unwrap();
        four_files(dir.path());
        // The last file begins below the oldest record, and lost lines that nobody has any more.
        let file = path(&dir.path().join(DIR), 769, Form::Plain);
        let text = fs::read_to_string(&file).unwrap();
        let cut: String = text.split_inclusive('\n').take(10).collect();
        fs::write(&file, cut).unwrap();
        let lines = Lines::resume(dir.path(), 1_000, 1_024, 1).unwrap();
        assert_eq!(lines.next(), 1_000, "the oldest one that can be written");
        let written: Vec<u64> = names_in(dir.path()).into_iter().map(|(first, _)| first).collect();
        assert_eq!(written, [1_000], "what went before ends nowhere near it");
    }

    #[test]
    fn pruning_takes_both_forms_of_a_file_and_nothing_that_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        four_files(dir.path());
        let log = dir.path().join(DIR);
        for form in [Form::Plain, Form::Sealed] {
            fs::write(path(&log, 257, form), "both forms are there\n").unwrap();
        }
        fs::write(log.join("7.jsonl"), "not one of ours\n").unwrap();
        prune(dir.path(), 600).unwrap();
        assert_eq!(names_in(dir.path()), [(513, Form::Plain), (769, Form::Plain)]);
        assert!(!path(&log, 257, Form::Plain).exists() && log.join("7.jsonl").exists());
        assert!(compress(&path(&log, 257, Form::Plain), &AtomicBool::new(false)).is_err());
        assert_eq!(names_in(dir.path()), [(513, Form::Plain), (769, Form::Plain)]);
    }
}

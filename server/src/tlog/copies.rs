//! The plain lines held against the records that they are a copy of.
//!
//! Nothing relies on the lines but people and their tools, so nothing would notice that one was altered: a verification does.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use agentd_core::chain::LINE_BYTES_MAX;
use flate2::read::MultiGzDecoder;

use super::lines;

/// A plain line that is not the one of its record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plain line of record {seq} {why}")]
pub struct LineDiffers {
    /// The record.
    pub seq: u64,
    /// What is wrong, and in which file.
    pub why: String,
}

/// The plain lines of a log, read along with its records.
#[derive(Debug)]
pub struct PlainLines {
    dir: PathBuf,
    /// The first record of each file.
    firsts: Vec<u64>,
    open: Option<Open>,
    line: Vec<u8>,
}

struct Open {
    name: String,
    /// The record that the next line is of.
    next: u64,
    /// The first record of the file behind it.
    end: u64,
    lines: Box<dyn BufRead + Send>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PlainLines {
    /// Those of the log in `dir`, as its files are called now.
    #[must_use]
    pub fn of_log(dir: &Path) -> Self {
        let dir = dir.join(lines::DIR);
        let firsts = lines::list_names(&dir).into_keys().collect();
        Self { dir, firsts, open: None, line: Vec::new() }
    }

    /// The first record that any file has a line of.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.firsts.first().copied()
    }

    /// Holds the line of record `seq` against the record itself; the records come in order.
    ///
    /// # Errors
    /// It is another one, or it is not there.
    pub fn check(&mut self, seq: u64, record: &[u8]) -> Result<(), LineDiffers> {
        let mut open = match self.open.take() {
            Some(open) if seq < open.end => open,
            Some(mut open) => {
                if next_line(&mut open, &mut self.line, seq)? {
                    let why = format!("stands in `{}` too, which ends before it", open.name);
                    return Err(LineDiffers { seq, why });
                }
                self.find(seq)?
            }
            None => self.find(seq)?,
        };
        // Of what is pruned a file may have lines still.
        while open.next <= seq {
            if !next_line(&mut open, &mut self.line, seq)? {
                let why = format!("is missing in `{}`", open.name);
                return Err(LineDiffers { seq, why });
            }
            open.next = open.next.saturating_add(1);
        }
        let line = self.line.strip_suffix(b"\n");
        if line != Some(record) {
            let why = format!("in `{}` is not what was recorded", open.name);
            return Err(LineDiffers { seq, why });
        }
        self.open = Some(open);
        Ok(())
    }

    /// The file that holds the line of record `seq`.
    fn find(&self, seq: u64) -> Result<Open, LineDiffers> {
        let differs = |why: String| LineDiffers { seq, why };
        let behind = self.firsts.partition_point(|first| *first <= seq);
        let first = behind.checked_sub(1).and_then(|at| self.firsts.get(at)).copied();
        let first = first.ok_or_else(|| differs("is in no file".to_owned()))?;
        let end = self.firsts.get(behind).copied().unwrap_or(u64::MAX);
        // It may be sealed at this very moment: then it is there under its other name.
        for sealed in [true, false, true] {
            let path = lines::file(&self.dir, first, sealed);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(differs(format!("cannot be read in `{name}`: {error}"))),
                Ok(file) => {
                    let lines: Box<dyn BufRead + Send> = match sealed {
                        true => Box::new(BufReader::new(MultiGzDecoder::new(file))),
                        false => Box::new(BufReader::new(file)),
                    };
                    return Ok(Open { name, next: first, end, lines });
                }
            }
        }
        Err(differs("is in no file".to_owned()))
    }
}

/// Reads the next line with its end; false behind the last one. One that is longer than a line can be is read so far that it is seen.
fn next_line(open: &mut Open, line: &mut Vec<u8>, seq: u64) -> Result<bool, LineDiffers> {
    line.clear();
    let room = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
    match open.lines.by_ref().take(room).read_until(b'\n', line) {
        Ok(read) => Ok(read > 0),
        Err(error) => {
            Err(LineDiffers { seq, why: format!("cannot be read in `{}`: {error}", open.name) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const FILES: [(u64, u64, bool); 3] = [(1, 300, true), (301, 600, true), (601, 650, false)];

    fn text(seq: u64) -> String {
        format!(r#"{{"seq":{seq}}}"#)
    }

    fn write(dir: &Path, first: u64, sealed: bool, text: &[u8]) {
        let path = lines::file(&dir.join(lines::DIR), first, sealed);
        let mut file = File::create(path).unwrap();
        if sealed {
            let mut to = GzEncoder::new(file, Compression::fast());
            to.write_all(text).unwrap();
            to.finish().unwrap();
        } else {
            file.write_all(text).unwrap();
        }
    }

    /// 650 lines in three files, of which two are sealed.
    fn log() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(lines::DIR)).unwrap();
        for (first, last, sealed) in FILES {
            let all: String = (first..=last).map(|seq| text(seq) + "\n").collect();
            write(dir.path(), first, sealed, all.as_bytes());
        }
        dir
    }

    /// The first line from `oldest` on that is not the one of its record.
    fn first_bad(dir: &Path, oldest: u64) -> Option<LineDiffers> {
        let mut lines = PlainLines::of_log(dir);
        (oldest..=650).find_map(|seq| lines.check(seq, text(seq).as_bytes()).err())
    }

    #[test]
    fn lines_that_are_a_copy_are_found_to_be_one_from_wherever_the_log_begins() {
        let dir = log();
        for oldest in [1, 2, 257, 300, 301, 513, 601, 650] {
            assert_eq!(first_bad(dir.path(), oldest), None, "{oldest}");
        }
        // What is not integrated yet is not looked at, and what the file that grows has beyond is none of its business.
        let mut lines = PlainLines::of_log(dir.path());
        assert!((1..=620).all(|seq| lines.check(seq, text(seq).as_bytes()).is_ok()));
    }

    #[test]
    fn whatever_is_done_to_a_sealed_file_the_first_bad_line_is_named() {
        let whole: Vec<String> = (301..=600).map(|seq| text(seq) + "\n").collect();
        type Harm = fn(&mut Vec<String>);
        let harms: [(&str, Harm, u64); 6] = [
            ("one letter", |lines| lines[99] = lines[99].replace("seq", "sea"), 400),
            ("a line less", |lines| drop(lines.remove(99)), 400),
            ("a line more", |lines| lines.insert(99, "{}\n".to_owned()), 400),
            ("one more at the end", |lines| lines.push("{}\n".to_owned()), 601),
            ("the end is gone", |lines| lines.truncate(250), 551),
            ("nothing is left", Vec::clear, 301),
        ];
        for (what, harm, seq) in harms {
            let (dir, mut lines) = (log(), whole.clone());
            harm(&mut lines);
            write(dir.path(), 301, true, lines.concat().as_bytes());
            let found = first_bad(dir.path(), 1).expect(what);
            assert_eq!(found.seq, seq, "{what}: {found}");
            assert!(found.why.contains(".jsonl"), "{what}: {found}");
        }
        let dir = log();
        let path = lines::file(&dir.path().join(lines::DIR), 301, true);
        let bytes = fs::read(&path).unwrap();
        let half = &bytes[..bytes.len() / 2];
        let broken = [&bytes[..bytes.len() - 6], &[0; 6]].concat();
        for bytes in [half, b"no gzip at all", &broken] {
            fs::write(&path, bytes).unwrap();
            let found = first_bad(dir.path(), 1).expect("noticed");
            assert!((301..=601).contains(&found.seq), "{found}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(first_bad(dir.path(), 1).expect("noticed").seq, 301, "it is gone");
        assert_eq!(first_bad(dir.path(), 601), None, "nobody misses it once it is pruned");
        fs::remove_dir_all(dir.path().join(lines::DIR)).unwrap();
        assert_eq!(first_bad(dir.path(), 513).expect("noticed").seq, 513);
    }
}

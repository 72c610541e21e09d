//! The app's output: two named pipes in, rotated files out.
//!
//! The pipes have names and are opened for reading *and* writing on both sides. So there is always a reader: the app does not
//! get `SIGPIPE` when its shim dies, what it wrote meanwhile waits in the pipe, and the next shim opens the same pipe and reads
//! it. Bytes are kept as they are. The two streams share one file and are interleaved at line ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::protocol::LogLimits;

/// Directory of the output files, below the instance's directory.
pub const LOG_DIR: &str = "log";
/// The file being written.
pub const LOG_CURRENT: &str = "log/current";
/// A line that is longer is written in pieces.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Read from one stream per turn, so that a flood of output does not keep the shim from its other duties.
const TURN_BYTES_MAX: usize = 64 * 1024;
/// Asked for, best effort: how much an app can write while nobody reads.
const PIPE_BYTES: usize = 256 * 1024;
/// Most that is read from a pipe after the app ended; what escaped processes go on writing is read in later turns.
const DRAIN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One of the two streams of the app.
#[derive(Debug)]
struct Stream {
    name: &'static str,
    reader: OwnedFd,
    partial: Vec<u8>,
}

impl Stream {
    /// Makes the pipe `name` in the current directory, or opens the one an earlier shim made.
    fn open(name: &'static str) -> io::Result<Self> {
        match rustix::fs::mkfifoat(CWD, name, Mode::RUSR | Mode::WUSR) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let reader = open_pipe(name, OFlags::NONBLOCK)?;
        let _ = rustix::pipe::fcntl_setpipe_size(&reader, PIPE_BYTES);
        Ok(Self { name, reader, partial: Vec::new() })
    }
}

fn open_pipe(name: &str, extra: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | extra;
    let fd = rustix::fs::open(name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::Fifo {
        return Err(io::Error::other(format!("`{name}` is not a pipe")));
    }
    Ok(fd)
}

/// Reads the app's streams and writes the files.
#[derive(Debug)]
pub(super) struct Output {
    streams: [Stream; 2],
    log: Log,
}

impl Output {
    /// Opens pipes and files below the current directory.
    ///
    /// # Errors
    /// If the pipes cannot be made. Files that cannot be opened are no error: output is dropped and counted.
    pub(super) fn open(limits: LogLimits) -> io::Result<Self> {
        if let Err(error) = fs::create_dir(LOG_DIR)
            && error.kind() != io::ErrorKind::AlreadyExists
            && error.kind() != io::ErrorKind::StorageFull
        {
            return Err(error);
        }
        Ok(Self { streams: [Stream::open("out")?, Stream::open("err")?], log: Log::new(limits) })
    }

    /// The ends to wait on.
    pub(super) fn readers(&self) -> [BorrowedFd<'_>; 2] {
        let [out, err] = &self.streams;
        [out.reader.as_fd(), err.reader.as_fd()]
    }

    /// Fresh blocking ends for a new incarnation, standard output first. Each incarnation has its own open file, so that one
    /// that makes it non-blocking does not do so to the next.
    ///
    /// # Errors
    /// If somebody removed the pipes.
    pub(super) fn writers(&self) -> io::Result<[OwnedFd; 2]> {
        let [out, err] = &self.streams;
        Ok([open_pipe(out.name, OFlags::empty())?, open_pipe(err.name, OFlags::empty())?])
    }

    /// Changes the limits of the files.
    pub(super) fn set_limits(&mut self, limits: LogLimits) {
        self.log.limits = limits;
    }

    /// Bytes lost so far.
    pub(super) fn dropped_bytes(&self) -> u64 {
        self.log.dropped_total
    }

    /// Whether the beginning of a line waits for its end.
    pub(super) fn has_partial(&self) -> bool {
        self.streams.iter().any(|stream| !stream.partial.is_empty())
    }

    /// Reads what is there, at most one turn per stream.
    pub(super) fn pump(&mut self) {
        let mut chunk = vec![0_u8; TURN_BYTES_MAX];
        for stream in &mut self.streams {
            let read = rustix::io::read(&stream.reader, &mut chunk).unwrap_or(0);
            take_lines(&mut stream.partial, chunk.get(..read).unwrap_or_default(), &mut self.log);
        }
    }

    /// Reads everything a dead app left, then writes lines that never ended.
    pub(super) fn drain(&mut self) {
        let mut chunk = vec![0_u8; TURN_BYTES_MAX];
        for stream in &mut self.streams {
            let mut total = 0;
            while total < DRAIN_BYTES_MAX {
                let read = rustix::io::read(&stream.reader, &mut chunk).unwrap_or(0);
                if read == 0 {
                    break;
                }
                total += read;
                take_lines(
                    &mut stream.partial,
                    chunk.get(..read).unwrap_or_default(),
                    &mut self.log,
                );
            }
        }
        self.flush_partial();
    }

    /// Writes the beginnings of lines that have waited long enough for their end.
    pub(super) fn flush_partial(&mut self) {
        for stream in &mut self.streams {
            self.log.write(&std::mem::take(&mut stream.partial));
        }
    }
}

/// Writes the complete lines of `partial + chunk`, keeps the rest.
fn take_lines(partial: &mut Vec<u8>, chunk: &[u8], log: &mut Log) {
    let cut = chunk.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (lines, rest) = chunk.split_at(cut);
    if !lines.is_empty() {
        if partial.is_empty() {
            log.write(lines);
        } else {
            partial.extend_from_slice(lines);
            log.write(partial);
            partial.clear();
        }
    }
    partial.extend_from_slice(rest);
    if partial.len() > LINE_BYTES_MAX {
        log.write(partial);
        partial.clear();
    }
}

/// Files `current`, `current.1` (newest) and so on.
#[derive(Debug)]
struct Log {
    limits: LogLimits,
    file: Option<File>,
    size: u64,
    dropped_total: u64,
    dropped_unreported: u64,
}

impl Log {
    fn new(limits: LogLimits) -> Self {
        Self { limits, file: None, size: 0, dropped_total: 0, dropped_unreported: 0 }
    }

    /// Appends `bytes`; what does not fit on the disk is dropped and counted, because an app must not block or die of it.
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.limits.file_bytes_max.max(1).saturating_sub(self.size);
            if room == 0 || (self.size > 0 && rest.len() as u64 > room) {
                self.rotate();
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(1)));
            self.report_dropped();
            let written = self.append(now);
            if written < now.len() {
                let lost = (now.len() - written + later.len()) as u64;
                self.dropped_total = self.dropped_total.saturating_add(lost);
                self.dropped_unreported = self.dropped_unreported.saturating_add(lost);
                return;
            }
            rest = later;
        }
    }

    /// Says in the file what is missing from it, as soon as it can be written again.
    fn report_dropped(&mut self) {
        if self.dropped_unreported > 0 {
            let line = format!("[shim: {} bytes of output dropped]\n", self.dropped_unreported);
            if self.append(line.as_bytes()) > 0 {
                self.dropped_unreported = 0;
            }
        }
    }

    /// Returns how many bytes were written.
    fn append(&mut self, bytes: &[u8]) -> usize {
        if self.file.is_none() {
            self.open();
        }
        let Some(file) = &mut self.file else { return 0 };
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match file.write(rest) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.size = self.size.saturating_add(written as u64);
        written
    }

    fn open(&mut self) {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        self.file = options.open(LOG_CURRENT).ok();
        self.size = self.file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
    }

    /// Moves every file one further, forgets the oldest, begins a new one.
    fn rotate(&mut self) {
        self.file = None;
        self.size = 0;
        let kept = self.limits.files_max.clamp(1, 1000);
        let _ = fs::remove_file(older(kept - 1));
        for index in (0..kept - 1).rev() {
            let _ = fs::rename(older(index), older(index + 1));
        }
        // If neither worked (a read-only disk), the file must not grow without limit.
        if fs::metadata(LOG_CURRENT).is_ok() {
            let _ = File::create(LOG_CURRENT);
        }
    }
}

fn older(index: u32) -> PathBuf {
    if index == 0 { LOG_CURRENT.into() } else { format!("{LOG_CURRENT}.{index}").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_disk() -> Log {
        let mut log = Log::new(LogLimits { file_bytes_max: 1 << 20, files_max: 2 });
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log
    }

    #[test]
    fn a_full_disk_drops_and_counts_and_later_says_so() {
        let mut log = full_disk();
        let mut partial = Vec::new();
        take_lines(&mut partial, b"lost line\n", &mut log);
        assert_eq!(log.dropped_total, 10);
        let room = tempfile::NamedTempFile::new().unwrap();
        log.file = Some(room.reopen().unwrap());
        take_lines(&mut partial, b"kept line\n", &mut log);
        let text = fs::read_to_string(room.path()).unwrap();
        assert_eq!(text, "[shim: 10 bytes of output dropped]\nkept line\n");
        assert_eq!(log.dropped_total, 10);
    }

    #[test]
    fn lines_of_two_streams_are_not_torn() {
        let room = tempfile::NamedTempFile::new().unwrap();
        let mut log = Log::new(LogLimits::default());
        log.file = Some(room.reopen().unwrap());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        take_lines(&mut out, b"one\ntw", &mut log);
        take_lines(&mut err, b"warning\n", &mut log);
        take_lines(&mut out, b"o\nthree", &mut log);
        assert_eq!(fs::read_to_string(room.path()).unwrap(), "one\nwarning\ntwo\n");
        assert_eq!(out, b"three");
    }

    #[test]
    fn a_line_without_an_end_is_written_in_pieces() {
        let room = tempfile::NamedTempFile::new().unwrap();
        let mut log = Log::new(LogLimits::default());
        log.file = Some(room.reopen().unwrap());
        let mut partial = Vec::new();
        for _ in 0..20 {
            take_lines(&mut partial, &[b'x'; 1000], &mut log);
        }
        assert!(partial.len() <= LINE_BYTES_MAX);
        assert_eq!(fs::metadata(room.path()).unwrap().len() + partial.len() as u64, 20_000);
    }
}

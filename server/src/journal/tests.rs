//! Stories of the proof log: what is acknowledged stays, what is altered is found, what cannot be written is said.

mod cut;
mod damage;
mod faults;
#[cfg(feature = "failpoints")]
mod kill;
mod lossy;
mod power;
mod reading;
mod recycled;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use agentd_core::chain::{GENESIS, LineVerifier};
use tempfile::TempDir;

use super::*;

/// Runs one future to its end on a runtime of its own.
fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A record as the agent loop writes it.
fn line(seq: u64, prev: Hash, text: &str) -> Bytes {
    let body =
        format!(r#"{{"event_name":"HEARTBEAT","seq":{seq},"prev":"{prev}","body":"{text}"}}"#);
    Bytes::from(body)
}

/// `texts` as records behind `chain`.
fn lines(mut chain: LineVerifier, texts: &[String]) -> Vec<Bytes> {
    texts
        .iter()
        .map(|text| {
            let line = line(chain.next_seq(), chain.head(), text);
            chain.check(&line).unwrap();
            line
        })
        .collect()
}

/// How many bytes a record says were cut, if it is one of that.
fn told_in(line: &Bytes) -> Option<u64> {
    let text = std::str::from_utf8(line).unwrap();
    let (_, body) = text.split_once(r#""body":"#)?;
    super::cut::is_told_by(line).then(|| body.trim_end_matches('}').parse().unwrap())
}

/// Small files, so that a few records reach every edge.
fn small(dir: &Path) -> Config {
    let dir = dir.to_owned();
    Config { segment_bytes: 4096, zero_ahead_bytes: 4096, reserve_bytes: 4096, ..Config::new(dir) }
}

/// An open log together with what its only writer, the agent loop, knows.
#[derive(Debug)]
struct Log {
    journal: Journal,
    recovery: Recovery,
    chain: LineVerifier,
    /// What was replayed at the start.
    replayed: Vec<Bytes>,
}

impl Log {
    fn open(config: Config) -> Result<Self, Error> {
        Self::from(|replay| open(config, replay))
    }

    fn on(store: Arc<dyn Store>, config: Config) -> Result<Self, Error> {
        Self::from(|replay| {
            let mut replay = |seq: u64, _: Hash, line: &[u8]| replay(seq, line);
            open_store(config, store, (LogId::from_bytes([7; 16]), Start::First), None, &mut replay)
        })
    }

    fn from(
        open: impl FnOnce(&mut dyn FnMut(u64, &[u8])) -> Result<Opened, Error>,
    ) -> Result<Self, Error> {
        let mut replayed = Vec::new();
        let Opened { journal, head, recovery } = open(&mut |seq, line| {
            assert_eq!(seq, replayed.len() as u64 + 1, "replayed in order");
            replayed.push(Bytes::copy_from_slice(line));
        })?;
        assert_eq!(head.next_seq, replayed.len() as u64 + 1);
        let chain = LineVerifier::resume(head.next_seq, head.hash);
        Ok(Self { journal, recovery, chain, replayed })
    }

    fn next(&self, texts: &[String]) -> (u64, Vec<Bytes>) {
        (self.chain.next_seq(), lines(self.chain, texts))
    }

    /// Appends records with these texts in one call.
    async fn append(&mut self, texts: &[String]) -> Result<Durable, Error> {
        let (_, lines) = self.next(texts);
        self.append_lines(lines).await
    }

    async fn append_reserved(&mut self, text: &str) -> Result<Durable, Error> {
        let (seq, lines) = self.next(&[text.to_owned()]);
        let durable = self.journal.append_reserved(seq, lines).await?;
        self.chain = LineVerifier::resume(durable.last_seq + 1, durable.hash);
        Ok(durable)
    }

    async fn append_lines(&mut self, lines: Vec<Bytes>) -> Result<Durable, Error> {
        let durable = self.journal.append(self.chain.next_seq(), lines).await?;
        self.chain = LineVerifier::resume(durable.last_seq + 1, durable.hash);
        Ok(durable)
    }

    /// The next record, which tells of so many bytes that were cut.
    fn telling_line(&self, bytes: u64) -> Bytes {
        let (seq, prev) = (self.chain.next_seq(), self.chain.head());
        let line = format!(
            r#"{{"event_name":"LOG_RECOVERED","seq":{seq},"prev":"{prev}","body":{bytes}}}"#
        );
        line.into()
    }

    /// Appends the record that tells of what was cut.
    async fn tell(&mut self) -> Result<Durable, Error> {
        let line = self.telling_line(self.journal.untold_cut().unwrap());
        self.append_lines(vec![line]).await
    }

    /// What the records that were replayed tell of cuts.
    fn told(&self) -> Vec<u64> {
        self.replayed.iter().filter_map(told_in).collect()
    }

    /// Appends `n` records, one call each.
    async fn append_each(&mut self, n: usize) {
        for i in 0..n {
            self.append(&[format!("record of call {i}")]).await.unwrap();
        }
    }

    /// Returns when the writer has done what it does after an acknowledgement: it takes commands in order.
    async fn quiet(&self) {
        self.journal.try_recover().await.unwrap();
    }

    fn all(&self) -> Vec<Bytes> {
        let reader = self.journal.reader();
        let mut all = Vec::new();
        loop {
            let next = reader.read(all.len() as u64 + 1, 7, 1 << 20).unwrap();
            if next.is_empty() {
                return all;
            }
            all.extend(next.into_iter().map(|e| e.line));
        }
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    assert_eq!(log.recovery, Recovery { entries: 0, torn: None, damage: None });
    assert_eq!(log.journal.head().hash, GENESIS);
    log.append_each(30).await;
    let last = log.append(&["three".into(), "in".into(), "one".into()]).await.unwrap();
    assert_eq!((last.last_seq, *log.journal.durable().borrow()), (33, 33));
    let (written, head) = (log.all(), log.journal.head());
    assert_eq!(written.len(), 33);
    drop(log);

    let mut log = Log::open(small(dir.path())).unwrap();
    assert_eq!(log.recovery, Recovery { entries: 33, torn: None, damage: None });
    assert_eq!((&log.replayed, log.journal.head()), (&written, head));
    log.append_each(1).await;
    assert_eq!(log.all().len(), 34);
    let verified = log.journal.verify().unwrap();
    assert_eq!((verified.entries, verified.head), (34, log.journal.head()));
    assert_eq!(verify_dir(dir.path()).unwrap(), verified, "and so says a look from outside");
}

#[tokio::test]
async fn a_second_opener_is_refused_and_told_who_holds_the_log() {
    let dir = TempDir::new().unwrap();
    let first = Log::open(small(dir.path())).unwrap();
    let error = Log::open(small(dir.path())).unwrap_err();
    assert!(matches!(error, Error::Locked { holder: Some(pid), .. } if pid == std::process::id()));
    let holder = format!("process {}", std::process::id());
    assert!(error.to_string().ends_with(&holder), "{error}");
    let clone = first.journal.clone();
    drop(first);
    assert!(Log::open(small(dir.path())).is_err(), "a clone still holds it");
    drop(clone);
    assert!(Log::open(small(dir.path())).is_ok(), "the last handle gone, the log is free");
}

#[tokio::test]
async fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("deep/er");
    let mut log = Log::open(small(&home)).unwrap();
    log.append_each(40).await;
    let mut seen = 0;
    let mut todo = vec![home];
    while let Some(path) = todo.pop() {
        let meta = std::fs::metadata(&path).unwrap();
        let mode = meta.permissions().mode() & 0o777;
        assert_eq!(mode, if meta.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        if meta.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        seen += 1;
    }
    assert!(seen > 5, "lock, identity, mark and several segments, not {seen}");
}

#[tokio::test]
async fn the_longest_line_is_kept_and_one_byte_more_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    let bare = line(1, GENESIS, "").len();
    let error = log.append(&["x".repeat(LINE_BYTES_MAX - bare)]).await;
    assert_eq!(error.unwrap().last_seq, 1);
    assert_eq!(log.all()[0].len(), 65_535);
    let long = Bytes::from(vec![b' '; LINE_BYTES_MAX + 1]);
    let error = log.journal.append(2, vec![long]).await.unwrap_err();
    assert!(matches!(error, Error::LineTooLong { seq: 2, bytes: 65_536 }));
    let many = vec![Bytes::from_static(b"{}"); APPEND_LINES_MAX + 1];
    let error = log.journal.append(2, many).await.unwrap_err();
    assert!(matches!(error, Error::AppendTooLarge { lines: 16_385, .. }));
    assert!(matches!(log.journal.append(2, Vec::new()).await.unwrap_err(), Error::Empty));
    log.append_each(1).await;
    drop(log);
    assert_eq!(Log::open(small(dir.path())).unwrap().recovery.entries, 2);
}

#[tokio::test]
async fn an_append_of_the_largest_size_becomes_one_group() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    log.append_each(1).await;
    let texts = vec!["x".repeat(4000); APPEND_BYTES_MAX / 4400];
    log.append(&texts).await.unwrap();
    log.append_each(1).await;
    let head = log.journal.head();
    drop(log);
    let log = Log::open(small(dir.path())).unwrap();
    assert_eq!(log.journal.head(), head);
    assert_eq!(log.recovery.damage, None);
}

#[tokio::test]
async fn lines_that_do_not_continue_the_log_are_refused_one_call_at_a_time() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    log.append_each(3).await;
    let gap = line(5, log.chain.head(), "gap");
    let error = log.journal.append(5, vec![gap]).await.unwrap_err();
    assert!(matches!(error, Error::OutOfOrder { expected: 4, found: 5 }));
    let unlinked = line(4, GENESIS, "unlinked");
    let sound = line(4, log.chain.head(), "sound");
    let error = log.journal.append(4, vec![unlinked]).await.unwrap_err();
    assert!(matches!(error, Error::Chain(_)), "{error}");
    let error = log.journal.append(4, vec![sound, Bytes::from_static(b"{}")]).await.unwrap_err();
    assert!(matches!(error, Error::Chain(_)), "all or none: {error}");
    assert_eq!(log.journal.status(), Status::Writable, "a bad caller is not a bad disk");
    log.append_each(1).await;
    assert_eq!(log.all().len(), 4);
}

#[test]
fn overlapping_appends_share_groups_and_keep_their_order() {
    let dir = TempDir::new().unwrap();
    let log = Log::open(Config::new(dir.path().to_owned())).unwrap();
    let texts: Vec<String> = (0..2000).map(|i| format!("record {i}")).collect();
    let (_, lines) = log.next(&texts);
    block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for (seq, line) in (1u64..).zip(&lines) {
            let (journal, line) = (log.journal.clone(), line.clone());
            calls.spawn(async move { journal.append(seq, vec![line]).await.unwrap().last_seq });
        }
        let mut last = Vec::new();
        while let Some(done) = calls.join_next().await {
            last.push(done.unwrap());
        }
        last.sort_unstable();
        assert_eq!(last, (1..=2000).collect::<Vec<u64>>());
    });
    assert_eq!(log.all(), lines);
}

#[tokio::test]
async fn a_log_of_a_later_format_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    drop(Log::open(small(dir.path())).unwrap());
    let meta = dir.path().join("meta.json");
    let text = std::fs::read_to_string(&meta).unwrap();
    std::fs::write(&meta, text.replace("\"format\":1", "\"format\":2")).unwrap();
    let error = Log::open(small(dir.path())).unwrap_err();
    assert!(matches!(error, Error::Version { found: 2, supported: 1 }), "{error}");
    std::fs::write(&meta, "{").unwrap();
    assert!(matches!(Log::open(small(dir.path())).unwrap_err(), Error::Identity { .. }));
    std::fs::remove_file(&meta).unwrap();
    let error = Log::open(small(dir.path())).unwrap_err();
    assert!(matches!(error, Error::Identity { .. }), "no new identity for old records: {error}");
    assert!(matches!(verify_dir(dir.path()), Err(Error::Identity { .. })));
}

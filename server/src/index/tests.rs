//! Stories of an index: what it answers is what the log says, whatever was done to its file.

use std::fs;

use agentd_core::action::Action;
use agentd_core::app::{AppName, Env};
use agentd_core::chain::GENESIS;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Record};
use bytes::Bytes;
use tempfile::TempDir;

use super::*;

/// Entry `seq` of a log in which three apps take turns, and every fifth entry is a refusal.
fn record(seq: u64) -> Record {
    let app = AppName::parse(["api", "web", "worker"][seq as usize % 3]).unwrap();
    let body = match seq % 5 {
        0 => Body::Refused {
            action: Action::Restart,
            reason: Reason::CooldownActive,
            instead: Action::Noop,
        },
        1 => Body::Indeterminate { decision: seq.saturating_sub(1) },
        _ => Body::StormEnded,
    };
    let (at, env, actor) = (1_795_448_641_000 + seq, Env::Stage, "agent-1".to_owned());
    Record { seq, at, env, app: Some(app), cause: None, actor, trace: None, body }
}

struct Log {
    dir: TempDir,
    journal: Journal,
    next: u64,
    head: Hash,
}

impl Log {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let journal = Self::journal(&dir);
        Self { dir, journal, next: 1, head: GENESIS }
    }

    fn journal(dir: &TempDir) -> Journal {
        let config = journal::Config::new(dir.path().to_owned());
        journal::open(config, &mut |_, _| {}).unwrap().journal
    }

    async fn append(&mut self, count: u64) {
        let (first, mut lines) = (self.next, Vec::new());
        for seq in first..first + count {
            let line = record(seq).line(self.head);
            self.head = leaf_hash(&line);
            lines.push(Bytes::from(line));
        }
        self.next += count;
        self.journal.append(first, lines).await.unwrap();
    }

    /// An index that knows all of it.
    async fn index(&self) -> Index {
        let index = Index::start(self.dir.path(), &self.journal).unwrap();
        self.known(&index).await;
        index
    }

    async fn known(&self, index: &Index) {
        let (all, mut progress) = (self.next - 1, index.progress());
        progress.wait_for(|progress| progress.upto == all).await.unwrap();
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join(FILE)
    }

    /// Somebody with a tool for SQLite.
    fn edit(&self, sql: &str) {
        rusqlite::Connection::open(self.file()).unwrap().execute_batch(sql).unwrap();
    }

    /// What a walk through the log finds.
    fn by_hand(&self, wanted: &Wanted) -> Vec<u64> {
        let may = |values: &[String], value: Option<&str>| {
            values.is_empty() || value.is_some_and(|v| values.iter().any(|known| known == v))
        };
        let matches = |seq: &u64| {
            let facts = Facts::of(self.journal.blobs(), &record(*seq).line(GENESIS));
            may(&wanted.apps, facts.app.as_deref())
                && may(&wanted.events, Some(&facts.event))
                && may(&wanted.reasons, facts.reason)
                && (wanted.decisions.is_empty()
                    || facts.decision.is_some_and(|seq| wanted.decisions.contains(&seq)))
        };
        (1..self.next).filter(matches).collect()
    }
}

fn wanted(apps: &[&str], events: &[&str], reasons: &[&str], decisions: &[u64]) -> Wanted {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Wanted {
        apps: texts(apps),
        events: texts(events),
        reasons: texts(reasons),
        decisions: decisions.to_vec(),
    }
}

#[tokio::test]
async fn it_finds_what_reading_the_whole_log_finds() {
    let mut log = Log::new();
    log.append(5_000).await;
    let index = log.index().await;
    log.append(100).await;
    log.known(&index).await;
    for question in [
        wanted(&["web"], &[], &[], &[]),
        wanted(&["web", "api"], &["ORCH_REFUSE"], &[], &[]),
        wanted(&[], &["ORCH_REFUSE", "STORM_ENDED"], &["COOLDOWN_ACTIVE"], &[]),
        wanted(&[], &[], &["COOLDOWN_ACTIVE", "STORM"], &[]),
        wanted(&["worker"], &[], &[], &[10, 20, 5_095, 77]),
        wanted(&["nobody"], &[], &[], &[]),
    ] {
        let expected = log.by_hand(&question);
        let (found, upto) = index.after(&question, 1, usize::MAX).unwrap();
        assert_eq!((found, upto), (expected.clone(), 5_100), "{question:?}");
        let (back, _) = index.before(&question, 4_000, 20).unwrap();
        let newest: Vec<u64> =
            expected.into_iter().rev().filter(|seq| *seq < 4_000).take(20).collect();
        assert_eq!(back, newest, "{question:?}");
    }
    assert_eq!(index.compare().unwrap(), Compared { entries: 5_100, difference: None });
    // What it does not know yet it does not speak about.
    assert_eq!(index.after(&wanted(&["web"], &[], &[], &[]), 5_101, 10), None);
}

#[tokio::test]
async fn it_goes_on_where_it_stopped() {
    let mut log = Log::new();
    log.append(300).await;
    drop(log.index().await);
    log.append(300).await;
    let index = log.index().await;
    assert_eq!(index.progress().borrow().rebuilt, 0);
    assert_eq!(index.after(&wanted(&["api"], &[], &[], &[]), 1, 999).unwrap().0.len(), 200);
}

#[tokio::test]
async fn a_file_that_is_none_of_this_log_is_made_anew() {
    let mut log = Log::new();
    log.append(500).await;
    drop(log.index().await);
    let sound = fs::read(log.file()).unwrap();
    let mut torn = sound.clone();
    torn.truncate(sound.len() / 2);
    let mut scribbled = sound.clone();
    scribbled[4096..12_288].fill(0xa5);
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("no database", b"not a database at all, but long enough to look like one".repeat(100)),
        ("cut in half", torn),
        ("scribbled over", scribbled),
    ] {
        fs::write(log.file(), bytes).unwrap();
        let index = log.index().await;
        let answer = index.after(&wanted(&["api"], &[], &[], &[]), 1, 999);
        assert_eq!(answer, Some((log.by_hand(&wanted(&["api"], &[], &[], &[])), 500)), "{what}");
        assert_eq!(index.compare().unwrap().difference, None, "{what}");
    }
    for (what, edit) in [
        ("another layout", "PRAGMA user_version = 2"),
        ("another log", "UPDATE log SET log_id = 'b1946ac9-2492-4d23-9a4e-1d0f8d1c9a11'"),
        ("of a log that was longer", "UPDATE log SET upto = 501"),
        ("of another history", "UPDATE log SET head = printf('%064d', 7)"),
    ] {
        log.edit(edit);
        let index = log.index().await;
        assert_eq!(index.progress().borrow().rebuilt, 1, "{what}");
    }
}

const EDITS: [(&str, &str, u64); 6] = [
    (
        "moved to another app",
        "UPDATE entry SET app = (SELECT id FROM name WHERE text = 'web') WHERE seq = 33",
        33,
    ),
    ("without its reason", "UPDATE entry SET reason = NULL WHERE seq = 40", 40),
    ("left out", "DELETE FROM entry WHERE seq IN (41, 90)", 41),
    ("of another decision", "UPDATE entry SET decision = 7 WHERE seq = 51", 51),
    ("put in", "INSERT INTO entry VALUES (9999, 1, 1, 1, 1)", 9_999),
    ("called by another name", "UPDATE name SET text = 'wbe' WHERE text = 'web'", 1),
];

#[tokio::test]
async fn an_edit_of_a_stopped_index_is_named_and_does_not_outlive_the_next_start() {
    let mut log = Log::new();
    log.append(200).await;
    for (what, edit, first) in EDITS {
        drop(log.index().await);
        assert_eq!(compare_dir(log.dir.path()).unwrap().difference, None, "{what}");
        log.edit(edit);
        let found = compare_dir(log.dir.path()).unwrap().difference.unwrap();
        assert_eq!(found.seq, first, "{what}: {found}");
        let index = log.index().await;
        assert_eq!(index.progress().borrow().rebuilt, 1, "{what}");
        assert_eq!(index.compare().unwrap(), Compared { entries: 200, difference: None }, "{what}");
    }
}

#[tokio::test]
async fn an_edit_of_a_running_index_is_seen_before_the_next_answer() {
    let mut log = Log::new();
    log.append(200).await;
    let index = log.index().await;
    let question = wanted(&["web"], &[], &[], &[]);
    for (turn, (what, edit, _)) in (1..).zip(EDITS) {
        log.edit(edit);
        assert_eq!(index.after(&question, 1, 999), None, "{what}: read the log instead");
        // The thread finds out with the next entry.
        log.append(1).await;
        log.known(&index).await;
        assert_eq!(index.after(&question, 1, 999).unwrap().0, log.by_hand(&question), "{what}");
        assert_eq!(index.progress().borrow().rebuilt, turn, "{what}");
    }
}

#[tokio::test]
async fn what_is_entered_during_a_look_is_no_difference() {
    let mut log = Log::new();
    log.append(20).await;
    let index = log.index().await;
    let mut seen = Table::look(&log.file()).unwrap();
    let place = seen.place().unwrap();
    log.append(5).await;
    log.known(&index).await;
    assert_eq!((place.upto, seen.place().unwrap()), (20, place));
    assert_eq!(seen.beyond(21).unwrap(), None, "one snapshot");
    let now = Compared { entries: 25, difference: None };
    assert_eq!(compare_dir(log.dir.path()).unwrap(), now);
}

#[tokio::test]
async fn a_busy_table_is_waited_for_and_kept() {
    let mut log = Log::new();
    log.append(200).await;
    let index = log.index().await;
    let other = rusqlite::Connection::open(log.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    log.append(5).await;
    index.progress().wait_for(|progress| progress.upto == 0).await.unwrap();
    tokio::time::sleep(RETRY * 5).await;
    other.execute_batch("ROLLBACK").unwrap();
    log.known(&index).await;
    assert_eq!(index.progress().borrow().rebuilt, 0);
    assert_eq!(index.compare().unwrap(), Compared { entries: 205, difference: None });
}

#[test]
fn only_what_is_wrong_with_the_table_itself_has_it_made_anew() {
    let sqlite =
        |code| Error::from(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
    for kept in [
        Error::Journal(journal::Error::Closed),
        sqlite(rusqlite::ffi::SQLITE_BUSY),
        sqlite(rusqlite::ffi::SQLITE_FULL),
    ] {
        assert!(!kept.is_of_the_table(), "{kept}");
    }
    let difference = Difference { seq: 1, why: String::new() };
    for anew in [
        Error::Foreign,
        Error::Differs(difference),
        Error::from(rusqlite::Error::QueryReturnedNoRows),
        sqlite(rusqlite::ffi::SQLITE_CORRUPT),
        sqlite(rusqlite::ffi::SQLITE_NOTADB),
    ] {
        assert!(anew.is_of_the_table(), "{anew}");
    }
}

#[tokio::test]
async fn a_line_that_is_no_record_is_in_every_answer() {
    let mut log = Log::new();
    log.append(3).await;
    let line =
        format!(r#"{{"event_name":"FROM_THE_FUTURE","seq":4,"v":99,"prev":"{}"}}"#, log.head);
    log.journal.append(4, vec![line.clone().into()]).await.unwrap();
    (log.next, log.head) = (5, leaf_hash(line.as_bytes()));
    let index = log.index().await;
    assert_eq!(index.after(&wanted(&["web"], &[], &[], &[]), 1, 9).unwrap().0, [1, 4]);
}

#[test]
fn a_directory_without_an_index_cannot_be_compared() {
    let log = Log::new();
    let error = compare_dir(log.dir.path()).unwrap_err();
    assert!(matches!(error, Error::File { verb: "read", .. }), "{error}");
}

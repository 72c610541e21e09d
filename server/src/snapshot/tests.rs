use std::fs;
use std::path::PathBuf;

use agentd_core::app::Millis;
use agentd_core::chain::leaf_hash;
use agentd_core::policy::Policy;
use agentd_core::record::{Exported, Started};
use agentd_core::state::State;
use agentd_core::step::{By, Input, Moment, Prune, Reply, step};
use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::journal::{Head, Status, verify_dir};
use crate::retention;
use crate::tlog::{Config, Tlog};

#[cfg(feature = "failpoints")]
mod kill;

/// A brain with its log on disk, and nothing around it.
struct Brain {
    state: State,
    policy: Policy,
    journal: Journal,
    tlog: Tlog,
    head: Head,
    now: Millis,
    /// The last record in the snapshot it began with; `None`: it read everything.
    from: Option<u64>,
}

fn by(principal: &str) -> By {
    By { principal: principal.to_owned(), human: true, request: None, validate_only: false }
}

fn config(dir: &TempDir) -> Config {
    Config { seal_bytes: 16 << 10, ..Config::on_demand(dir.path()) }
}

/// As a server does it.
fn open(config: &Config) -> Brain {
    let mut segments = journal::Config::new(config.dir.clone());
    (segments.segment_bytes, segments.zero_ahead_bytes) = (32 << 10, 4 << 10);
    let snapshots = Snapshots::of_log(&config.dir);
    for found in snapshots.all().map(Some).chain([None]) {
        let from = found.as_ref().map(|found| found.snapshot.seq);
        let begun = found.clone().map(|found| Replay::resume(found.snapshot));
        let mut replay = begun.unwrap_or_else(|| Replay::new(Env::Stage));
        let blobs = blobs::Blobs::of_log(&config.dir);
        let mut fold = |_: u64, line: &[u8]| replay.fold(&blobs.record(line).unwrap());
        let opened = tlog::open_from(config.clone(), segments.clone(), found.as_ref(), &mut fold);
        match opened {
            Err(error) if error.is_of_the_snapshot() => {}
            Err(error) => panic!("{error}"),
            Ok((opened, tlog)) => {
                let Replay { state, policy, .. } = replay;
                let now = state.last_at.max(1_795_448_641_000);
                let (journal, head) = (opened.journal, opened.head);
                return Brain { state, policy, journal, tlog, head, now, from };
            }
        }
    }
    panic!("the last attempt needs no snapshot")
}

impl Brain {
    async fn give(&mut self, input: Input) -> Reply {
        self.now += 1_000;
        let moment =
            Moment { agent: "agent-1", now: self.now, seq: self.head.next_seq, log_writable: true };
        let done = step(&self.state, &self.policy, &input, &moment);
        let (first, mut lines) = (self.head.next_seq, Vec::new());
        for record in &done.records {
            let line = Bytes::from(record.line(self.head.hash));
            self.head.hash = leaf_hash(&line);
            self.head.next_seq = record.seq + 1;
            agentd_core::state::evolve(&mut self.state, record, &self.policy);
            lines.push(line);
        }
        if !lines.is_empty() {
            self.journal.append(first, lines).await.unwrap();
        }
        done.reply
    }

    /// So many records of different kinds.
    async fn live(&mut self, records: u64) {
        if self.state.last_seq == 0 {
            let started = Started {
                agent_id: "agent-1".to_owned(),
                version: "test".to_owned(),
                demo: false,
                dry_run: false,
                frozen: false,
            };
            let policy = Box::new(self.policy.clone());
            self.give(Input::Started { started, policy, bytes_cut: None }).await;
        }
        let end = self.state.last_seq + records;
        while self.state.last_seq < end {
            let seq = self.state.last_seq;
            let request = agentd_core::record::Request { id: seq.to_string(), digest: "x".into() };
            let by = By { request: Some(request), ..by("olivia") };
            let reason = format!("turn {seq}");
            self.give(Input::Freeze { frozen: !self.state.mode.frozen, reason, by }).await;
        }
    }

    /// A record whose body is too long for a line; answers with where that is.
    async fn long(&mut self, letter: &str) -> PathBuf {
        self.now += 1_000;
        let what = letter.repeat(agentd_core::record::LINE_MAX);
        let body = Body::Injected { scenario: "crash".to_owned(), what };
        let (seq, at, env, actor) =
            (self.head.next_seq, self.now, Env::Stage, "agent-1".to_owned());
        let record = Record { seq, at, env, app: None, cause: None, actor, trace: None, body };
        let (line, body) = record.line_detached(self.head.hash);
        let name = self.journal.blobs().put(&body).unwrap().sha256.to_string();
        let line = Bytes::from(line);
        (self.head.hash, self.head.next_seq) = (leaf_hash(&line), seq + 1);
        agentd_core::state::evolve(&mut self.state, &record, &self.policy);
        self.journal.append(seq, vec![line]).await.unwrap();
        self.journal.blobs().settled();
        self.journal.dir().join(blobs::DIR).join("sha256").join(&name[..2]).join(name)
    }

    /// What the taker does, without the loop.
    async fn snapshot(&mut self) -> u64 {
        let seq = self.state.last_seq;
        self.tlog.publish(seq).await.unwrap();
        let (policy, state) = (self.policy.clone(), self.state.clone());
        let kept = take::write(&self.journal, &self.tlog, policy, state).unwrap();
        self.give(Input::Snapshotted(Box::new(kept))).await;
        seq
    }

    async fn export(&mut self) {
        let size = self.state.last_seq;
        self.tlog.publish(size).await.unwrap();
        let root = self.tlog.root(size).unwrap().unwrap();
        let export = Exported { first: 1, size, root, request: None };
        self.give(Input::Exported { export, by: by("adam") }).await;
    }

    /// Says on record that they go, and lets them go.
    async fn prune(&mut self, before: u64) {
        self.tell_prune(before).await;
        let _ = failpoint::hit("prune.recorded");
        retention::release(&self.journal, self.state.kept.oldest()).unwrap();
    }

    /// Says on record that they go.
    async fn tell_prune(&mut self, before: u64) {
        let upto = before - 1 - (before - 1) % 256;
        let keys = retention::handed_over(&self.journal.reader(), upto).unwrap();
        let wish = Prune { before, reason: "disk".to_owned(), newest_at: Some(0), keys };
        let reply = self.give(Input::Prune { wish, by: by("adam") }).await;
        assert!(matches!(reply, Reply::Done { seq: Some(_) }), "{reply:?}");
    }

    fn damage(&self) -> Option<Damage> {
        match self.journal.status() {
            Status::Damaged(damage) => Some(damage),
            _ => None,
        }
    }
}

/// A log of some segments with two snapshots in it; the state it ends with.
async fn lived(config: &Config) -> State {
    let mut brain = open(config);
    brain.live(200).await;
    brain.long("o").await;
    brain.live(499).await;
    brain.snapshot().await;
    brain.live(500).await;
    brain.snapshot().await;
    brain.live(300).await;
    brain.tlog.publish(brain.state.last_seq).await.unwrap();
    brain.state.clone()
}

fn newest(config: &Config) -> PathBuf {
    let snapshots = Snapshots::of_log(&config.dir);
    snapshots.path(*snapshots.names().first().unwrap())
}

#[tokio::test]
async fn a_start_goes_on_from_the_newest_snapshot_and_comes_to_the_same_state() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let state = lived(&config).await;
    let mut brain = open(&config);
    assert_eq!((brain.from, brain.damage()), (Some(state.kept.snapshot), None));
    assert_eq!(brain.state, state);
    // What was not read at the start can be read, proven and verified all the same.
    let entries = brain.journal.reader().read(1, 10, usize::MAX).unwrap();
    assert_eq!((entries.len(), entries[0].seq), (10, 1));
    assert_eq!(brain.journal.verify().unwrap().entries, state.last_seq);
    brain.live(50).await;
    let size = brain.state.last_seq;
    brain.tlog.publish(size).await.unwrap();
    assert!(brain.tlog.inclusion(3, size).unwrap().is_some());
    let state = brain.state.clone();
    let again = replay(&brain.journal, Env::Stage).unwrap();
    assert_eq!(again.state, state, "and so after a lost append");
    drop(brain);
    fs::remove_dir_all(config.dir.join(DIR)).unwrap();
    let brain = open(&config);
    assert_eq!((brain.from, &brain.state), (None, &state), "without one, everything is read");
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_the_log_says_is_left_out() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 6] = [
        ("an edit", |p| {
            let text = fs::read_to_string(p).unwrap();
            fs::write(p, text.replacen("\"frozen\":", "\"frozen\": ", 1)).unwrap();
        }),
        ("half of it", |p| {
            let bytes = fs::read(p).unwrap();
            fs::write(p, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("nothing", |p| fs::write(p, "").unwrap()),
        ("another version", |p| {
            let text = fs::read_to_string(p).unwrap();
            fs::write(p, text.replacen("\"format\":1", "\"format\":2", 1)).unwrap();
        }),
        ("gone", |p| fs::remove_file(p).unwrap()),
        ("another name", |p| fs::rename(p, p.with_file_name("00000000000000001300.json")).unwrap()),
    ];
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let state = lived(&config).await;
    let (file, whole) = (newest(&config), fs::read(newest(&config)).unwrap());
    let older = Snapshots::of_log(&config.dir).names()[1];
    for (what, harm) in harms {
        harm(&file);
        let brain = open(&config);
        assert_eq!((brain.from, &brain.state), (Some(older), &state), "{what}: the older one does");
        drop(brain);
        let _ = fs::remove_file(file.with_file_name("00000000000000001300.json"));
        fs::write(&file, &whole).unwrap();
    }
}

#[tokio::test]
async fn hashes_that_were_altered_have_everything_read() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let state = lived(&config).await;
    let path = config.dir.join("hash/0");
    let mut hashes = fs::read(&path).unwrap();
    let last = usize::try_from(state.kept.snapshot).unwrap() * 32 - 1;
    hashes[last] ^= 1;
    fs::write(&path, hashes).unwrap();
    let brain = open(&config);
    assert_eq!((&brain.state, brain.damage()), (&state, None));
    brain.tlog.publish(state.last_seq).await.unwrap();
}

#[tokio::test]
async fn an_altered_record_before_the_snapshot_is_found_after_the_start() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    lived(&config).await;
    let first = config.dir.join("wal").join(format!("{:020}.seg", 1));
    let mut bytes = fs::read(&first).unwrap();
    bytes[5_000] ^= 1;
    fs::write(&first, bytes).unwrap();
    let brain = open(&config);
    assert!(brain.from.is_some(), "the start does not read it");
    let mut status = brain.journal.watch_status();
    let damaged = |status: &Status| matches!(status, Status::Damaged(_));
    status.wait_for(damaged).await.unwrap();
    assert!(brain.damage().unwrap().seq < 100, "{:?}", brain.damage());
}

#[tokio::test]
async fn pruned_records_are_gone_and_everything_else_goes_on() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    lived(&config).await;
    let mut brain = open(&config);
    brain.export().await;
    let old = brain.tlog.published().unwrap().checkpoint.clone();
    brain.prune(700).await;
    assert_eq!(brain.state.kept.oldest(), 513);
    let check = |brain: &Brain| {
        let reader = brain.journal.reader();
        assert_eq!(reader.oldest_seq(), 513);
        assert!(matches!(reader.read(512, 1, 1), Err(journal::Error::Pruned { oldest: 513 })));
        assert_eq!(reader.read(513, 1, 1).unwrap()[0].seq, 513);
        assert_eq!(brain.damage(), None);
        brain.journal.verify().unwrap();
    };
    check(&brain);
    brain.live(40).await;
    let (state, size) = (brain.state.clone(), brain.state.last_seq);
    brain.tlog.publish(size).await.unwrap();
    drop(brain);

    let segments = fs::read_dir(config.dir.join("wal")).unwrap().flatten();
    let left = segments.filter(|s| s.file_name().to_str().unwrap().ends_with(".seg")).count();
    assert!(left < 20, "{left} segments are left");
    let lines = fs::read_dir(config.dir.join("log")).unwrap().flatten();
    let first = lines.map(|file| file.file_name().into_string().unwrap()).min().unwrap();
    assert!(first.starts_with("00000000000000000") && !first.starts_with("00000000000000000001"));
    let verified = verify_dir(&config.dir).unwrap();
    assert_eq!(verified.head.next_seq, size + 1, "a look from outside finds it sound");

    let brain = open(&config);
    assert_eq!((&brain.state, brain.from), (&state, Some(state.kept.snapshot)));
    retention::resume(&brain.journal, brain.state.kept.oldest());
    check(&brain);
    let new = brain.tlog.published().unwrap().checkpoint.clone();
    let proof = brain.tlog.consistency(old.size, new.size).unwrap().unwrap();
    agentd_core::tlog::proof::verify_consistency(
        (old.size, old.root),
        (new.size, new.root),
        &proof,
    )
    .unwrap();
    assert!(brain.tlog.inclusion(3, size).unwrap().is_some(), "also of what is gone");
    let bundle = "tile/entries/000".parse().unwrap();
    assert!(brain.tlog.tile(bundle).is_err(), "the bundle is gone");
    assert!(
        brain.tlog.tile("tile/0/000".parse().unwrap()).unwrap().is_some(),
        "its hashes are not"
    );
    assert!(brain.tlog.tile("tile/entries/002".parse().unwrap()).unwrap().is_some());
}

#[tokio::test]
async fn a_body_beside_the_log_goes_with_the_last_record_that_names_it() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let mut brain = open(&config);
    brain.live(100).await;
    let (old, again) = (brain.long("a").await, brain.long("b").await);
    brain.live(700).await;
    assert_eq!(brain.long("b").await, again);
    let new = brain.long("c").await;
    brain.snapshot().await;
    brain.export().await;
    brain.prune(600).await;
    assert!(!old.exists(), "nobody can ask for it any more");
    assert!(again.exists() && new.exists(), "records name them");
    let reader = brain.journal.reader();
    for seq in reader.oldest_seq()..=reader.durable_seq() {
        reader.blobs().check(&reader.read(seq, 1, 1).unwrap()[0].line).unwrap();
    }
    brain.live(300).await;
    brain.snapshot().await;
    brain.export().await;
    brain.prune(1_050).await;
    assert!(!again.exists() && !new.exists());
}

/// A log as [`lived`] leaves it, exported and pruned up to 513.
async fn pruned(config: &Config) -> Brain {
    lived(config).await;
    let mut brain = open(config);
    brain.export().await;
    brain.prune(700).await;
    brain
}

#[tokio::test]
async fn a_prune_that_a_crash_cut_short_is_finished_only_beside_a_snapshot() {
    for lost in [false, true] {
        let dir = TempDir::new().unwrap();
        let config = config(&dir);
        lived(&config).await;
        let mut brain = open(&config);
        brain.export().await;
        brain.tell_prune(700).await;
        drop(brain);
        if lost {
            fs::remove_dir_all(config.dir.join(DIR)).unwrap();
        }
        let brain = open(&config);
        let state = brain.state.clone();
        retention::resume(&brain.journal, brain.state.kept.oldest());
        let oldest = if lost { 1 } else { 513 };
        assert_eq!(brain.journal.reader().oldest_seq(), oldest);
        drop(brain);
        let brain = open(&config);
        assert_eq!((&brain.state, brain.damage()), (&state, None), "the next start finds it too");
    }
}

#[tokio::test]
async fn a_pruned_log_without_a_snapshot_is_read_and_nothing_more() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    drop(pruned(&config).await);
    fs::remove_dir_all(config.dir.join(DIR)).unwrap();
    let brain = open(&config);
    let damage = brain.damage().expect("it is said");
    assert!(damage.why.contains("no snapshot"), "{damage}");
    let head = brain.journal.head().next_seq;
    let refused = brain.journal.append(head, vec!["{}".into()]).await.unwrap_err();
    assert!(matches!(refused, journal::Error::Damaged(_)), "{refused}");
    let oldest = brain.journal.reader().oldest_seq();
    assert!(!brain.journal.reader().read(oldest, 1, 1).unwrap().is_empty(), "reads go on");
}

#[tokio::test]
async fn after_a_lost_append_part_of_the_state_is_none() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let brain = pruned(&config).await;
    assert_eq!(replay(&brain.journal, Env::Stage).unwrap().state, brain.state);
    fs::remove_dir_all(config.dir.join(DIR)).unwrap();
    let Err(NoState::Lost(damage)) = replay(&brain.journal, Env::Stage) else { panic!() };
    assert!(damage.seq == 513 && damage.why.contains("no snapshot"), "{damage}");
}

#[tokio::test]
async fn after_a_lost_append_a_record_that_cannot_be_read_is_not_left_out() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let state = lived(&config).await;
    fs::remove_dir_all(config.dir.join(DIR)).unwrap();
    let brain = open(&config);
    assert_eq!(replay(&brain.journal, Env::Stage).unwrap().state, state);
    let first = config.dir.join("wal").join(format!("{:020}.seg", 1));
    // What cannot be read for a while is not lost.
    let aside = first.with_extension("aside");
    fs::rename(&first, &aside).unwrap();
    let unreadable = replay(&brain.journal, Env::Stage).expect_err("not all of it is there");
    assert!(matches!(unreadable, NoState::Unreadable { .. }), "{unreadable}");
    assert_eq!(brain.damage(), None);
    fs::rename(&aside, &first).unwrap();
    assert_eq!(replay(&brain.journal, Env::Stage).unwrap().state, state);
    let mut bytes = fs::read(&first).unwrap();
    bytes[5_000] ^= 1;
    fs::write(&first, bytes).unwrap();
    let Err(NoState::Lost(damage)) = replay(&brain.journal, Env::Stage) else { panic!() };
    assert!(damage.seq < 100, "{damage}");
}

#[tokio::test]
async fn segments_that_go_without_a_record_are_missing() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    lived(&config).await;
    fs::remove_file(config.dir.join("wal").join(format!("{:020}.seg", 1))).unwrap();
    let Err(journal::Error::Damaged(damage)) = verify_dir(&config.dir) else { panic!() };
    assert_eq!(damage.seq, 1, "{damage}");
    // A start behind a snapshot does not read so far back, and notices all the same.
    let brain = open(&config);
    assert!(brain.from.is_some());
    retention::resume(&brain.journal, brain.state.kept.oldest());
    assert_eq!(brain.damage().expect("noticed").seq, 1);
}

#[tokio::test]
async fn a_tail_that_was_cut_before_a_snapshot_was_left_out_is_still_to_be_recorded() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    lived(&config).await;
    // The newest snapshot is not the one that the log names, which is known when the log was read.
    let text = fs::read_to_string(newest(&config)).unwrap();
    fs::write(newest(&config), text.replacen("\"frozen\":", "\"frozen\": ", 1)).unwrap();
    let files = fs::read_dir(config.dir.join("wal")).unwrap().flatten().map(|file| file.path());
    let last = files.filter(|path| path.extension().is_some_and(|e| e == "seg")).max().unwrap();
    let mut torn = fs::read(&last).unwrap();
    let end = torn.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // The beginning of a frame that was never finished.
    let at = end.next_multiple_of(8);
    torn.resize(torn.len().max(at + 64), 0);
    torn[at..at + 24].copy_from_slice(&[7; 24]);
    fs::write(&last, torn).unwrap();
    let segments = journal::Config::new(config.dir.clone());
    let (opened, tlog) = tlog::open(config.clone(), segments.clone(), &mut |_, _| {}).unwrap();
    assert_eq!(opened.recovery.torn, None, "the last attempt finds a log that is whole");
    assert_eq!(opened.journal.untold_cut(), Some(24));
    drop((opened.journal, tlog));
    let (opened, _tlog) = tlog::open(config.clone(), segments, &mut |_, _| {}).unwrap();
    assert_eq!(opened.journal.untold_cut(), Some(24), "nobody has said so yet");
}

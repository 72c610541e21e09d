//! A long log: what it costs to open, and what it leaves in memory. `BENCH_ENTRIES` is its length; the goals are about 10,000,000, which
//! take a minute or two and 9 GB of disk.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use agentd::app::{App, Host};
use agentd::config::{Config, ServerArgs};
use agentd::snapshot::Snapshots;
use agentd::{blobs, journal, tlog};
use agentd_core::app::Env;
use agentd_core::chain::{GENESIS, Hash, leaf_hash};
use agentd_core::record::{Body, Record};
use agentd_core::replay::Replay;
use agentd_core::snapshot::Snapshot;
use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

use super::read::proofs;
use super::table::{Goal, Table, per_second, time};

/// Entries in one append, and appends in flight: what fills the log fastest.
const LINES: usize = 2_000;
const FLIGHT: usize = 8;
/// Records behind the last snapshot of the state: as many as a server lets there be.
const BEHIND: u64 = 10_000;
/// Looks at the memory while it grows.
const LOOKS: u64 = 10;
/// Entries at which its buffers have the size they keep.
const WARM: u64 = 500_000;
const OPENED: Duration = Duration::from_millis(500);

/// Writes records as a server does, and knows the state that they lead to.
struct Author {
    journal: journal::Journal,
    replay: Replay,
    head: Hash,
    flight: tokio::task::JoinSet<()>,
}

impl Author {
    fn next(&self) -> u64 {
        self.replay.state.last_seq + 1
    }

    /// The next line, as long as lines usually are.
    fn line(&mut self, body: Option<Body>) -> Bytes {
        let seq = self.next();
        let reason = "x".repeat(120);
        let body = body.unwrap_or(Body::FreezeSet {
            frozen: seq.is_multiple_of(2),
            reason,
            request: None,
        });
        let (at, actor) = (1_795_448_641_000 + seq, "agent-0badcafe".to_owned());
        let (env, cause) = (Env::Stage, Some(seq - 1));
        let record = Record { seq, at, env, app: None, cause, actor, trace: None, body };
        let line = record.line(self.head);
        self.replay.fold(&record);
        self.head = leaf_hash(&line);
        Bytes::from(line)
    }

    /// Goes on to record `upto`.
    async fn write(&mut self, upto: u64) {
        while self.next() <= upto {
            if self.flight.len() >= FLIGHT {
                self.flight.join_next().await.unwrap().unwrap();
            }
            let first = self.next();
            let count = usize::try_from(upto + 1 - first).unwrap().min(LINES);
            let lines = (0..count).map(|_| self.line(None)).collect();
            self.append(first, lines);
            tokio::task::yield_now().await;
        }
        while let Some(done) = self.flight.join_next().await {
            done.unwrap();
        }
    }

    fn append(&mut self, first: u64, lines: Vec<Bytes>) {
        let journal = self.journal.clone();
        self.flight.spawn(async move { _ = journal.append(first, lines).await.unwrap() });
    }

    /// Keeps the state, as a server does every so many records.
    async fn snapshot(&mut self, tlog: &tlog::Tlog) {
        let seq = self.next() - 1;
        tlog.publish(seq).await.unwrap();
        let root = tlog.root(seq).unwrap().unwrap();
        let (log, policy) = (self.journal.head().log_id.to_string(), self.replay.policy.clone());
        let snapshot = Snapshot::new(log, self.head, root, policy, self.replay.state.clone());
        let kept = Snapshots::of_log(self.journal.dir()).put(&snapshot).unwrap();
        let first = self.next();
        let line = self.line(Some(Body::Snapshotted(Box::new(kept))));
        self.append(first, vec![line]);
    }
}

pub(crate) async fn run(table: &mut Table, dir: &Path) {
    let entries: u64 =
        std::env::var("BENCH_ENTRIES").ok().map_or(1_000_000, |text| text.parse().unwrap());
    write(table, dir, entries).await;
    for state in ["in the memory of the system", "on disk alone"] {
        if state.starts_with("on") {
            evict(dir);
        }
        let started = Instant::now();
        let (opened, tlog) = open(dir);
        let what = format!("log of {entries}, opened, {state}");
        table.time(&what, started.elapsed(), OPENED);
        assert_eq!(opened.head.next_seq, entries + 1);
        drop((opened, tlog));
    }
    evict(dir);
    let started = Instant::now();
    let app = serve(dir).await;
    let what = format!("log of {entries}, a server that answers");
    table.note(&what, &time(started.elapsed()), "", None);
    app.stop().await.unwrap();
    let (opened, tlog) = open(dir);
    let size = tlog.publish_all().await.unwrap().checkpoint.size;
    proofs(table, &tlog, size);
    verify(table, &opened.journal);
}

/// All that a server does when it is asked whether the log is sound: records, chain, and the plain lines beside them.
fn verify(table: &mut Table, journal: &journal::Journal) {
    let (before, started) = (resident(), Instant::now());
    let verified = journal.verify().unwrap();
    let (reader, mut lines) = (journal.reader(), tlog::PlainLines::of_log(journal.dir()));
    let (mut next, mut most) = (1, before);
    while next < verified.head.next_seq {
        for entry in reader.read(next, 512, 1 << 20).unwrap() {
            lines.check(entry.seq, &entry.line).unwrap();
            next = entry.seq + 1;
        }
        if next.is_multiple_of(64) {
            most = most.max(resident());
        }
    }
    let rate = verified.entries as f64 / started.elapsed().as_secs_f64();
    table.note("long log, verified with its plain lines", &per_second(rate), "", None);
    let (what, limit) = ("memory meanwhile", format!("before, {before:.1} MiB"));
    table.note(what, &format!("{most:.1} MiB"), &limit, Some(most / before));
}

/// Writes the log, and says how much memory it takes meanwhile.
async fn write(table: &mut Table, dir: &Path, entries: u64) {
    let (opened, tlog) = open(dir);
    let (flight, replay) = (tokio::task::JoinSet::new(), Replay::new(Env::Stage));
    let mut author = Author { journal: opened.journal, replay, head: GENESIS, flight };
    let started = Instant::now();
    let mut base = None;
    for look in 1..=LOOKS {
        let upto = entries * look / LOOKS;
        author.write(upto.saturating_sub(BEHIND + 1)).await;
        author.snapshot(&tlog).await;
        author.write(upto).await;
        tlog.publish(upto).await.unwrap();
        let now = resident();
        if upto >= WARM.min(entries) {
            base.get_or_insert((upto, now));
        }
        let (what, measured) = (format!("memory, {upto} entries"), format!("{now:.1} MiB"));
        match base {
            Some((first, base)) if look == LOOKS => {
                let limit = format!("at {first}, {base:.1} MiB");
                table.goal(&what, &measured, (&limit, now / base), Goal::AtMost(1.1));
            }
            _ => table.note(&what, &measured, "", None),
        }
    }
    let rate = entries as f64 / started.elapsed().as_secs_f64();
    table.note("long log, written", &per_second(rate), "", None);
}

/// Opens the log and finds the state that it leads to, as a server does.
fn open(dir: &Path) -> (journal::Opened, tlog::Tlog) {
    let config = tlog::Config::new(dir, "stage");
    let found = Snapshots::of_log(&config.dir).all().next();
    let begun = found.as_ref().map(|found| Replay::resume(found.snapshot.clone()));
    let mut replay = begun.unwrap_or_else(|| Replay::new(Env::Stage));
    let blobs = blobs::Blobs::of_log(&config.dir);
    let segments = journal::Config::new(config.dir.clone());
    tlog::open_from(config, segments, found.as_ref(), &mut |_, line| {
        replay.fold(&blobs.record(line).unwrap());
    })
    .unwrap()
}

async fn serve(dir: &Path) -> App {
    let args = ServerArgs {
        env: Some("stage".into()),
        listen: Some("127.0.0.1:0".into()),
        data_dir: Some(dir.display().to_string()),
        ..ServerArgs::default()
    };
    let host = Host { shim: vec!["/bin/false".into()], demo_app: Vec::new() };
    App::start(Config::load(&args).unwrap(), host).await.unwrap()
}

/// Has the system forget the files, as after a reboot.
fn evict(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            evict(&path);
        } else if let Ok(file) = File::open(path) {
            file.sync_all().unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}

/// MiB of memory of this process that are no files.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

//! Power cuts, failed syncs and restarts in any order: what was acknowledged is there, in order, and nothing stands behind
//! it but what was asked for.
//!
//! Each story has a twin: the same test in a child process with a planted bug, which must fail.

use std::io::ErrorKind;

use proptest::prelude::*;
use tempfile::TempDir;

use super::lossy::{LossyStore, Op};
use super::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// Records of this many bytes in one append.
    Append(Vec<usize>),
    /// The power goes during the n-th change of the disk from here, while records are appended.
    PowerCut {
        at: u64,
        seed: u64,
    },
    /// The process ends and starts again; the page cache stays.
    Restart,
    FailSync,
    FailWrite,
    DiskFull,
    Recover,
    /// The power goes during the n-th change of a start.
    StartCut {
        at: u64,
        seed: u64,
    },
    /// A record tells of what was cut, if something was.
    Tell,
    /// The process ends; the next one finds a segment to use again, full of records of an earlier life.
    Recycle,
}

fn event() -> impl Strategy<Value = Event> {
    let append = prop::collection::vec(1usize..700, 1..5).prop_map(Event::Append);
    prop_oneof![
        8 => append,
        3 => (1u64..40, any::<u64>()).prop_map(|(at, seed)| Event::PowerCut { at, seed }),
        2 => (1u64..24, any::<u64>()).prop_map(|(at, seed)| Event::StartCut { at, seed }),
        1 => Just(Event::Tell),
        1 => Just(Event::Restart),
        2 => Just(Event::FailSync),
        1 => Just(Event::FailWrite),
        1 => Just(Event::DiskFull),
        2 => Just(Event::Recover),
        2 => Just(Event::Recycle),
    ]
}

/// The log, its disk, and what is known about it.
struct World {
    disk: LossyStore,
    log: Option<Log>,
    acknowledged: Vec<Bytes>,
    /// Asked for and not acknowledged: may or may not turn up.
    in_doubt: Vec<Bytes>,
    /// Whether a tail was cut that no record tells of; `None` where only the disk knows.
    owed: Option<bool>,
}

fn open_on(disk: &LossyStore) -> Log {
    // The directory is not used: the segments live on the modelled disk.
    Log::on(Arc::new(disk.clone()), small(Path::new("unused"))).unwrap()
}

impl World {
    fn new() -> Self {
        let disk = LossyStore::default();
        let log = Some(open_on(&disk));
        Self { disk, log, acknowledged: Vec::new(), in_doubt: Vec::new(), owed: Some(false) }
    }

    /// Whoever starts is shown what is owed, no less and no more.
    fn check_owed(&mut self, log: &Log, is_cut: bool) {
        let before = self.acknowledged.len().min(log.replayed.len());
        if log.replayed[before..].iter().any(|line| told_in(line).is_some()) {
            self.owed = Some(false);
        }
        if log.recovery.torn.is_some() {
            self.owed = (is_cut || self.owed == Some(true)).then_some(true);
        }
        let untold = log.journal.untold_cut().is_some();
        assert_eq!(untold, self.owed.unwrap_or(untold), "a cut is told once");
        if is_cut {
            self.owed = Some(untold);
        }
    }

    /// Has a record tell of what was cut, if something was.
    fn tell(&mut self) {
        let log = self.log.as_ref().unwrap();
        let Some(bytes) = log.journal.untold_cut() else { return };
        let line = log.telling_line(bytes);
        if self.append_lines(vec![line]).is_ok() {
            self.owed = Some(false);
        }
    }

    fn append(&mut self, sizes: &[usize]) -> Result<(), Error> {
        let texts: Vec<String> = sizes.iter().map(|n| "x".repeat(*n)).collect();
        let (_, lines) = self.log.as_ref().unwrap().next(&texts);
        self.append_lines(lines)
    }

    fn append_lines(&mut self, lines: Vec<Bytes>) -> Result<(), Error> {
        let log = self.log.as_mut().unwrap();
        match block_on(log.append_lines(lines.clone())) {
            Ok(_) => {
                self.acknowledged.extend(lines);
                self.in_doubt.clear();
                Ok(())
            }
            Err(error) => {
                let ended = matches!(error, Error::Closed);
                assert!(ended || matches!(error, Error::Unwritable { .. }), "{error}");
                assert!(ended || log.journal.status() != Status::Writable);
                if self.in_doubt.is_empty() {
                    self.in_doubt = lines;
                }
                Err(error)
            }
        }
    }

    fn reopen(&mut self) {
        self.log = None;
        self.disk.heal();
        let log = open_on(&self.disk);
        self.adopt(log);
    }

    fn adopt(&mut self, log: Log) {
        self.check_owed(&log, log.journal.status() == Status::Writable);
        assert_eq!(log.recovery.damage, None, "nothing that was acknowledged is altered or gone");
        let found = &log.replayed;
        let lost = self.acknowledged.iter().zip(found).position(|(a, b)| a != b);
        assert_eq!(lost, None, "acknowledged records are as they were");
        assert!(found.len() >= self.acknowledged.len(), "acknowledged records are lost");
        let extra = &found[self.acknowledged.len()..];
        assert!(self.in_doubt.starts_with(extra), "records nobody asked for turned up");
        assert!(extra.is_empty() || extra.len() == self.in_doubt.len(), "a group is whole or gone");
        // What a start has shown may be acted on: it must not disappear later.
        self.acknowledged = found.clone();
        self.in_doubt.clear();
        self.log = Some(log);
    }

    fn power_cut(&mut self, at: u64, seed: u64) {
        self.disk.cut_power_at(at);
        let mut size = 1;
        for _ in 0..at {
            size = (size * 31 + seed as usize) % 900 + 1;
            if self.append(&[size]).is_err() {
                break;
            }
        }
        self.log = None;
        self.disk = self.disk.after_power_cut(seed);
        self.reopen();
    }

    /// The power goes while the process starts, or as soon as it has.
    fn start_cut(&mut self, at: u64, seed: u64) {
        self.log = None;
        self.disk.heal();
        let _ = self.disk.ended();
        self.disk.cut_power_at(at);
        let log = open_on(&self.disk);
        if self.disk.ended().is_none() && log.journal.status() == Status::Writable {
            self.adopt(log);
            self.tell();
        } else {
            // Nothing was shown to anybody.
            self.check_owed(&log, false);
        }
        self.log = None;
        self.disk = self.disk.after_power_cut(seed);
        self.reopen();
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Append(sizes) => {
                // A failed sync ended the process; whoever watches over it starts it again.
                if let Err(Error::Closed) = self.append(sizes) {
                    assert!(self.disk.ended().is_some());
                    self.reopen();
                }
            }
            Event::PowerCut { at, seed } => self.power_cut(*at, *seed),
            Event::StartCut { at, seed } => self.start_cut(*at, *seed),
            Event::Tell => self.tell(),
            Event::Restart => self.reopen(),
            Event::FailSync => self.disk.fail(Op::Sync, ErrorKind::Other),
            Event::FailWrite => self.disk.fail(Op::Write, ErrorKind::Other),
            Event::DiskFull => self.disk.room(Some(100)),
            Event::Recycle => {
                self.log = None;
                self.disk.heal();
                self.disk.room(None);
                recycled::plant_spare(&self.disk, 8192);
                self.reopen();
            }
            Event::Recover => {
                self.disk.heal();
                self.disk.room(None);
                let log = self.log.as_ref().unwrap();
                block_on(log.journal.try_recover()).unwrap();
                assert_eq!(log.journal.status(), Status::Writable);
                self.in_doubt.clear();
                assert_eq!(log.all(), self.acknowledged, "recovery keeps what was acknowledged");
            }
        }
    }
}

proptest! {
    // Failing cases are not kept in a file: the twins below fail on purpose. The smallest one is printed.
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn acknowledged_records_survive_every_power_cut(
        events in prop::collection::vec(event(), 1..30),
        last in any::<u64>(),
    ) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        world.power_cut(3, last);
        world.power_cut(7, last.rotate_left(9));
    }
}

#[test]
fn a_power_cut_at_every_change_of_the_disk_loses_nothing() {
    for at in 1..120 {
        for seed in [11, 0x5eed_5eed, 0xdead_beef_0000 + at] {
            let mut world = World::new();
            for sizes in [vec![10], vec![200, 300], vec![900], vec![1500, 20]] {
                world.append(&sizes).unwrap();
            }
            world.power_cut(at, seed);
            world.append(&[33]).unwrap();
            world.power_cut(1 + at % 5, seed + 1);
        }
    }
}

/// Crashes of the matrix; CI asks for many more than a developer waits for.
fn crash_runs() -> u64 {
    std::env::var("AGENTD_CRASH_RUNS").map_or(300, |runs| runs.parse().unwrap())
}

/// What a publisher signed: the size of the log, and the root over its records.
fn signed(lines: &[Bytes]) -> (usize, Hash) {
    let mut tree = agentd_core::tlog::tree::Frontier::new();
    lines.iter().for_each(|line| tree.push(agentd_core::chain::leaf_hash(line), &mut |_, _| {}));
    (lines.len(), tree.root())
}

/// So many crashes of logs that `seed` leads to; crashes, checkpoints that were kept, records that were kept.
fn crash(runs: u64, seed: u64) -> [u64; 3] {
    let (mut crashes, mut checkpoints, mut records) = (0, 0, 0);
    let mut random = seed;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    while crashes < runs {
        // A log of its own every few crashes: each start reads all of it.
        let (mut world, mut promised) = (World::new(), Vec::new());
        for _ in 0..20 {
            for _ in 0..next(5) {
                let sizes: Vec<usize> = (0..=next(4)).map(|_| 1 + next(900) as usize).collect();
                world.append(&sizes).unwrap();
            }
            if next(2) == 0 {
                promised.push(signed(&world.acknowledged));
            }
            if next(3) == 0 {
                world.happen(&Event::Recycle);
            }
            // What is signed is durable, so the crash may come in the very next change.
            world.power_cut(1 + next(25), next(u64::MAX));
            // Often another one comes at once, before anybody could tell of what that left.
            if next(3) == 0 {
                world.start_cut(1 + next(30), next(u64::MAX));
                crashes += 1;
            }
            if next(2) == 0 {
                world.tell();
            }
            for (size, root) in &promised {
                assert_eq!(signed(&world.acknowledged[..*size]).1, *root, "{size} were signed");
            }
            crashes += 1;
        }
        checkpoints += promised.len() as u64;
        records += world.acknowledged.len() as u64;
    }
    [crashes, checkpoints, records]
}

#[test]
fn after_every_crash_the_log_leads_to_every_root_that_was_signed() {
    const SEEDS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
    let [crashes, checkpoints, records] = std::thread::scope(|scope| {
        let runs = crash_runs().div_ceil(SEEDS.len() as u64);
        let workers = SEEDS.map(|seed| scope.spawn(move || crash(runs, seed)));
        workers
            .map(|worker| worker.join().unwrap())
            .into_iter()
            .reduce(|a, b| [a[0] + b[0], a[1] + b[1], a[2] + b[2]])
    })
    .unwrap();
    println!("{crashes} crashes, {records} records and {checkpoints} checkpoints kept");
}

#[test]
fn a_record_that_only_the_page_cache_has_is_rewritten_before_it_is_trusted() {
    let mut world = World::new();
    world.append(&[100]).unwrap();
    world.disk.fail(Op::Sync, ErrorKind::Other);
    world.append(&[200]).unwrap_err();
    // The process dies before it can recover. The next one finds the record, because the cache shows it ...
    world.reopen();
    assert_eq!(world.acknowledged.len(), 2);
    world.append(&[300]).unwrap();
    // ... and it must really be there when the power goes.
    world.power_cut(1, 0);
    assert_eq!(world.acknowledged.len(), 3);
}

#[test]
fn what_was_refused_does_not_turn_up_after_recovery() {
    let mut world = World::new();
    world.append(&[100]).unwrap();
    block_on(world.log.as_ref().unwrap().quiet());
    world.disk.fail(Op::Write, ErrorKind::Other);
    world.append(&[200]).unwrap_err();
    world.happen(&Event::Recover);
    world.append(&[50]).unwrap();
    world.reopen();
    assert_eq!(world.acknowledged.len(), 2);
    let all = world.log.as_ref().unwrap().all();
    assert!(all.iter().all(|line| line.len() < 300), "the refused record is not there");
}

#[test]
fn a_log_may_lie_in_a_directory_named_with_spaces_and_dots() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("a b").join("..c");
    block_on(async { Log::open(small(&home)).unwrap().append_each(1).await });
    assert_eq!(Log::open(small(&home)).unwrap().recovery.entries, 1);
}

/// The stories above, each with a bug that must make it fail.
#[cfg(feature = "failpoints")]
#[test]
fn planted_bugs_are_caught() {
    const HERE: &str = "journal::tests::";
    for (bug, story) in [
        ("journal.skip_fsync", "power::a_power_cut_at_every_change_of_the_disk_loses_nothing"),
        ("journal.skip_fsync", "power::acknowledged_records_survive_every_power_cut"),
        (
            "journal.skip_fsync",
            "power::after_every_crash_the_log_leads_to_every_root_that_was_signed",
        ),
        ("journal.retry_fsync", "power::acknowledged_records_survive_every_power_cut"),
        (
            "journal.retry_fsync",
            "faults::after_a_failed_sync_nothing_is_acknowledged_and_the_process_ends",
        ),
        (
            "journal.no_note",
            "cut::a_cut_is_told_once_wherever_the_power_goes_between_the_cut_and_its_record",
        ),
        ("journal.no_note", "power::acknowledged_records_survive_every_power_cut"),
        ("journal.no_note", "power::after_every_crash_the_log_leads_to_every_root_that_was_signed"),
        ("journal.ack_before_sync", "power::a_power_cut_at_every_change_of_the_disk_loses_nothing"),
        ("journal.ack_before_sync", "power::acknowledged_records_survive_every_power_cut"),
        (
            "journal.no_end",
            "recycled::records_of_an_earlier_life_are_not_seen_wherever_the_new_ones_end",
        ),
        (
            "journal.ignore_middle_damage",
            "damage::a_flipped_bit_anywhere_in_the_middle_is_named_by_its_record",
        ),
    ] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{HERE}{story}")])
            .env(failpoint::ENV, format!("{bug}=bug"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1 failed"), "{bug} is not caught by {story}:\n{text}");
    }
}

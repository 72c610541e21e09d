//! A disk that is full, broken or read-only: nothing is appended, reads go on, and it heals.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use super::lossy::{LossyStore, Op};
use super::*;

/// Set for the child that runs under a limit on the size of files.
const CHILD_DIR: &str = "JOURNAL_TEST_SMALL_FILES_DIR";

fn on(disk: &LossyStore) -> Log {
    Log::on(Arc::new(disk.clone()), small(Path::new("unused"))).unwrap()
}

/// What a disk says that is full, broken or read-only.
const KINDS: [ErrorKind; 3] =
    [ErrorKind::StorageFull, ErrorKind::Other, ErrorKind::ReadOnlyFilesystem];

#[tokio::test]
async fn an_error_before_the_sync_refuses_appends_until_recovery() {
    for kind in KINDS {
        let disk = LossyStore::default();
        let mut log = on(&disk);
        let mut status = log.journal.watch_status();
        log.append_each(5).await;
        log.quiet().await;
        disk.fail(Op::Write, kind);
        let error = log.append(&["lost".into()]).await.unwrap_err();
        assert!(matches!(error, Error::Unwritable { .. }), "{kind:?}: {error}");
        assert!(matches!(*status.borrow_and_update(), Status::Unwritable { .. }));
        let error = log.append(&["refused".into()]).await.unwrap_err();
        assert!(matches!(error, Error::Unwritable { .. }), "stays refused: {error}");
        assert_eq!(log.all().len(), 5, "reads go on");
        assert_eq!(log.journal.verify().unwrap().entries, 5);

        disk.fail(Op::Write, kind);
        log.journal.try_recover().await.unwrap_err();
        log.journal.try_recover().await.unwrap();
        assert_eq!(*status.borrow_and_update(), Status::Writable);
        log.append_each(3).await;
        drop(log);
        let log = on(&disk.after_power_cut(77));
        assert_eq!((log.recovery.entries, &log.recovery.damage), (8, &None), "{kind:?}");
        assert!(log.replayed.iter().all(|l| !String::from_utf8_lossy(l).contains("lost")));
        assert_eq!(disk.ended(), None, "and the process went on all the while");
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_the_process_ends() {
    for kind in KINDS {
        let disk = LossyStore::default();
        let mut log = on(&disk);
        log.append_each(5).await;
        log.quiet().await;
        // Only this one sync fails: whoever asked a second time would be told that all is well.
        disk.fail(Op::Sync, kind);
        let error = log.append(&["in doubt".into()]).await.unwrap_err();
        assert!(matches!(error, Error::Closed), "nobody is left to answer: {error}");
        assert!(disk.ended().is_some_and(|why| why.contains("sync the proof log")));
        let error = log.append(&["refused".into()]).await.unwrap_err();
        assert!(matches!(error, Error::Closed), "{error}");
        assert!(matches!(log.journal.try_recover().await.unwrap_err(), Error::Closed));
        assert_eq!(log.journal.head().next_seq, 6, "{kind:?}");
        drop(log);

        // The next process is shown the record by the page cache, writes it again, and only then counts it.
        let mut log = on(&disk);
        assert_eq!((log.recovery.entries, &log.recovery.damage), (6, &None), "{kind:?}");
        log.append_each(3).await;
        drop(log);
        let log = on(&disk.after_power_cut(77));
        assert_eq!((log.recovery.entries, &log.recovery.damage), (9, &None), "{kind:?}");
    }
}

#[tokio::test]
async fn a_sync_that_fails_at_the_start_or_while_a_fault_is_settled_ends_the_process_too() {
    let disk = LossyStore::default();
    let mut log = on(&disk);
    log.append_each(30).await;
    drop(log);
    disk.fail(Op::Sync, ErrorKind::Other);
    let mut log = on(&disk);
    assert_eq!(log.recovery.entries, 30, "it was read");
    assert!(disk.ended().is_some_and(|why| why.contains("sync the last segment")));
    assert!(matches!(log.append(&["no".into()]).await.unwrap_err(), Error::Closed));
    drop(log);

    assert_eq!(on(&disk).recovery.entries, 30);
    let disk = LossyStore::default();
    let mut log = on(&disk);
    log.append_each(1).await;
    log.quiet().await;
    disk.fail(Op::Write, ErrorKind::Other);
    log.append(&["no".into()]).await.unwrap_err();
    disk.fail(Op::Sync, ErrorKind::Other);
    assert!(matches!(log.journal.try_recover().await.unwrap_err(), Error::Closed));
    assert!(disk.ended().is_some());
    drop(log);
    assert!(on(&disk).recovery.entries >= 1);
}

#[tokio::test]
async fn a_sync_that_fails_before_a_file_holds_records_only_refuses() {
    let disk = LossyStore::default();
    disk.fail(Op::Sync, ErrorKind::Other);
    let mut log = on(&disk);
    assert!(matches!(log.journal.status(), Status::Unwritable { .. }));
    assert!(log.append(&["no".into()]).await.is_err());
    log.journal.try_recover().await.unwrap();
    log.append_each(3).await;
    assert_eq!((log.all().len(), disk.ended()), (3, None));
}

#[test]
fn a_segment_or_a_spare_that_cannot_be_synced_is_dropped() {
    use super::super::frame::Header;
    use super::super::segment::{Active, Left};
    use super::super::store::Access;

    let disk = LossyStore::default();
    let store: Arc<dyn Store> = Arc::new(disk.clone());
    let header = || Header { log_id: LogId::from_bytes([7; 16]), first_seq: 1, prev: GENESIS };
    disk.fail(Op::Sync, ErrorKind::Other);
    assert_eq!(Active::create(&store, header(), 4096).unwrap_err().left, Left::Settled);
    assert_eq!(store.names().unwrap(), [""; 0]);

    let file = store.open("0000000003.spare", Access::Create).unwrap();
    disk.fail(Op::Sync, ErrorKind::Other);
    let spare = ("0000000003.spare", file);
    assert_eq!(Active::adopt(&store, spare, header(), 4096).unwrap_err().left, Left::Settled);
    assert_eq!(store.names().unwrap(), [""; 0]);

    let spares = Spares::new(Arc::clone(&store), 8192);
    let make = || {
        let (want, wanted) = sync_channel(4);
        want.send(()).unwrap();
        drop(want);
        spares.run(&wanted);
        store.names().unwrap().len()
    };
    disk.fail(Op::Sync, ErrorKind::Other);
    assert_eq!((make(), spares.is_ready()), (0, false));
    assert_eq!((make(), spares.is_ready()), (1, true), "the next one is made");
    assert_eq!(disk.ended(), None);
}

#[tokio::test]
async fn a_spare_that_is_being_made_outlives_the_settling_of_a_fault() {
    use super::super::store::Access;

    const MAKING: &str = "0000000099.spare.tmp";
    let disk = LossyStore::default();
    let mut log = on(&disk);
    log.append_each(1).await;
    log.quiet().await;
    disk.open(MAKING, Access::Create).unwrap();
    disk.fail(Op::Write, ErrorKind::Other);
    log.append(&["no".into()]).await.unwrap_err();
    log.journal.try_recover().await.unwrap();
    assert!(disk.names().unwrap().contains(&MAKING.to_owned()));
    drop(log);
    drop(on(&disk));
    assert!(!disk.names().unwrap().contains(&MAKING.to_owned()), "half made");
}

#[tokio::test]
async fn calls_that_wait_behind_a_failed_one_fail_with_it() {
    let disk = LossyStore::default();
    let log = on(&disk);
    disk.fail(Op::Write, ErrorKind::Other);
    let (_, lines) = log.next(&vec!["x".to_owned(); 20]);
    let mut calls = tokio::task::JoinSet::new();
    for (seq, line) in (1u64..).zip(lines) {
        let journal = log.journal.clone();
        calls.spawn(async move { journal.append(seq, vec![line]).await });
    }
    while let Some(done) = calls.join_next().await {
        assert!(done.unwrap().is_err(), "a later record cannot be there without the earlier one");
    }
    assert_eq!(log.journal.head().next_seq, 1);
}

#[tokio::test]
async fn on_a_full_disk_outcomes_fit_into_the_reserve() {
    let disk = LossyStore::default();
    let mut log = on(&disk);
    log.append_each(3).await;
    disk.room(Some(100));
    let text = ["y".repeat(300)];
    let mut appended = 3;
    while log.append(&text).await.is_ok() {
        appended += 1;
        assert!(appended < 100, "the disk is full");
    }
    let Status::Unwritable { reason } = log.journal.status() else { panic!("writable") };
    assert!(reason.contains("space") || reason.contains("segment"), "{reason}");
    let mut reserved = 0;
    while log.append_reserved("the outcome of what was under way").await.is_ok() {
        reserved += 1;
        assert!(reserved < 100, "the reserve is limited too");
    }
    assert!(reserved >= 10, "a few outcomes fit, not {reserved}");
    assert!(log.append(&text).await.is_err(), "but nothing new is begun");
    log.journal.try_recover().await.unwrap_err();
    assert_eq!(log.all().len(), appended + reserved);

    disk.room(None);
    log.journal.try_recover().await.unwrap();
    log.append_each(40).await;
    let expected = appended + reserved + 40;
    assert_eq!(log.all().len(), expected);
    drop(log);
    let log = on(&disk.after_power_cut(5));
    assert_eq!((log.recovery.entries, &log.recovery.damage), (expected as u64, &None));
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_still_serves_reads() {
    let disk = LossyStore::default();
    let mut log = on(&disk);
    log.append_each(30).await;
    drop(log);
    disk.fail(Op::Write, ErrorKind::ReadOnlyFilesystem);
    let mut log = on(&disk);
    assert!(matches!(log.journal.status(), Status::Unwritable { .. }));
    assert_eq!((log.recovery.entries, log.all().len()), (30, 30));
    assert!(log.append(&["no".into()]).await.is_err());
    log.journal.try_recover().await.unwrap();
    log.append_each(1).await;
    assert_eq!(log.all().len(), 31);
}

#[tokio::test]
async fn acknowledged_records_that_vanish_during_a_fault_are_damage() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(Config { segment_bytes: 64 << 10, ..small(dir.path()) }).unwrap();
    log.append_each(10).await;
    let path = dir.path().join("wal").join(index::segment_name(1));
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..200]).unwrap();
    // A reader notices it, and the writer then refuses.
    assert!(log.journal.reader().read(9, 1, 1).is_err());
    assert!(matches!(log.append(&["no".into()]).await.unwrap_err(), Error::Damaged(_)));
}

/// Runs only as the child of the next test.
#[test]
fn child_with_small_files() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let config = Config { segment_bytes: 1 << 20, ..small(Path::new(&dir)) };
    let mut log = Log::open(config).unwrap();
    block_on(async {
        let mut appended = 0;
        while log.append(&["z".repeat(500)]).await.is_ok() {
            appended += 1;
            assert!(appended < 1000, "the limit must be felt");
        }
        assert!(matches!(log.journal.status(), Status::Unwritable { .. }));
        log.append_reserved("outcome").await.unwrap();
        log.journal.try_recover().await.unwrap_err();
        assert_eq!(log.all().len(), appended + 1);
        println!("\nappended {}", appended + 1);
    });
}

#[test]
fn a_real_limit_of_the_kernel_is_felt_and_nothing_acknowledged_is_lost() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("log");
    // Ignoring the signal survives `exec`, so the write fails with EFBIG instead of ending the process.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 48; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "journal::tests::faults::child_with_small_files", "--nocapture"])
        .env(CHILD_DIR, &home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let appended = text.lines().find_map(|l| l.strip_prefix("appended ")).expect("the child ran");
    let mut log = Log::open(small(&home)).unwrap();
    assert_eq!(log.recovery.entries, appended.parse::<u64>().unwrap());
    assert_eq!(log.recovery.damage, None);
    block_on(log.append_each(1));
}

/// A small file system in memory; gone with the value.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        done.is_ok_and(|s| s.success()).then_some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_file_system_that_is_really_full_heals_when_space_returns() {
    let Some(mount) = Tmpfs::mount("256k") else {
        eprintln!("NOT RUN: mounting a small file system needs root");
        return;
    };
    let config = Config { segment_bytes: 64 << 10, ..small(&mount.0.path().join("log")) };
    let mut log = Log::open(config.clone()).unwrap();
    log.append_each(3).await;
    let ballast = mount.0.path().join("ballast");
    let mut size = 256 << 10;
    while std::fs::write(&ballast, vec![1; size]).is_err() {
        size -= 4096;
    }
    let mut appended = 3;
    while log.append(&["w".repeat(600)]).await.is_ok() {
        appended += 1;
        assert!(appended < 1000, "the disk is full");
    }
    log.append_reserved("outcome").await.unwrap();
    log.journal.try_recover().await.unwrap_err();
    assert_eq!(log.all().len(), appended + 1);
    std::fs::remove_file(&ballast).unwrap();
    log.journal.try_recover().await.unwrap();
    log.append_each(10).await;
    drop(log);
    let log = Log::open(config).unwrap();
    assert_eq!((log.recovery.entries, &log.recovery.damage), (appended as u64 + 11, &None));
}

//! SIGKILL at every step of an append, in a real process on real files: nothing acknowledged is lost.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::failpoint;

const CHILD_DIR: &str = "JOURNAL_TEST_KILL_DIR";

/// Segments that are extended a few times before they are full.
fn config(dir: &Path) -> Config {
    Config { segment_bytes: 16 << 10, ..small(dir) }
}

/// Runs only as a child: appends until it is killed, and says what was acknowledged.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let mut log = Log::open(config(Path::new(&dir))).unwrap();
    let mut stdout = std::io::stdout();
    block_on(async {
        for i in 0..5_000usize {
            let texts = vec!["k".repeat(50 + i % 400); 1 + i % 3];
            let durable = log.append(&texts).await.unwrap();
            writeln!(stdout, "\nacked {} {}", durable.last_seq, durable.hash).unwrap();
            stdout.flush().unwrap();
        }
    });
}

/// Runs the child until it dies and returns the last record it saw acknowledged.
fn run_child(dir: &Path, failpoints: &str, kill_after: Option<Duration>) -> Option<(u64, Hash)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "journal::tests::kill::child", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(failpoint::ENV, failpoints)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    let reader = std::thread::Builder::new()
        .spawn(move || {
            let mut last = None;
            for line in BufReader::new(output).lines() {
                let line = line.unwrap();
                let mut words = line.split_whitespace();
                if words.next() == Some("acked") {
                    let seq = words.next().unwrap().parse().unwrap();
                    // A line the kill cut short was acknowledged, but its hash is not known.
                    last = words.next().and_then(|hash| hash.parse().ok()).map(|hash| (seq, hash));
                }
            }
            last
        })
        .unwrap();
    if let Some(time) = kill_after {
        std::thread::sleep(time);
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(!status.success(), "the child must die at `{failpoints}`");
    reader.join().unwrap()
}

/// Opens the log after a kill: everything acknowledged must be there, and it must go on.
fn check(dir: &Path, acked: Option<(u64, Hash)>, what: &str) {
    let mut log = Log::open(config(dir)).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(log.recovery.damage, None, "{what}");
    if let Some((seq, hash)) = acked {
        let line =
            log.replayed.get(seq as usize - 1).unwrap_or_else(|| panic!("{what}: lost {seq}"));
        assert_eq!(agentd_core::chain::leaf_hash(line), hash, "{what}: another record {seq}");
    }
    block_on(log.append_each(1));
    log.journal.verify().unwrap();
}

#[test]
fn a_kill_at_any_step_loses_nothing_acknowledged() {
    let steps = [
        "journal.write=kill",
        "journal.after_write=kill",
        "journal.fsync=kill",
        "journal.before_ack=kill",
        "journal.after_ack=kill",
        // A segment that was made ahead has all its space.
        "journal.spare=enospc;journal.extend=kill",
        "journal.spare=kill",
        "journal.rotate=kill",
        "journal.rotate.before_rename=kill",
        "journal.rotate.after_rename=kill",
        "journal.split_write=bug;journal.mid_write=kill",
    ];
    let mut kills = 0;
    let mut acknowledged = 0;
    for step in steps {
        // One directory through all kills of a step: each start recovers from the one before.
        let dir = TempDir::new().unwrap();
        for nth in [1, 2, 3, 7] {
            if step.contains("rotate") && nth == 1 {
                // The first one makes the log; a kill there leaves nothing to lose.
                run_child(dir.path(), &format!("{step}@1"), None);
                kills += 1;
                continue;
            }
            let points = format!("{step}@{nth}");
            let acked = run_child(dir.path(), &points, None);
            acknowledged += u32::from(acked.is_some());
            check(dir.path(), acked, &points);
            kills += 1;
        }
    }
    assert!(kills >= 40 && acknowledged >= 25, "{kills} kills, {acknowledged} after records");
}

#[test]
fn kills_at_any_time_lose_nothing_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut total = 0;
    for round in 0..12u64 {
        let time = Duration::from_millis(20 + round * 13 % 90);
        let acked = run_child(dir.path(), "", Some(time));
        total += acked.map_or(0, |(seq, _)| seq);
        check(dir.path(), acked, &format!("round {round}"));
    }
    assert!(total > 0, "the child must have got somewhere");
}

#[test]
fn a_kill_while_the_log_is_settled_after_a_fault_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let acked = run_child(dir.path(), "journal.after_ack=kill@9", None);
    for nth in [1, 1, 1] {
        run_child(dir.path(), &format!("journal.reopen=kill@{nth}"), None);
    }
    check(dir.path(), acked, "three kills during the start");
}

#[test]
fn a_kill_between_a_cut_and_the_record_of_it_leaves_it_to_the_next_start() {
    let dir = TempDir::new().unwrap();
    block_on(Log::open(config(dir.path())).unwrap().append_each(3));
    let path = dir.path().join("wal").join(index::segment_name(1));
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let end = end.next_multiple_of(8);
    bytes[end..end + 24].fill(7);
    std::fs::write(&path, bytes).unwrap();
    // Noted and not cut, cut and not synced, cut; then in the middle of the first records, which are torn in their turn.
    for step in ["journal.noted", "journal.reopen_sync", "journal.write"] {
        run_child(dir.path(), &format!("{step}=kill@1"), None);
    }
    run_child(dir.path(), "journal.split_write=bug;journal.mid_write=kill@1", None);
    let mut log = Log::open(config(dir.path())).unwrap();
    let torn = log.recovery.torn.as_ref().expect("a torn record").bytes_cut;
    assert_eq!(log.journal.untold_cut(), Some(24 + torn));
    block_on(log.tell()).unwrap();
    block_on(log.quiet());
    assert_eq!(log.journal.untold_cut(), None);
}

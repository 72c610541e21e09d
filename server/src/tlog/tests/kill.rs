//! SIGKILL at every step of publishing, in a real process on real files: a checkpoint that was shown is continued.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;
use crate::failpoint;

const CHILD_DIR: &str = "TLOG_TEST_KILL_DIR";

/// Runs only as a child: appends and publishes until it is killed, and says what was published.
#[tokio::test]
async fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let mut log = Log::open(&Config::on_demand(Path::new(&dir))).unwrap();
    let mut stdout = io::stdout();
    for round in 0..400 {
        log.append(1 + round % 70).await;
        let note = log.tlog.publish(log.size()).await.unwrap().note.to_string();
        let hex: String = note.bytes().map(|byte| format!("{byte:02x}")).collect();
        writeln!(stdout, "\npublished {hex} end").unwrap();
        stdout.flush().unwrap();
    }
}

/// Runs the child until it dies; the checkpoints it was shown.
fn run_child(dir: &Path, failpoints: &str) -> Vec<Note> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tlog::tests::kill::child", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(failpoint::ENV, failpoints)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // A line that the kill cut short is without its end.
        if let ["published", hex, "end"] = line.split(' ').collect::<Vec<_>>()[..] {
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let text: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            shown.push(Note::parse(&text).unwrap());
        }
    }
    assert!(!child.wait().unwrap().success(), "the child must die at `{failpoints}`");
    shown
}

#[tokio::test]
async fn a_kill_at_any_step_takes_no_checkpoint_back() {
    let (mut kills, mut checkpoints) = (0, 0);
    for step in ["tlog.write", "tlog.sync", "tlog.before_checkpoint", "tlog.after_checkpoint"] {
        // One directory through all kills of a step: each start recovers from the one before.
        let dir = TempDir::new().unwrap();
        let mut shown: Vec<Note> = Vec::new();
        for nth in [1, 2, 3, 9, 20] {
            let points = format!("{step}=kill@{nth}");
            shown.extend(run_child(dir.path(), &points));
            let mut log = Log::open(&config(&dir)).unwrap_or_else(|e| panic!("{points}: {e}"));
            assert_eq!(log.damage(), None, "{points}");
            log.append(1).await;
            let last = log.published().await;
            for note in &shown {
                let old = Checkpoint::open(note, log.tlog.key()).unwrap();
                let new = &last.checkpoint;
                let proof = log.tlog.consistency(old.size, new.size).unwrap().expect(&points);
                verify_consistency((old.size, old.root), (new.size, new.root), &proof)
                    .expect(&points);
            }
            kills += 1;
        }
        checkpoints += shown.len();
    }
    assert!(kills == 20 && checkpoints > 40, "{kills} kills, {checkpoints} checkpoints");
}

const FAILING_DIR: &str = "TLOG_TEST_FAILING_DIR";

/// Runs only as a child, on a disk that refuses now and then: points are armed for a whole process.
#[tokio::test]
async fn child_on_a_failing_disk() {
    let Ok(dir) = std::env::var(FAILING_DIR) else { return };
    let mut log = Log::open(&Config::on_demand(Path::new(&dir))).unwrap();
    let (mut shown, mut refused) = (Vec::new(), 0);
    for _ in 0..20 {
        log.append(30).await;
        while let Err(error) = log.tlog.publish(log.size()).await {
            assert!(error.to_string().contains("cannot be published"), "{error}");
            assert_eq!(log.damage(), None, "the agent goes on");
            refused += 1;
        }
        shown.push(log.published().await);
    }
    let last = shown.last().unwrap();
    for old in &shown {
        let (a, b) = (&old.checkpoint, &last.checkpoint);
        let proof = log.tlog.consistency(a.size, b.size).unwrap().unwrap();
        verify_consistency((a.size, a.root), (b.size, b.root), &proof).unwrap();
    }
    println!("refused {refused} times");
}

#[test]
fn a_disk_that_refuses_is_made_up_for_and_nothing_is_signed_that_is_not_kept() {
    for point in
        ["tlog.write=enospc@3", "tlog.before_checkpoint=erofs@4", "tlog.after_checkpoint=eio@5"]
    {
        let dir = TempDir::new().unwrap();
        let output = on_a_failing_disk(dir.path(), point);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{point}: {text}");
    }
}

fn on_a_failing_disk(dir: &Path, points: &str) -> std::process::Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tlog::tests::kill::child_on_a_failing_disk", "--nocapture"])
        .env(FAILING_DIR, dir)
        .env(failpoint::ENV, points)
        .output()
        .unwrap()
}

#[tokio::test]
async fn lines_and_hashes_that_cannot_be_synced_end_the_process_and_are_made_up_for_by_the_next() {
    use std::os::unix::process::ExitStatusExt as _;
    for point in ["tlog.sync=eio@1", "tlog.sync=enospc@2", "tlog.sync=eio@7"] {
        let dir = TempDir::new().unwrap();
        let status = on_a_failing_disk(dir.path(), point).status;
        let aborted = rustix::process::Signal::ABORT.as_raw();
        assert_eq!(status.signal(), Some(aborted), "{point}: {status}");
        let mut log = Log::open(&config(&dir)).unwrap();
        assert_eq!(log.damage(), None, "{point}");
        log.append(1).await;
        log.published().await;
    }
}

const PLANTED_DIR: &str = "TLOG_TEST_PLANTED_DIR";

/// Runs only as a child, with a bug planted: a fork on the second path is told by its size alone.
#[tokio::test]
async fn child_that_looks_at_sizes_alone() {
    let Ok(dir) = std::env::var(PLANTED_DIR) else { return };
    let dir = tempfile::tempdir_in(dir).unwrap();
    let (log, published, stays) = beside_a_shorter_fork(&dir).await;
    assert!(published.is_ok() && log.damage().is_none() && !stays, "the fork is written over");
    println!("nobody noticed");
}

/// Runs only as a child, with a bug planted: a key that was replaced goes on speaking for the log.
#[tokio::test]
async fn child_that_believes_retired_keys() {
    let Ok(dir) = std::env::var(PLANTED_DIR) else { return };
    let dir = tempfile::tempdir_in(dir).unwrap();
    let opened = rotation::beside_what_a_retired_key_signed_later(&dir).await;
    assert!(opened.unwrap().damage().is_some(), "whoever has the old key can stop the log");
    println!("nobody noticed");
}

#[test]
fn the_planted_bugs_show_that_the_tests_of_copies_elsewhere_can_fail() {
    for (bug, child) in [
        ("tlog.copy_by_size", "child_that_looks_at_sizes_alone"),
        ("tlog.retired_key_signs_on", "child_that_believes_retired_keys"),
    ] {
        let dir = TempDir::new().unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("tlog::tests::kill::{child}"), "--nocapture"])
            .env(PLANTED_DIR, dir.path())
            .env(failpoint::ENV, format!("{bug}=bug"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("nobody noticed"), "{bug}: {text}");
    }
}

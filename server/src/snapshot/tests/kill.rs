//! SIGKILL at every step of a prune, in a real process on real files: the next start finishes what was recorded, and nothing else is lost.

use std::process::{Command, Stdio};

use super::*;
use crate::failpoint;

const CHILD_DIR: &str = "SNAPSHOT_TEST_KILL_DIR";

/// Runs only as a child: prunes until it is killed.
#[tokio::test]
async fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let mut brain = open(&Config { seal_bytes: 16 << 10, ..Config::on_demand(Path::new(&dir)) });
    brain.export().await;
    brain.snapshot().await;
    brain.prune(700).await;
}

fn run_child(dir: &TempDir, points: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "snapshot::tests::kill::child", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .env(failpoint::ENV, points)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success(), "the child must die at `{points}`");
}

#[tokio::test]
async fn a_kill_at_any_step_of_a_prune_is_finished_by_the_next_start() {
    let steps = [
        ("snapshot.write=kill", false),
        ("prune.recorded=kill", true),
        ("blobs.remove=kill", true),
        ("prune.bodies_removed=kill", true),
        ("journal.release=kill@1", true),
        ("journal.release=kill@2", true),
        ("journal.retire=kill", true),
        ("lines.prune=kill@1", true),
        ("lines.prune=kill@2", true),
    ];
    for (points, recorded) in steps {
        let dir = TempDir::new().unwrap();
        let config = config(&dir);
        let before = lived(&config).await;
        run_child(&dir, points);
        let mut brain = open(&config);
        retention::resume(&brain.journal, brain.state.kept.oldest());
        assert_eq!(brain.damage(), None, "{points}");
        assert!(brain.state.last_seq > before.last_seq, "{points}: the export was recorded");
        let oldest = if recorded { 513 } else { 1 };
        assert_eq!(brain.state.kept.oldest(), oldest, "{points}");
        assert_eq!(brain.journal.reader().oldest_seq(), oldest, "{points}");
        brain.journal.verify().unwrap();
        let shelves = fs::read_dir(config.dir.join(blobs::DIR).join("sha256")).unwrap();
        let bodies = shelves.flatten().flat_map(|shelf| fs::read_dir(shelf.path()).unwrap());
        assert_eq!(bodies.count(), usize::from(!recorded), "{points}: the body of a pruned record");
        let wal = fs::read_dir(config.dir.join("wal")).unwrap().flatten();
        let firsts = wal.filter_map(|file| {
            file.file_name().to_str()?.strip_suffix(".seg")?.parse::<u64>().ok()
        });
        let mut firsts: Vec<u64> = firsts.collect();
        firsts.sort_unstable();
        assert!(firsts.get(1).is_none_or(|next| *next > oldest), "{points}: {firsts:?}");
        brain.live(10).await;
        let size = brain.state.last_seq;
        brain.tlog.publish(size).await.unwrap();
        let state = brain.state.clone();
        drop(brain);
        assert_eq!(open(&config).state, state, "{points}");
    }
}

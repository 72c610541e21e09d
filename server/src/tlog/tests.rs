//! Stories of a published log: what was signed is found again, what is derived is rebuilt, what is not kept is damage.

#[cfg(feature = "failpoints")]
mod kill;
mod rotation;
mod witness;

use std::fs;
use std::path::Path;

use agentd_core::chain::{LineVerifier, leaf_hash};
use agentd_core::tlog::proof::{verify_consistency, verify_inclusion};
use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::journal::{Status, verify_dir};

/// A log with checkpoints on demand, and all that was written to it.
struct Log {
    journal: Journal,
    tlog: Tlog,
    chain: LineVerifier,
}

impl Log {
    fn open(config: &Config) -> Result<Self, Error> {
        let mut segments = journal::Config::new(config.dir.clone());
        (segments.segment_bytes, segments.zero_ahead_bytes) = (64 << 10, 4 << 10);
        let (opened, tlog) = open(config.clone(), segments, &mut |_, _| {})?;
        let chain = LineVerifier::resume(opened.head.next_seq, opened.head.hash);
        Ok(Self { journal: opened.journal, tlog, chain })
    }

    async fn append(&mut self, count: u64) {
        let first = self.chain.next_seq();
        let lines: Vec<Bytes> = (0..count)
            .map(|_| {
                let (seq, prev) = (self.chain.next_seq(), self.chain.head());
                let line = format!(r#"{{"event_name":"HEARTBEAT","seq":{seq},"prev":"{prev}"}}"#);
                self.chain.check(line.as_bytes()).unwrap();
                line.into()
            })
            .collect();
        for (at, part) in lines.chunks(1_000).enumerate() {
            self.journal.append(first + at as u64 * 1_000, part.to_vec()).await.unwrap();
        }
    }

    fn size(&self) -> u64 {
        self.chain.next_seq() - 1
    }

    /// A checkpoint over everything, whose root is the one a second computation over the plain lines comes to.
    async fn published(&self) -> Arc<Published> {
        let published = self.tlog.publish(self.size()).await.unwrap();
        let text = fs::read_to_string(self.tlog.inner.dir.join("proof.jsonl")).unwrap();
        let mut tree = tree::Frontier::new();
        for line in text.lines() {
            tree.push(leaf_hash(line.as_bytes()), &mut |_, _| {});
        }
        assert_eq!((tree.size(), tree.root()), (self.size(), published.checkpoint.root));
        published
    }

    fn damage(&self) -> Option<journal::Damage> {
        match self.journal.status() {
            Status::Damaged(damage) => Some(damage),
            _ => None,
        }
    }
}

fn config(dir: &TempDir) -> Config {
    Config::on_demand(dir.path())
}

fn checkpoint_of(path: &Path) -> Checkpoint {
    Checkpoint::parse(Note::parse(&fs::read(path).unwrap()).unwrap().text()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn every_checkpoint_is_signed_kept_and_continued_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let mut log = Log::open(&config).unwrap();
    assert_eq!(log.published().await.checkpoint.size, 0, "an empty log is a log");
    let mut seen = Vec::new();
    for more in [1, 1, 253, 1, 1, 300] {
        log.append(more).await;
        seen.push(log.published().await);
    }
    let key = log.tlog.key().clone();
    assert!(key.name().starts_with("agentctl.dev/stage/"), "{key}");
    drop(log);
    assert_eq!(checkpoint_of(&config.checkpoint()).size, 557);
    let vkey: VerifierKey =
        fs::read_to_string(config.dir.join("log.vkey")).unwrap().trim_end().parse().unwrap();
    assert_eq!(vkey, key);

    let mut log = Log::open(&config).unwrap();
    assert_eq!(log.tlog.key(), &key);
    assert_eq!(
        log.tlog.published().unwrap(),
        *seen.last().unwrap(),
        "served before anything is done"
    );
    log.append(5).await;
    let last = log.published().await;
    for old in &seen {
        let (a, b) = (&old.checkpoint, &last.checkpoint);
        assert_eq!(Checkpoint::open(&old.note, &key).as_ref(), Ok(a));
        let proof = log.tlog.consistency(a.size, b.size).unwrap().unwrap();
        verify_consistency((a.size, a.root), (b.size, b.root), &proof).unwrap();
        assert_eq!(log.tlog.root(a.size).unwrap(), Some(a.root));
    }
    let reader = log.journal.reader();
    for seq in [1, 2, 256, 257, 562] {
        let entry = reader.read(seq, 1, 1 << 20).unwrap().remove(0);
        let proof = log.tlog.inclusion(seq - 1, 562).unwrap().unwrap();
        verify_inclusion(leaf_hash(&entry.line), seq - 1, 562, &proof, last.checkpoint.root)
            .unwrap();
    }
    assert_eq!(log.tlog.inclusion(562, 562).unwrap(), None, "no such leaf");
    assert_eq!(log.tlog.inclusion(0, 563).unwrap(), None, "not published");
    assert_eq!(log.tlog.consistency(5, 4).unwrap(), None, "a log does not shrink");
}

#[tokio::test]
async fn tiles_hold_what_their_names_say() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(&config(&dir)).unwrap();
    log.append(600).await;
    let size = log.published().await.checkpoint.size;
    for tile in Tile::all(size) {
        let bytes = log.tlog.tile(tile).unwrap().unwrap();
        match tile.kind() {
            Kind::Hashes(_) => assert_eq!(bytes.len() as u64, tile.width() * 32, "{tile}"),
            Kind::Entries => {
                let entries = tile::entries(&bytes).unwrap();
                assert_eq!(entries.len() as u64, tile.width(), "{tile}");
                let hashes: Tile = tile.to_string().replacen("entries", "0", 1).parse().unwrap();
                let hashes = log.tlog.tile(hashes).unwrap().unwrap();
                for (entry, hash) in entries.iter().zip(hashes.chunks(32)) {
                    assert_eq!(leaf_hash(entry).as_bytes(), hash, "{tile}");
                }
            }
        }
    }
    let over: Tile = "tile/0/002.p/89".parse().unwrap();
    assert_eq!(log.tlog.tile(over).unwrap(), None);
}

#[tokio::test]
async fn what_is_derived_is_rebuilt_where_it_is_missing_or_altered() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let mut log = Log::open(&config).unwrap();
    log.append(700).await;
    let before = log.published().await;
    drop(log);
    let path = |name: &str| config.dir.join(name);
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 7] = [
        ("proof.jsonl", |p| fs::remove_file(p).unwrap()),
        ("proof.jsonl", |p| fs::write(p, "x").unwrap()),
        ("hash/0", |p| fs::remove_file(p).unwrap()),
        ("hash/1", |p| fs::remove_file(p).unwrap()),
        ("hash/0", |p| {
            let mut bytes = fs::read(p).unwrap();
            let end = bytes.len();
            bytes[end - 1] ^= 1;
            fs::write(p, bytes).unwrap();
        }),
        ("hash", |p| fs::remove_dir_all(p).unwrap()),
        ("log.vkey", |p| fs::remove_file(p).unwrap()),
    ];
    let mut before = before;
    for (name, harm) in harms {
        harm(&path(name));
        let mut log = Log::open(&config).unwrap();
        assert_eq!(log.damage(), None, "{name}");
        assert_eq!(log.tlog.published().unwrap(), before, "{name}: what was promised still is");
        log.append(1).await;
        let after = log.published().await;
        let (a, b) = (&before.checkpoint, &after.checkpoint);
        let proof = log.tlog.consistency(a.size, b.size).unwrap().unwrap();
        verify_consistency((a.size, a.root), (b.size, b.root), &proof).unwrap();
        assert_eq!(log.tlog.root(a.size).unwrap(), Some(a.root), "{name}");
        before = after;
    }
}

#[tokio::test]
async fn files_that_vanish_while_the_log_runs_are_written_again() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let mut log = Log::open(&config).unwrap();
    log.append(300).await;
    log.published().await;
    fs::remove_file(config.dir.join("proof.jsonl")).unwrap();
    log.append(1).await;
    let mut published = log.tlog.publish(301).await;
    if published.is_err() {
        published = log.tlog.publish(301).await;
    }
    assert_eq!(published.unwrap().checkpoint.size, 301);
    log.published().await;
}

#[tokio::test]
async fn an_old_backup_is_noticed_by_the_copy_on_the_second_path() {
    let (dir, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let anchor = elsewhere.path().join("stage");
    let with_anchor = Config { anchor: Some(anchor.clone()), ..config(&dir) };
    let mut log = Log::open(&with_anchor).unwrap();
    log.append(10).await;
    log.published().await;
    drop(log);
    let backup = elsewhere.path().join("backup");
    copy(dir.path(), &backup);

    let mut log = Log::open(&with_anchor).unwrap();
    log.append(10).await;
    log.published().await;
    drop(log);
    assert_eq!(checkpoint_of(&anchor).size, 20);
    fs::remove_dir_all(dir.path().join("proof")).unwrap();
    copy(&backup.join("proof"), &dir.path().join("proof"));

    assert!(verify_dir(&with_anchor.dir).is_ok(), "by itself the backup is sound");
    let log = Log::open(&with_anchor).unwrap();
    let damage = log.damage().expect("noticed");
    assert_eq!(damage.seq, 11, "{damage}");
    assert!(damage.why.contains("older copy"), "{damage}");
    let refused = log.journal.append(11, vec!["{}".into()]).await.unwrap_err();
    assert!(matches!(refused, journal::Error::Damaged(_)), "{refused}");
    assert_eq!(log.journal.reader().read(10, 1, 1).unwrap().len(), 1, "it is still read");
    drop(log);
    assert_eq!(checkpoint_of(&anchor).size, 20, "the promise stands");

    // The planted fault: without a second path nothing shows it, which is what the second path is for.
    let log = Log::open(&config(&dir)).unwrap();
    assert_eq!(log.damage(), None);
}

#[tokio::test]
async fn a_log_set_back_while_another_copy_went_on_stops_before_it_forks() {
    let (dir, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let anchor = elsewhere.path().join("stage");
    let config = Config { anchor: Some(anchor.clone()), ..config(&dir) };
    let mut log = Log::open(&config).unwrap();
    log.append(3).await;
    log.published().await;
    // Somebody else, with the same key, is further.
    let key = key::load(&config.key).unwrap().unwrap();
    let further = Checkpoint { size: 9, ..log.tlog.published().unwrap().checkpoint.clone() };
    fs::write(&anchor, further.sign(&key).unwrap().to_string()).unwrap();
    log.append(1).await;
    let refused = log.tlog.publish(4).await.unwrap_err();
    assert!(refused.to_string().contains("published elsewhere"), "{refused}");
    assert_eq!(log.damage().unwrap().seq, 5);
    assert_eq!(checkpoint_of(&config.checkpoint()).size, 3, "nothing was signed");
}

#[tokio::test]
async fn a_cloned_log_that_is_as_long_stops_before_it_writes_over_the_evidence() {
    let (dir, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let anchor = elsewhere.path().join("stage");
    let config = Config { anchor: Some(anchor.clone()), ..config(&dir) };
    let mut log = Log::open(&config).unwrap();
    log.append(3).await;
    let own = log.published().await.checkpoint.clone();
    let key = key::load(&config.key).unwrap().unwrap();
    let other = Checkpoint { size: 4, ..own };
    let text = other.sign(&key).unwrap().to_string();
    fs::write(&anchor, &text).unwrap();
    log.append(1).await;
    let refused = log.tlog.publish(4).await.unwrap_err().to_string();
    assert!(refused.contains("published elsewhere, root"), "{refused}");
    assert!(log.damage().is_some());
    assert_eq!(fs::read_to_string(&anchor).unwrap(), text, "the evidence stays");
    assert_eq!(checkpoint_of(&config.checkpoint()).size, 3, "nothing was signed");
}

/// A log of four records beside which somebody else, with the same key, has published another first two on the second path. What
/// publishing says, and what stands on the second path then.
async fn beside_a_shorter_fork(dir: &TempDir) -> (Log, Result<Arc<Published>, Unpublished>, bool) {
    let anchor = dir.path().join("elsewhere");
    let config = Config { anchor: Some(anchor.clone()), ..config(dir) };
    let mut log = Log::open(&config).unwrap();
    log.append(3).await;
    let own = log.published().await.checkpoint.clone();
    let key = key::load(&config.key).unwrap().unwrap();
    let other = Checkpoint { size: 2, ..own };
    let text = other.sign(&key).unwrap().to_string();
    fs::write(&anchor, &text).unwrap();
    log.append(1).await;
    let published = log.tlog.publish(4).await;
    (log, published, fs::read_to_string(&anchor).unwrap() == text)
}

#[tokio::test]
async fn a_fork_that_is_shorter_is_noticed_and_not_written_over() {
    let dir = TempDir::new().unwrap();
    let (log, published, stays) = beside_a_shorter_fork(&dir).await;
    let refused = published.unwrap_err().to_string();
    assert!(refused.contains("over 2 records was published elsewhere, root"), "{refused}");
    assert!(log.damage().is_some() && stays, "the evidence stays");
    let config = config(&dir);
    assert_eq!(checkpoint_of(&config.checkpoint()).size, 3, "nothing was signed");
    drop(log);
    let anchored = Config { anchor: Some(dir.path().join("elsewhere")), ..config };
    let damage = Log::open(&anchored).unwrap().damage().expect("noticed at the start as well");
    assert!(damage.why.contains("not those that were published"), "{damage}");
}

#[tokio::test]
async fn a_copy_that_lags_behind_is_caught_up_with() {
    let dir = TempDir::new().unwrap();
    let anchor = dir.path().join("elsewhere");
    let mut log = Log::open(&config(&dir)).unwrap();
    log.append(3).await;
    fs::write(&anchor, log.published().await.note.to_string()).unwrap();
    log.append(300).await;
    log.published().await;
    drop(log);
    let mut log = Log::open(&Config { anchor: Some(anchor.clone()), ..config(&dir) }).unwrap();
    log.append(1).await;
    log.published().await;
    assert_eq!((log.damage(), checkpoint_of(&anchor).size), (None, 304));
}

#[tokio::test]
async fn segments_cut_behind_a_checkpoint_and_history_written_anew_are_damage() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let mut log = Log::open(&config).unwrap();
    log.append(40).await;
    log.published().await;
    drop(log);

    // History is written anew, chain and all, with one word changed in record 17.
    let other = TempDir::new().unwrap();
    let mut forged = Log::open(&Config::on_demand(other.path())).unwrap();
    forged.append(16).await;
    let (seq, prev) = (forged.chain.next_seq(), forged.chain.head());
    let line = format!(r#"{{"event_name":"ROLLED_BACK","seq":{seq},"prev":"{prev}"}}"#);
    forged.chain.check(line.as_bytes()).unwrap();
    forged.journal.append(seq, vec![line.into()]).await.unwrap();
    forged.append(23).await;
    drop(forged);
    for name in ["wal", "meta.json"] {
        let (from, to) = (other.path().join("proof").join(name), config.dir.join(name));
        if from.is_dir() {
            fs::remove_dir_all(&to).unwrap();
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
    assert!(verify_dir(&config.dir).is_ok(), "the chain alone does not show it");
    let log = Log::open(&config).unwrap();
    assert_eq!(log.damage().expect("noticed").seq, 17, "named by the hashes that are kept");
    drop(log);
    fs::remove_dir_all(config.dir.join("hash")).unwrap();
    let log = Log::open(&config).unwrap();
    let damage = log.damage().expect("noticed without them too");
    assert!(damage.why.contains("not those that were published"), "{damage}");
}

#[test]
fn a_key_that_is_lost_readable_by_others_or_not_ours_stops_the_start() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let log = Log::open(&config).unwrap();
    drop(log);
    let mode = fs::metadata(&config.key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::set_permissions(&config.key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Log::open(&config), Err(Error::Permissions { mode: 0o640, .. })));
    fs::set_permissions(&config.key, fs::Permissions::from_mode(0o600)).unwrap();
    let secret = fs::read(&config.key).unwrap();
    fs::remove_file(&config.key).unwrap();
    assert!(matches!(Log::open(&config), Err(Error::KeyLost { .. })));
    assert!(!config.key.exists(), "no second key is made");
    key::generate(&config.key, "agentctl.dev/stage/another").unwrap();
    assert!(matches!(Log::open(&config), Err(Error::Checkpoint { .. })));
    fs::write(&config.key, "PRIVATE+KEY+x").unwrap();
    assert!(matches!(Log::open(&config), Err(Error::Key { .. })));
    fs::write(&config.key, secret).unwrap();
    assert!(Log::open(&config).is_ok());
    fs::write(config.checkpoint(), "hello\n").unwrap();
    assert!(matches!(Log::open(&config), Err(Error::Checkpoint { .. })));
}

#[tokio::test]
async fn a_second_path_that_is_not_mounted_is_said_and_made_up_for_later() {
    let (dir, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mount = elsewhere.path().join("disk");
    let config = Config { anchor: Some(mount.join("stage")), ..config(&dir) };
    let mut log = Log::open(&config).unwrap();
    log.append(3).await;
    let refused = log.tlog.publish(3).await.unwrap_err();
    assert!(refused.to_string().contains("the copy of the checkpoint"), "{refused}");
    assert_eq!(log.damage(), None, "the agent goes on");
    assert!(!config.checkpoint().exists(), "nothing is promised that the copy does not know");
    // What is written and synced is not written again for that, however often it is tried.
    let file = fs::canonicalize(config.dir.join("proof.jsonl")).unwrap();
    let lines = fs::read(&file).unwrap();
    fs::write(&file, "as it is").unwrap();
    log.tlog.publish(3).await.unwrap_err();
    assert_eq!(fs::read_to_string(&file).unwrap(), "as it is");
    assert_eq!(log.tlog.progress().borrow().integrated, 3);
    fs::write(&file, lines).unwrap();
    fs::create_dir(&mount).unwrap();
    assert_eq!(log.published().await.checkpoint.size, 3);
    assert_eq!(checkpoint_of(&mount.join("stage")).size, 3);
}

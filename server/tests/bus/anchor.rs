//! The copy of the last checkpoint in Redis: an older copy of the log is noticed by it, and a Redis that is away, hung or full of
//! something else stops nothing.

use std::fs;
use std::path::Path;

use agentd::bus::Address;
use agentd::journal::{self, Journal, Status};
use agentd::tlog::{self, Tlog};
use agentd_core::app::Env;
use agentd_core::chain::LineVerifier;
use agentd_core::record::{Body, Record};
use agentd_core::tlog::{Checkpoint, Note, SignerKey, VerifierKey};
use rustix::process::Signal;
use tempfile::TempDir;

use super::world::{PATIENCE, Redis, logged};

struct Log {
    journal: Journal,
    tlog: Tlog,
    chain: LineVerifier,
}

impl Log {
    fn open(dir: &Path, url: &str) -> Self {
        logged();
        let config = tlog::Config { redis: Address::parse(url), ..tlog::Config::new(dir, "stage") };
        assert!(config.redis.is_some(), "an address");
        let segments = journal::Config::new(config.dir.clone());
        let (opened, tlog) = tlog::open(config, segments, &mut |_, _| {}).unwrap();
        let chain = LineVerifier::resume(opened.head.next_seq, opened.head.hash);
        Self { journal: opened.journal, tlog, chain }
    }

    async fn append(&mut self, count: u64) {
        for _ in 0..count {
            let (seq, prev) = (self.chain.next_seq(), self.chain.head());
            let line = format!(r#"{{"event_name":"HEARTBEAT","seq":{seq},"prev":"{prev}"}}"#);
            self.chain.check(line.as_bytes()).unwrap();
            self.journal.append(seq, vec![line.into()]).await.unwrap();
        }
    }

    /// A record as the server writes it.
    async fn append_record(&mut self) {
        let (seq, env, actor) = (self.chain.next_seq(), Env::Stage, "agent-0badcafe".to_owned());
        let body = Body::StormEnded;
        let record = Record { seq, at: seq, env, app: None, cause: None, actor, trace: None, body };
        let line = record.line(self.chain.head());
        self.chain.check(line.as_bytes()).unwrap();
        self.journal.append(seq, vec![line.into()]).await.unwrap();
    }

    /// A checkpoint over everything; its size.
    async fn publish(&self) -> u64 {
        self.tlog.publish(self.chain.next_seq() - 1).await.unwrap().checkpoint.size
    }

    fn damage(&self) -> Option<journal::Damage> {
        match self.journal.status() {
            Status::Damaged(damage) => Some(damage),
            _ => None,
        }
    }

    fn key(&self) -> String {
        format!("agentd:stage:checkpoint:{}", self.tlog.key().name())
    }
}

fn text(redis: &Redis, key: &str) -> Option<String> {
    redis::cmd("GET").arg(key).query(&mut redis.client()).unwrap()
}

fn size(redis: &Redis, key: &str) -> Option<u64> {
    let note = Note::parse(text(redis, key)?.as_bytes()).ok()?;
    Some(Checkpoint::parse(note.text()).ok()?.size)
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

#[tokio::test(flavor = "multi_thread")]
async fn an_old_backup_is_noticed_by_the_copy_in_redis_and_accepted_as_the_page_says() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (dir, url) = (TempDir::new().unwrap(), redis.url());
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let mut log = Log::open(&data, &url);
    log.append(10).await;
    assert_eq!(log.publish().await, 10);
    let key = log.key();
    assert_eq!(size(&redis, &key), Some(10));
    drop(log);
    let backup = dir.path().join("backup");
    copy(&data, &backup);
    let mut log = Log::open(&data, &url);
    log.append(10).await;
    log.publish().await;
    drop(log);
    assert_eq!(size(&redis, &key), Some(20));
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);

    let log = Log::open(&data, &url);
    let damage = log.damage().expect("noticed");
    assert_eq!(damage.seq, 11, "{damage}");
    assert!(damage.why.contains("older copy") && damage.segment.contains(&key), "{damage}");
    let refused = log.journal.append(11, vec!["{}".into()]).await.unwrap_err();
    assert!(matches!(refused, journal::Error::Damaged(_)), "{refused}");
    assert_eq!(log.journal.reader().read(10, 1, 1).unwrap().len(), 1, "it is still read");
    drop(log);
    assert_eq!(size(&redis, &key), Some(20), "the promise stands");

    // What the page of LOG_DAMAGED says: a new identity, and the copies of the old one put away.
    for name in ["proof.key", "proof/checkpoint"] {
        fs::rename(data.join(name), dir.path().join(name.replace('/', "-"))).unwrap();
    }
    redis.run(&["DEL", &key]);
    let mut log = Log::open(&data, &url);
    assert_eq!(log.damage(), None);
    log.append(1).await;
    assert_eq!(log.publish().await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_went_further_meanwhile_stops_the_log_before_it_forks() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (dir, url) = (TempDir::new().unwrap(), redis.url());
    let mut log = Log::open(dir.path(), &url);
    log.append(3).await;
    log.publish().await;
    let secret = fs::read_to_string(dir.path().join("proof.key")).unwrap();
    let signer = SignerKey::parse(secret.trim()).unwrap();
    let further = Checkpoint { size: 9, ..log.tlog.published().unwrap().checkpoint.clone() };
    redis.run(&["SET", &log.key(), &further.sign(&signer).unwrap().to_string()]);
    log.append(1).await;
    let refused = log.tlog.publish(4).await.unwrap_err().to_string();
    assert!(refused.contains("published elsewhere"), "{refused}");
    assert_eq!(log.damage().unwrap().seq, 5);
    assert_eq!(size(&redis, &log.key()), Some(9));
}

/// Whoever forks from the log may be the one that is behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_that_is_shorter_is_noticed_and_not_written_over() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (dir, url) = (TempDir::new().unwrap(), redis.url());
    let mut log = Log::open(dir.path(), &url);
    log.append(3).await;
    log.publish().await;
    let secret = fs::read_to_string(dir.path().join("proof.key")).unwrap();
    let signer = SignerKey::parse(secret.trim()).unwrap();
    let fork = Checkpoint { size: 2, ..log.tlog.published().unwrap().checkpoint.clone() };
    let fork = fork.sign(&signer).unwrap().to_string();
    redis.run(&["SET", &log.key(), &fork]);
    log.append(1).await;
    let refused = log.tlog.publish(4).await.unwrap_err().to_string();
    assert!(refused.contains("over 2 records was published elsewhere, root"), "{refused}");
    assert!(log.damage().is_some());
    assert_eq!(text(&redis, &log.key()).as_deref(), Some(fork.as_str()), "the evidence stays");
}

/// Gives the stopped log another key, twice, and nobody says that there is a copy in Redis.
async fn another_key(data: &Path) -> VerifierKey {
    let config = tlog::Config::new(data, "stage");
    tlog::rotate::rotate(config.clone(), 1).await.unwrap();
    tlog::rotate::retire(config.clone()).await.unwrap();
    let done = tlog::rotate::rotate(config.clone(), 2).await.unwrap();
    tlog::rotate::retire(config).await.unwrap();
    done.to
}

fn is_signed(redis: &Redis, key: &str, by: &VerifierKey) -> bool {
    let note = text(redis, key).and_then(|text| Note::parse(text.as_bytes()).ok());
    note.is_some_and(|note| note.verify(by).is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_kept_through_exchanges_of_keys_that_did_not_reach_it() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let (dir, url) = (TempDir::new().unwrap(), redis.url());
    let mut log = Log::open(dir.path(), &url);
    log.append_record().await;
    log.publish().await;
    let (key, first) = (log.key(), log.tlog.key().clone());
    drop(log);
    let second = another_key(dir.path()).await;
    assert!(is_signed(&redis, &key, &first), "it was not told");

    let mut log = Log::open(dir.path(), &url);
    assert_eq!(log.damage(), None);
    log.append_record().await;
    assert_eq!(log.publish().await, 4);
    assert!(is_signed(&redis, &key, &second) && !is_signed(&redis, &key, &first), "signed anew");
    drop(log);

    // And where Redis was away at the start as well: it is taken up once it is back.
    let stale = text(&redis, &key).unwrap();
    let third = another_key(dir.path()).await;
    redis.kill();
    let mut log = Log::open(dir.path(), &url);
    log.append_record().await;
    log.publish().await;
    redis.restart();
    redis.run(&["SET", &key, &stale]);
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_signed(&redis, &key, &third) {
        assert!(std::time::Instant::now() < deadline, "the copy is kept again");
        log.append_record().await;
        log.publish().await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(log.damage(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_or_hangs_stops_nothing_and_is_made_up_for() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let (dir, url) = (TempDir::new().unwrap(), redis.url());
    let mut log = Log::open(dir.path(), &url);
    log.append(1).await;
    assert_eq!(log.publish().await, 1);
    let key = log.key();
    redis.signal(Signal::STOP);
    log.append(1).await;
    assert_eq!(log.publish().await, 2, "published without it");
    drop(log);
    let mut log = Log::open(dir.path(), &url);
    assert_eq!(log.damage(), None, "and started without it");
    redis.kill();
    log.append(1).await;
    assert_eq!(log.publish().await, 3);
    redis.restart();
    let deadline = std::time::Instant::now() + PATIENCE;
    while size(&redis, &key).is_none_or(|size| size < 3) {
        assert!(std::time::Instant::now() < deadline, "the copy is kept again");
        log.append(1).await;
        log.publish().await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_checkpoint_of_this_log_is_left_where_it_is_and_stops_nothing() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (dir, url) = (TempDir::new().unwrap(), redis.url());
    let mut log = Log::open(dir.path(), &url);
    log.append(2).await;
    log.publish().await;
    let key = log.key();
    let stranger = SignerKey::from_seed(log.tlog.key().name(), &[7; 32]).unwrap();
    let own = log.tlog.published().unwrap().checkpoint.clone();
    let forged = Checkpoint { size: 99, ..own }.sign(&stranger).unwrap().to_string();
    let long = "x".repeat(1 << 20);
    for found in ["", "hello", forged.as_str(), long.as_str(), "\u{1b}[2J"] {
        redis.run(&["SET", &key, found]);
        log.append(1).await;
        log.publish().await;
        assert_eq!(log.damage(), None, "only what the log's own key signed stops it");
        assert_eq!(text(&redis, &key).as_deref(), Some(found), "left alone");
        drop(log);
        log = Log::open(dir.path(), &url);
        assert_eq!(log.damage(), None);
    }
    redis.run(&["DEL", &key]);
    redis.run(&["LPUSH", &key, "of another type"]);
    log.append(1).await;
    log.publish().await;
    assert_eq!(log.damage(), None);
    assert!(logged().contains("is left alone"), "but it is said");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_may_do_no_more_than_that_suffices_and_its_password_is_not_shown() {
    const SECRET: &str = "canary-anchor-4801";
    let Some(redis) = Redis::start(&[]) else { return };
    let rules = format!(
        "ACL SETUSER copy on >{SECRET} ~agentd:stage:checkpoint:* +watch +get +multi +set +exec"
    );
    redis.run(&rules.split(' ').collect::<Vec<_>>());
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(dir.path(), &format!("{}?user=copy&pass={SECRET}", redis.url()));
    log.append(2).await;
    log.publish().await;
    assert_eq!(size(&redis, &log.key()), Some(2));
    drop(log);
    let wrong = format!("{}?user=copy&pass=wrong-{SECRET}", redis.url());
    let mut log = Log::open(dir.path(), &wrong);
    log.append(1).await;
    assert_eq!(log.publish().await, 3);
    assert!(!logged().contains(SECRET));
}

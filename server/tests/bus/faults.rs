//! Redis dies, hangs, forgets, refuses: everything is counted and reported, nothing waits, and publishing goes on afterwards.

use agentd::publish::RING;
use rustix::process::Signal;

use super::world::{Redis, STREAM, World, logged};

/// The numbers of a stream that may hold a batch twice, because the answer to the first was lost: without the repetitions.
fn once(seqs: &[u64]) -> Vec<u64> {
    let mut once: Vec<u64> = Vec::new();
    for seq in seqs {
        if !once.contains(seq) {
            assert!(once.last().is_none_or(|last| last < seq), "{seq} out of order");
            once.push(*seq);
        }
    }
    once
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_delays_nothing_and_gets_the_rest_when_it_is_back() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let mut world = World::new(&redis.url(), 0);
    world.publish(500);
    let before = world.caught_up().await;
    assert_eq!(redis.seqs().len(), 500);

    redis.kill();
    // Nobody is asked to wait: the records are published although nothing takes them.
    world.publish(700);
    assert_eq!(*world.publisher.head().borrow(), 1_200);
    let down = world.until("the loss to be reported", |stats| !stats.connected).await;
    assert_eq!((down.published, down.dropped, down.lag), (before.published, 0, 700));
    assert!(down.last_error.as_deref().is_some_and(|e| e.starts_with("no connection")), "{down:?}");
    world.until("more than one try", |stats| stats.failures > 2).await;

    redis.restart();
    world.publish(100);
    let back = world.caught_up().await;
    assert_eq!((back.published, back.dropped), (1_300, 0));
    assert_eq!(
        redis.seqs(),
        (501..=1_300).collect::<Vec<_>>(),
        "what it had forgot, the rest is here"
    );
    assert!(back.last_error.is_some(), "it was so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_for_longer_than_the_ring_is_told_what_it_missed() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let mut world = World::new(&redis.url(), 0);
    world.publish(10);
    world.caught_up().await;
    redis.kill();
    for _ in 0..3 {
        world.publish(RING as u64);
    }
    let down = world.until("the gap to be counted", |stats| stats.dropped > 0).await;
    assert!(!down.connected);

    redis.restart();
    let stats = world.caught_up().await;
    let entries = redis.entries();
    let (gap, rest) = entries.split_first().unwrap();
    assert_eq!((gap["event"].as_str(), gap["from"].as_str(), gap.len()), ("gap", "11", 3));
    let to: u64 = gap["to"].parse().unwrap();
    assert_eq!(stats.dropped, to - 10);
    let seqs: Vec<u64> = rest.iter().map(|entry| entry["seq"].parse().unwrap()).collect();
    assert_eq!(seqs, (to + 1..=world.head()).collect::<Vec<_>>());
    assert_eq!(stats.published + stats.dropped, world.head());
}

#[tokio::test(flavor = "multi_thread")]
async fn flushing_redis_loses_what_was_there_and_nothing_else() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut world = World::new(&redis.url(), 0);
    world.publish(50);
    world.caught_up().await;
    redis.run(&["FLUSHALL"]);
    world.publish(50);
    let stats = world.caught_up().await;
    assert_eq!(redis.seqs(), (51..=100).collect::<Vec<_>>());
    assert_eq!((stats.published, stats.failures), (100, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_is_reported_and_its_order_survives() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut world = World::new(&redis.url(), 0);
    world.publish(20);
    world.caught_up().await;
    redis.signal(Signal::STOP);
    world.publish(300);
    let hung = world.until("the silence to be reported", |stats| !stats.connected).await;
    assert!(hung.last_error.as_deref().is_some_and(|e| e.starts_with("no answer")), "{hung:?}");
    assert_eq!(*world.publisher.head().borrow(), 320, "nothing waited");
    redis.signal(Signal::CONT);
    world.publish(5);
    world.caught_up().await;
    assert_eq!(once(&redis.seqs()), (1..=325).collect::<Vec<_>>());
}

/// Breaks a running Redis with one command, looks at what is said, mends it with another.
async fn refuses(break_it: &[&str], said: &str, mend_it: &[&str]) {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut world = World::new(&redis.url(), 0);
    world.publish(5);
    world.caught_up().await;
    redis.run(break_it);
    world.publish(600);
    let stats = world.until("the refusal", |stats| stats.failures > 1).await;
    assert!(!stats.connected);
    assert_eq!((stats.published, stats.dropped, stats.lag), (5, 0, 600));
    let error = stats.last_error.unwrap();
    assert!(error.starts_with(said), "{error}");
    assert!(error.len() < 250, "{error}");
    redis.run(mend_it);
    let stats = world.caught_up().await;
    assert_eq!((stats.published, stats.dropped), (605, 0));
    let seqs = redis.seqs();
    assert_eq!(seqs[seqs.len() - 600..], (6..=605).collect::<Vec<_>>(), "all, once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_says_read_only() {
    refuses(&["REPLICAOF", "127.0.0.1", "1"], "read-only: READONLY", &["REPLICAOF", "NO", "ONE"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_says_full() {
    refuses(
        &["CONFIG", "SET", "maxmemory", "1"],
        "full: OOM",
        &["CONFIG", "SET", "maxmemory", "0"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_kind_is_not_overwritten() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.run(&["SET", STREAM, "mine"]);
    let mut world = World::new(&redis.url(), 0);
    world.publish(5);
    let stats = world.until("the refusal", |stats| stats.failures > 1).await;
    assert!(stats.last_error.is_some_and(|error| error.starts_with("not taken: WRONGTYPE")));
    redis.run(&["DEL", STREAM]);
    world.caught_up().await;
    assert_eq!(redis.seqs(), [1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_may_not_write_says_access() {
    refuses(
        &["ACL", "SETUSER", "default", "-xadd"],
        "access refused: NOPERM",
        &["ACL", "SETUSER", "default", "+xadd"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_transactions_nothing_is_sent_in_halves() {
    refuses(
        &["ACL", "SETUSER", "default", "-multi"],
        "access refused: NOPERM",
        &["ACL", "SETUSER", "default", "+multi"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_logged_once_and_a_repetition_is_not() {
    let Some(mut redis) = Redis::prepare(&[]) else { return };
    let url = redis.url();
    let mut world = World::new(&url, 0);
    world.publish(1);
    world.until("several tries", |stats| stats.failures > 3).await;
    let lines = || -> Vec<String> {
        logged().lines().filter(|line| line.contains(&url)).map(str::to_owned).collect()
    };
    let away = lines();
    assert!(away.len() == 1 && away[0].contains("WARN"), "{away:#?}");
    assert!(away[0].contains("no connection"), "{away:#?}");

    redis.restart();
    world.caught_up().await;
    redis.run(&["CONFIG", "SET", "maxmemory", "1"]);
    world.publish(1);
    let failures = world.stats().failures;
    world.until("several refusals", |stats| stats.failures > failures + 2).await;
    redis.run(&["CONFIG", "SET", "maxmemory", "0"]);
    world.caught_up().await;
    let all = lines();
    let levels: Vec<_> =
        all.iter().map(|line| if line.contains("WARN") { "warn" } else { "info" }).collect();
    assert_eq!(levels, ["warn", "info", "warn", "info"], "{all:#?}");
    assert!(all[2].contains("full: OOM"), "{all:#?}");
}

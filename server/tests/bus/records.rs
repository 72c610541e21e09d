//! What arrives.

use super::world::{Redis, STREAM, World};

#[tokio::test(flavor = "multi_thread")]
async fn records_arrive_complete_in_order_and_as_they_are_in_the_log() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut world = World::new(&redis.url(), 41);
    let mut sent = Vec::new();
    for _ in 0..10 {
        sent.extend(world.publish(1_000));
        world.until("room in the ring", |stats| stats.lag < 1_000).await;
    }
    let stats = world.caught_up().await;
    assert_eq!((stats.backend, stats.published, stats.dropped), ("redis", 10_000, 0));
    assert_eq!((stats.failures, stats.last_error), (0, None));
    assert_eq!(stats.last_published, Some(1_000));

    let entries = redis.entries();
    assert_eq!(entries.len(), sent.len());
    for (entry, published) in entries.iter().zip(&sent) {
        let record = &published.record;
        assert_eq!(entry["seq"], record.seq.to_string());
        assert_eq!(entry["event"], "HEARTBEAT");
        assert_eq!(entry["app"], record.app.as_ref().map_or("", |app| app.as_str()));
        assert_eq!(entry["line"].as_bytes(), &*published.line);
        assert_eq!(entry.len(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_records_are_there_when_the_server_has_stopped() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut world = World::new(&redis.url(), 0);
    world.caught_up().await;
    world.publish(300);
    world.stop().await;
    assert_eq!(redis.seqs(), (1..=300).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_a_bounded_number_of_records() {
    let Some(redis) = Redis::start(&[]) else { return };
    let fill = "for i = 1, 120000 do redis.call('XADD', KEYS[1], '*', 'seq', '0') end";
    redis.run(&["EVAL", fill, "1", STREAM]);
    let mut world = World::new(&redis.url(), 0);
    world.publish(10);
    world.caught_up().await;
    let redis::Value::Int(kept) = redis.run(&["XLEN", STREAM]) else { panic!("a number") };
    // Redis trims whole nodes, of 100 entries unless configured otherwise.
    assert!((100_000..100_300).contains(&kept), "{kept}");
    assert_eq!(redis.seqs()[usize::try_from(kept).unwrap() - 10..], (1..=10).collect::<Vec<_>>());
}

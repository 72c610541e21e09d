//! What a monitor costs that goes on saying what it said: nothing that has to be asked of the allocator.

use super::*;

/// Batches of a hundred signals about ten apps, each batch a moment later than the one before.
fn batches(server: &Server, count: u64) -> Vec<Bytes> {
    let start = server.services.clock.now_ms();
    let one = |seq: u64| {
        let signals = (0..100_u64).map(|n| v1::Signal {
            app: format!("web-{}", n % 10),
            instance: (n / 10).to_string(),
            time: time(start + seq),
            memory_utilization: Some(0.5),
            latency_p50_seconds: Some(0.01),
            latency_p99_seconds: Some(0.08),
            error_ratio: Some(0.001),
            request_rate: Some(120.0),
            restart_count: Some(2),
            conditions: BTreeMap::from([("cpu_high".to_owned(), seq.is_multiple_of(2))]),
            ttl: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
            ..good(server, "web")
        });
        batch(seq, signals.collect()).unwrap()
    };
    (1..=count).map(one).collect()
}

#[tokio::test]
async fn a_signal_that_names_nothing_new_allocates_nothing() {
    let server = Server::start(Env::Dev);
    for n in 0..10 {
        server.onboard(&format!("web-{n}")).await;
    }
    let greeting = Greeting { monitor_id: "edge-1".to_owned(), epoch: 7, default_ttl_ms: None };
    let seat = server.services.intake.take_seat("ci", 0).unwrap();
    let mut session = Session::new(&server.services, &seat, monitor(), &greeting);
    let batches = batches(&server, 20);
    let (first, rest) = batches.split_at(3);
    let mut turn = |batch: &Bytes| {
        session.begin();
        session.take(batch).unwrap();
        session.settle();
    };
    first.iter().for_each(&mut turn);
    let counted = allocation_counter::measure(|| rest.iter().for_each(&mut turn));
    assert_eq!((session.summary.accepted, session.summary.rejected), (2_000, 0));
    assert_eq!(counted.count_total, 0, "of 1,700 signals: {counted:?}");
    // What counts would count: the same batch through the generated code.
    let counted = allocation_counter::measure(|| {
        v1::PushSignalsRequest::decode(&*batches[0]).unwrap();
    });
    assert!(counted.count_total > 100, "{counted:?}");
}

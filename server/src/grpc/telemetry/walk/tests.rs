//! What is read where it lies is what generated code reads, for every message either of them can be given.

use std::collections::BTreeMap;

use agentctl_api::v1;
use agentctl_api::v1::push_signals_request::Message as Wire;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::grpc::from_proto;

const NOW: Millis = 1_700_000_000_000;

fn encoded(signals: Vec<v1::Signal>) -> Vec<u8> {
    let batch = v1::SignalBatch { seq: 7, sent_time: None, signals };
    v1::PushSignalsRequest { message: Some(Wire::Batch(batch)) }.encode_to_vec()
}

/// The batch as generated code reads it; `None` for everything else.
fn generated(bytes: &[u8]) -> Option<v1::SignalBatch> {
    match v1::PushSignalsRequest::decode(bytes).ok()?.message? {
        Wire::Batch(batch) => Some(batch),
        Wire::Hello(_) | Wire::Bye(_) => None,
    }
}

/// Fails where both read something else.
#[track_caller]
fn compare(bytes: &[u8]) -> bool {
    let mut drafts = Drafts::default();
    let Some(walked) = batch(bytes, None, &mut drafts) else { return false };
    let batch = generated(bytes).expect("what is taken can be decoded");
    assert_eq!((walked.seq, walked.count), (batch.seq, batch.signals.len()));
    for ((draft, conditions), wire) in drafts.iter().zip(batch.signals) {
        let spoken = &draft.spoken;
        assert_eq!(v1::Signal::decode(draft.bytes).as_ref(), Ok(&wire));
        assert_eq!(draft.app, wire.app);
        if !draft.is_plain {
            continue;
        }
        assert_eq!(wire.exit, None);
        let claim = from_proto::signal(wire, NOW);
        assert_eq!(claim.rejections, []);
        let values: BTreeMap<_, _> =
            spoken.values.iter().map(|(metric, value)| (metric, value.to_bits())).collect();
        let named: BTreeMap<_, _> =
            conditions.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let signal = claim.signal;
        let bits: BTreeMap<_, _> = signal.metrics.iter().map(|(m, v)| (*m, v.to_bits())).collect();
        assert_eq!((values, named), (bits, signal.conditions));
        assert_eq!((spoken.instance, spoken.ttl_ms), (signal.instance, claim.ttl_ms));
        assert_eq!(spoken.observed_ms, signal.observed_ms);
    }
    true
}

fn any_time() -> impl Strategy<Value = Option<(i64, i32)>> {
    prop_oneof![
        4 => Just(Some((1_700_000_000, 5_000_000))),
        1 => Just(None),
        2 => prop::option::of((any::<i64>(), any::<i32>())),
        1 => Just(Some((0, 0))),
        1 => Just(Some((2, 500_000_000))),
    ]
}

fn any_signal() -> impl Strategy<Value = v1::Signal> {
    let values = prop::array::uniform6(prop::option::of(any::<f64>()));
    let app = prop_oneof![Just("web".to_owned()), any::<String>()];
    let instance = prop_oneof![Just(String::new()), Just("7".to_owned()), "[0-9+]{0,3}x?"];
    let conditions = prop::collection::btree_map("[a-z]{1,2}", any::<bool>(), 0..18);
    (app, instance, any_time(), any_time(), any_time(), values, any::<Option<u64>>(), conditions)
        .prop_map(|(app, instance, time, window, ttl, values, restart_count, conditions)| {
            let [cpu, memory, p50, p99, errors, requests] = values;
            let span = |(seconds, nanos)| prost_types::Duration { seconds, nanos };
            v1::Signal {
                app,
                instance,
                time: time.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }),
                cpu_utilization: cpu,
                memory_utilization: memory,
                latency_p50_seconds: p50,
                latency_p99_seconds: p99,
                error_ratio: errors,
                request_rate: requests,
                restart_count,
                window: window.map(span),
                exit: None,
                conditions,
                ttl: ttl.map(span),
            }
        })
}

proptest! {
    #[test]
    fn every_batch_without_exits_is_taken_and_read_as_generated_code_reads_it(
        signals in prop::collection::vec(any_signal(), 0..4),
    ) {
        prop_assert!(compare(&encoded(signals)));
    }

    #[test]
    fn a_message_that_was_damaged_is_read_alike_or_left_to_generated_code(
        signals in prop::collection::vec(any_signal(), 1..3),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = encoded(signals);
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] = with;
        }
        compare(&bytes);
    }

    #[test]
    fn bytes_that_mean_nothing_are_read_alike_or_left_to_generated_code(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        compare(&bytes);
    }
}

/// A field around something.
fn field(number: u64, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(number << 3 | 2).unwrap()];
    prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
    bytes.extend(inner);
    bytes
}

#[test]
fn what_is_out_of_the_ordinary_is_left_to_generated_code() {
    let signal = v1::Signal { app: "web".to_owned(), ..v1::Signal::default() }.encode_to_vec();
    let with = |more: &[u8]| field(2, &field(3, &[&signal[..], more].concat()));
    let deep = (0..200).fold(Vec::new(), |inner, _| [&[0x7b][..], &inner, &[0x7c]].concat());
    for (what, bytes) in [
        ("a field nobody knows", with(&[0x7a, 1, 0])),
        ("a group", with(&[0x7b, 0x7c])),
        ("groups in groups", with(&deep)),
        ("a field that comes twice", with(&field(1, b"db"))),
        ("a field in another form", with(&[0x08, 1])),
        ("an exit", with(&field(12, &[8, 1]))),
        ("a hello", field(1, &[])),
        ("two batches", [field(2, &[]), field(2, &[])].concat()),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(batch(&bytes, None, &mut Drafts::default()), None, "{what}");
    }
    assert!(compare(&with(&[])));
}

#[test]
fn what_monitors_say_is_plain() {
    let signal = v1::Signal {
        app: "web".to_owned(),
        instance: "3".to_owned(),
        time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
        cpu_utilization: Some(0.25),
        restart_count: Some(0),
        window: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        conditions: BTreeMap::from([("cpu_high".to_owned(), false)]),
        ttl: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        ..v1::Signal::default()
    };
    let (bytes, mut drafts) = (encoded(vec![signal]), Drafts::default());
    assert!(compare(&bytes) && batch(&bytes, None, &mut drafts).is_some());
    assert!(drafts.iter().all(|(draft, _)| draft.is_plain));
}

#[test]
fn signals_beyond_the_limit_are_counted_and_not_kept() {
    let signals = [0x1a, 0x00].repeat(400_000);
    let (message, mut drafts) = (field(2, &signals), Drafts::default());
    assert_eq!(batch(&message, None, &mut drafts), Some(Walked { seq: 0, count: 400_000 }));
    assert_eq!(drafts.iter().count(), BATCH_MAX);
}

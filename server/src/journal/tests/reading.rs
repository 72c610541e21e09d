//! Reading while the log is written.

use super::super::index::SegmentMap;
use super::*;

#[tokio::test]
async fn a_reader_obeys_its_limits_and_finds_every_record() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    let reader = log.journal.reader();
    assert_eq!(reader.read(1, 10, 1000).unwrap(), []);
    assert_eq!(reader.read_back(u64::MAX, 10, 1000).unwrap(), []);
    assert_eq!((reader.oldest_seq(), reader.durable_seq()), (1, 0));
    log.append_each(200).await;
    let all = log.all();
    for from in 1..=200u64 {
        let found = reader.read(from, 3, usize::MAX).unwrap();
        assert_eq!(found.len() as u64, 3.min(201 - from));
        for (entry, seq) in found.iter().zip(from..) {
            assert_eq!((entry.seq, &entry.line), (seq, &all[seq as usize - 1]));
        }
    }
    assert_eq!(reader.read(0, 1, 1).unwrap()[0].seq, 1);
    assert_eq!(reader.read(5, 10, 1).unwrap().len(), 1, "at least one, however small the limit");
    let two = all[4].len() + 1;
    assert_eq!(reader.read(5, 10, two).unwrap().len(), 2, "the one that reaches the limit is in");
    assert_eq!(reader.read(201, 10, 1000).unwrap(), []);
    assert_eq!(reader.read(5, 0, 1000).unwrap(), []);
}

#[tokio::test]
async fn newest_first_crosses_segments_and_stops_at_its_limits() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    log.append_each(200).await;
    let reader = log.journal.reader();
    let seqs = |found: Vec<Entry>| found.into_iter().map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(seqs(reader.read_back(u64::MAX, 3, usize::MAX).unwrap()), [200, 199, 198]);
    assert_eq!(seqs(reader.read_back(3, 10, usize::MAX).unwrap()), [2, 1]);
    let all = seqs(reader.read_back(201, 1000, usize::MAX).unwrap());
    assert_eq!(all, (1..=200).rev().collect::<Vec<u64>>());
    assert_eq!(seqs(reader.read_back(100, 50, 1).unwrap()), [99]);
    assert!(reader.read_back(1, 50, 1).unwrap().is_empty());
}

#[tokio::test]
async fn long_lines_cross_the_chunks_of_a_reader() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(Config::new(dir.path().to_owned())).unwrap();
    let texts: Vec<String> = (0..40).map(|i| "x".repeat(1 + i * 1600)).collect();
    log.append(&texts).await.unwrap();
    assert_eq!(log.all().len(), 40);
    let back = log.journal.reader().read_back(41, 40, usize::MAX).unwrap();
    assert_eq!(back.len(), 40);
}

#[test]
fn a_reader_beside_the_writer_sees_durable_records_only_and_in_order() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    let (reader, durable) = (log.journal.reader(), log.journal.durable());
    let writer = std::thread::Builder::new()
        .spawn(move || {
            block_on(async {
                for i in 0..300 {
                    let texts = vec![format!("group {i}"); 1 + i % 5];
                    log.append(&texts).await.unwrap();
                }
                log.chain.next_seq() - 1
            })
        })
        .unwrap();
    let mut chain = LineVerifier::new();
    let mut idle = 0;
    while !writer.is_finished() || chain.next_seq() <= reader.durable_seq() {
        let found = reader.read(chain.next_seq(), 50, 1 << 20).unwrap();
        // Read after the records: whatever was returned must not be ahead of it.
        let durable = *durable.borrow();
        for entry in &found {
            assert!(entry.seq <= durable, "{} is not durable yet", entry.seq);
            assert_eq!(entry.seq, chain.next_seq());
            chain.check(&entry.line).unwrap();
        }
        idle += u32::from(found.is_empty());
        let back = reader.read_back(u64::MAX, 5, usize::MAX).unwrap();
        assert!(back.windows(2).all(|w| w[0].seq == w[1].seq + 1));
    }
    assert_eq!(chain.next_seq() - 1, writer.join().unwrap());
    assert!(idle > 0 || chain.next_seq() > 1);
}

#[test]
fn a_look_from_outside_beside_the_writer_finds_no_damage() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(Config { segment_bytes: 64 << 10, ..small(dir.path()) }).unwrap();
    let writer = std::thread::Builder::new()
        .spawn(move || {
            block_on(async {
                for i in 0..400 {
                    log.append(&vec![format!("group {i}"); 1 + i % 5]).await.unwrap();
                }
            });
            log.chain.next_seq()
        })
        .unwrap();
    let mut last = 0;
    while !writer.is_finished() {
        let found = verify_dir(dir.path()).unwrap();
        assert!(found.entries >= last, "the log only grows");
        last = found.entries;
    }
    assert_eq!(verify_dir(dir.path()).unwrap().head.next_seq, writer.join().unwrap());
}

#[tokio::test]
async fn a_verification_that_a_prune_overtakes_calls_nothing_damaged() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    log.append_each(200).await;
    let shared = Arc::clone(&log.journal.inner.shared);
    let (read, head) = shared.segments();
    let unread = |map: &SegmentMap| SegmentMap::unread(map.first_seq, map.prev, map.next_seq);
    let (last, before) = read.split_last().unwrap();
    let after_a_start: Vec<_> = before.iter().map(unread).chain([last.clone()]).collect();
    // The files of what is pruned become those of what comes.
    assert!(log.journal.release(150).unwrap() > 2);
    log.append_each(100).await;
    let kept = shared.segments().0[0].first_seq;
    let at_the_edge: Vec<_> = [before.iter().rfind(|map| map.next_seq == kept).unwrap(), last]
        .into_iter()
        .map(unread)
        .collect();
    for overtaken in [read, after_a_start, at_the_edge] {
        let found = verify::verify_segments(&shared, &overtaken, head);
        assert!(matches!(found, Err(Error::Pruned { oldest: 150 })), "{found:?}");
        assert_eq!(log.journal.status(), Status::Writable);
    }
    let verified = log.journal.verify().unwrap();
    assert_eq!(verified.head.next_seq, 301, "what is kept is sound, to the end");
    let reader = log.journal.reader();
    assert!(matches!(reader.read(149, 1, 1), Err(Error::Pruned { oldest: 150 })));
}

//! What a crash leaves is cut; what is altered is named, and the log is only read from there on.

use std::fs;
use std::path::PathBuf;

use super::super::frame::HEADER_BYTES;
use super::super::index::segment_name;
use super::*;

/// A closed log of `records`, in groups of one and three, in one segment of 64 KiB unless `segment_bytes` says otherwise.
struct Closed {
    dir: TempDir,
    written: Vec<Bytes>,
    /// Durable end of the last segment before and after the last group.
    ends: (u64, u64),
    /// The head mark before the last group.
    mark: Vec<u8>,
    segment_bytes: u64,
}

fn config(dir: &Path, segment_bytes: u64) -> Config {
    Config { segment_bytes, ..small(dir) }
}

fn closed(records: usize, segment_bytes: u64) -> Closed {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(config(dir.path(), segment_bytes)).unwrap();
    let end = |log: &Log| log.journal.inner.shared.segments().0.last().unwrap().end;
    let (ends, mark) = block_on(async {
        while log.chain.next_seq() + 3 <= records as u64 {
            log.append_each(1).await;
            if log.chain.next_seq() + 6 <= records as u64 {
                log.append(&["a".into(), "b".into(), "c".into()]).await.unwrap();
            }
        }
        log.quiet().await;
        let mark = fs::read(dir.path().join("wal/HEAD")).unwrap();
        let before = end(&log);
        let last = records as u64 + 1 - log.chain.next_seq();
        log.append(&vec!["of the last group".to_owned(); last as usize]).await.unwrap();
        log.quiet().await;
        ((before, end(&log)), mark)
    });
    let written = log.all();
    assert_eq!(written.len(), records);
    drop(log);
    Closed { dir, written, ends, mark, segment_bytes }
}

impl Closed {
    fn wal(&self, name: &str) -> PathBuf {
        self.dir.path().join("wal").join(name)
    }

    fn segments(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path().join("wal"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.ends_with(".seg"))
            .collect();
        names.sort();
        names
    }

    fn open(&self) -> Log {
        Log::open(config(self.dir.path(), self.segment_bytes)).unwrap()
    }

    /// Opens the log, which must be damaged at `seq`: all before it is read, nothing is appended.
    fn expect_damage(&self, seq: u64, what: &str) -> Damage {
        let mut log = self.open();
        let damage = log.recovery.damage.clone().unwrap_or_else(|| panic!("{what}: not noticed"));
        assert_eq!(damage.seq, seq, "{what}: {damage}");
        assert_eq!(log.recovery.torn, None, "{what}");
        let before = &self.written[..seq as usize - 1];
        assert_eq!(log.replayed, before, "{what}");
        assert_eq!(log.all(), before, "{what}: reads go on");
        assert_eq!(log.journal.status(), Status::Damaged(damage.clone()), "{what}");
        let error = block_on(log.append(&["more".into()])).unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "{what}: {error}");
        let error = block_on(log.append_reserved("more")).unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "{what}: {error}");
        let error = block_on(log.journal.try_recover()).unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "{what}: {error}");
        let Err(Error::Damaged(offline)) = verify_dir(self.dir.path()) else {
            panic!("{what}: not noticed offline")
        };
        assert_eq!(offline, damage, "{what}");
        damage
    }
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_reported_and_nothing_else_is_lost() {
    let log = closed(12, 64 << 10);
    let path = log.wal(&segment_name(1));
    let whole = fs::read(&path).unwrap();
    let (start, end) = (log.ends.0 as usize, log.ends.1 as usize);
    assert!(end - start > 3 * 56, "the last group has three records");
    for cut in start..end {
        // The crash came before the last group was durable: neither is the mark that names it.
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        fs::write(&path, &torn).unwrap();
        fs::write(log.wal("HEAD"), &log.mark).unwrap();
        let mut opened = log.open();
        assert_eq!(opened.replayed, log.written[..9], "cut at {cut}");
        assert_eq!(opened.recovery.damage, None);
        let left = torn.iter().rposition(|b| *b != 0).unwrap() + 1;
        match &opened.recovery.torn {
            // A cut that removes nothing but zeros is none.
            None => assert!(left <= start, "cut at {cut}"),
            Some(torn) => {
                assert_eq!((torn.offset, torn.bytes_cut), (start as u64, (left - start) as u64));
                assert_eq!(torn.segment, segment_name(1));
            }
        }
        block_on(opened.append_each(1));
        drop(opened);
        let again = log.open();
        assert_eq!((again.recovery.entries, &again.recovery.torn), (10, &None), "cut at {cut}");
    }
}

#[test]
fn a_file_that_ends_within_the_last_group_is_torn_too() {
    let log = closed(12, 64 << 10);
    let path = log.wal(&segment_name(1));
    let whole = fs::read(&path).unwrap();
    for cut in (log.ends.0 + 1..log.ends.1).step_by(7) {
        fs::write(&path, &whole[..cut as usize]).unwrap();
        fs::write(log.wal("HEAD"), &log.mark).unwrap();
        let opened = log.open();
        assert_eq!(opened.recovery.entries, 9);
        assert!(opened.recovery.torn.is_some() && opened.recovery.damage.is_none());
    }
}

#[test]
fn sectors_of_the_last_group_may_reach_the_disk_in_any_order() {
    let log = closed(12, 64 << 10);
    let path = log.wal(&segment_name(1));
    let whole = fs::read(&path).unwrap();
    for hole in (log.ends.0 as usize..log.ends.1 as usize).step_by(8) {
        let mut torn = whole.clone();
        torn[hole..hole + 8].fill(0);
        if torn == whole {
            continue;
        }
        fs::write(&path, &torn).unwrap();
        fs::write(log.wal("HEAD"), &log.mark).unwrap();
        let opened = log.open();
        assert_eq!(opened.recovery.entries, 9, "hole at {hole}");
        assert!(opened.recovery.torn.is_some(), "hole at {hole}");
    }
}

#[test]
fn a_last_group_that_had_been_acknowledged_is_not_cut_but_named_as_damaged() {
    let log = closed(12, 64 << 10);
    let path = log.wal(&segment_name(1));
    let whole = fs::read(&path).unwrap();
    for cut in (log.ends.0..log.ends.1).step_by(5) {
        let mut torn = whole.clone();
        torn[cut as usize..].fill(0);
        if torn == whole {
            continue;
        }
        fs::write(&path, &torn).unwrap();
        let mut opened = log.open();
        let damage = opened.recovery.damage.clone().expect("the mark names record 12");
        assert!((10..=12).contains(&damage.seq), "{damage}");
        assert_eq!(opened.replayed, log.written[..damage.seq as usize - 1]);
        assert!(block_on(opened.append(&["more".into()])).is_err());
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_middle_is_named_by_its_record() {
    let log = closed(50, 64 << 10);
    let path = log.wal(&segment_name(1));
    let whole = fs::read(&path).unwrap();
    // Where each record lies.
    let mut at = HEADER_BYTES;
    for seq in 1..=47u64 {
        let next = at + frame::frame_bytes(log.written[seq as usize - 1].len());
        for byte in at..next {
            let mut altered = whole.clone();
            altered[byte] ^= 1 << (byte % 8);
            fs::write(&path, &altered).unwrap();
            // All stories of this test share a shape; the full check is run on a sample.
            if byte % 61 == 0 {
                log.expect_damage(seq, &format!("byte {byte}"));
            } else {
                let opened = log.open();
                let damage =
                    opened.recovery.damage.clone().unwrap_or_else(|| panic!("byte {byte}"));
                assert_eq!(damage.seq, seq, "byte {byte}: {damage}");
                assert_eq!(opened.replayed.len() as u64, seq - 1);
            }
        }
        at = next;
    }
    for byte in 0..HEADER_BYTES {
        let mut altered = whole.clone();
        altered[byte] ^= 0x10;
        fs::write(&path, &altered).unwrap();
        log.expect_damage(1, &format!("header byte {byte}"));
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(log.open().recovery.entries, 50, "and unaltered it is sound");
}

#[test]
fn truncated_missing_and_reordered_segments_are_named() {
    let log = closed(120, 4096);
    let names = log.segments();
    assert!(names.len() >= 4, "{names:?}");
    let firsts: Vec<u64> = names.iter().map(|n| index::first_seq_of(n).unwrap()).collect();
    let keep = log.dir.path().join("keep");
    fs::create_dir(&keep).unwrap();
    for name in &names {
        fs::copy(log.wal(name), keep.join(name)).unwrap();
    }
    let restore = || {
        for name in log.segments() {
            fs::remove_file(log.wal(&name)).unwrap();
        }
        for name in &names {
            fs::copy(keep.join(name), log.wal(name)).unwrap();
        }
    };

    for (i, name) in names.iter().enumerate() {
        restore();
        fs::remove_file(log.wal(name)).unwrap();
        log.expect_damage(firsts[i], &format!("segment {i} is missing"));

        restore();
        fs::write(log.wal(name), b"").unwrap();
        log.expect_damage(firsts[i], &format!("segment {i} is empty"));
    }
    restore();
    let whole = fs::read(log.wal(&names[1])).unwrap();
    fs::write(log.wal(&names[1]), &whole[..whole.len() - 1]).unwrap();
    log.expect_damage(firsts[2] - 1, "a segment lost its last byte");

    restore();
    fs::copy(keep.join(&names[2]), log.wal(&names[1])).unwrap();
    fs::copy(keep.join(&names[1]), log.wal(&names[2])).unwrap();
    log.expect_damage(firsts[1], "two segments changed places");

    restore();
    fs::copy(keep.join(&names[1]), log.wal(&segment_name(firsts[1] + 1))).unwrap();
    log.expect_damage(firsts[2], "a segment was put in twice");

    restore();
    let other = closed(120, 4096);
    fs::copy(other.wal(&other.segments()[1]), log.wal(&names[1])).unwrap();
    let damage = log.expect_damage(firsts[1], "a segment of another log");
    assert!(damage.why.contains("another log"), "{damage}");

    restore();
    let mut longer = fs::read(log.wal(&names[1])).unwrap();
    longer.extend_from_slice(b"smuggled");
    fs::write(log.wal(&names[1]), longer).unwrap();
    log.expect_damage(firsts[2], "bytes were added to a closed segment");

    restore();
    assert_eq!(log.open().recovery.entries, 120, "and restored it is sound");
}

#[test]
fn a_record_rewritten_with_all_its_checksums_is_found_by_the_link_of_the_next() {
    let log = closed(12, 64 << 10);
    let path = log.wal(&segment_name(1));
    let mut bytes = fs::read(&path).unwrap();
    // Record 1 is a group of its own, so a frame of the same length fits in its place.
    let forged = String::from_utf8(log.written[0].to_vec()).unwrap().replace("record", "rekord");
    let mut frame = Vec::new();
    let hash = agentd_core::chain::leaf_hash(forged.as_bytes());
    frame::encode(&mut frame, 1, 0, true, hash, forged.as_bytes());
    bytes[HEADER_BYTES..HEADER_BYTES + frame.len()].copy_from_slice(&frame);
    fs::write(&path, &bytes).unwrap();
    let opened = log.open();
    let damage = opened.recovery.damage.unwrap();
    assert_eq!(damage.seq, 2, "{damage}");
    assert!(damage.why.contains(&hash.to_string()), "names both hashes: {damage}");
}

#[test]
fn damage_that_appears_while_running_stops_appends_as_soon_as_it_is_read() {
    let log = closed(140, 64 << 10);
    let path = log.wal(&segment_name(1));
    for by_verify in [true, false] {
        let mut opened = log.open();
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEADER_BYTES + 60] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let found = if by_verify {
            opened.journal.verify().map(drop)
        } else {
            opened.journal.reader().read(1, 1, 1).map(drop)
        };
        assert!(matches!(found, Err(Error::Damaged(Damage { seq: 1, .. }))));
        let error = block_on(opened.append(&["more".into()])).unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "{error}");
        assert_eq!(opened.journal.reader().read(100, 1, 1).unwrap()[0].seq, 100, "reads go on");
        drop(opened);
        bytes[HEADER_BYTES + 60] ^= 1;
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn a_closed_segment_that_is_altered_is_found_without_anybody_asking() {
    let log = closed(120, 4096);
    let names = log.segments();
    let path = log.wal(&names[1]);
    let every = Config { check_every: Duration::from_millis(1), ..config(log.dir.path(), 4096) };
    let opened = Log::open(every).unwrap();
    let mut status = opened.journal.watch_status();
    let mut bytes = fs::read(&path).unwrap();
    bytes[HEADER_BYTES + 60] ^= 1;
    fs::write(&path, bytes).unwrap();
    let found = block_on(status.wait_for(|now| *now != Status::Writable)).unwrap().clone();
    let Status::Damaged(damage) = found else { panic!("{found:?}") };
    assert_eq!((damage.seq, damage.segment), (first_seq_of(&names[1]), names[1].clone()));
}

fn first_seq_of(name: &str) -> u64 {
    index::first_seq_of(name).unwrap()
}

#[test]
fn every_closed_segment_is_looked_at_again_in_turn_and_pruned_ones_are_not_missed() {
    let log = closed(120, 4096);
    let names = log.segments();
    let firsts: Vec<u64> = names.iter().map(|name| first_seq_of(name)).collect();
    let opened = log.open();
    let shared = &opened.journal.inner.shared;
    let mut next = 0;
    // The last one is being written: behind the one before it, it begins anew.
    for first in firsts[1..].iter().chain(&firsts[1..3]) {
        next = shared.look_again(next).unwrap();
        assert_eq!(next, *first);
    }
    opened.journal.release(firsts[2]).unwrap();
    assert_eq!(shared.look_again(0).unwrap(), firsts[3]);
    assert_eq!(shared.look_again(firsts[1]).unwrap(), firsts[3]);
    assert_eq!(opened.journal.status(), Status::Writable);
    // As long as there is only one, there is nothing to look at.
    let short = closed(12, 64 << 10);
    assert_eq!(short.open().journal.inner.shared.look_again(0).unwrap(), 0);
}

#[test]
fn a_log_rewritten_as_a_whole_is_found_by_the_mark_of_its_head() {
    let log = closed(12, 64 << 10);
    // The same log, led another way from record 10 on: every checksum and every link is right.
    let path = log.wal(&segment_name(1));
    let mut bytes = fs::read(&path).unwrap();
    bytes[log.ends.0 as usize..].fill(0);
    fs::write(&path, &bytes).unwrap();
    let mark = fs::read(log.wal("HEAD")).unwrap();
    fs::write(log.wal("HEAD"), &log.mark).unwrap();
    let mut other = log.open();
    assert_eq!(other.recovery.entries, 9);
    block_on(async {
        other.append_each(5).await;
        other.quiet().await;
    });
    drop(other);
    assert_eq!(log.open().recovery.damage, None);
    fs::write(log.wal("HEAD"), mark).unwrap();
    let damage = log.open().recovery.damage.expect("record 12 is not the acknowledged one");
    assert_eq!(damage.seq, 12, "{damage}");
}

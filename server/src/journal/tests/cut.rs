//! A tail that was cut is told of, once, whatever comes between the cut and the record of it.

use std::io::ErrorKind;

use super::super::index::segment_name;
use super::super::store::Access;
use super::lossy::{LossyStore, Op};
use super::*;

fn on(disk: &LossyStore) -> Log {
    Log::on(Arc::new(disk.clone()), small(Path::new("unused"))).unwrap()
}

/// Leaves the beginning of a group behind the records, as a crash does.
fn tear(log: Log, disk: &LossyStore, bytes: usize) {
    let (segments, _) = log.journal.inner.shared.segments();
    let last = segments.last().unwrap();
    let (name, end) = (segment_name(last.first_seq), last.end);
    drop(log);
    let file = disk.open(&name, Access::Write).unwrap();
    file.write_at(&vec![7; bytes], end).unwrap();
    file.sync().unwrap();
}

/// A disk with three records and a torn tail of 24 bytes.
fn torn() -> LossyStore {
    let disk = LossyStore::default();
    let mut log = on(&disk);
    block_on(log.append_each(3));
    tear(log, &disk, 24);
    disk
}

#[test]
fn a_cut_is_told_once_wherever_the_power_goes_between_the_cut_and_its_record() {
    let (mut before, mut between, mut behind, mut again) = (0, 0, 0, 0);
    for at in 1..60 {
        for seed in [3, 0x5eed_5eed, 0xdead_beef_0000 + at, u64::MAX / at] {
            let disk = torn().after_power_cut(seed);
            disk.cut_power_at(at);
            let mut log = on(&disk);
            assert_eq!(log.journal.untold_cut(), Some(24));
            let is_cut = disk.ended().is_none() && log.journal.status() == Status::Writable;
            let answered = block_on(log.tell()).is_ok();
            drop(log);

            let disk = disk.after_power_cut(seed);
            let mut log = on(&disk);
            let torn = log.recovery.torn.as_ref().map_or(0, |torn| torn.bytes_cut);
            match log.journal.untold_cut() {
                None => {
                    assert_eq!(log.told(), [24], "cut at {at}, {seed}: nobody is told");
                    behind += 1;
                }
                Some(bytes) => {
                    assert!(!answered && log.told().is_empty(), "cut at {at}, {seed}: told twice");
                    // What is torn behind the cut is the record of it.
                    assert_eq!(bytes, 24 + if is_cut { torn } else { 0 }, "cut at {at}, {seed}");
                    before += usize::from(!is_cut);
                    between += usize::from(is_cut);
                    again += usize::from(is_cut && torn > 0);
                    block_on(log.tell()).unwrap();
                }
            }
            drop(log);
            let log = on(&disk);
            assert_eq!((log.told().len(), log.journal.untold_cut()), (1, None));
            assert!(disk.names().unwrap().iter().all(|name| !name.starts_with("CUT")));
        }
    }
    assert!(
        before >= 20 && between >= 4 && behind >= 20 && again >= 1,
        "{before} before the cut is done, {between} between it and its record, {again} of them tore that, {behind} behind"
    );
}

#[test]
fn cuts_that_no_record_tells_of_add_up() {
    let disk = torn();
    for (bytes, sum) in [(16, 24), (8, 40), (32, 48)] {
        let log = on(&disk);
        assert_eq!(log.journal.untold_cut(), Some(sum));
        tear(log, &disk, bytes);
    }
    let mut log = on(&disk);
    assert_eq!(log.journal.untold_cut(), Some(80));
    // Other records say nothing of it.
    block_on(log.append_each(2));
    assert_eq!(log.journal.untold_cut(), Some(80));
    block_on(log.tell()).unwrap();
    block_on(log.quiet());
    assert_eq!(log.journal.untold_cut(), None);
    tear(log, &disk, 40);
    let log = on(&disk);
    assert_eq!(log.journal.untold_cut(), Some(40), "the record before it tells of others");
    assert_eq!(log.told(), [80]);
}

#[test]
fn what_cannot_be_noted_is_not_cut() {
    for op in [Op::Write, Op::Sync] {
        let disk = torn();
        disk.fail(op, ErrorKind::StorageFull);
        let mut log = on(&disk);
        assert!(matches!(log.journal.status(), Status::Unwritable { .. }), "{op:?}");
        assert_eq!(disk.ended(), None, "the note holds no record");
        let end = log.journal.inner.shared.segments().0[0].end;
        let mut tail = [0; 24];
        let file = disk.open(&segment_name(1), Access::Read).unwrap();
        file.read_at(&mut tail, end).unwrap();
        assert_eq!(tail, [7; 24], "{op:?}: it is there still");
        block_on(log.journal.try_recover()).unwrap();
        assert_eq!(log.journal.untold_cut(), Some(24));
        block_on(log.tell()).unwrap();
        drop(log);
        assert_eq!(on(&disk).journal.untold_cut(), None, "{op:?}");
    }
}

#[test]
fn a_note_that_cannot_be_read_still_says_that_there_was_a_cut() {
    let disk = torn();
    drop(on(&disk));
    let note = disk.open("CUT", Access::Write).unwrap();
    note.write_at(b"scribble", 3).unwrap();
    let mut log = on(&disk);
    assert_eq!(log.journal.untold_cut(), Some(0), "of how many bytes is not known");
    block_on(log.tell()).unwrap();
    drop(log);
    assert_eq!(on(&disk).journal.untold_cut(), None);
}

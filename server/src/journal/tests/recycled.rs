//! Segments that are used again: what an earlier life left in them is never read, never reported, and never mistaken for damage.

use super::super::index::segment_name;
use super::super::store::{Access, Disk};
use super::*;

/// Records of the earlier life that are in a segment.
fn stale_records(bytes: &[u8], below: u64) -> usize {
    let text = String::from_utf8_lossy(bytes);
    let seqs =
        text.split("\"seq\":").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
    seqs.filter(|seq: &u64| *seq < below).count()
}

/// Puts the content of the oldest segment there as a spare, as if its records were not kept any more.
pub(super) fn plant_spare(store: &dyn Store, whole: u64) -> bool {
    let mut names: Vec<String> =
        store.names().unwrap().into_iter().filter(|name| name.ends_with(".seg")).collect();
    names.sort();
    let [oldest, _, ..] = &names[..] else { return false };
    let old = store.open(oldest, Access::Read).unwrap();
    let mut bytes = vec![0; old.len().unwrap().max(whole) as usize];
    old.read_at(&mut bytes, 0).unwrap();
    let spare = store.open("0000000007.spare.tmp", Access::Create).unwrap();
    spare.write_at(&bytes, 0).unwrap();
    spare.sync().unwrap();
    store.rename("0000000007.spare.tmp", "0000000007.spare").unwrap();
    store.sync_names().unwrap();
    true
}

fn spares(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir.join("wal")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".spare")).collect()
}

#[tokio::test]
async fn records_of_an_earlier_life_are_not_seen_wherever_the_new_ones_end() {
    let (mut adopted, mut seen_stale) = (0, 0);
    for length in (1..700).step_by(8) {
        let dir = TempDir::new().unwrap();
        let mut log = Log::open(small(dir.path())).unwrap();
        log.append_each(40).await;
        drop(log);
        for made in spares(dir.path()) {
            std::fs::remove_file(dir.path().join("wal").join(made)).unwrap();
        }
        assert!(plant_spare(&Disk::existing(dir.path().join("wal")), 8192));
        // The next segment is made of the spare; it ends behind a record of this length.
        let mut log = Log::open(small(dir.path())).unwrap();
        let mut first = log.chain.next_seq();
        while !dir.path().join("wal").join(segment_name(first)).exists() {
            log.append_each(1).await;
            first = log.chain.next_seq() - 1;
        }
        adopted += usize::from(!spares(dir.path()).contains(&"0000000007.spare".to_owned()));
        log.append(&["x".repeat(length)]).await.unwrap();
        let written = log.all();
        log.quiet().await;
        drop(log);
        let bytes = std::fs::read(dir.path().join("wal").join(segment_name(first))).unwrap();
        seen_stale += usize::from(stale_records(&bytes, first) > 0);

        let mut log = Log::open(small(dir.path())).unwrap();
        assert_eq!((&log.recovery.torn, &log.recovery.damage), (&None, &None), "{length}");
        assert_eq!(log.replayed, written, "{length}");
        log.append_each(20).await;
        assert_eq!(verify_dir(dir.path()).unwrap().entries, log.chain.next_seq() - 1);
        let _ = log.journal.verify().unwrap();
    }
    assert!(
        adopted == 88 && seen_stale == 88,
        "{adopted} adopted, {seen_stale} with stale records"
    );
}

#[tokio::test]
async fn a_sealed_segment_with_stale_records_behind_its_end_is_no_damage() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    log.append_each(40).await;
    let sealed = dir.path().join("wal").join(segment_name(1));
    let mut bytes = std::fs::read(&sealed).unwrap();
    let entries = log.chain.next_seq() - 1;
    drop(log);
    // The crash came before the space behind the records was given back.
    let ends = bytes.len();
    bytes.resize(ends + 56, 0);
    let stale = bytes[80..ends].to_vec();
    for cut in [0, 8, 100, stale.len() - 64, stale.len() - 8] {
        let whole = [&bytes[..], &stale[cut..]].concat();
        std::fs::write(&sealed, whole).unwrap();
        let found = verify_dir(dir.path());
        if cut == 0 {
            // Records of the same segment once more are not stale: they were never there in an earlier life.
            assert_eq!(found.unwrap().entries, entries);
            continue;
        }
        assert_eq!(found.unwrap().entries, entries, "{cut}");
    }
    // Without the zeros that end it, what follows is taken for what it may be.
    bytes.truncate(ends);
    std::fs::write(&sealed, [&bytes[..], &stale[8..]].concat()).unwrap();
    assert!(matches!(verify_dir(dir.path()), Err(Error::Damaged(_))));
}

#[tokio::test]
async fn a_segment_whose_records_are_not_kept_is_used_again_and_too_many_are_removed() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(Config { segment_bytes: 8192, ..small(dir.path()) }).unwrap();
    log.append_each(200).await;
    let shared = Arc::clone(&log.journal.inner.shared);
    let firsts: Vec<u64> = shared.segments().0.iter().map(|segment| segment.first_seq).collect();
    assert!(firsts.len() > 5, "{firsts:?}");
    assert_eq!(log.journal.release(firsts[4]).unwrap(), 4);
    for first in &firsts[..4] {
        assert!(!dir.path().join("wal").join(segment_name(*first)).exists());
    }
    assert!(
        matches!(log.journal.reader().read(1, 1, 1), Err(Error::Pruned { oldest }) if oldest == firsts[4])
    );
    let kept = spares(dir.path());
    assert!((2..=3).contains(&kept.len()), "no more than are of use: {kept:?}");
    for name in &kept {
        let length = std::fs::metadata(dir.path().join("wal").join(name)).unwrap().len();
        assert!(name.ends_with(".tmp") || length >= 8192 + 4096, "a whole segment: {length}");
    }
    log.append_each(200).await;
    let last = log.journal.reader().read(log.chain.next_seq() - 1, 1, 1 << 20).unwrap();
    assert_eq!(last.len(), 1);
}

#[tokio::test]
async fn a_spare_that_is_too_small_or_half_made_is_thrown_away() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    log.append_each(3).await;
    drop(log);
    let wal = dir.path().join("wal");
    std::fs::write(wal.join("0000000001.spare"), "short").unwrap();
    std::fs::write(wal.join("0000000002.spare.tmp"), vec![1; 9000]).unwrap();
    std::fs::write(wal.join("x.spare"), vec![1; 9000]).unwrap();
    let mut log = Log::open(small(dir.path())).unwrap();
    assert!(!wal.join("0000000002.spare.tmp").exists(), "half made");
    log.append_each(60).await;
    assert!(!wal.join("0000000001.spare").exists(), "too small");
    assert!(wal.join("x.spare").exists(), "none of ours");
    drop(log);
    let log = Log::open(small(dir.path())).unwrap();
    assert_eq!((log.recovery.entries, &log.recovery.damage), (63, &None));
}

//! Exports of a log whose beginning was pruned: gone on with, held against checkpoints, and not mistaken for ones that were cut.

use std::fs;
use std::path::{Path, PathBuf};

use agentd_core::app::Env;
use agentd_core::record::{Body, Pruned, Record};
use agentd_core::tlog::SignerKey;
use agentd_core::tlog::proof::ProofFile;
use agentd_core::tlog::tree::{inclusion, perfect_root, resolve};

use super::super::super::tiles::{TileWriter, Unusable};
use super::tamper::signed;
use super::*;

const PRUNED: u64 = 512;
const SIZE: usize = 700;

fn key() -> SignerKey {
    SignerKey::from_seed("log.example/pruned", &[6; 32]).unwrap()
}

/// A log that says in record 650 what was pruned.
fn lines() -> Vec<String> {
    let mut prev = GENESIS;
    let line = |seq: u64, prev: Hash| {
        if seq != 650 {
            return format!(r#"{{"seq":{seq},"prev":"{prev}","event_name":"HEARTBEAT"}}"#);
        }
        let reason = "disk".to_owned();
        let (upto, exported, keys) = (PRUNED, 600, Vec::new());
        let body = Body::Pruned(Pruned { upto, exported, reason, keys, request: None });
        let (at, env, actor) = (1_795_448_641_483, Env::Stage, "adam".to_owned());
        let record = Record { seq, at, env, app: None, cause: None, actor, trace: None, body };
        String::from_utf8(record.line(prev)).unwrap()
    };
    let chained = (1..=SIZE as u64).map(|seq| {
        let next = line(seq, prev);
        prev = leaf_hash(next.as_bytes());
        next
    });
    chained.collect()
}

/// Exports the first `size` entries into `dir`; of those up to `pruned` the server has only the hashes. Answers where it is whole.
fn export(dir: &Path, lines: &[String], size: usize, pruned: u64) -> u64 {
    let mut writer = TileWriter::open(dir, key().verifier().name()).unwrap();
    for (seq, line) in (1..).zip(&lines[..size]).skip(writer.tree().size() as usize) {
        if seq <= pruned {
            writer.push_hash(leaf_hash(line.as_bytes())).unwrap();
        } else {
            writer.push(line.as_bytes()).unwrap();
        }
    }
    writer.finish(&signed(&key(), &lines[..size])).unwrap()
}

fn check(dir: &Path) -> VerificationView {
    let key = key().verifier().to_string();
    static_tree::verify(dir, Belief { key: Some(&key), policy: None }, false).unwrap()
}

/// Every file with its content, without the directories that have none.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(
                files(&entry.path())
                    .into_iter()
                    .map(|(name, text)| (Path::new(&entry.file_name()).join(name), text)),
            );
        } else {
            found.push((entry.file_name().into(), fs::read(entry.path()).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn an_export_that_is_gone_on_with_is_the_one_that_is_made_at_once() {
    let (lines, dir) = (lines(), tempfile::tempdir().unwrap());
    for steps in [&[0, 1, 255, 256, 257, 511, 512, SIZE][..], &[600, 600, SIZE], &[256, SIZE]] {
        let (whole, grown) = (dir.path().join("whole"), dir.path().join("grown"));
        for size in steps {
            assert_eq!(export(&grown, &lines, *size, 0), 1, "all of it, at {size}");
            let view = check(&grown);
            assert!(view.valid && view.entry_count == *size as u64, "{size}: {view:?}");
        }
        export(&whole, &lines, SIZE, 0);
        let (grown_files, whole_files) = (files(&grown), files(&whole));
        assert!(whole_files.iter().all(|file| grown_files.contains(file)), "{steps:?}");
        // For whoever holds an older checkpoint the partial tiles of the last ones are there still.
        for (name, _) in grown_files.iter().filter(|file| !whole_files.contains(file)) {
            let name = name.to_str().unwrap();
            assert!(name.contains("/002.p/") || name.starts_with("tile/1/000.p/"), "{name}");
        }
        fs::remove_dir_all(&grown).unwrap();
        fs::remove_dir_all(&whole).unwrap();
    }
}

#[test]
fn what_was_pruned_before_an_export_is_there_by_its_hash_and_the_rest_by_itself() {
    let (lines, dir) = (lines(), tempfile::tempdir().unwrap());
    // A new directory, and one that a short export was made into before the prune.
    for before in [0, 300] {
        let dir = dir.path().join(before.to_string());
        if before > 0 {
            export(&dir, &lines, before, 0);
        }
        assert_eq!(export(&dir, &lines, SIZE, PRUNED), PRUNED + 1);
        let view = check(&dir);
        assert!(view.valid, "{view:?}");
        assert_eq!((view.first_seq, view.last_seq, view.entry_count), (513, 700, 188));
        assert_eq!((view.pruned_upto, view.last_good_checkpoint), (Some(PRUNED), Some(700)));
        let page = shown(&view);
        assert!(page.contains("! of what came before #513 some is pruned"), "{page}");
        let bundles = fs::read_dir(dir.join("tile/entries")).unwrap().count();
        assert_eq!(bundles, if before > 0 { 3 } else { 1 }, "the first, what was begun, the last");
    }
}

#[test]
fn a_bundle_that_is_gone_though_nobody_pruned_it_is_missing() {
    let (lines, dir) = (lines(), tempfile::tempdir().unwrap());
    let dir = dir.path().join("tiles");
    export(&dir, &lines, SIZE, PRUNED);
    fs::remove_file(dir.join("tile/entries/002.p/188")).unwrap();
    let fault = check(&dir).fault.unwrap();
    assert_eq!(
        (fault.seq, &*fault.reason),
        (1, "TILE_MISSING"),
        "the record of the prune is gone too"
    );
    fs::remove_dir_all(&dir).unwrap();
    // Before the record that says so, nothing was pruned.
    export(&dir, &lines, 640, 0);
    fs::remove_file(dir.join("tile/entries/001")).unwrap();
    let fault = check(&dir).fault.unwrap();
    assert_eq!((fault.seq, &*fault.reason), (257, "TILE_MISSING"));
    fs::remove_dir_all(&dir).unwrap();
    // What stands behind the gap has to continue what is known of it by its hash.
    export(&dir, &lines, SIZE, PRUNED);
    let tile = dir.join("tile/0/001");
    let mut hashes = fs::read(&tile).unwrap();
    hashes[255 * 32] ^= 1;
    fs::write(&tile, hashes).unwrap();
    let fault = check(&dir).fault.unwrap();
    assert_eq!((fault.seq, &*fault.reason), (513, "CHAIN_BROKEN"));
}

#[test]
fn a_directory_with_anything_else_is_left_as_it_is() {
    let (lines, dir) = (lines(), tempfile::tempdir().unwrap());
    let dir = dir.path().join("tiles");
    let open = |name: &str| TileWriter::open(&dir, name).map(drop);
    export(&dir, &lines, 600, 0);
    let before = files(&dir);
    assert!(
        matches!(open("log.example/other"), Err(Unusable::OtherLog(name)) if name.ends_with("pruned"))
    );
    for name in ["tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/002.p/88", "checkpoint"] {
        let path = dir.join(name);
        let whole = fs::read(&path).unwrap();
        let mut altered = whole.clone();
        let last = altered.len() - 70.min(altered.len() / 2);
        altered[last] ^= 1;
        for bytes in [altered, whole[..whole.len() / 2].to_vec()] {
            fs::write(&path, bytes).unwrap();
            let opened = open("log.example/pruned");
            let intact = name == "checkpoint" && opened.is_ok();
            assert!(intact || matches!(opened, Err(Unusable::Altered(_))), "{name}: {opened:?}");
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(files(&dir), before);
    fs::write(dir.join("meta.json"), "{}").unwrap();
    assert!(matches!(open("log.example/pruned"), Err(Unusable::Other)), "the log itself");
    fs::remove_file(dir.join("checkpoint")).unwrap();
    assert!(matches!(open("log.example/pruned"), Err(Unusable::Other)));
}

/// Lines from `first` on in a file, and beside them what shows the tree before them.
fn file(dir: &Path, lines: &[String], first: usize, beside: bool) -> PathBuf {
    let path = dir.join("log.jsonl");
    fs::write(&path, lines[first - 1..].concat().replace("}{", "}\n{") + "\n").unwrap();
    let leaves: Vec<Hash> = lines.iter().map(|line| leaf_hash(line.as_bytes())).collect();
    let spans = inclusion(first as u64 - 1, lines.len() as u64).unwrap();
    let node = &mut |node: agentd_core::tlog::tree::Node| {
        let (width, index) = (1_usize << node.level, node.index as usize);
        perfect_root(&leaves[index * width..(index + 1) * width]).ok_or(())
    };
    let hashes = resolve(&spans, node).unwrap();
    let checkpoint = signed(&key(), lines).note;
    let proof = ProofFile { extra: None, index: first as u64 - 1, hashes, checkpoint };
    let at = beginning_beside(&path);
    fs::write(&at, proof.to_string()).unwrap();
    if !beside {
        fs::remove_file(at).unwrap();
    }
    path
}

#[test]
fn lines_that_begin_later_are_held_against_a_checkpoint_by_the_proof_of_the_first() {
    let (lines, dir) = (lines(), tempfile::tempdir().unwrap());
    let note = dir.path().join("checkpoint");
    fs::write(&note, signed(&key(), &lines).note.to_string()).unwrap();
    let key = Some(key().verifier().to_string());
    let args = VerifyArgs { checkpoint: vec![note], key, ..VerifyArgs::default() };
    for first in [2, 255, 256, 257, 300, 512, 513, 700] {
        let path = file(dir.path(), &lines, first, true);
        let view = lines_in(&path, &args).unwrap();
        assert!(view.valid && view.last_good_checkpoint == Some(700), "{first}: {view:?}");
        assert_eq!(view.first_seq, first as u64);
        // Without it nothing is claimed, neither that it is sound nor that it is not.
        let path = file(dir.path(), &lines, first, false);
        let refused = lines_in(&path, &args).unwrap_err();
        assert_eq!(refused.exit(), Exit::Usage);
        let said = refused.to_string();
        let why = format!("nothing shows the tree before entry #{first}");
        assert!(
            said.contains("over 700 entries cannot be compared") && said.contains(&why),
            "{said}"
        );
        assert!(lines_in(&path, &VerifyArgs::default()).unwrap().valid, "a chain all the same");
        // A beginning of something else leads to no root that was signed.
        let mut other = lines.clone();
        other[0] = other[0].replace("HEARTBEAT", "HEARTBEET");
        file(dir.path(), &other, first, true);
        let path = dir.path().join("log.jsonl");
        fs::write(&path, lines[first - 1..].join("\n")).unwrap();
        let fault = lines_in(&path, &args).unwrap().fault.expect("noticed");
        assert_eq!(&*fault.reason, "ROOT_DIFFERS", "{first}");
    }
    // What was cut at the end is named, with or without the tree.
    for beside in [true, false] {
        let path = file(dir.path(), &lines, 513, beside);
        let text = fs::read_to_string(&path).unwrap();
        let cut: Vec<&str> = text.lines().take(100).collect();
        fs::write(&path, cut.join("\n")).unwrap();
        let fault = lines_in(&path, &args).unwrap().fault.unwrap();
        assert_eq!((fault.seq, &*fault.reason), (613, "CUT_SHORT"));
    }
}

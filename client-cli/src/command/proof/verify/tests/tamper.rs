//! The tamper matrix over a tree of tiles: whatever is changed is found, and the first bad entry is named.

use std::fs;
use std::path::{Path, PathBuf};

use agentd_core::tlog::tree::Frontier;
use agentd_core::tlog::{Checkpoint, SignerKey};
use tempfile::TempDir;

use super::super::super::known::Known;
use super::super::super::tiles::TileWriter;
use super::*;
use crate::failure::Failure;

const SIZE: u64 = 600;

pub(super) struct Tree {
    dir: TempDir,
    pub(super) key: SignerKey,
    lines: Vec<String>,
}

pub(super) fn signed(key: &SignerKey, lines: &[String]) -> Known {
    let mut tree = Frontier::new();
    for line in lines {
        tree.push(leaf_hash(line.as_bytes()), &mut |_, _| {});
    }
    let origin = key.verifier().name().to_owned();
    let checkpoint = Checkpoint { origin, size: tree.size(), root: tree.root() };
    let note = checkpoint.sign(key).unwrap().to_string();
    Known::open(note.as_bytes(), key.verifier()).unwrap()
}

impl Tree {
    pub(super) fn new() -> Self {
        let key = SignerKey::from_seed("log.example/tampered", &[5; 32]).unwrap();
        let lines = log(SIZE);
        let tree = Self { dir: tempfile::tempdir().unwrap(), key, lines };
        tree.write(&tree.lines, &tree.path());
        tree
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn write(&self, lines: &[String], dir: &Path) {
        let mut writer = TileWriter::open(dir, self.key.verifier().name()).unwrap();
        for line in lines {
            writer.push(line.as_bytes()).unwrap();
        }
        writer.finish(&signed(&self.key, lines)).unwrap();
    }

    fn check(&self) -> Result<VerificationView, Failure> {
        let key = self.key.verifier().to_string();
        let belief = Belief { key: Some(&key), policy: None };
        static_tree::verify(&self.path(), belief, false)
    }

    /// The first bad entry that is named.
    fn fault(&self, what: &str) -> u64 {
        let view = self.check().unwrap();
        assert!(!view.valid, "{what}: not noticed");
        let seq = view.fault.unwrap().seq;
        // A checkpoint is good as long as the entries lead to it, whatever became of the hashes in between.
        let only_hashes = what.starts_with("tile/1");
        assert_eq!(view.last_good_checkpoint, only_hashes.then_some(SIZE), "{what}");
        seq
    }

    /// Replaces `name` by what `change` makes of it.
    fn alter(&self, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let path = self.path().join(name);
        let bytes = fs::read(&path).unwrap();
        let altered = change(bytes.clone());
        assert_ne!(altered, bytes);
        fs::write(path, altered).unwrap();
    }

    /// Replaces the entries of the second bundle by what `change` makes of them.
    fn bundle(&self, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        self.alter("tile/entries/001", |bytes| {
            let found = agentd_core::tlog::tile::entries(&bytes).unwrap();
            let mut entries: Vec<Vec<u8>> = found.into_iter().map(<[u8]>::to_vec).collect();
            change(&mut entries);
            let mut bundle = Vec::new();
            for entry in entries {
                assert!(agentd_core::tlog::tile::push_entry(&mut bundle, &entry));
            }
            bundle
        });
    }
}

#[test]
fn a_tree_as_it_was_written_verifies() {
    let tree = Tree::new();
    let view = tree.check().unwrap();
    assert!(view.valid, "{view:?}");
    assert_eq!((view.entry_count, view.last_good_checkpoint), (SIZE, Some(SIZE)));
    assert!(!view.key_came_with_it);
    let page = shown(&view);
    assert!(page.contains("✔ signed checkpoint over 600 entries"), "{page}");
}

#[test]
fn every_change_of_entries_names_the_first_bad_one() {
    type Change = fn(&mut Vec<Vec<u8>>);
    let changes: [(&str, Change, u64); 7] = [
        ("edited", |e| e[40][30] ^= 1, 297),
        ("dropped", |e| drop(e.remove(40)), 297),
        ("doubled", |e| e.insert(40, e[40].clone()), 298),
        ("swapped", |e| e.swap(40, 90), 297),
        ("reversed", |e| e[100..].reverse(), 357),
        ("emptied", |e| e.clear(), 257),
        ("cut off", |e| e.truncate(255), 512),
    ];
    for (what, change, first_bad) in changes {
        let tree = Tree::new();
        tree.bundle(change);
        assert_eq!(tree.fault(what), first_bad, "{what}");
    }
}

#[test]
fn a_tree_cut_within_an_entry_or_without_a_tile_names_where_it_ends() {
    let tree = Tree::new();
    tree.alter("tile/entries/002.p/88", |mut bytes| {
        bytes.truncate(bytes.len() - 3);
        bytes
    });
    assert_eq!(tree.fault("cut within the last entry"), 600);
    for (name, first_bad) in [
        ("tile/entries/001", 257),
        ("tile/0/000", 1),
        ("tile/0/002.p/88", 513),
        ("tile/1/000.p/2", 1),
    ] {
        let tree = Tree::new();
        fs::remove_file(tree.path().join(name)).unwrap();
        assert_eq!(tree.fault(name), first_bad, "{name}");
    }
}

#[test]
fn what_stands_behind_the_end_of_a_tile_is_not_overlooked() {
    // What is named is the place where it stands: all before it is as it was signed.
    for (name, behind) in [
        ("tile/entries/000", 257),
        ("tile/entries/002.p/88", 601),
        ("tile/0/001", 513),
        ("tile/0/002.p/88", 601),
        ("tile/1/000.p/2", 513),
    ] {
        for more in [&b"x"[..], &[0; 100]] {
            let tree = Tree::new();
            tree.alter(name, |bytes| [&bytes[..], more].concat());
            let fault = tree.check().unwrap().fault.expect(name);
            assert_eq!(fault.seq, behind, "{name}: {fault:?}");
            assert!(fault.summary.contains(name), "{fault:?}");
        }
        // As long as the file system lets it be, it is not read as a whole.
        let tree = Tree::new();
        let file = fs::OpenOptions::new().write(true).open(tree.path().join(name)).unwrap();
        file.set_len(8 << 30).unwrap();
        assert_eq!(tree.check().unwrap().fault.expect(name).seq, behind, "{name}");
    }
    // The full tile may stand for the partial one, with entries that came later.
    let tree = Tree::new();
    let name = |name: &str| tree.path().join(name);
    fs::rename(name("tile/0/002.p/88"), name("tile/0/002")).unwrap();
    tree.alter("tile/0/002", |bytes| [&bytes[..], &[1; 320]].concat());
    assert!(tree.check().unwrap().valid);
}

#[test]
fn a_changed_hash_is_found_on_every_level() {
    for (name, at, first_bad) in
        [("tile/0/000", 32 * 7, 8), ("tile/0/002.p/88", 0, 513), ("tile/1/000.p/2", 32, 257)]
    {
        let tree = Tree::new();
        tree.alter(name, |mut bytes| {
            bytes[at] ^= 1;
            bytes
        });
        assert_eq!(tree.fault(name), first_bad, "{name}");
    }
}

#[test]
fn an_entry_changed_together_with_its_hash_does_not_get_past_the_tree_above() {
    let tree = Tree::new();
    let mut edited = tree.lines.clone();
    edited[300] = edited[300].replacen("HEARTBEAT", "HEARTBEET", 1);
    tree.bundle(|entries| entries[300 - 256] = edited[300].clone().into_bytes());
    tree.alter("tile/0/001", |mut bytes| {
        let at = (300 - 256) * 32;
        bytes[at..at + 32].copy_from_slice(leaf_hash(edited[300].as_bytes()).as_bytes());
        bytes
    });
    assert_eq!(tree.fault("entry and hash"), 301, "the chain of the entries names it");
}

#[test]
fn a_history_written_anew_with_all_its_hashes_is_not_the_one_that_was_signed() {
    let tree = Tree::new();
    let mut forged = tree.lines[..300].to_vec();
    let mut prev = leaf_hash(forged[299].as_bytes());
    for seq in 301..=SIZE {
        let line = format!(r#"{{"seq":{seq},"prev":"{prev}","event_name":"ALL_WELL"}}"#);
        prev = leaf_hash(line.as_bytes());
        forged.push(line);
    }
    let other = tree.dir.path().join("forged");
    tree.write(&forged, &other);
    let original = fs::read(tree.path().join("checkpoint")).unwrap();
    fs::remove_dir_all(tree.path()).unwrap();
    fs::rename(&other, tree.path()).unwrap();
    assert!(tree.check().unwrap().valid, "with the key, a consistent lie is signed like the truth");
    fs::write(tree.path().join("checkpoint"), original).unwrap();
    let view = tree.check().unwrap();
    let fault = view.fault.unwrap();
    assert_eq!((fault.reason.as_str(), fault.seq), ("ROOT_DIFFERS", 1), "{fault:?}");
}

#[test]
fn a_checkpoint_with_another_size_root_or_signature_is_not_believed() {
    type Change = fn(String) -> String;
    let changes: [(&str, Change); 4] = [
        ("size", |text| text.replacen("\n600\n", "\n599\n", 1)),
        ("root", |text| {
            let root = text.lines().nth(2).unwrap().to_owned();
            text.replacen(&root, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", 1)
        }),
        ("signature", |text| {
            let key = SignerKey::from_seed("log.example/tampered", &[6; 32]).unwrap();
            let body = text.split_inclusive("\n\n").next().unwrap();
            key.sign(body.strip_suffix('\n').unwrap()).unwrap().to_string()
        }),
        ("origin", |text| text.replacen("log.example/tampered", "log.example/tempered", 1)),
    ];
    for (what, change) in changes {
        let tree = Tree::new();
        tree.alter("checkpoint", |bytes| change(String::from_utf8(bytes).unwrap()).into_bytes());
        let failure = tree.check().expect_err(what);
        assert_eq!(failure.exit(), Exit::ProofFailed, "{what}");
    }
    // Sound, but of a log that went on: what is missing is named.
    let tree = Tree::new();
    let more = signed(&tree.key, &log(SIZE + 1));
    fs::write(tree.path().join("checkpoint"), more.note.to_string()).unwrap();
    assert_eq!(tree.fault("a later checkpoint"), 513, "the tiles it needs are not there");
}

#[test]
fn lines_are_held_against_every_checkpoint_at_hand() {
    let lines = log(40);
    let key = SignerKey::from_seed("log.example/lines", &[5; 32]).unwrap();
    let early = signed(&key, &lines[..20]).checkpoint;
    let late = signed(&key, &lines).checkpoint;
    let check = |lines: &[String], claims: Vec<Checkpoint>| {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let mut check = Check::new(false).against(claims);
        check.all(&mut text.as_bytes()).unwrap();
        check.finish("file", None, Instant::now())
    };
    let view = check(&lines, vec![late.clone(), early.clone()]);
    assert_eq!((view.valid, view.last_good_checkpoint), (true, Some(40)));
    // The end cut off: a chain alone does not show it.
    assert!(check(&lines[..39], vec![early.clone()]).valid);
    let view = check(&lines[..39], vec![late.clone(), early.clone()]);
    let fault = view.fault.clone().unwrap();
    assert_eq!((fault.seq, fault.reason.as_str()), (40, "CUT_SHORT"));
    assert_eq!(view.last_good_checkpoint, Some(20));
    let page = shown(&view);
    assert!(page.contains("the last good checkpoint covers 20 entries"), "{page}");
    // Written anew from 31 on: the chain is sound, the later checkpoint is not led to.
    let mut forged = lines[..30].to_vec();
    let mut prev = leaf_hash(forged[29].as_bytes());
    for seq in 31..=40 {
        let line = format!(r#"{{"seq":{seq},"prev":"{prev}","event_name":"ALL_WELL"}}"#);
        prev = leaf_hash(line.as_bytes());
        forged.push(line);
    }
    let view = check(&forged, vec![late, early]);
    let fault = view.fault.unwrap();
    assert_eq!(
        (fault.seq, fault.reason.as_str()),
        (21, "ROOT_DIFFERS"),
        "behind the last good one"
    );
    assert_eq!(view.last_good_checkpoint, Some(20));
}

//! Files that verify, and every way in which one does not.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use agentd_core::chain::{GENESIS, Hash, LINE_BYTES_MAX, leaf_hash};
use agentd_core::tlog::proof::ProofFile;
use agentd_core::tlog::{Checkpoint, SignerKey};

use super::*;

mod pruned;
mod quorum;
mod tamper;

fn log(n: u64) -> Vec<String> {
    let mut prev: Hash = GENESIS;
    (1..=n)
        .map(|seq| {
            let line = format!(r#"{{"seq":{seq},"prev":"{prev}","event_name":"HEARTBEAT"}}"#);
            prev = leaf_hash(line.as_bytes());
            line
        })
        .collect()
}

fn verify(lines: &[String]) -> VerificationView {
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let view = verify_lines(&mut text.as_bytes(), false).unwrap();
    VerificationView { elapsed_seconds: 0.003, ..view }
}

fn lines_in(path: &Path, args: &VerifyArgs) -> Result<VerificationView, Failure> {
    match verify_file(path, args)? {
        Found::Lines(view) => Ok(*view),
        Found::Proof(view) => panic!("{view:?}"),
    }
}

fn shown(view: &VerificationView) -> String {
    let mut page = Page::default();
    verification_page(&mut page, view);
    page.render(false)
}

#[test]
fn a_sound_file_verifies_and_names_its_head() {
    let lines = log(41);
    let view = verify(&lines);
    assert!(view.valid);
    let head = leaf_hash(lines[40].as_bytes()).to_string();
    assert_eq!(view.head_hash, head);
    assert_eq!(
        shown(&view),
        format!(
            "41 entries  ✔ hash chain  ✔ no gaps  #1..#41  head {}…{}  in 3ms\n",
            &head[..4],
            &head[60..]
        )
    );
}

#[test]
fn a_changed_byte_is_found_and_the_first_bad_entry_is_named() {
    let mut lines = log(41);
    lines[11] = lines[11].replace("HEARTBEAT", "HEARTBEET");
    let view = verify(&lines);
    assert!(!view.valid);
    let fault = view.fault.as_ref().unwrap();
    assert_eq!((fault.seq, fault.reason.as_str()), (12, "CHAIN_BROKEN"));
    let text = shown(&view);
    assert!(text.starts_with("✖ entry #12: hash mismatch (stored "), "{text}");
    assert!(text.contains("everything from #12 on is untrusted; 11 entries before it verified, the last good one is #11"), "{text}");
}

#[test]
fn a_missing_entry_is_a_gap() {
    let mut lines = log(41);
    lines.remove(20);
    let fault = verify(&lines).fault.unwrap();
    assert_eq!((fault.seq, fault.reason.as_str()), (21, "GAP"));
}

#[test]
fn a_partial_export_verifies_from_where_it_begins_and_says_so() {
    let view = verify(&log(41)[10..]);
    assert!(view.valid);
    assert_eq!((view.first_seq, view.last_seq, view.entry_count), (11, 41, 31));
    assert!(shown(&view).ends_with("! it begins with #11: what came before is not covered\n"));
}

#[test]
fn an_endless_line_is_refused_without_being_read_whole() {
    let text = "x".repeat(LINE_BYTES_MAX * 3);
    let view = verify_lines(&mut text.as_bytes(), false).unwrap();
    assert_eq!(view.fault.unwrap().reason, "TOO_LONG");
}

#[test]
fn text_that_is_no_log_is_malformed_and_an_empty_file_is_empty() {
    let view = verify_lines(&mut "hello\n".as_bytes(), false).unwrap();
    assert_eq!(view.fault.unwrap().reason, "MALFORMED");
    let view = verify_lines(&mut "".as_bytes(), false).unwrap();
    assert!(view.valid);
    assert_eq!(shown(&view), "○ the log is empty\n");
}

#[test]
fn a_replay_of_what_is_no_record_is_a_fault() {
    let text = log(1).concat();
    let view = verify_lines(&mut text.as_bytes(), true).unwrap();
    assert_eq!(view.fault.unwrap().reason, "RECORD_UNREADABLE");
}

#[test]
fn a_missing_file_is_not_found() {
    let failure =
        lines_in(Path::new("/nonexistent/log.jsonl"), &VerifyArgs::default()).unwrap_err();
    assert_eq!(failure.exit(), Exit::NotFound);
}

/// What is found in a pipe that somebody writes `text` to.
fn in_a_pipe(text: String, args: &VerifyArgs) -> Found {
    let (reader, mut writer) = io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Whoever reads may have seen enough before the end.
            let _ = writer.write_all(text.as_bytes());
        });
        verify_file(Path::new(&path), args).unwrap()
    })
}

#[test]
fn what_comes_through_a_pipe_is_read_once_whatever_it_is() {
    let lines: String = log(2_000).iter().map(|line| format!("{line}\n")).collect();
    let found = in_a_pipe(lines, &VerifyArgs::default());
    let Found::Lines(view) = found else { panic!("{found:?}") };
    assert!(view.valid && view.entry_count == 2_000, "{view:?}");

    let key = SignerKey::from_seed("log.example/piped", &[5; 32]).unwrap();
    let lines = log(1);
    let known = tamper::signed(&key, &lines);
    let (extra, hashes) = (Some(lines[0].clone().into_bytes()), Vec::new());
    let proof = ProofFile { extra, index: 0, hashes, checkpoint: known.note };
    let key = Some(key.verifier().to_string());
    let args = VerifyArgs { key, ..VerifyArgs::default() };
    let found = in_a_pipe(proof.to_string(), &args);
    let Found::Proof(view) = found else { panic!("{found:?}") };
    assert_eq!(view.exit(), Exit::Ok, "{view:?}");
    for short in ["", "c", "c2sp.org/tlog-proof"] {
        let found = in_a_pipe(short.to_owned(), &VerifyArgs::default());
        assert!(matches!(found, Found::Lines(_)), "{short}: {found:?}");
    }
}

#[test]
fn a_checkpoint_over_entries_that_are_pruned_is_compared_or_named() {
    let lines = log(20);
    let root = |size: usize| {
        let mut tree = Frontier::new();
        for line in &lines[..size] {
            tree.push(leaf_hash(line.as_bytes()), &mut |_, _| {});
        }
        tree
    };
    let promise = |size: usize, root: Hash| Checkpoint {
        origin: "log.example".to_owned(),
        size: size as u64,
        root,
    };
    let against = |promises: Vec<Checkpoint>| {
        let (beginning, mut check) = (root(10), Check::new(false).against(promises));
        check = check.behind(Box::new(move |_| Some(beginning)));
        let sound = lines[10..].iter().all(|line| check.line(line.as_bytes()));
        (sound, check)
    };
    let (sound, check) = against(vec![promise(10, root(10).root()), promise(20, root(20).root())]);
    assert!(sound && check.all_compared().is_ok());
    let (sound, check) = against(vec![promise(10, GENESIS)]);
    assert!(!sound, "where the log begins it can be compared");
    assert_eq!(check.fault.unwrap().reason, "ROOT_DIFFERS");
    let (sound, check) = against(vec![promise(4, GENESIS), promise(20, root(20).root())]);
    assert!(sound);
    let refused = check.all_compared().unwrap_err().to_string();
    assert!(refused.contains("over 4 entries cannot be compared"), "{refused}");
}

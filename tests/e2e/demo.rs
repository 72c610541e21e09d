//! `agentctl demo`: the whole promise in one command, and nothing left behind.

use std::process::Command;

use crate::harness::{AGENTCTL, Run, processes};

fn demo(home: &std::path::Path, words: &[&str]) -> Run {
    let mut command = Command::new(AGENTCTL);
    command.env_clear().env("HOME", home).env("TMPDIR", home).env("NO_COLOR", "1");
    command.current_dir(home).arg("demo").args(words);
    Run::of(command)
}

#[test]
fn the_demo_passes_and_says_so() {
    let home = tempfile::Builder::new().prefix("agentd-e2e-demo-").tempdir().unwrap();
    let run = demo(home.path(), &[]).ok();
    for part in ["onboard", "crash", "overload", "✔ passed", "judged again", "DEMO COMPLETE"] {
        assert!(run.stdout.contains(part), "`{part}` is missing: {run:#?}");
    }
    assert!(processes::below(home.path()).is_empty(), "no process is left");
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().flatten().collect();
    assert!(left.is_empty(), "no file is left: {left:?}");
}

#[test]
fn the_demo_tells_programs_too() {
    let home = tempfile::Builder::new().prefix("agentd-e2e-demo-").tempdir().unwrap();
    let run = demo(home.path(), &["--scenario", "crash", "-o", "json"]).ok();
    let view = run.json();
    assert!(view.is_object(), "{view:#}");
    demo(home.path(), &["--scenario", "dance"]).exits(3).says(&["dance", "crash"]);
    processes::kill_below(home.path());
}

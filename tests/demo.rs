//! `agentctl demo`: the whole promise in one command, and nothing left behind.

#[cfg(test)]
#[path = "e2e/harness.rs"]
#[expect(dead_code, unused_imports, reason = "the stories use more of it")]
mod harness;

#[cfg(test)]
mod demo {
    use std::path::Path;
    use std::process::Command;

    use crate::harness::{AGENTCTL, Run, processes};

    fn demo(home: &Path, words: &[&str]) -> Run {
        let mut command = Command::new(AGENTCTL);
        command.env_clear().env("HOME", home).env("TMPDIR", home).env("NO_COLOR", "1");
        command.current_dir(home).arg("demo").args(words);
        Run::of(command)
    }

    #[test]
    fn it_passes_says_so_and_leaves_nothing_behind() {
        let home = tempfile::Builder::new().prefix("agentd-e2e-demo-").tempdir().unwrap();
        let run = demo(home.path(), &[]).ok();
        for part in
            ["onboard", "crash", "overload", "\u{2714} passed", "judged again", "DEMO COMPLETE"]
        {
            assert!(run.stdout.contains(part), "`{part}` is missing: {}", run.stdout);
        }
        assert!(processes::below(home.path()).is_empty(), "no process is left");
        let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().flatten().collect();
        assert!(left.is_empty(), "no file is left: {left:?}");

        let run = demo(home.path(), &["--scenario", "crash", "-o", "json"]).ok();
        assert!(run.json().is_object(), "programs are told too");
        demo(home.path(), &["--scenario", "dance"]).exits(3).says(&["dance", "crash"]);
        assert!(processes::below(home.path()).is_empty(), "no process is left");
    }
}

//! `agentctl demo` as a user runs it: real processes, one command, an exit code that can be trusted, and nothing left behind.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far beyond anything a test should take; a test never measures time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A demo whose data directory is below `temporary`, so that its processes can be told from all others.
fn demo(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary)
        .env_remove("AGENTCTL_OUTPUT")
        .stdin(Stdio::null());
    command
}

/// Processes whose command line names `temporary`: the shims of the demo, whose children die with them.
fn processes(temporary: &Path) -> Vec<String> {
    let marker = temporary.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(marker) {
            found.push(line);
        }
    }
    found
}

fn wait(child: &mut Child) -> i32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the demo did not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_real_process_is_killed_healed_and_proved() {
    let temporary = tempfile::tempdir().unwrap();
    let output = demo(temporary.path(), &["--scenario", "crash", "-o", "json"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], true, "{report}");
    assert_eq!(report["scenarios"][0]["action"], "restart");
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 4 && checks.iter().all(|check| check["held"] == true), "{report}");
    assert!(report["proof"]["decisions_rechecked"].as_u64().unwrap() > 0);
    for event in ["FAILURE_INJECTED", "RL_DECISION", "ORCH_EXEC", "SYSTEM_STABLE"] {
        assert!(report["event_counts"][event].as_u64().unwrap() > 0, "{event}: {report}");
    }
    assert_eq!(processes(temporary.path()), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "the data is gone too");
}

#[test]
fn an_interrupted_demo_takes_its_processes_along() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = demo(temporary.path(), &["--scenario", "overload", "-v"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The app of the scenario runs as soon as its first step has passed.
    let running = lines.find(|line| line.as_ref().unwrap().contains("1/5")).unwrap().unwrap();
    assert!(running.contains('✔'), "{running}");
    assert!(!processes(temporary.path()).is_empty());
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(wait(&mut child), 130);
    assert_eq!(processes(temporary.path()), Vec::<String>::new());
}

#[test]
fn what_was_kept_verifies_and_replays_without_a_server_and_a_changed_byte_shows() {
    let temporary = tempfile::tempdir().unwrap();
    let output = demo(temporary.path(), &["--scenario", "false-alarm", "--keep"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let kept = std::fs::read_dir(temporary.path()).unwrap().next().unwrap().unwrap().path();
    let data = kept.join("data");
    let verify = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
        let output = command.args(["proof", "verify"]).args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = verify(&["--data-dir", data.to_str().unwrap(), "--replay"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("judged again, all the same"), "{text}");

    let wal = data.join("proof").join("wal");
    let segment = std::fs::read_dir(wal)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(9).position(|w| w == b"HEARTBEAT" || w == b"RL_DECISI").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (code, text) = verify(&["--data-dir", data.to_str().unwrap()]);
    assert_eq!(code, 10, "{text}");
    assert!(text.starts_with("✖ entry #"), "{text}");
}

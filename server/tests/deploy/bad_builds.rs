//! Builds that are up to no good. Each is ended with a reason, nothing of it is left, and the next app is built as if nothing had
//! happened.

use agentd::deploy::Error;

use super::git;
use super::world::{World, processes_of};

fn world() -> Option<World> {
    git::is_there("git").then(World::new)
}

#[test]
#[should_panic(expected = "processes are left")]
fn a_process_that_was_left_would_be_found() {
    let Some(world) = world() else { panic!("processes are left to nobody: not run") };
    let app = world.build("left", "");
    let mut left = std::process::Command::new("sleep");
    let mut left = left.arg("1000").env("HOME", world.home(&app)).spawn().unwrap();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.assert_clean(&app)));
    left.kill().unwrap();
    left.wait().unwrap();
    std::panic::resume_unwind(found.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_hangs_is_ended_with_all_its_processes() {
    let Some(mut world) = world() else { return };
    world.rules.sandbox.build_timeout_ms = 1_500;
    // The second one leaves its session, the third ignores what it can.
    let script =
        "sleep 1000 &\nsetsid sleep 1000 &\ntrap '' TERM HUP INT\nwhile :; do sleep 1; done\n";
    let app = world.build("hangs", script);
    let error = world.refused(&app).await;
    assert!(matches!(error, Error::Timeout { what: "the build", ms: 1_500 }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_leaves_something_running_is_over_all_the_same() {
    let Some(world) = world() else { return };
    let script = "setsid sleep 1000 &\nmkdir .release\necho x > .release/app\n";
    let app = world.build("lingers", script);
    world.make(&app, 1).await.unwrap();
    assert_eq!(processes_of(&world.home(&app)), [0_u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fills_the_disk_with_files_is_stopped() {
    let Some(world) = world() else { return };
    let many = "i=0; while :; do i=$((i+1)); head -c 1000000 /dev/zero > $HOME/f$i; done\n";
    let app = world.build("many", many);
    let error = world.refused(&app).await;
    assert!(matches!(error, Error::TooLarge { what: "the build", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fills_the_disk_with_empty_files_is_stopped() {
    let Some(mut world) = world() else { return };
    world.rules.sandbox.disk_bytes_max = 4 << 20;
    let app = world.build("empty", "i=0; while :; do i=$((i+1)); : > f$i; done\n");
    let error = world.refused(&app).await;
    assert!(matches!(error, Error::TooLarge { what: "the build", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_writes_one_endless_file_is_stopped_by_the_kernel() {
    let Some(world) = world() else { return };
    let app = world.build("long", "cat /dev/zero > zero\n");
    let error = world.refused(&app).await;
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_says_too_much_is_stopped() {
    let Some(world) = world() else { return };
    let app = world.build("chatty", "while :; do echo and another thing; done\n");
    let error = world.refused(&app).await;
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let log = std::fs::metadata(world.home(&app).join("build.log")).unwrap();
    assert!(log.len() <= 256 * 1024, "the end of it is kept for people: {}", log.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_forks_for_ever_runs_out_of_places_and_is_ended() {
    let Some(mut world) = world() else { return };
    world.rules.sandbox.processes_max = 64;
    world.rules.sandbox.build_timeout_ms = 3_000;
    let app = world.build("forks", "f() { f | f & }\nf\nwhile :; do :; done\n");
    let error = world.refused(&app).await;
    assert!(matches!(error, Error::Timeout { .. } | Error::Failed { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_forks_into_sessions_of_their_own_is_ended_too() {
    let Some(mut world) = world() else { return };
    world.rules.sandbox.processes_max = 64;
    world.rules.sandbox.build_timeout_ms = 3_000;
    let script = "#!/bin/sh\nsetsid ./bomb.sh & setsid ./bomb.sh & setsid ./bomb.sh &\nwait\n";
    let files =
        [("go.mod", "module x\n"), ("behave.sh", "./bomb.sh\nsleep 1000\n"), ("bomb.sh*", script)];
    world.git.commit("sessions", &files);
    let app = world.app("sessions", agentd_core::app::Runtime::Go);
    let error = world.refused(&app).await;
    assert!(matches!(error, Error::Timeout { .. } | Error::Failed { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_takes_too_much_memory_or_time_of_the_cpu_dies_of_it() {
    if !git::is_there("python3") {
        return;
    }
    let Some(mut world) = world() else { return };
    world.rules.sandbox.memory_bytes_max = 64 << 20;
    let app = world.build("hungry", "python3 -c 'x = bytearray(256 << 20)'\n");
    let error = world.refused(&app).await.to_string();
    assert!(error.contains("MemoryError"), "{error}");
    world.rules.sandbox.build_cpu_ms = 1_000;
    let app = world.build("busy", "while :; do :; done\n");
    let error = world.refused(&app).await.to_string();
    assert!(error.contains("signal 24") || error.contains("signal 9"), "SIGXCPU: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_plants_a_link_out_of_the_release_is_refused() {
    let Some(world) = world() else { return };
    let script = "mkdir .release\necho x > .release/app\nln -s /etc/passwd .release/passwd\n";
    let app = world.build("plants", script);
    let error = world.refused(&app).await;
    assert!(matches!(&error, Error::Link(path) if path == ".release/passwd"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_says_why_and_one_that_leaves_nothing_too() {
    let Some(world) = world() else { return };
    let app = world.build("fails", "echo 'error: no such crate' >&2\nexit 3\n");
    let error = world.refused(&app).await.to_string();
    assert_eq!(error, "`go build` failed (exit code 3): error: no such crate");
    let app = world.build("nothing", "true\n");
    let error = world.refused(&app).await.to_string();
    assert!(error.contains("0 files to start in `.release`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_told_nothing_and_reaches_nothing_that_is_agentds() {
    let Some(world) = world() else { return };
    let secret = world.dir.path().join("data/tokens.toml");
    std::fs::create_dir_all(secret.parent().unwrap()).unwrap();
    std::fs::write(&secret, "secret").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&secret, mode).unwrap();
    let script = format!(
        "mkdir .release\n{{ env; id -u; id -G; cat {} || echo CLOSED; }} > .release/app 2>&1\n",
        secret.display()
    );
    let mut app = world.build("curious", &script);
    app.environment.insert("PASSWORD".to_owned(), "hunter2".to_owned());
    let release = world.make(&app, 1).await.unwrap();
    let seen = std::fs::read_to_string(release.dir.join(".release/app")).unwrap();
    let names: Vec<&str> =
        seen.lines().filter_map(|line| line.split_once('=').map(|(name, _)| name)).collect();
    let known = ["CI", "GOCACHE", "GOPATH", "GOTELEMETRY", "GOTOOLCHAIN", "HOME", "LC_ALL", "PATH"];
    for name in names {
        // The last three are the shell's own.
        let own = ["TMPDIR", "PWD", "OLDPWD", "_"].contains(&name);
        assert!(own || known.contains(&name), "{name} in {seen}");
    }
    assert!(!seen.contains("hunter2"));
    if rustix::process::geteuid().is_root() {
        let uid = world.rules.sandbox.first_uid.to_string();
        assert!(
            seen.lines().filter(|line| *line == uid).count() == 2,
            "user and only group: {seen}"
        );
        assert!(seen.contains("CLOSED"), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_writes_nowhere_but_below_its_own_directory() {
    let Some(world) = world() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: only root can close what is open to everybody");
        return;
    }
    // The test's own look: this place is open to everybody.
    let open = world.dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&open, mode).unwrap();
    let script = format!(
        "mkdir .release\nfor d in /tmp /var/tmp /dev/shm {}; do\n\
         echo x > $d/agentd-left-$$ && echo OPEN $d\ndone > .release/app 2>&1\n\
         echo x > $HOME/scratch && echo x > /dev/null && echo OWN >> .release/app\n",
        open.display()
    );
    let app = world.build("spills", &script);
    let release = world.make(&app, 1).await.unwrap();
    let seen = std::fs::read_to_string(release.dir.join(".release/app")).unwrap();
    assert!(!seen.contains("OPEN"), "{seen}");
    assert_eq!(seen.matches("Read-only file system").count(), 4, "{seen}");
    assert!(seen.contains("OWN"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halt_ends_a_build_at_once() {
    let Some(world) = world() else { return };
    let app = world.build("halted", "sleep 1000\n");
    let making = world.make(&app, 1);
    let halt = async {
        while processes_of(&world.home(&app)).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        world.stop.cancel();
    };
    let (made, ()) = tokio::join!(making, halt);
    assert!(matches!(made, Err(Error::Halted)), "{made:?}");
    world.assert_clean(&app);
}

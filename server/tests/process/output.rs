//! What the app is given and what it says.

use agentd::shim::protocol::{ExitStatus, LogLimits, RefusalCode};
use rustix::process::Signal;

use super::world::{World, running, signal, until};

#[tokio::test(flavor = "multi_thread")]
async fn arguments_arrive_literally_and_no_shell_sees_them() {
    let mut world = World::new().await;
    let hostile = ["a b", "\"q\" 'r'", "x\ny", "$(id)", "`id`", "; id", "*", "", "%s", "ü\u{202e}"];
    let mut argv = vec!["/usr/bin/printf", "<%s>"];
    argv.extend(hostile);
    let app = world.app("web", &argv);
    world.run(&app).await;
    assert_eq!(world.exit().await.status, ExitStatus::Code(0));
    let expected: String = hostile.iter().map(|argument| format!("<{argument}>")).collect();
    until("the output", || (world.log("web") == expected).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_starts_clean() {
    let mut world = World::new().await;
    let mut app = world.app("env", &["env"]);
    app.env.insert("LISTEN_PID".into(), "1".into());
    world.run(&app).await;
    world.exit().await;
    let expected =
        format!("APP_NAME=env\nDIR={}\nINSTANCE=0\nPATH=/usr/bin:/bin\n", world.path().display());
    until("the output", || (world.log("env") == expected).then_some(())).await;

    let app = world.app("status", &["cat", "/proc/self/status", "/proc/self/stat"]);
    let fence = world.run(&app).await;
    world.exit().await;
    let text = world.log_contains("status", "(cat)").await;
    let field = |name| text.lines().find_map(|line: &str| line.strip_prefix(name)).unwrap().trim();
    assert_eq!((field("SigBlk:"), field("Umask:")), ("0000000000000000", "0022"));
    // Signals 32 and 33 belong to the C library, which lets nobody change them.
    let ignored = u64::from_str_radix(field("SigIgn:"), 16).unwrap();
    assert_eq!(ignored & !(0b11 << 31), 0, "{ignored:x}");
    let pid = fence.pid;
    let stat = text.lines().last().unwrap().to_owned();
    let fields: Vec<&str> = stat.split(' ').collect();
    assert_eq!(
        fields[4..7],
        [pid.to_string().as_str(), pid.to_string().as_str(), "0"],
        "own group and session, no terminal"
    );

    let app = world.app("fds", &["ls", "/proc/self/fd"]);
    world.run(&app).await;
    world.exit().await;
    until("the output", || (world.log("fds") == "0\n1\n2\n3\n").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_executed_is_refused_in_words_and_costs_no_incarnation() {
    let mut world = World::new().await;
    let plain = world.path().join("plain");
    std::fs::write(&plain, "not a program").unwrap();
    let script = world.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let shebangless = world.path().join("shebangless");
    std::fs::write(&shebangless, "echo a shell ran this").unwrap();
    for file in [&script, &shebangless] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
    let cases = [
        ("/no/such/program", "executable `/no/such/program` does not exist".to_owned()),
        (
            "no-such-program",
            "executable `no-such-program` is not in PATH `/usr/bin:/bin`".to_owned(),
        ),
        (plain.to_str().unwrap(), format!("`{}` is not an executable file", plain.display())),
        (
            script.to_str().unwrap(),
            "the interpreter or the loader it names does not exist".to_owned(),
        ),
        (
            shebangless.to_str().unwrap(),
            "neither a program of this machine nor a script".to_owned(),
        ),
    ];
    for (program, expected) in cases {
        let app = world.app("web", &[program]);
        world.host.ensure(&app, 0).await.unwrap();
        let error = world.host.start("web", 0, program, None).await.unwrap_err();
        assert!(error.is_refusal(RefusalCode::ExecFailed), "{error:?}");
        assert!(error.to_string().contains(&expected), "{error}");
    }
    let mut app = world.app("web", &["true"]);
    app.cwd = Some("/no/where".into());
    world.host.ensure(&app, 0).await.unwrap();
    let error = world.host.start("web", 0, "cwd", None).await.unwrap_err();
    assert_eq!(error.to_string(), "working directory `/no/where` is not a directory");
    app.cwd = None;
    world.host.ensure(&app, 0).await.unwrap();
    world.host.start("web", 0, "good", None).await.unwrap();
    assert_eq!(world.exit().await.n, 1, "the refused starts were no incarnations");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_without_line_ends_is_kept_within_the_limits_and_hurts_nobody() {
    let mut world = World::new().await;
    let mut app = world.script(
        "web",
        "head -c 3000000 /dev/zero | tr '\\0' x; seq 1 20000; echo end; \
         until test -e $DIR/seen; do sleep 0.02; done; echo oops >&2; exec sleep 1000",
    );
    app.log = LogLimits { file_bytes_max: 50_000, files_max: 3 };
    let fence = world.run(&app).await;
    world.log_contains("web", "end\n").await;
    assert!(running(fence.pid));
    std::fs::write(world.path().join("seen"), "").unwrap();
    let dir = world.host.log_file("web", 0).parent().unwrap().to_owned();
    let mut sizes: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .collect();
    sizes.sort();
    let names: Vec<_> = sizes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["current", "current.1", "current.2"]);
    assert!(sizes.iter().all(|(_, size)| *size <= 50_000), "{sizes:?}");
    world.log_contains("web", "oops\n").await;
    signal(fence.pid, Signal::KILL);
    assert_eq!(world.exit().await.status, ExitStatus::Signal(9), "not a broken pipe");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_without_a_line_end_appears_before_the_app_ends() {
    let world = World::new().await;
    let app = world.script("web", "printf 'ready> '; exec sleep 1000");
    world.run(&app).await;
    world.log_contains("web", "ready> ").await;
    assert!(world.view("web").running);
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_limits_reach_the_app() {
    let mut world = World::new().await;
    let mut app = world.script("web", "ulimit -n; ulimit -c; cat /proc/$$/oom_score_adj");
    app.limits.open_files = Some(123);
    app.limits.core_bytes = Some(0);
    app.limits.address_space_bytes = Some(u64::MAX - 1);
    world.run(&app).await;
    world.exit().await;
    world.log_contains("web", "123\n0\n").await;
}

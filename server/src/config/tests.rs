//! Sources, their order, and refusals.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    server: ServerArgs,
}

fn args(flags: &[&str]) -> ServerArgs {
    Command::try_parse_from([&["agentd"], flags].concat()).expect("flags").server
}

fn with_file(text: &str, flags: &[&str]) -> Result<Config, Error> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agentd.toml");
    std::fs::write(&path, text).expect("written");
    let mut args = args(flags);
    args.config = Some(path);
    Config::load(&args)
}

/// With a file that has these permission bits.
fn with_mode(text: &str, mode: u32, flags: &[&str]) -> Result<Config, Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agentd.toml");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
    let mut args = args(flags);
    args.config = Some(path);
    Config::load(&args)
}

fn violations(result: Result<Config, Error>) -> Vec<String> {
    match result {
        Err(Error::Invalid(violations)) => violations.iter().map(ToString::to_string).collect(),
        other => panic!("must be invalid: {other:?}"),
    }
}

#[test]
fn defaults_make_a_working_dev_server_on_loopback() {
    let config = Config::load(&args(&[])).expect("valid");
    assert_eq!(config.env, Env::Dev);
    assert_eq!(config.listen, DEFAULT_LISTEN);
    assert!(config.is_loopback() && config.tls.is_none());
    assert!(config.data_dir.is_absolute() && config.data_dir.ends_with("dev"));
    assert!(!config.demo_mode && !config.freeze && !config.dry_run);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.origins["listen"].origin, "default");
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let text = "env = \"stage\"\nloop_interval = \"2s\"\nfreeze = true\npolicy = \"p.toml\"\n\
                [limits]\nmax_streams = 7\ndrain_timeout = \"5s\"\n";
    let config = with_file(text, &["--loop-interval", "500ms", "--demo-mode"]).expect("valid");
    assert_eq!(config.env, Env::Stage);
    assert_eq!(config.loop_interval, Duration::from_millis(500));
    assert!(config.freeze && config.demo_mode);
    assert_eq!(config.limits.max_streams, 7);
    assert_eq!(config.limits.drain_timeout, Duration::from_secs(5));
    let policy = config.policy.expect("a path");
    assert!(policy.is_absolute() && policy.ends_with("p.toml"));
    assert_ne!(policy.parent(), std::env::current_dir().ok().as_deref(), "beside the file");
    assert_eq!(config.origins["loop_interval"].origin, "--loop-interval");
    assert!(config.origins["env"].origin.ends_with("agentd.toml:1"));
    assert!(config.origins["limits.max_streams"].origin.ends_with("agentd.toml:6"));
}

#[test]
fn a_switch_can_be_turned_off_again_by_a_flag() {
    let config = with_file("demo_mode = true", &["--demo-mode=false"]).expect("valid");
    assert!(!config.demo_mode);
}

#[test]
fn all_violations_come_at_once_with_their_places() {
    let text = "env = \"production\"\nlisen = \"127.0.0.1:1\"\nloop_interval = 5\nzzz = 1\n\
                [limits]\nmax_streams = 0\n";
    let found = violations(with_file(
        text,
        &["--agent-id", "bob", "--tls-cert", "c.pem", "--dry-run=maybe", "--log-format", "xml"],
    ));
    for part in [
        "agentd.toml:1: `production` must be dev, stage or prod",
        "agentd.toml:2: `lisen` is no setting, did you mean `listen`?",
        "agentd.toml:3: `5` must be a time",
        "agentd.toml:4: `zzz` is no setting, see",
        "agentd.toml:6: `0` must be a whole number, 1 to 4096",
        "--agent-id: `bob` must match",
        "--tls-key: is missing, --tls-cert needs it",
        "--dry-run: `maybe` must be true or false",
        "--log-format: `xml` must be text or json",
    ] {
        assert!(found.iter().any(|line| line.contains(part)), "{part} missing in {found:#?}");
    }
    assert_eq!(found.len(), 9, "{found:#?}");
}

#[test]
fn anything_but_loopback_needs_tls() {
    for address in ["0.0.0.0:7443", "[::]:7443", "192.0.2.1:7443"] {
        let found = violations(Config::load(&args(&["--listen", address])));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("--listen: ") && found[0].contains("--tls-cert"), "{found:?}");
    }
    let flags = ["--listen", "0.0.0.0:7443", "--tls-cert", "c.pem", "--tls-key", "k.pem"];
    assert!(Config::load(&args(&flags)).expect("valid").tls.is_some());
    assert!(Config::load(&args(&["--listen", "[::1]:7443"])).is_ok());
}

#[test]
fn the_password_of_redis_is_shown_nowhere() {
    const URL: &str = "redis://:hunter2@cache.example:6380/1";
    const RULE: &str = "--redis: holds a password";
    let line = format!("redis = \"{URL}\"");
    let config = with_mode(&line, 0o600, &[]).expect("valid");
    let redis = config.redis.as_ref().expect("an address");
    assert_eq!(redis.to_string(), "redis://***@cache.example:6380/1");
    assert_eq!(config.origins["redis"].value, redis.to_string());
    assert!(config.origins["redis"].origin.ends_with("agentd.toml:1"));
    assert!(!format!("{config:?}").contains("hunter2"));

    // A flag is in the list of processes: no password there, and none in what is said about it.
    let flags = args(&["--redis", URL]);
    assert!(!format!("{flags:?}").contains("hunter2"));
    let found = violations(Config::load(&flags));
    assert!(found.len() == 1 && found[0].starts_with(RULE), "{found:?}");
    for wrong in ["redis//:hunter2@cache.example", "rediss://:hunter2@h/#insecure", "hunter2"] {
        let found = violations(Config::load(&args(&["--redis", wrong])));
        assert!(found[0].starts_with("--redis: must be an address"), "{found:?}");
        assert!(!found[0].contains("hunter2"), "{found:?}");
    }
    let plain = Config::load(&args(&["--redis", "redis://127.0.0.1"])).expect("valid");
    assert!(plain.redis.is_some() && Config::load(&args(&[])).expect("valid").redis.is_none());
}

#[test]
fn the_help_does_not_show_the_password_of_redis_either() {
    use clap::CommandFactory as _;
    let command = Command::command();
    let redis = command.get_arguments().find(|arg| arg.get_id() == "redis").expect("a flag");
    assert!(redis.is_hide_env_values_set());
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    let error = with_file("env = \"dev\"\nlisten = \n", &[]).expect_err("refused").to_string();
    assert!(error.contains("agentd.toml:2:"), "{error}");
    let mut missing = args(&[]);
    missing.config = Some("/nonexistent/agentd.toml".into());
    assert!(matches!(Config::load(&missing), Err(Error::Io { .. })));
}

#[test]
fn every_flag_is_a_setting_and_says_so_in_its_help() {
    use clap::CommandFactory as _;
    for arg in Command::command().get_arguments().filter(|arg| arg.get_id() != "config") {
        let key = arg.get_id().as_str();
        let Key { flag, variable, .. } = keys::key(key).expect("in the table");
        assert_eq!(Some(flag.trim_start_matches('-')), arg.get_long());
        assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(*variable));
        assert!(arg.get_help().is_some());
    }
}

#[test]
fn a_file_that_holds_a_password_is_for_its_owner_alone() {
    let text = "# who\nredis = \"redis://:hunter2@127.0.0.1\"";
    for (mode, exposed) in
        [(0o600, false), (0o640, false), (0o644, true), (0o660, true), (0o604, true)]
    {
        match with_mode(text, mode, &[]) {
            Ok(_) => assert!(!exposed, "{mode:o}"),
            refused => {
                let found = violations(refused);
                assert!(exposed && found.len() == 1, "{mode:o}: {found:?}");
                assert!(
                    found[0].contains("agentd.toml:2: holds a password and others can read it")
                );
                assert!(
                    found[0].contains("chmod 600 /") && !found[0].contains("hunter2"),
                    "{found:?}"
                );
            }
        }
    }
    assert!(with_mode("redis = \"redis://127.0.0.1\"", 0o644, &[]).is_ok(), "nothing to hide");
}

#[test]
fn a_value_of_the_wrong_type_is_refused_where_it_stands() {
    let text = "demo_mode = \"true\"\nlisten = 7443\nenv = [\"dev\"]\nfreeze = 1.5\n\
                [limits]\nmax_streams = \"7\"\ndrain_timeout = { s = 1 }\n";
    let found = violations(with_file(text, &[]));
    for part in [
        "agentd.toml:1: `\"true\"` must be true or false",
        "agentd.toml:2: `7443` must be an address and a port",
        "agentd.toml:3: `[\"dev\"]` must be dev, stage or prod",
        "agentd.toml:4: `1.5` must be true or false",
        "agentd.toml:6: `\"7\"` must be a whole number, 1 to 4096",
        "`limits.drain_timeout.s` is no setting",
    ] {
        assert!(found.iter().any(|line| line.contains(part)), "{part} missing in {found:#?}");
    }
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn an_unknown_key_names_the_one_that_was_meant() {
    for (wrong, meant) in [
        ("lisetn = 1", "listen"),
        ("loop-interval = 1", "loop_interval"),
        ("max_streams = 1", "limits.max_streams"),
        ("[server]\nlog_format = 1", "log_format"),
        ("[limits]\nmax_conections = 1", "limits.max_connections"),
    ] {
        let found = violations(with_file(wrong, &[]));
        assert!(found[0].ends_with(&format!("did you mean `{meant}`?")), "{found:?}");
    }
}

/// The shipped example is what the code writes, and what it gives are the defaults. `BLESS=1` writes it anew.
#[test]
fn the_example_file_has_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/agentd.toml");
    let defaults = with_file("", &[]).expect("valid");
    let example = example(&defaults);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &example).expect("written");
    }
    let shipped = std::fs::read_to_string(&path).expect("it is there");
    assert_eq!(shipped, example, "run this test with BLESS=1");
    let origins = BTreeMap::new;
    let read = with_file(&shipped, &[]).expect("valid");
    assert_eq!(Config { origins: origins(), ..read }, Config { origins: origins(), ..defaults });
    // A line that is commented out is one that could stand there.
    let on = shipped.replace("\n# ", "\n");
    let on: String = on
        .lines()
        .filter(|l| {
            l.starts_with('[')
                || l.split_once(" = ")
                    .is_some_and(|(k, _)| KEYS.iter().any(|key| key.name.ends_with(k)))
        })
        .map(|l| format!("{l}\n"))
        .collect();
    let table: toml::Table = toml::from_str(&on).unwrap_or_else(|error| panic!("{error}\n{on}"));
    let limits = table["limits"].as_table().expect("a table").len();
    assert_eq!(table.len() - 1 + limits, KEYS.len(), "{on}");
}

#[test]
fn what_is_in_force_can_be_shown_and_read_again_and_no_secret_is_in_it() {
    let text =
        "redis = \"redis://:hunter2@127.0.0.1:6380\"\nfreeze = true\n[limits]\nmax_streams = 9\n";
    let config = with_mode(text, 0o600, &["--env", "stage"]).expect("valid");
    let dump = config.dump();
    for line in ["env = \"stage\"  # --env", "demo_mode = false  # default", "# policy = "] {
        assert!(dump.contains(line), "{line} missing in\n{dump}");
    }
    assert!(dump.contains("max_streams = 9  # ") && dump.contains("agentd.toml:4"), "{dump}");
    assert!(!dump.contains("hunter2") && dump.contains("***@127.0.0.1:6380"), "{dump}");
    let again: toml::Table = toml::from_str(&dump).expect("it is a file");
    assert_eq!(again["freeze"].as_bool(), Some(true));
    assert_eq!(again["limits"]["max_streams"].as_integer(), Some(9));
    let lines = config.lines();
    assert_eq!(lines.len(), KEYS.len());
    assert!(
        lines.iter().all(|line| !line.doc.is_empty() && !format!("{line:?}").contains("hunter2"))
    );
    assert!(
        lines
            .iter()
            .any(|line| line.key == "policy" && line.value.is_none() && line.origin == "not set")
    );
}

#[test]
fn agent_ids_cannot_be_mistaken_for_people() {
    for good in ["agent-0123abcd", "agent-my-agent-001", "agent-a"] {
        assert!(parse_agent_id(good).is_some(), "{good}");
    }
    for bad in ["agent-", "agent--a", "agent-a-", "my-agent", "agent-A", "agent-a b", ""] {
        assert!(parse_agent_id(bad).is_none(), "{bad}");
    }
}

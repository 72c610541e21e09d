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
        "agentd.toml:6: `0` must be 1 to 4096",
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
    let config = with_file(&format!("redis = \"{URL}\""), &[]).expect("valid");
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
        let (_, flag, variable) =
            SETTINGS.iter().find(|(name, ..)| *name == key).expect("in the table");
        assert_eq!(Some(flag.trim_start_matches('-')), arg.get_long());
        assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(*variable));
        assert!(arg.get_help().is_some());
    }
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

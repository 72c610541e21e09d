//! What belongs to one environment is nothing to another: neither its tokens, nor its apps, nor its names.

use agentd_core::app::Env;
use agentd_core::policy::Policy;

use crate::harness::{Options, Run, Server};

fn dev() -> Server {
    let policy = Some(Policy::default_for(Env::Dev));
    Server::start(Options { env: Env::Dev, policy, ..Options::default() })
}

/// A command with the tokens of one server at the port of another.
fn across(tokens_of: &Server, at: &Server, who: &str, words: &[&str]) -> Run {
    let mut command = at.program();
    command.args(["--address", at.address(), "--as", who, "-o", "json", "--token-file"]);
    command.arg(tokens_of.data_dir().join("tokens.toml")).args(words);
    Run::of(command)
}

#[test]
fn a_token_of_one_environment_sees_and_changes_nothing_of_another() {
    let (stage, dev) = (Server::quick(), dev());
    stage.onboard("web");
    let head = stage.records().head();
    // As many as one address may try in a minute.
    for (who, words) in [
        ("local", &["status"][..]),
        ("local", &["app", "get", "web"]),
        ("viewer", &["app", "history", "web"]),
        ("admin", &["app", "offboard", "web", "--reason", "x", "--yes"]),
        ("operator", &["app", "update", "web", "--autonomy", "off"]),
        ("approver", &["approve", "apr-7", "--reason", "x", "--yes"]),
        ("viewer", &["proof", "export"]),
        ("admin", &["policy", "get"]),
    ] {
        let run = across(&dev, &stage, who, words).exits(4);
        assert_eq!(run.error()["reason"], "TOKEN_INVALID", "{run:#?}");
        assert!(!run.stdout.contains("web"), "{run:#?}");
    }
    let made = stage.records().into_iter().filter(|r| r["seq"].as_u64() > Some(head));
    assert!(made.into_iter().all(|r| r["event_name"] == "HEARTBEAT"), "nothing came of it");
    assert!(stage.app_status("web")["ready_instances"] == 1);
}

#[test]
fn an_app_of_another_environment_is_as_good_as_none() {
    let (stage, dev) = (Server::quick(), dev());
    stage.onboard("web");
    for words in [
        &["app", "get", "web"][..],
        &["app", "get", "nobody"],
        &["app", "history", "web"],
        &["app", "update", "web", "--autonomy", "off"],
        &["app", "offboard", "web", "--reason", "x", "--yes"],
        &["act", "web", "restart", "--reason", "x"],
        &["explain", "--last", "web"],
    ] {
        let run = dev.ctl(&[words, &["-o", "json"]].concat()).exits(3);
        assert_eq!(run.error()["reason"], "NOT_FOUND", "{run:#?}");
    }
    // An environment that is not served here and one that does not exist are told alike.
    for env in ["stage", "moon"] {
        let words = dev.onboarding("web", &dev.app_address(8080), &["--env", env, "-o", "json"]);
        let run = dev.ctl_words(&words).exits(2);
        assert!(run.error()["violations"][0]["rule"].as_str().unwrap().contains("not served here"));
    }
    let policy = dev.dir().join("stage.toml");
    std::fs::write(&policy, stage.ctl(&["policy", "get"]).ok().stdout).unwrap();
    let words =
        ["policy", "apply", policy.to_str().unwrap(), "--reason", "x", "--yes", "-o", "json"];
    let run = dev.ctl(&words).exits(2);
    assert_eq!(run.json()["faults"][0]["field"], "env", "{run:#?}");
}

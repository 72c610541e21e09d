//! Who may do what: every kind of token against a sample of commands, and callers without one.

use crate::harness::{Run, Server};

const PRINCIPALS: [&str; 5] = ["viewer", "monitor", "operator", "approver", "admin"];

/// A command, and who may run it. Whoever may not ends with 4, and nothing happens.
const SAMPLE: [(&[&str], &[&str]); 13] = [
    (&["status"], &["viewer", "operator", "approver", "admin"]),
    (&["status", "web"], &["viewer", "operator", "approver", "admin"]),
    (&["decision", "list"], &["viewer", "operator", "approver", "admin"]),
    (&["explain", "--last", "web"], &["viewer", "operator", "approver", "admin"]),
    (&["proof", "verify"], &["viewer", "operator", "approver", "admin"]),
    (&["proof", "export"], &["viewer", "operator", "approver", "admin"]),
    (&["approval", "list"], &["viewer", "operator", "approver", "admin"]),
    (&["policy", "get"], &["viewer", "operator", "approver", "admin"]),
    (&["act", "web", "observe", "--reason", "look"], &["operator", "admin"]),
    (&["pause", "--app", "web", "--reason", "x"], &["operator", "approver", "admin"]),
    (&["resume", "--app", "web", "--reason", "x"], &["operator", "admin"]),
    (&["freeze", "--reason", "x"], &["operator", "approver", "admin"]),
    (&["unfreeze", "--reason", "x"], &["operator", "admin"]),
];

#[test]
fn every_role_can_do_what_it_is_for_and_nothing_else() {
    let server = Server::quick();
    server.onboard("web");
    let mut wrong = Vec::new();
    for (command, allowed) in SAMPLE {
        for who in PRINCIPALS {
            let run = server.ctl_as(who, command);
            let expected = if allowed.contains(&who) { 0 } else { 4 };
            if run.code != expected {
                wrong.push(format!("{who}: {} instead of {expected}: {run:#?}", run.code));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a monitor in any language does: one greeting, one batch, one farewell. The status code of the answer.
fn push(server: &Server, who: &str) -> Result<u64, tonic::Code> {
    use agentctl_api::client::{Client, Target};
    use agentctl_api::v1;
    use v1::push_signals_request::Message;
    let token = agentctl::server::plain_token(&server.data_dir().join("tokens.toml"), who).unwrap();
    let wrap = |message| v1::PushSignalsRequest { message: Some(message) };
    let now = Some(agentctl::time::to_proto(agentctl::time::now()));
    let signal = v1::Signal {
        app: "web".to_owned(),
        time: now,
        cpu_utilization: Some(0.1),
        ..v1::Signal::default()
    };
    let hello = v1::Hello {
        monitor_id: "probe".to_owned(),
        epoch: 1,
        environment: "stage".to_owned(),
        default_ttl: None,
    };
    let messages = [
        wrap(Message::Hello(hello)),
        wrap(Message::Batch(v1::SignalBatch { seq: 1, signals: vec![signal], sent_time: now })),
        wrap(Message::Bye(v1::Bye::default())),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let target = Target::new(server.address(), "the test", Some(token));
        let client = Client::connect(&target).await.unwrap();
        let answer = client.telemetry().push_signals(tokio_stream::iter(messages)).await;
        answer.map(|answer| answer.into_inner().accepted).map_err(|status| status.code())
    })
}

#[test]
fn monitors_push_signals_and_nobody_else_but_the_admin_does() {
    let server = Server::quick();
    server.onboard("web");
    for who in PRINCIPALS {
        let allowed = matches!(who, "monitor" | "admin");
        let expected = if allowed { Ok(1) } else { Err(tonic::Code::PermissionDenied) };
        assert_eq!(push(&server, who), expected, "{who}");
    }
}

#[test]
fn a_denial_names_what_the_token_has_and_what_is_needed() {
    let server = Server::quick();
    let run = server.ctl_as("viewer", &["pause", "--reason", "x"]).exits(4);
    run.says(&["viewer", "operator"]);
    let json = server.ctl_as("viewer", &["pause", "--reason", "x", "-o", "json"]).exits(4);
    assert_eq!(json.error()["reason"], "ROLE_REQUIRED");
    assert_eq!(server.records().count("MODE_PAUSED"), 0);
}

fn with_token(server: &Server, token: &str) -> Run {
    let mut command = server.program();
    command.args(["status", "-o", "json", "--address", server.address()]);
    if !token.is_empty() {
        command.args(["--token", token]);
    }
    Run::of(command)
}

#[test]
fn without_a_known_token_nothing_is_told() {
    let server = Server::quick();
    server.onboard("web");
    let none = with_token(&server, "").exits(4);
    assert_eq!(none.error()["reason"], "TOKEN_MISSING", "{none:#?}");
    let unknown = with_token(&server, &format!("agt_{}", "0".repeat(64))).exits(4);
    assert_eq!(unknown.error()["reason"], "TOKEN_INVALID", "{unknown:#?}");
    let short = with_token(&server, "agt_x").exits(4);
    assert_eq!(short.error()["message"], unknown.error()["message"], "all are told the same");
    for run in [none, unknown, short] {
        assert!(!run.stdout.contains("web") && !run.stderr.contains("web"), "{run:#?}");
    }
}

#[test]
fn a_token_file_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut server = Server::quick();
    let file = server.data_dir().join("tokens.toml");
    let set = |mode| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    set(0o644);
    server.ctl(&["status"]).exits(4).says(&["chmod 600"]);
    server.stop();
    let run = Run::of(server.up_command());
    assert_ne!(run.code, 0, "a server does not start with it either");
    run.says(&["chmod 600"]);
    set(0o600);
    server.up();
}

#[test]
fn secrets_are_neither_logged_nor_recorded() {
    let server = Server::quick();
    let canary = "canary-7f3a9b2c-secret";
    let words = server.onboarding(
        "web",
        &server.app_address(8080),
        &["--env-var", &format!("API_KEY={canary}")],
    );
    server.ctl_words(&words).ok();
    let tokens = std::fs::read_to_string(server.data_dir().join("tokens.toml")).unwrap();
    let token = tokens.split('"').find(|part| part.starts_with("agt_")).unwrap();
    let log = server.log();
    assert!(!log.contains(token) && !log.contains(canary), "{log}");
    let export = server.ctl(&["proof", "export"]).ok().stdout;
    assert!(!export.contains(token), "no token is ever recorded");
}
